//! Pure domain: what a node, a network and a pod are. No I/O, no kernel types.

mod bandwidth;
mod bgp;
mod block;
mod cluster;
mod mac;
mod name;
mod network;
mod peer;
mod pod;
mod protect;
mod publication;

pub use bandwidth::{Bandwidth, BandwidthError};
pub use bgp::{Accepted, Bgp, BgpSession};
pub use block::{
    PrefixError, check_block, check_host, check_prefix, example_block, order_blocks, overlap, parse_prefix,
};
pub use cluster::{Alive, BLOCK_LENGTHS, EtcdAccess, Holder, Node, Pool};
pub use mac::{GATEWAY_MAC, Mac, MacError};
pub use name::{NameError, NetworkName, PodName, interface_name, is_interface_of, tunnel_name};
pub use network::{
    DEFAULT_NETWORK, DEFAULT_NETWORK_NUMBER, Family, GATEWAY_V4, GATEWAY_V6, Inbound, MIN_MTU_V6, Network,
    NetworkChange, SharedNetworks,
};
pub use peer::{Backend, Overlay, Peer, Peers};
pub use pod::{Attachment, Interface, MAX_INTERFACES, MAX_PLACES, Mode, NetnsId, Pod, PodState, Unattached};
pub use protect::Protected;
pub use publication::{MAX_PUBLICATION, Publication, PublicationError, Transport};
