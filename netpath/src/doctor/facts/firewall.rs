//! The rules of other programs, as their own tools print them.

use std::{io::ErrorKind, process::Command};

use nftables::helper::{DEFAULT_ARGS, NftablesError, get_current_ruleset_raw};

use super::process::is_running;

/// Where nft is if the path does not name it.
const NFT: [&str; 2] = ["nft", "/usr/sbin/nft"];

/// What filters forwarded packets.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Firewall {
    /// The ruleset in JSON; `None` without nft.
    pub(in crate::doctor) nft: Result<Option<String>, String>,
    /// A program that keeps rules here and has been told to, by what it leaves in files and processes. Looked for without nft only,
    /// which tells what the rules are.
    pub(in crate::doctor) manager: Option<&'static str>,
    /// Tables of the old iptables that are there.
    pub(in crate::doctor) legacy: Vec<Legacy>,
}

/// The filter table of the old iptables.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Legacy {
    /// The program that lists it.
    pub(in crate::doctor) tool: &'static str,
    /// Its chains.
    pub(in crate::doctor) rules: Result<String, String>,
}

impl Firewall {
    pub(super) fn read() -> Self {
        let families = [
            ("/proc/net/ip_tables_names", "iptables-legacy"),
            ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
        ];
        let nft = nft();
        Self {
            manager: if matches!(nft, Ok(None)) { manager() } else { None },
            nft,
            legacy: families.into_iter().filter_map(|(names, tool)| legacy(names, tool)).collect(),
        }
    }
}

fn nft() -> Result<Option<String>, String> {
    for program in NFT {
        match get_current_ruleset_raw(Some(program), DEFAULT_ARGS) {
            Err(NftablesError::NftExecution { inner, .. }) if inner.kind() == ErrorKind::NotFound => {}
            Err(NftablesError::NftFailed { stderr, .. }) => return Err(stderr.trim().to_owned()),
            outcome => return outcome.map(Some).map_err(|error| error.to_string()),
        }
    }
    Ok(None)
}

fn manager() -> Option<&'static str> {
    let ufw = std::fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
    if ufw.lines().any(|line| line.trim() == "ENABLED=yes") {
        return Some("ufw");
    }
    is_running("firewalld").then_some("firewalld")
}

/// Asks only where the table is there: asking for it makes the kernel add it.
fn legacy(names: &str, tool: &'static str) -> Option<Legacy> {
    let names = std::fs::read_to_string(names).unwrap_or_default();
    names.lines().find(|name| *name == "filter")?;
    let rules = match Command::new(tool).arg("-S").output() {
        Err(error) => Err(format!("{tool}: {error}")),
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    };
    Some(Legacy { tool, rules })
}
