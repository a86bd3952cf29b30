//! Kernels of other series: Debian's packages, unpacked and not installed.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::image;
use crate::{
    process::{command, output, run, say},
    setup::{packages, unpack},
};

/// A kernel that is ready to start.
pub(super) struct Kernel {
    /// Its series, such as `6.1`.
    pub(super) series: String,
    /// The Debian package it is from.
    pub(super) package: String,
    /// Everything of it.
    pub(super) dir: PathBuf,
}

impl Kernel {
    pub(super) fn vmlinuz(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    pub(super) fn initramfs(&self) -> PathBuf {
        self.dir.join("initramfs.cpio")
    }

    /// What the guest finds as `/lib/modules/VERSION`.
    pub(super) fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(self.version())
    }

    /// What `uname -r` says in the guest.
    pub(super) fn version(&self) -> &str {
        self.package.trim_start_matches(PREFIX)
    }
}

const PREFIX: &str = "linux-image-";
/// The name of the package, written when all else is there.
const STAMP: &str = "package";

/// The kernel of an earlier run, or the newest of this series that apt has.
///
/// # Errors
/// apt has none, or it cannot be fetched or unpacked.
pub(super) fn ready(dir: &Path, series: &str) -> Result<Kernel> {
    let dir = dir.join(series);
    let stamp = dir.join(STAMP);
    let package = match fs::read_to_string(&stamp) {
        Ok(package) => package,
        Err(_) => {
            let package = newest(series)?;
            say(format!("fetching and unpacking {package}, once: nothing of it is installed"));
            unpack(&dir, &package).with_context(|| format!("getting the kernel {package} ready"))?;
            fs::write(&stamp, &package).with_context(|| format!("writing {}", stamp.display()))?;
            package
        }
    };
    let kernel = Kernel { series: series.to_owned(), package, dir };
    // Every time: our part of it may have changed.
    image::build(&kernel).with_context(|| format!("making an initramfs for {}", kernel.package))?;
    Ok(kernel)
}

/// The newest package of a series that can be downloaded.
fn newest(series: &str) -> Result<String> {
    packages::update().with_context(|| format!("looking for a kernel {series}"))?;
    let names = output(command("apt-cache").args(["pkgnames", &format!("{PREFIX}{series}.")]))?;
    let mut candidates: Vec<_> =
        names.lines().filter_map(|name| Some((release(name, series)?, name))).collect();
    candidates.sort();
    let found = candidates.into_iter().rev().find(|(_, name)| packages::known(name));
    found.map(|(_, name)| name.to_owned()).with_context(|| {
        format!(
            "apt has no package {PREFIX}{series}.*-amd64: name a series that Debian has (6.1 in Debian 12, 6.12 in \
             Debian 13 and the backports to 12), or add the distribution that has it to apt's sources"
        )
    })
}

/// The numbers after the series in a package's name, if it is a kernel of this series in the flavour `amd64`: the one
/// that has 9p. `6.1.0-56` and `6.12.117+deb12` are how Debian counts.
fn release(name: &str, series: &str) -> Option<Vec<u32>> {
    let rest = name.strip_prefix(PREFIX)?.strip_prefix(series)?.strip_prefix('.')?.strip_suffix("-amd64")?;
    let (rest, debian) = rest.split_once("+deb").unwrap_or((rest, "0"));
    debian.parse::<u32>().ok()?;
    rest.split('-').map(|number| number.parse().ok()).collect()
}

/// Downloads a package and keeps of it the kernel and the modules that tests may need.
fn unpack(dir: &Path, package: &str) -> Result<()> {
    // What an interrupted run left.
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    let all = dir.join("all");
    unpack::unpack(package, &all)?;
    let version = package.trim_start_matches(PREFIX);
    fs::rename(all.join(format!("boot/vmlinuz-{version}")), dir.join("vmlinuz")).context("taking vmlinuz")?;
    let from = ["lib/modules", "usr/lib/modules"].map(|place| all.join(place).join(version));
    let from = from.iter().find(|path| path.is_dir()).context("the package has no modules")?;
    let modules = dir.join("lib/modules").join(version);
    fs::create_dir_all(&modules).with_context(|| format!("making {}", modules.display()))?;
    for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(from.join(index), modules.join(index)).with_context(|| format!("copying {index}"))?;
    }
    let mut compressed = Vec::new();
    for wanted in MODULES {
        take(&from.join("kernel").join(wanted), &modules.join("kernel").join(wanted), &mut compressed)?;
    }
    if !compressed.is_empty() {
        run(command("xz").args(["--decompress", "--"]).args(&compressed))?;
    }
    fs::remove_dir_all(&all).with_context(|| format!("removing {}", all.display()))?;
    run(command("busybox").arg("depmod").arg("-b").arg(dir).arg(version))?;
    ensure!(modules.join("modules.dep").is_file(), "depmod made no {}/modules.dep", modules.display());
    Ok(())
}

/// Directories of modules that a container network and its tests may ask the kernel for, and the guest itself.
const MODULES: &[&str] = &[
    "arch/x86/crypto",
    "crypto",
    "drivers/net",
    "drivers/virtio",
    "fs/9p",
    "fs/fscache",
    "fs/fuse",
    "fs/netfs",
    "fs/overlayfs",
    "lib",
    "net",
];
/// Below them: drivers of hardware that QEMU has none of, most of the bytes.
const NOT: &[&str] = &["can", "dsa", "ethernet", "phy", "usb", "wan", "wireless", "bluetooth", "mac80211"];

/// Moves a directory of modules, noting which are compressed.
fn take(from: &Path, to: &Path, compressed: &mut Vec<PathBuf>) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for path in entries(from)? {
        let name = path.file_name().unwrap_or_default();
        let target = to.join(name);
        if path.is_dir() {
            if !NOT.iter().any(|not| name == *not) {
                take(&path, &target, compressed)?;
            }
            continue;
        }
        fs::rename(&path, &target).with_context(|| format!("moving {}", path.display()))?;
        if target.extension() == Some(OsStr::new("xz")) {
            compressed.push(target);
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_by_name() {
        assert_eq!(release("linux-image-6.1.0-56-amd64", "6.1"), Some(vec![0, 56]));
        assert_eq!(release("linux-image-6.12.117+deb12-amd64", "6.12"), Some(vec![117]));
        assert!(
            release("linux-image-6.12.117+deb12-amd64", "6.12") > release("linux-image-6.12.9-amd64", "6.12")
        );
        for other in ["6.1.0-56-cloud-amd64", "6.1.0-56-amd64-dbg", "6.12.9-amd64", "6.1-amd64"] {
            assert_eq!(release(&format!("linux-image-{other}"), "6.1"), None, "{other}");
        }
        assert_eq!(release("linux-image-6.12.117+deb12-rt-amd64", "6.12"), None);
    }
}
