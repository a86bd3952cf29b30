//! Ports of the node that lead to pods.

use aya_ebpf::macros::map;
use netpath_common::abi::{Addr, HAIRPIN_V4, HAIRPIN_V6, MAX_PUBLISHED, Published, PublishedKey};

use crate::{
    bpf::map::{Hash, PerCpu},
    packet::{Headers, rewrite::Translation},
};

#[map]
static PUBLISHED: Hash<PublishedKey, Published> = Hash::new(MAX_PUBLISHED);

/// Where the packet at hand is led by a published port. In a table and not on the stack: see the search for a port.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Led {
    /// What is translated to the flow's address: the destination on the way to the pod behind the port, the source back.
    pub to: Translation,
    /// The flow's flags.
    pub flags: u8,
    /// The pod behind the port.
    pub pod: u32,
    /// The node's stack, and with it netfilter, forwards it to the pod.
    pub forwarded: bool,
}

#[map]
static LED: PerCpu<Led> = PerCpu::new(1);

impl Led {
    /// On to the other end of what a pod says to itself; its packets have this port there.
    #[inline(always)]
    pub fn turn(&mut self, headers: &Headers, port: u16) {
        let back = self.to.source;
        let hairpin = if headers.v6 { HAIRPIN_V6 } else { HAIRPIN_V4 };
        self.to = Translation { addr: if back { headers.key.src } else { hairpin }, port, source: !back };
    }

    /// The same, of which the compiler knows nothing any more: it would keep copies in registers, and the verifier go through
    /// what follows once for each way here.
    #[inline(always)]
    pub fn settled(&mut self) -> &mut Self {
        core::hint::black_box(self)
    }
}

/// Room for it.
#[inline(always)]
pub fn room() -> Option<&'static mut Led> {
    LED.get_mut(0)
}

/// Where a port of the node leads, if it is published. Whether the address is the node's at all is the caller's to see.
#[inline(always)]
pub fn find(addr: &Addr, port: u16, proto: u8) -> Option<&'static Published> {
    let anywhere = PUBLISHED.get(&PublishedKey::anywhere(addr, port, proto))?;
    if anywhere.pod != 0 {
        return Some(anywhere);
    }
    PUBLISHED.get(&PublishedKey::on(*addr, port, proto))
}

/// Whether a pod that talks to itself by a published port gets its packets from this address.
#[inline(always)]
pub fn is_hairpin(addr: &Addr) -> bool {
    *addr == HAIRPIN_V4 || *addr == HAIRPIN_V6
}
