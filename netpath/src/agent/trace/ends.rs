//! Who sends a packet that is to be traced, and whom it is for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use netpath_common::abi::Program;

use super::{
    super::{Agent, AgentError, blocking, registry::Entry},
    packet::{HOPS, ICMP, ICMPV6, Packet, TCP},
    view::View,
    walk::Start,
};
use crate::{
    api::types::{Protocol, TraceRequest},
    compile::Uplink,
    model::{Family, GATEWAY_MAC, Mac, PodState, Unattached},
    net::Netns,
};

/// What stands for the node, unless a pod has that name.
const NODE: &str = "node";
/// Ports of a packet that names none; the source's lies above the default SNAT range.
const SOURCE_PORT: u16 = 50_000;
const DESTINATION_PORT: u16 = 80;
/// Whoever sends from outside.
const NEIGHBOUR: Mac = Mac([0x02, 0, 0, 0, 0, 0xfe]);

/// One end of the way.
enum Who {
    Pod(Box<Entry>),
    Node,
    Outside,
}

/// One end as it was named.
struct End {
    who: Who,
    /// Its address, if it was named by one.
    address: Option<IpAddr>,
}

impl Agent {
    /// The packet that a request describes, at the program that it meets first.
    pub(super) async fn start_of(&self, request: &TraceRequest, view: &View) -> Result<Start, AgentError> {
        let refused = |reason: String| AgentError::Trace {
            source_name: request.source.clone(),
            destination: request.destination.clone(),
            reason,
        };
        let (from, to) = (view.end(&request.source), view.end(&request.destination));
        let (from, to) = (from.map_err(refused)?, to.map_err(refused)?);
        let family = view.family(&from, &to, request.source_address).map_err(refused)?;
        let destination = view.address_of(&to, family).map_err(refused)?;
        [&from, &to].into_iter().try_for_each(|end| ready(&end.who))?;
        let source = match request.source_address.or(from.address) {
            Some(address) => address,
            None => self.source_towards(&from.who, destination).await.map_err(refused)?,
        };
        let packet = packet(request, source, destination);
        let uplink = |far: IpAddr| self.uplink_towards(request.uplink.as_deref(), far, view);
        let start = match (&from.who, &to.who) {
            (Who::Pod(pod), _) => {
                let (ifindex, mac) = view.interface(pod, source)?;
                let frame = packet.frame(mac, GATEWAY_MAC).map_err(refused)?;
                Start { program: Program::FromPod, ifindex, frame }
            }
            (Who::Node, Who::Node) => {
                return Err(refused("what the node says to itself meets no program".into()));
            }
            (Who::Node, Who::Pod(pod)) => {
                let (ifindex, mac) = view.interface(pod, destination)?;
                let frame = packet.frame(GATEWAY_MAC, mac).map_err(refused)?;
                Start { program: Program::ToPod, ifindex, frame }
            }
            (Who::Node, Who::Outside) => {
                let uplink = uplink(destination).await.map_err(refused)?;
                let frame = packet.frame(view.mac_of(uplink.ifindex), NEIGHBOUR).map_err(refused)?;
                Start { program: Program::ToUplink, ifindex: uplink.ifindex, frame }
            }
            (Who::Outside, _) => {
                let uplink = uplink(source).await.map_err(refused)?;
                let frame = packet.frame(NEIGHBOUR, view.mac_of(uplink.ifindex)).map_err(refused)?;
                Start { program: Program::FromUplink, ifindex: uplink.ifindex, frame }
            }
        };
        if let Who::Pod(pod) = &to.who {
            view.interface(pod, destination)?;
        }
        Ok(start)
    }

    /// The address that a pod or the node sends from towards another, as its kernel chooses.
    async fn source_towards(&self, who: &Who, destination: IpAddr) -> Result<IpAddr, String> {
        let netns = match who {
            Who::Pod(entry) => {
                let path = entry.pod.netns.clone();
                blocking(move || Netns::open(&path)).await.map_err(|error| error.to_string())?
            }
            _ => self.netns.clone(),
        };
        let chosen = blocking(move || netns.enter(|| chosen_source(destination))).await;
        let chosen = chosen.map_err(|error| error.to_string())?;
        chosen.map_err(|error| format!("the sender has no route to {destination}: {error}"))
    }

    /// The uplink that was asked for, else the one that the node's routes lead by to whoever is far.
    async fn uplink_towards(&self, name: Option<&str>, far: IpAddr, view: &View) -> Result<Uplink, String> {
        let there = || view.uplinks.iter().map(|uplink| uplink.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(name) = name {
            let named = view.uplinks.iter().find(|uplink| uplink.name == name);
            return named.cloned().ok_or_else(|| format!("'{name}' is no uplink; there are: {}", there()));
        }
        let own = self.source_towards(&Who::Node, far).await.ok();
        let by_route =
            view.uplinks.iter().find(|uplink| own.is_some_and(|own| uplink.addresses.contains(&own)));
        by_route.or(view.uplinks.first()).cloned().ok_or_else(|| "the node has no uplink".to_owned())
    }
}

/// Fails for a pod that is being added or removed.
fn ready(who: &Who) -> Result<(), AgentError> {
    match who {
        Who::Pod(entry) if entry.pod.state != PodState::Ready => {
            Err(AgentError::PodBusy(entry.pod.name.to_string()))
        }
        _ => Ok(()),
    }
}

/// The calling thread's namespace chooses a source when a datagram socket is connected; nothing is sent by that.
fn chosen_source(destination: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((destination, DESTINATION_PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// The packet, with what the request leaves out.
fn packet(request: &TraceRequest, source: IpAddr, destination: IpAddr) -> Packet {
    let has_port = request.source_port.or(request.destination_port).is_some();
    let echo = if destination.is_ipv4() { ICMP } else { ICMPV6 };
    let protocol = match request.protocol {
        // ICMP is each family's own.
        Some(Protocol(ICMP | ICMPV6)) => echo,
        Some(Protocol(protocol)) => protocol,
        None if has_port => TCP,
        None => echo,
    };
    Packet {
        protocol,
        source: (source, request.source_port.unwrap_or(SOURCE_PORT)),
        destination: (destination, request.destination_port.unwrap_or(DESTINATION_PORT)),
        ttl: request.ttl.unwrap_or(HOPS),
        size: request.size,
        is_answer: false,
    }
}

impl View {
    /// Whom a name or an address stands for.
    fn end(&self, name: &str) -> Result<End, String> {
        if let Some(entry) = self.pods.iter().find(|entry| entry.pod.name.as_str() == name) {
            return match &entry.pod.unattached {
                None => Ok(End { who: Who::Pod(Box::new(entry.clone())), address: None }),
                Some(Unattached::None) => Err(format!("pod '{name}' is in no network")),
                Some(Unattached::Host) => Ok(End { who: Who::Node, address: None }),
                Some(Unattached::Pod(other)) => self.end(other.as_str()),
            };
        }
        if name == NODE {
            return Ok(End { who: Who::Node, address: None });
        }
        let address: IpAddr = name.parse().map_err(|_| {
            format!("'{name}' is neither a pod of this node nor an address, nor 'node'; 'netpath pod ls' lists the pods")
        })?;
        let who = match self.owner(address) {
            Some(entry) => Who::Pod(Box::new(entry.clone())),
            None if self.addresses.contains(&address) => Who::Node,
            None => Who::Outside,
        };
        Ok(End { who, address: Some(address) })
    }

    /// The family of the packet: that of any address named, else the first that both ends have.
    fn family(&self, from: &End, to: &End, claimed: Option<IpAddr>) -> Result<Family, String> {
        let named = [to.address, from.address, claimed];
        let mut families = named.into_iter().flatten().map(Family::of);
        let Some(family) = families.next() else {
            let has = |end: &End, family: Family| self.addresses_of(end, family).next().is_some();
            let both = |family: &Family| has(from, *family) && has(to, *family);
            let common = [Family::V4, Family::V6].into_iter().find(both);
            return common.ok_or_else(|| "they have no addresses of one family".to_owned());
        };
        match families.find(|other| *other != family) {
            Some(other) => Err(format!("one address is {family}, the other {other}")),
            None => Ok(family),
        }
    }

    /// The address of an end, of a family.
    fn address_of(&self, end: &End, family: Family) -> Result<IpAddr, String> {
        let first = end.address.or_else(|| self.addresses_of(end, family).next());
        first.ok_or_else(|| match &end.who {
            Who::Pod(entry) => format!("pod '{}' has no {family} address", entry.pod.name),
            _ => format!("the node has no {family} address on an uplink"),
        })
    }

    /// What an end that was named without an address can be reached by.
    fn addresses_of<'a>(&'a self, end: &'a End, family: Family) -> impl Iterator<Item = IpAddr> + 'a {
        let addresses: Box<dyn Iterator<Item = IpAddr>> = match &end.who {
            Who::Pod(entry) => Box::new(entry.pod.addresses()),
            _ => Box::new(self.uplinks.iter().flat_map(|uplink| uplink.addresses.iter().copied())),
        };
        addresses.filter(move |address| Family::of(*address) == family)
    }

    /// The interface of a pod with an address, or its first: index of the host end, and MAC inside. Fails if packets
    /// cannot pass it.
    fn interface(&self, entry: &Entry, address: IpAddr) -> Result<(u32, Mac), AgentError> {
        let down = |reason: String| AgentError::PodDown { pod: entry.pod.name.to_string(), reason };
        let owns = |at: &usize| entry.pod.interfaces[*at].all_addresses().any(|own| own == address);
        let at = (0..entry.pod.interfaces.len()).find(owns).unwrap_or(0);
        let (interface, ifindex) = (&entry.pod.interfaces[at], entry.ifindexes[at]);
        let link = self.links.iter().find(|link| link.index == ifindex);
        match link {
            None => Err(down(format!("its interface {} is not there", interface.host))),
            Some(link) if !link.up => Err(down(format!("its interface {} is down", link.name))),
            Some(_) => Ok((ifindex, interface.mac)),
        }
    }
}
