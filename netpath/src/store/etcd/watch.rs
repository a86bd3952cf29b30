//! What changes below a prefix. A watch that breaks goes on at the last revision it has seen, if that is still in etcd's
//! history; else all is read again.

use etcd_client::{Client, Error, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tonic::Code;

use super::{
    EtcdStore, Found,
    calls::told,
    read::{Listing, end_of, unless_gone},
};
use crate::store::StoreError;

/// Something that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This is all that there is: at first, and after a gap.
    All(Vec<(String, Vec<u8>)>),
    /// A key has another value.
    Put(String, Vec<u8>),
    /// A key is gone.
    Deleted(String),
}

/// The last revision of which something was seen, and the keys below the prefix that it changed, with what they are.
///
/// It tells whether etcd is still the one that was listened to. One that was restored from a backup counts its revisions on
/// from there, so a number says nothing once it has caught up, and neither do the cluster's id, which restored members may
/// share, and the term. But hardly a key has the same value in another history, by the same lease, written as often, and in this
/// very revision; or is removed by it.
#[derive(Clone, Debug)]
struct Seen {
    revision: i64,
    changed: Vec<(String, Option<Found>)>,
}

/// What is below a prefix, now and from now on.
pub struct Watch {
    store: EtcdStore,
    prefix: String,
    /// Revision to begin at; absent if all has to be read.
    start: Option<i64>,
    /// Absent if there is nothing that could be found again.
    seen: Option<Seen>,
    stream: Option<WatchStream>,
}

impl Watch {
    pub(super) fn new(store: EtcdStore, prefix: &str) -> Self {
        Self { store, prefix: prefix.to_owned(), start: None, seen: None, stream: None }
    }

    /// Waits for the next changes, in order; none if the watch only goes on again. Nothing is lost if it is no longer waited
    /// for.
    ///
    /// # Errors
    /// If no endpoint answers, or why the watch ended. Calling it again tries again, at the next endpoint, and loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let Some(start) = self.start else {
                let listing = self.store.list_at(&self.prefix).await?;
                (self.start, self.seen) = (Some(listing.revision + 1), self.newest(&listing).await?);
                let all = listing.all.into_iter().map(|(key, found)| (key, found.into_value()));
                return Ok(vec![Change::All(all.collect())]);
            };
            let Some(stream) = &mut self.stream else {
                match self.open(start).await {
                    Ok(Some(stream)) => self.stream = Some(stream),
                    Ok(None) => self.start = None,
                    Err(error) => {
                        self.cut();
                        return Err(error);
                    }
                }
                continue;
            };
            let reason = match stream.message().await {
                Ok(Some(answer)) if is_gap(&answer, start) => {
                    (self.start, self.stream) = (None, None);
                    continue;
                }
                Ok(Some(answer)) if !answer.canceled() => {
                    let changes = self.take(&answer);
                    if answer.created() || !changes.is_empty() {
                        return Ok(changes);
                    }
                    continue;
                }
                Ok(Some(answer)) => answer.cancel_reason().to_owned(),
                Ok(None) => "the endpoint ended it".to_owned(),
                Err(error) => {
                    // An answer that is too large for the client would only come again.
                    if matches!(&error, Error::GRpcStatus(status) if status.code() == Code::OutOfRange) {
                        self.seen = None;
                    }
                    told(&error)
                }
            };
            self.cut();
            let at = self.store.0.current.lock().await.at;
            self.store.turn_away(at).await;
            return Err(self.store.failed("watching", &reason));
        }
    }

    /// The next stream begins with the last revision that was seen: there may be more of it, since etcd parts long answers
    /// (fragments) without regard to revisions.
    fn cut(&mut self) {
        self.stream = None;
        self.start = self.seen.as_ref().map(|seen| seen.revision);
    }

    /// Opens a stream, unless etcd's history is another one by now.
    async fn open(&self, start: i64) -> Result<Option<WatchStream>, StoreError> {
        let (prefix, seen) = (self.prefix.clone(), self.seen.clone());
        let options = WatchOptions::new().with_prefix().with_start_revision(start).with_fragment();
        // Both of one connection: etcd is not restored without ending it.
        let work = move |mut client: Client, _| {
            let (prefix, options, seen) = (prefix.clone(), options.clone(), seen.clone());
            async move {
                match seen {
                    Some(seen) if !seen.is_there(&mut client).await? => Ok(None),
                    _ => client.watch(prefix, Some(options)).await.map(Some),
                }
            }
        };
        self.store.call("watching", work).await
    }

    /// What a listing shows of the last change before it: nothing if that removed something.
    async fn newest(&self, listing: &Listing) -> Result<Option<Seen>, StoreError> {
        let revision = listing.all.iter().map(|(_, found)| found.revision).max();
        let Some(revision) = revision else { return Ok(None) };
        let there = if revision == listing.revision {
            Some(listing.all.len() as i64)
        } else {
            let prefix = self.prefix.clone();
            let options =
                GetOptions::new().with_range(end_of(&prefix)).with_revision(revision).with_count_only();
            let work = move |mut client: Client, _| {
                let (prefix, options) = (prefix.clone(), options.clone());
                async move { unless_gone(client.get(prefix, Some(options)).await) }
            };
            self.store.call("counting", work).await?.map(|answer| answer.count())
        };
        let of_it = listing.all.iter().filter(|(_, found)| found.revision == revision);
        let changed = of_it.map(|(key, found)| (key.clone(), Some(found.clone()))).collect();
        // As many as there were then: none was removed since.
        Ok((there == Some(listing.all.len() as i64)).then_some(Seen { revision, changed }))
    }

    fn take(&mut self, answer: &WatchResponse) -> Vec<Change> {
        let mut changes = Vec::new();
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            let found = (event.event_type() == EventType::Put).then(|| Found::from(kv));
            // Not the header's revision: members have told of one before its events.
            if !Seen::note(&mut self.seen, kv.mod_revision(), &key, found.as_ref()) {
                continue;
            }
            changes.push(match found {
                Some(found) => Change::Put(key, found.into_value()),
                None => Change::Deleted(key),
            });
        }
        changes
    }
}

impl Seen {
    /// Adds a change. False if it was seen before.
    fn note(seen: &mut Option<Self>, revision: i64, key: &str, found: Option<&Found>) -> bool {
        let change = || (key.to_owned(), found.cloned());
        match seen {
            Some(seen) if revision < seen.revision => return false,
            Some(seen) if revision == seen.revision => {
                if seen.changed.iter().any(|(other, _)| other == key) {
                    return false;
                }
                seen.changed.push(change());
            }
            _ => *seen = Some(Self { revision, changed: vec![change()] }),
        }
        true
    }

    /// Whether it is in etcd's history. Not if that is compacted.
    async fn is_there(&self, client: &mut Client) -> Result<bool, Error> {
        let Some((key, found)) = self.changed.last() else { return Ok(false) };
        let mut at = async |revision: i64| {
            let options = GetOptions::new().with_revision(revision);
            let answer = unless_gone(client.get(key.as_str(), Some(options)).await)?;
            Ok::<_, Error>(answer.map(|answer| answer.kvs().first().map(Found::from)))
        };
        let now = at(self.revision).await?;
        Ok(match found {
            Some(_) => now.is_some_and(|now| now == *found),
            None => now == Some(None) && matches!(at(self.revision - 1).await?, Some(Some(_))),
        })
    }
}

/// Whether what is between the last revision seen and the next is not to be had: etcd has compacted it, or was put back to an
/// earlier state. A member that only lags behind looks like the latter, and costs a listing.
fn is_gap(answer: &WatchResponse, start: i64) -> bool {
    let now = answer.header().map_or(start, |header| header.revision());
    answer.compact_revision() > 0 || answer.created() && !answer.canceled() && now < start - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EtcdAccess;

    #[test]
    fn a_stream_that_breaks_in_the_middle_of_a_revision_goes_on_there_and_tells_nothing_twice() {
        let store =
            EtcdStore::new(&EtcdAccess { endpoints: vec!["http://none".into()], ..EtcdAccess::default() });
        let mut watch = store.unwrap().watch("/w/");
        watch.cut();
        assert_eq!(watch.start, None, "nothing that could be found again");
        let mut told = |revision, key| Seen::note(&mut watch.seen, revision, key, None);
        assert!(told(6, "/w/a") && told(7, "/w/a") && told(7, "/w/b"));
        watch.cut();
        assert_eq!(watch.start, Some(7));
        let mut told = |revision, key| Seen::note(&mut watch.seen, revision, key, None);
        assert!(!told(7, "/w/a") && !told(7, "/w/b"), "seen");
        assert!(told(7, "/w/c") && told(8, "/w/a"), "not yet");
    }
}
