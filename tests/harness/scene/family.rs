//! The addresses of the scene, so that one test runs for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{ETHERNET, protocol};

/// The node's address on its uplink.
pub const NODE: IpAddr = v4([198, 18, 0, 2]);
/// The same, IPv6.
pub const NODE6: IpAddr = v6([0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 2]);
/// The router.
pub const ROUTER: IpAddr = v4([198, 18, 0, 1]);
/// The same, IPv6.
pub const ROUTER6: IpAddr = v6([0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1]);
/// A server outside.
pub const OUTSIDE: IpAddr = v4([203, 0, 113, 9]);
/// The same, IPv6.
pub const OUTSIDE6: IpAddr = v6([0x2001, 0xdb8, 9, 0, 0, 0, 0, 9]);
/// An address behind `vpn0`.
pub const BEHIND_VPN: IpAddr = v4([192, 0, 2, 77]);
/// The same, IPv6.
pub const BEHIND_VPN6: IpAddr = v6([0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x77]);
/// An address that is routed without masquerade.
pub const UNMASKED: IpAddr = v4([198, 51, 100, 5]);
/// The same, IPv6.
pub const UNMASKED6: IpAddr = v6([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 5]);
/// An address of the block without a pod.
pub const NOBODY: IpAddr = v4([10, 61, 0, 99]);
/// The same, IPv6.
pub const NOBODY6: IpAddr = v6([0xfd61, 0, 0, 0, 0, 0, 0, 0x99]);
/// The gateway.
pub const GATEWAY: IpAddr = v4([169, 254, 1, 1]);
/// The same, IPv6.
pub const GATEWAY6: IpAddr = v6([0xfe80, 0, 0, 0, 0, 0, 0, 1]);

/// One family's names for what the scene has in both.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// "ipv4" or "ipv6".
    pub name: &'static str,
    /// Pod A.
    pub a: IpAddr,
    /// Pod B.
    pub b: IpAddr,
    /// The pods' prefix.
    pub block: &'static str,
    /// An address of the block without a pod.
    pub nobody: IpAddr,
    /// The pods' gateway.
    pub gateway: IpAddr,
    /// The node's address on its uplink.
    pub node: IpAddr,
    /// The router.
    pub router: IpAddr,
    /// A server outside.
    pub outside: IpAddr,
    /// Another.
    pub other: IpAddr,
    /// The prefix of both.
    pub outside_net: &'static str,
    /// An address behind `vpn0`.
    pub vpn: IpAddr,
    /// An address that is routed without masquerade.
    pub unmasked: IpAddr,
    /// Its prefix.
    pub unmasked_net: &'static str,
    /// An address with a route that drops.
    pub refused: IpAddr,
    /// An address outside whose prefix a test may make unreachable.
    pub unreachable: IpAddr,
    /// That prefix.
    pub unreachable_net: &'static str,
}

impl Family {
    /// IPv4.
    pub const V4: Self = Self {
        name: "ipv4",
        a: v4([10, 61, 0, 2]),
        b: v4([10, 61, 0, 3]),
        block: "10.61.0.0/24",
        nobody: NOBODY,
        gateway: GATEWAY,
        node: NODE,
        router: ROUTER,
        outside: OUTSIDE,
        other: v4([203, 0, 113, 10]),
        outside_net: "203.0.113.0/24",
        vpn: BEHIND_VPN,
        unmasked: UNMASKED,
        unmasked_net: "198.51.100.0/24",
        refused: v4([198, 51, 100, 66]),
        unreachable: v4([203, 0, 113, 200]),
        unreachable_net: "203.0.113.128/25",
    };

    /// IPv6.
    pub const V6: Self = Self {
        name: "ipv6",
        a: v6([0xfd61, 0, 0, 0, 0, 0, 0, 2]),
        b: v6([0xfd61, 0, 0, 0, 0, 0, 0, 3]),
        block: "fd61::/64",
        nobody: NOBODY6,
        gateway: GATEWAY6,
        node: NODE6,
        router: ROUTER6,
        outside: OUTSIDE6,
        other: v6([0x2001, 0xdb8, 9, 0, 0, 0, 0, 10]),
        outside_net: "2001:db8:9::/48",
        vpn: BEHIND_VPN6,
        unmasked: UNMASKED6,
        unmasked_net: "2001:db8:51::/48",
        refused: v6([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x66]),
        unreachable: v6([0x2001, 0xdb8, 9, 1, 0, 0, 0, 0x200]),
        unreachable_net: "2001:db8:9:1::/64",
    };

    /// Whether this is IPv4.
    pub const fn is_v4(&self) -> bool {
        self.a.is_ipv4()
    }

    /// Bytes of an IP header without options or extensions.
    pub const fn header(&self) -> usize {
        if self.is_v4() { 20 } else { 40 }
    }

    /// Where the transport of a frame begins, without options or extensions.
    pub const fn transport(&self) -> usize {
        ETHERNET + self.header()
    }

    /// The number of the family's ICMP.
    pub const fn icmp(&self) -> u8 {
        if self.is_v4() { protocol::ICMP } else { protocol::ICMPV6 }
    }

    /// One of two, by family.
    pub fn pick<T>(&self, v4: T, v6: T) -> T {
        if self.is_v4() { v4 } else { v6 }
    }
}

/// Runs test bodies, functions that take a [`Family`], for both: `name::ipv4` and `name::ipv6`.
#[macro_export]
macro_rules! for_both_families {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[test]
            fn ipv4() {
                super::$name($crate::scene::Family::V4);
            }

            #[test]
            fn ipv6() {
                super::$name($crate::scene::Family::V6);
            }
        })+
    };
}

const fn v4([a, b, c, d]: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}
