//! What a writer's actors share: the bound on bytes that are not yet durable, counters, and how a fatal error ends the
//! process.

use crate::cli::exit;
use crate::clock;
use crate::metrics::{Bytes, Histogram, Seconds};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of batches between a connection and durability. Beyond the bound appends are refused with a retriable error,
/// so that a slow or failing store costs memory up to the bound and no more.
#[derive(Debug)]
pub struct PipelineBudget {
    bytes_max: u64,
    bytes: AtomicU64,
}

impl PipelineBudget {
    /// A budget of `bytes_max`.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: AtomicU64::new(0) }
    }

    /// Bytes in the pipeline.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes `bytes` for a batch that is about to be sent to its partition. One batch always fits.
    pub fn try_enqueue(&self, bytes: u64) -> bool {
        let taken = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = taken == 0 || taken + bytes <= self.bytes_max;
        if !fits {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// The partition took the batch from its mailbox.
    pub fn dequeued(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The partition accepted a batch of `bytes`; it stays in the budget until [`Self::committed`].
    pub fn stored(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` are durable.
    pub fn committed(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Counters of the write path.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Segments cut.
    pub flushes: AtomicU64,
    /// Bytes of batches in them.
    pub flushed_bytes: AtomicU64,
    /// Batches in them.
    pub flushed_batches: AtomicU64,
    /// Records in them.
    pub flushed_records: AtomicU64,
    /// Head commits (one may cover several segments).
    pub commits: AtomicU64,
    /// Attempts at a commit or upload that failed and were repeated.
    pub retries: AtomicU64,
    /// Last committed slot.
    pub head: AtomicU64,
    /// Revision of the metadata store of the last commit; 0 before the first.
    pub revision: AtomicI64,
    /// Bytes of committed batches kept in memory for tailing readers, now.
    pub tail_bytes: AtomicU64,
    /// Checkpoints written.
    pub checkpoints: AtomicU64,
    /// Merged objects written.
    pub merges: AtomicU64,
    /// Bytes read and written again by merging.
    pub merged_bytes: AtomicU64,
    /// Passes of key compaction that came to their end.
    pub compactions: AtomicU64,
    /// Bytes of objects written by key compaction.
    pub compacted_bytes: AtomicU64,
    /// Records dropped by key compaction.
    pub compacted_records: AtomicU64,
    /// Objects deleted.
    pub deleted_objects: AtomicU64,
    /// Objects that the scrub has looked at.
    pub scrub_listed_objects: AtomicU64,
    /// Objects that the scrub has put on the garbage list.
    pub scrub_orphaned_objects: AtomicU64,
    /// Their bytes.
    pub scrub_orphaned_bytes: AtomicU64,
    /// From the arrival of a batch at the writer until its partition is told that it is committed.
    pub durable: Histogram<Seconds>,
    /// Transactions on the writer's key, from the first attempt until the outcome is known.
    pub commit: Histogram<Seconds>,
    /// Bytes of batches of segments at their cut.
    pub flush_bytes: Histogram<Bytes>,
    /// Age of segments, that is of their oldest batch, at their cut.
    pub flush_age: Histogram<Seconds>,
    /// The oldest batch that is not durable.
    pub oldest: OldestBatch,
}

/// How long the oldest batch that is not durable has been waiting.
#[derive(Debug)]
pub struct OldestBatch {
    origin: Instant,
    /// When it came, µs after `origin` and one more; 0 if there is none.
    since_us: AtomicU64,
}

impl Default for OldestBatch {
    fn default() -> Self {
        Self { origin: clock::monotonic(), since_us: AtomicU64::new(0) }
    }
}

impl OldestBatch {
    /// The oldest batch came at `since`; `None` if there is none now.
    pub fn set(&self, since: Option<Instant>) {
        let us = since.map_or(0, |since| since.saturating_duration_since(self.origin).as_micros() as u64 + 1);
        self.since_us.store(us, Ordering::Relaxed);
    }

    /// How long it has been waiting at `now`; zero if there is none.
    pub fn waited(&self, now: Instant) -> Duration {
        match self.since_us.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            us => now.saturating_duration_since(self.origin + Duration::from_micros(us - 1)),
        }
    }
}

/// Why the process must end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fatal {
    /// The commit path panicked; a half-alive writer is worse than a dead one.
    CommitPathPanic(String),
    /// Another process took over: this writer is sealed.
    Fenced(String),
    /// Somebody else's object lies under our key.
    IdentityClash(String),
    /// The metadata store does not remember what it has told us.
    WentBack(String),
}

impl Fatal {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::WentBack(_) => exit::WENT_BACK,
            Self::CommitPathPanic(_) => exit::SOFTWARE,
            Self::Fenced(_) => 75,
            Self::IdentityClash(_) => 76,
        }
    }
}

impl std::fmt::Display for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CommitPathPanic(m) => write!(f, "the commit path panicked: {m}"),
            Self::Fenced(m) => write!(f, "{m}; this process stops, start it again to rejoin"),
            Self::IdentityClash(m) => write!(f, "identity clash: {m}"),
            Self::WentBack(m) => write!(f, "{m}"),
        }
    }
}
