//! Directories that are nobody else's business.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt as _, PermissionsExt},
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

/// Reads what only root may know.
///
/// # Errors
/// The system's reason, or that others than root can read it.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.uid() != 0 || metadata.mode() & 0o077 != 0 {
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        return Err(format!(
            "others than root can read it (owner {owner}, mode {mode:04o}); 'chown root' and 'chmod 600' it, and change the secret"
        ));
    }
    fs::read(path).map_err(|error| error.to_string())
}
