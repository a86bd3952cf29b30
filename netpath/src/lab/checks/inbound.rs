//! Outside → pod address: not reachable. Once because nobody outside knows the way, and once although the router does,
//! because the node refuses.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use super::{
    Scene, Seen, Verdict,
    exchange::{listen_tcp, listen_udp},
};
use crate::{
    bench::sockets::{self, PATIENCE, Pinger},
    lab::topology,
    model::Family,
};

/// How long silence must last to count as silence. A round trip takes microseconds here.
const SILENCE: Duration = Duration::from_millis(250);

/// With the routes of the topology: the router does not know the block.
pub(super) fn unrouted(scene: &Scene, family: Family) -> Verdict {
    let tried = attempt(scene, family)?;
    Ok(Seen::new(Vec::new(), tried))
}

/// With a route to the block over the node: every packet arrives there and is counted as refused.
pub(super) fn routed(scene: &Scene, family: Family) -> Verdict {
    let router = &scene.topology.router;
    let (block, node) = (topology::block(family), topology::node(family));
    let doing = |error| format!("route to {block} on the router: {error}");
    scene.runtime.block_on(router.route(block, node)).map_err(doing)?;
    let verdict = refused(scene, family);
    scene.runtime.block_on(router.unroute(block, node)).map_err(doing)?;
    verdict
}

fn refused(scene: &Scene, family: Family) -> Verdict {
    let before = scene.counters()?;
    let tried = attempt(scene, family)?;
    match scene.counters()?.growth(&before, "InboundDenied") {
        // TCP, UDP and ICMP, at least one packet each.
        denied if denied >= 3 => Ok(Seen::new(Vec::new(), format!("{tried}; InboundDenied +{denied}"))),
        denied => Err(format!("nothing got through, but InboundDenied grew by {denied}, not by 3 or more")),
    }
}

/// Tries TCP, UDP and ICMP from outside to a pod that listens. Tells how each failed, or which one got through.
pub(super) fn attempt(scene: &Scene, family: Family) -> Result<String, String> {
    let (outside, pod) = (&scene.topology.outside.netns, &scene.pods[0]);
    let address = pod.at(family)?;
    let (listener, tcp) = listen_tcp(&pod.netns, address)?;
    let (server, udp) = listen_udp(&pod.netns, address)?;
    control(scene, &listener, tcp)?;

    let connect = match sockets::tcp_connect(outside, 0, tcp, SILENCE) {
        Ok(_) => return Err(format!("outside connected to {tcp}")),
        Err(error) => error,
    };
    if let Some((_, peer)) = sockets::tcp_accept(&listener).map_err(|error| error.to_string())? {
        return Err(format!("the pod accepted a connection of {peer}"));
    }
    // Sending may fail at once where no router knows the way; that is one way of not getting through.
    let datagram = sockets::udp_connect(outside, 0, udp, SILENCE).and_then(|socket| socket.send(b"x"));
    if let Some(peer) = received(&server).map_err(|error| error.to_string())? {
        return Err(format!("the pod got a datagram of {peer}"));
    }
    let echo = match Pinger::open(outside, address, SILENCE).and_then(|mut pinger| pinger.ping()) {
        Ok(_) => return Err(format!("{address} answered an echo request")),
        Err(error) => error,
    };
    let datagram = datagram.map_or_else(|error| error.to_string(), |_| "never arrived".into());
    Ok(format!("TCP: {}; UDP: {datagram}; ICMP: {}", sockets::explain(&connect), sockets::explain(&echo)))
}

/// The same server answers the node: what outside does not get is not for want of a server.
fn control(scene: &Scene, listener: &TcpListener, to: SocketAddr) -> Result<(), String> {
    let node = &scene.topology.node.netns;
    let stream = sockets::tcp_connect(node, 0, to, PATIENCE);
    let stream = stream
        .map_err(|error| format!("not even the node can connect to {to}: {}", sockets::explain(&error)))?;
    let own = stream.local_addr().map_err(|error| error.to_string())?;
    // The last part of the handshake may still be on its way.
    let deadline = Instant::now() + PATIENCE;
    let accepted = loop {
        match sockets::tcp_accept(listener) {
            Ok(None) if Instant::now() < deadline => {}
            accepted => break accepted,
        }
    };
    match accepted {
        Ok(Some((_, peer))) if peer == own => Ok(()),
        other => Err(format!("the node connected to {to}, but the pod saw {other:?}")),
    }
}

/// Who sent a datagram within [`SILENCE`], if anybody did.
fn received(server: &UdpSocket) -> std::io::Result<Option<SocketAddr>> {
    server.set_read_timeout(Some(SILENCE))?;
    Ok(sockets::ticked(server.recv_from(&mut [0; 16]))?.map(|(_, peer)| peer))
}
