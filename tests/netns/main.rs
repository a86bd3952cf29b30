//! Tier "netns": behaviour on the wire, with a real agent in namespaces.

mod ipv6;
mod lifecycle;
mod matrix;
mod networks;
mod restart;
mod snat;
mod uninstall;
