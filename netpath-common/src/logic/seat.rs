//! Where an address has its seat in ENDPOINT_CACHE.

use crate::abi::{Addr, CACHE_SEATS};

/// An odd number near 2^32 divided by the golden ratio: consecutive addresses, as pods get them, land far from each other.
const SPREAD: u32 = 0x9e37_79b1;

/// The seat of an address: below [`CACHE_SEATS`].
#[inline(always)]
pub const fn of(addr: &Addr) -> u32 {
    let Addr([a, b, c, d]) = *addr;
    let folded = a ^ b ^ c ^ u32::from_be(d);
    folded.wrapping_mul(SPREAD) >> (u32::BITS - CACHE_SEATS.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::{IpAddr, Ipv4Addr, Ipv6Addr},
    };

    use super::*;

    fn seats(addresses: impl Iterator<Item = IpAddr>) -> usize {
        addresses.map(|address| of(&address.into())).collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn pods_of_a_block_share_no_seat() {
        let v4 = |low: u32| IpAddr::from(Ipv4Addr::from(0x0a3d_0000 + low));
        let v6 = |low: u32| IpAddr::from(Ipv6Addr::from((0xfd00_0061_u128 << 96) + u128::from(low)));
        for count in [250, 1000, 4000] {
            assert_eq!(
                (seats((0..count).map(v4)), seats((0..count).map(v6))),
                (count as usize, count as usize)
            );
        }
        // Of both families together some do.
        let both = seats((0..1000).flat_map(|low| [v4(low), v6(low)]));
        assert!(both > 1800, "{both} seats for 2000 addresses");
    }

    #[test]
    fn every_seat_is_within_the_table() {
        let all = [Addr([u32::MAX; 4]), Addr([0; 4]), Addr([u32::MAX, 0, 0, 0]), Addr([0, 0, 0, u32::MAX])];
        assert!(all.iter().all(|addr| of(addr) < CACHE_SEATS));
    }
}
