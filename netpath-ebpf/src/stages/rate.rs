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
    let full = *bucket;
    let admitted = bucket::admit(full, helper::now(), cost, link.burst);
    let (Ok(from) | Err(from)) = admitted;
    // Of what other CPUs add meanwhile nothing is lost, but for the first packets after a pause.
    if from != full {
        store(bucket, from);
    }
    if admitted.is_ok() {
        add(bucket, cost);
    }
    admitted.is_err()
}
