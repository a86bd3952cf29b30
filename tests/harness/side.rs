//! One family's view of a node and its surroundings, so that one test body serves both.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use netpath::{
    lab::{checks::LabPod, topology},
    net::Netns,
};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::{node::Node, scene::Family};

/// Addresses of one family around a node.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// The node on its uplink.
    pub node: IpAddr,
    /// The router as the node sees it.
    pub router: IpAddr,
    /// The server outside.
    pub outside: IpAddr,
    /// An address of the block without a pod.
    pub nobody: IpAddr,
}

impl Side {
    /// The side of a family.
    pub fn of(family: &Family) -> Self {
        if family.is_v4() {
            Self {
                v6: false,
                node: topology::NODE.into(),
                router: "198.18.0.1".parse().expect("address"),
                outside: topology::OUTSIDE.into(),
                nobody: "10.61.0.200".parse().expect("address"),
            }
        } else {
            Self {
                v6: true,
                node: topology::NODE_V6.into(),
                router: "2001:db8:18::1".parse().expect("address"),
                outside: topology::OUTSIDE_V6.into(),
                nobody: "fd00:61::c8".parse().expect("address"),
            }
        }
    }

    /// A pod's address of this family.
    pub fn address(&self, pod: &LabPod) -> IpAddr {
        let own = pod.pod.addresses.iter().find(|address| address.is_ipv6() == self.v6);
        *own.unwrap_or_else(|| panic!("{} has no such address: {:?}", pod.pod.name, pod.pod.addresses))
    }

    /// The unspecified address, to bind to.
    pub fn any(&self) -> IpAddr {
        if self.v6 {
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
        }
    }

    /// Bytes of the IP header.
    pub fn header(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    /// `-6` or `-4`, as many programs take it.
    pub fn flag(&self) -> &'static str {
        if self.v6 { "-6" } else { "-4" }
    }
}

/// Bytes of room in a socket for what a busy machine's reader comes late for: no packet may be lost there.
pub(crate) const ROOM: usize = 8 << 20;

/// Something that answers every datagram with itself, on a thread of its own.
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Echo {
    /// Starts it in a namespace; it ends with the test's process.
    pub fn start(netns: &Netns, address: IpAddr) -> Self {
        let socket = netns.enter(|| UdpSocket::bind((address, 0))).expect("namespace").expect("echo server");
        setsockopt(&socket, RcvBufForce, &ROOM).expect("room");
        let address = socket.local_addr().expect("address");
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                // Whom the answer does not reach tells the test by its own time-out.
                let _ = socket.send_to(&buffer[..length], peer);
            }
        });
        Self { address }
    }
}

/// A UDP socket in a pod, connected, with a time-out.
pub fn connected(netns: &Netns, side: &Side, to: SocketAddr) -> UdpSocket {
    let socket = netns.enter(|| UdpSocket::bind((side.any(), 0))).expect("namespace").expect("socket");
    socket.connect(to).expect("connect");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    socket
}

/// A TCP server that takes every connection and reads it to its end, on a thread of its own.
pub fn sink(netns: &Netns, address: IpAddr) -> SocketAddr {
    let listener = netns.enter(|| TcpListener::bind((address, 0))).expect("namespace").expect("listener");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut std::io::sink()));
        }
    });
    address
}

/// A node with two pods, `a` and `b`, that have addresses of both families.
pub fn dual(configuration: &str) -> (Node, LabPod, LabPod) {
    let node = Node::start(configuration);
    let (a, b) = (node.pod("a"), node.pod("b"));
    (node, a, b)
}
