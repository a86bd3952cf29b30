//! The files that the checks read, and what a check says.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use proc_macro2::TokenStream;

/// One Rust file.
pub(crate) struct Source {
    /// Relative to the checkout.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: TokenStream,
}

impl Source {
    /// # Errors
    /// It is not Rust.
    pub(crate) fn parse(path: impl Into<String>, text: impl Into<String>) -> Result<Self> {
        let (path, text) = (path.into(), text.into());
        let tokens = text.parse().map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        Ok(Self { path, text, tokens })
    }
}

/// What a check found.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Every file of the workspace's packages with one of these extensions, and the CI script, as path and text.
///
/// # Errors
/// A directory or file cannot be read.
pub(crate) fn files(root: &Path, extensions: &[&str]) -> Result<Vec<(String, String)>> {
    let mut paths = vec![root.join("Cargo.toml"), root.join(".ci/run")];
    for entry in entries(root)? {
        if entry.join("Cargo.toml").is_file() {
            walk(&entry, &mut paths)?;
        }
    }
    paths.retain(|path| path.is_file());
    paths.retain(|path| path.extension().is_none_or(|have| extensions.iter().any(|want| have == *want)));
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok((path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned(), text))
    };
    paths.into_iter().map(read).collect()
}

fn walk(dir: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in entries(dir)? {
        if !entry.is_dir() {
            paths.push(entry);
        } else if entry.file_name().is_some_and(|name| name != "target") {
            walk(&entry, paths)?;
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    read().with_context(|| format!("listing {}", dir.display()))
}

/// Findings of one check on one sample, as text, for the checks' tests.
#[cfg(test)]
pub(crate) fn shown(check: impl Fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<String> {
    check(&Source::parse(path, text).unwrap()).iter().map(ToString::to_string).collect()
}
