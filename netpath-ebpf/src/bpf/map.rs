//! Tables.

use core::{intrinsics, mem::MaybeUninit};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};

use super::globals;

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
/// the program ends (RCU), and a preallocated entry may by then belong to another key. What is read then may be outdated,
/// or mixed of both; the window is one packet's, after an entry was removed. Only counters, time stamps and TCP's state are
/// ever written in place, so that no other flow's addresses can be changed by it.
#[repr(transparent)]
pub struct Hash<K, V>(HashMap<K, V>);

impl<K, V> Hash<K, V> {
    /// A table for `entries` entries; the loader may change the number.
    pub const fn new(entries: u32) -> Self {
        Self(HashMap::with_max_entries(entries, 0))
    }

    /// Inserts if the key is not there. In a dry run it only looks.
    #[inline(always)]
    pub fn insert_new(&self, key: &K, value: &V) -> Result<(), InsertError> {
        if globals::dry_run() {
            return if self.get(key).is_some() { Err(InsertError::Exists) } else { Ok(()) };
        }
        self.0
            .insert(key, value, u64::from(BPF_NOEXIST))
            .map_err(|errno| if errno == EEXIST { InsertError::Exists } else { InsertError::Full })
    }

    /// Removes a key; nothing happens if it is not there, or in a dry run.
    #[inline(always)]
    pub fn remove(&self, key: &K) {
        if globals::dry_run() {
            return;
        }
        let _ = self.0.remove(key);
    }

    /// Reads the first `bytes` bytes of a record, a multiple of eight and no more than the table's records have; what is
    /// behind them stays in `to` as it is. Returns whether the key is there.
    #[inline(always)]
    pub fn read_start(&self, key: &K, bytes: u32, to: &mut V) -> bool {
        let Some(from) = self.0.get_ptr(key) else { return false };
        let (from, to) = (from.cast::<u64>(), core::ptr::from_mut(to).cast::<u64>());
        for word in 0..size_of::<V>() / 8 {
            if word < bytes as usize / 8 {
                // SAFETY: within both records, whose addresses and sizes are multiples of eight. Volatile: what is behind
                // `bytes` must not be read, not even ahead of the question.
                unsafe { to.add(word).write(core::ptr::read_volatile(from.add(word))) }
            }
        }
        true
    }
}

/// A hash table that forgets what was not used for longest when it is full. The same holds of its entries.
#[repr(transparent)]
pub struct LruHash<K, V>(LruHashMap<K, V>);

impl<K, V> LruHash<K, V> {
    /// A table for `entries` entries.
    pub const fn new(entries: u32) -> Self {
        Self(LruHashMap::with_max_entries(entries, 0))
    }

    /// Inserts if the key is not there; whether it did.
    #[inline(always)]
    pub fn insert_new(&self, key: &K, value: &V) -> bool {
        self.0.insert(key, value, u64::from(BPF_NOEXIST)).is_ok()
    }

    /// Removes a key; nothing happens if it is not there.
    #[inline(always)]
    pub fn remove(&self, key: &K) {
        let _ = self.0.remove(key);
    }

    /// Inserts or replaces. It fails only without memory; then the table forgets one more.
    #[inline(always)]
    pub fn insert(&self, key: &K, value: &V) {
        let _ = self.0.insert(key, value, 0);
    }
}

macro_rules! reads {
    ($($table:ident)*) => {$(
        impl<K, V> $table<K, V> {
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
        }
    )*};
}

reads!(Hash LruHash);

/// Longest-prefix match over all of a key's bytes.
#[repr(transparent)]
pub struct Lpm<K, V>(LpmTrie<K, V>);

impl<K: Copy, V> Lpm<K, V> {
    const BITS: u32 = size_of::<K>() as u32 * 8;

    /// A trie for `entries` prefixes; the loader may change the number.
    pub const fn new(entries: u32) -> Self {
        Self(LpmTrie::with_max_entries(entries, 0))
    }

    /// The value of the longest prefix that holds `key`.
    #[inline(always)]
    pub fn get(&self, key: K) -> Option<&V> {
        self.0.get(Key::new(Self::BITS, key))
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

/// An array whose records all CPUs share: programs change fields by `add` and `store` only, the agent whole records, which may be read
/// half old, half new.
#[repr(transparent)]
pub struct Shared<V>(Array<V>);

impl<V> Shared<V> {
    /// An array of `entries`.
    pub const fn new(entries: u32) -> Self {
        Self(Array::with_max_entries(entries, 0))
    }

    /// A record.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&V> {
        self.0.get(index)
    }

    /// A record, to count in.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the table is the kernel's")]
    pub fn get_mut(&self, index: u32) -> Option<&mut V> {
        // SAFETY: valid for the program's run; other CPUs hold the same record (see the type's comment).
        self.0.get_ptr_mut(index).map(|value| unsafe { &mut *value })
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

    /// Fills and submits one record. Returns whether there was room for it.
    #[inline(always)]
    pub fn submit<T: Copy + 'static>(&self, fill: impl FnOnce(&mut MaybeUninit<T>)) -> bool {
        let Some(mut entry) = self.0.reserve::<T>(0) else { return false };
        fill(&mut entry);
        entry.submit(0);
        true
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
