//! The agent's API: HTTP + JSON over a unix socket, the one way in for the command line and container engines.

pub mod client;
pub mod server;
pub mod types;
