//! Round trips with many endpoints and flows in the tables, beside networks that have none of them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use super::{
    Mode, Path, Protocol, Site, Workload,
    load::rotate,
    measure::{self, Case, Found},
    names::Key,
    run::{Bench, blocking},
    series::EMPTY,
    task::Task,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::PodAdd,
    },
    lab::{
        LabError,
        error::Doing,
        topology::{OUTSIDE, net},
    },
};

/// What the agent is told beside a new installation's configuration: room for the flows of one pod, which stay.
const CONFIGURATION: &str = r#"[flows]
capacity = 2097152
per_pod = 1048576
[flows.timeouts]
udp_unreplied = "1h"
udp_replied = "1h"
"#;
/// Addresses of pods.
const ENDPOINTS: [u64; 3] = [EMPTY, 1_000, 10_000];
/// Translated flows, at the most endpoints.
const FLOWS: [u64; 3] = [1_000, 100_000, 500_000];
/// Flows that round trips take turns in before there are [`FLOWS`].
const FEW: u64 = 8;
/// Addresses that one pod is given.
const CROWD: u64 = 1_000;
/// Modes that are measured: those that others are compared with, and to outside one without any table, which shows what it costs
/// alone to take turns in so many flows.
const MODES: [&str; 4] = ["direct", "bridge", "host", "netpath"];
/// Paths that are measured.
pub(super) const PATHS: [Path; 2] = [Path::PodPod, Path::PodOutside];

/// Round trips over TCP and UDP at each size.
///
/// # Errors
/// If the tables cannot be filled.
pub(super) async fn measure(bench: &Bench) -> Result<Found, LabError> {
    let agent = prepare(&bench.site).await?;
    let mut found = Found::default();
    let endpoints = ENDPOINTS.map(|amount| ("endpoints", amount));
    let (mut have, mut made) = (EMPTY, 0);
    for (variant, amount) in endpoints.into_iter().chain(FLOWS.map(|amount| ("flows", amount))) {
        bench.bar.set_message(format!("filling the tables: {amount} {variant}"));
        if variant == "endpoints" {
            crowd(&agent, &mut have, amount).await?;
            Site::settled(&agent).await?;
        } else {
            flows(&bench.modes, &agent, &mut made, amount).await?;
        }
        let (modes, paths, bar) = (Arc::clone(&bench.modes), bench.options.paths.clone(), bench.bar.clone());
        let (plan, cores) = (bench.plan, bench.cores);
        let measured = blocking("measuring", move || -> io::Result<Found> {
            Ok(measure::interleave(groups(&modes, &paths, variant, amount)?, &plan, cores, &bar))
        });
        found.extend(measured.await?.doing(|| "preparing to measure".into())?);
    }
    Ok(found)
}

/// How many turns a round of that has.
pub(super) fn turns(bench: &Bench) -> usize {
    let one = groups(&bench.modes, &bench.options.paths, "", 0).unwrap_or_default();
    one.iter().map(Vec::len).sum::<usize>() * (ENDPOINTS.len() + FLOWS.len())
}

/// Makes room in the agent's tables, leaves it its two pods, and gives outside the addresses that flows go to.
async fn prepare(site: &Site) -> Result<Client, LabError> {
    let agent = site.restart_agent(CONFIGURATION).await?;
    for pod in agent.pods().await.doing(|| "listing pods".into())? {
        if !["a", "b"].contains(&pod.name.as_str()) {
            agent.pod_rm(&pod.name).await.doing(|| format!("removing pod {}", pod.name))?;
        }
    }
    let (first, length) = rotate::SERVERS;
    // Loopback takes packets to all addresses of the prefix.
    site.topology.outside.configure("lo", &[net(first, length)]).await?;
    site.topology.router.route(net(first, length).trunc(), OUTSIDE.into()).await?;
    Ok(agent)
}

/// Adds pods with many addresses until there are so many in all.
async fn crowd(agent: &Client, have: &mut u64, wanted: u64) -> Result<(), LabError> {
    while *have < wanted {
        let count = (wanted - *have).min(CROWD);
        let name = format!("crowd-{have}");
        // One is the pod's own.
        let allowed = (1..count).map(|one| (*have + one) as u32);
        let allowed = allowed.map(|number| IpAddr::from(Ipv4Addr::from_bits(0x0a50_0000 + number))).collect();
        let wanted = PodAdd { name: name.clone(), allowed_addresses: allowed, ..PodAdd::default() };
        agent.pod_add(&wanted).await.doing(|| format!("adding pod {name}"))?;
        *have += count;
    }
    Ok(())
}

/// Has the first pod send one datagram in each flow that is not there yet, and looks whether netpath has bound a port for each,
/// all but one in a thousand.
async fn flows(
    modes: &Arc<[Box<dyn Mode>]>,
    agent: &Client,
    made: &mut u64,
    wanted: u64,
) -> Result<(), LabError> {
    let doing = || format!("making {wanted} flows");
    let (modes, from) = (Arc::clone(modes), *made);
    let before = bound(agent).await.doing(doing)?;
    let sent = blocking("making flows", move || -> io::Result<()> {
        let netpath = modes.iter().find(|mode| mode.name() == "netpath");
        let pair = netpath.and_then(|mode| mode.pair(Path::PodOutside).ok());
        let pair = pair.ok_or_else(|| io::Error::other("there is no mode netpath"))?;
        // Nobody reads it, but without it outside would answer that nobody is there.
        let _server = rotate::server(pair.server)?;
        let client = rotate::Client::open(pair.client)?;
        (from..wanted).try_for_each(|flow| client.send(flow).map(drop))
    });
    sent.await?.doing(doing)?;
    *made = wanted;
    let new = bound(agent).await.doing(doing)? - before;
    // A burst may overrun the backlog of a core that others use; and the first few are there.
    let enough = (wanted - from) - wanted / 1000 - FEW;
    if new < enough {
        Err(format!("netpath made only {new} of {}", wanted - from)).doing(doing)
    } else {
        Ok(())
    }
}

/// Flows that netpath bound a port for so far; one that goes on is not bound again.
async fn bound(agent: &Client) -> Result<u64, ClientError> {
    Ok(agent.status().await?.snat.tries.iter().map(|one| one.bindings).sum())
}

/// To outside, UDP takes turns in all flows that there are, but for `bridge`: conntrack has no room for so many. Between pods
/// nothing is translated, and TCP stays on its connection.
fn groups<'a>(
    modes: &'a [Box<dyn Mode>],
    paths: &[Path],
    variant: &str,
    amount: u64,
) -> io::Result<Vec<Vec<Case<'a>>>> {
    let task = |protocol, path, mode| match (protocol, path) {
        (Protocol::Udp, Path::PodOutside) if variant == "flows" && mode != "bridge" => Task::Rotate(amount),
        (Protocol::Udp, Path::PodOutside) => Task::Rotate(FEW),
        _ => Task::Rr(protocol, 1),
    };
    let mut groups = Vec::new();
    for path in PATHS.into_iter().filter(|path| paths.contains(path)) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let case = |mode: &'a dyn Mode| {
                let task = task(protocol, path, mode.name());
                let key = Key {
                    workload: Workload::Scale,
                    variant: Some(variant.to_owned()),
                    amount: Some(amount),
                    ..measure::key(mode.name(), path, task)
                };
                Some(Case::new(task, task.pair(mode, path)?, key))
            };
            let is_idle = |mode: &str| mode == "host" && path == Path::PodPod;
            let chosen = modes.iter().filter(|mode| MODES.contains(&mode.name()) && !is_idle(mode.name()));
            groups.push(chosen.filter_map(|mode| case(mode.as_ref())).collect::<io::Result<_>>()?);
        }
    }
    Ok(groups)
}
