//! A real etcd for the nodes of a lab: members in one namespace, on one address, each with ports of its own.

use std::{
    env,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, Command},
    time::Instant,
};

use super::{
    error::{Doing, LabError},
    session::{ASK, PATIENCE, cover, is_installed, launch, make_dir, tail},
    stage::Stage,
};
use crate::{bench::sockets, net::Netns};

/// Looks whether it is installed.
///
/// # Errors
/// What to install.
pub(crate) fn look() -> Result<(), LabError> {
    let missing = || "there is no etcd on PATH; install Debian's package etcd-server";
    is_installed("etcd").then_some(()).ok_or_else(missing).doing(|| "starting etcd".into())
}

impl Stage {
    /// Starts an etcd of one to three new members at an address of a namespace, and waits until all of them are healthy.
    /// They end with everything else. Returns their endpoints, as `[cluster]` has them.
    ///
    /// # Errors
    /// It is not installed; or one of the members ends, or is not healthy in time, with the end of its log.
    pub(crate) async fn start_etcd(
        &mut self,
        netns: &Netns,
        address: IpAddr,
        members: u16,
    ) -> Result<Vec<String>, LabError> {
        look()?;
        let dir = self.places.etcd();
        let doing = || format!("preparing etcd in {}", dir.display());
        make_dir(&self.places.runtime).doing(doing)?;
        make_dir(&dir).doing(doing)?;
        // Each member allocates 64 MB for its log at once, and syncs what it writes: neither is the machine's /run made
        // for, nor is a disk that others wait for.
        cover(&dir, "mode=0700")?;
        let mut started = Vec::new();
        for member in 0..members {
            let log = self.places.runtime.join(format!("etcd{member}.log"));
            let mut command = command(address, member, members, &dir);
            let child = launch(netns, &mut command, &log);
            let child = child.doing(|| "starting etcd".into())?;
            self.note(&child)?;
            started.push((SocketAddr::new(address, port(member)), child, log));
        }
        for (at, mut child, log) in started {
            let waited = wait_healthy(netns, at, &mut child).await;
            waited.map_err(|reason| LabError::Step {
                doing: format!("waiting for etcd at {at}"),
                reason: format!("{reason}\nthe end of its log ({}):\n{}", log.display(), tail(&log)),
            })?;
        }
        Ok((0..members).map(|member| url(address, port(member))).collect())
    }
}

/// Client port of a member; the next one is for the other members.
const fn port(member: u16) -> u16 {
    2379 + 100 * member
}

fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}", SocketAddr::new(address, port))
}

/// One member of so many.
fn command(address: IpAddr, member: u16, members: u16, dir: &Path) -> Command {
    let peer = |member: u16| url(address, port(member) + 1);
    let all: Vec<_> = (0..members).map(|member| format!("m{member}={}", peer(member))).collect();
    let (own, client) = (peer(member), url(address, port(member)));
    let mut command = Command::new("etcd");
    // It takes its settings from there as well, and ends if they are not the same.
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ETCD_")) {
        command.env_remove(name);
    }
    command.args(["--name", &format!("m{member}"), "--data-dir"]).arg(dir.join(format!("m{member}")));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &own, "--initial-advertise-peer-urls", &own]);
    command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
    // Nodes, and what they are compared with, share the machine's cores with it: members answer late then.
    command.args(["--heartbeat-interval", "200", "--election-timeout", "2000"]);
    command
}

/// Waits until a member says that it has a leader and takes writes.
async fn wait_healthy(netns: &Netns, at: SocketAddr, child: &mut Child) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = match health(netns, at) {
            Ok(said) if said.contains(r#""health":"true""#) => return Ok(()),
            Ok(said) => said.lines().last().unwrap_or_default().to_owned(),
            Err(error) => error.to_string(),
        };
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended with {status}"));
        }
        if Instant::now() > deadline {
            return Err(format!("not healthy within {} s: {said}", PATIENCE.as_secs()));
        }
        tokio::time::sleep(ASK).await;
    }
}

/// What a member says about itself.
fn health(netns: &Netns, at: SocketAddr) -> io::Result<String> {
    let mut stream = sockets::tcp_connect(netns, 0, at, sockets::PATIENCE)?;
    stream.write_all(format!("GET /health HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_knows_all_others_at_addresses_of_both_families() {
        let said = |address: &str, member, members| {
            let command = command(address.parse().unwrap(), member, members, Path::new("/x"));
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            words.join(" ")
        };
        let second = said("192.0.2.1", 1, 3);
        assert!(second.contains("--name m1 --data-dir /x/m1 --listen-client-urls http://192.0.2.1:2479"));
        assert!(second.contains(
            "--initial-cluster m0=http://192.0.2.1:2380,m1=http://192.0.2.1:2480,m2=http://192.0.2.1:2580"
        ));
        let alone = said("2001:db8::1", 0, 1);
        assert!(alone.contains("--initial-cluster m0=http://[2001:db8::1]:2380 "), "{alone}");
    }
}
