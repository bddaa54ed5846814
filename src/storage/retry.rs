//! A decorator that retries, resolves ambiguous creates and hedges slow ones.
//!
//! **Creates.** After a time-out, a 5xx, a 409 or a cut connection nobody knows whether the object is there, and some
//! servers cut the connection instead of delivering a 412. So the key is read first: an object with our nonce and
//! checksum is success, another's is an identity clash ([`StoreError::AlreadyExists`]; the caller must abort), nothing
//! means that the same bytes are sent again. That an earlier attempt lands late is harmless: the next conditional
//! create meets it and the key is read again. A create is retried until it is resolved or the token is cancelled;
//! only `Refused` ends it early (nothing is lost: the same create may be called again).
//!
//! **Twice.** A payload that says so is sent twice at once, and the first answer counts. The slower attempt is not cut off,
//! which would cost its connection, but goes on by itself; there is a bound on how many do.
//!
//! **Everything else** is retried a bounded number of times, and only while the budget lasts. A read of the end of an object
//! that is slow is sent a second time: takeovers wait for those.
//!
//! **Budget.** Each call earns a fraction of a retry and a smaller fraction of a hedge, so that retries cannot
//! multiply the load of a store in trouble. Hedges stop for a while when the store throttles.

mod budget;
mod latency;
#[cfg(test)]
mod tests;

use self::budget::Budget;
use self::latency::Latencies;
use super::{Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError};
use crate::actors::runtime::IoPool;
use crate::trace::{self, Tries};
use crate::{clock, rng};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, Either};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// How a [`RetryingStore`] behaves.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// First wait between attempts; doubles up to `backoff_ms_max`, each with jitter.
    pub backoff_ms_min: u64,
    /// Longest wait between attempts.
    pub backoff_ms_max: u64,
    /// Attempts of anything but a create, the first included.
    pub attempts_max: u32,
    /// When to send a second attempt of a slow create; `None` never does, nor of a read.
    pub hedge: Option<HedgePolicy>,
}

/// When a create counts as slow.
#[derive(Debug, Clone, Copy)]
pub struct HedgePolicy {
    /// Never hedge earlier than this.
    pub delay_min: Duration,
    /// Quantile of recent creates of about the same size at which to hedge, from 0 to 1.
    pub quantile: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { backoff_ms_min: 50, backoff_ms_max: 2_000, attempts_max: 6, hedge: None }
    }
}

impl Default for HedgePolicy {
    fn default() -> Self {
        // At the 95th percentile the hedges are the 5 % that the budget allows.
        Self { delay_min: Duration::from_millis(20), quantile: 0.95 }
    }
}

/// Counters for metrics.
#[derive(Debug, Default)]
pub struct RetryStats {
    /// Attempts after the first, hedges not included.
    pub retries: AtomicU64,
    /// Retries that the budget did not allow.
    pub retries_denied: AtomicU64,
    /// Second attempts sent while the first was under way.
    pub hedges: AtomicU64,
    /// Hedges that answered first, or met the object that the first attempt has not answered for yet.
    pub hedges_won: AtomicU64,
    /// Creates that failed or met a 412 and turned out to have succeeded.
    pub creates_resolved: AtomicU64,
}

/// Payloads that may be on their way twice, and hold their bytes.
const TWICE_MAX: usize = 8;
/// Ends of objects up to this length are read again when the first attempt is slow.
const HEDGED_READ_LEN_MAX: u64 = 1 << 20;
/// When a read is slow: about the 90th percentile of S3's small ones.
const HEDGED_READ_AFTER: Duration = Duration::from_millis(60);
/// How long hedging stays off after the store has throttled.
const HEDGE_PAUSE: Duration = Duration::from_secs(10);

/// See the module's documentation.
#[derive(Debug)]
pub struct RetryingStore {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    cancel: CancellationToken,
    budget: Budget,
    latencies: Latencies,
    /// One permit per payload that is on its way twice, until both attempts have ended.
    twice: Arc<Semaphore>,
    /// Milliseconds since `start` until which hedging is off.
    throttled_until_ms: AtomicU64,
    start: Instant,
    stats: Arc<RetryStats>,
}

/// What a look at the key says about our create.
enum Resolution {
    Ours,
    Others,
    Nothing,
}

impl RetryingStore {
    /// Retries calls to `inner`. When `cancel` fires, creates that wait for the store give up as `Unavailable`.
    pub fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy, cancel: CancellationToken) -> Self {
        Self {
            inner,
            policy,
            cancel,
            budget: Budget::default(),
            latencies: Latencies::default(),
            twice: Arc::new(Semaphore::new(TWICE_MAX)),
            throttled_until_ms: AtomicU64::new(0),
            start: clock::monotonic(),
            stats: Arc::default(),
        }
    }

    /// The counters, for rendering.
    pub fn stats(&self) -> Arc<RetryStats> {
        self.stats.clone()
    }

    /// Waits before attempt `attempt` (from 2 on).
    async fn back_off(&self, attempt: u32) {
        let doubled = self.policy.backoff_ms_min << attempt.saturating_sub(2).min(20);
        tokio::time::sleep(Duration::from_millis(rng::jitter_ms(doubled.min(self.policy.backoff_ms_max)))).await;
    }

    fn note(&self, error: &StoreError) {
        if matches!(error, StoreError::Throttled { .. }) {
            let until = (self.start.elapsed() + HEDGE_PAUSE).as_millis() as u64;
            self.throttled_until_ms.fetch_max(until, Ordering::Relaxed);
        }
    }

    /// Calls until success, a failure that is final, the last attempt or the end of the budget.
    async fn retry<T, F>(&self, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.budget.earn();
        let mut attempt = 1;
        loop {
            let error = match call().await {
                Err(error) if error.is_retriable() => error,
                result => return result,
            };
            self.note(&error);
            if attempt == self.policy.attempts_max {
                return Err(error);
            }
            if !self.budget.spend_retry() {
                self.stats.retries_denied.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
            trace::retry(&error, attempt);
            attempt += 1;
            self.stats.retries.fetch_add(1, Ordering::Relaxed);
            self.back_off(attempt).await;
        }
    }

    /// Creates until it is known what is under the key.
    async fn create_resolved(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        self.budget.earn();
        let tries = Tries::default();
        let mut attempt = 1;
        loop {
            let error = match self.attempt(key, payload, &tries).await {
                Err(error) => error,
                Ok(()) => return Ok(()),
            };
            self.note(&error);
            trace::retry(&error, attempt);
            match error {
                // Not ambiguous: nothing happened.
                StoreError::Throttled { .. } => {}
                StoreError::AlreadyExists { .. } | StoreError::Unavailable { .. } => {
                    match self.look(key, payload).await? {
                        Resolution::Ours => {
                            self.stats.creates_resolved.fetch_add(1, Ordering::Relaxed);
                            return Ok(());
                        }
                        Resolution::Others => return Err(StoreError::AlreadyExists { key: key.clone() }),
                        Resolution::Nothing => {}
                    }
                }
                StoreError::Refused { .. } | StoreError::NotFound { .. } | StoreError::Corrupt { .. } => {
                    return Err(error);
                }
            }
            attempt += 1;
            tries.again();
            // A create has to go on whatever the budget says; it leaves less of it for others.
            self.budget.spend_retry();
            self.stats.retries.fetch_add(1, Ordering::Relaxed);
            self.back_off(attempt).await;
        }
    }

    /// Reads what is under the key, for as long as it takes.
    async fn look(&self, key: &ObjectKey, payload: &Payload) -> Result<Resolution, StoreError> {
        let mut attempt = 1;
        loop {
            match self.inner.head(key).await {
                Ok(None) => return Ok(Resolution::Nothing),
                Ok(Some(head)) if is_ours(&head, payload) => return Ok(Resolution::Ours),
                Ok(Some(_)) => return Ok(Resolution::Others),
                Err(error) if error.is_retriable() => self.note(&error),
                Err(error) => return Err(error),
            }
            attempt += 1;
            self.stats.retries.fetch_add(1, Ordering::Relaxed);
            self.back_off(attempt).await;
        }
    }

    /// One attempt, with a hedge if it is slow. Feeds the latency estimate.
    async fn attempt(&self, key: &ObjectKey, payload: &Payload, tries: &Tries) -> Result<(), StoreError> {
        if payload.twice
            && !tries.is_repeated()
            && !self.is_throttled()
            && let Ok(permit) = self.twice.clone().try_acquire_owned()
        {
            return self.attempt_twice(key, payload, tries, permit).await;
        }
        let start = clock::monotonic();
        let result = match self.hedge_delay(payload.len) {
            Some(delay) => self.attempt_hedged(key, payload, delay, tries).await,
            None => self.inner.create(key, payload).await,
        };
        if result.is_ok() {
            self.latencies.record(payload.len, start.elapsed());
        }
        result
    }

    /// How long to wait for the first attempt before a second one, or `None` for no hedge.
    fn hedge_delay(&self, len: u64) -> Option<Duration> {
        let hedge = self.policy.hedge?;
        if self.is_throttled() {
            return None;
        }
        let slow = self.latencies.quantile(len, hedge.quantile)?;
        Some(slow.max(hedge.delay_min))
    }

    fn is_throttled(&self) -> bool {
        (self.start.elapsed().as_millis() as u64) < self.throttled_until_ms.load(Ordering::Relaxed)
    }

    /// Two attempts at once, each in a task of its own.
    async fn attempt_twice(
        &self,
        key: &ObjectKey,
        payload: &Payload,
        tries: &Tries,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), StoreError> {
        let permit = Arc::new(permit);
        let attempt = |span: Span| {
            let (inner, key, payload) = (self.inner.clone(), key.clone(), payload.clone());
            let permit = permit.clone();
            let attempt = async move {
                let result = inner.create(&key, &payload).await;
                drop(permit);
                result
            };
            IoPool::current().spawn(attempt.instrument(span)).map(joined)
        };
        self.stats.hedges.fetch_add(1, Ordering::Relaxed);
        tries.hedge();
        self.first_of(attempt(Span::current()), attempt(trace::hedge()), payload).await
    }

    async fn attempt_hedged(
        &self,
        key: &ObjectKey,
        payload: &Payload,
        delay: Duration,
        tries: &Tries,
    ) -> Result<(), StoreError> {
        let first = self.inner.create(key, payload);
        let first = match future::select(first, Box::pin(tokio::time::sleep(delay))).await {
            Either::Left((result, _)) => return result,
            Either::Right(((), first)) => first,
        };
        if !self.budget.spend_hedge() {
            return first.await;
        }
        self.stats.hedges.fetch_add(1, Ordering::Relaxed);
        tries.hedge();
        let second = Box::pin(self.inner.create(key, payload).instrument(trace::hedge()));
        self.first_of(first, second, payload).await
    }

    async fn end_hedged(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        let slow = Box::pin(tokio::time::sleep(HEDGED_READ_AFTER));
        let first = match future::select(self.inner.get_suffix(key, len), slow).await {
            Either::Left((result, _)) => return result,
            Either::Right(((), first)) => first,
        };
        if self.is_throttled() || !self.budget.spend_hedge() {
            return first.await;
        }
        self.stats.hedges.fetch_add(1, Ordering::Relaxed);
        let second = Box::pin(self.inner.get_suffix(key, len).instrument(trace::hedge()));
        let (result, other, won) = match future::select(first, second).await {
            Either::Left((result, second)) => (result, Either::Right(second), 0),
            Either::Right((result, first)) => (result, Either::Left(first), 1),
        };
        match result {
            Err(error) if error.is_retriable() => {
                self.note(&error);
                other.await
            }
            result => {
                self.stats.hedges_won.fetch_add(won, Ordering::Relaxed);
                result
            }
        }
    }

    /// The outcome of two attempts of which either may answer first.
    async fn first_of<A, B>(&self, first: A, second: B, payload: &Payload) -> Result<(), StoreError>
    where
        A: Future<Output = Result<(), StoreError>> + Unpin,
        B: Future<Output = Result<(), StoreError>> + Unpin,
    {
        let (result, other) = match future::select(first, second).await {
            Either::Left((result, second)) => (result, Either::Right(second)),
            Either::Right((result, first)) => {
                if result.is_ok() {
                    self.stats.hedges_won.fetch_add(1, Ordering::Relaxed);
                }
                (result, Either::Left(first))
            }
        };
        match result {
            Ok(()) => Ok(()),
            Err(StoreError::AlreadyExists { key }) => self.await_either(&key, payload, other).await,
            Err(error) => {
                self.note(&error);
                other.await
            }
        }
    }

    /// One of two attempts met an object, so the `other` has probably been applied: its answer or a look at the key,
    /// whichever comes first, says so.
    async fn await_either<F>(&self, key: &ObjectKey, payload: &Payload, other: F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Unpin,
    {
        match future::select(other, Box::pin(self.look(key, payload))).await {
            Either::Left((Ok(()), _)) => Ok(()),
            Either::Right((Ok(Resolution::Ours), _)) => {
                self.stats.hedges_won.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Either::Right((Ok(Resolution::Nothing), other)) => other.await,
            // The caller looks again.
            _ => Err(StoreError::AlreadyExists { key: key.clone() }),
        }
    }
}

/// The outcome of an attempt in a task of its own; its panic is ours.
fn joined(result: Result<Result<(), StoreError>, JoinError>) -> Result<(), StoreError> {
    result.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Err(StoreError::Unavailable { message: format!("the attempt was stopped: {error}") }),
    })
}

/// True if the object is the one that `payload` describes. Nonce and checksum both have to agree where the store
/// keeps them, and at least one has to be there.
fn is_ours(head: &ObjectHead, payload: &Payload) -> bool {
    let known = head.nonce.is_some() || head.crc32c.is_some();
    let nonce_agrees = head.nonce.is_none_or(|nonce| nonce == payload.nonce);
    let crc_agrees = head.crc32c.is_none_or(|crc| crc == payload.crc32c);
    known && nonce_agrees && crc_agrees && head.len == payload.len
}

#[async_trait]
impl ObjectStore for RetryingStore {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        match self.cancel.run_until_cancelled(self.create_resolved(key, payload)).await {
            Some(result) => result,
            None => {
                let message = format!("stopped while creating {key}; it may or may not exist");
                Err(StoreError::Unavailable { message })
            }
        }
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.retry(|| self.inner.get_range(key, range.clone())).await
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        if self.policy.hedge.is_none() || len > HEDGED_READ_LEN_MAX {
            return self.retry(|| self.inner.get_suffix(key, len)).await;
        }
        self.retry(|| self.end_hedged(key, len)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        self.retry(|| self.inner.head(key)).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        self.retry(|| self.inner.delete(keys)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        self.retry(|| self.inner.list(prefix, start_after)).await
    }
}
