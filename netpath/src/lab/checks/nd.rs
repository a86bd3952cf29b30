//! Neighbour discovery for the gateway. Pods have a permanent neighbour entry, so only a solicitation made by hand shows
//! that somebody answers.

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    LabPod, Scene, Verdict,
    arp::{answers, eth0},
};
use crate::{
    bench::sockets::PATIENCE,
    model::{Family, GATEWAY_V6 as GATEWAY},
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Option with the Ethernet address of who asks (RFC 4861, 4.6.1): has to be there when a group is asked (4.3).
const SOURCE_MAC: u8 = 1;
/// Option with the Ethernet address of what an advertisement is about.
const TARGET_MAC: u8 = 2;
/// Solicitations with another hop limit are from another link (RFC 4861, 7.1.1).
const HOP_LIMIT: u32 = 255;

/// The gateway by neighbour discovery.
pub(super) fn gateway(scene: &Scene) -> Verdict {
    let (socket, own) = open(&scene.pods[0])?;
    answers(scene, GATEWAY.into(), || ask(&socket, own))
}

/// A raw socket that sends from the pod's address (its link-local one may be on probation yet), and the interface's MAC.
fn open(pod: &LabPod) -> Result<(Socket, [u8; 6]), String> {
    let address = pod.at(Family::V6)?;
    let doing = |error: &dyn std::fmt::Display| format!("raw socket in pod {}: {error}", pod.pod.name);
    let opened = pod.netns.enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.bind(&SocketAddr::from((address, 0)).into())?;
        socket.set_multicast_hops_v6(HOP_LIMIT)?;
        socket.set_multicast_if_v6(nix::net::if_::if_nametoindex("eth0")?)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok((socket, eth0()?.addr().unwrap_or_default()))
    });
    opened.map_err(|error| doing(&error))?.map_err(|error: io::Error| doing(&error))
}

/// One solicitation to the gateway's multicast group; the time until the answer, and the MAC in it.
fn ask(socket: &Socket, own: [u8; 6]) -> io::Result<(Duration, [u8; 6])> {
    let to = SocketAddr::new(IpAddr::V6(solicited_node(GATEWAY)), 0);
    let start = Instant::now();
    socket.send_to(&solicitation(own), &to.into())?;
    let mut buffer = [0; 256];
    while start.elapsed() < PATIENCE {
        let mut reader = socket;
        let length = reader.read(&mut buffer)?;
        if let Some(mac) = answer(&buffer[..length]) {
            return Ok((start.elapsed(), mac));
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The group that whoever has an address listens to (RFC 4291, 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// Who has [`GATEWAY`]? The kernel fills the checksum in.
fn solicitation(own: [u8; 6]) -> Vec<u8> {
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(GATEWAY.octets());
    message.extend([SOURCE_MAC, 1]);
    message.extend(own);
    message
}

/// The MAC if the message is an advertisement of [`GATEWAY`].
fn answer(message: &[u8]) -> Option<[u8; 6]> {
    let (head, mut options) = message.split_at_checked(24)?;
    if head[0] != ADVERTISEMENT || head[8..] != GATEWAY.octets() {
        return None;
    }
    while let [kind, length, ..] = *options {
        let (option, rest) = options.split_at_checked(usize::from(length.max(1)) * 8)?;
        if kind == TARGET_MAC {
            return option.get(2..8)?.try_into().ok();
        }
        options = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_advertisement_of_the_gateway_counts() {
        assert_eq!(solicited_node(GATEWAY).to_string(), "ff02::1:ff00:1");
        let mut message = solicitation([2, 0, 0, 0, 0, 9]);
        assert_eq!(message.len(), 32);
        message[0] = ADVERTISEMENT;
        assert_eq!(answer(&message), None, "the asker's MAC");
        message[24] = TARGET_MAC;
        assert_eq!(answer(&message), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(answer(&message[..30]), None);
        let mut other = message.clone();
        other[23] = 2;
        assert_eq!(answer(&other), None, "another target");
        message[0] = SOLICITATION;
        assert_eq!(answer(&message), None);
    }
}
