//! The node's own sockets.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{
        BPF_F_CURRENT_NETNS, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as V4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as V6,
    },
    helpers::generated as raw,
};
use netpath_common::abi::FlowKey;

use crate::packet::{TCP, UDP, tc::Packet};

/// Whether a socket of the node would take a packet with this tuple: a connection, or a listener on its port.
///
/// Not inlined: its tuple would stand on the stack of the search for a port, beneath what makes room in a full table.
#[inline(never)]
pub fn owns(packet: &Packet, key: &FlowKey) -> bool {
    // IPv6's tuple is a key's beginning as it stands, and 40 bytes of stack less.
    const { assert!(offset_of!(FlowKey, dport) + size_of::<u16>() == size_of::<V6>()) };
    let (v4, size);
    let tuple: *const bpf_sock_tuple = if key.src.is_v4() {
        v4 = V4 { saddr: key.src.v4_be(), daddr: key.dst.v4_be(), sport: key.sport, dport: key.dport };
        size = size_of::<V4>() as u32;
        core::ptr::from_ref(&v4).cast()
    } else {
        size = size_of::<V6>() as u32;
        core::ptr::from_ref(key).cast()
    };
    let tuple = tuple.cast_mut();
    let netns = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the tuple lives through the call, which only reads it; a socket that is returned is referenced and released.
    unsafe {
        let socket = match key.proto {
            TCP => raw::bpf_sk_lookup_tcp(packet.ctx(), tuple, size, netns, 0),
            UDP => raw::bpf_sk_lookup_udp(packet.ctx(), tuple, size, netns, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        raw::bpf_sk_release(socket.cast());
        true
    }
}
