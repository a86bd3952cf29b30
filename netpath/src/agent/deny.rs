//! The deny list: prefixes whose packets end at the uplinks, before anything else sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use netpath_common::abi::DENY_PREFIXES;

use super::{Agent, AgentError, lock, pods::finish};
use crate::{
    api::types::{Denied, DenyAdd},
    datapath::{Datapath, DatapathError, Readings},
    model::check_prefix,
};

/// What is denied, each prefix with the row that counts it.
pub(super) type DenyList = BTreeMap<IpNet, u32>;

impl Agent {
    /// The list with what was dropped, by prefix.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub async fn denied(&self) -> Result<Vec<Denied>, AgentError> {
        let list = lock(&self.denied).clone();
        let read = move |readings: &Readings| {
            let row = |(prefix, row): (IpNet, u32)| {
                let counter = readings.denied(row)?;
                Ok(Denied { prefix, packets: counter.packets, bytes: counter.bytes })
            };
            list.into_iter().map(row).collect::<Result<Vec<_>, DatapathError>>()
        };
        Ok(self.on_readings(read).await?)
    }

    /// Denies prefixes; those that are denied already stay so. All or none. The next packet meets it when this returns.
    ///
    /// # Errors
    /// What is wrong with a prefix, no room, or why an uplink cannot have the program; nothing has changed then.
    pub async fn deny_add(self: &Arc<Self>, request: &DenyAdd) -> Result<(), AgentError> {
        let prefixes: Vec<IpNet> = request.prefixes.iter().map(|prefix| prefix.0).collect();
        prefixes.iter().try_for_each(|prefix| check(*prefix))?;
        self.change_denied(move |list| add(list, &prefixes)).await
    }

    /// Lets a prefix in again.
    ///
    /// # Errors
    /// [`AgentError::NotDenied`], or the kernel's or the store's reason; nothing has changed then.
    pub async fn deny_rm(self: &Arc<Self>, prefix: IpNet) -> Result<(), AgentError> {
        self.change_denied(move |list| {
            list.remove(&prefix).map(drop).ok_or_else(|| AgentError::NotDenied(prefix.to_string()))
        })
        .await
    }

    async fn change_denied(
        self: &Arc<Self>,
        change: impl FnOnce(&mut DenyList) -> Result<(), AgentError> + Send + 'static,
    ) -> Result<(), AgentError> {
        let held = self.begin_change().await?;
        let agent = Arc::clone(self);
        finish(tokio::spawn(async move {
            let _held = held;
            let _one = agent.node_changes.lock().await;
            let earlier = lock(&agent.denied).clone();
            let mut wanted = earlier.clone();
            change(&mut wanted)?;
            if wanted == earlier {
                return Ok(());
            }
            let new = wanted.iter().filter(|(prefix, _)| !earlier.contains_key(prefix));
            let new: Vec<u32> = new.map(|(_, row)| *row).collect();
            let clear =
                |datapath: &mut Datapath| new.into_iter().try_for_each(|row| datapath.clear_denied(row));
            agent.on_datapath(clear).await?;
            let done = match agent.apply_denied(&earlier, &wanted).await {
                Ok(()) => agent.state.save_denied(&wanted).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                // What cannot be taken back now, every full pass tries again.
                agent.note("deny list", &agent.apply_denied(&wanted, &earlier).await);
                return Err(error);
            }
            *lock(&agent.denied) = wanted;
            Ok(())
        }))
        .await
    }

    /// Makes the kernel deny what is wanted; `earlier` is what it did before. Programs come with the first prefix and go with
    /// the last: in between an uplink that has lost its own to somebody else's keeps nobody from changing the list.
    async fn apply_denied(&self, earlier: &DenyList, wanted: &DenyList) -> Result<(), AgentError> {
        let (list, uplinks) = (wanted.clone(), lock(&self.node).seen.uplinks.clone());
        let attached = !wanted.is_empty();
        let turned = attached == earlier.is_empty();
        let write = move |datapath: &mut Datapath| {
            datapath.set_denied(&list)?;
            let mut concerned = uplinks.iter().filter(|_| turned);
            concerned.try_for_each(|uplink| datapath.attach_deny(&uplink.name, uplink.ifindex, attached))
        };
        Ok(self.on_datapath(write).await?)
    }

    /// Makes the table right, whoever has changed it.
    pub(super) async fn ensure_denied(&self) -> Result<(), AgentError> {
        let _one = self.node_changes.lock().await;
        let list = lock(&self.denied).clone();
        Ok(self.on_datapath(move |datapath| datapath.set_denied(&list)).await?)
    }
}

/// Whether a prefix can be denied.
fn check(prefix: IpNet) -> Result<(), AgentError> {
    let invalid = |reason: String| AgentError::InvalidDeny { prefix: prefix.to_string(), reason };
    check_prefix(prefix).map_err(|wrong| invalid(format!("it {wrong}")))?;
    // The table has one key for both.
    if let IpNet::V6(v6) = prefix
        && let (Some(v4), 96..) = (v6.addr().to_ipv4_mapped(), v6.prefix_len())
    {
        return Err(invalid(format!("it is IPv4 written as IPv6; write {v4}/{}", v6.prefix_len() - 96)));
    }
    match prefix.prefix_len() {
        0 => Err(invalid("it is everybody; to cut the node off, take its uplink down".to_owned())),
        _ => Ok(()),
    }
}

/// Adds prefixes, each with a row that no other has.
fn add(list: &mut DenyList, prefixes: &[IpNet]) -> Result<(), AgentError> {
    let used: BTreeSet<u32> = list.values().copied().collect();
    let mut free = (0..DENY_PREFIXES).filter(|row| !used.contains(row));
    for prefix in prefixes {
        if !list.contains_key(prefix) {
            list.insert(*prefix, free.next().ok_or(AgentError::DenyListFull(DENY_PREFIXES))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn rows_are_nobody_elses_and_used_again() {
        let mut list = DenyList::new();
        let all = ["10.0.0.0/8", "10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"].map(prefix);
        add(&mut list, &all).unwrap();
        list.remove(&all[2]);
        add(&mut list, &["198.51.100.0/24"].map(prefix)).unwrap();
        let rows: BTreeSet<u32> = list.values().copied().collect();
        assert_eq!(rows, BTreeSet::from([0, 1, 2]), "{list:?}");
    }

    #[test]
    fn a_full_list_takes_no_more() {
        let address = |n: u32| IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(n)));
        let mut list: DenyList = (0..DENY_PREFIXES).map(|n| (address(n), n)).collect();
        add(&mut list, &[address(7)]).expect("it is there already");
        let more = add(&mut list, &[address(DENY_PREFIXES)]);
        assert!(matches!(more, Err(AgentError::DenyListFull(DENY_PREFIXES))), "{more:?}");
    }

    #[test]
    fn everybody_and_what_is_no_prefix_is_refused() {
        for text in
            ["0.0.0.0/0", "::/0", "10.0.0.1/8", "2001:db8::1/32", "::ffff:0:0/96", "::ffff:10.0.0.0/104"]
        {
            assert!(check(prefix(text)).is_err(), "{text}");
        }
        for text in ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128"] {
            check(prefix(text)).unwrap();
        }
    }
}
