//! PROTECTED: the ports of nodes that pods do not reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netpath_common::abi::{Flow, FlowKey, PROTECTED_ANY, Rewrite, protected_place};

use super::Surroundings;
use crate::model::{Peers, Protected};

/// What pods do not reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Words of PROTECTED that are not zero.
    pub words: BTreeMap<u32, u64>,
    /// The addresses of nodes: of this one, and those that others have told of.
    nodes: BTreeSet<IpAddr>,
}

impl Protection {
    /// Of these ports on this node and the others.
    pub fn new(listed: &[Protected], surroundings: &Surroundings, peers: &Peers) -> Self {
        let mut words = BTreeMap::new();
        for one in listed {
            for port in one.ports.clone() {
                if let Some((word, bit)) = protected_place(one.protocol.number(), port) {
                    *words.entry(word).or_default() |= bit;
                }
            }
        }
        if !words.is_empty() {
            words.insert(PROTECTED_ANY, 1);
        }
        let others = peers.nodes.iter().flat_map(|peer| &peer.addresses);
        Self { words, nodes: surroundings.addresses.iter().chain(others).copied().collect() }
    }

    /// Whether it lets out less than `before`: flows that are older may be refused now.
    pub fn is_more_than(&self, before: &Self) -> bool {
        let more_ports = |(word, bits): (&u32, &u64)| bits & !before.words.get(word).unwrap_or(&0) != 0;
        let more_nodes = !self.nodes.is_subset(&before.nodes);
        self.words.iter().any(more_ports) || (more_nodes && !self.words.is_empty())
    }

    /// Whether a flow, by its original half, is one of a pod that would not be let out.
    pub fn refuses(&self, key: &FlowKey, flow: &Flow) -> bool {
        let place = protected_place(key.proto, u16::from_be(key.dport));
        let listed = place.is_some_and(|(word, bit)| self.words.get(&word).is_some_and(|own| own & bit != 0));
        // What came to a pod by a published port goes to the pod.
        listed
            && flow.pod != 0
            && flow.rewrite != Rewrite::Destination as u8
            && self.nodes.contains(&key.dst.to_ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Holder, Peer};

    #[test]
    fn flows_of_pods_to_protected_ports_of_nodes_and_no_others() {
        let listed = ["tcp:2379-2380", "udp:53", "tcp:2380"].map(|text| text.parse().unwrap());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let surroundings = Surroundings { addresses: vec![ip("192.0.2.1")], ..Surroundings::default() };
        let peer = Peer {
            holder: Holder { node: "two".into(), uid: "u".into() },
            addresses: vec![ip("2001:db8::2")],
            blocks: Vec::new(),
            overlay: None,
        };
        let peers = Peers { nodes: vec![peer], ..Peers::default() };
        let protection = Protection::new(&listed, &surroundings, &peers);
        assert_eq!(protection.words.get(&PROTECTED_ANY), Some(&1));
        let ports = protection.words.range(..PROTECTED_ANY).map(|(_, word)| word);
        let bits: u32 = ports.map(|word| word.count_ones()).sum();
        assert_eq!(bits, 3, "{protection:?}");
        let to = |to: &str, proto, port: u16| {
            let (src, dst) = (ip("10.61.0.2").into(), ip(to).into());
            FlowKey { src, dst, sport: 9, dport: port.to_be(), proto, pad: [0; 3] }
        };
        let of_pod = Flow { pod: 7, ..Flow::EMPTY };
        for (key, refused) in [
            (to("192.0.2.1", 6, 2379), true),
            (to("192.0.2.1", 6, 2380), true),
            (to("192.0.2.1", 6, 2381), false),
            (to("192.0.2.1", 17, 2379), false),
            (to("2001:db8::2", 17, 53), true),
            (to("2001:db8::3", 17, 53), false),
        ] {
            assert_eq!(protection.refuses(&key, &of_pod), refused, "{key:?}");
            assert!(!protection.refuses(&key, &Flow::EMPTY), "the node's own: {key:?}");
            let published = Flow { rewrite: Rewrite::Destination as u8, ..of_pod };
            assert!(!protection.refuses(&key, &published), "to a pod: {key:?}");
        }
    }

    #[test]
    fn flows_are_looked_at_when_there_is_more_to_refuse() {
        let of = |ports: &[&str], nodes: &[&str]| {
            let listed: Vec<Protected> = ports.iter().map(|text| text.parse().unwrap()).collect();
            let addresses = nodes.iter().map(|text| text.parse().unwrap()).collect();
            Protection::new(
                &listed,
                &Surroundings { addresses, ..Surroundings::default() },
                &Peers::default(),
            )
        };
        let (one, two) = (&["192.0.2.1"][..], &["192.0.2.1", "2001:db8::2"][..]);
        let (few, many) = (&["tcp:80"][..], &["tcp:80-81"][..]);
        for (before, now, more) in [
            (of(&[], one), of(few, one), true),
            (of(few, one), of(many, one), true),
            (of(few, one), of(few, two), true),
            (of(few, one), of(&["tcp:79"], one), true),
            (of(few, one), of(few, one), false),
            (of(many, two), of(few, one), false),
            (of(&[], one), of(&[], two), false),
            (of(few, one), of(&[], two), false),
        ] {
            assert_eq!(now.is_more_than(&before), more, "{before:?} -> {now:?}");
        }
    }
}
