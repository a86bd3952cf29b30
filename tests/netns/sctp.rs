//! SCTP associations through the node, on kernels that have SCTP (`cargo xtask vm`): translated with their port, as
//! CRC32c covers it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
};

use netpath::{api::types::PodAdd, lab::checks::LabPod, net::Netns};
use netpath_tests::{
    for_both_families,
    kernel::{forward_ipv6, skip},
    node::{Node, PATIENCE},
    scene::Family,
    side::Side,
};
use socket2::{Domain, Protocol, Socket, Type};

for_both_families!(
    an_association_keeps_its_port,
    a_port_taken_by_another_pod_is_refused_with_the_reason,
    a_published_port_is_reached_by_associations,
);

/// IPPROTO_SCTP.
const SCTP: i32 = 132;

/// A one-to-one SCTP socket (RFC 6458, 4), or `None` where the kernel has none; then the test is noted as skipped.
fn socket(netns: &Netns, address: IpAddr, port: u16) -> Option<Socket> {
    let made = netns.enter(|| {
        let domain = Domain::for_address(SocketAddr::new(address, port));
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::from(SCTP)))?;
        socket.bind(&SocketAddr::new(address, port).into())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        std::io::Result::Ok(socket)
    });
    match made.expect("namespace") {
        Ok(socket) => Some(socket),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EPROTONOSUPPORT as i32) => {
            skip("this kernel has no SCTP sockets; the packet tables of tier prog run instead");
            None
        }
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            skip("this kernel has no SCTP sockets; the packet tables of tier prog run instead");
            None
        }
        Err(error) => panic!("SCTP socket on {address}: {error}"),
    }
}

fn an_association_keeps_its_port(family: Family) {
    const PORT: u16 = 2905;
    let side = Side::of(&family);
    let node = Node::start("");
    let pod = node.pod("a");
    let Some(server) = socket(&node.topology.outside.netns, side.outside, 0) else { return };
    server.listen(1).expect("listen");
    let to = server.local_addr().expect("address");
    let mut client = socket(&pod.netns, side.address(&pod), PORT).expect("a second SCTP socket");
    client.connect(&to).expect("association");
    let (mut accepted, peer) = server.accept().expect("accepted");
    let peer = peer.as_socket().expect("an address");
    assert_eq!(peer, SocketAddr::new(side.node, PORT), "the node's address, the pod's port");
    talk(&mut client, &mut accepted);
}

/// Some messages there and back.
fn talk(client: &mut Socket, server: &mut Socket) {
    for round in 0..3_u8 {
        let mut buffer = [0; 1200];
        client.write_all(&[round; 1200]).expect("sent");
        server.read_exact(&mut buffer).expect("arrived");
        server.write_all(&buffer).expect("answered");
        client.read_exact(&mut buffer).expect("answer");
        assert_eq!(buffer, [round; 1200]);
    }
}

fn a_published_port_is_reached_by_associations(family: Family) {
    const PORT: u16 = 5060;
    let side = Side::of(&family);
    let node = Node::start("");
    forward_ipv6(&node.topology.node.netns);
    let wanted = PodAdd { name: "a".into(), publish: vec!["5060:5060/sctp".into()], ..PodAdd::default() };
    let pod = LabPod::open(node.add(&wanted)).expect("pod");
    let other = node.pod("b");
    let Some(server) = socket(&pod.netns, side.address(&pod), PORT) else { return };
    server.listen(2).expect("listen");
    let to = SocketAddr::new(side.node, PORT);
    for (netns, address) in
        [(&node.topology.outside.netns, side.outside), (&other.netns, side.address(&other))]
    {
        let mut client = socket(netns, address, 0).expect("a second SCTP socket");
        client.connect(&to.into()).expect("association");
        let own = client.local_addr().expect("address").as_socket();
        let (mut accepted, peer) = server.accept().expect("accepted");
        assert_eq!(peer.as_socket(), own, "the client's own address and port");
        talk(&mut client, &mut accepted);
    }
    let rows = node.runtime.block_on(node.client.published()).expect("published");
    assert_eq!((rows.len(), rows[0].protocol.as_str(), rows[0].connections), (1, "sctp", 2), "{rows:?}");
}

fn a_port_taken_by_another_pod_is_refused_with_the_reason(family: Family) {
    const PORT: u16 = 2906;
    let side = Side::of(&family);
    let node = Node::start("");
    let (a, b) = (node.pod("a"), node.pod("b"));
    let Some(server) = socket(&node.topology.outside.netns, side.outside, 0) else { return };
    server.listen(2).expect("listen");
    let to = server.local_addr().expect("address");
    let first = socket(&a.netns, side.address(&a), PORT).expect("a second SCTP socket");
    first.connect(&to).expect("association");
    let second = socket(&b.netns, side.address(&b), PORT).expect("a third SCTP socket");
    second.set_nonblocking(true).expect("non-blocking");
    let _ = second.connect(&to);
    // The INIT is sent at once.
    let deadline = std::time::Instant::now() + PATIENCE;
    while node.drops("SnatPortTaken") == 0 {
        assert!(std::time::Instant::now() < deadline, "the INIT is neither refused nor counted");
        netpath_tests::wait::rest();
    }
}
