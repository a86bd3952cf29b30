//! A packet as XDP programs see it: what the driver has received, before the kernel has made anything of it.

use aya_ebpf::{bindings::xdp_md, helpers::generated as raw, programs::XdpContext};

use super::{AnyPacket, tc::Window};

/// A packet of an XDP program.
pub struct Packet {
    ctx: *mut xdp_md,
}

impl Packet {
    /// The packet a program was called with.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }
}

impl AnyPacket for Packet {
    /// With the parts that lie beyond what a program reads directly (a program that takes such, `xdp.frags`).
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { raw::bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: a field of the context, always readable; so below.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// No trains: a veth's peer cuts them before they are here, and a driver joins none before its program has run.
    #[inline(always)]
    fn gso_size(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn window<const N: usize>(&self, offset: usize) -> Option<Window<'_, N>> {
        // SAFETY: fields of the context.
        let (start, end) = unsafe { ((*self.ctx).data as usize + offset, (*self.ctx).data_end as usize) };
        if start + N > end {
            return None;
        }
        // SAFETY: compared with the end just above.
        Some(unsafe { Window::at(start as *mut u8) })
    }

    /// The headers are in the first part, or the packet is not read.
    #[inline(always)]
    fn pull(&self, _: u32) {}
}
