//! Flows that go on while something is broken and repaired: what was lost, and whether a connection ended.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use netpath::{lab::checks::LabPod, net::Netns};
use netpath_tests::{
    node::{Node, PATIENCE},
    side::Side,
    wait::until,
};

/// An answer that takes longer is lost.
const ANSWER: Duration = Duration::from_millis(300);

/// Between one exchange of a flow and its next.
const PACE: Duration = Duration::from_millis(2);

/// One flow.
#[derive(Default)]
struct Flow {
    name: String,
    done: AtomicU64,
    lost: AtomicU64,
    broken: Mutex<Option<String>>,
}

/// Datagrams and a connection from pod `a` to pod `b`, and the same through SNAT to the server outside.
pub(super) struct Live {
    flows: Vec<Arc<Flow>>,
    stop: Arc<AtomicBool>,
}

impl Live {
    pub(super) fn start(node: &Node, side: &Side, a: &LabPod, b: &LabPod) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let own = side.address(a);
        let outside = &node.topology.outside.netns;
        let mut flows = Vec::new();
        for (name, netns, to) in [("pod", &*b.netns, side.address(b)), ("outside", outside, side.outside)] {
            let (client, server) = sockets((&a.netns, own), (netns, to));
            flows.push(spawn(format!("datagrams to {name}"), &stop, move |flow| {
                datagram(&client, &server, flow)
            }));
            let (mut stream, mut peer) = connection((&a.netns, own), (netns, to));
            flows.push(spawn(format!("connection to {name}"), &stop, move |flow| {
                bytes(&mut stream, &mut peer, flow)
            }));
        }
        let live = Self { flows, stop };
        live.moves("before anything is broken");
        live
    }

    /// Datagrams lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.lost.load(Ordering::Relaxed)).sum()
    }

    /// Waits until every flow has gone on; none may have ended.
    pub(super) fn moves(&self, when: &str) {
        for flow in &self.flows {
            let before = flow.done.load(Ordering::Relaxed);
            until(&format!("{} go on {when}", flow.name), || {
                let broken = flow.broken.lock().expect("no panic").clone();
                assert_eq!(broken, None, "{} {when}", flow.name);
                flow.done.load(Ordering::Relaxed) > before + 20
            });
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn spawn(
    name: String,
    stop: &Arc<AtomicBool>,
    mut exchange: impl FnMut(&Flow) -> Result<(), String> + Send + 'static,
) -> Arc<Flow> {
    let flow = Arc::new(Flow { name, ..Flow::default() });
    let (told, stop) = (Arc::clone(&flow), Arc::clone(stop));
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Err(reason) = exchange(&told) {
                *told.broken.lock().expect("no panic") = Some(reason);
                return;
            }
        }
    });
    flow
}

fn sockets(from: (&Netns, IpAddr), to: (&Netns, IpAddr)) -> (UdpSocket, UdpSocket) {
    let bound = |(netns, address): (&Netns, IpAddr)| {
        let socket = netns.enter(|| UdpSocket::bind((address, 0))).expect("namespace").expect("socket");
        socket.set_read_timeout(Some(ANSWER)).expect("time-out");
        socket
    };
    (bound(from), bound(to))
}

/// A datagram there and back. What cannot be sent for want of a route or an address is lost as well.
fn datagram(client: &UdpSocket, server: &UdpSocket, flow: &Flow) -> Result<(), String> {
    let number = (flow.done.load(Ordering::Relaxed) + flow.lost.load(Ordering::Relaxed)).to_be_bytes();
    let mut buffer = [0; 8];
    let there = client
        .send_to(&number, server.local_addr().expect("address"))
        .and_then(|_| receive(server, &number))
        .and_then(|peer| server.send_to(&number, peer))
        .and_then(|_| client.recv(&mut buffer));
    match there {
        Ok(_) if buffer == number => flow.done.fetch_add(1, Ordering::Relaxed),
        Ok(_) => 0,
        Err(_) => flow.lost.fetch_add(1, Ordering::Relaxed),
    };
    std::thread::park_timeout(PACE);
    Ok(())
}

/// Waits for this datagram, past earlier ones that come late.
fn receive(server: &UdpSocket, number: &[u8; 8]) -> std::io::Result<std::net::SocketAddr> {
    loop {
        let mut buffer = [0; 8];
        let (_, peer) = server.recv_from(&mut buffer)?;
        if buffer == *number {
            return Ok(peer);
        }
    }
}

/// A TCP connection, and its other end.
pub(super) fn connection(from: (&Netns, IpAddr), to: (&Netns, IpAddr)) -> (TcpStream, TcpStream) {
    let listener = to.0.enter(|| TcpListener::bind((to.1, 0))).expect("namespace").expect("listener");
    let address = listener.local_addr().expect("address");
    let stream = from.0.enter(|| TcpStream::connect(address)).expect("namespace").expect("connected");
    let peer = listener.accept().expect("accepted").0;
    for end in [&stream, &peer] {
        end.set_read_timeout(Some(PATIENCE)).expect("time-out");
        end.set_nodelay(true).expect("no delay");
    }
    (stream, peer)
}

/// Bytes there and back over one connection, which may stall, and never end.
fn bytes(stream: &mut TcpStream, peer: &mut TcpStream, flow: &Flow) -> Result<(), String> {
    exchange(stream, peer).map_err(|error| error.to_string())?;
    flow.done.fetch_add(1, Ordering::Relaxed);
    std::thread::park_timeout(PACE);
    Ok(())
}

/// Sixteen bytes there and back.
pub(super) fn exchange(stream: &mut TcpStream, peer: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 16];
    stream
        .write_all(b"sixteen bytes...")
        .and_then(|()| peer.read_exact(&mut buffer))
        .and_then(|()| peer.write_all(&buffer))
        .and_then(|()| stream.read_exact(&mut buffer))
}
