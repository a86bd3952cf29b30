//! What aya 0.14 has no call for: reading a hash table in slices, taking an entry out in one step, taking a link off at once.
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

pub(super) use self::link::{cgroup_link, netns_cookie, pin_first, update_pinned};

const LOOKUP_ELEM: libc::c_long = 1;
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

/// A hash table by its descriptor.
pub(super) struct HashTable<K, V> {
    fd: OwnedFd,
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

impl<K: Pod, V: Pod> HashTable<K, V> {
    /// The table behind aya's handle.
    pub(super) fn new(data: &MapData) -> io::Result<Self> {
        let info = data.info().map_err(io::Error::other)?;
        // What the kernel writes is as long as it thinks that a key and a value are.
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        if (key, value) != (size_of::<K>(), size_of::<V>()) || !matches!(info.map_type(), Ok(MapType::Hash)) {
            let found =
                format!("not a hash table of keys and values of these sizes, but of {key} and {value}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, found));
        }
        Ok(Self { fd: data.fd().as_fd().try_clone_to_owned()?, sizes: PhantomData })
    }

    /// Removes an entry; `value` is what it was then. Returns false if it is not there.
    pub(super) fn take(&self, key: &K, value: &mut V) -> io::Result<bool> {
        let arguments = Element {
            fd: self.fd.as_raw_fd(),
            pad: 0,
            key: address(key),
            value: std::ptr::from_mut(value) as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads `size_of::<K>()` bytes at `key` and writes `size_of::<V>()` at `value`, as `new` has
        // checked; both are borrowed for the call, and any bytes are a `V`.
        let outcome = unsafe { bpf(LOOKUP_AND_DELETE_ELEM, &raw const arguments) };
        match outcome {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            outcome => outcome.map(|_| true),
        }
    }

    /// Reads entries from `place` on, as many as there is room for in whole buckets, and moves `place` behind them.
    pub(super) fn read(&self, place: &mut Place, keys: &mut [K], values: &mut [V]) -> io::Result<Slice> {
        let room = keys.len().min(values.len());
        // SAFETY: keys and values have the sizes that `new` has checked, and any bytes are a `K` and a `V`.
        unsafe { read(&self.fd, place, keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64, room) }
    }
}

/// A hash table whose values are `V`s without their end.
pub(super) struct EarlierTable<K, V> {
    fd: OwnedFd,
    /// Bytes of a value.
    value: usize,
    sizes: PhantomData<fn(K) -> V>,
}

impl<K: Pod + Default, V: Pod + Default> EarlierTable<K, V> {
    /// The table behind aya's handle.
    pub(super) fn new(data: &MapData) -> io::Result<Self> {
        let info = data.info().map_err(io::Error::other)?;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        if key != size_of::<K>() || value > size_of::<V>() || !matches!(info.map_type(), Ok(MapType::Hash)) {
            let found = format!("not a hash table of such keys and values, but of {key} and {value}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, found));
        }
        Ok(Self { fd: data.fd().as_fd().try_clone_to_owned()?, value, sizes: PhantomData })
    }

    /// Reads at most `room` entries from `place` on, and moves it behind them.
    pub(super) fn read(&self, place: &mut Place, room: usize) -> io::Result<(Slice, Vec<(K, V)>)> {
        let (mut keys, mut bytes) = (vec![K::default(); room], vec![0_u8; room * self.value]);
        // SAFETY: keys have the size that `new` has checked, and any bytes are a `K`; for `room` values there is room.
        let slice =
            unsafe { read(&self.fd, place, keys.as_mut_ptr() as u64, bytes.as_mut_ptr() as u64, room) }?;
        let count = match slice {
            Slice::Some(count) | Slice::Last(count) => count,
            Slice::NoRoom => 0,
        };
        let values = bytes.chunks_exact(self.value).map(|start| {
            let mut value = V::default();
            // SAFETY: `start` is no longer than a `V`, as `new` has checked, and any bytes are one.
            unsafe {
                std::ptr::copy_nonoverlapping(start.as_ptr(), (&raw mut value).cast(), start.len());
            }
            value
        });
        Ok((slice, keys.into_iter().zip(values).take(count).collect()))
    }

    /// Whether it has a key.
    pub(super) fn has(&self, key: &K) -> io::Result<bool> {
        let mut value = vec![0_u8; self.value];
        let arguments = Element {
            fd: self.fd.as_raw_fd(),
            pad: 0,
            key: address(key),
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads a key and writes a value of the sizes that `new` has read; both are borrowed.
        match unsafe { bpf(LOOKUP_ELEM, &raw const arguments) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            outcome => outcome.map(|_| true),
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

impl<K: Pod + Default, V: Pod + Default> HashTable<K, V> {
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
