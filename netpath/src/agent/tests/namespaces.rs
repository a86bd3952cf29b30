//! Files of namespaces that are those of others by now.

use std::os::unix::fs::symlink;

use super::*;
use crate::{api::types::Attachment, model::NetnsId, net::Netlink};

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
        let left = state(agent, "c1-eth1").await;
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
            (Some(earlier), Some(inode), "failed: "),
        ] {
            edit(&|pod: &mut model::Pod| {
                pod.netns_id.clone_from(&netns_id);
                pod.netns_inode = netns_inode;
            })
            .await;
            gone().await;
            let running = node.start(Arc::clone(&store)).await.unwrap();
            let state = state(&running.agent, "c1-eth0").await;
            assert!(state.starts_with(expected), "{netns_id:?} {netns_inode:?}: {state}");
            assert_eq!(inside(&netns).await.len(), usize::from(expected == "ready"), "{state}");
            running.stop().await;
        }
        let running = node.start(store).await.unwrap();
        running.agent.pod_add(&of("c2", "eth0")).await.expect("the namespace is another's");
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
        let state = state(agent, "by-link").await;
        assert!(state.contains("another namespace") && state.contains("netpath pod rm by-link"), "{state}");
        assert!(inside(&netns).await.is_empty());
        running.stop().await;
    });
}
