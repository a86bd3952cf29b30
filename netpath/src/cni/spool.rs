//! Removals that wait for an agent: a small file each, which the next agent takes up.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    process,
};

use super::error::{CniError, Code};
use crate::api::types::Attachment;

/// Removals that may wait: as many as a node can have pods, and a bound to what is written while nobody reads.
const MOST: usize = 4096;

/// Leaves a removal to the next agent. Where there is no state of an agent, there is nothing to remove.
///
/// # Errors
/// [`Code::TryAgain`]: it could not be written down, so the engine has to ask again.
pub(super) fn leave(dir: &Path, attachment: &Attachment) -> Result<(), CniError> {
    if !dir.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    write(dir, attachment).map_err(|error| {
        let message = format!("no agent answers, and writing the removal to {}: {error}", dir.display());
        CniError::new(Code::TryAgain, message).hint("start the agent, or ask again later")
    })
}

fn write(dir: &Path, attachment: &Attachment) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let metadata = fs::symlink_metadata(dir)?;
    if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("it must be a directory that only root can write"));
    }
    if fs::read_dir(dir)?.count() >= MOST {
        return Err(io::Error::other(format!("{MOST} removals wait there already")));
    }
    let path = dir.join(attachment.file_name());
    let new = path.with_extension(format!("new-{}", process::id()));
    let written = write_new(&new, attachment).and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        // It is not there, or of no use; the reason for the failure is what matters.
        let _ = fs::remove_file(&new);
    }
    // The name as well must survive a crash: the engine forgets the container now.
    written.and_then(|()| fs::File::open(dir)?.sync_all())
}

fn write_new(path: &Path, attachment: &Attachment) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(attachment)?)?;
    file.sync_all()
}
