//! Reading, by pages of one revision.

use std::ops::Deref;

use etcd_client::{Client, Error, GetOptions, GetResponse, KeyValue};
use tonic::Code;

use super::{EtcdStore, calls::told};
use crate::store::StoreError;

/// Keys of one answer: one of 4 MiB is the client's largest.
const PAGE: i64 = 1000;
/// How often a listing begins anew whose revision etcd has compacted in the middle of it.
const LISTINGS: usize = 5;

/// A value that was found. The same bytes written again are another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    value: Vec<u8>,
    /// In which it was written.
    pub(super) revision: i64,
    /// How often its key has been written since it was made.
    version: i64,
    /// What it goes with; 0 for none.
    lease: i64,
}

impl Found {
    pub(super) fn into_value(self) -> Vec<u8> {
        self.value
    }
}

impl Deref for Found {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.value
    }
}

impl From<&KeyValue> for Found {
    fn from(kv: &KeyValue) -> Self {
        let (revision, version, lease) = (kv.mod_revision(), kv.version(), kv.lease());
        Self { value: kv.value().to_vec(), revision, version, lease }
    }
}

/// All that is below a prefix, in order, and the revision that this is of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) all: Vec<(String, Found)>,
    pub(super) revision: i64,
}

/// One answer of a listing.
struct Page {
    listing: Listing,
    more: bool,
}

impl EtcdStore {
    /// The value of a key.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn find(&self, key: &str) -> Result<Option<Found>, StoreError> {
        let key = key.to_owned();
        let work = move |mut client: Client, _| {
            let key = key.clone();
            async move { Ok(client.get(key, None).await?.kvs().first().map(Found::from)) }
        };
        self.call("reading", work).await
    }

    /// All keys below a prefix, in order, with their values.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn find_all(&self, prefix: &str) -> Result<Vec<(String, Found)>, StoreError> {
        Ok(self.list_at(prefix).await?.all)
    }

    /// The same with the revision.
    pub(super) async fn list_at(&self, prefix: &str) -> Result<Listing, StoreError> {
        let end = end_of(prefix);
        let fetch = |from: Vec<u8>, revision| {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let work = move |mut client: Client, _| {
                let (from, options) = (from.clone(), options.clone());
                async move { unless_gone(client.get(from, Some(options)).await) }
            };
            async move {
                let answer = self.call("listing", work).await?;
                answer.map(|answer| self.page(&answer)).transpose()
            }
        };
        match list(prefix, fetch).await? {
            Some(listing) => Ok(listing),
            None => Err(self.failed("listing", "what was being read was compacted, every time")),
        }
    }

    fn page(&self, answer: &GetResponse) -> Result<Page, StoreError> {
        let revision = answer.header().map_or(0, |header| header.revision());
        let one = |kv: &KeyValue| Ok((kv.key_str()?.to_owned(), Found::from(kv)));
        let all: Result<_, Error> = answer.kvs().iter().map(one).collect();
        let all = all.map_err(|error| self.failed("listing", &told(&error)))?;
        Ok(Page { listing: Listing { all, revision }, more: answer.more() })
    }
}

/// The key behind all of a prefix.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.to_owned().into_bytes();
    // Prefixes are ASCII, so their last byte has a next one.
    end.last_mut().into_iter().for_each(|last| *last += 1);
    end
}

/// What was read; `None` if its revision is compacted, or not there yet.
pub(super) fn unless_gone<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        // An answer too large for the client has the same code.
        Err(Error::GRpcStatus(status))
            if status.code() == Code::OutOfRange && status.message().contains("required revision") =>
        {
            Ok(None)
        }
        answer => answer.map(Some),
    }
}

/// Puts pages of one revision together, which `fetch` gets by their first key and the revision; 0 stands for the newest, and
/// `None` for one that is gone. `None` if that happened all the time.
async fn list<F>(prefix: &str, fetch: impl Fn(Vec<u8>, i64) -> F) -> Result<Option<Listing>, StoreError>
where
    F: Future<Output = Result<Option<Page>, StoreError>>,
{
    for _ in 0..LISTINGS {
        let mut whole = Listing::default();
        let mut from = prefix.to_owned().into_bytes();
        while let Some(page) = fetch(from, whole.revision).await? {
            if whole.revision == 0 {
                whole.revision = page.listing.revision;
            }
            whole.all.extend(page.listing.all);
            match whole.all.last() {
                Some((last, _)) if page.more => from = [last.as_bytes(), &[0]].concat(),
                _ => return Ok(Some(whole)),
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn found(revision: i64) -> Found {
        Found { value: Vec::new(), revision, version: 1, lease: 0 }
    }

    /// Keys `a/0` to `a/3`, one a page; what is asked for, in order.
    async fn listed(gone: impl Fn(usize) -> bool) -> (Option<Listing>, Vec<(String, i64)>) {
        let asked = RefCell::new(Vec::new());
        let fetch = |from: Vec<u8>, revision: i64| {
            let from = String::from_utf8(from).unwrap();
            asked.borrow_mut().push((from.clone(), revision));
            let call = asked.borrow().len();
            let is_gone = gone(call);
            async move {
                let first = (0..4).find(|at| format!("a/{at}") >= from).unwrap();
                // Every call finds etcd one revision further.
                let listing =
                    Listing { all: vec![(format!("a/{first}"), found(7))], revision: 10 + call as i64 };
                Ok((!is_gone).then_some(Page { listing, more: first < 3 }))
            }
        };
        let whole = list("a/", fetch).await.unwrap();
        (whole, asked.into_inner())
    }

    #[tokio::test]
    async fn a_listing_is_of_one_revision_and_begins_anew_when_that_is_compacted() {
        let all: Vec<_> = (0..4).map(|at| (format!("a/{at}"), found(7))).collect();
        let (whole, asked) = listed(|_| false).await;
        assert_eq!(whole, Some(Listing { all: all.clone(), revision: 11 }));
        assert_eq!(asked.iter().map(|(_, revision)| *revision).collect::<Vec<_>>(), [0, 11, 11, 11]);
        let (whole, asked) = listed(|call| call == 3).await;
        assert_eq!(whole, Some(Listing { all, revision: 14 }), "none twice");
        assert_eq!(asked[3], ("a/".to_owned(), 0));
        let (whole, asked) = listed(|call| call % 2 == 0).await;
        assert_eq!((whole, asked.len()), (None, 2 * LISTINGS), "not for ever");
    }
}
