//! What changes below a prefix. A watch that breaks goes on behind the last revision it has seen; what etcd has compacted by
//! then is read again as a whole.

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};

use super::{EtcdStore, told};
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

/// What is below a prefix, now and from now on.
pub struct Watch {
    store: EtcdStore,
    prefix: String,
    /// First revision that has not been seen; absent if all has to be read.
    next: Option<i64>,
    stream: Option<WatchStream>,
}

impl Watch {
    pub(super) fn new(store: EtcdStore, prefix: &str) -> Self {
        Self { store, prefix: prefix.to_owned(), next: None, stream: None }
    }

    /// Waits for the next changes, in order; none if the watch only goes on again. Nothing is lost if it is no longer waited
    /// for.
    ///
    /// # Errors
    /// If no endpoint answers, or why the watch ended. Calling it again tries again, at the next endpoint, and loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let Some(next) = self.next else {
                let (all, revision) = self.store.list_at(&self.prefix).await?;
                self.next = Some(revision + 1);
                return Ok(vec![Change::All(all)]);
            };
            if self.stream.is_none() {
                let prefix = self.prefix.clone();
                let options = WatchOptions::new().with_prefix().with_start_revision(next);
                let work = move |mut client: Client, _| {
                    let (prefix, options) = (prefix.clone(), options.clone());
                    async move { client.watch(prefix, Some(options)).await }
                };
                self.stream = Some(self.store.call("watching", work).await?);
            }
            let Some(stream) = &mut self.stream else { continue };
            let reason = match stream.message().await {
                Ok(Some(answer)) if is_gap(&answer, next) => {
                    (self.next, self.stream) = (None, None);
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
                Err(error) => told(&error),
            };
            self.stream = None;
            let at = self.store.0.current.lock().await.at;
            self.store.turn_away(at).await;
            return Err(self.store.failed("watching", &reason));
        }
    }

    fn take(&mut self, answer: &WatchResponse) -> Vec<Change> {
        let kvs = || answer.events().iter().filter_map(|event| Some((event.event_type(), event.kv()?)));
        // Not the header's: members have told of a revision before its events.
        let seen = kvs().map(|(_, kv)| kv.mod_revision()).max();
        self.next = self.next.max(seen.map(|seen| seen + 1));
        let change = |(kind, kv): (EventType, &etcd_client::KeyValue)| {
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            match kind {
                EventType::Put => Change::Put(key, kv.value().to_vec()),
                EventType::Delete => Change::Deleted(key),
            }
        };
        kvs().map(change).collect()
    }
}

/// Whether what is between the last revision seen and the next is not to be had: etcd has compacted it, or was put back to an
/// earlier state. A member that only lags behind looks like the latter, and costs a listing.
fn is_gap(answer: &WatchResponse, next: i64) -> bool {
    let now = answer.header().map_or(next, |header| header.revision());
    answer.compact_revision() > 0 || answer.created() && !answer.canceled() && now < next - 1
}
