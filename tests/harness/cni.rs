//! An engine's side of CNI: the plugin and its configuration as `netpath cni install` writes them, and requests to it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use crate::node::Node;

/// Where engines find plugins: netpath's own, then the reference ones.
pub const PLUGINS: [&str; 2] = ["/mnt/cni/bin", "/usr/lib/cni"];
/// Where engines find configurations.
pub const CONFIGURATIONS: &str = "/mnt/cni/net.d";

/// What identifies an attachment beside its network, and how it is asked for.
#[derive(Clone, Debug)]
pub struct Container<'a> {
    /// `CNI_CONTAINERID`.
    pub id: &'a str,
    /// `CNI_IFNAME`.
    pub interface: &'a str,
    /// `CNI_NETNS`; may be empty.
    pub netns: String,
    /// `CNI_ARGS`; may be empty.
    pub arguments: &'a str,
}

impl<'a> Container<'a> {
    /// Interface eth0 of a container whose namespace `ip netns` knows by its name.
    pub fn new(id: &'a str) -> Self {
        Self { id, interface: "eth0", netns: format!("/run/netns/{id}"), arguments: "" }
    }
}

/// Installs the plugin on a node, with a configuration for one of its networks that engines call the same. Returns it as the
/// plugin gets it.
///
/// # Panics
/// If `netpath cni install` fails.
pub fn install(node: &Node, network: &str) -> Value {
    let name = if network == "default" { "netpath" } else { network };
    let arguments = [
        "cni",
        "install",
        "--cni-dir",
        PLUGINS[0],
        "--conf-dir",
        CONFIGURATIONS,
        "--name",
        name,
        "--network",
        network,
    ];
    let output = node.netpath(&arguments);
    assert!(output.status.success(), "{output:?}");
    let list = conflist(name);
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    config
}

/// What was installed for engines.
///
/// # Panics
/// If it cannot be read.
pub fn conflist(name: &str) -> Value {
    let path = Path::new(CONFIGURATIONS).join(format!("10-{name}.conflist"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// Starts a plugin as an engine would, by the `type` of its configuration, on the node.
///
/// # Panics
/// If it cannot be started.
pub fn start(node: &Node, command: &str, config: &Value, container: &Container<'_>) -> Child {
    let kind = config["type"].as_str().expect("type");
    let found = PLUGINS.map(|dir| PathBuf::from(dir).join(kind)).into_iter().find(|path| path.exists());
    let mut plugin =
        Command::new(found.unwrap_or_else(|| panic!("{kind}: containernetworking-plugins has it")));
    plugin
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container.id)
        .env("CNI_IFNAME", container.interface)
        .env("CNI_NETNS", &container.netns)
        .env("CNI_ARGS", container.arguments)
        .env("CNI_PATH", PLUGINS.join(":"));
    plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = node.topology.node.netns.enter(|| plugin.spawn()).expect("namespace").expect(kind);
    child.stdin.take().expect("pipe").write_all(config.to_string().as_bytes()).expect("configuration");
    child
}

/// What a plugin said: its result (null if it has none), or its error object.
///
/// # Errors
/// The error object.
///
/// # Panics
/// If it said something else.
pub fn said(output: &Output) -> Result<Value, Value> {
    let json = || {
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    match output.status.code() {
        Some(0) if output.stdout.is_empty() => Ok(Value::Null),
        Some(0) => Ok(json()),
        Some(1) => Err(json()),
        _ => panic!("{output:?}"),
    }
}

/// Asks a plugin and waits for what it says.
///
/// # Errors
/// The error object.
pub fn ask(node: &Node, command: &str, config: &Value, container: &Container<'_>) -> Result<Value, Value> {
    said(&start(node, command, config, container).wait_with_output().expect("plugin"))
}
