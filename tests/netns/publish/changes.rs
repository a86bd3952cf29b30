//! What is published, and what changes about it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use netpath::{
    api::types::{Failure, FailureCode, PodAdd, PodSet},
    net::Netns,
};
use netpath_common::abi::PIN_SCHEME;
use netpath_tests::{
    for_both_families,
    kernel::forward_ipv6,
    node::{Node, PATIENCE, run_in},
    scene::Family,
    side::{Side, connected},
    wait,
};

use super::{PORT, SILENT, ask, curl, hairpin, problems, published, serve, server, start};

for_both_families!(
    a_port_that_is_in_use_is_refused,
    what_is_published_changes_while_the_pod_runs,
    an_address_that_comes_and_goes,
    it_comes_back_when_somebody_removes_it,
    who_comes_by_another_interface_reaches_it_once_that_is_an_uplink,
);

fn refused(node: &Node, publish: &str) -> Failure {
    let wanted = PodAdd { name: "late".into(), publish: vec![publish.to_owned()], ..PodAdd::default() };
    let error = node.runtime.block_on(node.client.pod_add(&wanted)).expect_err(publish);
    let netpath::api::client::ClientError::Refused(failure) = error else { panic!("{publish}: {error}") };
    failure
}

fn change(node: &Node, pod: &str, publish: &[&str], unpublish: &[&str]) {
    let [publish, unpublish] =
        [publish, unpublish].map(|texts| texts.iter().map(ToString::to_string).collect());
    let change = PodSet { publish, unpublish, ..PodSet::default() };
    node.runtime.block_on(node.client.pod_set(pod, &change)).expect("pod set");
}

/// The table, as somebody else of the node finds it.
fn table() -> HashMap<MapData, [u8; 20], [u8; 24]> {
    let path = format!("/sys/fs/bpf/netpath/default/v{PIN_SCHEME}/maps/PUBLISHED");
    let data = MapData::from_pin(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    Map::HashMap(data).try_into().expect("PUBLISHED")
}

fn a_port_that_is_in_use_is_refused(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let _web = server(&node, &side, "web", &["8080-8089:80-89"]);
    let own = &node.topology.node.netns;
    let tcp = own.enter(|| TcpListener::bind((side.any(), 9000))).unwrap().unwrap();
    let udp = own.enter(|| UdpSocket::bind((side.node, 9001))).unwrap().unwrap();
    let exact = SocketAddr::new(side.node, 8085);
    for (publish, who) in [
        ("8080:1".to_owned(), "'web', which publishes 8080-8089:80-89/tcp"),
        (format!("{exact}:1"), "'web', which publishes"),
        ("8000-8080:1-81".to_owned(), "'web', which publishes"),
        ("9000:80".to_owned(), "a socket of the node"),
        ("9001:80/udp".to_owned(), "a socket of the node"),
    ] {
        let failure = refused(&node, &publish);
        assert_eq!(failure.code, FailureCode::Conflict, "{publish}: {failure:?}");
        assert!(failure.message.contains(who), "{publish}: {failure:?}");
    }
    let pods = node.runtime.block_on(node.client.pods()).unwrap();
    assert_eq!((pods.len(), published(&node).len()), (1, 1), "nothing is left: {pods:?}");
    drop((tcp, udp));
    let late = server(&node, &side, "late", &["9000:80", "9001:80/udp", "8080:80/udp"]);
    // An engine has the port itself from then on: the packets are the pod's all the same.
    let _engine = own.enter(|| TcpListener::bind((side.any(), 9000))).unwrap().unwrap();
    assert_eq!(curl(&node.topology.outside.netns, SocketAddr::new(side.node, 9000)).0, "late");
    drop(late);
}

fn what_is_published_changes_while_the_pod_runs(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let outside = &node.topology.outside.netns;
    let pod = node.pod("a");
    serve(&pod.netns, &side, "a");
    let client = connected(outside, &side, SocketAddr::new(side.node, PORT));
    client.set_read_timeout(Some(SILENT)).expect("time-out");
    assert_eq!(ask(&client), None);
    change(&node, "a", &["8080:80/udp", "8081:80"], &[]);
    client.set_read_timeout(Some(PATIENCE)).expect("time-out");
    assert_eq!(ask(&client), Some(("a".to_owned(), side.outside)));
    client.set_read_timeout(Some(SILENT)).expect("time-out");
    assert_eq!(curl(outside, SocketAddr::new(side.node, 8081)).0, "a");
    let reserved =
        || run_in(&node.topology.node.netns, "cat", &["/proc/sys/net/ipv4/ip_local_reserved_ports"]);
    assert!(reserved().contains("8080-8081,"), "{}", reserved());
    change(&node, "a", &["9090:80"], &["8080:80/udp"]);
    assert_eq!(ask(&client), None, "its flow has ended");
    assert_eq!(ask(&client), None);
    assert_eq!(curl(outside, SocketAddr::new(side.node, 9090)).0, "a");
    assert!(reserved().starts_with("8081,9090,"), "{}", reserved());
    let listed = node.netpath(&["publish", "ls"]);
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.status.success() && text.contains("8081") && text.contains("9090"), "{text}");
    let wrong = PodSet { unpublish: vec!["1:1".into()], ..PodSet::default() };
    let error = node.runtime.block_on(node.client.pod_set("a", &wrong)).unwrap_err().to_string();
    assert!(error.contains("does not publish 1:1/tcp"), "{error}");
    node.runtime.block_on(node.client.uninstall()).expect("uninstall");
    wait::until("the host's ports are its own", || reserved().trim().is_empty());
}

fn an_address_that_comes_and_goes(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let second: IpAddr = if side.v6 { "2001:db8:18::77" } else { "198.18.0.77" }.parse().unwrap();
    let exact = format!("{}:80", SocketAddr::new(second, 8088));
    let a = server(&node, &side, "a", &["8080:80", &exact]);
    wait::until("it is told", || problems(&node).contains(&format!("publishes {exact}/tcp")));
    let length = if side.v6 { 128 } else { 32 };
    let address = format!("{second}/{length}");
    let add = |what: &str| {
        let mut arguments = vec!["address", what, &address, "dev", "up0"];
        if side.v6 && what == "add" {
            arguments.push("nodad");
        }
        run_in(&node.topology.node.netns, "ip", &arguments);
    };
    add("add");
    wait::until("it is well", || problems(&node).is_empty());
    let outside = &node.topology.outside.netns;
    let via = side.node.to_string();
    forward_ipv6(&node.topology.router.netns);
    run_in(&node.topology.router.netns, "ip", &["route", "add", &address, "via", &via]);
    // From outside and from itself: on every address, and on this one alone.
    for port in [PORT, 8088] {
        assert_eq!(curl(outside, SocketAddr::new(second, port)), ("a".to_owned(), side.outside), "{port}");
        assert_eq!(curl(&a.netns, SocketAddr::new(second, port)).1, hairpin(&side), "{port}");
    }
    let elsewhere = outside.enter(|| TcpStream::connect_timeout(&SocketAddr::new(side.node, 8088), PATIENCE));
    assert_eq!(
        elsewhere.unwrap().expect_err("another address").kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    add("del");
    wait::until("it is told again", || problems(&node).contains(&exact));
    // Sooner than they would end by themselves.
    wait::within(Duration::from_secs(5), "its flows are gone", || {
        let flows = node.runtime.block_on(node.client.flows(Some("a"))).expect("flows");
        flows.iter().all(|flow| flow.destination != second)
    });
}

fn it_comes_back_when_somebody_removes_it(family: Family) {
    let (node, side) = (start(), Side::of(&family));
    let _a = server(&node, &side, "a", &["8080:80"]);
    let to = SocketAddr::new(side.node, PORT);
    let mut table = table();
    let keys: Vec<_> = table.keys().collect::<Result<_, _>>().unwrap();
    assert_eq!(keys.len(), 2, "both families");
    let entry = table.get(&keys[0], 0).unwrap();
    keys.iter().for_each(|key| table.remove(key).unwrap());
    // And what nobody published goes.
    table.insert([7; 20], entry, 0).unwrap();
    let right = || {
        let now: Vec<_> = table.keys().collect::<Result<_, _>>().unwrap();
        now.len() == 2 && keys.iter().all(|key| now.contains(key))
    };
    wait::until("the table is right", right);
    assert_eq!(curl(&node.topology.outside.netns, to).0, "a");
}

fn who_comes_by_another_interface_reaches_it_once_that_is_an_uplink(family: Family) {
    let (mut node, side) = (start(), Side::of(&family));
    let _a = server(&node, &side, "a", &["8080:80"]);
    let client = Netns::create(Path::new("/run/netns/beside")).expect("namespace");
    let own = node.topology.node.netns.clone();
    run_in(&own, "ip", &["link", "add", "beside0", "type", "veth", "peer", "eth0", "netns", "beside"]);
    let ends = if side.v6 { ["fd09::1", "fd09::2"] } else { ["10.9.0.1", "10.9.0.2"] };
    let [here, there] = ends.map(|text| text.parse::<IpAddr>().unwrap());
    for (netns, interface, address) in [(&own, "beside0", here), (&client, "eth0", there)] {
        run_in(netns, "ip", &["link", "set", interface, "up"]);
        let text = format!("{address}/{}", if side.v6 { 64 } else { 24 });
        let nodad: &[&str] = if side.v6 { &["nodad"] } else { &[] };
        run_in(netns, "ip", &[&["address", "add", &text, "dev", interface], nodad].concat());
    }
    let to = SocketAddr::new(here, PORT);
    let ask = || client.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    wait::until("the node refuses it", || {
        ask().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    let told = node.netpath(&["doctor"]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(text.contains("who comes by beside0 does not reach them"), "{text}");
    node.configure("uplinks = [\"up0\", \"beside0\"]");
    node.stop();
    node.restart();
    assert_eq!(curl(&client, to), ("a".to_owned(), there), "with its own address");
    assert_eq!(curl(&node.topology.outside.netns, SocketAddr::new(side.node, PORT)).1, side.outside);
}
