//! `netpath man`.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, output::print};

/// Man pages, made from what `--help` says.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  netpath man | man -l -
  netpath man --dir /usr/local/share/man/man1")]
pub struct Args {
    /// Write netpath.1 and a page for every subcommand into this directory, made if it is missing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page).context("making the man page")?;
        return print(&String::from_utf8_lossy(&page));
    };
    let writing = || format!("writing man pages to {}", dir.display());
    fs::create_dir_all(dir).with_context(writing)?;
    clap_mangen::generate_to(Cli::command(), dir).with_context(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("man1");
        run(&Args { dir: Some(pages.clone()) }).unwrap();
        for page in ["netpath.1", "netpath-pod.1", "netpath-pod-add.1", "netpath-lab-run.1"] {
            let text = fs::read_to_string(pages.join(page)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        let add = fs::read_to_string(pages.join("netpath-pod-add.1")).unwrap();
        assert!(add.contains("instance"), "global options are on every page");
    }
}
