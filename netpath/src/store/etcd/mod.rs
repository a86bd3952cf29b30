//! A store in etcd, for all nodes of a cluster.
//!
//! The client asks one endpoint and leaves the rest to us: every call goes round the endpoints until one has answered, with
//! growing pauses. An answer that was lost may have been a yes, so a write that is tried again takes what it finds for done
//! if it is what was to be written: values that must have one writer hold who wrote them. It may also be done long after
//! nobody waits for it any more, so it has to find what was read before, and not only the same bytes.

mod access;
mod calls;
mod read;
mod watch;

use std::{sync::Arc, time::Duration};

use etcd_client::{Client, Compare, CompareOp, Error, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::sync::Mutex;

use self::calls::Current;
pub use self::{
    read::Found,
    watch::{Change, Watch},
};
use super::{Answer, Store, StoreError};
use crate::model::EtcdAccess;

/// A store in etcd.
#[derive(Clone)]
pub struct EtcdStore(Arc<Inner>);

struct Inner {
    access: EtcdAccess,
    current: Mutex<Current>,
}

/// What has to hold for a [`commit`](EtcdStore::commit).
#[derive(Clone, Debug)]
pub enum Check {
    /// The key has no value.
    Absent(String),
    /// The key has the value that was found, and nobody has written it again.
    Is(String, Found),
    /// The key has this value, whoever has written it when.
    Holds(String, Vec<u8>),
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
        // Every connection reads them again; what is wrong from the beginning is told at the beginning.
        access::options(access)?;
        Ok(Self(Arc::new(Inner { access: access.clone(), current: Mutex::default() })))
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
        Check::Is(key, found) => Compare::mod_revision(key, CompareOp::Equal, found.revision),
        Check::Holds(key, value) => Compare::value(key, CompareOp::Equal, value),
    }
}

/// Whether what is found is what was to be written.
fn are_done(writes: &[Write], found: Vec<TxnOpResponse>) -> bool {
    writes.iter().zip(found).all(|(write, found)| match (write, found) {
        (Write::Put(_, value, lease), TxnOpResponse::Get(got)) => {
            got.kvs().first().is_some_and(|kv| kv.value() == value && kv.lease() == lease.unwrap_or_default())
        }
        (Write::Delete(_), TxnOpResponse::Get(got)) => got.kvs().is_empty(),
        _ => false,
    })
}

impl Store for EtcdStore {
    fn get(&self, key: &str) -> Answer<'_, Option<Vec<u8>>> {
        let key = key.to_owned();
        Box::pin(async move { Ok(self.find(&key).await?.map(Found::into_value)) })
    }

    fn list(&self, prefix: &str) -> Answer<'_, Vec<(String, Vec<u8>)>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            let all = self.find_all(&prefix).await?;
            Ok(all.into_iter().map(|(key, found)| (key, found.into_value())).collect())
        })
    }

    fn put(&self, key: &str, value: Vec<u8>) -> Answer<'_, ()> {
        let write = Write::Put(key.to_owned(), value, None);
        Box::pin(async move { self.commit(Vec::new(), vec![write]).await.map(drop) })
    }

    fn compare_and_swap(&self, key: &str, expected: Option<Vec<u8>>, value: Vec<u8>) -> Answer<'_, bool> {
        let key = key.to_owned();
        let check = match expected {
            Some(expected) => Check::Holds(key.clone(), expected),
            None => Check::Absent(key.clone()),
        };
        Box::pin(self.commit(vec![check], vec![Write::Put(key, value, None)]))
    }

    fn delete(&self, key: &str) -> Answer<'_, ()> {
        let write = Write::Delete(key.to_owned());
        Box::pin(async move { self.commit(Vec::new(), vec![write]).await.map(drop) })
    }

    fn describe(&self) -> String {
        format!("etcd {}", self.0.access.endpoints.join(","))
    }
}
