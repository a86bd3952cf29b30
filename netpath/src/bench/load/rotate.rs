//! UDP round trips, each in another flow than the one before: what a table of flows costs when its entries are not in the
//! processor's cache.
//!
//! A flow is a port of the client's and an address of the server's. Both are the same in each turn, so that a turn finds the
//! flows that the one before has left. One socket answers at all addresses, with the one that was asked as its source.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use hdrhistogram::Histogram;
use nix::{
    cmsg_space,
    libc::in_pktinfo,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
    },
};

use super::{Cores, Slice, record, with_server};
use crate::{
    bench::{Pair, sockets},
    net::Netns,
};

/// Ports of the client's.
const PORTS: u64 = 8;
const FIRST_PORT: u16 = 20_000;
/// Where the server is asked.
const PORT: u16 = 7;
/// Flows from one round trip to the next: a prime, so that all have their turn, and far enough for no two to be neighbours.
const STRIDE: u64 = 7919;

/// Where the next turn goes on: what the one before has asked is in the cache.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The addresses that are asked: of those for benchmarks (RFC 2544), and none of the topology's.
pub(in crate::bench) const SERVERS: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 19, 0, 1), 16);

/// A client's sockets.
pub(in crate::bench) struct Client(Vec<UdpSocket>);

impl Client {
    /// On the ports that all clients in this namespace have.
    ///
    /// # Errors
    /// What the kernel says: another one is there.
    pub(in crate::bench) fn open(netns: &Netns) -> io::Result<Self> {
        let open = |number: u64| {
            let port = FIRST_PORT + number as u16;
            let socket = sockets::udp_bind(netns, (Ipv4Addr::UNSPECIFIED, port).into())?;
            socket.set_read_timeout(Some(sockets::PATIENCE))?;
            Ok(socket)
        };
        Ok(Self((0..PORTS).map(open).collect::<io::Result<_>>()?))
    }

    /// Sends a byte in a flow, and returns the socket that has the answer, and whose it is to be.
    ///
    /// # Errors
    /// What the kernel says.
    pub(in crate::bench) fn send(&self, flow: u64) -> io::Result<(&UdpSocket, Ipv4Addr)> {
        let socket = &self.0[(flow % PORTS) as usize];
        let server = Ipv4Addr::from_bits(SERVERS.0.to_bits() + (flow / PORTS) as u32);
        socket.send_to(&[1], (server, PORT))?;
        Ok((socket, server))
    }
}

/// The socket that is asked in every flow.
///
/// # Errors
/// What the kernel says.
pub(in crate::bench) fn server(netns: &Netns) -> io::Result<UdpSocket> {
    let socket = sockets::udp_bind(netns, (Ipv4Addr::UNSPECIFIED, PORT).into())?;
    socket.set_read_timeout(Some(sockets::TICK))?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    Ok(socket)
}

/// One byte each way over UDP, in so many flows. Nanoseconds of each round trip.
///
/// # Errors
/// What the kernel says, on either side; a lost datagram.
pub(in crate::bench) fn udp(
    pair: &Pair<'_>,
    flows: u64,
    slice: Slice,
    cores: Cores,
) -> io::Result<Histogram<u64>> {
    let server = server(pair.server)?;
    with_server(
        cores.one,
        |done| serve(&server, done),
        || {
            let client = Client::open(pair.client)?;
            record(slice, || {
                let flow = NEXT.fetch_add(STRIDE, Ordering::Relaxed) % flows;
                let (socket, asked) = client.send(flow)?;
                match socket.recv_from(&mut [0])?.1.ip() {
                    answered if answered == asked => Ok(()),
                    other => Err(io::Error::other(format!("{asked} was asked, and {other} answered"))),
                }
            })
        },
    )
}

fn serve(server: &UdpSocket, done: &AtomicBool) -> io::Result<()> {
    while !done.load(Ordering::Relaxed) {
        let Some((asked, peer)) = sockets::ticked(receive(server))? else { continue };
        let from = [ControlMessage::Ipv4PacketInfo(&asked)];
        sendmsg(server.as_raw_fd(), &[IoSlice::new(&[1])], &from, MsgFlags::empty(), Some(&peer))?;
    }
    Ok(())
}

/// A request: what to answer it from, and its sender.
fn receive(server: &UdpSocket) -> io::Result<(in_pktinfo, SockaddrIn)> {
    let (mut byte, mut space) = ([0], cmsg_space!(in_pktinfo));
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<SockaddrIn>(server.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let asked = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
        _ => None,
    });
    let (asked, peer) = asked.zip(message.address).ok_or(io::ErrorKind::InvalidData)?;
    // By the route, not by the interface that it came in by.
    Ok((in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: asked.ipi_addr, ipi_addr: asked.ipi_addr }, peer))
}
