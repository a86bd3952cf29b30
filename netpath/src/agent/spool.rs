//! Removals that container engines asked for while no agent answered: a file each, in a directory that only root can
//! write, taken up when the agent starts and while it runs.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;

use super::{Agent, AgentError, attachments::to_api, blocking, uninstall::absent, wanted::of_request};
use crate::{api::types, model::Attachment};

/// Time between looks: a file appears only if an agent was not there.
const PAUSE: Duration = Duration::from_secs(1);
/// Largest file that can be one of ours, bytes.
const LARGEST: u64 = 4096;

impl Agent {
    /// Runs until the agent ends.
    pub(super) async fn spool_loop(self: Arc<Self>) {
        let mut ending = self.ending();
        let mut ends = async || drop(ending.wait_for(|ending| *ending).await);
        loop {
            tokio::select! {
                () = sleep(PAUSE) => self.take_up_all().await,
                () = ends() => return,
            }
        }
    }

    /// Does what the files ask for. One that fails stays, and so does one whose pod somebody is at; they are tried again.
    pub(super) async fn take_up_all(self: &Arc<Self>) {
        let dir = self.config().paths.spool();
        let listed = blocking(move || files(&dir)).await;
        self.note("queued removals", &listed.as_ref().map(drop));
        let mut outcome = Ok(());
        for file in listed.unwrap_or_default() {
            outcome = outcome.and(self.take_up_file(file).await);
        }
        self.note("a queued removal", &outcome);
    }

    async fn take_up_file(self: &Arc<Self>, file: PathBuf) -> Result<(), AgentError> {
        let Some(text) = read(&file)? else { return Ok(()) };
        match serde_json::from_slice::<types::Attachment>(&text) {
            Ok(attachment) => {
                let attachment = of_request(attachment);
                // When it was removed is not noted: it was asked for earlier, and what came since is to be added. Whoever is at
                // it for long keeps no other waiting, and whoever adds it takes the file up first.
                let Some(_held) = self.hold_now(&attachment) else { return Ok(()) };
                self.take_up(&attachment, &file).await
            }
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "no queued removal; it is deleted");
                remove(&file)
            }
        }
    }

    /// Does what the file of an attachment asks for, if it is there: what was asked for before an engine adds it again must
    /// not happen afterwards. The caller holds the attachment.
    pub(super) async fn take_up(
        self: &Arc<Self>,
        attachment: &Attachment,
        file: &Path,
    ) -> Result<(), AgentError> {
        if !file.exists() {
            return Ok(());
        }
        tracing::info!(container = attachment.container, "removing what an engine gave up meanwhile");
        self.release_held(attachment).await?;
        remove(file)
    }

    /// Where a removal of this attachment waits.
    pub(super) fn spooled(&self, attachment: &Attachment) -> PathBuf {
        self.config().paths.spool().join(to_api(attachment.clone()).file_name())
    }
}

fn remove(file: &Path) -> Result<(), AgentError> {
    absent(fs::remove_file(file)).map_err(AgentError::io(format!("removing {}", file.display())))
}

/// The queued removals; none if there is no directory.
fn files(dir: &Path) -> Result<Vec<PathBuf>, AgentError> {
    let doing = || format!("reading {}", dir.display());
    let metadata = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        metadata => metadata.map_err(AgentError::io(doing()))?,
    };
    // Whoever can write there can have any pod removed.
    if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        let unsafe_dir = io::Error::other("it must be a directory that only root can write; remove it");
        return Err(AgentError::io(doing())(unsafe_dir));
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(AgentError::io(doing()))? {
        let path = entry.map_err(AgentError::io(doing()))?.path();
        // Others are being written.
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What a file holds; nothing if somebody was first. One that is too large is cut, and so is no JSON.
fn read(file: &Path) -> Result<Option<Vec<u8>>, AgentError> {
    use io::Read as _;
    let mut text = Vec::new();
    match fs::File::open(file).and_then(|file| file.take(LARGEST).read_to_end(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AgentError::io(format!("reading {}", file.display()))(error)),
        Ok(_) => Ok(Some(text)),
    }
}
