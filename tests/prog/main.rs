//! Tier "prog": every branch of every program, packet in and packet out, by BPF_PROG_TEST_RUN.

mod arp;
mod attach;
mod connection;
mod conntrack;
mod elf;
mod exhaustion;
mod fragments;
mod from_pod;
mod from_uplink;
mod fuzz;
mod host;
mod icmp_errors;
mod limits;
mod moving;
mod nd;
mod packets;
mod pool;
mod refused;
mod reset;
mod scene;
mod sctp;
mod snat;
mod stack;
mod sweep;
mod to_pod;
mod to_uplink;
