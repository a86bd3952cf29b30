//! What a published port allows beside the rest: packets for the node become a pod's, and the pod's answers the node's.

use netpath_common::abi::{HAIRPIN_V4, HAIRPIN_V6, Program};
use netpath_tests::scene::{Ran, SERVER_PORT};

use super::{
    exits::{Change, unchanged},
    oracle::{Finding, Oracle, address},
    step::Step,
    view::{Address, View, word},
};

/// Protocols with ports.
const PROTOCOLS: [u8; 3] = [6, 17, 132];

impl Oracle {
    /// What a program hands to the stack: as it came, or led to the pod behind a published port, for the stack to fragment or
    /// to answer. True in the second case.
    pub(super) fn led_to_stack(&mut self, step: &Step, ran: &Ran) -> Result<bool, Finding> {
        let Some(view) = View::of(&step.packet, step.gso != 0) else { return Ok(false) };
        if !self.published || view.address(&ran.packet, false) == view.address(&step.packet, false) {
            return Ok(false);
        }
        let to = view.address(&ran.packet, false);
        if !self.addresses[0].contains(&to) || view.is_error(&step.packet) {
            // Perhaps the answer to a flow of the node's own.
            return Ok(false);
        }
        self.is_published(step, &view, ran)?;
        Change::ends(step, &view, false, true).check(step, ran)?;
        Ok(true)
    }

    /// What goes from a pod into one: as it is; led by a published port, and the answer to that; both ends of what a pod says
    /// to itself.
    pub(super) fn local_change(&mut self, step: &Step, view: &View, ran: &Ran) -> Result<Change, Finding> {
        let [source, destination] =
            [true, false].map(|end| view.address(&step.packet, end) != view.address(&ran.packet, end));
        if !source && !destination {
            return Ok(Change::link(step, view));
        }
        if !self.published {
            return Err("translated between pods".to_owned());
        }
        let is_hairpin =
            |of: &Address| [HAIRPIN_V4, HAIRPIN_V6].iter().any(|one| address(one.to_ip()) == *of);
        let [from, to] = [true, false].map(|end| view.address(&ran.packet, end));
        if source && !self.is_node(&from) && !is_hairpin(&from) {
            return Err("from a published port that is not the node's".to_owned());
        }
        if is_hairpin(&from) && self.pod_of(&to).map(|pod| pod.id) != self.sender(step).map(|pod| pod.id) {
            return Err("another pod in the place of itself".to_owned());
        }
        let was = view.address(&step.packet, false);
        if destination && !self.is_node(&was) && !is_hairpin(&was) {
            return Err("led away from who it was for".to_owned());
        }
        Ok(Change::ends(step, view, source, destination).with_macs())
    }

    /// Whether the wire may have a packet led into the pod behind the port; remembers who came so.
    pub(super) fn is_published(&mut self, step: &Step, view: &View, ran: &Ran) -> Result<(), Finding> {
        let to = view.address(&step.packet, false);
        let pair = (view.address(&ran.packet, false), view.address(&ran.packet, true));
        let port =
            (!view.later && view.transport + 4 <= view.end).then(|| word(&step.packet, view.transport + 2));
        let named = PROTOCOLS.contains(&view.protocol) && port == Some(SERVER_PORT.into());
        // A later part has no port; its first one may have come before the flows were forgotten.
        if self.is_node(&to) && (named || view.later) {
            if step.program == Program::FromUplink {
                self.led_in.insert(pair);
            }
            return Ok(());
        }
        Err("led by a port that is not published".to_owned())
    }

    /// What the stack sends to a pod: as it is, or as who came by a published port knows it.
    pub(super) fn out_of_stack(&self, step: &Step, ran: &Ran) -> Result<(), Finding> {
        match View::of(&step.packet, step.gso != 0).filter(|_| self.published) {
            Some(view) => Change::ends(step, &view, true, false).check(step, ran),
            None => unchanged(step, ran),
        }
    }
}
