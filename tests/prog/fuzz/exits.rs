//! What may have changed in a packet on its way out, byte by byte.

use std::ops::Range;

use netpath_common::abi::Program;
use netpath_tests::{packet::ETHERNET, scene::Ran};

use super::{
    oracle::Finding,
    step::Step,
    view::{Address, View, word},
};

/// Bytes that may change, and sums that may not.
pub(super) struct Change {
    view: View,
    inner: Option<View>,
    bytes: Vec<Range<usize>>,
}

impl Change {
    /// Translation of the source.
    pub(super) fn source(step: &Step, view: &View) -> Self {
        Self::translation(step, view, true)
    }

    /// Translation of the destination.
    pub(super) fn destination(step: &Step, view: &View) -> Self {
        Self::translation(step, view, false)
    }

    /// The MAC addresses alone.
    pub(super) fn link(step: &Step, view: &View) -> Self {
        let _ = step;
        Self { view: *view, inner: None, bytes: Vec::new() }.with_macs()
    }

    /// Translation of either end, or both.
    pub(super) fn ends(step: &Step, view: &View, source: bool, destination: bool) -> Self {
        let mut change = Self::translation(step, view, !destination);
        if source && destination {
            change.bytes.append(&mut Self::translation(step, view, true).bytes);
        }
        change
    }

    fn translation(step: &Step, view: &View, source: bool) -> Self {
        let inner = view.embedded(&step.packet).filter(|_| view.is_error(&step.packet));
        let mut change = Self { view: *view, inner, bytes: Vec::new() };
        change.allow_end(view, source);
        match inner {
            Some(inner) => {
                // The embedded packet went the other way.
                change.allow_end(&inner, !source);
                change.allow(view.checksum_at(), 2);
            }
            None => change.allow(view.port_at(source), 2),
        }
        change
    }

    /// An address, its port, the checksums.
    fn allow_end(&mut self, view: &View, source: bool) {
        let (start, end) = view.address_at(source);
        self.bytes.push(start..end);
        if !view.v6 {
            self.allow(Some(view.ip + 10), 2);
        }
        self.allow(view.checksum_at(), 2);
        if view.ip != ETHERNET {
            self.allow(view.port_at(source), 2);
        }
    }

    fn allow(&mut self, at: Option<usize>, length: usize) {
        self.bytes.extend(at.map(|at| at..at + length));
    }

    pub(super) fn with_macs(mut self) -> Self {
        self.bytes.push(0..12);
        self
    }

    /// One hop less, exactly.
    pub(super) fn with_hop(mut self, step: &Step, ran: &Ran) -> Result<Self, Finding> {
        let at = self.view.hops_at();
        let (before, after) = (step.packet[at], ran.packet[at]);
        if before < 2 || after != before - 1 {
            return Err(format!("{before} hops became {after}"));
        }
        self.bytes.push(at..at + 1);
        if !self.view.v6 {
            self.bytes.push(at + 2..at + 4);
        }
        Ok(self)
    }

    pub(super) fn check(&self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        let (before, after) = (&step.packet, &ran.packet);
        if before == after {
            return Ok(());
        }
        let changed = |at: &usize| before[*at] != after[*at];
        let outside = |at: &usize| !self.bytes.iter().any(|range| range.contains(at));
        if let Some(at) = (0..before.len()).filter(changed).find(outside) {
            return Err(format!("byte {at} changed from {:02x} to {:02x}", before[at], after[at]));
        }
        if View::of(after, step.gso != 0) != Some(self.view) {
            return Err("what was forwarded reads as another kind of packet".to_owned());
        }
        same_sums("", &self.view, before, after)?;
        self.inner.iter().try_for_each(|inner| same_sums("embedded ", inner, before, after))
    }
}

/// Checksums stay as right, or as wrong by as much, as they were.
fn same_sums(which: &str, view: &View, before: &[u8], after: &[u8]) -> Result<(), Finding> {
    if view.header_sum(before) != view.header_sum(after) {
        return Err(format!("{which}IPv4 header checksum"));
    }
    if view.transport_sum(before) != view.transport_sum(after) {
        return Err(format!("{which}transport checksum"));
    }
    Ok(())
}

pub(super) fn unchanged(step: &Step, ran: &Ran) -> Result<(), Finding> {
    match (0..step.packet.len()).find(|at| step.packet[*at] != ran.packet[*at]) {
        Some(at) => Err(format!("byte {at} changed from {:02x} to {:02x}", step.packet[at], ran.packet[at])),
        None => Ok(()),
    }
}

/// `from_uplink` leaves a packet to the stack: as it came, or the answer to a flow of the node's own, translated back.
pub(super) fn own_reply(step: &Step, ran: &Ran, is_node: impl Fn(&Address) -> bool) -> Result<(), Finding> {
    if step.packet == ran.packet {
        return Ok(());
    }
    let view = View::of(&step.packet, step.gso != 0).ok_or("no packet, and changed")?;
    Change::destination(step, &view).check(step, ran)?;
    if is_node(&view.address(&ran.packet, false)) {
        Ok(())
    } else {
        Err("translated to what is not the node's, and left to the stack".to_owned())
    }
}

/// The gateway's answers to ARP, neighbour discovery and pings.
pub(super) fn answer(step: &Step, ran: &Ran) -> Result<(), Finding> {
    debug_assert_eq!(step.program, Program::FromPod);
    let (before, after) = (&step.packet, &ran.packet);
    if before[12..14] == [0x08, 0x06] {
        let right = after[20..22] == [0, 2]
            && after[28..32] == before[38..42]
            && after[32..42] == before[22..32]
            && after[22..28] == after[6..12];
        return if right { Ok(()) } else { Err("an ARP answer that answers something else".to_owned()) };
    }
    let view = View::of(before, step.gso != 0).ok_or("no packet, and answered")?;
    if View::of(after, step.gso != 0) != Some(view) {
        return Err("an answer that reads as another kind of packet".to_owned());
    }
    same_sums("", &view, before, after)?;
    if view.address(after, false) != view.address(before, true) {
        return Err("an answer to somebody else".to_owned());
    }
    let source = view.address(after, true);
    match (view.v6, view.icmp_type(before), view.icmp_type(after)) {
        (false, Some(8), Some(0)) | (true, Some(128), Some(129)) => {
            if source == view.address(before, false) {
                Ok(())
            } else {
                Err("an echo from elsewhere".to_owned())
            }
        }
        (true, Some(135), Some(136)) => {
            let at = view.transport + 8;
            let unicast = source[0] != 0xff && source != [0; 16];
            let right = source == before[at..at + 16] && after[at..at + 16] == before[at..at + 16];
            if !unicast || !right || word(after, view.transport) & 0xff != 0 || after[21] != 255 {
                return Err("an advertisement that is not valid".to_owned());
            }
            Ok(())
        }
        other => Err(format!("type {other:?} answered")),
    }
}
