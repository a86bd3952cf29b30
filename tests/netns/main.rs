//! Tier "netns": behaviour on the wire, with a real agent in namespaces.

mod api;
mod capture;
mod changes;
mod crowd;
mod delivery;
mod doctor;
mod fragments;
mod host;
mod ipv6;
mod lifecycle;
mod matrix;
mod metrics;
mod metrics_port;
mod monitor;
mod networks;
mod pmtu;
mod reconcile;
mod restart;
mod routing;
mod sctp;
mod snat;
mod state;
mod systemd;
mod trace;
mod uninstall;
mod upgrade;
