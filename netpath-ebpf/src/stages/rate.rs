//! What pods of a limited bandwidth may send. A queue inside the pod makes it smooth, and the pod may remove that; here it
//! holds all the same.

use aya_ebpf::macros::map;
use netpath_common::{abi::Link, logic::bucket};

use crate::{
    bpf::{
        globals, helper,
        map::{Shared, add, store},
    },
    packet::{AnyPacket, tc::Packet},
};

#[map]
static POD_BUCKETS: Shared<u64> = Shared::new(4096);

/// Whether a packet that came by this link is more than its pod (of this slot) may send now; else it is counted.
#[inline(always)]
pub fn is_over(packet: &Packet, link: &Link, slot: u32) -> bool {
    let Some(bucket) = POD_BUCKETS.get_mut(slot) else { return false };
    if link.rate == 0 || globals::dry_run() {
        return false;
    }
    let cost = bucket::cost(packet.length(), link.rate);
    let (full, now) = (*bucket, helper::now());
    let Some(from) = bucket::admit(full, now, cost, link.burst) else {
        let empty = now.saturating_add(link.burst);
        // Of a slower rate, or of the slot's earlier pod: this one waits for its own burst, and no longer.
        if full > empty {
            store(bucket, empty);
        }
        return true;
    };
    // Of what other CPUs add meanwhile nothing is lost, but for the first packets after a pause.
    if from != full {
        store(bucket, from);
    }
    add(bucket, cost);
    false
}
