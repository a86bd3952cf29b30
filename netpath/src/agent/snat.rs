//! Source translation, as `status` tells of it.

use std::net::IpAddr;

use netpath_common::{
    abi::{DropReason, Exhausted, ExhaustedKey, NODE_FLAG_POOL, Node},
    logic::port_choice::MAX_TRIES,
};

use super::{Agent, AgentError, events::protocol_name, flows::Names, lock};
use crate::{
    api::types::{ExhaustedDestination, SnatStatus, SnatTries},
    datapath::{DatapathError, Readings},
};

/// Exhausted destinations that are told.
const MOST: usize = 10;

impl Agent {
    /// Use of the SNAT range, with what the last sweep counted.
    pub(super) async fn snat_status(&self) -> Result<SnatStatus, AgentError> {
        let read = |readings: &Readings| {
            Ok::<_, DatapathError>((
                readings.drops(DropReason::SnatExhausted)?.packets,
                readings.exhausted()?,
                readings.snat_tries()?,
            ))
        };
        let (exhausted, destinations, tries) = self.on_readings(read).await?;
        let names = self.pod_names();
        let range = self.config().snat_ports.clone();
        Ok(SnatStatus {
            range: format!("{}-{}", range.start(), range.end()),
            in_use: lock(&self.swept).translated,
            exhausted,
            addresses: lock(&self.node).told.as_ref().map(addresses).unwrap_or_default(),
            exhausted_destinations: describe(destinations, &names),
            tries: histogram(&tries),
        })
    }
}

/// What flows are translated to. Without a pool the kernel's route may say another address of the uplink than its first.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let most = if node.flags & NODE_FLAG_POOL != 0 { usize::MAX } else { 1 };
    let pools = node.uplinks.iter().flat_map(|uplink| [&uplink.v4, &uplink.v6]);
    let used = pools.flat_map(|pool| pool.addresses.iter().take((pool.count as usize).min(most)));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in used.map(|address| address.to_ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn describe(mut found: Vec<(ExhaustedKey, Exhausted)>, names: &Names) -> Vec<ExhaustedDestination> {
    found.sort_by_key(|(key, exhausted)| {
        (std::cmp::Reverse(exhausted.packets), key.dst, key.dport, key.proto)
    });
    let row = |(key, exhausted): (ExhaustedKey, Exhausted)| ExhaustedDestination {
        destination: key.dst.to_ip(),
        port: u16::from_be(key.dport),
        protocol: protocol_name(key.proto),
        packets: exhausted.packets,
        pod: names.get(&exhausted.pod).cloned().unwrap_or_else(|| exhausted.pod.to_string()),
    };
    found.into_iter().take(MOST).map(row).collect()
}

/// The rows of SNAT_TRIES but the last, which counts what is no binding.
fn histogram(rows: &[u64]) -> Vec<SnatTries> {
    let [rows @ .., _none] = rows else { return Vec::new() };
    let bound = |row: usize| match row {
        // The last row has all above the one before, and each address of a pool is given as many tries.
        row if row + 1 == rows.len() => MAX_TRIES * netpath_common::abi::MAX_POOL as u32,
        row => 1 << row,
    };
    rows.iter().enumerate().map(|(row, &bindings)| SnatTries { up_to: bound(row), bindings }).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netpath_common::abi::{Addr, Pool, SNAT_TRY_ROWS, Uplink};

    use super::*;

    fn addr(last: u8) -> Addr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn the_busiest_destinations_come_first_and_are_ten_at_most() {
        let key = |last| ExhaustedKey { dst: addr(last), dport: 443_u16.to_be(), proto: 6, pad: 0 };
        let found =
            (0..20).map(|n| (key(n), Exhausted { packets: n.into(), pod: n.into(), pad: 0 })).collect();
        let told = describe(found, &[(19, "web".to_owned())].into());
        assert_eq!(told.len(), 10);
        assert_eq!((told[0].packets, told[0].port, told[0].protocol.as_str()), (19, 443, "tcp"));
        assert_eq!((told[0].pod.as_str(), told[1].pod.as_str()), ("web", "18"), "18 is gone");
        assert_eq!(told[0].destination.to_string(), "192.0.2.19");
    }

    #[test]
    fn tries_double_from_row_to_row() {
        let rows: Vec<u64> = (0..u64::from(SNAT_TRY_ROWS)).collect();
        let told: Vec<_> = histogram(&rows).iter().map(|row| (row.up_to, row.bindings)).collect();
        assert_eq!(
            told,
            [(1, 0), (2, 1), (4, 2), (8, 3), (16, 4), (32, 5), (64, 6), (1024, 7)],
            "the last row found none"
        );
        assert!(histogram(&[]).is_empty());
    }

    #[test]
    fn addresses_are_the_pool_or_the_first_of_each_uplink() {
        let mut node = Node::default();
        for uplink in &mut node.uplinks[..2] {
            *uplink = Uplink { ifindex: 1, v4: Pool::new(&[addr(1), addr(2)]), ..Uplink::default() };
        }
        let shown =
            |node: &Node| addresses(node).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(shown(&node), "192.0.2.1");
        node.flags = NODE_FLAG_POOL;
        assert_eq!(shown(&node), "192.0.2.1 192.0.2.2");
    }
}
