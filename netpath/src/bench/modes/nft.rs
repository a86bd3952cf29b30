//! Rules of nftables, as text for the program `nft`.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

use ipnet::IpNet;

use crate::{lab::topology::Space, net::NetError};

/// Gives what leaves a node from `pods` the address of the interface it leaves by, as Docker does: not towards
/// `inside`.
///
/// # Errors
/// What `nft` says.
pub(crate) fn masquerade(node: &Space, pods: IpNet, inside: &str) -> Result<(), NetError> {
    let family = if pods.addr().is_ipv4() { "ip" } else { "ip6" };
    let rules = format!(
        "table {family} bench {{
            chain postrouting {{
                type nat hook postrouting priority srcnat
                {family} saddr {} oifname != \"{inside}\" masquerade
            }}
        }}",
        pods.trunc()
    );
    apply(node, &rules)
}

/// Adds rules to a namespace.
///
/// # Errors
/// What `nft` says.
pub(super) fn apply(node: &Space, rules: &str) -> Result<(), NetError> {
    let failed = |reason: String| NetError {
        doing: format!("adding rules to {} with nft (Debian package nftables)", node.name),
        reason,
        errno: None,
    };
    let output = node.netns.enter(|| run(rules))?.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn run(rules: &str) -> io::Result<std::process::Output> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes())?;
    }
    child.wait_with_output()
}
