//! Which pods there are and who has which address, in memory. No I/O: the callers write it down.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{AgentError, networks::Networks};
use crate::{
    api::types::PodAdd,
    config::Config,
    datapath::POD_SLOTS,
    model::{DEFAULT_NETWORK, Family, MIN_MTU_V6, Mac, Network, Pod, PodName, PodState, interface_name},
};

/// Held by whoever changes a pod in the kernel.
pub(super) type Gate = Arc<Mutex<()>>;

/// A pod with what guards its changes.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) pod: Pod,
    /// Index of the host end; 0 while it does not exist.
    pub(super) ifindex: u32,
    pub(super) gate: Gate,
}

/// The pods of this node.
pub(super) struct Registry {
    pods: BTreeMap<String, Entry>,
    networks: Networks,
}

/// A request for a pod, checked as far as the request alone tells.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: PodName,
    network: String,
    addresses: Vec<IpAddr>,
    mac: Option<Mac>,
    pub(super) netns: PathBuf,
    pub(super) owns_netns: bool,
    mtu: Option<u32>,
    labels: BTreeMap<String, String>,
}

impl Wanted {
    /// Checks a request.
    pub(super) fn check(request: &PodAdd, config: &Config) -> Result<Self, AgentError> {
        let name: PodName = request.name.parse()?;
        let invalid = |reason: String| AgentError::Invalid { pod: name.to_string(), reason };
        for family in [Family::V4, Family::V6] {
            if request.addresses.iter().filter(|address| Family::of(**address) == family).count() > 1 {
                return Err(invalid(format!("it can have one {family} address; give one at most")));
            }
        }
        // IPv4 needs 576 (RFC 791); a record holds 16 bits.
        if let Some(mtu) = request.mtu.filter(|mtu| !(576..=65_535).contains(mtu)) {
            return Err(invalid(format!("MTU {mtu} is not 576 to 65535")));
        }
        if let Some(path) = request.netns.as_deref().filter(|path| !path.starts_with('/')) {
            return Err(invalid(format!(
                "namespace '{path}' is not an absolute path; give one like /run/netns/NAME"
            )));
        }
        Ok(Self {
            network: request.network.clone().unwrap_or_else(|| DEFAULT_NETWORK.to_owned()),
            addresses: request.addresses.clone(),
            mac: request.mac.as_deref().map(Mac::for_pod).transpose()?,
            netns: request
                .netns
                .as_ref()
                .map_or_else(|| config.paths.netns_dir.join(name.as_str()), PathBuf::from),
            owns_netns: request.netns.is_none(),
            mtu: request.mtu,
            labels: request.labels.clone(),
            name,
        })
    }
}

impl Registry {
    /// The pods of an earlier agent.
    pub(super) fn new(config: &Config, pods: Vec<Pod>) -> Self {
        let mut networks = Networks::new([config.network.clone()]);
        for pod in &pods {
            for address in &pod.addresses {
                if let Err(error) = networks.keep(&pod.network, *address) {
                    tracing::warn!(pod = %pod.name, "{error}; it keeps it");
                }
            }
        }
        // The last one made had the last addresses, unless it asked for some.
        if let Some(pod) = pods.iter().max_by_key(|pod| pod.id) {
            networks.continue_after(&pod.network, &pod.addresses);
        }
        let entry = |pod: Pod| (pod.name.to_string(), Entry { pod, ifindex: 0, gate: Gate::default() });
        Self { pods: pods.into_iter().map(entry).collect(), networks }
    }

    /// Changes a network's settings; pods keep their addresses.
    pub(super) fn update_network(&mut self, network: Network) {
        self.networks.update(network);
    }

    /// All networks, by name.
    pub(super) fn networks(&self) -> Vec<Network> {
        self.networks.all().cloned().collect()
    }

    /// One network.
    pub(super) fn network(&self, name: &str) -> Result<Network, AgentError> {
        self.networks.get(name).cloned()
    }

    /// All pods, by name.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Entry> {
        self.pods.values()
    }

    /// One pod.
    pub(super) fn pod(&self, name: &str) -> Result<&Entry, AgentError> {
        self.pods.get(name).ok_or_else(|| AgentError::NoPod(name.to_owned()))
    }

    /// The entry as it is now, unless the pod is gone or another has taken its name.
    pub(super) fn same(&self, earlier: &Entry) -> Option<&Entry> {
        self.pods.get(earlier.pod.name.as_str()).filter(|entry| entry.pod.id == earlier.pod.id)
    }

    /// Takes addresses and a slot for a new pod. Returns it with its gate held, so that nobody takes it for one that a
    /// crash left half-made. On failure nothing is taken.
    pub(super) fn reserve(
        &mut self,
        wanted: Wanted,
        id: u32,
        instance: &str,
    ) -> Result<(Entry, OwnedMutexGuard<()>), AgentError> {
        let name = wanted.name.to_string();
        if let Some(present) = self.pods.get(&name) {
            let ready = present.pod.state == PodState::Ready;
            return Err(if ready { AgentError::PodExists(name) } else { AgentError::PodBusy(name) });
        }
        if let Some(other) = self.pods.values().find(|entry| entry.pod.netns == wanted.netns) {
            let other = other.pod.name.to_string();
            return Err(AgentError::NetnsTaken { pod: name, other, path: wanted.netns });
        }
        let slot = self.free_slot()?;
        let v6 = self.networks.get(&wanted.network)?.has(Family::V6);
        if let Some(mtu) = wanted.mtu.filter(|mtu| v6 && *mtu < MIN_MTU_V6) {
            let reason = format!("MTU {mtu} is less than the {MIN_MTU_V6} that IPv6 needs (RFC 8200)");
            return Err(AgentError::Invalid { pod: name, reason });
        }
        let addresses = self.networks.take(&wanted.network, &wanted.addresses)?;
        let pod = Pod {
            id,
            interface: interface_name(instance, id),
            // A network has a block, so a pod has an address.
            mac: wanted.mac.unwrap_or_else(|| Mac::of_address(addresses[0])),
            network: wanted.network,
            addresses,
            slot,
            netns: wanted.netns,
            owns_netns: wanted.owns_netns,
            mtu: wanted.mtu,
            labels: wanted.labels,
            state: PodState::Creating,
            name: wanted.name,
        };
        let entry = Entry { pod, ifindex: 0, gate: Gate::default() };
        let held = entry.gate.clone().try_lock_owned().map_err(|_| AgentError::PodBusy(name.clone()))?;
        self.pods.insert(name, entry.clone());
        Ok((entry, held))
    }

    fn free_slot(&self) -> Result<u32, AgentError> {
        let mut used: Vec<u32> = self.pods.values().map(|entry| entry.pod.slot).collect();
        used.sort_unstable();
        let free = used
            .iter()
            .zip(0..)
            .find(|(used, slot)| *used != slot)
            .map_or(used.len() as u32, |(_, slot)| slot);
        if free < POD_SLOTS { Ok(free) } else { Err(AgentError::TooManyPods(POD_SLOTS)) }
    }

    /// Notes how far a pod is; nothing happens if it is gone.
    pub(super) fn set_state(&mut self, pod: &Pod, state: PodState) {
        if let Some(entry) = self.pods.get_mut(pod.name.as_str()).filter(|entry| entry.pod.id == pod.id) {
            entry.pod.state = state;
        }
    }

    /// Notes the index of a pod's host end, before programs are attached to it: what is attached to an interface of no
    /// pod is taken off.
    pub(super) fn set_ifindex(&mut self, pod: &Pod, ifindex: u32) {
        if let Some(entry) = self.pods.get_mut(pod.name.as_str()).filter(|entry| entry.pod.id == pod.id) {
            entry.ifindex = ifindex;
        }
    }

    /// Forgets a pod and releases its addresses.
    pub(super) fn forget(&mut self, pod: &Pod) {
        if self.pods.get(pod.name.as_str()).is_some_and(|entry| entry.pod.id == pod.id) {
            self.pods.remove(pod.name.as_str());
            self.networks.release(&pod.network, &pod.addresses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AgentFlags, Instance};

    fn config(blocks: &str) -> Config {
        let blocks = blocks.split(',').map(str::to_owned).collect();
        let flags = AgentFlags { blocks, node: Some("n".into()), ..AgentFlags::default() };
        Config::load(&flags, &Instance::new("unit-test").unwrap()).unwrap()
    }

    fn add(name: &str) -> PodAdd {
        PodAdd { name: name.into(), ..PodAdd::default() }
    }

    fn reserve(
        registry: &mut Registry,
        config: &Config,
        request: &PodAdd,
        id: u32,
    ) -> Result<Pod, AgentError> {
        let wanted = Wanted::check(request, config)?;
        registry.reserve(wanted, id, "default").map(|(entry, _)| entry.pod)
    }

    #[test]
    fn what_is_refused_takes_nothing() {
        let config = config("10.61.0.0/30");
        let mut registry = Registry::new(&config, Vec::new());
        let ip = |text: &str| vec![text.parse().unwrap()];
        for request in [
            add("a/b"),
            add(""),
            PodAdd { network: Some("other".into()), ..add("x") },
            PodAdd { addresses: ip("10.62.0.1"), ..add("x") },
            PodAdd { addresses: ip("10.61.0.0"), ..add("x") },
            PodAdd { addresses: ip("fd00::1"), ..add("x") },
            PodAdd { addresses: [ip("10.61.0.1"), ip("10.61.0.2")].concat(), ..add("x") },
            PodAdd { mac: Some("01:00:5e:00:00:01".into()), ..add("x") },
            PodAdd { mtu: Some(10), ..add("x") },
            PodAdd { netns: Some("relative".into()), ..add("x") },
        ] {
            assert!(reserve(&mut registry, &config, &request, 1).is_err(), "{request:?}");
        }
        let x = reserve(&mut registry, &config, &add("x"), 1).unwrap();
        assert_eq!(x.addresses, ip("10.61.0.1"));
        assert_eq!((x.interface.as_str(), x.mac.to_string()), ("np1", "02:6e:0a:3d:00:01".to_owned()));
        let refused = |registry: &mut Registry, request| reserve(registry, &config, &request, 2).unwrap_err();
        assert!(matches!(refused(&mut registry, add("x")), AgentError::PodBusy(_)));
        registry.set_state(&x, PodState::Ready);
        assert!(matches!(refused(&mut registry, add("x")), AgentError::PodExists(_)));
        let taken = PodAdd { addresses: ip("10.61.0.1"), ..add("y") };
        assert!(matches!(refused(&mut registry, taken), AgentError::Ipam(_)));
        let same = PodAdd { netns: Some("/run/netns/x".into()), ..add("y") };
        assert!(matches!(refused(&mut registry, same), AgentError::NetnsTaken { .. }));
        reserve(&mut registry, &config, &add("y"), 2).unwrap();
        assert!(matches!(refused(&mut registry, add("z")), AgentError::Ipam(_)), "the block is full");
        registry.forget(&x);
        assert_eq!(reserve(&mut registry, &config, &add("z"), 3).unwrap().addresses, ip("10.61.0.1"));
    }

    #[test]
    fn a_pod_has_an_address_of_each_family_ipv6() {
        let config = config("fd00:61::/64,10.61.0.0/30");
        let mut registry = Registry::new(&config, Vec::new());
        let words = |pod: &Pod| pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        let ip = |text: &str| vec![text.parse().unwrap()];
        let a = reserve(&mut registry, &config, &add("a"), 1).unwrap();
        assert_eq!(words(&a), ["10.61.0.1", "fd00:61::1"]);
        let wanted = PodAdd { addresses: ip("fd00:61::2"), ..add("b") };
        let b = reserve(&mut registry, &config, &wanted, 2).unwrap();
        assert_eq!(words(&b), ["10.61.0.2", "fd00:61::2"]);
        // The IPv4 block is full: the IPv6 address asked for is not taken either.
        let wanted = PodAdd { addresses: ip("fd00:61::9"), ..add("c") };
        assert!(matches!(reserve(&mut registry, &config, &wanted, 3), Err(AgentError::Ipam(_))));
        registry.forget(&a);
        assert_eq!(words(&reserve(&mut registry, &config, &wanted, 4).unwrap()), ["10.61.0.1", "fd00:61::9"]);
        let small = PodAdd { mtu: Some(1279), ..add("d") };
        assert!(matches!(reserve(&mut registry, &config, &small, 5), Err(AgentError::Invalid { .. })));
        // A later agent goes on behind the last pod in both families.
        let mut later = Registry::new(&config, vec![b]);
        assert_eq!(words(&reserve(&mut later, &config, &add("e"), 6).unwrap()), ["10.61.0.1", "fd00:61::3"]);
    }

    #[test]
    fn a_pod_of_an_ipv6_network_alone() {
        let config = config("fd00:61::/64");
        let mut registry = Registry::new(&config, Vec::new());
        let pod = reserve(&mut registry, &config, &add("a"), 1).unwrap();
        assert_eq!(pod.addresses, ["fd00:61::1".parse::<IpAddr>().unwrap()]);
        assert!(pod.mac.to_string().starts_with("0a:6e:"));
        let v4 = PodAdd { addresses: vec!["10.61.0.1".parse().unwrap()], ..add("b") };
        let error = reserve(&mut registry, &config, &v4, 2).unwrap_err().to_string();
        assert_eq!(error, "address 10.61.0.1: the network 'default' has no IPv4 addresses");
    }

    #[test]
    fn slots_are_given_again_and_addresses_not_at_once() {
        let config = config("10.61.0.0/24");
        let mut registry = Registry::new(&config, Vec::new());
        let a = reserve(&mut registry, &config, &add("a"), 1).unwrap();
        let b = reserve(&mut registry, &config, &add("b"), 2).unwrap();
        registry.forget(&a);
        // A second removal of the same pod must not take the name of a new one away.
        let again = reserve(&mut registry, &config, &add("a"), 3).unwrap();
        registry.forget(&a);
        assert!(registry.pod("a").is_ok());
        assert_eq!((again.slot, b.slot), (a.slot, 1));
        assert_ne!(again.addresses, a.addresses);
        // A later agent goes on behind the last pod.
        let mut later = Registry::new(&config, vec![b, again]);
        assert_eq!(
            reserve(&mut later, &config, &add("c"), 4).unwrap().addresses,
            ["10.61.0.4".parse::<IpAddr>().unwrap()]
        );
    }

    #[tokio::test]
    async fn a_new_pod_is_held_by_who_makes_it() {
        let config = config("10.61.0.0/24");
        let mut registry = Registry::new(&config, Vec::new());
        let wanted = Wanted::check(&add("a"), &config).unwrap();
        let (entry, held) = registry.reserve(wanted, 1, "default").unwrap();
        assert!(registry.pod("a").unwrap().gate.try_lock().is_err());
        drop(held);
        assert!(entry.gate.try_lock().is_ok());
    }
}
