//! `netpath completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, output::print};

/// A completion script.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netpath completions bash > /etc/bash_completion.d/netpath
  netpath completions zsh > /usr/local/share/zsh/site-functions/_netpath
  netpath completions fish > ~/.config/fish/completions/netpath.fish")]
pub struct Args {
    /// For which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    print(&script(args.shell))
}

pub(super) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "netpath", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
