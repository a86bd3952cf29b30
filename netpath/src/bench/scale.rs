//! Round trips with many endpoints and flows in the tables, beside networks that have none of them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use indicatif::ProgressBar;

use super::{
    Mode, Path, Plan, Protocol, Site, Workload,
    load::Cores,
    measure::{self, Case, Found},
    names::Key,
    run::blocking,
    sockets,
    task::Task,
};
use crate::{
    api::{
        client::{Client, ClientError},
        types::PodAdd,
    },
    lab::{LabError, error::Doing, topology::net},
    net::{Route, RouteKind},
};

/// What the agent is told beside a new installation's configuration: room for the flows of one pod that nobody answers.
const CONFIGURATION: &str =
    "[flows]\ncapacity = 2097152\nper_pod = 1048576\n[flows.timeouts]\nudp_unreplied = \"1h\"\n";
/// Addresses of pods.
const ENDPOINTS: [u64; 3] = [2, 1_000, 10_000];
/// Translated flows, at the most endpoints.
const FLOWS: [u64; 3] = [1_000, 100_000, 500_000];
/// Addresses that one pod is given.
const CROWD: u64 = 1_000;
/// Who gets the flows' packets (RFC 5737, for documentation): the router drops them.
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 0);
/// Modes that are measured, those that others are compared with.
const MODES: [&str; 3] = ["direct", "bridge", "netpath"];

/// Round trips over TCP and UDP at each size.
///
/// # Errors
/// If the tables cannot be filled.
pub(super) async fn measure(
    site: &Site,
    modes: &Arc<[Box<dyn Mode>]>,
    paths: &[Path],
    plan: Plan,
    cores: Cores,
    progress: &ProgressBar,
) -> Result<Found, LabError> {
    let agent = prepare(site).await?;
    let mut found = Found::default();
    let steps = ENDPOINTS
        .map(|amount| ("endpoints", amount))
        .into_iter()
        .chain(FLOWS.map(|amount| ("flows", amount)));
    let mut have = 2;
    for (variant, amount) in steps {
        progress.set_message(format!("filling the tables: {amount} {variant}"));
        if variant == "endpoints" {
            endpoints(&agent, &mut have, amount).await?;
        } else {
            flows(modes, &agent, amount).await?;
        }
        let (modes, paths, progress) = (Arc::clone(modes), paths.to_vec(), progress.clone());
        let measured = blocking("measuring", move || -> io::Result<Found> {
            let groups = groups(&modes, &paths, variant, amount)?;
            Ok(measure::interleave(groups, &plan, cores, &progress))
        });
        found.extend(measured.await?.doing(|| "preparing to measure".into())?);
    }
    Ok(found)
}

/// How many turns that takes.
pub(super) fn turns(modes: &[Box<dyn Mode>], paths: &[Path], plan: &Plan) -> usize {
    let one = groups(modes, paths, "", 0).map_or(0, |groups| groups.iter().map(Vec::len).sum::<usize>());
    one * plan.rounds * (ENDPOINTS.len() + FLOWS.len())
}

/// Makes room in the agent's tables, leaves it its two pods, and sees to it that nobody answers the flows.
async fn prepare(site: &Site) -> Result<Client, LabError> {
    let agent = site.restart_agent(CONFIGURATION).await?;
    for pod in agent.pods().await.doing(|| "listing pods".into())? {
        if !["a", "b"].contains(&pod.name.as_str()) {
            agent.pod_rm(&pod.name).await.doing(|| format!("removing pod {}", pod.name))?;
        }
    }
    let nowhere = Route {
        prefix: net(NOBODY, 24),
        kind: RouteKind::Blackhole,
        via: None,
        ifindex: None,
        onlink: false,
        mtu: None,
        table: None,
    };
    site.topology.router.netlink.replace_route(&nowhere).await?;
    Ok(agent)
}

/// Adds pods with many addresses until there are so many in all.
async fn endpoints(agent: &Client, have: &mut u64, wanted: u64) -> Result<(), LabError> {
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

/// Has the first pod send one datagram for each flow, and looks whether they were translated, all but one in a thousand.
async fn flows(modes: &Arc<[Box<dyn Mode>]>, agent: &Client, wanted: u64) -> Result<(), LabError> {
    let doing = || format!("making {wanted} flows");
    let modes = Arc::clone(modes);
    let before = translated(agent).await.doing(doing)?;
    let sent = blocking("making flows", move || -> io::Result<()> {
        let netpath = modes.iter().find(|mode| mode.name() == "netpath");
        let pair = netpath.and_then(|mode| mode.pair(Path::PodOutside).ok());
        let pair = pair.ok_or_else(|| io::Error::other("there is no mode netpath"))?;
        let socket = sockets::udp_listen(pair.client, Ipv4Addr::UNSPECIFIED)?;
        for number in 0..wanted as u32 {
            // 250 addresses, and ports from 1,024 on.
            let to = Ipv4Addr::from_bits(NOBODY.to_bits() + 1 + number % 250);
            socket.send_to(&[0], (to, 1024 + (number / 250) as u16))?;
        }
        Ok(())
    });
    sent.await?.doing(doing)?;
    let made = translated(agent).await.doing(doing)? - before;
    // A burst may overrun the backlog of a core that others use.
    let enough = wanted - wanted / 1000;
    if made < enough { Err(format!("the programs made only {made}")).doing(doing) } else { Ok(()) }
}

/// Packets whose source was translated so far.
async fn translated(agent: &Client) -> Result<u64, ClientError> {
    let traffic = agent.status().await?.traffic;
    Ok(traffic.iter().filter(|one| one.class == "translated").map(|one| one.packets).sum())
}

fn groups<'a>(
    modes: &'a [Box<dyn Mode>],
    paths: &[Path],
    variant: &str,
    amount: u64,
) -> io::Result<Vec<Vec<Case<'a>>>> {
    let mut groups = Vec::new();
    for &path in paths.iter().filter(|path| **path != Path::NodePod) {
        for task in [Task::Rr(Protocol::Tcp, 1), Task::Rr(Protocol::Udp, 1)] {
            let key = |mode| Key {
                workload: Workload::Scale,
                variant: Some(variant.to_owned()),
                amount: Some(amount),
                ..measure::key(mode, path, task)
            };
            let chosen = modes.iter().filter(|mode| MODES.contains(&mode.name()));
            let pairs = chosen.filter_map(|mode| Some((mode.name(), mode.pair(path).ok()?)));
            groups
                .push(pairs.map(|(mode, pair)| Case::new(task, pair, key(mode))).collect::<io::Result<_>>()?);
        }
    }
    Ok(groups)
}
