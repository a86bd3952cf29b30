//! Tables.

use core::{intrinsics, mem::MaybeUninit};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
};
use netpath_common::abi::Addr;

/// Why an insert did not happen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum InsertError {
    /// The key is there already.
    Exists,
    /// The table is full (`E2BIG`), or the kernel has no memory.
    Full,
}

const EEXIST: i32 = -17;

/// A preallocated hash table.
///
/// Entries are shared with other CPUs and may be removed while we look at one: the kernel keeps the memory valid until
/// the program ends (RCU), and a preallocated entry may by then belong to another key. What is read is therefore
/// always a whole, if perhaps outdated, record, and only counters and time stamps are ever written in place.
#[repr(transparent)]
pub struct Hash<K, V>(HashMap<K, V>);

impl<K, V> Hash<K, V> {
    /// A table for `entries` entries; the loader may change the number.
    pub const fn new(entries: u32) -> Self {
        Self(HashMap::with_max_entries(entries, 0))
    }

    /// The value of a key.
    #[inline(always)]
    pub fn get(&self, key: &K) -> Option<&V> {
        // SAFETY: see the type's comment.
        unsafe { self.0.get(key) }
    }

    /// The value of a key, to count in.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the table is the kernel's")]
    pub fn get_mut(&self, key: &K) -> Option<&mut V> {
        // SAFETY: see the type's comment. Other CPUs hold the same entry: fields are changed by `add` and `store` only.
        self.0.get_ptr_mut(key).map(|value| unsafe { &mut *value })
    }

    /// Inserts if the key is not there.
    #[inline(always)]
    pub fn insert_new(&self, key: &K, value: &V) -> Result<(), InsertError> {
        self.0
            .insert(key, value, u64::from(BPF_NOEXIST))
            .map_err(|errno| if errno == EEXIST { InsertError::Exists } else { InsertError::Full })
    }

    /// Removes a key; nothing happens if it is not there.
    #[inline(always)]
    pub fn remove(&self, key: &K) {
        let _ = self.0.remove(key);
    }
}

/// Longest-prefix match over addresses.
#[repr(transparent)]
pub struct Lpm<V>(LpmTrie<[u32; 4], V>);

impl<V> Lpm<V> {
    /// A trie for `entries` prefixes; the loader may change the number.
    pub const fn new(entries: u32) -> Self {
        Self(LpmTrie::with_max_entries(entries, 0))
    }

    /// The value of the longest prefix that holds `addr`.
    #[inline(always)]
    pub fn get(&self, addr: &Addr) -> Option<&V> {
        self.0.get(Key::new(128, addr.0))
    }
}

/// An array of one.
#[repr(transparent)]
pub struct Single<V>(Array<V>);

impl<V> Single<V> {
    /// The array.
    pub const fn new() -> Self {
        Self(Array::with_max_entries(1, 0))
    }

    /// Its record.
    #[inline(always)]
    pub fn get(&self) -> Option<&V> {
        self.0.get(0)
    }
}

/// An array with a copy per CPU. tc programs run with bottom halves off, so a CPU's copy has one writer.
#[repr(transparent)]
pub struct PerCpu<V>(PerCpuArray<V>);

impl<V> PerCpu<V> {
    /// An array of `entries`; the loader may change the number.
    pub const fn new(entries: u32) -> Self {
        Self(PerCpuArray::with_max_entries(entries, 0))
    }

    /// This CPU's copy of a record.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the table is the kernel's; this CPU's copy has one writer")]
    pub fn get_mut(&self, index: u32) -> Option<&mut V> {
        // SAFETY: valid for the program's run, and ours alone (see the type's comment).
        self.0.get_ptr_mut(index).map(|value| unsafe { &mut *value })
    }
}

/// A ring to userspace.
#[repr(transparent)]
pub struct Ring(RingBuf);

impl Ring {
    /// A ring of `bytes` (a power of two, a multiple of the page size).
    pub const fn new(bytes: u32) -> Self {
        Self(RingBuf::with_byte_size(bytes, 0))
    }

    /// Fills and submits one record; lost if the ring is full, which userspace sees as a gap.
    #[inline(always)]
    pub fn submit<T: Copy + 'static>(&self, fill: impl FnOnce(&mut MaybeUninit<T>)) {
        if let Some(mut entry) = self.0.reserve::<T>(0) {
            fill(&mut entry);
            entry.submit(0);
        }
    }
}

/// Adds to a counter that other CPUs add to as well. Relaxed: nothing is ordered by it.
#[inline(always)]
pub fn add(counter: &mut u64, value: u64) {
    // SAFETY: an aligned u64 in a table. The result is not used: only then does the generic BPF CPU have the
    // instruction (`lock *(u64 *) += `).
    unsafe {
        let _ = intrinsics::atomic_xadd::<u64, u64, { intrinsics::AtomicOrdering::Relaxed }>(counter, value);
    }
}

/// Stores to a field that other CPUs may store to as well; the last one wins.
#[inline(always)]
pub fn store<T: Copy>(field: &mut T, value: T) {
    // SAFETY: an aligned field in a table; one plain store of at most 8 bytes.
    unsafe { core::ptr::write_volatile(field, value) }
}
