//! `lab run`, from nothing to tables to nothing again.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::Handle;

use super::{
    checks::{self, LabPod, Scene},
    error::{Doing, LabError},
    live,
    nodes::{self, Shape},
    report::Report,
    session,
    stage::{self, Stage, Stop},
    state::{self, LAB, Lock, Places},
    topology::{OUTSIDE, Spec, Topology},
};
use crate::{
    api::types::PodAdd,
    bench::{
        self, Mode, Path, Plan,
        modes::{Bridge, Direct, Netpath},
    },
    net::Netns,
};

/// Pods of the lab.
const PODS: [&str; 3] = ["a", "b", "c"];

/// How `lab run` behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// End after the tables instead of showing the live view.
    pub once: bool,
    /// Leave agent and namespaces up at the end.
    pub keep: bool,
    /// One JSON document on standard output instead of tables.
    pub json: bool,
    /// Several nodes of a cluster in place of the one node.
    pub shape: Option<Shape>,
}

/// How a run has ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it found; `None` if it was interrupted before.
    pub report: Option<Report>,
}

impl Outcome {
    /// Whether it came to its end and every check is fine.
    pub fn passed(&self) -> bool {
        self.report.as_ref().is_some_and(Report::passed)
    }
}

/// Builds the lab, checks it, measures it, shows it until Ctrl-C (unless `once`), and removes it (unless `keep`). What a
/// crashed or kept lab left is removed first. Prints on standard output; progress on standard error if that is a
/// terminal. Must be called while the process has one thread.
///
/// # Errors
/// [`LabError::NotRoot`], [`LabError::Busy`], or the step that failed; everything is removed then, too.
pub fn run(options: RunOptions) -> Result<Outcome, LabError> {
    let kept = |stop, found| options.keep && (stop == Stop::Done || (stop == Stop::Interrupted && found));
    let work = async |stage, report: &mut Option<Report>| play(options, stage, report).await;
    let (stop, report) = stage::perform(&Places::of(LAB), kept, work)?;
    if kept(stop, report.is_some()) {
        eprintln!("The lab stays up: remove it with 'netpath lab down'.");
    }
    Ok(Outcome { report })
}

/// Removes a lab, whether it runs, was kept or has crashed. Returns whether there was one.
///
/// # Errors
/// [`LabError::NotRoot`], or what could not be removed.
pub fn down() -> Result<bool, LabError> {
    if !session::is_root() {
        return Err(LabError::NotRoot);
    }
    let places = Places::of(LAB);
    let ran = state::end_run(&places)?;
    Ok(state::remove(&places, Lock::take(&places)?, false)? || ran)
}

/// Everything between set-up and removal. Puts the report where an interruption leaves it.
async fn play(options: RunOptions, mut stage: Stage, report: &mut Option<Report>) -> Result<(), LabError> {
    if let Some(shape) = options.shape {
        return nodes::play(options, shape, stage, report).await;
    }
    let progress = progress();
    let (scene, direct, bridge) = build(&mut stage, &progress).await?;
    let found = examine(&scene, direct, bridge, &progress).await?;
    progress.finish_and_clear();
    let hints = ["pod ls", "flow ls", "monitor", &format!("pod exec {} -- ping -c 3 {OUTSIDE}", PODS[0])]
        .map(|words| format!("netpath --instance {LAB} {words}"));
    show(options, &found, &found.tables(), &hints).doing(|| "writing to standard output".into())?;
    *report = Some(found);
    if options.once {
        return Ok(());
    }
    if options.json {
        return std::future::pending().await;
    }
    live::view(&scene.client).await.doing(|| "writing to standard output".into())
}

/// Shown on standard error, if that is a terminal.
pub(crate) fn progress() -> ProgressBar {
    let progress = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
        progress.set_style(style);
    }
    progress
}

/// The network, the agent and its pods, and the networks to compare with.
async fn build(stage: &mut Stage, progress: &ProgressBar) -> Result<(Scene, Direct, Bridge), LabError> {
    progress.set_length((3 + PODS.len()) as u64);
    let step = |message: &str| {
        progress.set_message(message.to_owned());
        progress.inc(1);
    };
    step("holder");
    stage.start_holder(&["lab", "hold"])?;
    step("network");
    let topology = Arc::new(Topology::build(Spec::default()).await?);
    let direct = Direct::build(&topology.spec).await?;
    let bridge = Bridge::build(Arc::clone(&topology)).await?;
    step("agent");
    let client = stage.start_agent(&topology.node.netns, "").await?;
    let mut pods = Vec::new();
    for name in PODS {
        step(&format!("pod {name}"));
        let wanted = PodAdd { name: name.into(), ..PodAdd::default() };
        let pod = client.pod_add(&wanted).await.doing(|| format!("adding pod {name}"))?;
        pods.push(LabPod::open(pod).doing(|| format!("looking at pod {name}"))?);
    }
    Ok((Scene { topology, pods, client, runtime: Handle::current() }, direct, bridge))
}

/// The matrix, then the benchmark.
async fn examine(
    scene: &Scene,
    direct: Direct,
    bridge: Bridge,
    progress: &ProgressBar,
) -> Result<Report, LabError> {
    progress.reset();
    progress.set_length(checks::count() as u64);
    let (stage, bar) = (scene.clone(), progress.clone());
    let checks = blocking("checking", move || {
        checks::run(&stage, |check| {
            bar.set_message(check.name.clone());
            bar.inc(1);
        })
    });
    let checks = checks.await?;
    progress.reset();
    progress.enable_steady_tick(Duration::from_millis(200));
    let (a, b) = (&scene.pods[0], &scene.pods[1]);
    let open = |pod: &LabPod| Netns::open(pod.pod.netns.as_ref());
    let netpath =
        Netpath::new(open(a)?, open(b)?, b.address, Arc::clone(&scene.topology), scene.client.clone());
    let bar = progress.clone();
    let measured = blocking("measuring", move || {
        let modes: [&dyn Mode; 3] = [&direct, &bridge, &netpath];
        bench::latency(&modes, &[Path::PodPod, Path::PodOutside], &Plan::default(), &bar)
    });
    let measured = measured.await?.doing(|| "measuring".into())?;
    Ok(Report::new(checks, measured))
}

/// Runs something that blocks beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LabError> {
    tokio::task::spawn_blocking(f).await.doing(|| what.to_owned())
}

/// Prints the document, or tables and what to try while the lab is up.
pub(super) fn show(options: RunOptions, report: &Report, tables: &str, hints: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if options.json {
        serde_json::to_writer(&mut out, report)?;
        return writeln!(out);
    }
    writeln!(out, "{tables}")?;
    if options.once && !options.keep {
        return Ok(());
    }
    writeln!(out, "\nLook around from another terminal:\n  {}\n", hints.join("\n  "))?;
    if options.once {
        return Ok(());
    }
    writeln!(
        out,
        "Ctrl-C ends it{}.\n",
        if options.keep { " and leaves the lab up" } else { " and removes everything" }
    )
}
