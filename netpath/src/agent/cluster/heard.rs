//! How long a node may go on giving its addresses to pods while its cluster does not hear of it: the others release the blocks of who is lost
//! for long, and it cannot know that they have.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::Membership;
use crate::{
    agent::{Agent, AgentError, lock},
    store::cluster::LEASE,
};

/// When the cluster last heard of the node. Kept over restarts of the agent, and worth nothing after one of the machine: nobody
/// knows how long that was off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::agent) struct Heard {
    /// In which run of the kernel.
    boot: String,
    /// Seconds of CLOCK_BOOTTIME: the one that suspending does not stop, and nobody sets.
    at: u64,
    /// What the node has told the others: how long it may be lost, seconds.
    release_after: u64,
}

impl Heard {
    /// At a moment of this run of the kernel.
    pub(super) fn new(boot: &str, at: u64, release_after: u64) -> Self {
        Self { boot: boot.to_owned(), at, release_after }
    }

    /// The same, if others wait no longer than this.
    pub(super) fn within(self, release_after: u64) -> Self {
        Self { release_after, ..self }
    }

    /// Whether nobody can have released the node's blocks by `now`. A lost node is one whose lease has run out before.
    pub(super) fn holds(&self, boot: &str, now: u64) -> bool {
        self.boot == boot && now.saturating_sub(self.at) < self.release_after.saturating_add(LEASE.as_secs())
    }

    /// How long the node may be lost, seconds.
    pub(super) fn release_after(&self) -> u64 {
        self.release_after
    }

    /// Whether this is to be written down in place of what was: not every sign of life, as each is one of the disk.
    pub(super) fn is_news(&self, written: Option<&Self>) -> bool {
        written.is_none_or(|written| {
            self.boot != written.boot
                || self.release_after != written.release_after
                || self.at.saturating_sub(written.at) >= self.release_after / 8
        })
    }
}

impl Membership {
    /// Whether nobody can have the node's blocks by now, as the cluster would have to have lost it before.
    pub(super) fn is_heard(&self) -> bool {
        lock(&self.heard).as_ref().is_some_and(|heard| heard.holds(&self.boot, now()))
    }
}

impl Agent {
    /// Writes down, now and then, that the cluster has heard of the node.
    pub(super) async fn set_heard(&self, member: &Membership, now: Heard) -> Result<(), AgentError> {
        let is_news = now.is_news(lock(&member.identity).heard.as_ref());
        *lock(&member.heard) = Some(now.clone());
        if is_news {
            self.change_identity(member, |identity| identity.heard = Some(now)).await
        } else {
            Ok(())
        }
    }

    /// Counts on no more than what others are about to be told: whether they were may never be known.
    pub(super) async fn shorten(&self, member: &Membership, release_after: u64) {
        let heard = lock(&member.heard).clone();
        if let Some(heard) = heard.filter(|heard| heard.release_after() > release_after) {
            self.note("state of the cluster", &self.set_heard(member, heard.within(release_after)).await);
        }
    }
}

/// Seconds of CLOCK_BOOTTIME.
pub(super) fn now() -> u64 {
    // Fails for an unknown clock only; 0 makes what was heard in this run hold on, and nothing of an earlier one.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.tv_sec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_until_others_may_have_released_the_blocks() {
        let heard = Heard::new("one", 1000, 600);
        assert!(heard.holds("one", 1000) && heard.holds("one", 1629));
        assert!(!heard.holds("one", 1630), "30 s until its lease ends, and 600 more");
        assert!(!heard.holds("two", 1001), "after a reboot");
        assert!(Heard::new("one", 1000, u64::MAX).holds("one", u64::MAX - 1), "never released");
    }

    #[test]
    fn it_is_written_down_now_and_then() {
        let written = Heard::new("one", 1000, 600);
        for (heard, news) in [
            (Heard::new("one", 1074, 600), false),
            (Heard::new("one", 1075, 600), true),
            (Heard::new("one", 1001, 300), true),
            (Heard::new("two", 1001, 600), true),
        ] {
            assert_eq!(heard.is_news(Some(&written)), news, "{heard:?}");
        }
        assert!(written.is_news(None));
    }

    #[test]
    fn the_clock_goes() {
        assert!(now() > 0);
    }
}
