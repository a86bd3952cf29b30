//! The same program twice on a hook, by tcx and behind that by clsact: a packet is judged once.

use netpath_common::abi::{DropReason, Program, TrafficClass};
use netpath_tests::{
    for_both_families,
    kernel::lacks,
    packet::Frame,
    scene::{Context, Family, GATEWAY_MAC, NEXT, Pod, Ran, Scene},
};

for_both_families!(
    what_goes_on_is_judged_once_at_a_hook,
    no_pod_can_write_a_note,
    only_programs_that_may_be_twice_leave_notes,
);

/// What a pod's `from_pod` finds beside a packet.
fn noted(pod: Pod, notes: [u32; 5]) -> Context {
    Context { ifindex: pod.ifindex, notes, ..Context::default() }
}

fn to_the_node(f: &Family, pod: Pod) -> Vec<u8> {
    Frame::udp((f.a, 1), (f.node, 2)).macs(pod.mac, GATEWAY_MAC).bytes()
}

fn what_goes_on_is_judged_once_at_a_hook(f: Family) {
    if lacks((6, 6), "a pod's program by both kinds") {
        return;
    }
    let scene = Scene::new();
    let (packet, a) = (to_the_node(&f, scene.a), scene.a);
    let run = |notes| scene.run(Program::FromPod, &packet, noted(a, notes));
    let counted = || {
        let sent = scene.datapath.readings().pod_counter(a.id).expect("counter").tx_packets;
        (scene.traffic(TrafficClass::ToNode), sent)
    };
    let by_tcx = run([0; 5]);
    by_tcx.assert_untouched("first", &packet);
    assert_eq!(counted(), (1, 1));
    let by_clsact = run(by_tcx.notes);
    by_clsact.assert_untouched("second", &packet);
    assert_eq!(counted(), (1, 1), "judged twice");
    let later = run(by_clsact.notes);
    assert_eq!((later.code, counted()), (NEXT, (2, 2)), "a note is good for one time");
    let elsewhere = scene.run(Program::FromPod, &packet, noted(scene.b, by_tcx.notes));
    assert_ne!(elsewhere.code, NEXT, "it is a note of another interface");
    let next = scene.load_again(1024);
    let program = next.program(Program::FromPod).expect("program");
    netpath_tests::scene::run_program(program, &packet, noted(a, by_tcx.notes)).expect("run");
    assert_eq!(counted(), (3, 3), "another loading has notes of its own");
}

/// What a pod writes crosses to the host end of its link, where `from_pod` is the first to look.
fn no_pod_can_write_a_note(f: Family) {
    let scene = Scene::new();
    let a = scene.a;
    let stolen = Frame::udp((f.b, 1), (f.node, 2)).macs(a.mac, GATEWAY_MAC).bytes();
    let own = Program::FromPod as u32;
    for notes in [[0, 0, 0, 0x6e70 | own << 16, a.ifindex], [0, 0, 0, own, a.ifindex], [0, 0, 0, 0, 0]] {
        scene.expect_drop(&format!("{notes:x?}"), DropReason::SpoofedSource, |scene| {
            scene.run(Program::FromPod, &stolen, noted(a, notes))
        });
    }
}

fn only_programs_that_may_be_twice_leave_notes(f: Family) {
    let scene = Scene::new();
    let left = |ran: Ran| (ran.code, ran.notes);
    let from_the_node = Frame::udp((f.node, 1), (f.a, 2)).macs(GATEWAY_MAC, scene.a.mac).bytes();
    assert_eq!(left(scene.to_a(&from_the_node, 0)), (NEXT, [0; 5]));
    let leaves = Frame::udp((f.node, 1), (f.outside, 2)).bytes();
    assert_eq!(left(scene.leaves(&leaves, 0, 0)), (NEXT, [0; 5]));
}
