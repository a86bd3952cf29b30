//! BIRD's control socket: a line is asked, and lines with a four-digit code answer (BIRD's programmer's documentation, "Reply codes").

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::agent::AgentError;

/// How long BIRD may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first of the codes by which BIRD refuses.
const REFUSED: u16 = 8000;
/// Codes of a protocol's line, and of what is told of it.
const PROTOCOL: u16 = 1002;
const DETAILS: u16 = 1006;
/// An answer has no more lines: a thousand sessions have thirty thousand.
const MOST_LINES: usize = 100_000;

/// A session of BIRD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    /// What it is called there.
    pub(super) name: String,
    /// `Established`, or what it waits for.
    pub(super) state: String,
    pub(super) imported: u64,
    pub(super) exported: u64,
    /// What went wrong last.
    pub(super) error: Option<String>,
}

/// The way to a BIRD that may be there.
pub(super) struct Control<'a>(pub(super) &'a Path);

impl Control<'_> {
    /// Has it read its configuration, and do what is written there.
    pub(super) async fn configure(&self) -> Result<(), AgentError> {
        self.ask("configure").await.map(drop)
    }

    /// The sessions that netpath wrote.
    pub(super) async fn sessions(&self) -> Result<Vec<Session>, AgentError> {
        match self.ask("show protocols all \"netpath_*\"").await {
            Ok(answer) => Ok(sessions(&answer)),
            Err(AgentError::Bird { reason, .. }) if reason.contains("No protocols match") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Asks, and returns the lines of the answer, each with its code.
    async fn ask(&self, question: &str) -> Result<Vec<(u16, String)>, AgentError> {
        let failed = |reason: String| AgentError::Bird { socket: self.0.to_owned(), reason };
        let stream = UnixStream::connect(self.0).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AgentError::NoBird { socket: self.0.to_owned(), reason: error.to_string() }
            }
            _ => failed(error.to_string()),
        })?;
        let talk = async {
            let (from, mut to): (OwnedReadHalf, OwnedWriteHalf) = stream.into_split();
            let mut lines = BufReader::new(from).lines();
            answer(&mut lines).await?;
            to.write_all(format!("{question}\n").as_bytes()).await?;
            answer(&mut lines).await
        };
        let lines = match timeout(PATIENCE, talk).await {
            Ok(lines) => lines.map_err(|error| failed(error.to_string()))?,
            Err(_) => {
                return Err(failed(format!("no answer to '{question}' within {} s", PATIENCE.as_secs())));
            }
        };
        match lines.iter().find(|(code, _)| *code >= REFUSED) {
            Some((_, words)) => Err(failed(format!("'{question}' is refused: {words}"))),
            None => Ok(lines),
        }
    }
}

/// Reads until a line has a blank behind its code. Lines without one go on with the code before.
async fn answer(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> io::Result<Vec<(u16, String)>> {
    let mut all: Vec<(u16, String)> = Vec::new();
    while let Some(line) = lines.next_line().await? {
        let code = line.get(..4).and_then(|code| code.parse::<u16>().ok());
        let (code, words) = match code {
            Some(code) => (code, line.get(5..).unwrap_or_default()),
            None => (all.last().map_or(0, |(code, _)| *code), &line[..]),
        };
        all.push((code, words.to_owned()));
        if line.get(..5).is_some_and(|head| head.ends_with(' ') && head[..4].parse::<u16>().is_ok()) {
            return Ok(all);
        }
        if all.len() > MOST_LINES {
            break;
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended in the middle of an answer"))
}

/// The sessions in an answer to `show protocols all`.
fn sessions(answer: &[(u16, String)]) -> Vec<Session> {
    let mut all: Vec<Session> = Vec::new();
    let mut is_bgp = false;
    for (code, words) in answer {
        match *code {
            PROTOCOL => {
                let mut fields = words.split_whitespace();
                let (name, kind) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
                is_bgp = kind == "BGP";
                if is_bgp {
                    // The table, and since when.
                    let state = fields.nth(1).unwrap_or_default().to_owned();
                    all.push(Session { name: name.to_owned(), state, ..Session::default() });
                }
            }
            DETAILS => {
                let Some(session) = all.last_mut().filter(|_| is_bgp) else { continue };
                let Some((key, value)) = words.trim().split_once(':') else { continue };
                match (key, value.trim()) {
                    ("BGP state", state) => session.state = state.to_owned(),
                    ("Last error", error) => session.error = Some(error.to_owned()),
                    ("Routes", routes) => count(session, routes),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    all
}

/// `2 imported, 1 exported, 2 preferred`; a session may have a channel of each family.
fn count(session: &mut Session, routes: &str) {
    for part in routes.split(',') {
        let (number, what) = part.trim().split_once(' ').unwrap_or_default();
        let number: u64 = number.parse().unwrap_or_default();
        match what {
            "imported" => session.imported += number,
            "exported" => session.exported += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_an_answer() {
        let lines = [
            (2002, "Name       Proto      Table      State  Since         Info"),
            (1002, "netpath_links Direct     ---        up     23:35:53.722"),
            (1006, "  Channel ipv4"),
            (1006, "    Routes:         9 imported, 9 exported, 9 preferred"),
            (1002, "netpath_198_18_0_1 BGP        ---        up     23:35:53.722  Established"),
            (1006, "  BGP state:          Established"),
            (1006, "    Neighbor address: 198.18.0.1"),
            (1006, "  Channel ipv4"),
            (1006, "    Routes:         2 imported, 1 filtered, 3 exported, 2 preferred"),
            (1006, "  Channel ipv6"),
            (1006, "    Routes:         1 imported, 1 exported, 1 preferred"),
            (1006, ""),
            (
                1002,
                "netpath_2001_db8__1 BGP        ---        start  23:35:53.722  Active        Socket: No route",
            ),
            (1006, "  BGP state:          Active"),
            (1006, "    Last error:       Socket: No route to host"),
            (1002, "netpath_off BGP        ---        down   23:35:53.722"),
            (0, ""),
        ];
        let answer: Vec<_> = lines.map(|(code, words)| (code, words.to_owned())).into();
        let told: Vec<_> = sessions(&answer)
            .into_iter()
            .map(|one| (one.name, one.state, one.imported, one.exported, one.error.unwrap_or_default()))
            .collect();
        let expected = [
            ("netpath_198_18_0_1", "Established", 3, 4, ""),
            ("netpath_2001_db8__1", "Active", 0, 0, "Socket: No route to host"),
            ("netpath_off", "down", 0, 0, ""),
        ];
        let expected: Vec<_> = expected
            .map(|(name, state, imported, exported, error)| {
                (name.to_owned(), state.to_owned(), imported, exported, error.to_owned())
            })
            .into();
        assert_eq!(told, expected);
    }
}
