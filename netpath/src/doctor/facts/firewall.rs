//! The rules of other programs, as their own tools print them.

use std::{io::ErrorKind, process::Command};

use nftables::helper::{DEFAULT_ARGS, NftablesError, get_current_ruleset_raw};

/// Where nft is if the path does not name it.
const NFT: [&str; 2] = ["nft", "/usr/sbin/nft"];

/// What filters forwarded packets.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Firewall {
    /// The ruleset in JSON; `None` without nft.
    pub(in crate::doctor) nft: Result<Option<String>, String>,
    /// Tables of the old iptables that are there.
    pub(in crate::doctor) legacy: Vec<Legacy>,
}

/// The filter table of the old iptables.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Legacy {
    /// The program that lists it.
    pub(in crate::doctor) tool: &'static str,
    /// Its chain FORWARD.
    pub(in crate::doctor) rules: Result<String, String>,
}

impl Firewall {
    pub(super) fn read() -> Self {
        let families = [
            ("/proc/net/ip_tables_names", "iptables-legacy"),
            ("/proc/net/ip6_tables_names", "ip6tables-legacy"),
        ];
        Self {
            nft: nft(),
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

/// Asks only where the table is there: asking for it makes the kernel add it.
fn legacy(names: &str, tool: &'static str) -> Option<Legacy> {
    let names = std::fs::read_to_string(names).unwrap_or_default();
    names.lines().find(|name| *name == "filter")?;
    let rules = match Command::new(tool).args(["-S", "FORWARD"]).output() {
        Err(error) => Err(format!("{tool}: {error}")),
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    };
    Some(Legacy { tool, rules })
}
