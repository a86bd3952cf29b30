//! Adding and removing a pod, each by a process of its own as container engines do it: the CNI plugin `netpath-cni` beside
//! the reference one `bridge`, which makes a bridge, a veth pair, addresses and masquerading. Who answers before a pod's link
//! is gone is not quicker at removing it: that is told apart, and so is what a plugin costs that does nothing.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::sleep;

use super::{
    Site, Unit, Workload,
    measure::Found,
    modes::bridge::before,
    names::Key,
    order::order,
    run::{Bench, INSTANCE, Skipped, blocking},
};
use crate::{
    api::client::Client,
    lab::{LabError, error::Doing, topology::net},
    net::Netns,
};

/// Where distributions put the reference plugins.
const PLUGINS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// What the plugins' configurations are called.
const NETWORK: &str = "bench";
/// How long an agent may have a pod after its removal was answered, and the pause between two looks.
const GONE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(1));
const UPLINK: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 18, 8, 2);

/// Who attaches pods: a CNI plugin in a node's namespace.
struct Attacher {
    mode: &'static str,
    plugin: PathBuf,
    node: Netns,
    config: String,
    /// Whom it has the work done by, and who goes on after the answer to a removal.
    agent: Option<Client>,
    /// Where the reference plugins keep iptables' lock.
    locks: PathBuf,
}

impl Attacher {
    /// Asks for something about the pod whose namespace is at `path`.
    async fn act(&self, what: &'static str, name: &str, path: &Path) -> Result<Duration, LabError> {
        let mut command = Command::new(&self.plugin);
        command.env("CNI_COMMAND", what).env("CNI_CONTAINERID", name);
        command.env("CNI_NETNS", path).env("CNI_IFNAME", "eth0");
        command
            .env("CNI_PATH", self.plugin.parent().unwrap_or(Path::new("/")))
            .env("XTABLES_LOCKFILE", &self.locks);
        let (input, node) = (self.config.clone(), self.node.clone());
        let timed = blocking("attaching", move || node.enter(|| timed(command, &input))).await??;
        timed.doing(|| format!("{what} of pod {name}"))
    }

    /// Removes the pod: until that was answered, and until nothing of it was left, as after `netpath pod rm`.
    async fn remove(&self, name: &str, path: &Path) -> Result<[Duration; 2], LabError> {
        let answered = self.act("DEL", name, path).await?;
        let since = Instant::now();
        while let Some(agent) = &self.agent {
            let pods = agent.attachments(Some(NETWORK)).await.doing(|| "asking for pods".into())?;
            if !pods.iter().flat_map(|pod| &pod.attachment).any(|own| own.container == name) {
                return Ok([answered, answered + since.elapsed()]);
            }
            if since.elapsed() > GONE.0 {
                return Err("it is still there").doing(|| format!("waiting for the end of pod {name}"));
            }
            sleep(GONE.1).await;
        }
        Ok([answered, answered])
    }
}

/// Our plugin, which lies beside this program, for the site's agent; or why it is left out.
async fn own(site: &Site) -> Result<Result<Attacher, String>, LabError> {
    let plugin = std::env::current_exe().doing(|| "finding the plugin netpath-cni".into())?;
    let plugin = plugin.with_file_name("netpath-cni");
    if !plugin.exists() {
        return Ok(Err(format!("{} is not there: it comes with netpath", plugin.display())));
    }
    // No pod of another workload is moved while others come and go.
    let agent = site.agent().await?;
    Site::settled(&agent).await?;
    let config =
        json!({ "cniVersion": "0.4.0", "name": NETWORK, "type": "netpath-cni", "instance": INSTANCE });
    let locks = site.stage().await.places.runtime.join("xtables.lock");
    let node = site.topology.node.netns.clone();
    Ok(Ok(Attacher { mode: "netpath", plugin, node, config: config.to_string(), agent: Some(agent), locks }))
}

/// From before the process starts until after it has ended.
fn timed(mut command: Command, input: &str) -> io::Result<Duration> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let took = started.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    // A plugin tells its reason on standard output.
    let said = [output.stderr, output.stdout].concat();
    Err(io::Error::other(format!("{}: {}", output.status, String::from_utf8_lossy(&said).trim())))
}

/// The reference plugin on a node of its own, or why it is left out.
async fn reference(site: &Site) -> Result<Result<Attacher, String>, LabError> {
    let Some(plugins) = PLUGINS.iter().map(Path::new).find(|dir| dir.join("bridge").exists()) else {
        let dirs = PLUGINS.join(", ");
        return Ok(Err(format!(
            "the reference CNI plugin `bridge` is in none of {dirs} (Debian package containernetworking-plugins)"
        )));
    };
    let node = site.topology.spec.space("cni-node").await?;
    node.forward()?;
    site.topology.connect(&node, "to-cni", &[(net(UPLINK, 30), before(UPLINK).into())]).await?;
    let runtime = site.stage().await.places.runtime.clone();
    let config = json!({
        "cniVersion": "0.4.0", "name": NETWORK, "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
        "ipam": {
            "type": "host-local", "dataDir": runtime.join("cni"),
            "ranges": [[{"subnet": "10.66.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let (config, locks) = (config.to_string(), runtime.join("xtables.lock"));
    Ok(Ok(Attacher {
        mode: "bridge",
        plugin: plugins.join("bridge"),
        node: node.netns,
        config,
        agent: None,
        locks,
    }))
}

/// Each round everybody adds a pod and removes it again. Who fails is given up, and told.
///
/// # Errors
/// If a namespace or histogram cannot be made.
pub(super) async fn measure(bench: &Bench, skipped: &mut Vec<Skipped>) -> Result<Found, LabError> {
    let site = &bench.site;
    let mut attachers = Vec::new();
    let own = if bench.has("netpath") { Some(own(site).await?) } else { None };
    for (mode, attacher) in [("bridge", Some(reference(site).await?)), ("netpath", own)] {
        match attacher {
            Some(Ok(attacher)) => attachers.push(attacher),
            Some(Err(reason)) => skipped.push(Skipped::workload(mode, Workload::Attach, reason)),
            None => {}
        }
    }
    let mut found = Found::default();
    for round in 1..=bench.plan.rounds {
        for at in order(0, round, attachers.len()) {
            bench.bar.inc(1);
            let mode = attachers[at].mode;
            if found.failures.iter().any(|one| one.mode == mode) {
                continue;
            }
            bench.bar.set_message(key(mode, "add").to_string());
            match turn(site, &attachers[at], round).await {
                Ok(times) => {
                    for (what, time) in times {
                        let noted = found.note(&key(mode, what), Unit::Millis, time.as_nanos() as u64);
                        noted.doing(|| "noting a time".into())?;
                    }
                }
                Err(error) => found.give_up(&key(mode, "add"), round, error.to_string()),
            }
        }
    }
    Ok(found)
}

/// A pod comes and goes; the times by their variants.
async fn turn(
    site: &Site,
    attacher: &Attacher,
    round: usize,
) -> Result<[(&'static str, Duration); 4], LabError> {
    let name = format!("attach-{}-{round}", attacher.mode);
    let path = site.topology.spec.dir.join(&name);
    let started = attacher.act("VERSION", &name, &path).await?;
    Netns::create(&path)?;
    let added = attacher.act("ADD", &name, &path).await;
    let removed = attacher.remove(&name, &path).await;
    Netns::delete(&path)?;
    let (added, [answered, gone]) = (added?, removed?);
    Ok([("version", started), ("add", added), ("remove", answered), ("remove-waited", gone)])
}

fn key(mode: &'static str, what: &str) -> Key {
    Key { variant: Some(what.to_owned()), ..Key::of(Workload::Attach, mode) }
}
