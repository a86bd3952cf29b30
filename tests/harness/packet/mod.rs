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

/// A packet for the eye: what a failure prints.
pub fn shown(bytes: &[u8]) -> String {
    const ENOUGH: usize = 160;
    let hex: Vec<_> = bytes.chunks(4).take(ENOUGH / 4).map(hex).collect();
    let more = bytes.len().saturating_sub(ENOUGH);
    let more = if more > 0 { format!(" and {more} bytes more") } else { String::new() };
    format!("[{}]{more}", hex.join(" "))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
