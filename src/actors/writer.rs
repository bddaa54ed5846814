//! What a writer's actors share: the bound on bytes that are not yet durable, counters, and how a fatal error ends the
//! process.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Head commits (one may cover several segments).
    pub commits: AtomicU64,
    /// Attempts at a commit or upload that failed and were repeated.
    pub retries: AtomicU64,
    /// Last committed slot.
    pub head: AtomicU64,
    /// Bytes of committed batches kept in memory for tailing readers, now.
    pub tail_bytes: AtomicU64,
    /// Checkpoints written.
    pub checkpoints: AtomicU64,
    /// Merged objects written.
    pub merges: AtomicU64,
    /// Bytes read and written again by merging.
    pub merged_bytes: AtomicU64,
    /// Objects deleted.
    pub deleted_objects: AtomicU64,
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
}

impl Fatal {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::CommitPathPanic(_) => 70,
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
        }
    }
}
