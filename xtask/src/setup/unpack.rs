//! Debian packages that are unpacked somewhere and not installed: no service of theirs starts, and nothing has to make room.

use std::{ffi::OsStr, fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::packages::update;
use crate::process::{command, run, say};

/// Downloads and unpacks a package into a directory with all that it needs and that is not installed. What is installed stays
/// as it is, even if it could not be beside those.
///
/// # Errors
/// As [`unpack`].
pub(crate) fn unpack_all(package: &str, dir: &Path) -> Result<()> {
    update()?;
    let mut simulated = command("apt-get");
    simulated.args(["-s", "install", "-y", "--no-install-recommends", package]);
    let said = simulated.output().with_context(|| format!("asking apt-get what {package} needs"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let needed = said.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    let needed: Vec<_> = needed.collect();
    ensure!(needed.contains(&package), "apt-get would not install {package}; it says:\n{said}");
    say(format!("fetching and unpacking {package} and what it needs, once; nothing of it is installed"));
    needed.into_iter().try_for_each(|one| unpack(one, dir))
}

/// Downloads a package and unpacks it into a directory: nothing of it is installed, and no service of it starts.
///
/// # Errors
/// No network, or the directory cannot be written.
pub(crate) fn unpack(package: &str, dir: &Path) -> Result<()> {
    unpack_with(&[], package, dir)
}

/// The same from another archive, which these options of apt say.
///
/// # Errors
/// As [`unpack`].
pub(crate) fn unpack_with(options: &[String], package: &str, dir: &Path) -> Result<()> {
    let download = dir.join("download");
    fs::create_dir_all(&download).with_context(|| format!("making {}", download.display()))?;
    // apt's own user may not see this directory; what it fetches is checked against a signed list either way.
    let sandbox = "-o=APT::Sandbox::User=root";
    run(command("apt-get").args(options).args(["-qq", sandbox, "download", package]).current_dir(&download))?;
    let files = fs::read_dir(&download).with_context(|| format!("reading {}", download.display()))?;
    let deb =
        files.flatten().map(|file| file.path()).find(|path| path.extension() == Some(OsStr::new("deb")));
    let deb = deb.with_context(|| format!("apt-get downloaded no .deb into {}", download.display()))?;
    run(command("dpkg-deb").arg("--extract").arg(&deb).arg(dir))?;
    fs::remove_dir_all(&download).with_context(|| format!("removing {}", download.display()))
}
