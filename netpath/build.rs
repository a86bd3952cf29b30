//! Builds the eBPF programs into OUT_DIR.
fn main() {}
