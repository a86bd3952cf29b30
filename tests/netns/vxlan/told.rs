//! What keeps tunnels from passing, and who tells.

use netpath_tests::{
    cluster::{Cluster, ClusterMember},
    for_both_families,
    scene::Family,
    wait,
};
use serde_json::Value;

use crate::direct::{address, ping};

for_both_families!(etcd_vxlan_that_a_firewall_drops_is_told_by_the_doctor);

/// What the doctor says: outcome and advice.
fn doctor(node: &ClusterMember, check: &str) -> (String, String) {
    let said = node.netpath(&["doctor", "-o", "json"]);
    let report: Value =
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let rows = report["checks"].as_array().unwrap_or_else(|| panic!("{report}"));
    let row = rows.iter().find(|row| row["name"] == check).unwrap_or_else(|| panic!("{report}"));
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("advice"))
}

pub(super) fn etcd_vxlan_that_a_firewall_drops_is_told_by_the_doctor(family: Family) {
    let cluster = Cluster::start_with(2, "backend = \"vxlan\"");
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let (a, b) = (one.named("a"), two.named("b"));
    let reaches = || ping(&a.netns, &["-W", "1"], address(&b, &family)).contains("1 received");
    wait::until("b answers", reaches);
    for check in ["programs-tunnels", "firewall-tunnels"] {
        assert_eq!(doctor(one, check).0, "ok", "{check}");
    }
    // What many firewalls are: only who is asked may answer.
    let nft = |words: &str| assert_eq!(one.run("nft", &[words]), "", "{words}");
    nft("add table inet fw");
    nft("add chain inet fw in { type filter hook input priority 0; policy drop; }");
    for known in [
        "iifname lo",
        "ct state established,related",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }",
    ] {
        nft(&format!("add rule inet fw in {known} accept"));
    }
    assert!(!reaches(), "its answers are dropped");
    let (status, advice) = doctor(one, "firewall-tunnels");
    assert_eq!(status, "warning", "{advice}");
    assert_eq!(doctor(two, "firewall-tunnels").0, "ok");
    let command = advice
        .split('`')
        .nth(1)
        .and_then(|command| command.strip_prefix("nft "))
        .unwrap_or_else(|| panic!("{advice}"));
    nft(command);
    wait::until("b answers again", reaches);
    assert_eq!(doctor(one, "firewall-tunnels").0, "ok");
}

#[test]
fn etcd_vxlan_of_nodes_that_differ_is_told_by_both() {
    let mut cluster = Cluster::start_with(1, "backend = \"vxlan\"");
    cluster.set_line("backend = \"vxlan\"\nvni = 111");
    cluster.join();
    cluster.wait_known();
    for (at, other, theirs, own) in [(0, "node2", 111, 110), (1, "node1", 110, 111)] {
        let told = format!(
            "node {other} has cluster.vxlan_port = 4789 and vni = {theirs}, and this node vxlan_port = 4789 and vni = {own}"
        );
        wait::until(&told, || cluster.nodes[at].problems().contains(&told));
    }
    // It is told what the others have.
    cluster.nodes[1].replace("vni = 111", "");
    cluster.nodes[1].kill();
    cluster.nodes[1].restart();
    wait::until("nothing is wrong", || cluster.nodes.iter().all(|node| node.problems().is_empty()));
    let (a, b) = (cluster.nodes[0].named("a"), cluster.nodes[1].named("b"));
    let reaches = |v6| ping(&a.netns, &["-W", "1"], b.at(v6).expect("address")).contains("1 received");
    wait::until("b answers", || reaches(netpath::model::Family::V4) && reaches(netpath::model::Family::V6));
}
