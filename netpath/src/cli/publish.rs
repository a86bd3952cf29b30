//! `netpath publish`.

use clap::Subcommand;

use super::{
    Global,
    output::{Column, table},
    wait,
};
use crate::api::types::Published;

/// Published ports: ports of the node that lead to pods.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List what is published, with the connections that go by it
    ///
    /// 'netpath pod add NAME --publish 8080:80' publishes a port, 'netpath pod set' does so for a pod that runs.
    #[command(after_help = "Examples:
  netpath publish ls
  netpath publish ls -o json | jq -r '.[] | select(.pod == \"web\") | .port'")]
    Ls,
}

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Ls => global.output.show(&wait(global.client().published())?[..], render),
    }
}

pub(super) fn render(published: &[Published]) -> String {
    let columns = [
        Column::Left("ADDRESS"),
        Column::Right("PORT"),
        Column::Left("PROTOCOL"),
        Column::Left("POD"),
        Column::Right("POD PORT"),
        Column::Right("CONNECTIONS"),
    ];
    let range = |first: u16, count: u16| match count {
        1 => first.to_string(),
        _ => format!("{first}-{}", first + (count - 1)),
    };
    let row = |one: &Published| {
        [
            one.address.clone(),
            range(one.port, one.ports),
            one.protocol.clone(),
            one.pod.clone(),
            range(one.pod_port, one.ports),
            one.connections.to_string(),
        ]
    };
    table(&columns, published.iter().map(row))
}
