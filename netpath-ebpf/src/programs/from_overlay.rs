//! tc ingress of the tunnels' device: what other nodes send, without its outer headers.

use netpath_common::abi::{DropReason, TrafficClass};

use super::protected;
use crate::{
    bpf::tunnel,
    packet::{Headers, Transport, parse, tc::Packet},
    stages::{
        deliver, endpoint, flow, fragment, metric,
        route::{self, Sender, Whose},
    },
    verdict::{Outcome, Verdict},
};

/// Only from nodes of the cluster, of each only what is its own, and only to pods here and to the node itself. Anybody who can send
/// to the node may send to the port of tunnels, with any VNI.
#[inline(always)]
pub fn run(packet: &Packet, headers: &mut Headers) -> Outcome {
    let key = tunnel::read(packet).ok_or(DropReason::ForeignTunnel)?;
    let frame = parse::ethernet(packet)?;
    if !frame.is_ip() {
        return Err(DropReason::UnsupportedProtocol);
    }
    parse::ip(packet, headers, &frame)?;
    let headers = headers.settled();
    let sender = route::tunnelled(headers, &key)?;
    let Some(pod) = endpoint::find(&headers.key.dst) else {
        if sender == Sender::Pod {
            fragment::resolve(headers);
            protected::refuse(headers)?;
        }
        // Never on to others.
        return match route::whose(&headers.key.dst) {
            Whose::Others => Err(DropReason::RouteDrop),
            Whose::Node | Whose::Block => Ok(Verdict::NEXT),
        };
    };
    if deliver::needs_stack(packet, headers, pod.mtu) {
        return Ok(Verdict::counted(TrafficClass::ToStack));
    }
    // So that the answers to a node leave as they are.
    if sender == Sender::Node && headers.transport != Transport::Error {
        fragment::resolve(headers);
        let known = flow::lookup_arriving(packet, headers)?;
        if !flow::is_of(headers, known, pod.pod) {
            flow::track_new(packet, headers, Some(pod))?;
        }
    }
    metric::received(packet, pod);
    deliver::to_pod(packet, headers, pod, TrafficClass::Inbound)
}
