//! What a program decides, and what the kernel is told.

use netpath_common::abi::{DropReason, TrafficClass};

/// TC_ACT_UNSPEC, which is TCX_NEXT as well: programs of others behind ours still run.
const NEXT: i32 = -1;
/// TC_ACT_SHOT, which is TCX_DROP as well.
pub const SHOT: i32 = 2;

/// A packet's way, if it is not dropped: in the low byte what it is counted as (0: not at all), above it what the
/// kernel is told, plus one so that it is never negative.
#[derive(Clone, Copy)]
pub struct Verdict(u32);

/// What a program returns.
pub type Outcome = Result<Verdict, DropReason>;

impl Verdict {
    /// On to the next program, then the host stack or the wire.
    pub const NEXT: Self = Self(0);

    /// The same, counted as what it was.
    #[inline(always)]
    pub const fn counted(class: TrafficClass) -> Self {
        Self(class as u32)
    }

    /// Redirected: the helper's answer, and what it was.
    #[inline(always)]
    pub const fn redirected(code: i32, class: TrafficClass) -> Self {
        Self(((code - NEXT) as u32) << 8 | class as u32)
    }

    /// What the kernel is told.
    #[inline(always)]
    pub const fn code(self) -> i32 {
        (self.0 >> 8) as i32 + NEXT
    }

    /// The counter's row; 0 for none.
    #[inline(always)]
    pub const fn row(self) -> u32 {
        self.0 & 0xff
    }
}
