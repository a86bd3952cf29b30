//! Files of namespaces that are those of others by now.

use std::{os::unix::fs::symlink, time::Duration};

use super::*;
use crate::{
    api::types::{Attachment, PodSet},
    model::NetnsId,
    net::Netlink,
};

const FILE: &str = "/mnt/netns/shared";

/// An interface of a container in the namespace at that file.
fn of(container: &str, interface: &str) -> PodAdd {
    let (container, interface) = (container.to_owned(), interface.to_owned());
    PodAdd {
        name: format!("{container}-{interface}"),
        netns: Some(FILE.into()),
        attachment: Some(Attachment { container, interface, network: "net".into() }),
        ..PodAdd::default()
    }
}

fn again() -> Netns {
    Netns::delete(FILE.as_ref()).unwrap();
    Netns::create(FILE.as_ref()).unwrap()
}

async fn inside(netns: &Netns) -> BTreeSet<String> {
    let links = Netlink::connect(netns).await.unwrap().links().await.unwrap();
    links.into_iter().map(|link| link.name).filter(|name| name.starts_with("eth")).collect()
}

fn place(agent: &Agent, pod: &str) -> u8 {
    lock(&agent.registry).pod(pod).unwrap().pod.place
}

/// The state of a pod that will fail; somebody else's pass may be at it.
async fn failed(agent: &Arc<Agent>, pod: &str) -> String {
    for _ in 0..100 {
        let state = state(agent, pod).await;
        if state.starts_with("failed: ") {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    state(agent, pod).await
}

async fn state(agent: &Arc<Agent>, pod: &str) -> String {
    agent.pass(Extent::Full).await;
    agent.pod(pod).await.unwrap().state
}

#[test]
fn a_namespace_that_takes_anothers_file_is_nobodys_yet() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        Netns::create(FILE.as_ref()).unwrap();
        agent.pod_add(&of("c1", "eth0")).await.unwrap();
        agent.pod_add(&of("c1", "eth1")).await.unwrap();
        assert_eq!((place(agent, "c1-eth0"), place(agent, "c1-eth1")), (0, 1));
        // The kernel gives the inode to the next namespace.
        let netns = again();
        agent.pod_add(&of("c2", "eth0")).await.expect("nobody is in it");
        assert_eq!(place(agent, "c2-eth0"), 0, "it has the default routes");
        assert_eq!(state(agent, "c2-eth0").await, "ready");
        let left = failed(agent, "c1-eth1").await;
        assert!(left.starts_with("failed: ") && left.contains("another namespace"), "{left}");
        assert_eq!(inside(&netns).await, ["eth0".to_owned()].into());
        // By another name of the same namespace it is the second.
        symlink(FILE, "/mnt/link").unwrap();
        let by_link = PodAdd { netns: Some("/mnt/link".into()), ..of("c2", "eth1") };
        agent.pod_add(&by_link).await.unwrap();
        assert_eq!(place(agent, "c2-eth1"), 1);
        // What went with the earlier one takes nothing along.
        for pod in ["c1-eth0", "c1-eth1"] {
            agent.pod_rm(pod).await.unwrap();
        }
        assert_eq!(inside(&netns).await, ["eth0".to_owned(), "eth1".to_owned()].into());
        assert_eq!(state(agent, "c2-eth1").await, "ready");
        well(agent);
        running.stop().await;
    });
}

#[test]
fn a_record_of_another_boot_or_an_earlier_build_is_judged_by_what_it_has() {
    with_node(async |node| {
        let store = memory();
        let store: Arc<dyn Store> = store;
        let running = node.start(Arc::clone(&store)).await.unwrap();
        let netns = Netns::create(FILE.as_ref()).unwrap();
        running.agent.pod_add(&of("c1", "eth0")).await.unwrap();
        let link = running.agent.pod("c1-eth0").await.unwrap().interface;
        running.stop().await;
        let edit = async |change: &dyn Fn(&mut model::Pod)| {
            let mut pod: model::Pod = store.read("pods/c1-eth0").await.unwrap().unwrap();
            change(&mut pod);
            store.write("pods/c1-eth0", &pod).await.unwrap();
        };
        let gone = async || {
            if let Some(link) = node.netlink.link(&link).await.unwrap() {
                node.netlink.delete_link(link.index).await.unwrap();
            }
        };
        let own: model::Pod = store.read("pods/c1-eth0").await.unwrap().unwrap();
        let (id, inode) = (own.netns_id.unwrap(), netns.inode());
        assert_eq!(own.netns_inode, Some(inode), "for an earlier build");
        let earlier = NetnsId { boot: "an-earlier-boot".into(), ..id.clone() };
        for (netns_id, netns_inode, expected) in [
            (None, None, "ready"),
            (None, Some(inode), "ready"),
            (None, Some(inode + 1), "failed: "),
            (Some(id), Some(inode), "ready"),
            // The same numbers, as a boot gives them again.
            (Some(earlier), Some(inode), "pod 'c1-eth0' does not exist"),
        ] {
            edit(&|pod: &mut model::Pod| {
                pod.netns_id.clone_from(&netns_id);
                pod.netns_inode = netns_inode;
            })
            .await;
            gone().await;
            let running = node.start(Arc::clone(&store)).await.unwrap();
            running.agent.pass(Extent::Full).await;
            let pod = running.agent.pod("c1-eth0").await;
            let state = pod.map_or_else(|error| error.to_string(), |pod| pod.state);
            assert!(state.starts_with(expected), "{netns_id:?} {netns_inode:?}: {state}");
            assert_eq!(inside(&netns).await.len(), usize::from(expected == "ready"), "{state}");
            running.stop().await;
        }
        let running = node.start(store).await.unwrap();
        running.agent.pod_add(&of("c2", "eth0")).await.expect("nobody is in it");
        running.stop().await;
    });
}

#[test]
fn a_name_stands_for_whatever_has_it_and_a_link_does_not() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        let by_name = PodAdd { netns: Some(FILE.into()), ..named("by-name") };
        let by_link = PodAdd { netns: Some("/mnt/link".into()), ..named("by-link") };
        Netns::create(FILE.as_ref()).unwrap();
        agent.pod_add(&by_name).await.unwrap();
        let netns = again();
        assert_eq!(state(agent, "by-name").await, "ready");
        assert_eq!(inside(&netns).await.len(), 1);
        agent.pod_rm("by-name").await.unwrap();

        symlink(FILE, "/mnt/link").unwrap();
        agent.pod_add(&by_link).await.unwrap();
        assert_eq!(state(agent, "by-link").await, "ready");
        let netns = again();
        let state = failed(agent, "by-link").await;
        assert!(state.contains("another namespace") && state.contains("netpath pod rm by-link"), "{state}");
        assert!(inside(&netns).await.is_empty());
        running.stop().await;
    });
}

/// The same with addresses and a port that one alone can have, in the namespace at a file.
fn greedy(container: &str, file: &str) -> PodAdd {
    PodAdd {
        netns: Some(file.into()),
        addresses: ["10.61.0.77", "fd00:61::77"].map(|address| address.parse().unwrap()).into(),
        publish: vec!["8080:80".into()],
        ..of(container, "eth0")
    }
}

/// Whom the port leads to.
async fn leads_to(agent: &Agent) -> Vec<String> {
    agent.published().await.unwrap().into_iter().map(|one| one.pod).collect()
}

fn counted(agent: &Agent) -> u64 {
    agent.metrics.left_behind.get()
}

fn of_both_families(node: &mut Node) {
    node.config.network.blocks.push("fd00:61::/64".parse().unwrap());
}

#[test]
fn what_an_engine_had_before_a_boot_is_free_after_it_ipv4_and_ipv6() {
    with_node(async |mut node| {
        of_both_families(&mut node);
        let store: Arc<dyn Store> = memory();
        let running = node.start(Arc::clone(&store)).await.unwrap();
        for file in [FILE, "/mnt/netns/stays"] {
            Netns::create(file.as_ref()).unwrap();
        }
        let earlier = greedy("c1", FILE);
        running.agent.pod_add(&earlier).await.unwrap();
        running
            .agent
            .pod_add(&PodAdd { netns: Some("/mnt/netns/stays".into()), ..of("c3", "eth0") })
            .await
            .unwrap();
        running.agent.pod_add(&named("own")).await.unwrap();
        let link = running.agent.pod("c1-eth0").await.unwrap().interface;
        running.stop().await;
        let mut pod: model::Pod = store.read("pods/c1-eth0").await.unwrap().unwrap();
        pod.netns_id.as_mut().unwrap().boot = "an-earlier-boot".into();
        store.write("pods/c1-eth0", &pod).await.unwrap();
        let link = node.netlink.link(&link).await.unwrap().unwrap();
        node.netlink.delete_link(link.index).await.unwrap();

        let running = node.start(Arc::clone(&store)).await.unwrap();
        let agent = &running.agent;
        let left: Vec<_> = agent.pods().await.unwrap().into_iter().map(|pod| pod.name).collect();
        assert_eq!((left, counted(agent)), (vec!["c3-eth0".to_owned(), "own".to_owned()], 1));
        assert!(store.read::<model::Pod>("pods/c1-eth0").await.unwrap().is_none());
        assert!(leads_to(agent).await.is_empty());
        assert_eq!(endpoints(agent).await, 4, "of the two that stay");
        // As of a unit whose container has another ID after each boot.
        let again = "/mnt/netns/again";
        Netns::create(again.as_ref()).unwrap();
        agent.pod_add(&greedy("c2", again)).await.expect("nobody has its address and port");
        assert_eq!(leads_to(agent).await, ["c2-eth0"]);
        agent.attachment_rm(earlier.attachment.unwrap()).await.expect("it is gone already");
        well(agent);
        running.stop().await;
    });
}

#[test]
fn what_a_pod_without_its_namespace_has_is_given_to_others_ipv4_and_ipv6() {
    with_node(async |mut node| {
        of_both_families(&mut node);
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        let files = ["/mnt/netns/a", "/mnt/netns/b", "/mnt/netns/c"];
        for file in files {
            Netns::create(file.as_ref()).unwrap();
        }
        agent.pod_add(&greedy("c1", files[0])).await.unwrap();
        for addresses in [Vec::new(), greedy("", "").addresses] {
            let publish = if addresses.is_empty() { vec!["8080:81".into()] } else { Vec::new() };
            let refused =
                agent.pod_add(&PodAdd { addresses, publish, ..greedy("c2", files[1]) }).await.unwrap_err();
            let hint = refused.hint().unwrap();
            assert!(hint.contains("netpath pod rm c1-eth0"), "{refused}; {hint}");
        }
        Netns::delete(files[0].as_ref()).unwrap();
        agent.pod_add(&greedy("c2", files[1])).await.expect("c1 has no namespace");
        // Another one takes the file.
        Netns::delete(files[1].as_ref()).unwrap();
        Netns::create(files[1].as_ref()).unwrap();
        agent.pod_add(&greedy("c3", files[2])).await.expect("c2 is in another namespace");
        assert_eq!((agent.pods().await.unwrap().len(), counted(agent)), (1, 2));
        assert_eq!(leads_to(agent).await, ["c3-eth0"]);
        Netns::delete(files[2].as_ref()).unwrap();
        agent.pod_add(&named("own")).await.unwrap();
        let publish = PodSet { publish: vec!["8080:80".into()], ..PodSet::default() };
        agent.pod_set("own", &publish).await.expect("c3 has no namespace");
        assert_eq!((leads_to(agent).await, counted(agent)), (vec!["own".to_owned()], 3));
        well(agent);
        running.stop().await;
    });
}
