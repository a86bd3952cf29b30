//! Which network namespace is whose. A path tells it for a while only: names are given again, processes' numbers too, and inodes of
//! namespaces at once.

use std::{fs, path::Path};

use super::{AgentError, blocking, wanted::Wanted};
use crate::{
    datapath,
    model::{NetnsId, Pod, PodName},
    net::Netns,
};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where a pod is, or is to be, as far as that is known.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    path: &'a Path,
    id: Option<&'a NetnsId>,
    inode: Option<u64>,
}

impl<'a> From<&'a Pod> for Site<'a> {
    fn from(pod: &'a Pod) -> Self {
        Self { path: &pod.netns, id: pod.netns_id.as_ref(), inode: pod.netns_inode }
    }
}

impl<'a> From<&'a Wanted> for Site<'a> {
    fn from(wanted: &'a Wanted) -> Self {
        Self { path: &wanted.netns, id: wanted.netns_id.as_ref(), inode: wanted.netns_inode }
    }
}

impl Site<'_> {
    /// Whether both are one namespace, by whatever files. Where nothing else is known, one file is one namespace.
    pub(super) fn is(self, other: Site<'_>) -> bool {
        match (self.id, other.id) {
            (Some(own), Some(theirs)) => own == theirs,
            _ => self.path == other.path && !self.is_apart_from(other),
        }
    }

    /// Whether they are known to be two namespaces.
    pub(super) fn is_apart_from(self, other: Site<'_>) -> bool {
        match ((self.id, other.id), (self.inode, other.inode)) {
            ((Some(own), Some(theirs)), _) => own != theirs,
            // A record of an earlier build.
            (_, (Some(own), Some(theirs))) => own != theirs,
            _ => false,
        }
    }
}

/// Which namespace this is.
pub(super) async fn identify(netns: &Netns) -> Result<NetnsId, AgentError> {
    let netns = netns.clone();
    blocking(move || {
        let cookie = netns.enter(datapath::netns_cookie)?;
        let cookie = cookie.map_err(AgentError::io(format!("telling {netns} from others")))?;
        Ok(NetnsId { boot: boot()?, cookie })
    })
    .await
}

/// Which run of the kernel this is.
pub(super) fn boot() -> Result<String, AgentError> {
    let boot = fs::read_to_string(BOOT_ID).map_err(AgentError::io(format!("reading {BOOT_ID}")))?;
    Ok(boot.trim().to_owned())
}

/// Opens the namespace that a request named.
pub(super) async fn open_netns(pod: &PodName, path: &Path) -> Result<Netns, AgentError> {
    let path = path.to_owned();
    let opened = blocking(move || Netns::open(&path)).await;
    opened.map_err(|error| AgentError::Invalid { pod: pod.to_string(), reason: error.to_string() })
}

/// Opens the namespace that a request named, and notes which one it is. An engine's pod stays with it whatever becomes of the
/// file, and so does one by a link, as `/proc/PID/ns/net` is. A name of its own stands for whatever has it, as after a boot.
pub(super) async fn look_at(wanted: &mut Wanted) -> Result<(), AgentError> {
    let netns = open_netns(&wanted.name, &wanted.netns).await?;
    wanted.netns_id = Some(identify(&netns).await?);
    wanted.netns_inode = Some(netns.inode());
    let path = wanted.netns.clone();
    wanted.stays = wanted.attachment.is_some() || blocking(move || path.is_symlink()).await;
    Ok(())
}

/// Whether a namespace is the one that a pod was added to, as far as that is known.
pub(super) async fn is_same(pod: &Pod, netns: &Netns) -> Result<bool, AgentError> {
    match (&pod.netns_id, pod.netns_inode) {
        (Some(id), _) => Ok(identify(netns).await? == *id),
        (None, inode) => Ok(inode.is_none_or(|inode| inode == netns.inode())),
    }
}

/// The namespace's file is that of another one by now.
pub(super) fn another(pod: &Pod) -> AgentError {
    let reason = format!(
        "{} is another namespace than it was added to; whoever added it has to remove it, or 'netpath pod rm {}'",
        pod.netns.display(),
        pod.name
    );
    AgentError::PodDown { pod: pod.name.to_string(), reason }
}

/// The namespace of the own file of a pod that is in no network: `shared`, or one that is the pod's alone. What is no
/// namespace any more is made again, and so is what was the shared one before; another is somebody's.
pub(super) async fn netns_at(pod: &Pod, shared: Option<Netns>) -> Result<Netns, AgentError> {
    let path = pod.netns.clone();
    let found =
        blocking(move || if Netns::is_at(&path) { Netns::open(&path).map(Some) } else { Ok(None) }).await?;
    if let Some(found) = found {
        if shared.as_ref().is_none_or(|shared| shared.inode() == found.inode()) {
            return Ok(found);
        }
        if pod.netns_id.is_none() || !is_same(pod, &found).await? {
            return Err(AgentError::PodDown {
                pod: pod.name.to_string(),
                reason: format!(
                    "somebody has put another namespace at {0}, which stays as it is; if nobody needs it, `umount --lazy {0}`, and the \
                     pod's own comes back",
                    pod.netns.display()
                ),
            });
        }
    }
    let path = pod.netns.clone();
    let make = move || {
        Netns::delete(&path)?;
        shared.map_or_else(|| Netns::create(&path), |shared| shared.bind(&path))
    };
    Ok(blocking(make).await?)
}
