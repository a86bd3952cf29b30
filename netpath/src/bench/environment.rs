//! The machine and the settings of a run, so that figures can be judged and repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path as FilePath,
    time::{Duration, Instant, SystemTime},
};

use aya::programs::loaded_programs;
use serde::{Deserialize, Serialize};

use super::{Cores, Mode, Plan};

/// Cores that are busier than this before the run are told of.
const BUSY: f64 = 0.1;
/// Time that the hypervisor gave to others is told from here on.
const STOLEN: f64 = 0.01;
/// How long is looked at how busy the machine is.
const LOOK: Duration = Duration::from_millis(300);

/// What a run was made on and with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Version of netpath.
    pub netpath: String,
    /// `release`, or `debug`: its own process is slower then, its programs are not.
    pub build: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Processor, as the kernel names it.
    pub cpu: String,
    /// Whether the processor says that a hypervisor is below it.
    pub virtual_machine: bool,
    /// Cores there are.
    pub cores: usize,
    /// What steers their frequency, if that is known.
    pub governor: Option<String>,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Core of both sides for round trips.
    pub round_trip_core: usize,
    /// Core of the sender for streams.
    pub sender_core: usize,
    /// Core of the receiver for streams.
    pub receiver_core: usize,
    /// Whether sender and receiver are threads of one core.
    pub threads_of_one_core: bool,
    /// NUMA node of the round trips' core, if the kernel tells.
    pub numa_node: Option<usize>,
    /// Whether sender and receiver are on different NUMA nodes.
    pub across_nodes: bool,
    /// How netpath's programs are attached, as its status tells; null without a mode of netpath's.
    pub attach: Option<String>,
    /// Whether the kernel translates netpath's programs to the processor's code; null without a mode of netpath's.
    pub jit: Option<bool>,
    /// Where the kernel has it, what it does against faults of the processor.
    pub mitigations: BTreeMap<String, String>,
    /// Whether it was a quick run.
    pub quick: bool,
    /// Turns each case got.
    pub rounds: usize,
    /// How long a turn counted, milliseconds.
    pub slice_ms: u64,
    /// How long it ran before, milliseconds.
    pub warm_up_ms: u64,
    /// When it began, UTC.
    pub began: String,
    /// How long it took, seconds.
    pub took_s: f64,
    /// Part of the cores' time that others used just before it.
    pub busy_before: f64,
    /// The same just after it.
    pub busy_after: f64,
    /// Part of the cores' time that a hypervisor gave to others during it.
    pub stolen: f64,
    /// What each mode was made of.
    pub modes: BTreeMap<String, String>,
}

/// A run's environment, looked at before and after.
pub(super) struct Watch {
    environment: Environment,
    began: Instant,
    stat: Stat,
}

impl Watch {
    /// Looks at the machine for a moment. Blocks.
    pub(super) fn begin(quick: bool, plan: &Plan, cores: Cores) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let line = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        let environment = Environment {
            netpath: env!("CARGO_PKG_VERSION").into(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: line("model name").to_owned(),
            virtual_machine: line("flags").split(' ').any(|flag| flag == "hypervisor"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            governor: fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .ok()
                .map(|text| text.trim().to_owned()),
            memory_mib: memory(&read("/proc/meminfo")),
            round_trip_core: cores.one,
            sender_core: cores.sender,
            receiver_core: cores.receiver,
            threads_of_one_core: cores.siblings,
            numa_node: cores.node,
            across_nodes: cores.across_nodes,
            mitigations: mitigations(),
            quick,
            rounds: plan.rounds,
            slice_ms: plan.slice.counted.as_millis() as u64,
            warm_up_ms: plan.slice.warm_up.as_millis() as u64,
            began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            busy_before: busy(),
            ..Environment::default()
        };
        Self { environment, began: Instant::now(), stat: Stat::now() }
    }

    /// Notes what the modes are.
    pub(super) fn modes(&mut self, modes: &[Box<dyn Mode>]) {
        self.environment.modes = modes.iter().map(|mode| (mode.name().to_owned(), mode.made_of())).collect();
    }

    /// Notes how programs are attached, which are told by the kernel's numbers for them.
    pub(super) fn datapath(&mut self, attached: &BTreeMap<u32, String>) {
        let kinds: BTreeSet<&str> = attached.values().map(String::as_str).collect();
        let own = loaded_programs().flatten().filter(|program| attached.contains_key(&program.id()));
        let own: Vec<bool> = own.map(|program| program.size_jitted() > 0).collect();
        self.environment.attach =
            (!kinds.is_empty()).then(|| kinds.into_iter().collect::<Vec<_>>().join(", "));
        self.environment.jit = (!own.is_empty()).then(|| own.iter().all(|jitted| *jitted));
    }

    /// Looks at the machine again. Blocks for a moment.
    pub(super) fn end(mut self) -> Environment {
        self.environment.took_s = super::stats::round(self.began.elapsed().as_secs_f64(), 1);
        self.environment.stolen = Stat::now().part(&self.stat, |stat| stat.stolen);
        self.environment.busy_after = busy();
        self.environment
    }
}

impl Environment {
    /// What of it makes figures doubtful, in words.
    pub(super) fn warnings(&self) -> Vec<String> {
        let percent = |part: f64| (part * 100.0).round();
        let mut warnings = Vec::new();
        for (part, when) in [(self.busy_before, "before"), (self.busy_after, "after")] {
            if part > BUSY {
                warnings.push(format!(
                    "something else used {} % of the cores just {when} the run; end it and measure again",
                    percent(part)
                ));
            }
        }
        if self.stolen > STOLEN {
            warnings.push(format!(
                "the hypervisor gave {} % of the cores' time to others; measure on a machine of your own",
                percent(self.stolen)
            ));
        }
        if self.sender_core == self.receiver_core {
            warnings.push("there is one core only: streams send and receive on the same".into());
        } else if self.threads_of_one_core {
            warnings.push("sender and receiver of streams are threads of one core".into());
        }
        if self.across_nodes {
            warnings.push("sender and receiver of streams are on different NUMA nodes".into());
        }
        if self.jit == Some(false) {
            warnings.push(
                "the kernel interprets netpath's programs: set net.core.bpf_jit_enable to 1, the default of most".into(),
            );
        }
        if self.build == "debug" {
            warnings.push(
                "this netpath is a debug build: pods are attached more slowly than by a release".into(),
            );
        }
        warnings
    }
}

/// Ticks of all cores since boot, from `/proc/stat`.
struct Stat {
    idle: u64,
    stolen: u64,
    all: u64,
}

impl Stat {
    fn now() -> Self {
        Self::parse(&read("/proc/stat"))
    }

    /// user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user and nice already.
    fn parse(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|one| one.parse().unwrap_or(0)).collect();
        let at = |field: usize| ticks.get(field).copied().unwrap_or(0);
        Self { idle: at(3) + at(4), stolen: at(7), all: ticks.iter().take(8).sum() }
    }

    /// Part of the time since `before`.
    fn part(&self, before: &Self, of: impl Fn(&Self) -> u64) -> f64 {
        let all = self.all.saturating_sub(before.all);
        if all == 0 { 0.0 } else { super::stats::round((of(self) - of(before)) as f64 / all as f64, 3) }
    }
}

/// Part of the cores' time that is used while this process waits.
fn busy() -> f64 {
    let before = Stat::now();
    std::thread::sleep(LOOK);
    Stat::now().part(&before, |stat| stat.all - stat.idle)
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn mitigations() -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return BTreeMap::new() };
    let one = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        Some((entry.file_name().to_str()?.to_owned(), text.trim().to_owned()))
    };
    entries.flatten().filter_map(one).filter(|(_, text)| text != "Not affected").collect()
}

fn read(path: impl AsRef<FilePath>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_time_are_of_all_cores() {
        let before = Stat::parse("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1\n");
        let after = Stat::parse("cpu  150 0 120 1110 10 0 0 10 50 0\n");
        assert_eq!(after.part(&before, |stat| stat.all - stat.idle), 0.2);
        assert_eq!(after.part(&before, |stat| stat.stolen), 0.025);
        assert_eq!(after.part(&after, |stat| stat.stolen), 0.0);
    }

    #[test]
    fn a_busy_machine_is_told_of() {
        let fine = Environment { build: "release".into(), receiver_core: 1, ..Environment::default() };
        assert_eq!(fine.warnings(), [""; 0]);
        let busy =
            Environment { busy_before: 0.4, stolen: 0.05, jit: Some(false), across_nodes: true, ..fine };
        let warnings = busy.warnings().join("\n");
        assert!(
            warnings.contains("40 %") && warnings.contains("before") && warnings.contains("5 %"),
            "{warnings}"
        );
        assert!(warnings.contains("interprets") && warnings.contains("NUMA"), "{warnings}");
    }
}
