//! Invariant 2: the agent can stop and crash; no packet of a live flow is lost.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use netpath_tests::{
    for_both_families,
    node::{Node, PATIENCE},
    scene::Family,
    side::Side,
};

/// Rounds of `kill -9` and start.
const ROUNDS: usize = 5;

/// What flows while agents come and go, counted as it goes.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    echoes: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// Datagrams there and back. Each is sent once: a lost one stops the exchange, and the test.
    fn datagrams(&self, client: &UdpSocket, server: &UdpSocket) {
        let to = server.local_addr().unwrap();
        let mut sent = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            client.send_to(&sent.to_be_bytes(), to).unwrap();
            let mut buffer = [0; 8];
            let (_, from) = server.recv_from(&mut buffer).expect("a datagram was lost on its way");
            server.send_to(&buffer, from).unwrap();
            client.recv_from(&mut buffer).expect("an answer was lost");
            assert_eq!(u64::from_be_bytes(buffer), sent);
            sent += 1;
            self.echoes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Bytes over one connection through SNAT, there and back.
    fn through_snat(&self, mut stream: &TcpStream, mut peer: &TcpStream) {
        let mut buffer = [0; 16];
        while !self.stop.load(Ordering::Relaxed) {
            stream.write_all(b"sixteen bytes...").unwrap();
            peer.read_exact(&mut buffer).expect("the connection broke on its way out");
            peer.write_all(&buffer).unwrap();
            stream.read_exact(&mut buffer).expect("the connection broke on its way back");
            self.bytes.fetch_add(16, Ordering::Relaxed);
        }
    }

    /// Waits until both have moved on.
    fn moves(&self, when: &str) {
        let (echoes, bytes) = (self.echoes.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        wait_for(|| self.echoes.load(Ordering::Relaxed) > echoes + 100, &format!("datagrams {when}"));
        wait_for(|| self.bytes.load(Ordering::Relaxed) > bytes + 500, &format!("through SNAT {when}"));
    }
}

/// Ends the traffic even if a check fails, so that the test fails instead of hanging.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

for_both_families!(crash_and_restart_of_the_agent_lose_no_packet);

fn crash_and_restart_of_the_agent_lose_no_packet(family: Family) {
    let side = Side::of(&family);
    let mut node = Node::start("");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let own = [side.address(&a), side.address(&b)];
    let traffic = Traffic::default();
    let server = a.netns.enter(|| UdpSocket::bind((own[0], 7000))).unwrap().unwrap();
    let client = b.netns.enter(|| UdpSocket::bind((own[1], 7000))).unwrap().unwrap();
    let listener =
        node.topology.outside.netns.enter(|| TcpListener::bind((side.outside, 7001))).unwrap().unwrap();
    let stream = a.netns.enter(|| TcpStream::connect((side.outside, 7001))).unwrap().expect("connected");
    let (peer, seen) = listener.accept().unwrap();
    assert_eq!(seen.ip(), side.node);
    let outside =
        node.topology.outside.netns.enter(|| UdpSocket::bind((side.outside, 7002))).unwrap().unwrap();
    let inside = b.netns.enter(|| UdpSocket::bind((own[1], 7002))).unwrap().unwrap();
    for socket in [&server, &client, &outside, &inside] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    for socket in [&stream, &peer] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    std::thread::scope(|threads| {
        let _stop = Stop(&traffic.stop);
        threads.spawn(|| traffic.datagrams(&client, &server));
        threads.spawn(|| traffic.datagrams(&inside, &outside));
        threads.spawn(|| traffic.through_snat(&stream, &peer));
        for round in 0..ROUNDS {
            node.kill();
            traffic.moves("without an agent");
            node.restart();
            traffic.moves("with the next agent");
            println!("round {round}: {:?} echoes, {:?} bytes, none lost", traffic.echoes, traffic.bytes);
        }
    });
    let pods = node.runtime.block_on(node.client.pods()).unwrap();
    for (pod, address) in pods.iter().zip(own) {
        assert!(
            pod.addresses.contains(&address),
            "{address} is no longer {}'s: {:?}",
            pod.name,
            pod.addresses
        );
    }
    assert!(pods.iter().all(|pod| pod.state == "ready"));
    node.pod("c");
}

fn wait_for(done: impl Fn() -> bool, what: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what}: no progress");
        std::thread::yield_now();
    }
}
