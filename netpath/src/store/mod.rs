//! Where desired state is kept: in a file of the node (`embedded`), and what nodes share in etcd (`etcd`, `cluster`).
//!
//! [`Store`] is what a node needs of a store: bytes by key, and compare-and-swap. The methods of `dyn Store` read and
//! write JSON with a version number, so that a later netpath can tell what it reads.

pub mod cluster;
mod copy;
mod dir;
mod embedded;
mod etcd;
#[cfg(test)]
pub(crate) mod memory;
mod open;

use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::{
    dir::{private_dir, read_secret},
    embedded::EmbeddedStore,
    etcd::{Change, Check, EtcdStore, Found, Watch, Write},
};

/// Version of the values' JSON.
const VERSION: u32 = 1;

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it open.
    #[error("opening the store {path}: another agent has it open; stop that one, or use another state_dir")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a store, or not a sound one, and no copy tells what was in it.
    #[error(
        "opening the store {path}: it is damaged ({reason}), and it cannot be made again from its copy {} ({copy}); put a \
         backup of either in its place; or 'netpath uninstall --force' removes all pods to start anew",
        copy::path_of(path).display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
        /// What was found of its copy.
        copy: String,
    },
    /// The file is there, and nobody lets us read it.
    #[error(
        "opening the store {path}: {reason}; it has to be root's: 'chown root {path}' and 'chmod 600 {path}', or see \
         whether something restricts this process, like a systemd unit's capabilities"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// A value that this build cannot read.
    #[error("reading '{key}' from the store {store}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// Kind and place of the store.
        store: String,
        /// What is wrong with it, and what to try.
        reason: String,
    },
    /// A directory that others may write to, or that cannot be made.
    #[error("preparing the directory {path}: {reason}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason, and what to try.
        reason: String,
    },
    /// Anything else.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was being done, on which object.
        doing: String,
        /// The reason.
        reason: String,
    },
}

/// Every file that a store in one file may have on the disk: itself, its copy, and what was in its place when it was
/// damaged.
pub fn files(store: &Path) -> [PathBuf; 3] {
    [store.to_owned(), copy::path_of(store), open::aside(store)]
}

/// What a store answers, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Bytes by key. What has been answered is on disk. Keys are paths like `pods/NAME`.
pub trait Store: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &str) -> Answer<'_, Option<Vec<u8>>>;

    /// All keys that start with `prefix`, in order, with their values.
    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>>;

    /// Sets a value.
    fn put(&self, key: &str, value: Vec<u8>) -> Answer<'_, ()>;

    /// Sets a value if the present one is `expected` (`None`: if there is none). Returns whether it was.
    fn compare_and_swap(&self, key: &str, expected: Option<Vec<u8>>, value: Vec<u8>) -> Answer<'_, bool>;

    /// Removes a key; no error if it is not there.
    fn delete(&self, key: &str) -> Answer<'_, ()>;

    /// Kind and place, for people.
    fn describe(&self) -> String;
}

/// A value as it is written.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    value: T,
}

/// Only the version, to be read before the rest.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl dyn Store {
    /// Reads a value.
    ///
    /// # Errors
    /// The store's, and [`StoreError::Value`] for what this build cannot read.
    pub async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        self.get(key).await?.map(|bytes| self.decode(key, &bytes)).transpose()
    }

    /// Reads all values below a prefix.
    ///
    /// # Errors
    /// As `read`.
    pub async fn read_all<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, StoreError> {
        self.list(prefix).await?.iter().map(|(key, bytes)| self.decode(key, bytes)).collect()
    }

    /// Writes a value.
    ///
    /// # Errors
    /// The store's.
    pub async fn write<T: Serialize>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        self.put(key, encode(key, value)?).await
    }

    /// Writes a value if the key has none. Returns whether it did.
    ///
    /// # Errors
    /// The store's.
    pub async fn create<T: Serialize>(&self, key: &str, value: &T) -> Result<bool, StoreError> {
        self.compare_and_swap(key, None, encode(key, value)?).await
    }

    fn decode<T: DeserializeOwned>(&self, key: &str, bytes: &[u8]) -> Result<T, StoreError> {
        let failed =
            |reason: String| StoreError::Value { key: key.to_owned(), store: self.describe(), reason };
        let damaged = |error: serde_json::Error| failed(format!("it is damaged ({error}); restore a backup"));
        let VersionOnly { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(failed(format!(
                "it has version {version}, this build reads {VERSION}; run the netpath that wrote it"
            )));
        }
        Ok(serde_json::from_slice::<Versioned<T>>(bytes).map_err(damaged)?.value)
    }
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&Versioned { version: VERSION, value })
        .map_err(|error| StoreError::Failed { doing: format!("encoding '{key}'"), reason: error.to_string() })
}

#[cfg(test)]
mod tests;
