//! podman with its CNI backend, netpath its network.

use std::time::Duration;

use netpath::net::Netns;
use netpath_tests::wait;

use crate::engine::{Host, LENT, page};

/// Starts a container that serves a page; flags first, then its name.
pub(crate) fn serve(host: &Host, flags: &str, name: &str) {
    host.run(&format!("podman run -d --cap-add NET_RAW {flags} --name {name} image httpd -f -h /www -p 80"));
}

#[test]
fn podman_containers_come_go_and_restart_ipv4_and_ipv6() {
    let host = Host::start();
    serve(&host, "", "web");
    let web = host.pod("web");
    host.serves(&web);
    for address in ["198.18.1.2", "2001:db8:18:1::2"] {
        let said = host.run(&format!("podman exec web ping -c 1 -W 3 {address}"));
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    serve(&host, "--ip 10.61.0.77 --mac-address 02:00:00:00:00:77", "fixed");
    let fixed = host.pod("fixed");
    assert_eq!(
        (fixed.addresses[0].to_string(), fixed.mac.as_str()),
        ("10.61.0.77".into(), "02:00:00:00:00:77")
    );
    let seen = host
        .run("podman inspect fixed --format '{{(index .NetworkSettings.Networks \"netpath\").IPAddress}}'");
    assert_eq!(seen, "10.61.0.77");
    let said =
        host.run(&format!("podman run --rm --cap-add NET_RAW image ping -c 1 -W 3 {}", fixed.addresses[0]));
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert_eq!(host.pods().len(), 2, "a container that ends leaves nothing");

    host.run("podman restart -t 0 fixed");
    let again = host.pod("fixed");
    assert_eq!(again.addresses[0], fixed.addresses[0]);
    assert_ne!(again.netns, fixed.netns);
    host.serves(&again);
    host.run("podman stop -t 0 web");
    wait::until("a stopped container has no pod", || host.pods().len() == 1);
    host.run("podman start web");
    host.serves(&host.pod("web"));
    host.run("podman rm -f -t 0 web fixed");
    host.is_clean();
}

#[test]
fn podman_networks_and_pods_of_several_containers() {
    let host = Host::start();
    host.run("netpath network add back --subnet 10.62.0.0/24 --subnet fd00:62::/64");
    host.run("netpath cni install --name back --network back");
    serve(&host, "--network netpath --network back", "both");
    let both: Vec<_> = host.pods();
    let mut networks: Vec<_> = both.iter().map(|pod| pod.network.as_str()).collect();
    networks.sort_unstable();
    assert_eq!(networks, ["back", "default"]);
    assert_eq!(both[0].netns, both[1].netns, "{both:#?}");
    both.iter().for_each(|pod| host.serves(pod));

    serve(&host, "--network netpath", "web");
    host.run("podman network connect back web");
    let of_web = || host.pods().into_iter().filter(|pod| pod.name.starts_with("web-")).collect::<Vec<_>>();
    assert_eq!(of_web().len(), 2);
    of_web().iter().for_each(|pod| host.serves(pod));
    let links = host.run("podman exec web ip link");
    assert!(links.contains("eth1"), "{links}");
    host.run("podman network disconnect back web");
    assert_eq!(of_web().len(), 1);
    host.run("podman rm -f -t 0 web both");

    // Containers of a podman pod have one namespace; podman's own cgroup for them does without controllers here.
    host.run("podman pod create --name shop --share-parent=false");
    serve(&host, "--pod shop", "front");
    assert_eq!(host.pods().len(), 1);
    host.serves(&host.pods()[0]);
    host.run("podman run --rm --pod shop image sh -c 'nc -w 5 127.0.0.1 80 </dev/null'");
    assert_eq!(host.pods().len(), 1);
    host.run("podman pod rm -f -t 0 shop");
    host.is_clean();
}

#[test]
fn podman_while_the_agent_restarts_or_is_away() {
    let host = Host::start();
    serve(&host, "", "web");
    let web = host.pod("web");
    host.agent("restart");
    host.serves(&web);
    host.agent("stop");
    host.serves(&web);
    let refused = host.machine.try_run("podman run --rm image true");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("netpath agent run"), "{said}");
    host.run("podman rm -f -t 0 web");
    let queued = host.run("ls /var/lib/netpath/default/cni-del");
    assert!(queued.lines().count() >= 1, "{queued}");
    host.agent("start");
    host.is_clean();
    serve(&host, "", "web");
    host.serves(&host.pod("web"));
    host.run("podman rm -f -t 0 web");
    host.is_clean();
}

#[test]
fn podman_killed_in_the_middle_leaves_nothing_after_gc() {
    let host = Host::start();
    for round in 0..8_u32 {
        // From before it asks for a network until after the container runs.
        let pause = Duration::from_millis(100) * round;
        let line = format!(
            "podman run -d --name web image sleep 1000 >/dev/null 2>&1 & pid=$!; sleep {}; kill -KILL $pid; wait $pid",
            pause.as_secs_f32()
        );
        let _ = host.machine.try_run(&line);
        wait::until("podman clears up", || host.machine.try_run("podman rm -f -t 0 web").status.success());
        println!("round {round}: {:?}", host.pods().iter().map(|pod| &pod.name).collect::<Vec<_>>());
    }
    // Killed while the plugin works, podman has not written down yet that there is a network: it forgets the container, its
    // namespace and all, without asking anybody to remove it. Collecting does.
    for pod in host.pods() {
        let id = pod.attachment.expect("attachment").container;
        assert!(
            !host.run("podman ps -a --no-trunc --format '{{.ID}}'").contains(&id),
            "{id} is podman's still"
        );
        assert!(Netns::open(&host.machine.path(&pod.netns)).is_ok(), "{}: podman has removed it", pod.netns);
    }
    host.collect();
    host.is_clean();
    serve(&host, "", "web");
    host.serves(&host.pod("web"));
    host.run("podman rm -f -t 0 web");
    host.is_clean();
}

#[test]
fn podman_publishes_ports_ipv4_and_ipv6() {
    let host = Host::start();
    serve(&host, "-p 8080:80", "web");
    serve(&host, LENT, "client");
    let web = host.shell("web");
    let is_published = || {
        host.is_published(8080, &[("itself", &web)]);
        host.is_published_to("client", 8080);
    };
    is_published();
    host.agent("restart");
    is_published();
    // What podman itself binds is no obstacle, neither when the container is started again nor while it runs.
    host.run("podman restart -t 0 web");
    is_published();
    host.run("podman network reload web");
    is_published();
    host.run("podman network disconnect netpath web && podman network connect netpath web");
    is_published();
    let refused = |line: &str, reason: &str| {
        let taken = host.machine.try_run(line);
        let said = String::from_utf8_lossy(&[taken.stderr, taken.stdout].concat()).into_owned();
        assert!(!taken.status.success() && said.contains(reason), "{said}");
    };
    refused("podman run -d -p 8080:80 --name other image", "8080:80/tcp: it is in use");
    host.run("systemd-run --quiet --unit listener busybox nc -l -p 8081 -e true");
    wait::until("it listens", || host.run("ss -Hltn 'sport = :8081'").contains("8081"));
    refused("podman run -d -p 8081:80 --name listening image", "a socket of the node");
    host.run("podman rm -f -t 0 -a");
    assert_eq!(host.run("netpath publish ls -o json"), "[]");
    let left = host.surroundings.0.outside.netns.enter(|| page("198.18.0.2:8080".parse().expect("address")));
    assert!(left.expect("namespace").is_err());
    host.is_clean();
}

#[test]
fn podman_ports_stay_as_long_as_one_network_ipv4_and_ipv6() {
    let host = Host::start();
    host.run("netpath network add back --subnet 10.62.0.0/24 --subnet fd00:62::/64");
    host.run("netpath cni install --name back --network back");
    // On both networks podman asks for the same ports.
    serve(&host, "-p 8080:80 --network netpath --network back", "web");
    let inside = host.shell("web");
    let leads_to = |network: &str| {
        host.is_published(8080, &[("itself", &inside)]);
        let rows: serde_json::Value =
            serde_json::from_str(&host.run("netpath publish ls -o json")).expect("JSON");
        let pods = host.pods();
        let pod = pods.iter().find(|pod| pod.name == rows[0]["pod"]).expect("pod");
        assert_eq!((rows.as_array().map(Vec::len), pod.network.as_str()), (Some(1), network), "{rows}");
    };
    host.run("podman network disconnect netpath web");
    leads_to("back");
    host.run("podman network connect netpath web");
    leads_to("back");
    host.run("podman network disconnect back web");
    leads_to("default");
    host.run("podman rm -f -t 0 web");
    host.is_clean();
}
