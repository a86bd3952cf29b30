//! clsact, where there is no tcx: our filters as the kernel tells of them, and the qdisc of an interface that they hang on.
//!
//! The qdisc goes when the interface is not ours to work on any more, if it came with us and nobody else has hung a filter on
//! it since (invariant 5). That it is ours is remembered by an empty directory on bpffs, which lasts as long as the qdisc:
//! until it is removed, or the next boot.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path, thread};

use aya::programs::{
    Link as _, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcHandle, qdisc_add_clsact},
};
use futures::TryStreamExt as _;
use netpath_common::abi::Program;
use nix::{
    libc::{ENODEV, ENOENT},
    net::if_::if_indextoname,
};
use rtnetlink::{
    Error, Handle,
    packet_route::tc::{self, TcAttribute, TcFilterBpfOption, TcMessage, TcOption},
};
use tokio::runtime::Builder;

use super::{
    Attachment,
    attach::AttachKind,
    error::{DatapathError, kernel},
};

/// Priority of our filters: the first, so that what we drop nobody else sees.
const PRIORITY: u16 = 1;
/// Above a program's number in the lower half of a filter's handle.
const OURS: u16 = 0x6e00;

/// Whose filters are: they have no pins to be found by, and several instances may share an uplink. Stands in the upper half
/// of their handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(u16);

impl Owner {
    /// The instance that pins here.
    pub(super) fn of(pin_dir: &Path) -> Self {
        let mix = |sum: u16, byte: &u8| sum.wrapping_mul(31).wrapping_add(u16::from(*byte));
        Self(pin_dir.as_os_str().as_bytes().iter().fold(0, mix))
    }

    /// Where a program's filter is among those of an interface: always the same, so that a later agent replaces it.
    pub(super) fn place(self, program: Program) -> NlOptions {
        let handle = TcHandle::new(self.0, OURS | program as u16);
        NlOptions { priority: PRIORITY, handle, classid: None }
    }

    fn owns(self, handle: tc::TcHandle) -> bool {
        handle.major == self.0 && handle.minor & 0xff00 == OURS
    }
}

/// A filter of ours.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) ifindex: u32,
    /// Name of its program, perhaps one of a later build's.
    pub(super) program: String,
    /// Kernel's id of the program.
    pub(super) id: u32,
    way: TcAttachType,
    priority: u16,
    handle: u32,
}

impl Filter {
    fn read(message: TcMessage, way: TcAttachType) -> Option<Self> {
        let TcMessage { header, attributes, .. } = message;
        let (mut program, mut id) = (None, None);
        let options = attributes.into_iter().filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
        for option in options.flatten() {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => program = Some(name),
                TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => id = Some(number),
                _ => {}
            }
        }
        Some(Self {
            ifindex: header.index.cast_unsigned(),
            program: program?,
            id: id?,
            way,
            priority: (header.info >> 16) as u16,
            handle: header.handle.into(),
        })
    }

    /// Removes it; no error if its interface is gone.
    pub(super) fn remove(&self) -> Result<(), DatapathError> {
        let Ok(name) = if_indextoname(self.ifindex) else { return Ok(()) };
        let name = name.to_string_lossy();
        let doing = || format!("removing the clsact filter {} of {name}", self.program);
        SchedClassifierLink::attached(&name, self.way, self.priority, self.handle.into(), None)
            .map_err(kernel(doing()))?
            .detach()
            .map_err(kernel(doing()))
    }
}

impl From<&Filter> for Attachment {
    fn from(filter: &Filter) -> Self {
        let Filter { ifindex, ref program, id, .. } = *filter;
        Self { program: program.clone(), ifindex, kind: Some(AttachKind::Clsact), id: Some(id) }
    }
}

/// An owner's filters on these interfaces. Blocks.
pub(super) fn on(owner: Owner, interfaces: &[u32]) -> Result<Vec<Filter>, DatapathError> {
    talk("listing clsact filters", async |handle| list(&handle, owner, interfaces).await)
}

/// An owner's filters on all interfaces, as far as they are asked for. Blocks.
pub(super) fn everywhere(
    owner: Owner,
    asked: impl Fn(u32) -> bool + Sync,
) -> Result<Vec<Filter>, DatapathError> {
    let asked = &asked;
    talk("listing clsact filters", async move |handle| {
        let (mut qdiscs, mut interfaces) = (handle.qdisc().get().execute(), Vec::new());
        while let Some(TcMessage { header, attributes, .. }) = qdiscs.try_next().await? {
            let ifindex = header.index.cast_unsigned();
            if attributes.contains(&TcAttribute::Kind("clsact".into())) && asked(ifindex) {
                interfaces.push(ifindex);
            }
        }
        list(&handle, owner, &interfaces).await
    })
}

async fn list(handle: &Handle, owner: Owner, interfaces: &[u32]) -> Result<Vec<Filter>, Error> {
    let mut found = Vec::new();
    for ifindex in interfaces {
        let filters = || handle.traffic_filter(ifindex.cast_signed()).get();
        for (way, request) in
            [(TcAttachType::Ingress, filters().ingress()), (TcAttachType::Egress, filters().egress())]
        {
            let mut answers = request.execute();
            while let Some(message) = answers.try_next().await? {
                if owner.owns(message.header.handle) {
                    found.extend(Filter::read(message, way));
                }
            }
        }
    }
    Ok(found)
}

/// Adds the qdisc if it is missing, and remembers by `mark` that it was us. If that fails attaching says why.
pub(super) fn ensure_qdisc(ifname: &str, mark: &Path) -> Result<(), DatapathError> {
    // The mark first: a crash in between costs nothing, since what others use is never removed.
    let is_new = !mark.exists();
    if is_new {
        fs::create_dir_all(mark).map_err(kernel(format!("marking the qdisc of {ifname} as ours")))?;
    }
    if qdisc_add_clsact(ifname).is_err() && is_new { unmark(mark) } else { Ok(()) }
}

/// Removes the qdisc if `mark` says that it is ours and no filter is left; then the mark. No error if the interface is gone.
/// Blocks.
pub(super) fn remove_qdisc(ifindex: u32, mark: &Path) -> Result<(), DatapathError> {
    if !mark.exists() {
        return Ok(());
    }
    let doing = format!("removing the clsact qdisc of the interface with index {ifindex}");
    talk(&doing, async |handle| match remove_unused(&handle, ifindex.cast_signed()).await {
        Err(Error::NetlinkError(error)) if [-ENODEV, -ENOENT].contains(&error.raw_code()) => Ok(()),
        outcome => outcome,
    })?;
    unmark(mark)
}

async fn remove_unused(handle: &Handle, ifindex: i32) -> Result<(), Error> {
    let filters = || handle.traffic_filter(ifindex).get();
    for way in [filters().ingress(), filters().egress()] {
        if way.execute().try_next().await?.is_some() {
            return Ok(());
        }
    }
    let mut request = handle.qdisc().del(ifindex);
    request.message_mut().header.parent = tc::TcHandle::CLSACT;
    request.execute().await
}

fn unmark(mark: &Path) -> Result<(), DatapathError> {
    fs::remove_dir(mark).map_err(kernel(format!("removing the mark {}", mark.display())))
}

/// Talks netlink, on a thread of its own in the same namespace: the caller's may be a runtime's, which forbids another.
fn talk<T: Send>(
    doing: &str,
    work: impl AsyncFnOnce(Handle) -> Result<T, Error> + Send,
) -> Result<T, DatapathError> {
    let talk = || {
        let runtime = Builder::new_current_thread().enable_io().build().map_err(kernel(doing))?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(kernel(doing))?;
            tokio::spawn(connection);
            work(handle).await.map_err(kernel(doing))
        })
    };
    thread::scope(|threads| threads.spawn(talk).join().expect("no panic"))
}
