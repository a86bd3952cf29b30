//! The networks of this node, and who has which of their addresses. No I/O.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::AgentError;
use crate::{
    ipam::Ipam,
    model::{Family, Network, Pod},
};

/// The networks, by name.
pub(super) struct Networks(BTreeMap<String, Member>);

struct Member {
    network: Network,
    /// One for each of its blocks, in their order.
    ipams: Vec<Ipam>,
}

/// How much of a block is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) block: IpNet,
    /// Whether nobody has an address of it.
    pub(super) unused: bool,
    pub(super) free: u128,
}

impl Networks {
    pub(super) fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        let mut all = Self(BTreeMap::new());
        networks.into_iter().for_each(|network| all.insert(network));
        all
    }

    /// Adds a network with nobody in it.
    pub(super) fn insert(&mut self, network: Network) {
        let ipams = network.blocks.iter().copied().map(Ipam::new).collect();
        self.0.insert(network.name.clone(), Member { network, ipams });
    }

    /// Changes a network: its settings, and which blocks it has.
    pub(super) fn update(&mut self, network: Network) {
        let Some(member) = self.0.get_mut(&network.name) else { return };
        let mut earlier = std::mem::take(&mut member.ipams);
        let mut ipam = |block: &IpNet| match earlier.iter().position(|ipam| ipam.block() == *block) {
            Some(at) => earlier.swap_remove(at),
            None => Ipam::new(*block),
        };
        member.ipams = network.blocks.iter().map(&mut ipam).collect();
        member.network = network;
    }

    /// How much of its blocks is used.
    pub(super) fn usage(&self, name: &str) -> Vec<Usage> {
        let of = |ipam: &Ipam| Usage { block: ipam.block(), unused: ipam.is_unused(), free: ipam.free() };
        self.0.get(name).map_or_else(Vec::new, |member| member.ipams.iter().map(of).collect())
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = &Network> {
        self.0.values().map(|member| &member.network)
    }

    pub(super) fn get(&self, name: &str) -> Result<&Network, AgentError> {
        self.member(name).map(|member| &member.network)
    }

    fn member(&self, name: &str) -> Result<&Member, AgentError> {
        self.0.get(name).ok_or_else(|| AgentError::NoNetwork(name.to_owned()))
    }

    /// Addresses for a new pod's interfaces, one from each block of each network: those of `wanted`, else free ones. On
    /// failure nothing is taken.
    pub(super) fn take(
        &mut self,
        names: &[String],
        wanted: &[IpAddr],
        exact: bool,
    ) -> Result<Vec<Vec<IpAddr>>, AgentError> {
        let shares = self.share(names, wanted)?;
        let mut taken = Vec::new();
        for (name, share) in names.iter().zip(shares) {
            match self.take_in(name, &share, exact) {
                Ok(addresses) => taken.push(addresses),
                Err(error) => {
                    self.release(taken.into_iter().flatten());
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Which of the wanted addresses are for which network: those of its blocks. What no block holds is for the first,
    /// which says why it cannot have it.
    fn share(&self, names: &[String], wanted: &[IpAddr]) -> Result<Vec<Vec<IpAddr>>, AgentError> {
        let networks = names.iter().map(|name| self.get(name)).collect::<Result<Vec<_>, _>>()?;
        let mut shares = vec![Vec::new(); names.len()];
        for address in wanted {
            let holds = |network: &&Network| network.blocks.iter().any(|block| block.contains(address));
            shares[networks.iter().position(holds).unwrap_or(0)].push(*address);
        }
        Ok(shares)
    }

    fn take_in(&mut self, name: &str, wanted: &[IpAddr], exact: bool) -> Result<Vec<IpAddr>, AgentError> {
        let member = self.0.get_mut(name).ok_or_else(|| AgentError::NoNetwork(name.to_owned()))?;
        if let Some(address) = wanted.iter().find(|address| !member.network.has(Family::of(**address))) {
            return Err(AgentError::Family { address: *address, network: name.to_owned() });
        }
        if member.network.ending {
            return Err(AgentError::NetworkEnds(name.to_owned()));
        }
        let mut taken = Vec::new();
        for family in member.network.families().collect::<Vec<_>>() {
            let mut own = wanted.iter().filter(|address| Family::of(**address) == family).peekable();
            if exact && own.peek().is_none() {
                continue;
            }
            let outcome = match (own.next(), own.next()) {
                (Some(_), Some(more)) => {
                    Err(AgentError::OneAddress { address: *more, network: name.to_owned() })
                }
                (Some(address), None) => member.take(*address).map(|()| *address),
                (None, _) => member.allocate(family),
            };
            match outcome {
                Ok(address) => taken.push(address),
                Err(error) => {
                    taken.iter().for_each(|address| member.release(*address));
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    /// Takes an address for a pod beside those of its networks: one of a block is nobody else's from now on.
    pub(super) fn claim(&mut self, address: IpAddr) -> Result<(), AgentError> {
        let mut ipams = self.0.values_mut().flat_map(|member| &mut member.ipams);
        match ipams.find(|ipam| ipam.block().contains(&address)) {
            Some(ipam) => Ok(ipam.take(address)?),
            None => Ok(()),
        }
    }

    /// Takes what a pod of an earlier agent has. An address of an earlier block stays with its pod; it is nobody else's.
    pub(super) fn keep(&mut self, pod: &Pod) {
        for address in pod.addresses() {
            if let Err(error) = self.claim(address) {
                tracing::warn!(pod = %pod.name, "{error}; it keeps it");
            }
        }
    }

    /// Lets the next allocations look behind a pod's addresses, as after having made it.
    pub(super) fn continue_after(&mut self, pod: &Pod) {
        for interface in &pod.interfaces {
            let Some(member) = self.0.get_mut(&interface.network) else { continue };
            for address in &interface.addresses {
                let own = member.ipams.iter_mut().find(|ipam| ipam.block().contains(address));
                own.into_iter().for_each(|ipam| ipam.continue_after(*address));
            }
        }
    }

    /// Gives addresses back, whosever block they are of.
    pub(super) fn release(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            self.0.values_mut().for_each(|member| member.release(address));
        }
    }
}

impl Member {
    /// Takes this very address: of the block that holds it, or of one that says why not.
    fn take(&mut self, address: IpAddr) -> Result<(), AgentError> {
        let name = self.network.name.clone();
        let of_family = |ipam: &&mut Ipam| Family::of(ipam.block().addr()) == Family::of(address);
        let mut own: Vec<_> = self.ipams.iter_mut().filter(of_family).collect();
        let at = own.iter().position(|ipam| ipam.block().contains(&address)).unwrap_or(0);
        let ipam = own.get_mut(at).ok_or(AgentError::NoBlock(name))?;
        Ok(ipam.take(address)?)
    }

    /// The next free address of a family, of the first block that has one.
    fn allocate(&mut self, family: Family) -> Result<IpAddr, AgentError> {
        let mut outcome = Err(AgentError::NoBlock(self.network.name.clone()));
        for ipam in self.ipams.iter_mut().filter(|ipam| Family::of(ipam.block().addr()) == family) {
            outcome = ipam.allocate().map_err(Into::into);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn release(&mut self, address: IpAddr) {
        self.ipams.iter_mut().for_each(|ipam| ipam.release(address));
    }
}
