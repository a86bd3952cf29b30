//! A packet with what the kernel is told about it, and how a corpus file writes it down.

use netpath::datapath::PROGRAMS;
use netpath_common::abi::Program;
use netpath_tests::scene::{Context, Scene};

/// An interface of the scene: their indexes differ from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    A,
    B,
    Uplink,
    Vpn,
}

impl Place {
    pub(super) const ALL: [(Self, &'static str); 5] =
        [(Self::Nowhere, "-"), (Self::A, "a"), (Self::B, "b"), (Self::Uplink, "uplink"), (Self::Vpn, "vpn")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(place, _)| *place == self).expect("a row each").1
    }

    fn read(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(place, _)| *place)
    }

    fn index(self, scene: &Scene) -> u32 {
        match self {
            Self::Nowhere => 0,
            Self::A => scene.a.ifindex,
            Self::B => scene.b.ifindex,
            Self::Uplink => scene.uplink,
            Self::Vpn => scene.vpn,
        }
    }
}

/// One run of one program.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) program: Program,
    /// The interface it runs on.
    pub(super) on: Place,
    /// The interface the packet came in by.
    pub(super) from: Place,
    pub(super) mark: u32,
    pub(super) gso: u32,
    pub(super) packet: Vec<u8>,
}

impl Step {
    pub(super) fn new(program: Program, on: Place, from: Place, packet: Vec<u8>) -> Self {
        Self { program, on, from, mark: 0, gso: 0, packet }
    }

    pub(super) fn context(&self, scene: &Scene) -> Context {
        Context {
            ifindex: self.on.index(scene),
            ingress_ifindex: self.from.index(scene),
            mark: self.mark,
            gso_size: self.gso,
            ..Context::default()
        }
    }

    /// A line of a corpus file.
    pub(super) fn line(&self) -> String {
        let Self { program, on, from, mark, gso, packet } = self;
        let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {} {} {mark:#x} {gso} {hex}", program.name(), on.name(), from.name())
    }

    /// Reads a line; `None` if it is not one.
    pub(super) fn read(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [program, on, from, mark, gso, hex] = words[..] else { return None };
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        Some(Self {
            program: *PROGRAMS.iter().find(|row| row.name() == program)?,
            on: Place::read(on)?,
            from: Place::read(from)?,
            mark: u32::from_str_radix(mark.strip_prefix("0x")?, 16).ok()?,
            gso: gso.parse().ok()?,
            packet: (0..hex.len()).step_by(2).map(byte).collect::<Option<_>>()?,
        })
    }
}
