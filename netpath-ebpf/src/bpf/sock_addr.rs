//! The address that a socket's hook is about.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated as raw,
    programs::SockAddrContext,
};
use netpath_common::abi::Addr;

/// What a hook of a family was called with: the kernel refuses a program that touches the other family's fields.
///
/// Fields are read and written one by one, each whole, as the kernel wants them: hence volatile.
pub struct SockAddr<const V6: bool>(*mut bpf_sock_addr);

impl<const V6: bool> SockAddr<V6> {
    /// What the hook at hand was called with.
    #[inline(always)]
    pub const fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// The address; of an IPv6 socket perhaps a v4-mapped one.
    #[inline(always)]
    pub fn addr(&self) -> Addr {
        // SAFETY: the kernel's own record, valid while the program runs.
        unsafe {
            if !V6 {
                return Addr::from_v4_be((&raw const (*self.0).user_ip4).read_volatile());
            }
            Addr([
                (&raw const (*self.0).user_ip6[0]).read_volatile(),
                (&raw const (*self.0).user_ip6[1]).read_volatile(),
                (&raw const (*self.0).user_ip6[2]).read_volatile(),
                (&raw const (*self.0).user_ip6[3]).read_volatile(),
            ])
        }
    }

    /// The port, network order.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).user_port).read_volatile() as u16 }
    }

    /// IP protocol number of the socket.
    #[inline(always)]
    pub fn proto(&self) -> u8 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).protocol).read_volatile() as u8 }
    }

    /// Puts another address in its place: the kernel goes by it, or tells it to who asked. One of the hook's family.
    #[inline(always)]
    pub fn set(&self, addr: &Addr, port: u16) {
        // SAFETY: as above; these fields may be written.
        unsafe {
            if V6 {
                (&raw mut (*self.0).user_ip6[0]).write_volatile(addr.0[0]);
                (&raw mut (*self.0).user_ip6[1]).write_volatile(addr.0[1]);
                (&raw mut (*self.0).user_ip6[2]).write_volatile(addr.0[2]);
                (&raw mut (*self.0).user_ip6[3]).write_volatile(addr.0[3]);
            } else {
                (&raw mut (*self.0).user_ip4).write_volatile(addr.v4_be());
            }
            (&raw mut (*self.0).user_port).write_volatile(u32::from(port));
        }
    }

    /// Whether the socket is connected.
    #[inline(always)]
    pub fn is_connected(&self) -> bool {
        // TCP_ESTABLISHED, of a UDP socket as well (include/net/tcp_states.h).
        const ESTABLISHED: u32 = 1;
        // SAFETY: as below.
        unsafe { (&raw const (*self.socket()).state).read_volatile() == ESTABLISHED }
    }

    /// The socket's own address; unspecified if it has none yet.
    #[inline(always)]
    pub fn source(&self) -> Addr {
        let socket = self.socket();
        // SAFETY: a hook always has a socket, which lives while the program runs.
        unsafe {
            if !V6 {
                return Addr::from_v4_be((&raw const (*socket).src_ip4).read_volatile());
            }
            Addr([
                (&raw const (*socket).src_ip6[0]).read_volatile(),
                (&raw const (*socket).src_ip6[1]).read_volatile(),
                (&raw const (*socket).src_ip6[2]).read_volatile(),
                (&raw const (*socket).src_ip6[3]).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn socket(&self) -> *const bpf_sock {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).__bindgen_anon_1.sk).read_volatile() }
    }

    /// Number of the socket; none is ever given twice.
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        // SAFETY: the hook's own context.
        unsafe { raw::bpf_get_socket_cookie(self.context()) }
    }

    /// Number of its network namespace; none is ever given twice.
    #[inline(always)]
    pub fn netns_cookie(&self) -> u64 {
        // SAFETY: the hook's own context.
        unsafe { raw::bpf_get_netns_cookie(self.context()) }
    }

    #[inline(always)]
    const fn context(&self) -> *mut c_void {
        self.0.cast()
    }
}
