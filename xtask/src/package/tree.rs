//! The files of a package, as they will lie on a machine.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::process::{command, output, run};

/// A directory that becomes a package.
pub(super) struct Tree(PathBuf);

impl Tree {
    /// An empty one, whatever was there before.
    pub(super) fn new(root: PathBuf) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        }
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        // Whatever the umask: these are the directories of the machine.
        fs::set_permissions(&root, Permissions::from_mode(0o755))?;
        Ok(Self(root))
    }

    /// Its directory.
    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    /// Writes a file.
    pub(super) fn write(&self, place: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.make_room(place)?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(mode))?)
    }

    /// Copies a file.
    pub(super) fn copy(&self, from: &Path, place: &str, mode: u32) -> Result<()> {
        let path = self.make_room(place)?;
        fs::copy(from, &path).with_context(|| format!("copying {}", from.display()))?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(mode))?)
    }

    fn make_room(&self, place: &str) -> Result<PathBuf> {
        let path = self.0.join(place);
        let parent = path.parent().context("a place has a directory")?;
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        Ok(path)
    }

    /// Compresses files and those in directories, the same way each time.
    pub(super) fn compress(&self, places: &[&str]) -> Result<()> {
        let places = places.iter().map(|place| self.0.join(place));
        run(command("gzip").args(["--best", "--no-name", "--recursive"]).args(places))
    }

    /// Sums of all files, as `md5sums` has them.
    pub(super) fn sums(&self) -> Result<String> {
        let mut sum = command("md5sum");
        sum.current_dir(&self.0)
            .args(files(&self.0, "")?.into_iter().filter(|path| !path.starts_with("DEBIAN/")));
        Ok(output(&mut sum)? + "\n")
    }

    /// Room it takes when installed, KiB.
    pub(super) fn kibibytes(&self) -> Result<u64> {
        let sizes = files(&self.0, "")?
            .into_iter()
            .map(|path| Ok(self.0.join(path).metadata()?.size().div_ceil(1024)));
        sizes.sum()
    }
}

/// All files below a directory, by their paths from it, sorted.
fn files(root: &Path, below: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(below)).with_context(|| format!("listing {below}"))? {
        let entry = entry?;
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            found.extend(files(root, &format!("{path}/"))?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path().join("a")).unwrap();
        tree.write("usr/share/x", "1\n", 0o644).unwrap();
        tree.write("DEBIAN/control", "2\n", 0o644).unwrap();
        tree.copy(&tree.root().join("usr/share/x"), "usr/bin/y", 0o755).unwrap();
        tree.compress(&["usr/share"]).unwrap();
        let sums = tree.sums().unwrap();
        let names: Vec<_> = sums.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        assert_eq!(names, ["usr/bin/y", "usr/share/x.gz"]);
        assert!(
            sums.starts_with("b026324c6904b2a9cb4b88d6d61c81d1  "),
            "the sum of 1 and a line's end: {sums}"
        );
        assert_eq!(tree.kibibytes().unwrap(), 3);
        assert!(
            Tree::new(dir.path().join("a")).unwrap().kibibytes().unwrap() == 0,
            "nothing of before is left"
        );
    }
}
