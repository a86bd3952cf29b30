//! A store for tests, whose writes can be made to fail.

use std::{collections::BTreeMap, sync::Mutex};

use super::{Answer, Store, StoreError};

#[derive(Default)]
pub(crate) struct MemoryStore {
    values: Mutex<BTreeMap<String, Vec<u8>>>,
    refused: Mutex<Option<String>>,
}

impl MemoryStore {
    /// Refuses from now on to write values that hold a text; every value holds "".
    pub(crate) fn refuse(&self, text: &str) {
        *self.refused.lock().unwrap() = Some(text.to_owned());
    }

    fn write(&self, value: &[u8]) -> Result<(), StoreError> {
        let value = String::from_utf8_lossy(value);
        match &*self.refused.lock().unwrap() {
            Some(text) if value.contains(text) => {
                Err(StoreError::Failed { doing: "writing".to_owned(), reason: "no space left".to_owned() })
            }
            _ => Ok(()),
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &str) -> Answer<'_, Option<Vec<u8>>> {
        let value = self.values.lock().unwrap().get(key).cloned();
        Box::pin(async { Ok(value) })
    }

    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let values = self.values.lock().unwrap();
        let found = values.iter().filter(|(key, _)| key.starts_with(prefix));
        let found = found.map(|(key, value)| (key.clone(), value.clone())).collect();
        Box::pin(async { Ok(found) })
    }

    fn put(&self, key: &str, value: Vec<u8>) -> Answer<'_, ()> {
        let done =
            self.write(&value).map(|()| drop(self.values.lock().unwrap().insert(key.to_owned(), value)));
        Box::pin(async { done })
    }

    fn compare_and_swap(&self, key: &str, expected: Option<Vec<u8>>, value: Vec<u8>) -> Answer<'_, bool> {
        let done = self.write(&value).map(|()| {
            let mut values = self.values.lock().unwrap();
            let same = values.get(key) == expected.as_ref();
            if same {
                values.insert(key.to_owned(), value);
            }
            same
        });
        Box::pin(async { done })
    }

    fn delete(&self, key: &str) -> Answer<'_, ()> {
        self.values.lock().unwrap().remove(key);
        Box::pin(async { Ok(()) })
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
