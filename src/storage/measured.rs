//! A decorator that counts calls, bytes, failures and latencies. Place it directly around a back end: then every
//! attempt counts, and PUTs are what the store's bill says.

use super::fault::Op;
use super::{Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError};
use crate::clock;
use crate::metrics::{Histogram, Seconds};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Every operation with the name its metrics carry.
pub const OPS: [(Op, &str); 6] = [
    (Op::Create, "create"),
    (Op::GetRange, "get_range"),
    (Op::GetSuffix, "get_suffix"),
    (Op::Head, "head"),
    (Op::Delete, "delete"),
    (Op::List, "list"),
];

/// Kinds of failures, in the order of [`OpStats::errors`].
pub const ERROR_KINDS: [&str; 6] = ["already_exists", "not_found", "throttled", "unavailable", "refused", "corrupt"];

/// Counters of one operation; all only grow but `in_flight`.
#[derive(Debug, Default)]
pub struct OpStats {
    /// Calls that have ended.
    pub calls: AtomicU64,
    /// Calls under way.
    pub in_flight: AtomicI64,
    /// Bytes sent (create) or received (reads) by successful calls.
    pub bytes: AtomicU64,
    /// Failures by kind, see [`ERROR_KINDS`].
    pub errors: [AtomicU64; ERROR_KINDS.len()],
    /// How long successful calls took.
    pub succeeded: Histogram<Seconds>,
    /// How long failed calls took. That an object is there already, or is not, counts as a failure too.
    pub failed: Histogram<Seconds>,
}

/// Counters of a store, by operation.
#[derive(Debug, Default)]
pub struct StoreStats {
    ops: [OpStats; OPS.len()],
}

impl StoreStats {
    /// The counters of `op`.
    pub fn op(&self, op: Op) -> &OpStats {
        &self.ops[op as usize]
    }
}

impl OpStats {
    fn record(&self, elapsed: Duration, outcome: Result<u64, &StoreError>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(bytes) => {
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                self.succeeded.record_duration(elapsed);
            }
            Err(error) => {
                self.errors[kind(error)].fetch_add(1, Ordering::Relaxed);
                self.failed.record_duration(elapsed);
            }
        }
    }
}

fn kind(error: &StoreError) -> usize {
    match error {
        StoreError::AlreadyExists { .. } => 0,
        StoreError::NotFound { .. } => 1,
        StoreError::Throttled { .. } => 2,
        StoreError::Unavailable { .. } => 3,
        StoreError::Refused { .. } => 4,
        StoreError::Corrupt { .. } => 5,
    }
}

/// Is told of every call that has ended.
pub trait Observer: Send + Sync + std::fmt::Debug + 'static {
    /// A call of `op` took `elapsed`; it moved so many bytes, or failed. Must be quick.
    fn ended(&self, op: Op, elapsed: Duration, outcome: Result<u64, &StoreError>);
}

/// See the module's documentation.
#[derive(Debug)]
pub struct MeasuredStore {
    inner: Arc<dyn ObjectStore>,
    stats: Arc<StoreStats>,
    observer: Option<Arc<dyn Observer>>,
}

/// Keeps `in_flight` right when a call is dropped half-way.
struct InFlight<'a>(&'a OpStats);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MeasuredStore {
    /// Counts the calls to `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, stats: Arc::default(), observer: None }
    }

    /// The same, and tells `observer`.
    pub fn observed(inner: Arc<dyn ObjectStore>, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..Self::new(inner) }
    }

    /// The counters, for rendering.
    pub fn stats(&self) -> Arc<StoreStats> {
        self.stats.clone()
    }

    async fn measure<T>(
        &self,
        op: Op,
        call: impl Future<Output = Result<T, StoreError>>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T, StoreError> {
        let stats = self.stats.op(op);
        stats.in_flight.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlight(stats);
        let start = clock::monotonic();
        let result = call.await;
        let (elapsed, outcome) = (start.elapsed(), result.as_ref().map(bytes));
        stats.record(elapsed, outcome);
        if let Some(observer) = &self.observer {
            observer.ended(op, elapsed, outcome);
        }
        result
    }
}

#[async_trait]
impl ObjectStore for MeasuredStore {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        self.measure(Op::Create, self.inner.create(key, payload), |()| payload.len).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.measure(Op::GetRange, self.inner.get_range(key, range), |bytes| bytes.len() as u64).await
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        self.measure(Op::GetSuffix, self.inner.get_suffix(key, len), |(bytes, _)| bytes.len() as u64).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        self.measure(Op::Head, self.inner.head(key), |_| 0).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        self.measure(Op::Delete, self.inner.delete(keys), |()| 0).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        self.measure(Op::List, self.inner.list(prefix, start_after), |_| 0).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::storage::fault::{Fault, FaultStore};
    use crate::storage::memory::MemoryStore;
    use crate::storage::testkit::key;

    #[tokio::test(start_paused = true)]
    async fn counts_calls_bytes_errors_and_latencies() {
        let faults = Arc::new(FaultStore::scripted(Arc::new(MemoryStore::new(Clock::system()))));
        let store = MeasuredStore::new(faults.clone());
        faults.script(Op::Create, [Fault::Delay(Duration::from_millis(60)), Fault::Throttle]);
        let payload = Payload::new(vec![Bytes::from_static(b"12345")], 1);
        store.create(&key("a"), &payload).await.unwrap();
        store.create(&key("b"), &payload).await.unwrap_err();
        store.get_range(&key("a"), 1..4).await.unwrap();
        faults.script(Op::Head, [Fault::Hang]);
        let hung = tokio::time::timeout(Duration::from_secs(1), store.head(&key("a"))).await;
        assert!(hung.is_err());
        let stats = store.stats();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let create = stats.op(Op::Create);
        assert_eq!((read(&create.calls), read(&create.bytes), read(&create.errors[2])), (2, 5, 1));
        let succeeded = create.succeeded.sample();
        assert!(succeeded.buckets.contains(&(0.075, 1)) && succeeded.sum >= 0.06, "{succeeded:?}");
        assert_eq!((create.succeeded.count(), create.failed.count()), (1, 1));
        assert_eq!(read(&stats.op(Op::GetRange).bytes), 3);
        assert_eq!(stats.op(Op::Head).in_flight.load(Ordering::Relaxed), 0, "a dropped call is not in flight");
    }
}
