//! The lab: a node with pods, a router and an outside on one machine, in namespaces of its own; or a cluster of nodes.
//!
//! [`run()`] builds it around a real agent, proves it with real traffic ([`checks`]), measures it beside other networks
//! ([`crate::bench`]), shows it, and removes it. [`topology`] is the network alone, for tests too.

pub mod checks;
pub(crate) mod error;
pub(crate) mod etcd;
mod live;
mod nodes;
mod process;
pub(crate) mod report;
mod run;
mod session;
pub(crate) mod stage;
mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod topology;

pub use self::{
    error::LabError,
    nodes::{MOST_NODES, Shape},
    report::Report,
    run::{Outcome, RunOptions, down, run},
    session::{hold, reap},
};
pub(crate) use self::{run::progress, state::Places};
/// Of a lab with several nodes.
pub use crate::model::Backend;
