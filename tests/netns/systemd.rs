//! What the agent's unit relies on: what the agent tells its service manager, and the capabilities it gets along with.
//! tests/e2e/systemd.rs runs the unit itself.

use std::{
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    process::{Child, Command},
    time::{Duration, Instant},
};

use netpath::{api::types::PodAdd, lab::checks::LabPod};
use netpath_tests::{
    cgroup::Cgroup,
    node::{Node, PATIENCE, run_in},
    tidy::settled,
    wait,
};
use nix::sys::signal::Signal;

const UNIT: &str = include_str!("../../packaging/netpath.service");
/// What plays the service manager, and its watchdog's time.
const SOCKET: &str = "NOTIFY_SOCKET=/mnt/notify";
const WATCHDOG: Duration = Duration::from_secs(4);

/// The next message that says a thing; watchdogs between are fed.
fn told(manager: &UnixDatagram, what: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{what}: {error}"));
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        println!("{message:?}");
        if message.lines().any(|line| line.starts_with(what)) {
            return message;
        }
        assert!(Instant::now() < deadline, "not told {what}");
    }
}

#[test]
fn readiness_watchdog_reload_and_end_are_told() {
    let (topology, runtime) = Node::without_agent();
    let manager = UnixDatagram::bind("/mnt/notify").expect("socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let usec = format!("WATCHDOG_USEC={}", WATCHDOG.as_micros());
    let mut node = Node::with_launcher(topology, runtime, "", &["env", SOCKET, &usec]);
    told(&manager, "READY=1");
    // At once: no waiting for the socket.
    node.runtime.block_on(node.client.status()).expect("ready means that it answers");
    node.pod("a");
    // One that moves is there twice.
    let programs = |node: &Node| settled(node).programs.len();
    assert_eq!(programs(&node), 4);
    node.kill();
    let netns = node.topology.node.netns.clone();
    run_in(&netns, "find", &["/sys/fs/bpf/netpath/default", "-path", "*link*", "-type", "f", "-delete"]);
    while manager.set_nonblocking(true).is_ok() && manager.recv(&mut [0; 4096]).is_ok() {}
    manager.set_nonblocking(false).expect("blocking");
    node.restart();
    told(&manager, "READY=1");
    assert_eq!(programs(&node), 4, "ready means that everything is as it should be");
    let first = told(&manager, "WATCHDOG=1");
    assert!(first.contains("STATUS=1 pods, 0 flows, uplinks up0"), "{first}");
    let mut fed = Instant::now();
    for _ in 0..4 {
        told(&manager, "WATCHDOG=1");
        assert!(fed.elapsed() < WATCHDOG, "{:?} without", fed.elapsed());
        fed = Instant::now();
    }
    node.reconfigure("masquerade = false");
    let reloading = told(&manager, "RELOADING=1");
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    assert!(told(&manager, "READY=1").contains("STATUS=configuration read again"));
    node.reconfigure("block = \"10.77.0.0/24\"");
    told(&manager, "RELOADING=1");
    assert!(told(&manager, "READY=1").contains("refused"));
    node.signal(Signal::SIGTERM);
    told(&manager, "STOPPING=1");
}

/// A process in a network namespace that has no name.
struct Stranger(Child);

impl Stranger {
    fn start() -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "sleep", "infinity"]);
        Self(command.spawn().expect("unshare"))
    }

    fn netns(&self) -> String {
        let path = format!("/proc/{}/ns/net", self.0.id());
        let own = std::fs::read_link("/proc/self/ns/net").expect("own");
        wait::until("it has a namespace of its own", || std::fs::read_link(&path).expect("it runs") != own);
        path
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A group that every system has, in no need of a name.
const GROUP: u32 = 1;

/// Deletes a pod's default route, and waits for it.
fn route_comes_back(pod: &LabPod) {
    run_in(&pod.netns, "ip", &["route", "delete", "default"]);
    wait::until("the default route is back", || {
        !run_in(&pod.netns, "ip", &["route", "show", "default"]).is_empty()
    });
}

/// Everything an agent does, with these capabilities and no others.
fn work(capabilities: &[&str], attach: &str) {
    let (topology, runtime) = Node::without_agent();
    let set = format!("--bounding-set=-all,{}", capabilities.join(","));
    let launcher = ["setpriv", "--no-new-privs", "--inh-caps=-all", &set, "--"];
    let cgroup = Cgroup::make();
    let configuration =
        format!("{}\nattach = \"{attach}\"\n[api]\ngroup = \"{GROUP}\"", cgroup.configuration());
    let mut node = Node::with_launcher(topology, runtime, &configuration, &launcher);
    node.wait_ready();
    let pods = ["a", "b", "c"].map(|name| node.pod(name)).to_vec();
    let socket = std::fs::metadata(node.client.socket()).expect("socket");
    assert_eq!(socket.gid(), GROUP);
    // What is announced while programs are moved has the agent look at pods, too.
    settled(&node);
    // Had the first waited for a full pass, the second would wait for the next one, seven seconds later.
    for _ in 0..2 {
        let began = Instant::now();
        route_comes_back(&pods[0]);
        assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
    }
    let stranger = Stranger::start();
    let publish = vec!["80:80".to_owned()];
    node.add(&PodAdd { name: "d".into(), netns: Some(stranger.netns()), publish, ..PodAdd::default() });
    node.check_connectivity(pods);
    node.kill();
    node.restart();
    let status = node.runtime.block_on(node.client.status()).expect("status");
    assert!(status.programs.iter().any(|one| one.attach == "cgroup"), "{:?}", status.problems);
    for name in ["c", "d"] {
        node.runtime.block_on(node.client.pod_rm(name)).expect("removed");
    }
    let status = node.runtime.block_on(node.client.status()).expect("status");
    assert_eq!(status.problems, [""; 0]);
    node.runtime.block_on(node.client.uninstall()).expect("uninstalled");
    let left = run_in(&node.topology.node.netns, "ip", &["-o", "link"]);
    assert!(!left.contains("np"), "{left}");
}

/// Whether it works; in a thread, whose namespaces are its own.
fn works(capabilities: &[&str], attach: &str) -> bool {
    std::thread::scope(|threads| threads.spawn(|| work(capabilities, attach)).join().is_ok())
}

fn capabilities() -> Vec<String> {
    let line =
        UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("in the unit");
    line.split(' ').map(|name| name.replace("CAP_", "+").to_lowercase()).collect()
}

#[test]
fn capabilities_of_the_unit_are_enough() {
    let all = capabilities();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    for attach in ["auto", "clsact"] {
        assert!(works(&all, attach), "{attach}");
    }
}

#[test]
fn capabilities_of_the_unit_are_all_needed() {
    let all = capabilities();
    assert!(all.len() > 1);
    for one in &all {
        let others: Vec<_> = all.iter().filter(|other| *other != one).map(String::as_str).collect();
        assert!(!works(&others, "auto"), "it works without {one}");
    }
}
