//! Flags for bpf-linker.

fn main() {
    // In-order expansion of memcpy takes with it the inline expansion of memset (LLVM's BPFISelLowering sets
    // MaxStoresPerMemset to 0): clearing three bytes of padding becomes a call and a loop a byte, for each packet.
    println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    println!("cargo::rerun-if-changed=build.rs");
}
