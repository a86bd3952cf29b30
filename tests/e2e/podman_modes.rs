//! What podman has no network for, and what it leaves when it is killed at the worst moment.

use std::net::SocketAddr;

use netpath::{api::types::Pod, net::Netns};
use netpath_tests::wait;

use crate::{
    engine::{Host, PAGE, page},
    podman::serve,
};

/// Where `netpath cni install` puts the plugin, and where [`podman_dies_after_add`] has it meanwhile.
const PLUGIN: &str = "/opt/cni/bin/netpath-cni";
const ASIDE: &str = "/opt/cni/netpath-cni";

#[test]
fn podman_without_a_network_of_its_own_ipv4_and_ipv6() {
    let host = Host::start();
    serve(&host, "-p 8080:80", "web");
    let web = host.pod("web");
    let only_web = || {
        let pods = host.pods();
        assert!(pods.len() == 1 && pods[0].name == web.name && pods[0].state == "ready", "{pods:#?}");
        host.serves(&web);
    };
    // Two containers in one namespace are one pod, which belongs to the first.
    host.run("podman run -d --network container:web --name beside image sleep 1000");
    let beside = host.run("podman exec beside ip -o address");
    for address in &web.addresses {
        assert!(
            beside.contains(&format!("eth0    inet {address}/"))
                || beside.contains(&format!("eth0    inet6 {address}/")),
            "{beside}"
        );
    }
    let (inside, own) = (host.shell("beside"), host.shell("web"));
    assert!(inside("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 80").ends_with(PAGE));
    host.is_published(8080, &[("the second container", &inside), ("the first", &own)]);
    host.run("podman rm -f -t 0 beside");
    only_web();
    host.is_published(8080, &[("itself", &own)]);

    host.run("podman run -d --network none --name alone image sleep 1000");
    let links = host.run("podman exec alone ip -o link");
    assert!(links.lines().count() == 1 && links.contains("lo:"), "{links}");
    // The node's own: what it serves is the node's, over both families, and netpath has no part in it.
    host.run("podman run -d --network host --name shared image httpd -f -h /www -p 8088");
    let links = host.run("podman exec shared ip -o link");
    assert!(links.contains("up0") && links.contains(&web.interface), "{links}");
    only_web();
    let outside = &host.surroundings.0.outside.netns;
    for node in ["198.18.0.2:8088", "[2001:db8:18::2]:8088"] {
        let to: SocketAddr = node.parse().expect("address");
        wait::until(&format!("{to} serves"), || {
            outside.enter(|| page(to)).expect("namespace").is_ok_and(|said| said.ends_with(PAGE))
        });
    }
    host.run("podman rm -f -t 0 alone shared");
    only_web();
    host.run("podman rm -f -t 0 web");
    host.is_clean();
}

/// Has podman die when the plugin has answered an ADD, before it reads that; or no more.
fn podman_dies_after_add(host: &Host, so: bool) {
    let aside = format!(
        "mv {PLUGIN} {ASIDE} && cat > {PLUGIN} <<'EOT' && chmod +x {PLUGIN}\n#!/bin/sh\n\
         said=$({ASIDE}) && [ $CNI_COMMAND = ADD ] && kill -KILL $PPID\necho \"$said\"\nEOT"
    );
    host.run(if so { aside } else { format!("mv {ASIDE} {PLUGIN}") }.as_str());
}

/// The doctor names pods that no container is in.
fn is_told(host: &Host, left: &[Pod]) {
    // The doctor's exit status is that of the worst it found.
    let told = host.machine.try_run("netpath doctor -o json");
    let told: serde_json::Value =
        serde_json::from_slice(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"));
    let is_leftover = |check: &&serde_json::Value| check["name"] == "leftover-pods";
    let checks = told["checks"].as_array().unwrap_or_else(|| panic!("{told}"));
    let leftover = checks.iter().find(is_leftover).unwrap_or_else(|| panic!("{told}"));
    assert_eq!(leftover["status"], "warning", "{leftover}");
    assert!(left.iter().all(|pod| leftover["seen"].to_string().contains(&pod.name)), "{leftover}");
}

#[test]
fn podman_killed_right_after_add_leaves_a_pod_until_start_pod_rm_or_gc() {
    let host = Host::start();
    podman_dies_after_add(&host, true);
    for name in ["again", "by-hand", "collected"] {
        let killed = host.machine.try_run(&format!("podman run -d --name {name} image"));
        assert!(!killed.status.success(), "{killed:?}");
    }
    podman_dies_after_add(&host, false);
    let noted = host.run("podman ps -a --format '{{.Names}} {{.State}}'");
    assert_eq!(noted.lines().filter(|line| line.ends_with(" Created")).count(), 3, "{noted}");
    let left = ["again", "by-hand", "collected"].map(|name| host.pod(name));
    for pod in &left {
        let state = (pod.state.as_str(), Netns::open(&host.machine.path(&pod.netns)).is_ok());
        assert_eq!(state, ("ready", true), "{pod:#?}");
    }

    // Started again, in another namespace, it is one pod as ever.
    host.run("podman start again");
    let again = host.pod("again");
    assert_ne!(again.netns, left[0].netns);
    host.serves(&again);
    assert_eq!(host.pods().len(), 3);
    is_told(&host, &left[1..]);
    host.run("podman rm -f -t 0 again");
    // Of the others podman knows no network: it asks nobody to remove them from one.
    for name in ["by-hand", "collected"] {
        let removed = || host.machine.try_run(&format!("podman rm -f -t 0 {name}")).status.success();
        wait::until("podman has forgotten it", removed);
    }
    assert_eq!(host.run("podman ps -a --quiet"), "");
    let names = || host.pods().into_iter().map(|pod| pod.name).collect::<Vec<_>>();
    assert_eq!(names(), [left[1].name.as_str(), &left[2].name]);
    host.run(&format!("netpath pod rm {}", left[1].name));
    assert_eq!(names(), [left[2].name.as_str()]);
    host.collect();
    host.is_clean();
}
