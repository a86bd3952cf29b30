//! Address management: a pure allocator over one node's block.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Not a host address of the block.
    #[error("address {address} is not one of {first} to {last} of the block {block}")]
    OutOfRange {
        /// What was asked for.
        address: Ipv4Addr,
        /// The block.
        block: Ipv4Net,
        /// First address that can be had.
        first: Ipv4Addr,
        /// Last address that can be had.
        last: Ipv4Addr,
    },
    /// Somebody has it.
    #[error("address {address} is taken")]
    Taken {
        /// What was asked for.
        address: Ipv4Addr,
    },
    /// Nothing is left.
    #[error("all {capacity} addresses of the block {block} are taken")]
    Exhausted {
        /// The block.
        block: Ipv4Net,
        /// How many addresses it has for pods.
        capacity: u32,
    },
}

/// The addresses of a block and who has them. Allocation is next-fit: a released address comes round again only when
/// all later ones have been given, so that peers that still talk to a removed pod do not reach a new one.
#[derive(Clone, Debug)]
pub struct Ipam {
    block: Ipv4Net,
    first: u32,
    last: u32,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Ipam {
    /// An allocator over `block` without its network and broadcast addresses. A block of less than four addresses has
    /// none to give.
    pub fn new(block: Ipv4Net) -> Self {
        let first = u32::from(block.network()).saturating_add(1);
        let last = u32::from(block.broadcast()).saturating_sub(1);
        Self { block, first, last, taken: BTreeSet::new(), next: first }
    }

    /// How many addresses pods can have.
    pub fn capacity(&self) -> u32 {
        (self.last + 1).saturating_sub(self.first)
    }

    /// The next free address.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`].
    pub fn allocate(&mut self) -> Result<Ipv4Addr, IpamError> {
        let free = self
            .gap(self.next, self.last)
            .or_else(|| self.gap(self.first, self.next.saturating_sub(1)))
            .ok_or(IpamError::Exhausted { block: self.block, capacity: self.capacity() })?;
        self.taken.insert(free);
        self.continue_after(free.into());
        Ok(free.into())
    }

    /// Takes this very address. The next allocation does not continue from here.
    ///
    /// # Errors
    /// [`IpamError::OutOfRange`], [`IpamError::Taken`].
    pub fn take(&mut self, address: Ipv4Addr) -> Result<(), IpamError> {
        let bits = u32::from(address);
        if bits < self.first || bits > self.last {
            let (first, last) = (self.first.into(), self.last.into());
            return Err(IpamError::OutOfRange { address, block: self.block, first, last });
        }
        if self.taken.insert(bits) { Ok(()) } else { Err(IpamError::Taken { address }) }
    }

    /// Gives an address back; nothing happens if nobody has it.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.taken.remove(&u32::from(address));
    }

    /// Lets the next allocation look behind `address` first, as after having allocated it.
    pub fn continue_after(&mut self, address: Ipv4Addr) {
        let next = u32::from(address).saturating_add(1);
        self.next = if (self.first..=self.last).contains(&next) { next } else { self.first };
    }

    /// The first free address of a range, if there is one. Looks at taken addresses only, not at the whole range.
    fn gap(&self, from: u32, to: u32) -> Option<u32> {
        if from > to {
            return None;
        }
        let mut candidate = from;
        for &taken in self.taken.range(from..=to) {
            if taken > candidate {
                break;
            }
            candidate = taken.checked_add(1)?;
        }
        (candidate <= to).then_some(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipam(block: &str) -> Ipam {
        Ipam::new(block.parse().unwrap())
    }

    #[test]
    fn network_and_broadcast_are_skipped_and_nothing_else() {
        let mut ipam = ipam("10.61.0.0/30");
        assert_eq!(ipam.capacity(), 2);
        assert_eq!(ipam.allocate().unwrap(), Ipv4Addr::new(10, 61, 0, 1));
        assert_eq!(ipam.allocate().unwrap(), Ipv4Addr::new(10, 61, 0, 2));
        let error = ipam.allocate().unwrap_err();
        assert_eq!(error.to_string(), "all 2 addresses of the block 10.61.0.0/30 are taken");
        assert!(matches!(ipam.take(Ipv4Addr::new(10, 61, 0, 0)), Err(IpamError::OutOfRange { .. })));
        assert!(matches!(ipam.take(Ipv4Addr::new(10, 61, 0, 3)), Err(IpamError::OutOfRange { .. })));
        assert!(matches!(ipam.take(Ipv4Addr::new(10, 61, 0, 2)), Err(IpamError::Taken { .. })));
    }

    #[test]
    fn a_released_address_is_not_given_again_at_once() {
        let mut ipam = ipam("10.61.0.0/29");
        let first = ipam.allocate().unwrap();
        ipam.release(first);
        let others: Vec<_> = (0..5).map(|_| ipam.allocate().unwrap()).collect();
        assert!(!others.contains(&first));
        assert_eq!(ipam.allocate().unwrap(), first);
    }

    #[test]
    fn tiny_blocks_have_nothing() {
        for block in ["10.0.0.0/31", "10.0.0.0/32", "255.255.255.255/32", "0.0.0.0/32"] {
            assert!(ipam(block).allocate().is_err(), "{block}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate,
        Take(u8),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Allocate),
            any::<u8>().prop_map(Step::Take),
            any::<u8>().prop_map(Step::Release)
        ]
    }

    proptest! {
        #[test]
        fn nobody_shares_and_nothing_is_lost(length in 24u8..=30, steps in prop::collection::vec(step(), 0..400)) {
            let block: Ipv4Net = format!("10.61.0.0/{length}").parse().unwrap();
            let mut ipam = Ipam::new(block);
            let mut held = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Allocate => match ipam.allocate() {
                        Ok(address) => {
                            prop_assert!(block.contains(&address));
                            prop_assert!(address != block.network() && address != block.broadcast());
                            prop_assert!(held.insert(address), "{} given twice", address);
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, IpamError::Exhausted { .. }), "{}", error);
                            prop_assert_eq!(held.len() as u32, ipam.capacity());
                        }
                    },
                    Step::Take(host) => {
                        let address = Ipv4Addr::new(10, 61, 0, host);
                        if ipam.take(address).is_ok() {
                            prop_assert!(held.insert(address));
                        } else {
                            let usable = block.contains(&address)
                                && address != block.network() && address != block.broadcast();
                            prop_assert!(held.contains(&address) || !usable);
                        }
                    }
                    Step::Release(host) => {
                        let address = Ipv4Addr::new(10, 61, 0, host);
                        held.remove(&address);
                        ipam.release(address);
                    }
                }
            }
        }
    }
}
