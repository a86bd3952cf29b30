//! One side of a pod's link: each method makes one thing true, changes only what differs, and remembers the way back.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use super::{Link, NetError, Netlink, Netns, ROUTE_PROTOCOL, Route, RouteKind, Shape, Undo};
use crate::net::{
    netlink::{KernelRoute, Rule},
    sysctl,
};

/// A sysctl that has to have a value.
#[derive(Clone)]
pub(super) struct Knob {
    key: String,
    value: &'static str,
    optional: bool,
}

impl Knob {
    /// Without it the link is of no use.
    pub(super) fn needed(key: String, value: &'static str) -> Self {
        Self { key, value, optional: false }
    }

    /// Kernels without it (IPv6 left out, or older) do not need it.
    pub(super) fn optional(key: String, value: &'static str) -> Self {
        Self { key, value, optional: true }
    }
}

/// A namespace, and the steps taken there.
pub(super) struct Side<'a> {
    pub(super) netlink: &'a Netlink,
    netns: &'a Netns,
    undo: &'a mut Undo,
}

impl<'a> Side<'a> {
    pub(super) fn new(netlink: &'a Netlink, netns: &'a Netns, undo: &'a mut Undo) -> Self {
        Self { netlink, netns, undo }
    }

    /// Sysctls, all on one thread inside the namespace.
    pub(super) async fn knobs(&mut self, knobs: Vec<Knob>) -> Result<(), NetError> {
        let turn = move || {
            let mut before = Vec::new();
            for knob in knobs {
                match sysctl::write(&knob.key, knob.value) {
                    Ok(Some(old)) => before.push((knob.key, old)),
                    Ok(None) => {}
                    Err(error) if knob.optional && error.is(Errno::ENOENT) => {}
                    Err(error) => return (before, Err(error)),
                }
            }
            (before, Ok(()))
        };
        let (before, result) = self.netns.enter_async(turn).await?;
        for (key, old) in before {
            let netns = self.netns.clone();
            self.undo.push(format!("set sysctl {key} back to {old}"), move || async move {
                match netns.enter_async(move || sysctl::write(&key, &old)).await? {
                    Err(error) if error.is(Errno::ENOENT) => Ok(()),
                    written => written.map(drop),
                }
            });
        }
        result
    }

    /// Limits what leaves by a link, or takes the limit off. Another queue that somebody has given it is replaced if this
    /// `insists`.
    pub(super) async fn shape(
        &mut self,
        link: &Link,
        shape: Option<&Shape>,
        insists: bool,
    ) -> Result<(), NetError> {
        let Some(shape) = shape else {
            return if link.is_shaped() { self.netlink.remove_shape(link.index).await } else { Ok(()) };
        };
        let wanted = match self.netlink.has_shape(link.index, shape).await? {
            Some(right) => !right,
            None => insists || link.queue.is_none(),
        };
        if !wanted {
            return Ok(());
        }
        self.netlink.set_shape(link.index, shape).await?;
        let (netlink, index) = (self.netlink.clone(), link.index);
        self.undo.push(format!("take the limit off {}", link.name), move || async move {
            netlink.remove_shape(index).await
        });
        Ok(())
    }

    pub(super) async fn mtu(&mut self, link: &Link, mtu: u32) -> Result<(), NetError> {
        if link.mtu == mtu {
            return Ok(());
        }
        self.netlink.set_mtu(link.index, mtu).await?;
        let (netlink, index, old) = (self.netlink.clone(), link.index, link.mtu);
        self.undo.push(format!("set the MTU of {} back to {old}", link.name), move || async move {
            netlink.set_mtu(index, old).await
        });
        Ok(())
    }

    /// The link's Ethernet address. Changing it makes the kernel forget the link's neighbours, permanent ones too;
    /// the way back restores those of `neighbours`.
    pub(super) async fn mac(
        &mut self,
        link: &Link,
        mac: [u8; 6],
        neighbours: &[IpAddr],
    ) -> Result<(), NetError> {
        if link.mac == mac {
            return Ok(());
        }
        let mut forgotten = Vec::new();
        for address in neighbours {
            let entry = self.netlink.permanent_neighbour(link.index, *address).await?;
            forgotten.extend(entry.map(|mac| (*address, mac)));
        }
        self.netlink.set_mac(link.index, mac).await?;
        let (netlink, index, old) = (self.netlink.clone(), link.index, link.mac);
        self.undo.push(format!("set the address of {} back", link.name), move || async move {
            netlink.set_mac(index, old).await?;
            for (address, mac) in forgotten {
                netlink.replace_neighbour(index, address, mac).await?;
            }
            Ok::<_, NetError>(())
        });
        Ok(())
    }

    pub(super) async fn up(&mut self, link: &Link) -> Result<(), NetError> {
        if link.up {
            return Ok(());
        }
        // Remembered first: a loopback set up while the attach is cancelled is not taken down with the pair.
        let (netlink, index) = (self.netlink.clone(), link.index);
        self.undo.push(format!("set {} down", link.name), move || async move {
            netlink.set_flag_up(index, false).await
        });
        self.netlink.set_up(link.index).await
    }

    /// Host prefixes on the link; others there stay.
    pub(super) async fn addresses(&mut self, link: &Link, wanted: &[IpAddr]) -> Result<(), NetError> {
        let present = self.netlink.addresses_of(link.index).await?;
        for address in wanted.iter().map(|address| IpNet::from(*address)) {
            if present.iter().any(|one| one.net == address) {
                continue;
            }
            self.netlink.add_address(link.index, address).await?;
            let (netlink, index) = (self.netlink.clone(), link.index);
            self.undo.push(format!("remove address {address} from {}", link.name), move || async move {
                netlink.delete_address(index, address).await
            });
        }
        Ok(())
    }

    pub(super) async fn neighbour(
        &mut self,
        link: &Link,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetError> {
        let present = self.netlink.permanent_neighbour(link.index, address).await?;
        if present == Some(mac) {
            return Ok(());
        }
        self.netlink.replace_neighbour(link.index, address, mac).await?;
        let (netlink, index) = (self.netlink.clone(), link.index);
        self.undo.push(format!("take back neighbour {address} of {}", link.name), move || async move {
            match present {
                Some(old) => netlink.replace_neighbour(index, address, old).await,
                None => netlink.delete_neighbour(index, address).await,
            }
        });
        Ok(())
    }

    /// Routes by the link, all of one table. A route for the same prefix is replaced if it is by this link too, or holds
    /// the place of a pod that is not there; by another link it belongs to somebody, and is an error.
    pub(super) async fn routes(&mut self, link: &Link, wanted: &[Route]) -> Result<(), NetError> {
        let table = wanted.first().and_then(|route| route.table);
        let mut present = self.netlink.routes_by(link.index, false, table).await?;
        present.extend(self.netlink.routes_by(link.index, true, table).await?);
        for route in wanted {
            match present.iter().find(|known| known.occupies(route.prefix)) {
                Some(known) if known.route.suits(route) => {}
                Some(known) => self.replace(known, route).await?,
                None => self.add(route).await?,
            }
        }
        Ok(())
    }

    /// Removes routes by the link that netpath made and no longer wants.
    pub(super) async fn remove_own_routes_except(
        &mut self,
        link: &Link,
        wanted: &[Route],
    ) -> Result<(), NetError> {
        for v6 in [false, true] {
            for known in self.netlink.routes_by(link.index, v6, None).await? {
                if known.protocol != ROUTE_PROTOCOL || wanted.contains(&known.route) {
                    continue;
                }
                self.netlink.delete_route(&known.route).await?;
                let netlink = self.netlink.clone();
                self.undo.push(format!("put back route {}", known.route), move || async move {
                    netlink.replace_route(&known.route).await
                });
            }
        }
        Ok(())
    }

    /// Rules that look `addresses` up in a table, and no others of ours for that table.
    pub(super) async fn rules(&mut self, table: u8, addresses: &[IpAddr]) -> Result<(), NetError> {
        let wanted: Vec<_> = addresses.iter().map(|from| Rule { from: *from, table }).collect();
        let present = self.netlink.own_rules(table).await?;
        for rule in wanted.iter().filter(|rule| !present.contains(rule)).copied() {
            self.netlink.add_rule(rule).await?;
            let netlink = self.netlink.clone();
            self.undo
                .push(format!("remove rule {rule}"), move || async move { netlink.delete_rule(rule).await });
        }
        for rule in present.into_iter().filter(|rule| !wanted.contains(rule)) {
            self.netlink.delete_rule(rule).await?;
            let netlink = self.netlink.clone();
            self.undo
                .push(format!("put back rule {rule}"), move || async move { netlink.add_rule(rule).await });
        }
        Ok(())
    }

    async fn add(&mut self, route: &Route) -> Result<(), NetError> {
        // Exclusively, so that a route somebody else adds meanwhile is not overwritten.
        match self.netlink.add_route(route).await {
            Err(error) if error.is(Errno::EEXIST) => match self.netlink.route_in_the_way(route).await? {
                Some(known) if may_replace(&known, route) => return self.replace(&known, route).await,
                Some(known) => return Err(taken(error, &known)),
                None => return Err(error),
            },
            added => added?,
        }
        let (netlink, undone) = (self.netlink.clone(), route.clone());
        self.undo.push(format!("remove route {route}"), move || async move {
            netlink.delete_route(&undone).await
        });
        Ok(())
    }

    async fn replace(&mut self, known: &KernelRoute, route: &Route) -> Result<(), NetError> {
        self.netlink.replace_route(route).await?;
        let (netlink, old) = (self.netlink.clone(), known.route.clone());
        self.undo
            .push(format!("put back route {old}"), move || async move { netlink.replace_route(&old).await });
        Ok(())
    }
}

fn may_replace(known: &KernelRoute, wanted: &Route) -> bool {
    let placeholder = known.protocol == ROUTE_PROTOCOL && known.route.kind != RouteKind::Unicast;
    placeholder || known.route.ifindex == wanted.ifindex
}

fn taken(error: NetError, known: &KernelRoute) -> NetError {
    let who = match known.protocol {
        ROUTE_PROTOCOL => "another pod".to_owned(),
        protocol => format!("another program, route protocol {protocol},"),
    };
    error.hint(&format!("{who} has the route {}; use another address, or remove that route", known.route))
}
