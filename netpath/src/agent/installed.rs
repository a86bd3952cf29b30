//! What `netpath cni install` wrote on this machine, so that it can be removed (invariant 5).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{AgentError, uninstall::absent};
use crate::{config::Paths, store::private_dir};

/// Files, and directories made for them, each below the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Files, by path.
    pub files: BTreeSet<PathBuf>,
    /// Directories that were not there before.
    pub directories: BTreeSet<PathBuf>,
    /// What was written to those files that people may change, by path.
    #[serde(default)]
    pub texts: BTreeMap<PathBuf, String>,
}

impl Installed {
    /// What an instance has written so far.
    ///
    /// # Errors
    /// If the list cannot be read.
    pub fn load(paths: &Paths) -> Result<Self, AgentError> {
        let path = paths.installed();
        let doing = || format!("reading {}", path.display());
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(AgentError::io(doing())(error)),
            Ok(text) => serde_json::from_slice(&text).map_err(|error| AgentError::io(doing())(error.into())),
        }
    }

    /// Writes a file as a whole or not at all, with the directories above it, having noted it before.
    ///
    /// # Errors
    /// The step that failed; trying again goes on from there.
    pub fn write(
        &mut self,
        paths: &Paths,
        file: &Path,
        contents: &[u8],
        mode: u32,
    ) -> Result<(), AgentError> {
        let dir = file.parent().unwrap_or(Path::new("/"));
        self.directories.extend(dir.ancestors().filter(|dir| !dir.exists()).map(Path::to_owned));
        self.files.insert(file.to_owned());
        private_dir(&paths.state_dir)?;
        let list =
            serde_json::to_vec_pretty(self).map_err(|error| AgentError::io("noting files")(error.into()))?;
        replace(&paths.installed(), &list, 0o600)?;
        fs::create_dir_all(dir).map_err(AgentError::io(format!("making {}", dir.display())))?;
        replace(file, contents, mode)
    }

    /// Writes a file that people may change, unless somebody has: then it stays, but by `force`. Returns whether it was written.
    ///
    /// # Errors
    /// The step that failed; trying again goes on from there.
    pub fn renew(&mut self, paths: &Paths, file: &Path, text: &str, force: bool) -> Result<bool, AgentError> {
        // What cannot be read is told when it is written.
        let there = fs::read_to_string(file).ok();
        let is_known = |there: &String| there == text || self.texts.get(file) == Some(there);
        if !force && there.is_some_and(|there| !is_known(&there)) {
            return Ok(false);
        }
        self.texts.insert(file.to_owned(), text.to_owned());
        self.write(paths, file, text.as_bytes(), 0o644)?;
        Ok(true)
    }
}

/// Removes what an instance wrote, but for what another instance of this machine wrote as well. Returns which files.
///
/// # Errors
/// What could not be removed; the list stays then.
pub fn remove_installed(paths: &Paths) -> Result<Vec<PathBuf>, AgentError> {
    let own = Installed::load(paths)?;
    let kept = of_others(paths);
    let mut removed = Vec::new();
    for file in own.files.iter().filter(|file| !kept.contains(*file)) {
        let there = file.symlink_metadata().is_ok();
        absent(fs::remove_file(file)).map_err(AgentError::io(format!("removing {}", file.display())))?;
        removed.extend(there.then(|| file.clone()));
    }
    for dir in own.directories.iter().rev() {
        // Somebody else has put something there, or has removed it: both are as they should be.
        let _ = fs::remove_dir(dir);
    }
    let list = paths.installed();
    absent(fs::remove_file(&list)).map_err(AgentError::io(format!("removing {}", list.display())))?;
    Ok(removed)
}

/// Files that other instances wrote, whose state is beside this one's.
fn of_others(paths: &Paths) -> BTreeSet<PathBuf> {
    let Some(all) = paths.state_dir.parent() else { return BTreeSet::new() };
    let states = fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path());
    let lists = states.filter(|dir| *dir != paths.state_dir).filter_map(|dir| {
        let other = Paths { state_dir: dir, ..paths.clone() };
        Installed::load(&other).ok()
    });
    lists.flat_map(|list| list.files).collect()
}

/// Puts a file in another's place, or there, in one step: somebody may be reading or running it.
fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<(), AgentError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // No engine reads a name that begins with a dot, or ends like this.
    name.push(".netpath-new");
    let new = path.with_file_name(name);
    let write = || {
        absent(fs::remove_file(&new))?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(contents)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, path)
    };
    let written = write();
    if written.is_err() {
        // What matters is why it failed.
        let _ = fs::remove_file(&new);
    }
    written.map_err(AgentError::io(format!("writing {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_changed_stays() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let paths =
            Paths { run_dir: at("run"), state_dir: at("lib"), pin_dir: "/".into(), netns_dir: "/".into() };
        let list = at("10-x.conflist");
        let renew =
            |text: &str, force| Installed::load(&paths).unwrap().renew(&paths, &list, text, force).unwrap();
        let there = || fs::read_to_string(&list).unwrap();
        assert!(renew("first", false) && renew("first", false));
        assert!(renew("of a later build", false), "nobody has changed it");
        fs::write(&list, "by hand").unwrap();
        assert!(!renew("of a later build", false) && !renew("of the next", false));
        assert_eq!(there(), "by hand");
        assert!(renew("of the next", true));
        assert_eq!(there(), "of the next");
        // An earlier build has not noted what it wrote.
        let mut earlier = Installed::load(&paths).unwrap();
        earlier.texts.clear();
        assert!(!earlier.renew(&paths, &list, "another", false).unwrap(), "it may be somebody's");
        assert!(earlier.renew(&paths, &list, "of the next", false).unwrap(), "it is what it should be");
        remove_installed(&paths).unwrap();
        assert!(!list.exists());
    }

    #[test]
    fn what_was_written_goes_again_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let paths = |name: &str| Paths {
            run_dir: root.path().join("run"),
            state_dir: root.path().join("lib").join(name),
            pin_dir: "/".into(),
            netns_dir: "/".into(),
        };
        let (one, two) = (paths("one"), paths("two"));
        let (binary, conflist) =
            (root.path().join("opt/cni/bin/plugin"), root.path().join("etc/10-x.conflist"));
        fs::create_dir(root.path().join("etc")).unwrap();
        for instance in [&one, &one, &two] {
            let mut list = Installed::load(instance).unwrap();
            list.write(instance, &binary, b"program", 0o755).unwrap();
        }
        let mut list = Installed::load(&one).unwrap();
        list.write(&one, &conflist, b"{}", 0o644).unwrap();
        assert_eq!(list.files.len(), 2);
        assert_eq!(
            remove_installed(&one).unwrap(),
            std::slice::from_ref(&conflist),
            "the other instance has the plugin too"
        );
        assert!(binary.exists() && root.path().join("etc").exists());
        assert_eq!(remove_installed(&one).unwrap(), [""; 0].map(PathBuf::from));
        assert_eq!(remove_installed(&two).unwrap(), [binary]);
        assert!(root.path().join("opt/cni/bin").exists(), "it was there before the second instance");
        fs::remove_dir_all(root.path().join("opt")).unwrap();
        list = Installed::default();
        list.write(&one, &root.path().join("opt/cni/bin/plugin"), b"program", 0o755).unwrap();
        remove_installed(&one).unwrap();
        assert!(!root.path().join("opt").exists(), "directories that were made go as well");
    }
}
