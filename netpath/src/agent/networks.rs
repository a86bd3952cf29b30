//! The networks of this node, and who has which of their addresses. No I/O.

use std::{collections::BTreeMap, net::IpAddr};

use super::AgentError;
use crate::{
    ipam::Ipam,
    model::{Family, Network},
};

/// The networks, by name.
pub(super) struct Networks(BTreeMap<String, Member>);

struct Member {
    network: Network,
    /// One for each of its blocks, in their order.
    ipams: Vec<Ipam>,
}

impl Networks {
    pub(super) fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let member = |network: Network| {
            let ipams = network.blocks.iter().copied().map(Ipam::new).collect();
            (network.name.clone(), Member { network, ipams })
        };
        Self(networks.into_iter().map(member).collect())
    }

    /// Changes a network's settings. Its blocks stay.
    pub(super) fn update(&mut self, network: Network) {
        if let Some(member) = self.0.get_mut(&network.name) {
            member.network = network;
        }
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = &Network> {
        self.0.values().map(|member| &member.network)
    }

    pub(super) fn get(&self, name: &str) -> Result<&Network, AgentError> {
        let member = self.0.get(name).ok_or_else(|| AgentError::NoNetwork(name.to_owned()))?;
        Ok(&member.network)
    }

    /// Addresses for a new pod, one from each block: those of `wanted`, else free ones. On failure nothing is taken.
    pub(super) fn take(&mut self, name: &str, wanted: &[IpAddr]) -> Result<Vec<IpAddr>, AgentError> {
        let member = self.0.get_mut(name).ok_or_else(|| AgentError::NoNetwork(name.to_owned()))?;
        if let Some(address) = wanted.iter().find(|address| !member.network.has(Family::of(**address))) {
            return Err(AgentError::Family { address: *address, network: name.to_owned() });
        }
        let mut taken = Vec::new();
        for ipam in &mut member.ipams {
            let family = Family::of(ipam.block().addr());
            let outcome = match wanted.iter().find(|address| Family::of(**address) == family) {
                Some(address) => ipam.take(*address).map(|()| *address),
                None => ipam.allocate(),
            };
            match outcome {
                Ok(address) => taken.push(address),
                Err(error) => {
                    member.release(&taken);
                    return Err(error.into());
                }
            }
        }
        Ok(taken)
    }

    /// Takes what a pod of an earlier agent has. An address of an earlier block stays with its pod; it is nobody else's.
    pub(super) fn keep(&mut self, name: &str, address: IpAddr) -> Result<(), AgentError> {
        let member = self.0.get_mut(name).ok_or_else(|| AgentError::NoNetwork(name.to_owned()))?;
        match member.of_family(address) {
            Some(ipam) => Ok(ipam.take(address)?),
            None => Err(AgentError::Family { address, network: name.to_owned() }),
        }
    }

    /// Lets the next allocations look behind these addresses.
    pub(super) fn continue_after(&mut self, name: &str, addresses: &[IpAddr]) {
        let Some(member) = self.0.get_mut(name) else { return };
        for address in addresses {
            if let Some(ipam) = member.of_family(*address) {
                ipam.continue_after(*address);
            }
        }
    }

    /// Gives addresses back.
    pub(super) fn release(&mut self, name: &str, addresses: &[IpAddr]) {
        if let Some(member) = self.0.get_mut(name) {
            member.release(addresses);
        }
    }
}

impl Member {
    fn of_family(&mut self, address: IpAddr) -> Option<&mut Ipam> {
        self.ipams.iter_mut().find(|ipam| Family::of(ipam.block().addr()) == Family::of(address))
    }

    fn release(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            self.ipams.iter_mut().for_each(|ipam| ipam.release(*address));
        }
    }
}
