//! The store's copy: a file of text beside it, which begins with all that the store holds and gets a line for every change.
//!
//! Lines are not forced to the disk. What survives the agent's death survives here; and what a power failure takes from the
//! copy is of no use, since the links that the copy would tell of are gone as well, and the store itself is on the disk.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crc::{CRC_32_ISCSI, Crc};

/// Values by key.
pub(super) type Entries = BTreeMap<String, Vec<u8>>;

/// First line, before the number of values that the copy began with: another form gets another number.
const HEAD: &str = "netpath state 1: ";
const SUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Bytes of changes after which the copy begins anew, at least; and as much as it began with.
const LONG: u64 = 1 << 20;

/// A copy that is written to.
pub(super) struct Copy {
    file: File,
    written: u64,
    most: u64,
}

/// Where the copy of a store is.
pub(crate) fn path_of(store: &Path) -> PathBuf {
    store.with_extension("copy")
}

impl Copy {
    /// Puts a new copy in the place of the old one.
    pub(super) fn begin(store: &Path, entries: &Entries) -> io::Result<Self> {
        let path = path_of(store);
        let aside = path.with_extension("copy.new");
        let mut text = format!("{HEAD}{}\n", entries.len());
        for (key, value) in entries {
            text.push_str(&line(key, Some(value))?);
        }
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        // Before it takes the place of one that is on the disk.
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        Ok(Self { file, written: 0, most: LONG.max(text.len() as u64) })
    }

    /// Adds a change; `None` removes the key.
    pub(super) fn append(&mut self, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        let line = line(key, value)?;
        self.written += line.len() as u64;
        self.file.write_all(line.as_bytes())
    }

    /// What was added last is not what the store holds, or half a line: the next change begins a new copy.
    pub(super) fn end(&mut self) {
        self.most = 0;
    }

    /// Whether it is time to begin anew.
    pub(super) fn is_over(&self) -> bool {
        self.written > self.most
    }
}

/// What the copy of a store holds; `None` if there is no copy.
///
/// # Errors
/// In words, if it cannot be read or is not sound.
pub(super) fn read(store: &Path) -> Result<Option<Entries>, String> {
    let text = match fs::read_to_string(path_of(store)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let Some(begun) = head.strip_prefix(HEAD).and_then(|number| number.parse::<usize>().ok()) else {
        return Err(format!("it begins with '{}' and not with '{HEAD}'", head.escape_default()));
    };
    if lines.clone().count() < begun || !text.ends_with('\n') {
        return Err("its end is missing".to_owned());
    }
    let mut entries = Entries::new();
    for (number, line) in lines.enumerate() {
        let (key, value) = parse(line).ok_or_else(|| format!("its line {} is damaged", number + 2))?;
        match value {
            Some(value) => entries.insert(key, value.into_bytes()),
            None => entries.remove(&key),
        };
    }
    Ok(Some(entries))
}

/// Checksum, and key and value in JSON.
fn line(key: &str, value: Option<&[u8]>) -> io::Result<String> {
    let value = value.map(std::str::from_utf8).transpose().map_err(io::Error::other)?;
    let text = serde_json::to_string(&(key, value))?;
    Ok(format!("{:08x} {text}\n", SUM.checksum(text.as_bytes())))
}

fn parse(line: &str) -> Option<(String, Option<String>)> {
    let (sum, text) = line.split_once(' ')?;
    let sound = u32::from_str_radix(sum, 16).ok()? == SUM.checksum(text.as_bytes());
    if sound { serde_json::from_str(text).ok() } else { None }
}
