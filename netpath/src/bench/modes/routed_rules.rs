//! The rules of mode `routed`: what such a node has for each pod and for what it forwards, as Calico has them.
//!
//! Flows that conntrack knows are accepted first; of others, marks tell what policy has accepted, by chains of each pod: tunnels
//! from inside pods are refused, and a profile accepts the rest.

use super::rules::{Rules, Text};
use crate::{lab::topology::Space, net::NetError};

const TABLES: &str = "*filter
:FORWARD DROP [0:0]
:bench-FORWARD - [0:0]
:bench-INPUT - [0:0]
:bench-OUTPUT - [0:0]
:bench-from-pods - [0:0]
:bench-to-pods - [0:0]
:bench-profile - [0:0]
-A FORWARD -j bench-FORWARD
-A INPUT -j bench-INPUT
-A OUTPUT -j bench-OUTPUT
-A bench-FORWARD -j MARK --set-xmark 0x0/0xe0000
-A bench-FORWARD -i pod-+ -j bench-from-pods
-A bench-FORWARD -o pod-+ -j bench-to-pods
-A bench-FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
-A bench-INPUT -i pod-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A bench-OUTPUT -o pod-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A bench-from-pods -j DROP
-A bench-to-pods -j DROP
-A bench-profile -j MARK --set-xmark 0x10000/0x10000
-A bench-profile -j RETURN
COMMIT
*nat
:bench-POSTROUTING - [0:0]
-A POSTROUTING -j bench-POSTROUTING
-A bench-POSTROUTING -s 10.65.0.0/16 ! -d 10.65.0.0/16 -j MASQUERADE
COMMIT
";

const POD: &str = "*filter
:bench-from-POD - [0:0]
:bench-to-POD - [0:0]
-I bench-from-pods -i POD -g bench-from-POD
-I bench-to-pods -o POD -g bench-to-POD
-A bench-from-POD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A bench-from-POD -m conntrack --ctstate INVALID -j DROP
-A bench-from-POD -j MARK --set-xmark 0x0/0x10000
-A bench-from-POD -p udp -m udp --dport 4789 -j DROP
-A bench-from-POD -p 4 -j DROP
-A bench-from-POD -j bench-profile
-A bench-from-POD -m mark --mark 0x10000/0x10000 -j RETURN
-A bench-from-POD -j DROP
-A bench-to-POD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A bench-to-POD -m conntrack --ctstate INVALID -j DROP
-A bench-to-POD -j MARK --set-xmark 0x0/0x10000
-A bench-to-POD -j bench-profile
-A bench-to-POD -m mark --mark 0x10000/0x10000 -j RETURN
-A bench-to-POD -j DROP
COMMIT
";

const NFT_TABLES: &str = r#"
table ip routed {
    map from_ports { type ifname : verdict; }
    map to_ports { type ifname : verdict; }
    chain profile {
        meta mark set meta mark or 0x10000
        return
    }
    chain from_pods {
        iifname vmap @from_ports
        drop
    }
    chain to_pods {
        oifname vmap @to_ports
        drop
    }
    chain forward {
        type filter hook forward priority filter; policy drop
        meta mark set meta mark and 0xfff1ffff
        iifname "pod-*" jump from_pods
        oifname "pod-*" jump to_pods
        meta mark & 0x10000 == 0x10000 accept
    }
    chain input {
        type filter hook input priority filter; policy accept
        iifname "pod-*" ct state established,related accept
    }
    chain output {
        type filter hook output priority filter; policy accept
        oifname "pod-*" ct state established,related accept
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept
        ip saddr 10.65.0.0/16 ip daddr != 10.65.0.0/16 masquerade
    }
}
"#;

const NFT_POD: &str = r#"
table ip routed {
    chain from-POD {
        ct state established,related accept
        ct state invalid drop
        meta mark set meta mark and 0xfffeffff
        udp dport 4789 drop
        ip protocol 4 drop
        jump profile
        meta mark & 0x10000 == 0x10000 return
        drop
    }
    chain to-POD {
        ct state established,related accept
        ct state invalid drop
        meta mark set meta mark and 0xfffeffff
        jump profile
        meta mark & 0x10000 == 0x10000 return
        drop
    }
}
add element ip routed from_ports { "POD" : goto from-POD }
add element ip routed to_ports { "POD" : goto to-POD }
"#;

/// Makes those of a node.
///
/// # Errors
/// What `nft` says where iptables is not there, or does not work.
pub(super) fn install(node: &Space) -> Result<Rules, NetError> {
    Rules::install(node, Text { iptables: TABLES, nft: NFT_TABLES })
}

/// Adds those of a pod behind a link, whose name begins with `pod-`.
///
/// # Errors
/// What the program says.
pub(super) fn add(rules: &Rules, node: &Space, port: &str) -> Result<(), NetError> {
    let [iptables, nft] = [POD, NFT_POD].map(|text| text.replace("POD", port));
    rules.add(node, Text { iptables: &iptables, nft: &nft })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::modes::nft, lab::testing::with_topology};

    #[test]
    fn both_kinds_are_taken_and_name_the_pod() {
        with_topology(None, |topology| async move {
            let rules = install(&topology.node).unwrap();
            add(&rules, &topology.node, "pod-7").unwrap();
            nft::apply(&topology.outside, NFT_TABLES).unwrap();
            add(&Rules::Nft(String::new()), &topology.outside, "pod-7").unwrap();
        });
    }
}
