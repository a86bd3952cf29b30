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
