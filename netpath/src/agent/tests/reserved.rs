//! Ports that the host is to leave alone, where it cannot be told so.

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;
use crate::api::types::PodSet;

const FILE: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Nobody can write the sysctl until [`umount2`].
fn forbid() {
    fs::write("/mnt/ports", format!("{}\n", sysctl::read(PORTS).unwrap())).unwrap();
    let none = None::<&str>;
    mount(Some("/mnt/ports"), FILE, none, MsFlags::MS_BIND, none).unwrap();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, FILE, none, flags, none).unwrap();
}

#[test]
fn ports_that_cannot_be_reserved_are_published_and_told() {
    with_node(async |node| {
        let running = node.start(memory()).await.unwrap();
        let agent = &running.agent;
        forbid();
        let ports = async || agent.published().await.unwrap().iter().map(|one| one.port).collect::<Vec<_>>();
        let told = || lock(&agent.problems).reasons().get("reserved ports").cloned().unwrap_or_default();
        agent.pod_add(&PodAdd { publish: vec!["8080:80".into()], ..named("a") }).await.unwrap();
        assert_eq!(ports().await, [8080]);
        assert!(told().contains("ip_local_reserved_ports"), "{}", told());
        let more = PodSet { publish: vec!["8081:80".into()], ..PodSet::default() };
        agent.pod_set("a", &more).await.unwrap();
        assert_eq!(ports().await, [8080, 8081]);
        umount2(FILE, MntFlags::MNT_DETACH).unwrap();
        agent.pass(Extent::Full).await;
        well(agent);
        assert_eq!(sysctl::read(PORTS).unwrap(), "8080-8081,32768-49151");
        forbid();
        agent.pod_rm("a").await.unwrap();
        assert!(agent.pods().await.unwrap().is_empty());
        assert!(told().contains("ip_local_reserved_ports"), "{}", told());
        umount2(FILE, MntFlags::MNT_DETACH).unwrap();
        agent.pass(Extent::Full).await;
        assert_eq!(sysctl::read(PORTS).unwrap(), "32768-49151");
        well(agent);
        running.stop().await;
    });
}
