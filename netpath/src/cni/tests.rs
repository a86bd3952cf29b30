//! Requests read, and results written, without an agent.

use serde_json::{Value, json};

use super::{
    config::{Config, Dns},
    error::CniError,
    name,
    request::{Command, Request},
    result::{self, Version},
};
use crate::api::types::{Attachment, Bandwidth, Pod};

/// A request of these variables and this configuration.
fn read(variables: &[(&str, &str)], config: &Value) -> (Result<Request, CniError>, Version) {
    let mut version = Version::LATEST;
    let find = |name: &str| {
        variables.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    let request = Request::read(find, config.to_string().as_bytes(), &mut version);
    (request, version)
}

const WHOLE: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_NETNS", "/proc/self/ns/net"),
    ("CNI_PATH", "/opt/cni/bin"),
];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&WHOLE[..], more].concat()
}

fn config(version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "type": "netpath-cni"})
}

fn pod() -> Pod {
    serde_json::from_value(json!({
        "name": "c1-0", "network": "default", "addresses": ["10.61.0.5", "fd00:61::5"], "mac": "02:6e:0a:3d:00:05",
        "interface": "np7", "ifindex": 7, "netns": "/run/netns/x", "state": "ready", "rx_packets": 0, "rx_bytes": 0,
        "tx_packets": 0, "tx_bytes": 0, "mtu": 1450,
        "interfaces": [{
            "name": "eth0", "network": "default", "addresses": ["10.61.0.5", "fd00:61::5"],
            "mac": "02:6e:0a:3d:00:05", "interface": "np7", "ifindex": 7, "gateways": ["169.254.1.1", "fe80::1"],
        }],
    }))
    .unwrap()
}

fn result_in(version: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut config = config(version);
    change(&mut config);
    let (request, _) = read(&WHOLE, &config);
    let request = request.unwrap();
    result::of_pod(&request, &pod(), &request.config.dns()).unwrap()
}

#[test]
fn a_removal_needs_no_more_than_what_identifies_it() {
    let variables = |command| with(&[("CNI_COMMAND", command), ("CNI_ARGS", "nonsense;IP=x;UNKNOWN=1")]);
    let mut config = config("1.0.0");
    config["runtimeConfig"] = json!({"portMappings": "x", "ips": 7});
    for (key, wrong) in
        [("prevResult", json!("x")), ("dns", json!(1)), ("mtu", json!(-1)), ("network", json!([]))]
    {
        config[key] = wrong;
    }
    config["ipam"] = json!({"type": "host-local"});
    config["spool"] = "/spool".into();
    let request = read(&variables("DEL"), &config).0.unwrap();
    let expected = Attachment { container: "c1".into(), interface: "eth0".into(), network: "net".into() };
    assert_eq!((request.attachment(), request.config.ipam()), (expected, Some("host-local")));
    assert_eq!(request.config.spool(), std::path::Path::new("/spool"));
    for command in ["ADD", "CHECK"] {
        read(&variables(command), &config).0.unwrap_err();
    }
}

#[test]
fn results_have_the_shape_of_their_version() {
    for version in Version::ALL {
        let mut expected = json!({
            "cniVersion": version.name(),
            "interfaces": [
                {"name": "np7", "mac": "02:6e:70:00:00:01"},
                {"name": "eth0", "mac": "02:6e:0a:3d:00:05", "sandbox": "/proc/self/ns/net"},
            ],
            "ips": [
                {"interface": 1, "address": "10.61.0.5/32", "gateway": "169.254.1.1"},
                {"interface": 1, "address": "fd00:61::5/128", "gateway": "fe80::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
            "dns": {},
        });
        if version < Version::V1_0_0 {
            expected["ips"][0]["version"] = "4".into();
            expected["ips"][1]["version"] = "6".into();
        }
        if version == Version::V1_1_0 {
            expected["interfaces"][1]["mtu"] = 1450.into();
        }
        assert_eq!(result_in(version.name(), |_| ()), expected, "{version:?}");
    }
}

#[test]
fn an_earlier_plugins_result_stays_in_front() {
    let previous = json!({
        "cniVersion": "0.4.0",
        "interfaces": [{"name": "lo", "sandbox": "/x"}],
        "ips": [{"version": "4", "address": "127.0.0.1/8", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.53"]},
        "of": "somebody",
    });
    let result = result_in("0.4.0", |config| config["prevResult"] = previous.clone());
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(
        (&result["ips"][1]["interface"], &result["ips"][1]["address"]),
        (&2.into(), &"10.61.0.5/32".into())
    );
    assert_eq!(result["dns"], previous["dns"]);
    assert_eq!(result["of"], "somebody");
    assert_eq!(
        result::of_interface(&result, "eth0").unwrap(),
        (vec!["10.61.0.5".parse().unwrap(), "fd00:61::5".parse().unwrap()], Some("02:6e:0a:3d:00:05".into()))
    );
    assert_eq!(result::of_interface(&result, "eth1"), None);
}

#[test]
fn dns_is_the_engines_where_it_has_any() {
    let result = result_in("1.0.0", |config| {
        config["dns"] = json!({"nameservers": ["192.0.2.1"], "domain": "a.example", "search": ["a"]});
        config["runtimeConfig"] =
            json!({"dns": {"servers": ["192.0.2.2"], "searches": [], "options": ["ndots:1"]}});
    });
    let expected =
        json!({"nameservers": ["192.0.2.2"], "domain": "a.example", "search": ["a"], "options": ["ndots:1"]});
    assert_eq!(result["dns"], expected);
}

#[test]
fn requests_that_are_not_whole_are_told_why_by_code() {
    let rows: [(Vec<_>, Value, u32, &str); 18] = [
        (with(&[("CNI_COMMAND", "")]), config("1.0.0"), 4, "CNI_COMMAND"),
        (with(&[("CNI_COMMAND", "JUMP")]), config("1.0.0"), 4, "JUMP"),
        (with(&[]), json!({"name": "net"}), 1, "0.1.0"),
        (with(&[]), config("9.0.0"), 1, "9.0.0"),
        (with(&[]), json!([]), 6, "configuration"),
        (with(&[]), json!({"cniVersion": "1.0.0", "name": 5}), 6, "integer"),
        (with(&[]), json!({"cniVersion": "1.0.0"}), 7, "name"),
        (with(&[("CNI_COMMAND", "CHECK")]), config("0.3.1"), 1, "0.4.0"),
        (with(&[("CNI_COMMAND", "GC")]), config("1.0.0"), 1, "1.1.0"),
        (with(&[("CNI_CONTAINERID", "")]), config("1.0.0"), 4, "CNI_CONTAINERID"),
        (with(&[("CNI_CONTAINERID", "../x")]), config("1.0.0"), 4, "../x"),
        (with(&[("CNI_IFNAME", "")]), config("1.0.0"), 4, "CNI_IFNAME"),
        (with(&[("CNI_IFNAME", "eth/0")]), config("1.0.0"), 4, "CNI_IFNAME: 'eth/0'"),
        (with(&[("CNI_IFNAME", "sixteen-letters0")]), config("1.0.0"), 4, "CNI_IFNAME: 'sixteen"),
        (with(&[("CNI_COMMAND", "CHECK"), ("CNI_IFNAME", "..")]), config("1.0.0"), 4, "CNI_IFNAME: '..'"),
        (with(&[("CNI_NETNS", "/nowhere")]), config("1.0.0"), 4, "/nowhere"),
        (with(&[("CNI_ARGS", "A=B")]), config("1.0.0"), 4, "IgnoreUnknown"),
        (with(&[("CNI_ARGS", "IP=ten")]), config("1.0.0"), 4, "ten"),
    ];
    for (variables, config, code, word) in rows {
        let error = read(&variables, &config).0.expect_err(word);
        assert!(error.code == code && error.message.contains(word), "{word}: {error:?}");
    }
    let (error, version) = read(&with(&[("CNI_CONTAINERID", "")]), &config("0.4.0"));
    let object = error.unwrap_err().object(version);
    assert_eq!(
        (&object["cniVersion"], &object["code"]),
        (&"0.4.0".into(), &4.into()),
        "told in the request's version"
    );
}

#[test]
fn a_container_can_be_let_go_with_what_is_left_of_it() {
    let (request, _) = read(&with(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]), &config("0.3.1"));
    assert_eq!(request.unwrap().netns, None);
    let (request, _) = read(&with(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "/gone")]), &config("1.0.0"));
    assert_eq!(request.unwrap().command, Command::Del);
    let (request, _) = read(&with(&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "eth/0")]), &config("1.0.0"));
    assert_eq!(request.unwrap().attachment().interface, "eth/0", "never added");
}

#[test]
fn what_versions_there_are_is_told_to_everybody() {
    for text in ["", "{}", r#"{"cniVersion": "7.0.0"}"#, r#"{"cniVersion": "0.4.0"}"#] {
        let mut version = Version::LATEST;
        let command = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
        let request = Request::read(command, text.as_bytes(), &mut version).unwrap();
        assert_eq!(request.version.name() == "0.4.0", text.contains("0.4.0"), "{text}");
    }
}

#[test]
fn arguments_of_engines() {
    let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;X=Y;\
                IP=10.61.0.7,fd00:61::7;MAC=02:00:00:00:00:07;";
    let request = read(&with(&[("CNI_ARGS", text)]), &config("1.0.0")).0.unwrap();
    assert_eq!(
        request.arguments.ips,
        ["10.61.0.7", "fd00:61::7"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap())
    );
    assert_eq!(request.arguments.mac.as_deref(), Some("02:00:00:00:00:07"));
    let name = name::of(&request.attachment(), &request.arguments);
    assert!(name.starts_with("shop.web-0-") && name.len() == 27, "{name}");
}

#[test]
fn names_of_pods_are_readable_different_and_not_too_long() {
    let attachment = |container: &str, interface: &str| Attachment {
        container: container.into(),
        interface: interface.into(),
        network: "net".into(),
    };
    let of = |container: &str, interface: &str, text: &str| {
        let request = read(&with(&[("CNI_ARGS", text)]), &config("1.0.0")).0.unwrap();
        name::of(&attachment(container, interface), &request.arguments)
    };
    let id = "0123456789abcdef".repeat(4);
    assert!(of(&id, "eth0", "").starts_with("0123456789ab-"));
    assert_ne!(of(&id, "eth0", ""), of(&id, "eth1", ""));
    assert!(of(&id, "eth0", "K8S_POD_NAMESPACE=web;K8S_POD_NAME=web").starts_with("web-"));
    assert!(of(&id, "eth0", "K8S_POD_NAMESPACE=_;K8S_POD_NAME=x").starts_with("pod-"));
    let long = format!("K8S_POD_NAMESPACE={};K8S_POD_NAME={}", "n".repeat(63), "p".repeat(253));
    assert_eq!(of(&id, "eth0", &long).len(), 63);
}

#[test]
fn bandwidths_are_in_bits_and_a_burst_that_nobody_chose_is_the_agents_to_choose() {
    let of = |limits: Value| {
        let runtime = json!({"bandwidth": limits});
        let config: Config =
            serde_json::from_value(json!({"name": "net", "runtimeConfig": runtime})).unwrap();
        config.runtime.limits()
    };
    let limit = |rate, burst| Some(Bandwidth { rate, burst });
    for (limits, ingress, egress) in [
        (json!(null), None, None),
        (json!({"ingressRate": 0, "ingressBurst": 4_294_967_295_u64}), None, None),
        (json!({"ingressRate": 10_000_000, "ingressBurst": 800_001}), limit(10_000_000, Some(100_001)), None),
        (json!({"egressRate": 1000, "egressBurst": 4_294_967_295_u64}), None, limit(1000, None)),
        (
            json!({"ingressRate": 5000, "ingressBurst": 0, "egressRate": 1000, "egressBurst": 2_147_483_647}),
            limit(5000, None),
            limit(1000, None),
        ),
    ] {
        assert_eq!(of(limits.clone()), (ingress, egress), "{limits}");
    }
}

#[test]
fn mapped_ports_become_publications() {
    let runtime = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80},
        {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
        {"hostPort": 443, "containerPort": 443, "protocol": "tcp", "hostIP": "2001:db8::1"},
        {"hostPort": 0, "containerPort": 7, "protocol": "tcp", "hostIP": ""},
    ]});
    let config: Config = serde_json::from_value(json!({"name": "net", "runtimeConfig": runtime})).unwrap();
    assert_eq!(
        config.runtime.publications(),
        ["8080:80/tcp", "192.0.2.1:53:5353/udp", "[2001:db8::1]:443:443/tcp"]
    );
}

#[test]
fn names_of_fields_may_begin_with_a_capital() {
    let mut config = config("1.0.0");
    config["runtimeConfig"] = json!({
        "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "192.0.2.1"}],
        "dns": {"Servers": ["192.0.2.53"], "Searches": null, "Options": null},
        "bandwidth": {
            "IngressRate": 8_000_000, "IngressBurst": 4_294_967_295_u64, "EgressRate": 4_000_000, "EgressBurst": 800_000,
        },
        "aliases": {"Net": ["A"]},
    });
    let config = read(&WHOLE, &config).0.unwrap().config;
    assert_eq!(config.runtime.publications(), ["192.0.2.1:8080:80/tcp"]);
    assert_eq!(serde_json::to_value(config.dns()).unwrap(), json!({"nameservers": ["192.0.2.53"]}));
    let limits =
        [(8_000_000, None), (4_000_000, Some(100_000))].map(|(rate, burst)| Some(Bandwidth { rate, burst }));
    assert_eq!(<[_; 2]>::from(config.runtime.limits()), limits);
    assert!(config.runtime.aliases.unwrap().contains_key("Net"));
}

#[test]
fn places_follow_the_configuration() {
    let config = |value: Value| serde_json::from_value::<Config>(value).unwrap();
    let usual = config(json!({"name": "net", "ipam": {}}));
    assert_eq!(usual.socket().to_str(), Some("/run/netpath/default/agent.sock"));
    assert_eq!(usual.spool().to_str(), Some("/var/lib/netpath/default/cni-del"));
    assert_eq!((usual.network(), usual.ipam(), usual.dns()), ("default", None, Dns::default()));
    let own =
        config(json!({"instance": "two", "spool": "/s", "network": "back", "ipam": {"type": "host-local"}}));
    assert_eq!(own.socket().to_str(), Some("/run/netpath/two/agent.sock"));
    assert_eq!((own.spool().to_str(), own.network(), own.ipam()), (Some("/s"), "back", Some("host-local")));
}
