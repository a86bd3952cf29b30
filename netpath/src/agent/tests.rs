//! The agent on a node of its own: what it makes, repairs, undoes, takes over and removes.

use std::{collections::BTreeSet, fs, sync::Arc};

use super::{
    reconcile::Extent,
    testing::{Node, Running, named, with_node},
    *,
};
use crate::{
    api::types::{NetworkAdd, NetworkSet, Pod, PodAdd},
    model::{self, PodState},
    net::{Netns, VethEnd, sysctl},
    store::{EmbeddedStore, Store, memory::MemoryStore},
};

mod attachments;
mod flows;
mod namespaces;
mod readings;
mod reconcile;
mod removal;
mod reserved;
mod state;

const PORTS: &str = "net.ipv4.ip_local_reserved_ports";

fn memory() -> Arc<MemoryStore> {
    Arc::default()
}

/// Programs on an interface.
async fn programs(agent: &Agent, ifindex: u32) -> BTreeSet<String> {
    let attached = agent.on_datapath(|datapath| datapath.attachments()).await.unwrap();
    attached.into_iter().filter(|one| one.ifindex == ifindex).map(|one| one.program).collect()
}

async fn endpoints(agent: &Agent) -> usize {
    agent.on_datapath(|datapath| datapath.endpoints()).await.unwrap().len()
}

fn well(agent: &Agent) {
    assert_eq!(lock(&agent.problems).lines(), [""; 0]);
}

async fn whole(node: &Node, agent: &Agent, pod: &Pod) {
    assert_eq!(pod.state, "ready");
    assert_eq!(node.netlink.link(&pod.interface).await.unwrap().unwrap().index, pod.ifindex);
    assert_eq!(
        programs(agent, pod.ifindex).await,
        BTreeSet::from(["from_pod".to_owned(), "to_pod".to_owned()])
    );
    let endpoints = agent.on_datapath(|datapath| datapath.endpoints()).await.unwrap();
    for interface in &pod.interfaces {
        assert_eq!(node.netlink.link(&interface.interface).await.unwrap().unwrap().index, interface.ifindex);
        for address in &interface.addresses {
            let (_, endpoint) = endpoints.iter().find(|(known, _)| known == address).unwrap();
            assert_eq!(endpoint.ifindex, interface.ifindex);
        }
    }
}

#[test]
fn a_pod_comes_and_goes_and_leaves_nothing() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        let before = node.picture().await;
        assert!(before.iter().any(|line| line.starts_with("route 10.61.0.0/24 Unreachable")), "{before:?}");
        assert!(before.contains(&"reserved ports [32768-49151]".to_owned()), "{before:?}");
        agent.pod_add(&PodAdd { mtu: Some(1300), ..named("a") }).await.unwrap();
        let pod = agent.pod("a").await.unwrap();
        whole(&node, agent, &pod).await;
        assert_eq!(
            (pod.netns.as_str(), pod.mtu, pod.mac.as_str()),
            ("/mnt/netns/a", 1300, "02:6e:0a:3d:00:01")
        );
        assert!(matches!(agent.pod_add(&named("a")).await, Err(AgentError::PodExists(_))));
        agent.pod_rm("a").await.unwrap();
        assert!(matches!(agent.pod_rm("a").await, Err(AgentError::NoPod(_))));
        assert_eq!(endpoints(agent).await, 0);
        fs::remove_dir("/mnt/netns").unwrap();
        assert_eq!(node.picture().await, before);
        well(agent);
        running.stop().await;
    });
}

#[test]
fn many_at_once() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let names: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
        let add = |name: &String| {
            let (agent, request) = (Arc::clone(&running.agent), named(name));
            async move { agent.pod_add(&request).await }
        };
        let passes = async {
            for _ in 0..10 {
                running.agent.look().await.unwrap();
                running.agent.pass(Extent::Full).await;
            }
        };
        let (added, ()) = tokio::join!(futures::future::join_all(names.iter().map(add)), passes);
        assert!(added.iter().all(Result::is_ok), "{added:?}");
        for pod in running.agent.pods().await.unwrap() {
            whole(&node, &running.agent, &pod).await;
        }
        well(&running.agent);
        running.stop().await;
    });
}

#[test]
fn what_cannot_be_added_leaves_nothing() {
    with_node(async |node| {
        let store = memory();
        let running = node.start(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
        let agent = &running.agent;
        let foreign = Netns::create("/mnt/netns/foreign".as_ref()).unwrap();
        let inner = VethEnd { name: "eth0", mac: None, netns: Some(&foreign) };
        node.netlink
            .add_veth(&VethEnd { name: "other", mac: None, netns: None }, &inner, None)
            .await
            .unwrap();
        let before = node.picture().await;
        let refused = |request: PodAdd| async move {
            let error = agent.pod_add(&request).await.unwrap_err();
            (format!("{:?}", crate::api::types::Failure::from(&error).code), error.to_string())
        };
        let attach = |path: &str| PodAdd { netns: Some(path.into()), ..named("x") };
        for (request, code) in [
            (named("foreign"), "Conflict"),
            (named("../x"), "Invalid"),
            (attach("/mnt/netns/none"), "Invalid"),
            (attach("/mnt/netns/foreign"), "Internal"), // has an eth0 already
            (attach("/proc/self/ns/net"), "Internal"),  // the node's own
            (attach("/proc/self/ns/mnt"), "Invalid"),
        ] {
            let (got, message) = refused(request.clone()).await;
            assert_eq!(got, code, "{request:?}: {message}");
            assert_eq!(node.picture().await, before, "{request:?}: {message}");
        }
        // The last step of all: everything is made by then.
        store.refuse("\"ready\"");
        let (_, message) = refused(named("x")).await;
        assert!(message.contains("no space left"), "{message}");
        assert_eq!(node.picture().await, before);
        assert_eq!((endpoints(agent).await, agent.pods().await.unwrap().len()), (0, 0));
        assert!(store.list("pods/").await.unwrap().is_empty());
        well(agent);
        running.stop().await;
    });
}

#[test]
fn what_others_break_is_repaired() {
    with_node(async |node| {
        let Running { agent, mut tasks, .. } = node.start(memory()).await.unwrap();
        // Passes when the test says so.
        tasks.shutdown().await;
        agent.pod_add(&named("a")).await.unwrap();
        assert!(agent.look().await.unwrap());
        assert!(!agent.look().await.unwrap(), "nothing has changed since");
        let first = agent.pod("a").await.unwrap();

        node.netlink.delete_link(first.ifindex).await.unwrap();
        sysctl::write(PORTS, "8080\n").unwrap();
        assert!(agent.look().await.unwrap());
        agent.pass(Extent::Announced).await;
        let second = agent.pod("a").await.unwrap();
        assert_ne!(second.ifindex, first.ifindex);
        whole(&node, &agent, &second).await;
        assert!(programs(&agent, first.ifindex).await.is_empty(), "pins of the old link are gone");
        assert_eq!(sysctl::read(PORTS).unwrap(), "8080,32768-49151");

        agent.look().await.unwrap();
        for route in node.netlink.own_routes().await.unwrap() {
            node.netlink.delete_route(&route).await.unwrap();
        }
        assert!(agent.look().await.unwrap());
        agent.pass(Extent::Announced).await;
        assert_eq!(node.netlink.own_routes().await.unwrap().len(), 2);

        // What nothing announces.
        let address = second.addresses[0];
        agent.on_datapath(move |datapath| datapath.remove_endpoint(address)).await.unwrap();
        agent.detach(second.ifindex).await.unwrap();
        let up0 = node.netlink.link("up0").await.unwrap().unwrap().index;
        agent.detach(up0).await.unwrap();
        // The kernel lets go of a link a moment after its pin is gone, and refuses the program a second time till then.
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        while {
            agent.pass(Extent::Full).await;
            !lock(&agent.problems).lines().is_empty()
        } {
            assert!(Instant::now() < deadline, "{:?}", lock(&agent.problems));
        }
        whole(&node, &agent, &second).await;
        assert_eq!(
            programs(&agent, up0).await,
            BTreeSet::from(["from_uplink".to_owned(), "to_uplink".to_owned()])
        );
        well(&agent);

        // Another pod's namespace vanishes: a problem of its own, and one that goes.
        Netns::delete("/mnt/netns/a".as_ref()).unwrap();
        agent.pass(Extent::Full).await;
        assert_eq!(agent.pod("a").await.unwrap().state, "ready", "made again");
        whole(&node, &agent, &agent.pod("a").await.unwrap()).await;
    });
}

#[test]
fn a_failing_pod_stops_nobody() {
    with_node(async |node| {
        let Running { agent, mut tasks, .. } = node.start(memory()).await.unwrap();
        tasks.shutdown().await;
        let foreign = Netns::create("/mnt/netns/foreign".as_ref()).unwrap();
        agent.pod_add(&PodAdd { netns: Some("/mnt/netns/foreign".into()), ..named("a") }).await.unwrap();
        agent.pod_add(&named("b")).await.unwrap();
        let pod = agent.pod("a").await.unwrap();
        Netns::delete("/mnt/netns/foreign".as_ref()).unwrap();
        let b = agent.pod("b").await.unwrap();
        node.netlink.delete_link(b.ifindex).await.unwrap();
        agent.look().await.unwrap();
        agent.pass(Extent::Full).await;
        let state = agent.pod("a").await.unwrap().state;
        assert!(state.starts_with("failed: ") && state.contains("/mnt/netns/foreign"), "{state}");
        assert_eq!(agent.status().await.unwrap().problems.len(), 1);
        assert_eq!(programs(&agent, pod.ifindex).await.len(), 2, "its link may still work: programs stay");
        whole(&node, &agent, &agent.pod("b").await.unwrap()).await;
        drop(foreign);
        agent.pod_rm("a").await.unwrap();
        well(&agent);
    });
}

#[test]
fn a_restart_takes_everything_over() {
    with_node(async |node| {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&node.config.paths.store()).unwrap());
        let running = node.start(Arc::clone(&store)).await.unwrap();
        running.agent.pod_add(&named("a")).await.unwrap();
        running.agent.pod_add(&named("half")).await.unwrap();
        running.agent.pod_add(&named("going")).await.unwrap();
        let (before, a) = (node.picture().await, running.agent.pod("a").await.unwrap());
        running.stop().await;
        assert_eq!(node.picture().await, before, "nothing goes with the agent");
        // A crash in the middle of adding one and removing another.
        for (name, state) in [("half", PodState::Creating), ("going", PodState::Removing)] {
            let key = format!("pods/{name}");
            let pod: model::Pod = store.read(&key).await.unwrap().unwrap();
            store.write(&key, &model::Pod { state, ..pod }).await.unwrap();
        }
        let running = node.start(store).await.unwrap();
        let pods = running.agent.pods().await.unwrap();
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0], a, "same link, address and counters");
        whole(&node, &running.agent, &pods[0]).await;
        assert_eq!(endpoints(&running.agent).await, 1);
        assert!(!fs::exists("/mnt/netns/half").unwrap() && !fs::exists("/mnt/netns/going").unwrap());
        running.agent.pod_add(&named("half")).await.unwrap();
        well(&running.agent);
        running.stop().await;
    });
}

fn subnets(name: &str, subnets: &[&str]) -> NetworkAdd {
    let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
    NetworkAdd { name: name.into(), subnets, ..NetworkAdd::default() }
}

#[test]
fn networks_outlive_the_agent_and_reach_the_tables_at_once() {
    with_node(async |node| {
        let store: Arc<dyn Store> = memory();
        let running = node.start(Arc::clone(&store)).await.unwrap();
        let before = node.picture().await;
        let agent = &running.agent;
        agent.network_add(&subnets("back", &["10.62.0.0/24", "fd00:62::/64"])).await.unwrap();
        assert!(node.picture().await.iter().any(|line| line.starts_with("route fd00:62::/64 Unreachable")));
        let networks = vec![model::DEFAULT_NETWORK.to_owned(), "back".to_owned()];
        let allowed_addresses = vec!["203.0.113.80".parse().unwrap()];
        agent.pod_add(&PodAdd { networks, allowed_addresses, ..named("a") }).await.unwrap();
        let a = agent.pod("a").await.unwrap();
        whole(&node, agent, &a).await;
        assert_eq!((a.interfaces.len(), endpoints(agent).await), (2, 4));
        let flags = async || {
            let endpoints = agent.on_datapath(|datapath| datapath.endpoints()).await.unwrap();
            let of = |wanted: &str| endpoints.iter().find(|(address, _)| address.to_string() == wanted);
            (of("10.61.0.1").unwrap().1.flags, of("fd00:62::1").unwrap().1.flags)
        };
        assert_eq!(flags().await, (1, 1), "both are translated");
        let change = NetworkSet { masquerade: Some(false), mtu: Some(1400), ..NetworkSet::default() };
        agent.network_set("back", &change).await.unwrap();
        let change = NetworkSet { inbound: Some("any".into()), ..NetworkSet::default() };
        agent.network_set("default", &change).await.unwrap();
        assert_eq!(flags().await, (3, 0));
        let host = node.netlink.link(&a.interfaces[1].interface).await.unwrap().unwrap();
        assert_eq!((host.mtu, host.index), (1400, a.interfaces[1].ifindex), "the same link, smaller packets");
        assert!(matches!(agent.network_rm("back").await, Err(AgentError::NetworkInUse { pods: 1, .. })));
        well(agent);
        let known = agent.networks();
        running.stop().await;
        let Running { agent, mut tasks, .. } = node.start(store).await.unwrap();
        // Passes when the test says so.
        tasks.shutdown().await;
        assert_eq!(agent.networks(), known);
        assert_eq!(agent.pod("a").await.unwrap(), a);
        whole(&node, &agent, &a).await;
        // Both links are repaired.
        for interface in &a.interfaces {
            node.netlink.delete_link(interface.ifindex).await.unwrap();
        }
        agent.look().await.unwrap();
        agent.pass(Extent::Announced).await;
        whole(&node, &agent, &agent.pod("a").await.unwrap()).await;
        agent.pod_rm("a").await.unwrap();
        agent.network_rm("back").await.unwrap();
        assert_eq!(endpoints(&agent).await, 0);
        fs::remove_dir("/mnt/netns").unwrap();
        assert_eq!(node.picture().await, before);
        well(&agent);
    });
}

#[test]
fn a_network_that_cannot_be_written_down_is_not_there() {
    with_node(async |node| {
        let store = memory();
        let running = node.start(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
        let agent = &running.agent;
        let before = node.picture().await;
        let wanted = subnets("back", &["10.62.0.0/24"]);
        store.refuse("back");
        agent.network_add(&wanted).await.unwrap_err();
        assert_eq!((agent.networks().len(), node.picture().await), (1, before));
        let inside = PodAdd { networks: vec!["back".into()], ..named("a") };
        assert!(matches!(agent.pod_add(&inside).await, Err(AgentError::NoNetwork(_))));
        running.stop().await;
    });
}

#[test]
fn uninstall_leaves_the_node_as_it_was() {
    with_node(async |node| {
        sysctl::write(PORTS, "9000,40000").unwrap();
        let before = node.picture().await;
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&node.config.paths.store()).unwrap());
        let running = node.start(Arc::clone(&store)).await.unwrap();
        running.agent.pod_add(&named("a")).await.unwrap();
        running.agent.pod_add(&named("b")).await.unwrap();
        assert_eq!(sysctl::read(PORTS).unwrap(), "9000,32768-49151");
        let agent = Arc::clone(&running.agent);
        running.stop().await;
        assert!(matches!(agent.pod_add(&named("late")).await, Err(AgentError::Ending)));
        sysctl::write(PORTS, "9001,32768-49151").unwrap();
        agent.remove_all().await.unwrap();
        fs::remove_dir("/mnt/lib").unwrap();
        let after = node.picture().await;
        let expected: Vec<_> = before.iter().map(|line| line.replace("9000,40000", "9001,40000")).collect();
        assert_eq!(after, expected);
        agent.remove_all().await.unwrap();
    });
}

#[test]
fn an_unfit_node_is_told_so_and_left_alone() {
    with_node(async |mut node| {
        let before = node.picture().await;
        let mut refused = async |change: fn(&mut Config), wanted: &str| {
            let sound = node.config.clone();
            change(&mut node.config);
            let error = node.start(memory()).await.err().unwrap().to_string();
            assert!(error.contains(wanted), "{error}");
            crate::datapath::remove_programs(&node.config.paths.pin_dir).unwrap();
            let _ = fs::remove_dir("/mnt/bpf/netpath");
            node.config = sound;
            assert_eq!(node.picture().await, before);
        };
        refused(|config| config.uplinks = vec!["eth7".into()], "no interface 'eth7'").await;
        refused(|config| config.uplinks.clear(), "name one with --uplink").await;
        refused(
            |config| config.network.blocks = vec!["192.0.2.0/24".parse().unwrap()],
            "192.0.2.2, an address of up0",
        )
        .await;
    });
}
