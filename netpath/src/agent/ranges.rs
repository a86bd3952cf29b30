//! The range that SNAT ports are chosen from, and those of before, while bindings still hold ports of them.
//!
//! A port that a binding holds is kept from the host's sockets in two ways: `to_uplink` looks at what the host sends from
//! it, and the kernel gives it to no socket that asks for any. The programs' record remembers both ranges, so that another
//! agent goes on from there; it lives as long as the flows do.

use std::ops::RangeInclusive;

use netpath_common::abi::Node as Record;

type Range = RangeInclusive<u16>;

/// What the programs are told of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// Where bindings are chosen from; absent before programs have been told any.
    pub(super) chosen: Option<Range>,
    /// Holds every port outside of that which a binding may have.
    pub(super) retired: Option<Range>,
}

impl Ranges {
    /// As a record has them.
    pub(super) fn of(record: &Record) -> Self {
        Self {
            chosen: range(record.snat_first, record.snat_count),
            retired: range(record.retired_first, record.retired_count),
        }
    }

    /// Bindings are chosen from this range from now on.
    pub(super) fn choose(&mut self, range: &Range) {
        match self.chosen.replace(range.clone()) {
            Some(before) if before != *range => {
                tracing::info!(
                    "SNAT ports {}-{} are guarded until no flow has one",
                    before.start(),
                    before.end()
                );
                self.retire(before);
            }
            _ => {}
        }
    }

    /// A sweep went by this range, and found translated flows with ports outside of it. Returns whether that changes
    /// anything.
    pub(super) fn settle(&mut self, range: &Range, strays: Option<&Range>) -> bool {
        // Chosen anew meanwhile: the next sweep tells.
        if self.chosen.as_ref() != Some(range) {
            return false;
        }
        let before = self.retired.clone();
        match strays {
            None => self.retired = None,
            // A program that had read the record just before it was changed may have made a binding after it.
            Some(strays) => self.retire(strays.clone()),
        }
        self.retired != before
    }

    fn retire(&mut self, range: Range) {
        self.retired = Some(match self.retired.take() {
            Some(other) => *range.start().min(other.start())..=*range.end().max(other.end()),
            None => range,
        });
    }
}

fn range(first: u16, count: u16) -> Option<Range> {
    Some(first..=first.checked_add(count.checked_sub(1)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_is_retired_until_nothing_strays() {
        let mut ranges = Ranges::default();
        ranges.choose(&(20_000..=20_009));
        assert_eq!(ranges.retired, None, "there was none before");
        ranges.choose(&(20_000..=20_009));
        ranges.choose(&(40_000..=40_009));
        assert_eq!(ranges.retired, Some(20_000..=20_009));
        assert!(!ranges.settle(&(20_000..=20_009), None), "a sweep of before");
        assert!(!ranges.settle(&(40_000..=40_009), Some(&(20_003..=20_005))));
        assert_eq!(ranges.retired, Some(20_000..=20_009), "whole until the last one is gone");
        assert!(ranges.settle(&(40_000..=40_009), Some(&(30_000..=30_000))), "a late one");
        assert_eq!(ranges.retired, Some(20_000..=30_000));
        assert!(ranges.settle(&(40_000..=40_009), None));
        assert!(!ranges.settle(&(40_000..=40_009), None));
        assert_eq!(ranges.retired, None);
    }

    #[test]
    fn the_record_tells_the_next_agent() {
        let record = Record {
            snat_first: 40_000,
            snat_count: 10,
            retired_first: 65_535,
            retired_count: 1,
            ..Record::default()
        };
        let ranges = Ranges::of(&record);
        assert_eq!((ranges.chosen, ranges.retired), (Some(40_000..=40_009), Some(65_535..=65_535)));
        assert_eq!(Ranges::of(&Record::default()), Ranges::default());
    }

    proptest! {
        #[test]
        fn no_binding_is_ever_outside(
            steps in proptest::collection::vec((1024u16.., 1024u16.., 0u8..4), 1..12),
        ) {
            let mut ranges = Ranges::default();
            let mut held: Vec<u16> = Vec::new();
            for (a, b, what) in steps {
                let range = a.min(b)..=a.max(b);
                match what {
                    0 => held.clear(),
                    1 => held.truncate(1),
                    _ => {
                        ranges.choose(&range);
                        held.extend([*range.start(), *range.end()]);
                    }
                }
                let Some(chosen) = ranges.chosen.clone() else { continue };
                let strays: Vec<u16> = held.iter().copied().filter(|port| !chosen.contains(port)).collect();
                let hull = strays.iter().min().zip(strays.iter().max()).map(|(first, last)| *first..=*last);
                ranges.settle(&chosen, hull.as_ref());
                let guarded = |port: &u16| {
                    chosen.contains(port) || ranges.retired.as_ref().is_some_and(|retired| retired.contains(port))
                };
                prop_assert!(held.iter().all(guarded));
                prop_assert_eq!(ranges.retired.is_some(), !strays.is_empty());
            }
        }
    }
}
