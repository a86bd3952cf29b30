//! Packets made worse: field by field, so that most of them still get somewhere.

use netpath_common::abi::Program;
use netpath_tests::{
    packet::{ETHERNET, checksum, protocol},
    random::Random,
    scene::{Family, GATEWAY_MAC, ROUTER_MAC, Scene},
};

use super::{
    oracle::{FINISHED, IP, address},
    step::{Place, Step},
    view::{View, word},
};

/// The longest packet: a test run has one page.
const LONGEST: usize = 1700;

/// What is put into packets.
pub(super) struct Mutator {
    v4: Vec<[u8; 4]>,
    v6: Vec<[u8; 16]>,
    macs: Vec<[u8; 6]>,
}

const NUMBERS: [u16; 22] = [
    0, 1, 2, 7, 8, 12, 19, 20, 28, 40, 60, 64, 0x7f, 0x80, 0xff, 0x100, 0x1fff, 0x2000, 0x3fff, 0x7fff,
    0x8000, 0xffff,
];
const PORTS: [u16; 8] = [40_000, 40_001, 443, 53, 1000, 32_768, 49_151, 0];
const PROTOCOLS: [u8; 14] = [0, 1, 4, 6, 17, 41, 43, 44, 51, 58, 59, 60, 132, 135];
const TYPES: [u8; 18] = [0, 1, 2, 3, 4, 5, 8, 11, 12, 13, 128, 129, 131, 133, 134, 135, 136, 143];

impl Mutator {
    pub(super) fn new(scene: &Scene) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for f in scene.families() {
            let known = [
                f.a, f.b, f.nobody, f.gateway, f.node, f.router, f.outside, f.other, f.vpn, f.unmasked,
                f.refused,
            ];
            for bytes in known.map(address) {
                if f.is_v4() {
                    v4.push([bytes[12], bytes[13], bytes[14], bytes[15]]);
                } else {
                    v6.push(bytes);
                }
            }
        }
        v4.extend([[0; 4], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [10, 61, 0, 255]]);
        v6.extend([scene.a.link_local, scene.b.link_local].map(address));
        let named = ["::", "::1", "ff02::1", "ff02::1:ff00:3", "ff05::2", "::ffff:10.61.0.2", "::10.61.0.2"];
        v6.extend(named.map(|text| text.parse::<std::net::Ipv6Addr>().expect("address").octets()));
        let macs =
            vec![scene.a.mac, scene.b.mac, GATEWAY_MAC, ROUTER_MAC, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]];
        Self { v4, v6, macs }
    }

    /// Changes a step in one way or several; `last` is what left the programs before.
    pub(super) fn mutate(&self, random: &mut Random, step: &mut Step, last: &[u8], other: &[u8]) {
        if random.once_in(8) && last.len() > 34 {
            follow(random, step, last);
        }
        for _ in 0..=random.below(4) {
            self.change(random, step, other);
        }
        step.packet.truncate(LONGEST);
        if step.packet.len() < ETHERNET + 1 {
            step.packet.resize(ETHERNET + 1, 0x45);
        }
        if !random.once_in(3) {
            repair(&mut step.packet, random.once_in(2));
        }
        if random.once_in(6) {
            self.surroundings(random, step);
        }
    }

    fn change(&self, random: &mut Random, step: &mut Step, other: &[u8]) {
        let packet = &mut step.packet;
        let near = packet.len().min(120);
        match random.below(16) {
            0 => {
                let at = random.below(packet.len());
                packet[at] ^= 1 << random.below(8);
            }
            1 => {
                let at = random.below(near);
                packet[at] = random.next() as u8;
            }
            2 => {
                let (at, number) = (random.below(near) & !1, random.pick(&NUMBERS));
                put(packet, at, &number.to_be_bytes());
            }
            3 => packet.truncate(random.below(packet.len()).max(ETHERNET)),
            4 => {
                let most = if random.once_in(8) { 900 } else { 40 };
                let more = random.below(most);
                packet.extend((0..more).map(|n| (n as u8).wrapping_mul(31)));
            }
            5 => {
                let at = random.below(near);
                let from = random.below(other.len());
                packet.truncate(at.max(ETHERNET));
                packet.extend_from_slice(&other[from..]);
            }
            6..=8 => self.swap_address(random, packet),
            9 => {
                let (at, mac) = (random.pick(&[0, 6]), random.pick(&self.macs));
                put(packet, at, &mac);
            }
            10 | 11 => header_field(random, packet),
            12 | 13 => transport_field(random, packet),
            14 => insert_extension(random, packet),
            _ => {
                let kind = random.pick(&[0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x0801]);
                if random.once_in(4) {
                    put(packet, 12, &kind.to_be_bytes());
                }
            }
        }
    }

    /// Puts a known address where an address stands, in the packet or in what an error embeds.
    fn swap_address(&self, random: &mut Random, packet: &mut [u8]) {
        let Some(view) = View::of(packet, true) else {
            let address = random.pick(&self.v4);
            return put(packet, random.pick(&[26, 28, 30, 38]), &address);
        };
        let view = view.embedded(packet).filter(|_| random.once_in(3)).unwrap_or(view);
        let (at, _) = view.address_at(random.once_in(2));
        if view.v6 {
            put(packet, at, &random.pick(&self.v6));
        } else {
            put(packet, at, &random.pick(&self.v4));
        }
    }

    /// Another interface, mark, segment size or program.
    fn surroundings(&self, random: &mut Random, step: &mut Step) {
        match random.below(5) {
            0 => {
                let (program, on) = random.pick(&[
                    (Program::FromPod, Place::A),
                    (Program::FromPod, Place::B),
                    (Program::ToPod, Place::A),
                    (Program::FromUplink, Place::Uplink),
                    (Program::ToUplink, Place::Uplink),
                ]);
                (step.program, step.on, step.mark) = (program, on, 0);
            }
            1 => step.from = random.pick(&Place::ALL).0,
            2 => step.gso = random.pick(&[0, 1, 8, 100, 1400, 1448, 0xffff]),
            // A pod's packet has no mark: none survives the crossing of namespaces.
            3 if step.program == Program::ToUplink => step.mark = random.pick(&[0, 1, FINISHED, u32::MAX]),
            _ if step.program == Program::FromPod => step.on = random.pick(&[Place::A, Place::B]),
            _ => {}
        }
    }
}

fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(there) = packet.get_mut(at..at + bytes.len()) {
        there.copy_from_slice(bytes);
    }
}

/// What comes after what left: the answer to it, an error about it, or the next program on its way.
fn follow(random: &mut Random, step: &mut Step, last: &[u8]) {
    step.packet.clear();
    step.packet.extend_from_slice(last);
    (step.mark, step.gso) = (0, 0);
    let Some(view) = View::of(last, true) else { return };
    match random.below(4) {
        0 => (step.program, step.on, step.from) = (Program::ToUplink, Place::Uplink, Place::A),
        1 => error_about(random, step, &view, last),
        _ => {
            answer(&mut step.packet, &view);
            (step.program, step.on, step.from) = (Program::FromUplink, Place::Uplink, Place::Uplink);
        }
    }
}

/// Exchanges the ends: all sums stay.
fn answer(packet: &mut [u8], view: &View) {
    let ((source, middle), (_, end)) = (view.address_at(true), view.address_at(false));
    packet[source..end].rotate_left(middle - source);
    if let (Some(source), Some(_)) = (view.port_at(true), view.port_at(false))
        && !view.is_icmp()
    {
        packet[source..source + 4].rotate_left(2);
    }
    if let Some(kind @ (8 | 128)) = view.icmp_type(packet) {
        packet[view.transport] = if kind == 8 { 0 } else { 129 };
    }
}

/// A router's error about it.
fn error_about(random: &mut Random, step: &mut Step, view: &View, last: &[u8]) {
    let embedded = &last[view.ip..last.len().min(view.transport + random.pick(&[8, 12, 20, 600]))];
    let header = [random.pick(&TYPES), 0, 0, 0, 0, 0, random.next() as u8, 0];
    let mut packet = last[..if view.v6 { 54 } else { 34 }].to_vec();
    packet.extend_from_slice(&header);
    packet.extend_from_slice(embedded);
    let (number, at) = if view.v6 { (protocol::ICMPV6, IP + 6) } else { (protocol::ICMP, IP + 9) };
    packet[at] = number;
    if !view.v6 {
        packet[IP] = 0x45;
        put(&mut packet, IP + 6, &[0; 2]);
    }
    let (source, middle) = (view.address_at(true), view.address_at(false));
    let router = address(if view.v6 { Family::V6.router } else { Family::V4.router });
    packet.copy_within(source.0..source.1, middle.0);
    packet[source.0..source.1].copy_from_slice(&router[16 - (source.1 - source.0)..]);
    step.packet = packet;
    repair(&mut step.packet, true);
    (step.program, step.on, step.from) = (Program::FromUplink, Place::Uplink, Place::Uplink);
}

/// A field of the IP header.
fn header_field(random: &mut Random, packet: &mut [u8]) {
    let v6 = packet.get(12) == Some(&0x86);
    let (number, byte) = (random.pick(&NUMBERS).to_be_bytes(), random.next() as u8);
    let length = (packet.len() - ETHERNET) as u16;
    let near = length.wrapping_add(random.below(41) as u16).wrapping_sub(20).to_be_bytes();
    match (v6, random.below(8)) {
        (_, 0) => put(packet, IP, &[byte]),
        (false, 1) => put(packet, IP, &[0x40 | byte & 15]),
        (false, 2) => put(packet, IP + 2, &near),
        (false, 3) => put(packet, IP + 2, &number),
        (false, 4 | 5) => put(packet, IP + 6, &[byte & 0x3f, random.pick(&[0, 1, 185])]),
        (true, 1 | 2) => put(packet, IP + 4, &near),
        (true, 3) => put(packet, IP + 4, &number),
        (_, 6) => put(packet, IP + if v6 { 7 } else { 8 }, &[random.pick(&[0, 1, 2, 3, 64, 254, 255])]),
        _ => put(packet, IP + if v6 { 6 } else { 9 }, &[random.pick(&PROTOCOLS)]),
    }
}

/// A field of the transport header, or of what an error embeds.
fn transport_field(random: &mut Random, packet: &mut [u8]) {
    let Some(outer) = View::of(packet, true) else { return };
    let view = outer.embedded(packet).filter(|_| random.once_in(2)).unwrap_or(outer);
    let at = view.transport;
    let byte = random.next() as u8;
    match random.below(7) {
        0 | 1 => put(packet, at + random.pick(&[0, 2]), &random.pick(&PORTS).to_be_bytes()),
        2 => put(packet, at + random.below(12) * 2, &random.pick(&NUMBERS).to_be_bytes()),
        3 if view.is_icmp() => put(packet, at, &[random.pick(&TYPES)]),
        3 => put(packet, at + 12, &[byte]),
        4 => put(packet, at + 13, &[byte & 0x3f]),
        5 if view.ip != IP => put(packet, view.ip + random.below(10), &[byte]),
        _ => put(packet, at + 4, &random.pick(&PORTS).to_be_bytes()),
    }
}

/// One more IPv6 extension header, or IPv4 options.
fn insert_extension(random: &mut Random, packet: &mut Vec<u8>) {
    if packet.len() < IP + 40 {
        return;
    }
    if packet[12] == 0x08 {
        packet[IP] = packet[IP].wrapping_add(1);
        packet.splice(IP + 20..IP + 20, [1; 4]);
        return;
    }
    let kind = random.pick(&[0, 43, 44, 51, 60]);
    let (length, data) = match kind {
        44 => (0, [0, random.pick(&[0, 1, 8, 0xb9]), 0, 0, 0, random.pick(&[7, 8])]),
        51 => (random.pick(&[0, 0, 0, 1, 4]), [0; 6]),
        _ => (random.pick(&[0, 0, 0, 1, 255]), [1, 4, 0, 0, 0, 0]),
    };
    let first = [packet[IP + 6], length, data[0], data[1], data[2], data[3], data[4], data[5]];
    packet.splice(IP + 40..IP + 40, first);
    packet[IP + 6] = kind;
    let missing = (usize::from(length) * if kind == 51 { 4 } else { 8 }).min(64);
    packet.splice(IP + 48..IP + 48, std::iter::repeat_n(0, missing));
}

/// Makes lengths (perhaps) and checksums right, from the inside out.
pub(super) fn repair(packet: &mut [u8], lengths: bool) {
    let length = packet.len().wrapping_sub(ETHERNET);
    match packet.get(12..14) {
        Some([0x08, 0x00]) if length >= 20 && lengths => put(packet, IP + 2, &(length as u16).to_be_bytes()),
        Some([0x86, 0xdd]) if length >= 40 && lengths => {
            put(packet, IP + 4, &(length as u16 - 40).to_be_bytes());
        }
        _ => {}
    }
    let Some(view) = View::of(packet, false) else { return };
    let segment = view.end.saturating_sub(view.transport);
    if lengths && view.protocol == protocol::UDP && !view.piece && segment >= 8 {
        put(packet, view.transport + 4, &(segment as u16).to_be_bytes());
    }
    if let Some(inner) = view.embedded(packet).filter(|_| view.is_error(packet)) {
        correct(packet, &inner);
    }
    correct(packet, &view);
}

fn correct(packet: &mut [u8], view: &View) {
    if let Some(at) = view.checksum_at()
        && !(view.protocol == protocol::UDP && word(packet, at) == 0)
    {
        put(packet, at, &[0; 2]);
        let sum = view.transport_sum(packet).unwrap_or_else(|| {
            // A UDP sum is computed as any other; only its field says that it is not meant.
            put(packet, at, &[0xff; 2]);
            view.transport_sum(packet).unwrap_or(0)
        });
        let value = (0xffff - sum).max(u16::from(view.protocol == protocol::UDP));
        put(packet, at, &value.to_be_bytes());
    }
    if view.protocol == protocol::SCTP && !view.piece && view.segment(packet).len() >= 12 {
        let crc = checksum::sctp(view.segment(packet));
        put(packet, view.transport + 8, &crc);
    }
    if !view.v6 {
        put(packet, view.ip + 10, &[0; 2]);
        let sum = view.header_sum(packet);
        put(packet, view.ip + 10, &(0xffff - sum).to_be_bytes());
    }
}
