//! Links, routes, sysctls and programs of the network namespace.

use std::{collections::BTreeMap, net::SocketAddr};

use super::Node;
use crate::{
    datapath::probe::tcx_programs,
    model::Transport,
    net::{Address, KernelRoute, LinkState, NetError, Netlink, sockets, sysctl},
};

/// What the kernel tells of the network.
#[derive(Clone, Debug, Default)]
pub(in crate::doctor) struct Net {
    pub(in crate::doctor) links: Vec<LinkState>,
    pub(in crate::doctor) addresses: Vec<Address>,
    /// Of the main table.
    pub(in crate::doctor) routes: Vec<KernelRoute>,
    /// By slashed key; what the kernel does not have here is absent.
    pub(in crate::doctor) sysctls: BTreeMap<String, String>,
    /// Neighbours that count towards the tables' limits, of IPv4 and IPv6.
    pub(in crate::doctor) neighbours: [usize; 2],
    /// Sockets of the node that listen, or have a port of UDP.
    pub(in crate::doctor) sockets: Vec<(Transport, SocketAddr)>,
    /// Programs and filters on uplinks and pods' interfaces, in the order in which they run.
    pub(in crate::doctor) attached: Vec<Attached>,
    /// Why programs could not be listed.
    pub(in crate::doctor) unlisted: Option<String>,
}

/// A program or filter on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct Attached {
    pub(in crate::doctor) interface: String,
    pub(in crate::doctor) egress: bool,
    pub(in crate::doctor) hook: Hook,
    /// Name of a program, kind of a filter without one.
    pub(in crate::doctor) name: String,
}

/// Where a program hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum Hook {
    /// Among the tcx programs, with the kernel's id of it.
    Tcx(u32),
    /// On the clsact qdisc, behind those, at a priority.
    Clsact(u16),
}

impl Net {
    /// `tunnels` is the name that the device for tunnels has if there is one.
    pub(super) async fn read(netlink: &Netlink, node: &Node, tunnels: &String) -> Result<Self, NetError> {
        let mut net = Self {
            links: netlink.link_states().await?,
            addresses: netlink.addresses().await?,
            routes: netlink.main_routes().await?,
            sysctls: sysctls(node),
            sockets: sockets(),
            neighbours: [netlink.learnt_neighbours(false).await?, netlink.learnt_neighbours(true).await?],
            ..Self::default()
        };
        let names = node.uplinks.iter().chain(node.interfaces().map(|interface| &interface.host));
        for name in names.chain([tunnels]) {
            let Some(index) = net.link(name).map(|state| state.link.index) else { continue };
            match tcx_programs(name) {
                Ok(programs) => net.attached.extend(programs.into_iter().map(|program| Attached {
                    interface: name.clone(),
                    egress: program.egress,
                    hook: Hook::Tcx(program.id),
                    name: program.name,
                })),
                Err(error) => net.unlisted = Some(error.to_string()),
            }
            let filters = netlink.filters(index).await;
            net.unlisted = net.unlisted.or(filters.as_ref().err().map(ToString::to_string));
            net.attached.extend(filters.unwrap_or_default().into_iter().map(|filter| Attached {
                interface: name.clone(),
                egress: filter.egress,
                hook: Hook::Clsact(filter.priority),
                name: filter.name.unwrap_or(filter.kind),
            }));
        }
        Ok(net)
    }

    /// A link by its name.
    pub(in crate::doctor) fn link(&self, name: &str) -> Option<&LinkState> {
        self.links.iter().find(|state| state.link.name == name)
    }

    /// Name of a link by its index.
    pub(in crate::doctor) fn name_of(&self, index: u32) -> String {
        let found = self.links.iter().find(|state| state.link.index == index);
        found.map_or_else(|| format!("#{index}"), |state| state.link.name.clone())
    }

    /// A sysctl's value by its slashed key.
    pub(in crate::doctor) fn sysctl(&self, key: &str) -> Option<&str> {
        self.sysctls.get(key).map(String::as_str)
    }
}

fn sockets() -> Vec<(Transport, SocketAddr)> {
    let tcp = sockets::tcp().into_iter().map(|one| (Transport::Tcp, one.address));
    tcp.chain(sockets::udp().into_iter().map(|one| (Transport::Udp, one.address))).collect()
}

/// Every sysctl that a check asks for.
fn sysctls(node: &Node) -> BTreeMap<String, String> {
    let mut keys: Vec<String> = [
        "net/ipv4/conf/all/rp_filter",
        "net/ipv4/ip_local_port_range",
        "net/ipv4/ip_local_reserved_ports",
        "net/ipv4/neigh/default/gc_thresh3",
        "net/ipv6/neigh/default/gc_thresh3",
        "net/ipv6/conf/all/forwarding",
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in node.uplinks.iter().chain(node.interfaces().map(|interface| &interface.host)) {
        keys.extend(["forwarding", "rp_filter"].map(|key| format!("net/ipv4/conf/{name}/{key}")));
        let v6 = ["forwarding", "force_forwarding", "accept_ra", "disable_ipv6"];
        keys.extend(v6.map(|key| format!("net/ipv6/conf/{name}/{key}")));
    }
    let value = |key: String| sysctl::read(&key).ok().map(|value| (key, value));
    keys.into_iter().filter_map(value).collect()
}
