//! Instances: several agents on one machine, each with its own socket, state and pins.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Name of an agent on this machine: 1 to 15 of `a-z 0-9 -`. `default` unless somebody asks for another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance(String);

/// Why a text is not an instance's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "instance '{name}' is not a name of 1 to 15 lower-case letters, digits and '-'; write one like node1"
)]
pub struct InstanceError {
    /// What was given.
    pub name: String,
}

/// Where an instance keeps things. All absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Socket and lock: `/run/netpath/INSTANCE`.
    pub run_dir: PathBuf,
    /// The store: `/var/lib/netpath/INSTANCE`.
    pub state_dir: PathBuf,
    /// Pinned programs and tables, on bpffs: `/sys/fs/bpf/netpath/INSTANCE`.
    pub pin_dir: PathBuf,
    /// Files of the network namespaces that the agent makes: `/run/netns`, where `ip netns` looks.
    pub netns_dir: PathBuf,
}

impl Instance {
    /// An instance by name.
    ///
    /// # Errors
    /// If the name is not 1 to 15 lower-case letters, digits and `-`.
    pub fn new(name: &str) -> Result<Self, InstanceError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=15).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InstanceError { name: name.to_owned() })
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Its configuration, if no other is named: `/etc/netpath/INSTANCE.toml`, `netpath.toml` for the default one.
    pub fn file(&self) -> PathBuf {
        let name = if *self == Self::default() { "netpath" } else { &self.0 };
        Path::new("/etc/netpath").join(format!("{name}.toml"))
    }

    /// Where it keeps things unless its configuration says otherwise.
    pub fn paths(&self) -> Paths {
        Paths {
            run_dir: Path::new("/run/netpath").join(&self.0),
            state_dir: Path::new("/var/lib/netpath").join(&self.0),
            pin_dir: Path::new("/sys/fs/bpf/netpath").join(&self.0),
            netns_dir: PathBuf::from("/run/netns"),
        }
    }

    /// The API's socket unless its configuration says otherwise.
    pub fn socket(&self) -> PathBuf {
        self.paths().socket()
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Instance {
    type Err = InstanceError;

    fn from_str(name: &str) -> Result<Self, InstanceError> {
        Self::new(name)
    }
}

impl Paths {
    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// Held locked by the running agent.
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("lock")
    }

    /// Removals that container engines asked for while no agent answered.
    pub fn spool(&self) -> PathBuf {
        self.state_dir.join("cni-del")
    }

    /// The list of what `netpath cni install` wrote.
    pub fn installed(&self) -> PathBuf {
        self.state_dir.join("cni-installed.json")
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.state_dir.join("state.redb")
    }
}
