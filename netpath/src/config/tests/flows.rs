//! `[flows]`, `[snat]`, and what can change at run time.

use super::*;
use crate::datapath::Timeouts;

const SECOND: u64 = 1_000_000_000;

#[test]
fn flows_have_defaults_and_take_times_as_people_write_them() {
    let config = load("node = \"n\"", |_| ()).unwrap();
    assert_eq!((config.timeouts, config.flows_per_pod), (Timeouts::DEFAULT, None));
    let text = "
        [flows]
        per_pod = 5
        [flows.timeouts]
        tcp_unreplied = \"30s\"
        tcp_established = \"1day 2h\"
        tcp_closing = \"2s\"
        tcp_reset = \"1m\"
        udp_unreplied = \"20 sec\"
        udp_replied = \"30days\"
        icmp = \"10s\"
        other = \"1h 30m\"
    ";
    let config = load(text, |_| ()).unwrap();
    let expected = Timeouts {
        tcp_unreplied: 30 * SECOND,
        tcp_established: 26 * 3600 * SECOND,
        tcp_closing: 2 * SECOND,
        tcp_reset: 60 * SECOND,
        udp_unreplied: 20 * SECOND,
        udp_replied: 30 * 24 * 3600 * SECOND,
        icmp: 10 * SECOND,
        other: 5400 * SECOND,
    };
    assert_eq!((config.timeouts, config.flows_per_pod), (expected, Some(5)));
    assert_eq!(load(text, |flags| flags.flows_per_pod = Some(9)).unwrap().flows_per_pod, Some(9));
}

#[test]
fn a_pool_keeps_its_order_and_has_both_families() {
    let text = "snat.addresses = [\"192.0.2.11\", \"192.0.2.10\", \"2001:db8::10\"]";
    let addresses = |config: Config| config.snat_addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    assert_eq!(addresses(load(text, |_| ()).unwrap()), ["192.0.2.11", "192.0.2.10", "2001:db8::10"]);
    let flag = load(text, |flags| flags.snat_addresses = vec!["10.0.0.1".into()]).unwrap();
    assert_eq!(addresses(flag), ["10.0.0.1"], "private ones may be behind another translation");
}

#[test]
fn messages_say_what_to_write_for_flows_and_pools() {
    assert_eq!(
        refused("[flows.timeouts]\nicmp = \"1ms\"\n"),
        ", line 2): flows.timeouts.icmp is '1ms'; \
         write 2s to 30days, such as flows.timeouts.icmp = \"30s\", its default"
    );
    assert_eq!(
        refused("[snat]\naddresses = [\"192.0.2.1\",\n\"::1\"]\n"),
        ", line 3): snat.addresses has '::1', which is valid on no wire, or on one link only; \
         write addresses of the uplinks, such as snat.addresses = [\"192.0.2.10\"]"
    );
    for text in [
        "flows.per_pod = 0",
        "flows.per_pod = 9000000",
        "flows.timeouts.tcp_established = \"31days\"",
        "flows.timeouts.tcp_established = \"fast\"",
        "flows.timeouts.tcp_established = \"60\"",
        "flows.timeouts.tcp_established = \"-1s\"",
        "flows.timeouts.tcp_established = 60",
        "flows.timeouts.tcp = \"60s\"",
        "snat.addresses = [\"eth0\"]",
        "snat.addresses = [\"192.0.2.1/24\"]",
        "snat.addresses = [\"0.0.0.0\"]",
        "snat.addresses = [\"224.0.0.1\"]",
        "snat.addresses = [\"255.255.255.255\"]",
        "snat.addresses = [\"fe80::2\"]",
        "snat.addresses = [\"::ffff:192.0.2.1\"]",
        "snat.addresses = [\"192.0.2.1\", \"192.0.2.1\"]",
    ] {
        refused(&format!("{text}\n"));
    }
}

#[test]
fn what_is_fixed_at_the_start_is_told_by_its_key() {
    let running = load("node = \"n\"", |_| ()).unwrap();
    let changes = "
        node = \"n\"
        masquerade = false
        no_masquerade = [\"10.0.0.0/8\"]
        inbound = \"any\"
        mtu = 1400
        snat.ports = \"40000-50000\"
        snat.addresses = [\"192.0.2.1\"]
        datapath.mode = \"xdp\"
        datapath.cgroup = \"none\"
        flows.per_pod = 7
        flows.timeouts.icmp = \"5s\"
    ";
    let wanted = load(changes, |_| ()).unwrap();
    assert_ne!(wanted, running);
    assert_eq!(running.fixed_against(&wanted), [""; 0]);
    for (key, text) in [
        ("node", "node = \"m\""),
        ("uplinks", "uplinks = [\"eth7\"]"),
        ("block", "block = \"10.62.0.0/24\""),
        ("flows.capacity", "flows.capacity = 1024"),
        ("datapath.attach", "datapath.attach = \"clsact\""),
        ("run_dir", "run_dir = \"/r\""),
        ("state_dir", "state_dir = \"/s\""),
        ("pin_dir", "pin_dir = \"/p\""),
        ("netns_dir", "netns_dir = \"/n\""),
    ] {
        let node = if key == "node" { "" } else { "node = \"n\"\n" };
        assert_eq!(running.fixed_against(&load(&format!("{node}{text}"), |_| ()).unwrap()), [key]);
    }
}
