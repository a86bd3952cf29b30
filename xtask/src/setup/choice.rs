//! What the eBPF programs are built with, written down for netpath/build.rs and for the next time.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{linker, toolchain::Toolchain};
use crate::{
    process::{output, rustup_run, say},
    workspace,
};

/// Toolchain and linker of the eBPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// What `rustup run` takes.
    pub(crate) toolchain: String,
    /// Whether it has to be told to accept unstable options (`RUSTC_BOOTSTRAP`).
    pub(crate) bootstrap: bool,
    /// Path of bpf-linker.
    pub(crate) linker: PathBuf,
    /// First line of `rustc -vV`: a compiler that was upgraded may want another linker.
    rustc: String,
    /// The library's source, which can be removed by itself.
    library: PathBuf,
}

impl Choice {
    /// The choice of an earlier run, if all of it is still there.
    pub(crate) fn recorded() -> Option<Self> {
        let choice = Self::parse(&fs::read_to_string(path()).ok()?)?;
        let version = output(rustup_run(&choice.toolchain, "rustc").arg("-vV")).ok()?;
        let same = version.lines().next() == Some(&choice.rustc);
        (same && choice.library.is_dir() && linker::has_version(&choice.linker)).then_some(choice)
    }

    /// Writes a choice down.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn record(toolchain: &Toolchain, linker: &Path) -> Result<Self> {
        let choice = Self {
            toolchain: toolchain.name.clone(),
            bootstrap: !toolchain.nightly,
            linker: linker.to_owned(),
            rustc: toolchain.version.clone(),
            library: toolchain.library.clone(),
        };
        let path = path();
        fs::create_dir_all(workspace::state()).context("making target/xtask")?;
        // The build script runs again when this file changes: leave it alone if it says the same.
        let text = choice.render();
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        say(format!("eBPF programs are built with {} and {}", choice.rustc, linker.display()));
        Ok(choice)
    }

    fn render(&self) -> String {
        format!(
            "# Written by `cargo xtask setup`, read by netpath/build.rs.\n\
             NETPATH_EBPF_TOOLCHAIN={}\nNETPATH_EBPF_BOOTSTRAP={}\nNETPATH_BPF_LINKER={}\nRUSTC={}\nLIBRARY={}\n",
            self.toolchain,
            if self.bootstrap { "1" } else { "" },
            self.linker.display(),
            self.rustc,
            self.library.display(),
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let get = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            toolchain: get("NETPATH_EBPF_TOOLCHAIN")?.to_owned(),
            bootstrap: get("NETPATH_EBPF_BOOTSTRAP")? == "1",
            linker: get("NETPATH_BPF_LINKER")?.into(),
            rustc: get("RUSTC")?.to_owned(),
            library: get("LIBRARY")?.into(),
        })
    }
}

fn path() -> PathBuf {
    workspace::state().join("toolchain.env")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let choice = Choice {
            toolchain: "/usr".into(),
            bootstrap: true,
            linker: "/a b/bpf-linker".into(),
            rustc: "rustc 1.96.0 (x=y)".into(),
            library: "/usr/lib".into(),
        };
        assert_eq!(Choice::parse(&choice.render()), Some(choice.clone()));
        let nightly = Choice { bootstrap: false, ..choice };
        assert_eq!(Choice::parse(&nightly.render()), Some(nightly));
        assert_eq!(Choice::parse("NETPATH_EBPF_TOOLCHAIN=nightly\n"), None);
    }
}
