//! ARP for IPv4 over Ethernet (RFC 826).

use netpath_common::abi::{Addr, DropReason};

use super::{AnyPacket, ETHERNET, parse::mac_words, tc::Packet};
use crate::bpf::globals;

/// Bytes of an ARP packet for IPv4 over Ethernet.
const LENGTH: usize = 28;
/// Hardware type Ethernet, protocol type IPv4, sizes 6 and 4: the first six bytes, as two words and a half.
const HARDWARE_ETHERNET: u16 = 1;
const PROTOCOL_IPV4: u16 = 0x0800;
const SIZES: u16 = 0x0604;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// What an ARP packet says.
#[derive(Clone, Copy)]
pub struct Arp {
    /// It asks (else it tells).
    pub request: bool,
    /// MAC of the sender, in three words as they stand.
    pub sender_mac: [u16; 3],
    /// Address of the sender; unspecified in a duplicate-address probe (RFC 5227).
    pub sender: Option<Addr>,
    /// Address it asks for.
    pub target: Addr,
}

/// Reads an ARP packet.
#[inline(always)]
pub fn read(packet: &Packet) -> Result<Arp, DropReason> {
    let arp = packet.window::<LENGTH>(ETHERNET).ok_or(DropReason::Malformed)?;
    let operation = u16::from_be(arp.get::<u16, 6>());
    if u16::from_be(arp.get::<u16, 0>()) != HARDWARE_ETHERNET
        || u16::from_be(arp.get::<u16, 2>()) != PROTOCOL_IPV4
        || u16::from_be(arp.get::<u16, 4>()) != SIZES
        || (operation != REQUEST && operation != REPLY)
    {
        return Err(DropReason::Malformed);
    }
    // Addresses stand at 14 and 24: only the second is aligned to 4.
    let sender = word(arp.get::<u16, 14>(), arp.get::<u16, 16>());
    Ok(Arp {
        request: operation == REQUEST,
        sender_mac: [arp.get::<u16, 8>(), arp.get::<u16, 10>(), arp.get::<u16, 12>()],
        sender: (sender != 0).then(|| Addr::from_v4_be(sender)),
        target: Addr::from_v4_be(arp.get::<u32, 24>()),
    })
}

/// Two 16-bit words as they stand in the packet, joined as one.
#[inline(always)]
fn word(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Turns a request into the gateway's answer, in place: "the address you ask for is at the gateway's MAC".
#[inline(always)]
pub fn answer(packet: &Packet, question: &Arp) -> Result<(), DropReason> {
    let mut arp = packet.window::<LENGTH>(ETHERNET).ok_or(DropReason::Malformed)?;
    let gateway = mac_words(globals::gateway_mac());
    let [m0, m1, m2] = question.sender_mac;
    let [t0, t1, t2, t3] = question.target.v4_be().to_ne_bytes();
    let [s0, s1, s2, s3] = question.sender.map_or(0, |sender| sender.v4_be()).to_ne_bytes();
    arp.set::<u16, 6>(REPLY.to_be());
    arp.set::<u16, 8>(gateway[0]);
    arp.set::<u16, 10>(gateway[1]);
    arp.set::<u16, 12>(gateway[2]);
    arp.set::<u16, 14>(u16::from_ne_bytes([t0, t1]));
    arp.set::<u16, 16>(u16::from_ne_bytes([t2, t3]));
    arp.set::<u16, 18>(m0);
    arp.set::<u16, 20>(m1);
    arp.set::<u16, 22>(m2);
    arp.set::<u32, 24>(u32::from_ne_bytes([s0, s1, s2, s3]));
    Ok(())
}
