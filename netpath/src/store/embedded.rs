//! The default store: one redb file on the node, with a copy beside it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::{Database, ReadableDatabase, ReadableTable};

use super::{
    Answer, Store, StoreError,
    copy::Copy,
    open::{TABLE, entries, failed_to_open, open_in_memory, open_or_restore},
};

/// A store in one file, for one process at a time.
#[derive(Clone)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    path: Arc<PathBuf>,
    /// None for what is in memory only.
    copy: Option<Arc<Mutex<Copy>>>,
}

impl EmbeddedStore {
    /// Opens the store, or makes an empty one if there is neither such a file nor its copy. One that is missing or
    /// damaged is made again from its copy; what was in its place stays beside it, as `….damaged`. Blocks.
    ///
    /// # Errors
    /// If another process has it open, if it cannot be read, or if neither it nor its copy is sound: all is then left as
    /// it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open_or_restore(path)?;
        let copy = Copy::begin(path, &entries(&database).map_err(failed_to_open(path))?);
        let copy = copy.map_err(failed_to_open(path))?;
        Ok(Self {
            database: Arc::new(database),
            path: Arc::new(path.to_owned()),
            copy: Some(Arc::new(Mutex::new(copy))),
        })
    }

    /// Opens what the file holds now, in memory: the file is neither locked nor repaired nor written. Blocks.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a sound store.
    pub fn open_copy(path: &Path) -> Result<Self, StoreError> {
        let database = Arc::new(open_in_memory(path)?);
        Ok(Self { database, path: Arc::new(path.to_owned()), copy: None })
    }

    /// Runs a transaction on a blocking thread: a commit waits for the disk.
    fn run<T: Send + 'static>(
        &self,
        doing: String,
        transaction: impl FnOnce(&Self) -> Result<T, redb::Error> + Send + 'static,
    ) -> Answer<'_, T> {
        let store = self.clone();
        Box::pin(async move {
            let path = store.path.display().to_string();
            let done = tokio::task::spawn_blocking(move || transaction(&store)).await;
            let failed =
                |reason: String| StoreError::Failed { doing: format!("{doing} in the store {path}"), reason };
            match done {
                Ok(answer) => answer.map_err(|error| failed(error.to_string())),
                Err(error) => Err(failed(error.to_string())),
            }
        })
    }

    /// One change, in the copy before it is in the store: the copy is never behind, and at most one change ahead, as if the
    /// agent had died a moment later. Returns whether the present
    /// value was as expected.
    fn change(
        &self,
        key: &str,
        value: Option<&[u8]>,
        expected: impl FnOnce(Option<&[u8]>) -> bool,
    ) -> Result<bool, redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            if !expected(table.get(key)?.as_ref().map(|value| value.value())) {
                return Ok(false);
            }
            match value {
                Some(value) => table.insert(key, value)?,
                None => table.remove(key)?,
            };
        }
        let Some(copy) = &self.copy else {
            transaction.commit()?;
            return Ok(true);
        };
        let mut copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
        if copy.is_over() {
            *copy = Copy::begin(&self.path, &entries(&self.database)?)?;
        }
        let done = copy.append(key, value).map_err(Into::into).and_then(|()| Ok(transaction.commit()?));
        if done.is_err() {
            copy.end();
        }
        done.map(|()| true)
    }
}

impl Store for EmbeddedStore {
    fn get(&self, key: &str) -> Answer<'_, Option<Vec<u8>>> {
        let owned = key.to_owned();
        self.run(format!("reading '{key}'"), move |store| {
            let table = store.database.begin_read()?.open_table(TABLE)?;
            Ok(table.get(owned.as_str())?.map(|value| value.value().to_vec()))
        })
    }

    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let owned = prefix.to_owned();
        self.run(format!("listing '{prefix}'"), move |store| {
            let table = store.database.begin_read()?.open_table(TABLE)?;
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
        self.run(format!("writing '{key}'"), move |store| {
            store.change(&owned, Some(&value), |_| true).map(drop)
        })
    }

    fn compare_and_swap(&self, key: &str, expected: Option<Vec<u8>>, value: Vec<u8>) -> Answer<'_, bool> {
        let owned = key.to_owned();
        self.run(format!("writing '{key}'"), move |store| {
            store.change(&owned, Some(&value), |present| present == expected.as_deref())
        })
    }

    fn delete(&self, key: &str) -> Answer<'_, ()> {
        let owned = key.to_owned();
        self.run(format!("removing '{key}'"), move |store| {
            store.change(&owned, None, |present| present.is_some()).map(drop)
        })
    }

    fn describe(&self) -> String {
        format!("redb {}", self.path.display())
    }
}
