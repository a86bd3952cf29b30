//! Packets in, packets out, of both families.

mod arp;
pub mod checksum;
mod error;
mod fragment;
mod frame;
mod header;
mod neighbour;
mod read;
mod see;

pub use arp::arp;
pub use error::ErrorKind;
pub use fragment::{Piece, fragments, reassemble, see_fragment};
pub use frame::{ACK, Flags, Frame, RST, SYN, SYN_ACK};
pub use header::{Extension, protocol};
pub use neighbour::{
    Advertised, OVERRIDE, ROUTER, SOLICITED, advertisement, listener_report, probe, router_advertisement,
    router_solicitation, see_advertisement, solicitation,
};
pub use see::{Icmp, Inner, Seen, see};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
