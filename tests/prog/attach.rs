//! Attaching and detaching, on an interface that carries nothing.

use netpath_tests::scene::Scene;

/// Rounds: the kernel lets go of a tcx link a little after its pin is removed, now and then too late.
const ROUNDS: usize = 50;

#[test]
fn what_was_detached_can_be_attached_again_at_once() {
    let mut scene = Scene::new();
    for round in 0..ROUNDS {
        scene.datapath.attach_uplink("up0", scene.uplink).unwrap_or_else(|error| panic!("{round}: {error}"));
        scene.datapath.detach(scene.uplink).unwrap_or_else(|error| panic!("{round}: {error}"));
    }
}
