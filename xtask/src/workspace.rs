//! Where things are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The checkout: the directory of the workspace's Cargo.toml.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The target directory.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Programs that setup builds go here (`cargo install --root`), so that `cargo clean` removes them.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// xtask's own files.
pub(crate) fn state() -> PathBuf {
    target().join("xtask")
}
