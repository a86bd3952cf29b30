//! Programs of the distribution, run in a namespace: those that make other networks than netpath's.

use std::{
    io::{self, Write},
    process::{Command, Output, Stdio},
};

use crate::{lab::topology::Space, net::NetError};

/// A program, and which Debian package has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool {
    /// Name on the path.
    pub(super) name: &'static str,
    /// Debian's package.
    pub(super) package: &'static str,
}

impl Tool {
    /// Runs it in a namespace with something on its standard input.
    ///
    /// # Errors
    /// What it says, or that it is not there.
    pub(super) fn run(self, space: &Space, arguments: &[&str], input: &str) -> Result<(), NetError> {
        let failed = |reason: String| NetError {
            doing: format!("running {} in {} (Debian package {})", self.name, space.name, self.package),
            reason,
            errno: None,
        };
        let output = space.netns.enter(|| self.output(arguments, input))?;
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    fn output(self, arguments: &[&str], input: &str) -> io::Result<Output> {
        let mut command = Command::new(self.name);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who does not read it ends before it is written.
            match stdin.write_all(input.as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        child.wait_with_output()
    }
}
