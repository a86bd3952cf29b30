//! What a start makes of the state it finds.

use super::*;

#[test]
fn a_state_that_no_agent_wrote_is_refused_by_its_mistake() {
    with_node(async |node| {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&node.config.paths.store()).unwrap());
        let running = node.start(Arc::clone(&store)).await.unwrap();
        running.agent.pod_add(&named("a")).await.unwrap();
        running.agent.pod_add(&named("b")).await.unwrap();
        running.stop().await;
        let read =
            async |name: &str| -> model::Pod { store.read(&format!("pods/{name}")).await.unwrap().unwrap() };
        let (a, b) = (read("a").await, read("b").await);
        let mistakes = [
            (model::Pod { interfaces: Vec::new(), ..b.clone() }, "pod b has no interface"),
            (model::Pod { slot: a.slot, ..b.clone() }, "pod b has slot "),
            (model::Pod { id: 0, ..b.clone() }, "pod b has the number 0"),
            (model::Pod { interfaces: a.interfaces, ..b.clone() }, "twice"),
        ];
        for (wrong, words) in mistakes {
            store.write("pods/b", &wrong).await.unwrap();
            let Err(refused) = node.start(Arc::clone(&store)).await else { panic!("{words}: taken") };
            assert!(refused.to_string().contains(words), "{refused}");
        }
        store.write("pods/b", &b).await.unwrap();
        node.start(store).await.unwrap().stop().await;
    });
}

/// An earlier netpath let networks have the names that stand for none now.
#[test]
fn a_network_with_a_reserved_name_keeps_its_pods() {
    with_node(async |node| {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&node.config.paths.store()).unwrap());
        let running = node.start(Arc::clone(&store)).await.unwrap();
        let network = NetworkAdd {
            name: "old".into(),
            subnets: vec!["10.62.0.0/24".parse().unwrap()],
            ..NetworkAdd::default()
        };
        running.agent.network_add(&network).await.unwrap();
        let old = PodAdd { networks: vec!["old".into()], ..named("a") };
        running.agent.pod_add(&old).await.unwrap();
        running.stop().await;
        let mut network: model::Network = store.read("networks/old").await.unwrap().unwrap();
        let mut pod: model::Pod = store.read("pods/a").await.unwrap().unwrap();
        network.name = "none".into();
        pod.interfaces[0].network = "none".into();
        store.delete("networks/old").await.unwrap();
        store.write("networks/none", &network).await.unwrap();
        store.write("pods/a", &pod).await.unwrap();
        let agent = node.start(store).await.unwrap().agent;
        let a = agent.pod("a").await.unwrap();
        assert_eq!((&a.network[..], &a.state[..], a.addresses.len()), ("none", "ready", 1));
        agent.pod_rm("a").await.unwrap();
        agent.network_rm("none").await.unwrap();
    });
}
