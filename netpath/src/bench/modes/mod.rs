//! The modes, one file each, and the one list of them.

pub(crate) mod bridge;
mod bridge_plain;
mod direct;
mod host;
mod macvlan;
mod netpath;
mod netpath_remote;
mod netpath_xdp;
pub(crate) mod nft;
mod nodes;
mod routed;
mod routed_rules;
mod rules;
mod vxlan;

use futures::future::BoxFuture;

pub use self::{bridge::Bridge, direct::Direct, netpath::Netpath};
use super::{Mode, site::Site};
use crate::lab::LabError;

/// A mode that is being built.
type Built<'a> = BoxFuture<'a, Result<Box<dyn Mode>, LabError>>;

/// How a mode is built: its name, and the function that builds it.
pub(super) type Builder = (&'static str, for<'a> fn(&'a Site) -> Built<'a>);

/// All modes, in the order of tables and plots.
pub(super) const MODES: &[Builder] = &[
    ("direct", direct::build),
    ("bridge", bridge::build),
    ("bridge-plain", bridge_plain::build),
    ("routed", routed::build),
    ("vxlan", vxlan::build),
    ("macvlan", macvlan::build),
    ("host", host::build),
    ("netpath", netpath::build),
    ("netpath-xdp", netpath_xdp::build),
    ("netpath-direct", netpath_remote::build_direct),
    ("netpath-vxlan", netpath_remote::build_vxlan),
];

/// Why a mode has no path between nodes.
const ONE_NODE: &str = "its pods are on one node";
/// Why a mode has only that.
const TWO_NODES: &str = "it is measured between nodes only";

/// Modes whose figures are told beside those of a network that does the same by other means: theirs and its name.
const PEERS: [(&str, &str); 2] = [("netpath-direct", "routed"), ("netpath-vxlan", "vxlan")];

/// The mode that does the same as this one by other means.
pub(super) fn peer(mode: &str) -> Option<&'static str> {
    PEERS.iter().find(|(own, _)| *own == mode).map(|(_, peer)| *peer)
}

/// Names of all modes.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODES.iter().map(|(name, _)| *name)
}
