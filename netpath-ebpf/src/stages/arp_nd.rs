//! The gateway's answers to ARP and neighbour discovery: microseconds where `proxy_arp` waits up to 0.8 s
//! (`neigh.*.proxy_delay`).

use netpath_common::abi::{Addr, DropReason, Endpoint, Link};

use crate::packet::{
    Headers, ICMPV6,
    arp::{self, Arp},
    nd,
    parse::Ethernet,
    tc::Packet,
};

/// What to do with a packet that finds neighbours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It has become an answer; send it back.
    Answered,
    /// Nothing of ours: a claim of its own address, a question of the link, or an answer to the node.
    Leave,
}

/// `link` tells whose the interface is, and the caller has seen that the frame carries its MAC; `find` tells the endpoint of
/// an address. Every request is answered with the gateway's MAC except those for the pod's own addresses, of all its
/// interfaces: duplicate-address probes (RFC 5227) must find them free. A pod that speaks for an address that is not its
/// own is refused.
#[inline(always)]
pub fn arp(
    packet: &Packet,
    frame: &Ethernet,
    arp: &Arp,
    link: &Link,
    find: impl Fn(&Addr) -> Option<&'static Endpoint>,
) -> Result<Decision, DropReason> {
    let is_own = |address: &Addr| find(address).is_some_and(|endpoint| endpoint.pod == link.pod);
    if arp.sender_mac != frame.source || arp.sender.is_some_and(|sender| !is_own(&sender)) {
        return Err(DropReason::SpoofedSource);
    }
    if !arp.request || is_own(&arp.target) {
        return Ok(Decision::Leave);
    }
    arp::answer(packet, arp)?;
    Ok(Decision::Answered)
}

/// Whether a packet is IPv6's talk on the link: neighbour and router discovery, multicast listeners, and whatever has a
/// link-local source, which is no endpoint's.
#[inline(always)]
pub fn is_of_the_link(headers: &Headers) -> bool {
    headers.v6
        && (headers.key.src.is_link_local_v6()
            || (headers.key.proto == ICMPV6 && nd::is_of_the_link(headers.icmp_type)))
}

/// Answers solicitations as ARP requests are. Duplicate-address probes come from `::` (RFC 4862, 5.4.2) and are all left
/// alone: those for link-local addresses concern nobody else, and the guard keeps the rest from being used. `link` and
/// `find` as above.
#[inline(always)]
pub fn nd(
    packet: &Packet,
    headers: &Headers,
    frame: &Ethernet,
    link: &Link,
    find: impl Fn(&Addr) -> Option<&'static Endpoint>,
) -> Result<Decision, DropReason> {
    let is_own = |address: &Addr| find(address).is_some_and(|endpoint| endpoint.pod == link.pod);
    let source = headers.key.src;
    let nameless = source == Addr::UNSPECIFIED;
    if !nameless && !source.is_link_local_v6() && !is_own(&source) {
        return Err(DropReason::SpoofedSource);
    }
    // A link-local source is for finding neighbours only: nothing of it is routed, and groups are nobody's (mDNS).
    if headers.key.proto != ICMPV6 || !nd::is_of_the_link(headers.icmp_type) {
        let group = headers.key.dst.is_multicast_v6();
        return Err(if group { DropReason::Multicast } else { DropReason::SpoofedSource });
    }
    match headers.icmp_type {
        nd::SOLICITATION => {
            let question = nd::read(packet, headers)?;
            if nameless || question.target == source || is_own(&question.target) {
                return Ok(Decision::Leave);
            }
            if question.has_mac && question.mac != frame.source {
                return Err(DropReason::SpoofedSource);
            }
            nd::answer(packet, headers, &question)?;
            Ok(Decision::Answered)
        }
        nd::ADVERTISEMENT => {
            let claim = nd::read(packet, headers)?;
            let own = is_own(&claim.target) || claim.target.is_link_local_v6();
            if !own || (claim.has_mac && claim.mac != frame.source) {
                return Err(DropReason::SpoofedSource);
            }
            Ok(Decision::Leave)
        }
        // Router advertisements and redirects would make the pod a router.
        nd::ROUTER_ADVERTISEMENT | nd::REDIRECT => Err(DropReason::SpoofedSource),
        _ => Ok(Decision::Leave),
    }
}
