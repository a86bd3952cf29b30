//! How etcd is reached: certificates, users, times.

use std::{fs, path::Path, time::Duration};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::{model::EtcdAccess, store::StoreError};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// Time between pings of a connection that somebody waits at, and for their answer.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

pub(super) fn options(access: &EtcdAccess) -> Result<ConnectOptions, StoreError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(PING.0, PING.1)
        // etcd's members end connections that ping them for nothing.
        .with_keep_alive_while_idle(false)
        // One that lost its leader would let a watch wait for ever.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(ca) = &access.ca {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let Some((certificate, key)) = &access.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read_secret(key)?));
        }
        options = options.with_tls(tls);
    }
    if let Some((user, file)) = &access.user {
        let password = String::from_utf8_lossy(&read_secret(file)?).trim_end_matches('\n').to_owned();
        options = options.with_user(user, password);
    }
    Ok(options)
}

fn failed(path: &Path, reason: String) -> StoreError {
    StoreError::Failed { doing: format!("reading {} for etcd", path.display()), reason }
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| failed(path, error.to_string()))
}

fn read_secret(path: &Path) -> Result<Vec<u8>, StoreError> {
    crate::store::read_secret(path).map_err(|reason| failed(path, reason))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "hush\n").unwrap();
        let access = EtcdAccess { user: Some(("u".into(), path.clone())), ..EtcdAccess::default() };
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match options(&access) {
                Ok(_) => assert!(fine, "{mode:o}"),
                Err(error) => {
                    assert!(
                        !fine
                            && error.to_string().contains("chmod 600")
                            && !error.to_string().contains("hush"),
                        "{error}"
                    );
                }
            }
        }
        let absent = EtcdAccess { ca: Some(dir.path().join("none")), ..EtcdAccess::default() };
        assert!(options(&absent).err().unwrap().to_string().contains("No such file"));
    }
}
