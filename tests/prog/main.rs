//! Tier "prog": every branch of every program, packet in and packet out, by BPF_PROG_TEST_RUN.

mod arp;
mod attach;
mod elf;
mod exhaustion;
mod fragments;
mod from_pod;
mod from_uplink;
mod fuzz;
mod icmp_errors;
mod nd;
mod packets;
mod refused;
mod scene;
mod sctp;
mod snat;
mod stack;
mod to_pod;
mod to_uplink;
