//! NODE: the uplinks, and what flows that leave by them are translated to.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use netpath_common::abi::{
    Addr, MAX_POOL, MAX_UPLINKS, NODE_FLAG_POOL, NODE_FLAG_PUBLISHES, Node, Pool, Uplink as UplinkRecord,
};

use super::{Surroundings, Uplink};

/// Indexes of uplinks by their place in the node's record; 0 where there is none.
pub type Places = [u32; MAX_UPLINKS];

/// The places of a record.
pub fn places(node: &Node) -> Places {
    node.uplinks.map(|uplink| uplink.ifindex)
}

/// Gives uplinks their places. Who has one keeps it while it exists: the routes, which name uplinks by places, are not written in one
/// step with the record, and would let in by another uplink. For the same reason a new one gets a place that nobody has just left, unless
/// there is no other.
pub fn give_places(uplinks: &mut [Uplink], before: &Places) {
    let mut free: Vec<usize> = (0..MAX_UPLINKS).collect();
    for uplink in uplinks.iter_mut() {
        uplink.place = before.iter().position(|ifindex| *ifindex == uplink.ifindex).unwrap_or(MAX_UPLINKS);
        free.retain(|place| *place != uplink.place);
    }
    free.sort_by_key(|place| before[*place] != 0);
    for (uplink, place) in uplinks.iter_mut().filter(|uplink| uplink.place == MAX_UPLINKS).zip(free) {
        uplink.place = place;
    }
}

/// The node's record. Uplinks beyond [`MAX_UPLINKS`] do not fit; the configuration refuses them. `wanted` are the
/// configured addresses to translate to, `retired` holds the ports outside of `ports` that bindings may have. The generation
/// is left to whoever writes it.
///
/// An uplink has those of them that it has itself. Where it has none of a family, flows are translated to its own first
/// address: one missing address must not cut pods off.
pub fn node(
    surroundings: &Surroundings,
    ports: &RangeInclusive<u16>,
    retired: Option<&RangeInclusive<u16>>,
    wanted: &[IpAddr],
) -> Node {
    let pooled = is_pooled(surroundings, wanted);
    let mut uplinks = [UplinkRecord::default(); MAX_UPLINKS];
    for uplink in &surroundings.uplinks {
        let Some(record) = uplinks.get_mut(uplink.place) else { continue };
        let of = |family: fn(&IpAddr) -> bool| record_of(&family_sources(uplink, wanted, pooled, family));
        record.ifindex = uplink.ifindex;
        record.v4 = of(IpAddr::is_ipv4);
        record.v6 = of(IpAddr::is_ipv6);
    }
    let (snat_first, snat_count) = first_and_count(ports);
    let (retired_first, retired_count) = retired.map_or((0, 0), first_and_count);
    let flags = if pooled { NODE_FLAG_POOL } else { 0 };
    let newest_link = surroundings.newest_link;
    Node {
        uplinks,
        snat_first,
        snat_count,
        flags,
        retired_first,
        retired_count,
        newest_link,
        ..Node::default()
    }
}

/// Whether a record says that ports are published.
pub fn publishes(node: &Node) -> bool {
    node.flags & NODE_FLAG_PUBLISHES != 0
}

fn first_and_count(range: &RangeInclusive<u16>) -> (u16, u16) {
    (*range.start(), range.end().saturating_sub(*range.start()).saturating_add(1))
}

/// Every address that a binding may have. Without a pool the kernel's FIB chooses, from whatever the node has.
pub fn sources(surroundings: &Surroundings, wanted: &[IpAddr]) -> BTreeSet<IpAddr> {
    if !is_pooled(surroundings, wanted) {
        return surroundings.addresses.iter().copied().collect();
    }
    // Where there is nothing of the pool, flows of before it may have any address of the uplink.
    let of = |uplink| {
        [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|family| family_sources(uplink, wanted, false, family))
    };
    surroundings.uplinks.iter().flat_map(of).flatten().collect()
}

/// Configured addresses that nothing is translated to, each with the reason.
pub fn unused_sources(surroundings: &Surroundings, wanted: &[IpAddr]) -> Vec<(IpAddr, &'static str)> {
    let used = sources(surroundings, wanted);
    let on_uplink =
        |address: &IpAddr| surroundings.uplinks.iter().any(|uplink| uplink.addresses.contains(address));
    let reason = |address: &IpAddr| match address {
        address if !surroundings.addresses.contains(address) => Some("the node does not have it"),
        address if !on_uplink(address) => Some("it is not an uplink's"),
        address if !used.contains(address) => Some("its uplink has eight others of the family already"),
        _ => None,
    };
    wanted.iter().filter_map(|address| Some((*address, reason(address)?))).collect()
}

/// Whether any uplink has a configured address.
fn is_pooled(surroundings: &Surroundings, wanted: &[IpAddr]) -> bool {
    surroundings.uplinks.iter().any(|uplink| !pool(uplink, wanted, |_| true).is_empty())
}

/// The configured addresses that an uplink has.
fn pool(uplink: &Uplink, wanted: &[IpAddr], family: impl Fn(&IpAddr) -> bool) -> Vec<IpAddr> {
    let here = wanted.iter().filter(|address| family(address) && uplink.addresses.contains(address));
    here.copied().take(MAX_POOL).collect()
}

fn family_sources(
    uplink: &Uplink,
    wanted: &[IpAddr],
    pooled: bool,
    family: fn(&IpAddr) -> bool,
) -> Vec<IpAddr> {
    let pool = pool(uplink, wanted, family);
    if !pool.is_empty() {
        return pool;
    }
    // All of them tell which packets are the node's own; the programs use the first, unless these are a pool.
    let most = if pooled { 1 } else { MAX_POOL };
    uplink.addresses.iter().copied().filter(family).take(most).collect()
}

fn record_of(addresses: &[IpAddr]) -> Pool {
    Pool::new(&addresses.iter().copied().map(Addr::from).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Two uplinks, and an address on neither.
    fn surroundings() -> Surroundings {
        let uplink = |ifindex, addresses: &[&str]| Uplink {
            name: format!("eth{ifindex}"),
            ifindex,
            place: ifindex as usize - 2,
            mtu: 1500,
            addresses: ips(addresses),
        };
        let uplinks =
            vec![uplink(2, &["192.0.2.2", "192.0.2.3", "2001:db8::2"]), uplink(3, &["198.51.100.3"])];
        let mut addresses = ips(&["127.0.0.1", "172.17.0.1"]);
        addresses.extend(uplinks.iter().flat_map(|uplink| uplink.addresses.clone()));
        Surroundings { uplinks, addresses, broadcasts: Vec::new(), newest_link: 7 }
    }

    fn listed(pool: &Pool) -> Vec<String> {
        pool.addresses[..pool.count as usize].iter().map(|address| address.to_ip().to_string()).collect()
    }

    #[test]
    fn without_a_pool_an_uplink_has_its_own_addresses() {
        let record = node(&surroundings(), &(32_768..=49_151), None, &[]);
        assert_eq!((record.snat_first, record.snat_count, record.flags), (32_768, 16_384, 0));
        assert_eq!(record.newest_link, 7);
        assert_eq!((record.retired_first, record.retired_count), (0, 0));
        assert_eq!(record.uplinks[0].ifindex, 2);
        assert_eq!(listed(&record.uplinks[0].v4), ["192.0.2.2", "192.0.2.3"]);
        assert_eq!(listed(&record.uplinks[0].v6), ["2001:db8::2"]);
        assert_eq!((record.uplinks[1].ifindex, record.uplinks[1].v6), (3, Pool::default()));
        assert_eq!(record.uplinks[2], UplinkRecord::default());
        let record = node(&surroundings(), &(40_000..=40_000), Some(&(50_000..=50_009)), &[]);
        assert_eq!((record.snat_count, record.flags), (1, 0));
        assert_eq!((record.retired_first, record.retired_count), (50_000, 10));
        assert_eq!(sources(&surroundings(), &[]).len(), 6, "whatever the node has");
    }

    #[test]
    fn a_pool_is_what_of_it_an_uplink_has() {
        let wanted = ips(&["192.0.2.3", "203.0.113.1", "172.17.0.1"]);
        let record = node(&surroundings(), &(1..=2), None, &wanted);
        assert_eq!(record.flags, NODE_FLAG_POOL);
        assert_eq!(listed(&record.uplinks[0].v4), ["192.0.2.3"]);
        assert_eq!(listed(&record.uplinks[0].v6), ["2001:db8::2"], "no pool for this family");
        assert_eq!(listed(&record.uplinks[1].v4), ["198.51.100.3"], "none of it is here");
        let left = sources(&surroundings(), &wanted);
        assert_eq!(left, ips(&["192.0.2.3", "198.51.100.3", "2001:db8::2"]).into_iter().collect());
        assert_eq!(
            unused_sources(&surroundings(), &wanted),
            [(wanted[1], "the node does not have it"), (wanted[2], "it is not an uplink's")]
        );
        assert_eq!(
            node(&surroundings(), &(1..=2), None, &wanted[1..]).flags,
            0,
            "nothing of the pool is there"
        );
    }

    #[test]
    fn a_pool_holds_eight_of_a_family() {
        let mut surroundings = surroundings();
        let many: Vec<IpAddr> = (0..9).map(|n| IpAddr::from([192, 0, 2, 100 + n])).collect();
        surroundings.uplinks[0].addresses.extend(&many);
        surroundings.addresses.extend(&many);
        assert_eq!(listed(&node(&surroundings, &(1..=2), None, &many).uplinks[0].v4).len(), 8);
        let reason = "its uplink has eight others of the family already";
        assert_eq!(unused_sources(&surroundings, &many), [(many[8], reason)]);
    }

    proptest! {
        #[test]
        fn snat_ranges_hold_every_port(a in 1024u16.., b in 1024u16..) {
            let range = a.min(b)..=a.max(b);
            let record = node(&surroundings(), &range, None, &[]);
            prop_assert_eq!(usize::from(record.snat_count), range.len());
        }

        #[test]
        fn no_binding_has_an_address_that_the_node_lacks(chosen in proptest::collection::vec(0usize..8, 0..8)) {
            let all = ips(&[
                "192.0.2.2", "192.0.2.3", "2001:db8::2", "198.51.100.3", "172.17.0.1", "203.0.113.1", "2001:db8::9",
                "127.0.0.1",
            ]);
            let wanted: Vec<_> = chosen.into_iter().map(|n| all[n]).collect();
            let surroundings = surroundings();
            prop_assert!(sources(&surroundings, &wanted).iter().all(|ip| surroundings.addresses.contains(ip)));
        }
    }
}
