//! `netpath bench`.

use std::{
    fs,
    io::Write,
    path::{Path as FilePath, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Subcommand, builder::PossibleValuesParser};

use super::{
    Global,
    output::{Format, print},
};
use crate::{
    bench::{self, Document, INSTANCE, MOST_ROUNDS, Options, Path, Workload, modes},
    lab,
};

/// What to measure, and what with.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  netpath bench --quick                              everything, in a minute
  netpath bench --report bench.html -o json > a.json  figures to cite, with plots
  netpath bench --modes bridge,netpath --workloads rr,crr --paths pod-outside
  netpath bench compare a.json b.json                two machines, kernels or versions
  netpath bench summary a.json                       budgets and medians, as Markdown"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Less of everything, in a minute: to look at, not to cite
    #[arg(long)]
    quick: bool,
    /// Turns each case gets: 11, or 6 with --quick; less than 6 tell little
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_ROUNDS as i64))]
    rounds: Option<u16>,
    /// What to measure; `direct` and `bridge` are what ratios are to
    #[arg(long, value_name = "MODES", value_delimiter = ',', value_parser = PossibleValuesParser::new(modes::names()))]
    modes: Vec<String>,
    /// What to do there
    #[arg(long, value_name = "WORKLOADS", value_delimiter = ',', value_parser = PossibleValuesParser::new(Workload::ALL.iter().map(|one| one.name())))]
    workloads: Vec<String>,
    /// From where to where
    #[arg(long, value_name = "PATHS", value_delimiter = ',', value_parser = PossibleValuesParser::new(Path::ALL.iter().map(|one| one.name())))]
    paths: Vec<String>,
    /// Write a page with plots as well, one file that needs nothing else
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what differs between two runs, each as `-o json` has printed it
    Compare {
        /// The first run
        #[arg(value_name = "A.json")]
        a: PathBuf,
        /// The second
        #[arg(value_name = "B.json")]
        b: PathBuf,
    },
    /// Print a run's budgets and medians as Markdown, for a page of documentation
    Summary {
        /// The run, as `-o json` has printed it
        #[arg(value_name = "A.json")]
        run: PathBuf,
    },
    /// Keep a benchmark's namespaces, and remove them when it has died; started by `bench`
    #[command(hide = true)]
    Hold,
}

/// Must be called while the process has one thread; see [`bench::run`].
pub(super) fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Some(Command::Compare { a, b }) => {
            let comparison = bench::compare(&read(a)?, &read(b)?);
            global.output.show(&comparison, bench::comparison)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Summary { run }) => {
            print(&bench::summary(&read(run)?))?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Hold) => {
            lab::reap(INSTANCE)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    // Opened first: a minute or ten are too long to learn that it cannot be written.
    let report = args.report.as_deref().map(open).transpose()?;
    let document = bench::run(&args.options())?;
    match global.output {
        Format::Json => global.output.show(&document, |_| String::new())?,
        Format::Table => print(&bench::tables(&document))?,
    }
    if let Some((mut file, path)) = report {
        let page = bench::html(&document)?;
        file.write_all(page.as_bytes()).with_context(|| format!("writing the report {}", path.display()))?;
        eprintln!("The report is in {}.", path.display());
    }
    Ok(if document.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    fn options(&self) -> Options {
        fn chosen<T: Copy>(names: &[String], all: &[T], of: fn(&str) -> Option<T>) -> Vec<T> {
            if names.is_empty() { all.to_vec() } else { names.iter().filter_map(|name| of(name)).collect() }
        }
        let all_modes = || modes::names().map(str::to_owned).collect();
        Options {
            quick: self.quick,
            rounds: self.rounds.map(usize::from),
            named: !self.modes.is_empty(),
            modes: if self.modes.is_empty() { all_modes() } else { self.modes.clone() },
            workloads: chosen(&self.workloads, Workload::ALL, Workload::of),
            paths: chosen(&self.paths, Path::ALL, Path::of),
        }
    }
}

fn open(path: &FilePath) -> anyhow::Result<(fs::File, &FilePath)> {
    let file = fs::File::create(path).with_context(|| format!("making the report {}", path.display()))?;
    Ok((file, path))
}

fn read(path: &FilePath) -> anyhow::Result<Document> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("reading {} as what `netpath bench -o json` prints", path.display()))
}
