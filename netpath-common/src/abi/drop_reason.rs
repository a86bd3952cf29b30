//! Why a packet was dropped. The only list: the counter, the event, `drop ls` and its advice all come from it.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $advice:literal;)*) => {
        /// Why a packet was dropped; also its row in COUNTERS.
        ///
        /// As wide as the programs' verdict: in a `Result` of both the payload is then one scalar on every path. With
        /// another width the compiler masks a register before it looks which of the two it holds, and the verifier
        /// refuses the mask where the register holds a pointer.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum DropReason { $($(#[$doc])* $name = $value,)* }

        impl DropReason {
            /// All reasons, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Stable name, as in metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What an operator should look at.
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
    /// Truncated, inconsistent or otherwise not a packet (invariant 9).
    Malformed = 1, "A pod or the wire sent a damaged packet. Capture it and look at the sender.";
    /// Source address or MAC does not belong to the pod that sent it.
    SpoofedSource = 2, "The pod sent from an address it does not own: look for extra addresses or a bridge inside it.";
    /// Neither ARP nor an IP version that the pod's network has.
    UnsupportedProtocol = 3, "The pod sent IPv6, a VLAN tag or another EtherType that its network does not carry.";
    /// Multicast or broadcast from a pod.
    Multicast = 4, "Networks do not carry multicast or broadcast. Use unicast discovery.";
    /// The first part of a fragmented datagram came after a later one, which nobody could be found for: the datagram is lost.
    FragmentOutOfOrder = 5, "The network reorders fragments: send smaller datagrams, or look at the path's MTU.";
    /// A transport protocol that cannot be translated.
    ProtocolNotTranslated = 6, "Only TCP, UDP, SCTP and ICMP echo can be translated. Use a network or a prefix without masquerade.";
    /// No free port for this destination in the SNAT range.
    SnatExhausted = 7, "No free port was found towards this destination: widen snat.ports, or name more snat.addresses.";
    /// FLOWS is full.
    FlowTableFull = 8, "Raise flows.capacity, or find the pod that opens so many flows with 'netpath flow ls'.";
    /// A route says so.
    RouteDrop = 9, "A route of the network drops this destination.";
    /// From outside to a pod's own address.
    InboundDenied = 10, "Publish the port, or set inbound = \"any\" if pods should be reachable from outside.";
    /// The egress interface has no address to translate to.
    NoSourceAddress = 11, "Give the uplink an address of this family.";
    /// The host stack forwarded a pod's packet that could not be translated (invariant 1).
    Untranslated = 12, "A packet with a pod's address was about to leave untranslated and was stopped.";
    /// The kernel refused to change the packet (out of memory).
    RewriteFailed = 13, "The kernel could not make the packet writable: look for memory pressure.";
    /// A reply whose hop count ends here; the node's stack would take it for its own and reset the connection.
    TtlExpired = 14, "A reply arrived with its last hop used up: look for a routing loop outside.";
    /// The node's record is missing: the agent has not finished starting.
    NotReady = 15, "The agent has not written its configuration yet. Look at 'netpath status'.";
    /// A destination that only loops or is never valid on a wire (0.0.0.0/8, 127.0.0.0/8, 240.0.0.0/4; ::, ::1, fe80::/10).
    MartianDestination = 16, "The pod sent to an address that is not valid on a network.";
    /// The pod has as many flows as one pod may have.
    PodFlowLimit = 17, "Raise flows.per_pod, or see what the pod opens with 'netpath flow ls --pod POD'.";
    /// SCTP's port cannot change, and another flow to this destination has it.
    SnatPortTaken = 18, "Two pods use one SCTP port towards one peer: give one of them another port.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rows_below_the_classes() {
        for &reason in DropReason::ALL {
            assert!((reason as u8) < 64);
            assert_eq!(DropReason::from_u8(reason as u8), Some(reason));
            assert!(!reason.advice().is_empty());
        }
    }
}
