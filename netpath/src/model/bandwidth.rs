//! How much a pod may get and send.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Rates that can be asked for, bits a second: those of Kubernetes' annotations.
const RATES: RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// The least burst that can be asked for, bytes: a packet of Ethernet's usual size.
const LEAST_BURST: u64 = 2048;

/// Room for the largest frame that a sender leaves to the device to cut (64 KiB), with the headers of all its segments. A
/// smaller bucket has the kernel cut it first.
const FRAME: u64 = 96 * 1024;

const NS: u64 = 1_000_000_000;

/// A limit of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Bits a second.
    rate: u64,
    /// Bytes that may pass at once after a pause; chosen by the rate if absent.
    burst: Option<u32>,
}

/// Why a limit cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BandwidthError {
    /// Out of range.
    #[error("a bandwidth of {0} bits a second is not {min} to {max}", min = RATES.start(), max = RATES.end())]
    Rate(u64),
    /// Too small for a packet, or too large for the kernel.
    #[error("a burst of {0} bytes is not {LEAST_BURST} to {max}: it has to hold a packet", max = u32::MAX)]
    Burst(u64),
}

impl Bandwidth {
    /// So many bits a second, and bytes at once.
    ///
    /// # Errors
    /// Either is out of range.
    pub fn new(rate: u64, burst: Option<u64>) -> Result<Self, BandwidthError> {
        if !RATES.contains(&rate) {
            return Err(BandwidthError::Rate(rate));
        }
        let burst = burst.map(|bytes| match u32::try_from(bytes) {
            Ok(fits) if bytes >= LEAST_BURST => Ok(fits),
            _ => Err(BandwidthError::Burst(bytes)),
        });
        Ok(Self { rate, burst: burst.transpose()? })
    }

    /// Bits a second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Bytes a second.
    pub fn bytes(&self) -> u64 {
        self.rate.div_ceil(8)
    }

    /// Bytes that may pass at once after a pause: what was asked for, else a hundredth of a second's.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or_else(|| capped((self.bytes() / 100).max(FRAME)))
    }

    /// Bytes that may wait: a twentieth of a second's, which TCP needs to fill the rate, and two frames at least.
    pub fn queue(&self) -> u32 {
        capped((self.bytes() / 20).max(2 * FRAME))
    }

    /// The burst of whoever enforces the limit behind the queue that keeps it, as the time that the rate takes for it, ns. What
    /// the queue lets go may come late and then at once: that is not to be refused.
    pub fn tolerance(&self) -> u64 {
        let bytes = 2 * u64::from(self.burst()) + FRAME;
        (bytes * NS / self.bytes()).saturating_add(NS / 10)
    }
}

fn capped(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(Bandwidth::new(0, None), Err(BandwidthError::Rate(0)));
        assert_eq!(Bandwidth::new(999, None), Err(BandwidthError::Rate(999)));
        assert!(Bandwidth::new(u64::MAX, None).is_err());
        let small = Bandwidth::new(1_000_000, Some(1500)).unwrap_err().to_string();
        assert!(small.contains("1500 bytes") && small.contains("hold a packet"), "{small}");
        assert!(Bandwidth::new(1_000_000, Some(1 << 32)).is_err());
    }

    #[test]
    fn bursts_and_queues_hold_a_frame_and_follow_the_rate() {
        let of = |rate| Bandwidth::new(rate, None).unwrap();
        let row = |rate| (of(rate).burst(), of(rate).queue());
        assert_eq!(row(10_000_000), (98_304, 196_608));
        assert_eq!(row(10_000_000_000), (12_500_000, 62_500_000));
        assert_eq!(row(1_000_000_000_000_000), (u32::MAX, u32::MAX));
        let own = Bandwidth::new(8_000_000, Some(4096)).unwrap();
        assert_eq!((own.rate(), own.bytes(), own.burst()), (8_000_000, 1_000_000, 4096));
        assert_eq!(own.tolerance(), (2 * 4096 + 98_304) * 1000 + 100_000_000);
        for rate in [1000, u64::from(u32::MAX) * 8, 1_000_000_000_000_000] {
            for burst in [None, Some(u64::from(u32::MAX))] {
                assert!(Bandwidth::new(rate, burst).unwrap().tolerance() > 100_000_000);
            }
        }
    }
}
