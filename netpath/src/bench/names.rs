//! Stable names, as in JSON and on the command line.

use std::fmt;

/// Makes an enum whose values have names, and a list of them.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$row_doc:meta])* $row:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$row_doc])* $row,)*
        }

        impl $name {
            /// All of them, in the order in which they are measured and told.
            pub const ALL: &[Self] = &[$(Self::$row),*];

            /// Stable name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$row => $text,)*
                }
            }

            /// Which one has this name.
            pub fn of(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.name() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names! {
    /// From where to where.
    Path {
        /// Two pods of one node.
        PodPod = "pod-pod",
        /// The node itself and a pod of it.
        NodePod = "node-pod",
        /// A pod and a server on the link of the node's uplink.
        PodOnlink = "pod-onlink",
        /// A pod and a server behind the node's router.
        PodOutside = "pod-outside",
        /// Two pods of two nodes on one link.
        PodPodRemote = "pod-pod-remote",
    }
}

names! {
    /// What is sent.
    Protocol {
        /// TCP, with TCP_NODELAY.
        Tcp = "tcp",
        /// UDP, over IPv4 as the others whose name does not tell.
        Udp = "udp",
        /// TCP over IPv6.
        Tcp6 = "tcp6",
        /// UDP over IPv6.
        Udp6 = "udp6",
        /// Echo, answered by the peer's kernel.
        Icmp = "icmp",
    }
}

names! {
    /// What is done.
    Workload {
        /// Request and response on one connection.
        Rr = "rr",
        /// Connect, request, response, close.
        Crr = "crr",
        /// As many bytes as go through.
        Stream = "stream",
        /// As many small datagrams as go through.
        Pps = "pps",
        /// The first round trip of a new pod.
        FirstPacket = "first-packet",
        /// Adding and removing a pod.
        Attach = "attach",
        /// Packets of somebody who may not send here.
        Drop = "drop",
        /// One run of a program.
        Program = "program",
        /// Request and response with large tables.
        Scale = "scale",
    }
}

names! {
    /// What a figure is in.
    Unit {
        /// Nanoseconds.
        Nanos = "ns",
        /// Microseconds.
        Micros = "us",
        /// Milliseconds.
        Millis = "ms",
        /// Connections, one after the other.
        Connections = "connections/s",
        /// Packets that arrived, or were dropped.
        Packets = "packets/s",
        /// Payload that arrived, 10⁹ bits a second.
        Gigabits = "Gbit/s",
    }
}

impl Protocol {
    /// Whether it goes over IPv6.
    pub(super) const fn is_v6(self) -> bool {
        matches!(self, Self::Tcp6 | Self::Udp6)
    }
}

impl Unit {
    /// How many raw units (nanoseconds, bits, packets, connections) one is.
    pub(super) const fn raw(self) -> f64 {
        match self {
            Self::Nanos | Self::Connections | Self::Packets => 1.0,
            Self::Micros => 1e3,
            Self::Millis => 1e6,
            Self::Gigabits => 1e9,
        }
    }

    /// Whether less is better.
    pub const fn is_time(self) -> bool {
        matches!(self, Self::Nanos | Self::Micros | Self::Millis)
    }
}

/// Which figure: everything that tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) workload: Workload,
    pub(super) path: Option<Path>,
    pub(super) protocol: Option<Protocol>,
    /// What varies within a workload: `bytes`, `connections`, `add`, the name of a program.
    pub(super) variant: Option<String>,
    /// How many of it.
    pub(super) amount: Option<u64>,
    pub(super) mode: &'static str,
}

impl Key {
    /// Of a workload as a whole.
    pub(super) const fn of(workload: Workload, mode: &'static str) -> Self {
        Self { workload, path: None, protocol: None, variant: None, amount: None, mode }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.mode, self.workload)?;
        for part in [self.path.map(Path::name), self.protocol.map(Protocol::name)].into_iter().flatten() {
            write!(f, " {part}")?;
        }
        if let Some(amount) = self.amount {
            write!(f, " {amount}")?;
        }
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, " {variant}"))
    }
}
