//! `lab run --nodes`: a cluster on one machine, with a real etcd, and BIRDs if they are wanted.

mod bird;
pub(super) mod network;
mod report;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use tokio::{runtime::Handle, time::sleep};

use self::network::{Network, Node};
use super::{
    checks::{self, LabPod, nodes::Job},
    error::{Doing, LabError},
    etcd, live,
    report::Report,
    run::{RunOptions, blocking, progress, show},
    stage::Stage,
    state::Places,
    topology::OUTSIDE,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{ClusterNode, PodAdd},
    },
    bench::{self, Pair, Plan},
    model::{Backend, Family},
};

/// Members of etcd.
const MEMBERS: u16 = 3;
/// What pods have addresses of.
const POOLS: [&str; 2] = ["10.61.0.0/16", "fd00:61::/48"];
/// What the pods of a node are called, before its number.
const PODS: [&str; 2] = ["a", "b"];
/// How long nodes may take to find ways to each other, and the pause between two askings.
const ACQUAINTED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(50));

/// What a lab with several nodes looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes.
    pub nodes: u8,
    /// Links that they are dealt out to, joined by a router.
    pub subnets: u8,
    /// How pods of other nodes are to be reached.
    pub backend: Backend,
    /// Whether nodes and router speak BGP by BIRD, and outside may reach pods by their addresses.
    pub bgp: bool,
}

/// The most nodes.
pub const MOST_NODES: u8 = 16;

impl Shape {
    /// Checks that it can be built.
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        let Self { nodes, subnets, backend, bgp } = *self;
        if !(1..=MOST_NODES).contains(&nodes) {
            return Err(format!("{nodes} nodes: a lab has 1 to {MOST_NODES}"));
        }
        if !(1..=nodes).contains(&subnets) {
            return Err(format!("{subnets} subnets for {nodes} nodes: there are 1 to {nodes}"));
        }
        if backend == Backend::Direct && subnets > 1 && !bgp {
            return Err(
                "direct routes do not lead across a router that does not know the pods: add --bgp, or choose another backend"
                    .into(),
            );
        }
        Ok(())
    }

    /// The backend that two nodes should use for each other.
    fn expected(&self, one_link: bool) -> &'static str {
        match (self.backend, one_link) {
            (Backend::Vxlan, _) | (Backend::Auto, false) => "vxlan",
            (Backend::Direct, false) => "bgp",
            (Backend::Auto | Backend::Direct, true) => "direct",
        }
    }
}

/// A node with its agent and two pods.
#[derive(Debug)]
pub(super) struct Member {
    /// The node.
    pub(super) node: Node,
    /// Its agent.
    pub(super) client: Client,
    /// One that asks and one that answers.
    pub(super) pods: [LabPod; 2],
    /// What it knows of the others, and of itself.
    known: Vec<ClusterNode>,
}

impl Member {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.node.space.name
    }

    /// Its blocks.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &ipnet::IpNet> {
        self.known.iter().filter(|one| one.own).flat_map(|one| &one.blocks)
    }

    /// How it sends to another node's pods: `local` to its own, `none` if it has no way.
    pub(super) fn backend(&self, other: &Self) -> &str {
        if self.name() == other.name() {
            return "local";
        }
        let known = self.known.iter().find(|one| one.name == other.name());
        known.and_then(|one| one.backend.as_deref()).unwrap_or("none")
    }
}

/// The whole of it.
#[derive(Debug)]
pub(super) struct Cluster {
    shape: Shape,
    /// All nodes, in order.
    pub(super) members: Vec<Member>,
    /// The outside server, where etcd runs.
    pub(super) outside: super::topology::Space,
    /// Whether outside may reach pods.
    pub(super) open: bool,
    /// Runtime that the clients' connections live on.
    pub(super) runtime: Handle,
}

impl Cluster {
    /// The backend that one should use for the other.
    pub(super) fn expected(&self, from: &Member, to: &Member) -> &'static str {
        self.shape.expected(from.node.link == to.node.link)
    }

    /// Every node with every node, itself included.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&Member, &Member)> {
        self.members.iter().flat_map(|from| self.members.iter().map(move |to| (from, to)))
    }
}

/// Everything between set-up and removal. Puts the report where an interruption leaves it.
pub(super) async fn play(
    options: RunOptions,
    shape: Shape,
    mut stage: Stage,
    found: &mut Option<Report>,
) -> Result<(), LabError> {
    let doing = || "looking at what was asked for".into();
    shape.check().doing(doing)?;
    etcd::look()?;
    if shape.bgp {
        bird::look()?;
    }
    let progress = progress();
    let cluster = Arc::new(build(shape, &mut stage, &progress).await?);
    let report = examine(&cluster, &progress).await?;
    progress.finish_and_clear();
    let (tables, hints) = (report::tables(&cluster, &report), hints(&cluster));
    show(options, &report, &tables, &hints).doing(|| "writing to standard output".into())?;
    *found = Some(report);
    if options.once {
        return Ok(());
    }
    if options.json {
        return std::future::pending().await;
    }
    live::redraw(async || picture(&cluster).await).await.doing(|| "writing to standard output".into())
}

/// Network, etcd, agents, BIRDs and pods.
async fn build(shape: Shape, stage: &mut Stage, progress: &ProgressBar) -> Result<Cluster, LabError> {
    progress.set_length(7);
    let step = |message: &'static str| {
        progress.set_message(message);
        progress.inc(1);
    };
    step("holder");
    stage.start_holder(&["lab", "hold"])?;
    step("network");
    let names: Vec<_> =
        (1..=shape.nodes).map(|number| format!("{}{number}", stage.places.instance)).collect();
    let network = Network::build(&names, shape.subnets).await?;
    step("etcd");
    let endpoints = stage.start_etcd(&network.outside.netns, OUTSIDE.into(), MEMBERS).await?;
    step("agents");
    let dirs: Vec<PathBuf> = names.iter().map(|name| Places::of(name).runtime).collect();
    let configured = |name: &str| {
        let at = names.iter().position(|one| one == name).unwrap_or_default();
        configuration(shape, &network.nodes[at], &dirs[at], &endpoints)
    };
    let nodes: Vec<_> = network.nodes.iter().map(|node| &node.space.netns).collect();
    let clients = stage.start_agents(&nodes, configured).await?;
    if shape.bgp {
        step("BIRD");
        let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        stage.start_birds(&network, &dirs).await?;
    }
    step("pods");
    let mut members = Vec::new();
    for (number, (node, client)) in (1..).zip(network.nodes.into_iter().zip(clients)) {
        let [a, b] = PODS.map(|name| format!("{name}{number}"));
        let pods = [add(&client, a).await?, add(&client, b).await?];
        members.push(Member { node, client, pods, known: Vec::new() });
    }
    step("ways between nodes");
    acquaint(&mut members, shape.bgp).await;
    let (outside, open, runtime) = (network.outside, shape.bgp, Handle::current());
    Ok(Cluster { shape, members, outside, open, runtime })
}

/// A node's configuration.
fn configuration(shape: Shape, node: &Node, dir: &Path, endpoints: &[String]) -> String {
    let (name, backend) = (&node.space.name, shape.backend.name());
    let (inbound, bgp) = match shape.bgp {
        true => ("inbound = \"any\"\n", bird::configuration(node, dir)),
        false => ("", String::new()),
    };
    // The flow table of a new installation is for a node of its own: 50 MB. And what runs on this machine beside the
    // lab is on no node of it.
    format!(
        "node = \"{name}\"\n{inbound}[flows]\ncapacity = 16384\n[datapath]\ncgroup = \"none\"\n\
         [cluster]\nendpoints = {endpoints:?}\npools = {POOLS:?}\nbackend = \"{backend}\"\n{bgp}"
    )
}

async fn add(client: &Client, name: String) -> Result<LabPod, LabError> {
    let wanted = PodAdd { name: name.clone(), ..PodAdd::default() };
    let pod = client.pod_add(&wanted).await.doing(|| format!("adding pod {name}"))?;
    LabPod::open(pod).doing(|| format!("looking at pod {name}"))
}

/// Waits until all nodes have ways to each other and miss nothing, and writes down what they know. If it is not so in time,
/// the checks will tell.
async fn acquaint(members: &mut [Member], bgp: bool) {
    let deadline = Instant::now() + ACQUAINTED.0;
    let others = members.len() - 1;
    for member in members {
        loop {
            member.known = member.client.nodes().await.unwrap_or_default();
            let ways = member.known.iter().filter(|one| one.backend.is_some()).count();
            if (ways >= others && settled(&member.client, bgp).await) || Instant::now() > deadline {
                break;
            }
            sleep(ACQUAINTED.1).await;
        }
    }
}

/// Whether a node has its sessions with the router, one of each family, and misses nothing else: sessions that came late
/// are told of as problems for some seconds.
async fn settled(client: &Client, bgp: bool) -> bool {
    if !client.status().await.is_ok_and(|status| status.problems.is_empty()) {
        return false;
    }
    let sessions = if bgp { client.bgp_sessions().await.unwrap_or_default() } else { Vec::new() };
    let established = sessions.iter().filter(|one| one.state == "Established").count();
    !bgp || established == network::FAMILIES.len()
}

/// The matrix, then round trips of each pair.
async fn examine(cluster: &Arc<Cluster>, progress: &ProgressBar) -> Result<Report, LabError> {
    let (stage, bar) = (Arc::clone(cluster), progress.clone());
    let checks = blocking("checking", move || {
        let jobs: Vec<Job<'_>> = checks::nodes::all(&stage);
        bar.reset();
        bar.set_length(jobs.len() as u64);
        let check = |job: &Job<'_>| {
            bar.set_message(job.name.clone());
            bar.inc(1);
            job.check(&stage)
        };
        jobs.iter().map(check).collect::<Vec<_>>()
    });
    let checks = checks.await?;
    let (stage, bar) = (Arc::clone(cluster), progress.clone());
    let measured = blocking("measuring", move || measure(&stage, &bar)).await?;
    Ok(report::report(cluster, checks, measured.doing(|| "measuring".into())?))
}

/// Round trips between pods of every two nodes, and within each, over IPv4.
fn measure(cluster: &Cluster, bar: &ProgressBar) -> io::Result<bench::Measured> {
    bar.reset();
    let pair = |(from, to): (&'_ Member, &'_ Member)| {
        let address = to.pods[1].at(Family::V4).map_err(io::Error::other)?;
        Ok((report::mode(from.backend(to)), address))
    };
    let chosen: Vec<_> = cluster.pairs().map(pair).collect::<io::Result<_>>()?;
    let pairs = cluster.pairs().zip(chosen).map(|((from, to), (mode, address))| {
        (mode, Pair { client: &from.pods[0].netns, server: &to.pods[1].netns, address })
    });
    bench::latency_between(&pairs.collect::<Vec<_>>(), &Plan::QUICK, bar)
}

/// What to look at from another terminal.
fn hints(cluster: &Cluster) -> Vec<String> {
    let Some((first, last)) = cluster.members.first().zip(cluster.members.last()) else { return Vec::new() };
    let on = |words: &str| format!("netpath --instance {} {words}", first.name());
    let ping = format!("pod exec {} -- ping -c 3 {}", first.pods[0].pod.name, last.pods[1].address);
    let bgp = cluster.open.then(|| on("bgp show"));
    [on("node ls"), on("pod ls")].into_iter().chain(bgp).chain([on(&ping)]).collect()
}

/// One look at all nodes.
async fn picture(cluster: &Cluster) -> String {
    let mut rows = Vec::new();
    for member in &cluster.members {
        rows.push((member.name(), look(&member.client).await));
    }
    report::looks(&rows)
}

async fn look(client: &Client) -> Result<report::Look, ClientError> {
    let status = client.status().await?;
    let drops = client.drops().await?.iter().map(|drop| drop.packets).sum();
    let own = client.nodes().await?.into_iter().find(|one| one.own);
    Ok(report::Look { own, status, drops })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_built_is_told() {
        let shape = Shape { nodes: 3, subnets: 2, backend: Backend::Auto, bgp: false };
        assert_eq!(shape.check(), Ok(()));
        let told = |shape: Shape| shape.check().unwrap_err();
        assert!(told(Shape { nodes: 17, ..shape }).contains("1 to 16"));
        assert!(told(Shape { subnets: 4, ..shape }).contains("4 subnets for 3 nodes"));
        assert!(told(Shape { backend: Backend::Direct, ..shape }).contains("--bgp"));
        let direct = Shape { backend: Backend::Direct, bgp: true, ..shape };
        assert_eq!(direct.check(), Ok(()));
        assert_eq!((direct.expected(true), direct.expected(false)), ("direct", "bgp"));
        assert_eq!((shape.expected(true), shape.expected(false)), ("direct", "vxlan"));
    }
}
