//! BIRD's configuration (2.0 and later). Nothing in it is a text that somebody wrote, but for passwords, which hold neither quotes
//! nor line ends: numbers, addresses and prefixes cannot be anything else.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::model::{Bgp, BgpSession, Family};

/// First line of what is written, so that nobody takes it for his own.
const HEAD: &str = "# Written by netpath, which writes it anew when something changes: see docs/BGP.md.\n";
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The whole configuration. `masked` leaves passwords out.
pub fn bird(bgp: &Bgp, masked: bool) -> String {
    let mut text = head(bgp.router_id);
    text += "protocol direct netpath_links { ipv4; ipv6; }\n";
    for family in FAMILIES {
        text += &kernel(bgp, family);
        text += &blocks(bgp, family);
    }
    bgp.sessions.iter().for_each(|session| text += &protocol(bgp, session, masked));
    text
}

/// One that advertises and learns nothing: what BIRD is told before the node is no more of its business.
pub fn bird_without() -> String {
    head(Ipv4Addr::from_bits(1))
}

/// Whether a file is one of these: another one is somebody's own.
pub fn is_bird_of_netpath(text: &str) -> bool {
    text.starts_with(HEAD)
}

/// What a session is called in BIRD: by its address, so that others come and go beside it.
pub fn session_name(address: IpAddr) -> String {
    format!("netpath_{}", address.to_string().replace(['.', ':'], "_"))
}

fn head(router_id: Ipv4Addr) -> String {
    // Of a BIRD that was started to recover (-R): it installs nothing until its neighbours are there, or this is over.
    format!(
        "{HEAD}router id {router_id};\ngraceful restart wait 30;\nprotocol device netpath_device {{ scan time 10; }}\n"
    )
}

fn number(family: Family) -> u8 {
    if family == Family::V4 { 4 } else { 6 }
}

fn of(family: Family, prefixes: &[IpNet]) -> impl Iterator<Item = &IpNet> {
    prefixes.iter().filter(move |prefix| Family::of(prefix.addr()) == family)
}

/// A set of prefixes, as a condition that a route is to one of them; BIRD has no empty ones.
fn to_any<T: Display>(prefixes: impl IntoIterator<Item = T>) -> Option<String> {
    let words: Vec<_> = prefixes.into_iter().map(|prefix| prefix.to_string()).collect();
    (!words.is_empty()).then(|| format!("net ~ [ {} ]", words.join(", ")))
}

/// What is learned goes into the node's main table, but for what netpath has routes to. The node's other routes are there for BIRD
/// to find next hops by.
fn kernel(bgp: &Bgp, family: Family) -> String {
    let within = |prefixes| of(family, prefixes).map(|prefix| format!("{prefix}+"));
    let pods = to_any(within(&bgp.pools).chain(within(&bgp.own)));
    let import = pods.map_or_else(|| "all".to_owned(), |pods| format!("where !({pods})"));
    let direct = to_any(within(&bgp.direct)).map_or_else(String::new, |direct| format!(" && !({direct})"));
    let number = number(family);
    format!(
        "protocol kernel netpath_kernel{number} {{\n  learn;\n  scan time 10;\n  graceful restart;\n  ipv{number} {{\n    \
         import {import};\n    export where source = RTS_BGP{direct};\n  }};\n}}\n"
    )
}

/// Where BIRD has the node's blocks from. They are not exported to the kernel: the node has its own routes there.
fn blocks(bgp: &Bgp, family: Family) -> String {
    let number = number(family);
    let mut text = format!("protocol static netpath_blocks{number} {{\n  ipv{number};\n");
    of(family, &bgp.blocks).for_each(|block| text += &format!("  route {block} unreachable;\n"));
    text + "}\n"
}

fn protocol(bgp: &Bgp, session: &BgpSession, masked: bool) -> String {
    let mut text = format!("protocol bgp {} {{\n", session_name(session.address));
    let mut line = |words: String| text += &format!("  {words};\n");
    let source = session.source.map_or_else(String::new, |source| format!("{source} "));
    line(format!("local {source}as {}", bgp.local_as));
    line(format!("neighbor {} as {}", session.address, session.remote_as));
    line(if session.near { "direct" } else { "multihop" }.to_owned());
    if let Some(password) = &session.password {
        line(format!("password \"{}\"", if masked { "(not shown)" } else { password }));
    }
    if session.remote_as != bgp.local_as {
        // Nodes of one system with routers of another between them; the own blocks are refused by prefix.
        line("allow local as 1".to_owned());
    }
    if session.rr_client {
        line("rr client".to_owned());
    }
    line("graceful restart".to_owned());
    let own = Family::of(session.address);
    text += &channel(bgp, session, own, "");
    if own == Family::V6 && session.ipv4 {
        text += &channel(bgp, session, Family::V4, "    extended next hop;\n");
    }
    text + "}\n"
}

fn channel(bgp: &Bgp, session: &BgpSession, family: Family, more: &str) -> String {
    let number = number(family);
    // Not a pool as a whole: that is unreachable but for the blocks in it.
    let parts = of(family, &bgp.pools)
        .map(|pool| format!("{pool}{{{},{}}}", pool.prefix_len() + 1, pool.max_prefix_len()));
    let given = session.accept.iter().filter(|one| Family::of(one.prefix.addr()) == family);
    let import = match to_any(parts.chain(given.map(ToString::to_string))) {
        None => "none".to_owned(),
        Some(accepted) => {
            let own = of(family, &bgp.own).map(|own| format!("{own}+"));
            let never = to_any(own.chain(of(family, &bgp.pools).map(ToString::to_string)));
            let never = never.map_or_else(String::new, |never| format!(" && !({never})"));
            format!("where {accepted}{never}")
        }
    };
    // A node is nobody's way to elsewhere, but for the nodes it is with.
    let others = if session.node.is_some() || session.rr_client { " || source = RTS_BGP" } else { "" };
    // What is reflected keeps the way that it came with (RFC 4456, 10).
    let hop = if session.remote_as == bgp.local_as { "self ebgp" } else { "self" };
    format!(
        "  ipv{number} {{\n    import {import};\n    export where proto = \"netpath_blocks{number}\"{others};\n    \
         next hop {hop};\n{more}  }};\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Accepted;

    fn session(address: &str, remote_as: u32) -> BgpSession {
        BgpSession {
            address: address.parse().unwrap(),
            source: None,
            remote_as,
            node: None,
            near: true,
            ipv4: false,
            rr_client: false,
            password: None,
            accept: Vec::new(),
        }
    }

    fn prefixes(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn cluster() -> Bgp {
        let own = prefixes(&["10.64.3.64/26", "fd00:64::40/122"]);
        let default = Accepted { prefix: "0.0.0.0/0".parse().unwrap(), longer: false };
        let lan = Accepted { prefix: "2001:db8::/32".parse().unwrap(), longer: true };
        Bgp {
            local_as: 64512,
            router_id: "198.18.0.2".parse().unwrap(),
            blocks: own.clone(),
            own,
            pools: prefixes(&["10.64.0.0/16", "fd00:64::/48"]),
            direct: prefixes(&["10.64.17.0/26"]),
            sessions: vec![
                BgpSession {
                    password: Some("pa;ss".into()),
                    accept: vec![default, lan],
                    ..session("198.18.0.1", 64999)
                },
                BgpSession {
                    ipv4: true,
                    accept: vec![default, lan],
                    near: false,
                    rr_client: true,
                    ..session("2001:db8:9::1", 64512)
                },
                BgpSession {
                    node: Some("two".into()),
                    source: Some("198.18.0.2".parse().unwrap()),
                    ..session("198.18.0.3", 64512)
                },
            ],
        }
    }

    #[test]
    fn of_a_node_in_a_cluster() {
        insta::assert_snapshot!(bird(&cluster(), false));
        let masked = bird(&cluster(), true);
        assert!(!masked.contains("pa;ss") && masked.contains("password \"(not shown)\";"), "{masked}");
    }

    #[test]
    fn of_a_node_by_itself() {
        let alone = Bgp {
            blocks: Vec::new(),
            pools: Vec::new(),
            direct: Vec::new(),
            own: prefixes(&["10.61.0.0/24"]),
            sessions: vec![session("198.18.0.1", 64999)],
            ..cluster()
        };
        insta::assert_snapshot!(bird(&alone, false));
        assert!(!bird_without().contains("bgp"), "{}", bird_without());
    }
}
