//! Tier "e2e": the commands a person types, as they type them.

mod bench;
mod cni;
mod cni_agent;
mod cni_bandwidth;
mod cni_chain;
mod command_line;
mod containerd;
mod cri;
mod cri_bandwidth;
mod engine;
mod kubernetes;
mod lab_run;
mod libcni;
mod package;
mod podman;
mod podman_modes;
mod podman_ports;
mod systemd;
