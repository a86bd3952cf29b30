//! Passes: what they see, whom they leave alone, and what they cost.

use std::{collections::HashSet, time::Duration};

use nix::{
    sys::resource::{UsageWho, getrusage},
    sys::time::TimeValLike as _,
};

use super::*;

/// Time on CPUs of this process so far, the kernel's on its behalf included.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(micros.try_into().unwrap())
}

/// `NETPATH_MEASURE=1 cargo test --release -p netpath --lib -- --nocapture cost_of_a_pass`
#[test]
fn cost_of_a_pass() {
    let Some(pods) = std::env::var_os("NETPATH_MEASURE") else { return };
    let pods: u32 = pods.to_str().and_then(|pods| pods.parse().ok()).filter(|pods| *pods > 1).unwrap_or(1000);
    with_node(async |mut node| {
        node.config.network.blocks =
            ["10.64.0.0/16", "fd00:61::/64"].map(|block| block.parse().unwrap()).into();
        let Running { agent, mut tasks, .. } = node.start(memory()).await.unwrap();
        tasks.shutdown().await;
        let began = (Instant::now(), cpu());
        for n in 0..pods {
            agent.pod_add(&named(&format!("p{n}"))).await.unwrap();
        }
        println!("{pods} pods added in {:?}, {:?} of CPU", began.0.elapsed(), cpu() - began.1);
        let nobody = HashSet::new();
        lock(&agent.node).pods_announce = true;
        for round in 1..=3 {
            let mut at = cpu();
            let mut told = |what: &str| {
                let now = cpu();
                println!("round {round}: {what:<42} {:>8.2} ms", (now - at).as_secs_f64() * 1e3);
                at = now;
            };
            agent.look().await.unwrap();
            told("look: links, addresses, neighbours, routes");
            agent.ensure_node().await;
            told("the node");
            agent.ensure_pods(Extent::Announced, &nobody).await;
            told("pods, what is announced");
            agent.pass(Extent::Regular).await;
            told("regular pass without the look");
            agent.pass(Extent::Full).await;
            told("full pass without the look");
        }
        well(&agent);
        let looping = tokio::spawn(Arc::clone(&agent).reconcile_loop());
        // The kernel announces for some seconds what became of the new links' own addresses.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let idle = (Instant::now(), cpu());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (wall, used) = (idle.0.elapsed(), cpu() - idle.1);
        println!("idle: {:.2} ms of CPU a second", used.as_secs_f64() * 1e3 / wall.as_secs_f64());
        looping.abort();
    });
}
