//! What the protocol edge sees of a partition: an append call and the shared read view.

use super::view::PartitionView;
use crate::ids::{Offset, PartitionKey};
use crate::protocol::batch::BatchHeader;
use crate::trace::TraceContext;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A batch that passed the checks that need no state (length, magic, CRC, record count, timestamps).
#[derive(Debug, Clone)]
pub struct ValidBatch {
    /// The whole batch as received.
    pub bytes: Bytes,
    /// Its header.
    pub header: BatchHeader,
    /// Broker time to stamp on all records (`message.timestamp.type=LogAppendTime`), else `None`. The bytes are
    /// stamped already; this is what the reply carries.
    pub log_append_time_ms: Option<i64>,
}

/// Where an appended batch went; sent when it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record; the original's for a duplicate.
    pub base_offset: Offset,
    /// Log start offset at that time.
    pub log_start: Offset,
    /// Broker time stamped on the records, -1 without `LogAppendTime`.
    pub log_append_time_ms: i64,
}

/// Why a batch was not appended, or why its outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// This broker does not lead the partition (any more), or it is recovering.
    #[error("this broker does not serve the partition now; refresh metadata and retry")]
    NotLeader,
    /// The sequence neither follows the last one nor repeats one of the last five batches.
    #[error("producer {producer}: sequence {sequence} is out of order, {expected} was expected")]
    OutOfOrderSequence {
        /// Producer id.
        producer: i64,
        /// As sent.
        sequence: i32,
        /// What would have followed.
        expected: i32,
    },
    /// A newer epoch of this producer id has written already.
    #[error("producer {producer}: epoch {epoch} is older than {current}")]
    InvalidProducerEpoch {
        /// Producer id.
        producer: i64,
        /// As sent.
        epoch: i16,
        /// Known.
        current: i16,
    },
    /// The producer is not known and does not begin at sequence 0, shortly after appends were refused.
    #[error("an earlier batch of this producer may have been refused; retry all of them in order")]
    PredecessorMissing,
    /// The broker is shutting down or the partition's actor failed; the outcome is unknown.
    #[error("the partition's actor stopped before the batch was durable; retry")]
    Interrupted,
    /// The partition's queue is full.
    #[error("the partition is overloaded; retry later")]
    Overloaded,
    /// The object store has been failing, and nothing more is accepted until it answers.
    #[error("the object store is unavailable; nothing was written, retry later")]
    StoreUnavailable,
}

/// Receives the outcome of one append.
pub type AppendReceiver = oneshot::Receiver<Result<Appended, AppendError>>;

/// Where a batch comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The trace of the request.
    pub trace: TraceContext,
    /// The client sends nothing more before it gets an ack: as many of its requests wait as it keeps in flight.
    pub client_waits: bool,
}

impl Origin {
    /// No trace, and nobody is known to wait.
    pub const NONE: Self = Self { trace: TraceContext::NONE, client_waits: false };
}

/// One append as it reaches the partition.
#[derive(Debug)]
pub struct Append {
    /// The batch.
    pub batch: ValidBatch,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<Appended, AppendError>>,
    /// The request that brought it.
    pub origin: Origin,
}

/// Delivers appends to a partition wherever its actor runs.
pub trait AppendSink: Send + Sync {
    /// Hands over the append or fails at once; never waits.
    fn append(&self, append: Append) -> Result<(), AppendError>;
}

/// A led partition, as the protocol edge holds it. Cheap to clone; stays valid (and fails fast) when the actor is gone.
#[derive(Clone)]
pub struct PartitionRef {
    /// Who it is.
    pub key: PartitionKey,
    /// Committed data and offsets.
    pub view: Arc<PartitionView>,
    /// The actor's mailbox.
    pub sink: Arc<dyn AppendSink>,
}

impl std::fmt::Debug for PartitionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionRef({})", self.key)
    }
}

impl PartitionRef {
    /// Appends a batch; the receiver gets the outcome when it is durable (or refused).
    pub fn append(&self, batch: ValidBatch) -> Result<AppendReceiver, AppendError> {
        self.append_from(batch, Origin::NONE)
    }

    /// The same with what the flush of the batch should know of the request.
    pub fn append_from(&self, batch: ValidBatch, origin: Origin) -> Result<AppendReceiver, AppendError> {
        let (reply, receiver) = oneshot::channel();
        self.sink.append(Append { batch, reply, origin })?;
        Ok(receiver)
    }
}
