//! What the API says of an error.

use super::AgentError;
use crate::{
    api::types::{Failure, FailureCode},
    ipam::IpamError,
    store::cluster::ClusterError,
};

impl From<&AgentError> for Failure {
    fn from(error: &AgentError) -> Self {
        use AgentError as E;
        let code = match error {
            E::Invalid { .. }
            | E::Filter(_)
            | E::Trace { .. }
            | E::Name(_)
            | E::Mac(_)
            | E::Family { .. }
            | E::OneAddress { .. }
            | E::InvalidNetwork { .. }
            | E::InvalidDeny { .. }
            | E::NetworkStays
            | E::Ipam(IpamError::OutOfRange { .. }) => FailureCode::Invalid,
            E::NoPod(_)
            | E::NoAttachment { .. }
            | E::NoNetwork(_)
            | E::NotDenied(_)
            | E::NoCluster
            | E::NoBgp
            | E::Cluster(ClusterError::NoNetwork(_))
            | E::Cluster(ClusterError::NoNode(_)) => FailureCode::NotFound,
            E::PodExists(_)
            | E::PodDown { .. }
            | E::NetnsExists { .. }
            | E::AddressTaken { .. }
            | E::PortInUse { .. }
            | E::NetworkExists(_)
            | E::NetworkInUse { .. }
            | E::SubnetTaken { .. }
            | E::NetnsTaken { .. }
            | E::NetnsShared { .. }
            | E::LeftCluster
            | E::BlockLost
            | E::Drained
            | E::OtherNode(_)
            | E::NetworkEnds(_)
            | E::NetworkHeld { .. }
            | E::HasPods(_)
            | E::Cluster(ClusterError::Alive(_))
            | E::Ipam(IpamError::Taken { .. }) => FailureCode::Conflict,
            E::Ipam(IpamError::Exhausted { .. })
            | E::NoBlock(_)
            | E::TooManyBlocks(_)
            | E::Cluster(ClusterError::Full(_))
            | E::TooManyPods(_)
            | E::DenyListFull(_)
            | E::TooManyPorts(_) => FailureCode::Exhausted,
            E::Ending | E::Unheard | E::PodBusy(_) | E::Bird { .. } | E::NoBird { .. } => {
                FailureCode::Unavailable
            }
            _ => FailureCode::Internal,
        };
        Self { code, message: error.to_string(), hint: error.hint().map(Into::into) }
    }
}
