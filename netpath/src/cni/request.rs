//! A request: the environment, and the configuration on standard input.

use std::{net::IpAddr, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    config::{Config, address},
    error::{CniError, Code},
    result::Version,
};
use crate::api::{client::Client, types::Attachment};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl Command {
    const ALL: [(&'static str, Self); 6] = [
        ("ADD", Self::Add),
        ("DEL", Self::Del),
        ("CHECK", Self::Check),
        ("STATUS", Self::Status),
        ("GC", Self::Gc),
        ("VERSION", Self::Version),
    ];

    /// The first version that has it.
    fn since(self) -> Version {
        match self {
            Self::Check => Version::V0_4_0,
            Self::Status | Self::Gc => Version::V1_1_0,
            _ => Version::V0_3_0,
        }
    }
}

/// `CNI_ARGS`, as far as it is about us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) ips: Vec<IpAddr>,
    pub(super) mac: Option<String>,
    /// `K8S_POD_NAMESPACE`.
    pub(super) namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub(super) pod: Option<String>,
}

/// A request that is whole.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) version: Version,
    pub(super) config: Config,
    /// The configuration as it was given, for IPAM plugins.
    pub(super) text: Vec<u8>,
    /// `CNI_CONTAINERID`; empty for what is about no container, as is the next.
    container: String,
    /// `CNI_IFNAME`.
    interface: String,
    /// `CNI_NETNS`.
    pub(super) netns: Option<String>,
    pub(super) arguments: Arguments,
    /// `CNI_PATH`.
    pub(super) path: String,
}

impl Request {
    /// Reads it. `version` becomes the one that was asked in as soon as that is known: errors are told in it.
    pub(super) fn read(
        environment: impl Fn(&str) -> Option<String>,
        text: &[u8],
        version: &mut Version,
    ) -> Result<Self, CniError> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let command = command(variable("CNI_COMMAND").as_deref())?;
        *version = asked_version(text, command)?;
        let mut request = Self {
            command,
            version: *version,
            config: Config::default(),
            text: text.to_owned(),
            container: String::new(),
            interface: String::new(),
            netns: variable("CNI_NETNS"),
            arguments: Arguments::default(),
            path: variable("CNI_PATH").unwrap_or_default(),
        };
        if command == Command::Version {
            return Ok(request);
        }
        request.config = configuration(text, command).map_err(|error| undecodable(&error))?;
        check_id("the configuration's name", &request.config.name, Code::InvalidConfig)?;
        if matches!(command, Command::Add | Command::Del | Command::Check) {
            let needed = |name: &str| {
                variable(name).ok_or_else(|| wrong(name, "it is not set, and the command needs it"))
            };
            request.container = needed("CNI_CONTAINERID")?;
            check_id("CNI_CONTAINERID", &request.container, Code::InvalidEnvironment)?;
            request.interface = needed("CNI_IFNAME")?;
            if command != Command::Del {
                check_interface(&request.interface)?;
                check_netns(&needed("CNI_NETNS")?)?;
                request.arguments = arguments(&variable("CNI_ARGS").unwrap_or_default())?;
            }
        }
        Ok(request)
    }

    /// The request that takes back what this one asks for.
    pub(super) fn undone(self) -> Self {
        Self { command: Command::Del, ..self }
    }

    /// What identifies the attachment.
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            container: self.container.clone(),
            interface: self.interface.clone(),
            network: self.config.name.clone(),
        }
    }

    /// The agent.
    pub(super) fn client(&self) -> Client {
        Client::new(self.config.socket())
    }
}

fn command(name: Option<&str>) -> Result<Command, CniError> {
    let all = Command::ALL.map(|(name, _)| name).join(", ");
    let hint = format!("container engines start this program with one of {all}; see docs/CNI.md");
    let name = name.ok_or_else(|| wrong("CNI_COMMAND", "it is not set").hint(hint.clone()))?;
    let known = Command::ALL.into_iter().find(|(known, _)| *known == name);
    known
        .map(|(_, command)| command)
        .ok_or_else(|| wrong("CNI_COMMAND", &format!("there is no {name}")).hint(hint))
}

/// The configuration, of which a removal needs little: what is wrong with the rest, or was when the container was to be
/// added, must not keep it.
fn configuration(text: &[u8], command: Command) -> Result<Config, serde_json::Error> {
    const REMOVAL: [&str; 5] = ["name", "instance", "socket", "spool", "ipam"];
    let mut fields: Map<String, Value> = serde_json::from_slice(text)?;
    if command == Command::Del {
        fields.retain(|key, _| REMOVAL.contains(&key.as_str()));
    }
    let asked = fields.get_mut("runtimeConfig").and_then(Value::as_object_mut).into_iter().flatten();
    // Its keys are names of networks.
    asked.filter(|(capability, _)| *capability != "aliases").for_each(|(_, value)| decapitalise(value));
    serde_json::from_value(fields.into())
}

/// Writes fields as the conventions have them: containerd begins their names with a capital, and has null for an empty list,
/// which plugins written in Go do not notice.
fn decapitalise(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(decapitalise),
        Value::Object(fields) => {
            let there = std::mem::take(fields).into_iter().filter(|(_, value)| !value.is_null());
            let all = there.map(|(mut name, mut value)| {
                name.get_mut(..1).map(str::make_ascii_lowercase);
                decapitalise(&mut value);
                (name, value)
            });
            *fields = all.collect();
        }
        _ => {}
    }
}

/// The version that is asked in, which must have the command.
fn asked_version(text: &[u8], command: Command) -> Result<Version, CniError> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "cniVersion")]
        version: Option<String>,
    }
    if command == Command::Version && text.trim_ascii().is_empty() {
        return Ok(Version::LATEST);
    }
    let head: Head = serde_json::from_slice(text).map_err(|error| undecodable(&error))?;
    // As the specification has it.
    let name = head.version.unwrap_or_else(|| "0.1.0".to_owned());
    let known = Version::ALL.into_iter().find(|version| version.name() == name);
    let unknown = || {
        CniError::new(Code::IncompatibleVersion, format!("cniVersion {name} is none that netpath-cni has"))
    };
    let versions = Version::ALL.map(Version::name).join(", ");
    match known {
        // Whoever asks which versions there are need not know one.
        None if command == Command::Version => Ok(Version::LATEST),
        None => Err(unknown().hint(format!("it has {versions}"))),
        Some(version) if version < command.since() => {
            let message =
                format!("cniVersion {name} has no such command; it came with {}", command.since().name());
            Err(CniError::new(Code::IncompatibleVersion, message))
        }
        Some(version) => Ok(version),
    }
}

fn undecodable(error: &serde_json::Error) -> CniError {
    CniError::new(Code::Undecodable, format!("reading the network configuration: {error}"))
}

fn wrong(variable: &str, reason: &str) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("environment variable {variable}: {reason}"))
}

/// Container IDs and network names are alike.
fn check_id(what: &str, id: &str, code: Code) -> Result<(), CniError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(good) {
        return Ok(());
    }
    let message =
        format!("{what} '{id}' is not made of letters, digits, '_', '.' and '-', after a letter or digit");
    Err(CniError::new(code, message))
}

fn check_interface(name: &str) -> Result<(), CniError> {
    match Attachment::is_interface(name) {
        true => Ok(()),
        false => Err(wrong("CNI_IFNAME", &format!("'{name}' is no name of an interface"))),
    }
}

fn check_netns(path: &str) -> Result<(), CniError> {
    if !path.starts_with('/') {
        return Err(wrong("CNI_NETNS", &format!("'{path}' is no absolute path")));
    }
    if !Path::new(path).exists() {
        return Err(wrong("CNI_NETNS", &format!("there is no {path}")));
    }
    Ok(())
}

fn arguments(text: &str) -> Result<Arguments, CniError> {
    let (mut arguments, mut unknown, mut ignore) = (Arguments::default(), None, false);
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| wrong("CNI_ARGS", &format!("'{pair}' is not KEY=VALUE")))?;
        let given = || Some(value.to_owned()).filter(|value| !value.is_empty());
        match key {
            "IgnoreUnknown" => ignore = matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T"),
            "IP" => {
                for text in value.split(',').filter(|text| !text.is_empty()) {
                    let no_address = || wrong("CNI_ARGS", &format!("IP '{text}' is no address"));
                    arguments.ips.push(address(text).ok_or_else(no_address)?);
                }
            }
            "MAC" => arguments.mac = given(),
            "K8S_POD_NAMESPACE" => arguments.namespace = given(),
            "K8S_POD_NAME" => arguments.pod = given(),
            _ if key.starts_with("K8S_POD_") => {}
            _ => unknown = Some(key),
        }
    }
    match unknown.filter(|_| !ignore) {
        Some(key) => Err(wrong("CNI_ARGS", &format!("{key} is unknown, and IgnoreUnknown is not set"))),
        None => Ok(arguments),
    }
}
