//! Tier "netns": behaviour on the wire, with a real agent in namespaces.

mod capture;
mod changes;
mod delivery;
mod doctor;
mod fragments;
mod host;
mod ipv6;
mod lifecycle;
mod matrix;
mod networks;
mod pmtu;
mod reconcile;
mod restart;
mod routing;
mod sctp;
mod snat;
mod systemd;
mod trace;
mod uninstall;
