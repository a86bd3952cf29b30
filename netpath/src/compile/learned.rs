//! Ways that a routing daemon has learned, for blocks that no way of netpath leads to.

use ipnet::IpNet;

use super::Ways;

/// A block that the node's routing table has a route to, by a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The block.
    pub block: IpNet,
    /// Index of the interface that it leaves by.
    pub ifindex: u32,
}

/// Moves blocks without a way to those that are learned, if a route holds them: the longest, as the kernel chooses. `routes` have the
/// interface's index each.
pub fn with_learned(mut ways: Ways, routes: &[(IpNet, u32)]) -> Ways {
    let (learned, unreached) =
        ways.unreached.into_iter().partition(|(_, block)| way(*block, routes).is_some());
    let learned: Vec<(String, IpNet)> = learned;
    ways.unreached = unreached;
    ways.learned = learned.into_iter().filter_map(|(_, block)| way(block, routes)).collect();
    ways
}

fn way(block: IpNet, routes: &[(IpNet, u32)]) -> Option<Learned> {
    let holding = routes.iter().filter(|(prefix, _)| prefix.contains(&block));
    let (_, ifindex) = holding.max_by_key(|(prefix, _)| prefix.prefix_len())?;
    Some(Learned { block, ifindex: *ifindex })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_route_is_the_way_to_a_block_without_another() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let routes = [("10.64.0.0/20", 2), ("10.64.9.0/26", 7), ("10.64.3.0/27", 8), ("fd00:64::/64", 2)]
            .map(|(prefix, ifindex)| (net(prefix), ifindex));
        let unreached = ["10.64.9.0/26", "10.64.3.0/26", "10.65.0.0/26", "fd00:64::40/122"]
            .map(|block| ("far".to_owned(), net(block)));
        let ways = with_learned(Ways { unreached: unreached.into(), ..Ways::default() }, &routes);
        let words: Vec<_> = ways.learned.iter().map(|way| format!("{} {}", way.block, way.ifindex)).collect();
        assert_eq!(words, ["10.64.9.0/26 7", "10.64.3.0/26 2", "fd00:64::40/122 2"]);
        assert_eq!(ways.unreached, [("far".to_owned(), net("10.65.0.0/26"))]);
    }
}
