//! What the fuzzer starts from: sequences of valid packets, in `tests/corpus`, a file each, beside those that once found
//! something.

use std::{fs, path::PathBuf};

use netpath_common::abi::{HAIRPIN_V4, HAIRPIN_V6, Program};
use netpath_tests::{
    packet::{
        ACK, ETHERNET, ErrorKind, Extension, Frame, OVERRIDE, SOLICITED, SYN, SYN_ACK, advertisement, arp,
        fragments, listener_report, probe, router_solicitation, solicitation,
    },
    scene::{Family, GATEWAY_MAC, Pod, Scene, Talk, from_router},
};

use super::step::{Place, Step};

/// A file of the corpus.
pub(super) struct Sequence {
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Reads all files.
pub(super) fn read() -> Vec<Sequence> {
    let files = fs::read_dir(directory()).expect("tests/corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("file").path()).collect();
    paths.sort();
    let of = |path: &PathBuf| {
        let name = path.file_stem().expect("name").to_string_lossy().into_owned();
        let text = fs::read_to_string(path).expect("corpus file");
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let steps = lines.map(|line| Step::read(line).unwrap_or_else(|| panic!("{name}: {line}"))).collect();
        Sequence { name, steps }
    };
    paths.iter().map(of).collect()
}

/// Writes what the builders make.
pub(super) fn write(scene: &Scene) {
    for sequence in build(scene) {
        let lines: Vec<_> = sequence.steps.iter().map(Step::line).collect();
        let path = directory().join(format!("{}.hex", sequence.name));
        fs::write(&path, lines.join("\n") + "\n").expect("corpus file");
    }
}

/// What the builders make, for both families.
pub(super) fn build(scene: &Scene) -> Vec<Sequence> {
    let named = |f: &Family| {
        let b = Builder { a: scene.a, b: scene.b, f: *f };
        let rows = [
            ("talks", b.talks()),
            ("stack", b.stack()),
            ("errors", b.errors()),
            ("fragments", b.fragments()),
            ("local", b.local()),
            ("unmasked", b.unmasked()),
            ("options", b.options()),
            ("neighbours", b.neighbours()),
            ("node", b.node()),
            ("inbound", b.inbound()),
            ("published", b.published()),
        ];
        rows.map(|(name, steps)| Sequence { name: format!("{name}-{}", f.name), steps })
    };
    scene.families().iter().flat_map(named).collect()
}

struct Builder {
    a: Pod,
    b: Pod,
    f: Family,
}

const PORT: u16 = 40_000;

impl Builder {
    fn a_sends(&self, frame: Frame) -> Step {
        Step::new(Program::FromPod, Place::A, Place::Nowhere, frame.macs(self.a.mac, GATEWAY_MAC).bytes())
    }

    fn b_sends(&self, frame: Frame) -> Step {
        Step::new(Program::FromPod, Place::B, Place::Nowhere, frame.macs(self.b.mac, GATEWAY_MAC).bytes())
    }

    fn wire_brings(frame: Frame) -> Step {
        Step::new(Program::FromUplink, Place::Uplink, Place::Uplink, from_router(frame))
    }

    fn leaves(frame: Frame, from: Place) -> Step {
        Step::new(Program::ToUplink, Place::Uplink, from, frame.bytes())
    }

    fn to_a(&self, frame: Frame, from: Place) -> Step {
        Step::new(Program::ToPod, Place::A, from, frame.macs(GATEWAY_MAC, self.a.mac).bytes())
    }

    fn talks(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for talk in Talk::ALL {
            let question = talk.question((f.a, PORT), f.outside);
            let answer = talk.answer(f.outside, (f.node, PORT));
            steps.extend([self.a_sends(question.clone()), Self::wire_brings(answer.clone())]);
            steps.push(self.b_sends(talk.question((f.b, PORT), f.outside)));
            steps.extend([self.a_sends(question.ttl(2)), Self::wire_brings(answer.ttl(1))]);
            steps.push(self.a_sends(talk.question((f.a, 1000), f.other)));
        }
        let tcp = |flags| Frame::tcp((f.a, PORT), (f.outside, 443), flags);
        let mut train = self.a_sends(tcp(ACK).payload(vec![7; 1300]));
        train.gso = 100;
        steps.extend([Self::wire_brings(Frame::tcp((f.outside, 443), (f.node, PORT), SYN_ACK)), train]);
        let mut datagrams = self.a_sends(Frame::udp((f.a, PORT), (f.outside, 443)).payload(vec![7; 1300]));
        datagrams.gso = 600;
        steps.push(datagrams);
        steps.push(self.a_sends(Frame::udp((f.a, 1000), (f.outside, 53)).no_checksum()));
        steps
    }

    fn stack(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for talk in Talk::ALL {
            steps.push(self.a_sends(talk.question((f.a, PORT), f.outside).ttl(1)));
            steps.push(Self::leaves(talk.question((f.a, PORT), f.outside), Place::A));
            steps.push(Self::leaves(talk.question((f.nobody, PORT), f.outside), Place::A));
            steps.push(self.to_a(talk.answer(f.outside, (f.a, PORT)), Place::Uplink));
            steps.push(self.a_sends(talk.question((f.a, PORT), f.vpn)));
            steps.push(self.to_a(talk.answer(f.vpn, (f.a, PORT)), Place::Vpn));
            steps.push(self.to_a(talk.answer(f.node, (f.a, PORT)), Place::Nowhere));
        }
        steps
    }

    fn errors(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for (talk, embed) in Talk::ALL.into_iter().flat_map(|talk| [8, 18, 400].map(|embed| (talk, embed))) {
            let embed = f.header() + embed;
            steps.push(self.a_sends(talk.question((f.a, PORT), f.outside)));
            let left = talk.question((f.node, PORT), f.outside).ttl(60).packet();
            let kind =
                [ErrorKind::Unreachable(1), ErrorKind::TooBig(1400), ErrorKind::TimeExceeded(0)][embed % 3];
            let error = Frame::error(f.router, f.node, kind, &left, embed);
            steps.push(Self::wire_brings(error.clone()));
            steps.push(Self::wire_brings(self.longer(error)));
            let got = talk.answer(f.outside, (f.a, PORT)).packet();
            steps.push(self.a_sends(Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &got, embed)));
            steps.push(self.a_sends(talk.question((f.a, PORT), f.unmasked)));
            let own = talk.question((f.a, PORT), f.unmasked).packet();
            steps.push(Self::wire_brings(Frame::error(f.router, f.a, kind, &own, embed)));
            let local = talk.question((f.b, PORT), f.a).packet();
            steps.push(self.a_sends(Frame::error(f.a, f.b, kind, &local, embed)));
        }
        steps
    }

    fn fragments(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for (n, talk) in [Talk::Udp, Talk::Echo, Talk::Sctp].into_iter().enumerate() {
            let cut = |frame: Frame, id| fragments(frame.payload(vec![3; 500]).identification(id), 300);
            let id = n as u32 + 7;
            let out = cut(talk.question((f.a, PORT), f.outside).macs(self.a.mac, GATEWAY_MAC), id);
            let back = cut(talk.answer(f.outside, (f.node, PORT)).macs([2; 6], GATEWAY_MAC), id);
            let from = |packet| Step::new(Program::FromPod, Place::A, Place::Nowhere, packet);
            let wire = |packet| Step::new(Program::FromUplink, Place::Uplink, Place::Uplink, packet);
            let stack = |packet| Step::new(Program::ToUplink, Place::Uplink, Place::A, packet);
            steps.extend(out.iter().cloned().map(from));
            steps.extend(back.iter().cloned().map(wire));
            let again = cut(talk.question((f.a, PORT), f.outside).macs(self.a.mac, GATEWAY_MAC), id + 100);
            steps.extend(again.iter().rev().cloned().map(from));
            steps.extend(again.into_iter().map(stack));
            let reversed = cut(talk.answer(f.outside, (f.node, PORT)).macs([2; 6], GATEWAY_MAC), id + 200);
            steps.extend(reversed.into_iter().rev().map(wire));
        }
        steps
    }

    fn local(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for talk in Talk::ALL {
            steps.push(self.a_sends(talk.question((f.a, PORT), f.b)));
            steps.push(self.b_sends(talk.answer(f.b, (f.a, PORT))));
            steps.push(self.a_sends(talk.question((f.a, PORT), f.node)));
            steps.push(self.a_sends(talk.question((f.a, PORT), f.nobody)));
            steps.push(self.a_sends(talk.question((f.a, PORT), f.refused)));
        }
        steps.push(self.a_sends(Frame::echo(f.a, f.gateway, true, 7, 1)));
        steps.push(self.a_sends(Frame::raw(f.a, f.outside, 47)));
        steps
    }

    fn unmasked(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for talk in Talk::ALL {
            steps.push(self.a_sends(talk.question((f.a, PORT), f.unmasked)));
            steps.push(Self::wire_brings(talk.answer(f.unmasked, (f.a, PORT))));
            let got = talk.answer(f.unmasked, (f.a, PORT)).packet();
            steps.push(self.a_sends(Frame::error(f.a, f.unmasked, ErrorKind::Unreachable(3), &got, 100)));
        }
        steps.push(self.a_sends(Frame::raw(f.a, f.unmasked, 47)));
        steps.push(Self::wire_brings(Frame::raw(f.unmasked, f.a, 47)));
        steps
    }

    /// With IPv4 options or IPv6 extension headers.
    fn longer(&self, frame: Frame) -> Frame {
        if self.f.is_v4() {
            return frame.options(&[1; 12]);
        }
        frame.extension(Extension::HopByHop, &[5, 2, 0, 0]).extension(Extension::Destination, &[0; 14])
    }

    fn options(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for talk in Talk::ALL {
            let question = talk.question((f.a, PORT), f.outside);
            steps.push(self.a_sends(self.longer(question.clone())));
            steps.push(Self::wire_brings(self.longer(talk.answer(f.outside, (f.node, PORT)))));
            if !f.is_v4() {
                let chain = question
                    .extension(Extension::Routing, &[4, 0, 0, 0, 0, 0])
                    .extension(Extension::Authentication, &[0; 22]);
                steps.push(self.a_sends(chain.clone()));
                steps.push(self.a_sends(chain.fragment(0, false)));
            }
        }
        steps
    }

    fn neighbours(&self) -> Vec<Step> {
        let (f, a) = (&self.f, self.a);
        let whole = |packet| Step::new(Program::FromPod, Place::A, Place::Nowhere, packet);
        if f.is_v4() {
            let ask = |request, to| whole(arp(request, a.mac, (a.mac, f.a), to));
            return vec![
                ask(true, f.gateway),
                ask(true, f.b),
                ask(true, f.a),
                ask(false, f.gateway),
                whole(arp(true, a.mac, (a.mac, std::net::Ipv4Addr::UNSPECIFIED), f.a)),
            ];
        }
        let group = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
        let frames = [
            solicitation(a.mac, a.link_local, f.gateway, Some(a.mac)),
            solicitation(a.mac, f.a, f.b, Some(a.mac)),
            solicitation(a.mac, f.a, f.gateway, None).to(f.gateway),
            probe(a.mac, f.a),
            probe(a.mac, a.link_local),
            advertisement(a.mac, f.a, f.gateway, f.a, SOLICITED | OVERRIDE),
            router_solicitation(a.mac, a.link_local, Some(a.mac)),
            listener_report(a.mac, a.link_local, group),
            Frame::echo(a.link_local, f.gateway, true, 7, 1).macs(a.mac, GATEWAY_MAC),
        ];
        frames.into_iter().map(|frame| whole(frame.bytes())).collect()
    }

    /// The node's own packets, one of them with a port that a pod's binding holds.
    fn node(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for talk in Talk::ALL {
            steps.push(self.a_sends(talk.question((f.a, PORT), f.outside)));
            steps.push(Self::leaves(talk.question((f.node, PORT), f.outside), Place::Nowhere));
            steps.push(Self::leaves(talk.question((f.node, 1000), f.outside), Place::Nowhere));
            steps.push(Self::wire_brings(talk.answer(f.outside, (f.node, 1000))));
            let got = talk.answer(f.outside, (f.node, PORT)).packet();
            let error = Frame::error(f.node, f.outside, ErrorKind::Unreachable(3), &got, 100);
            steps.push(Self::leaves(error, Place::Nowhere));
        }
        steps
    }

    /// Led to pod A only where the node's port is published.
    fn published(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for (n, talk) in [Talk::Tcp, Talk::Udp, Talk::Sctp].into_iter().enumerate() {
            let own = if talk == Talk::Sctp { 443 } else { 80 };
            let answer = |to| match talk {
                Talk::Tcp => Frame::tcp((f.a, own), to, SYN_ACK),
                Talk::Udp => Frame::udp((f.a, own), to),
                _ => Frame::sctp((f.a, own), to),
            };
            let hairpin = f.pick(HAIRPIN_V4, HAIRPIN_V6).to_ip();
            for (client, shown) in [(f.outside, f.outside), (f.b, f.b), (f.a, hairpin)] {
                let says = |frame: Frame| match client {
                    client if client == f.outside => Self::wire_brings(frame),
                    client if client == f.b => self.b_sends(frame),
                    _ => self.a_sends(frame),
                };
                let question = talk.question((client, PORT), f.node);
                steps.extend([says(question.clone()), self.a_sends(answer((shown, PORT)))]);
                steps.extend([says(question.clone().ttl(1)), says(self.longer(question.clone()))]);
                let cut = question.payload(vec![3; 500]).identification(n as u32 + 400);
                let mac = if client == f.outside { [2; 6] } else { self.mac_of(client) };
                let parts = fragments(cut.macs(mac, GATEWAY_MAC), 300);
                steps.extend(
                    parts.into_iter().map(|packet| Step { packet, ..says(Frame::raw(client, f.node, 47)) }),
                );
                let got = answer((client, PORT)).packet();
                let left = Frame::error(client, f.node, ErrorKind::Unreachable(3), &got, 100);
                steps.push(says(left));
                let got = talk.question((shown, PORT), f.a).packet();
                steps.push(self.a_sends(Frame::error(f.a, shown, ErrorKind::Unreachable(3), &got, 100)));
                steps.push(Self::leaves(
                    Frame::error(f.node, client, ErrorKind::TooBig(1300), &got, 100),
                    Place::Nowhere,
                ));
            }
        }
        steps
    }

    fn mac_of(&self, pod: std::net::IpAddr) -> [u8; 6] {
        if pod == self.f.b { self.b.mac } else { self.a.mac }
    }

    /// Let in only where the networks are open.
    fn inbound(&self) -> Vec<Step> {
        let f = &self.f;
        let mut steps = Vec::new();
        for talk in Talk::ALL {
            steps.push(Self::wire_brings(talk.question((f.outside, 1000), f.a)));
            steps.push(self.to_a(talk.question((f.outside, 1001), f.a), Place::Uplink));
            steps.push(self.a_sends(talk.answer(f.a, (f.outside, 1000))));
            let got = talk.question((f.outside, 1000), f.a).packet();
            steps.push(self.a_sends(Frame::error(f.a, f.outside, ErrorKind::Unreachable(3), &got, 100)));
            steps.push(Self::wire_brings(talk.question((f.b, 1000), f.a)));
        }
        steps.push(Self::wire_brings(Frame::tcp((f.outside, 1000), (f.a, 443), SYN).ttl(1)));
        assert!(steps.iter().all(|step| step.packet.len() > ETHERNET));
        steps
    }
}
