//! netpath: a container network whose packets are forwarded, translated and filtered by eBPF programs.
//!
//! A stranger's way in: [`agent`] holds the node's desired state and makes the kernel match it, with [`net`] for
//! links, routes and namespaces and [`datapath`] for programs and tables. [`cli`] talks to it through [`api`].

pub mod agent;
pub mod api;
pub mod bench;
pub mod capture;
pub mod cli;
pub mod cni;
pub mod compile;
pub mod config;
pub mod datapath;
pub mod doctor;
pub mod ipam;
pub mod lab;
pub mod model;
pub mod net;
pub mod store;
