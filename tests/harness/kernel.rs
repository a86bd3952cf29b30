//! What the running kernel lacks, said loudly.

use std::{fs::File, io::Write as _, thread};

use netpath::net::{Netns, sysctl};

/// Whether the kernel is older than this version; then the calling test is noted as skipped, with `what` it lacks, and
/// should return.
///
/// # Panics
/// If the list of skipped tests cannot be written: a skip that nobody sees proves nothing.
pub fn lacks(version: (u32, u32), what: &str) -> bool {
    let older = older(version);
    if older {
        skip(&format!("{what} needs Linux {}.{}, this is {}", version.0, version.1, release()));
    }
    older
}

/// Whether the kernel is older than this version.
pub fn older(version: (u32, u32)) -> bool {
    parse(&release()) < version
}

/// Has a node's host stack forward IPv6, hence answer that a packet's time is over or that it is too big. Since 6.17
/// (`force_forwarding`) an interface can do so alone, and netpath sees to it; before, whoever runs the node does, for
/// all interfaces at once.
///
/// # Panics
/// If the sysctl cannot be written.
pub fn forward_ipv6(node: &Netns) {
    if parse(&release()) < (6, 17) {
        let written = node.enter(|| sysctl::write("net/ipv6/conf/all/forwarding", "1"));
        written.expect("namespace").expect("all.forwarding");
    }
}

/// Notes that the calling test cannot run here, for this reason.
///
/// # Panics
/// See [`lacks`].
pub fn skip(reason: &str) {
    let thread = thread::current();
    let line = format!("{}: {reason}\n", thread.name().expect("libtest names its threads"));
    print!("SKIPPED {line}");
    if let Some(path) = std::env::var_os("NETPATH_SKIP_FILE") {
        let mut file = File::options().append(true).create(true).open(path).expect("NETPATH_SKIP_FILE");
        file.write_all(line.as_bytes()).expect("NETPATH_SKIP_FILE");
    }
}

/// What `uname -r` says.
fn release() -> String {
    nix::sys::utsname::uname().expect("uname").release().to_string_lossy().into_owned()
}

/// `6.1.0-56-amd64` is 6.1.
fn parse(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
