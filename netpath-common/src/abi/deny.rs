//! DENY: LPM trie, prefix over [`Addr`](super::Addr) → row of DENY_COUNTERS (u32). An IPv4 prefix of length n is stored as
//! 96 + n. DENY_COUNTERS: per-CPU array, row → [`Counter`](super::Counter).

/// Prefixes that can be denied.
pub const DENY_PREFIXES: u32 = 16_384;

/// In place of a row: nobody of this prefix is denied, unless a longer one says so. That of all IPv4 addresses has it, which
/// a short IPv6 prefix such as `::/8` would hold otherwise.
pub const DENY_NOBODY: u32 = u32::MAX;
