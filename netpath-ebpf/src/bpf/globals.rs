//! Constants the loader sets before the programs are loaded, and the licence.
//!
//! They live in `.rodata`, which is frozen before verification: the verifier knows their values and drops dead branches.

/// The kernel allows GPL-only helpers (`redirect_neigh`, `fib_lookup`, …) to programs under a compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// MAC of every host end; the gateway of all pods.
#[unsafe(no_mangle)]
static GATEWAY_MAC: [u8; 6] = [0x02, 0x6e, 0x70, 0x00, 0x00, 0x01];

/// Flags for `bpf_fib_lookup`, by what the kernel has: SKIP_NEIGH is 6.3, SRC is 6.7.
#[unsafe(no_mangle)]
static FIB_FLAGS: u32 = 0;

/// 1 in the programs that `netpath trace` runs: they tell what they decide, and write nothing that others read.
#[unsafe(no_mangle)]
static DRY_RUN: u32 = 0;

/// Bytes of a record in FLOWS_BEFORE; 0 if no flows are to be moved from there.
#[unsafe(no_mangle)]
static FLOW_BEFORE_BYTES: u32 = 0;

/// Programs that a hook may have twice, by tcx and behind that by clsact: the bit of each one's number.
#[unsafe(no_mangle)]
static TWO_KINDS: u32 = 0;

/// What such programs mark a packet with; nobody else knows it.
#[unsafe(no_mangle)]
static NOTE: u64 = 0;

/// Cookie of the node's network namespace; 0, which none has, in programs that are no node's.
#[unsafe(no_mangle)]
static NODE_COOKIE: u64 = 0;

/// Cookie of the node's network namespace.
#[inline(always)]
pub fn node_cookie() -> u64 {
    // SAFETY: a valid static; volatile, because the loader changes it after the compiler has looked.
    unsafe { core::ptr::read_volatile(&NODE_COOKIE) }
}

/// Whether the program with this number may be on its hook twice.
#[inline(always)]
pub fn two_kinds(program: u32) -> bool {
    // SAFETY: a valid static; volatile, because the loader changes it after the compiler has looked.
    unsafe { core::ptr::read_volatile(&TWO_KINDS) & 1 << program != 0 }
}

/// What a program that may be twice on its hook marks a packet with.
#[inline(always)]
pub fn note() -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&NOTE) }
}

/// Bytes of a record in FLOWS_BEFORE; 0 if no flows are to be moved from there.
#[inline(always)]
pub fn flow_before_bytes() -> u32 {
    // SAFETY: a valid static; volatile, because the loader changes it after the compiler has looked.
    unsafe { core::ptr::read_volatile(&FLOW_BEFORE_BYTES) }
}

/// The MAC of every host end.
#[inline(always)]
pub fn gateway_mac() -> [u8; 6] {
    // SAFETY: a valid static; volatile, because the loader changes it after the compiler has looked.
    unsafe { core::ptr::read_volatile(&GATEWAY_MAC) }
}

/// Flags for `bpf_fib_lookup`.
#[inline(always)]
pub fn fib_flags() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&FIB_FLAGS) }
}

/// Whether these are the programs of a trace. The verifier knows the answer, and takes out what hangs on the other one.
#[inline(always)]
pub fn dry_run() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&DRY_RUN) != 0 }
}
