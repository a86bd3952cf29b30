//! What can be translated.

use netpath_common::abi::DropReason;

use crate::packet::{Headers, Transport};

/// Whether a packet of a new flow can be translated at all.
#[inline(always)]
pub fn translatable(headers: &Headers) -> Result<(), DropReason> {
    match headers.transport {
        Transport::Ports => Ok(()),
        Transport::Fragment => Err(DropReason::FragmentNotTranslated),
        Transport::Icmp | Transport::Other => Err(DropReason::ProtocolNotTranslated),
    }
}
