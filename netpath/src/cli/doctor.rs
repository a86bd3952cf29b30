//! `netpath doctor`.

use std::{path::PathBuf, process::ExitCode};

use nix::unistd::geteuid;

use super::{
    Global,
    failure::Failed,
    output::{Column, table},
    wait,
};
use crate::doctor::{Outcome, Report, Row, Scope, examine};

/// Which agent to look at.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It reads only, with or without a running agent. Exit status: 0 nothing failed, 1 a check failed.

Examples:
  netpath doctor
  netpath doctor -o json | jq '.checks[] | select(.status == \"failed\") | .advice'
  netpath --instance two doctor --config /etc/netpath/two.toml"
)]
pub struct Args {
    /// Configuration that the agent is started with [default: /etc/netpath/netpath.toml; INSTANCE.toml for others]
    #[arg(long, value_name = "FILE", env = "NETPATH_CONFIG")]
    config: Option<PathBuf>,
}

/// Returns 1 if a check failed.
pub(super) fn run(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    if !geteuid().is_root() {
        return Err(Failed {
            what: "examining the node".to_owned(),
            reason: "the kernel tells only root of programs and rules".to_owned(),
            hint: "sudo netpath doctor",
        }
        .into());
    }
    // While there is one thread: it may have to enter the agent's namespace.
    let scope = Scope::new(&global.instance, args.config)?;
    let report = wait(examine(scope))?;
    global.output.show(&report, render)?;
    Ok(ExitCode::from(u8::from(report.failed())))
}

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    for rows in report.checks.chunk_by(|a, b| a.group == b.group) {
        let columns = [Column::Left(""), Column::Left("CHECK"), Column::Left("SEEN")];
        text += &format!("{}\n", rows[0].group.to_uppercase());
        let lines = rows.iter().flat_map(lines);
        // Without the headings, which would come again and again.
        text.extend(table(&columns, lines).lines().skip(1).map(|line| format!("{line}\n")));
        text += "\n";
    }
    text + &report.summary() + "\n"
}

/// A check, and below it what to do.
fn lines(row: &Row) -> Vec<[String; 3]> {
    let status = match row.status {
        Outcome::Ok => "  ok",
        Outcome::Warning => "  WARNING",
        Outcome::Failed => "  FAILED",
        Outcome::NotApplicable => "  n/a",
    };
    let mut lines = vec![[status.to_owned(), row.name.to_owned(), row.seen.replace('\n', " ")]];
    lines.extend(row.advice.iter().map(|advice| [String::new(), String::new(), format!("fix: {advice}")]));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_with_their_checks_and_what_to_do() {
        let row = |name, group, status, seen: &str, advice: Option<&str>| Row {
            name,
            group,
            status,
            seen: seen.into(),
            advice: advice.map(str::to_owned),
        };
        let report = Report {
            checks: vec![
                row("kernel-version", "kernel", Outcome::Ok, "Linux 6.12", None),
                row("mtu", "network", Outcome::Failed, "np1 has 9000", Some("`ip link set eth0 mtu 9000`")),
                row("xdp", "network", Outcome::NotApplicable, "there is no uplink", None),
            ],
        };
        assert_eq!(
            render(&report),
            "KERNEL\n  ok  kernel-version  Linux 6.12\n\n\
             NETWORK\n\
             \x20 FAILED  mtu    np1 has 9000\n\
             \x20                fix: `ip link set eth0 mtu 9000`\n\
             \x20 n/a     xdp    there is no uplink\n\n\
             1 ok, 1 failed, 1 not applicable\n"
        );
    }
}
