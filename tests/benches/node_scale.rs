//! One node with many pods: what adding and removing one costs, what the agent takes when idle, how long a restart takes.
//!
//! `cargo xtask bench node-scale [--pods N]` builds the agent for release and runs this; it prints a table in Markdown.
//! Everything lives in namespaces that vanish with this process.

use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

use netpath::api::types::PodAdd;
use netpath_tests::node::Node;

/// Adds and removals that a figure is the median of.
const SAMPLES: usize = 10;
/// How long the agent is watched while nothing happens: three full passes.
const IDLE: Duration = Duration::from_secs(30);
/// Where the kernel counts a process's CPU time in: `sysconf(_SC_CLK_TCK)` is 100 on Linux.
const TICK: Duration = Duration::from_millis(10);

/// What was measured with this many pods.
struct Row {
    pods: usize,
    add: Duration,
    remove: Duration,
    resident_kib: u64,
    idle_cpu: Duration,
    restart: Duration,
}

fn main() {
    // cargo bench adds --bench.
    let wanted = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1000);
    let mut node = Node::start("block = [\"10.61.0.0/18\", \"fd00:61::/64\"]");
    let mut rows = Vec::new();
    let mut pods = 0;
    for step in [1, 10, 100, 250, 1000, 2000].into_iter().filter(|step| *step <= wanted) {
        while pods < step {
            add(&node, pods);
            pods += 1;
        }
        eprintln!("{pods} pods");
        rows.push(measure(&mut node, pods));
    }
    println!("| pods | add, median | remove, median | resident memory | CPU when idle | restart |");
    println!("|---:|---:|---:|---:|---:|---:|");
    for row in rows {
        println!(
            "| {} | {:.1} ms | {:.1} ms | {:.1} MiB | {:.1} ms/s | {:.0} ms |",
            row.pods,
            row.add.as_secs_f64() * 1e3,
            row.remove.as_secs_f64() * 1e3,
            row.resident_kib as f64 / 1024.0,
            row.idle_cpu.as_secs_f64() * 1e3 / IDLE.as_secs_f64(),
            row.restart.as_secs_f64() * 1e3,
        );
    }
}

/// Measures with `pods` pods, and leaves as many.
fn measure(node: &mut Node, pods: usize) -> Row {
    let (mut adds, mut removals) = (Vec::new(), Vec::new());
    for sample in 0..SAMPLES {
        let name = name(pods + sample);
        adds.push(add(node, pods + sample));
        let started = Instant::now();
        node.runtime.block_on(node.client.pod_rm(&name)).expect("pod removed");
        removals.push(started.elapsed());
    }
    let restart = restart(node, pods);
    let before = cpu(node);
    thread::sleep(IDLE);
    let idle_cpu = cpu(node) - before;
    let status = node.runtime.block_on(node.client.status()).expect("status");
    assert_eq!(status.problems, [""; 0], "a node with a problem is not measured");
    Row {
        pods,
        add: median(&mut adds),
        remove: median(&mut removals),
        resident_kib: resident_kib(node),
        idle_cpu,
        restart,
    }
}

fn name(number: usize) -> String {
    format!("pod-{number}")
}

/// Adds a pod, and tells how long it took.
fn add(node: &Node, number: usize) -> Duration {
    let wanted = PodAdd { name: name(number), ..PodAdd::default() };
    let started = Instant::now();
    node.add(&wanted);
    started.elapsed()
}

/// From the death of an agent to the first answer of the next, which has then made everything right once.
fn restart(node: &mut Node, pods: usize) -> Duration {
    node.kill();
    let started = Instant::now();
    node.restart();
    let took = started.elapsed();
    let there = node.runtime.block_on(node.client.pods()).expect("pods");
    assert_eq!(there.iter().filter(|pod| pod.state == "ready").count(), pods);
    took
}

/// CPU time that the agent has used: proc_pid_stat(5), fields 14 and 15, after the name in brackets.
fn cpu(node: &Node) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.agent_pid())).expect("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("name").1.split_whitespace().collect();
    let ticks: u32 = fields[11..13].iter().map(|ticks| ticks.parse::<u32>().expect("ticks")).sum();
    TICK * ticks
}

fn resident_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.agent_pid())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("KiB")
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
