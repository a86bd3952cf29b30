//! `netpath doctor`: green on a healthy node; on a broken one the right check is red, and its fix makes it green again.

mod published;

use std::{
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use netpath::lab::topology::OUTSIDE;
use netpath_tests::{
    kernel::forward_ipv6,
    node::{Node, binary},
    wait::until,
};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

/// Where the binary is as if it were installed: outside of its source tree.
const INSTALLED: &str = "/mnt/netpath";

/// What the doctor says.
struct Diagnosis {
    rows: Vec<Value>,
    failed: bool,
}

impl Diagnosis {
    fn of(node: &Node) -> Self {
        Self::with(node, &[])
    }

    /// With variables beside those of the test.
    fn with(node: &Node, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(INSTALLED);
        command.args(["doctor", "-o", "json"]).env("NETPATH_CONFIG", "/mnt/agent.toml");
        command.envs(variables.iter().copied());
        let output =
            node.topology.node.netns.enter(|| command.output()).expect("namespace").expect("netpath");
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {said}"));
        let rows = report["checks"].as_array().expect("checks").clone();
        assert!(rows.len() > 40, "{said}");
        let failed = rows.iter().any(|row| row["status"] == "failed");
        assert_eq!(output.status.code(), Some(i32::from(failed)), "{said}");
        Self { rows, failed }
    }

    fn row(&self, check: &str) -> &Value {
        self.rows.iter().find(|row| row["name"] == check).unwrap_or_else(|| panic!("no check {check}"))
    }

    fn status(&self, check: &str) -> &str {
        self.row(check)["status"].as_str().expect("status")
    }

    fn advice(&self, check: &str) -> &str {
        self.row(check)["advice"].as_str().unwrap_or_else(|| panic!("no advice: {}", self.row(check)))
    }

    /// Checks that complain.
    fn red(&self) -> Vec<&str> {
        let red = self.rows.iter().filter(|row| row["status"] == "warning" || row["status"] == "failed");
        red.map(|row| row["name"].as_str().expect("name")).collect()
    }
}

/// A node with two pods that its doctor has nothing to say of.
fn healthy(configuration: &str) -> Node {
    let node = Node::start(configuration);
    // Instances of this machine, such as a lab of another test, keep their state there.
    let none = None::<&str>;
    mount(Some("others"), "/var/lib", Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs on /var/lib");
    std::fs::write(INSTALLED, "").expect("file");
    mount(Some(&binary()), INSTALLED, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("installed");
    forward_ipv6(&node.topology.node.netns);
    node.pod("a");
    node.pod("b");
    node
}

fn shell(node: &Node, line: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    let output = node.topology.node.netns.enter(|| command.output()).expect("namespace").expect("sh");
    assert!(output.status.success(), "{line}: {output:?}");
}

/// A way to break a node.
struct Break {
    check: &'static str,
    /// What does it.
    by: &'static str,
    status: &'static str,
    /// A part of the advice.
    advice: &'static str,
    /// Commands of the advice that mend it, from the first on.
    fixes: usize,
    /// Other checks that see it as well.
    also: &'static [&'static str],
}

/// Breaks a node, sees that the check is red with its advice, and follows that. `before` is red anyway.
fn break_and_mend(node: &Node, case: &Break, before: &[&str]) {
    shell(node, case.by);
    let diagnosis = Diagnosis::of(node);
    let row = diagnosis.row(case.check);
    println!("{}: {row:#}", case.by);
    assert_eq!(row["status"], case.status, "{row}");
    assert!(diagnosis.advice(case.check).contains(case.advice), "{row}");
    for red in diagnosis.red() {
        let expected = red == case.check || case.also.contains(&red) || before.contains(&red);
        assert!(expected, "{} makes this red: {}", case.by, diagnosis.row(red));
    }
    let commands: Vec<_> =
        diagnosis.advice(case.check).split('`').skip(1).step_by(2).take(case.fixes).collect();
    assert_eq!(commands.len(), case.fixes, "{row}");
    commands.iter().for_each(|command| shell(node, command));
    let mended = Diagnosis::of(node);
    assert_eq!(mended.status(case.check), "ok", "{commands:?}: {}", mended.row(case.check));
}

#[test]
fn a_healthy_node_is_all_green() {
    for attach in ["auto", "clsact"] {
        let test = move || all_green(&format!("[datapath]\nattach = \"{attach}\""));
        std::thread::scope(|threads| threads.spawn(test).join().expect("green"));
    }
}

fn all_green(configuration: &str) {
    let node = healthy(configuration);
    let diagnosis = Diagnosis::of(&node);
    for row in &diagnosis.rows {
        println!("{} {}: {}", row["status"], row["name"], row["seen"]);
    }
    assert_eq!(diagnosis.red(), [""; 0]);
    assert!(!diagnosis.failed);
    for check in
        ["kernel-programs", "agent", "uplink", "mtu", "forwarding-ipv6", "reserved-ports", "programs-pods"]
    {
        assert_eq!(diagnosis.status(check), "ok", "{}", diagnosis.row(check));
    }
    // From another namespace it finds the agent's.
    let mut command = Command::new(INSTALLED);
    let output = command.args(["doctor"]).env("NETPATH_CONFIG", "/mnt/agent.toml").output().expect("netpath");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("in another network namespace"), "{text}");
    // It has left nothing: the programs that it tried are gone, and the agent has noticed nothing.
    let status = node.runtime.block_on(node.client.status()).expect("status");
    assert_eq!(status.problems, [""; 0]);
}

/// What the agent does not undo by itself, because it is not its own. The last takes the uplink down.
const FOREIGN: [Break; 9] = [
    Break {
        check: "firewall-nftables",
        by: "nft add table inet fw && nft add chain inet fw pass '{ type filter hook forward priority 0; policy drop; }'",
        status: "failed",
        advice: "`nft insert rule inet fw pass oifname \"np*\" accept`",
        fixes: 2,
        also: &[],
    },
    Break {
        check: "firewall-nftables",
        by: "nft insert rule inet fw pass ip saddr 10.61.0.0/16 reject",
        status: "failed",
        advice: "`nft insert rule inet fw pass iifname",
        fixes: 2,
        also: &[],
    },
    Break {
        check: "programs-foreign",
        by: "tc qdisc add dev up0 clsact; tc filter add dev up0 ingress pref 77 protocol ip u32 match u32 0 0",
        status: "warning",
        advice: "`tc filter del dev up0 ingress pref 77`",
        fixes: 1,
        also: &[],
    },
    Break {
        check: "block-overlap",
        by: "ip route add 10.61.0.128/25 dev up0",
        status: "failed",
        advice: "`ip route del 10.61.0.128/25 dev up0`",
        fixes: 1,
        also: &[],
    },
    Break {
        check: "block-overlap",
        by: "ip address add fd00:61::ffff/128 dev lo",
        status: "failed",
        advice: "dev lo`, or give pods another block",
        fixes: 1,
        also: &["agent-problems"],
    },
    Break {
        check: "permissions",
        by: "chmod 666 /run/netpath/default/agent.sock",
        status: "failed",
        advice: "`chmod o-rwx /run/netpath/default/agent.sock`",
        fixes: 1,
        also: &["agent-problems"],
    },
    Break {
        check: "leftover-links",
        by: "ip link add np99 address 02:6e:70:00:00:01 type veth peer name x99",
        status: "warning",
        advice: "`ip link delete np99`",
        fixes: 1,
        also: &[],
    },
    Break {
        check: "leftover-routes",
        by: "ip route add unreachable 10.99.0.0/24 proto 110",
        status: "warning",
        advice: "`ip route del unreachable 10.99.0.0/24 proto 110`",
        fixes: 1,
        also: &[],
    },
    Break {
        check: "uplink",
        by: "ip link set up0 down",
        status: "failed",
        advice: "`ip link set up0 up`",
        fixes: 1,
        // Its routes and its address of IPv6 go with it.
        also: &["default-route", "uplink-address", "agent-problems"],
    },
];

#[test]
fn what_others_break_is_told_with_the_fix_while_the_agent_runs() {
    let node = healthy("mtu = 1500");
    shell(&node, "ip link set up0 mtu 1400");
    let narrow = Diagnosis::of(&node);
    assert_eq!(narrow.red(), ["mtu"]);
    assert!(narrow.advice("mtu").starts_with("mtu = 1400 in /mnt/agent.toml"), "{}", narrow.row("mtu"));
    node.reconfigure("mtu = 1400");
    until("pods have the smaller MTU", || Diagnosis::of(&node).red().is_empty());
    FOREIGN.iter().for_each(|case| break_and_mend(&node, case, &["agent-problems"]));
    let diagnosis = Diagnosis::of(&node);
    assert_eq!(diagnosis.status("default-route"), "warning", "{}", diagnosis.row("default-route"));
    let fix = "ip route add default via GATEWAY dev up0";
    assert!(diagnosis.advice("default-route").contains(fix));
    assert!(diagnosis.advice("uplink-address").contains("`ip address add ADDRESS/LENGTH dev up0`"));
    shell(&node, "ip address add 2001:db8:18::2/64 dev up0 nodad");
    for gateway in ["198.18.0.1", "2001:db8:18::1"] {
        shell(&node, &fix.replace("GATEWAY", gateway));
    }
    until("all is green again", || Diagnosis::of(&node).red().is_empty());
}

/// What the agent would put back within seconds, were it there.
#[test]
fn what_breaks_while_the_agent_is_dead_is_told_and_all_of_it_goes_by_uninstall() {
    let mut node = healthy("");
    node.kill();
    let dead = Diagnosis::of(&node);
    assert_eq!(dead.red(), ["agent", "leftover-state"]);
    assert!(dead.advice("agent").contains("`netpath agent run`"), "{}", dead.row("agent"));
    assert_eq!(dead.status("state"), "ok", "{}", dead.row("state"));
    let case = |check, by, advice| Break { check, by, status: "failed", advice, fixes: 1, also: &[] };
    for case in [
        case(
            "forwarding-ipv4",
            "sysctl -w net/ipv4/conf/np1/forwarding=0",
            "net/ipv4/conf/np1/forwarding=1`",
        ),
        case(
            "forwarding-ipv6",
            "sysctl -w net/ipv6/conf/np2/forwarding=0",
            "net/ipv6/conf/np2/forwarding=1`",
        ),
        case(
            "accept-ra",
            "sysctl -w net/ipv6/conf/up0/accept_ra=1",
            "`sysctl -w net/ipv6/conf/up0/accept_ra=2`",
        ),
        case("reserved-ports", "sysctl -w net.ipv4.ip_local_reserved_ports=8080", "=8080,32768-49151`"),
    ] {
        break_and_mend(&node, &case, &["agent", "leftover-state"]);
    }
    // Programs are put back by the agent alone, and the pins are its way to them.
    shell(
        &node,
        "find /sys/fs/bpf/netpath/default -path '*link*' -type f -delete; tc qdisc del dev up0 clsact; true",
    );
    // The kernel lets go of a link a little after its pin is gone.
    until("the uplink lacks its programs", || Diagnosis::of(&node).status("programs-uplinks") == "failed");
    let bare = Diagnosis::of(&node);
    assert!(bare.advice("programs-uplinks").contains("`netpath agent run`, puts them back"));
    node.restart();
    until("all is green again", || Diagnosis::of(&node).red().is_empty());
    node.kill();
    let dead = Diagnosis::of(&node);
    let row = dead.row("leftover-state");
    for word in ["pinned programs", "2 pods", "/run/netns/a", "32768-49151"] {
        assert!(row["seen"].as_str().unwrap().contains(word), "{word}: {row}");
    }
    assert!(dead.advice("leftover-state").starts_with("`netpath --instance default uninstall`"), "{row}");
    assert!(node.netpath(&["--instance", "default", "uninstall"]).status.success());
    let gone = Diagnosis::of(&node);
    assert_eq!(gone.red(), ["agent"], "nothing is left but that there is no agent");
}

#[test]
fn files_that_cannot_be_read_are_told_where_they_are() {
    let mut node = healthy("");
    let variables = [("NETPATH_UPLINK", "up0")];
    let typed = Diagnosis::with(&node, &variables);
    assert_eq!(typed.red(), ["environment"]);
    assert!(typed.advice("environment").contains("NETPATH_UPLINKS"), "{}", typed.row("environment"));

    let file = "/mnt/agent.toml";
    let good = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, format!("masquerades = true\n{good}")).unwrap();
    let wrong = Diagnosis::of(&node);
    assert_eq!(wrong.status("config"), "failed");
    assert!(wrong.row("config")["seen"].as_str().unwrap().contains("line 1"), "{}", wrong.row("config"));
    assert!(wrong.advice("config").contains("correct this line"), "{}", wrong.row("config"));
    std::fs::write(file, good).unwrap();
    assert_eq!(Diagnosis::of(&node).red(), [""; 0]);

    node.kill();
    let store = "/mnt/state/state.redb";
    let sound = std::fs::read(store).unwrap();
    let mode = std::fs::metadata(store).unwrap().permissions().mode();
    std::fs::write(store, &sound[..sound.len() / 3]).unwrap();
    let damaged = std::fs::read(store).unwrap();
    let broken = Diagnosis::of(&node);
    assert_eq!(broken.status("state"), "failed", "{}", broken.row("state"));
    assert!(broken.advice("state").contains("backup"), "{}", broken.row("state"));
    assert_eq!(std::fs::read(store).unwrap(), damaged, "it only reads");
    std::fs::write(store, &sound).unwrap();
    assert_eq!(std::fs::metadata(store).unwrap().permissions().mode(), mode);
    let mended = Diagnosis::of(&node);
    assert_eq!(mended.status("state"), "ok", "{}", mended.row("state"));
    assert_eq!(std::fs::read(store).unwrap(), sound, "it only reads");
}

#[test]
fn tables_that_run_full_are_told_with_who_fills_them() {
    let node = healthy("[flows]\ncapacity = 64\nper_pod = 32\n[snat]\nports = \"40000-40003\"");
    let pod = netpath::net::Netns::open("/run/netns/a".as_ref()).expect("namespace");
    let send = |port: u16| {
        let socket = pod.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("namespace").expect("socket");
        // Where nobody listens a later send may be told so.
        let _ = socket.send_to(b"?", SocketAddr::from((OUTSIDE, port)));
    };
    (0..8).for_each(|_| send(7000));
    let exhausted = Diagnosis::of(&node);
    let row = exhausted.row("snat-ports");
    assert_eq!(row["status"], "warning", "{row}");
    assert!(row["seen"].as_str().unwrap().contains("4 packets found no free port"), "{row}");
    assert!(row["seen"].as_str().unwrap().contains("udp 198.18.1.2 7000"), "{row}");
    assert!(exhausted.advice("snat-ports").contains("below [snat] in /mnt/agent.toml"), "{row}");
    (0..26).for_each(|port| send(6000 + port));
    // A sweep counts what there is.
    until("the flow table is found full", || Diagnosis::of(&node).status("flow-table") != "ok");
    let full = Diagnosis::of(&node);
    assert!(full.advice("flow-table").contains("capacity = 128 below [flows]"), "{}", full.row("flow-table"));
}
