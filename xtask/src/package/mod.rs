//! `cargo xtask package`: a Debian package of the agent.
//!
//! dpkg-deb packs a tree that is put together here: no more than these files needs no helper. dpkg-shlibdeps says which
//! libraries the binary wants.

mod tree;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process::{cargo, command, output, run, say},
    setup::{Purpose, setup},
    workspace,
};
use tree::Tree;

/// Version of the packaging itself, after the program's.
const REVISION: u32 = 1;
const MAINTAINER: &str = "netpath maintainers <maintainers@netpath.invalid>";

/// What to pack, and where to.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Pack this binary, and netpath-cni beside it, instead of building them for release
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Directory for the package [default: target/package]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Version of the packaging
    #[arg(long, value_name = "NUMBER", default_value_t = REVISION)]
    revision: u32,
}

/// Builds the package and prints its path.
///
/// # Errors
/// The build fails, or one of Debian's tools; it says why.
pub(crate) fn package(arguments: &Arguments) -> Result<()> {
    let binary = match &arguments.binary {
        Some(binary) => env::current_dir()?.join(binary),
        None => {
            setup(Purpose::Package)?;
            run(cargo().args([
                "build",
                "--release",
                "--package",
                "netpath",
                "--bin",
                "netpath",
                "--bin",
                "netpath-cni",
            ]))?;
            workspace::target().join("release/netpath")
        }
    };
    let dir = match &arguments.output {
        Some(dir) => env::current_dir()?.join(dir),
        None => workspace::target().join("package"),
    };
    let version = format!("{}-{}", env!("CARGO_PKG_VERSION"), arguments.revision);
    let architecture = output(command("dpkg").arg("--print-architecture"))?;
    let name = format!("netpath_{version}_{architecture}");
    let tree = Tree::new(dir.join(&name))?;
    fill(&tree, &binary, &version)?;
    let sums = tree.sums()?;
    let control = format!(
        "Package: netpath\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {size}\nDepends: {depends}\nSection: net\nPriority: optional\n\
         Description: container network whose packets are forwarded by eBPF\n \
         The agent gives pods links, addresses and routes, and attaches programs that\n \
         forward, translate and filter their packets: no bridge, no iptables or nftables\n \
         rules, no connection tracking by netfilter. It needs Linux 6.1 or newer.\n",
        size = tree.kibibytes()?,
        depends = libraries(&dir, &binary)?,
    );
    tree.write("DEBIAN/control", &control, 0o644)?;
    tree.write("DEBIAN/md5sums", &sums, 0o644)?;
    tree.write("DEBIAN/conffiles", "/etc/netpath/netpath.toml.example\n", 0o644)?;
    let packed = dir.join(format!("{name}.deb"));
    let mut pack = command("dpkg-deb");
    if arguments.binary.is_some() {
        // Somebody who brings a binary is trying something out: quick rather than small.
        pack.args(["-z1", "-Zgzip"]);
    }
    run(pack.args(["--root-owner-group", "--build"]).args([tree.root(), &packed]))?;
    fs::remove_dir_all(tree.root()).context("removing the tree")?;
    say(format!("packed {}", binary.display()));
    println!("{}", packed.display());
    Ok(())
}

/// Puts every file in its place.
fn fill(tree: &Tree, binary: &Path, version: &str) -> Result<()> {
    let packaging = workspace::root().join("packaging");
    let read = |name: &str| {
        let path = packaging.join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    tree.copy(binary, "usr/bin/netpath", 0o755)?;
    tree.copy(&binary.with_file_name("netpath-cni"), "usr/bin/netpath-cni", 0o755)?;
    // Symbols are for who has the build tree.
    let installed = ["netpath", "netpath-cni"].map(|name| tree.root().join("usr/bin").join(name));
    run(command("strip").args(["--strip-unneeded", "--remove-section=.comment"]).args(installed))?;
    tree.write("lib/systemd/system/netpath.service", &read("netpath.service")?, 0o644)?;
    tree.write("etc/netpath/netpath.toml.example", &read("netpath.toml.example")?, 0o644)?;
    for script in ["postinst", "prerm", "postrm"] {
        tree.write(&format!("DEBIAN/{script}"), &read(&format!("debian/{script}"))?, 0o755)?;
    }
    tree.write("usr/share/doc/netpath/copyright", &read("debian/copyright")?, 0o644)?;
    tree.copy(&workspace::root().join("CHANGELOG.md"), "usr/share/doc/netpath/changelog", 0o644)?;
    tree.write("usr/share/doc/netpath/changelog.Debian", &changelog(version)?, 0o644)?;
    for (shell, place) in [
        ("bash", "usr/share/bash-completion/completions/netpath"),
        ("zsh", "usr/share/zsh/vendor-completions/_netpath"),
        ("fish", "usr/share/fish/vendor_completions.d/netpath.fish"),
    ] {
        let script = output(Command::new(binary).args(["completions", shell]))?;
        tree.write(place, &format!("{script}\n"), 0o644)?;
    }
    let manual = tree.root().join("usr/share/man/man1");
    run(Command::new(binary).arg("man").arg("--dir").arg(&manual))?;
    tree.compress(&[
        "usr/share/man/man1",
        "usr/share/doc/netpath/changelog",
        "usr/share/doc/netpath/changelog.Debian",
    ])
}

/// What Debian wants to know of this version.
fn changelog(version: &str) -> Result<String> {
    // The last change's, so that two builds of one commit are the same; this moment's without git.
    let commit = output(command("git").args(["log", "-1", "--format=%cD"]));
    let date = commit.or_else(|_| output(command("date").arg("-R")))?;
    Ok(format!(
        "netpath ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {MAINTAINER}  {date}\n"
    ))
}

/// Packages with the libraries that a binary is linked with, as in `Depends:`.
fn libraries(dir: &Path, binary: &Path) -> Result<String> {
    // It insists on the source package's control file.
    let scratch = dir.join("shlibs");
    fs::create_dir_all(scratch.join("debian")).context("making target/package/shlibs")?;
    fs::write(scratch.join("debian/control"), "Source: netpath\n\nPackage: netpath\nArchitecture: any\n")?;
    let mut depends = Command::new("dpkg-shlibdeps");
    let line = output(depends.args(["-O", "-e"]).arg(binary).current_dir(&scratch));
    fs::remove_dir_all(&scratch).context("removing target/package/shlibs")?;
    let line = line?;
    let list = line.strip_prefix("shlibs:Depends=").context("dpkg-shlibdeps says nothing of dependencies")?;
    Ok(list.to_owned())
}
