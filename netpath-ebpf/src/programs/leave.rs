//! What leaves by an uplink for a pod: its flow, its translation. `from_pod` and `to_uplink` share it.

use netpath_common::{
    abi::{Addr, DropReason, ENDPOINT_PUBLISHES, Endpoint, FlowKey, Program, Uplink},
    logic::{source_choice::Sources, tcp::RST},
};

use super::{embedded_headers, protected};
use crate::{
    packet::{
        Headers, Transport, embedded,
        rewrite::{self, Translation},
        tc::Packet,
    },
    stages::{event, flow, nat, publish, route},
};

/// A packet about to leave.
pub struct Leaving<'a> {
    /// Who sent it.
    pub pod: &'a Endpoint,
    /// Its way says masquerade.
    pub masquerade: bool,
    /// Where it leaves.
    pub uplink: &'static Uplink,
    /// The route's source address, unspecified if the kernel does not tell it; `None` if it is still to be asked, which
    /// only a new binding is worth.
    pub routed: Option<Addr>,
    /// The program that asks.
    pub program: Program,
}

/// Translates the packet if its flow or its way says so; returns whether it did. Untranslated flows are tracked, so that
/// their answers are let in.
#[inline(always)]
pub fn translate(packet: &Packet, headers: &Headers, leaving: &Leaving<'_>) -> Result<bool, DropReason> {
    if headers.transport == Transport::Error {
        return translate_error(packet, headers, leaving.pod.pod, leaving.masquerade);
    }
    // Also of flows that are known: they may be older than the cluster, or answer what came by a published port.
    let renamed = leaving.masquerade || leaving.pod.flags & ENDPOINT_PUBLISHES != 0;
    if renamed && route::is_for_a_tunnel(headers) {
        return Err(DropReason::ForeignTunnel);
    }
    let translation = match flow::lookup_leaving(packet, headers, leaving.pod.pod, leaving.masquerade) {
        Some(known) => flow::translation(known),
        None => {
            protected::refuse(headers)?;
            if leaving.masquerade {
                Some(new_flow(packet, headers, leaving)?)
            } else {
                flow::track_new(packet, headers, Some(leaving.pod))?;
                None
            }
        }
    };
    let Some(translation) = translation else { return Ok(false) };
    rewrite::translate(packet, headers, &translation)?;
    Ok(true)
}

#[inline(always)]
fn new_flow(packet: &Packet, headers: &Headers, leaving: &Leaving<'_>) -> Result<Translation, DropReason> {
    let sources = match &leaving.routed {
        Some(routed) => route::sources(leaving.uplink, headers, routed)?,
        None => route::sources_of_forwarded(packet, headers, leaving.uplink)?,
    };
    if headers.transport == Transport::Unknown {
        // Of several addresses nobody knows which one the first part will get.
        if sources.pool.count > 1 {
            return Err(DropReason::FragmentOutOfOrder);
        }
        // A later part before its first: it has no port to translate, and the address is the one its first part gets.
        return Ok(Translation { addr: sources.address(&headers.key.src, 0), port: 0, source: true });
    }
    bind(packet, headers, Some(leaving.pod), sources, leaving.program)
}

/// Makes the binding of a new flow, and tells of it.
#[inline(always)]
pub fn bind(
    packet: &Packet,
    headers: &Headers,
    pod: Option<&Endpoint>,
    sources: &Sources,
    program: Program,
) -> Result<Translation, DropReason> {
    nat::translatable(headers)?;
    let translation = flow::bind::<Published>(packet, headers, pod, sources)?;
    event::flow(packet, headers, program, &translation.addr, translation.port);
    Ok(translation)
}

/// Published ports are nobody's to send from: answers to that would be for the pod behind the port.
struct Published;

impl flow::Taken for Published {
    #[inline(always)]
    fn is_taken(reply: &FlowKey) -> bool {
        is_published(&reply.dst, reply.dport, reply.proto)
    }
}

/// Whether a packet of the node opens something from a port that leads to a pod. What refuses a packet opens nothing.
#[inline(always)]
pub fn is_from_published(headers: &Headers) -> bool {
    let key = &headers.key;
    headers.transport == Transport::Ports
        && headers.tcp_flags & RST == 0
        && is_published(&key.src, key.sport, key.proto)
}

/// Whether a port of the node leads to a pod. Not inlined: it would stand on the stack of the search for a port.
#[inline(never)]
fn is_published(addr: &Addr, port: u16, proto: u8) -> bool {
    route::publishes() && publish::find(addr, port, proto).is_some()
}

/// Translates an ICMP error that a pod (or the node, number 0) sends about a packet that came for it, as its own packets of
/// that flow are; returns whether it did.
#[inline(always)]
pub fn translate_error(
    packet: &Packet,
    headers: &Headers,
    pod: u32,
    masquerade: bool,
) -> Result<bool, DropReason> {
    match error(packet, headers, pod, masquerade) {
        UNTRANSLATED => Ok(false),
        TRANSLATED => Ok(true),
        reason => Err(DropReason::from_u8(reason).unwrap_or(DropReason::NotReady)),
    }
}

/// Answers of `error` beside drop reasons.
const UNTRANSLATED: u8 = 0;
const TRANSLATED: u8 = u8::MAX;

/// Not inlined: rare, and it would stand in the fast path's middle.
#[inline(never)]
fn error(packet: &Packet, headers: &Headers, pod: u32, masquerade: bool) -> u8 {
    let Ok(inner) = embedded_headers() else { return DropReason::NotReady as u8 };
    let about = flow::related(packet, headers, inner);
    let translation =
        match about {
            // About a packet that came by a published port and that the stack was left to deliver: whoever sent it knows nothing
            // of the pod behind the port.
            Some(flow::About {
                translation: Some(translation @ Translation { source: true, .. }), ..
            }) if pod == 0 => translation,
            // The node may say of anybody's packets what it likes.
            Some(about) if about.pod != pod && pod == 0 => return UNTRANSLATED,
            // About another pod's flow, or about a packet that never came here: forged.
            Some(about) if about.pod != pod => return DropReason::SpoofedSource as u8,
            // About a packet that the pod sent, to the node's address that it left with: only the wire tells of those.
            Some(flow::About { translation: Some(Translation { source: false, .. }), .. }) => {
                return DropReason::SpoofedSource as u8;
            }
            Some(flow::About { translation: Some(translation), .. }) => translation,
            // An answer to who came to the pod's own address.
            Some(about) if !about.original => return UNTRANSLATED,
            _ if masquerade => return DropReason::ProtocolNotTranslated as u8,
            _ => return UNTRANSLATED,
        };
    match embedded::translate(packet, headers, inner, &translation) {
        Ok(()) => TRANSLATED,
        Err(reason) => reason as u8,
    }
}
