//! Rules of nftables, as text for the program `nft`.

use ipnet::IpNet;

use crate::{bench::tool::Tool, lab::topology::Space, net::NetError};

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
pub(in crate::bench) fn apply(node: &Space, rules: &str) -> Result<(), NetError> {
    Tool { name: "nft", package: "nftables" }.run(node, &["-f", "-"], rules)
}
