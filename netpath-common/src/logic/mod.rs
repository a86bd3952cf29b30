//! Pure logic that the programs run and the host tests.

pub mod bucket;
pub mod checksum;
pub mod flow_state;
pub mod port_choice;
pub mod seat;
pub mod source_choice;
pub mod tcp;
