//! A store in etcd, for all nodes of a cluster.
//!
//! The client asks one endpoint and leaves the rest to us: every call goes round the endpoints until one has answered, with
//! growing pauses. An answer that was lost may have been a yes, so a write that is tried again takes what it finds for done
//! if it is what was to be written: values that must have one writer hold who wrote them.

mod access;
mod watch;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::{sync::Mutex, time::timeout};
use tonic::Code;

pub use self::watch::{Change, Watch};
use super::{Answer, Store, StoreError};
use crate::model::EtcdAccess;

/// How long a call goes round the endpoints. A new leader is there after about two seconds, with a member that does not answer
/// in between.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one endpoint has for an answer, of one page if there are several.
const ANSWER: Duration = Duration::from_secs(3);
/// The first pause after a round, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Keys of one answer: one of 4 MiB is the client's largest.
const PAGE: i64 = 1000;

/// A store in etcd.
#[derive(Clone)]
pub struct EtcdStore(Arc<Inner>);

struct Inner {
    endpoints: Vec<String>,
    options: ConnectOptions,
    current: Mutex<Current>,
}

/// The endpoint that is asked.
#[derive(Default)]
struct Current {
    at: usize,
    client: Option<Client>,
}

/// What has to hold for a [`commit`](EtcdStore::commit).
#[derive(Clone, Debug)]
pub enum Check {
    /// The key has no value.
    Absent(String),
    /// The key has this value.
    Is(String, Vec<u8>),
}

/// What a [`commit`](EtcdStore::commit) does.
#[derive(Clone, Debug)]
pub enum Write {
    /// Sets a value, which goes with a lease if one is named.
    Put(String, Vec<u8>, Option<i64>),
    /// Removes a key.
    Delete(String),
}

impl EtcdStore {
    /// A store by how it is reached. Nothing is asked yet. Blocks to read certificates and the password.
    ///
    /// # Errors
    /// A file that cannot be read, or a secret that others can read.
    pub fn new(access: &EtcdAccess) -> Result<Self, StoreError> {
        let options = access::options(access)?;
        Ok(Self(Arc::new(Inner { endpoints: access.endpoints.clone(), options, current: Mutex::default() })))
    }

    /// Does all writes at once if all checks hold. Returns whether they did.
    ///
    /// # Errors
    /// If no endpoint answered, or etcd refused; it may be done then all the same.
    pub async fn commit(&self, checks: Vec<Check>, writes: Vec<Write>) -> Result<bool, StoreError> {
        let compares: Vec<_> = checks.into_iter().map(compare).collect();
        let found: Vec<_> = writes.iter().map(|write| TxnOp::get(write.key(), None)).collect();
        let ops: Vec<_> = writes.iter().cloned().map(Write::op).collect();
        let txn = Txn::new().when(compares).and_then(ops).or_else(found);
        let work = move |mut client: Client, again: bool| {
            let (txn, writes) = (txn.clone(), writes.clone());
            async move {
                let answer = client.txn(txn).await?;
                Ok(answer.succeeded() || again && are_done(&writes, answer.op_responses()))
            }
        };
        self.call("writing", work).await
    }

    /// A new lease: what is put with it goes when it has not been kept alive for so long.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn grant(&self, ttl: Duration) -> Result<i64, StoreError> {
        let seconds = ttl.as_secs() as i64;
        let work =
            move |mut client: Client, _| async move { Ok(client.lease_grant(seconds, None).await?.id()) };
        self.call("making a lease", work).await
    }

    /// Keeps a lease for another while. False if it is gone.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn keep_alive(&self, lease: i64) -> Result<bool, StoreError> {
        let work = move |mut client: Client, _| async move {
            match client.lease_keep_alive(lease).await {
                Ok(_) => Ok(true),
                Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.call("renewing a lease", work).await
    }

    /// What is below a prefix, now and from now on.
    pub fn watch(&self, prefix: &str) -> Watch {
        Watch::new(self.clone(), prefix)
    }

    /// All keys below a prefix with their values, and the revision that they are of.
    async fn list_at(&self, prefix: &str) -> Result<(Vec<(String, Vec<u8>)>, i64), StoreError> {
        let mut end = prefix.to_owned().into_bytes();
        // Prefixes are ASCII, so their last byte has a next one.
        end.last_mut().into_iter().for_each(|last| *last += 1);
        let (mut all, mut from, mut revision) = (Vec::new(), prefix.to_owned().into_bytes(), 0);
        loop {
            // All pages of one revision.
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let work = move |mut client: Client, _| {
                let (from, options) = (from.clone(), options.clone());
                async move { client.get(from, Some(options)).await }
            };
            let answer = self.call("listing", work).await?;
            if revision == 0 {
                revision = answer.header().map_or(0, |header| header.revision());
            }
            for kv in answer.kvs() {
                let key = kv.key_str().map_err(|error| self.failed("listing", &told(&error)))?;
                all.push((key.to_owned(), kv.value().to_vec()));
            }
            match all.last() {
                Some((last, _)) if answer.more() => from = [last.as_bytes(), &[0]].concat(),
                _ => return Ok((all, revision)),
            }
        }
    }

    /// Goes round the endpoints with some work, which is told whether it may be done already.
    async fn call<T, F, W>(&self, doing: &str, work: W) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
        W: Fn(Client, bool) -> F,
    {
        let (begun, mut pause, mut tried) = (Instant::now(), PAUSE.0, 0);
        loop {
            let (at, outcome) = self.attempt(&work, tried > 0).await;
            let reason = match outcome {
                Ok(done) => return Ok(done),
                Err(Some(error)) if is_final(&error) => return Err(self.failed(doing, &told(&error))),
                Err(Some(error)) => told(&error),
                Err(None) => format!("no answer within {} s", ANSWER.as_secs()),
            };
            tracing::debug!(endpoint = self.0.endpoints[at], "{doing}: {reason}");
            self.turn_away(at).await;
            tried += 1;
            if begun.elapsed() + pause > PATIENCE {
                return Err(self.failed(
                    doing,
                    &format!("no endpoint does it; {} says: {reason}", self.0.endpoints[at]),
                ));
            }
            if tried % self.0.endpoints.len() == 0 {
                tokio::time::sleep(spread(pause)).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }

    /// Asks the current endpoint, by its number; `None` stands for no answer.
    async fn attempt<T, F: Future<Output = Result<T, Error>>>(
        &self,
        work: impl Fn(Client, bool) -> F,
        again: bool,
    ) -> (usize, Result<T, Option<Error>>) {
        let (at, known) = {
            let current = self.0.current.lock().await;
            (current.at, current.client.clone())
        };
        let asked = async {
            let client = match known {
                Some(client) => client,
                None => {
                    // Asks for a token if there is a user.
                    let client =
                        Client::connect([&self.0.endpoints[at]], Some(self.0.options.clone())).await?;
                    let mut current = self.0.current.lock().await;
                    if current.at == at {
                        current.client = Some(client.clone());
                    }
                    client
                }
            };
            work(client, again).await
        };
        (at, timeout(ANSWER, asked).await.map_or(Err(None), |outcome| outcome.map_err(Some)))
    }

    /// Leaves an endpoint for the next one, unless somebody has done so.
    async fn turn_away(&self, at: usize) {
        let mut current = self.0.current.lock().await;
        if current.at == at {
            *current = Current { at: (at + 1) % self.0.endpoints.len(), client: None };
        }
    }

    fn failed(&self, doing: &str, reason: &str) -> StoreError {
        StoreError::Failed { doing: format!("{doing} in {}", self.describe()), reason: reason.to_owned() }
    }
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put(key, ..) | Self::Delete(key) => key,
        }
    }

    fn op(self) -> TxnOp {
        match self {
            Self::Put(key, value, lease) => {
                TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease)))
            }
            Self::Delete(key) => TxnOp::delete(key, None),
        }
    }
}

fn compare(check: Check) -> Compare {
    match check {
        Check::Absent(key) => Compare::version(key, CompareOp::Equal, 0),
        Check::Is(key, value) => Compare::value(key, CompareOp::Equal, value),
    }
}

/// Whether what is found is what was to be written.
fn are_done(writes: &[Write], found: Vec<TxnOpResponse>) -> bool {
    writes.iter().zip(found).all(|(write, found)| match (write, found) {
        (Write::Put(_, value, _), TxnOpResponse::Get(got)) => {
            got.kvs().first().is_some_and(|kv| kv.value() == value)
        }
        (Write::Delete(_), TxnOpResponse::Get(got)) => got.kvs().is_empty(),
        _ => false,
    })
}

/// Half of a pause to all of it, by chance: nodes that lost the same member do not come back together.
fn spread(pause: Duration) -> Duration {
    // Every one has keys of its own, which are random.
    let chance = RandomState::new().hash_one(()) as u16;
    pause / 2 + pause / 2 * u32::from(chance) / u32::from(u16::MAX)
}

/// Whether another endpoint would say the same.
fn is_final(error: &Error) -> bool {
    const FINAL: [Code; 6] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Unimplemented,
    ];
    match error {
        Error::GRpcStatus(status) => FINAL.contains(&status.code()),
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::Utf8Error(_) => true,
        _ => false,
    }
}

/// What went wrong, without the headers that a status prints.
fn told(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) if status.message().is_empty() => status.code().to_string(),
        Error::GRpcStatus(status) => status.message().to_owned(),
        error => error.to_string(),
    }
}

impl Store for EtcdStore {
    fn get(&self, key: &str) -> Answer<'_, Option<Vec<u8>>> {
        let key = key.to_owned();
        let work = move |mut client: Client, _| {
            let key = key.clone();
            async move { Ok(client.get(key, None).await?.kvs().first().map(|kv| kv.value().to_vec())) }
        };
        Box::pin(self.call("reading", work))
    }

    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let prefix = prefix.to_owned();
        Box::pin(async move { Ok(self.list_at(&prefix).await?.0) })
    }

    fn put(&self, key: &str, value: Vec<u8>) -> Answer<'_, ()> {
        let write = Write::Put(key.to_owned(), value, None);
        Box::pin(async move { self.commit(Vec::new(), vec![write]).await.map(drop) })
    }

    fn compare_and_swap(&self, key: &str, expected: Option<Vec<u8>>, value: Vec<u8>) -> Answer<'_, bool> {
        let key = key.to_owned();
        let check = match expected {
            Some(expected) => Check::Is(key.clone(), expected),
            None => Check::Absent(key.clone()),
        };
        Box::pin(self.commit(vec![check], vec![Write::Put(key, value, None)]))
    }

    fn delete(&self, key: &str) -> Answer<'_, ()> {
        let write = Write::Delete(key.to_owned());
        Box::pin(async move { self.commit(Vec::new(), vec![write]).await.map(drop) })
    }

    fn describe(&self) -> String {
        format!("etcd {}", self.0.endpoints.join(","))
    }
}
