//! Metrics: what is measured, how it is served, and that the documents and the dashboard know it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Instant,
};

use netpath::net::Netns;
use netpath_tests::{
    node::{Node, PATIENCE, run_in, unpacked},
    wait::until,
};
use serde_json::Value;

const LISTEN: &str = "[metrics]\nlisten = [\"127.0.0.1:9464\", \"[::1]:9464\"]\n";
const ENDS: [&str; 2] = ["127.0.0.1:9464", "[::1]:9464"];
const DASHBOARD: &str = include_str!("../../docs/grafana/netpath.json");

/// An HTTP request over TCP from inside the node: status and body, if somebody answers.
fn get(node: &Node, end: &str, request: &str) -> Option<(u16, String)> {
    let end: SocketAddr = end.parse().unwrap();
    let mut stream = node.topology.node.netns.enter(|| TcpStream::connect(end)).unwrap().ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Name, type and meaning of each metric.
fn described(text: &str) -> BTreeMap<String, (String, String)> {
    let mut found: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in text.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "HELP", name, help] => found.entry(name.to_owned()).or_default().1 = help.to_owned(),
            ["#", "TYPE", name, kind] => found.entry(name.to_owned()).or_default().0 = kind.to_owned(),
            _ => {}
        }
    }
    found
}

/// The value of the only row that starts so.
fn value(text: &str, row: &str) -> f64 {
    let rows: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(row)).collect();
    assert_eq!(rows.len(), 1, "{row}: {rows:?}");
    rows[0].trim().parse().unwrap_or_else(|error| panic!("{row}: {error}: {}", rows[0]))
}

/// Pods that talked, to each other and to outside, and one that asked for more ports than there are.
fn busy_node() -> Node {
    let node = Node::start(&format!("[snat]\nports = \"40000-40003\"\n{LISTEN}"));
    let (a, b) = (node.pod("a"), node.pod("b"));
    let to_b = b.address.to_string();
    assert!(run_in(&a.netns, "ping", &["-c", "3", "-i", "0.01", &to_b]).contains(" 0% packet loss"));
    run_in(&a.netns, "ping", &["-c", "1", "-W", "1", "224.0.0.1"]);
    // Each ping has an identifier of its own, and so a binding.
    for _ in 0..6 {
        run_in(&a.netns, "ping", &["-c", "1", "-W", "1", "198.18.1.2"]);
    }
    until("a sweep has seen all bindings", || {
        let (_, text) = get(&node, ENDS[0], "GET /metrics").unwrap_or_default();
        let of_destination = |row: &&str| row.starts_with("netpath_snat_destination_bindings{");
        let count =
            text.lines().find(of_destination).and_then(|row| row.rsplit(' ').next()?.parse::<f64>().ok());
        count == Some(4.0)
    });
    node
}

#[test]
fn everything_measured_is_listed_shown_and_well_formed() {
    let node = busy_node();
    let printed = node.netpath(&["metrics"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    check_with_promtool(&text);
    let metrics = described(&text);
    for end in ENDS {
        let (status, served) = get(&node, end, "GET /metrics").unwrap_or_else(|| panic!("{end} is silent"));
        assert_eq!((status, described(&served)), (200, metrics.clone()), "{end}");
    }
    let rows = include_str!("../../docs/METRICS.md").lines().filter(|line| line.starts_with("| `netpath_"));
    let mut listed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        if cells.len() == 4 {
            listed.insert(cells[0].trim_matches('`'), cells);
        }
    }
    for (name, (kind, meaning)) in &metrics {
        let row = listed.remove(name.as_str()).unwrap_or_else(|| panic!("docs/METRICS.md lacks {name}"));
        assert_eq!((row[1], row[3]), (kind.as_str(), meaning.as_str()), "docs/METRICS.md: {name}");
        let labels =
            text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{"))).unwrap_or_default();
        let labels = labels.split_once('}').map_or("", |(labels, _)| labels);
        for label in labels.split("\",").filter_map(|pair| pair.split('=').next()).filter(|l| !l.is_empty()) {
            assert!(row[2].contains(&format!("`{label}`")), "docs/METRICS.md: {name} has the label {label}");
        }
        assert!(DASHBOARD.contains(name.as_str()), "no panel shows {name}");
    }
    assert!(listed.is_empty(), "docs/METRICS.md lists what is not there: {:?}", listed.keys());
    for name in names_in(DASHBOARD) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let known = metrics.contains_key(&name) || family.is_some_and(|name| metrics.contains_key(name));
        assert!(known, "the dashboard asks for {name}, which is not there");
    }
    check_values(&node, &text);
}

/// Words of a text that name metrics.
fn names_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c)).filter(|word| word.starts_with("netpath_")).map(str::to_owned).collect()
}

/// `promtool check metrics` reads the text and knows the conventions for names.
fn check_with_promtool(text: &str) {
    let mut promtool = Command::new(unpacked("prometheus", "promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: `cargo xtask setup` unpacks it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success() && said.concat().is_empty(), "{said:?}\n{text}");
}

/// What is measured is what other commands tell as well.
fn check_values(node: &Node, text: &str) {
    let pods = node.runtime.block_on(node.client.pods()).unwrap();
    for pod in &pods {
        let of = |name: &str| value(text, &format!("netpath_pod_{name}_total{{pod=\"{}\"}}", pod.name));
        assert_eq!(of("sent_packets"), pod.tx_packets as f64);
        assert_eq!(of("received_bytes"), pod.rx_bytes as f64);
    }
    assert_eq!(value(text, "netpath_pods "), 2.0);
    assert_eq!(value(text, "netpath_problems "), 0.0);
    let exhausted = value(text, "netpath_dropped_packets_total{reason=\"SnatExhausted\"}");
    let by_destination =
        "netpath_snat_exhausted_packets_total{destination=\"198.18.1.2\",port=\"0\",protocol=\"icmp\"}";
    assert_eq!((exhausted, value(text, by_destination)), (2.0, 2.0));
    let in_use = "netpath_snat_destination_bindings{destination=\"198.18.1.2\",port=\"0\",protocol=\"icmp\"}";
    assert_eq!((value(text, in_use), value(text, "netpath_snat_bindings ")), (4.0, 4.0));
    assert_eq!(value(text, "netpath_snat_ports "), 4.0);
    assert_eq!(value(text, "netpath_snat_port_tries_count "), 4.0);
    assert_eq!(value(text, "netpath_snat_port_tries_bucket{le=\"+Inf\"}"), 4.0);
    assert_eq!(value(text, "netpath_pod_flows{pod=\"a\"}"), value(text, "netpath_flows "));
    let passes = value(text, "netpath_reconcile_duration_seconds_count{extent=\"full\"}");
    assert!(passes >= 1.0 && value(text, "netpath_sweep_duration_seconds_count ") >= 1.0);
    let added = value(
        text,
        "netpath_api_request_duration_seconds_count{method=\"POST\",route=\"/v1/pods\",status=\"201\"}",
    );
    assert_eq!(added, 2.0);
    assert!(value(text, "netpath_agent_resident_memory_bytes ") > 1e6);
    assert!(value(text, "netpath_agent_cpu_seconds_total ") > 0.0);
    let told = value(text, "netpath_events_total{kind=\"drop\"}");
    assert!(told >= 2.0, "{told} drops were told");
}

/// Prometheus itself in the node; ends with the test.
struct Prometheus<'a> {
    node: &'a Node,
    child: Child,
}

impl<'a> Prometheus<'a> {
    fn start(node: &'a Node) -> Self {
        let targets = ENDS.map(|end| format!("'{end}'")).join(", ");
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: netpath\n    static_configs: [{{targets: [{targets}]}}]\n"
        );
        std::fs::write("/mnt/prometheus.yml", config).unwrap();
        let log = std::fs::File::create("/mnt/prometheus.log").unwrap();
        let own = Netns::current().unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(unpacked("prometheus", "prometheus"));
        command.args(["--config.file=/mnt/prometheus.yml", "--storage.tsdb.path=/mnt/prometheus"]);
        command.args(["--web.listen-address=127.0.0.1:9090"]).stdout(Stdio::null()).stderr(log);
        // From this thread: the parent-death signal comes when the thread ends.
        nix::sched::setns(&node.topology.node.netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let child = command.spawn();
        nix::sched::setns(&own, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        Self { node, child: child.expect("prometheus: `cargo xtask setup` unpacks it") }
    }

    /// The rows of an expression, or what is wrong with it.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let request = format!("GET /api/v1/query?query={encoded}");
        let (_, body) = get(self.node, "127.0.0.1:9090", &request).ok_or("it is silent")?;
        // It may come in chunks; the answer is the one line with the object.
        let object = body.lines().find(|line| line.starts_with('{')).ok_or("no object")?;
        let answer: Value = serde_json::from_str(object).map_err(|error| error.to_string())?;
        match answer["data"]["result"].as_array() {
            Some(rows) => Ok(rows.clone()),
            None => Err(answer.to_string()),
        }
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- prometheus\n{}",
                std::fs::read_to_string("/mnt/prometheus.log").unwrap_or_default()
            );
        }
    }
}

/// The real reader reads it over both families, and every panel of the dashboard has something to show.
#[test]
fn prometheus_reads_it_and_every_panel_has_an_answer() {
    let node = busy_node();
    let prometheus = Prometheus::start(&node);
    until("both addresses were read three times", || {
        prometheus.query("sum_over_time(up[1m]) >= 3").is_ok_and(|rows| rows.len() == ENDS.len())
    });
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().unwrap();
    let mut asked = 0;
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let expression = expression.replace("$__rate_interval", "30s").replace("$instance", ".*");
            let rows = prometheus
                .query(&expression)
                .unwrap_or_else(|error| panic!("{}: {expression}: {error}", panel["title"]));
            // Drops of late and exhaustion of late need not be.
            let may_be_empty = expression.contains("> 0");
            assert!(may_be_empty || !rows.is_empty(), "{}: {expression} has no answer", panel["title"]);
            asked += 1;
        }
    }
    assert!(asked >= 30, "only {asked} expressions");
    let alerts = include_str!("../../docs/METRICS.md").lines().filter(|line| line.starts_with("| `"));
    for alert in alerts.filter(|line| line.matches(" | ").count() == 1) {
        let expression = alert.split('`').nth(1).unwrap().replace("\\|", "|");
        prometheus.query(&expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    }
}

#[test]
fn only_metrics_and_health_are_served_over_tcp_and_where_the_configuration_says() {
    let node = Node::start("");
    assert_eq!(get(&node, ENDS[0], "GET /metrics"), None, "off by default");
    node.reconfigure(LISTEN);
    for end in ENDS {
        until("SIGHUP turns it on", || get(&node, end, "GET /healthz").is_some());
        assert_eq!(get(&node, end, "GET /healthz"), Some((200, "ok\n".into())));
        for (request, status) in [
            ("GET /v1/pods", 404),
            ("GET /", 404),
            ("POST /v1/uninstall", 404),
            ("POST /metrics", 405),
            ("DELETE /healthz", 405),
        ] {
            assert_eq!(get(&node, end, request).map(|(status, _)| status), Some(status), "{end}: {request}");
        }
    }
    let problems = || node.runtime.block_on(node.client.status()).expect("status").problems;
    node.reconfigure("metrics.listen = [\"127.0.0.1:9464\", \"198.51.100.77:9464\"]");
    until("an address that is not there is told", || {
        problems().iter().any(|problem| problem.starts_with("metrics 198.51.100.77:9464: "))
    });
    assert!(get(&node, ENDS[0], "GET /metrics").is_some(), "the other one goes on");
    assert_eq!(get(&node, ENDS[1], "GET /metrics"), None, "what is not wanted any more is closed");
    run_in(&node.topology.node.netns, "ip", &["addr", "add", "198.51.100.77/32", "dev", "lo"]);
    until("it is there, and served", || get(&node, "198.51.100.77:9464", "GET /metrics").is_some());
    assert_eq!(problems(), [""; 0]);
    node.reconfigure("");
    until("SIGHUP turns it off", || get(&node, ENDS[0], "GET /metrics").is_none());
}

/// Clients of the endpoint that say nothing, or nothing sensible, keep nobody out.
#[test]
fn idle_and_hostile_readers_of_metrics_keep_nobody_out() {
    let node = Node::start(LISTEN);
    let end: SocketAddr = ENDS[0].parse().unwrap();
    let connect = || node.topology.node.netns.enter(|| TcpStream::connect(end)).unwrap().unwrap();
    let idle: Vec<TcpStream> = (0..100)
        .map(|at| {
            let mut stream = connect();
            let words: &[u8] =
                [&b""[..], b"GET /met", b"\0\xff\r\n\r\n", b"GET /metrics HTTP/1.1\r\nx: "][at % 4];
            // Who is turned away may be told so by a reset.
            let _ = stream.write_all(words);
            stream
        })
        .collect();
    let begun = Instant::now();
    until("a well-behaved one is answered", || {
        get(&node, ENDS[0], "GET /metrics").is_some_and(|(status, _)| status == 200)
    });
    println!("answered after {:?} beside {} idle ones", begun.elapsed(), idle.len());
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}
