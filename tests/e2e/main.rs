//! Tier e2e.
