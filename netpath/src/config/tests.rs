//! Every rule, and where a message points to.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::model::{Inbound, Mode};

mod flows;

fn load(text: &str, change: impl FnOnce(&mut AgentFlags)) -> Result<Config, ConfigError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("n.toml");
    fs::write(&path, text).unwrap();
    let mut flags = AgentFlags { config: Some(path), ..AgentFlags::default() };
    change(&mut flags);
    Config::load(&flags, &Instance::default())
}

fn refused(text: &str) -> String {
    let error = load(text, |_| ()).unwrap_err().to_string();
    let (place, rest) = error.split_once("n.toml").unwrap();
    assert!(place.starts_with("configuration ("), "{error}");
    rest.to_owned()
}

fn blocks(config: &Config) -> Vec<String> {
    config.network.blocks.iter().map(ToString::to_string).collect()
}

#[test]
fn blocks_of_one_or_both_families() {
    for (text, expected) in [
        ("block = \"fd00:61::/64\"", &["fd00:61::/64"][..]),
        ("block = [\"fd00:61::/64\", \"10.7.0.0/24\"]", &["10.7.0.0/24", "fd00:61::/64"]),
        ("block = [\"10.7.0.0/24\"]", &["10.7.0.0/24"]),
    ] {
        let config = load(&format!("node = \"n\"\nno_masquerade = [\"fd00::/8\"]\n{text}"), |_| ()).unwrap();
        assert_eq!(blocks(&config), expected);
        assert_eq!(config.network.no_masquerade.len(), 1);
    }
    assert_eq!(
        refused("block = [\n  \"10.7.0.0/24\",\n  \"fd00::1/64\",\n]\n"),
        ", line 3): block has 'fd00::1/64', which has bits set behind its length; write fd00::/64"
    );
    assert!(refused("\nblock = []\n").starts_with(", line 2): block is empty; "));
    let two = refused("block = [\"10.7.0.0/24\", \"10.8.0.0/24\"]\n");
    assert!(two.starts_with(", line 1): block has 10.7.0.0/24 and 10.8.0.0/24, two of one family"), "{two}");
    let forms = refused("\nblock = 7\n");
    assert!(
        forms.starts_with(", line 2): invalid type: integer `7`, expected a string or a list"),
        "{forms}"
    );
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("node = \"n\"", |_| ()).unwrap();
    assert_eq!(blocks(&config), ["10.61.0.0/24"]);
    assert_eq!(config.paths.socket(), Path::new("/run/netpath/default/agent.sock"));
    assert_eq!(config.paths.store(), Path::new("/var/lib/netpath/default/state.redb"));
    assert_eq!(config.paths.pin_dir, Path::new("/sys/fs/bpf/netpath/default"));
    assert_eq!((config.snat_ports, config.flow_entries), (DEFAULT_SNAT_PORTS, DEFAULT_FLOW_ENTRIES));
    assert!(config.network.masquerade && config.uplinks.is_empty() && config.mtu.is_none());
}

#[test]
fn a_full_file() {
    let text = r#"
        node = "node1"
        uplinks = ["eth0", "eth1"]
        block = "10.70.4.0/22"
        masquerade = false
        no_masquerade = ["192.168.0.0/16", "10.0.0.0/8", "10.0.0.0/8"]
        inbound = "any"
        protect = ["tcp:2379-2380", "udp:53"]
        mtu = 1400
        run_dir = "/tmp/r"
        state_dir = "/tmp/s"
        pin_dir = "/tmp/p"
        netns_dir = "/tmp/n"
        [snat]
        ports = "40000-40000"
        [flows]
        capacity = 1024
        [datapath]
        attach = "clsact"
        mode = "xdp"
        cgroup = "/sys/fs/cgroup/a"
        firewall = "forward"
    "#;
    let config = load(text, |_| ()).unwrap();
    assert_eq!(config.uplinks, ["eth0", "eth1"]);
    assert_eq!(config.network.no_masquerade.len(), 2);
    assert_eq!(config.network.inbound, Inbound::Any);
    assert!(!config.network.masquerade);
    assert_eq!(protected(&config), ["tcp:2379-2380", "udp:53"]);
    assert_eq!((config.mtu, config.flow_entries), (Some(1400), 1024));
    assert_eq!((config.snat_ports, config.attach), (40_000..=40_000, Some(AttachKind::Clsact)));
    assert_eq!((config.mode, config.cgroup), (Mode::Xdp, Cgroup::At("/sys/fs/cgroup/a".into())));
    assert_eq!(config.firewall, Firewall::Forward);
    assert_eq!(config.paths.lock(), Path::new("/tmp/r/lock"));
}

#[test]
fn a_flag_wins_over_the_file() {
    let config = load("block = \"nonsense\"\nuplinks = [\"a\"]\nnode = \"n\"", |flags| {
        flags.blocks = vec!["10.1.0.0/16".to_owned()];
        flags.uplinks = vec!["b".to_owned()];
    })
    .unwrap();
    assert_eq!(blocks(&config), ["10.1.0.0/16"]);
    assert_eq!(config.uplinks, ["b"]);
}

fn protected(config: &Config) -> Vec<String> {
    config.protected_ports().iter().map(ToString::to_string).collect()
}

#[test]
fn the_agents_own_port_is_protected_unless_pods_may_have_it() {
    let text = "protect = [\"tcp:1\"]\nmetrics.listen = [\"0.0.0.0:9464\", \"127.0.0.1:9465\", \"[2001:db8::1]:9466\"]\n";
    assert_eq!(protected(&load(text, |_| {}).unwrap()), ["tcp:1", "tcp:9464", "tcp:9466"]);
    assert_eq!(protected(&load(&format!("{text}metrics.pods = true\n"), |_| {}).unwrap()), ["tcp:1"]);
    let flags = load(text, |flags| {
        flags.protect = vec!["udp:9-10".to_owned()];
        flags.metrics_pods = Some(true);
    });
    assert_eq!(protected(&flags.unwrap()), ["udp:9-10"]);
    assert_eq!(
        refused("\nprotect = [\"tcp:1\", \"tcp:0\"]\n"),
        ", line 2): protect has 'tcp:0', which has no ports of 1 to 65535; write protocols with ports, such as protect = \
         [\"tcp:2379-2380\", \"udp:53\"]"
    );
}

#[test]
fn who_is_answered_and_where() {
    let off = load("", |_| {}).unwrap();
    assert_eq!((off.api_group, off.metrics_listen), (None, vec![]));
    let one = load("api.group = \"root\"\nmetrics.listen = \"127.0.0.1:9464\"", |_| {}).unwrap();
    assert_eq!((one.api_group, one.metrics_listen), (Some(0), vec!["127.0.0.1:9464".parse().unwrap()]));
    let both = load("api.group = \"4711\"\nmetrics.listen = [\"0.0.0.0:1\", \"[::]:1\"]", |_| {}).unwrap();
    assert_eq!(both.api_group, Some(4711));
    assert_eq!(both.metrics_listen, ["0.0.0.0:1".parse().unwrap(), "[::]:1".parse().unwrap()]);
    let flag = load("metrics.listen = \"nonsense\"", |flags| {
        flags.metrics_listen = vec!["[::1]:1".to_owned()];
    });
    assert_eq!(flag.unwrap().metrics_listen, ["[::1]:1".parse().unwrap()]);
    assert_eq!(
        refused("[metrics]\nlisten = \"::1:9464\"\n"),
        ", line 2): metrics.listen has '::1:9464', which is not an address with a port; write addresses with ports, such as \
         metrics.listen = [\"127.0.0.1:9464\", \"[::1]:9464\"]"
    );
    let messages = refused("[api]\ngroup = \"nobodies\"\n");
    assert!(
        messages.contains("'nobodies', and there is no such group; make it with 'groupadd"),
        "{messages}"
    );
}

#[test]
fn messages_name_file_line_key_and_what_to_write() {
    assert_eq!(
        refused("node = \"n\"\nblock = \"10.61.0.5/24\"\n"),
        ", line 2): block has '10.61.0.5/24', which has bits set behind its length; write 10.61.0.0/24"
    );
    assert_eq!(
        refused("\n\n[snat]\nports = \"40000\"\n"),
        ", line 4): snat.ports is '40000'; write FIRST-LAST within 1024 to 65535, such as 32768-49151"
    );
    assert!(
        refused("mtu = 1500\nblok = \"10.0.0.0/8\"\n")
            .starts_with(", line 2): unknown field `blok`, expected")
    );
    assert!(
        refused("[snat]\nport = \"1-2\"\n")
            .starts_with(", line 2): unknown field `port`, expected `ports` or")
    );
    assert!(refused("mtu = \"big\"\n").starts_with(", line 1): "));
    assert!(refused("mtu = \n").starts_with(", line 1): "));
    let error = load("", |flags| flags.mtu = Some(10)).unwrap_err().to_string();
    assert!(
        error.starts_with("configuration (--mtu or NETPATH_MTU): mtu is 10; write 576 to 65535"),
        "{error}"
    );
}

#[test]
fn every_rule_refuses() {
    for text in [
        "node = \"\"",
        "node = \"a b\"",
        "uplinks = [\"\"]",
        "uplinks = [\"a/b\"]",
        "uplinks = [\"eth0\", \"eth0\"]",
        "uplinks = [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\"]",
        "uplinks = [\"sixteen-letters-\"]",
        "block = \"10.0.0.0\"",
        "block = \"10.0.0.0/31\"",
        "block = \"0.0.0.0/0\"",
        "block = \"127.0.0.0/8\"",
        "block = \"169.254.0.0/24\"",
        "block = \"224.0.0.0/8\"",
        "block = []",
        "block = 7",
        "block = [7]",
        "block = [\"10.0.0.0/24\", \"10.1.0.0/24\"]",
        "block = [\"fd00::/64\", \"fd01::/64\"]",
        "block = \"fe80::/64\"",
        "block = \"fd00::/127\"",
        "block = \"fd00::/64\"\nmtu = 1279",
        "no_masquerade = [\"10.0.0.1/8\"]",
        "inbound = \"all\"",
        "protect = [\"2379\"]",
        "protect = [\"tcp:2380-2379\"]",
        "mtu = 500",
        "mtu = 65536",
        "snat.ports = \"50000-40000\"",
        "snat.ports = \"80-90\"",
        "snat.ports = \"40000-70000\"",
        "flows.capacity = 0",
        "flows.capacity = 99999999",
        "datapath.attach = \"xdp\"",
        "datapath.mode = \"tcx\"",
        "datapath.cgroup = \"system.slice\"",
        "datapath.cgroup = \"\"",
        "datapath.firewall = \"input\"",
        "api.group = \"no-such-group\"",
        "api.group = \"\"",
        "metrics.listen = \"9464\"",
        "metrics.listen = \"127.0.0.1\"",
        "metrics.listen = \"localhost:9464\"",
        "metrics.listen = \"127.0.0.1:0\"",
        "metrics.listen = \"127.0.0.1:65536\"",
        "metrics.listen = \"224.0.0.1:9464\"",
        "metrics.listen = \"255.255.255.255:9464\"",
        "metrics.listen = \"[ff02::1]:9464\"",
        "metrics.listen = \"[::ffff:127.0.0.1]:9464\"",
        "metrics.listen = [\"[::1]:9464\", \"[::1]:9464\"]",
        "run_dir = \"run\"",
        "pin_dir = \"\"",
        &format!("run_dir = \"/{}\"", "x".repeat(97)),
    ] {
        refused(&format!("{text}\n"));
    }
    let error = load("", |flags| flags.config = Some("/nonexistent/n.toml".into())).unwrap_err();
    assert!(error.to_string().contains("cannot be read: No such file"), "{error}");
}

#[test]
fn instances() {
    for good in ["default", "a", "node-1", &"x".repeat(15)] {
        assert_eq!(Instance::new(good).unwrap().name(), good);
    }
    for bad in ["", "A", "a/b", "a.b", "..", &"x".repeat(16)] {
        assert!(Instance::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_cluster_is_whole_or_refused() {
    let config = load(
        "node = \"n\"\n[cluster]\nendpoints = [\"https://10.0.0.1:2379\", \"https://[fd00::1]:2379\"]\nname = \"prod\"
         pools = [\"fd00:64::/48\", \"10.64.0.0/16\"]\nblock_length_v4 = 24\nca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"
         user = \"u\"\npassword_file = \"/password\"\n",
        |_| (),
    );
    let config = config.unwrap();
    assert!(config.network.blocks.is_empty());
    let cluster = config.cluster.unwrap();
    let pools: Vec<_> =
        cluster.pools.iter().map(|pool| (pool.prefix.to_string(), pool.block_length)).collect();
    assert_eq!(pools, [("10.64.0.0/16".to_owned(), 24), ("fd00:64::/48".to_owned(), 122)]);
    assert_eq!((cluster.name.as_str(), cluster.etcd.endpoints.len()), ("prod", 2));
    let one = "[cluster]\nendpoints = [\"http://10.0.0.1:2379\"]\n";
    let usual = load(&format!("node = \"n\"\n{one}"), |_| ()).unwrap().cluster.unwrap();
    assert_eq!(usual.name, "default");
    assert_eq!((usual.backend.name(), usual.vxlan_port, usual.vni), ("auto", 4789, 110));
    let set = load(&format!("node = \"n\"\n{one}backend = \"vxlan\"\nvxlan_port = 8472\nvni = 1\n"), |_| ());
    let set = set.unwrap().cluster.unwrap();
    assert_eq!((set.backend.name(), set.vxlan_port, set.vni), ("vxlan", 8472, 1));
    for (text, words) in [
        ("[cluster]\n", "line 1): cluster.endpoints is empty"),
        (
            "[cluster]\nendpoints = [\"10.0.0.1:2379\"]\n",
            "line 2): cluster.endpoints has '10.0.0.1:2379', which is no such URL",
        ),
        ("[cluster]\nendpoints = [\"http://10.0.0.1\"]\n", "which has no port"),
        (
            "[cluster]\nendpoints = [\"http://a:1\", \"https://b:1\"]\n",
            "has 'https://b:1', which is no such URL",
        ),
        ("[cluster]\nendpoints = [\"http://a:1\", \"http://a:1\"]\n", "twice"),
        ("[cluster]\nendpoints = [\"https://a:1\"]\n", "cluster.ca is missing"),
        (&format!("{one}cert = \"/c\"\n"), "only one of cluster.cert and cluster.key"),
        (&format!("{one}cert = \"/c\"\nkey = \"/k\"\n"), "cluster.cert is for https"),
        (&format!("{one}user = \"u\"\npassword_file = \"/p\"\n"), "would have the password of cluster.user"),
        ("[cluster]\nendpoints = [\"http://u:secret@a:1\"]\n", "cluster.endpoints name a user"),
        (&format!("{one}backend = \"bgp\"\n"), "cluster.backend is 'bgp'"),
        (&format!("{one}vni = 16777216\n"), "cluster.vni is 16777216"),
        (
            &format!("{one}vxlan_port = 40000\n"),
            "cluster.vxlan_port is 40000, and snat.ports are 32768-49151",
        ),
        (&format!("{one}user = \"u\"\n"), "only one of cluster.user and cluster.password_file"),
        (
            &format!("{one}user = \"u\"\npassword_file = \"p\"\n"),
            "line 4): cluster.password_file is 'p', which is not absolute",
        ),
        (&format!("{one}name = \"a/b\"\n"), "line 3): cluster.name may hold only"),
        (&format!("{one}pools = [\"10.64.0.0/28\"]\n"), "with blocks of /26"),
        (&format!("{one}pools = [\"10.64.0.0/16\", \"10.65.0.0/16\"]\n"), "two of one family"),
        (&format!("block = \"10.7.0.0/24\"\n{one}"), "line 1): block is named beside [cluster]"),
    ] {
        let said = refused(text);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn bgp_has_a_system_and_somebody_to_speak_with() {
    let config = load(
        "node = \"n\"\n[bgp]\nas = 64512\naccept = [\"10.0.0.0/8+\"]\n[[bgp.peer]]\naddress = \"198.18.0.1\"\nas = 64999
         [[bgp.peer]]\naddress = \"2001:db8::1\"\nas = 64512\nipv4 = true\nrr_client = true\naccept = []\n",
        |_| (),
    );
    let bgp = config.unwrap().bgp.unwrap();
    assert_eq!(bgp.config_file.display().to_string(), "/etc/netpath/bird.conf");
    let peers: Vec<_> = bgp
        .peers
        .iter()
        .map(|peer| (peer.address.to_string(), peer.remote_as, peer.accept.len(), peer.ipv4, peer.rr_client))
        .collect();
    let expected =
        [("198.18.0.1".to_owned(), 64999, 1, false, false), ("2001:db8::1".to_owned(), 64512, 0, true, true)];
    assert_eq!((peers, bgp.mesh), (expected.into(), false));
    let cluster = "[cluster]\nendpoints = [\"http://10.0.0.1:2379\"]\n";
    let mesh = load(&format!("node = \"n\"\n{cluster}[bgp]\nas = 1\n"), |_| ()).unwrap().bgp.unwrap();
    assert!(mesh.mesh && mesh.peers.is_empty());
    let peer = "[bgp]\nas = 64512\n[[bgp.peer]]\naddress = \"198.18.0.1\"\n";
    for (text, words) in [
        ("[bgp]\n", "line 1): bgp has no as"),
        ("[bgp]\nas = 64512\n", "line 1): bgp has nobody to speak with"),
        ("[bgp]\nas = 64512\nmesh = true\n", "line 3): bgp.mesh is true without [cluster]"),
        ("[bgp]\nas = 0\n[[bgp.peer]]\naddress = \"198.18.0.1\"\nas = 1\n", "bgp.as is 0, which is reserved"),
        (peer, "bgp.peer has no address or no as"),
        (&format!("{peer}as = 4294967295\n"), "bgp.peer.as is 4294967295, which is reserved"),
        (&format!("{peer}as = 1\nipv4 = true\n"), "ipv4 = true is for sessions over IPv6"),
        (&format!("{peer}as = 1\naccept = [\"10.0.0.0/8; }}\"]\n"), "bgp.peer.accept"),
        (&format!("{peer}as = 1\npassword_file = \"p\"\n"), "'p', which is not absolute"),
        (&format!("{peer}as = 1\nrr_client = true\n"), "rr_client = true for 198.18.0.1"),
        (&format!("{peer}as = 1\n[[bgp.peer]]\naddress = \"198.18.0.1\"\nas = 2\n"), "has 198.18.0.1, twice"),
        ("[bgp]\nas = 1\n[[bgp.peer]]\naddress = \"fe80::1\"\nas = 1\n", "not the address of a router"),
        ("[bgp]\nas = 1\n[[bgp.peer]]\naddress = \"1.2.3.4 as 5\"\nas = 1\n", "not the address of a router"),
        (&format!("{peer}as = 1\n[bgp.peer.more]\n"), "unknown field"),
    ] {
        let said = refused(text);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn flags_alone_put_a_node_into_a_cluster() {
    let etcd = || vec!["http://10.0.0.1:2379".to_owned(), "http://10.0.0.2:2379".to_owned()];
    let config = load("node = \"n\"", |flags| {
        flags.etcd = etcd();
        flags.pools = vec!["10.64.0.0/16".into(), "fd00:64::/48".into()];
    });
    let cluster = config.unwrap().cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.etcd.endpoints), ("default", etcd()));
    assert_eq!(cluster.pools.iter().map(|pool| pool.block_length).collect::<Vec<_>>(), [26, 122]);
    // They go before the file.
    let text = "node = \"n\"\n[cluster]\nendpoints = [\"http://10.9.9.9:2379\"]\nname = \"back\"";
    let cluster = load(text, |flags| flags.etcd = etcd()).unwrap().cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.etcd.endpoints), ("back", etcd()));
    let told = |change: fn(&mut AgentFlags)| load("node = \"n\"", change).unwrap_err().to_string();
    let error = told(|flags| flags.etcd = vec!["10.0.0.1".into()]);
    assert!(error.contains("--etcd or NETPATH_ETCD") && error.contains("no such URL"), "{error}");
    let error = told(|flags| flags.pools = vec!["10.64.0.0/16".into()]);
    assert!(error.contains("--pool or NETPATH_POOLS") && error.contains("--etcd"), "{error}");
    let both = |flags: &mut AgentFlags| {
        flags.etcd = vec!["http://10.0.0.1:2379".into()];
        flags.blocks = vec!["10.7.0.0/24".into()];
    };
    let error = told(both);
    assert!(error.contains("--block or NETPATH_BLOCK") && error.contains("beside [cluster]"), "{error}");
}
