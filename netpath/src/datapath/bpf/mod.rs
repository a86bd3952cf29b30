//! What aya 0.14 has no call for: reading a table in slices, taking an entry out in one step, taking a link off at once.
//!
//! The only unsafe code of userspace: bpf(2) reads and writes memory by addresses in its arguments.

mod link;

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::{
    Pod,
    maps::{MapData, MapType},
};
use nix::libc;

pub use self::link::netns_cookie;
pub(super) use self::link::{cgroup_link, pin_first, update_pinned};

const LOOKUP_ELEM: libc::c_long = 1;
const UPDATE_ELEM: libc::c_long = 2;
const DELETE_ELEM: libc::c_long = 3;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
/// Since Linux 6.6 for tcx.
const PROG_QUERY: libc::c_long = 16;
/// Since Linux 5.14 for hash tables.
const LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
/// Since Linux 5.6.
const LOOKUP_BATCH: libc::c_long = 24;
/// Since Linux 5.9; for tcx since 6.6.
const LINK_DETACH: libc::c_long = 34;

/// A hash table or an array by its descriptor; an array has all of its keys, always. Its values are `V`s, or those of an earlier layout: `V`s without their end.
pub(super) struct Table<K, V> {
    fd: OwnedFd,
    /// Bytes of a value.
    value: usize,
    capacity: u32,
    sizes: PhantomData<fn(K) -> V>,
}

/// Where a walk is: a number of the kernel's, a bucket in fact. An entry keeps its bucket, so that a walk sees everything
/// that is there from its beginning to its end once, whatever comes and goes meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place(Option<u32>);

/// What a call read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slice {
    /// So many entries, and there may be more.
    Some(usize),
    /// So many entries, and those are the last.
    Last(usize),
    /// Nothing: the next bucket has more entries than there was room for.
    NoRoom,
}

impl<K: Pod + Default, V: Pod + Default> Table<K, V> {
    /// The table behind aya's handle.
    pub(super) fn new(data: &MapData) -> io::Result<Self> {
        let info = data.info().map_err(io::Error::other)?;
        // What the kernel reads and writes is as long as it thinks that a key and a value are.
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        let kind = matches!(info.map_type(), Ok(MapType::Hash | MapType::Array));
        if key != size_of::<K>() || value > size_of::<V>() || !kind {
            let found = format!("not a table of such keys and values, but of {key} and {value} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, found));
        }
        let fd = data.fd().as_fd().try_clone_to_owned()?;
        Ok(Self { fd, value, capacity: info.max_entries(), sizes: PhantomData })
    }

    /// Entries that fit.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The entry with this key.
    pub(super) fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        found(self.element(LOOKUP_ELEM, key, Some(&mut value), 0)).map(|there| there.then_some(value))
    }

    /// Inserts an entry, or changes it if that is what the flags allow (BPF_ANY, BPF_NOEXIST).
    pub(super) fn insert(&self, key: &K, value: &V, flags: u64) -> io::Result<()> {
        self.element(UPDATE_ELEM, key, Some(&mut value.clone()), flags)
    }

    /// Removes an entry. Returns whether it was there.
    pub(super) fn remove(&self, key: &K) -> io::Result<bool> {
        // Any other field has to be zero (BPF_MAP_DELETE_ELEM_LAST_FIELD).
        found(self.element(DELETE_ELEM, key, None, 0))
    }

    /// Removes an entry, and returns what it was then.
    pub(super) fn take(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        found(self.element(LOOKUP_AND_DELETE_ELEM, key, Some(&mut value), 0))
            .map(|there| there.then_some(value))
    }

    fn element(&self, command: libc::c_long, key: &K, value: Option<&mut V>, flags: u64) -> io::Result<()> {
        let arguments = Element {
            fd: self.fd.as_raw_fd(),
            pad: 0,
            key: address(key),
            value: value.map_or(0, |value| std::ptr::from_mut(value) as u64),
            flags,
        };
        // SAFETY: the kernel reads a key and reads or writes a value, neither longer than a `K` and a `V`, as `new` has
        // checked; both are borrowed for the call, and any bytes are a `V`.
        unsafe { bpf(command, &raw const arguments) }.map(drop)
    }

    /// Reads entries from `place` on, as many as there is room for in whole buckets, and moves `place` behind them.
    pub(super) fn read(&self, place: &mut Place, keys: &mut [K], values: &mut [V]) -> io::Result<Slice> {
        let room = keys.len().min(values.len());
        // SAFETY: keys have the size that `new` has checked, values are not longer than a `V`, and any bytes are either.
        let read =
            unsafe { read(&self.fd, place, keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64, room) }?;
        if let (Slice::Some(count) | Slice::Last(count), true) = (read, self.value < size_of::<V>()) {
            spread(&mut values[..count], self.value);
        }
        Ok(read)
    }

    /// All entries, a few thousand a system call.
    pub(super) fn all(&self) -> io::Result<Vec<(K, V)>> {
        let (mut place, mut room, mut all) = (Place::default(), 1024, Vec::new());
        loop {
            let (mut keys, mut values) = (vec![K::default(); room], vec![V::default(); room]);
            let (count, last) = match self.read(&mut place, &mut keys, &mut values)? {
                Slice::Some(count) => (count, false),
                Slice::Last(count) => (count, true),
                Slice::NoRoom => {
                    room *= 2;
                    continue;
                }
            };
            all.extend(keys.into_iter().zip(values).take(count));
            if last {
                return Ok(all);
            }
        }
    }
}

/// Whether an entry was there.
fn found(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// Moves values of `length` bytes, which lie one after the other, each to its place, and makes the rest of each zero.
fn spread<V: Pod>(values: &mut [V], length: usize) {
    let bytes: *mut u8 = values.as_mut_ptr().cast();
    for at in (0..values.len()).rev() {
        // SAFETY: `length` is at most the size of a `V`, so that both places lie within `values`, and what is behind is
        // in place already; any bytes are a `V`.
        unsafe {
            let to = bytes.add(at * size_of::<V>());
            std::ptr::copy(bytes.add(at * length), to, length);
            to.add(length).write_bytes(0, size_of::<V>() - length);
        }
    }
}

/// Reads entries from `place` on, as many as there is room for in whole buckets, and moves `place` behind them.
///
/// # Safety
/// At `keys` and `values` there is room for so many of the table's keys and values, theirs to write until the call returns.
unsafe fn read(fd: &OwnedFd, place: &mut Place, keys: u64, values: u64, room: usize) -> io::Result<Slice> {
    let mut next = 0_u32;
    let mut arguments = Batch {
        from: place.0.as_ref().map_or(0, address),
        next: std::ptr::from_mut(&mut next) as u64,
        keys,
        values,
        count: room as u32,
        fd: fd.as_raw_fd(),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads 4 bytes at `from` if it is not 0, writes 4 at `next`, and `count` keys and values: the
    // caller's promise. All of it is borrowed for the call. It writes `count` as well, in `arguments`.
    let outcome = unsafe { bpf(LOOKUP_BATCH, &raw mut arguments) };
    let count = arguments.count as usize;
    match outcome {
        Ok(_) => {
            place.0 = Some(next);
            Ok(Slice::Some(count))
        }
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(Slice::Last(count)),
            Some(libc::ENOSPC) => Ok(Slice::NoRoom),
            _ => Err(error),
        },
    }
}

/// Which tcx hook of an interface (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TcxHook {
    Ingress = 46,
    Egress = 47,
}

/// Ids of the programs on a tcx hook, in order. One system call, where aya asks for each program as well.
pub(super) fn attached(ifindex: u32, hook: TcxHook) -> io::Result<Vec<u32>> {
    // The kernel's own limit (BPF_MPROG_MAX).
    let mut ids = [0_u32; 64];
    let mut arguments = Query {
        ifindex,
        hook: hook as u32,
        flags: [0; 2],
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        pad: 0,
        attach_flags: 0,
        links: [0; 2],
        revision: 0,
    };
    // SAFETY: the kernel writes at most `count` numbers of 4 bytes at `ids`, borrowed for the call, and into `arguments`.
    let outcome = unsafe { bpf(PROG_QUERY, &raw mut arguments) };
    outcome.map(|_| ids.into_iter().take(arguments.count as usize).collect())
}

/// Takes the link that is pinned here off its interface or cgroup. When this returns its program does not run any more, where
/// after the pin's removal alone it does until a worker of the kernel gets to it.
pub(super) fn detach_pinned(pin: &Path) -> io::Result<()> {
    let link = open_link(pin)?;
    let number = link.as_raw_fd();
    // SAFETY: the kernel reads the number.
    unsafe { bpf(LINK_DETACH, &raw const number) }.map(drop)
}

/// The link that is pinned here.
fn open_link(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let arguments = Pinned { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the kernel reads the path up to its zero byte; it is borrowed for the call.
    let fd = unsafe { bpf(OBJ_GET, &raw const arguments) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `struct { … }` of BPF_OBJ_* in `union bpf_attr`.
#[repr(C)]
struct Pinned {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `struct { … } query` of `union bpf_attr`.
#[repr(C)]
struct Query {
    ifindex: u32,
    hook: u32,
    flags: [u32; 2],
    ids: u64,
    count: u32,
    pad: u32,
    attach_flags: u64,
    links: [u64; 2],
    revision: u64,
}

/// `struct { … }` of BPF_MAP_*_ELEM in `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
struct Element {
    fd: i32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
struct Batch {
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    fd: i32,
    element_flags: u64,
    flags: u64,
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of) as u64
}

/// Calls bpf(2); returns what it returns if that is no error.
///
/// # Safety
/// `arguments` has the layout that `command` wants, and the memory that it names is the kernel's to read and write until
/// the call returns.
unsafe fn bpf<T>(command: libc::c_long, arguments: *const T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise; the kernel takes what is behind `size_of::<T>()` bytes for zero.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, arguments, size_of::<T>()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

#[cfg(test)]
mod tests {
    use aya::maps::{HashMap, IterableMap as _};

    use super::*;

    /// A table of an earlier layout, written and read as one of the later: what it has not is zero.
    #[test]
    fn shorter_values_are_beginnings_of_longer_ones() -> io::Result<()> {
        let map: HashMap<_, u32, [u8; 8]> = HashMap::create(64, 0).expect("a table needs root");
        let table: Table<u32, [u64; 2]> = Table::new(map.map())?;
        for key in 0..50 {
            table.insert(&key, &[u64::from(key) + 1, u64::MAX], 0)?;
        }
        let mut all = table.all()?;
        all.sort_unstable();
        assert_eq!(all, (0..50).map(|key| (key, [u64::from(key) + 1, 0])).collect::<Vec<_>>());
        assert_eq!(map.get(&7, 0).expect("an entry"), 8_u64.to_ne_bytes());
        assert_eq!((table.get(&7)?, table.get(&64)?), (Some([8, 0]), None));
        assert_eq!((table.take(&7)?, table.take(&7)?), (Some([8, 0]), None));
        assert_eq!((table.remove(&8)?, table.remove(&8)?), (true, false));
        let shorter: io::Result<Table<u32, u32>> = Table::new(map.map());
        assert!(shorter.is_err_and(|error| error.to_string().contains("of 4 and 8 bytes")));
        Ok(())
    }
}
