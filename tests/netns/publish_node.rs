//! Published ports and the node's own sockets: by 127.0.0.1, ::1 and whatever else the node has.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use netpath::{
    api::types::{PodSet, ProgramStatus},
    datapath::SOCKET_HOOKS,
    lab::checks::LabPod,
    net::Netns,
};
use netpath_tests::{
    cgroup::Cgroup,
    for_both_families,
    kernel::forward_ipv6,
    node::{Node, PATIENCE, run_in},
    scene::Family,
    side::{Echo, Side},
    tidy, wait,
};
use socket2::SockRef;

for_both_families!(
    publish_answers_the_nodes_own_sockets,
    publish_tells_a_socket_whom_it_asked,
    publish_on_one_address_answers_there_alone,
    publish_to_the_node_outlives_restarts_and_crashes,
);

const PORT: u16 = 8080;
const POD_PORT: u16 = 80;

/// A node whose sockets' hooks are on a cgroup that this process is in; the cgroup has to outlive the node.
fn start() -> (Cgroup, Node) {
    let (topology, runtime) = Node::without_agent();
    let cgroup = Cgroup::enter();
    forward_ipv6(&topology.node.netns);
    let mut node = Node::with_agent(topology, runtime, &cgroup.configuration());
    node.wait_ready();
    (cgroup, node)
}

fn loopback(side: &Side) -> IpAddr {
    if side.v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

/// Answers every HTTP request in a namespace, on threads of their own.
fn serve(netns: &Netns, side: &Side) {
    let listener = netns.enter(|| TcpListener::bind((side.any(), POD_PORT)));
    let listener = listener.expect("namespace").expect("server");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                // A client that goes tells the test itself.
                while stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\npod");
                }
            });
        }
    });
}

fn change(node: &Node, publish: &[&str], unpublish: &[&str]) {
    let [publish, unpublish] =
        [publish, unpublish].map(|texts| texts.iter().map(ToString::to_string).collect());
    let change = PodSet { publish, unpublish, ..PodSet::default() };
    node.runtime.block_on(node.client.pod_set("a", &change)).expect("pod set");
}

/// A pod with a server that publishes.
fn server(node: &Node, side: &Side, publish: &[&str]) -> LabPod {
    let pod = node.pod("a");
    serve(&pod.netns, side);
    change(node, publish, &[]);
    pod
}

fn curl(from: &Netns, flag: &str, host: &str) -> String {
    let mut curl = Command::new("curl");
    let url = format!("http://{host}:{PORT}/");
    curl.args(["--silent", "--show-error", "--globoff", "--max-time", "10", flag, &url]);
    let output = from.enter(|| curl.output()).expect("namespace").expect("curl");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn connect(from: &Netns, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("namespace")
}

fn refused(from: &Netns, to: SocketAddr) {
    let error = connect(from, to).expect_err("nobody listens there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
}

fn hooks(node: &Node) -> Vec<ProgramStatus> {
    let status = node.runtime.block_on(node.client.status()).expect("status");
    status.programs.into_iter().filter(|program| program.attach == "cgroup").collect()
}

fn problems(node: &Node) -> Vec<String> {
    node.runtime.block_on(node.client.status()).expect("status").problems
}

/// How many of the hooks the kernel has on a cgroup.
fn count_hooks(cgroup: &Path) -> usize {
    let shown = Command::new("bpftool").args(["cgroup", "show", &cgroup.display().to_string()]).output();
    let shown = String::from_utf8(shown.expect("bpftool").stdout).expect("text");
    SOCKET_HOOKS.iter().filter(|name| shown.contains(**name)).count()
}

/// Whether the kernel has exactly the hooks on a cgroup, or none.
fn is_hooked(cgroup: &Path) -> bool {
    let found = count_hooks(cgroup);
    assert!(found == 0 || found == SOCKET_HOOKS.len(), "{found} hooks");
    found > 0
}

fn publish_answers_the_nodes_own_sockets(family: Family) {
    let (side, (cgroup, node)) = (Side::of(&family), start());
    let own = &node.topology.node.netns;
    assert!(!is_hooked(&cgroup.path), "nothing is published");
    let pod = server(&node, &side, &["8080:80"]);
    assert!(is_hooked(&cgroup.path));
    let text = |address: IpAddr| if side.v6 { format!("[{address}]") } else { address.to_string() };
    let hosts = ["localhost".to_owned(), text(loopback(&side)), text(side.node), text(side.any())];
    for host in &hosts {
        assert_eq!(curl(own, side.flag(), host), "pod", "{host}");
    }
    // An engine that binds what it has published is not asked.
    let engine = own.enter(|| TcpListener::bind((side.any(), PORT))).expect("namespace").expect("engine");
    assert_eq!(curl(own, side.flag(), "localhost"), "pod");
    drop(engine);
    let to = SocketAddr::new(loopback(&side), PORT);
    // Others of this cgroup, with a loopback of their own.
    refused(&pod.netns, to);
    refused(&node.topology.outside.netns, to);
    refused(own, SocketAddr::new(loopback(&side), PORT + 1));
    tidy::check(&node, &["a"]);

    change(&node, &[], &["8080:80"]);
    assert!(hooks(&node).is_empty() && !is_hooked(&cgroup.path), "{:?}", hooks(&node));
    refused(own, to);
    change(&node, &["8080:80"], &[]);
    assert_eq!(curl(own, side.flag(), "localhost"), "pod");
    node.runtime.block_on(node.client.uninstall()).expect("uninstall");
    assert!(!is_hooked(&cgroup.path));
    refused(own, to);
}

/// Asks by a socket that is not connected; returns who answers.
fn ask(socket: &UdpSocket, to: SocketAddr) -> SocketAddr {
    let text = to.to_string();
    socket.send_to(text.as_bytes(), to).expect("sent");
    let mut answer = [0; 64];
    let (length, from) = socket.recv_from(&mut answer).unwrap_or_else(|error| panic!("{to}: {error}"));
    assert_eq!(&answer[..length], text.as_bytes(), "from {from}");
    from
}

fn publish_tells_a_socket_whom_it_asked(family: Family) {
    let (side, (_cgroup, node)) = (Side::of(&family), start());
    let own = &node.topology.node.netns;
    let pod = server(&node, &side, &["8080:80"]);
    let ports = [5001, 5002];
    let echoes = ports.map(|_| Echo::start(&pod.netns, side.any()).address.port());
    for (port, echo) in ports.iter().zip(echoes) {
        change(&node, &[&format!("{port}:{echo}/udp")], &[]);
    }

    let bind = |address: IpAddr| {
        let socket = own.enter(|| UdpSocket::bind((address, 0))).expect("namespace").expect("socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("time-out");
        socket
    };
    let mut addresses = vec![loopback(&side), side.node];
    let mut sockets = vec![bind(side.any())];
    if !side.v6 {
        // A socket of IPv6 that talks IPv4.
        addresses.push(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into());
        sockets.push(bind(Ipv6Addr::UNSPECIFIED.into()));
    }
    for address in addresses {
        let socket = &sockets[usize::from(address.is_ipv6() && !side.v6)];
        for port in [ports[0], ports[1], ports[0]] {
            let to = SocketAddr::new(address, port);
            assert_eq!(ask(socket, to), to, "without a connection");
        }
        let to = SocketAddr::new(address, ports[0]);
        let connected = bind(socket.local_addr().expect("address").ip());
        connected.connect(to).expect("connect");
        assert_eq!(connected.peer_addr().expect("peer"), to);
        connected.send(b"?").expect("sent");
        assert_eq!(connected.recv_from(&mut [0; 8]).expect("an answer"), (1, to), "connected");
        let to = SocketAddr::new(address, PORT);
        assert_eq!(connect(own, to).expect("connected").peer_addr().expect("peer"), to, "TCP");
    }
    // What is bound to the loopback could not leave it.
    let bound = bind(loopback(&side));
    bound.connect(SocketAddr::new(loopback(&side), ports[0])).expect("connect");
    bound.send(b"?").expect("sent");
    let error = bound.recv(&mut [0; 8]).expect_err("nobody listens there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // The pod by its own address, by a socket that has asked the node for it.
    let direct = SocketAddr::new(side.address(&pod), echoes[0]);
    assert_eq!(ask(&sockets[0], direct), direct);
    let by_node = SocketAddr::new(side.node, ports[0]);
    assert_eq!(ask(&sockets[0], by_node), by_node);
}

fn publish_on_one_address_answers_there_alone(family: Family) {
    let (side, (_cgroup, node)) = (Side::of(&family), start());
    let own = &node.topology.node.netns;
    let inside = if side.v6 { loopback(&side) } else { Ipv4Addr::new(127, 0, 0, 53).into() };
    let (inside, uplink) = (SocketAddr::new(inside, 8081), SocketAddr::new(side.node, 8082));
    let _pod = server(&node, &side, &[&format!("{inside}:80"), &format!("{uplink}:80")]);
    for to in [inside, uplink] {
        assert_eq!(connect(own, to).expect("connected").peer_addr().expect("peer"), to);
    }
    if !side.v6 {
        refused(own, SocketAddr::new(loopback(&side), 8081));
    }
    refused(own, SocketAddr::new(side.node, 8081));
    refused(own, SocketAddr::new(loopback(&side), 8082));
    refused(&node.topology.outside.netns, SocketAddr::new(side.node, 8081));
    assert_eq!(problems(&node), [""; 0]);
}

/// Connects again and again, until `done`; returns how often it did.
fn keep_connecting(own: &Netns, to: SocketAddr, done: &AtomicBool, count: &AtomicU32) {
    own.enter(|| {
        while !done.load(Ordering::Relaxed) {
            let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("connected");
            let peer = stream.peer_addr().expect("connected");
            assert_eq!(peer, to, "after {}", count.load(Ordering::Relaxed));
            count.fetch_add(1, Ordering::Relaxed);
            // A reset: else each leaves its port taken for a minute.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
        }
    })
    .expect("namespace");
}

fn publish_to_the_node_outlives_restarts_and_crashes(family: Family) {
    let (side, (cgroup, mut node)) = (Side::of(&family), start());
    let own = node.topology.node.netns.clone();
    let _pod = server(&node, &side, &["8080:80"]);
    let to = SocketAddr::new(loopback(&side), PORT);
    let first = hooks(&node);
    assert_eq!(first.len(), SOCKET_HOOKS.len(), "{first:?}");
    let (done, count) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|threads| {
        let client = threads.spawn(|| keep_connecting(&own, to, &done, &count));
        let connects = || {
            let before = count.load(Ordering::Relaxed);
            wait::until("connections", || {
                client.is_finished() || count.load(Ordering::Relaxed) > before + 10
            });
        };
        connects();
        node.kill();
        connects();
        node.restart();
        connects();
        let second = hooks(&node);
        assert!(second.iter().zip(&first).all(|(now, then)| now.name == then.name && now.id != then.id));
        node.stop();
        connects();
        node.restart();
        connects();
        done.store(true, Ordering::Relaxed);
        client.join().expect("every connection was made");
    });
    // What somebody removes comes back.
    let pins = format!("{}/v*/links", tidy::PINS);
    run_in(&own, "sh", &["-c", &format!("rm {pins}/0-host_connect* {pins}/0-host_recvmsg4")]);
    wait::until("the hooks are back", || hooks(&node).len() == SOCKET_HOOKS.len());
    assert!(connect(&own, to).is_ok() && is_hooked(&cgroup.path));
    assert_eq!(problems(&node), [""; 0]);
    node.kill();
    let uninstalled = node.netpath(&["uninstall"]);
    assert!(uninstalled.status.success() && !is_hooked(&cgroup.path), "{uninstalled:?}");
}

#[test]
fn publish_without_a_cgroup_works_but_for_the_node_itself() {
    let (topology, runtime) = Node::without_agent();
    let cgroup = Cgroup::enter();
    let missing = "[datapath]\ncgroup = \"/run/missing\"";
    forward_ipv6(&topology.node.netns);
    let mut node = Node::with_agent(topology, runtime, missing);
    node.wait_ready();
    let (own, side) = (&node.topology.node.netns, Side::of(&Family::V4));
    assert_eq!(problems(&node), [""; 0], "nothing is published");
    let _pod = server(&node, &side, &["8080:80"]);
    let (inside, uplink) = (SocketAddr::new(loopback(&side), PORT), SocketAddr::new(side.node, PORT));
    connect(&node.topology.outside.netns, uplink).expect("from outside");
    refused(own, inside);
    let told = problems(&node).join("\n");
    assert!(told.starts_with("node's sockets: published ports do not answer the node itself"), "{told}");
    assert!(told.contains("opening the cgroup /run/missing"), "{told}");

    node.reconfigure(&cgroup.configuration());
    wait::until("the hooks are there", || hooks(&node).len() == SOCKET_HOOKS.len());
    assert_eq!(curl(own, "-4", "localhost"), "pod");
    assert_eq!(problems(&node), [""; 0]);
    // One that this process is not in.
    let below = cgroup.path.join("below");
    std::fs::create_dir(&below).expect("cgroup");
    node.reconfigure(&format!("[datapath]\ncgroup = \"{}\"", below.display()));
    // One after another.
    wait::until("the hooks have moved", || {
        count_hooks(&below) == SOCKET_HOOKS.len() && count_hooks(&cgroup.path) == 0
    });
    refused(own, inside);
    node.reconfigure("[datapath]\ncgroup = \"none\"");
    wait::until("the hooks are gone", || hooks(&node).is_empty());
    assert_eq!(problems(&node), [""; 0]);
}
