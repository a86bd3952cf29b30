//! Directories that are nobody else's business.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use super::StoreError;

/// Makes a directory, and what is missing above it, for its owner only. One that is there already stays as it is, but
/// must not be writable by others: they could put their own file or socket in it.
///
/// # Errors
/// [`StoreError::Directory`].
pub fn private_dir(path: &Path) -> Result<(), StoreError> {
    let failed = |reason: String| StoreError::Directory { path: path.to_owned(), reason };
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
    // Recursive making accepts what exists.
    make(path).map_err(|error: io::Error| failed(error.to_string()))?;
    let mode = fs::metadata(path).map_err(|error| failed(error.to_string()))?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(failed(format!(
            "others may write to it (mode {:04o}); use another, or 'chmod go-w' it",
            mode & 0o7777
        )));
    }
    Ok(())
}
