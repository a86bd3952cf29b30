//! Typed wrappers of tables and kernel helpers: the only `unsafe` outside `packet/{tc,xdp}.rs`.

pub mod fib;
pub mod globals;
pub mod helper;
pub mod map;
pub mod sock_addr;
pub mod socket;
pub mod trace;
pub mod tunnel;
