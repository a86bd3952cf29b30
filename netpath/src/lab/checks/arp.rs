//! ARP for the gateway. Pods have a permanent neighbour entry, so only a request made by hand shows that somebody
//! answers.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{LinkAddr, SockaddrLike, bind},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{LabPod, Scene, Seen, Verdict};
use crate::{
    bench::sockets::{PATIENCE, explain},
    model::GATEWAY_V4 as GATEWAY,
};

const ETH_P_ARP: u16 = 0x0806;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const REQUESTS: usize = 20;

/// The gateway by ARP.
pub(super) fn gateway(scene: &Scene) -> Verdict {
    let pod = &scene.pods[0];
    let (socket, own) = open(pod)?;
    answers(scene, GATEWAY.into(), || ask(&socket, own, pod.address))
}

/// The gateway must answer with the host end's MAC, and the answer must be our program's: nobody else counts it. `ask`
/// gives the time until an answer, and the MAC in it.
pub(super) fn answers(
    scene: &Scene,
    gateway: IpAddr,
    ask: impl Fn() -> std::io::Result<(Duration, [u8; 6])>,
) -> Verdict {
    let want = host_mac(scene, &scene.pods[0])?;
    let before = scene.counters()?;
    let mut times = Vec::new();
    for turn in 0..REQUESTS {
        let (time, mac) = ask().map_err(|error| format!("request {turn}: {}", explain(&error)))?;
        if mac != want {
            return Err(format!("{gateway} is at {}, not at the host end's {}", text(mac), text(want)));
        }
        times.push(time);
    }
    let counted = scene.counters()?.growth(&before, "neighbour");
    if counted < REQUESTS as u64 {
        return Err(format!(
            "{REQUESTS} requests were answered, but netpath's program answered only {counted}"
        ));
    }
    Ok(Seen::new(times, format!("{gateway} is at {}, answered by netpath's program", text(want))))
}

/// MAC of the host end of a pod's link: the one that the gateway must have.
fn host_mac(scene: &Scene, pod: &LabPod) -> Result<[u8; 6], String> {
    let host_end = scene.runtime.block_on(scene.topology.node.netlink.link(&pod.pod.interface));
    let host_end = host_end.map_err(|error| error.to_string())?;
    Ok(host_end.ok_or_else(|| format!("the node has no link {}", pod.pod.interface))?.mac)
}

/// A packet socket for ARP on the pod's interface, and the interface's MAC.
fn open(pod: &LabPod) -> Result<(Socket, [u8; 6]), String> {
    let doing = |error: &dyn std::fmt::Display| format!("packet socket in pod {}: {error}", pod.pod.name);
    let opened = pod.netns.enter(|| {
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ARP.to_be()))))?;
        let link = eth0()?;
        // Its protocol is zero, which keeps the socket's.
        bind(socket.as_raw_fd(), &link)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok((socket, link.addr().unwrap_or_default()))
    });
    opened.map_err(|error| doing(&error))?.map_err(|error: std::io::Error| doing(&error))
}

/// Link-layer address of `eth0` in the calling thread's namespace.
pub(super) fn eth0() -> std::io::Result<LinkAddr> {
    let link = getifaddrs()?
        .filter(|one| one.interface_name == "eth0")
        .find_map(|one| one.address.and_then(|address| address.as_link_addr().copied()));
    link.filter(|link| link.family().is_some()).ok_or_else(|| std::io::Error::other("there is no eth0"))
}

/// One request by broadcast; the time until the answer, and the MAC in it.
fn ask(socket: &Socket, own: [u8; 6], from: Ipv4Addr) -> std::io::Result<(Duration, [u8; 6])> {
    let start = Instant::now();
    socket.send(&request(own, from))?;
    let mut buffer = [0; 128];
    while start.elapsed() < PATIENCE {
        let mut reader = socket;
        let length = reader.read(&mut buffer)?;
        if let Some(mac) = answer(&buffer[..length], own, from) {
            return Ok((start.elapsed(), mac));
        }
    }
    Err(std::io::ErrorKind::TimedOut.into())
}

/// Ethernet and ARP: who has [`GATEWAY`]?
fn request(own: [u8; 6], from: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(own);
    frame.extend(ETH_P_ARP.to_be_bytes());
    // Ethernet (1), IPv4, lengths 6 and 4.
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(REQUEST.to_be_bytes());
    frame.extend(own);
    frame.extend(from.octets());
    frame.extend([0; 6]);
    frame.extend(GATEWAY.octets());
    frame
}

/// The sender's MAC if the frame answers our request, addressed to us on both layers.
fn answer(frame: &[u8], own: [u8; 6], from: Ipv4Addr) -> Option<[u8; 6]> {
    let arp = frame.get(14..42)?;
    let ours = frame[..6] == own && arp[18..24] == own && arp[24..28] == from.octets();
    let reply =
        arp[..6] == [0, 1, 8, 0, 6, 4] && arp[6..8] == REPLY.to_be_bytes() && arp[14..18] == GATEWAY.octets();
    // The Ethernet source and the ARP sender must be one, or the pod would learn a MAC that nobody sends from.
    let mac = <[u8; 6]>::try_from(&arp[8..14]).ok()?;
    (ours && reply && frame[6..12] == mac).then_some(mac)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const FROM: Ipv4Addr = Ipv4Addr::new(10, 61, 0, 2);

    fn reply(mac: [u8; 6]) -> Vec<u8> {
        let mut frame = request(OWN, FROM);
        frame[..6].copy_from_slice(&OWN);
        frame[6..12].copy_from_slice(&mac);
        frame[20..22].copy_from_slice(&REPLY.to_be_bytes());
        frame[22..28].copy_from_slice(&mac);
        frame[28..32].copy_from_slice(&GATEWAY.octets());
        frame[32..38].copy_from_slice(&OWN);
        frame[38..42].copy_from_slice(&FROM.octets());
        frame
    }

    #[test]
    fn only_the_gateways_answer_to_us_counts() {
        let mac = [2, 0, 0, 0, 0, 9];
        assert_eq!(request(OWN, FROM).len(), 42);
        assert_eq!(answer(&reply(mac), OWN, FROM), Some(mac));
        assert_eq!(answer(&request(OWN, FROM), OWN, FROM), None);
        assert_eq!(answer(&reply(mac), mac, FROM), None);
        assert_eq!(answer(&reply(mac)[..41], OWN, FROM), None);
        let mut lie = reply(mac);
        lie[6] ^= 4;
        assert_eq!(answer(&lie, OWN, FROM), None);
    }

    #[test]
    fn mac_as_text() {
        assert_eq!(text([2, 0, 0xab, 0, 0, 9]), "02:00:ab:00:00:09");
    }
}
