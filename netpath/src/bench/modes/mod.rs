//! The modes, one file each, and the one list of them.

pub(crate) mod bridge;
mod bridge_plain;
mod direct;
mod host;
mod macvlan;
mod netpath;
mod netpath_xdp;
pub(crate) mod nft;
mod routed;
mod routed_rules;

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
    ("macvlan", macvlan::build),
    ("host", host::build),
    ("netpath", netpath::build),
    ("netpath-xdp", netpath_xdp::build),
];

/// Names of all modes.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODES.iter().map(|(name, _)| *name)
}
