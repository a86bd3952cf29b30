//! What container engines ask for: one request after the other for one attachment, and ports that several of them have.

use std::time::Instant;

use super::*;
use crate::api::types::Attachment;

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
