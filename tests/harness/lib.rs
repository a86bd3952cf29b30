//! What the tests stand on: namespaces of their own, packets, the program runner, and a node with a real agent.

pub mod bird;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod etcd;
pub mod kernel;
pub mod machine;
pub mod namespace;
pub mod node;
pub mod offload;
pub mod packet;
pub mod random;
pub mod scene;
pub mod side;
pub mod stream;
pub mod sysctls;
pub mod tidy;
pub mod traffic;
pub mod wait;
