//! The node's own sockets.

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
#[inline(always)]
pub fn owns(packet: &Packet, key: &FlowKey) -> bool {
    // SAFETY: plain numbers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if key.src.is_v4() {
        tuple.__bindgen_anon_1.ipv4 =
            V4 { saddr: key.src.v4_be(), daddr: key.dst.v4_be(), sport: key.sport, dport: key.dport };
        size_of::<V4>()
    } else {
        tuple.__bindgen_anon_1.ipv6 =
            V6 { saddr: key.src.0, daddr: key.dst.0, sport: key.sport, dport: key.dport };
        size_of::<V6>()
    } as u32;
    let netns = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the tuple lives through the call; a socket that is returned is referenced and released.
    unsafe {
        let socket = match key.proto {
            TCP => raw::bpf_sk_lookup_tcp(packet.ctx(), &mut tuple, size, netns, 0),
            UDP => raw::bpf_sk_lookup_udp(packet.ctx(), &mut tuple, size, netns, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        raw::bpf_sk_release(socket.cast());
        true
    }
}
