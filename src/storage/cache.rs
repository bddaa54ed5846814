//! The block cache: stored batches in memory, in chunks that begin and end with a batch.
//!
//! A chunk is a whole extent where that is small or in the WAL, else a stretch of it of about 1 MiB between two batches
//! of the segment's sparse index. A chunk is checked once, when it is filled: every batch's CRC, length and offsets;
//! what is in the cache is good. Requests that miss at the same time share one GET, and fetches run on the I/O pool, so
//! that a reader that goes away does not waste one. The cache is bounded in bytes and scan-resistant (TinyLFU): one
//! catch-up reader does not push out what others read again and again.

use super::segment::{self, ExtentEntry, SegmentIndex, TAIL_READ_LEN, Tail, check_batch};
use super::{ObjectKey, ObjectStore, StoreError};
use crate::actors::partition::view::Extent;
use crate::actors::runtime::IoPool;
use crate::ids::{Offset, PartitionKey};
use crate::protocol::batch::StoredBatch;
use crate::trace;
use bytes::Bytes;
use moka::future::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::Instrument;

/// Extents above this length, at levels 1 and 2, are read in chunks of at least this many bytes.
pub const CHUNK_LEN_MIN: u64 = 1024 * 1024;
/// The share of the cache that holds chunk tables of segments is one part in this many.
const TABLE_SHARE: u64 = 16;
/// What an entry costs beside its bytes.
const ENTRY_OVERHEAD_LEN: usize = 256;

/// A stretch of an object that begins and ends with a batch of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSpec {
    /// First offset.
    pub base: Offset,
    /// First offset after it.
    pub next: Offset,
    /// Position in the object, bytes.
    pub position: u64,
    /// Length, bytes.
    pub len: u64,
    /// Greatest timestamp, ms.
    pub max_timestamp: i64,
}

/// Checked batches.
#[derive(Debug)]
pub struct Chunk {
    bytes: Bytes,
    batches: Vec<BatchSpan>,
}

#[derive(Debug, Clone, Copy)]
struct BatchSpan {
    base: Offset,
    next: Offset,
    max_timestamp: i64,
    start: u32,
    end: u32,
}

/// The chunks of each extent of a segment, by partition.
type Table = Vec<(PartitionKey, Arc<[ChunkSpec]>)>;

/// Where bytes come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What is read first; may be a copy.
    pub first: Arc<dyn ObjectStore>,
    /// What is read again if bytes came damaged: where objects were written.
    pub again: Arc<dyn ObjectStore>,
    /// Counts reads that came damaged.
    pub damaged: Arc<AtomicU64>,
}

impl Sources {
    /// Where to read, once it is known whether a first answer was damaged.
    fn after(&self, damaged: bool) -> &dyn ObjectStore {
        if damaged { &*self.again } else { &*self.first }
    }
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BlockCache {
    sources: Sources,
    pool: IoPool,
    /// By object and position.
    chunks: Cache<(ObjectKey, u64), Arc<Chunk>>,
    tables: Cache<ObjectKey, Arc<Table>>,
}

impl Chunk {
    /// Takes the batches of `bytes` apart and checks that they are what `spec` says. The error says what is wrong.
    fn check(bytes: Bytes, spec: &ChunkSpec) -> Result<Self, String> {
        if bytes.len() as u64 != spec.len {
            return Err(format!("{} bytes came instead of {}", bytes.len(), spec.len));
        }
        let mut batches = Vec::new();
        let (mut start, mut expected) = (0, spec.base);
        while start < bytes.len() {
            let header = check_batch(&bytes[start..])?;
            if header.base_offset != expected {
                return Err(format!("a batch at offset {} is where {expected} should be", header.base_offset));
            }
            let end = start + header.total_len() as usize;
            batches.push(BatchSpan {
                base: header.base_offset,
                next: header.next_offset(),
                max_timestamp: header.max_timestamp,
                start: start as u32,
                end: end as u32,
            });
            (start, expected) = (end, header.next_offset());
        }
        if expected != spec.next {
            return Err(format!("the batches end at offset {expected} instead of {}", spec.next));
        }
        batches.shrink_to_fit();
        Ok(Self { bytes, batches })
    }

    /// The batches from the one that contains `from`, or from the first.
    pub fn batches_from(&self, from: Offset) -> impl Iterator<Item = StoredBatch> + '_ {
        let first = self.batches.partition_point(|b| b.next <= from);
        self.batches[first..].iter().map(|span| self.batch(span))
    }

    /// The first batch that ends after `from` and has a timestamp of at least `timestamp_ms`.
    pub fn first_at_or_after(&self, from: Offset, timestamp_ms: i64) -> Option<StoredBatch> {
        let mut after = self.batches.iter().filter(|b| b.next > from);
        after.find(|b| b.max_timestamp >= timestamp_ms).map(|span| self.batch(span))
    }

    /// The greatest timestamp of the batches that end after `from`.
    pub fn max_timestamp_from(&self, from: Offset) -> Option<i64> {
        self.batches.iter().filter(|b| b.next > from).map(|b| b.max_timestamp).max()
    }

    fn batch(&self, span: &BatchSpan) -> StoredBatch {
        StoredBatch {
            base: span.base,
            next: span.next,
            max_timestamp: span.max_timestamp,
            head: self.bytes.slice(span.start as usize..span.end as usize),
            tail: Bytes::new(),
        }
    }

    fn cost(&self) -> usize {
        self.bytes.len() + self.batches.len() * size_of::<BatchSpan>() + ENTRY_OVERHEAD_LEN
    }
}

/// Cuts an extent at batches of its sparse index.
fn cut(extent: &ExtentEntry) -> Arc<[ChunkSpec]> {
    let mut specs: Vec<ChunkSpec> = Vec::new();
    for entry in &extent.batches {
        match specs.last_mut() {
            Some(open) if entry.position - open.position < CHUNK_LEN_MIN => {
                open.max_timestamp = open.max_timestamp.max(entry.max_timestamp);
            }
            last => {
                if let Some(complete) = last {
                    complete.next = entry.base;
                    complete.len = entry.position - complete.position;
                }
                specs.push(ChunkSpec {
                    base: entry.base,
                    next: extent.next,
                    position: entry.position,
                    len: extent.position + extent.len - entry.position,
                    max_timestamp: entry.max_timestamp,
                });
            }
        }
    }
    specs.into()
}

impl BlockCache {
    /// A cache of `bytes_max` bytes over `sources`, fetching on `pool`.
    pub fn new(sources: Sources, pool: IoPool, bytes_max: u64) -> Self {
        let table_bytes_max = bytes_max / TABLE_SHARE;
        let chunks = Cache::builder()
            .max_capacity(bytes_max - table_bytes_max)
            .weigher(|_: &(ObjectKey, u64), chunk: &Arc<Chunk>| chunk.cost().try_into().unwrap_or(u32::MAX))
            .build();
        let tables = Cache::builder()
            .max_capacity(table_bytes_max)
            .weigher(|_: &ObjectKey, table: &Arc<Table>| {
                let specs: usize = table.iter().map(|(_, specs)| 64 + specs.len() * size_of::<ChunkSpec>()).sum();
                (specs + ENTRY_OVERHEAD_LEN).try_into().unwrap_or(u32::MAX)
            })
            .build();
        Self { sources, pool, chunks, tables }
    }

    /// Bytes held now, as far as the cache's own bookkeeping has come.
    pub fn bytes_held(&self) -> u64 {
        self.chunks.weighted_size() + self.tables.weighted_size()
    }

    /// Lets the cache evict what is too much; it does so by itself on later calls.
    #[cfg(test)]
    pub async fn settle(&self) {
        self.chunks.run_pending_tasks().await;
        self.tables.run_pending_tasks().await;
    }

    /// True if the extent's chunks are known without a GET.
    pub fn knows_chunks_of(&self, extent: &Extent) -> bool {
        only_chunk(extent).is_some() || self.tables.contains_key(&extent.object.key)
    }

    /// True if the chunk can be had without a GET.
    pub fn has(&self, object: &ObjectKey, spec: &ChunkSpec) -> bool {
        self.chunks.contains_key(&(object.clone(), spec.position))
    }

    /// The chunks of an extent, in order.
    pub async fn chunks_of(&self, key: PartitionKey, extent: &Extent) -> Result<Arc<[ChunkSpec]>, StoreError> {
        if let Some(only) = only_chunk(extent) {
            return Ok(Arc::new([only]));
        }
        let object = extent.object.key.clone();
        let fetch = fetch_table(self.sources.clone(), object.clone(), extent.object.len);
        let fetch = on_pool(&self.pool, fetch);
        let table = self.tables.try_get_with_by_ref(&object, fetch).await.map_err(|e| (*e).clone())?;
        let found = table.binary_search_by_key(&key, |(key, _)| *key).ok().map(|i| &table[i].1);
        let fits = |specs: &&Arc<[ChunkSpec]>| match (specs.first(), specs.last()) {
            (Some(first), Some(last)) => {
                (first.base, first.position) == (extent.base, extent.position)
                    && (last.next, last.position + last.len) == (extent.next, extent.position + extent.len)
            }
            _ => false,
        };
        found.filter(fits).cloned().ok_or_else(|| StoreError::Corrupt {
            key: object,
            message: format!("its index disagrees with the metadata about partition {key} from {}", extent.base),
        })
    }

    /// A chunk, from memory or with one GET that simultaneous callers share.
    pub async fn chunk(&self, object: &ObjectKey, spec: &ChunkSpec) -> Result<Arc<Chunk>, StoreError> {
        let fetch = on_pool(&self.pool, fetch_chunk(self.sources.clone(), object.clone(), *spec));
        self.chunks.try_get_with((object.clone(), spec.position), fetch).await.map_err(|e| (*e).clone())
    }
}

/// Small extents and those of the WAL are one chunk, which is known without their object's index.
pub fn only_chunk(extent: &Extent) -> Option<ChunkSpec> {
    let many = extent.object.level > 0 && extent.len > CHUNK_LEN_MIN;
    (!many).then_some(ChunkSpec {
        base: extent.base,
        next: extent.next,
        position: extent.position,
        len: extent.len,
        max_timestamp: extent.max_timestamp,
    })
}

/// Runs `fetch` on the I/O pool and waits for it; nothing happens until the future is polled.
async fn on_pool<T: Send + 'static>(
    pool: &IoPool,
    fetch: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    match pool.spawn(fetch.in_current_span()).await {
        Ok(result) => result,
        Err(e) => Err(StoreError::Unavailable { message: format!("a fetch was interrupted: {e}") }),
    }
}

/// Damage on the way or in a copy is repaired by a second GET; damage in the object is not.
async fn fetch_chunk(sources: Sources, object: ObjectKey, spec: ChunkSpec) -> Result<Arc<Chunk>, StoreError> {
    let mut damaged = false;
    loop {
        let range = spec.position..spec.position + spec.len;
        let get = sources.after(damaged).get_range(&object, range.clone());
        let bytes = get.instrument(trace::get(&object, &range)).await;
        let checked = bytes.and_then(|bytes| {
            Chunk::check(bytes, &spec).map_err(|message| StoreError::Corrupt { key: object.clone(), message })
        });
        match checked {
            Err(StoreError::Corrupt { .. }) if !damaged => damaged = true,
            checked => return checked.map(Arc::new),
        }
        sources.damaged.fetch_add(1, Ordering::Relaxed);
    }
}

async fn fetch_table(sources: Sources, object: ObjectKey, object_len: u64) -> Result<Arc<Table>, StoreError> {
    let mut damaged = false;
    loop {
        let fetch = fetch_index(sources.after(damaged), &object, Some(object_len));
        match fetch.instrument(trace::get_suffix(&object, TAIL_READ_LEN.min(object_len))).await {
            Err(StoreError::Corrupt { .. }) if !damaged => damaged = true,
            index => return index.map(|index| Arc::new(index.extents.iter().map(|e| (e.key, cut(e))).collect())),
        }
        sources.damaged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads a segment's index: one GET, two if it is large. Recovery uses it too.
pub async fn fetch_index(
    store: &dyn ObjectStore,
    object: &ObjectKey,
    len_expected: Option<u64>,
) -> Result<SegmentIndex, StoreError> {
    let mut len = TAIL_READ_LEN;
    loop {
        let (tail, object_len) = store.get_suffix(object, len).await?;
        if len_expected.is_some_and(|expected| expected != object_len) {
            let message = format!("it has {object_len} bytes instead of {}", len_expected.unwrap_or_default());
            return Err(StoreError::Corrupt { key: object.clone(), message });
        }
        match segment::parse_tail(object, &tail, object_len)? {
            Tail::Index(index) => return Ok(index),
            Tail::NeedBytes(needed) if needed > tail.len() as u64 && needed > len => len = needed,
            Tail::NeedBytes(needed) => {
                let message = format!("{} bytes of its end came, {needed} are needed", tail.len());
                return Err(StoreError::Corrupt { key: object.clone(), message });
            }
        }
    }
}
