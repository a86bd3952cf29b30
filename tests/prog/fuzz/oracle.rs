//! What must hold of every run, whatever the packet.

use std::collections::HashSet;

use netpath_common::abi::Program;
use netpath_tests::{
    packet::ETHERNET,
    scene::{DROP, Family, GATEWAY_MAC, NEXT, Pod, REDIRECT, Ran, Scene},
};

use super::{
    exits,
    step::{Place, Step},
    view::{Address, View, raw_source, widen},
};

/// The mark of what `from_pod` has finished with (`netpath-ebpf/src/packet/tc.rs`).
pub(super) const FINISHED: u32 = 0x6e70_0001;

/// What a run did wrong.
pub(super) type Finding = String;

/// The scene as the oracle knows it, and whom pods have talked to since the flows were last forgotten.
pub(super) struct Oracle {
    pub(super) pods: [Pod; 2],
    pub(super) addresses: [[Address; 2]; 2],
    node: Vec<Address>,
    /// The node's addresses that pods send to; the others are its in translations only.
    routed_node: [Address; 2],
    /// Networks let packets from outside in.
    pub(super) inbound: bool,
    /// Pod and peer, where the pod has sent something on its way.
    pub(super) went_out: HashSet<(Address, Address)>,
    /// Pod and peer, where the peer came in by itself.
    pub(super) came_in: HashSet<(Address, Address)>,
    /// Pod and peer, where the peer came in by a published port.
    pub(super) led_in: HashSet<(Address, Address)>,
    /// A port of the node leads to pod A.
    pub(super) published: bool,
    /// Pods do not reach that port of the node.
    pub(super) protects: bool,
    pub(super) dropped: u64,
}

impl Oracle {
    pub(super) fn new(scene: &Scene, pool: &[std::net::IpAddr], inbound: bool) -> Self {
        let pods = [scene.a, scene.b];
        Self {
            pods,
            addresses: pods.map(|pod| [address(pod.ip), address(pod.ip6)]),
            node: pool.iter().map(|ip| address(*ip)).collect(),
            routed_node: [Family::V4.node, Family::V6.node].map(address),
            inbound,
            went_out: HashSet::new(),
            came_in: HashSet::new(),
            led_in: HashSet::new(),
            published: false,
            protects: false,
            dropped: 0,
        }
    }

    /// The flows are gone.
    pub(super) fn forget(&mut self) {
        self.went_out.clear();
        self.came_in.clear();
        self.led_in.clear();
    }

    /// Judges one run.
    pub(super) fn check(&mut self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        let allowed: &[i32] = match step.program {
            Program::FromPod | Program::FromUplink => &[NEXT, DROP, REDIRECT],
            Program::ToPod
            | Program::ToUplink
            | Program::ToOverlay
            | Program::FromOverlay
            | Program::XdpUplink
            | Program::XdpPod => &[NEXT, DROP],
        };
        if !allowed.contains(&ran.code) {
            return Err(format!("verdict {} is none of {allowed:?}", ran.code));
        }
        if ran.code == DROP {
            self.dropped += 1;
            return Ok(());
        }
        if ran.packet.len() != step.packet.len() {
            return Err(format!("{} bytes became {}", step.packet.len(), ran.packet.len()));
        }
        let marked = ran.mark == FINISHED;
        if marked && (step.program, ran.code) != (Program::FromPod, REDIRECT) {
            return Err("marked as finished without being sent to the wire".to_owned());
        }
        match (step.program, ran.code) {
            (Program::FromPod, NEXT) => self.pod_to_stack(step, ran),
            (Program::FromPod, _) if marked => self.pod_to_wire(step, ran),
            (Program::FromPod, _) if is_answer(step, ran) => self.answered(step, ran),
            (Program::FromPod, _) => self.pod_to_pod(step, ran),
            (Program::ToPod, _) => self.stack_to_pod(step, ran),
            (Program::FromUplink, NEXT) => self.wire_to_stack(step, ran),
            (Program::FromUplink, _) => self.wire_to_pod(step, ran),
            (Program::ToUplink, _) => self.stack_to_wire(step, ran),
            (Program::XdpUplink | Program::XdpPod | Program::FromOverlay | Program::ToOverlay, _) => {
                Err("the hunt runs tc programs of pods and uplinks".to_owned())
            }
        }
    }

    pub(super) fn pod_of(&self, address: &Address) -> Option<Pod> {
        self.addresses.iter().position(|own| own.contains(address)).map(|at| self.pods[at])
    }

    pub(super) fn is_node(&self, address: &Address) -> bool {
        self.node.contains(address)
    }

    /// Whether a pod sent this from its own address and MAC.
    fn is_own(&self, step: &Step, view: &View) -> bool {
        let pod = self.pod_of(&view.address(&step.packet, true));
        pod.is_some_and(|pod| {
            self.sender(step).is_some_and(|own| own.id == pod.id) && from_mac(step, pod.mac)
        })
    }

    pub(super) fn sender(&self, step: &Step) -> Option<Pod> {
        match step.on {
            Place::A => Some(self.pods[0]),
            Place::B => Some(self.pods[1]),
            _ => None,
        }
    }

    /// A pod's packet that the node's stack gets.
    fn pod_to_stack(&mut self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        if !self.led_to_stack(step, ran)? {
            exits::unchanged(step, ran)?;
        }
        let Some(view) = View::of(&step.packet, step.gso != 0) else {
            return match step.packet[12..14] {
                [0x08, 0x06] => self.own_claim(step),
                _ => Err("no packet, and let go to the stack".to_owned()),
            };
        };
        if self.protects && view.is_for_server(&step.packet, &self.routed_node) {
            return Err("a protected port of the node was reached".to_owned());
        }
        if self.is_own(step, &view) {
            let pair = (view.address(&step.packet, true), view.address(&step.packet, false));
            self.went_out.insert(pair);
            return Ok(());
        }
        self.link_talk(step, &view)
    }

    /// ARP that the stack sees: the pod's own.
    fn own_claim(&self, step: &Step) -> Result<(), Finding> {
        let sender = widen(&step.packet[28..32]);
        let own = self.sender(step).is_some_and(|pod| self.pod_of(&sender).is_some_and(|of| of.id == pod.id));
        if own || sender[12..] == [0; 4] { Ok(()) } else { Err("ARP in another's name".to_owned()) }
    }

    /// Neighbour discovery and multicast listeners: the only packets that need no address of the pod's.
    fn link_talk(&self, step: &Step, view: &View) -> Result<(), Finding> {
        let source = view.address(&step.packet, true);
        let nameless = source == [0; 16] || source[0] == 0xfe && source[1] & 0xc0 == 0x80;
        let kind = view.icmp_type(&step.packet);
        let talk = matches!(kind, Some(130..=137 | 143));
        let mac = self.sender(step).is_some_and(|pod| from_mac(step, pod.mac));
        if view.v6 && nameless && talk && mac { Ok(()) } else { Err("a forged source was let go".to_owned()) }
    }

    /// A pod's packet that leaves by the uplink.
    fn pod_to_wire(&mut self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        let view = self.forwarded(step)?;
        exits::Change::source(step, &view).with_hop(step, ran)?.check(step, ran)?;
        self.note_out(step, &view);
        self.no_leak(step, ran)
    }

    /// A pod's packet that goes into another pod, or back into its own.
    fn pod_to_pod(&mut self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        let view = self.forwarded(step)?;
        self.local_change(step, &view, ran)?.with_hop(step, ran)?.check(step, ran)?;
        self.at_its_pod(step, &view, ran)
    }

    fn forwarded(&self, step: &Step) -> Result<View, Finding> {
        let view = View::of(&step.packet, step.gso != 0).ok_or("no packet, and forwarded")?;
        if self.is_own(step, &view) { Ok(view) } else { Err("a forged source was forwarded".to_owned()) }
    }

    /// The gateway's answer.
    fn answered(&self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        if ran.packet[..6] != step.packet[6..12] || ran.packet[6..12] != GATEWAY_MAC {
            return Err("an answer with other MAC addresses".to_owned());
        }
        if !self.sender(step).is_some_and(|pod| from_mac(step, pod.mac)) {
            return Err("an answer to a forged MAC".to_owned());
        }
        exits::answer(step, ran)
    }

    /// What the stack sends to a pod.
    fn stack_to_pod(&mut self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        self.out_of_stack(step, ran)?;
        let Some(view) = View::of(&step.packet, step.gso != 0) else { return Ok(()) };
        let [source, destination] = [true, false].map(|source| view.address(&step.packet, source));
        if self.pod_of(&destination).is_none() {
            return Ok(());
        }
        self.by_its_own_link(step, &source)?;
        if step.from == Place::Nowhere || self.pod_of(&source).is_some() {
            return Ok(());
        }
        self.let_in(&step.packet, &view, false)
    }

    /// What the wire brings, for the node; or for a pod of an open network, and too long for it.
    fn wire_to_stack(&mut self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        if self.led_to_stack(step, ran)? {
            return Ok(());
        }
        exits::own_reply(step, ran, |address| self.is_node(address))?;
        let Some(view) = View::of(&step.packet, step.gso != 0).filter(|_| self.inbound) else {
            return Ok(());
        };
        let [source, destination] = [true, false].map(|source| view.address(&step.packet, source));
        if self.pod_of(&destination).is_some() {
            self.came_in.insert((destination, source));
        }
        Ok(())
    }

    /// What the wire brings, into a pod.
    fn wire_to_pod(&mut self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        let view = View::of(&step.packet, step.gso != 0).ok_or("no packet, and forwarded")?;
        let translated = view.address(&step.packet, false) != view.address(&ran.packet, false);
        let change = if translated {
            exits::Change::destination(step, &view)
        } else {
            exits::Change::link(step, &view)
        };
        change.with_macs().with_hop(step, ran)?.check(step, ran)?;
        if self.pod_of(&view.address(&step.packet, true)).is_some() {
            return Err("a pod's address from the wire reached a pod".to_owned());
        }
        self.at_its_pod(step, &view, ran)?;
        if self.published && translated && !view.is_error(&step.packet) {
            let led = self.is_published(step, &view, ran);
            return led.or_else(|_| self.let_in(&ran.packet, &view, translated));
        }
        self.let_in(&ran.packet, &view, translated)
    }

    /// What the stack forwards for a pod has come from that pod.
    fn by_its_own_link(&self, step: &Step, source: &Address) -> Result<(), Finding> {
        let from = match step.from {
            _ if step.mark == FINISHED => return Ok(()),
            Place::Nowhere => return Ok(()),
            Place::A => Some(self.pods[0].id),
            Place::B => Some(self.pods[1].id),
            _ => None,
        };
        match self.pod_of(source) {
            Some(pod) if from != Some(pod.id) => Err("a pod's address by another link".to_owned()),
            _ => Ok(()),
        }
    }

    fn at_its_pod(&self, step: &Step, view: &View, ran: &Ran) -> Result<(), Finding> {
        let pod = self.pod_of(&view.address(&ran.packet, false)).ok_or("redirected to no pod")?;
        if ran.packet[..6] != pod.mac || ran.packet[6..12] != GATEWAY_MAC {
            return Err(format!("forwarded with other MAC addresses than the pod's, on {:?}", step.on));
        }
        Ok(())
    }

    /// Only who was asked answers, and only errors about what was sent come in.
    fn let_in(&mut self, frame: &[u8], view: &View, translated: bool) -> Result<(), Finding> {
        let pair = (view.address(frame, false), view.address(frame, true));
        let inner = view.embedded(frame).filter(|_| view.is_error(frame));
        let asked = match inner {
            Some(inner) => self.knows(&(inner.address(frame, true), inner.address(frame, false))),
            None => self.knows(&pair),
        };
        if self.inbound && !translated && inner.is_none() {
            self.came_in.insert(pair);
        }
        if asked || self.inbound { Ok(()) } else { Err("let in without having been asked".to_owned()) }
    }

    fn knows(&self, pair: &(Address, Address)) -> bool {
        [&self.went_out, &self.came_in, &self.led_in].iter().any(|all| all.contains(pair))
    }

    /// What leaves by an uplink.
    fn stack_to_wire(&mut self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        if step.mark == FINISHED {
            return exits::unchanged(step, ran);
        }
        match View::of(&step.packet, step.gso != 0) {
            Some(view) => {
                exits::Change::source(step, &view).check(step, ran)?;
                self.by_its_own_link(step, &view.address(&step.packet, true))?;
                if self.pod_of(&view.address(&step.packet, true)).is_some() {
                    self.note_out(step, &view);
                }
            }
            None => exits::unchanged(step, ran)?,
        }
        self.no_leak(step, ran)
    }

    fn note_out(&mut self, step: &Step, view: &View) {
        if !view.is_error(&step.packet) {
            let [source, destination] = [true, false].map(|source| view.address(&step.packet, source));
            self.went_out.insert((source, destination));
        }
    }

    /// Invariant 1.
    fn no_leak(&self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        let Some(source) = raw_source(&ran.packet) else { return Ok(()) };
        let was_pods = raw_source(&step.packet).is_some_and(|source| self.pod_of(&source).is_some());
        let view = View::of(&ran.packet, step.gso != 0);
        let destination = view.map(|view| view.address(&ran.packet, false));
        let may = destination.is_some_and(|to| is_unmasked(&to) || self.came_in.contains(&(source, to)));
        let forwarded = step.from != Place::Nowhere || step.program == Program::FromPod;
        if !may && (self.pod_of(&source).is_some() || forwarded && is_in_block(&source)) {
            return Err("a pod's address leaves".to_owned());
        }
        if was_pods && self.pod_of(&source).is_none() && !self.is_node(&source) {
            return Err("translated to an address that is not the node's".to_owned());
        }
        let Some(view) = view.filter(|view| was_pods && !may && view.is_error(&ran.packet)) else {
            return Ok(());
        };
        let inner = view.embedded(&ran.packet);
        if inner.is_some_and(|inner| is_in_block(&inner.address(&ran.packet, false))) {
            return Err("a pod's address leaves in an ICMP error".to_owned());
        }
        Ok(())
    }
}

/// Whether the program answered in the gateway's name: ARP, or the IP source has changed and the hops have not.
fn is_answer(step: &Step, ran: &Ran) -> bool {
    step.packet[12..14] == [0x08, 0x06]
        || View::of(&step.packet, step.gso != 0).is_some_and(|view| {
            view.address(&step.packet, true) != view.address(&ran.packet, true)
                && step.packet[view.hops_at()] == ran.packet[view.hops_at()]
        })
}

fn from_mac(step: &Step, mac: [u8; 6]) -> bool {
    step.packet[6..12] == mac
}

pub(super) fn address(ip: std::net::IpAddr) -> Address {
    match ip {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}

/// Routed without masquerade: the unmasked prefixes, /24 and /48.
fn is_unmasked(to: &Address) -> bool {
    to[..15] == address(Family::V4.unmasked)[..15] || to[..6] == address(Family::V6.unmasked)[..6]
}

/// In the block: /24 and /64.
fn is_in_block(of: &Address) -> bool {
    of[..15] == address(Family::V4.a)[..15] || of[..8] == address(Family::V6.a)[..8]
}

/// Where the IP header of a frame starts.
pub(super) const IP: usize = ETHERNET;
