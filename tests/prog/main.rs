//! Tier "prog": every branch of every program, packet in and packet out, by BPF_PROG_TEST_RUN.

mod arp;
mod elf;
mod exhaustion;
mod from_pod;
mod from_uplink;
mod limits;
mod sweep;
mod to_pod;
mod to_uplink;
