//! An address of either family.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address in its v4-mapped form `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2), so that one key
/// format and one code path serve both families.
///
/// Four words in network byte order. Words and not bytes: eBPF has no unaligned access, and a byte array is copied
/// and compared one byte at a time.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Addr(pub [u32; 4]);

super::record!(Addr, 16);

/// Third word of a v4-mapped address.
const V4_MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Addr {
    /// The unspecified address, `::`. No packet of a pod carries it.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// From the four bytes of an IPv4 header, as one word in network order.
    #[inline(always)]
    pub const fn from_v4_be(word: u32) -> Self {
        Self([0, 0, V4_MAPPED, word])
    }

    /// The IPv4 address as one word in network order. Meaningless unless [`Addr::is_v4`].
    #[inline(always)]
    pub const fn v4_be(&self) -> u32 {
        self.0[3]
    }

    /// Whether this is a v4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == V4_MAPPED
    }

    /// Whether this is an IPv6 link-local address, fe80::/10.
    #[inline(always)]
    pub const fn is_link_local_v6(&self) -> bool {
        self.0[0] & 0xffc0_0000_u32.to_be() == 0xfe80_0000_u32.to_be()
    }

    /// Whether this is an IPv6 multicast address, ff00::/8.
    #[inline(always)]
    pub const fn is_multicast_v6(&self) -> bool {
        self.0[0] & 0xff00_0000_u32.to_be() == 0xff00_0000_u32.to_be()
    }

    /// Whether this is a loopback address: 127.0.0.0/8 (RFC 1122), ::1.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return self.0[3] & 0xff00_0000_u32.to_be() == 0x7f00_0000_u32.to_be();
        }
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1_u32.to_be()
    }

    /// The loopback address of its family in place of the unspecified one.
    #[inline(always)]
    pub const fn or_loopback(self) -> Self {
        match self.0 {
            [0, 0, 0, 0] => Self([0, 0, 0, 1_u32.to_be()]),
            [0, 0, V4_MAPPED, 0] => Self::from_v4_be(0x7f00_0001_u32.to_be()),
            _ => self,
        }
    }

    /// The address as the standard library's type; v4-mapped becomes IPv4.
    pub fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from(u32::from_be(self.0[3])))
        } else {
            let [a, b, c, d] = self.0.map(u32::from_be);
            let high = (u128::from(a) << 96) | (u128::from(b) << 64);
            IpAddr::V6(Ipv6Addr::from(high | (u128::from(c) << 32) | u128::from(d)))
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4_be(u32::from(address).to_be())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(address: Ipv6Addr) -> Self {
        let bits = u128::from(address);
        Self([(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32].map(u32::to_be))
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn v4_round_trip(bits: u32) {
            let ip = Ipv4Addr::from(bits);
            let addr = Addr::from(ip);
            prop_assert!(addr.is_v4());
            prop_assert_eq!(addr.to_ip(), IpAddr::V4(ip));
            prop_assert_eq!(addr.v4_be().to_ne_bytes(), ip.octets());
            prop_assert_eq!(addr.is_loopback(), ip.is_loopback());
        }

        #[test]
        fn v6_round_trip(bits: u128) {
            let ip = Ipv6Addr::from(bits);
            prop_assume!(ip.to_ipv4_mapped().is_none());
            prop_assert_eq!(Addr::from(ip).to_ip(), IpAddr::V6(ip));
            prop_assert_eq!(Addr::from(ip).is_multicast_v6(), ip.is_multicast());
            prop_assert_eq!(Addr::from(ip).is_link_local_v6(), ip.is_unicast_link_local());
        }
    }

    #[test]
    fn any_address_is_the_loopback_of_its_family() {
        for (any, loopback) in [("0.0.0.0", "127.0.0.1"), ("::", "::1")] {
            let [any, loopback]: [IpAddr; 2] = [any, loopback].map(|text| text.parse().unwrap());
            assert_eq!(Addr::from(any).or_loopback().to_ip(), loopback);
            assert_eq!(Addr::from(loopback).or_loopback().to_ip(), loopback);
            assert!(Addr::from(loopback).is_loopback() && !Addr::from(any).is_loopback());
        }
        let inside: IpAddr = "127.1.2.3".parse().unwrap();
        assert!(Addr::from(inside).is_loopback());
        let others = ["128.0.0.1", "0.0.0.1", "::2", "1::1", "::1:0:1"];
        for other in others.map(|text| text.parse::<IpAddr>().unwrap()) {
            assert!(
                !Addr::from(other).is_loopback() && Addr::from(other).or_loopback().to_ip() == other,
                "{other}"
            );
        }
    }
}
