//! Calls: which endpoint is asked, for how long, and what its answer means for the next one.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use etcd_client::{Client, Error};
use tokio::{task::spawn_blocking, time::timeout};
use tonic::Code;

use super::{EtcdStore, access};
use crate::store::StoreError;

/// How long a call goes round the endpoints. A new leader is there after about two seconds, with a member that does not answer
/// in between.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one endpoint has for an answer, of one page if there are several.
const ANSWER: Duration = Duration::from_secs(3);
/// The first pause after a round, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The endpoint that is asked.
#[derive(Default)]
pub(super) struct Current {
    pub(super) at: usize,
    client: Option<Client>,
}

/// Why an attempt came to nothing.
enum Failure {
    /// No answer.
    Silence,
    /// What the client says, or etcd.
    Etcd(Error),
    /// What a connection needs of files.
    Files(StoreError),
}

impl EtcdStore {
    /// Goes round the endpoints with some work, which is told whether it may be done already.
    pub(super) async fn call<T, F, W>(&self, doing: &str, work: W) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
        W: Fn(Client, bool) -> F,
    {
        let (begun, mut pause, mut tried) = (Instant::now(), PAUSE.0, 0);
        loop {
            let (at, fresh, outcome) = self.attempt(&work, tried > 0).await;
            let reason = match outcome {
                Ok(done) => return Ok(done),
                Err(Failure::Files(error)) => return Err(error),
                // Over a connection of before, it may be said of a password that has changed since.
                Err(Failure::Etcd(error)) if is_final(&error) && (fresh || !is_of_user(&error)) => {
                    return Err(self.failed(doing, &told(&error)));
                }
                Err(Failure::Etcd(error)) => told(&error),
                Err(Failure::Silence) => format!("no answer within {} s", ANSWER.as_secs()),
            };
            tracing::debug!(endpoint = self.0.access.endpoints[at], "{doing}: {reason}");
            self.turn_away(at).await;
            tried += 1;
            if begun.elapsed() + pause > PATIENCE {
                return Err(self.failed(
                    doing,
                    &format!("no endpoint does it; {} says: {reason}", self.0.access.endpoints[at]),
                ));
            }
            if tried % self.0.access.endpoints.len() == 0 {
                tokio::time::sleep(spread(pause)).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    /// Asks the current endpoint. Returns its number, and whether the connection is a new one.
    async fn attempt<T, F: Future<Output = Result<T, Error>>>(
        &self,
        work: impl Fn(Client, bool) -> F,
        again: bool,
    ) -> (usize, bool, Result<T, Failure>) {
        let (at, known) = {
            let current = self.0.current.lock().await;
            (current.at, current.client.clone())
        };
        let fresh = known.is_none();
        let asked = async {
            let client = match known {
                Some(client) => client,
                None => self.connect(at).await?,
            };
            work(client, again).await.map_err(Failure::Etcd)
        };
        (at, fresh, timeout(ANSWER, asked).await.unwrap_or(Err(Failure::Silence)))
    }

    /// Connects to an endpoint, with what is in the files of certificates and the password now: these may live for hours only.
    async fn connect(&self, at: usize) -> Result<Client, Failure> {
        let store = self.clone();
        let options = spawn_blocking(move || access::options(&store.0.access)).await;
        let options = options.map_err(|error| Failure::Files(self.failed("asking", &error.to_string())))?;
        let options = Some(options.map_err(Failure::Files)?);
        // Asks for a token if there is a user.
        let endpoint = &self.0.access.endpoints[at];
        let client = Client::connect([endpoint], options).await.map_err(Failure::Etcd)?;
        let mut current = self.0.current.lock().await;
        if current.at == at {
            current.client = Some(client.clone());
        }
        Ok(client)
    }

    /// Leaves an endpoint for the next one, unless somebody has done so.
    pub(super) async fn turn_away(&self, at: usize) {
        let mut current = self.0.current.lock().await;
        if current.at == at {
            *current = Current { at: (at + 1) % self.0.access.endpoints.len(), client: None };
        }
    }
}

/// Half of a pause to all of it, by chance: nodes that lost the same member do not come back together.
fn spread(pause: Duration) -> Duration {
    // Every one has keys of its own, which are random.
    let chance = RandomState::new().hash_one(()) as u16;
    pause / 2 + pause / 2 * u32::from(chance) / u32::from(u16::MAX)
}

/// Whether another endpoint would say the same.
fn is_final(error: &Error) -> bool {
    const FINAL: [Code; 7] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::OutOfRange,
        Code::Unimplemented,
    ];
    match error {
        Error::GRpcStatus(status) => FINAL.contains(&status.code()),
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::Utf8Error(_) => true,
        _ => false,
    }
}

/// Whether etcd says so of the user.
fn is_of_user(error: &Error) -> bool {
    const OF_USER: [Code; 3] = [Code::InvalidArgument, Code::PermissionDenied, Code::FailedPrecondition];
    matches!(error, Error::GRpcStatus(status) if OF_USER.contains(&status.code()))
}

/// What went wrong, without the headers that a status prints.
pub(super) fn told(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) if status.message().is_empty() => status.code().to_string(),
        Error::GRpcStatus(status) => status.message().to_owned(),
        error => error.to_string(),
    }
}
