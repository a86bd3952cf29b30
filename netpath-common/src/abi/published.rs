//! PUBLISHED: hash, [`PublishedKey`] → [`Published`]. Ports of the node that lead to pods, one entry a port.

use super::{Addr, GATEWAY_V4};

/// Entries that PUBLISHED has room for.
pub const MAX_PUBLISHED: u32 = 32_768;

/// Whom a pod hears from that talks to itself by a port of the node: it would drop what carries its own address.
pub const HAIRPIN_V4: Addr = GATEWAY_V4;

/// The same for IPv6: 64:ff9b:1::169.254.1.1, of the prefix for local use (RFC 8215). Not the gateway's own: a pod answers
/// a link-local address from its own link-local one.
pub const HAIRPIN_V6: Addr = Addr([0x0064_ff9b_u32.to_be(), 0x0001_0000_u32.to_be(), 0, GATEWAY_V4.v4_be()]);

/// A port of the node.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct PublishedKey {
    /// The node's address; the unspecified one of a family stands for all of them.
    pub addr: Addr,
    /// Port, network order.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero: the key is hashed as bytes.
    pub pad: u8,
}

super::record!(PublishedKey, 20);

/// Where it leads.
///
/// Whatever address a port is published on, there is an entry for all addresses of the family; without a pod it says that
/// only entries with an address do. So one look tells that a port is not published.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Published {
    /// The pod's address.
    pub addr: Addr,
    /// The pod; 0 in an entry that only says that there are others.
    pub pod: u32,
    /// The pod's port, network order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

super::record!(Published, 24);

impl PublishedKey {
    /// A port on one address.
    #[inline(always)]
    pub const fn on(addr: Addr, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, pad: 0 }
    }

    /// A port on every address of the family that `addr` has.
    #[inline(always)]
    pub const fn anywhere(addr: &Addr, port: u16, proto: u8) -> Self {
        Self::on(if addr.is_v4() { Addr::from_v4_be(0) } else { Addr::UNSPECIFIED }, port, proto)
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn every_address_is_the_unspecified_one_of_its_family() {
        for (own, all) in [
            ("192.0.2.1", IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            ("2001:db8::1", Ipv6Addr::UNSPECIFIED.into()),
        ] {
            let own: IpAddr = own.parse().unwrap();
            assert_eq!(PublishedKey::anywhere(&own.into(), 80, 6).addr.to_ip(), all);
        }
        assert_eq!(HAIRPIN_V6.to_ip().to_string(), "64:ff9b:1::a9fe:101");
    }
}
