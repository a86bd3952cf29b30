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
        std::fs::create_dir_all(dir).expect("directory");
        let mut etcd = Self { netns: netns.clone(), address, dir: dir.into(), tls, members: Vec::new() };
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
        let all: Vec<&str> = ["ETCDCTL_API=3", &etcdctl, "--endpoints", &up].into_iter().chain(tls).collect();
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

    fn spawn(&self, at: u16, state: &str) -> Child {
        let host = self.host();
        let endpoint = &self.endpoints()[usize::from(at)];
        let peer = |at: u16| format!("http://{host}:{}", client_port(at) + 1);
        let peers: Vec<_> = (0..MEMBERS).map(|at| format!("m{at}={}", peer(at))).collect();
        let log = std::fs::File::create(self.dir.join(format!("m{at}.log"))).expect("log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(unpacked("etcd-server", "etcd"));
        command.args(["--name", &format!("m{at}")]);
        command.arg("--data-dir").arg(self.dir.join(format!("m{at}")));
        command.args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint]);
        command.args(["--listen-peer-urls", &peer(at), "--initial-advertise-peer-urls", &peer(at)]);
        command.args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", state]);
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

fn client_port(at: u16) -> u16 {
    2379 + 100 * at
}
