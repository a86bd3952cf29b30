//! The benchmark: networks side by side on one machine, in one run.
//!
//! Wake-ups between cores dominate an unpinned round trip and differ from run to run; on one core what is left is the
//! path of the packet. Modes take turns within each round, and ratios are taken within a round before the median over
//! rounds is, so that a noisy second moves all modes of its round and no ratio.
//!
//! [`run()`] is `netpath bench`: it builds the [`modes`], each in namespaces of its own, measures and removes them.
//! [`latency`] is the part that a lab shows.

mod attach;
mod budgets;
mod compare;
mod drop;
mod environment;
mod figure;
mod first;
mod load;
mod markdown;
mod measure;
pub mod modes;
mod names;
mod order;
mod program;
mod report;
mod run;
mod scale;
mod series;
mod site;
pub mod sockets;
pub(crate) mod stats;
mod table;
mod task;
#[cfg(test)]
mod tests;
mod tool;

use std::{net::IpAddr, time::Duration};

use futures::future::BoxFuture;

pub use self::{
    budgets::Judged,
    compare::{Comparison, compare},
    environment::Environment,
    figure::{Failure, Figure},
    load::{Cores, Slice},
    markdown::summary,
    measure::{Measured, latency, latency_between},
    names::{Path, Protocol, Unit, Workload},
    report::html,
    run::{BenchError, Document, INSTANCE, MOST_ROUNDS, Options, Skipped, run},
    site::Site,
    table::{comparison, tables},
};
use crate::{api::client::Client, lab::LabError, net::Netns};

/// A network to be measured.
pub trait Mode: Send + Sync {
    /// Stable name, as in JSON.
    fn name(&self) -> &'static str;

    /// What it is made of, in a line for readers.
    fn made_of(&self) -> String;

    /// What makes its figures other than its name promises, in a line for readers.
    fn doubt(&self) -> Option<String> {
        None
    }

    /// Who talks to whom on this path.
    ///
    /// # Errors
    /// Why the mode does not have it.
    fn pair(&self, path: Path) -> Result<Pair<'_>, &'static str>;

    /// The same over IPv6.
    ///
    /// # Errors
    /// Why the mode does not have it.
    fn pair_v6(&self, _path: Path) -> Result<Pair<'_>, &'static str> {
        Err("it is built for IPv4 only")
    }

    /// The agents whose programs its packets meet.
    fn agents(&self) -> &[Client] {
        &[]
    }

    /// Makes a pod that has sent nothing yet, the `number`th, from 0 to [`MOST_ROUNDS`]; it stays. `None` if the mode has no way to.
    fn newcomer(&self, _number: u8) -> Option<BoxFuture<'_, Result<Netns, LabError>>> {
        None
    }
}

/// Two namespaces that talk.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Who asks.
    pub client: &'a Netns,
    /// Who answers.
    pub server: &'a Netns,
    /// The server's address, as the client reaches it.
    pub address: IpAddr,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Turns each case gets.
    pub rounds: usize,
    /// How long a turn takes.
    pub slice: Slice,
}

impl Plan {
    /// For a minute in all. Six rounds give intervals at 97 %.
    pub const QUICK: Self = Self::new(6, 10, 2);
    /// For figures to cite: an interval at 95 % that leaves out the extreme round at either end.
    pub const FULL: Self = Self::new(11, 200, 30);

    const fn new(rounds: usize, counted: u64, warm_up: u64) -> Self {
        let (counted, warm_up) = (Duration::from_millis(counted), Duration::from_millis(warm_up));
        Self { rounds, slice: Slice { counted, warm_up } }
    }
}

impl Default for Plan {
    /// For a lab.
    fn default() -> Self {
        Self::new(7, 200, 20)
    }
}
