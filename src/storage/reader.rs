//! Reads committed batches: from the partition's in-memory tail, else the block cache, else one ranged GET.

use crate::actors::partition::view::PartitionView;
use crate::ids::Offset;
use crate::protocol::batch::StoredBatch;
use crate::storage::{ObjectStore, StoreError};
use std::sync::Arc;

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The offset is below the log start or above the high watermark.
    #[error("offset is out of range")]
    OutOfRange,
    /// The store failed or an object is damaged; never serve what it returned.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Bounds of the read path.
#[derive(Debug, Clone, Copy)]
pub struct ReaderLimits {
    /// Bytes of the block cache (`KAFSCALE_CACHE_BYTES`).
    pub cache_bytes: u64,
    /// Extents or segments fetched ahead of a sequential reader (`KAFSCALE_READAHEAD_SEGMENTS`).
    pub readahead_segments: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct LogReader {
    _store: Arc<dyn ObjectStore>,
}

impl LogReader {
    /// A reader on `store`. Must be created inside the I/O runtime; read-ahead runs there.
    pub fn new(store: Arc<dyn ObjectStore>, _limits: ReaderLimits) -> Self {
        Self { _store: store }
    }

    /// Whole batches, the first containing `from`, up to `bytes_max` (exceeded only by the first batch, and only if
    /// `at_least_one`). Empty at the high watermark.
    pub async fn read(
        &self,
        _view: &Arc<PartitionView>,
        _from: Offset,
        _bytes_max: usize,
        _at_least_one: bool,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        todo!()
    }

    /// The batches whose greatest timestamp is at least `timestamp_ms`: the first such batch at or after the log
    /// start, or `None`. The caller searches its records.
    pub async fn first_batch_at_or_after(
        &self,
        _view: &Arc<PartitionView>,
        _timestamp_ms: i64,
    ) -> Result<Option<StoredBatch>, ReadError> {
        todo!()
    }

    /// The batch that holds the partition's greatest timestamp, or `None` if the partition is empty.
    pub async fn batch_of_max_timestamp(&self, _view: &Arc<PartitionView>) -> Result<Option<StoredBatch>, ReadError> {
        todo!()
    }
}
