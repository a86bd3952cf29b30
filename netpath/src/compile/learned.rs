//! Ways that a routing daemon has learned, for blocks that no way of netpath leads to.

use ipnet::IpNet;

use super::Ways;

/// Moves blocks without a way to those that are learned, if a route holds them.
pub fn with_learned(mut ways: Ways, routes: &[IpNet]) -> Ways {
    let is_learned = |(_, block): &(String, IpNet)| routes.iter().any(|prefix| prefix.contains(block));
    let (learned, unreached): (Vec<_>, _) = ways.unreached.into_iter().partition(is_learned);
    ways.learned = learned.into_iter().map(|(_, block)| block).collect();
    ways.unreached = unreached;
    ways
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_holds_a_block_is_its_way_if_there_is_no_other() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let routes = ["10.64.0.0/21", "10.64.9.0/26", "10.64.11.0/27", "fd00:64::/64"].map(net);
        let unreached = ["10.64.9.0/26", "10.64.3.0/26", "10.64.11.0/26", "fd00:64::40/122"]
            .map(|block| ("far".to_owned(), net(block)));
        let ways = with_learned(Ways { unreached: unreached.into(), ..Ways::default() }, &routes);
        assert_eq!(ways.learned, ["10.64.9.0/26", "10.64.3.0/26", "fd00:64::40/122"].map(net));
        assert_eq!(ways.unreached, [("far".to_owned(), net("10.64.11.0/26"))], "a route to a part of it");
    }
}
