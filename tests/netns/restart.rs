//! Invariant 2: the agent can stop and crash; no packet of a live flow is lost.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use netpath::lab::topology::OUTSIDE;
use netpath_tests::node::{Node, PATIENCE};

/// Rounds of `kill -9` and start.
const ROUNDS: usize = 5;

#[test]
fn crash_and_restart_of_the_agent_lose_no_packet() {
    let mut node = Node::start("");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let (stop, echoes, bytes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let server = a.netns.enter(|| UdpSocket::bind((a.address, 7000))).unwrap().unwrap();
    let client = b.netns.enter(|| UdpSocket::bind((b.address, 7000))).unwrap().unwrap();
    let listener = node.topology.outside.netns.enter(|| TcpListener::bind((OUTSIDE, 7001))).unwrap().unwrap();
    let mut stream = a.netns.enter(|| TcpStream::connect((OUTSIDE, 7001))).unwrap().expect("connected");
    let (mut peer, seen) = listener.accept().unwrap();
    assert_eq!(seen.ip().to_string(), "198.18.0.2");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut buffer = [0; 64];
            while let Ok(count) = peer.read(&mut buffer) {
                if count == 0 || peer.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
        // Each datagram is sent once: a lost one would stop the exchange, and the test, here.
        let pod_to_pod = threads.spawn(|| {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                client.send_to(&sent.to_be_bytes(), (a.address, 7000)).unwrap();
                let mut buffer = [0; 8];
                let (_, from) = server.recv_from(&mut buffer).expect("a datagram was lost on its way");
                server.send_to(&buffer, from).unwrap();
                client.recv_from(&mut buffer).expect("an answer was lost");
                assert_eq!(u64::from_be_bytes(buffer), sent);
                sent += 1;
                echoes.store(sent, Ordering::Relaxed);
            }
        });
        let through_snat = threads.spawn(|| {
            let mut buffer = [0; 16];
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(b"sixteen bytes...").unwrap();
                stream.read_exact(&mut buffer).expect("the connection broke");
                bytes.fetch_add(16, Ordering::Relaxed);
            }
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        });
        for round in 0..ROUNDS {
            let before = (echoes.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
            node.kill();
            wait_for(|| echoes.load(Ordering::Relaxed) > before.0 + 50, "pod to pod without an agent");
            wait_for(|| bytes.load(Ordering::Relaxed) > before.1 + 500, "through SNAT without an agent");
            node.restart();
            println!(
                "round {round}: {} echoes, {} bytes",
                echoes.load(Ordering::Relaxed),
                bytes.load(Ordering::Relaxed)
            );
        }
        stop.store(true, Ordering::Relaxed);
        pod_to_pod.join().expect("pod to pod");
        through_snat.join().expect("through SNAT");
    });
    let pods = node.runtime.block_on(node.client.pods()).unwrap();
    assert_eq!(
        pods.iter().map(|pod| pod.addresses[0].to_string()).collect::<Vec<_>>(),
        ["10.61.0.1", "10.61.0.2"]
    );
    assert_eq!(pods[0].state, "ready");
    node.pod("c");
}

fn wait_for(done: impl Fn() -> bool, what: &str) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "{what}: no progress");
        std::thread::yield_now();
    }
}
