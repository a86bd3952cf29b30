//! The file that BIRD is configured with.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use nix::unistd::Group;
use serde::{Deserialize, Serialize};

use super::control::Control;
use crate::{
    agent::{AgentError, blocking, uninstall::absent},
    compile::{bird_without, is_bird_of_netpath},
    config::BgpConfig,
};

/// As whom Debian's BIRD reads it.
const GROUP: &str = "bird";
/// It may hold passwords.
const MODE: u32 = 0o640;

/// Where BIRD reads, and listens: written down, so that `uninstall` finds it without a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::agent) struct BirdFiles {
    config: PathBuf,
    socket: PathBuf,
}

impl BirdFiles {
    pub(super) fn of(config: &BgpConfig) -> Self {
        Self { config: config.config_file.clone(), socket: config.control_socket.clone() }
    }

    pub(super) fn control(&self) -> Control<'_> {
        Control(&self.socket)
    }

    /// Writes it if it is not so already; returns whether it was not.
    pub(super) async fn write(&self, text: &str) -> Result<bool, AgentError> {
        let (path, text) = (self.config.clone(), text.to_owned());
        let doing = format!("writing {}", path.display());
        blocking(move || write(&path, &text)).await.map_err(AgentError::io(doing))
    }
}

fn write(path: &Path, text: &str) -> io::Result<bool> {
    let group = Group::from_name(GROUP)?.map(|group| group.gid.as_raw());
    let as_it_should = |file: fs::Metadata| {
        file.mode() & 0o7777 == MODE && file.uid() == 0 && group.is_none_or(|group| group == file.gid())
    };
    let present = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        present => present?,
    };
    if !present.is_empty() && !is_bird_of_netpath(&present) {
        return Err(io::Error::other(
            "it is there, and not netpath's; write another bgp.config_file, and include that",
        ));
    }
    if present == text && fs::symlink_metadata(path).is_ok_and(as_it_should) {
        return Ok(false);
    }
    // Beside it, as BIRD may read at any moment; by a name that no pattern of `include` has.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    absent(fs::remove_file(&new))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    chown(&new, None, group)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    fs::rename(new, path)?;
    Ok(true)
}

/// Has BIRD withdraw everything, if it is there, and removes the file. BIRD is told as well if somebody else has removed it.
///
/// # Errors
/// Also that BIRD may not have withdrawn anything; the file is gone then all the same.
pub(in crate::agent) async fn remove(files: &BirdFiles) -> Result<(), AgentError> {
    match fs::read_to_string(&files.config) {
        Ok(text) if is_bird_of_netpath(&text) => {
            files.write(&bird_without()).await?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => return Ok(()),
    }
    let told = unless_absent(files.control().configure().await);
    let path = files.config.clone();
    let doing = format!("removing {}", path.display());
    blocking(move || absent(fs::remove_file(path))).await.map_err(AgentError::io(doing))?;
    told
}

/// A BIRD that is not there advertises nothing.
pub(in crate::agent) fn unless_absent(told: Result<(), AgentError>) -> Result<(), AgentError> {
    match told {
        Err(AgentError::NoBird { .. }) => Ok(()),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_once_for_few_and_never_over_somebodys_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netpath.conf");
        let text = bird_without();
        assert!(write(&path, &text).unwrap());
        let mode = || fs::metadata(&path).unwrap().mode() & 0o7777;
        assert_eq!((mode(), fs::read_to_string(&path).unwrap()), (MODE, text.clone()));
        assert!(!write(&path, &text).unwrap(), "it is so already");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(write(&path, &text).unwrap());
        assert_eq!(mode(), MODE);
        let more = format!("{text}# more\n");
        assert!(write(&path, &more).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), more);
        fs::write(&path, "router id 1.2.3.4;\n").unwrap();
        assert!(write(&path, &text).unwrap_err().to_string().contains("not netpath's"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "router id 1.2.3.4;\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
    /// Says that it refuses whatever is asked; returns what that was.
    fn refusing(socket: &Path) -> std::thread::JoinHandle<String> {
        use std::{io::BufRead as _, os::unix::net::UnixListener};
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"0001 BIRD ready.\n").unwrap();
            let mut asked = String::new();
            io::BufReader::new(stream.try_clone().unwrap()).read_line(&mut asked).unwrap();
            stream.write_all(b"8002 no\n").unwrap();
            asked
        })
    }

    #[tokio::test]
    async fn a_bird_that_withdraws_nothing_is_told_of_and_one_that_is_not_there_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files =
            BirdFiles { config: dir.path().join("netpath.conf"), socket: dir.path().join("bird.ctl") };
        for present in [true, false] {
            if present {
                fs::write(&files.config, bird_without()).unwrap();
            }
            let bird = refusing(&files.socket);
            let error = remove(&files).await.unwrap_err().to_string();
            assert!(error.contains("'configure' is refused: no"), "{error}");
            assert_eq!(bird.join().unwrap(), "configure\n", "file present: {present}");
            assert!(!files.config.exists());
            // The socket is there and nobody listens; then it is not.
            remove(&files).await.unwrap();
            fs::remove_file(&files.socket).unwrap();
            remove(&files).await.unwrap();
        }
        // Somebody's own is no business of ours.
        fs::write(&files.config, "router id 1.2.3.4;\n").unwrap();
        remove(&files).await.unwrap();
        assert!(files.config.exists());
    }
}
