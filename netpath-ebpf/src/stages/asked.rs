//! Whom sockets of the node have asked, where the hooks have led them to a pod.

use aya_ebpf::macros::map;
use netpath_common::abi::{Asked, MAX_HOST_SOCKETS, SocketKey};

use crate::bpf::map::LruHash;

#[map]
static HOST_SOCKETS: LruHash<SocketKey, Asked> = LruHash::new(MAX_HOST_SOCKETS);

/// Notes it. Every datagram comes by here, and mostly nothing is new.
#[inline(always)]
pub fn note(key: &SocketKey, asked: &Asked) {
    if HOST_SOCKETS.get(key) != Some(asked) {
        HOST_SOCKETS.insert(key, asked);
    }
}

/// Whom a socket has asked that was led there.
#[inline(always)]
pub fn find(key: &SocketKey) -> Option<&'static Asked> {
    HOST_SOCKETS.get(key)
}

/// A socket asks there itself. Looks first: a removal locks, and nearly always there is nothing.
#[inline(always)]
pub fn forget(key: &SocketKey) {
    if find(key).is_some() {
        HOST_SOCKETS.remove(key);
    }
}
