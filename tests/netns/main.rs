//! Tier "netns": behaviour on the wire, with a real agent in namespaces.

mod changes;
mod delivery;
mod fragments;
mod host;
mod ipv6;
mod lifecycle;
mod matrix;
mod networks;
mod pmtu;
mod restart;
mod routing;
mod sctp;
mod snat;
mod state;
mod uninstall;
mod upgrade;
