//! Pods whose namespace is gone or does not answer.

use std::{fs::File, os::fd::AsRawFd as _};

use netpath::{api::types::PodAdd, net::Netns};
use netpath_tests::{
    for_both_families,
    node::{log, run_in},
    scene::Family,
    wait::until,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{ANNOUNCED, Breakage, PASS, Scene, shell};

for_both_families!(
    a_pod_whose_namespace_is_deleted_fails_alone,
    a_namespace_of_ours_comes_back,
    a_namespace_that_does_not_answer_holds_nobody_up,
);

fn state(scene: &Scene, name: &str) -> String {
    scene.node.runtime.block_on(scene.node.client.pod(name)).expect("pod").state
}

/// What a pod leaves on the node.
fn traces(scene: &Scene, address: &str) -> String {
    shell(
        scene.netns(),
        &format!(
            "ip -o link | sed 's/^[0-9]*: \\([^:@]*\\).*/\\1/' | sort; ip route show table all | grep {address}; \
             ip -6 route show table all | grep {address}; ls /run/netns; find /sys/fs/bpf | sort"
        ),
    )
}

fn a_pod_whose_namespace_is_deleted_fails_alone(family: Family) {
    let scene = Scene::new(&family, "");
    let theirs = Netns::create("/run/netns/theirs".as_ref()).expect("namespace");
    let before = traces(&scene, "none");
    let wanted = PodAdd { name: "c".into(), netns: Some("/run/netns/theirs".into()), ..PodAdd::default() };
    let pod = scene.node.add(&wanted);
    let own = pod.addresses.iter().find(|own| own.is_ipv6() == scene.side.v6).expect("address").to_string();
    let ping = || run_in(&scene.a.netns, "ping", &["-c", "1", "-W", "1", &own]);
    assert!(ping().contains(" 0% packet loss"), "{}", ping());
    drop(theirs);
    let breakage = Breakage {
        name: "namespace deleted",
        netns: scene.netns(),
        breaks: "ip netns del theirs".into(),
        disturbs: false,
        // The kernel takes a namespace and its links apart when it gets to it.
        within: PASS,
    };
    scene.is_repaired(&breakage, || {
        let state = state(&scene, "c");
        (!state.starts_with("failed: ") || !state.contains("/run/netns/theirs")).then_some(state)
    });
    scene.wait("host unreachable", PASS, || Some(ping()).filter(|said| !said.contains("nreachable")));
    let line = scene.problems().remove(0);
    assert!(
        line.starts_with("pod c: ") && line.contains("failed ") && line.contains("next try in"),
        "{line}"
    );
    scene.node.runtime.block_on(scene.node.client.pod_rm("c")).expect("removed");
    assert_eq!(traces(&scene, "none"), before.replace("theirs\n", ""), "nothing is left");
    scene.wait_well();
}

fn a_namespace_of_ours_comes_back(family: Family) {
    let scene = Scene::new(&family, "");
    let pod = scene.node.add(&PodAdd { name: "c".into(), ..PodAdd::default() });
    let own = pod.addresses.iter().find(|own| own.is_ipv6() == scene.side.v6).expect("address").to_string();
    let breakage = Breakage {
        name: "namespace deleted",
        netns: scene.netns(),
        breaks: "ip netns del c".into(),
        disturbs: false,
        within: PASS,
    };
    scene.is_repaired(&breakage, || {
        let said = run_in(&scene.a.netns, "ping", &["-c", "1", "-W", "1", &own]);
        (!said.contains(" 0% packet loss")).then_some(said)
    });
    scene.wait("told to be well", PASS, || Some(state(&scene, "c")).filter(|state| state != "ready"));
}

/// A file system that nobody serves: opening a file below it blocks until it is let go.
struct Hang {
    _serves: File,
}

impl Hang {
    fn over(path: &str) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("hang"), path, Some("fuse"), MsFlags::empty(), Some(options.as_str())).expect("fuse");
        Self { _serves: device }
    }
}

fn a_namespace_that_does_not_answer_holds_nobody_up(family: Family) {
    let mut scene = Scene::new(&family, "");
    std::fs::create_dir("/run/theirs").expect("directory");
    let theirs = Netns::create("/run/theirs/c".as_ref()).expect("namespace");
    let wanted = PodAdd { name: "c".into(), netns: Some("/run/theirs/c".into()), ..PodAdd::default() };
    scene.node.add(&wanted);
    let hang = Hang::over("/run/theirs");
    theirs.enter(|| run_in(&theirs, "ip", &["route", "del", "default"])).expect("namespace");
    until("the pod is told to be slow", || {
        let problems = scene.problems();
        problems.iter().any(|problem| problem.starts_with("pod c: ") && problem.contains("/run/theirs/c"))
    });
    let (host, own, flag) = (&scene.a.pod.interface, scene.side.address(&scene.a), scene.side.flag());
    for _ in 0..3 {
        let breakage = Breakage {
            name: "host route of another pod deleted",
            netns: scene.netns(),
            breaks: format!("ip {flag} route del {own} dev {host}"),
            disturbs: false,
            within: ANNOUNCED,
        };
        scene.comes_back(&breakage, &format!("ip {flag} route show {own}"), host);
    }
    let ports = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let full = Breakage {
        name: "reserved ports cleared",
        netns: scene.netns(),
        breaks: format!("echo >{ports}"),
        disturbs: false,
        within: PASS,
    };
    scene.comes_back(&full, &format!("cat {ports}"), "32768-49151");
    let changed = scene.node.netpath(&["network", "set", "default", "--masquerade", "no"]);
    assert!(changed.status.success(), "{changed:?}");
    scene.node.reconfigure("[snat]\nports = \"40000-40999\"");
    scene.wait("a new configuration", ANNOUNCED, || (!log().contains("configuration read again")).then(log));
    scene.node.stop();
    scene.node.restart();
    // It answers again, and is well again.
    drop(hang);
    umount2("/run/theirs", MntFlags::MNT_DETACH).expect("unmounted");
    scene.wait("the pod that was slow", PASS, || {
        let route = run_in(&theirs, "ip", &["route", "show", "default"]);
        (!route.contains("169.254.1.1")).then_some(route)
    });
    until("nothing is wrong any more", || scene.problems().is_empty());
}
