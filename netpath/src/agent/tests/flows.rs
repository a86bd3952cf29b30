//! Flows, pools, limits, and a new configuration, on a node of its own.

use std::net::IpAddr;

use ipnet::IpNet;
use netpath_common::abi::Rewrite;

use super::*;
use crate::{
    agent::problems::Turn,
    api::types::{Bandwidth, Flow, FlowFilter, FlowState},
    config::ConfigError,
    datapath::{FlowPair, flow_tests, monotonic_ns},
};
use futures::TryStreamExt as _;

/// Flow number `n`, just seen, translated to an address.
fn flow(n: u32, pod: u32, translated: &str) -> FlowPair {
    let mut pair = flow_tests::pair(6, n);
    let now = monotonic_ns();
    pair.original.addr = translated.parse::<IpAddr>().unwrap().into();
    (pair.original.pod, pair.original.last_seen, pair.original.created) = (pod, now, now);
    if let Some(reply) = &mut pair.reply {
        (reply.pod, reply.last_seen, reply.created) = (pod, now, now);
    }
    pair
}

async fn add(agent: &Agent, pairs: Vec<FlowPair>) {
    let add = move |flows: &mut FlowTable| {
        pairs.iter().for_each(|pair| flows.add(pair));
        Ok(())
    };
    agent.on_flows(add).await.unwrap();
}

async fn list(agent: &Agent, filter: &FlowFilter) -> Vec<Flow> {
    agent.flows(filter).await.unwrap().try_concat().await.unwrap()
}

/// Addresses that flows are translated to, sorted.
async fn translated(agent: &Agent) -> Vec<String> {
    let flows = list(agent, &FlowFilter::default()).await;
    let mut addresses: Vec<_> =
        flows.iter().map(|flow| flow.translated_source.unwrap().to_string()).collect();
    addresses.sort();
    addresses
}

async fn pass(agent: &Arc<Agent>) {
    agent.look().await.unwrap();
    agent.pass(Extent::Full).await;
}

/// The agent without its loops: passes come when the test says so.
async fn still(node: &Node) -> Arc<Agent> {
    let Running { agent, mut tasks, .. } = node.start(memory()).await.unwrap();
    tasks.shutdown().await;
    agent
}

fn changed(agent: &Agent, change: impl FnOnce(&mut Config)) -> Result<Config, ConfigError> {
    let mut config = Config::clone(&agent.config());
    change(&mut config);
    Ok(config)
}

#[test]
fn flows_are_listed_and_flushed_by_what_they_have_in_common() {
    with_node(async |node| {
        let agent = still(&node).await;
        agent.pod_add(&named("web")).await.unwrap();
        let web = lock(&agent.registry).pod("web").unwrap().pod.id;
        let mut half = flow(1, web, "192.0.2.2");
        half.original.peer_seen = 0;
        add(&agent, vec![half, flow(2, web, "192.0.2.2"), flow(3, 99, "192.0.2.2")]).await;
        let of_web = FlowFilter { pod: Some("web".into()), ..FlowFilter::default() };
        assert_eq!(list(&agent, &of_web).await.len(), 2);
        let unreplied = FlowFilter { state: Some(FlowState::Unreplied), ..of_web.clone() };
        let rows = list(&agent, &unreplied).await;
        assert_eq!((rows.len(), rows[0].pod.as_str(), rows[0].source_port), (1, "web", 1));
        let nobody = FlowFilter { pod: Some("none".into()), ..FlowFilter::default() };
        assert!(matches!(agent.flush_flows(&nobody).await, Err(AgentError::NoPod(_))));
        let all = FlowFilter { all: true, ..FlowFilter::default() };
        for vague in [
            FlowFilter::default(),
            FlowFilter { all: true, ..of_web.clone() },
            FlowFilter { limit: Some(1), ..of_web.clone() },
        ] {
            assert!(matches!(agent.flush_flows(&vague).await, Err(AgentError::Filter(_))), "{vague:?}");
        }
        assert!(agent.flows(&all).await.is_err());
        assert_eq!(agent.flush_flows(&unreplied).await.unwrap(), 1);
        assert_eq!(agent.flush_flows(&of_web).await.unwrap(), 1);
        assert_eq!(agent.flush_flows(&all).await.unwrap(), 1);
        assert_eq!(list(&agent, &FlowFilter::default()).await, []);
    });
}

#[test]
fn a_pod_is_limited_from_its_first_packet_on_and_by_what_is_alive() {
    with_node(async |mut node| {
        node.config.flows_per_pod = Some(10);
        let agent = still(&node).await;
        agent.pod_add(&named("a")).await.unwrap();
        let pod = lock(&agent.registry).pod("a").unwrap().pod.clone();
        let ceiling = async || {
            let limit = move |datapath: &mut Datapath| datapath.pod_limit(pod.slot);
            agent.on_datapath(limit).await.unwrap()
        };
        let first = ceiling().await;
        assert_eq!(first.ceiling, 10);
        assert!(first.valid_until > monotonic_ns());
        add(&agent, (0..4).map(|n| flow(n, pod.id, "192.0.2.2")).collect()).await;
        agent.sweep().await.unwrap();
        assert_eq!(ceiling().await.ceiling, 6);
        assert!(agent.reload(changed(&agent, |config| config.flows_per_pod = Some(3))).await);
        agent.sweep().await.unwrap();
        assert_eq!(ceiling().await.ceiling, 0, "no more, and none is ended");
        assert_eq!(agent.status().await.unwrap().flows, 4);
        assert!(agent.reload(changed(&agent, |config| config.flows_per_pod = None)).await);
        assert_eq!(agent.flows_per_pod(), 1024 / 2 / 4, "a quarter of what fits");
        well(&agent);
    });
}

#[test]
fn bindings_go_with_their_address() {
    with_node(async |node| {
        let second: IpNet = "192.0.2.3/24".parse().unwrap();
        let up0 = node.netlink.link("up0").await.unwrap().unwrap().index;
        node.netlink.add_address(up0, second).await.unwrap();
        node.netlink.add_address(up0, "2001:db8::2/64".parse().unwrap()).await.unwrap();
        let agent = still(&node).await;
        let all = ["192.0.2.2", "192.0.2.3", "2001:db8::2"];
        add(&agent, (0..3).map(|n| flow(n, 7, all[n as usize])).collect()).await;
        pass(&agent).await;
        assert_eq!(translated(&agent).await, all, "without a pool every address is right");
        // A pool: those of its family that are not in it go.
        let pool =
            |config: &mut Config| config.snat_addresses = vec![second.addr(), "192.0.2.77".parse().unwrap()];
        assert!(agent.reload(changed(&agent, pool)).await);
        pass(&agent).await;
        assert_eq!(translated(&agent).await, all[1..]);
        let status = agent.status().await.unwrap();
        assert_eq!(status.snat.addresses, [second.addr(), "2001:db8::2".parse().unwrap()]);
        assert_eq!(
            status.problems,
            ["snat.addresses: 192.0.2.77 is not used: the node does not have it (for 0s)"]
        );
        // The address goes; what is left of the node's is used, and both halves are gone.
        node.netlink.delete_address(up0, second).await.unwrap();
        pass(&agent).await;
        assert_eq!(translated(&agent).await, all[2..]);
        assert_eq!(agent.status().await.unwrap().snat.addresses[0].to_string(), "192.0.2.2");
        let left = agent.on_flows(|flows| {
            let (mut walk, mut halves) = (crate::datapath::Walk::new(), 0);
            while flows.advance(&mut walk)? {
                halves += walk.halves().count();
            }
            Ok(halves)
        });
        assert_eq!(left.await.unwrap(), 2);
    });
}

#[test]
fn flows_by_published_ports_go_with_an_address_beside_the_pool() {
    with_node(async |node| {
        let second: IpNet = "192.0.2.3/24".parse().unwrap();
        let up0 = node.netlink.link("up0").await.unwrap().unwrap().index;
        node.netlink.add_address(up0, second).await.unwrap();
        let agent = still(&node).await;
        let pool = |config: &mut Config| config.snat_addresses = vec!["192.0.2.2".parse().unwrap()];
        assert!(agent.reload(changed(&agent, pool)).await);
        pass(&agent).await;
        let by = |n: u32, address: &str| {
            let mut pair = flow(n, 7, "10.61.0.5");
            pair.original.rewrite = Rewrite::Destination as u8;
            pair.key.dst = address.parse::<IpAddr>().unwrap().into();
            pair
        };
        add(&agent, vec![by(1, "192.0.2.2"), by(2, "192.0.2.3"), flow(3, 7, "192.0.2.2")]).await;
        let left = async || {
            pass(&agent).await;
            let mut left: Vec<_> = list(&agent, &FlowFilter::default()).await;
            left.sort_by_key(|flow| flow.source_port);
            left.iter().map(|flow| flow.source_port).collect::<Vec<_>>()
        };
        assert_eq!(left().await, [1, 2, 3], "the pool is not asked about published ports");
        node.netlink.delete_address(up0, second).await.unwrap();
        assert_eq!(left().await, [1, 3]);
    });
}

#[test]
fn queues_of_a_limit_that_went_in_a_crash_go_with_the_next_pass() {
    with_node(async |node| {
        let agent = still(&node).await;
        let limit = Some(Bandwidth { rate: 1_000_000, burst: None });
        let wanted = PodAdd { ingress_bandwidth: limit, egress_bandwidth: limit, ..named("a") };
        let pod = agent.pod_add(&wanted).await.unwrap();
        let inside = Netlink::connect(&Netns::open(&pod.netns).unwrap()).await.unwrap();
        let queues = async || {
            let host = node.netlink.link(&pod.interfaces[0].host).await.unwrap().unwrap();
            [host.queue, inside.link("eth0").await.unwrap().unwrap().queue]
        };
        assert_eq!(queues().await, [Some("tbf".to_owned()), Some("tbf".to_owned())]);
        let known = lock(&agent.registry).pod("a").unwrap().pod.clone();
        let changed = model::Pod { ingress: None, egress: None, stale_queues: true, ..known };
        lock(&agent.registry).set_settings(&changed);
        pass(&agent).await;
        assert_eq!(queues().await, [None, None]);
        assert!(!lock(&agent.registry).pod("a").unwrap().pod.stale_queues);
        well(&agent);
    });
}

#[test]
fn ports_of_earlier_ranges_stay_reserved_while_a_flow_has_one() {
    with_node(async |mut node| {
        let reserved = || sysctl::read(PORTS).unwrap();
        sysctl::write(PORTS, "7777,40005").unwrap();
        let store = memory();
        let Running { agent, mut tasks, .. } =
            node.start(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
        tasks.shutdown().await;
        assert_eq!(reserved(), "7777,32768-49151");
        add(&agent, vec![flow(40_000, 7, "192.0.2.2")]).await;
        assert!(agent.reload(changed(&agent, |config| config.snat_ports = 50_000..=50_009)).await);
        pass(&agent).await;
        agent.sweep().await.unwrap();
        pass(&agent).await;
        assert_eq!(reserved(), "7777,32768-49151,50000-50009");
        drop(agent);
        // Changed once more while no agent ran.
        node.config.snat_ports = 60_000..=60_009;
        let Running { agent, mut tasks, .. } = node.start(store).await.unwrap();
        tasks.shutdown().await;
        agent.sweep().await.unwrap();
        pass(&agent).await;
        assert_eq!(reserved(), "7777,32768-49151,50000-50009,60000-60009");
        let told = agent.on_datapath(|datapath| datapath.node()).await.unwrap();
        assert_eq!((told.snat_first, told.snat_count), (60_000, 10));
        assert_eq!((told.retired_first, told.retired_count), (32_768, 50_009 - 32_768 + 1));
        let all = FlowFilter { all: true, ..FlowFilter::default() };
        assert_eq!(agent.flush_flows(&all).await.unwrap(), 1);
        agent.sweep().await.unwrap();
        pass(&agent).await;
        assert_eq!(reserved(), "7777,40005,60000-60009");
        let told = agent.on_datapath(|datapath| datapath.node()).await.unwrap();
        assert_eq!(told.retired_count, 0);
        well(&agent);
        agent.remove_all().await.unwrap();
        assert_eq!(reserved(), "7777,40005");
    });
}

#[test]
fn a_crowded_table_is_a_problem_until_there_is_room() {
    with_node(async |node| {
        let agent = still(&node).await;
        let problem = || lock(&agent.problems).turn("flows.capacity") != Turn::Well;
        // Of 512 that fit, all answered: nobody's to end.
        add(&agent, (0..490).map(|n| flow(n, 7, "192.0.2.2")).collect()).await;
        agent.sweep().await.unwrap();
        assert!(problem());
        assert_eq!(agent.status().await.unwrap().flows, 490);
        let flush = async |last: u32| {
            let gone =
                move |key: &netpath_common::abi::FlowKey, _: &_| u32::from(u16::from_be(key.sport)) >= last;
            agent.on_flows(move |flows| flows.remove_if(gone)).await.unwrap();
            agent.sweep().await.unwrap();
        };
        flush(480).await;
        assert!(problem(), "still above nine tenths");
        flush(460).await;
        well(&agent);
        flush(0).await;
    });
}

#[test]
fn a_new_configuration_is_taken_whole_or_not_at_all() {
    with_node(async |node| {
        let agent = still(&node).await;
        agent.pod_add(&named("a")).await.unwrap();
        let before = agent.config();
        let error = Config::load(
            &crate::config::AgentFlags { config: Some("/nonexistent".into()), ..Default::default() },
            &before.instance,
        );
        assert!(!agent.reload(error).await);
        assert!(
            !agent
                .reload(changed(&agent, |config| {
                    config.snat_ports = 40_000..=40_009;
                    config.flow_entries = 2048;
                }))
                .await
        );
        assert_eq!(agent.config(), before);
        assert!(agent.reload(changed(&agent, |_| ())).await, "nothing new");
        assert!(
            agent
                .reload(changed(&agent, |config| {
                    config.snat_ports = 40_000..=40_009;
                    config.network.masquerade = false;
                    config.mtu = Some(1400);
                }))
                .await
        );
        pass(&agent).await;
        // Without a flow in the old range the next sweep gives it back.
        agent.sweep().await.unwrap();
        pass(&agent).await;
        assert_eq!(sysctl::read(PORTS).unwrap(), "40000-40009");
        assert_eq!(agent.status().await.unwrap().snat.range, "40000-40009");
        assert_eq!(agent.pod("a").await.unwrap().mtu, 1400);
        let endpoints = agent.on_datapath(|datapath| datapath.endpoints()).await.unwrap();
        assert_eq!((endpoints[0].1.flags, endpoints[0].1.mtu), (0, 1400));
        well(&agent);
    });
}
