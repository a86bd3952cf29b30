//! Which RST ends a connection: one that lies between what its receiver has acknowledged and what its sender has sent (RFC
//! 5961, 3), or that answers a SYN (RFC 9293, 3.10.7).

use netpath_common::abi::Flow;
use netpath_tests::{
    for_both_families,
    packet::{ACK, Frame, RST, SYN, SYN_ACK},
    scene::{Family, REDIRECT, Scene},
};

use crate::connection::{Connection, FIN_ACK, PORT, RST_ACK, Side};

for_both_families!(
    a_reset_out_of_window_changes_nothing,
    a_reset_in_window_ends_until_data_follows,
    a_reset_with_much_in_flight_ends_its_connection,
    a_train_counts_with_all_of_its_segments,
    a_forged_segment_makes_no_room_for_a_reset,
    an_answer_to_a_syn_ends_it_only_if_it_acknowledges_it,
    a_pod_that_refuses_a_connection_from_outside_ends_its_flow,
);

const SEGMENT: u32 = 1400;
/// As much as a test run's packet may hold.
const TRAIN: u32 = 3000;

/// After the handshake a segment and an RST start here, and acknowledge that.
const fn start(from: Side) -> (u32, u32) {
    match from {
        Side::Pod => (2, 1001),
        Side::Server => (1001, 2),
    }
}

const SIDES: [Side; 2] = [Side::Pod, Side::Server];

fn assert_ignored(connection: &Connection, from: Side, sequences: impl IntoIterator<Item = u32>) {
    for sequence in sequences {
        connection.send(from, RST, (sequence, 0), 0);
        connection.is("established", &format!("an RST of {from:?} at {sequence}"));
    }
}

fn a_reset_out_of_window_changes_nothing(f: Family) {
    let connection = Connection::new(f);
    for from in SIDES {
        let (next, _) = start(from);
        let far = [1, 65_535, 65_536, 1 << 31, (1 << 31) + 1];
        let around = far.into_iter().flat_map(|by| [next.wrapping_add(by), next.wrapping_sub(by)]);
        assert_ignored(&connection, from, around.chain([0, u32::MAX]));
    }
}

fn a_reset_in_window_ends_until_data_follows(f: Family) {
    for lag in [0, 1, 700] {
        let connection = Connection::new(f);
        connection.send(Side::Server, ACK, (1001, 2), 700);
        connection.back(RST, 1001 + lag, 0);
        connection.is("reset", &format!("the server's RST {lag} bytes on"));
        connection.back(ACK, 1701, 2);
        connection.is("established", "the server's data");
        connection.out(RST, 2, 0);
        connection.is("reset", "the pod's RST");
        connection.out(ACK, 2, 1701);
        connection.is("established", "the pod's data");
        assert_ignored(&connection, Side::Server, [1001, 1700, 1702]);
    }
    let connection = Connection::new(f);
    connection.back(FIN_ACK, 1001, 2);
    assert_ignored(&connection, Side::Server, [1003]);
    connection.back(RST, 1002, 0);
    connection.is("reset", "a FIN takes a number");
}

/// With window scaling megabytes may be on the way.
fn a_reset_with_much_in_flight_ends_its_connection(f: Family) {
    const SEGMENTS: u32 = 100;
    for from in SIDES {
        let (next, ack) = start(from);
        let end = next + SEGMENTS * SEGMENT;
        for at in [end, end - 1, next + 65_536, next] {
            let connection = Connection::new(f);
            for n in 0..SEGMENTS {
                connection.send(from, ACK, (next + n * SEGMENT, ack), SEGMENT as usize);
            }
            // Sent again; what was sent after it stays known.
            connection.send(from, ACK, (next, ack), SEGMENT as usize);
            assert_ignored(&connection, from, [end + 1, next - 1, end + 65_535]);
            connection.send(from, RST, (at, 0), 0);
            connection.is("reset", &format!("an RST of {from:?} at {at}, sent up to {end}"));
        }
    }
}

fn a_train_counts_with_all_of_its_segments(f: Family) {
    for from in SIDES {
        for says_length in [true, false] {
            let (next, ack) = start(from);
            let connection = Connection::new(f);
            connection.send_train(from, (next, ack), TRAIN as usize, says_length);
            assert_ignored(&connection, from, [next + TRAIN + 1]);
            connection.send(from, RST, (next + TRAIN, 0), 0);
            connection.is("reset", &format!("{from:?}, says its length: {says_length}"));
        }
    }
}

/// Whoever does not know the numbers could else send data first, and then the RST.
fn a_forged_segment_makes_no_room_for_a_reset(f: Family) {
    let connection = Connection::new(f);
    for forged in [1 << 21, 1 << 30, 3 << 30, u32::MAX - (1 << 21)] {
        let before = connection.pair();
        for flags in [ACK, SYN_ACK, FIN_ACK] {
            connection.send(Side::Server, flags, (1001_u32.wrapping_add(forged), forged), 100);
        }
        let after = connection.pair();
        let known = |half: Flow| (half.tcp_seen, half.peer_seen, half.tcp_ack, half.tcp_end, half.tcp_new);
        assert_eq!(known(after.original), known(before.original), "{forged}");
        assert_eq!(after.reply.map(known), before.reply.map(known), "{forged}");
        connection.send(Side::Server, SYN, (1001_u32.wrapping_add(forged), 0), 0);
        assert_ignored(&connection, Side::Server, [forged, 1001 + 1, 1001 + 50_000]);
    }
    connection.back(RST, 1001, 0);
    connection.is("reset", "the real one");
}

fn an_answer_to_a_syn_ends_it_only_if_it_acknowledges_it(f: Family) {
    const ISN: u32 = 0x89ab_cdef;
    let connection = Connection::unopened(f);
    // What stands where the acknowledgement would is nothing without the flag.
    connection.out(SYN, ISN, 0x1234_5678);
    for (flags, sequence, ack) in [
        (RST, 0, ISN + 1),
        (RST, ISN + 1, 0),
        (RST_ACK, 0, ISN),
        (RST_ACK, 0, ISN + 2),
        (RST_ACK, ISN + 1, 0),
    ] {
        connection.back(flags, sequence, ack);
        connection.is("unreplied", &format!("{flags:?} {sequence} {ack}"));
    }
    connection.back(RST_ACK, 0, ISN + 1);
    connection.is("reset", "refused");
    // The port is used again, and refused again; the second time at the second attempt.
    connection.out(SYN, 5, 0);
    connection.out(SYN, 3_000_000_000, 0);
    connection.back(RST_ACK, 0, 6);
    connection.is("unreplied", "the answer to an earlier attempt");
    connection.back(RST_ACK, 0, 3_000_000_001);
    connection.is("reset", "refused again");
    // With data in it (RFC 7413), all of which the answer acknowledges.
    connection.send(Side::Pod, SYN, (100, 0), 400);
    connection.back(RST_ACK, 0, 501);
    connection.is("reset", "a SYN with data");
}

fn a_pod_that_refuses_a_connection_from_outside_ends_its_flow(f: Family) {
    let mut scene = Scene::new();
    scene.allow_inbound();
    let knock = Frame::tcp((f.outside, PORT), (f.a, 80), SYN).sequence(700, 0).payload(Vec::new());
    assert_eq!(scene.router_says(knock).code, REDIRECT);
    for (ack, state) in [(700, "unreplied"), (701, "reset")] {
        let refusal = Frame::tcp((f.a, 80), (f.outside, PORT), RST_ACK).sequence(0, ack).payload(Vec::new());
        assert_eq!(scene.a_says(refusal).code, REDIRECT);
        let pairs = scene.pairs();
        assert_eq!(pairs.len(), 1, "{pairs:?}");
        assert_eq!(pairs[0].state().name(), state, "{ack} acknowledged: {pairs:?}");
    }
}
