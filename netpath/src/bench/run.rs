//! `netpath bench`, from nothing to a document to nothing again.

use std::{io, sync::Arc};

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use super::{
    Cores, Mode, Path, Plan, Site, Workload, attach,
    environment::{Environment, Watch},
    first,
    measure::{self, Found},
    modes::{self, MODES},
    program, scale,
    series::{Failure, Figure, figures},
    task::tasks,
};
use crate::lab::{
    LabError, Places,
    error::Doing,
    progress,
    stage::{self, Stage},
};

/// Instance name of the benchmark's agent.
pub const INSTANCE: &str = "bench";
/// New pods of each mode have addresses for so many.
const MOST_ROUNDS: usize = 200;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// In a minute, instead of figures to cite.
    pub quick: bool,
    /// Turns each case gets, 1 to 200; what suits `quick` if absent.
    pub rounds: Option<usize>,
    /// Names of modes.
    pub modes: Vec<String>,
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
}

impl Skipped {
    fn mode(mode: &str, reason: impl Into<String>) -> Self {
        Self { mode: mode.to_owned(), path: None, workload: None, reason: reason.into() }
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
    /// Whether everything was measured that could be.
    pub fn passed(&self) -> bool {
        let lacks_netpath = |one: &Skipped| one.mode == "netpath" && one.path.is_none();
        !self.results.is_empty() && self.failures.is_empty() && !self.skipped.iter().any(lacks_netpath)
    }

    fn warn(&mut self) {
        self.warnings = self.environment.warnings();
        let noisy = self.results.iter().filter(|figure| figure.noisy).count();
        if noisy > 0 {
            self.warnings.push(format!(
                "{noisy} of {} figures differ by more than a fifth from round to round (marked ~): the machine is too noisy \
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
    let modes: Arc<[Box<dyn Mode>]> = modes.into();
    let found =
        Bench { options, plan, cores, site, modes, bar: bar.clone() }.measure(&mut document.skipped).await?;
    document.environment = blocking("looking at the machine", || watch.end()).await?;
    let names: Vec<_> = modes::names().collect();
    document.results = figures(found.series, &names);
    document.failures = found.failures;
    document.warn();
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
        match builder(site).await {
            Ok(mode) => built.push(mode),
            Err(error) => skipped.push(Skipped::mode(name, error.to_string())),
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
struct Bench<'a> {
    options: &'a Options,
    plan: Plan,
    cores: Cores,
    site: Arc<Site>,
    modes: Arc<[Box<dyn Mode>]>,
    bar: ProgressBar,
}

impl Bench<'_> {
    /// Every workload that is wanted. What changes the networks comes after what does not.
    async fn measure(&self, skipped: &mut Vec<Skipped>) -> Result<Found, LabError> {
        let (plan, cores, bar, options) = (self.plan, self.cores, &self.bar, self.options);
        let has_netpath = self.modes.iter().any(|mode| mode.name() == "netpath");
        let mut found = self.interleaved().await?;
        if options.wants(Workload::Program) && has_netpath {
            let (site, modes) = (&self.site, &self.modes);
            let programs = program::measure(site, modes, &options.paths, plan, cores, bar).await;
            found.take(Workload::Program, programs);
        }
        if options.wants(Workload::FirstPacket) && options.paths.contains(&Path::PodPod) {
            let first = first::measure(&self.modes, plan.rounds, cores, bar).await;
            found.take(Workload::FirstPacket, first);
        }
        if options.wants(Workload::Attach) {
            let attached = attach::measure(&self.site, has_netpath, plan.rounds, bar, skipped).await;
            found.take(Workload::Attach, attached);
        }
        if options.wants(Workload::Scale) && has_netpath {
            let (site, modes) = (&self.site, &self.modes);
            let scaled = scale::measure(site, modes, &options.paths, plan, cores, bar).await;
            found.take(Workload::Scale, scaled);
        }
        Ok(found)
    }

    /// What can be measured between any two namespaces. Sets the bar's length for the whole run.
    async fn interleaved(&self) -> Result<Found, LabError> {
        let (options, plan, cores) = (self.options, self.plan, self.cores);
        let (tasks, paths) = (tasks(options.quick, &options.workloads), options.paths.clone());
        let (modes, bar) = (Arc::clone(&self.modes), self.bar.clone());
        let more = [
            (Workload::Program, paths.len() * plan.rounds),
            (Workload::FirstPacket, modes.len() * plan.rounds),
            (Workload::Attach, 2 * plan.rounds),
            (Workload::Scale, scale::turns(&modes, &paths, &plan)),
        ];
        let more: usize =
            more.iter().filter(|(workload, _)| options.wants(*workload)).map(|(_, turns)| turns).sum();
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
