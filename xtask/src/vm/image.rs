//! The initramfs: busybox, our init, and the modules it takes to see the host's root.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use super::kernel::Kernel;
use crate::process::{command, output};

/// PID 1 of the guest.
const INIT: &str = include_str!("init.sh");
/// What init.sh loads before it sees the host's files.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// Builds it; not compressed, which costs an emulated machine more than reading it.
///
/// # Errors
/// A file is missing, or busybox is not static.
pub(super) fn build(kernel: &Kernel) -> Result<()> {
    let root = kernel.dir.join("initramfs");
    let mut files = BTreeSet::new();
    let mut add = |name: &str, from: &Path| -> Result<()> {
        let to = root.join(name);
        let parent = to.parent().context("no parent")?;
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        fs::copy(from, &to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        files.extend(Path::new(name).ancestors().map(Path::to_owned));
        Ok(())
    };
    add("bin/busybox", &busybox()?)?;
    let place = format!("lib/modules/{}", kernel.version());
    let modules = kernel.modules();
    let index = fs::read_to_string(modules.join("modules.dep")).context("reading modules.dep")?;
    let builtin = fs::read_to_string(modules.join("modules.builtin")).context("reading modules.builtin")?;
    let builtin: Vec<_> = builtin.lines().map(stem).collect();
    let needed: Vec<_> = MODULES.into_iter().filter(|name| !builtin.iter().any(|own| own == name)).collect();
    let needed = closure(&index, &needed)?;
    let names = ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin"];
    let names = names.into_iter().filter(|name| modules.join(name).is_file());
    for name in names.chain(needed.iter().map(String::as_str)) {
        add(&format!("{place}/{name}"), &modules.join(name))?;
    }
    let init = root.join("init");
    fs::write(&init, INIT).context("writing init")?;
    fs::set_permissions(&init, PermissionsExt::from_mode(0o755)).context("making init executable")?;
    files.insert("init".into());
    archive(&root, &files, &kernel.initramfs())?;
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))
}

/// A busybox that runs where there is no libc.
fn busybox() -> Result<PathBuf> {
    let path = which::which("busybox").context("looking for busybox")?;
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let loader = b"/ld-linux";
    ensure!(
        !bytes.windows(loader.len()).take(4096).any(|window| window == loader),
        "{} is linked to libc, which an initramfs has not: install Debian's busybox-static instead",
        path.display()
    );
    Ok(path)
}

/// A module's name, from the path of its file.
fn stem(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// Paths of these modules and of all they need, from modules.dep: `path: needed path...` a line.
fn closure(index: &str, modules: &[&str]) -> Result<BTreeSet<String>> {
    let lines: HashMap<_, _> = index.lines().filter_map(|line| line.split_once(':')).collect();
    let mut found = BTreeSet::new();
    let mut queue = Vec::new();
    for module in modules {
        let path = lines.keys().find(|path| stem(path) == *module);
        queue.push(*path.with_context(|| format!("the kernel has no module {module}"))?);
    }
    while let Some(path) = queue.pop() {
        if found.insert(path.to_owned()) {
            queue.extend(lines.get(path).into_iter().flat_map(|needed| needed.split_whitespace()));
        }
    }
    Ok(found)
}

/// Packs files, parents before what is in them, in the form the kernel unpacks.
fn archive(root: &Path, files: &BTreeSet<PathBuf>, to: &Path) -> Result<()> {
    let list = root.join("list");
    let lines: Vec<_> =
        files.iter().filter_map(|path| path.to_str()).filter(|path| !path.is_empty()).collect();
    fs::write(&list, lines.join("\n")).context("writing the list of files")?;
    let mut cpio = command("busybox");
    cpio.args(["cpio", "--quiet", "-o", "-H", "newc", "-F"]).arg(to).current_dir(root);
    cpio.stdin(Stdio::from(File::open(&list).context("opening the list of files")?));
    output(&mut cpio).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_with_what_they_need() {
        let index = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko\nkernel/net/9p/9pnet.ko: kernel/lib/a-b.ko\n\
                     kernel/lib/a-b.ko:\nkernel/drivers/c.ko:\n";
        let found = closure(index, &["9p"]).unwrap();
        let expected = ["kernel/fs/9p/9p.ko", "kernel/lib/a-b.ko", "kernel/net/9p/9pnet.ko"];
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
        assert_eq!(closure(index, &["a_b"]).unwrap().len(), 1);
        assert!(closure(index, &["overlay"]).is_err());
    }
}
