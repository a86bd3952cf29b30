//! Tunnel keys: what a device in collect-metadata mode is told of a packet's tunnel, and tells of it, beside the packet.

use aya_ebpf::{
    bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key as Params},
    helpers::generated as raw,
};
use netpath_common::abi::Addr;

use crate::packet::tc::Packet;

/// Hops that a packet between nodes may take: Linux's usual.
const HOPS: u8 = 64;

/// Which tunnel.
pub struct Key {
    /// The other node's address.
    pub node: Addr,
    /// VNI, host order.
    pub vni: u32,
}

/// The tunnel that a packet came by; `None` if it came by none.
#[inline(always)]
pub fn read(packet: &Packet) -> Option<Key> {
    // SAFETY: plain numbers.
    let mut params: Params = unsafe { core::mem::zeroed() };
    let mut ask = |flags| {
        let size = size_of::<Params>() as u32;
        // SAFETY: the context is valid, `params` lives through the call and its size is given. Of the other family it fails.
        unsafe { raw::bpf_skb_get_tunnel_key(packet.ctx().cast(), &mut params, size, flags) == 0 }
    };
    if ask(0) {
        // SAFETY: the kernel filled in the member of the family; IPv4 in host order.
        let v4 = unsafe { params.__bindgen_anon_1.remote_ipv4 };
        return Some(Key { node: Addr::from_v4_be(v4.to_be()), vni: params.tunnel_id });
    }
    if ask(u64::from(BPF_F_TUNINFO_IPV6)) {
        // SAFETY: as above, in network order.
        let v6 = unsafe { params.__bindgen_anon_1.remote_ipv6 };
        return Some(Key { node: Addr(v6), vni: params.tunnel_id });
    }
    None
}

/// Says which tunnel a packet is to leave by; whether the kernel takes it.
///
/// Over IPv4 without a checksum (RFC 7348, 5): devices that get it wrong have stalled others' tunnels. Over IPv6 with one, as
/// receivers refuse it otherwise (RFC 6935).
#[inline(always)]
pub fn write(packet: &Packet, key: &Key) -> bool {
    // SAFETY: plain numbers.
    let mut params: Params = unsafe { core::mem::zeroed() };
    params.tunnel_id = key.vni;
    params.tunnel_ttl = HOPS;
    let flags = if key.node.is_v4() {
        params.__bindgen_anon_1.remote_ipv4 = u32::from_be(key.node.v4_be());
        BPF_F_ZERO_CSUM_TX
    } else {
        params.__bindgen_anon_1.remote_ipv6 = key.node.0;
        BPF_F_TUNINFO_IPV6
    };
    let size = size_of::<Params>() as u32;
    // SAFETY: the context is valid, `params` lives through the call and its size is given.
    unsafe { raw::bpf_skb_set_tunnel_key(packet.ctx().cast(), &mut params, size, flags.into()) == 0 }
}
