//! What is translated, cut, refused and answered for pods in mode `xdp`: the scenarios of pods in mode `tc`, once more.

use netpath::model::Mode;
use netpath_tests::{node::Node, scene::Family};

macro_rules! once_more {
    ($($module:ident::$scenario:ident),+ $(,)?) => {
        $(mod $scenario {
            use super::*;

            #[test]
            fn ipv4() {
                Node::pods_in(Mode::Xdp);
                crate::$module::$scenario(Family::V4);
            }

            #[test]
            fn ipv6() {
                Node::pods_in(Mode::Xdp);
                crate::$module::$scenario(Family::V6);
            }
        })+
    };
}

once_more!(
    pmtu::ping_is_told_the_narrow_hops_mtu,
    pmtu::a_connection_recovers_from_a_narrow_hop_at_once,
    pmtu::a_datagram_is_told_too,
    pmtu::a_route_mtu_of_the_node_holds,
    fragments::udp_of_16_000_bytes_goes_both_ways,
    fragments::pings_of_10_000_bytes_are_answered,
    fragments::what_the_stack_cuts_leaves_with_the_routes_source,
    delivery::traceroute_shows_every_hop,
    delivery::tracepath_finds_the_way_and_its_mtu,
    delivery::a_closed_port_is_refused_at_once,
    delivery::a_dead_pod_and_an_unknown_destination_are_unreachable,
    delivery::multicast_is_refused_and_counted,
    delivery::removal_of_a_pod_resets_its_peers,
    delivery::a_clean_run_drops_nothing,
    host::the_hosts_connections_go_on_while_pods_exhaust_the_range,
    host::host_and_pod_with_one_port_to_one_server_both_get_their_answers,
    host::host_and_pod_ping_with_one_identifier,
    changes::flows_move_to_the_nodes_new_address,
    changes::masquerade_is_toggled_at_run_time,
    changes::an_excluded_prefix_sees_the_pods_own_address,
    changes::a_pool_spreads_pods_and_follows_the_configuration,
    routing::unreachable_and_prohibited_routes_are_told,
    routing::a_rule_by_source_chooses_the_second_uplink,
    snat::exhaustion_of_a_tiny_range_is_counted_exactly_and_never_leaks,
    snat::no_pod_address_is_seen_on_the_wire,
);
