//! What a program decides, and what the kernel is told.

use netpath_common::abi::{DropReason, TrafficClass};

/// TC_ACT_UNSPEC, which is TCX_NEXT as well: programs of others behind ours still run.
const NEXT: i32 = -1;
/// TC_ACT_SHOT, which is TCX_DROP as well.
pub const SHOT: i32 = 2;

/// XDP_DROP.
pub const XDP_DROP: u32 = 1;
/// XDP_PASS: on to the kernel, which runs its tc programs.
const XDP_PASS: u32 = 2;

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

    /// What the kernel is told of an XDP program.
    #[inline(always)]
    pub const fn xdp_code(self) -> u32 {
        if self.code() == NEXT { XDP_PASS } else { self.code() as u32 }
    }

    /// The counter's row; 0 for none.
    #[inline(always)]
    pub const fn row(self) -> u32 {
        self.0 & 0xff
    }
}

/// Above a drop reason in an outcome's code.
const DROPPED: u64 = 1 << 32;

/// An outcome as a number, for functions that are not inlined: the kernel refuses the BTF that rustc writes for enums with
/// data.
#[inline(always)]
pub const fn to_code(outcome: Outcome) -> u64 {
    match outcome {
        Ok(Verdict(verdict)) => verdict as u64,
        Err(reason) => DROPPED | reason as u64,
    }
}

/// The outcome of a code.
#[inline(always)]
pub fn from_code(code: u64) -> Outcome {
    if code & DROPPED == 0 {
        Ok(Verdict(code as u32))
    } else {
        Err(DropReason::from_u8(code as u8).unwrap_or(DropReason::NotReady))
    }
}
