//! A node on which everything is as it should be, to break in tests.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::*;
use crate::{
    model::GATEWAY_MAC,
    net::{Address, KernelRoute, Link, LinkState, ROUTE_PROTOCOL, Route, RouteKind},
};

impl Facts {
    /// One pod with addresses of both families on np1, one uplink eth0.
    pub(in crate::doctor) fn healthy() -> Self {
        let instance = Instance::default();
        let config = Config::of_environment(Some("/dev/null".into()), &instance);
        Self {
            file: instance.file(),
            file_there: true,
            config,
            paths: instance.paths(),
            environment: Vec::new(),
            variables: AgentFlags::variables(),
            entered: false,
            kernel: Kernel { release: "6.12.0".into(), btf: true, programs: Ok(()), tcx: true },
            host: host(),
            agent: agent(),
            node: node(),
            net: net(),
            firewall: Firewall {
                nft: Ok(Some(json!({"nftables": []}).to_string())),
                manager: None,
                legacy: Vec::new(),
            },
            leftovers: Leftovers {
                instances: vec![own()],
                tenants: Vec::new(),
                sees_all: true,
                routes: vec![route("10.61.0.0/24", None)],
            },
            instance,
        }
    }
}

fn host() -> Host {
    let built = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Host {
        bpffs: true,
        bpffs_of_host: Some(true),
        cgroup2: Some("/sys/fs/cgroup".into()),
        clock: Clock {
            now: built + Duration::from_secs(1000),
            built,
            services: vec!["chronyd".into()],
            synchronized: false,
        },
        checkout: Some(Checkout { root: "/src/netpath".into(), lacking: Vec::new() }),
    }
}

fn agent() -> Agent {
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"), "node": "n1", "pid": 42, "uptime_s": 192, "uplinks": ["eth0"],
        "programs": [], "pods": 1, "flows": 5, "flow_capacity": 131_072,
        "snat": {"range": "32768-49151", "in_use": 2, "exhausted": 0},
        "traffic": [], "store": "redb", "problems": [],
    });
    Agent {
        process: Some(Process {
            pid: 42,
            capabilities: u64::MAX,
            open_files: 20,
            open_files_limit: Some(1024),
            memory_limit: None,
            own_netns: false,
        }),
        status: Ok(serde_json::from_value(status).expect("a status")),
        pods: Vec::new(),
        networks: Vec::new(),
        nodes: Vec::new(),
        modes: vec![Mode {
            path: "/run/netpath/default/agent.sock".into(),
            mode: 0o600,
            owner: 0,
            dir: false,
        }],
    }
}

fn node() -> Node {
    let addresses = ["10.61.0.2", "fd00:61::2"].map(|address| address.parse().expect("an address")).to_vec();
    let blocks = ["10.61.0.0/24", "fd00:61::/64"];
    Node {
        uplinks: vec!["eth0".into()],
        pods: vec![Pod {
            name: "web".into(),
            interfaces: vec![PodInterface { host: "np1".into(), addresses }],
        }],
        blocks: blocks.map(|block| ("default".to_owned(), block.parse().expect("a block"))).to_vec(),
        snat_ports: 32768..=49151,
        stored: Stored::InUse,
    }
}

fn net() -> Net {
    let on = |interface: &str, egress: bool, name: &str| Attached {
        interface: interface.into(),
        egress,
        hook: Hook::Tcx(9),
        name: name.into(),
    };
    let kernel = |prefix: &str| KernelRoute { route: route(prefix, Some(2)), protocol: 3, metric: 0 };
    let own = KernelRoute { route: route("10.61.0.0/24", None), protocol: ROUTE_PROTOCOL, metric: 0 };
    let mut net = Net {
        links: vec![
            link(1, "lo", [0; 6], None),
            link(2, "eth0", [2; 6], None),
            link(3, "np1", GATEWAY_MAC.0, Some("veth")),
        ],
        addresses: vec![address(2, "192.0.2.5/24"), address(2, "2001:db8::5/64"), address(2, "fe80::1/64")],
        routes: vec![kernel("0.0.0.0/0"), kernel("::/0"), own],
        attached: vec![
            on("eth0", false, "from_uplink"),
            on("eth0", true, "to_uplink"),
            on("np1", false, "from_pod"),
            on("np1", true, "to_pod"),
        ],
        ..Net::default()
    };
    for (key, value) in [
        ("net/ipv4/conf/np1/forwarding", "1"),
        ("net/ipv6/conf/np1/forwarding", "1"),
        ("net/ipv6/conf/np1/force_forwarding", "1"),
        ("net/ipv6/conf/all/forwarding", "0"),
        ("net/ipv6/conf/eth0/accept_ra", "2"),
        ("net/ipv4/ip_local_reserved_ports", "32768-49151"),
        ("net/ipv4/ip_local_port_range", "32768\t60999"),
    ] {
        net.set(key, value);
    }
    net
}

impl Net {
    pub(in crate::doctor) fn set(&mut self, key: &str, value: &str) {
        self.sysctls.insert(key.to_owned(), value.to_owned());
    }

    pub(in crate::doctor) fn link_mut(&mut self, name: &str) -> &mut LinkState {
        self.links.iter_mut().find(|state| state.link.name == name).expect("a link")
    }
}

fn link(index: u32, name: &str, mac: [u8; 6], kind: Option<&str>) -> LinkState {
    let kind = kind.map(str::to_owned);
    let link = Link { index, name: name.into(), mac, mtu: 1500, up: true, kind, queue: None };
    LinkState { link, carrier: true, master: None, xdp: None, xdp_generic: false }
}

fn address(ifindex: u32, net: &str) -> Address {
    Address { ifindex, net: net.parse().expect("an address"), fading: false, tentative: false }
}

fn route(prefix: &str, ifindex: Option<u32>) -> Route {
    let kind = if ifindex.is_some() { RouteKind::Unicast } else { RouteKind::Unreachable };
    let prefix = prefix.parse().expect("a prefix");
    Route { prefix, kind, via: None, ifindex, onlink: false, source: None, mtu: None, table: None }
}

fn own() -> Known {
    Known {
        name: "default".into(),
        alive: true,
        pins: true,
        state: true,
        pods: 1,
        namespaces: Vec::new(),
        reserved_ports: String::new(),
    }
}
