//! One real agent beside thousands of simulated nodes in a real etcd of three members: how long until it has ways to all, what
//! it takes in memory, what a change costs it, how long a restart takes; while each simulated node renews a lease of its own.
//!
//! `cargo xtask bench cluster-scale [--nodes N] [--endpoints N]` builds the agent for release and runs this; it prints a table and
//! a curve in Markdown. Everything lives in namespaces that vanish with this process.

mod crowd;

use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

use netpath_tests::cluster::Cluster;

use self::crowd::Crowd;

/// Room for 65,536 blocks of 64.
const POOLS: [&str; 2] = ["10.64.0.0/10", "fd00:64::/48"];
/// Sizes that are measured.
const STEPS: [usize; 4] = [100, 1000, 2500, 5000];
/// Entries that a node takes in ROUTES: for the one network and for the real node itself each of its two blocks, and its address.
const ENTRIES: usize = 5;
/// Changes that a figure is the median of.
const CHANGES: usize = 10;
/// How long the agent is watched while nothing happens: three full passes.
const IDLE: Duration = Duration::from_secs(30);
/// Where the kernel counts a process's CPU time in: `sysconf(_SC_CLK_TCK)` is 100 on Linux.
const TICK: Duration = Duration::from_millis(10);

/// How many there are, and how long etcd took to be told of those that came last.
struct Told {
    nodes: usize,
    registered: Duration,
    endpoints: usize,
    written: Duration,
}

/// What was measured with this many nodes.
struct Row {
    told: Told,
    converge: Duration,
    resident_kib: u64,
    idle: Idle,
    change: Duration,
    change_cpu: Duration,
    restart: Duration,
}

/// Of [`IDLE`].
struct Idle {
    agent_cpu: Duration,
    etcd_cpu: Duration,
    renewed: u64,
    slowest: Duration,
}

fn main() {
    // cargo bench adds --bench.
    let arguments: Vec<_> = env::args().skip(1).collect();
    let mut wanted = arguments.iter().filter_map(|argument| argument.parse().ok());
    let nodes: usize = wanted.next().unwrap_or(5000);
    let endpoints: usize = wanted.next().unwrap_or(0);
    let renewing = !arguments.iter().any(|argument| argument == "--no-renewals");
    let mut cluster = Cluster::start_with(1, &format!("pools = {POOLS:?}"));
    let crowd = Crowd::new(&cluster, renewing);
    let mut rows = Vec::new();
    let mut there = 0;
    let steps = STEPS.into_iter().filter(|step| *step < nodes).chain([nodes]);
    for step in steps {
        let records = endpoints * step / nodes;
        let started = Instant::now();
        crowd.write_endpoints(endpoints * there / nodes..records);
        let written = started.elapsed();
        let started = Instant::now();
        crowd.register(there..step);
        let told = Told { nodes: step, registered: started.elapsed(), endpoints: records, written };
        there = step;
        eprintln!(
            "{step} nodes registered in {:?}, {records} records of endpoints written in {written:?}",
            told.registered
        );
        rows.push(measure(&mut cluster, &crowd, told));
    }
    print(&rows);
}

/// Measures with so many nodes, and leaves as many.
fn measure(cluster: &mut Cluster, crowd: &Crowd, told: Told) -> Row {
    let started = Instant::now();
    wait_known(cluster, told.nodes);
    let converge = started.elapsed();
    let (change, change_cpu) = changes(cluster, crowd, told.nodes);
    cluster.nodes[0].kill();
    let started = Instant::now();
    cluster.nodes[0].restart();
    wait_known(cluster, told.nodes);
    let restart = started.elapsed();
    let idle = idle(cluster, crowd);
    assert_eq!(cluster.nodes[0].problems(), "", "a node with a problem is not measured");
    let resident_kib = resident_kib(cluster);
    Row { told, converge, resident_kib, idle, change, change_cpu, restart }
}

/// Waits until the kernel has a route to a block of each family of every node, the programs' table has all that it holds of them,
/// and the agent itself has heard of all from etcd: routes and table are there already when it starts again.
fn wait_known(cluster: &Cluster, nodes: usize) {
    let node = &cluster.nodes[0];
    let routes = || {
        let tables = node.run("ip", &["route"]) + &node.run("ip", &["-6", "route"]);
        tables.lines().filter(|line| line.contains("/26 via") || line.contains("/122 via")).count()
    };
    let heard = || node.known().iter().filter(|one| one.backend.is_some() && one.state == "ready").count();
    let deadline = Instant::now() + Duration::from_secs(600);
    while routes() != 2 * nodes || node.peer_routes() != ENTRIES * nodes || heard() != nodes {
        assert!(
            Instant::now() < deadline,
            "{nodes} nodes: {} routes, {} entries of ROUTES, {} heard of",
            routes(),
            node.peer_routes(),
            heard()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

/// A node gets another block, time and again: how long until the route and the entry are there, and the CPU time that takes.
fn changes(cluster: &Cluster, crowd: &Crowd, nodes: usize) -> (Duration, Duration) {
    let mut times = Vec::new();
    let node = &cluster.nodes[0];
    let before = cpu(node.agent_pid());
    for change in 0..CHANGES {
        let block = crowd.block(0, 20_000 + change);
        let is_routed = || node.run("ip", &["route", "show", &block.to_string()]).contains("via");
        let is = |there: bool| is_routed() == there && node.has_peer_route(block) == there;
        for more in [true, false] {
            let started = Instant::now();
            crowd.change(nodes / 2, block, more);
            while !is(more) {
                thread::sleep(Duration::from_millis(5));
            }
            times.push(started.elapsed());
        }
    }
    let each = (cpu(node.agent_pid()) - before) / times.len() as u32;
    times.sort();
    (times[times.len() / 2], each)
}

/// What it takes that nothing happens.
fn idle(cluster: &Cluster, crowd: &Crowd) -> Idle {
    let agent = || cpu(cluster.nodes[0].agent_pid());
    let etcd = || cluster.etcd.pids().into_iter().map(cpu).sum::<Duration>();
    crowd.slowest();
    let before = (agent(), etcd(), crowd.renewed());
    thread::sleep(IDLE);
    Idle {
        agent_cpu: agent() - before.0,
        etcd_cpu: etcd() - before.1,
        renewed: crowd.renewed() - before.2,
        slowest: crowd.slowest(),
    }
}

/// CPU time that a process has used: proc_pid_stat(5), fields 14 and 15, after the name in brackets.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("name").1.split_whitespace().collect();
    let ticks: u32 = fields[11..13].iter().map(|ticks| ticks.parse::<u32>().expect("ticks")).sum();
    TICK * ticks
}

fn resident_kib(cluster: &Cluster) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", cluster.nodes[0].agent_pid())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("KiB")
}

fn print(rows: &[Row]) {
    println!(
        "| nodes | room for pods | records of endpoints | these written in | registered in | then all ways after | \
         a change arrives after | CPU of a change | CPU when idle | memory | restart, with all ways | leases renewed | \
         slowest renewal | CPU of etcd |"
    );
    println!("{}|", "|---:".repeat(14));
    for Row { told, converge, resident_kib, idle, change, change_cpu, restart } in rows {
        println!(
            "| {} | {} | {} | {:.1} s | {:.1} s | {:.1} s | {:.0} ms | {:.0} ms | {:.1} ms/s | {:.1} MiB | {:.1} s | {:.0} /s | \
             {:.0} ms | {:.0} ms/s |",
            told.nodes,
            // A block of 64 without its network and broadcast addresses.
            told.nodes * 62,
            told.endpoints,
            told.written.as_secs_f64(),
            told.registered.as_secs_f64(),
            converge.as_secs_f64(),
            change.as_secs_f64() * 1e3,
            change_cpu.as_secs_f64() * 1e3,
            a_second(idle.agent_cpu),
            *resident_kib as f64 / 1024.0,
            restart.as_secs_f64(),
            idle.renewed as f64 / IDLE.as_secs_f64(),
            idle.slowest.as_secs_f64() * 1e3,
            a_second(idle.etcd_cpu),
        );
    }
    let list = |value: fn(&Row) -> f64| {
        rows.iter().map(|row| format!("{:.1}", value(row))).collect::<Vec<_>>().join(", ")
    };
    println!("\n```mermaid\nxychart-beta\n  title \"CPU of a change, and when idle for a second (ms)\"");
    println!(
        "  x-axis \"nodes\" [{}]",
        rows.iter().map(|row| row.told.nodes.to_string()).collect::<Vec<_>>().join(", ")
    );
    println!("  y-axis \"ms\"");
    println!("  line [{}]", list(|row| row.change_cpu.as_secs_f64() * 1e3));
    println!("  line [{}]\n```", list(|row| a_second(row.idle.agent_cpu)));
}

/// CPU time of [`IDLE`], in milliseconds of each second.
fn a_second(cpu: Duration) -> f64 {
    cpu.as_secs_f64() * 1e3 / IDLE.as_secs_f64()
}
