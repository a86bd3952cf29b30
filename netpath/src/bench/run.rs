//! `netpath bench`, from nothing to a document to nothing again.

use std::{collections::BTreeMap, io, sync::Arc};

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::{
    Cores, Mode, Path, Plan, Site, Workload, attach,
    budgets::{self, Judged},
    drop,
    environment::{Environment, Watch},
    figure::{Failure, Figure},
    first,
    measure::{self, Found},
    modes::{self, MODES},
    program, scale,
    series::figures,
    task::tasks,
};
use crate::lab::{
    LabError, Places,
    error::Doing,
    etcd, progress,
    stage::{self, Stage},
};

/// Instance name of the benchmark's agent.
pub const INSTANCE: &str = "bench";
/// New pods have addresses for so many: those of both of netpath's modes come from one block of 254.
pub const MOST_ROUNDS: usize = 100;
/// A mode that a kernel may be built without.
const OPTIONAL: &str = "macvlan";
/// Modes that need an etcd, which is left to be installed by those who ask for them.
const CLUSTERS: [&str; 2] = ["netpath-direct", "netpath-vxlan"];
/// Rounds from which on intervals hold the true median with 95 %.
const ENOUGH: usize = 6;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// In a minute, instead of figures to cite.
    pub quick: bool,
    /// Turns each case gets, 1 to [`MOST_ROUNDS`]; what suits `quick` if absent.
    pub rounds: Option<usize>,
    /// Names of modes.
    pub modes: Vec<String>,
    /// Whether the modes were asked for by name: none of them may be missing then, but what a kernel lacks.
    pub named: bool,
    /// Workloads.
    pub workloads: Vec<Workload>,
    /// Paths.
    pub paths: Vec<Path>,
}

impl Options {
    fn plan(&self) -> Plan {
        let plan = if self.quick { Plan::QUICK } else { Plan::FULL };
        Plan { rounds: self.rounds.unwrap_or(plan.rounds).clamp(1, MOST_ROUNDS), ..plan }
    }

    fn wants(&self, workload: Workload) -> bool {
        self.workloads.contains(&workload)
    }
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Namespaces, links or an agent could not be made or removed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// It was told to end.
    #[error("measuring: interrupted; everything is removed")]
    Interrupted,
}

/// What was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Name of the mode.
    pub mode: String,
    /// The path, if the mode lacks only that.
    pub path: Option<String>,
    /// The workload, if only that was left out.
    pub workload: Option<String>,
    /// Why.
    pub reason: String,
    /// Whether a machine may lack it without anything being wrong.
    #[serde(default)]
    pub optional: bool,
}

impl Skipped {
    fn mode(mode: &str, reason: impl Into<String>) -> Self {
        Self { mode: mode.to_owned(), path: None, workload: None, reason: reason.into(), optional: false }
    }

    pub(super) fn workload(mode: &str, workload: Workload, reason: impl Into<String>) -> Self {
        Self { workload: Some(workload.name().to_owned()), ..Self::mode(mode, reason) }
    }
}

/// A whole run, as in JSON. Names are stable: scripts rely on them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Machine and settings.
    pub environment: Environment,
    /// The figures, by workload, path, protocol and mode.
    pub results: Vec<Figure>,
    /// What netpath holds itself to, and whether it does.
    #[serde(default)]
    pub budgets: Vec<Judged>,
    /// What was left out.
    #[serde(default)]
    pub skipped: Vec<Skipped>,
    /// What could not be measured.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// What makes figures doubtful.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Document {
    /// Whether everything was measured that could be: nothing failed, and no mode is missing that every kernel has.
    pub fn passed(&self) -> bool {
        let whole = |one: &Skipped| one.path.is_none() && one.workload.is_none();
        let lacks = |one: &Skipped| whole(one) && !one.optional;
        !self.results.is_empty() && self.failures.is_empty() && !self.skipped.iter().any(lacks)
    }

    /// Probability that an interval holds the true median: the least of all figures.
    pub(super) fn confidence(&self) -> Option<f64> {
        self.results.iter().map(|figure| figure.confidence).reduce(f64::min)
    }

    fn warn(&mut self, doubts: impl Iterator<Item = String>) {
        self.warnings = self.environment.warnings();
        self.warnings.extend(doubts);
        let rounds = self.environment.rounds;
        if rounds < ENOUGH {
            let sure = self.confidence().unwrap_or_default();
            self.warnings.push(format!(
                "too few rounds ({rounds}): intervals hold the true median with {:.0} % only, and no budget or comparison \
                 can be judged by them; {ENOUGH} rounds give 97 %",
                sure * 100.0
            ));
        }
        let repeats: usize = self.results.iter().map(|figure| figure.repeats).sum();
        if repeats > 0 {
            self.warnings
                .push(format!("{repeats} turns lost a packet and were repeated (`repeats` in JSON)"));
        }
        let noisy = self.results.iter().filter(|figure| figure.noisy).count();
        if noisy > 0 {
            self.warnings.push(format!(
                "{noisy} of {} figures have an interval wider than a fifth of them (marked ~): the machine is too noisy \
                 to tell; compare ratios by their intervals, or measure again",
                self.results.len()
            ));
        }
    }
}

/// Builds the modes, measures them and removes everything. Progress on standard error, if that is a terminal. Must be
/// called while the process has one thread.
///
/// # Errors
/// [`BenchError`]; everything is removed then, too.
pub fn run(options: &Options) -> Result<Document, BenchError> {
    let work = async |stage, document: &mut Option<Document>| {
        *document = Some(bench(options, stage).await?);
        Ok::<_, BenchError>(())
    };
    let (_, document) = stage::perform(&Places::of(INSTANCE), |_, _| false, work)?;
    document.ok_or(BenchError::Interrupted)
}

async fn bench(options: &Options, mut stage: Stage) -> Result<Document, LabError> {
    let (plan, cores) = (options.plan(), Cores::choose().doing(|| "choosing cores".into())?);
    let bar = progress();
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar.set_message("looking at the machine");
    let quick = options.quick;
    let mut watch = blocking("looking at the machine", move || Watch::begin(quick, &plan, cores)).await?;
    // Its standard input is open as long as this process lives: however it ends, the holder then removes everything.
    let _alive = stage.start_holder(&["bench", "hold"])?;
    let site = Arc::new(Site::build(stage).await?);
    let mut document = Document::default();
    let modes = build(options, &site, &bar, &mut document.skipped).await;
    watch.modes(&modes);
    let doubts: Vec<_> = modes.iter().filter_map(|mode| mode.doubt()).collect();
    let bench = Bench { options: options.clone(), plan, cores, site, modes: modes.into(), bar: bar.clone() };
    watch.datapath(&bench.attached().await?);
    let found = bench.measure(&mut document.skipped).await?;
    document.environment = blocking("looking at the machine", || watch.end()).await?;
    let names: Vec<_> = modes::names().collect();
    document.results = figures(found.series, &names);
    document.failures = found.failures;
    document.budgets = budgets::judge(&document.results);
    document.warn(doubts.into_iter());
    bar.finish_and_clear();
    Ok(document)
}

/// The modes that could be built; the others are skipped, and so are paths that a mode lacks.
async fn build(
    options: &Options,
    site: &Arc<Site>,
    bar: &ProgressBar,
    skipped: &mut Vec<Skipped>,
) -> Vec<Box<dyn Mode>> {
    let mut built = Vec::new();
    for (name, builder) in MODES.iter().filter(|(name, _)| options.modes.iter().any(|wanted| wanted == name))
    {
        bar.set_message(format!("building {name}"));
        let without_etcd = CLUSTERS.contains(name) && etcd::look().is_err();
        let optional = *name == OPTIONAL || without_etcd && !options.named;
        match builder(site).await {
            Ok(mode) => built.push(mode),
            Err(error) => skipped.push(Skipped { optional, ..Skipped::mode(name, error.to_string()) }),
        }
    }
    for mode in &built {
        for path in &options.paths {
            if let Err(reason) = mode.pair(*path) {
                let path = Some(path.name().to_owned());
                skipped.push(Skipped { path, ..Skipped::mode(mode.name(), reason) });
            }
        }
    }
    built
}

/// All that measuring needs.
pub(super) struct Bench {
    pub(super) options: Options,
    pub(super) plan: Plan,
    pub(super) cores: Cores,
    pub(super) site: Arc<Site>,
    pub(super) modes: Arc<[Box<dyn Mode>]>,
    pub(super) bar: ProgressBar,
}

impl Bench {
    /// Whether a mode was asked for and could be built.
    pub(super) fn has(&self, name: &str) -> bool {
        self.modes.iter().any(|mode| mode.name() == name)
    }

    /// How netpath's programs are attached, by the kernel's numbers for them, once that is how they stay.
    async fn attached(&self) -> Result<BTreeMap<u32, String>, LabError> {
        let mut attached = BTreeMap::new();
        for agent in self.modes.iter().flat_map(|mode| mode.agents()) {
            let programs = Site::settled(agent).await?.programs;
            attached.extend(programs.into_iter().map(|one| (one.id, one.attach)));
        }
        Ok(attached)
    }

    /// Every workload that is wanted. What changes the networks comes after what does not.
    async fn measure(&self, skipped: &mut Vec<Skipped>) -> Result<Found, LabError> {
        let mut found = self.interleaved().await?;
        let wanted = Workload::ALL.iter().copied().filter(|workload| self.options.wants(*workload));
        for workload in wanted {
            if let Some((mode, reason)) = self.lacks(workload) {
                skipped.push(Skipped::workload(mode, workload, reason));
                continue;
            }
            let own = match workload {
                Workload::Rr | Workload::Crr | Workload::Stream | Workload::Pps => continue,
                Workload::Program => program::measure(self).await,
                Workload::FirstPacket => {
                    let unable = self.modes.iter().filter(|mode| mode.newcomer(0).is_none());
                    let reason = "it has no pods that come and go";
                    skipped.extend(unable.map(|mode| Skipped::workload(mode.name(), workload, reason)));
                    first::measure(self).await
                }
                Workload::Attach => attach::measure(self, skipped).await,
                Workload::Drop => drop::measure(self, skipped).await,
                Workload::Scale => scale::measure(self).await,
            };
            found.take(workload, own);
        }
        Ok(found)
    }

    /// Why a workload of its own cannot be measured with the modes and paths that there are, and whose lack that is.
    fn lacks(&self, workload: Workload) -> Option<(&'static str, &'static str)> {
        let paths = &self.options.paths;
        let netpath = self.has("netpath");
        match workload {
            Workload::Program if !program::MODES.iter().any(|(mode, _)| self.has(mode)) => {
                Some(("netpath", "it is of netpath's programs, and no mode of netpath's is there"))
            }
            Workload::Scale if !netpath => {
                Some(("netpath", "it is of netpath's tables, and mode netpath is not there"))
            }
            Workload::Scale if !scale::PATHS.iter().any(|path| paths.contains(path)) => {
                Some(("netpath", "it is measured on paths pod-pod and pod-outside"))
            }
            Workload::FirstPacket if !paths.contains(&Path::PodPod) => {
                Some(("netpath", "it is measured on path pod-pod"))
            }
            Workload::Attach if !netpath => {
                Some(("netpath", "it compares with netpath, and mode netpath is not there"))
            }
            _ => None,
        }
    }

    /// Turns of the workloads that are not interleaved with the others.
    fn more(&self) -> usize {
        let rounds = self.plan.rounds;
        let turns = |workload| match workload {
            Workload::Program => program::turns(self),
            Workload::FirstPacket => self.modes.iter().filter(|mode| mode.newcomer(0).is_some()).count(),
            Workload::Attach => 2,
            Workload::Drop => drop::VARIANTS.len(),
            Workload::Scale => scale::turns(self),
            _ => 0,
        };
        let wanted =
            Workload::ALL.iter().filter(|one| self.options.wants(**one) && self.lacks(**one).is_none());
        wanted.map(|workload| turns(*workload)).sum::<usize>() * rounds
    }

    /// What can be measured between any two namespaces. Sets the bar's length for the whole run.
    async fn interleaved(&self) -> Result<Found, LabError> {
        let (options, plan, cores) = (&self.options, self.plan, self.cores);
        let (tasks, paths) = (tasks(options.quick, &options.workloads), options.paths.clone());
        let (modes, bar, more) = (Arc::clone(&self.modes), self.bar.clone(), self.more());
        let measured = blocking("measuring", move || -> io::Result<Found> {
            let all: Vec<&dyn Mode> = modes.iter().map(AsRef::as_ref).collect();
            let groups = measure::groups(&all, &paths, &tasks)?;
            bar.set_length((groups.iter().map(Vec::len).sum::<usize>() * plan.rounds + more) as u64);
            bar.set_position(0);
            Ok(measure::interleave(groups, &plan, cores, &bar))
        });
        measured.await?.doing(|| "preparing to measure".into())
    }
}

/// Runs something that blocks beside the runtime.
///
/// # Errors
/// If it panics, or the runtime is ending.
pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LabError> {
    tokio::task::spawn_blocking(work).await.doing(|| what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::testing::figure;

    #[test]
    fn a_mode_that_every_kernel_has_may_not_be_missing() {
        let results = vec![figure("direct", "rr", "pod-pod", None)];
        let passed = |skipped| {
            Document { results: results.clone(), skipped: vec![skipped], ..Document::default() }.passed()
        };
        for mode in ["routed", "netpath", "netpath-vxlan", "bridge"] {
            assert!(!passed(Skipped::mode(mode, "no such thing")), "{mode}");
            assert!(passed(Skipped::workload(mode, Workload::Attach, "no plugin")), "{mode}");
        }
        assert!(passed(Skipped { optional: true, ..Skipped::mode("macvlan", "the kernel has none") }));
        let path = Some("node-pod".into());
        assert!(passed(Skipped { path, ..Skipped::mode("netpath", "not there") }));
    }

    #[test]
    fn few_rounds_and_lost_packets_are_told() {
        let environment =
            Environment { rounds: 3, build: "release".into(), receiver_core: 1, ..Environment::default() };
        let one = Figure { repeats: 2, confidence: 0.75, ..figure("direct", "rr", "pod-pod", None) };
        let mut document = Document { environment, results: vec![one], ..Document::default() };
        document.warn(["bridge is none".to_owned()].into_iter());
        let told = document.warnings.join("\n");
        assert!(
            told.contains("75 %") && told.contains("2 turns lost") && told.contains("bridge is none"),
            "{told}"
        );
        document.environment.rounds = 11;
        document.results[0].repeats = 0;
        document.warn(std::iter::empty());
        assert_eq!(document.warnings, [""; 0]);
    }
}
