//! Fetches of consumers with a rack (KIP-392): when the leader sends one to a broker nearby, and what that one waits for.
//!
//! The leader names a broker for offsets between log start and high watermark only; the others are its own to judge. Who
//! comes back soon was not served there, and is not sent away again for a while: whatever is wrong with a follower,
//! consumers get their records.

use super::ConnectionContext;
use crate::actors::follower::{Followers, Look, Reading};
use crate::actors::partition::view::PartitionView;
use crate::ids::{BrokerId, Offset, PartitionKey};
use crate::metadata::image::ClusterImage;
use crate::metadata::read_replicas::ReadReplicas;
use crate::protocol::error_code::ErrorCode;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Who comes back within this time is served by the leader, ms.
const RETURN_MS_MAX: i64 = 5_000;
/// Partitions that a connection's client can have been sent away for.
const SENT_AWAY_MAX: usize = 10_000;
/// How long a follower lets a fetch wait until it knows where the partition ends.
pub(super) const SETTLE_WAIT: Duration = Duration::from_secs(2);

/// Partitions that the client of a connection was sent elsewhere for, and when.
#[derive(Debug, Default)]
pub struct SentAway {
    at_ms: HashMap<PartitionKey, i64>,
}

impl SentAway {
    /// True if the client may be sent elsewhere, which is then remembered. Time is any clock in ms.
    pub fn may_go(&mut self, key: PartitionKey, now_ms: i64) -> bool {
        let is_back = |at_ms: i64| now_ms - at_ms < RETURN_MS_MAX;
        if self.at_ms.get(&key).is_some_and(|at_ms| is_back(*at_ms)) {
            return false;
        }
        if self.at_ms.len() >= SENT_AWAY_MAX {
            self.at_ms.retain(|_, at_ms| is_back(*at_ms));
            if self.at_ms.len() >= SENT_AWAY_MAX {
                return false;
            }
        }
        self.at_ms.insert(key, now_ms);
        true
    }
}

/// Where the consumer of a fetch may be sent.
#[derive(Debug)]
pub(super) struct Elsewhere {
    rack: String,
    replicas: ReadReplicas,
}

impl Elsewhere {
    /// `None` for a consumer without a rack, and while this broker may not be the leader any more.
    pub fn of(ctx: &ConnectionContext, image: &ClusterImage, rack: &str) -> Option<Self> {
        let may_send = !rack.is_empty() && !ctx.broker.standing.is_doubted();
        may_send.then(|| Self { rack: rack.to_owned(), replicas: ReadReplicas::of(image) })
    }

    /// The broker that should serve a partition which this one leads, if that is another.
    pub fn node(&self, ctx: &ConnectionContext, key: &PartitionKey) -> Option<BrokerId> {
        let node = self.replicas.preferred(key, ctx.broker.node, &self.rack)?;
        let may_go = ctx.sent_away.borrow_mut().may_go(*key, ctx.broker.clock.monotonic_ms());
        may_go.then(|| {
            ctx.broker.sent_away.fetch_add(1, Ordering::Relaxed);
            node
        })
    }
}

/// Waits until all of these partitions are served and reach their offsets, or will not, at most until `patience`.
pub(super) async fn settle(followers: &Followers, readings: &[(&Reading, Offset)], patience: Instant) {
    let mut ticks = followers.ticks();
    let is_pending = |(reading, offset): &(&Reading, Offset)| match reading.look() {
        Look::Ready(view) => view.high_watermark() < *offset && !view.is_closed(),
        Look::Pending => true,
        Look::Refused => false,
    };
    loop {
        ticks.mark_unchanged();
        if !readings.iter().any(is_pending) {
            return;
        }
        match tokio::time::timeout_at(patience, ticks.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// What a follower serves, or why it does not (any more).
pub(super) fn view(reading: &Reading) -> Result<Arc<PartitionView>, ErrorCode> {
    match reading.look() {
        Look::Ready(view) => Ok(view),
        Look::Pending if !reading.is_doubted() => Err(ErrorCode::OffsetNotAvailable),
        Look::Pending | Look::Refused => Err(ErrorCode::NotLeaderOrFollower),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PartitionIndex, TopicId};

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicId(uuid::Uuid::nil()), partition: PartitionIndex(partition) }
    }

    #[test]
    fn who_comes_back_soon_stays_for_a_while() {
        let mut sent = SentAway::default();
        let asks = [(0, true), (10, false), (4_999, false), (5_000, true), (5_001, false), (300_000, true)];
        for (now_ms, expected) in asks {
            assert_eq!(sent.may_go(key(0), now_ms), expected, "at {now_ms}");
        }
        assert!(sent.may_go(key(1), 300_001), "another partition");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut sent = SentAway::default();
        let max = SENT_AWAY_MAX as i32;
        assert!((0..max).all(|p| sent.may_go(key(p), 0)));
        assert!(!sent.may_go(key(max), 1), "there is no room");
        assert!(sent.may_go(key(max), RETURN_MS_MAX));
        assert_eq!(sent.at_ms.len(), 1, "what is over was forgotten");
    }
}
