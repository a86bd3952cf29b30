//! What is printed.

use super::*;
use crate::api::types::{Drop, Flow, Network, PodInterface, Published};

#[test]
fn pods() {
    let failed = Pod {
        name: "database".into(),
        addresses: vec![],
        state: "failed: no free address".into(),
        labels: Default::default(),
        attachment: None,
        ..web()
    };
    assert_eq!(
        pod::render(&[web(), failed.clone()]),
        "\
NAME      NETWORK  ADDRESSES           INTERFACE  STATE                    BANDWIDTH        RECEIVED   SENT
web       default  10.244.0.2,fd00::2  np1        ready                    in 20M out 1.5G   2.0 KiB  999 B
database  default  -                   np1        failed: no free address  in 20M out 1.5G   2.0 KiB  999 B
"
    );
    assert_eq!(
        pod::render_one(&web()),
        "\
name        web
network     default
state       ready
addresses   10.244.0.2,fd00::2
allowed     -
masquerade  as its networks say
mac         0a:58:0a:f4:00:02
mtu         1500
mode        xdp
published   -
ingress     20Mbit/s, 96.0 KiB at once
egress      1.5Gbit/s
interface   np1 (7)
netns       /run/netns/web
received    3 packets, 2.0 KiB
sent        4 packets, 999 B
labels      app=web,tier=front
"
    );
    assert!(pod::render_one(&failed).ends_with("labels      -\n"));
}

#[test]
fn a_pod_in_two_networks() {
    let interface = |at: u32, network: &str, address: &str| PodInterface {
        name: format!("eth{at}"),
        network: network.into(),
        addresses: vec![address.parse().unwrap()],
        mac: "0a:58:0a:f4:00:02".into(),
        interface: format!("np1{}", if at == 0 { "" } else { "B" }),
        ifindex: 7 + at,
        gateways: vec![],
    };
    let interfaces = vec![interface(0, "default", "10.244.0.2"), interface(1, "back", "10.62.0.1")];
    let pod = Pod {
        addresses: interfaces[0].addresses.clone(),
        interfaces,
        no_masquerade: true,
        ingress_bandwidth: None,
        egress_bandwidth: None,
        ..web()
    };
    assert_eq!(
        pod::render(std::slice::from_ref(&pod)),
        "\
NAME  NETWORK       ADDRESSES             INTERFACE  STATE  BANDWIDTH  RECEIVED   SENT
web   default,back  10.244.0.2,10.62.0.1  np1,np1B   ready  -           2.0 KiB  999 B
"
    );
    let shown = pod::render_one(&pod);
    assert!(shown.contains("masquerade  never\n"), "{shown}");
    assert!(
        shown.ends_with(
            "\n
IN THE POD  NETWORK  ADDRESSES   MAC                INTERFACE
eth0        default  10.244.0.2  0a:58:0a:f4:00:02  np1 (7)
eth1        back     10.62.0.1   0a:58:0a:f4:00:02  np1B (8)
"
        ),
        "{shown}"
    );
}

#[test]
fn networks() {
    let network: Network = sample(json!({
        "name": "default", "subnets": ["10.244.0.0/24"], "masquerade": true, "inbound": "cluster", "mtu": 1500,
        "pods": 3,
    }));
    let except = Network {
        no_masquerade: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ..network.clone()
    };
    let shared = Network {
        subnets: Vec::new(),
        pools: vec!["10.70.0.0/16".parse().unwrap()],
        backend: Some("vxlan".into()),
        ..network.clone()
    };
    assert_eq!(
        network::render(&[shared]),
        "\
NAME     SUBNETS                    MASQUERADE  INBOUND   MTU  PODS
default  - of 10.70.0.0/16 (vxlan)  yes         cluster  1500     3
"
    );
    assert_eq!(
        network::render(&[network, except]),
        "\
NAME     SUBNETS        MASQUERADE                       INBOUND   MTU  PODS
default  10.244.0.0/24  yes                              cluster  1500     3
default  10.244.0.0/24  yes, not to 10.0.0.0/8,fd00::/8  cluster  1500     3
"
    );
}

#[test]
fn flows() {
    let tcp: Flow = sample(json!({
        "protocol": "tcp", "source": "10.244.0.2", "source_port": 40000, "destination": "192.0.2.9",
        "destination_port": 443, "translated_source": "198.51.100.1", "translated_port": 40000,
        "state": "established", "pod": "web", "age_s": 192, "idle_s": 1, "packets": 12, "bytes": 1536,
        "reply_packets": 10, "reply_bytes": 20480,
    }));
    let echo = Flow {
        protocol: "icmp".into(),
        source_port: 77,
        destination_port: 77,
        translated_source: None,
        translated_port: None,
        state: "unreplied".into(),
        reply_packets: 0,
        reply_bytes: 0,
        ..tcp.clone()
    };
    let echo_of_tcp = tcp.clone();
    assert_eq!(
        flow::render(&[tcp, echo]),
        "\
PROTO  SOURCE            DESTINATION      TRANSLATED          STATE        POD    AGE  IDLE  PACKETS               BYTES
tcp    10.244.0.2:40000  192.0.2.9:443    198.51.100.1:40000  established  web  3m12s    1s  12 / 10  1.5 KiB / 20.0 KiB
icmp   10.244.0.2 id 77  192.0.2.9 id 77  -                   unreplied    web  3m12s    1s   12 / 0       1.5 KiB / 0 B
"
    );
    let published = Flow {
        destination: "198.51.100.1".parse().unwrap(),
        translated_source: None,
        translated_destination: Some("10.244.0.3".parse().unwrap()),
        translated_destination_port: Some(80),
        ..echo_of_tcp
    };
    assert!(flow::render(&[published]).contains(" 198.51.100.1:443  10.244.0.3:80 "), "where it leads");
    assert_eq!(flow::render(&[]).lines().count(), 1);
}

#[test]
fn published() {
    let one: Published = sample(json!({
        "address": "*", "port": 8080, "ports": 1, "protocol": "tcp", "pod": "web", "pod_port": 80, "connections": 12,
    }));
    let range = Published { address: "2001:db8::7".into(), ports: 4, connections: 0, ..one.clone() };
    assert_eq!(
        publish::render(&[one, range]),
        "\
ADDRESS           PORT  PROTOCOL  POD  POD PORT  CONNECTIONS
*                 8080  tcp       web        80           12
2001:db8::7  8080-8083  tcp       web     80-83            0
"
    );
}

#[test]
fn drops() {
    let drop: Drop = sample(json!({
        "reason": "SpoofedSource", "packets": 12, "bytes": 720, "meaning": "Not its own.", "advice": "Look.",
    }));
    let none = Drop { reason: "Multicast".into(), packets: 0, bytes: 0, ..drop.clone() };
    assert_eq!(
        drop::render(&[drop, none]),
        "\
REASON         PACKETS  BYTES
SpoofedSource       12  720 B
  Not its own.
  try: Look.
Multicast            0    0 B
  Not its own.
  try: Look.
"
    );
    assert_eq!(drop::render(&[]), "REASON  PACKETS  BYTES\n");
}

#[test]
fn status_says_what_is_wrong() {
    assert_eq!(
        status::render(&status()),
        "\
problems  none
node      n1
agent     0.1.0, process 42, up 3m12s
uplinks   eth0
store     redb /var/lib/netpath/default/state.redb
pods      1
programs  from_pod 1 (tcx)
flows     5 of 262144 (0 %)
snat      ports 32768-49151, 2 in use, 0 packets found none free

TRAFFIC     PACKETS    BYTES
pod_to_pod       10  1.0 KiB
"
    );
    let problems = vec!["eth0 is down".to_owned(), "no default route".to_owned()];
    let text = status::render(&Status { problems, ..status() });
    assert!(text.starts_with("problems  2\n  eth0 is down\n  no default route\nnode "), "{text}");
}

#[test]
fn status_fits_on_one_screen_whatever_there_is() {
    let program = |name: &str, at: usize| {
        sample(json!({"name": name, "interface": format!("np{at}"), "id": at, "attach": "tcx"}))
    };
    let class = |class: &str| sample(json!({"class": class, "packets": 1, "bytes": 1}));
    let classes = [
        "local",
        "to-node",
        "translated",
        "routed",
        "to-stack",
        "reply",
        "inbound",
        "from-stack",
        "neighbour",
    ];
    let busy = Status {
        programs: (0..500).flat_map(|at| [program("from_pod", at), program("to_pod", at)]).collect(),
        traffic: classes.map(class).to_vec(),
        ..status()
    };
    let text = status::render(&busy);
    assert!(text.contains("programs  from_pod 500, to_pod 500 (tcx)\n"), "{text}");
    assert!(text.lines().count() <= 24, "{text}");
    let problems: Vec<_> = (0..40).map(|pod| format!("pod p{pod}: gone")).collect();
    let text = status::render(&Status { problems, traffic: vec![], ..busy });
    assert!(text.contains("  pod p9: gone\n  and 30 more; -o json has all\nnode "), "{text}");
    assert!(text.lines().count() <= 24, "{text}");
}

#[test]
fn status_shows_where_ports_are_scarce() {
    let mut tight = status();
    let to = |last: u8| json!({"destination": format!("192.0.2.{last}"), "port": 443, "protocol": "tcp", "packets": 6, "pod": "web"});
    tight.snat = sample(json!({
        "range": "40000-40009", "in_use": 10, "exhausted": 7, "addresses": ["198.51.100.1", "2001:db8::1"],
        "exhausted_destinations": [
            to(9), {"destination": "2001:db8::9", "port": 0, "protocol": "icmpv6", "packets": 1, "pod": "7"}, to(8), to(7),
        ],
        "tries": [{"up_to": 1, "bindings": 90}, {"up_to": 2, "bindings": 0}, {"up_to": 4, "bindings": 3}],
    }));
    let text = status::render(&tight);
    assert!(
        text.contains(
            "\
snat      ports 40000-40009 of 198.51.100.1,2001:db8::1, 10 in use, 7 packets found none free
tried     ports until one was free: up to 1: 90, up to 4: 3

NO FREE PORT TO  PROTO   PACKETS  LAST POD
192.0.2.9:443    tcp           6  web
2001:db8::9      icmpv6        1  7
192.0.2.8:443    tcp           6  web
and 1 more; -o json has all

TRAFFIC"
        ),
        "{text}"
    );
}

#[test]
fn a_flush_says_how_many() {
    assert_eq!(flow::render_flushed(&sample(json!({"removed": 1}))), "1 flow is removed\n");
    assert_eq!(flow::render_flushed(&sample(json!({"removed": 0}))), "0 flows are removed\n");
}
