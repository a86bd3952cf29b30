//! POD_OPENED: array, [`Endpoint::slot`](super::Endpoint::slot) → flows opened since the table was made (u64).
//! POD_LIMITS: array, the same → [`PodLimit`].
//! EXHAUSTED: LRU hash, [`ExhaustedKey`] → [`Exhausted`]. SNAT_TRIES: per-CPU array of packets (u64) by tries needed.

use super::Addr;

/// Rows of SNAT_TRIES: row n counts bindings that took 2^(n-1) + 1 to 2^n tries (row 0: the first try); the last one those
/// that found none.
pub const SNAT_TRY_ROWS: u32 = 9;

/// How many flows a pod may open. Written by the agent alone: the programs count in POD_OPENED, so that neither overwrites
/// the other's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PodLimit {
    /// No more are opened when POD_OPENED has reached this. After each sweep: what it was before the sweep, plus the limit,
    /// minus the flows the sweep has found alive.
    pub ceiling: u64,
    /// CLOCK_MONOTONIC, ns, until when the ceiling holds: without an agent nobody counts what has ended, and the pod is
    /// limited by the table alone.
    pub valid_until: u64,
}

super::record!(PodLimit, 16);

/// A destination that no port was free for.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ExhaustedKey {
    /// Destination address.
    pub dst: Addr,
    /// Destination port, network order; 0 for an echo.
    pub dport: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero: the key is hashed as bytes.
    pub pad: u8,
}

super::record!(ExhaustedKey, 20);

/// What was refused towards it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exhausted {
    /// Packets dropped.
    pub packets: u64,
    /// The pod that sent the last of them.
    pub pod: u32,
    /// Zero.
    pub pad: u32,
}

super::record!(Exhausted, 16);
