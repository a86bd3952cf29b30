//! `netpath doctor`: what on this node keeps netpath from working, and how to put it right. It only reads, and needs no
//! running agent.
//!
//! `facts` reads everything once; the other files judge what was read, and know nothing of the system: a new check is a
//! function there and a line in `CHECKS`.

mod agent;
mod facts;
mod firewall;
mod host;
mod kernel;
mod leftovers;
mod network;
mod programs;
mod published;
mod report;
mod ruleset;
mod sysctls;
mod tables;
mod tunnels;

use self::{facts::Facts, report::Finding};
pub use self::{
    facts::Scope,
    report::{Outcome, Report, Row},
};
use crate::net::NetError;

/// A question, and who answers it.
struct Check {
    group: &'static str,
    name: &'static str,
    judge: fn(&Facts) -> Finding,
}

const fn check(group: &'static str, name: &'static str, judge: fn(&Facts) -> Finding) -> Check {
    Check { group, name, judge }
}

/// Every check, by group. Names are stable.
const CHECKS: &[Check] = &[
    check("kernel", "kernel-version", kernel::version),
    check("kernel", "kernel-btf", kernel::btf),
    check("kernel", "kernel-programs", kernel::programs),
    check("kernel", "kernel-tcx", kernel::tcx),
    check("host", "bpffs", host::bpffs),
    check("host", "bpffs-shared", host::bpffs_shared),
    check("host", "cgroup", host::cgroup),
    check("host", "clock", host::clock),
    check("host", "environment", host::environment),
    check("host", "toolchain", host::toolchain),
    check("agent", "config", agent::config),
    check("agent", "agent", agent::reachable),
    check("agent", "agent-problems", agent::problems),
    check("agent", "agent-version", agent::version),
    check("agent", "agent-namespace", agent::namespace),
    check("agent", "agent-capabilities", agent::capabilities),
    check("agent", "agent-limits", agent::limits),
    check("agent", "permissions", agent::permissions),
    check("agent", "state", agent::state),
    check("network", "uplink", network::uplink),
    check("network", "uplink-address", network::uplink_address),
    check("network", "default-route", network::default_route),
    check("network", "block-overlap", network::block_overlap),
    check("network", "mtu", network::mtu),
    check("network", "other-networks", network::others),
    check("network", "published-ports", published::reach),
    check("sysctls", "forwarding-ipv4", sysctls::forwarding_v4),
    check("sysctls", "forwarding-ipv6", sysctls::forwarding_v6),
    check("sysctls", "accept-ra", sysctls::accept_ra),
    check("sysctls", "rp-filter", sysctls::rp_filter),
    check("sysctls", "reserved-ports", sysctls::reserved_ports),
    check("sysctls", "neighbour-table", sysctls::neighbours),
    check("sysctls", "bridge-netfilter", sysctls::bridge_netfilter),
    check("programs", "programs-pods", programs::pods),
    check("programs", "programs-uplinks", programs::uplinks),
    check("programs", "programs-tunnels", tunnels::device),
    check("programs", "programs-foreign", programs::foreign),
    check("programs", "xdp", programs::xdp),
    check("firewall", "firewall-nftables", firewall::nftables),
    check("firewall", "firewall-iptables", firewall::iptables),
    check("firewall", "firewall-published", published::filtered),
    check("firewall", "firewall-tunnels", tunnels::filtered),
    check("tables", "flow-table", tables::flows),
    check("tables", "snat-ports", tables::snat),
    check("leftovers", "leftover-state", leftovers::state),
    check("leftovers", "leftover-links", leftovers::links),
    check("leftovers", "leftover-routes", leftovers::routes),
    check("leftovers", "leftover-pods", leftovers::pods),
];

/// Reads this node and judges it. Needs root, and a tokio runtime that [`Scope::new`] came before.
///
/// # Errors
/// If the kernel does not tell of links, addresses or routes at all.
pub async fn examine(scope: Scope) -> Result<Report, NetError> {
    let facts = Facts::read(scope).await?;
    let row = |check: &Check| {
        let Finding { status, seen, advice } = (check.judge)(&facts);
        Row { name: check.name, group: check.group, status, seen, advice }
    };
    Ok(Report { checks: CHECKS.iter().map(row).collect() })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_groups_stay_together_and_the_documentation_has_all() {
        let names: HashSet<_> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), CHECKS.len());
        let mut groups: Vec<_> = CHECKS.iter().map(|check| check.group).collect();
        groups.dedup();
        assert_eq!(groups.len(), groups.iter().collect::<HashSet<_>>().len(), "{groups:?}");
        let text = include_str!("../../../docs/DOCTOR.md");
        let told: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert_eq!(told, CHECKS.iter().map(|check| check.name).collect::<Vec<_>>());
    }

    #[test]
    fn a_healthy_node_has_nothing_to_complain_about() {
        let facts = Facts::healthy();
        for check in CHECKS {
            let finding = (check.judge)(&facts);
            let good = matches!(finding.status, Outcome::Ok | Outcome::NotApplicable);
            assert!(good && finding.advice.is_none(), "{}: {finding:?}", check.name);
        }
    }
}
