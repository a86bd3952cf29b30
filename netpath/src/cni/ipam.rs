//! An IPAM plugin of somebody else (`host-local`, `static`, …), if the configuration names one: it is started as an engine
//! would start it, and says which addresses there are.

use std::{
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    config::{Dns, address},
    error::{CniError, Code},
    request::Request,
};

/// What an IPAM plugin gives; routes are netpath's own.
pub(super) struct Given {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) dns: Dns,
}

/// Has it choose addresses.
pub(super) fn add(request: &Request) -> Result<Given, CniError> {
    let answer = delegate(request, "ADD")?;
    let read = || {
        let text = |ip: &Value| ip["address"].as_str().and_then(address);
        let addresses = answer["ips"].as_array()?.iter().map(text).collect::<Option<Vec<_>>>()?;
        Some(addresses).filter(|addresses| !addresses.is_empty())
    };
    match read() {
        Some(addresses) => {
            let dns = serde_json::from_value(answer["dns"].clone()).unwrap_or_default();
            Ok(Given { addresses, dns })
        }
        None => {
            let undecodable =
                CniError::new(Code::Undecodable, format!("{}: no addresses in {answer}", named(request)));
            // It may have taken one.
            release(request)?;
            Err(undecodable)
        }
    }
}

/// Has it take the addresses back.
pub(super) fn release(request: &Request) -> Result<(), CniError> {
    delegate(request, "DEL").map(drop)
}

/// Starts it for a command, with the request's environment and configuration; what it says.
pub(super) fn delegate(request: &Request, command: &str) -> Result<Value, CniError> {
    let name = named(request);
    let plugin = find(request)?;
    let doing = || format!("running {name}, {}", plugin.display());
    let mut child = Command::new(&plugin)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| CniError::io(doing(), &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says why on its standard output.
        let _ = stdin.write_all(&request.text);
    }
    let output = child.wait_with_output().map_err(|error| CniError::io(doing(), &error))?;
    let said = serde_json::from_slice::<Value>(&output.stdout);
    match (output.status.success(), said) {
        (true, Ok(said)) => Ok(said),
        // Only ADD has something to say.
        (true, Err(_)) => Ok(Value::Null),
        (false, said) => Err(failure(&name, &output.status.to_string(), said.ok())),
    }
}

fn failure(name: &str, status: &str, said: Option<Value>) -> CniError {
    #[derive(Deserialize)]
    struct Failed {
        code: u32,
        msg: String,
        #[serde(default)]
        details: String,
    }
    match said.and_then(|said| serde_json::from_value(said).ok()) {
        Some(Failed { code, msg, details }) => CniError { code, message: format!("{name}: {msg}"), details },
        None => CniError::new(Code::Internal, format!("{name} failed with {status}")),
    }
}

fn named(request: &Request) -> String {
    format!("the IPAM plugin {}", request.config.ipam().unwrap_or_default())
}

fn find(request: &Request) -> Result<PathBuf, CniError> {
    let kind = request.config.ipam().unwrap_or_default();
    if kind.contains('/') {
        return Err(CniError::new(Code::InvalidConfig, format!("ipam.type '{kind}' is no name of a plugin")));
    }
    let found = request.path.split(':').map(|dir| Path::new(dir).join(kind)).find(|path| path.is_file());
    found.ok_or_else(|| {
        CniError::new(
            Code::InvalidConfig,
            format!("{} is in none of CNI_PATH, {}", named(request), request.path),
        )
        .hint("install it there, or leave ipam out: netpath has addresses of its own")
    })
}
