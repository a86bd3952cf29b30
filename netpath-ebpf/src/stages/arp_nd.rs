//! The gateway's answers to ARP: microseconds where `proxy_arp` waits up to 0.8 s (`neigh.*.proxy_delay`).

use netpath_common::abi::{DropReason, Endpoint};

use crate::packet::{
    arp::{self, Arp},
    parse::{self, Ethernet},
    tc::Packet,
};

/// What to do with an ARP packet of a pod.
pub enum Decision {
    /// It has become an answer; send it back.
    Answered,
    /// Nothing of ours: a claim of its own address, or an answer to the node.
    Leave,
}

/// `sender` and `target` are the endpoints their addresses belong to. Every request is answered with the gateway's MAC
/// except those for the pod's own address: duplicate-address probes (RFC 5227) must find it free. A pod that speaks for
/// an address that is not its own is refused.
#[inline(always)]
pub fn decide(
    packet: &Packet,
    frame: &Ethernet,
    arp: &Arp,
    sender: Option<&'static Endpoint>,
    target: Option<&'static Endpoint>,
) -> Result<Decision, DropReason> {
    let ifindex = packet.ifindex();
    if arp.sender_mac != frame.source {
        return Err(DropReason::SpoofedSource);
    }
    if arp.sender.is_some() {
        let own =
            sender.is_some_and(|pod| pod.ifindex == ifindex && arp.sender_mac == parse::mac_words(pod.mac));
        if !own {
            return Err(DropReason::SpoofedSource);
        }
    }
    if !arp.request || target.is_some_and(|pod| pod.ifindex == ifindex) {
        return Ok(Decision::Leave);
    }
    arp::answer(packet, arp)?;
    Ok(Decision::Answered)
}
