//! `netpath bench`: every mode and path in its document, and nothing left of it however it ends. Never how fast.

mod across;

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use netpath_tests::{
    namespace::isolate,
    node::{binary, unpacked},
    wait::until,
};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A machine of its own as far as files go.
fn machine() {
    isolate();
    mount(Some("netpath-test"), "/var/lib", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
}

fn bench(arguments: &[&str]) -> Output {
    bench_with(arguments, &path_with_etcd()).expect("netpath bench")
}

fn bench_with(arguments: &[&str], path: &OsStr) -> io::Result<Output> {
    Command::new(binary()).arg("bench").args(arguments).env("PATH", path).output()
}

/// The search path, with etcd where the tests have it.
fn path_with_etcd() -> OsString {
    let own = env::var_os("PATH").unwrap_or_default();
    let etcd = unpacked("etcd-server", "etcd");
    let etcd = etcd.parent().filter(|dir| dir.is_dir()).map(Path::to_owned);
    env::join_paths(etcd.into_iter().chain(env::split_paths(&own))).expect("path")
}

fn document(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{errors}"))
}

/// Files and links of the machine that a benchmark may change.
fn traces() -> BTreeSet<String> {
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string()).collect()
    };
    // Not sysfs, which is still that of the machine around the test.
    let links = fs::read_to_string("/proc/thread-self/net/dev").expect("links");
    let links = links.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    ["/run", "/run/netpath", "/run/netns", "/var/lib", "/var/lib/netpath", "/sys/fs/bpf"]
        .into_iter()
        .flat_map(names)
        .chain(links)
        .collect()
}

fn rows<'a>(document: &'a Value, workload: &str) -> Vec<&'a Value> {
    let results = document["results"].as_array().expect("results");
    results.iter().filter(|row| row["workload"] == workload).collect()
}

/// Mode and path of some rows.
fn ways(rows: &[&Value]) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    rows.iter().map(|row| (text(&row["mode"]), text(&row["path"]))).collect()
}

fn set(ways: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    ways.iter().map(|(mode, path)| ((*mode).to_owned(), (*path).to_owned())).collect()
}

/// What every row has, whatever it tells.
fn plausible(row: &Value) {
    let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} of {row}"));
    for name in ["mode", "workload", "unit"] {
        assert!(row[name].is_string(), "{name} of {row}");
    }
    // On a busy machine nothing may arrive for a hundredth of a stream's time.
    assert!(number("median") > 0.0 && row["p99"].as_f64().is_none_or(|p99| p99 >= 0.0), "{row}");
    // A hundredth of less than a hundred samples is none.
    let few = row["samples"].as_u64() < Some(100) || row["workload"] == "program";
    assert_eq!(row["p99"].is_null(), few, "{row}");
    assert!(number("ci_low") <= number("median") && number("median") <= number("ci_high"), "{row}");
    for (mode, ratio) in [("direct", "ratio_direct"), ("bridge", "ratio_bridge")] {
        let value = row.get(ratio).unwrap_or_else(|| panic!("{ratio} of {row}"));
        assert!(row["mode"] != mode || *value == 1.0, "{row}");
        assert!(value.is_null() || value.as_f64() > Some(0.0), "{row}");
    }
}

const MODES: [&str; 8] =
    ["direct", "bridge", "bridge-plain", "routed", "macvlan", "host", "netpath", "netpath-xdp"];
const PATHS: [&str; 4] = ["pod-pod", "node-pod", "pod-onlink", "pod-outside"];
const REMOTE: &str = "pod-pod-remote";
/// Modes between nodes; those from the third on have that path alone.
const ACROSS: [&str; 5] = ["direct", "routed", "vxlan", "netpath-direct", "netpath-vxlan"];
/// What may be left out, and no more: mode with path or workload, or `-` for the whole mode, which a kernel may lack.
const LACKING: [(&str, &str); 8] = [
    ("direct", "pod-onlink"),
    ("direct", "pod-outside"),
    ("macvlan", "node-pod"),
    ("direct", "first-packet"),
    ("host", "first-packet"),
    ("macvlan", "-"),
    // Where ethtool or tc are not installed, or the kernel lacks what they ask for.
    ("netpath", "drop xdp-generic"),
    ("host", "drop tc"),
];

/// Fails if something was left out that every kernel and machine has. Returns what was.
fn only_lacks(document: &Value) -> BTreeSet<(String, String)> {
    let skipped = document["skipped"].as_array().expect("skipped").iter();
    let what = |one: &Value| {
        let part = one["path"].as_str().or(one["workload"].as_str()).unwrap_or("-").to_owned();
        let reason = one["reason"].as_str().expect("reason");
        let variant = reason.split_once(": ").map_or("", |(variant, _)| variant);
        let part = if part == "drop" { format!("drop {variant}") } else { part };
        (one["mode"].as_str().expect("mode").to_owned(), part)
    };
    let lacking: BTreeSet<_> = skipped.map(what).collect();
    let one_node = MODES.into_iter().filter(|mode| !ACROSS.contains(mode)).map(|mode| (mode, REMOTE));
    let elsewhere = PATHS.into_iter().chain(["first-packet"]);
    let two_nodes = elsewhere.flat_map(|part| ACROSS[2..].iter().map(move |mode| (*mode, part)));
    let known: Vec<_> = one_node.chain(two_nodes).chain(LACKING).collect();
    let unknown: Vec<_> = lacking.difference(&set(&known)).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?} of {:#}", document["skipped"]);
    lacking
}

#[test]
fn bench_measures_every_mode_on_every_path_and_leaves_nothing() {
    machine();
    let before = traces();
    let workloads = "rr,crr,stream,pps,first-packet,program,drop";
    let report = "/run/report.html";
    let output =
        bench(&["--quick", "--rounds", "1", "--workloads", workloads, "-o", "json", "--report", report]);
    let page = fs::read_to_string(report).expect("report");
    fs::remove_file(report).unwrap();
    assert_eq!(traces(), before);
    let document = document(&output);
    for row in document["results"].as_array().expect("results") {
        plausible(row);
    }
    assert!(document["failures"].as_array().expect("failures").is_empty(), "{:#}", document["failures"]);
    assert!(output.status.success(), "{:#}", document["skipped"]);
    let lacking = only_lacks(&document);
    let lacks = |(mode, path): &(String, String)| {
        [path.as_str(), "-"].iter().any(|part| lacking.contains(&(mode.clone(), (*part).to_owned())))
    };
    let near = MODES.iter().flat_map(|mode| PATHS.map(|path| (*mode, path)));
    let all: Vec<_> = near.chain(ACROSS.map(|mode| (mode, REMOTE))).collect();
    for workload in ["rr", "crr", "stream", "pps"] {
        let there = ways(&rows(&document, workload));
        let missing: Vec<_> = set(&all).difference(&there).filter(|way| !lacks(way)).cloned().collect();
        assert!(missing.is_empty(), "{workload} lacks {missing:?}");
    }
    for mode in MODES.into_iter().chain(ACROSS).filter(|mode| !lacks(&((*mode).into(), "-".into()))) {
        let modes = &document["environment"]["modes"];
        assert!(modes[mode].is_string(), "{mode} of {modes:#}");
    }
    over_ipv6(&document);
    programs(&document);
    let drops = rows(&document, "drop");
    for variant in ["xdp-driver", "xdp-generic", "tc", "nft"] {
        let mode = if variant.starts_with("xdp") { "netpath" } else { "host" };
        let there = drops.iter().any(|row| row["variant"] == variant && row["mode"] == mode);
        let told = lacking.contains(&(mode.into(), format!("drop {variant}")));
        assert!(there != told, "{variant} in {drops:#?}");
    }
    assert!(ways(&rows(&document, "first-packet")).contains(&("netpath".into(), "pod-pod".into())));
    // Self-contained, with a bar for netpath and a curve of how round trips are distributed.
    assert!(page.contains("<svg") && page.contains("\nnetpath\n</text>") && page.contains("distribution"));
    assert!(!page.contains("src=") && !page.contains("href="), "the report needs other files");
    // One round shows nothing, whatever it has measured.
    let budgets = document["budgets"].as_array().expect("budgets");
    let measured = budgets.iter().filter(|one| one["measured"].is_f64()).count();
    assert!(measured >= 15, "{budgets:#?}");
    assert!(budgets.iter().all(|one| one["verdict"] == "cannot tell"), "{budgets:#?}");
    assert!(page.contains("Budgets") && page.contains("too few rounds (1)"));
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("too few rounds (1)"), "{warnings}");
}

/// Round trips over IPv6 of the modes that have it.
fn over_ipv6(document: &Value) {
    let rows = rows(document, "rr");
    for protocol in ["tcp6", "udp6"] {
        let own: Vec<_> = rows.iter().copied().filter(|row| row["protocol"] == protocol).collect();
        let outside = ["bridge", "netpath", "netpath-xdp"].map(|mode| (mode, "pod-outside"));
        let inside = ["direct", "bridge", "netpath", "netpath-xdp"].map(|mode| (mode, "pod-pod"));
        let across = ["direct", "netpath-direct", "netpath-vxlan"].map(|mode| (mode, REMOTE));
        assert_eq!(ways(&own), set(&[&outside[..], &inside, &across].concat()), "{protocol}");
    }
}

/// The programs of both kinds of pods, and of the deny list.
fn programs(document: &Value) {
    let programs = rows(document, "program");
    let both = ["netpath", "netpath-xdp"];
    let near = both.iter().flat_map(|mode| PATHS.map(|path| (*mode, path)));
    let wanted: Vec<_> = near.chain(ACROSS[3..].iter().map(|mode| (*mode, REMOTE))).collect();
    assert_eq!(ways(&programs), set(&wanted));
    for (mode, path, program) in [
        ("netpath", "pod-pod", "from_pod"),
        ("netpath-xdp", "pod-pod", "xdp_pod"),
        ("netpath-xdp", "pod-outside", "xdp_uplink"),
        ("netpath-direct", REMOTE, "from_uplink"),
        ("netpath-vxlan", REMOTE, "to_overlay"),
    ] {
        let is_it = |row: &Value| row["mode"] == mode && row["path"] == path && row["variant"] == program;
        assert!(programs.iter().any(|row| is_it(row) && row["unit"] == "ns"), "{program} in {programs:#?}");
    }
}

#[test]
fn bench_tells_what_it_cannot_measure() {
    machine();
    for (arguments, mode, workload) in [
        (["--modes", "bridge", "--workloads", "scale"], "netpath", "scale"),
        (["--modes", "host", "--workloads", "program"], "netpath", "program"),
        (["--modes", "direct", "--workloads", "first-packet"], "direct", "first-packet"),
    ] {
        let output = bench(&[&["--quick", "-o", "json"][..], &arguments].concat());
        let document = document(&output);
        assert!(!output.status.success(), "{arguments:?} {document:#}");
        let skipped = document["skipped"].as_array().expect("skipped");
        let told = skipped.iter().any(|one| one["mode"] == mode && one["workload"] == workload);
        assert!(told, "{arguments:?} {document:#}");
    }
}

#[test]
fn bench_attaches_pods_and_fills_the_tables() {
    machine();
    let before = traces();
    let output = bench(&[
        "--quick",
        "--rounds",
        "1",
        "--modes",
        "direct,netpath",
        "--workloads",
        "attach,scale",
        "-o",
        "json",
    ]);
    assert_eq!(traces(), before);
    let document = document(&output);
    assert!(output.status.success(), "{:#} {:#}", document["failures"], document["skipped"]);
    let attached = rows(&document, "attach");
    for what in ["version", "add", "remove", "remove-waited"] {
        let row = attached.iter().find(|row| row["mode"] == "netpath" && row["variant"] == what);
        plausible(row.unwrap_or_else(|| panic!("{what} in {attached:#?}")));
    }
    let scaled = rows(&document, "scale");
    for (variant, amounts) in [("endpoints", [2, 1_000, 10_000]), ("flows", [1_000, 100_000, 500_000])] {
        for amount in amounts {
            let here: Vec<_> = scaled
                .iter()
                .copied()
                .filter(|row| row["variant"] == variant && row["amount"] == amount)
                .collect();
            let paths = [("direct", "pod-pod"), ("netpath", "pod-pod"), ("netpath", "pod-outside")];
            assert_eq!(ways(&here), set(&paths), "{amount} {variant}");
            for row in here {
                plausible(row);
                let beside = row["ratio_empty"].as_f64().unwrap_or_else(|| panic!("{row}"));
                assert!(if amount == 2 { beside == 1.0 } else { beside > 0.0 }, "{row}");
            }
        }
    }
}

/// A benchmark that has started its agent, and the processes that it has written down.
struct Running {
    run: Child,
    processes: Vec<Pid>,
}

impl Running {
    fn start() -> Self {
        let mut command = Command::new(binary());
        command.args(["bench", "--modes", "netpath", "--workloads", "rr"]);
        let run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("netpath bench");
        let mut running = Self { run, processes: Vec::new() };
        until("the benchmark's agent answers", || Path::new("/run/netpath/bench/agent.sock").exists());
        let state = fs::read("/run/netpath-bench/lab.json").expect("state");
        let state: Value = serde_json::from_slice(&state).expect("state");
        running.processes = ["holder", "agent"]
            .map(|name| Pid::from_raw(state[name]["pid"].as_i64().expect(name) as i32))
            .into();
        running
    }

    /// Those of its processes that have not ended.
    fn left(&self) -> Vec<Pid> {
        let runs = |pid: &&Pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        self.processes.iter().filter(runs).copied().collect()
    }
}

impl Drop for Running {
    /// A benchmark that does not do what it should must not outlive its test.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let state = fs::read_to_string("/run/netpath-bench/lab.json");
            eprintln!("there are {:#?}\nprocesses {:?}, state {state:?}", traces(), self.left());
        }
        let _ = self.run.kill();
        for pid in self.left() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

#[test]
fn bench_that_crashed_or_was_interrupted_leaves_nothing() {
    machine();
    let before = traces();
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
        let mut running = Running::start();
        let busy = bench(&["--quick"]);
        assert!(
            !busy.status.success() && String::from_utf8_lossy(&busy.stderr).contains("is running already"),
            "{busy:?}"
        );
        kill(Pid::from_raw(running.run.id() as i32), signal).unwrap();
        assert!(!running.run.wait().unwrap().success());
        until("everything is removed", || traces() == before);
        until("its processes are gone", || running.left().is_empty());
    }
}

#[test]
fn bench_compare_tells_what_differs() {
    machine();
    let output =
        bench(&["--quick", "--rounds", "6", "--modes", "direct,host", "--workloads", "rr", "-o", "json"]);
    let mut run = document(&output);
    fs::write("/run/a.json", run.to_string()).unwrap();
    let results = run["results"].as_array_mut().expect("results");
    let count = results.len();
    assert!(count >= 10, "{count} rows");
    results[0]["median"] = (results[0]["median"].as_f64().unwrap() * 1000.0).into();
    // However wide a busy machine has made it.
    for name in ["ci_low", "ci_high"] {
        results[0][name] = (results[0]["ci_high"].as_f64().unwrap() * 1000.0).into();
    }
    results.pop();
    fs::write("/run/b.json", run.to_string()).unwrap();
    let output = bench(&["compare", "/run/a.json", "/run/b.json", "-o", "json"]);
    let comparison = document(&output);
    let rows = comparison["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), count - 1, "{rows:#?}");
    assert_eq!((&rows[0]["verdict"], &rows[0]["ratio"]), (&"worse".into(), &1000.0.into()));
    assert!(rows[1..].iter().all(|row| row["verdict"] == "same" && row["ratio"] == 1.0), "{rows:#?}");
    assert_eq!(comparison["notes"], serde_json::json!(["1 figures are in A only"]));
    let table = bench(&["compare", "/run/a.json", "/run/b.json"]);
    let summary = bench(&["summary", "/run/a.json"]);
    let summary = String::from_utf8_lossy(&summary.stdout);
    assert!(
        summary.contains("| what | budget |") && summary.contains("| rr pod-pod, tcp, 1 byte | us |"),
        "{summary}"
    );
    // On another kernel the times say nothing, and without `bridge` there are no ratios.
    run["environment"]["kernel"] = "1.0".into();
    fs::write("/run/other.json", run.to_string()).unwrap();
    let other = document(&bench(&["compare", "/run/a.json", "/run/other.json", "-o", "json"]));
    let verdicts: BTreeSet<_> =
        other["rows"].as_array().expect("rows").iter().map(|row| row["verdict"].to_string()).collect();
    assert_eq!(
        (other["judged"].as_str(), verdicts),
        (Some("ratio"), BTreeSet::from(["\"cannot tell\"".into()]))
    );
    assert!(String::from_utf8_lossy(&table.stdout).contains("worse"), "{table:?}");
    let wrong = bench(&["compare", "/run/a.json", "/dev/null"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("/dev/null"), "{wrong:?}");
}
