//! Who gets what.

use super::*;
use crate::{
    api::types::PodAdd,
    config::{AgentFlags, Config, Instance},
};

fn config(blocks: &str) -> Config {
    let blocks = blocks.split(',').map(str::to_owned).collect();
    let flags = AgentFlags { blocks, node: Some("n".into()), ..AgentFlags::default() };
    Config::load(&flags, &Instance::new("unit-test").unwrap()).unwrap()
}

fn registry_of(config: &Config) -> Registry {
    Registry::new(vec![config.network.clone()], Vec::new())
}

fn add(name: &str) -> PodAdd {
    PodAdd { name: name.into(), ..PodAdd::default() }
}

fn reserve(registry: &mut Registry, config: &Config, request: &PodAdd, id: u32) -> Result<Pod, AgentError> {
    let wanted = Wanted::check(request, config)?;
    registry.reserve(wanted, id, "default").map(|(entry, _)| entry.pod)
}

#[test]
fn what_is_refused_takes_nothing() {
    let config = config("10.61.0.0/30");
    let mut registry = registry_of(&config);
    let ip = |text: &str| vec![text.parse().unwrap()];
    for request in [
        add("a/b"),
        add(""),
        PodAdd { networks: vec!["other".into()], ..add("x") },
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
    assert_eq!(x.interfaces[0].addresses, ip("10.61.0.1"));
    assert_eq!(
        (x.interfaces[0].host.as_str(), x.interfaces[0].mac.to_string()),
        ("np1", "02:6e:0a:3d:00:01".to_owned())
    );
    let refused = |registry: &mut Registry, request| reserve(registry, &config, &request, 2).unwrap_err();
    assert!(matches!(refused(&mut registry, add("x")), AgentError::PodBusy(_)));
    registry.set_state(&x, PodState::Ready);
    assert!(matches!(refused(&mut registry, add("x")), AgentError::PodExists(_)));
    let taken = PodAdd { addresses: ip("10.61.0.1"), ..add("y") };
    let taken = refused(&mut registry, taken);
    assert!(matches!(&taken, AgentError::AddressTaken { who, .. } if who == "the pod 'x'"), "{taken}");
    let same = PodAdd { netns: Some("/run/netns/x".into()), ..add("y") };
    assert!(matches!(refused(&mut registry, same), AgentError::NetnsTaken { .. }));
    reserve(&mut registry, &config, &add("y"), 2).unwrap();
    assert!(matches!(refused(&mut registry, add("z")), AgentError::Ipam(_)), "the block is full");
    registry.forget(&x);
    assert_eq!(
        reserve(&mut registry, &config, &add("z"), 3).unwrap().interfaces[0].addresses,
        ip("10.61.0.1")
    );
}

#[test]
fn a_pod_has_an_address_of_each_family_ipv6() {
    let config = config("fd00:61::/64,10.61.0.0/30");
    let mut registry = registry_of(&config);
    let words = |pod: &Pod| pod.addresses().map(|address| address.to_string()).collect::<Vec<_>>();
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
    let mut later = Registry::new(vec![config.network.clone()], vec![b]);
    assert_eq!(words(&reserve(&mut later, &config, &add("e"), 6).unwrap()), ["10.61.0.1", "fd00:61::3"]);
}

#[test]
fn a_pod_of_an_ipv6_network_alone() {
    let config = config("fd00:61::/64");
    let mut registry = registry_of(&config);
    let pod = reserve(&mut registry, &config, &add("a"), 1).unwrap();
    assert_eq!(pod.interfaces[0].addresses, ["fd00:61::1".parse::<IpAddr>().unwrap()]);
    assert!(pod.interfaces[0].mac.to_string().starts_with("0a:6e:"));
    let v4 = PodAdd { addresses: vec!["10.61.0.1".parse().unwrap()], ..add("b") };
    let error = reserve(&mut registry, &config, &v4, 2).unwrap_err().to_string();
    assert_eq!(error, "address 10.61.0.1: the network 'default' has no IPv4 addresses");
}

#[test]
fn slots_are_given_again_and_addresses_not_at_once() {
    let config = config("10.61.0.0/24");
    let mut registry = registry_of(&config);
    let a = reserve(&mut registry, &config, &add("a"), 1).unwrap();
    let b = reserve(&mut registry, &config, &add("b"), 2).unwrap();
    registry.forget(&a);
    // A second removal of the same pod must not take the name of a new one away.
    let again = reserve(&mut registry, &config, &add("a"), 3).unwrap();
    registry.forget(&a);
    assert!(registry.pod("a").is_ok());
    assert_eq!((again.slot, b.slot), (a.slot, 1));
    assert_ne!(again.interfaces, a.interfaces);
    // A later agent goes on behind the last pod.
    let mut later = Registry::new(vec![config.network.clone()], vec![b, again]);
    assert_eq!(
        reserve(&mut later, &config, &add("c"), 4).unwrap().interfaces[0].addresses,
        ["10.61.0.4".parse::<IpAddr>().unwrap()]
    );
}

#[tokio::test]
async fn a_new_pod_is_held_by_who_makes_it() {
    let config = config("10.61.0.0/24");
    let mut registry = registry_of(&config);
    let wanted = Wanted::check(&add("a"), &config).unwrap();
    let (entry, held) = registry.reserve(wanted, 1, "default").unwrap();
    assert!(registry.pod("a").unwrap().gate.try_lock().is_err());
    drop(held);
    assert!(entry.gate.try_lock().is_ok());
}

fn back() -> Network {
    let config = config("10.62.0.0/29,fd00:62::/64");
    Network { name: "back".into(), number: 2, ..config.network }
}

#[test]
fn a_pod_in_two_networks_ipv4_and_ipv6() {
    let config = config("10.61.0.0/29");
    let mut registry = Registry::new(vec![config.network.clone(), back()], Vec::new());
    let both = || vec![DEFAULT_NETWORK.to_owned(), "back".to_owned()];
    let wanted = PodAdd {
        networks: both(),
        addresses: vec!["fd00:62::7".parse().unwrap(), "10.61.0.5".parse().unwrap()],
        allowed_addresses: vec!["203.0.113.80".parse().unwrap(), "10.62.0.6".parse().unwrap()],
        no_masquerade: true,
        ..add("a")
    };
    let a = reserve(&mut registry, &config, &wanted, 1).unwrap();
    let words: Vec<_> = a
        .interfaces
        .iter()
        .map(|one| format!("{} {} {} {:?} {:?}", one.name, one.host, one.network, one.addresses, one.allowed))
        .collect();
    assert_eq!(
        words,
        [
            "eth0 np1 default [10.61.0.5] [203.0.113.80, 10.62.0.6]",
            "eth1 np1B back [10.62.0.1, fd00:62::7] []"
        ]
    );
    assert!(!a.masquerade && registry.pods_in("back") == 1);
    assert_ne!(a.interfaces[0].mac, a.interfaces[1].mac);
    let ip = |text: &str| vec![text.parse().unwrap()];
    for (wanted, why) in [
        (PodAdd { networks: vec!["back".into(), "back".into()], ..add("b") }, "twice"),
        (PodAdd { networks: vec!["back".into(), "none".into()], ..add("b") }, "no such network"),
        (PodAdd { addresses: [ip("10.61.0.1"), ip("10.61.0.2")].concat(), ..add("b") }, "two of one family"),
        (PodAdd { networks: both(), addresses: ip("10.62.0.6"), ..add("b") }, "allowed to another"),
        (PodAdd { networks: both(), addresses: ip("192.0.2.1"), ..add("b") }, "in no block"),
        (PodAdd { allowed_addresses: ip("203.0.113.80"), ..add("b") }, "another's, of no block"),
        (PodAdd { allowed_addresses: ip("10.62.0.1"), ..add("b") }, "another's"),
        (PodAdd { allowed_addresses: ip("10.61.0.7"), ..add("b") }, "broadcast"),
        (PodAdd { allowed_addresses: ip("224.0.0.1"), ..add("b") }, "multicast"),
        (PodAdd { allowed_addresses: ip("2001:db8::1"), ..add("b") }, "a family the network has not"),
        (PodAdd { allowed_addresses: [ip("10.61.0.6"), ip("10.62.0.1")].concat(), ..add("b") }, "one of two"),
    ] {
        assert!(reserve(&mut registry, &config, &wanted, 2).is_err(), "{why}");
    }
    // Nothing was taken by these, and everything comes back.
    let all = PodAdd { allowed_addresses: [ip("10.61.0.6"), ip("10.61.0.2")].concat(), ..add("b") };
    reserve(&mut registry, &config, &all, 2).unwrap();
    registry.forget(&a);
    reserve(&mut registry, &config, &PodAdd { name: "c".into(), ..wanted }, 3).unwrap();
}

#[test]
fn networks_keep_apart() {
    let config = config("10.61.0.0/29");
    let mut registry = registry_of(&config);
    let allowed = PodAdd { allowed_addresses: vec!["203.0.113.80".parse().unwrap()], ..add("a") };
    let a = reserve(&mut registry, &config, &allowed, 1).unwrap();
    let with = |block: &str| Network { blocks: vec![block.parse().unwrap()], ..back() };
    for (network, words) in [
        (Network { name: DEFAULT_NETWORK.into(), ..back() }, "exists already"),
        (with("10.61.0.0/30"), "overlaps 10.61.0.0/29 of the network 'default'"),
        (with("10.0.0.0/8"), "overlaps 10.61.0.0/29 of the network 'default'"),
        (with("203.0.113.0/24"), "holds 203.0.113.80, an address of the pod 'a'"),
    ] {
        let error = registry.check_network(&network).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    registry.check_network(&back()).unwrap();
    assert_eq!(registry.free_network_number(), 2);
    registry.insert_network(back());
    assert_eq!(registry.free_network_number(), 3);
    assert!(matches!(registry.remove_network(DEFAULT_NETWORK), Err(AgentError::NetworkStays)));
    assert!(matches!(registry.remove_network("none"), Err(AgentError::NoNetwork(_))));
    let inside = PodAdd { networks: vec!["back".into()], ..add("b") };
    let b = reserve(&mut registry, &config, &inside, 2).unwrap();
    assert!(matches!(registry.remove_network("back"), Err(AgentError::NetworkInUse { pods: 1, .. })));
    registry.forget(&b);
    registry.remove_network("back").unwrap();
    registry.forget(&a);
    assert!(reserve(&mut registry, &config, &inside, 3).is_err());
}
