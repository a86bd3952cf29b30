//! Expiry.
//!
//! A half tells its pair's state alone, so that a sweep asks for the other half only where this one's time is over, and
//! reads the table once.
//!
//! **Against a packet that comes just then**: a half is taken out and returned by one operation under the lock of its
//! bucket. If what was taken differs from what was read, a packet came in between and the pair is put back. What is left
//! is a packet whose program has found the half and not yet written its time, tens of nanoseconds: it goes out
//! translated, and the flow's next packet makes the flow anew, as it would had the packet come one sweep later. A mark to
//! be found again by the next sweep would not change that, since nothing orders the program's write and the removal.
//!
//! **How long a core is held**: by one slice, which the walk keeps short. Packets are let in all the while, the kernel walks
//! with interrupts on. Empty buckets cannot be divided, though: a table for a million entries with nothing in it is one
//! call of a millisecond.

use std::{collections::HashMap as Collected, ops::RangeInclusive};

use netpath_common::{
    abi::{Addr, Flow, FlowKey},
    logic::flow_state::{Timeouts, is_assured},
};
use nix::time::ClockId;

use super::{
    FlowPair, FlowTable, Inserted, Walk, clock, is_original, is_translated, monotonic_ns, partner,
    relief::{Relief, Unassured},
};
use crate::datapath::error::{DatapathError, kernel};

const SECOND: u64 = 1_000_000_000;
/// How long a reply half may be without its original: a program makes the reply first.
const ORPHAN: u64 = 60 * SECOND;
/// Idle reply halves are asked for their originals once in so many periods of so many ns, each in its turn: there may be
/// half a million of them, and orphans are rare.
const TURNS: u64 = 12;
const TURN: u64 = 5 * SECOND;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Destinations whose bindings are counted. One that takes many ports is met early in a walk, wherever its flows hash to.
const DESTINATIONS: usize = 4096;

const SCTP: u8 = 132;

/// What a sweep goes by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How long pairs may be idle.
    pub timeouts: Timeouts,
    /// The range that ports of translated flows are chosen from.
    pub snat_ports: RangeInclusive<u16>,
    /// CLOCK_MONOTONIC, ns.
    pub now: u64,
}

impl Rules {
    /// The default timeouts and any port.
    pub fn at(now: u64) -> Self {
        Self { timeouts: Timeouts::DEFAULT, snat_ports: 0..=u16::MAX, now }
    }
}

/// What a sweep of FLOWS did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries that it found: two a pair.
    pub entries: u64,
    /// Pairs that stay.
    pub kept: u64,
    /// Pairs removed because they expired.
    pub expired: u64,
    /// Pairs without an answer that were removed before their time, because the table was crowded.
    pub relieved: u64,
    /// Of those that stay, the smallest range with all translated ports outside of [`Rules::snat_ports`]. SCTP's are not
    /// chosen from that, and not in it.
    pub strays: Option<RangeInclusive<u16>>,
    /// Of those that stay, pairs with source translation.
    pub translated: u64,
    /// Of those, how many each destination (address, port in network order or 0 for an echo, protocol) has; of 4,096
    /// destinations at most.
    pub destinations: Collected<(Addr, u16, u8), u64>,
    /// Reply halves removed because their original was gone.
    pub orphans: u64,
    /// Of those that stay, how many each pod has.
    pub of_pods: Collected<u32, u64>,
    /// System calls that the table was read in.
    pub slices: u64,
    /// The longest of them, ns of its core.
    pub longest_ns: u64,
    /// The whole sweep, ns of its core.
    pub cpu_ns: u64,
}

impl Swept {
    fn keep(&mut self, rules: &Rules, key: &FlowKey, original: &Flow) {
        self.kept += 1;
        self.translated += u64::from(is_translated(original));
        *self.of_pods.entry(original.pod).or_default() += 1;
        let port = u16::from_be(original.port);
        if is_translated(original) && key.proto != SCTP && !rules.snat_ports.contains(&port) {
            let (first, last) = self.strays.take().unwrap_or(port..=port).into_inner();
            self.strays = Some(first.min(port)..=last.max(port));
        }
    }

    /// Takes one out that was kept. Saturating: a flow made since may be another than the one that was counted.
    fn relieve(&mut self, original: &Flow) {
        self.relieved += 1;
        self.kept = self.kept.saturating_sub(1);
        self.translated = self.translated.saturating_sub(is_translated(original).into());
        if let Some(count) = self.of_pods.get_mut(&original.pod) {
            *count = count.saturating_sub(1);
        }
    }

    /// Counts a binding at its destination.
    fn count_destination(&mut self, key: &FlowKey, original: &Flow) {
        // An echo's port is its identifier, which is the pod's.
        let port = if matches!(key.proto, ICMP | ICMPV6) { 0 } else { key.dport };
        let to = (key.dst, port, key.proto);
        if is_translated(original)
            && (self.destinations.len() < DESTINATIONS || self.destinations.contains_key(&to))
        {
            *self.destinations.entry(to).or_default() += 1;
        }
    }
}

impl FlowTable {
    /// Removes every pair that has been idle for longer than the default timeouts say.
    ///
    /// # Errors
    /// The kernel's reason; pairs before it are removed.
    pub fn sweep(&mut self) -> Result<Swept, DatapathError> {
        self.sweep_by(&Rules::at(monotonic_ns()))
    }

    /// Removes every pair that has been idle for longer than it may be, and reply halves without an original; then, if the
    /// table is crowded, pairs that are not assured.
    ///
    /// # Errors
    /// The kernel's reason; pairs before it are removed.
    pub fn sweep_by(&mut self, rules: &Rules) -> Result<Swept, DatapathError> {
        let begun = clock(ClockId::CLOCK_THREAD_CPUTIME_ID);
        let mut swept = Swept::default();
        let mut unassured = Unassured::NONE;
        let mut walk = Walk::new();
        while self.advance(&mut walk)? {
            for (key, flow) in walk.halves() {
                swept.entries += 1;
                if !is_original(flow) {
                    if is_asked(key, flow, rules.now) {
                        swept.orphans += u64::from(self.drop_orphan(key, flow)?);
                    }
                } else if rules.timeouts.is_over(key.proto, flow, rules.now)
                    && self.expire(rules, key, flow)?
                {
                    swept.expired += 1;
                } else {
                    swept.keep(rules, key, flow);
                    if !is_assured(key.proto, flow) {
                        unassured.count(rules.now.saturating_sub(flow.last_seen));
                    }
                    swept.count_destination(key, flow);
                }
            }
        }
        (swept.slices, swept.longest_ns) = (walk.slices, walk.longest_ns);
        let left = swept.entries.saturating_sub(2 * swept.expired + swept.orphans);
        if let Some(relief) = unassured.relief(left, self.capacity()) {
            self.relieve(relief, rules.now, &mut swept)?;
        }
        swept.cpu_ns = clock(ClockId::CLOCK_THREAD_CPUTIME_ID) - begun;
        Ok(swept)
    }

    /// Ends flows that are not assured until the table is no longer crowded, or none is left that has had its time for an
    /// answer. Returns how many.
    ///
    /// # Errors
    /// The kernel's reason; pairs before it are removed.
    pub(in crate::datapath) fn make_room(&mut self) -> Result<u64, DatapathError> {
        let (mut entries, mut unassured, now) = (0, Unassured::NONE, monotonic_ns());
        let mut walk = Walk::new();
        while self.advance(&mut walk)? {
            entries += walk.halves().count() as u64;
            for (_, flow) in walk.originals().filter(|(key, flow)| !is_assured(key.proto, flow)) {
                unassured.count(now.saturating_sub(flow.last_seen));
            }
        }
        let mut swept = Swept::default();
        if let Some(relief) = unassured.relief(entries, self.capacity()) {
            self.relieve(relief, now, &mut swept)?;
        }
        Ok(swept.relieved)
    }

    /// Makes room in a crowded table.
    fn relieve(&mut self, mut relief: Relief, now: u64, swept: &mut Swept) -> Result<(), DatapathError> {
        let mut walk = Walk::new();
        while self.advance(&mut walk)? {
            for (key, flow) in walk.originals().filter(|(key, flow)| !is_assured(key.proto, flow)) {
                if relief.takes(now.saturating_sub(flow.last_seen))
                    && self.retire(&self.pair(*key, *flow)?)?
                {
                    swept.relieve(flow);
                }
            }
        }
        swept.slices += walk.slices;
        swept.longest_ns = swept.longest_ns.max(walk.longest_ns);
        Ok(())
    }

    /// Removes a pair of which the original half has been idle too long, unless the reply half has not.
    fn expire(&mut self, rules: &Rules, key: &FlowKey, original: &Flow) -> Result<bool, DatapathError> {
        let pair = self.pair(*key, *original)?;
        let later = Flow { last_seen: pair.last_seen(), ..*original };
        Ok(rules.timeouts.is_over(key.proto, &later, rules.now) && self.retire(&pair)?)
    }

    /// Removes a pair as it was read; one that has changed stays. Returns whether it is gone.
    pub(super) fn retire(&mut self, read: &FlowPair) -> Result<bool, DatapathError> {
        let reply_key = read.reply_key();
        let Some(original) = self.take(&read.key)? else { return Ok(true) };
        if has_moved(&original, &read.original) {
            // If a program has made the flow anew meanwhile, that one stands, and the old reply half is an orphan.
            self.put_back(&read.key, &original)?;
            return Ok(false);
        }
        // The reply last: it holds the port.
        let Some(reply) = self.take(&reply_key)? else { return Ok(true) };
        if read.reply.is_none_or(|before| has_moved(&reply, &before)) {
            return self.restore(read, &original, &reply).map(|restored| !restored);
        }
        // A translated flow that is made anew finds its old port taken, and has another reply half.
        if !read.is_translated() {
            self.adopt(&read.key, &reply_key, &reply)?;
        }
        Ok(true)
    }

    /// Puts both halves of a pair back, the reply first: it reserves the port. Returns whether they stand.
    fn restore(&mut self, read: &FlowPair, original: &Flow, reply: &Flow) -> Result<bool, DatapathError> {
        let reply_key = read.reply_key();
        if !self.put_back(&reply_key, reply)? {
            return Ok(false);
        }
        if self.put_back(&read.key, original)? {
            return Ok(true);
        }
        // A program has made the flow anew, perhaps with another port.
        let newer = self.half(&read.key)?;
        if newer.is_none_or(|newer| partner(&read.key, &newer) != reply_key) {
            self.remove(&reply_key)?;
        }
        Ok(false)
    }

    /// Gives a reply half back that was taken while a program made a new original half for it: a flow without translation
    /// takes the reply half that it finds.
    pub(super) fn adopt(
        &mut self,
        key: &FlowKey,
        reply_key: &FlowKey,
        reply: &Flow,
    ) -> Result<(), DatapathError> {
        if self.half(key)?.is_some_and(|newer| is_original(&newer) && partner(key, &newer) == *reply_key) {
            self.put_back(reply_key, reply)?;
        }
        Ok(())
    }

    /// Removes a reply half whose original is not there. Returns whether it did.
    pub(super) fn drop_orphan(&mut self, key: &FlowKey, read: &Flow) -> Result<bool, DatapathError> {
        let original = partner(key, read);
        if self.half(&original)?.is_some() {
            return Ok(false);
        }
        let Some(reply) = self.take(key)? else { return Ok(false) };
        if has_moved(&reply, read) {
            self.put_back(key, &reply)?;
            return Ok(false);
        }
        self.adopt(&original, key, &reply)?;
        Ok(true)
    }

    pub(super) fn take(&mut self, key: &FlowKey) -> Result<Option<Flow>, DatapathError> {
        self.table.take(key).map_err(kernel("removing a flow"))
    }

    /// Inserts a half unless another has taken its place, or the table is full: a flow lost as if it had come too late.
    /// Returns whether it stands.
    fn put_back(&mut self, key: &FlowKey, flow: &Flow) -> Result<bool, DatapathError> {
        Ok(self.insert(key, flow)? == Inserted::Stands)
    }
}

/// Whether a packet has come since a half was read, or it is another flow's by now.
fn has_moved(now: &Flow, read: &Flow) -> bool {
    // A first answer shows in the original half by `peer_seen` alone.
    let seen = |flow: &Flow| (flow.packets, flow.last_seen, flow.created, flow.peer_seen);
    seen(now) != seen(read)
}

/// Whether it is a reply half's turn to be asked for its original.
fn is_asked(key: &FlowKey, reply: &Flow, now: u64) -> bool {
    let lot = u64::from(key.sport) + u64::from(key.dport) + u64::from(key.dst.0[3]);
    now.saturating_sub(reply.last_seen) > ORPHAN && (lot + now / TURN).is_multiple_of(TURNS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_idle_reply_is_asked_once_a_minute(sport: u16, dport: u16, dst: [u32; 4], begin in 0u64..1 << 50) {
            let key = FlowKey { sport, dport, dst: Addr(dst), ..FlowKey::default() };
            let reply = Flow { last_seen: begin, ..Flow::EMPTY };
            let asked = |now| is_asked(&key, &reply, now);
            prop_assert!(!(0..=TURNS).any(|turn| asked(begin + turn * TURN)), "young");
            let later = begin + ORPHAN + 1;
            prop_assert_eq!((0..TURNS).filter(|turn| asked(later + turn * TURN)).count(), 1);
        }
    }
}
