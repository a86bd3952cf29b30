//! What can be translated.

use netpath_common::abi::DropReason;

use crate::packet::{Headers, Transport};

/// Whether a packet of a new flow can be translated at all.
#[inline(always)]
pub fn translatable(headers: &Headers) -> Result<(), DropReason> {
    match headers.transport {
        Transport::Ports => Ok(()),
        // A later part before its first: the program translates its address alone.
        Transport::Unknown => Err(DropReason::FragmentOutOfOrder),
        Transport::Error | Transport::Icmp | Transport::Other => Err(DropReason::ProtocolNotTranslated),
    }
}
