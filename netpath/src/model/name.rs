//! Names of pods and of their interfaces.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} name '{name}' {reason}")]
pub struct NameError {
    /// Of what it was to be the name.
    pub kind: &'static str,
    /// What was given.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Longest name, bytes: that of a DNS label.
const MAX_NAME: usize = 63;

/// The instance whose interfaces have the shortest names.
const DEFAULT_INSTANCE: &str = "default";

/// A kind of names: 1 to 63 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit.
macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $kind:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                check($kind, name).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Name of a pod. It is also a file name below the directory of namespaces, so it never holds a slash and is never
    /// `.` or `..`.
    PodName, "pod"
}

name! {
    /// Name of a network; also a key of the store.
    NetworkName, "network"
}

fn check(kind: &'static str, name: &str) -> Result<String, NameError> {
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
        return Ok(name.to_owned());
    };
    Err(NameError { kind, name: name.to_owned(), reason })
}

/// Name of the host end of a pod's veth pair: at most 15 bytes (IFNAMSIZ - 1), the same at every start, different for
/// every interface of every pod of an instance, and for pods of other instances that share the network namespace. The
/// first interface (0) has the pod's number alone, later ones a capital letter behind it: `B` is the second.
pub fn interface_name(instance: &str, pod: u32, interface: usize) -> String {
    let prefix = interface_prefix(instance);
    let letter = LETTERS.chars().nth(interface).filter(|_| interface > 0);
    let letter = letter.map(String::from).unwrap_or_default();
    if instance == DEFAULT_INSTANCE {
        format!("{prefix}{pod}{letter}")
    } else {
        format!("{prefix}{}{letter}", base36(pod, 1))
    }
}

/// One for each of [`MAX_INTERFACES`](super::MAX_INTERFACES). Capitals are no digits of [`base36`].
const LETTERS: &str = "ABCDEFGH";

/// Whether a name is one that [`interface_name`] gives to pods of this instance.
pub fn is_interface_of(instance: &str, name: &str) -> bool {
    let radix = if instance == DEFAULT_INSTANCE { 10 } else { 36 };
    let number = name.trim_end_matches(|c| LETTERS.contains(c));
    let interface = name.chars().last().and_then(|last| LETTERS.find(last)).unwrap_or(0);
    number
        .strip_prefix(&interface_prefix(instance))
        .and_then(|number| u32::from_str_radix(number, radix).ok())
        .is_some_and(|pod| interface_name(instance, pod, interface) == name)
}

/// Name of an instance's device for tunnels to other nodes; no pod's interface has it.
pub fn tunnel_name(instance: &str) -> String {
    match interface_prefix(instance).strip_suffix('-') {
        // Letters alone may be a pod's number there.
        Some(prefix) => format!("{prefix}_vxlan"),
        None => "np-vxlan".to_owned(),
    }
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
        let error = "a/b".parse::<NetworkName>().unwrap_err().to_string();
        assert_eq!(error, "network name 'a/b' may hold only letters, digits, '.', '_' and '-'");
    }

    #[test]
    fn interface_names_are_stable() {
        // Changing these orphans the links of running pods: they must never change.
        assert_eq!(interface_name("default", 7, 0), "np7");
        assert_eq!(interface_name("default", 7, 1), "np7B");
        assert_eq!(interface_name("node1", 7, 0), "npvp10-7");
        for other in
            ["np", "npB", "np7A", "np7BB", "np7Z", "np07", "np7x", "eth0", "npvp10-7", "np4294967296"]
        {
            assert!(!is_interface_of("default", other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn interface_names_fit_and_differ(
            instance in "[a-z0-9-]{1,15}",
            a in (any::<u32>(), 0..super::super::MAX_INTERFACES),
            b in (any::<u32>(), 0..super::super::MAX_INTERFACES),
        ) {
            let name = interface_name(&instance, a.0, a.1);
            prop_assert!(name.len() <= 15, "{}", name);
            prop_assert_eq!(a == b, name == interface_name(&instance, b.0, b.1));
            prop_assert_eq!(instance == "default", name == interface_name("default", a.0, a.1));
            prop_assert!(is_interface_of(&instance, &name));
            let tunnel = tunnel_name(&instance);
            prop_assert!(tunnel.len() <= 15 && !is_interface_of(&instance, &tunnel), "{}", tunnel);
            prop_assert_eq!(instance == "default", is_interface_of("default", &name));
        }
    }
}
