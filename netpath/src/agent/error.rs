//! What can go wrong in the agent.

use std::{borrow::Cow, net::IpAddr, path::PathBuf};

use crate::{
    config::ConfigError,
    datapath::DatapathError,
    ipam::IpamError,
    model::{Family, MacError, NameError},
    net::{NetError, UndoFailed},
    store::{StoreError, cluster::ClusterError},
};

/// What can go wrong in the agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The node is not fit.
    #[error("starting the agent: {reason}; {advice}")]
    Unfit {
        /// What is missing.
        reason: String,
        /// What to try.
        advice: String,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The request is not valid.
    #[error("pod '{pod}': {reason}")]
    Invalid {
        /// The pod.
        pod: String,
        /// What is wrong, and what to give instead.
        reason: String,
    },
    /// A filter of flows that does not do for what is asked.
    #[error("choosing flows: {0}")]
    Filter(&'static str),
    /// A packet that cannot be traced.
    #[error("tracing a packet from {source_name} to {destination}: {reason}")]
    Trace {
        /// Who was to send it.
        source_name: String,
        /// Whom it was for.
        destination: String,
        /// Why not, and what to give instead.
        reason: String,
    },
    /// A program of a trace was given, or has left, what is no packet.
    #[error("tracing a packet: {0} has a packet that cannot be read")]
    UnreadablePacket(&'static str),
    /// A pod whose interface is not there or down.
    #[error("pod '{pod}': {reason}")]
    PodDown {
        /// The pod.
        pod: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pod's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A pod's MAC.
    #[error(transparent)]
    Mac(#[from] MacError),
    /// No pod that an engine knows as this.
    #[error("container '{container}' has no interface {interface} of netpath in this network")]
    NoAttachment {
        /// The engine's name of the container.
        container: String,
        /// Name of the interface inside.
        interface: String,
    },
    /// No such pod.
    #[error("pod '{0}' does not exist")]
    NoPod(String),
    /// The name is taken.
    #[error("pod '{0}' exists already")]
    PodExists(String),
    /// The pod is being added or removed right now.
    #[error("pod '{0}' is being added or removed")]
    PodBusy(String),
    /// No such network.
    #[error("network '{0}' does not exist")]
    NoNetwork(String),
    /// The address is of a family that the network has not.
    #[error("address {address}: the network '{network}' has no {} addresses", Family::of(*address))]
    Family {
        /// What was asked for.
        address: IpAddr,
        /// The network.
        network: String,
    },
    /// More than one address of a family in one network.
    #[error("address {address}: a pod has one {} address in the network '{network}'", Family::of(*address))]
    OneAddress {
        /// The one too many.
        address: IpAddr,
        /// The network.
        network: String,
    },
    /// Somebody has an address that a pod was to have, or to be allowed.
    #[error("address {address} is that of {who}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who has it, in words.
        who: String,
        /// That pod, if it is an engine's.
        engines: Option<String>,
    },
    /// A network cannot be like this.
    #[error("network '{network}': {reason}")]
    InvalidNetwork {
        /// The network.
        network: String,
        /// What is wrong, and what to give instead.
        reason: String,
    },
    /// The name is taken.
    #[error("network '{0}' exists already")]
    NetworkExists(String),
    /// Somebody has addresses of a network's subnet.
    #[error("network '{network}': {reason}")]
    SubnetTaken {
        /// The network.
        network: String,
        /// Which, and who.
        reason: String,
    },
    /// A network with pods cannot be removed.
    #[error("network '{network}' has {pods} pods")]
    NetworkInUse {
        /// The network.
        network: String,
        /// How many.
        pods: usize,
    },
    /// The default network cannot be removed.
    #[error("network 'default' is every node's")]
    NetworkStays,
    /// A prefix cannot be denied.
    #[error("denying {prefix}: {reason}")]
    InvalidDeny {
        /// The prefix.
        prefix: String,
        /// What is wrong, and what to give instead.
        reason: String,
    },
    /// No such prefix on the deny list.
    #[error("{0} is not on the deny list")]
    NotDenied(String),
    /// The deny list has as many prefixes as the tables hold.
    #[error("the deny list has room for {0} prefixes")]
    DenyListFull(u32),
    /// Somebody has a port that a pod was to publish.
    #[error("pod '{pod}': publishing {publication}: it is in use by {who}")]
    PortInUse {
        /// The pod.
        pod: String,
        /// What it was to publish.
        publication: String,
        /// Who has it, in words.
        who: String,
        /// That pod, if it is an engine's.
        engines: Option<String>,
    },
    /// More ports are to be published than the tables hold.
    #[error("the node has room for {0} published ports, each of both families counting twice")]
    TooManyPorts(u32),
    /// The namespace that would be made for the pod is there already.
    #[error("pod '{pod}': {path} is there already, and not netpath's")]
    NetnsExists {
        /// The pod.
        pod: String,
        /// The file.
        path: PathBuf,
    },
    /// Another pod has the namespace.
    #[error("pod '{pod}': pod '{other}' has the namespace {path}")]
    NetnsTaken {
        /// The pod.
        pod: String,
        /// The one that has it.
        other: String,
        /// The file.
        path: PathBuf,
    },
    /// Other pods share the namespace of one that was to be removed.
    #[error("pod '{pod}': its namespace is shared by {by}")]
    NetnsShared {
        /// The pod.
        pod: String,
        /// Who shares it.
        by: String,
    },
    /// The node is in no cluster.
    #[error("this node is in no cluster")]
    NoCluster,
    /// The node speaks no BGP.
    #[error("this node speaks no BGP: its configuration has no [bgp]")]
    NoBgp,
    /// BIRD does not answer, or refuses.
    #[error("asking BIRD at {socket}: {reason}")]
    Bird {
        /// Its control socket.
        socket: PathBuf,
        /// What it or the system says.
        reason: String,
    },
    /// Nobody listens there.
    #[error("asking BIRD at {socket}: {reason}; does BIRD run there?")]
    NoBird {
        /// Its control socket.
        socket: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The node has left its cluster.
    #[error("this node has left its cluster, and its block with it")]
    LeftCluster,
    /// Another node has the block.
    #[error("another node of the cluster has this node's block, or may have it")]
    BlockLost,
    /// The node takes no new pods.
    #[error("this node is drained: it takes no new pods")]
    Drained,
    /// The cluster may have given the node's blocks to others by now.
    #[error(
        "this node's cluster has not heard of it since it was started, or for longer than the others keep its blocks"
    )]
    Unheard,
    /// The node has no address of a network of the cluster left, and got no block of it.
    #[error("this node has no address of the network '{0}' left, and no block more")]
    NoBlock(String),
    /// A network that is going.
    #[error("network '{0}' is about to be removed")]
    NetworkEnds(String),
    /// A network of the cluster that some nodes have pods of.
    #[error("network '{network}' has pods, or may have, on {}", .nodes.join(", "))]
    NetworkHeld {
        /// The network.
        network: String,
        /// Names of the nodes that hold blocks of it.
        nodes: Vec<String>,
    },
    /// A node with as many blocks as it can have.
    #[error("this node holds {0} blocks, as many as a node can")]
    TooManyBlocks(usize),
    /// What only the node itself does.
    #[error("node '{0}' is another one")]
    OtherNode(String),
    /// A node with pods does not leave its cluster.
    #[error("this node has {0} pods, with addresses of the block that it would give back")]
    HasPods(usize),
    /// Records of the cluster.
    #[error("cluster: {0}")]
    Cluster(#[from] ClusterError),
    /// Addresses.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The node has as many pods as its tables hold.
    #[error("the node has {0} pods, as many as its tables hold")]
    TooManyPods(u32),
    /// The agent is ending.
    #[error("the agent is ending")]
    Ending,
    /// Links, routes and namespaces.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A failed operation left something behind; the agent goes on trying.
    #[error("{cause}; {left}")]
    Left {
        /// Why the operation failed.
        cause: Box<AgentError>,
        /// What is left.
        left: UndoFailed,
    },
    /// Programs and tables.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or socket.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, on which object.
        doing: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Several things failed while everything was tried.
    #[error("{}", .0.join("; "))]
    Several(Vec<String>),
}

impl AgentError {
    /// Wraps an I/O error with what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing: doing.into(), source }
    }

    pub(super) fn unfit(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Unfit { reason: reason.into(), advice: advice.into() }
    }

    /// What to try, if there is something that the message does not say.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::PortInUse { engines: Some(pod), .. } | Self::AddressTaken { engines: Some(pod), .. } => Some(
                format!("choose another; if that pod's engine has forgotten it, 'netpath pod rm {pod}' removes it").into(),
            ),
            _ => self.usual_hint().map(Into::into),
        }
    }

    fn usual_hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoPod(_) => "'netpath pod ls' lists the pods of this node",
            Self::PodExists(_) => "choose another name, or remove it with 'netpath pod rm'",
            Self::PodBusy(_) => "try again in a moment; 'netpath status' tells what is wrong if it lasts",
            Self::PodDown { .. } => "'netpath status' tells what is wrong with it",
            Self::NoNetwork(_) => "'netpath network ls' lists the networks",
            Self::Family { .. } | Self::Ipam(IpamError::OutOfRange { .. }) => {
                "'netpath network ls' shows the subnets; give no address and one is chosen"
            }
            Self::OneAddress { .. } => "name one, or another network with --network for a second interface",
            Self::AddressTaken { .. } => "choose another address",
            Self::PortInUse { .. } => {
                "choose another port or address of the node; 'netpath publish ls' lists what pods publish, 'ss -lntup' the node's sockets"
            }
            Self::TooManyPorts(_) => "publish smaller ranges, or on addresses of one family",
            Self::NetworkExists(_) => "choose another name, or change it with 'netpath network set'",
            Self::SubnetTaken { .. } => "choose another subnet; 'netpath network ls' shows those of networks",
            Self::NetworkInUse { .. } => "remove its pods first; 'netpath pod ls' lists them",
            Self::NetworkStays => {
                "change it with 'netpath network set default', or its block in the configuration"
            }
            Self::NetnsExists { .. } => {
                "name it with --netns to attach it, choose another name, or remove it"
            }
            Self::NetnsTaken { .. } => {
                "a namespace has one pod: remove that one first, or give another namespace"
            }
            Self::NoCluster => "[cluster] in its configuration puts it into one",
            Self::LeftCluster => {
                "restart the agent to join again, or take [cluster] out of its configuration"
            }
            Self::BlockLost => {
                "'netpath status' tells why; if it is another's, remove this node's pods, 'netpath node leave', and restart the agent"
            }
            Self::Drained => "add it on another node, or 'netpath node drain --undo' here",
            Self::Unheard => {
                "it takes pods again as soon as etcd answers; 'netpath status' tells what is wrong"
            }
            Self::OtherNode(_) => "run it there",
            Self::NoBlock(_) => "a block is claimed in etcd; 'netpath status' tells what is wrong with it",
            Self::NetworkEnds(_) => "choose another network, or run 'netpath network rm' again to end it",
            Self::NetworkHeld { .. } => {
                "remove its pods there; 'netpath node leave NAME' takes out a node that is gone for good"
            }
            Self::TooManyBlocks(_) => "remove pods, or give the cluster's networks larger blocks",
            Self::HasPods(_) => "remove them first; 'netpath pod ls' lists them",
            Self::Cluster(error) => return of_cluster(error),
            Self::NetnsShared { .. } => "remove those first: 'netpath pod rm' takes several names in order",
            Self::Ipam(IpamError::Taken { .. }) => "choose another address, or give none and one is chosen",
            Self::Ipam(IpamError::Exhausted { .. }) => "remove pods, or give the node a larger block",
            Self::TooManyPods(_) => "remove pods, or add them on another node",
            Self::NotDenied(_) => "'netpath deny ls' lists the prefixes as they were given",
            Self::DenyListFull(_) => "deny shorter prefixes in place of several, or remove some",
            Self::Ending => "start it again",
            _ => return None,
        })
    }
}

fn of_cluster(error: &ClusterError) -> Option<&'static str> {
    Some(match error {
        ClusterError::NoNetwork(_) => "'netpath network ls' lists the networks",
        ClusterError::Taken { .. } => {
            "give this one another; or if that node is gone for good, 'netpath node leave NAME' on a third one takes it out"
        }
        ClusterError::Twin(_) => {
            "on the machine that is the copy: end the agent, remove its state directory, give it another node's name, and start it again"
        }
        ClusterError::OtherPools { .. } => "write the same, or no pools and lengths",
        ClusterError::NoPools => "write cluster.pools = [\"CIDR\"] on the first node",
        ClusterError::Full(_) => "take out nodes that are gone with 'netpath node leave NAME'",
        ClusterError::NoNode(_) => "'netpath node ls' lists the nodes",
        ClusterError::Alive(_) => "run 'netpath node leave' there",
        _ => return None,
    })
}
