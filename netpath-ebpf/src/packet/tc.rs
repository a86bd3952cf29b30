//! A packet as tc programs see it: a kernel socket buffer.

use core::marker::PhantomData;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated as raw,
    programs::TcContext,
};

use super::AnyPacket;
use crate::bpf::globals;

/// Mark on packets that `from_pod` has finished with, so that `to_uplink` lets them leave without a second look. It
/// exists only between the two: `redirect_neigh` leads through neither routing nor netfilter, `to_uplink` clears it, and
/// a pod cannot set it (a mark does not survive the crossing of namespaces). `to_overlay` puts it on what a tunnel carries: the
/// packet around that inherits it, and does go through the node's routing and netfilter.
const FINISHED: u32 = 0x6e70_0001;
/// The same between `from_pod` and `to_overlay`, of packets that have been told their tunnel.
const TOLD: u32 = 0x6e70_0002;

/// A packet of a tc program.
pub struct Packet {
    skb: *mut __sk_buff,
}

/// `N` bytes of a packet that are known to be there.
pub struct Window<'a, const N: usize> {
    start: *mut u8,
    packet: PhantomData<&'a ()>,
}

/// Plain numbers that may be read from and written to packets.
pub trait Number: Copy {}
impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}

impl<const N: usize> Window<'_, N> {
    /// The `N` bytes at `start`.
    ///
    /// # Safety
    /// They are the packet's, and the verifier has seen them compared with its end.
    #[inline(always)]
    pub(super) unsafe fn at(start: *mut u8) -> Self {
        Self { start, packet: PhantomData }
    }

    /// The number at byte `AT`, as it stands there (network order).
    ///
    /// Reads are naturally aligned: the kernel starts frames at 2 modulo 4 (NET_IP_ALIGN), so that the IP header is
    /// aligned; callers read 4-byte fields only at offsets where that holds.
    #[inline(always)]
    pub fn get<T: Number, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: inside the window by the assertion above.
        unsafe { self.start.add(AT).cast::<T>().read() }
    }

    /// Writes a number at byte `AT`, as it shall stand there.
    #[inline(always)]
    pub fn set<T: Number, const AT: usize>(&mut self, value: T) {
        const { assert!(AT + size_of::<T>() <= N) };
        // SAFETY: inside the window by the assertion above; the verifier makes the buffer writable in the program's
        // prologue if there is a write.
        unsafe { self.start.add(AT).cast::<T>().write(value) }
    }
}

impl Packet {
    /// The packet a program was called with.
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    /// The context for helpers.
    #[inline(always)]
    pub fn ctx(&self) -> *mut core::ffi::c_void {
        self.skb.cast()
    }

    /// Interface the packet came in by; 0 if the node made it itself.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: a field of the context, always readable; so below.
        unsafe { (*self.skb).ingress_ifindex }
    }

    /// Whether the frame came with a VLAN tag, which the kernel keeps beside it.
    #[inline(always)]
    pub fn vlan_present(&self) -> bool {
        // SAFETY: as in `length`.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    /// Whether the frame is of a VLAN: a tag of number 0 has only a priority, and the kernel takes it for none (802.1Q, 9.6).
    #[inline(always)]
    pub fn is_of_vlan(&self) -> bool {
        const NUMBER: u32 = 0xfff;
        // SAFETY: as in `length`.
        self.vlan_present() && unsafe { (*self.skb).vlan_tci } & NUMBER != 0
    }

    /// Says that nothing is left to do with the packet on its way out.
    #[inline(always)]
    pub fn set_finished(&self) {
        // SAFETY: the mark is writable for tc programs.
        unsafe { (*self.skb).mark = FINISHED }
    }

    /// Whether `set_finished` was called; forgets it.
    #[inline(always)]
    pub fn take_finished(&self) -> bool {
        // SAFETY: as above.
        unsafe {
            let finished = (*self.skb).mark == FINISHED;
            if finished {
                (*self.skb).mark = 0;
            }
            finished
        }
    }

    /// Says that the packet knows its tunnel, on its way to the tunnels' device.
    #[inline(always)]
    pub fn set_told(&self) {
        // SAFETY: as above.
        unsafe { (*self.skb).mark = TOLD }
    }

    /// Whether `set_told` was called.
    #[inline(always)]
    pub fn is_told(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb).mark == TOLD }
    }

    /// Notes that a program has judged the packet at this hook: if it goes on from the tcx program to the clsact filter, which
    /// are next to each other, the second finds the note. Everybody after them uses these bytes for something else.
    ///
    /// The bytes cross from a pod's namespace to its host end with what was written there: sch_choke puts addresses of the packet into
    /// them, and who may add a qdisc inside could write a note that he knows. Hence the secret.
    #[inline(always)]
    pub fn set_judged(&self, program: u32) {
        let note = globals::note();
        // SAFETY: these words are writable for tc programs.
        unsafe {
            (*self.skb).cb[3] = note as u32 ^ program;
            (*self.skb).cb[4] = (note >> 32) as u32 ^ (*self.skb).ifindex;
        }
    }

    /// Whether there is such a note; takes it away.
    #[inline(always)]
    pub fn take_judged(&self, program: u32) -> bool {
        let note = globals::note();
        // SAFETY: as above.
        unsafe {
            let judged = (*self.skb).cb[3] == note as u32 ^ program
                && (*self.skb).cb[4] == (note >> 32) as u32 ^ (*self.skb).ifindex;
            if judged {
                (*self.skb).cb[3] = 0;
            }
            judged
        }
    }

    /// Corrects the transport checksum at `offset` for addresses that changed by `change` (`checksum::difference`) and
    /// stand in the pseudo-header.
    ///
    /// The helper and not arithmetic of ours: only the kernel knows whether the checksum is complete or left to the
    /// device (CHECKSUM_PARTIAL). `udp`: a checksum of 0 means "none" and stays 0 (RFC 768).
    #[inline(always)]
    pub fn checksum_pseudo(&self, offset: usize, change: u32, udp: bool) -> Result<(), ()> {
        self.l4_csum_replace(offset, 0, change, BPF_F_PSEUDO_HDR as u64 | Self::zero_flag(udp))
    }

    /// Says that the sum over the whole packet has changed by `change`, where the device has computed it
    /// (CHECKSUM_COMPLETE); else nothing happens.
    ///
    /// `bpf_l4_csum_replace` takes for granted that the IP header's checksum makes up for an address's change: IPv6 has
    /// none. Its flag for that (BPF_F_IPV6) is only in kernels from 6.16 on; this corrects it in all.
    #[inline(always)]
    pub fn sum_changed(&self, change: u32) {
        // SAFETY: the context is valid. It fails, and shall, if there is no such sum.
        unsafe { raw::bpf_csum_update(self.skb, change) };
    }

    /// Corrects the transport checksum at `offset` for a 16-bit word of the transport header that changed.
    #[inline(always)]
    pub fn checksum_word(&self, offset: usize, old: u16, new: u16, udp: bool) -> Result<(), ()> {
        self.l4_csum_replace(offset, u32::from(old), u32::from(new), Self::zero_flag(udp) | 2)
    }

    #[inline(always)]
    fn zero_flag(udp: bool) -> u64 {
        if udp { BPF_F_MARK_MANGLED_0 as u64 } else { 0 }
    }

    #[inline(always)]
    fn l4_csum_replace(&self, offset: usize, old: u32, new: u32, flags: u64) -> Result<(), ()> {
        // SAFETY: the context is valid; the kernel checks the offset.
        let answer =
            unsafe { raw::bpf_l4_csum_replace(self.skb, offset as u32, old.into(), new.into(), flags) };
        if answer == 0 { Ok(()) } else { Err(()) }
    }
}

impl AnyPacket for Packet {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: a field of the context, always readable; so below.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as in `length`.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: as in `length`.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    fn window<const N: usize>(&self, offset: usize) -> Option<Window<'_, N>> {
        // SAFETY: fields of the context.
        let (start, end) = unsafe { ((*self.skb).data as usize + offset, (*self.skb).data_end as usize) };
        if start + N > end {
            return None;
        }
        // SAFETY: compared with the end just above.
        Some(unsafe { Window::at(start as *mut u8) })
    }

    /// The kernel keeps headers of local senders in the linear part; a driver may not.
    #[inline(always)]
    fn pull(&self, bytes: u32) {
        // SAFETY: fields of the context.
        let linear = unsafe { (*self.skb).data_end - (*self.skb).data };
        if linear < bytes && linear < self.length() {
            let bytes = if bytes < self.length() { bytes } else { self.length() };
            // SAFETY: the context is valid. A failure shows as a window that is not there.
            unsafe { raw::bpf_skb_pull_data(self.skb, bytes) };
        }
    }
}
