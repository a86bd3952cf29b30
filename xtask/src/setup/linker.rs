//! bpf-linker: makes one BPF object of the bitcode that rustc emits.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{packages::Package, toolchain::Toolchain};
use crate::{
    process::{cargo, command, output, run, rustup_run, say},
    workspace,
};

/// The one version that the programs are built and tested with.
pub(crate) const VERSION: &str = "0.13.0";

/// A bpf-linker that is there and reads this toolchain's bitcode: our own, one on `PATH`, one in cargo's home.
pub(crate) fn find(toolchain: &Toolchain) -> Option<PathBuf> {
    let own = workspace::tools().join("bin/bpf-linker");
    let on_path = which::which("bpf-linker").ok();
    let home = env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin/bpf-linker"));
    [Some(own), on_path, home]
        .into_iter()
        .flatten()
        .find(|linker| has_version(linker) && reads(linker, toolchain))
}

/// Whether it is there, starts and is the pinned version.
pub(crate) fn has_version(linker: &Path) -> bool {
    linker.is_file()
        && output(command(linker).arg("--version")).is_ok_and(|line| line == format!("bpf-linker {VERSION}"))
}

/// Whether it reads what this rustc writes: a linker with an older LLVM does not know newer bitcode.
fn reads(linker: &Path, toolchain: &Toolchain) -> bool {
    probe(linker, toolchain)
        .inspect_err(|error| say(format!("not using {}: {error:#}", linker.display())))
        .is_ok()
}

/// Compiles one function to bitcode, against the host's `core`, and links it for BPF.
fn probe(linker: &Path, toolchain: &Toolchain) -> Result<()> {
    const SOURCE: &str = "#![no_std]\n#[unsafe(no_mangle)]\n\
        pub extern \"C\" fn probe(a: &[u8; 4], b: &mut u32) -> u32 { *b = a[1] as u32; *b }\n";
    let dir = workspace::state().join("linker-probe");
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let (source, bitcode, object) = (dir.join("probe.rs"), dir.join("probe.bc"), dir.join("probe.o"));
    fs::write(&source, SOURCE).with_context(|| format!("writing {}", source.display()))?;
    let mut rustc = rustup_run(&toolchain.name, "rustc");
    rustc.args(["--edition=2024", "--crate-type=lib", "--emit=llvm-bc", "-Cpanic=abort", "-O", "-o"]);
    output(rustc.args([&bitcode, &source]))?;
    output(command(linker).args(["--target=bpfel-unknown-none", "-o"]).args([&object, &bitcode]))?;
    Ok(())
}

/// The LLVM of this major version to build bpf-linker with: Debian's place, or what `llvm-config` on `PATH` says.
pub(crate) fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    // The link that only llvm-MAJOR-dev brings, not the library's own package.
    if debian.join("bin/llvm-config").is_file() && debian.join("lib/libLLVM.so").exists() {
        return Some(debian);
    }
    let config = which::which("llvm-config").ok()?;
    let says = |argument: &str| output(command(&config).arg(argument)).ok();
    says("--version")?.starts_with(&format!("{major}.")).then(|| says("--prefix").map(PathBuf::from))?
}

/// Debian packages that building it takes.
pub(crate) fn packages(llvm: u32) -> Vec<Package> {
    let why = "LLVM of the eBPF toolchain, which bpf-linker is built with";
    let mut packages = vec![
        Package::new(format!("llvm-{llvm}-dev"), why),
        Package::new(format!("libpolly-{llvm}-dev"), why),
    ];
    if which::which("g++").is_err() {
        packages.push(Package::new("g++", "libstdc++, which LLVM's library needs to be linked"));
    }
    packages
}

/// Builds it into `target/tools`, about a minute.
///
/// # Errors
/// LLVM is not there, the registry cannot be reached, or the build fails.
pub(crate) fn install(toolchain: &Toolchain) -> Result<PathBuf> {
    let llvm = toolchain.llvm;
    let prefix = llvm_prefix(llvm).with_context(|| format!("there is no LLVM {llvm} to build it with"))?;
    say(format!(
        "building bpf-linker {VERSION} with LLVM {llvm} into target/tools, once: it links the eBPF programs"
    ));
    let mut path = prefix.join("bin").into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut install = cargo();
    install.args(["install", "--quiet", "--locked", "--no-default-features", "--force"]);
    install.arg(format!("bpf-linker@{VERSION}")).arg("--features").arg(format!("llvm-{llvm}"));
    install.arg("--root").arg(workspace::tools());
    run(install.env("LLVM_PREFIX", prefix).env("PATH", path))?;
    Ok(workspace::tools().join("bin/bpf-linker"))
}
