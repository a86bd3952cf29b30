//! The default store: one redb file on the node.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::InMemoryBackend,
};

use super::{Answer, Store, StoreError, private_dir};

const TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("netpath");

/// Pages kept in memory, bytes. The whole state of a node is smaller.
const CACHE: usize = 1 << 20;

/// A store in one file, for one process at a time.
#[derive(Clone)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    path: Arc<PathBuf>,
}

impl EmbeddedStore {
    /// Opens the store, or makes an empty one if there is no such file. Blocks.
    ///
    /// # Errors
    /// If another process has it open, or if the file is not a sound store: it is then left as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        private_dir(dir)?;
        let failed = |error: io::Error| StoreError::Failed {
            doing: format!("opening the store {}", path.display()),
            reason: error.to_string(),
        };
        let database = match fs::metadata(path) {
            Ok(metadata) => {
                let damaged =
                    |reason: &str| StoreError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
                if !metadata.is_file() {
                    return Err(damaged("not a file"));
                }
                // redb takes an empty file for one to initialize.
                if metadata.len() == 0 {
                    return Err(damaged("empty"));
                }
                fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
                open_sound(path)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path, dir)?,
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { database: Arc::new(database), path: Arc::new(path.to_owned()) })
    }

    /// Opens what the file holds now, in memory: the file is neither locked nor repaired nor written. Blocks.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a sound store.
    pub fn open_copy(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: io::Error| StoreError::Failed {
            doing: format!("reading the store {}", path.display()),
            reason: error.to_string(),
        };
        let bytes = fs::read(path).map_err(failed)?;
        if bytes.is_empty() {
            return Err(StoreError::Damaged { path: path.to_owned(), reason: "empty".to_owned() });
        }
        let open = || {
            let backend = InMemoryBackend::new();
            backend.set_len(bytes.len() as u64)?;
            backend.write(0, &bytes)?;
            Database::builder().set_cache_size(CACHE).create_with_backend(backend)
        };
        Ok(Self { database: Arc::new(sound(path, open)?), path: Arc::new(path.to_owned()) })
    }

    /// Runs a transaction on a blocking thread: a commit waits for the disk.
    fn run<T: Send + 'static>(
        &self,
        doing: String,
        transaction: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Answer<'_, T> {
        let store = self.clone();
        Box::pin(async move {
            let path = store.path.display().to_string();
            let done = tokio::task::spawn_blocking(move || transaction(&store.database)).await;
            let failed =
                |reason: String| StoreError::Failed { doing: format!("{doing} in the store {path}"), reason };
            match done {
                Ok(answer) => answer.map_err(|error| failed(error.to_string())),
                Err(error) => Err(failed(error.to_string())),
            }
        })
    }
}

/// Makes an empty store aside and moves it into place, so that a crash never leaves half a file under its name.
fn create(path: &Path, dir: &Path) -> Result<Database, StoreError> {
    let failed =
        |reason: String| StoreError::Failed { doing: format!("making the store {}", path.display()), reason };
    let aside = path.with_extension("new");
    let make = || -> Result<Database, redb::Error> {
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&aside)?;
        let database = Database::builder().set_cache_size(CACHE).create_file(file)?;
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        fs::rename(&aside, path)?;
        File::open(dir)?.sync_all()?;
        Ok(database)
    };
    make().map_err(|error| failed(error.to_string()))
}

/// Opens a file and reads all of it. redb checks little when it opens a file that was closed in order, and panics on
/// some damage.
fn open_sound(path: &Path) -> Result<Database, StoreError> {
    sound(path, || Database::builder().set_cache_size(CACHE).open(path))
}

fn sound(path: &Path, open: impl Fn() -> Result<Database, DatabaseError>) -> Result<Database, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let open = || -> Result<(Database, bool), redb::Error> {
        let mut database = open()?;
        let sound = database.check_integrity()?;
        for entry in database.begin_read()?.open_table(TABLE)?.iter()? {
            entry?;
        }
        Ok((database, sound))
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok((database, true))) => Ok(database),
        Ok(Ok((_, false))) => Err(damaged("its checksums do not match".to_owned())),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(StoreError::InUse { path: path.to_owned() }),
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_) => Err(damaged("its pages contradict each other".to_owned())),
    }
}

impl Store for EmbeddedStore {
    fn get(&self, key: &str) -> Answer<'_, Option<Vec<u8>>> {
        let owned = key.to_owned();
        self.run(format!("reading '{key}'"), move |database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            Ok(table.get(owned.as_str())?.map(|value| value.value().to_vec()))
        })
    }

    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let owned = prefix.to_owned();
        self.run(format!("listing '{prefix}'"), move |database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            let mut found = Vec::new();
            for entry in table.range(owned.as_str()..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(&owned) {
                    break;
                }
                found.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
    }

    fn put(&self, key: &str, value: Vec<u8>) -> Answer<'_, ()> {
        let owned = key.to_owned();
        self.run(format!("writing '{key}'"), move |database| {
            let transaction = database.begin_write()?;
            transaction.open_table(TABLE)?.insert(owned.as_str(), value.as_slice())?;
            Ok(transaction.commit()?)
        })
    }

    fn compare_and_swap(&self, key: &str, expected: Option<Vec<u8>>, value: Vec<u8>) -> Answer<'_, bool> {
        let owned = key.to_owned();
        self.run(format!("writing '{key}'"), move |database| {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(TABLE)?;
                let present = table.get(owned.as_str())?.map(|value| value.value().to_vec());
                if present != expected {
                    return Ok(false);
                }
                table.insert(owned.as_str(), value.as_slice())?;
            }
            transaction.commit()?;
            Ok(true)
        })
    }

    fn delete(&self, key: &str) -> Answer<'_, ()> {
        let owned = key.to_owned();
        self.run(format!("removing '{key}'"), move |database| {
            let transaction = database.begin_write()?;
            transaction.open_table(TABLE)?.remove(owned.as_str())?;
            Ok(transaction.commit()?)
        })
    }

    fn describe(&self) -> String {
        format!("redb {}", self.path.display())
    }
}
