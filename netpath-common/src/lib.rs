//! What the eBPF programs and the agent share.
//!
//! `abi` holds the records of the kernel tables, one file a table; `logic` holds pure functions that run in the
//! kernel and are tested on the host. No allocation, no `std`.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod logic;
