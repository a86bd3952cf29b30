//! Opening the file: sound, new, or again from its copy.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::InMemoryBackend,
};

use super::{
    StoreError,
    copy::{self, Entries},
    private_dir,
};

pub(super) const TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("netpath");

/// Pages kept in memory, bytes. The whole state of a node is smaller.
const CACHE: usize = 1 << 20;

/// Why there is no database.
enum Missing {
    /// No such file.
    File,
    /// Something is there that is no sound store.
    Sound(String),
    /// What no copy can mend.
    Other(StoreError),
}

/// Opens a sound store; makes one that is missing or damaged from its copy, or empty if both are missing.
pub(super) fn open_or_restore(path: &Path) -> Result<Database, StoreError> {
    private_dir(path.parent().unwrap_or(Path::new("/")))?;
    let reason = match open(path) {
        Ok(database) => return Ok(database),
        Err(Missing::Other(error)) => return Err(error),
        Err(Missing::File) => None,
        Err(Missing::Sound(reason)) => Some(reason),
    };
    let lost = |copy: String| StoreError::Damaged {
        path: path.to_owned(),
        reason: reason.clone().unwrap_or_else(|| "missing".to_owned()),
        copy,
    };
    let entries = match (copy::read(path), &reason) {
        (Ok(Some(entries)), _) => entries,
        (Ok(None), None) => return create(path, &Entries::new()),
        (Ok(None), Some(_)) => return Err(lost("there is none".to_owned())),
        (Err(why), _) => return Err(lost(why)),
    };
    if reason.is_some() {
        // A directory does not take the place of a file; other failures renaming tells.
        let _ = fs::remove_file(aside(path));
        fs::rename(path, aside(path)).map_err(failed_to_open(path))?;
    }
    let reason = reason.unwrap_or_else(|| "missing".to_owned());
    tracing::warn!(path = %path.display(), reason, values = entries.len(), "the store is made again from its copy");
    create(path, &entries)
}

/// Where a damaged store goes.
pub(crate) fn aside(path: &Path) -> PathBuf {
    path.with_extension("redb.damaged")
}

/// Wraps a reason with what was being done.
pub(super) fn failed_to_open<E: ToString>(path: &Path) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError::Failed {
        doing: format!("opening the store {}", path.display()),
        reason: error.to_string(),
    }
}

fn open(path: &Path) -> Result<Database, Missing> {
    let denied = |error: io::Error| {
        Missing::Other(StoreError::Unreadable { path: path.to_owned(), reason: error.to_string() })
    };
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(Missing::Sound("not a file".to_owned())),
        // redb takes an empty file for one to initialize.
        Ok(metadata) if metadata.len() == 0 => Err(Missing::Sound("empty".to_owned())),
        Ok(_) => {
            File::open(path).map_err(denied)?;
            fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(denied)?;
            open_sound(path)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Missing::File),
        Err(error) => Err(denied(error)),
    }
}

/// Makes a store aside and moves it into place, so that a crash never leaves half a file under its name.
fn create(path: &Path, entries: &Entries) -> Result<Database, StoreError> {
    let aside = path.with_extension("new");
    let make = || -> Result<Database, redb::Error> {
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&aside)?;
        let database = Database::builder().set_cache_size(CACHE).create_file(file)?;
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in entries {
                table.insert(key.as_str(), value.as_slice())?;
            }
        }
        transaction.commit()?;
        fs::rename(&aside, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        Ok(database)
    };
    make().map_err(|error| StoreError::Failed {
        doing: format!("making the store {}", path.display()),
        reason: error.to_string(),
    })
}

/// Opens a file and reads all of it. redb checks little when it opens a file that was closed in order, and panics on
/// some damage.
fn open_sound(path: &Path) -> Result<Database, Missing> {
    sound(path, || Database::builder().set_cache_size(CACHE).open(path))
}

/// What a file holds now, in memory: the file is neither locked nor repaired nor written.
pub(super) fn open_in_memory(path: &Path) -> Result<Database, StoreError> {
    let bytes = fs::read(path).map_err(failed_to_open(path))?;
    let open = || {
        let backend = InMemoryBackend::new();
        backend.set_len(bytes.len() as u64)?;
        backend.write(0, &bytes)?;
        Database::builder().set_cache_size(CACHE).create_with_backend(backend)
    };
    // redb takes an empty file for one to initialize.
    let opened = if bytes.is_empty() { Err(Missing::Sound("empty".to_owned())) } else { sound(path, open) };
    let damaged = |reason: &str| StoreError::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
        copy: match copy::read(path) {
            Ok(Some(_)) => "sound: an agent that is started makes the store again from it".to_owned(),
            Ok(None) => "there is none".to_owned(),
            Err(why) => why,
        },
    };
    opened.map_err(|missing| match missing {
        Missing::Other(error) => error,
        Missing::Sound(reason) => damaged(&reason),
        Missing::File => damaged("missing"),
    })
}

fn sound(path: &Path, open: impl Fn() -> Result<Database, DatabaseError>) -> Result<Database, Missing> {
    let open = || -> Result<(Database, bool), redb::Error> {
        let mut database = open()?;
        let sound = database.check_integrity()?;
        entries(&database)?;
        Ok((database, sound))
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok((database, true))) => Ok(database),
        Ok(Ok((_, false))) => Err(Missing::Sound("its checksums do not match".to_owned())),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => {
            Err(Missing::Other(StoreError::InUse { path: path.to_owned() }))
        }
        Ok(Err(error)) => Err(Missing::Sound(error.to_string())),
        Err(_) => Err(Missing::Sound("its pages contradict each other".to_owned())),
    }
}

/// All that a store holds.
pub(super) fn entries(database: &Database) -> Result<Entries, redb::Error> {
    let mut entries = Entries::new();
    for entry in database.begin_read()?.open_table(TABLE)?.iter()? {
        let (key, value) = entry?;
        entries.insert(key.value().to_owned(), value.value().to_vec());
    }
    Ok(entries)
}
