//! Which cores are measured on.

use std::{collections::BTreeSet, fs, io};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

/// Cores that are measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Round trips: both sides, since waking the other core would be most of what is measured. It is the last one, since
    /// interrupts and everybody else prefer the first.
    pub one: usize,
    /// Streams: who sends.
    pub sender: usize,
    /// Streams: who receives; the same where there is no other.
    pub receiver: usize,
    /// Whether sender and receiver are threads of one core, and share what it has.
    pub siblings: bool,
    /// NUMA node of the round trips' core, if the kernel tells.
    pub node: Option<usize>,
    /// Whether sender and receiver are on different NUMA nodes.
    pub across_nodes: bool,
}

/// What the kernel tells of a core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Core {
    number: usize,
    /// It and the other threads of the same core.
    threads: BTreeSet<usize>,
    node: Option<usize>,
}

impl Cores {
    /// Of those that this process may use: two of one NUMA node that are not threads of one core, where there are such.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn choose() -> io::Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let numbers = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
        Self::of(&numbers.map(Core::look).collect::<Vec<_>>())
            .ok_or_else(|| io::Error::other("no core to run on"))
    }

    fn of(cores: &[Core]) -> Option<Self> {
        let (one, others) = cores.split_last()?;
        let siblings = |other: &Core| one.threads.contains(&other.number);
        let strange = |other: &Core| other.node != one.node;
        // The first of those that are as good: `max_by_key` takes the last, which interrupts prefer least.
        let receiver = others.iter().max_by_key(|other| (!strange(other), !siblings(other)));
        Some(Self {
            one: one.number,
            sender: one.number,
            receiver: receiver.map_or(one.number, |other| other.number),
            siblings: receiver.is_some_and(siblings),
            node: one.node,
            across_nodes: receiver.is_some_and(strange),
        })
    }
}

impl Core {
    fn look(number: usize) -> Self {
        let dir = format!("/sys/devices/system/cpu/cpu{number}");
        let threads = fs::read_to_string(format!("{dir}/topology/thread_siblings_list")).unwrap_or_default();
        // The node's number stands in a name only.
        let names = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let node = |name: std::ffi::OsString| name.to_str()?.strip_prefix("node")?.parse().ok();
        Self { number, threads: list(&threads), node: names.filter_map(node).next() }
    }
}

/// Numbers as the kernel lists them: `0,4-6`.
fn list(text: &str) -> BTreeSet<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(number: usize, threads: &str, node: usize) -> Core {
        Core { number, threads: list(threads), node: Some(node) }
    }

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(list("0,4-6\n"), BTreeSet::from([0, 4, 5, 6]));
        assert_eq!(list(""), BTreeSet::new());
    }

    #[test]
    fn threads_of_one_core_and_other_nodes_come_last() {
        let chosen = |cores: &[Core]| {
            let cores = Cores::of(cores).unwrap();
            (cores.one, cores.receiver, cores.siblings, cores.across_nodes)
        };
        let plain = |number: usize| core(number, &number.to_string(), 0);
        assert_eq!(chosen(&[plain(0), plain(1), plain(2)]), (2, 1, false, false));
        // Threads next to each other, and threads half a machine apart.
        let pairs = [core(0, "0-1", 0), core(1, "0-1", 0), core(2, "2-3", 0), core(3, "2-3", 0)];
        assert_eq!(chosen(&pairs), (3, 1, false, false));
        let halves = [core(0, "0,2", 0), core(1, "1,3", 0), core(2, "0,2", 0), core(3, "1,3", 0)];
        assert_eq!(chosen(&halves), (3, 2, false, false));
        // A node that alternates.
        let nodes = [core(0, "0", 0), core(1, "1", 1), core(2, "2", 0), core(3, "3", 1)];
        assert_eq!(chosen(&nodes), (3, 1, false, false));
        assert_eq!(chosen(&[core(2, "2-3", 0), core(3, "2-3", 0)]), (3, 2, true, false));
        assert_eq!(chosen(&[core(0, "0", 0), core(1, "1", 1)]), (1, 0, false, true));
        assert_eq!(chosen(&[plain(5)]), (5, 5, false, false));
        assert_eq!(Cores::of(&[]), None);
    }
}
