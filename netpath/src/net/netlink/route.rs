//! Routes of the main table, and of tables of a pod's own.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
            RouteScope, RouteType, RouteVia,
        },
    },
};

use super::{Netlink, address::family, already};
use crate::net::NetError;

/// Protocol number netpath's routes carry (`rtm_protocol`), so that they can be listed and removed.
pub const ROUTE_PROTOCOL: u8 = 0x6e;

/// The metric the kernel gives IPv6 routes that name none; IPv4's is 0.
const METRIC_V6: u32 = 1024;

/// The table of what the kernel delivers itself (`RT_TABLE_LOCAL`).
const TABLE_LOCAL: u8 = 255;

/// What happens to packets of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwarded.
    #[default]
    Unicast,
    /// Answered with host unreachable.
    Unreachable,
    /// Dropped in silence.
    Blackhole,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub prefix: IpNet,
    /// Kind.
    pub kind: RouteKind,
    /// Next hop.
    pub via: Option<IpAddr>,
    /// Interface.
    pub ifindex: Option<u32>,
    /// The next hop is on the link although no prefix says so.
    pub onlink: bool,
    /// The address that the node itself sends from by it; whatever suits if absent.
    pub source: Option<IpAddr>,
    /// MTU of the route, bytes.
    pub mtu: Option<u32>,
    /// Its table; the main one if absent.
    pub table: Option<u8>,
}

impl Route {
    /// Whether it is the one that is wanted. Where no source is wanted, somebody may have set one.
    pub(in crate::net) fn suits(&self, wanted: &Self) -> bool {
        *wanted == Self { source: wanted.source.and(self.source), ..self.clone() }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => write!(f, "{}", self.prefix)?,
            RouteKind::Unreachable => write!(f, "unreachable {}", self.prefix)?,
            RouteKind::Blackhole => write!(f, "blackhole {}", self.prefix)?,
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(ifindex) = self.ifindex {
            write!(f, " dev #{ifindex}")?;
        }
        if let Some(table) = self.table {
            write!(f, " table {table}")?;
        }
        Ok(())
    }
}

/// A route, and what else the kernel tells about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// The route; of several next hops the first.
    pub route: Route,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// Its preference; lower wins.
    pub metric: u32,
}

impl KernelRoute {
    /// Whether it is the one that adding a route without a metric for this prefix runs into.
    pub(in crate::net) fn occupies(&self, prefix: IpNet) -> bool {
        let usual = if prefix.addr().is_ipv4() { 0 } else { METRIC_V6 };
        self.route.prefix == prefix && self.metric == usual
    }
}

/// Which routes to list; everything that is set has to match.
#[derive(Default)]
struct Filter {
    protocol: RouteProtocol,
    kind: RouteType,
    ifindex: Option<u32>,
    table: Option<u8>,
}

impl Netlink {
    /// Adds or replaces a route, marked with [`ROUTE_PROTOCOL`]. Replaces whatever route the prefix has, whoever made it.
    pub async fn replace_route(&self, route: &Route) -> Result<(), NetError> {
        let doing = format!("set route {route}");
        let message = RouteNetlinkMessage::NewRoute(describe(route, &doing)?);
        self.request(&doing, message, NLM_F_CREATE | NLM_F_REPLACE).await.map(drop).map_err(explain)
    }

    /// Adds a route, marked with [`ROUTE_PROTOCOL`]; `EEXIST` if the prefix has one.
    pub(in crate::net) async fn add_route(&self, route: &Route) -> Result<(), NetError> {
        let doing = format!("add route {route}");
        let message = RouteNetlinkMessage::NewRoute(describe(route, &doing)?);
        self.request(&doing, message, NLM_F_CREATE | NLM_F_EXCL).await.map(drop).map_err(explain)
    }

    /// Removes a route; no error if it is gone. Only ever removes one marked with [`ROUTE_PROTOCOL`].
    pub async fn delete_route(&self, route: &Route) -> Result<(), NetError> {
        let doing = format!("remove route {route}");
        let mut message = describe(&Route { mtu: None, ..route.clone() }, &doing)?;
        // "Any scope", as iproute2 asks for: the kernel may have chosen another than ours.
        message.header.scope = RouteScope::NoWhere;
        let removed = self.request(&doing, RouteNetlinkMessage::DelRoute(message), 0).await;
        already(removed, &[Errno::ESRCH, Errno::ENODEV]).map(drop)
    }

    /// Routes marked with [`ROUTE_PROTOCOL`].
    pub async fn own_routes(&self) -> Result<Vec<Route>, NetError> {
        self.routes_of(ROUTE_PROTOCOL).await
    }

    /// Routes of the main table that somebody has marked so (`rtm_protocol`).
    pub async fn routes_of(&self, protocol: u8) -> Result<Vec<Route>, NetError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let filter = Filter { protocol: RouteProtocol::from(protocol), ..Filter::default() };
            all.extend(self.routes(family, filter).await?.into_iter().map(|known| known.route));
        }
        Ok(all)
    }

    /// All routes of the main table, IPv4 first.
    pub async fn main_routes(&self) -> Result<Vec<KernelRoute>, NetError> {
        let mut all = self.routes(AddressFamily::Inet, Filter::default()).await?;
        all.extend(self.routes(AddressFamily::Inet6, Filter::default()).await?);
        Ok(all)
    }

    /// Routes of a family that leave by one interface, of one table.
    pub(in crate::net) async fn routes_by(
        &self,
        ifindex: u32,
        v6: bool,
        table: Option<u8>,
    ) -> Result<Vec<KernelRoute>, NetError> {
        self.routes(which(v6), Filter { ifindex: Some(ifindex), table, ..Filter::default() }).await
    }

    /// Whether what arrives for an address of an interface is delivered. For IPv6 the kernel sees to that on a work queue,
    /// a moment after the address is there.
    pub(in crate::net) async fn is_delivered(&self, ifindex: u32, address: IpAddr) -> Result<bool, NetError> {
        let filter = Filter {
            kind: RouteType::Local,
            ifindex: Some(ifindex),
            table: Some(TABLE_LOCAL),
            ..Filter::default()
        };
        let answers = self.dump_routes(family(address), filter).await?;
        Ok(answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => {
                message.attributes.contains(&RouteAttribute::Destination(address.into()))
            }
            _ => false,
        }))
    }

    /// The route that keeps this one, without a metric, from being added.
    pub(in crate::net) async fn route_in_the_way(
        &self,
        wanted: &Route,
    ) -> Result<Option<KernelRoute>, NetError> {
        let filter = Filter { table: wanted.table, ..Filter::default() };
        let routes = self.routes(family(wanted.prefix.addr()), filter).await?;
        Ok(routes.into_iter().find(|known| known.occupies(wanted.prefix)))
    }

    /// Interface of the default route of a family, if there is one; of several, the one the kernel prefers.
    pub async fn default_route_interface(&self, v6: bool) -> Result<Option<u32>, NetError> {
        let filter = Filter { kind: RouteType::Unicast, ..Filter::default() };
        let routes = self.routes(which(v6), filter).await?;
        let best = routes
            .into_iter()
            .filter(|known| known.route.prefix.prefix_len() == 0 && known.route.ifindex.is_some())
            .min_by_key(|known| known.metric);
        Ok(best.and_then(|known| known.route.ifindex))
    }

    async fn routes(&self, family: AddressFamily, filter: Filter) -> Result<Vec<KernelRoute>, NetError> {
        Ok(self.dump_routes(family, filter).await?.into_iter().filter_map(parse).collect())
    }

    async fn dump_routes(
        &self,
        family: AddressFamily,
        filter: Filter,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = filter.table.unwrap_or(RouteHeader::RT_TABLE_MAIN);
        message.header.protocol = filter.protocol;
        message.header.kind = filter.kind;
        message.attributes.extend(filter.ifindex.map(RouteAttribute::Oif));
        match self.dump("list routes", RouteNetlinkMessage::GetRoute(message)).await {
            // A namespace that never had a route has no main table, and an interface that is gone no routes.
            Err(error) if error.is(Errno::ENOENT) || error.is(Errno::ENODEV) => Ok(Vec::new()),
            answers => answers,
        }
    }
}

fn which(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// What makes or names a route.
fn describe(route: &Route, doing: &str) -> Result<RouteMessage, NetError> {
    let prefix = route.prefix.trunc();
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix.addr());
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = route.table.unwrap_or(RouteHeader::RT_TABLE_MAIN);
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Blackhole => RouteType::BlackHole,
    };
    // IPv4 looks next hops up in a narrower scope than the route's own: a route to the link itself has to say so.
    message.header.scope = match (route.kind, route.via) {
        (RouteKind::Unicast, None) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Destination(prefix.addr().into()));
    message.attributes.extend(route.ifindex.map(RouteAttribute::Oif));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    message.attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message.attributes.extend(match (prefix.addr(), route.via) {
        (_, None) => None,
        (IpAddr::V4(_), Some(IpAddr::V6(via))) => Some(RouteAttribute::Via(RouteVia::Inet6(via))),
        (IpAddr::V6(_), Some(IpAddr::V4(_))) => {
            return Err(NetError::new(doing, "an IPv6 route cannot have an IPv4 next hop"));
        }
        (_, Some(via)) => Some(RouteAttribute::Gateway(via.into())),
    });
    Ok(message)
}

/// What the kernel's answers to a new route mean.
fn explain(error: NetError) -> NetError {
    let hint = match error.errno.map(Errno::from_raw) {
        Some(Errno::ENETUNREACH) => {
            "no route leads to the next hop; is its prefix on the interface, or should it be onlink?"
        }
        Some(Errno::ENETDOWN) => "set the interface up first",
        _ => return error,
    };
    error.hint(hint)
}

/// A route out of the kernel's answer; `None` for kinds netpath never makes and has no use for (multicast, throw, …).
pub(super) fn parse(answer: RouteNetlinkMessage) -> Option<KernelRoute> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut route = Route {
        prefix: IpNet::new(any, message.header.destination_prefix_length).ok()?,
        kind: match message.header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Unreachable => RouteKind::Unreachable,
            RouteType::BlackHole => RouteKind::Blackhole,
            _ => return None,
        },
        via: None,
        ifindex: None,
        onlink: message.header.flags.contains(RouteFlags::Onlink),
        source: None,
        mtu: None,
        table: Some(message.header.table).filter(|table| *table != RouteHeader::RT_TABLE_MAIN),
    };
    let mut metric = 0;
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => {
                route.prefix =
                    IpNet::new(address(&destination)?, message.header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Priority(priority) => metric = priority,
            RouteAttribute::PrefSource(source) => route.source = address(&source),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.into_iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => {
                if let Some(first) = hops.into_iter().next() {
                    route.ifindex = Some(first.interface_index);
                    route.via = first.attributes.iter().find_map(next_hop);
                }
            }
            RouteAttribute::Oif(ifindex) => route.ifindex = Some(ifindex),
            other => route.via = next_hop(&other).or(route.via),
        }
    }
    if route.kind != RouteKind::Unicast {
        // IPv6 shows the loopback interface here, which nobody asked for.
        route.ifindex = None;
    }
    Some(KernelRoute { route, protocol: message.header.protocol.into(), metric })
}

fn next_hop(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(gateway) => address(gateway),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    }
}

pub(super) fn address(address: &RouteAddress) -> Option<IpAddr> {
    match *address {
        RouteAddress::Inet(v4) => Some(v4.into()),
        RouteAddress::Inet6(v6) => Some(v6.into()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
