//! Tier prog.
