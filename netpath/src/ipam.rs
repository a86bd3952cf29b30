//! Address management: a pure allocator over one block of either family.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Not a host address of the block.
    #[error("address {address} is not one of {first} to {last} of the block {block}")]
    OutOfRange {
        /// What was asked for.
        address: IpAddr,
        /// The block.
        block: IpNet,
        /// First address that can be had.
        first: IpAddr,
        /// Last address that can be had.
        last: IpAddr,
    },
    /// Somebody has it.
    #[error("address {address} is taken")]
    Taken {
        /// What was asked for.
        address: IpAddr,
    },
    /// Nothing is left.
    #[error("all {capacity} addresses of the block {block} are taken")]
    Exhausted {
        /// The block.
        block: IpNet,
        /// How many addresses it has for pods.
        capacity: u128,
    },
}

/// The addresses of a block and who has them. Allocation is next-fit: a released address comes round again only when
/// all later ones have been given, so that peers that still talk to a removed pod do not reach a new one.
#[derive(Clone, Debug)]
pub struct Ipam {
    block: IpNet,
    first: u128,
    last: u128,
    taken: BTreeSet<u128>,
    next: u128,
}

impl Ipam {
    /// An allocator over `block` without its first address, which is IPv4's network and IPv6's subnet-router anycast
    /// address (RFC 4291, 2.6.1), and without IPv4's last, the broadcast address. A block of less than four IPv4 or two
    /// IPv6 addresses has none to give.
    pub fn new(block: IpNet) -> Self {
        let first = bits(block.network()).saturating_add(1);
        let last = match block {
            IpNet::V4(v4) => u128::from(v4.broadcast().to_bits()).saturating_sub(1),
            IpNet::V6(v6) => v6.broadcast().to_bits(),
        };
        Self { block, first, last, taken: BTreeSet::new(), next: first }
    }

    /// The block.
    pub fn block(&self) -> IpNet {
        self.block
    }

    /// How many addresses pods can have.
    pub fn capacity(&self) -> u128 {
        // The first address is never given, so this cannot overflow.
        self.last.checked_sub(self.first).map_or(0, |more| more + 1)
    }

    /// Whether nobody has any of them.
    pub fn is_unused(&self) -> bool {
        self.taken.is_empty()
    }

    /// How many are free.
    pub fn free(&self) -> u128 {
        self.capacity().saturating_sub(self.taken.len() as u128)
    }

    /// The next free address.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`].
    pub fn allocate(&mut self) -> Result<IpAddr, IpamError> {
        let free = self
            .gap(self.next, self.last)
            .or_else(|| self.gap(self.first, self.next.saturating_sub(1)))
            .ok_or(IpamError::Exhausted { block: self.block, capacity: self.capacity() })?;
        self.taken.insert(free);
        let address = self.address(free);
        self.continue_after(address);
        Ok(address)
    }

    /// Takes this very address. The next allocation does not continue from here.
    ///
    /// # Errors
    /// [`IpamError::OutOfRange`], [`IpamError::Taken`].
    pub fn take(&mut self, address: IpAddr) -> Result<(), IpamError> {
        let bits = bits(address);
        if address.is_ipv4() != self.is_v4() || bits < self.first || bits > self.last {
            let (first, last) = (self.address(self.first), self.address(self.last));
            return Err(IpamError::OutOfRange { address, block: self.block, first, last });
        }
        if self.taken.insert(bits) { Ok(()) } else { Err(IpamError::Taken { address }) }
    }

    /// Gives an address back; nothing happens if nobody has it.
    pub fn release(&mut self, address: IpAddr) {
        if address.is_ipv4() == self.is_v4() {
            self.taken.remove(&bits(address));
        }
    }

    /// Lets the next allocation look behind `address` first, as after having allocated it.
    pub fn continue_after(&mut self, address: IpAddr) {
        let next = bits(address).saturating_add(1);
        let inside = address.is_ipv4() == self.is_v4() && (self.first..=self.last).contains(&next);
        self.next = if inside { next } else { self.first };
    }

    /// The first free address of a range, if there is one. Looks at taken addresses only, not at the whole range.
    fn gap(&self, from: u128, to: u128) -> Option<u128> {
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

    fn is_v4(&self) -> bool {
        self.block.addr().is_ipv4()
    }

    /// The inverse of [`bits`] for this block's family.
    fn address(&self, bits: u128) -> IpAddr {
        match u32::try_from(bits) {
            Ok(bits) if self.is_v4() => Ipv4Addr::from_bits(bits).into(),
            _ => Ipv6Addr::from_bits(bits).into(),
        }
    }
}

/// An address as a number, of whatever family.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipam(block: &str) -> Ipam {
        Ipam::new(block.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn network_and_broadcast_are_skipped_and_nothing_else() {
        let mut ipam = ipam("10.61.0.0/30");
        assert_eq!(ipam.capacity(), 2);
        assert_eq!(ipam.allocate().unwrap(), ip("10.61.0.1"));
        assert_eq!(ipam.allocate().unwrap(), ip("10.61.0.2"));
        let error = ipam.allocate().unwrap_err();
        assert_eq!(error.to_string(), "all 2 addresses of the block 10.61.0.0/30 are taken");
        for outside in ["10.61.0.0", "10.61.0.3", "::10.61.0.1"] {
            assert!(matches!(ipam.take(ip(outside)), Err(IpamError::OutOfRange { .. })), "{outside}");
        }
        assert!(matches!(ipam.take(ip("10.61.0.2")), Err(IpamError::Taken { .. })));
    }

    #[test]
    fn only_the_anycast_address_of_an_ipv6_block_is_skipped() {
        let mut ipam = ipam("fd00::/126");
        assert_eq!(ipam.capacity(), 3);
        for last in 1..=3 {
            assert_eq!(ipam.allocate().unwrap(), ip(&format!("fd00::{last}")));
        }
        assert!(matches!(ipam.allocate(), Err(IpamError::Exhausted { capacity: 3, .. })));
        assert!(matches!(ipam.take(ip("fd00::")), Err(IpamError::OutOfRange { .. })));
        ipam.release(ip("0.0.0.2"));
        assert!(ipam.allocate().is_err());
    }

    #[test]
    fn ipv6_blocks_of_any_size() {
        for (block, capacity) in
            [("fd00::/64", (1 << 64) - 1), ("8000::/1", (1 << 127) - 1), ("::/0", u128::MAX)]
        {
            let mut ipam = ipam(block);
            assert_eq!(ipam.capacity(), capacity, "{block}");
            let first = ipam.allocate().unwrap();
            ipam.continue_after(ipam.address(ipam.last));
            assert_ne!(ipam.allocate().unwrap(), first, "{block}");
        }
    }

    #[test]
    fn a_released_address_is_not_given_again_at_once() {
        for (block, usable) in [("10.61.0.0/29", 6), ("fd00::/125", 7)] {
            let mut ipam = ipam(block);
            let first = ipam.allocate().unwrap();
            ipam.release(first);
            let others: Vec<_> = (1..usable).map(|_| ipam.allocate().unwrap()).collect();
            assert!(!others.contains(&first));
            assert_eq!(ipam.allocate().unwrap(), first);
        }
    }

    #[test]
    fn tiny_blocks_have_nothing() {
        let v4 = ["10.0.0.0/31", "10.0.0.0/32", "255.255.255.255/32", "0.0.0.0/32"];
        for block in v4.into_iter().chain(["fd00::/128", "::/128"]) {
            assert!(ipam(block).allocate().is_err(), "{block}");
            assert_eq!(ipam(block).capacity(), 0, "{block}");
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
        fn nobody_shares_and_nothing_is_lost(
            v6: bool,
            host_bits in 2u8..=8,
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let (base, length) = if v6 { (ip("fd00::100"), 128) } else { (ip("10.61.0.0"), 32) };
            let block = IpNet::new(base, length - host_bits).unwrap();
            let at = |host: u8| match base {
                IpAddr::V4(v4) => IpAddr::from(Ipv4Addr::from_bits(v4.to_bits() + u32::from(host))),
                IpAddr::V6(v6) => IpAddr::from(Ipv6Addr::from_bits(v6.to_bits() + u128::from(host))),
            };
            let usable = |address| {
                block.contains(&address)
                    && address != block.network() && (v6 || address != block.broadcast())
            };
            let mut ipam = Ipam::new(block);
            let mut held = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Allocate => match ipam.allocate() {
                        Ok(address) => {
                            prop_assert!(usable(address), "{}", address);
                            prop_assert!(held.insert(address), "{} given twice", address);
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, IpamError::Exhausted { .. }), "{}", error);
                            prop_assert_eq!(held.len() as u128, ipam.capacity());
                        }
                    },
                    Step::Take(host) => {
                        if ipam.take(at(host)).is_ok() {
                            prop_assert!(held.insert(at(host)));
                        } else {
                            prop_assert!(held.contains(&at(host)) || !usable(at(host)));
                        }
                    }
                    Step::Release(host) => {
                        held.remove(&at(host));
                        ipam.release(at(host));
                    }
                }
            }
        }
    }
}
