//! Which interfaces are uplinks, and what flows that leave by them may be translated to.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Agent, AgentError, node::families};
use crate::{
    compile::{self, Places, Uplink},
    model::Family,
    net::{Address, Link, Survey},
};

impl Agent {
    /// What tells uplinks: configured names, or each family's default route; and the interface it tells now, if any.
    pub(super) async fn wanted_uplinks(
        &self,
        survey: &Survey,
    ) -> Result<Vec<(String, Option<u32>)>, AgentError> {
        let config = self.config();
        let mut wanted = Vec::new();
        if config.uplinks.is_empty() {
            for family in families(&self.all_networks()) {
                let index = self.netlink.default_route_interface(family == Family::V6).await?;
                wanted.push((format!("{family:?}"), index));
            }
        }
        for name in &config.uplinks {
            let found = survey.links().find(|found| found.link.name == *name);
            wanted.push((name.clone(), found.map(|found| found.link.index)));
        }
        Ok(wanted)
    }
}

/// The uplinks as they are now. `last` is which interface each was when it was last there: a default route that comes and
/// goes, or a new name, must not stop live flows, nor let them leave untranslated, so that it stays an uplink while it exists.
/// Returns also what `last` is from now on. `places` are those of the record as it is.
pub(super) fn choose(
    wanted: Vec<(String, Option<u32>)>,
    (last, places): (&BTreeMap<String, u32>, &Places),
    survey: &Survey,
) -> (Vec<Uplink>, BTreeMap<String, u32>) {
    let (mut uplinks, mut leads) = (Vec::<Uplink>::new(), BTreeMap::new());
    for (what, found) in wanted {
        let index = found.or_else(|| last.get(&what).copied());
        let Some(end) = index.and_then(|index| survey.link(index)) else { continue };
        leads.insert(what, end.link.index);
        if !uplinks.iter().any(|uplink| uplink.ifindex == end.link.index) {
            uplinks.push(uplink(&end.link, survey));
        }
    }
    compile::give_places(&mut uplinks, places);
    (uplinks, leads)
}

fn uplink(link: &Link, survey: &Survey) -> Uplink {
    Uplink {
        name: link.name.clone(),
        ifindex: link.index,
        place: 0,
        mtu: link.mtu,
        addresses: source_addresses(survey.addresses(), link.index),
    }
}

/// What flows leaving by an interface may be translated to where the kernel's FIB names nothing, what is rather used
/// first: IPv4 link-local ones last; of IPv6 those that last, of these those of a link, and global ones before those of a
/// site. The kernel lists the newest IPv6 address first: one of a service that moves between nodes (/128) would become the node's.
/// Never IPv6 link-local ones: nobody behind a router could answer.
fn source_addresses(addresses: &[Address], ifindex: u32) -> Vec<IpAddr> {
    let usable = |address: &&Address| match address.net.addr() {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => !address.tentative && !v6.is_unicast_link_local() && !v6.is_loopback(),
    };
    let mut own: Vec<_> =
        addresses.iter().filter(|address| address.ifindex == ifindex).filter(usable).collect();
    own.sort_by_key(|address| match address.net.addr() {
        IpAddr::V4(v4) => (v4.is_link_local(), address.fading, false),
        IpAddr::V6(v6) => (address.fading, address.net.prefix_len() == 128, v6.is_unique_local()),
    });
    own.into_iter().map(|address| address.net.addr()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ifindex: u32, net: &str) -> Address {
        Address { ifindex, net: net.parse().unwrap(), fading: false, tentative: false }
    }

    #[test]
    fn a_global_address_before_a_link_local_one() {
        let addresses = [
            address(2, "169.254.7.7/16"),
            address(1, "10.0.0.1/8"),
            address(2, "2001:db8::1/64"),
            address(2, "192.0.2.5/24"),
        ];
        let of = |addresses: &[Address], index| {
            let found = source_addresses(addresses, index);
            found.iter().filter(|address| address.is_ipv4()).map(IpAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&addresses, 2), ["192.0.2.5", "169.254.7.7"]);
        assert_eq!(of(&addresses[..1], 2), ["169.254.7.7"]);
        assert_eq!(of(&addresses, 9), [""; 0]);
    }

    #[test]
    fn an_ipv6_source_lasts_and_can_be_answered() {
        let source = |addresses: &[Address]| {
            let found = source_addresses(addresses, 2);
            found.into_iter().find(IpAddr::is_ipv6).map(|source| source.to_string())
        };
        let link_local = address(2, "fe80::1/64");
        let tentative = Address { tentative: true, ..address(2, "2001:db8::1/64") };
        assert_eq!(
            source(&[link_local, tentative, address(1, "2001:db8::9/64"), address(2, "10.0.0.1/8")]),
            None
        );
        let private = Address { fading: true, ..address(2, "2001:db8::2/64") };
        assert_eq!(source(&[link_local, private]).as_deref(), Some("2001:db8::2"), "better than none");
        let site = address(2, "fd00::2/64");
        assert_eq!(source(&[private, site]).as_deref(), Some("fd00::2"));
        assert_eq!(source(&[private, site, address(2, "2001:db8::3/64")]).as_deref(), Some("2001:db8::3"));
        let service = address(2, "2001:db8::100/128");
        assert_eq!(source(&[service, site]).as_deref(), Some("fd00::2"), "of a link");
        assert_eq!(source(&[private, service]).as_deref(), Some("2001:db8::100"), "better than none");
    }
}
