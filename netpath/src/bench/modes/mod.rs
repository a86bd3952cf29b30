//! The modes, one file each.

pub(crate) mod bridge;
mod direct;
mod netpath;

pub use self::{bridge::Bridge, direct::Direct, netpath::Netpath};
