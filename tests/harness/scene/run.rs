//! BPF_PROG_TEST_RUN: one packet, one verdict.

use aya::{
    TestRun as _, TestRunOptions,
    programs::{ProgramError, SchedClassifier},
};
use netpath_common::abi::Program;

use crate::packet::{ETHERNET, Frame, shown};

use super::{GATEWAY_MAC, Pod, ROUTER_MAC, Scene};

/// What the kernel is told about the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Interface the program runs on.
    pub ifindex: u32,
    /// Interface the packet came in by; 0 if the node made it.
    pub ingress_ifindex: u32,
    /// Mark.
    pub mark: u32,
    /// Payload of a segment of a GSO train; 0 for a plain packet.
    pub gso_size: u32,
    /// What earlier programs left beside it (`cb`).
    pub notes: [u32; 5],
}

/// What a run left.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The program's return value.
    pub code: i32,
    /// The packet.
    pub packet: Vec<u8>,
    /// Its mark.
    pub mark: u32,
    /// What was left beside it (`cb`).
    pub notes: [u32; 5],
}

impl Ran {
    /// Asserts that the packet went on as it came.
    pub fn assert_untouched(&self, name: &str, packet: &[u8]) {
        assert_eq!(self.code, NEXT, "{name}: verdict");
        let changed = self.packet.iter().zip(packet).position(|(now, then)| now != then);
        assert_eq!(
            (changed, self.packet.len()),
            (None, packet.len()),
            "{name}: first changed byte, length of {}",
            shown(&self.packet)
        );
    }

    /// Asserts that the packet went into a pod or out of an uplink as it came, but for MAC addresses and one hop.
    pub fn assert_forwarded(&self, name: &str, packet: &[u8]) {
        assert_eq!(self.code, REDIRECT, "{name}: verdict");
        let mut wanted = packet.to_vec();
        wanted[..12].copy_from_slice(&self.packet[..12]);
        let (hops, checksum) = if packet[ETHERNET] >> 4 == 4 { (22, 24..26) } else { (21, 0..0) };
        wanted[hops] -= 1;
        wanted[checksum.clone()].copy_from_slice(&self.packet[checksum]);
        let changed = self.packet.iter().zip(&wanted).position(|(now, then)| now != then);
        assert_eq!(
            (changed, self.packet.len()),
            (None, packet.len()),
            "{name}: first changed byte, length of {}",
            shown(&self.packet)
        );
    }

    /// The MAC addresses that were left: source, destination.
    pub fn macs(&self) -> ([u8; 6], [u8; 6]) {
        let mac = |at: usize| self.packet[at..at + 6].try_into().expect("six bytes");
        (mac(6), mac(0))
    }
}

/// TCX_NEXT.
pub const NEXT: i32 = -1;
/// TCX_DROP.
pub const DROP: i32 = 2;
/// TCX_REDIRECT.
pub const REDIRECT: i32 = 7;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

impl Context {
    /// Bytes of `struct __sk_buff` (include/uapi/linux/bpf.h).
    const SIZE: usize = 192;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        // The kernel checks that a GSO train has a segment count, and takes no other field.
        let segments = u32::from(self.gso_size != 0) * 2;
        let notes = (48..).step_by(4).zip(self.notes);
        let fields = [
            (8, self.mark),
            (36, self.ingress_ifindex),
            (40, self.ifindex),
            (164, segments),
            (176, self.gso_size),
        ];
        for (offset, value) in fields.into_iter().chain(notes) {
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

/// Runs a loaded program once on a packet, on the CPU of the caller: for threads.
///
/// # Errors
/// The kernel's.
pub fn run_program(program: &SchedClassifier, packet: &[u8], context: Context) -> Result<Ran, ProgramError> {
    let mut out = vec![0; packet.len() + 256];
    let (context_in, mut context_out) = (context.to_bytes(), [0; Context::SIZE]);
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: Some(&context_in),
        ctx_out: Some(&mut context_out),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    let number = |at: usize| u32::from_ne_bytes(context_out[at..at + 4].try_into().expect("four bytes"));
    let notes = [48, 52, 56, 60, 64].map(number);
    Ok(Ran { code: result.return_value as i32, packet: out, mark: number(8), notes })
}

impl Scene {
    /// Runs a program once on a packet.
    pub fn run(&self, program: Program, packet: &[u8], context: Context) -> Ran {
        self.try_run(program, packet, context).unwrap_or_else(|error| panic!("{program:?}: {error:?}"))
    }

    /// The same for a packet that the kernel may refuse to make: newer ones want a whole IP header.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_run(&self, program: Program, packet: &[u8], context: Context) -> Result<Ran, ProgramError> {
        run_program(self.datapath.program(program).expect("program"), packet, context)
    }

    /// Runs an XDP program once on a packet of an interface. Its verdict is told in tc's words: NEXT, DROP, REDIRECT.
    pub fn run_xdp(&self, program: Program, packet: &[u8], ifindex: u32) -> Ran {
        let mut out = vec![0; packet.len() + 256];
        // `struct xdp_md` (include/uapi/linux/bpf.h): data, data_end, data_meta, ingress_ifindex, and two more.
        let fields = [0, packet.len() as u32, 0, ifindex, 0, 0];
        let context: Vec<u8> = fields.into_iter().flat_map(u32::to_ne_bytes).collect();
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let loaded = self.datapath.xdp_program(program).expect("program");
        let result = loaded.test_run(options).unwrap_or_else(|error| panic!("{program:?}: {error:?}"));
        out.truncate(result.data_size_out as usize);
        let code = match result.return_value {
            XDP_DROP => DROP,
            XDP_PASS => NEXT,
            XDP_REDIRECT => REDIRECT,
            other => panic!("{program:?} said {other}"),
        };
        Ran { code, packet: out, mark: 0, notes: [0; 5] }
    }

    /// Runs `from_pod` on a packet of pod A.
    pub fn from_a(&self, packet: &[u8]) -> Ran {
        self.from(self.a, packet)
    }

    /// Runs `from_pod` on a packet of a pod.
    pub fn from(&self, pod: Pod, packet: &[u8]) -> Ran {
        self.run(Program::FromPod, packet, Context { ifindex: pod.ifindex, ..Context::default() })
    }

    /// Runs `from_pod` on what pod A says to its gateway.
    pub fn a_says(&self, frame: Frame) -> Ran {
        self.says(self.a, frame)
    }

    /// Runs `from_pod` on what a pod says to its gateway.
    pub fn says(&self, pod: Pod, frame: Frame) -> Ran {
        self.from(pod, &frame.macs(pod.mac, GATEWAY_MAC).bytes())
    }

    /// Runs `from_uplink` on what the router sends.
    pub fn router_says(&self, frame: Frame) -> Ran {
        self.from_wire(&from_router(frame))
    }

    /// Runs `to_pod` on what the stack sends to pod A; an ingress of 0 is the node itself.
    pub fn to_a(&self, packet: &[u8], ingress_ifindex: u32) -> Ran {
        self.to_pod(self.a, packet, ingress_ifindex)
    }

    /// Runs `to_pod` on what the stack sends to a pod; an ingress of 0 is the node itself.
    pub fn to_pod(&self, pod: Pod, packet: &[u8], ingress_ifindex: u32) -> Ran {
        let context = Context { ifindex: pod.ifindex, ingress_ifindex, ..Context::default() };
        self.run(Program::ToPod, packet, context)
    }

    /// Runs `to_uplink` on what the stack sends; an ingress of 0 is the node itself.
    pub fn leaves(&self, packet: &[u8], ingress_ifindex: u32, mark: u32) -> Ran {
        let context = Context { ifindex: self.uplink, ingress_ifindex, mark, ..Context::default() };
        self.run(Program::ToUplink, packet, context)
    }

    /// Runs `to_overlay` on what the stack sends, or what a program has marked; an ingress of 0 is the node itself.
    pub fn to_tunnel(&self, packet: &[u8], ingress_ifindex: u32, mark: u32) -> Ran {
        let context = Context { ifindex: self.vpn, ingress_ifindex, mark, ..Context::default() };
        self.run(Program::ToOverlay, packet, context)
    }

    /// Runs `from_uplink`.
    pub fn from_wire(&self, packet: &[u8]) -> Ran {
        self.run(Program::FromUplink, packet, Context { ifindex: self.uplink, ..Context::default() })
    }
}

/// A packet as the router puts it on the uplink.
pub fn from_router(frame: Frame) -> Vec<u8> {
    frame.macs(ROUTER_MAC, GATEWAY_MAC).bytes()
}
