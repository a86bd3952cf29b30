//! How fast packets are dropped whose source may not send here: by the deny list's XDP program, in the driver and on socket
//! buffers, beside the least that tc can do and a set of nftables.
//!
//! The router floods a node over the veth pair between them. On such a pair who sends does the receiver's work as well, so what
//! is counted is how many packets one core can send and drop.

use std::{
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use super::{
    Unit, Workload,
    load::{Cores, Slice, pin},
    measure::Found,
    modes::{bridge::before, nft},
    names::Key,
    order::order,
    run::{Bench, Skipped, blocking},
    sockets,
    task::SMALL,
    tool::Tool,
};
use crate::{
    api::types::{DenyAdd, Prefix},
    lab::{
        LabError,
        error::Doing,
        topology::{NODE, ROUTER, Space, UPLINK, net},
    },
};

/// A node without netpath.
const PLAIN: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 2);
const TC: Tool = Tool { name: "tc", package: "iproute2" };
const ETHTOOL: Tool = Tool { name: "ethtool", package: "ethtool" };
/// Datagrams between two looks at the clock.
const BURST: usize = 64;

/// Ways to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    XdpDriver,
    XdpGeneric,
    Tc,
    Nft,
}

/// All of them.
pub(super) const VARIANTS: [Variant; 4] =
    [Variant::XdpDriver, Variant::XdpGeneric, Variant::Tc, Variant::Nft];

impl Variant {
    const fn name(self) -> &'static str {
        match self {
            Self::XdpDriver => "xdp-driver",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
            Self::Nft => "nft",
        }
    }

    const fn is_xdp(self) -> bool {
        matches!(self, Self::XdpDriver | Self::XdpGeneric)
    }

    fn key(self) -> Key {
        // The others' node is as mode `host` has it.
        let mode = if self.is_xdp() { "netpath" } else { "host" };
        Key { variant: Some(self.name().into()), ..Key::of(Workload::Drop, mode) }
    }

    /// The address that is flooded, the one that sends, and the router's link between them.
    const fn ends(self) -> (Ipv4Addr, Ipv4Addr, &'static str) {
        if self.is_xdp() { (NODE, ROUTER, "to-node") } else { (PLAIN, before(PLAIN), "to-plain") }
    }
}

/// Rounds of all ways that this machine has; the others are skipped.
///
/// # Errors
/// If the node without netpath cannot be made, or a way of dropping cannot be taken off again.
pub(super) async fn measure(bench: &Bench, skipped: &mut Vec<Skipped>) -> Result<Found, LabError> {
    let topology = &bench.site.topology;
    let plain = topology.spec.space("plain-node").await?;
    topology.connect(&plain, "to-plain", &[(net(PLAIN, 30), before(PLAIN).into())]).await?;
    let mut able = Vec::new();
    for variant in VARIANTS {
        let lacks = if variant.is_xdp() && !bench.has("netpath") {
            Some("mode netpath is not there".to_owned())
        } else {
            let begun = begin(bench, &plain, variant).await;
            end(bench, &plain, variant).await?;
            begun.err().map(|error| error.to_string())
        };
        match lacks {
            None => able.push(variant),
            Some(reason) => {
                let reason = format!("{}: {reason}", variant.name());
                skipped.push(Skipped::workload(variant.key().mode, Workload::Drop, reason));
            }
        }
    }
    let mut found = Found::default();
    for round in 1..=bench.plan.rounds {
        for turn in order(0, round, able.len()) {
            let variant = able[turn];
            bench.bar.set_message(variant.key().to_string());
            begin(bench, &plain, variant).await?;
            let flooded = flood(bench, &plain, variant).await;
            end(bench, &plain, variant).await?;
            found.note(&variant.key(), Unit::Packets, flooded?).doing(|| "noting a rate".into())?;
            bench.bar.inc(1);
        }
    }
    Ok(found)
}

/// Has packets of the router's dropped one way.
async fn begin(bench: &Bench, plain: &Space, variant: Variant) -> Result<(), LabError> {
    let (_, source, link) = variant.ends();
    match variant {
        Variant::XdpDriver | Variant::XdpGeneric => {
            let (router, agent) = (&bench.site.topology.router, bench.site.agent().await?);
            if variant == Variant::XdpGeneric {
                // veth takes no XDP in the driver where the other end sends by more queues than this one receives by.
                ETHTOOL.run(router, &["-L", link, "tx", "2"], "")?;
            }
            let denied = DenyAdd { prefixes: vec![Prefix(net(source, 32))] };
            agent.deny_add(&denied).await.doing(|| format!("denying {source}"))?;
            let status = agent.status().await.doing(|| "asking how programs are attached".into())?;
            let own = status.programs.iter().find(|one| one.name == "xdp_uplink" && one.interface == UPLINK);
            match own.map(|one| one.attach.as_str()) {
                Some(attach) if attach == variant.name() => Ok(()),
                other => Err(format!("it is attached as {}", other.unwrap_or("nothing")))
                    .doing(|| format!("denying {source}")),
            }
        }
        Variant::Tc => {
            TC.run(plain, &["qdisc", "add", "dev", UPLINK, "clsact"], "")?;
            // Is it IPv4, and is this its source? Dropped (TC_ACT_SHOT); else the next filter (TC_ACT_UNSPEC).
            let code = format!(
                "6,40 0 0 12,21 0 3 2048,32 0 0 26,21 0 1 {},6 0 0 2,6 0 0 4294967295",
                source.to_bits()
            );
            let filter = ["filter", "add", "dev", UPLINK, "ingress", "protocol", "all", "pref", "1"];
            Ok(TC.run(plain, &[&filter[..], &["bpf", "da", "bytecode", &code]].concat(), "")?)
        }
        Variant::Nft => Ok(nft::apply(
            plain,
            &format!(
                "table ip denied {{
                    set sources {{ type ipv4_addr; flags interval; elements = {{ {source}/32 }} }}
                    chain prerouting {{
                        type filter hook prerouting priority raw
                        ip saddr @sources drop
                    }}
                }}"
            ),
        )?),
    }
}

/// Takes back what [`begin`] did, all of it or only some.
async fn end(bench: &Bench, plain: &Space, variant: Variant) -> Result<(), LabError> {
    let (_, source, link) = variant.ends();
    match variant {
        Variant::XdpDriver | Variant::XdpGeneric => {
            let agent = bench.site.agent().await?;
            if agent.denied().await.is_ok_and(|denied| !denied.is_empty()) {
                agent.deny_rm(&source.to_string()).await.doing(|| format!("denying {source} no more"))?;
            }
            if variant == Variant::XdpGeneric {
                // Without the tool it was not more before, either.
                let _ = ETHTOOL.run(&bench.site.topology.router, &["-L", link, "tx", "1"], "");
            }
        }
        Variant::Tc => {
            // With it goes its filter; it is not there where the kernel has no such thing.
            let _ = TC.run(plain, &["qdisc", "del", "dev", UPLINK, "clsact"], "");
        }
        Variant::Nft => {
            // The same of a machine without the tool.
            let _ = nft::apply(plain, "delete table ip denied");
        }
    }
    Ok(())
}

/// Packets a second that arrive and go no further.
async fn flood(bench: &Bench, plain: &Space, variant: Variant) -> Result<u64, LabError> {
    let (to, _, link) = variant.ends();
    let topology = &bench.site.topology;
    let node = if variant.is_xdp() { &topology.node } else { plain };
    let doing = || format!("flooding {to}");
    let through = sockets::udp_listen(&node.netns, to).doing(doing)?;
    let (router, port) = (topology.router.netns.clone(), through.local_addr().doing(doing)?.port());
    let (slice, cores) = (bench.plan.slice, bench.cores);
    let send = move || router.enter(|| flood_link(link, (to, port), slice, cores)).map_err(io::Error::other);
    let rate = blocking("flooding", send).await?.flatten().doing(doing)?;
    match sockets::ticked(through.recv(&mut [0; SMALL])).doing(doing)? {
        None => Ok(rate),
        Some(_) => Err(format!("{} lets packets through", variant.name())).doing(doing),
    }
}

/// Sends from the calling thread's namespace for warm-up and slice, and counts what went over the link: not what found the
/// receiver's queue full.
fn flood_link(link: &str, to: (Ipv4Addr, u16), slice: Slice, cores: Cores) -> io::Result<u64> {
    pin(cores.sender)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let send = |time: Duration| -> io::Result<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            (0..BURST).try_for_each(|_| socket.send(&[0; SMALL]).map(drop))?;
        }
        Ok(begun.elapsed())
    };
    send(slice.warm_up)?;
    let before = sent(link)?;
    let took = send(slice.counted)?;
    Ok(((sent(link)? - before) as f64 / took.as_secs_f64()) as u64)
}

/// Packets that have left the calling thread's namespace over a link.
fn sent(link: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let packets = text.lines().find_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        // Eight of what was received, then bytes and packets that were sent.
        (name.trim() == link).then(|| numbers.split_whitespace().nth(9)?.parse().ok()).flatten()
    });
    packets.ok_or_else(|| io::Error::other(format!("there is no link {link}")))
}
