//! Decisions in words.

use std::net::{IpAddr, SocketAddr};

use netpath_common::abi::{
    Addr, DropReason, Program, Rewrite, RouteKind, TraceStage, TraceStep, TrafficClass,
};

use super::{
    packet::{ICMP, ICMPV6},
    view::View,
    walk::{End, Hop},
};
use crate::api::types::{TracedPacket, TracedStage};

/// Answers of `bpf_fib_lookup` (include/uapi/linux/bpf.h).
const FOUND: u8 = 0;
const NO_NEIGHBOUR: u8 = 7;
const TOO_LARGE: u8 = 8;

fn stage(stage: &str, decision: impl Into<String>) -> TracedStage {
    TracedStage { stage: stage.to_owned(), decision: decision.into(), ..TracedStage::default() }
}

impl View {
    /// What a program decided, in order.
    pub(super) fn stages(&self, hop: &Hop) -> Vec<TracedStage> {
        // Marked as finished, a packet is let pass before it is read.
        if hop.program == Program::ToUplink && hop.trace.key.proto == 0 {
            return vec![stage("deliver", "from_pod has finished with it: it leaves as it is")];
        }
        let mut stages = vec![stage("parse", describe(&hop.packet))];
        stages.extend(self.guard(hop));
        let mut steps = hop.steps().peekable();
        while let Some((which, step)) = steps.next() {
            let replaced = matches!(
                steps.peek(),
                Some((TraceStage::Bound | TraceStage::Tracked | TraceStage::Published, _))
            );
            self.decisions(hop, which, step, replaced, &mut stages);
        }
        stages.extend(self.endpoint(hop));
        stages.push(match hop.reason() {
            Some(reason) => stage("drop", format!("{}: {}", reason.name(), reason.advice())),
            None => stage("deliver", self.delivery(hop)),
        });
        stages
    }

    /// Whose the source is: asked of what a pod sends, and of what comes in with a pod's address.
    fn guard(&self, hop: &Hop) -> Option<TracedStage> {
        let (source, interface) = (hop.packet.source, self.interface_name(hop.ifindex));
        let refused = hop.reason() == Some(DropReason::SpoofedSource);
        let decision = match (hop.program, self.pod_behind(hop.ifindex)) {
            (Program::FromPod, Some(pod)) if refused => {
                format!("{source} is not an address of {pod}, which is behind {interface}")
            }
            (Program::FromPod, Some(pod)) => format!("{source} is {pod}'s, which is behind {interface}"),
            (Program::FromUplink, _) if refused => {
                format!("{source} is a pod's, and cannot come by {interface}")
            }
            (Program::FromUplink, _) => {
                let peer = self.peers.holder_of(source)?;
                format!("{source} is of a block of node {}", peer.holder.node)
            }
            _ => return None,
        };
        Some(stage("guard", decision))
    }

    fn decisions(
        &self,
        hop: &Hop,
        which: TraceStage,
        step: &TraceStep,
        replaced: bool,
        stages: &mut Vec<TracedStage>,
    ) {
        match which {
            TraceStage::Route => stages.push(self.route(hop, step)),
            TraceStage::NextHop => stages.push(self.next_hop(hop, step)),
            TraceStage::Flow => {
                stages.push(self.flow(step, replaced));
                stages.extend(translation(hop, step).filter(|_| !replaced));
            }
            TraceStage::Tracked => {
                stages.push(TracedStage {
                    new: Some(true),
                    ..stage("flow", "none is known: one would be made")
                });
            }
            TraceStage::Bound => {
                stages.push(TracedStage {
                    new: Some(true),
                    ..stage("flow", "none is known: one would be made")
                });
                stages.push(self.binding(hop, step));
            }
            TraceStage::Published => {
                stages.push(TracedStage {
                    new: Some(true),
                    ..stage("flow", "none is known: one would be made")
                });
                stages.push(self.published(hop, step));
            }
        }
    }

    /// The way by netpath's routes; with the node's name where it leads to another node's pod.
    fn route(&self, hop: &Hop, step: &TraceStep) -> TracedStage {
        let told = route(step);
        let peer = self.peers.holder_of(hop.packet.destination);
        match peer {
            _ if step.code == RouteKind::Tunnel as u8 => {
                let node = peer.map_or("another", |peer| &peer.holder.node);
                TracedStage { decision: format!("a pod of node {node}, by a tunnel"), ..told }
            }
            Some(peer) if step.code == RouteKind::Fib as u8 && step.number == 0 => {
                let node = &peer.holder.node;
                TracedStage { decision: format!("a pod of node {node}; the kernel's routes lead"), ..told }
            }
            _ => told,
        }
    }

    fn next_hop(&self, hop: &Hop, step: &TraceStep) -> TracedStage {
        let interface = self.interface_name(step.number);
        // Without a neighbour, kernels before 6.3 tell no MTU of the route.
        let mtu = if step.code == NO_NEIGHBOUR { self.mtu_of(step.number) } else { step.extra };
        let mtu = Some(mtu).filter(|mtu| *mtu != 0);
        let decision = match step.code {
            FOUND | NO_NEIGHBOUR => {
                let to = step.addr.to_ip();
                let to =
                    if to == hop.packet.destination { "on the link".to_owned() } else { format!("to {to}") };
                let by = if self.is_uplink(step.number) { "" } else { ", which is no uplink" };
                let mtu = mtu.map_or_else(String::new, |mtu| format!(", MTU {mtu}"));
                format!("{to} by {interface}{by}{mtu}")
            }
            TOO_LARGE => {
                format!("{} bytes are more than the route's MTU of {}", hop.packet.length, step.extra)
            }
            answer => no_way(answer).to_owned(),
        };
        let found = matches!(step.code, FOUND | NO_NEIGHBOUR);
        TracedStage {
            interface: found.then_some(interface),
            address: found.then(|| step.addr.to_ip()),
            source: known(step.other),
            mtu: mtu.filter(|_| found || step.code == TOO_LARGE),
            ..stage("next_hop", decision)
        }
    }

    fn flow(&self, step: &TraceStep, replaced: bool) -> TracedStage {
        let pod = self.pod_of(step.number);
        let whose = match (&pod, step.number) {
            (Some(pod), _) => format!("of {pod}"),
            (None, 0) => "of the node".to_owned(),
            (None, _) => "of a pod that is gone".to_owned(),
        };
        let direction = if step.extra == 0 { "" } else { ", this is its reply direction" };
        let fate = if replaced { ", and no longer fits: it would be forgotten" } else { direction };
        TracedStage { pod, new: Some(false), ..stage("flow", format!("known, {whose}{fate}")) }
    }

    fn binding(&self, hop: &Hop, step: &TraceStep) -> TracedStage {
        let port = u16::from_be(step.port);
        let shown = socket(hop.trace.key.proto, step.addr.to_ip(), port);
        let (first, last) = (self.ports.start(), self.ports.end());
        let decision = if port == hop.packet.source_port {
            format!("the source would become {shown}: its own port is free now")
        } else {
            format!("the source would become {shown}, or another free port of {first}-{last}")
        };
        TracedStage { address: Some(step.addr.to_ip()), port: Some(port), ..stage("translation", decision) }
    }

    fn published(&self, hop: &Hop, step: &TraceStep) -> TracedStage {
        let (address, port) = (step.addr.to_ip(), u16::from_be(step.port));
        let (shown, pod) = (socket(hop.trace.key.proto, address, port), self.pod_of(step.number));
        let whose = pod.as_ref().map_or_else(String::new, |pod| format!(", published by {pod}"));
        let decision = format!("the destination would become {shown}{whose}");
        TracedStage { pod, address: Some(address), port: Some(port), ..stage("translation", decision) }
    }

    /// The pod that the packet is for, where the program has asked.
    fn endpoint(&self, hop: &Hop) -> Option<TracedStage> {
        let asked = match hop.program {
            Program::FromPod => hop.step(TraceStage::Route).is_none() && hop.reason().is_none(),
            Program::FromUplink => {
                hop.step(TraceStage::Flow).is_none_or(|flow| flow.code == Rewrite::None as u8)
            }
            Program::ToPod => true,
            Program::FromOverlay => true,
            Program::ToUplink | Program::ToOverlay | Program::XdpUplink | Program::XdpPod => false,
        };
        let destination = hop.packet.destination;
        let (ifindex, pod) = (self.way_to(destination).filter(|_| asked)?.0, self.pod_at(destination)?);
        let mtu = self.mtu_of(ifindex);
        let decision = format!("{destination} is {pod}'s, by {}, MTU {mtu}", self.interface_name(ifindex));
        Some(TracedStage { pod: Some(pod), mtu: Some(mtu), ..stage("endpoint", decision) })
    }

    /// What becomes of a packet that goes on.
    fn delivery(&self, hop: &Hop) -> String {
        use TrafficClass as C;
        let next = || hop.step(TraceStage::NextHop);
        let uplink = || next().map_or_else(String::new, |step| self.interface_name(step.number));
        match (hop.class(), hop.program) {
            (Some(C::Local | C::Reply | C::Inbound | C::Published), _) => {
                "into the pod, past the host stack".to_owned()
            }
            (Some(C::FromStack), _) | (None, Program::ToPod) => "into the pod".to_owned(),
            (Some(C::Neighbour), _) => "the gateway answers by itself".to_owned(),
            (Some(C::ToNode), _) => "to the node's own stack".to_owned(),
            (Some(C::Translated), _) => format!("translated, to {}", uplink()),
            (Some(C::Routed), _) if hop.is_tunnelled() => {
                "with its own address, into the tunnel to its node".to_owned()
            }
            (Some(C::Routed), _) => format!("with its own address, to {}", uplink()),
            (None, Program::ToUplink) => "it leaves".to_owned(),
            (None, Program::XdpPod) => "on to from_pod".to_owned(),
            (None, Program::XdpUplink) => "its source is not denied".to_owned(),
            (Some(C::ToStack), _) if hop.packet.ttl <= 1 => {
                "to the host stack: it has no hop left, and gets `time exceeded`".to_owned()
            }
            (Some(C::ToStack), _) => match next().map(|step| step.code) {
                Some(FOUND | NO_NEIGHBOUR) => {
                    "to the host stack, which forwards it by its own rules".to_owned()
                }
                Some(TOO_LARGE) | None => {
                    "to the host stack: too large, it fragments it or answers `packet too big`".to_owned()
                }
                Some(_) => "to the host stack, which answers `unreachable`".to_owned(),
            },
            (None, Program::ToOverlay) => "into the tunnel".to_owned(),
            (None, Program::FromPod | Program::FromUplink | Program::FromOverlay) => {
                "nothing of netpath's: to the host stack".to_owned()
            }
        }
    }

    /// Where a way ends: a word and a sentence.
    pub(super) fn verdict(&self, hop: &Hop, left: &TracedPacket) -> (&'static str, String) {
        let interface = self.interface_name(hop.ifindex);
        match hop.end() {
            End::Pod => {
                let pod = self.pod_at(left.destination).unwrap_or_else(|| "a pod".to_owned());
                ("delivered", format!("delivered to {pod} as {}", describe(left)))
            }
            End::Tunnel => {
                let node = self.peers.holder_of(left.destination).map_or("another", |peer| &peer.holder.node);
                ("sent", format!("sent by the tunnel to node {node} as {}", describe(left)))
            }
            End::Wire => ("sent", format!("sent by {interface} as {}", describe(left))),
            End::Stack => ("stack", format!("{} on {interface}: {}", hop.program.name(), self.delivery(hop))),
            End::Answered => ("answered", "answered by the gateway".to_owned()),
            End::Dropped => {
                let reason = hop.reason().map_or("", DropReason::name);
                ("dropped", format!("dropped by {} on {interface}: {reason}", hop.program.name()))
            }
        }
    }
}

fn route(step: &TraceStep) -> TracedStage {
    let masquerade = step.number == 1;
    let decision = match step.code {
        kind if kind == RouteKind::Fib as u8 && masquerade => {
            "outside, masqueraded; the kernel's routes lead"
        }
        kind if kind == RouteKind::Fib as u8 => "outside, with its own address; the kernel's routes lead",
        kind if kind == RouteKind::Stack as u8 => "the node's own, or of its block without a pod",
        kind if kind == RouteKind::Tunnel as u8 => "another node, by a tunnel",
        kind if kind == RouteKind::Broadcast as u8 => "a broadcast address of a subnet",
        _ => "a route of the network drops it",
    };
    TracedStage { masquerade: Some(masquerade), ..stage("route", decision) }
}

/// What a known flow does to its packets.
fn translation(hop: &Hop, step: &TraceStep) -> Option<TracedStage> {
    let what = match step.code {
        code if code == Rewrite::Source as u8 => "source",
        code if code == Rewrite::Destination as u8 => "destination",
        _ => return None,
    };
    let (address, port) = (step.addr.to_ip(), u16::from_be(step.port));
    let decision = format!("the {what} becomes {}", socket(hop.trace.key.proto, address, port));
    Some(TracedStage { address: Some(address), port: Some(port), ..stage("translation", decision) })
}

/// What the FIB says where it names no next hop.
fn no_way(answer: u8) -> &'static str {
    match answer {
        1 => "the kernel has a blackhole route",
        2 => "the kernel has no route, or an unreachable one",
        3 => "the kernel has a prohibit route",
        5 => "forwarding is off on the pod's interface",
        6 => "the route encapsulates, which only the stack can",
        _ => "the kernel's routes lead to the node itself",
    }
}

fn known(address: Addr) -> Option<IpAddr> {
    (address != Addr::UNSPECIFIED).then(|| address.to_ip())
}

/// An address with its port, or an echo's identifier.
fn socket(protocol: u8, address: IpAddr, port: u16) -> String {
    match protocol {
        ICMP | ICMPV6 => format!("{address} id {port}"),
        _ => SocketAddr::new(address, port).to_string(),
    }
}

/// A packet in a line.
fn describe(packet: &TracedPacket) -> String {
    let TracedPacket { protocol, source, source_port, destination, destination_port, length, ttl } = packet;
    let ends = match protocol.as_str() {
        "icmp" | "icmpv6" => format!("{source} > {destination} id {source_port}"),
        _ if *source_port == 0 && *destination_port == 0 => format!("{source} > {destination}"),
        _ => {
            let [from, to] =
                [(*source, *source_port), (*destination, *destination_port)].map(SocketAddr::from);
            format!("{from} > {to}")
        }
    };
    format!("{protocol} {ends}, {length} bytes, {ttl} hops")
}
