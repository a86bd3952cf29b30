//! XDP of a pod's host interface: the short way to another pod that takes frames by XDP. Everything else goes on to
//! `from_pod`, which judges, translates, counts and drops.

use netpath_common::abi::{
    ENDPOINT_LIMITED_IN, ENDPOINT_LIMITED_OUT, ENDPOINT_PUBLISHES, ENDPOINT_XDP, Endpoint,
};

use crate::{
    packet::{Headers, parse, xdp::Packet},
    stages::{arp_nd, deliver, endpoint, guard, metric},
    verdict::{Outcome, Verdict},
};

/// parse → guard → a local pod. Nothing is dropped here, and nothing changed of what is not redirected.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    let Some((source, pod)) = ends(packet, headers) else { return Ok(Verdict::NEXT) };
    metric::sent(packet, source);
    metric::received(packet, pod);
    deliver::to_pod_by_xdp(packet, headers, pod)
}

/// Who has sent a packet that can take the short way, and who gets it.
#[inline(always)]
fn ends(packet: &Packet, headers: &mut Headers) -> Option<(&'static Endpoint, &'static Endpoint)> {
    let frame = parse::ethernet(packet).ok().filter(parse::Ethernet::is_ip)?;
    parse::ip(packet, headers, &frame).ok()?;
    let headers = headers.settled();
    if arp_nd::is_of_the_link(headers) {
        return None;
    }
    let source = guard::check(packet, &frame, endpoint::find(&headers.key.src), endpoint::link).ok()?;
    let pod = endpoint::find(&headers.key.dst)?;
    // What a pod says that publishes may have to be translated; and no queue is on this way, nor anybody who counts.
    let plain = source.flags & (ENDPOINT_PUBLISHES | ENDPOINT_LIMITED_OUT) == 0;
    let takes = pod.flags & (ENDPOINT_XDP | ENDPOINT_LIMITED_IN) == ENDPOINT_XDP;
    let short = plain && takes && !deliver::needs_stack(packet, headers, pod.mtu);
    short.then_some((source, pod))
}
