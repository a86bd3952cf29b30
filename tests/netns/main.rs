//! Tier "netns": behaviour on the wire, with a real agent in namespaces.

mod delivery;
mod fragments;
mod host;
mod ipv6;
mod lifecycle;
mod matrix;
mod pmtu;
mod restart;
mod routing;
mod sctp;
mod snat;
mod uninstall;
