//! Why a packet was dropped. The only list: the counter, the event, `drop ls` and its advice all come from it.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $advice:literal;)*) => {
        /// Why a packet was dropped; also its row in COUNTERS.
        ///
        /// As wide as the programs' verdict: in a `Result` of both the payload is then one scalar on every path. With
        /// another width the compiler masks a register before it looks which of the two it holds, and the verifier
        /// refuses the mask where the register holds a pointer.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum DropReason { $($(#[doc = $doc])+ $name = $value,)* }

        impl DropReason {
            /// All reasons, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Stable name, as in metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it means, in a sentence or two.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)* }
            }

            /// What an operator should do.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)* }
            }

            /// The reason with this number.
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

drop_reasons! {
    /// A header is truncated, or its lengths contradict each other.
    Malformed = 1, "Look at the sender: 'tcpdump -i INTERFACE -nvv' on the interface that 'netpath monitor --drops' names shows what is wrong.";
    /// A pod sent from an address or a MAC that is not its own, or an ICMP error about a packet that was never its; or a
    /// pod's address came in by another interface than the pod's.
    SpoofedSource = 2, "'netpath monitor --reason SpoofedSource' names the pod and the address. If the pod may use it, add the pod with --allow-address; else look for a bridge, a VPN or a changed MAC inside it.";
    /// A pod sent a frame with a VLAN tag, or of another EtherType than IPv4, IPv6 and ARP.
    UnsupportedProtocol = 3, "Networks carry IP only: remove the VLAN interface inside the pod, or stop what sends LLDP, PPPoE or the like there.";
    /// A pod sent to a multicast or broadcast address.
    Multicast = 4, "Networks carry no multicast and no broadcast. mDNS, SSDP and DHCP end here and that harms nobody; what needs its peers is to be given their addresses.";
    /// The first part of a fragmented datagram came after a later one, which nobody could be found for, or a later part came
    /// alone: the datagram is lost.
    FragmentOutOfOrder = 5, "Send datagrams that fit into the path's MTU ('tracepath DESTINATION' in the pod finds it), or find what reorders packets on the way.";
    /// A transport protocol that cannot be translated, or an ICMP message without a flow that it is about.
    ProtocolNotTranslated = 6, "Only TCP, UDP, SCTP and echo are translated. For GRE, ESP and the like use 'netpath network set NAME --no-masquerade PREFIX' and have PREFIX route back to the pods.";
    /// No free source port was found towards this destination.
    SnatExhausted = 7, "'netpath status' names the destinations. Widen snat.ports, add snat.addresses, or shorten flows.timeouts; 'netpath flow ls --destination D' shows who holds the ports.";
    /// The flow table is full of flows that cannot be given up.
    FlowTableFull = 8, "Raise flows.capacity and restart the agent (flows stay), lower flows.per_pod, or find the pod that opens so many with 'netpath flow ls --sort age'.";
    /// The gateway's own address was sent something else than a ping, or a route of the network drops this destination, or
    /// it is nobody's whom a tunnel between nodes leads to.
    RouteDrop = 9, "Pods have no service at the gateway's address (169.254.1.1, fe80::1): use the address of the node or of the service that is meant.";
    /// From outside to a pod's own address, which only pods and nodes of the cluster may reach.
    InboundDenied = 10, "If outside may open connections to these pods, 'netpath network set NAME --inbound any'. If the packet was an answer, its flow had ended: raise the timeout in flows.timeouts.";
    /// The uplink has no address of this family that flows could be translated to.
    NoSourceAddress = 11, "Give the uplink an address of the packet's family ('ip addr' shows what it has), or name another uplink.";
    /// The host stack forwarded a packet with a pod's address to an uplink, where it may not leave untranslated:
    /// the pod has just gone, or the node's rules send what is for the node or a pod to the wire.
    Untranslated = 12, "A few after 'pod rm' are normal. If they go on, 'ip rule' and 'ip route get DESTINATION from POD iif INTERFACE' show who sends the packet to the uplink.";
    /// The kernel refused to make the packet writable: it was out of memory for packets.
    RewriteFailed = 13, "Look for memory pressure: 'dmesg' for allocation failures, and vm.min_free_kbytes.";
    /// An answer came with its last hop used up; the node's stack would take it for its own and reset the connection.
    TtlExpired = 14, "Look for a routing loop between the peer and this node with 'traceroute', or a peer that sends with a tiny TTL.";
    /// The programs have not been told of the node yet, or not of the interface that the packet was about to leave by.
    NotReady = 15, "It passes within a second of the agent's start, or of a new interface. If it lasts, 'netpath status' tells what keeps the agent from writing its tables.";
    /// A pod sent to a destination that is never valid on a wire (0.0.0.0/8, 127.0.0.0/8, 240.0.0.0/4; ::, ::1, fe80::/10).
    MartianDestination = 16, "Look at the pod's configuration for 'localhost', 0.0.0.0 or an unset address where a peer's belongs.";
    /// The pod has as many flows as one pod may have.
    PodFlowLimit = 17, "See what the pod opens with 'netpath flow ls --pod POD --sort age'; if it is meant to, raise flows.per_pod and send the agent SIGHUP.";
    /// SCTP keeps its source port, and another flow to this destination has it.
    SnatPortTaken = 18, "Give one of the two pods another local SCTP port, or add an address to snat.addresses.";
    /// It came from a prefix that is on the deny list.
    Denied = 19, "'netpath deny ls' counts by prefix. If the sender is welcome, 'netpath deny rm PREFIX'.";
    /// To a published port, from an address and port that a flow to the pod's port has already: by another published port,
    /// or straight to the pod.
    PublishedTaken = 20, "Let the client choose its source port, or use one published port only. It passes when the other flow ends: 'netpath flow ls --pod POD' shows it.";
    /// The pod sent more than the bandwidth that it is limited to, past the queue that keeps it below.
    RateLimited = 21, "'netpath pod show POD' has its limits; 'netpath pod set POD --egress-bandwidth RATE' changes them. In the pod, somebody has removed or changed the queue of its interface ('tc qdisc').";
    /// A tunnel brought it from who is no node of the cluster, or with another VNI; or a pod of a cluster sent to the port of
    /// tunnels in its node's name, to whomever: only nodes do.
    ForeignTunnel = 22, "Every node has to have the same cluster.vni and cluster.vxlan_port. If all have, somebody forges packets of the tunnel: 'tcpdump -ni UPLINK udp port 4789' shows who.";
    /// A pod sent to a port that is protected on nodes, of its own node or of another one; or an IPv6 packet for a node with
    /// too many extension headers to find its port.
    ProtectedPort = 23, "'netpath monitor --reason ProtectedPort' names pod and port. If pods may use it, take it out of protect (of the metrics' port: set metrics.pods), and send the agent SIGHUP.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_row_a_meaning_and_an_advice() {
        let rows = include_str!("../../../docs/DROPS.md").lines().filter(|line| line.starts_with("| `"));
        let mut listed: std::collections::BTreeSet<_> = rows.collect();
        for &reason in DropReason::ALL {
            assert!((reason as u8) < 64);
            let row = format!("| `{}` | {} | {} |", reason.name(), reason.meaning(), reason.advice());
            assert!(listed.remove(row.as_str()), "docs/DROPS.md lacks, or has otherwise:\n{row}");
            assert_eq!(DropReason::from_u8(reason as u8), Some(reason));
            let (meaning, advice) = (reason.meaning(), reason.advice());
            assert!(
                meaning.ends_with(['.', ')']) && advice.ends_with('.'),
                "{}: {meaning} {advice}",
                reason.name()
            );
            assert!(
                !meaning.contains("  ") && meaning.len() < 250 && advice.len() < 250,
                "{}",
                reason.name()
            );
        }
        assert!(listed.is_empty(), "docs/DROPS.md has what is no reason: {listed:?}");
    }
}
