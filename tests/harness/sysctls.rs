//! Every sysctl of a network namespace, byte for byte.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use netpath::net::Netns;

/// Values by their keys, `ipv4/ip_forward` say; what cannot be read with the reason.
pub type Values = BTreeMap<String, Result<Vec<u8>, String>>;

const ROOT: &str = "/proc/sys/net";

/// Reads all of them.
///
/// # Panics
/// If the namespace cannot be entered.
pub fn read(netns: &Netns) -> Values {
    let walk = || {
        let mut values = Values::new();
        let mut dirs = vec![PathBuf::from(ROOT)];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("sysctls").flatten() {
                let path = entry.path();
                if entry.file_type().expect("sysctl").is_dir() {
                    dirs.push(path);
                } else {
                    values.insert(key(&path), fs::read(&path).map_err(|error| error.kind().to_string()));
                }
            }
        }
        values
    };
    netns.enter(walk).expect("namespace")
}

fn key(path: &Path) -> String {
    path.strip_prefix(ROOT).expect("below it").display().to_string()
}

/// Keys that are in only one of both, or differ.
pub fn differences(before: &Values, after: &Values) -> Vec<String> {
    let all = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
    all.filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
}
