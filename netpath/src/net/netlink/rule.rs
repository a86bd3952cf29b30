//! Rules: which table a packet's route is looked up in.

use std::{fmt, net::IpAddr};

use nix::errno::Errno;
use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::RouteProtocol,
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::{Netlink, ROUTE_PROTOCOL, address::family, already};
use crate::net::NetError;

/// Before the main table (32766), behind the local one (0).
const PRIORITY: u32 = 0x6e00;

/// What comes from an address is looked up in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) struct Rule {
    pub(in crate::net) from: IpAddr,
    pub(in crate::net) table: u8,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} lookup {}", self.from, self.table)
    }
}

impl Netlink {
    /// Adds a rule, marked with [`ROUTE_PROTOCOL`]; no error if it is there.
    pub(in crate::net) async fn add_rule(&self, rule: Rule) -> Result<(), NetError> {
        let doing = format!("add rule {rule}");
        let message = RouteNetlinkMessage::NewRule(describe(rule));
        already(self.request(&doing, message, NLM_F_CREATE | NLM_F_EXCL).await, &[Errno::EEXIST]).map(drop)
    }

    /// Removes a rule; no error if it is gone.
    pub(in crate::net) async fn delete_rule(&self, rule: Rule) -> Result<(), NetError> {
        let doing = format!("remove rule {rule}");
        let message = RouteNetlinkMessage::DelRule(describe(rule));
        already(self.request(&doing, message, 0).await, &[Errno::ENOENT]).map(drop)
    }

    /// Rules for a table that are marked with [`ROUTE_PROTOCOL`].
    pub(in crate::net) async fn own_rules(&self, table: u8) -> Result<Vec<Rule>, NetError> {
        let mut own = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let answers = match self.dump("list rules", RouteNetlinkMessage::GetRule(message)).await {
                // The kernel has no rules for a family that it was built without.
                Err(error) if error.is(Errno::EOPNOTSUPP) => Vec::new(),
                answers => answers?,
            };
            own.extend(answers.into_iter().filter_map(parse).filter(|rule| rule.table == table));
        }
        Ok(own)
    }
}

fn describe(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.from);
    message.header.src_len = if rule.from.is_ipv4() { 32 } else { 128 };
    message.header.table = rule.table;
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Source(rule.from));
    message.attributes.push(RuleAttribute::Priority(PRIORITY));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    message
}

/// A rule of ours out of the kernel's answer.
pub(super) fn parse(answer: RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = answer else { return None };
    let ours = RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    if !message.attributes.contains(&ours) {
        return None;
    }
    let from = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Source(from) => Some(*from),
        _ => None,
    });
    Some(Rule { from: from?, table: message.header.table })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing;

    #[test]
    fn rules_of_both_families_come_and_go_ipv4_and_ipv6() {
        testing::with_pair(|pair| async move {
            let rules = [("10.0.0.5", 111), ("fd00::5", 111), ("10.0.0.5", 112)]
                .map(|(from, table)| Rule { from: from.parse().unwrap(), table });
            for rule in rules {
                pair.pod.add_rule(rule).await.unwrap();
                pair.pod.add_rule(rule).await.unwrap();
            }
            assert_eq!(pair.pod.own_rules(111).await.unwrap(), rules[..2]);
            assert_eq!(pair.pod.own_rules(112).await.unwrap(), rules[2..]);
            for rule in rules {
                pair.pod.delete_rule(rule).await.unwrap();
                pair.pod.delete_rule(rule).await.unwrap();
            }
            assert!(pair.pod.own_rules(111).await.unwrap().is_empty());
        });
    }
}
