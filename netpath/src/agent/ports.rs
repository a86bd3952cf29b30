//! Lists of ports as `net.ipv4.ip_local_reserved_ports` has them.

use std::{fmt, ops::RangeInclusive};

/// A set of ports; in text `8080,32768-49151`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Ports(Box<[bool]>);

impl Ports {
    /// Reads a list; what is not a port or a range is left out, as the kernel writes nothing else.
    pub(super) fn parse(list: &str) -> Self {
        let mut ports = Self::none();
        for item in list.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            if let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse()) {
                ports = ports.with(&Self::range(&(first..=last)));
            }
        }
        ports
    }

    /// All ports of a range.
    pub(super) fn range(range: &RangeInclusive<u16>) -> Self {
        let mut ports = Self::none();
        range.clone().for_each(|port| ports.0[usize::from(port)] = true);
        ports
    }

    fn none() -> Self {
        Self(vec![false; 1 << 16].into())
    }

    /// Those in either.
    pub(super) fn with(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a | b).collect())
    }

    /// Those in both.
    pub(super) fn within(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// Those not in the other.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & !b).collect())
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        let mut separator = "";
        while let Some(first) = self.0[at..].iter().position(|port| *port).map(|offset| at + offset) {
            let end =
                self.0[first..].iter().position(|port| !port).map_or(self.0.len(), |offset| first + offset);
            match end - first {
                1 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{}", end - 1)?,
            }
            separator = ",";
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text() {
        for list in ["", "1", "8080,32768-49151", "1-2,4,65535"] {
            assert_eq!(Ports::parse(list).to_string(), list);
        }
        assert_eq!(Ports::parse("5-7,6-9,x,10").to_string(), "5-10");
    }

    proptest! {
        #[test]
        fn what_was_added_can_be_taken_out(a: u16, b: u16, c: u16, d: u16) {
            let before = Ports::range(&(a.min(b)..=a.max(b)));
            let wanted = Ports::range(&(c.min(d)..=c.max(d)));
            let added = wanted.without(&before);
            let after = Ports::parse(&before.with(&added).to_string());
            prop_assert!(after == before.with(&wanted));
            prop_assert!(after.without(&added) == before);
            prop_assert!(after.within(&wanted) == wanted && added.within(&before) == Ports::none());
        }
    }
}
