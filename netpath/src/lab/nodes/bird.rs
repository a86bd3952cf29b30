//! BIRD for the nodes, and for a router that knows nothing of netpath, as docs/BGP.md has them.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Child, Command},
    time::Instant,
};

use super::network::{FAMILIES, Network, Node};
use crate::{
    lab::{
        error::{Doing, LabError},
        session::{ASK, PATIENCE, is_installed, launch, make_dir, tail},
        stage::Stage,
    },
    model::Family,
    net::Netns,
};

/// Autonomous system of the nodes, and of the router (RFC 6996: for private use).
const NODES: u32 = 64512;
const ROUTER: u32 = 64999;

/// Looks whether it is installed.
///
/// # Errors
/// What to install.
pub(super) fn look() -> Result<(), LabError> {
    let missing = || "there is no bird on PATH; install Debian's package bird2";
    is_installed("bird").then_some(()).ok_or_else(missing).doing(|| "starting BIRD".into())
}

/// What a node's agent is configured with to speak with the router, with its files in a directory.
pub(super) fn configuration(node: &Node, dir: &Path) -> String {
    let dir = dir.display();
    let mut text = format!(
        "[bgp]\nas = {NODES}\nmesh = false\nconfig_file = \"{dir}/netpath-bird.conf\"\n\
         control_socket = \"{dir}/bird.ctl\"\n"
    );
    for family in FAMILIES {
        let _ = write!(text, "[[bgp.peer]]\naddress = \"{}\"\nas = {ROUTER}\n", node.router(family));
    }
    text
}

/// A node's BIRD does what netpath writes, and nothing else; alone these two lines are valid, too.
fn of_node(dir: &Path) -> String {
    let dir = dir.display();
    format!("router id 0.0.0.1;\nprotocol static {{ ipv4; }}\ninclude \"{dir}/netpath*.conf\";\n")
}

/// The router's takes what nodes tell, and tells it to the others.
fn of_router(network: &Network) -> String {
    let mut text = "router id 198.18.1.1;\nprotocol device { }\n\
        protocol kernel { ipv4 { export where source = RTS_BGP; }; }\n\
        protocol kernel { ipv6 { export where source = RTS_BGP; }; }\n"
        .to_owned();
    for (node, family) in network.nodes.iter().flat_map(|node| FAMILIES.map(|family| (node, family))) {
        let channel = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let address = node.address(family);
        let _ = write!(
            text,
            "protocol bgp {{\n  local as {ROUTER};\n  neighbor {address} as {NODES};\n  graceful restart;\n  \
             {channel} {{ import all; export where source = RTS_BGP; next hop self; }};\n}}\n"
        );
    }
    text
}

impl Stage {
    /// Starts a BIRD on the router and on each node, whose agents run already and have these directories.
    ///
    /// # Errors
    /// It is not installed, or one ends or does not listen in time, with the end of its log.
    pub(super) async fn start_birds(&mut self, network: &Network, dirs: &[&Path]) -> Result<(), LabError> {
        let dir = self.places.runtime.join("router");
        make_dir(&dir).doing(|| format!("making {}", dir.display()))?;
        self.start_bird(&network.router.netns, &dir, &of_router(network)).await?;
        for (node, dir) in network.nodes.iter().zip(dirs) {
            self.start_bird(&node.space.netns, dir, &of_node(dir)).await?;
        }
        Ok(())
    }

    /// Starts one with this configuration, and waits until it listens.
    async fn start_bird(&mut self, netns: &Netns, dir: &Path, configuration: &str) -> Result<(), LabError> {
        let [config, log, socket] = ["bird.conf", "bird.log", "bird.ctl"].map(|name| dir.join(name));
        fs::write(&config, configuration).doing(|| format!("writing {}", config.display()))?;
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(&config).arg("-s").arg(&socket).arg("-P").arg(dir.join("bird.pid"));
        let child = launch(netns, &mut command, &log);
        let mut child = child.doing(|| "starting BIRD".into())?;
        self.note(&child)?;
        let listens = listens(&socket, &mut child).await;
        listens.map_err(|reason| LabError::Step {
            doing: format!("starting bird with {}", config.display()),
            reason: format!("{reason}\nthe end of its log ({}):\n{}", log.display(), tail(&log)),
        })
    }
}

async fn listens(socket: &Path, child: &mut Child) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended with {status}"));
        }
        if Instant::now() > deadline {
            return Err(format!("it does not listen within {} s", PATIENCE.as_secs()));
        }
        tokio::time::sleep(ASK).await;
    }
    Ok(())
}
