//! The agent as a service of a real systemd, which runs in namespaces of its own.

use std::{fs, path::Path, sync::Arc};

use netpath::{
    lab::topology::{OUTSIDE, Topology},
    net::Netns,
};
use netpath_tests::{
    machine::Machine,
    node::{Node, binary},
    traffic::Traffic,
    wait,
};
use nix::mount::{MsFlags, mount};
use tokio::runtime::Runtime;

const UNIT: &str = include_str!("../../packaging/netpath.service");
/// What an administrator writes.
pub(crate) const CONFIGURATION: &str =
    "uplinks = [\"up0\"]\nblock = [\"10.61.0.0/24\", \"fd00:61::/64\"]\n[flows]\ncapacity = 16384\n";

/// Echoes from a pod to outside, until it is asked how it went.
pub(crate) struct Ping(Traffic);

impl Ping {
    pub(crate) fn start(pod: &Netns) -> Self {
        let mut traffic = Traffic::default();
        traffic.pings("pings", pod, OUTSIDE.into());
        Self(traffic)
    }

    /// Ends it, when the last one is answered; tells what it counted, and whether nothing was lost.
    pub(crate) fn lost_nothing(self) {
        let totals = self.0.finish();
        println!("{totals:?}");
        assert!(totals.sent > 0 && totals.lost == 0, "{totals:?}");
    }
}

/// A router, an outside, and what runs them.
pub(crate) type Surroundings = (Arc<Topology>, Runtime);

/// A machine with the unit as it is in the checkout, and the binary under test; not started.
fn machine(drop_in: &str) -> (Surroundings, Machine) {
    machine_with(|root| install(root, drop_in))
}

/// A machine with the binaries under test and what else is put among its files.
pub(crate) fn machine_with(prepare: impl FnOnce(&Path)) -> (Surroundings, Machine) {
    let (topology, runtime) = Node::without_agent();
    let root = Machine::files();
    for name in ["netpath", "netpath-cni"] {
        let bin = root.join("usr/bin").join(name);
        fs::write(&bin, "").expect("binary");
        let own = binary().with_file_name(name);
        mount(Some(&own), &bin, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("binary");
    }
    prepare(&root);
    let machine = Machine::boot(&topology.node.netns);
    ((topology, runtime), machine)
}

/// The unit as it is in the checkout, and a configuration.
pub(crate) fn install(root: &Path, drop_in: &str) {
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
    let pid = || machine.unit("MainPID");
    let of_agent = |what: &str| machine.run(&format!("readlink /proc/{}/ns/{what}", pid()));
    assert_eq!(of_agent("mnt"), machine.run("readlink /proc/1/ns/mnt"), "the host's mounts");
    let status = machine.run(&format!("grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/{}/status", pid()));
    // CAP_CHOWN 0, CAP_NET_BIND_SERVICE 10, CAP_NET_BROADCAST 11, CAP_NET_ADMIN 12, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21.
    let capabilities = [0, 10, 11, 12, 19, 21].map(|number| 1_u64 << number).iter().sum::<u64>();
    let expected = format!("CapEff:\t{capabilities:016x}\nNoNewPrivs:\t1\nSeccomp:\t2");
    assert_eq!(status, expected);
    machine.run("netpath pod add web");
    // Not a file of its name only, as in a mount namespace of the agent's own.
    let pod = Netns::open(&machine.path("/run/netns/web")).expect("the pod's namespace is the machine's");
    let ping = Ping::start(&pod);
    // The watchdog's next message takes its place, every two seconds.
    wait::until("reloaded", || {
        machine.run("systemctl reload netpath");
        machine.unit("StatusText").contains("configuration read again")
    });
    let before = pid();
    machine.run("systemctl restart netpath");
    assert_ne!(before, pid());
    let is_back = |times: &str| machine.unit("NRestarts") == times && machine.unit("ActiveState") == "active";
    machine.run(&format!("kill -KILL {}", pid()));
    wait::until("started after a crash", || is_back("1"));
    machine.run(&format!("kill -STOP {}", pid()));
    wait::until("started by the watchdog", || is_back("2"));
    machine.run("netpath pod add other; netpath pod rm other");
    ping.lost_nothing();

    // An end that systemd must not take for an accident: `activating` would be the time before another start.
    machine.run("netpath uninstall");
    wait::until("ended", || machine.unit("ActiveState") == "inactive");
    assert_eq!(machine.unit("Result"), "success");
    let left = machine
        .run("ls -A /run/netns /sys/fs/bpf; ls -d /var/lib/netpath /run/netpath 2>&1 || true; ip -o link");
    assert!(!left.contains("web") && !left.contains("np1"), "{left}");
}

/// Why the unit has no setting that takes a mount namespace.
#[test]
fn systemd_with_a_mount_namespace_for_the_agent_would_hide_pods() {
    let (_node, machine) = machine("[Service]\nProtectHome=yes\nMountFlags=shared\n");
    machine.run("systemctl start netpath; netpath pod add web");
    let error = Netns::open(&machine.path("/run/netns/web")).expect_err("nothing is mounted there");
    assert!(error.to_string().contains("not a namespace"), "{error}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let (_node, machine) = machine("");
    let said = machine.run("SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no netpath.service 2>&1");
    assert!(!said.contains("netpath"), "{said}");
    // 4.5 when it was written; what is left is what the agent is for.
    machine.run("systemd-analyze security --threshold=48 netpath.service");
}
