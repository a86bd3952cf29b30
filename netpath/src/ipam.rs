//! Address management: a pure allocator.
