//! Whether a packet on an uplink is a pod's, and what the pod has it as.

use std::{collections::VecDeque, net::IpAddr, path::Path};

use netpath_common::abi::{FlowKey, Rewrite};

use super::{
    CaptureError,
    read::{Read, Tuple},
};
use crate::{
    api::types::Pod,
    datapath::{DatapathError, FlowTable},
};

/// Datagrams in parts that are remembered, so that later parts are known by their first.
const DATAGRAMS: usize = 64;

/// A pod, as the flow table knows it.
pub(super) struct Owner {
    flows: FlowTable,
    addresses: Vec<IpAddr>,
    /// Datagrams whose first part was the pod's, and how the pod has that.
    datagrams: VecDeque<((IpAddr, IpAddr, u32), Tuple)>,
}

impl Owner {
    pub(super) fn open(pins: &Path, pod: &Pod) -> Result<Self, CaptureError> {
        let of_networks = pod.interfaces.iter().flat_map(|interface| &interface.addresses);
        let addresses = of_networks.chain(&pod.allowed_addresses).copied().collect();
        Ok(Self { flows: FlowTable::of_instance(pins)?, addresses, datagrams: VecDeque::new() })
    }

    /// What the pod has a packet as; `None` if it is not the pod's.
    pub(super) fn in_pod(&mut self, packet: &Read) -> Result<Option<Tuple>, DatapathError> {
        if let Some(part) = packet.part.filter(|part| !part.is_first) {
            let known = self.datagrams.iter().find(|(datagram, _)| *datagram == part.datagram);
            return Ok(known.map(|(_, tuple)| *tuple));
        }
        let in_pod = match packet.about {
            // An error goes with the packet that it is about.
            Some(about) => self.view(&about)?.map(|_| packet.tuple),
            None => self.view(&packet.tuple)?,
        };
        if let (Some(part), Some(tuple)) = (packet.part, in_pod) {
            self.datagrams.truncate(DATAGRAMS - 1);
            self.datagrams.push_front((part.datagram, tuple));
        }
        Ok(in_pod)
    }

    /// The pod's view of a tuple, whichever way its packets go.
    fn view(&self, tuple: &Tuple) -> Result<Option<Tuple>, DatapathError> {
        if self.addresses.contains(&tuple.source.0) || self.addresses.contains(&tuple.destination.0) {
            return Ok(Some(*tuple));
        }
        if let Some(own) = self.behind(tuple)? {
            return Ok(Some(with_echo(Tuple { destination: own, ..*tuple })));
        }
        let own = self.behind(&tuple.reversed())?;
        Ok(own.map(|own| with_echo(Tuple { source: own, ..*tuple }.reversed()).reversed()))
    }

    /// Where an answer with this tuple goes, if that is the pod.
    fn behind(&self, answer: &Tuple) -> Result<Option<(IpAddr, u16)>, DatapathError> {
        let key = FlowKey {
            src: answer.source.0.into(),
            dst: answer.destination.0.into(),
            sport: answer.source.1.to_be(),
            dport: answer.destination.1.to_be(),
            proto: answer.protocol,
            pad: [0; 3],
        };
        let half = self.flows.half(&key)?.filter(|half| half.rewrite == Rewrite::Destination as u8);
        let own = half.map(|half| (half.addr.to_ip(), u16::from_be(half.port)));
        Ok(own.filter(|(address, _)| self.addresses.contains(address)))
    }
}

/// An echo has the identifier of its destination in both places.
fn with_echo(tuple: Tuple) -> Tuple {
    match tuple.protocol {
        1 | 58 => Tuple { source: (tuple.source.0, tuple.destination.1), ..tuple },
        _ => tuple,
    }
}
