//! Pure domain: what a node, a network and a pod are. No I/O, no kernel types.

mod mac;
mod name;
mod network;
mod pod;

pub use mac::{GATEWAY_MAC, Mac, MacError};
pub use name::{NameError, PodName, interface_name, is_interface_of};
pub use network::{DEFAULT_NETWORK, GATEWAY, Inbound, Network};
pub use pod::{Pod, PodState};
