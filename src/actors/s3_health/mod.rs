//! Watches how the object store does, and holds producers back when it does badly.
//!
//! The shell of [`state::HealthState`]: takes every attempt's outcome from [`crate::storage::measured`], lets the state
//! judge four times per second, and publishes the verdict for whoever is about to append or to answer a Produce. It
//! refuses nothing that was accepted: uploads that fail are repeated for as long as it takes, and their attempts are what
//! shows that the store is back. Only when nothing is left to be repeated, one append in a while is let through to find out.

pub mod state;
#[cfg(test)]
mod tests;

use crate::clock;
use crate::storage::StoreError;
use crate::storage::fault::Op;
use crate::storage::measured::Observer;
use arc_swap::ArcSwap;
use state::{HealthLimits, HealthState, Kind, LATENCY_BYTES_MAX, Level, Sample, Verdict};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How often the state judges.
const TICK: Duration = Duration::from_millis(250);
/// How often an append is let through while the store is unavailable and nothing else tries it, ms.
const PROBE_INTERVAL_MS: u64 = 500;

/// See the module's documentation.
#[derive(Debug)]
pub struct S3Health {
    origin: Instant,
    state: Mutex<HealthState>,
    verdict: ArcSwap<Verdict>,
    /// The verdict's level; read for every append.
    level: AtomicU8,
    next_probe_ms: AtomicU64,
    /// Changes to each level, in the order of [`Level::ALL`].
    transitions: [AtomicU64; Level::ALL.len()],
    refused: AtomicU64,
}

impl S3Health {
    /// A store of which nothing is known.
    pub fn new(limits: HealthLimits) -> Self {
        let mut state = HealthState::new(limits, 0);
        let verdict = ArcSwap::from_pointee(state.judge(0));
        Self {
            origin: clock::monotonic(),
            state: Mutex::new(state),
            verdict,
            level: AtomicU8::new(Level::Healthy as u8),
            next_probe_ms: AtomicU64::new(0),
            transitions: Default::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// The last verdict.
    pub fn verdict(&self) -> Arc<Verdict> {
        self.verdict.load_full()
    }

    /// How long the store has been as the verdict says.
    pub fn lasted(&self, verdict: &Verdict) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(verdict.since_ms))
    }

    /// Changes to a level so far.
    pub fn transitions_to(&self, level: Level) -> u64 {
        self.transitions[level as usize].load(Ordering::Relaxed)
    }

    /// Appends refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How long a producer is asked to wait.
    pub fn throttle_ms(&self) -> u64 {
        if self.level() == Level::Healthy as u8 { 0 } else { self.verdict.load().throttle_ms }
    }

    /// True if an append may go on. `pending_bytes` wait for the store already.
    pub fn admits(&self, pending_bytes: u64) -> bool {
        if self.level() != Level::Unavailable as u8 || (pending_bytes == 0 && self.takes_probe()) {
            return true;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn level(&self) -> u8 {
        self.level.load(Ordering::Relaxed)
    }

    fn takes_probe(&self) -> bool {
        let (now_ms, next_ms) = (self.now_ms(), self.next_probe_ms.load(Ordering::Relaxed));
        let (taken, relaxed) = (now_ms + PROBE_INTERVAL_MS, Ordering::Relaxed);
        now_ms >= next_ms && self.next_probe_ms.compare_exchange(next_ms, taken, relaxed, relaxed).is_ok()
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    /// Judges until the process ends.
    pub async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            self.judge();
        }
    }

    fn judge(&self) {
        let verdict = self.state.lock().expect("no panic under the lock").judge(self.now_ms());
        let before = self.verdict.swap(Arc::new(verdict));
        if verdict.level == before.level {
            return;
        }
        self.level.store(verdict.level as u8, Ordering::Relaxed);
        self.transitions[verdict.level as usize].fetch_add(1, Ordering::Relaxed);
        let reason = verdict.cause.map(|cause| cause.to_string()).unwrap_or_default();
        let (level, was) = (verdict.level.name(), before.level.name());
        let lasted_ms = verdict.since_ms.saturating_sub(before.since_ms);
        match verdict.level {
            Level::Healthy => tracing::info!(was, lasted_ms, "the object store is healthy again"),
            Level::Degraded => {
                tracing::warn!(was, lasted_ms, reason, "the object store is {level}: producers are throttled")
            }
            Level::Unavailable => tracing::error!(
                was,
                lasted_ms,
                reason,
                "the object store is {level}: new batches are refused with a retriable error, accepted ones are tried on"
            ),
        }
    }
}

impl Observer for S3Health {
    fn ended(&self, op: Op, elapsed: Duration, outcome: Result<u64, &StoreError>) {
        let failed = match outcome {
            Ok(_) | Err(StoreError::AlreadyExists { .. } | StoreError::NotFound { .. }) => false,
            Err(
                StoreError::Throttled { .. }
                | StoreError::Unavailable { .. }
                | StoreError::Refused { .. }
                | StoreError::Corrupt { .. },
            ) => true,
        };
        let kind = match op {
            Op::Create => Kind::Create,
            Op::GetRange | Op::GetSuffix => Kind::Read,
            // A create in doubt is resolved by a HEAD before it is repeated. If that fails, the create has not got on; if it
            // does not, the create is still to come.
            Op::Head if failed => Kind::Create,
            // Nobody waits for these; and a permission that only they need says nothing about the others.
            Op::Head | Op::Delete | Op::List => return,
        };
        let is_small = outcome.is_ok_and(|bytes| bytes <= LATENCY_BYTES_MAX);
        let sample = Sample { kind, failed, elapsed_ms: elapsed.as_secs_f64() * 1e3, is_small };
        self.state.lock().expect("no panic under the lock").record(self.now_ms(), sample);
    }
}
