//! One real agent beside thousands of simulated nodes in a real etcd of three members: how long until it has ways to all, what
//! it takes in memory, what a change costs it, how long a restart takes.
//!
//! `cargo xtask bench cluster-scale [--nodes N] [--endpoints N]` builds the agent for release and runs this; it prints a table and
//! a curve in Markdown. Everything lives in namespaces that vanish with this process.

use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netpath::{
    model::{Holder, Node},
    store::{
        EtcdStore, Store,
        cluster::{self, ClusterError},
    },
};
use netpath_tests::cluster::Cluster;
use tokio::runtime::Builder;

/// Room for 65,536 blocks of 64.
const POOLS: [&str; 2] = ["10.64.0.0/10", "fd00:64::/48"];
/// Sizes that are measured.
const STEPS: [usize; 4] = [100, 1000, 2500, 5000];
/// Changes that a figure is the median of.
const CHANGES: usize = 10;
/// How long the agent is watched while nothing happens: three full passes.
const IDLE: Duration = Duration::from_secs(30);
/// Registrations under way at once.
const AT_ONCE: usize = 16;
/// Simulated nodes on the agent's own link, reached by direct routes; all others by tunnels.
const NEAR: usize = 200;
/// Where the kernel counts a process's CPU time in: `sysconf(_SC_CLK_TCK)` is 100 on Linux.
const TICK: Duration = Duration::from_millis(10);
/// Longer than any run.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// What was measured with this many nodes.
struct Row {
    nodes: usize,
    endpoints: usize,
    register: Duration,
    converge: Duration,
    resident_kib: u64,
    idle_cpu: Duration,
    change: Duration,
    change_cpu: Duration,
    restart: Duration,
}

fn main() {
    // cargo bench adds --bench.
    let mut wanted = env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let nodes: usize = wanted.next().unwrap_or(5000);
    let endpoints: usize = wanted.next().unwrap_or(0);
    let mut cluster = Cluster::start_with(1, &format!("pools = {POOLS:?}"));
    let mut rows = Vec::new();
    let mut there = 0;
    let steps = STEPS.into_iter().filter(|step| *step < nodes).chain([nodes]);
    for step in steps {
        let records = endpoints * step / nodes;
        let started = Instant::now();
        register(&cluster, there..step, endpoints * there / nodes..records);
        let register = started.elapsed();
        there = step;
        eprintln!("{step} nodes, {records} records of endpoints: registered in {register:?}");
        rows.push(measure(&mut cluster, step, (records, register)));
    }
    print(&rows);
}

/// What etcd is told of a simulated node: an address, and a block of each family, the next ones behind the real node's `own`.
fn simulated(own: &[IpNet], at: usize) -> (Node, Vec<IpNet>) {
    let address = match at {
        near if near < NEAR => [198, 18, 0, 20 + near as u8],
        far => [172, 16 + (far >> 16) as u8, (far >> 8) as u8, far as u8],
    };
    let name = format!("sim-{at}");
    let holder = Holder { uid: format!("uid-of-{name}"), node: name };
    let blocks = own.iter().map(|own| block_behind(*own, at + 1)).collect();
    (Node { holder, addresses: vec![address.into()], drained: false, release_after: 0 }, blocks)
}

/// The block so many places behind another; IPv4's start over at the end of the pool.
fn block_behind(own: IpNet, places: usize) -> IpNet {
    match own {
        IpNet::V4(own) => {
            let pool: Ipv4Net = POOLS[0].parse().expect("pool");
            let inside =
                own.network().to_bits().wrapping_add((places as u32) << 6) & pool.hostmask().to_bits();
            Ipv4Net::new_assert((pool.network().to_bits() | inside).into(), 26).into()
        }
        IpNet::V6(own) => {
            let bits = own.network().to_bits() + ((places as u128) << 6);
            Ipv6Net::new_assert(bits.into(), 122).into()
        }
    }
}

/// Registers simulated nodes as agents do, and writes records of endpoints, of which netpath has none, below the cluster's root.
fn register(cluster: &Cluster, nodes: std::ops::Range<usize>, endpoints: std::ops::Range<usize>) {
    let own = &cluster.nodes[0].blocks();
    beside(cluster, async |store, records| {
        let lease = store.grant(LEASE).await?;
        let one = |at| {
            let (node, blocks) = simulated(own, at);
            let records = &records;
            async move { records.register(&node, &blocks, lease).await }
        };
        stream::iter(nodes).map(one).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let store: &dyn Store = &store;
        let endpoint = |at: usize| async move {
            let key = format!("/netpath/default/endpoints/{at}");
            store.write(&key, &simulated(own, at / 50).0.holder).await
        };
        Ok(stream::iter(endpoints).map(endpoint).buffer_unordered(4 * AT_ONCE).try_collect::<()>().await?)
    });
}

/// Works on etcd from where it runs.
fn beside(
    cluster: &Cluster,
    work: impl AsyncFnOnce(EtcdStore, cluster::Cluster) -> Result<(), ClusterError> + Send,
) {
    let access = cluster.etcd.access();
    let inside = || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
        let store = EtcdStore::new(&access).expect("store");
        let records = cluster::Cluster::new(store.clone(), "default");
        runtime.block_on(work(store, records)).expect("etcd");
    };
    cluster.outside.netns.enter(inside).expect("namespace");
}

/// Measures with so many nodes, and leaves as many.
fn measure(cluster: &mut Cluster, nodes: usize, (endpoints, register): (usize, Duration)) -> Row {
    let started = Instant::now();
    wait_known(cluster, nodes);
    let converge = started.elapsed();
    let (change, change_cpu) = changes(cluster, nodes);
    cluster.nodes[0].kill();
    let started = Instant::now();
    cluster.nodes[0].restart();
    wait_known(cluster, nodes);
    let restart = started.elapsed();
    let before = cpu(cluster);
    thread::sleep(IDLE);
    let idle_cpu = cpu(cluster) - before;
    assert_eq!(cluster.nodes[0].problems(), "", "a node with a problem is not measured");
    let resident_kib = resident_kib(cluster);
    Row { nodes, endpoints, register, converge, resident_kib, idle_cpu, change, change_cpu, restart }
}

/// Waits until the kernel has a route to a block of each family of every node.
fn wait_known(cluster: &Cluster, nodes: usize) {
    let routes = || {
        let tables = cluster.nodes[0].run("ip", &["route"]) + &cluster.nodes[0].run("ip", &["-6", "route"]);
        tables.lines().filter(|line| line.contains("/26 via") || line.contains("/122 via")).count()
    };
    let deadline = Instant::now() + Duration::from_secs(600);
    while routes() != 2 * nodes {
        assert!(Instant::now() < deadline, "{} routes for {nodes} nodes", routes());
        thread::sleep(Duration::from_millis(100));
    }
}

/// A node gets another block, time and again: how long until the route is there, and the CPU time that takes.
fn changes(cluster: &Cluster, nodes: usize) -> (Duration, Duration) {
    let mut times = Vec::new();
    let before = cpu(cluster);
    for change in 0..CHANGES {
        let own = cluster.nodes[0].blocks();
        let (node, _) = simulated(&own, nodes / 2);
        let block = block_behind(own[0], 20_000 + change);
        let started = Instant::now();
        let key = format!("/netpath/default/blocks/{}-{}", block.network(), block.prefix_len());
        beside(cluster, async |store, _| Ok((&store as &dyn Store).write(&key, &node.holder).await?));
        let has = || cluster.nodes[0].run("ip", &["route", "show", &block.to_string()]).contains("via");
        while !has() {
            thread::sleep(Duration::from_millis(5));
        }
        times.push(started.elapsed());
        beside(cluster, async |store, _| Ok(store.delete(&key).await?));
        while has() {
            thread::sleep(Duration::from_millis(5));
        }
    }
    // Each was made and taken back.
    let each = (cpu(cluster) - before) / (2 * CHANGES as u32);
    times.sort();
    (times[times.len() / 2], each)
}

/// CPU time that the agent has used: proc_pid_stat(5), fields 14 and 15, after the name in brackets.
fn cpu(cluster: &Cluster) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", cluster.nodes[0].agent_pid())).expect("stat");
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
        "| nodes | room for pods | records of endpoints | registered in | then all ways after | a change arrives after | \
         CPU of a change | CPU when idle | memory | restart, with all ways |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for row in rows {
        println!(
            "| {} | {} | {} | {:.1} s | {:.1} s | {:.0} ms | {:.0} ms | {:.1} ms/s | {:.1} MiB | {:.1} s |",
            row.nodes,
            // A block of 64 without its network and broadcast addresses.
            row.nodes * 62,
            row.endpoints,
            row.register.as_secs_f64(),
            row.converge.as_secs_f64(),
            row.change.as_secs_f64() * 1e3,
            row.change_cpu.as_secs_f64() * 1e3,
            row.idle_cpu.as_secs_f64() * 1e3 / IDLE.as_secs_f64(),
            row.resident_kib as f64 / 1024.0,
            row.restart.as_secs_f64(),
        );
    }
    let list = |value: fn(&Row) -> f64| {
        rows.iter().map(|row| format!("{:.1}", value(row))).collect::<Vec<_>>().join(", ")
    };
    println!("\n```mermaid\nxychart-beta\n  title \"CPU of a change, and when idle for a second (ms)\"");
    println!(
        "  x-axis \"nodes\" [{}]",
        rows.iter().map(|row| row.nodes.to_string()).collect::<Vec<_>>().join(", ")
    );
    println!("  y-axis \"ms\"");
    println!("  line [{}]", list(|row| row.change_cpu.as_secs_f64() * 1e3));
    println!("  line [{}]\n```", list(|row| row.idle_cpu.as_secs_f64() * 1e3 / IDLE.as_secs_f64()));
}
