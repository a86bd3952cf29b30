//! A scene for programs: a namespace with the interfaces, routes and tables of a node, and BPF_PROG_TEST_RUN.
//!
//! Two pods, A and B, an uplink whose default route leads to a router, and `vpn0`, an interface that is no uplink.
//! BPF_PROG_TEST_RUN runs a program on one packet and returns its verdict and the packet it left; where a redirect
//! would have gone shows in the MAC addresses, the counters and the flow table.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use aya::{TestRun as _, TestRunOptions};
use ipnet::{IpNet, Ipv4Net};
use netpath::{
    datapath::{AttachKind, Datapath, FlowPair, FlowTable, Options},
    net::{Netlink, Netns, Route as KernelRoute, VethEnd, sysctl},
};
use netpath_common::abi::{
    Addr, DropReason, ENDPOINT_MASQUERADE, Endpoint, Link, NODE_ROUTES, Node, Pool as Addresses, Program,
    Route, RouteKind, TrafficClass, Uplink,
};

use crate::namespace::isolate;

/// MAC of all host ends.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x6e, 0x70, 0, 0, 1];
/// The node's address on its uplink.
pub const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The router.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// A server outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// An address behind `vpn0`.
pub const BEHIND_VPN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// A prefix that is routed without masquerade.
pub const UNMASKED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);
/// An address of the block without a pod.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 61, 0, 99);
/// The scene's network.
pub const NETWORK: u32 = 1;
/// The gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A pod of the scene.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// Address.
    pub ip: Ipv4Addr,
    /// MAC inside the pod.
    pub mac: [u8; 6],
    /// Interface index of the host end.
    pub ifindex: u32,
    /// Number, and counter slot.
    pub id: u32,
}

/// What the kernel is told about the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Interface the program runs on.
    pub ifindex: u32,
    /// Interface the packet came in by; 0 if the node made it.
    pub ingress_ifindex: u32,
    /// Mark.
    pub mark: u32,
    /// Payload of a segment of a GSO train; 0 for a plain packet.
    pub gso_size: u32,
}

/// What a run left.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The program's return value.
    pub code: i32,
    /// The packet.
    pub packet: Vec<u8>,
    /// Its mark.
    pub mark: u32,
}

impl Ran {
    /// Asserts that the packet went on as it came.
    pub fn assert_untouched(&self, name: &str, packet: &[u8]) {
        assert_eq!(self.code, NEXT, "{name}: verdict");
        let changed = self.packet.iter().zip(packet).position(|(now, then)| now != then);
        assert_eq!((changed, self.packet.len()), (None, packet.len()), "{name}: first changed byte, length");
    }
}

/// TCX_NEXT.
pub const NEXT: i32 = -1;
/// TCX_DROP.
pub const DROP: i32 = 2;
/// TCX_REDIRECT.
pub const REDIRECT: i32 = 7;

/// The scene.
pub struct Scene {
    /// Programs and tables.
    pub datapath: Datapath,
    /// FLOWS.
    pub flows: FlowTable,
    /// Pod A.
    pub a: Pod,
    /// Pod B.
    pub b: Pod,
    /// The uplink's index.
    pub uplink: u32,
    /// `vpn0`'s index.
    pub vpn: u32,
    /// The node's record as written.
    pub node: Node,
    runtime: tokio::runtime::Runtime,
    netlink: Netlink,
}

impl Scene {
    /// A scene with the default SNAT range and room for 1,024 flow entries.
    pub fn new() -> Self {
        Self::with_flows(1024)
    }

    /// The same with another size of the flow table.
    pub fn with_flows(flow_entries: u32) -> Self {
        isolate();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let (netlink, [a, b, uplink, vpn]) = runtime.block_on(interfaces());
        let options = Options {
            pin_dir: Path::new("/sys/fs/bpf/netpath/test").to_owned(),
            gateway_mac: GATEWAY_MAC,
            flow_entries,
            attach: AttachKind::best(),
        };
        let mut datapath = Datapath::load(&options).unwrap_or_else(|error| panic!("{error}"));
        let pod = |n: u8, ifindex| Pod {
            ip: Ipv4Addr::new(10, 61, 0, n),
            mac: [0x02, 0x6e, 10, 61, 0, n],
            ifindex,
            id: n.into(),
        };
        let (a, b) = (pod(2, a), pod(3, b));
        for pod in [a, b] {
            let endpoint = Endpoint {
                ifindex: pod.ifindex,
                pod: pod.id,
                slot: pod.id,
                mac: pod.mac,
                mtu: 1500,
                network: NETWORK,
                flags: ENDPOINT_MASQUERADE,
                ..Endpoint::default()
            };
            let link = Link { pod: pod.id, mac: pod.mac, pad: 0 };
            datapath.set_link(pod.ifindex, link).expect("link");
            datapath.set_endpoint(pod.ip.into(), endpoint).expect("endpoint");
        }
        datapath.set_routes(&routes()).expect("routes");
        let mut node = Node { snat_first: 32768, snat_count: 16384, generation: 1, ..Node::default() };
        node.uplinks[0] = Uplink { ifindex: uplink, v4: Addresses::new(&[NODE.into()]), ..Uplink::default() };
        datapath.set_node(&node).expect("node");
        let flows = datapath.flow_table().expect("flow table");
        Self { datapath, flows, a, b, uplink, vpn, node, runtime, netlink }
    }

    /// Changes the node's record.
    pub fn set_node(&mut self, change: impl FnOnce(&mut Node)) {
        change(&mut self.node);
        self.datapath.set_node(&self.node).expect("node");
    }

    /// Changes the endpoint of a pod.
    pub fn set_endpoint(&mut self, pod: Pod, change: impl FnOnce(&mut Endpoint)) {
        let endpoints = self.datapath.endpoints().expect("endpoints");
        let address = IpAddr::V4(pod.ip);
        let (_, mut endpoint) = *endpoints.iter().find(|(there, _)| *there == address).expect("endpoint");
        change(&mut endpoint);
        self.datapath.set_endpoint(address, endpoint).expect("endpoint");
    }

    /// Adds a route to the kernel's FIB.
    pub fn add_route(&self, route: &KernelRoute) {
        self.runtime.block_on(self.netlink.replace_route(route)).expect("route");
    }

    /// Runs a program once on a packet.
    pub fn run(&self, program: Program, packet: &[u8], context: Context) -> Ran {
        let mut out = vec![0; packet.len() + 256];
        let (context_in, mut context_out) = (context.to_bytes(), [0; Context::SIZE]);
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context_in),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        };
        let program_fd = self.datapath.program(program).expect("program");
        let result = program_fd.test_run(options).unwrap_or_else(|error| panic!("{program:?}: {error:?}"));
        out.truncate(result.data_size_out as usize);
        let mark = u32::from_ne_bytes(context_out[8..12].try_into().expect("mark"));
        Ran { code: result.return_value as i32, packet: out, mark }
    }

    /// Runs `from_pod` on a packet of pod A.
    pub fn from_a(&self, packet: &[u8]) -> Ran {
        self.run(Program::FromPod, packet, Context { ifindex: self.a.ifindex, ..Context::default() })
    }

    /// Runs `from_uplink`.
    pub fn from_wire(&self, packet: &[u8]) -> Ran {
        self.run(Program::FromUplink, packet, Context { ifindex: self.uplink, ..Context::default() })
    }

    /// Packets dropped for a reason so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.datapath.drops(reason).expect("counter").packets
    }

    /// Packets of a class so far.
    pub fn traffic(&self, class: TrafficClass) -> u64 {
        self.datapath.traffic(class).expect("counter").packets
    }

    /// All flows.
    pub fn pairs(&self) -> Vec<FlowPair> {
        self.flows.pairs().expect("flows")
    }

    /// Asserts that a run dropped the packet, for this reason and only this.
    pub fn assert_dropped(&self, name: &str, ran: &Ran, before: &[u64], reason: DropReason) {
        let after = self.all_drops();
        let told: Vec<_> =
            DropReason::ALL.iter().zip(before.iter().zip(&after)).filter(|(_, (b, a))| a > b).collect();
        assert_eq!(ran.code, DROP, "{name}: verdict (drops counted: {told:?})");
        assert_eq!(told.len(), 1, "{name}: one reason counted, not {told:?}");
        assert_eq!(*told[0].0, reason, "{name}: reason");
    }

    /// All drop counters, in the order of the reasons.
    pub fn all_drops(&self) -> Vec<u64> {
        DropReason::ALL.iter().map(|&reason| self.drops(reason)).collect()
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// Bytes of `struct __sk_buff` (include/uapi/linux/bpf.h).
    const SIZE: usize = 192;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        // The kernel checks that a GSO train has a segment count, and takes no other field.
        let segments = u32::from(self.gso_size != 0) * 2;
        let fields = [
            (8, self.mark),
            (36, self.ingress_ifindex),
            (40, self.ifindex),
            (164, segments),
            (176, self.gso_size),
        ];
        for (offset, value) in fields {
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

fn routes() -> Vec<(u32, IpNet, Route)> {
    let net = |ip: Ipv4Addr, length| IpNet::V4(Ipv4Net::new(ip, length).expect("prefix"));
    let block = (NODE_ROUTES, net(Ipv4Addr::new(10, 61, 0, 0), 24), Route::new(RouteKind::Stack, false));
    let routes = [
        (net(Ipv4Addr::UNSPECIFIED, 0), Route::new(RouteKind::Fib, true)),
        (net(Ipv4Addr::new(10, 61, 0, 0), 24), Route::new(RouteKind::Stack, false)),
        (net(NODE, 32), Route::new(RouteKind::Stack, false)),
        (net(Ipv4Addr::new(198, 51, 100, 0), 24), Route::new(RouteKind::Fib, false)),
        (net(Ipv4Addr::new(198, 51, 100, 66), 32), Route::new(RouteKind::Drop, false)),
    ];
    routes.into_iter().map(|(prefix, route)| (NETWORK, prefix, route)).chain([block]).collect()
}

/// Makes the interfaces and the FIB; returns the indexes of a, b, the uplink and vpn0.
async fn interfaces() -> (Netlink, [u32; 4]) {
    let own = Netns::current().expect("own namespace");
    let netlink = Netlink::connect(&own).await.expect("netlink");
    let mut indexes = [0; 4];
    for (name, index) in ["pod-a", "pod-b", "up0", "vpn0"].into_iter().zip(&mut indexes) {
        let peer = format!("{name}-peer");
        // redirect_peer and the FIB do not run in a test run: peers may stay in the same namespace.
        let (a, b) = (
            VethEnd { name, mac: Some(GATEWAY_MAC), netns: None },
            VethEnd { name: &peer, mac: None, netns: None },
        );
        netlink.add_veth(&a, &b, Some(1500)).await.expect("veth");
        *index = netlink.link(name).await.expect("link").expect("link").index;
        let peer = netlink.link(&peer).await.expect("link").expect("link").index;
        netlink.set_up(*index).await.expect("up");
        netlink.set_up(peer).await.expect("up");
        sysctl::write(&format!("net.ipv4.conf.{name}.forwarding"), "1").expect("forwarding");
    }
    let net = |text: &str| text.parse::<IpNet>().expect("prefix");
    netlink.add_address(indexes[2], net("198.18.0.2/30")).await.expect("address");
    netlink.add_address(indexes[3], net("192.0.2.1/24")).await.expect("address");
    let default = KernelRoute { via: Some(IpAddr::V4(ROUTER)), ..route("0.0.0.0/0", indexes[2]) };
    netlink.replace_route(&default).await.expect("default route");
    (netlink, indexes)
}

/// A route by an interface.
pub fn route(prefix: &str, ifindex: u32) -> KernelRoute {
    KernelRoute {
        prefix: prefix.parse().expect("prefix"),
        kind: netpath::net::RouteKind::Unicast,
        via: None,
        ifindex: Some(ifindex),
        onlink: false,
        mtu: None,
        table: None,
    }
}

/// An address as the tables hold it.
pub fn addr(ip: Ipv4Addr) -> Addr {
    ip.into()
}
