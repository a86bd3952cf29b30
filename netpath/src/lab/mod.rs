//! lab

pub mod topology;
