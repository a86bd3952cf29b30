//! The connectivity matrix, and what it must not leave behind.

use netpath::{
    api::types::PodAdd,
    datapath::{AttachKind, Datapath, DatapathError, Options},
    lab::checks::{self, LabPod, Scene},
};
use netpath_tests::{kernel, node::Node};

fn matrix(configuration: &str) {
    matrix_of(configuration, [None, None, None]);
}

/// With the modes that the three pods ask for.
fn matrix_of(configuration: &str, modes: [Option<&str>; 3]) {
    let node = Node::start(configuration);
    let pod = |(name, mode): (&str, Option<&str>)| {
        let wanted = PodAdd { name: name.into(), mode: mode.map(str::to_owned), ..PodAdd::default() };
        LabPod::open(node.add(&wanted)).expect("pod")
    };
    let pods = ["a", "b", "c"].into_iter().zip(modes).map(pod).collect();
    let scene = Scene {
        topology: node.topology.clone(),
        pods,
        client: node.client.clone(),
        runtime: node.runtime.handle().clone(),
    };
    let checks = checks::run(&scene, |check| println!("{} {}: {}", check.ok, check.name, check.detail));
    let failed: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // The one check that is meant to be refused is the only one that was.
    let drops = node.runtime.block_on(node.client.drops()).expect("drops");
    let reasons: Vec<_> = drops.iter().map(|drop| drop.reason.as_str()).collect();
    assert_eq!(reasons, ["InboundDenied"], "no unexpected drop: {drops:?}");
}

#[test]
fn matrix_with_tcx() {
    if kernel::lacks((6, 6), "tcx (e420bed02507)") {
        let refused = Datapath::load(&Options {
            pin_dir: "/sys/fs/bpf/netpath/none".into(),
            gateway_mac: [2, 0, 0, 0, 0, 1],
            flow_entries: 1024,
            attach: AttachKind::Tcx.into(),
            forget_flows: false,
        });
        assert!(matches!(refused, Err(DatapathError::NoTcx)), "refused, with the reason");
        return;
    }
    matrix("[datapath]\nattach = \"tcx\"");
}

#[test]
fn matrix_with_clsact() {
    matrix("[datapath]\nattach = \"clsact\"");
}

#[test]
fn matrix_with_xdp() {
    matrix("[datapath]\nmode = \"xdp\"");
}

#[test]
fn matrix_with_xdp_over_clsact() {
    matrix("[datapath]\nmode = \"xdp\"\nattach = \"clsact\"");
}

#[test]
fn matrix_with_xdp_beside_tc() {
    matrix_of("", [Some("xdp"), None, Some("xdp")]);
}
