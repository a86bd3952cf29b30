//! The CNI plugin: a container engine's request, in its environment and on standard input, becomes one to the agent, and the
//! answer a result of the specification's version that was asked in.
//!
//! It decides nothing: pods, addresses and links are the agent's. While no agent answers, `DEL` leaves a note for the next one
//! (`spool`), so that an engine can always let go of a container.

mod add;
mod check;
mod config;
mod del;
mod error;
mod ipam;
mod name;
mod request;
mod result;
mod spool;
#[cfg(test)]
mod tests;

use std::{
    env,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};
use tokio::runtime;

use self::{
    error::CniError,
    request::{Command, Request},
    result::Version,
};

/// Serves the one request that this process was started for: 0 and the result on standard output, or 1 and an error object.
pub fn main() -> ExitCode {
    let (mut text, mut version) = (Vec::new(), Version::LATEST);
    let outcome = io::stdin()
        .read_to_end(&mut text)
        .map_err(|error| CniError::io("reading the network configuration", &error))
        .and_then(|_| Request::read(|name| env::var(name).ok(), &text, &mut version))
        .and_then(|request| Ok((serve(&request)?, request)));
    let (answer, added, status) = match outcome {
        Ok((answer, request)) => {
            (answer, Some(request).filter(|request| request.command == Command::Add), ExitCode::SUCCESS)
        }
        Err(error) => (Some(error.object(version)), None, ExitCode::FAILURE),
    };
    let told = answer.map_or(Ok(()), |answer| writeln!(io::stdout(), "{answer}"));
    if let (Err(_), Some(request)) = (told, added) {
        // Who does not read the answer has been killed, and may not know what to remove. If that fails, nobody is there to be
        // told either.
        let _ = serve(&request.undone());
    }
    status
}

/// Does what is asked for; the object to print, if there is one.
fn serve(request: &Request) -> Result<Option<Value>, CniError> {
    if request.command == Command::Version {
        return Ok(Some(json!({
            "cniVersion": request.version.name(),
            "supportedVersions": Version::ALL.map(Version::name),
        })));
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| CniError::io("starting the runtime", &error))?;
    runtime.block_on(async {
        match request.command {
            Command::Add => return add::add(request).await.map(Some),
            Command::Del => del::del(request).await?,
            Command::Check => check::check(request).await?,
            Command::Status => check::status(request).await?,
            Command::Gc => del::collect(request).await?,
            Command::Version => {}
        }
        Ok(None)
    })
}
