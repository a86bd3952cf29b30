//! `lab run`, from nothing to tables to nothing again.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal as Number};
use tokio::{
    runtime::{Builder, Handle},
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    checks::{self, LabPod, Scene},
    error::{Doing, LabError},
    live,
    process::Process,
    report::Report,
    session,
    state::{self, INSTANCE, Lock, Places, State},
    topology::{Spec, Topology},
};
use crate::{
    api::types::PodAdd,
    bench::{
        self, Mode, Plan,
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

/// Why the work stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// `--once`.
    Done,
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM (`lab down`) or SIGHUP: remove everything, whatever was asked for.
    Terminated,
}

/// Builds the lab, checks it, measures it, shows it until Ctrl-C (unless `once`), and removes it (unless `keep`). What a
/// crashed or kept lab left is removed first. Prints on standard output; progress on standard error if that is a
/// terminal. Must be called while the process has one thread.
///
/// # Errors
/// [`LabError::NotRoot`], [`LabError::Busy`], or the step that failed; everything is removed then, too.
pub fn run(options: RunOptions) -> Result<Outcome, LabError> {
    if !session::is_root() {
        return Err(LabError::NotRoot);
    }
    let deferred = Deferred::new()?;
    let places = Places::default();
    let lock = Lock::take(&places)?;
    state::sweep(&places)?;
    let mut state = State::new(Process::current().doing(|| "looking up this process".into())?);
    let ended = state.save(&places).and_then(|()| stage(options, &mut state, &places, deferred));
    let kept = options.keep
        && matches!(&ended, Ok((Stop::Done, _)) | Ok((Stop::Interrupted, Outcome { report: Some(_) })));
    if kept {
        eprintln!("The lab stays up: remove it with 'netpath lab down'.");
    } else {
        session::uncover();
        let removed = state::remove(&places, lock);
        // Why the run failed is the news; what could not be removed then is the next run's.
        if ended.is_ok() {
            removed?;
        }
    }
    ended.map(|(_, outcome)| outcome)
}

/// Removes a lab, whether it runs, was kept or has crashed. Returns whether there was one.
///
/// # Errors
/// [`LabError::NotRoot`], or what could not be removed.
pub fn down() -> Result<bool, LabError> {
    if !session::is_root() {
        return Err(LabError::NotRoot);
    }
    let places = Places::default();
    let ran = state::end_run(&places)?;
    Ok(state::remove(&places, Lock::take(&places)?)? || ran)
}

/// From the private mount namespace on. The runtime starts after it, so that its threads are in it.
fn stage(
    options: RunOptions,
    state: &mut State,
    places: &Places,
    deferred: Deferred,
) -> Result<(Stop, Outcome), LabError> {
    session::isolate(state, places)?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.doing(|| "starting the runtime".into())?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen().doing(|| "listening for signals".into())?;
        drop(deferred);
        let mut report = None;
        let stop = tokio::select! {
            done = play(options, state, places, &mut report) => done.map(|()| Stop::Done),
            stop = signals.next() => Ok(stop),
        };
        stop.map(|stop| (stop, Outcome { report }))
    });
    // Threads that still measure must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// Keeps SIGINT, SIGTERM and SIGHUP waiting while this exists, so that none of them ends the process between its first
/// trace on the machine and the moment it listens. Children do not inherit it: `Command` clears the mask.
struct Deferred(SigSet);

impl Deferred {
    fn new() -> Result<Self, LabError> {
        let set = SigSet::from_iter([Number::SIGINT, Number::SIGTERM, Number::SIGHUP]);
        set.thread_block().doing(|| "blocking signals".into())?;
        Ok(Self(set))
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        // Fails for an unknown operation only.
        let _ = self.0.thread_unblock();
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupted,
            _ = self.terminate.recv() => Stop::Terminated,
            _ = self.hang_up.recv() => Stop::Terminated,
        }
    }
}

/// Everything between set-up and removal. Puts the report where an interruption leaves it.
async fn play(
    options: RunOptions,
    state: &mut State,
    places: &Places,
    report: &mut Option<Report>,
) -> Result<(), LabError> {
    let progress = progress();
    let (scene, direct, bridge) = build(state, places, &progress).await?;
    let found = examine(&scene, direct, bridge, &progress).await?;
    progress.finish_and_clear();
    print(options, &found).doing(|| "writing to standard output".into())?;
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
fn progress() -> ProgressBar {
    let progress = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
        progress.set_style(style);
    }
    progress
}

/// The network, the agent and its pods, and the networks to compare with.
async fn build(
    state: &mut State,
    places: &Places,
    progress: &ProgressBar,
) -> Result<(Scene, Direct, Bridge), LabError> {
    progress.set_length((3 + PODS.len()) as u64);
    let step = |message: &str| {
        progress.set_message(message.to_owned());
        progress.inc(1);
    };
    step("holder");
    session::start_holder(state, places)?;
    step("network");
    let topology = Arc::new(Topology::build(Spec::default()).await?);
    let direct = Direct::build(&topology.spec).await?;
    let bridge = Bridge::build(Arc::clone(&topology)).await?;
    step("agent");
    let client = session::start_agent(&topology.node.netns, state, places).await?;
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
    let netpath = Netpath::new(open(a)?, open(b)?, b.address, Arc::clone(&scene.topology));
    let bar = progress.clone();
    let measured = blocking("measuring", move || {
        let modes: [&dyn Mode; 3] = [&direct, &bridge, &netpath];
        bench::run(&modes, &Plan::default(), &bar)
    });
    let measured = measured.await?.doing(|| "measuring".into())?;
    Ok(Report::new(checks, measured))
}

/// Runs something that blocks beside the runtime.
async fn blocking<T: Send + 'static>(
    what: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LabError> {
    tokio::task::spawn_blocking(f).await.doing(|| what.to_owned())
}

fn print(options: RunOptions, report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if options.json {
        serde_json::to_writer(&mut out, report)?;
        return writeln!(out);
    }
    writeln!(out, "{}", report.tables())?;
    if options.once && !options.keep {
        return Ok(());
    }
    writeln!(
        out,
        "\nLook around from another terminal:\n\
         \x20 netpath --instance {INSTANCE} pod ls\n\
         \x20 netpath --instance {INSTANCE} flow ls\n\
         \x20 netpath --instance {INSTANCE} monitor\n\
         \x20 netpath --instance {INSTANCE} pod exec {} -- ping -c 3 {}\n",
        PODS[0],
        super::topology::OUTSIDE
    )?;
    if options.once {
        return Ok(());
    }
    writeln!(
        out,
        "Ctrl-C ends it{}.\n",
        if options.keep { " and leaves the lab up" } else { " and removes everything" }
    )
}
