//! Running, judging, and making a finding small.

use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData};
use netpath_common::abi::{DropReason, Flow, FlowKey, NODE_FLAG_POOL, Pool, Program};
use netpath_tests::{
    random::Random,
    scene::{DROP, Family, NEXT, REDIRECT, Ran, SERVER_PORT, Scene},
};

use super::{
    corpus::{self, Sequence},
    mutate::Mutator,
    oracle::{Finding, Oracle},
    step::Step,
};

/// Entries of FLOWS: few, so that the table is full now and then.
const FLOWS: u32 = 2048;
/// Runs after which the counters and the table are looked at.
const BATCH: usize = 2_000;
/// Runs after which the flows are forgotten and another setting is tried.
const EPOCH: usize = 20_000;

/// How the scene is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Plain,
    /// Three addresses to translate to.
    Pool,
    /// Seven ports.
    FewPorts,
    /// Packets from outside are let in; so it stays.
    Inbound,
    /// Port 443 of the node leads to pod A.
    Published,
    /// Pods do not reach port 443 of the node.
    Protected,
}

impl Setting {
    pub(super) const ALL: [Self; 6] =
        [Self::Plain, Self::Published, Self::Protected, Self::Pool, Self::FewPorts, Self::Inbound];
}

/// A scene with everything about it.
pub(super) struct Hunt {
    scene: Scene,
    oracle: Oracle,
    mutator: Mutator,
    random: Random,
    corpus: Vec<Sequence>,
    flows: HashMap<MapData, FlowKey, Flow>,
    /// The steps since the flows were forgotten.
    history: Vec<Step>,
    dropped_before: u64,
    verdicts: [u64; 3],
    refused: u64,
    /// Packets that `xdp_pod` redirected.
    by_xdp: u64,
    settings: [Vec<(IpAddr, netpath_common::abi::Endpoint)>; 2],
}

impl Hunt {
    pub(super) fn new(seed: u64) -> Self {
        let mut scene = Scene::with_flows(FLOWS);
        for pod in [scene.a, scene.b] {
            scene.take_frames(pod);
        }
        let closed = scene.datapath.endpoints().expect("endpoints");
        scene.allow_inbound();
        let open = scene.datapath.endpoints().expect("endpoints");
        let mut hunt = Self {
            oracle: Oracle::new(&scene, &pool(), false),
            mutator: Mutator::new(&scene),
            random: Random::new(seed),
            corpus: corpus::read(),
            flows: HashMap::try_from(Map::HashMap(scene.table("FLOWS"))).expect("FLOWS"),
            history: Vec::new(),
            dropped_before: 0,
            verdicts: [0; 3],
            refused: 0,
            by_xdp: 0,
            settings: [closed, open],
            scene,
        };
        hunt.set(Setting::Plain);
        hunt
    }

    /// Another setting, without flows.
    fn set(&mut self, setting: Setting) {
        let inbound = setting == Setting::Inbound;
        for (address, endpoint) in &self.settings[usize::from(inbound)] {
            self.scene.datapath.set_endpoint(*address, *endpoint).expect("endpoint");
        }
        self.scene.set_node(|node| {
            (node.snat_first, node.snat_count, node.flags) = (32_768, 16_384, 0);
            if setting == Setting::FewPorts {
                node.snat_count = 7;
            }
            if setting == Setting::Pool {
                node.flags = NODE_FLAG_POOL;
            }
            let of =
                |v4| pool().into_iter().filter(|ip| ip.is_ipv4() == v4).map(Into::into).collect::<Vec<_>>();
            (node.uplinks[0].v4, node.uplinks[0].v6) = (Pool::new(&of(true)), Pool::new(&of(false)));
        });
        let published = setting == Setting::Published;
        self.scene.publish_both(self.scene.a, published.then_some((SERVER_PORT, 80)));
        self.oracle.published = published;
        self.oracle.protects = setting == Setting::Protected;
        let ports = [6, 17, 132].map(|protocol| (protocol, SERVER_PORT));
        self.scene.protect(if self.oracle.protects { &ports } else { &[] });
        self.forget();
        self.oracle.inbound = inbound;
    }

    /// Without flows and what the oracle knows of them. Parts of datagrams are forgotten by time alone.
    fn forget(&mut self) {
        let keys: Vec<_> = self.flows.keys().filter_map(Result::ok).collect();
        for key in keys {
            let _ = self.flows.remove(&key);
        }
        self.history.clear();
        self.oracle.forget();
        (self.oracle.dropped, self.dropped_before) = (0, self.drops());
    }

    fn drops(&self) -> u64 {
        DropReason::ALL.iter().map(|reason| self.scene.drops(*reason)).sum()
    }

    /// That many runs.
    pub(super) fn run(&mut self, runs: u64) -> Result<(), String> {
        let (mut done, mut epoch) = (0, 0);
        while done < runs {
            let setting = Setting::ALL[epoch % Setting::ALL.len()];
            epoch += 1;
            self.set(setting);
            while self.history.len() < EPOCH && done < runs {
                if let Err(finding) = self.batch(&mut done) {
                    return Err(self.report(setting, &finding));
                }
            }
        }
        Ok(())
    }

    fn batch(&mut self, done: &mut u64) -> Result<(), Finding> {
        let (until, mut last) = (self.history.len() + BATCH, Vec::new());
        while self.history.len() < until {
            let sequence = self.random.below(self.corpus.len());
            for at in 0..self.corpus[sequence].steps.len() {
                let mut step = self.corpus[sequence].steps[at].clone();
                if !self.random.once_in(4) {
                    let other = self.random.below(self.corpus.len());
                    let other = &self.corpus[other].steps[self.random.below(self.corpus[other].steps.len())];
                    self.mutator.mutate(&mut self.random, &mut step, &last, &other.packet);
                }
                let Some(ran) = self.step(step)? else { continue };
                *done += 1;
                if ran.code != DROP {
                    last = ran.packet;
                }
            }
        }
        self.settle()
    }

    /// Runs a step; `None` if the kernel makes no such packet.
    fn step(&mut self, step: Step) -> Result<Option<Ran>, Finding> {
        let Ok(ran) = self.scene.try_run(step.program, &step.packet, step.context(&self.scene)) else {
            self.refused += 1;
            return Ok(None);
        };
        let judged = self.oracle.check(&step, &ran).and_then(|()| self.by_xdp(&step, &ran));
        self.history.push(step);
        self.verdicts[match ran.code {
            DROP => 0,
            REDIRECT => 1,
            _ => 2,
        }] += 1;
        judged.map(|()| Some(ran))
    }

    /// What takes the short way is what `from_pod` would have sent there, byte by byte.
    fn by_xdp(&mut self, step: &Step, tc: &Ran) -> Result<(), Finding> {
        // No train gets so far, and none can be made for XDP.
        if step.program != Program::FromPod || step.gso != 0 {
            return Ok(());
        }
        let xdp = self.scene.run_xdp(Program::XdpPod, &step.packet, step.context(&self.scene).ifindex);
        match xdp.code {
            REDIRECT if (tc.code, &tc.packet) == (REDIRECT, &xdp.packet) && tc.mark == step.mark => {
                self.by_xdp += 1;
                Ok(())
            }
            REDIRECT => Err(format!("xdp_pod redirects what from_pod answers with {}", tc.code)),
            NEXT if xdp.packet == step.packet => Ok(()),
            code => Err(format!("xdp_pod says {code}, or has changed what goes on")),
        }
    }

    /// What holds of many runs together: each drop has one reason, and no half of a flow is alone.
    fn settle(&mut self) -> Result<(), Finding> {
        let counted = self.drops() - self.dropped_before;
        if counted != self.oracle.dropped {
            return Err(format!("{} packets dropped, {counted} drops counted", self.oracle.dropped));
        }
        let keys: Vec<_> = self.flows.keys().filter_map(Result::ok).collect();
        if keys.len() > FLOWS as usize {
            return Err(format!("{} entries in a table for {FLOWS}", keys.len()));
        }
        for key in keys {
            let Ok(half) = self.flows.get(&key, 0) else { continue };
            let partner = key.partner_of(&half);
            let Ok(other) = self.flows.get(&partner, 0) else {
                return Err(format!("half a flow: {key:?} {half:?}"));
            };
            if (other.direction == half.direction && partner != key) || other.pod != half.pod {
                return Err(format!("two halves that are no pair: {key:?} {half:?} {other:?}"));
            }
        }
        Ok(())
    }

    /// Runs a sequence as it stands, in a setting of its own.
    pub(super) fn replay(&mut self, setting: Setting, steps: &[Step]) -> Result<(), Finding> {
        self.set(setting);
        for (n, step) in steps.iter().enumerate() {
            self.step(step.clone()).map_err(|finding| format!("step {n}: {finding}: {}", step.line()))?;
        }
        self.settle()
    }

    /// A finding with the fewest steps that show it.
    fn report(&mut self, setting: Setting, finding: &str) -> String {
        let mut steps = std::mem::take(&mut self.history);
        let all = steps.len();
        let mut again = self.replay(setting, &steps).is_err();
        let mut size = steps.len().div_ceil(2);
        while again && size > 0 {
            let mut at = 0;
            while at < steps.len() {
                let mut fewer = steps.clone();
                fewer.drain(at..(at + size).min(steps.len()));
                if self.replay(setting, &fewer).is_err() { steps = fewer } else { at += size }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        let what = self.replay(setting, &steps);
        again &= what.is_err();
        if !again {
            steps.drain(..steps.len().saturating_sub(3));
        }
        let lines: Vec<_> = steps.iter().map(Step::line).collect();
        format!(
            "{setting:?}: {finding}\nwith {} of {all} steps{}: {what:?}\n{}",
            steps.len(),
            if again { "" } else { ", which do not show it alone" },
            lines.join("\n")
        )
    }

    pub(super) fn summary(&self) -> String {
        let [dropped, redirected, passed] = self.verdicts;
        format!(
            "{dropped} dropped, {redirected} redirected ({} by XDP as well), {passed} passed on, {} refused by the kernel",
            self.by_xdp, self.refused
        )
    }
}

/// The addresses to translate to: the node's first, which is used alone where there is no pool.
fn pool() -> Vec<IpAddr> {
    let more = ["198.18.0.20", "198.18.0.21", "2001:db8:ff::20", "2001:db8:ff::21"];
    let more = more.iter().map(|text| text.parse().expect("address"));
    [Family::V4.node, Family::V6.node].into_iter().chain(more).collect()
}
