//! `bridge`: pods on a Linux bridge that has the gateway's address, masqueraded by nftables, as Docker does it.

use std::{borrow::Cow, net::Ipv4Addr, sync::Arc};

use ipnet::{IpNet, Ipv4Net};
use nftables::{
    batch::Batch,
    expr::{Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix},
    schema::{Chain, NfListObject, Nftables, Rule, Table},
    stmt::{Match, Operator, Statement},
    types::{NfChainType, NfFamily, NfHook},
};

use crate::{
    bench::{Mode, Pair, Path},
    lab::topology::{End, OUTSIDE, Space, Topology, net, wire},
    net::NetError,
};

const BRIDGE: &str = "br0";
const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 24);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 3);
const UPLINK: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 1);
const TABLE: &str = "masquerade";
const CHAIN: &str = "postrouting";

/// A node of its own with a bridge and two pods, behind the same router as the lab's node.
#[derive(Debug)]
pub struct Bridge {
    /// Its links stay as long as its namespace is open.
    _node: Space,
    client: Space,
    server: Space,
    topology: Arc<Topology>,
}

impl Bridge {
    /// Builds it on the topology's router. Needs the program `nft`.
    ///
    /// # Errors
    /// What the kernel or `nft` says.
    pub async fn build(topology: Arc<Topology>) -> Result<Self, NetError> {
        let spec = &topology.spec;
        let node = spec.space("bridge-node").await?;
        let client = spec.space("bridge-a").await?;
        let server = spec.space("bridge-b").await?;
        node.forward()?;
        topology.connect(&node, "to-bridge-node", &[(net(UPLINK, 30), ROUTER.into())]).await?;
        node.netlink.add_bridge(BRIDGE).await?;
        let bridge = node.configure(BRIDGE, &[net(GATEWAY, 24)]).await?;
        for (pod, address, port) in [(&client, CLIENT, "veth-a"), (&server, SERVER, "veth-b")] {
            let inside = End { space: pod, link: "eth0", addresses: &[net(address, 24)] };
            let port_end = End { space: &node, link: port, addresses: &[] };
            wire(port_end, inside, spec.uplink_mtu).await?;
            let port = node.configure(port, &[]).await?;
            node.netlink.set_master(port, bridge).await?;
            pod.default_route(GATEWAY.into()).await?;
        }
        masquerade(&node, SUBNET.into(), BRIDGE)?;
        Ok(Self { _node: node, client, server, topology })
    }
}

impl Mode for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn pair(&self, path: Path) -> Option<Pair<'_>> {
        let (server, address) = match path {
            Path::PodPod => (&self.server.netns, SERVER),
            Path::PodOutside => (&self.topology.outside.netns, OUTSIDE),
        };
        Some(Pair { client: &self.client.netns, server, address })
    }
}

/// Gives what leaves a node from `pods` the address of the interface it leaves by, as Docker does: not towards
/// `inside`. Needs the program `nft`.
///
/// # Errors
/// What `nft` says.
pub(crate) fn masquerade(node: &Space, pods: IpNet, inside: &str) -> Result<(), NetError> {
    let rules = rules(pods, inside);
    node.netns.enter(|| nftables::helper::apply_ruleset(&rules))?.map_err(|error| NetError {
        doing: format!("masquerading {pods} with nft (Debian package nftables)"),
        reason: explain(&error),
        errno: None,
    })
}

/// `nft` tells its reason on standard error, which the error's text leaves out.
fn explain(error: &nftables::helper::NftablesError) -> String {
    match error {
        nftables::helper::NftablesError::NftFailed { stderr, .. } => format!("{error}: {}", stderr.trim()),
        _ => error.to_string(),
    }
}

/// `ip saddr PODS oifname != INSIDE masquerade`, after routing.
fn rules(pods: IpNet, inside: &str) -> Nftables<'static> {
    let (family, protocol) =
        if pods.addr().is_ipv4() { (NfFamily::IP, "ip") } else { (NfFamily::IP6, "ip6") };
    let field = PayloadField { protocol: protocol.into(), field: "saddr".into() };
    let prefix = Prefix {
        addr: Box::new(Expression::String(Cow::Owned(pods.network().to_string()))),
        len: u32::from(pods.prefix_len()),
    };
    let from_pods = Match {
        left: Expression::Named(NamedExpression::Payload(Payload::PayloadField(field))),
        right: Expression::Named(NamedExpression::Prefix(prefix)),
        op: Operator::EQ,
    };
    let to_elsewhere = Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Oifname })),
        right: Expression::String(Cow::Owned(inside.to_owned())),
        op: Operator::NEQ,
    };
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family, name: TABLE.into(), handle: None }));
    batch.add(NfListObject::Chain(Chain {
        family,
        table: TABLE.into(),
        name: CHAIN.into(),
        _type: Some(NfChainType::NAT),
        hook: Some(NfHook::Postrouting),
        prio: Some(100),
        ..Chain::default()
    }));
    let statements =
        vec![Statement::Match(from_pods), Statement::Match(to_elsewhere), Statement::Masquerade(None)];
    batch.add(NfListObject::Rule(Rule {
        family,
        table: TABLE.into(),
        chain: CHAIN.into(),
        expr: statements.into(),
        ..Rule::default()
    }));
    batch.to_nftables()
}
