//! A real etcd of three members, as processes of one network namespace with an address each member has ports of.

use std::{
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use netpath::{model::EtcdAccess, net::Netns};
use nix::sched::{CloneFlags, setns};

use crate::{
    node::{run_in, unpacked},
    wait,
};

/// Members.
const MEMBERS: u16 = 3;

/// Three members, alive until they are dropped or killed.
pub struct Etcd {
    netns: Netns,
    address: IpAddr,
    dir: PathBuf,
    /// `https` with these arguments for members, and these for who asks them.
    tls: Option<(Vec<String>, Vec<String>)>,
    /// The program.
    server: PathBuf,
    members: Vec<Option<Child>>,
}

impl Etcd {
    /// Starts the members at an address of a namespace, with their files in a directory, and waits until they answer.
    pub fn start(netns: &Netns, address: IpAddr, dir: &str) -> Self {
        Self::start_with(netns, address, dir, None)
    }

    /// The same by TLS: arguments of the members, and of who asks them.
    pub fn start_with(
        netns: &Netns,
        address: IpAddr,
        dir: &str,
        tls: Option<(Vec<String>, Vec<String>)>,
    ) -> Self {
        Self::start_server(netns, address, dir, tls, unpacked("etcd-server", "etcd"))
    }

    /// The same of a later release than the machine's.
    pub fn start_later(netns: &Netns, address: IpAddr, dir: &str) -> Self {
        let server = unpacked("etcd-server-later", "etcd");
        assert!(server.is_file(), "no later etcd is there: `cargo xtask setup` unpacks it");
        Self::start_server(netns, address, dir, None, server)
    }

    fn start_server(
        netns: &Netns,
        address: IpAddr,
        dir: &str,
        tls: Option<(Vec<String>, Vec<String>)>,
        server: PathBuf,
    ) -> Self {
        std::fs::create_dir_all(dir).expect("directory");
        let (netns, dir) = (netns.clone(), dir.into());
        let mut etcd = Self { netns, address, dir, tls, server, members: Vec::new() };
        etcd.members = (0..MEMBERS).map(|at| Some(etcd.spawn(at, "new"))).collect();
        etcd.wait_healthy();
        etcd
    }

    /// The endpoints, that of the first member first.
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        (0..MEMBERS).map(|at| format!("{scheme}://{}:{}", self.host(), client_port(at))).collect()
    }

    /// How a store reaches it, without TLS and users.
    pub fn access(&self) -> EtcdAccess {
        EtcdAccess { endpoints: self.endpoints(), ..EtcdAccess::default() }
    }

    /// Runs etcdctl at the members that run, and returns what it printed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let up = self.endpoints().into_iter().zip(&self.members).filter(|(_, member)| member.is_some());
        let up = up.map(|(endpoint, _)| endpoint).collect::<Vec<_>>().join(",");
        let tls = self.tls.iter().flat_map(|(_, client)| client.iter().map(String::as_str));
        let etcdctl = unpacked("etcd-client", "etcdctl").display().to_string();
        // An election takes some of it. Members are asked for their state until it is what is waited for.
        let patience = if arguments[0] == "endpoint" { "5s" } else { "30s" };
        let own = ["ETCDCTL_API=3", &etcdctl, "--endpoints", &up, "--command-timeout", patience];
        let all: Vec<&str> = own.into_iter().chain(tls).collect();
        run_in(&self.netns, "env", &[&all[..], arguments].concat())
    }

    /// Which member leads.
    pub fn leader(&self) -> usize {
        let mut leader = None;
        wait::until("etcd has a leader", || {
            let status = self.ctl(&["endpoint", "status", "-w", "json"]);
            let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
            let leads = |one: &&serde_json::Value| {
                one["Status"]["leader"] == one["Status"]["header"]["member_id"]
                    && one["Status"]["leader"] != 0
            };
            let found = status.as_array().and_then(|all| all.iter().find(leads));
            let endpoint = found.and_then(|one| one["Endpoint"].as_str()).map(str::to_owned);
            leader = endpoint.and_then(|endpoint| self.endpoints().iter().position(|one| *one == endpoint));
            leader.is_some()
        });
        leader.expect("a leader")
    }

    /// Process ids of the members that run.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().flatten().map(Child::id).collect()
    }

    /// `kill -9` of one member.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut member) = self.members[at].take() {
            member.kill().expect("kill");
            member.wait().expect("wait");
        }
    }

    /// `kill -9` of all members.
    pub fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|at| self.kill(at));
    }

    /// Starts the members again that do not run, with the files they had.
    pub fn restart(&mut self) {
        for at in 0..MEMBERS {
            if self.members[usize::from(at)].is_none() {
                self.members[usize::from(at)] = Some(self.spawn(at, "existing"));
            }
        }
        self.wait_healthy();
    }

    /// Writes a backup of what the members hold to a file.
    pub fn back_up(&self, file: &str) {
        let said =
            self.snapshot(&["--endpoints", &self.endpoints()[self.leader()], "snapshot", "save", file]);
        assert!(said.contains("Snapshot saved"), "{said}");
    }

    /// Starts all members anew with what a backup holds, as an operator would: nothing but that is in them.
    pub fn restore(&mut self, file: &str) {
        self.kill_all();
        for at in 0..MEMBERS {
            let (name, data) = (format!("m{at}"), self.dir.join(format!("m{at}")));
            std::fs::remove_dir_all(&data).expect("data");
            let data = data.display().to_string();
            let words = ["snapshot", "restore", file, "--name", &name, "--data-dir", &data];
            let peers = ["--initial-cluster", &self.peers(), "--initial-advertise-peer-urls", &self.peer(at)];
            let said = self.snapshot(&[&words[..], &peers].concat());
            assert!(std::path::Path::new(&data).join("member").is_dir(), "{said}");
        }
        self.restart();
    }

    fn snapshot(&self, words: &[&str]) -> String {
        let etcdctl = unpacked("etcd-client", "etcdctl").display().to_string();
        run_in(&self.netns, "env", &[&["ETCDCTL_API=3", &etcdctl], words].concat())
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        let said = self.ctl(&["get", "none", "-w", "json"]);
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        said["header"]["revision"].as_i64().expect("a revision")
    }

    /// Cuts a member off from the others, or connects it again; clients reach it either way.
    pub fn part(&self, at: u16, parted: bool) {
        let nft = |words: &str| assert_eq!(run_in(&self.netns, "nft", &[words]), "", "{words}");
        if !parted {
            return nft("delete table inet parted");
        }
        nft("add table inet parted");
        nft("add chain inet parted output { type filter hook output priority 0; }");
        let ports: Vec<_> = (0..MEMBERS).map(|at| (client_port(at) + 1).to_string()).collect();
        let (group, own) = (group(at), &ports[usize::from(at)]);
        nft(&format!(
            "add rule inet parted output meta skgid {group} tcp dport {{ {} }} drop",
            ports.join(", ")
        ));
        for direction in ["sport", "dport"] {
            nft(&format!("add rule inet parted output tcp {direction} {own} drop"));
        }
    }

    fn wait_healthy(&self) {
        wait::until("etcd answers", || {
            let healthy = self.ctl(&["endpoint", "health"]);
            // One that has users refuses to look at a key without saying who asks, and is well.
            healthy.matches("is healthy").count() == self.members.len()
        });
    }

    fn host(&self) -> String {
        if self.address.is_ipv6() { format!("[{}]", self.address) } else { self.address.to_string() }
    }

    fn peer(&self, at: u16) -> String {
        format!("http://{}:{}", self.host(), client_port(at) + 1)
    }

    fn peers(&self) -> String {
        (0..MEMBERS).map(|at| format!("m{at}={}", self.peer(at))).collect::<Vec<_>>().join(",")
    }

    fn spawn(&self, at: u16, state: &str) -> Child {
        let endpoint = &self.endpoints()[usize::from(at)];
        let log = std::fs::File::create(self.dir.join(format!("m{at}.log"))).expect("log");
        let mut command = Command::new("setpriv");
        // A group of its own tells its packets from the others'.
        command
            .args(["--pdeathsig", "KILL", "--regid", &group(at), "--clear-groups", "--"])
            .arg(&self.server);
        command.args(["--name", &format!("m{at}")]);
        command.arg("--data-dir").arg(self.dir.join(format!("m{at}")));
        command.args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint]);
        command.args(["--listen-peer-urls", &self.peer(at), "--initial-advertise-peer-urls", &self.peer(at)]);
        command.args(["--initial-cluster", &self.peers(), "--initial-cluster-state", state]);
        // Members of a busy machine answer late.
        command.args(["--heartbeat-interval", "200", "--election-timeout", "2000"]);
        command.args(self.tls.iter().flat_map(|(member, _)| member));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        // From this thread: the parent-death signal comes when the thread ends.
        let own = Netns::current().expect("own namespace");
        setns(&self.netns, CloneFlags::CLONE_NEWNET).expect("namespace");
        let child = command.spawn();
        setns(&own, CloneFlags::CLONE_NEWNET).expect("own namespace");
        child.expect("etcd: is the package etcd-server there?")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for at in 0..MEMBERS {
                let log = std::fs::read_to_string(self.dir.join(format!("m{at}.log"))).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(10).collect();
                eprintln!("--- etcd m{at}, latest first\n{}", tail.join("\n"));
            }
        }
        self.kill_all();
    }
}

/// Nobody else's; the user is root still.
fn group(at: u16) -> String {
    (61_000 + at).to_string()
}

fn client_port(at: u16) -> u16 {
    2379 + 100 * at
}
