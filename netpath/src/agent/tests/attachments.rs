//! What container engines ask for: one request after the other for one attachment, and ports that several of them have.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use netpath_common::abi::MAX_ROUTES;
use tokio::time::timeout;

use super::*;
use crate::{agent::wanted::of_request, api::types::Attachment};

const NETNS: &str = "/mnt/netns/c1";

fn of(interface: &str) -> Attachment {
    Attachment { container: "c1".into(), interface: interface.into(), network: "net".into() }
}

/// An interface of container c1, which publishes a port.
fn interface(name: &str) -> PodAdd {
    PodAdd {
        netns: Some(NETNS.into()),
        attachment: Some(of(name)),
        publish: vec!["8080:80".into()],
        ..named(&format!("c1-{name}"))
    }
}

#[test]
fn a_removal_waits_for_what_is_being_added_and_outdoes_what_came_before_it() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        Netns::create(NETNS.as_ref()).unwrap();
        let wanted = interface("eth0");
        for _ in 0..10 {
            let (added, removed) = tokio::join!(agent.pod_add(&wanted), agent.attachment_rm(of("eth0")));
            added.unwrap();
            removed.unwrap();
            assert_eq!(
                agent
                    .attachments(None)
                    .await
                    .unwrap()
                    .into_iter()
                    .filter(|pod| pod.state != "removing")
                    .count(),
                0
            );
        }
        let came = Instant::now();
        agent.attachment_rm(of("eth0")).await.unwrap();
        let late = agent.pod_add_since(&interface("eth0"), came).await;
        assert!(matches!(late, Err(AgentError::PodBusy(_))), "{late:?}");
        agent.pod_add_since(&interface("eth1"), came).await.expect("another one");
        agent.pod_add(&interface("eth0")).await.expect("a later one");
        // Of what is not under way and was removed long ago nothing is kept.
        assert_eq!(lock(&agent.turns).len(), 1, "eth0, which was removed a moment ago");
        running.stop().await;
    });
}

#[test]
fn ports_of_a_container_stay_as_long_as_one_of_its_interfaces() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        Netns::create(NETNS.as_ref()).unwrap();
        let add = async |wanted: PodAdd| agent.pod_add(&wanted).await.map(drop);
        let leading =
            async || agent.published().await.unwrap().into_iter().map(|one| one.pod).collect::<Vec<_>>();
        add(interface("eth0")).await.unwrap();
        add(interface("eth1")).await.unwrap();
        assert_eq!(leading().await, ["c1-eth0"]);
        let stranger = PodAdd { publish: vec!["8080:81".into()], ..named("stranger") };
        assert!(matches!(add(stranger.clone()).await, Err(AgentError::PortInUse { .. })));
        let other = PodAdd { publish: vec!["8080:81".into()], ..interface("eth2") };
        assert!(matches!(add(other).await, Err(AgentError::PortInUse { .. })), "not the same");
        agent.attachment_rm(of("eth0")).await.unwrap();
        assert_eq!(leading().await, ["c1-eth1"]);
        add(interface("eth0")).await.unwrap();
        assert_eq!(leading().await, ["c1-eth1"], "where connections are");

        // Started again in another namespace, and so far in one network only.
        let again = "/mnt/netns/again";
        Netns::create(again.as_ref()).unwrap();
        add(PodAdd { netns: Some(again.into()), ..interface("eth0") }).await.unwrap();
        assert_eq!((leading().await, agent.pods().await.unwrap().len()), (vec!["c1-eth0".to_owned()], 1));
        agent.attachment_rm(of("eth0")).await.unwrap();
        assert!(leading().await.is_empty());
        add(stranger).await.unwrap();
        running.stop().await;
    });
}

#[test]
fn a_check_looks_at_published_ports() {
    with_node(async |node| {
        let Running { agent, mut tasks, .. } = node.start(memory()).await.unwrap();
        // Nobody puts right what the test breaks.
        tasks.shutdown().await;
        Netns::create(NETNS.as_ref()).unwrap();
        let on_address = PodAdd { publish: vec!["192.0.2.2:8080:80".into()], ..interface("eth0") };
        for wanted in [interface("eth0"), on_address] {
            agent.pod_add(&wanted).await.unwrap();
            agent.attachment_check(of("eth0")).await.expect("as it was made");
            let table = agent.on_datapath(|datapath| datapath.published()).await.unwrap();
            for key in table.keys() {
                let mut fewer = table.clone();
                fewer.remove(key);
                agent.on_datapath(move |datapath| datapath.set_published(&fewer)).await.unwrap();
                let found = agent.attachment_check(of("eth0")).await.unwrap_err().to_string();
                assert!(found.contains("ports"), "{found}: without {key:?}");
            }
            agent.ensure_published().await.unwrap();
            agent.attachment_check(of("eth0")).await.expect("put right");
        }
        // One that stands by: its port leads to another interface of its container.
        let second = PodAdd { publish: vec!["192.0.2.2:8080:80".into()], ..interface("eth1") };
        agent.pod_add(&second).await.unwrap();
        agent.attachment_check(of("eth1")).await.expect("as it was made");
    });
}

#[test]
fn a_pod_that_cannot_be_published_leaves_no_port_in_the_table() {
    with_node(async |node| {
        let Running { agent, mut tasks, .. } = node.start(memory()).await.unwrap();
        tasks.shutdown().await;
        // With the first port the other tables are written as well, and these routes have no room.
        let prefix = |n: u32| Ipv4Net::from(Ipv4Addr::from_bits(0x6000_0000 + n)).into();
        let network = lock(&agent.registry).network(model::DEFAULT_NETWORK).unwrap();
        let too_many =
            model::Network { no_masquerade: (0..=MAX_ROUTES).map(prefix).collect(), ..network.clone() };
        lock(&agent.registry).update_network(too_many);
        let wanted = PodAdd { publish: vec!["8080:80".into()], ..named("a") };
        let error = agent.pod_add(&wanted).await.unwrap_err();
        let table = agent.on_datapath(|datapath| datapath.published()).await.unwrap();
        assert_eq!((table, agent.pods().await.unwrap().len()), (BTreeMap::new(), 0), "{error}");
        lock(&agent.registry).update_network(network);
        agent.pod_add(&wanted).await.expect("there is room");
    });
}

#[test]
fn a_queued_removal_that_has_to_wait_keeps_no_other_waiting() {
    with_node(async |node| {
        let Running { agent, mut tasks, .. } = node.start(memory()).await.unwrap();
        tasks.shutdown().await;
        Netns::create(NETNS.as_ref()).unwrap();
        let mut files = Vec::new();
        for name in ["eth0", "eth1", "eth2"] {
            agent.pod_add(&interface(name)).await.unwrap();
            files.push((agent.spooled(&of_request(of(name))), name));
        }
        crate::store::private_dir(&agent.config().paths.spool()).unwrap();
        for (file, name) in &files {
            fs::write(file, serde_json::to_vec(&of(name)).unwrap()).unwrap();
        }
        // The first ones: somebody is at the pod of one, and asks for the other.
        files.sort();
        let entry = lock(&agent.registry).pod(&format!("c1-{}", files[0].1)).unwrap().clone();
        let gate = entry.gate.lock().await;
        let turn = agent.hold(&of_request(of(files[1].1))).await.unwrap();
        timeout(Duration::from_secs(15), agent.take_up_all()).await.expect("it does not wait for them");
        let left: Vec<bool> = files.iter().map(|(file, _)| file.exists()).collect();
        assert_eq!(left, [true, true, false]);
        drop((gate, turn));
        agent.take_up_all().await;
        assert!(files.iter().all(|(file, _)| !file.exists()));
        let waits = async {
            while !agent.pods().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(15), waits).await.expect("all are gone");
    });
}
