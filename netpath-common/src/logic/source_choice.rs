//! Which address of the node a pod's flows are translated to.

use crate::abi::{Addr, Pool};

/// Where new bindings come from.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// The addresses to translate to.
    pub pool: Pool,
    /// First port, host order.
    pub first: u16,
    /// How many ports.
    pub count: u16,
}

impl Sources {
    /// The address for a pod's flow after `others` had no port: a pod keeps to one address as long as that has ports
    /// ("paired", RFC 4787, REQ-2), and pods are spread over the pool.
    #[inline(always)]
    pub fn address(&self, pod: &Addr, others: u32) -> Addr {
        let [a, b, c, d] = pod.0;
        let spread = u32::from_be(a ^ b ^ c ^ d).wrapping_add(others);
        let at = spread.checked_rem(self.pool.count).unwrap_or(0) as usize;
        self.pool.addresses.get(at).copied().unwrap_or(Addr::UNSPECIFIED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn addresses(count: u8) -> Vec<Addr> {
        (0..count).map(|n| Ipv4Addr::new(192, 0, 2, n).into()).collect()
    }

    #[test]
    fn of_one_there_is_no_choice() {
        let addr = Ipv4Addr::new(192, 0, 2, 1).into();
        let sources = Sources { pool: Pool::new(&[addr]), first: 1, count: 1 };
        assert_eq!(sources.address(&Addr([1, 2, 3, 4]), 3), addr);
    }

    proptest! {
        #[test]
        fn every_address_is_reached_once(count in 1u8..=8, pod: [u32; 4]) {
            let sources = Sources { pool: Pool::new(&addresses(count)), first: 1, count: 1 };
            let chosen: BTreeSet<_> = (0..u32::from(count)).map(|n| sources.address(&Addr(pod), n)).collect();
            // A sum that wraps between two of them may repeat one.
            prop_assume!(u32::from_be(pod[0] ^ pod[1] ^ pod[2] ^ pod[3]) < u32::MAX - 8);
            prop_assert_eq!(chosen, addresses(count).into_iter().collect());
        }
    }
}
