//! Netlink, namespaces, pod links and sysctls. Typed operations; no shelling out.
//!
//! [`Netns`] holds a network namespace open, [`Netlink`] talks to the kernel inside one, [`PodLink::ensure`] makes a
//! pod's link match its description, [`sysctl`] reads and writes knobs of the calling thread's namespace, and
//! [`Undo`] takes back the steps of an operation that fails halfway.

mod error;
mod netlink;
mod netns;
mod offload;
mod pod_link;
pub mod sockets;
pub mod sysctl;
#[cfg(test)]
mod testing;
mod undo;

pub use error::NetError;
pub use netlink::{
    Address, Filter, Hints, KernelRoute, Link, LinkDetail, LinkState, Netlink, ROUTE_PROTOCOL, Route,
    RouteKind, Settings, SettingsV6, Shape, Survey, Tunnel, VethEnd, Watch,
};
pub use netns::Netns;
pub use offload::{Offload, set_offloads};
pub use pod_link::{PodLink, Sourced};
pub use undo::{Undo, UndoFailed};
