//! Two nodes with an etcd of a later release than the machine's.

use netpath_tests::{cluster::Cluster, for_both_families, scene::Family, wait};

use crate::direct::{address, ping};

for_both_families!(etcd_of_a_later_release_serves_a_cluster);

fn etcd_of_a_later_release_serves_a_cluster(family: Family) {
    let mut cluster = Cluster::start_later(2);
    let status = cluster.etcd.ctl(&["endpoint", "status", "-w", "json"]);
    assert!(status.contains("\"version\":\"3.5."), "{status}");
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let (a, b) = (one.named("a"), two.named("b"));
    let reached = || ping(&a.netns, &[], address(&b, &family)).contains("ttl=62");
    assert!(reached());
    let row = |at: usize, cluster: &Cluster| {
        let listed = cluster.nodes[at].netpath(&["network", "ls"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        listed.lines().find(|row| row.starts_with("back")).map(str::to_owned)
    };
    let done = |cluster: &Cluster, line: &str| {
        let output = cluster.nodes[0].netpath(&line.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {output:?}");
    };
    done(&cluster, "network add back --subnet 10.70.0.0/16 --subnet fd00:70::/48");
    wait::until("the other node has it", || row(1, &cluster).is_some());

    let leader = cluster.etcd.leader();
    cluster.etcd.kill(leader);
    done(&cluster, "network set back --mtu 1400");
    wait::until("the other hears of it", || row(1, &cluster).is_some_and(|row| row.contains("1400")));

    let before = cluster.nodes[1].blocks();
    cluster.nodes[1].kill();
    done(&cluster, "network set back --mtu 1300");
    cluster.nodes[1].restart();
    wait::until("the other hears of it", || row(1, &cluster).is_some_and(|row| row.contains("1300")));
    assert_eq!(cluster.nodes[1].blocks(), before);
    assert!(reached());
    cluster.etcd.restart();
    done(&cluster, "network rm back");
    wait::until("the other has lost it", || row(1, &cluster).is_none());
    for node in &cluster.nodes {
        wait::until("nothing is wrong", || node.problems().is_empty());
    }
}
