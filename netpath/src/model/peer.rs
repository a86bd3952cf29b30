//! Other nodes of a cluster, as this one sends to them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use super::Holder;

/// How pods of other nodes are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// By direct routes where the other node is on an uplink's link, else by tunnels.
    #[default]
    Auto,
    /// By direct routes, or not at all.
    Direct,
    /// By tunnels (VXLAN, RFC 7348).
    Vxlan,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Direct, Self::Vxlan];

    /// Stable name, as in the configuration and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
        }
    }

    /// The inverse of its name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == text)
    }
}

/// How a node means to reach others. Two that differ may not understand each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// What it chooses where a network does not say.
    pub backend: Backend,
    /// UDP port of its tunnels.
    pub port: u16,
    /// Their VNI.
    pub vni: u32,
}

impl Overlay {
    /// For records that may be of a later build: what this one cannot read is not known, and takes nothing else with it.
    pub(super) fn if_readable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Read {
            Known(Option<Overlay>),
            Unknown(IgnoredAny),
        }
        Read::deserialize(from).map(|read| match read {
            Read::Known(overlay) => overlay,
            Read::Unknown(_) => None,
        })
    }

    /// What keeps another node's packets from this one, or this one's from it. `near` is whether they are on one link; `choices` are
    /// those of the cluster's pools, see [`Peers::choices`].
    pub fn differs(&self, other: &Self, near: bool, choices: &[Option<Backend>]) -> Option<String> {
        let by_tunnel = |one: Backend| one == Backend::Vxlan || (one == Backend::Auto && !near);
        if choices.contains(&None) && by_tunnel(self.backend) != by_tunnel(other.backend) {
            let (own, theirs) = (self.backend.name(), other.backend.name());
            return Some(format!("has cluster.backend = \"{theirs}\", and this node \"{own}\""));
        }
        let ends = |one: &Self| (one.port, one.vni);
        let tunnels = choices.iter().any(|choice| by_tunnel(choice.unwrap_or(self.backend)));
        (tunnels && ends(self) != ends(other)).then(|| {
            let said = |one: &Self| format!("vxlan_port = {} and vni = {}", one.port, one.vni);
            format!("has cluster.{}, and this node {}", said(other), said(self))
        })
    }
}

/// Another node, with what its pods have addresses of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Who it is.
    #[serde(flatten)]
    pub holder: Holder,
    /// The addresses of its uplinks.
    pub addresses: Vec<IpAddr>,
    /// Its blocks.
    pub blocks: Vec<IpNet>,
    /// How it reaches others, if it has told.
    #[serde(default, deserialize_with = "Overlay::if_readable")]
    pub overlay: Option<Overlay>,
}

/// What a node has to know of its cluster to send to other nodes' pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// What all blocks are of: no address of these is anybody's but a pod's.
    pub pools: Vec<IpNet>,
    /// Pools whose pods are reached by another backend than the node's.
    #[serde(default)]
    pub backends: Vec<(IpNet, Backend)>,
    /// The other nodes, by name.
    pub nodes: Vec<Peer>,
}

impl Peers {
    /// How a block is reached, if its network says so.
    pub fn backend_of(&self, block: IpNet) -> Option<Backend> {
        self.backends.iter().find(|(pool, _)| pool.contains(&block)).map(|(_, backend)| *backend)
    }

    /// How pods of each pool are reached; `None` where each node chooses.
    pub fn choices(&self) -> Vec<Option<Backend>> {
        self.pools.iter().map(|pool| self.backend_of(*pool)).collect()
    }

    /// The node whose block holds an address.
    pub fn holder_of(&self, address: IpAddr) -> Option<&Peer> {
        self.nodes.iter().find(|peer| peer.blocks.iter().any(|block| block.contains(&address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_of_a_later_build_is_not_known() {
        let peer = |overlay: &str| {
            let text = format!(r#"{{"node":"a","uid":"b","addresses":[],"blocks":[]{overlay}}}"#);
            serde_json::from_str::<Peer>(&text).unwrap().overlay
        };
        let known = Overlay { backend: Backend::Direct, port: 9, vni: 7 };
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(peer(&format!(r#","overlay":{text}"#)), Some(known));
        for other in [
            "",
            r#","overlay":null"#,
            r#","overlay":7"#,
            r#","overlay":{"backend":"later","port":9,"vni":7}"#,
        ] {
            assert_eq!(peer(other), None, "{other}");
        }
    }

    #[test]
    fn nodes_that_would_not_understand_each_other() {
        let of = |backend, port, vni| Overlay { backend, port, vni };
        let (auto, direct, vxlan) =
            [Backend::Auto, Backend::Direct, Backend::Vxlan].map(|backend| of(backend, 4789, 110)).into();
        let differs = |one: Overlay, other, near| one.differs(&other, near, &[None]);
        assert_eq!(differs(auto, direct, true), None, "direct routes both");
        assert_eq!(differs(auto, vxlan, false), None, "tunnels both");
        for (one, other, near) in [(auto, direct, false), (vxlan, auto, true), (direct, vxlan, true)] {
            let (said, back) = (differs(one, other, near), differs(other, one, near));
            assert!(said.is_some() && back.is_some(), "{one:?} {other:?}: {said:?} {back:?}");
        }
        let far = of(Backend::Auto, 4790, 111);
        assert_eq!(
            differs(auto, far, false).unwrap(),
            "has cluster.vxlan_port = 4790 and vni = 111, and this node vxlan_port = 4789 and vni = 110"
        );
        assert_eq!(
            differs(auto, of(Backend::Vxlan, 1, 2), true).unwrap(),
            "has cluster.backend = \"vxlan\", and this node \"auto\""
        );
        assert_eq!(differs(auto, far, true), None, "no tunnels");
        let chosen = |choice| auto.differs(&far, true, &[None, Some(choice)]);
        assert!(chosen(Backend::Vxlan).is_some(), "but a network has some");
        assert_eq!((chosen(Backend::Auto), chosen(Backend::Direct)), (None, None));
        let all_choose = |one: Overlay, other| one.differs(&other, false, &[Some(Backend::Direct)]);
        assert_eq!(all_choose(direct, of(Backend::Vxlan, 1, 2)), None, "no pool is left to nodes");
        assert_eq!(all_choose(auto, far), None, "nor has a tunnel");
    }
}
