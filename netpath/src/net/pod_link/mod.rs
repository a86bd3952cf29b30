//! A pod's link: a veth pair between node and pod, with everything that lets packets use it.

mod look;
mod pair;
mod side;
#[cfg(test)]
mod tests;

use std::{fmt::Display, net::IpAddr, time::Duration};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::time::{Instant, sleep};

use super::{
    Link, NetError, Netlink, Netns, ROUTE_PROTOCOL, Route, RouteKind, Shape, Undo, VethEnd, error::mac_text,
};
use side::{Knob, Side};

/// The least MTU IPv6 works with, bytes (RFC 8200, 5); below, the kernel switches it off on the link.
const MTU_V6: u32 = 1280;

/// How long a new pair may take to carry packets: the kernel's link watch runs at least once a second.
const CARRIER: Duration = Duration::from_secs(5);
/// How often to look.
const POLL: Duration = Duration::from_millis(5);

/// A pod's link, fully described: what [`PodLink::ensure`] makes true.
#[derive(Clone, Debug)]
pub struct PodLink {
    /// Host end's name.
    pub host_name: String,
    /// Host end's MAC: the gateway MAC.
    pub host_mac: [u8; 6],
    /// Name inside the pod, `eth0`.
    pub pod_name: String,
    /// MAC inside the pod.
    pub pod_mac: [u8; 6],
    /// MTU of both ends.
    pub mtu: u32,
    /// The pod's addresses, each a host prefix (/32, /128).
    pub addresses: Vec<IpAddr>,
    /// Gateway the pod routes via, at most one per family in use: 169.254.1.1 and fe80::1.
    pub gateways: Vec<IpAddr>,
    /// Addresses that the pod may use beside its own: they lead to it, but it is for the pod to put them on an interface.
    pub allowed: Vec<IpAddr>,
    /// What the pod may get, and what it may send; all there is if absent.
    pub to_pod: Option<Shape>,
    /// See [`to_pod`](Self::to_pod). It is a queue inside the pod, which may take it away.
    pub from_pod: Option<Shape>,
    /// How the pod sends what comes from this link's addresses whatever its main table says; for a second link.
    pub sourced: Option<Sourced>,
}

/// A table of the pod for what comes from one link's addresses, so that answers leave by the link they are for.
#[derive(Clone, Debug)]
pub struct Sourced {
    /// The table, which nothing else in the pod uses.
    pub table: u8,
    /// The gateway for each family in use.
    pub gateways: Vec<IpAddr>,
}

impl PodLink {
    /// Makes host and pod side match this description, changing only what differs, undoing its own steps on failure:
    /// the veth pair; in the pod `lo` up, addresses, `gateway` as link route with a permanent neighbour, default route,
    /// IPv6 off if no address needs it, and a queue that limits what it sends unless it has one of its own; on the host end: up, a queue for what it gets, IPv4 forwarding, permanent neighbour and host route for
    /// each address. A second link has a default route in a table of its own, with a rule for each address. Returns the
    /// host end's index.
    ///
    /// A veth of this name with this host MAC is taken for ours, and made again if its other end is not the pod's. So is a
    /// pair with the pod's MAC at its other end, whose names and host MAC are then put right. Fails without touching it
    /// if the host name belongs to another link, if the pod has another link of its name, or if an address is routed
    /// elsewhere already. Addresses and routes that the pod added for itself stay. IPv6 pods
    /// get `forwarding` on the host end, for the programs, and for the host stack `force_forwarding` where the kernel
    /// has it (6.17); before, `all.forwarding` is the node's business. Setting `forwarding` makes the kernel forget
    /// default routes it learnt from router advertisements, unless the interface they came by has `accept_ra=2`: that
    /// is the caller's to see to.
    pub async fn ensure(&self, host: &Netlink, host_ns: &Netns, pod_ns: &Netns) -> Result<u32, NetError> {
        self.ensure_guarded(host, host_ns, pod_ns, async |_| Ok::<_, NetError>(())).await
    }

    /// The same; `guard` gets the host end's index when the pair is there, and before a new one is up on either side: what it
    /// attaches sees the first packet, and an interface that is down takes a qdisc at once. What it has done is the caller's to
    /// undo.
    pub async fn ensure_guarded<E: Display>(
        &self,
        host: &Netlink,
        host_ns: &Netns,
        pod_ns: &Netns,
        guard: impl AsyncFnOnce(u32) -> Result<(), E>,
    ) -> Result<u32, NetError> {
        let mut undo = Undo::new();
        let error = match self.make_true(host, host_ns, pod_ns, guard, &mut undo).await {
            Ok(ifindex) => {
                undo.commit();
                return Ok(ifindex);
            }
            Err(error) => error.within(&format!("attach pod link {}", self.host_name)),
        };
        Err(match undo.rollback().await {
            Ok(()) => error,
            Err(left) => error.hint(&left.to_string()),
        })
    }

    /// Removes it, and with it its addresses, neighbours and routes on both sides; no error if it is gone. Refuses a
    /// link of this name that is not ours. Rules stay in a namespace that outlives the pod: see
    /// [`remove_rules`](Self::remove_rules).
    pub async fn remove(&self, host: &Netlink) -> Result<(), NetError> {
        self.remove_ours(host)
            .await
            .map_err(|error| error.within(&format!("remove pod link {}", self.host_name)))
    }

    /// Removes what no link takes with it from the pod's namespace; no error if it is gone.
    pub async fn remove_rules(&self, pod_ns: &Netns) -> Result<(), NetError> {
        let Some(sourced) = &self.sourced else { return Ok(()) };
        let pod = Netlink::connect(pod_ns).await?;
        for rule in pod.own_rules(sourced.table).await? {
            pod.delete_rule(rule).await?;
        }
        Ok(())
    }

    async fn remove_ours(&self, host: &Netlink) -> Result<(), NetError> {
        let Some(found) = host.link(&self.host_name).await? else { return Ok(()) };
        self.check_ours(&found)?;
        host.delete_link(found.index).await
    }

    async fn make_true<E: Display>(
        &self,
        host: &Netlink,
        host_ns: &Netns,
        pod_ns: &Netns,
        guard: impl AsyncFnOnce(u32) -> Result<(), E>,
        undo: &mut Undo,
    ) -> Result<u32, NetError> {
        self.validate()?;
        if host_ns.inode() == pod_ns.inode() {
            return Err(NetError::new(
                "check the pod",
                "its network namespace is the node's own; it needs no link",
            ));
        }
        let pod = Netlink::connect(pod_ns).await?;
        let (outer, inner) = self.veth(host, &pod, pod_ns, undo).await?;
        guard(outer.index).await.map_err(|reason| NetError::new("guard it", reason.to_string()))?;
        self.inside(&mut Side::new(&pod, pod_ns, undo), &inner).await?;
        self.outside(&mut Side::new(host, host_ns, undo), &outer).await?;
        operational(host, &self.host_name).await?;
        operational(&pod, &self.pod_name).await?;
        delivered(&pod, &inner, &self.addresses).await?;
        Ok(outer.index)
    }

    /// What the pod needs.
    async fn inside(&self, pod: &mut Side<'_>, link: &Link) -> Result<(), NetError> {
        // Before the link is up: IPv6 would announce itself at once.
        let name = &self.pod_name;
        pod.knobs(vec![Knob::optional(format!("net/ipv6/conf/{name}/disable_ipv6"), self.ipv6_off())])
            .await?;
        pod.mtu(link, self.mtu).await?;
        pod.mac(link, self.pod_mac, &self.all_gateways()).await?;
        let loopback = existing(pod.netlink, "lo").await?;
        pod.up(&loopback).await?;
        pod.shape(link, self.from_pod.as_ref(), false).await?;
        pod.up(link).await?;
        pod.addresses(link, &self.addresses).await?;
        for gateway in self.all_gateways() {
            pod.neighbour(link, gateway, self.host_mac).await?;
        }
        pod.routes(link, &self.inner_routes(link.index)).await?;
        if let Some(sourced) = &self.sourced {
            pod.routes(link, &sourced.routes(link.index)).await?;
            pod.rules(sourced.table, &self.addresses).await?;
        }
        Ok(())
    }

    /// What the node needs.
    async fn outside(&self, host: &mut Side<'_>, link: &Link) -> Result<(), NetError> {
        host.knobs(self.outer_knobs()).await?;
        host.mtu(link, self.mtu).await?;
        host.mac(link, self.host_mac, &[]).await?;
        host.shape(link, self.to_pod.as_ref(), true).await?;
        host.up(link).await?;
        let addresses = || self.addresses.iter().chain(&self.allowed).copied();
        for address in addresses() {
            host.neighbour(link, address, self.pod_mac).await?;
        }
        let wanted = self.outer_routes(link.index);
        host.routes(link, &wanted).await?;
        host.remove_own_routes_except(link, &wanted).await
    }

    fn outer_routes(&self, ifindex: u32) -> Vec<Route> {
        let addresses = self.addresses.iter().chain(&self.allowed);
        addresses.map(|address| direct(IpNet::from(*address), ifindex)).collect()
    }

    fn inner_routes(&self, ifindex: u32) -> Vec<Route> {
        let routes = |gateway: &IpAddr| {
            // First the gateway: the kernel accepts a next hop only if it knows the way there.
            [
                direct(IpNet::from(*gateway), ifindex),
                Route { via: Some(*gateway), ..direct(everything(*gateway), ifindex) },
            ]
        };
        self.gateways.iter().flat_map(routes).collect()
    }

    /// Every gateway that a route of the pod names, once.
    fn all_gateways(&self) -> Vec<IpAddr> {
        let mut all = self.gateways.clone();
        let sourced = self.sourced.iter().flat_map(|sourced| &sourced.gateways);
        all.extend(sourced.filter(|gateway| !self.gateways.contains(gateway)));
        all
    }

    fn outer_knobs(&self) -> Vec<Knob> {
        let name = &self.host_name;
        let mut knobs = vec![
            Knob::needed(format!("net/ipv4/conf/{name}/forwarding"), "1"),
            Knob::optional(format!("net/ipv6/conf/{name}/disable_ipv6"), self.ipv6_off()),
        ];
        if self.uses_v6() {
            // A pod must not become the node's router by advertising itself.
            knobs.push(Knob::optional(format!("net/ipv6/conf/{name}/accept_ra"), "0"));
            // Without it bpf_fib_lookup has no answer for what the pod sends, and everything takes the host stack.
            knobs.push(Knob::optional(format!("net/ipv6/conf/{name}/forwarding"), "1"));
            // And what takes the host stack is forwarded by this, or by the node's `all.forwarding`.
            knobs.push(Knob::optional(format!("net/ipv6/conf/{name}/force_forwarding"), "1"));
        }
        knobs
    }

    fn uses_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    fn ipv6_off(&self) -> &'static str {
        if self.uses_v6() { "0" } else { "1" }
    }

    /// What the kernel would accept and make useless.
    fn validate(&self) -> Result<(), NetError> {
        let fail = |reason: String| Err(NetError::new("check the description", reason));
        for mac in [self.host_mac, self.pod_mac] {
            if mac == [0; 6] || mac[0] & 1 == 1 {
                return fail(format!("{} is not the address of one interface", mac_text(mac)));
            }
        }
        if self.uses_v6() && self.mtu < MTU_V6 {
            return fail(format!("IPv6 needs an MTU of at least {MTU_V6}, this one is {}", self.mtu));
        }
        for (name, of_family) in [("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", IpAddr::is_ipv6)]
        {
            let gateways = self.gateways.iter().filter(|address| of_family(address)).count();
            let used = self.addresses.iter().any(of_family);
            // None is fine: of several links one has the default route.
            if gateways > usize::from(used) {
                let most = if used { "one" } else { "no" };
                return fail(format!("these addresses need {most} {name} gateway, not {gateways}"));
            }
        }
        Ok(())
    }
}

impl Sourced {
    /// One default route a family, on the link although no prefix of that table says so.
    fn routes(&self, ifindex: u32) -> Vec<Route> {
        let default = |gateway: &IpAddr| Route {
            via: Some(*gateway),
            onlink: true,
            source: None,
            table: Some(self.table),
            ..direct(everything(*gateway), ifindex)
        };
        self.gateways.iter().map(default).collect()
    }
}

/// All addresses of a gateway's family.
fn everything(gateway: IpAddr) -> IpNet {
    if gateway.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() }
}

/// A route to what is on the link itself.
fn direct(prefix: IpNet, ifindex: u32) -> Route {
    Route {
        prefix,
        kind: RouteKind::Unicast,
        via: None,
        ifindex: Some(ifindex),
        onlink: false,
        source: None,
        mtu: None,
        table: None,
    }
}

/// Waits until packets pass. The end that came up first has no carrier then, and drops what it is to send until the
/// kernel's link watch gets to it: up to a second later, where both ends have the same index. Asking about a link
/// makes it act at once since kernel 6.8; before, asking again is all there is.
async fn operational(netlink: &Netlink, name: &str) -> Result<(), NetError> {
    let deadline = Instant::now() + CARRIER;
    loop {
        match netlink.link_detail(name).await? {
            Some(detail) if detail.operational => return Ok(()),
            Some(_) if Instant::now() < deadline => sleep(POLL).await,
            _ => {
                let reason = "it got no carrier; does another program manage it, or take its other end down?";
                return Err(NetError::new(format!("wait for link {name}"), reason));
            }
        }
    }
}

/// Waits until the pod gets what is sent to its IPv6 addresses.
async fn delivered(pod: &Netlink, link: &Link, addresses: &[IpAddr]) -> Result<(), NetError> {
    let deadline = Instant::now() + CARRIER;
    for address in addresses.iter().filter(|address| address.is_ipv6()) {
        while !pod.is_delivered(link.index, *address).await? {
            if Instant::now() > deadline {
                let reason = "the kernel does not deliver what arrives for it; is IPv6 off in the pod?";
                return Err(NetError::new(format!("wait for address {address} of {}", link.name), reason));
            }
            sleep(POLL).await;
        }
    }
    Ok(())
}

async fn existing(netlink: &Netlink, name: &str) -> Result<Link, NetError> {
    let gone =
        || NetError::new(format!("look up link {name}"), "it is gone; does another program manage it?");
    netlink.link(name).await?.ok_or_else(gone)
}
