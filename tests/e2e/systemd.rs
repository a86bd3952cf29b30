//! The agent as a service of a real systemd, which runs in namespaces of its own.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use netpath::{lab::topology::OUTSIDE, net::Netns};
use netpath_tests::{
    machine::Machine,
    node::{Node, binary},
    wait,
};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const UNIT: &str = include_str!("../../packaging/netpath.service");
/// What an administrator writes.
pub(crate) const CONFIGURATION: &str =
    "uplinks = [\"up0\"]\nblock = [\"10.61.0.0/24\", \"fd00:61::/64\"]\n[flows]\ncapacity = 16384\n";

/// One echo every 10 ms from a pod to outside, until it is asked how it went.
pub(crate) struct Ping(Child);

impl Ping {
    pub(crate) fn start(pod: &Netns) -> Self {
        let mut command = Command::new("ping");
        command.args(["-i", "0.01", "-W", "5", &OUTSIDE.to_string()]).stdout(Stdio::piped());
        Self(pod.enter(|| command.spawn()).expect("namespace").expect("ping"))
    }

    /// Ends it; what it counted, and whether nothing was lost.
    pub(crate) fn lost_nothing(mut self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).expect("ping runs");
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().expect("pipe"), &mut said).expect("ping");
        self.0.wait().expect("ping");
        let summary =
            said.lines().rev().find(|line| line.contains("transmitted")).unwrap_or_default().to_owned();
        println!("{summary}");
        assert!(summary.contains(" 0% packet loss"), "{said}");
    }
}

/// A machine with the unit as it is in the checkout, and the binary under test; not started.
fn machine(drop_in: &str) -> (Node2, Machine) {
    let (topology, runtime) = Node::without_agent();
    let root = Machine::files();
    let bin = root.join("usr/bin/netpath");
    fs::write(&bin, "").expect("binary");
    mount(Some(&binary()), &bin, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("binary");
    install(&root, drop_in);
    let machine = Machine::boot(&topology.node.netns);
    ((topology, runtime), machine)
}

type Node2 = (std::sync::Arc<netpath::lab::topology::Topology>, tokio::runtime::Runtime);

fn install(root: &Path, drop_in: &str) {
    let units = root.join("etc/systemd/system");
    fs::write(units.join("netpath.service"), UNIT).expect("unit");
    fs::create_dir_all(units.join("netpath.service.d")).expect("unit");
    fs::write(units.join("netpath.service.d/test.conf"), drop_in).expect("unit");
    fs::create_dir_all(root.join("etc/netpath")).expect("/etc/netpath");
    fs::write(root.join("etc/netpath/netpath.toml"), CONFIGURATION).expect("configuration");
}

#[test]
fn systemd_unit_keeps_traffic_over_reload_restart_crash_and_watchdog() {
    let (_node, machine) = machine("[Service]\nWatchdogSec=8\n");
    machine.run("systemctl start netpath");
    println!("{}", machine.run("systemctl status --no-pager netpath; ls -la /run/netns /sys/fs/bpf/netpath/default; mount | grep bpf"));
    println!("{}", machine.run("netpath pod add web; netpath status"));
    let pod = Netns::open(&machine.path("/run/netns/web")).expect("the pod's namespace is the machine's");
    let ping = Ping::start(&pod);
    let pid = || machine.unit("MainPID");
    machine.run("systemctl reload netpath");
    wait::until("reloaded", || machine.unit("StatusText").contains("configuration read again"));
    let first = pid();
    machine.run("systemctl restart netpath");
    let second = pid();
    assert_ne!(first, second);
    machine.run("kill -9 $(systemctl show netpath --value -p MainPID)");
    wait::until("started after a crash", || machine.unit("ActiveState") == "active" && pid() != second);
    let third = pid();
    machine.run(&format!("kill -STOP {third}"));
    wait::until("started by the watchdog", || machine.unit("ActiveState") == "active" && pid() != third);
    assert_eq!(machine.unit("NRestarts"), "2");
    ping.lost_nothing();
}
