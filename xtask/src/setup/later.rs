//! What tests need of later releases than the machine's: libcni for their client, the Go that builds it, and a newer etcd.
//!
//! Debian 12 and 13 have libcni 1.1, which knows nothing of STATUS and GC, and Debian 12 has a Go too old for what does, and
//! etcd 3.4. All come from later releases of the machine's own archive, checked against their signed lists, and are unpacked
//! only.

use std::fs;

use anyhow::{Context as _, Result};

use super::{packages, unpack};
use crate::{
    process::{command, output, run, say},
    workspace,
};

/// Directory, release, package, and a file of it below /usr. The release that has libcni 1.3 will be Debian 14.
const PACKAGES: [(&str, &str, &str, &str); 4] = [
    ("libcni", "trixie", "golang-1.24-go", "lib/go-1.24/bin/go"),
    ("libcni", "trixie", "golang-1.24-src", "share/go-1.24/src/slices/slices.go"),
    (
        "libcni",
        "forky",
        "golang-github-appc-cni-dev",
        "share/gocode/src/github.com/containernetworking/cni/libcni/api.go",
    ),
    // 3.5: tests run small clusters with it, beside the release's own.
    ("etcd-server-later", "trixie", "etcd-server", "bin/etcd"),
];

/// Unpacks what is not there.
///
/// # Errors
/// The archive has no such release, or cannot be reached.
pub(super) fn ensure() -> Result<()> {
    let place = |dir: &str, file: &str| workspace::state().join(dir).join("usr").join(file);
    let missing: Vec<_> = PACKAGES.iter().filter(|(dir, .., file)| !place(dir, file).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let options = archive()?;
    for (dir, release, package, file) in missing {
        say(format!("fetching and unpacking {package} of Debian {release}, once: tests need it"));
        unpack::unpack_with(&options, &format!("{package}/{release}"), &workspace::state().join(dir))?;
        fs::metadata(place(dir, file))
            .with_context(|| format!("{package} of Debian {release} has no such file"))?;
    }
    Ok(())
}

/// Fetches lists of the releases into a directory of ours, and returns what has apt use these alone.
fn archive() -> Result<Vec<String>> {
    packages::update()?;
    let debian = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"];
    let sites = output(command("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).args(debian))?;
    let site = sites.lines().next().context("apt knows no archive of Debian: tests need its packages")?;
    let dir = workspace::state().join("apt");
    for name in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(dir.join(name)).with_context(|| format!("making {}/{name}", dir.display()))?;
    }
    let list = dir.join("sources.list");
    let lines = ["trixie", "forky"].map(|release| {
        format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {site} {release} main\n")
    });
    fs::write(&list, lines.concat()).with_context(|| format!("writing {}", list.display()))?;
    let options = vec![
        format!("-o=Dir::State::lists={}", dir.join("lists").display()),
        format!("-o=Dir::Cache={}", dir.join("cache").display()),
        format!("-o=Dir::Etc::sourcelist={}", list.display()),
        "-o=Dir::Etc::sourceparts=/dev/null".into(),
        "-o=APT::Sandbox::User=root".into(),
        "-o=Acquire::Languages=none".into(),
        // A list that cannot be fetched is an error, not a warning.
        "-o=APT::Update::Error-Mode=any".into(),
    ];
    run(command("apt-get").args(&options).args(["-qq", "update"]))?;
    Ok(options)
}
