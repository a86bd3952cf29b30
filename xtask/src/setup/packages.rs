//! Debian packages.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{Purpose, unpack::unpack};
use crate::{
    process::{as_root, command, output, run, say},
    workspace,
};

/// A package to install, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// What needs it.
    pub(crate) why: String,
}

impl Package {
    /// A package with its reason.
    pub(crate) fn new(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: name.into(), why: why.into() }
    }
}

/// A program that the lab or the tests start. netpath itself starts none of them.
struct Program {
    /// What is looked for on `PATH`, so that it does not matter how it came there.
    name: &'static str,
    /// The Debian package that has it.
    package: &'static str,
    /// Who needs it for what.
    why: &'static str,
    /// What needs it first; see [`Need`].
    need: Need,
}

/// Each needs what the ones before it need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// Building.
    Build,
    /// `run`.
    Lab,
    /// `package`.
    Package,
    /// `test`.
    Test,
    /// `vm`.
    Vm,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "protoc",
        package: "protobuf-compiler",
        why: "makes etcd's messages into Rust while the agent is built",
        need: Need::Build,
    },
    Program {
        name: "google/protobuf/descriptor.proto",
        package: "libprotobuf-dev",
        why: "what etcd's messages are described with",
        need: Need::Build,
    },
    Program {
        name: "nft",
        package: "nftables",
        why: "networks that lab and benchmark compare netpath with have rules of it",
        need: Need::Lab,
    },
    Program {
        name: "dpkg-shlibdeps",
        package: "dpkg-dev",
        why: "says which libraries a package needs, and brings dpkg-deb's company: strip",
        need: Need::Package,
    },
    Program {
        name: "systemd-analyze",
        package: "systemd",
        why: "tests run the agent as its service, in namespaces of its own",
        need: Need::Test,
    },
    Program {
        name: "ip",
        package: "iproute2",
        why: "tests look at links, routes and namespaces with other eyes than netpath's own",
        need: Need::Test,
    },
    Program {
        name: "ethtool",
        package: "ethtool",
        why: "tests switch a pod's checksum offload off",
        need: Need::Test,
    },
    Program {
        name: "bpftool",
        package: "bpftool",
        why: "tests look at attached programs with other eyes than netpath's own",
        need: Need::Test,
    },
    Program {
        name: "setpriv",
        package: "util-linux",
        why: "tests start agents that end with them, even when a test is killed",
        need: Need::Test,
    },
    Program {
        name: "ping",
        package: "iputils-ping",
        why: "tests send ICMP echo from a client that is not ours",
        need: Need::Test,
    },
    Program {
        name: "traceroute",
        package: "traceroute",
        why: "tests look at the hops that a pod sees, by UDP, ICMP and TCP",
        need: Need::Test,
    },
    Program {
        name: "tracepath",
        package: "iputils-tracepath",
        why: "tests look at the path's MTU with a client that is not ours",
        need: Need::Test,
    },
    Program {
        name: "openssl",
        package: "openssl",
        why: "tests make certificates for etcd",
        need: Need::Test,
    },
    Program {
        name: "curl",
        package: "curl",
        why: "tests ask web servers in pods and containers with it",
        need: Need::Test,
    },
    Program {
        name: "tcpdump",
        package: "tcpdump",
        why: "tests read what is on the wire of an uplink",
        need: Need::Test,
    },
    Program {
        name: "podman",
        package: "podman",
        why: "tests have it use netpath as its network, on machines of their own",
        need: Need::Test,
    },
    Program {
        name: "runc",
        package: "runc",
        why: "runs the containers of podman and containerd in tests",
        need: Need::Test,
    },
    Program {
        name: "conmon",
        package: "conmon",
        why: "podman's process beside each container",
        need: Need::Test,
    },
    Program {
        name: "catatonit",
        package: "catatonit",
        why: "the process that keeps the namespace of a podman pod",
        need: Need::Test,
    },
    Program {
        name: "containerd",
        package: "containerd",
        why: "tests have it, and its CRI plugin, use netpath as their network, on machines of their own",
        need: Need::Test,
    },
    Program {
        name: "host-local",
        package: "containernetworking-plugins",
        why: "tests run the reference CNI plugins behind netpath's, and as its IPAM",
        need: Need::Test,
    },
    Program {
        name: "busybox",
        package: "busybox-static",
        why: "all that is in containers of tests, and in an emulated machine before it sees this one's files",
        need: Need::Test,
    },
    Program {
        name: "perl",
        package: "perl-base",
        why: "asks and answers, over TCP and UDP, in containers of tests",
        need: Need::Test,
    },
    Program {
        name: "xz",
        package: "xz-utils",
        why: "kernels since 6.12 come with compressed modules",
        need: Need::Vm,
    },
];

/// The Debian packages of a compiler with source that builds for BPF.
pub(crate) fn toolchain() -> Vec<Package> {
    [
        ("rustc-web", "a compiler that comes with its standard library's source"),
        ("cargo-web", "the cargo that fits it"),
        ("rust-web-src", "the standard library's source: cargo builds `core` for the BPF target from it"),
        ("rust-web-clippy", "clippy for the eBPF programs"),
    ]
    .into_iter()
    .map(|(name, why)| Package::new(name, why))
    .collect()
}

/// Packages of the programs that are not there.
pub(crate) fn missing(purpose: Purpose) -> Vec<Package> {
    let most = match purpose {
        Purpose::Lint => Need::Build,
        Purpose::Run => Need::Lab,
        Purpose::Package => Need::Package,
        Purpose::Test | Purpose::Everything => Need::Test,
        Purpose::Vm => Need::Vm,
    };
    PROGRAMS
        .iter()
        .filter(|program| program.need <= most)
        .filter(|program| !is_there(program.name))
        .map(|program| Package::new(program.package, program.why))
        .collect()
}

/// Where Debian keeps what only root runs, plugins of CNI, and messages for protoc.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/lib/cni", "/usr/include"];

/// On `PATH`, in one of [`PLACES`], or among the libraries.
fn is_there(program: &str) -> bool {
    let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let mut places = PLACES.into_iter().chain([libraries.as_str()]);
    which::which(program).is_ok() || places.any(|dir| Path::new(dir).join(program).exists())
}

/// Fetches the lists of packages, once.
///
/// # Errors
/// No apt, no root, no network.
pub(crate) fn update() -> Result<()> {
    static FAILED: OnceLock<Option<String>> = OnceLock::new();
    let failed = FAILED.get_or_init(|| {
        say("apt-get update: fetching the lists of packages");
        apt_get().and_then(|mut apt| run(apt.args(["-qq", "update"]))).err().map(|error| format!("{error:#}"))
    });
    failed.as_ref().map_or(Ok(()), |reason| Err(anyhow!("{reason}")))
}

/// Whether a package can be installed.
pub(crate) fn known(package: &str) -> bool {
    let policy = output(command("apt-cache").args(["policy", package]).env("LC_ALL", "C"));
    policy.is_ok_and(|text| has_candidate(&text))
}

/// Whether `apt-cache policy` names a version to install.
fn has_candidate(policy: &str) -> bool {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    candidate.is_some_and(|version| version != "(none)")
}

/// Installs packages, saying which and why.
///
/// # Errors
/// No root, no network, or apt fails; it says why above.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    update()?;
    for package in packages {
        say(format!("installing Debian package {}: {}", package.name, package.why));
    }
    let mut install = apt_get()?;
    install.args(["-qq", "-o=Dpkg::Use-Pty=0", "install", "-y", "--no-install-recommends", "--no-remove"]);
    install.args(packages.iter().map(|package| &package.name));
    run(&mut install).context("installing Debian packages")
}

/// A package that a lab or tests run a program of. Unpacked only: an installed one would serve on the machine.
struct Server {
    package: &'static str,
    /// Below `usr`.
    program: &'static str,
    /// A library that it needs and may be missing, and its package.
    library: Option<(&'static str, &'static str)>,
}

const SERVERS: [Server; 4] = [
    Server { package: "prometheus", program: "bin/promtool", library: None },
    Server { package: "etcd-server", program: "bin/etcd", library: None },
    Server { package: "etcd-client", program: "bin/etcdctl", library: None },
    Server {
        package: "bird2",
        program: "sbin/bird",
        library: Some(("libssh-gcrypt.so.4", "libssh-gcrypt-4")),
    },
];

/// Fetches and unpacks what is not there: all that tests ask, or those packages of it that are `wanted`. Returns the
/// directories where unpacked programs are.
///
/// # Errors
/// apt has none, or it cannot be fetched.
pub(crate) fn servers(wanted: Option<&[&str]>) -> Result<Vec<PathBuf>> {
    let mut unpacked = Vec::new();
    for Server { package, program, library } in SERVERS {
        let dir = workspace::state().join(package);
        let there = dir.join("usr").join(program);
        let name = program.rsplit('/').next().unwrap_or(program);
        if wanted.is_some_and(|wanted| !wanted.contains(&package)) {
            continue;
        }
        if !there.is_file() && is_there(name) {
            continue;
        }
        if let Some((file, library)) = library.filter(|(file, _)| !is_there(file)) {
            install(&[Package::new(library, format!("{file}, which {name} needs"))])?;
        }
        if !there.is_file() {
            update()?;
            say(format!("fetching and unpacking {package}, once; nothing of it is installed"));
            unpack(package, &dir)?;
        }
        unpacked.extend(there.parent().map(Path::to_owned));
    }
    Ok(unpacked)
}

/// apt-get as root, never asking.
fn apt_get() -> Result<std::process::Command> {
    ensure!(which::which("apt-get").is_ok(), "there is no apt-get here");
    let mut apt = as_root("apt-get")?;
    apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
    Ok(apt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_without_candidate_is_unknown() {
        assert!(has_candidate("nftables:\n  Installed: (none)\n  Candidate: 1.0.6-2\n"));
        assert!(!has_candidate("rustc-web:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }

    #[test]
    fn run_needs_fewer_programs_than_test() {
        assert!(
            [Need::Build, Need::Lab, Need::Package, Need::Test, Need::Vm]
                .map(|need| PROGRAMS.iter().any(|program| program.need == need))
                == [true; 5]
        );
        assert!(Need::Build < Need::Lab && missing(Purpose::Lint).len() <= missing(Purpose::Test).len());
    }
}
