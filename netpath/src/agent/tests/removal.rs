//! Pods that are removed without being waited for.

use super::*;

#[test]
fn a_pod_that_is_cut_off_is_in_no_table_and_the_rest_of_it_goes() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        let before = node.picture().await;
        agent.pod_add(&named("a")).await.unwrap();
        agent.pod_rm_early("a").await.unwrap();
        let left = agent.on_datapath(|datapath| (datapath.endpoints(), datapath.links())).await;
        assert_eq!((left.0.unwrap().len(), left.1.unwrap().len()), (0, 0));
        // Whoever asks for it again waits until it is gone, or finds it so.
        assert!(matches!(agent.pod_rm("a").await, Ok(()) | Err(AgentError::NoPod(_))));
        assert!(agent.pods().await.unwrap().is_empty());
        fs::remove_dir("/mnt/netns").unwrap();
        assert_eq!(node.picture().await, before);
        well(agent);
        running.stop().await;
    });
}

#[test]
fn who_wants_what_a_leaving_pod_has_waits_for_it() {
    with_node(async |mut node| {
        // Two addresses.
        node.config.network.blocks = vec!["10.61.0.0/30".parse().unwrap()];
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        let netns = "/mnt/netns/theirs";
        Netns::create(netns.as_ref()).unwrap();
        let there = || PodAdd { netns: Some(netns.into()), ..named("a") };
        agent.pod_add(&there()).await.unwrap();
        for round in 0..5 {
            // Its name, its namespace with the interface in it, its address, and any address.
            for next in [
                there(),
                PodAdd { name: format!("b{round}"), ..there() },
                PodAdd { addresses: vec!["10.61.0.1".parse().unwrap()], ..there() },
                named("a"),
                there(),
            ] {
                let now = agent.pods().await.unwrap().remove(0).name;
                agent.pod_rm_early(&now).await.unwrap();
                let added = agent.pod_add(&next).await.unwrap_or_else(|error| panic!("{next:?}: {error}"));
                whole(&node, agent, &agent.pod(added.name.as_str()).await.unwrap()).await;
            }
        }
        agent.pod_add(&named("second")).await.unwrap();
        agent.pod_rm_early("second").await.unwrap();
        agent.pod_add(&named("third")).await.expect("the block was full until the second was gone");
        assert!(matches!(agent.pod_add(&named("fourth")).await, Err(AgentError::Ipam(_))), "nobody leaves");
        well(agent);
        running.stop().await;
    });
}

#[test]
fn who_removes_all_waits_for_a_program_that_is_being_moved() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = Arc::clone(&running.agent);
        agent.pod_add(&named("a")).await.unwrap();
        let link = agent.pod("a").await.unwrap().interface;
        running.stop().await;
        let moving = agent.may_settle().await.unwrap();
        let mut removal = std::pin::pin!(agent.remove_all());
        let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut removal).await;
        assert!(early.is_err(), "it pins a link when it is done: {early:?}");
        assert!(node.netlink.link(&link).await.unwrap().is_some());
        drop(moving);
        removal.await.unwrap();
        assert!(matches!(agent.may_settle().await, Err(AgentError::Ending)), "and none begins");
        assert!(node.netlink.link(&link).await.unwrap().is_none());
    });
}
