//! Pod → outside: served, and the outside server sees the node's address.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
};

use super::{
    LabPod, Scene, Seen, Verdict,
    exchange::{self, Exchanged, listen_tcp, listen_udp, pattern, serve_tcp, serve_udp, with_server},
};
use crate::{
    bench::sockets::{self, EchoWitness, PATIENCE},
    lab::topology,
    model::Family,
};

/// Source port of both pods: within the default SNAT range, so that the second pod cannot keep it.
const SHARED_PORT: u16 = 40_404;

/// Echo, with a witness at the outside that sees where requests come from.
pub(super) fn icmp(scene: &Scene, family: Family) -> Verdict {
    let doing = |error| format!("watching for echo requests outside: {error}");
    let (node, outside) = (topology::node(family), topology::outside(family));
    let witness = EchoWitness::open(&scene.topology.outside.netns, outside).map_err(doing)?;
    let seen = exchange::icmp(&scene.pods[0].netns, outside)?;
    let sources = witness.sources().map_err(doing)?;
    if sources != [node] {
        return Err(format!("outside sees echo requests from {sources:?}, not from the node's {node}"));
    }
    Ok(Seen::new(seen.times, format!("outside sees {node}")))
}

/// `size` bytes there and back over TCP.
pub(super) fn tcp(scene: &Scene, family: Family, size: usize) -> Verdict {
    let (outside, to) = (&scene.topology.outside.netns, topology::outside(family));
    translated(topology::node(family), exchange::tcp_exchange(&scene.pods[0].netns, outside, to, size)?)
}

/// `size` bytes there and back over UDP.
pub(super) fn udp(scene: &Scene, family: Family, size: usize, datagram: usize) -> Verdict {
    let (outside, to) = (&scene.topology.outside.netns, topology::outside(family));
    translated(
        topology::node(family),
        exchange::udp_exchange(&scene.pods[0].netns, outside, to, size, datagram)?,
    )
}

/// Outside sees one client, with the node's address.
pub(super) fn translated(node: IpAddr, seen: Exchanged) -> Verdict {
    let peers = peers(node, &seen.peers, 1)?;
    Ok(Seen::new(seen.times, format!("outside sees {peers}")))
}

/// The peers in words, if there are `count` different ones and all have the node's address.
fn peers(node: IpAddr, peers: &[SocketAddr], count: usize) -> Result<String, String> {
    let list = peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let mut different = peers.to_vec();
    different.sort_unstable();
    different.dedup();
    if different.len() != count || peers.len() != count {
        return Err(format!("outside sees {list}: {count} different peers were to be expected"));
    }
    if peers.iter().any(|peer| peer.ip() != node) {
        return Err(format!("outside sees {list}, not the node's address {node}"));
    }
    Ok(list)
}

/// First and third pod: the same source port to one server, both connections open at once.
pub(super) fn same_port_tcp(scene: &Scene, family: Family) -> Verdict {
    let (listener, to) = listen_tcp(&scene.topology.outside.netns, topology::outside(family))?;
    let client = || {
        let connect = |pod: &LabPod| {
            let stream = sockets::tcp_connect(&pod.netns, SHARED_PORT, to, PATIENCE);
            stream.map_err(|error| {
                format!("pod {} from port {SHARED_PORT} to {to}: {}", pod.pod.name, sockets::explain(&error))
            })
        };
        let mut streams = [connect(&scene.pods[0])?, connect(&scene.pods[2])?];
        alternate(scene, |at, message, back| {
            streams[at].write_all(message)?;
            streams[at].read_exact(back)
        })
    };
    let ((), seen) = with_server(|done| serve_tcp(&listener, MESSAGE, done), client)?;
    both_served(family, &seen)
}

/// As [`same_port_tcp`], over UDP.
pub(super) fn same_port_udp(scene: &Scene, family: Family) -> Verdict {
    let (server, to) = listen_udp(&scene.topology.outside.netns, topology::outside(family))?;
    let client = || {
        let connect = |pod: &LabPod| {
            let socket = sockets::udp_connect(&pod.netns, SHARED_PORT, to, PATIENCE);
            socket.map_err(|error| {
                format!("pod {} from port {SHARED_PORT} to {to}: {}", pod.pod.name, sockets::explain(&error))
            })
        };
        let sockets = [connect(&scene.pods[0])?, connect(&scene.pods[2])?];
        alternate(scene, |at, message, back| {
            sockets[at].send(message)?;
            sockets[at].recv(back).map(drop)
        })
    };
    let ((), seen) = with_server(|done| serve_udp(&server, done), client)?;
    both_served(family, &seen)
}

/// Bytes of each message; what the two pods send differs, so a mix-up shows.
const MESSAGE: usize = 64;

/// Both pods in turn, twice, each getting its own message back.
fn alternate(
    scene: &Scene,
    mut exchange: impl FnMut(usize, &[u8], &mut [u8]) -> std::io::Result<()>,
) -> Result<(), String> {
    for (turn, at) in [0, 1, 0, 1].into_iter().enumerate() {
        let name = &scene.pods[at * 2].pod.name;
        let message = pattern(MESSAGE, turn);
        let mut back = vec![0; MESSAGE];
        exchange(at, &message, &mut back)
            .map_err(|error| format!("pod {name}, message {turn}: {}", sockets::explain(&error)))?;
        if back != message {
            return Err(format!("pod {name}, message {turn}: something else came back"));
        }
    }
    Ok(())
}

fn both_served(family: Family, seen: &[SocketAddr]) -> Verdict {
    let peers = peers(topology::node(family), seen, 2)?;
    Ok(Seen::new(Vec::new(), format!("both from port {SHARED_PORT}; outside sees {peers}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_must_be_the_node_and_different() {
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        let node = topology::node(Family::V4);
        let (a, b) = (at("198.18.0.2:40404"), at("198.18.0.2:33000"));
        assert_eq!(peers(node, &[a, b], 2).unwrap(), "198.18.0.2:40404 and 198.18.0.2:33000");
        assert!(peers(node, &[a, a], 2).unwrap_err().contains("2 different"));
        assert!(peers(node, &[a], 2).is_err());
        assert!(peers(node, &[at("10.61.0.2:40404")], 1).unwrap_err().contains("not the node's address"));
    }
}
