//! What `monitor` shows of packets as they go, and `drop ls` of those that went nowhere.

use std::{
    cell::RefCell,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
};

use netpath::net::Netns;
use netpath_tests::{
    for_both_families,
    node::{Node, PATIENCE, add_address, binary, run_in},
    scene::Family,
    side::Side,
    tidy::settled,
    wait::until,
};
use serde_json::Value;

for_both_families!(filters_choose_and_lines_name_the_pod);

/// `netpath monitor` with options, in the node.
struct Monitor {
    child: Child,
    lines: Receiver<String>,
    seen: RefCell<Vec<String>>,
}

impl Monitor {
    fn start(node: &Node, options: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary()).arg("monitor").args(options);
        command.stdout(Stdio::piped());
        let own = Netns::current().unwrap();
        nix::sched::setns(&node.topology.node.netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let child = command.spawn();
        nix::sched::setns(&own, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let mut child = child.expect("netpath monitor");
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: RefCell::default() }
    }

    /// Does something again and again until a line with these words comes; returns it.
    fn line(&self, words: &str, mut cause: impl FnMut()) -> String {
        let begun = std::time::Instant::now();
        while begun.elapsed() < PATIENCE {
            cause();
            if let Some(line) = self.seen().into_iter().find(|line| line.contains(words)) {
                return line;
            }
        }
        panic!("no line with '{words}' among {:#?}", self.seen());
    }

    /// All lines so far.
    fn seen(&self) -> Vec<String> {
        let mut seen = self.seen.borrow_mut();
        seen.extend(self.lines.try_iter());
        seen.clone()
    }

    /// Whether none of the lines has these words; there are lines.
    fn has_none(&self, words: &str) {
        let seen = self.seen();
        assert!(!seen.is_empty() && !seen.iter().any(|line| line.contains(words)), "{words}: {seen:#?}");
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of programs that a start has loaded twice, too; and nobody writes them for nobody.
#[test]
fn new_flows_are_told_while_somebody_listens() {
    let side = Side::of(&Family::V4);
    let mut node = Node::start("[flows]\ncapacity = 16384");
    let pod = node.pod("a");
    let ask = || drop(run_in(&pod.netns, "ping", &["-c", "1", "-W", "1", &side.outside.to_string()]));
    node.stop();
    node.configure("[flows]\ncapacity = 32768");
    node.restart();
    drop(Monitor::start(&node, &[]).line(": flow as ", ask));
    let told = || {
        let text = String::from_utf8(node.netpath(&["metrics"]).stdout).expect("text");
        let line = text
            .lines()
            .find(|line| line.starts_with("netpath_events_total{kind=\"flow\""))
            .map(str::to_owned);
        line.unwrap_or_else(|| panic!("no such metric in {text}"))
    };
    until("nobody is told", || {
        let before = told();
        ask();
        told() == before
    });
}

fn filters_choose_and_lines_name_the_pod(family: Family) {
    let side = Side::of(&family);
    let node = Node::start("");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let forged = side.nobody.to_string();
    add_address(&a.netns, side.nobody, "lo");
    let outside = side.outside.to_string();
    let spoof = || drop(run_in(&a.netns, "ping", &["-c", "1", "-W", "0.1", "-I", &forged, &outside]));
    let ask = |pod: &Netns| drop(run_in(pod, "ping", &["-c", "1", "-W", "1", &outside]));

    let all = Monitor::start(&node, &[]);
    let family_word = if side.v6 { "IP6" } else { "IP" };
    let interface = &a.pod.interface;
    let drop_line = all.line("SpoofedSource", spoof);
    assert!(drop_line.contains(&format!(" {family_word} {forged} > {outside}: icmp")), "{drop_line}");
    let end = format!("drop SpoofedSource, pod a, from_pod on {interface}");
    assert!(drop_line.ends_with(&end), "{drop_line}");
    let flow_line = all.line(": flow as ", || ask(&b.netns));
    let own = side.address(&b);
    assert!(flow_line.contains(&format!(" {family_word} {own} > {outside}: icmp")), "{flow_line}");
    assert!(flow_line.contains(&format!("flow as {} id ", side.node)), "{flow_line}");
    assert!(flow_line.contains(", pod b, from_pod on "), "{flow_line}");
    drop(all);

    // What a filter lets pass comes after what it does not, and is all that comes.
    let both = || {
        spoof();
        ask(&b.netns);
    };
    let only_b = Monitor::start(&node, &["--pod", "b", "-o", "json"]);
    let event: Value = serde_json::from_str(&only_b.line("\"flow\"", both)).unwrap();
    assert_eq!((event["pod"].as_str(), event["kind"].as_str()), (Some("b"), Some("flow")));
    assert_eq!(event["source"].as_str(), Some(own.to_string().as_str()));
    only_b.has_none("\"pod\":\"a\"");
    let only_drops = Monitor::start(&node, &["--reason", "SpoofedSource", "--address", &forged]);
    only_drops.line("drop SpoofedSource, pod a", both);
    only_drops.has_none(": flow as ");

    let wrong = node.netpath(&["monitor", "--reason", "Spoofed"]);
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    assert!(said.contains("'Spoofed' is no reason") && said.contains("SpoofedSource"), "{said}");
}

/// A flood is told by its first packets and a number, and counted exactly.
#[test]
fn what_is_held_back_is_told() {
    let node = Node::start("");
    let a = node.pod("a");
    let monitor = Monitor::start(&node, &["--drops"]);
    let flood = || drop(run_in(&a.netns, "ping", &["-c", "200", "-i", "0.001", "-W", "0.1", "224.0.0.1"]));
    let lost = monitor.line(" lost ", flood);
    let number: u64 = lost.split(" lost ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    assert!(
        number > 0
            && lost.ends_with("drops that came faster than they are told; 'netpath drop ls' counts all")
    );
    let listed = String::from_utf8(node.netpath(&["drop", "ls"]).stdout).unwrap();
    println!("{lost}\n{listed}");
    let row = listed.lines().find(|line| line.starts_with("Multicast ")).expect("a row");
    let packets: u64 = row.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(packets >= 200 && number < packets, "{number} of {packets}");
    assert!(listed.contains("\n  try: "), "{listed}");
    let all: Value =
        serde_json::from_slice(&node.netpath(&["drop", "ls", "--all", "-o", "json"]).stdout).unwrap();
    let reasons = all.as_array().unwrap();
    assert_eq!(reasons.len(), netpath_common::abi::DropReason::ALL.len());
    assert!(reasons.iter().all(|row| !row["meaning"].as_str().unwrap().is_empty()));
}

#[test]
fn status_of_a_node_with_few_pods_is_one_screen() {
    let node = Node::start("");
    let (a, b) = (node.pod("a"), node.pod("b"));
    run_in(&a.netns, "ping", &["-c", "1", &b.address.to_string()]);
    for to in ["198.18.1.2", "169.254.1.1", "198.18.0.2"] {
        run_in(&a.netns, "ping", &["-c", "1", "-W", "1", to]);
    }
    settled(&node);
    let shown = String::from_utf8(node.netpath(&["status"]).stdout).unwrap();
    println!("{shown}");
    assert!(shown.starts_with("problems  none\n"), "{shown}");
    assert!(shown.lines().count() <= 24 && shown.lines().all(|line| line.chars().count() <= 120), "{shown}");
    for words in ["from_pod 2", "to_pod 2", "from_uplink 1", "to_uplink 1", "\npods      2\n", "\nlocal "] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let json: Value = serde_json::from_slice(&node.netpath(&["status", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["programs"].as_array().map(Vec::len), Some(6));
    // Something that cannot be put right is the first thing seen.
    node.reconfigure("snat.addresses = [\"203.0.113.200\"]");
    until("the problem is shown", || {
        let shown = String::from_utf8(node.netpath(&["status"]).stdout).unwrap();
        shown.starts_with("problems  1\n  snat.addresses: 203.0.113.200 is not used")
    });
}
