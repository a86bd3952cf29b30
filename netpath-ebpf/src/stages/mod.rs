//! What a program is made of. A stage owns its tables, and never calls another stage or a program: programs pass
//! results between them.

pub mod arp_nd;
pub mod asked;
pub mod deliver;
pub mod deny;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod gateway;
pub mod guard;
pub mod metric;
pub mod nat;
pub mod protect;
pub mod publish;
pub mod rate;
pub mod route;
