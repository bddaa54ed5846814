//! A decorator that reads from a copy of the bucket first.
//!
//! The store behind may copy a bucket's objects to another region, some time after they were written. Consumers there
//! are served from that copy; what it does not have yet, or does not give in time, comes from the primary at once. A
//! hit is always right: a key is written once and its object never changes, and whoever reads checks every batch
//! anyway (the block cache and followers read from the primary what came damaged).
//!
//! Only ranged reads and reads of an object's end look at the copy. Everything that has to see what is true now
//! (creates and what they meet, HEAD, LIST, deletes) goes to the primary, and whoever needs that for reads too, such as
//! taking over and merging, is not given this decorator.
//!
//! The copy is tried once per read and for a bounded time. After several failures in a row it is left alone, and tried
//! by one read now and then until it answers ([`breaker`]).

mod breaker;
#[cfg(test)]
mod tests;

use self::breaker::{Breaker, Change, Try};
use super::{Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError};
use crate::clock;
use crate::metrics::{Histogram, Seconds};
use crate::trace;
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long a read waits for the replica ...
const WAIT: Duration = Duration::from_millis(500);
/// ... and how much longer for each MiB it wants.
const WAIT_PER_MIB: Duration = Duration::from_millis(100);
/// Whoever wants more, or everything there is, waits no longer than for this much.
const WAIT_BYTES_MAX: u64 = 64 << 20;
/// How long the start waits for it.
const PROBE_WAIT: Duration = Duration::from_secs(3);

/// Reads by what the replica had to do with them; all only grow.
#[derive(Debug, Default)]
pub struct ReplicaStats {
    /// Served by the replica.
    pub hits: AtomicU64,
    /// The replica does not have the object (yet).
    pub misses: AtomicU64,
    /// The replica failed or refused, or its object has another length.
    pub errors: AtomicU64,
    /// The replica did not answer in time.
    pub timeouts: AtomicU64,
    /// Not tried, because the replica failed before.
    pub skipped: AtomicU64,
    /// Bytes served by the replica.
    pub bytes: AtomicU64,
    /// How long hits took.
    pub hit_durations: Histogram<Seconds>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ReplicaStore {
    primary: Arc<dyn ObjectStore>,
    replica: Arc<dyn ObjectStore>,
    breaker: Mutex<Breaker>,
    start: Instant,
    stats: ReplicaStats,
}

impl ReplicaStore {
    /// Reads from `replica`, which makes one attempt per call, before `primary`.
    pub fn new(primary: Arc<dyn ObjectStore>, replica: Arc<dyn ObjectStore>) -> Self {
        let (start, stats) = (clock::monotonic(), ReplicaStats::default());
        Self { primary, replica, breaker: Mutex::default(), start, stats }
    }

    /// The counters, for rendering.
    pub fn stats(&self) -> &ReplicaStats {
        &self.stats
    }

    /// True unless the replica is left alone because it failed.
    pub fn is_used(&self) -> bool {
        self.breaker().is_closed()
    }

    /// Asks the replica for `key`, which need not exist. If it does not answer, reads leave it alone until it does.
    pub async fn probe(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let outcome = match tokio::time::timeout(PROBE_WAIT, self.replica.get_range(key, 0..1)).await {
            Ok(Ok(_) | Err(StoreError::NotFound { .. })) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(late(PROBE_WAIT)),
        };
        if outcome.is_err() {
            self.breaker().trip(self.now_ms());
        }
        outcome
    }

    fn primary(&self) -> &dyn ObjectStore {
        trace::read_from("primary");
        &*self.primary
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().expect("no panic under the lock")
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// What the replica has, if it is tried and has it in time. `len` bytes are wanted.
    async fn try_replica<T>(
        &self,
        len: u64,
        read: impl Future<Output = Result<T, StoreError>>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Option<T> {
        let Some(attempt) = self.breaker().admit(self.now_ms()) else {
            self.stats.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let started = clock::monotonic();
        let limit = WAIT + WAIT_PER_MIB.mul_f64(len.min(WAIT_BYTES_MAX) as f64 / (1 << 20) as f64);
        match tokio::time::timeout(limit, read).await {
            Ok(Ok(found)) => {
                trace::read_from("replica");
                self.stats.hits.fetch_add(1, Ordering::Relaxed);
                self.stats.bytes.fetch_add(bytes(&found), Ordering::Relaxed);
                self.stats.hit_durations.record_duration(started.elapsed());
                self.answered();
                Some(found)
            }
            Ok(Err(StoreError::NotFound { .. })) => {
                self.stats.misses.fetch_add(1, Ordering::Relaxed);
                self.answered();
                None
            }
            Ok(Err(error)) => {
                self.stats.errors.fetch_add(1, Ordering::Relaxed);
                self.failed(attempt, &error);
                None
            }
            Err(_) => {
                self.stats.timeouts.fetch_add(1, Ordering::Relaxed);
                self.failed(attempt, &late(limit));
                None
            }
        }
    }

    fn answered(&self) {
        if self.breaker().answered() == Some(Change::Closed) {
            tracing::info!("the read replica answers again: reads go to KAFSCALE_S3_READ_BUCKET first");
        }
    }

    fn failed(&self, attempt: Try, error: &StoreError) {
        if self.breaker().failed(self.now_ms(), attempt) == Some(Change::Opened) {
            tracing::warn!(
                %error,
                "the read replica (KAFSCALE_S3_READ_BUCKET) fails: reads go to the primary bucket until it answers"
            );
        }
    }
}

fn late(limit: Duration) -> StoreError {
    StoreError::Unavailable { message: format!("the read replica gave no answer within {} ms", limit.as_millis()) }
}

#[async_trait]
impl ObjectStore for ReplicaStore {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        self.primary.create(key, payload).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let read = self.replica.get_range(key, range.clone());
        let found = self.try_replica(range.end.saturating_sub(range.start), read, |bytes| bytes.len() as u64).await;
        match found {
            Some(bytes) => Ok(bytes),
            None => self.primary().get_range(key, range).await,
        }
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        let read = self.replica.get_suffix(key, len);
        match self.try_replica(len, read, |(bytes, _)| bytes.len() as u64).await {
            Some(found) => Ok(found),
            None => self.primary().get_suffix(key, len).await,
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        self.primary.head(key).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        self.primary.delete(keys).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        self.primary.list(prefix, start_after).await
    }
}
