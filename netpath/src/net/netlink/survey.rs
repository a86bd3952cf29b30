//! What a namespace tells of itself in a few dumps, for any number of links at once.

use std::{collections::BTreeMap, io, net::IpAddr};

use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressMessage,
        link::{LinkAttribute, LinkExtentMask, LinkMessage},
        neighbour::NeighbourMessage,
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol},
        rule::RuleMessage,
    },
    sys::{Socket, protocols::NETLINK_ROUTE},
};

use super::{
    Address, KernelRoute, LinkDetail, Netlink, ROUTE_PROTOCOL, Route, Rule, address, link, neighbour, route,
    rule,
};
use crate::net::NetError;

/// The largest message of a dump (32 KiB since Linux 4.9, d35c99ff77ec).
const LARGEST: usize = 32 * 1024;

/// Links, addresses, permanent neighbours and routes of a namespace. Of routes and rules only those that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    links: BTreeMap<u32, LinkDetail>,
    addresses: Vec<Address>,
    neighbours: BTreeMap<u32, Vec<(IpAddr, [u8; 6])>>,
    /// By the interface they leave by; 0 for those that leave by none.
    routes: BTreeMap<u32, Vec<KernelRoute>>,
    rules: Vec<Rule>,
}

/// What a pod's namespace is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct Inside {
    /// Interface whose routes are listed.
    pub(in crate::net) ifindex: u32,
    /// A table of the pod's own, with its rules.
    pub(in crate::net) table: Option<u8>,
}

impl Survey {
    /// All links, by index.
    pub fn links(&self) -> impl Iterator<Item = &LinkDetail> {
        self.links.values()
    }

    /// One link.
    pub fn link(&self, ifindex: u32) -> Option<&LinkDetail> {
        self.links.get(&ifindex)
    }

    /// All addresses.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Whether there is this route.
    pub fn has_route(&self, route: &Route) -> bool {
        self.routes_by(route.ifindex.unwrap_or(0)).any(|known| known.route.suits(route))
    }

    /// All routes.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flatten().map(|known| &known.route)
    }

    /// Whether two surveys tell the same of a link.
    pub fn same_link(&self, other: &Self, ifindex: u32) -> bool {
        self.link(ifindex) == other.link(ifindex)
            && self.neighbours.get(&ifindex) == other.neighbours.get(&ifindex)
            && self.routes.get(&ifindex) == other.routes.get(&ifindex)
    }

    pub(in crate::net) fn routes_by(&self, ifindex: u32) -> impl Iterator<Item = &KernelRoute> {
        self.routes.get(&ifindex).into_iter().flatten()
    }

    pub(in crate::net) fn has_address(&self, ifindex: u32, address: IpAddr) -> bool {
        let host = address.into();
        self.addresses.iter().any(|one| one.ifindex == ifindex && one.net == host)
    }

    pub(in crate::net) fn has_neighbour(&self, ifindex: u32, address: IpAddr, mac: [u8; 6]) -> bool {
        self.neighbours.get(&ifindex).is_some_and(|known| known.contains(&(address, mac)))
    }

    pub(in crate::net) fn has_rule(&self, rule: &Rule) -> bool {
        self.rules.contains(rule)
    }

    fn add(&mut self, answer: RouteNetlinkMessage) {
        match answer {
            RouteNetlinkMessage::NewLink(_) => {
                self.links.extend(link::parse(answer).map(|detail| (detail.link.index, detail)));
            }
            RouteNetlinkMessage::NewAddress(_) => self.addresses.extend(address::parse(answer)),
            RouteNetlinkMessage::NewNeighbour(_) => {
                if let Some(known) = neighbour::parse(answer) {
                    self.neighbours.entry(known.ifindex).or_default().push((known.address, known.mac));
                }
            }
            RouteNetlinkMessage::NewRoute(_) => {
                if let Some(known) = route::parse(answer) {
                    self.routes.entry(known.route.ifindex.unwrap_or(0)).or_default().push(known);
                }
            }
            RouteNetlinkMessage::NewRule(_) => self.rules.extend(rule::parse(answer)),
            _ => {}
        }
    }

    /// Looks at the calling thread's namespace, for as long as a few system calls take. Fails if a table changed meanwhile.
    pub(in crate::net) fn inside(which: impl FnOnce(&Self) -> Option<Inside>) -> Result<Self, NetError> {
        let doing = "look at a pod's namespace";
        let io = |error: io::Error| NetError::io(doing, &error);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(io)?;
        socket.set_netlink_get_strict_chk(true).map_err(io)?;
        socket.bind_auto().map_err(io)?;
        let mut survey = Self::default();
        survey.ask(&socket, links(), doing)?;
        let Some(inside) = which(&survey) else { return Ok(survey) };
        let mut requests = vec![
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        ];
        for table in std::iter::once(None).chain(inside.table.map(Some)) {
            requests
                .extend(FAMILIES.map(|family| routes(family, RouteProtocol::Unspec, table, inside.ifindex)));
        }
        if inside.table.is_some() {
            requests.extend(FAMILIES.map(rules));
        }
        requests.into_iter().try_for_each(|request| survey.ask(&socket, request, doing))?;
        Ok(survey)
    }

    fn ask(&mut self, socket: &Socket, request: RouteNetlinkMessage, doing: &str) -> Result<(), NetError> {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        socket.send(&bytes, 0).map_err(|error| NetError::io(doing, &error))?;
        loop {
            bytes.clear();
            bytes.reserve(LARGEST);
            socket.recv(&mut bytes, 0).map_err(|error| NetError::io(doing, &error))?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| {
                    NetError::new(doing, format!("an answer that nobody understands: {error}"))
                })?;
                rest = rest.get(aligned(answer.header.length)..).unwrap_or_default();
                if answer.header.flags & NLM_F_DUMP_INTR != 0 {
                    return Err(NetError::new(doing, "a table changed under it"));
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => self.add(message),
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(()),
                    NetlinkPayload::Done(done) => return nothing(-done.code, doing),
                    NetlinkPayload::Error(error) => return nothing(error.raw_code().abs(), doing),
                    _ => return Err(NetError::new(doing, "the kernel lost answers (overrun)")),
                }
            }
        }
    }
}

impl Netlink {
    /// Everything of the namespace but routes that are not marked with [`ROUTE_PROTOCOL`], and rules. Fails if the kernel
    /// refuses to tell.
    pub async fn survey(&self) -> Result<Survey, NetError> {
        let mut survey = Survey::default();
        let mut requests = vec![
            links(),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        ];
        let own = RouteProtocol::Other(ROUTE_PROTOCOL);
        requests.extend(FAMILIES.map(|family| routes(family, own, None, 0)));
        for request in requests {
            let doing = "look at the node's links, addresses, neighbours and routes";
            match self.dump(doing, request).await {
                Ok(answers) => answers.into_iter().for_each(|answer| survey.add(answer)),
                Err(error) => nothing(error.errno.unwrap_or(0), doing).map_err(|_| error)?,
            }
        }
        Ok(survey)
    }
}

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// A namespace that never had a route has no main table, an interface that is gone no routes, and a kernel without IPv6
/// nothing of it: that is nothing to tell, and no error.
fn nothing(errno: i32, doing: &str) -> Result<(), NetError> {
    match Errno::from_raw(errno) {
        Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP => Ok(()),
        errno => Err(NetError::errno(doing, errno)),
    }
}

/// Where the next message begins (`NLMSG_ALIGN`).
pub(super) fn aligned(length: u32) -> usize {
    (length as usize).next_multiple_of(4)
}

/// All links, without their counters: those change with every packet, and are a third of the answer.
fn links() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

fn routes(
    family: AddressFamily,
    protocol: RouteProtocol,
    table: Option<u8>,
    ifindex: u32,
) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = table.unwrap_or(RouteHeader::RT_TABLE_MAIN);
    message.header.protocol = protocol;
    message.attributes.extend((ifindex != 0).then_some(RouteAttribute::Oif(ifindex)));
    RouteNetlinkMessage::GetRoute(message)
}

fn rules(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    RouteNetlinkMessage::GetRule(message)
}
