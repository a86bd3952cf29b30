//! `netpath network`.

use clap::Subcommand;

use super::{
    Global,
    output::{Column, table},
    units::list,
    wait,
};
use crate::api::types::Network;

/// Networks: sets of pods with subnets and rules.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List networks: subnets, translation, who may connect to their pods
    #[command(after_help = "Examples:
  netpath network ls
  netpath network ls -o json | jq -r '.[].subnets[]'")]
    Ls,
}

pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Ls => global.output.show(&wait(global.client().networks())?[..], render),
    }
}

pub(super) fn render(networks: &[Network]) -> String {
    let columns = [
        Column::Left("NAME"),
        Column::Left("SUBNETS"),
        Column::Left("MASQUERADE"),
        Column::Left("INBOUND"),
        Column::Right("MTU"),
        Column::Right("PODS"),
    ];
    let rows = networks.iter().map(|network| {
        [
            network.name.clone(),
            list(&network.subnets),
            if network.masquerade { "yes" } else { "no" }.to_owned(),
            network.inbound.clone(),
            network.mtu.to_string(),
            network.pods.to_string(),
        ]
    });
    table(&columns, rows)
}
