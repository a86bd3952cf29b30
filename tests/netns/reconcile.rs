//! What others break comes back: within two seconds what netlink announces, within one full pass the rest; and live
//! flows do not notice where the breakage itself lets them be. docs/RECONCILE.md has the table.

mod gone;
mod live;
mod pods;
mod tables;
mod uplink;

use std::time::{Duration, Instant};

use live::Live;
use netpath::{
    lab::checks::LabPod,
    net::{Netns, sysctl},
};
use netpath_tests::{
    node::{Node, run_in},
    scene::Family,
    side::Side,
    tidy::{attached, settled},
};

/// Longest time until what netlink announces is repaired.
const ANNOUNCED: Duration = Duration::from_secs(2);
/// The same for what nothing announces: it waits for the next full pass.
const PASS: Duration = Duration::from_secs(10);

/// A node with two pods between which, and from one of which to outside, flows go on.
struct Scene {
    live: Live,
    side: Side,
    a: LabPod,
    node: Node,
}

/// Something to break, and how to see that it is whole.
struct Breakage<'a> {
    name: &'a str,
    /// Where `breaks` is run.
    netns: &'a Netns,
    /// A line for the shell; it prints nothing unless it fails.
    breaks: String,
    /// Whether packets of live flows may be lost by the breakage itself.
    disturbs: bool,
    within: Duration,
}

impl Scene {
    fn new(family: &Family, configuration: &str) -> Self {
        let side = Side::of(family);
        let node = Node::start(configuration);
        let (a, b) = (node.pod("a"), node.pod("b"));
        let live = Live::start(&node, &side, &a, &b);
        settled(&node);
        Self { live, side, a, node }
    }

    /// The node's namespace.
    fn netns(&self) -> &Netns {
        &self.node.topology.node.netns
    }

    /// Breaks something, and waits until a line for the shell, run in the same place, prints these words again.
    fn comes_back(&self, breakage: &Breakage<'_>, shows: &str, words: &str) {
        let said = || shell(breakage.netns, shows);
        assert!(said().contains(words), "{}: not there to begin with: {}", breakage.name, said());
        self.is_repaired(breakage, || Some(said()).filter(|said| !said.contains(words)));
    }

    /// The same with any way to see what is wrong.
    fn is_repaired(&self, breakage: &Breakage<'_>, wrong: impl Fn() -> Option<String>) {
        let Breakage { name, netns, breaks, disturbs, within } = breakage;
        self.live.moves(&format!("before: {name}"));
        let lost = self.live.lost();
        let said = shell(netns, breaks);
        assert_eq!(said, "", "{name}: it was not broken");
        self.wait(name, *within, wrong);
        self.live.moves(&format!("after: {name}"));
        let lost = self.live.lost() - lost;
        println!("{name}: {lost} datagrams lost");
        assert!(*disturbs || lost == 0, "{name}: {lost} datagrams lost");
    }

    /// Waits until nothing is wrong, for no longer than this.
    fn wait(&self, name: &str, within: Duration, wrong: impl Fn() -> Option<String>) {
        let began = Instant::now();
        while let Some(what) = wrong() {
            if began.elapsed() >= within {
                panic!("{name}: not back within {within:?}: {what}\nproblems: {:?}", self.problems());
            }
            netpath_tests::wait::rest();
        }
        println!("{name}: back after {:?}", began.elapsed());
    }

    /// What is repaired is told to be well a moment later.
    fn wait_well(&self) {
        self.wait("nothing is wrong", PASS, || self.problems().into_iter().next());
    }

    fn problems(&self) -> Vec<String> {
        self.node.runtime.block_on(self.node.client.status()).expect("status").problems
    }
}

fn shell(netns: &Netns, line: &str) -> String {
    run_in(netns, "sh", &["-c", line])
}

/// Names of the programs on an interface of a namespace, tcx and clsact.
fn programs_on(netns: &Netns, interface: &str) -> String {
    attached(netns, interface).into_iter().map(|(_, program, _)| program).collect::<Vec<_>>().join(" ")
}

/// A sysctl of a namespace.
fn read(netns: &Netns, key: &str) -> String {
    netns.enter(|| sysctl::read(key)).expect("namespace").expect("sysctl")
}
