//! Who has which address.

use std::net::IpAddr;

use super::Registry;
use crate::{
    agent::AgentError,
    ipam::IpamError,
    model::{Family, Pod},
};

impl Registry {
    /// Takes addresses that a pod may use beside its own, all or none.
    pub(super) fn claim_allowed(&mut self, network: &str, allowed: &[IpAddr]) -> Result<(), AgentError> {
        for (at, address) in allowed.iter().enumerate() {
            let outcome = self.check_allowed(network, *address).and_then(|()| self.networks.claim(*address));
            if let Err(error) = outcome {
                self.networks.release(allowed[..at].iter().copied());
                return Err(error);
            }
        }
        Ok(())
    }

    fn check_allowed(&self, network: &str, address: IpAddr) -> Result<(), AgentError> {
        if !self.networks.get(network)?.has(Family::of(address)) {
            return Err(AgentError::Family { address, network: network.to_owned() });
        }
        self.taken(address).map_or(Ok(()), Err)
    }

    /// The same error, with the pod that has what is taken.
    pub(super) fn tell_holder(&self, error: AgentError) -> AgentError {
        match error {
            AgentError::Ipam(IpamError::Taken { address }) => self.taken(address).unwrap_or(error),
            error => error,
        }
    }

    /// Why nobody else can have an address, if a pod has it.
    fn taken(&self, address: IpAddr) -> Option<AgentError> {
        let pod = self
            .pods
            .values()
            .map(|entry| &entry.pod)
            .find(|pod| pod.addresses().any(|own| own == address))?;
        let (who, engines) = (format!("the pod '{}'", pod.name), of_engine(pod));
        Some(AgentError::AddressTaken { address, who, engines })
    }
}

/// A pod's name, if it is an engine's, which may have forgotten it.
pub(super) fn of_engine(pod: &Pod) -> Option<String> {
    pod.attachment.as_ref().map(|_| pod.name.to_string())
}
