//! The plugin in one list with reference plugins, as an engine runs it.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use netpath::{lab::topology, net::Netns};
use netpath_tests::{
    cni::{Container, ask, install},
    node::{Node, run_in},
    tidy,
};
use serde_json::{Value, json};

use crate::cni::{after, namespace, reaches};

#[test]
fn cni_in_a_chain_with_reference_plugins() {
    // `bandwidth` wants the ingress qdisc of the pod's link for itself.
    let node = Node::start("[datapath]\nattach = \"tcx\"");
    let config = install(&node, "default");
    let netns = namespace("c1");
    let container = Container::new("c1");
    let plugin = |more: Value, result: &Value| {
        let mut plugin = more;
        plugin["name"] = config["name"].clone();
        plugin["cniVersion"] = config["cniVersion"].clone();
        plugin["prevResult"] = result.clone();
        plugin
    };
    let tuning =
        json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "allmulti": true});
    let bandwidth = json!({
        "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 8_000_000, "egressBurst": 80_000,
    });
    let mut result = ask(&node, "ADD", &config, &container).expect("netpath");
    let first = result.clone();
    let firewall = json!({"type": "firewall", "backend": "iptables"});
    for more in [&tuning, &bandwidth, &firewall] {
        result = ask(&node, "ADD", &plugin(more.clone(), &result), &container).expect("behind it");
        println!("{result}");
    }
    for (at, ip) in first["ips"].as_array().expect("ips").iter().enumerate() {
        assert_eq!(result["ips"][at], *ip);
    }
    assert_eq!(run_in(&netns, "cat", &["/proc/sys/net/ipv4/conf/eth0/arp_filter"]).trim(), "1");
    for plugin in [config.clone(), tuning.clone(), bandwidth.clone(), firewall.clone()] {
        ask(&node, "CHECK", &after(&with_names(&plugin, &config), &result), &container).expect("check");
    }
    assert!(reaches(&netns, "198.18.1.2"));
    for more in [firewall, bandwidth, tuning, config.clone()] {
        assert_eq!(ask(&node, "DEL", &plugin(more, &result), &container), Ok(Value::Null));
    }
    Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    tidy::check(&node, &[]);
}

fn with_names(plugin: &Value, config: &Value) -> Value {
    let mut plugin = plugin.clone();
    plugin["name"] = config["name"].clone();
    plugin["cniVersion"] = config["cniVersion"].clone();
    plugin
}

/// Whether a published port is connected to a server there.
fn connects(from: &Netns, to: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(1500))?;
        let mut said = String::new();
        stream.read_to_string(&mut said).map(|_| said)
    };
    from.enter(ask).expect("namespace").is_ok_and(|said| said == "served")
}

/// What docs/CNI.md says of it: not a way to publish ports. Were it one, the page should not send people away from it.
#[test]
fn cni_portmap_behind_it_serves_the_node_and_nobody_outside_ipv4_and_ipv6() {
    let node = Node::start("");
    let config = install(&node, "default");
    let netns = namespace("c1");
    let container = Container::new("c1");
    let result = ask(&node, "ADD", &config, &container).expect("netpath");
    let server = netns.enter(|| TcpListener::bind(("::", 80))).expect("namespace").expect("server");
    std::thread::spawn(move || {
        for mut stream in server.incoming().map_while(Result::ok) {
            // A client that has gone tells the test itself.
            let _ = stream.write_all(b"served");
        }
    });
    let mut portmap =
        with_names(&json!({"type": "portmap", "capabilities": {"portMappings": true}}), &config);
    portmap["runtimeConfig"] =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let portmap = after(&portmap, &result);
    ask(&node, "ADD", &portmap, &container).expect("portmap");
    let (near, far) = (&node.topology.node.netns, &node.topology.outside.netns);
    for address in [IpAddr::from(topology::NODE), topology::NODE_V6.into()] {
        let to = SocketAddr::new(address, 8080);
        assert!(connects(near, to), "the node asks {to}");
        assert!(!connects(far, to), "portmap works for outside, {to}: docs/CNI.md says that it does not");
    }
    ask(&node, "DEL", &portmap, &container).expect("portmap");
    ask(&node, "DEL", &config, &container).expect("netpath");
    Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    tidy::check(&node, &[]);
}
