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
}
