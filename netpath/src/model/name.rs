//! Names of pods and of their interfaces.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Name of a pod: 1 to 63 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit. It is also a file name below the
/// directory of namespaces, so it never holds a slash and is never `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodName(String);

/// Why a text is not a pod's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pod name '{name}' {reason}")]
pub struct NameError {
    /// What was given.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Longest name of a pod, bytes: that of a DNS label.
const MAX_NAME: usize = 63;

/// The instance whose interfaces have the shortest names.
const DEFAULT_INSTANCE: &str = "default";

impl PodName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let reason = if name.is_empty() {
            "is empty"
        } else if name.len() > MAX_NAME {
            "is longer than 63 characters"
        } else if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            "must start with a letter or a digit"
        } else if !name.chars().all(allowed) {
            "may hold only letters, digits, '.', '_' and '-'"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(NameError { name: name.to_owned(), reason })
    }
}

impl TryFrom<String> for PodName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        name.parse()
    }
}

impl From<PodName> for String {
    fn from(name: PodName) -> Self {
        name.0
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of the host end of a pod's veth pair: at most 15 bytes (IFNAMSIZ - 1), the same at every start, different for
/// every pod of an instance, and for pods of other instances that share the network namespace.
pub fn interface_name(instance: &str, pod: u32) -> String {
    let prefix = interface_prefix(instance);
    if instance == DEFAULT_INSTANCE {
        format!("{prefix}{pod}")
    } else {
        format!("{prefix}{}", base36(pod, 1))
    }
}

/// Whether a name is one that [`interface_name`] gives to pods of this instance.
pub fn is_interface_of(instance: &str, name: &str) -> bool {
    let radix = if instance == DEFAULT_INSTANCE { 10 } else { 36 };
    name.strip_prefix(&interface_prefix(instance))
        .and_then(|number| u32::from_str_radix(number, radix).ok())
        .is_some_and(|pod| interface_name(instance, pod) == name)
}

/// What all interface names of an instance start with.
fn interface_prefix(instance: &str) -> String {
    if instance == DEFAULT_INSTANCE {
        return "np".to_owned();
    }
    // FNV-1a: an own hash and not the standard library's, whose values may change between its versions.
    let hash =
        instance.bytes().fold(0x811c_9dc5_u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("np{}-", base36(hash % 36_u32.pow(4), 4))
}

fn base36(mut value: u32, width: usize) -> String {
    let mut digits = Vec::new();
    while value > 0 || digits.len() < width {
        digits.push(char::from_digit(value % 36, 36).unwrap_or('0'));
        value /= 36;
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for good in ["a", "web-1", "0", "A.b_c-d", &"x".repeat(63)] {
            assert!(good.parse::<PodName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "a/b", "a b", "a\0", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<PodName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_are_stable() {
        // Changing these orphans the links of running pods: they must never change.
        assert_eq!(interface_name("default", 7), "np7");
        assert_eq!(interface_name("node1", 7), "npvp10-7");
        for other in ["np", "np07", "np7x", "eth0", "npvp10-7", "np4294967296"] {
            assert!(!is_interface_of("default", other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn interface_names_fit_and_differ(instance in "[a-z0-9-]{1,15}", a: u32, b: u32) {
            let name = interface_name(&instance, a);
            prop_assert!(name.len() <= 15, "{}", name);
            prop_assert_eq!(a == b, name == interface_name(&instance, b));
            prop_assert_eq!(instance == "default", name == interface_name("default", a));
            prop_assert!(is_interface_of(&instance, &name));
            prop_assert_eq!(instance == "default", is_interface_of("default", &name));
        }
    }
}
