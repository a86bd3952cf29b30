//! Ways to other nodes' blocks that a routing daemon has put into the node's table: for nodes that are on no link of this one.

use ipnet::IpNet;

use super::{Agent, lock};
use crate::{
    compile::{self, Ways},
    net::{Route, RouteKind},
};

/// What BIRD marks its routes with (`RTPROT_BIRD`, include/uapi/linux/rtnetlink.h).
const BIRD: u8 = 12;

/// Prefixes that BIRD has routes to.
pub(super) type Learned = Vec<IpNet>;

impl Agent {
    /// Takes over what is learned now.
    pub(super) async fn learn_ways(&self) {
        let learned = match (&self.config().bgp, &self.membership) {
            (Some(_), Some(_)) => self.netlink.routes_of(BIRD).await,
            _ => Ok(Vec::new()),
        };
        self.note("routes of BIRD", &learned.as_ref().map(drop));
        let Ok(routes) = learned else { return };
        let pools = &self.peers().pools;
        let unicast = routes.into_iter().filter(|route| route.kind == RouteKind::Unicast);
        // A route to a pool as a whole is behind the node's own, which says that nobody is there.
        let within =
            |route: &Route| pools.iter().any(|pool| pool.contains(&route.prefix) && *pool != route.prefix);
        let mut learned: Learned = unicast.filter(within).map(|route| route.prefix).collect();
        learned.sort();
        if *lock(&self.bgp.learned) == learned {
            return;
        }
        let _one = self.node_changes.lock().await;
        *lock(&self.bgp.learned) = learned;
        let seen = lock(&self.node).seen.clone();
        self.ensure_ways(&seen).await;
    }

    /// Fills in ways that were learned for blocks that no other leads to.
    pub(super) fn with_learned(&self, ways: Ways) -> Ways {
        compile::with_learned(ways, &lock(&self.bgp.learned))
    }
}
