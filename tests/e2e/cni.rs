//! The CNI plugin asked directly, as the specification has it, in each of its versions.

use std::{fs, path::Path};

use netpath::{
    api::types::{NetworkAdd, Pod},
    net::Netns,
};
use netpath_tests::{
    cni::{Container, ask, install},
    node::{Node, run_in},
    tidy, wait,
};
use serde_json::{Value, json};

/// Makes the namespace of a container, as engines do.
pub(crate) fn namespace(id: &str) -> Netns {
    Netns::create(Path::new(&format!("/run/netns/{id}"))).expect("namespace")
}

/// The node's pods.
pub(crate) fn pods(node: &Node) -> Vec<Pod> {
    tidy::let_go(node);
    node.runtime.block_on(node.client.pods()).expect("pods")
}

/// Adds the network `back`.
pub(crate) fn add_back(node: &Node) {
    let wanted = NetworkAdd {
        name: "back".into(),
        subnets: ["10.62.0.0/24", "fd00:62::/64"].map(|subnet| subnet.parse().unwrap()).into(),
        ..NetworkAdd::default()
    };
    node.runtime.block_on(node.client.network_add(&wanted)).expect("network");
}

/// Whether pings are answered.
pub(crate) fn reaches(netns: &Netns, address: &str) -> bool {
    let said = run_in(netns, "ping", &["-c1", "-W3", "-q", address]);
    let reached = said.contains(" 0% packet loss");
    if !reached {
        eprintln!("{said}");
    }
    reached
}

fn in_version(config: &Value, version: &str) -> Value {
    let mut config = config.clone();
    config["cniVersion"] = version.into();
    config
}

/// The configuration with the result of an earlier request.
pub(crate) fn after(config: &Value, result: &Value) -> Value {
    let mut config = config.clone();
    config["prevResult"] = result.clone();
    config
}

fn code(answer: Result<Value, Value>) -> (u64, String) {
    let error = answer.expect_err("it is refused");
    let code = error["code"].as_u64().expect("code");
    (
        code,
        format!("{}; {}", error["msg"].as_str().expect("msg"), error["details"].as_str().expect("details")),
    )
}

#[test]
fn cni_adds_checks_and_removes_in_every_version_ipv4_and_ipv6() {
    let node = Node::start("");
    let config = install(&node, "default");
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = in_version(&config, version);
        let container = Container::new("c1");
        let netns = namespace("c1");
        let result = ask(&node, "ADD", &config, &container).expect(version);
        println!("{result}");
        assert_eq!(result["cniVersion"], version);
        let of_link = |netns: &Netns, name: &str| run_in(netns, "ip", &["-o", "link", "show", name]);
        let interfaces = result["interfaces"].as_array().expect("interfaces");
        let name = |at: usize| interfaces[at]["name"].as_str().expect("name");
        for (at, netns) in [(0, &node.topology.node.netns), (1, &netns)] {
            let link = of_link(netns, name(at));
            assert!(link.contains(interfaces[at]["mac"].as_str().expect("mac")), "{link}\n{result}");
        }
        assert_eq!((name(1), &interfaces[1]["sandbox"]), ("eth0", &"/run/netns/c1".into()));
        let ips = result["ips"].as_array().expect("ips");
        assert_eq!(ips.len(), 2);
        for ip in ips {
            assert_eq!((&ip["interface"], ip["version"].is_string()), (&1.into(), version < "1.0.0"));
            let address = ip["address"].as_str().expect("address").split('/').next().expect("address");
            assert!(reaches(&node.topology.node.netns, address), "{address}");
        }
        assert!(reaches(&netns, "198.18.1.2") && reaches(&netns, "2001:db8:18:1::2"));
        let pod = &pods(&node)[0];
        assert!(pod.name.starts_with("c1-"), "{}", pod.name);
        assert_eq!(pod.attachment.as_ref().expect("attachment").container, "c1");

        assert_eq!(ask(&node, "ADD", &config, &container).expect("once more"), result);
        assert_eq!(pods(&node).len(), 1);
        if version > "0.3.1" {
            assert_eq!(ask(&node, "CHECK", &after(&config, &result), &container), Ok(Value::Null));
        }
        // As containerd's CRI plugin does the second time.
        let bare = Container { netns: String::new(), ..container.clone() };
        for (config, container) in [(after(&config, &result), &container), (config.clone(), &bare)] {
            assert_eq!(ask(&node, "DEL", &config, container), Ok(Value::Null));
            assert_eq!(pods(&node), []);
        }
        assert!(!run_in(&netns, "ip", &["link"]).contains("eth0"));
        Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    }
    let version =
        ask(&node, "VERSION", &json!({"cniVersion": "0.4.0", "type": "netpath-cni"}), &Container::new("c"));
    let expected =
        json!({"cniVersion": "0.4.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]});
    assert_eq!(version, Ok(expected));
    tidy::check(&node, &[]);
}

#[test]
fn cni_del_leaves_nothing_whatever_is_left_of_the_container() {
    let node = Node::start("");
    let config = install(&node, "default");
    let container = Container::new("c1");
    namespace("c1");
    let first = ask(&node, "ADD", &config, &container).expect("added");
    Netns::delete(Path::new("/run/netns/c1")).expect("namespace");
    // Started again after that, in another namespace: nobody knows the first any more.
    namespace("c2");
    let again = Container { netns: "/run/netns/c2".into(), ..container.clone() };
    let second = ask(&node, "ADD", &config, &again).expect("added again");
    assert_ne!(first["interfaces"][0]["name"], second["interfaces"][0]["name"]);
    assert_eq!(pods(&node).len(), 1);
    tidy::check(&node, &[]);
    Netns::delete(Path::new("/run/netns/c2")).expect("namespace");
    // Engines name namespaces by processes too, whose numbers come again: whoever has the name now is not touched.
    let stranger = namespace("c2");
    wait::until("the agent notices", || pods(&node)[0].state.contains("another namespace"));
    assert!(!run_in(&stranger, "ip", &["link"]).contains("eth0"));
    let third = ask(&node, "ADD", &config, &again).expect("started there");
    assert_ne!(third["interfaces"][0]["name"], second["interfaces"][0]["name"]);
    assert_eq!(ask(&node, "DEL", &config, &again), Ok(Value::Null));
    Netns::delete(Path::new("/run/netns/c2")).expect("namespace");
    tidy::check(&node, &[]);
    let never = Container::new("never-added");
    assert_eq!(ask(&node, "DEL", &config, &never), Ok(Value::Null));
}

#[test]
fn cni_takes_addresses_and_mac_and_keeps_what_it_is_told() {
    let node = Node::start("");
    let mut config = install(&node, "default");
    namespace("c1");
    let arguments =
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;IP=10.61.0.77;MAC=02:00:00:00:00:77";
    let container = Container { arguments, ..Container::new("c1") };
    config["runtimeConfig"] =
        json!({"aliases": {"netpath": ["www", "web"], "other": ["x"]}, "dns": {"servers": ["192.0.2.53"]}});
    let result = ask(&node, "ADD", &config, &container).expect("added");
    assert_eq!(result["ips"][0]["address"], "10.61.0.77/32");
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:77");
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"]}));
    let pod = pods(&node).remove(0);
    assert!(pod.name.starts_with("shop.web-"), "{}", pod.name);
    assert_eq!(
        (pod.labels["cni.aliases"].as_str(), pod.labels["io.kubernetes.pod.name"].as_str()),
        ("www,web", "web")
    );
    let shown = String::from_utf8(node.netpath(&["pod", "show", &pod.name]).stdout).expect("text");
    assert!(shown.contains("container   c1 in netpath as eth0"), "{shown}");

    namespace("c2");
    let other = Container::new("c2");
    config["runtimeConfig"] = json!({"ips": ["10.61.0.78/24", "fd00:61::78"], "mac": "02:00:00:00:00:78"});
    let result = ask(&node, "ADD", &config, &other).expect("added");
    assert_eq!(
        (&result["ips"][0]["address"], &result["ips"][1]["address"]),
        (&"10.61.0.78/32".into(), &"fd00:61::78/128".into())
    );
    assert_eq!(result["interfaces"][1]["mac"], "02:00:00:00:00:78");

    namespace("c3");
    let refused = |runtime: Value| {
        let mut config = config.clone();
        config["runtimeConfig"] = runtime;
        code(ask(&node, "ADD", &config, &Container::new("c3")))
    };
    let (taken, said) = refused(json!({"ips": ["10.61.0.78"]}));
    assert!(taken == 101 && said.contains("10.61.0.78"), "{taken} {said}");
    let (outside, said) = refused(json!({"ips": ["192.0.2.1"]}));
    assert!(outside == 7 && said.contains("10.61.0.0/24"), "{outside} {said}");
    let (limit, said) = refused(json!({"bandwidth": {"ingressRate": 10, "ingressBurst": 10}}));
    assert!(limit == 7 && said.contains("a bandwidth of 10 bits"), "{limit} {said}");
    let (ports, said) =
        refused(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "hostIP": "nowhere"}]}));
    assert!(ports == 7 && said.contains("nowhere:8080:80/tcp"), "{ports} {said}");
    assert_eq!(pods(&node).len(), 2, "what is refused changes nothing");
    for id in ["c1", "c2"] {
        ask(&node, "DEL", &config, &Container::new(id)).expect("removed");
    }
}

#[test]
fn cni_gives_a_container_a_second_network_ipv4_and_ipv6() {
    let node = Node::start("");
    add_back(&node);
    let (front, back) = (install(&node, "default"), install(&node, "back"));
    let netns = namespace("c1");
    let first = Container::new("c1");
    let second = Container { interface: "eth1", ..first.clone() };
    ask(&node, "ADD", &front, &first).expect("first");
    let result = ask(&node, "ADD", &back, &second).expect("second");
    assert!(
        result["routes"].as_array().is_some_and(Vec::is_empty),
        "the first has the default route: {result}"
    );
    namespace("c2");
    ask(&node, "ADD", &back, &Container::new("c2")).expect("beside it");
    let routes = |flag: &str| run_in(&netns, "ip", &[flag, "route", "show", "default"]);
    for flag in ["-4", "-6"] {
        assert!(routes(flag).contains("dev eth0") && !routes(flag).contains("eth1"), "{}", routes(flag));
    }
    tidy::check(&node, &[]);
    for address in ["10.62.0.2", "fd00:62::2", "198.18.1.2", "2001:db8:18:1::2"] {
        assert!(reaches(&netns, address), "{address}");
    }
    let taken = Container { interface: "eth0", ..second.clone() };
    let (number, said) = code(ask(&node, "ADD", &back, &taken));
    assert!(number == 101 && said.contains("/run/netns/c1"), "{number} {said}");
    assert_eq!(ask(&node, "CHECK", &after(&back, &result), &second), Ok(Value::Null));

    ask(&node, "DEL", &front, &first).expect("disconnected");
    wait::until("the second has the default routes", || {
        ["-4", "-6"].iter().all(|flag| routes(flag).contains("dev eth1"))
    });
    assert!(reaches(&netns, "198.18.1.2") && reaches(&netns, "2001:db8:18:1::2"));
    let again = ask(&node, "ADD", &front, &first).expect("connected again");
    assert_eq!(again["routes"], json!([]));
    tidy::check(&node, &[]);
    for (config, container) in [(&back, &second), (&front, &first), (&back, &Container::new("c2"))] {
        ask(&node, "DEL", config, container).expect("removed");
    }
    assert_eq!(pods(&node), []);
    assert_eq!(run_in(&netns, "ip", &["rule"]).lines().count(), 3);
    assert_eq!(run_in(&netns, "ip", &["-6", "rule"]).lines().count(), 2);
}

#[test]
fn cni_check_tells_what_is_not_as_it_was_made() {
    let node = Node::start("");
    let config = install(&node, "default");
    let netns = namespace("c1");
    let container = Container::new("c1");
    let result = ask(&node, "ADD", &config, &container).expect("added");
    let check =
        |result: &Value, container: &Container<'_>| ask(&node, "CHECK", &after(&config, result), container);
    check(&result, &container).expect("as it was made");
    let mut other = result.clone();
    other["ips"][0]["address"] = "10.61.0.99/32".into();
    assert_eq!(code(check(&other, &container)).0, 103);
    other = result.clone();
    other["interfaces"][1]["mac"] = "02:00:00:00:00:01".into();
    assert_eq!(code(check(&other, &container)).0, 103);
    assert_eq!(code(ask(&node, "CHECK", &config, &container)).0, 7, "without prevResult");
    namespace("c2");
    assert_eq!(code(check(&result, &Container::new("c2"))).0, 3, "never added");
    // The agent would put its interface back, but not over somebody else's of that name.
    let script = "until ip link add eth0 type veth peer name other; do ip link del eth0; done";
    run_in(&netns, "sh", &["-c", script]);
    let (number, said) = code(check(&result, &container));
    assert!(number == 103 && said.contains("not as"), "{number} {said}");
    run_in(&netns, "ip", &["link", "del", "eth0"]);
    wait::until("it is repaired", || check(&result, &container).is_ok());
    ask(&node, "DEL", &config, &container).expect("removed");
}

#[test]
fn cni_status_and_garbage_collection() {
    let mut node = Node::start("");
    add_back(&node);
    let config = in_version(&install(&node, "default"), "1.1.0");
    let back = in_version(&install(&node, "back"), "1.1.0");
    let nobody = Container { id: "", interface: "", netns: String::new(), arguments: "" };
    assert_eq!(ask(&node, "STATUS", &config, &nobody), Ok(Value::Null));
    let mut wrong = config.clone();
    wrong["network"] = "none".into();
    assert_eq!(code(ask(&node, "STATUS", &wrong, &nobody)).0, 50);
    for id in ["c1", "c2"] {
        namespace(id);
        ask(&node, "ADD", &config, &Container::new(id)).expect("added");
        ask(&node, "ADD", &back, &Container { interface: "eth1", ..Container::new(id) }).expect("added");
    }
    assert_eq!(code(ask(&node, "GC", &config, &nobody)).0, 7, "a list that is not there is not an empty one");
    assert_eq!(pods(&node).len(), 4);
    let mut valid = config.clone();
    valid["cni.dev/valid-attachments"] =
        json!([{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c1", "ifname": "eth9"}]);
    assert_eq!(ask(&node, "GC", &valid, &nobody), Ok(Value::Null));
    let left: Vec<_> = pods(&node).into_iter().filter_map(|pod| pod.attachment).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.iter().any(|one| one.container == "c1" && one.network == "netpath"), "{left:?}");
    // As Go writes a list with nobody in it.
    valid["cni.dev/valid-attachments"] = Value::Null;
    assert_eq!(ask(&node, "GC", &valid, &nobody), Ok(Value::Null));
    let left: Vec<_> = pods(&node).into_iter().filter_map(|pod| pod.attachment).collect();
    assert!(left.len() == 2 && left.iter().all(|one| one.network == "back"), "{left:?}");
    node.stop();
    let (number, said) = code(ask(&node, "STATUS", &config, &nobody));
    assert!(number == 50 && said.contains("netpath agent run"), "{number} {said}");
    node.restart();
    assert_eq!(ask(&node, "STATUS", &config, &nobody), Ok(Value::Null));
}

#[test]
fn cni_addresses_of_another_ipam_plugin() {
    let node = Node::start("");
    let mut config = install(&node, "default");
    let data = Path::new("/mnt/host-local");
    config["ipam"] = json!({
        "type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.61.0.0/24", "rangeStart": "10.61.0.40"}]],
    });
    let held = || {
        fs::read_dir(data.join("netpath")).map_or(0, |files| {
            files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("10.")).count()
        })
    };
    let netns = namespace("c1");
    let container = Container::new("c1");
    let result = ask(&node, "ADD", &config, &container).expect("added");
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(1), "no family that it does not give: {result}");
    assert_eq!((&result["ips"][0]["address"], held()), (&"10.61.0.40/32".into(), 1));
    assert!(reaches(&netns, "198.18.1.2"));
    assert_eq!(ask(&node, "CHECK", &after(&config, &result), &container), Ok(Value::Null));
    ask(&node, "DEL", &config, &container).expect("removed");
    assert_eq!((pods(&node).len(), held()), (0, 0));

    config["ipam"] =
        json!({"type": "static", "addresses": [{"address": "10.61.0.50/24"}, {"address": "fd00:61::50/64"}]});
    let result = ask(&node, "ADD", &config, &container).expect("added");
    assert_eq!(result["ips"][1]["address"], "fd00:61::50/128");
    ask(&node, "DEL", &config, &container).expect("removed");

    config["ipam"] = json!({"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "192.0.2.0/24"}]]});
    let (number, said) = code(ask(&node, "ADD", &config, &container));
    assert!(number == 7 && said.contains("192.0.2"), "{number} {said}");
    assert_eq!(held(), 0, "what netpath refuses is given back");
    config["ipam"] = json!({"type": "no-such-plugin"});
    let (number, said) = code(ask(&node, "ADD", &config, &container));
    assert!(number == 7 && said.contains("no-such-plugin"), "{number} {said}");
}
