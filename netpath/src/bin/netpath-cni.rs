//! The CNI plugin: what a container engine starts to attach a container, or to let it go.

use std::process::ExitCode;

fn main() -> ExitCode {
    netpath::cni::main()
}
