//! The interfaces and the FIB of the scene.

use std::net::IpAddr;

use ipnet::IpNet;
use netpath::net::{Netlink, Netns, Route as KernelRoute, RouteKind, VethEnd, sysctl};

use super::{GATEWAY_MAC, ROUTER, ROUTER6};

/// Makes them; returns the indexes of a, b, the uplink and vpn0.
pub(super) async fn make() -> (Netlink, [u32; 4]) {
    let own = Netns::current().expect("own namespace");
    let netlink = Netlink::connect(&own).await.expect("netlink");
    let keys = [
        // The kernel's own addresses are usable at once, and it sends nothing by itself.
        ("default.accept_dad", "0"),
        ("default.router_solicitations", "0"),
        // IPv6 has no forwarding of one interface in every kernel.
        ("all.forwarding", "1"),
    ];
    for (key, value) in keys {
        sysctl::write(&format!("net.ipv6.conf.{key}"), value).expect("IPv6 sysctl");
    }
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
    let [_, _, uplink, vpn] = indexes;
    let addresses = [
        (uplink, "198.18.0.2/30"),
        (uplink, "2001:db8:ff::2/64"),
        (vpn, "192.0.2.1/24"),
        (vpn, "2001:db8:77::1/64"),
    ];
    for (ifindex, address) in addresses {
        netlink.add_address(ifindex, address.parse::<IpNet>().expect("prefix")).await.expect("address");
    }
    for (prefix, router) in [("0.0.0.0/0", ROUTER), ("::/0", ROUTER6)] {
        netlink.replace_route(&by_router(prefix, uplink, router)).await.expect("default route");
    }
    (netlink, indexes)
}

fn by_router(prefix: &str, ifindex: u32, router: IpAddr) -> KernelRoute {
    KernelRoute { via: Some(router), ..route(prefix, ifindex) }
}

/// A route by an interface.
pub fn route(prefix: &str, ifindex: u32) -> KernelRoute {
    KernelRoute {
        prefix: prefix.parse().expect("prefix"),
        kind: RouteKind::Unicast,
        via: None,
        ifindex: Some(ifindex),
        onlink: false,
        source: None,
        mtu: None,
        table: None,
    }
}
