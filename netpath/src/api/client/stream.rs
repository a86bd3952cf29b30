//! Newline-delimited JSON from the agent, as it comes.

use std::{mem, path::PathBuf};

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{ClientError, excerpt};
use crate::api::types::Event;

/// No event is longer; without a limit, an answer without newlines would fill the memory.
const LONGEST_LINE: usize = 64 * 1024;

/// Events as they happen. Dropping it ends the request.
#[derive(Debug)]
pub struct EventStream {
    socket: PathBuf,
    body: Incoming,
    read: BytesMut,
    ended: bool,
}

impl EventStream {
    pub(super) fn new(socket: PathBuf, body: Incoming) -> Self {
        Self { socket, body, read: BytesMut::new(), ended: false }
    }

    /// The next event; `None` after the agent ended the stream in order. Cancel-safe. After an error the stream is
    /// over.
    pub async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        loop {
            if let Some(line) = self.take_line() {
                if line.trim_ascii().is_empty() {
                    continue; // a keep-alive
                }
                let event = parse(&line);
                self.ended |= event.is_err();
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if self.read.len() > LONGEST_LINE {
                self.ended = true;
                self.read.clear();
                return Some(Err(protocol(format!("a line of more than {LONGEST_LINE} bytes"))));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    self.read.clear();
                    return Some(Err(ClientError::transport(&self.socket, "GET /v1/events", &error)));
                }
                None => self.ended = true,
            }
        }
    }

    /// A whole line without its newline; after the end also what is left without one.
    fn take_line(&mut self) -> Option<BytesMut> {
        if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
            let line = self.read.split_to(end);
            self.read.advance(1);
            return Some(line);
        }
        (self.ended && !self.read.is_empty()).then(|| mem::take(&mut self.read))
    }
}

fn parse(line: &[u8]) -> Result<Event, ClientError> {
    serde_json::from_slice(line)
        .map_err(|error| protocol(format!("not an event: {error} in {}", excerpt(line))))
}

fn protocol(reason: String) -> ClientError {
    ClientError::Protocol { request: "GET /v1/events".to_owned(), reason }
}
