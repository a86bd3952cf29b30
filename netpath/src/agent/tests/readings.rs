//! What is read of the datapath while somebody works on it.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::api::types::FlowFilter;

/// Attaching waits for the kernel; the watchdog asks for the status, which is to tell when nothing gets on.
#[test]
fn who_only_reads_waits_for_nobody_at_the_datapath() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        agent.pod_add(&named("a")).await.unwrap();
        let held = agent.datapath.lock().await;
        let reads = async {
            assert_eq!(agent.pods().await.unwrap().len(), 1);
            agent.pod("a").await.unwrap();
            agent.drops(true).await.unwrap();
            agent.metrics().await.unwrap();
            agent.flows(&FlowFilter::default()).await.map(drop).unwrap();
        };
        timeout(Duration::from_secs(20), reads).await.expect("somebody holds the datapath");
        drop(held);
        running.stop().await;
    });
}
