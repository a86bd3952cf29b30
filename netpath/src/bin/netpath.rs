//! The `netpath` command: parses, logs to stderr, and turns errors into exit statuses.

use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use netpath::cli::{self, Cli, Report};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match EnvFilter::try_new(cli.log_filter(env::var("NETPATH_LOG").ok())) {
        Ok(filter) => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .init(),
        Err(error) => {
            Cli::command().error(ErrorKind::ValueValidation, format!("NETPATH_LOG: {error}")).exit()
        }
    }
    cli::run(cli).unwrap_or_else(|error| {
        let report = Report::of(&error);
        eprint!("{report}");
        ExitCode::from(report.status)
    })
}
