//! A scene for programs: a namespace with the interfaces, routes and tables of a node, and BPF_PROG_TEST_RUN.
//!
//! Two pods, A and B, an uplink whose default route leads to a router, and `vpn0`, an interface that is no uplink.
//! BPF_PROG_TEST_RUN runs a program on one packet and returns its verdict and the packet it left; where a redirect
//! would have gone shows in the MAC addresses, the counters and the flow table.

mod family;
mod interfaces;
mod records;
mod run;
mod tables;
mod talk;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
};

use netpath::{
    datapath::{Attach, Datapath, FlowPair, FlowTable, Options},
    net::{Netlink, Route as KernelRoute},
};
use netpath_common::abi::{Addr, DropReason, Node, TrafficClass};

use crate::namespace::isolate;

pub use family::{
    BEHIND_VPN, BEHIND_VPN6, Family, GATEWAY, GATEWAY6, NOBODY, NOBODY6, NODE, NODE6, OUTSIDE, OUTSIDE6,
    ROUTER, ROUTER6, UNMASKED, UNMASKED6,
};
pub use interfaces::route;
pub use run::{Context, DROP, NEXT, REDIRECT, Ran, from_router, run_program};
pub use talk::{Opened, SERVER_PORT, Talk};

/// MAC of all host ends.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x6e, 0x70, 0, 0, 1];
/// MAC of the router on the uplink.
pub const ROUTER_MAC: [u8; 6] = [2, 1, 1, 1, 1, 1];

/// Where the scene's tables are pinned.
const PIN_DIR: &str = "/sys/fs/bpf/netpath/test";

/// A pod of the scene.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// IPv4 address.
    pub ip: IpAddr,
    /// IPv6 address.
    pub ip6: IpAddr,
    /// The IPv6 address that the pod's kernel makes of the MAC.
    pub link_local: IpAddr,
    /// MAC inside the pod.
    pub mac: [u8; 6],
    /// Interface index of the host end.
    pub ifindex: u32,
    /// Number, and counter slot.
    pub id: u32,
}

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

fn load(flow_entries: u32) -> Datapath {
    let options = Options {
        pin_dir: Path::new(PIN_DIR).to_owned(),
        gateway_mac: GATEWAY_MAC,
        flow_entries,
        attach: Attach::best(),
        forget_flows: false,
    };
    Datapath::load(&options).unwrap_or_else(|error| panic!("{error}"))
}

impl Scene {
    /// A scene with the default SNAT range and room for 1,024 flow entries.
    pub fn new() -> Self {
        Self::with_flows(1024)
    }

    /// What the next agent loads, with another size of the flow table.
    pub fn load_again(&self, flow_entries: u32) -> Datapath {
        load(flow_entries)
    }

    /// The same with another size of the flow table.
    pub fn with_flows(flow_entries: u32) -> Self {
        isolate();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let (netlink, [a, b, uplink, vpn]) = runtime.block_on(interfaces::make());
        let mut datapath = load(flow_entries);
        let (a, b) = (Pod::new(2, a), Pod::new(3, b));
        let node = records::write(&mut datapath, &[a, b], (uplink, vpn.max(uplink)));
        let flows = datapath.readings().flow_table().expect("flow table");
        Self { datapath, flows, a, b, uplink, vpn, node, runtime, netlink }
    }

    /// Changes the node's record.
    pub fn set_node(&mut self, change: impl FnOnce(&mut Node)) {
        change(&mut self.node);
        self.datapath.set_node(&self.node).expect("node");
    }

    /// Both families, to run one test for each.
    pub fn families(&self) -> [Family; 2] {
        [Family::V4, Family::V6]
    }

    /// Adds a route to the kernel's FIB.
    pub fn add_route(&self, route: &KernelRoute) {
        self.runtime.block_on(self.netlink.replace_route(route)).expect("route");
    }

    /// Routes a prefix by a router on the uplink, with this source, which becomes an address of the uplink.
    pub fn prefer_source(&self, prefix: &str, router: IpAddr, source: IpAddr) {
        let (router, source) = (router.to_string(), source.to_string());
        for arguments in [
            &["address", "replace", &source, "dev", "up0", "nodad"][..],
            &["route", "replace", prefix, "via", &router, "dev", "up0", "src", &source],
        ] {
            let output = Command::new("ip").args(arguments).output().expect("ip");
            assert!(output.status.success(), "ip {arguments:?}: {output:?}");
        }
    }

    /// Packets dropped for a reason so far.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.datapath.readings().drops(reason).expect("counter").packets
    }

    /// Packets of a class so far.
    pub fn traffic(&self, class: TrafficClass) -> u64 {
        self.datapath.readings().traffic(class).expect("counter").packets
    }

    /// All flows.
    pub fn pairs(&self) -> Vec<FlowPair> {
        self.flows.pairs().expect("flows")
    }

    /// Asserts that a run drops its packet, for this reason and only this.
    pub fn expect_drop(&self, name: &str, reason: DropReason, run: impl FnOnce(&Self) -> Ran) {
        let before = self.all_drops();
        let ran = run(self);
        self.assert_dropped(name, &ran, &before, reason);
    }

    /// Asserts that a run drops nothing; returns what it left.
    pub fn expect_no_drop(&self, name: &str, run: impl FnOnce(&Self) -> Ran) -> Ran {
        let before = self.all_drops();
        let ran = run(self);
        let after = self.all_drops();
        let told: Vec<_> =
            DropReason::ALL.iter().zip(before.iter().zip(&after)).filter(|(_, (b, a))| a > b).collect();
        assert!(ran.code != DROP && told.is_empty(), "{name}: verdict {}, drops counted: {told:?}", ran.code);
        ran
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

impl Pod {
    fn new(n: u8, ifindex: u32) -> Self {
        let mac = [0x02, 0x6e, 10, 61, 0, n];
        let low = |bytes: [u8; 2]| u16::from_be_bytes(bytes);
        Self {
            ip: Ipv4Addr::new(10, 61, 0, n).into(),
            ip6: Ipv6Addr::new(0xfd61, 0, 0, 0, 0, 0, 0, n.into()).into(),
            // RFC 4291, appendix A: the universal bit inverted, ff:fe in the middle.
            link_local: Ipv6Addr::new(
                0xfe80,
                0,
                0,
                0,
                low([mac[0] ^ 2, mac[1]]),
                low([mac[2], 0xff]),
                low([0xfe, mac[3]]),
                low([mac[4], mac[5]]),
            )
            .into(),
            mac,
            ifindex,
            id: n.into(),
        }
    }

    /// The address of a family.
    pub fn address(&self, family: &Family) -> IpAddr {
        if family.is_v4() { self.ip } else { self.ip6 }
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

/// An address as the tables hold it.
pub fn addr(ip: IpAddr) -> Addr {
    ip.into()
}
