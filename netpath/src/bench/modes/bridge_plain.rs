//! `bridge-plain`: a bridge that netfilter sees nothing of, and a router that knows the pods, so that nothing needs to be
//! translated.

use std::{net::Ipv4Addr, sync::Arc};

use futures::FutureExt;
use ipnet::Ipv4Net;

use super::{
    Built,
    bridge::{Bridge, Kind},
};
use crate::bench::{Mode, Site};

const KIND: Kind = Kind {
    name: "bridge-plain",
    subnet: Ipv4Net::new_assert(Ipv4Addr::new(172, 31, 0, 0), 24),
    uplink: Ipv4Addr::new(198, 18, 4, 2),
    netfilter: false,
};

pub(super) fn build(site: &Site) -> Built<'_> {
    async { Ok(Box::new(Bridge::of(KIND, Arc::clone(&site.topology)).await?) as Box<dyn Mode>) }.boxed()
}
