//! Reads committed batches: from the partition's in-memory tail, else the block cache, else one ranged GET.
//!
//! A read goes on from chunk to chunk and into the tail while offsets are contiguous and bytes are wanted, but waits for
//! at most a few GETs: what is ready is better answered than kept. Small extents in a row, as the WAL leaves them until they
//! are merged, are asked for together, as if they were one chunk. A reader that begins a chunk or comes to its end is
//! taken for sequential, and the chunks that follow are fetched meanwhile. Compaction may replace and delete an object
//! between the look at the view and the GET; then the view is looked at again.

use super::cache::{BlockCache, CHUNK_LEN_MIN, ChunkSpec, Sources, only_chunk};
use crate::actors::partition::view::{Extent, PartitionView, TailRead};
use crate::actors::runtime::IoPool;
use crate::ids::{Offset, PartitionKey};
use crate::protocol::batch::StoredBatch;
use crate::storage::{ObjectKey, ObjectStore, StoreError};
use crate::trace::{self, TraceContext};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use tracing::{Instrument, Span};

#[cfg(test)]
mod tests;

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

/// Extents in a row that are fetched together if they make no more than a chunk.
const RUN_EXTENTS_MAX: usize = 16;
/// Read-aheads under way at once, over all readers.
const READAHEAD_TASKS_MAX: usize = 32;
/// Partitions whose last read-ahead is remembered.
const READAHEAD_PARTITIONS_MAX: usize = 16 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub struct LogReader {
    cache: BlockCache,
    pool: IoPool,
    limits: ReaderLimits,
    readahead_permits: Arc<Semaphore>,
    /// Where the last read-ahead of a partition began, so that it is not repeated for each small read of a chunk.
    readahead_from: Mutex<HashMap<PartitionKey, Offset>>,
    stats: ReaderStats,
}

/// Counters of reads below the tails, for metrics.
#[derive(Debug, Default)]
pub struct ReaderStats {
    /// Chunks that were in the block cache.
    pub hits: AtomicU64,
    /// Chunks that were not.
    pub misses: AtomicU64,
    /// Chunks and indexes that came damaged and were read again.
    pub damaged: Arc<AtomicU64>,
}

/// Batches collected so far by one read.
struct Collected {
    batches: Vec<StoredBatch>,
    /// A batch without records that came before all others. Who asks for its offsets wants what follows, and gets it only
    /// if nothing does (some clients complain of an answer without records).
    hole: Option<StoredBatch>,
    bytes: usize,
    bytes_max: usize,
    at_least_one: bool,
    spans_left: usize,
    trace: TraceContext,
}

impl Collected {
    /// Takes a batch if it fits.
    fn take(&mut self, batch: StoredBatch) -> bool {
        if self.batches.is_empty() && batch.is_hole() {
            self.hole = Some(batch);
            return true;
        }
        let fits = self.bytes + batch.byte_len() <= self.bytes_max;
        let take = fits || (self.batches.is_empty() && self.at_least_one);
        if take {
            self.bytes += batch.byte_len();
            self.batches.push(batch);
        }
        take
    }

    fn next(&self, from: Offset) -> Offset {
        self.batches.last().or(self.hole.as_ref()).map_or(from, |b| b.next)
    }

    /// What there is to answer.
    fn into_batches(mut self) -> Vec<StoredBatch> {
        if self.batches.is_empty() {
            self.batches.extend(self.hole);
        }
        self.batches
    }

    fn bytes_left(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }

    /// A span of this read, unless it has too many already.
    fn span(&mut self, span: impl FnOnce(TraceContext) -> Span) -> Span {
        if self.spans_left == 0 {
            return Span::none();
        }
        self.spans_left -= 1;
        span(self.trace)
    }
}

/// What one step of a read came to.
enum Step {
    /// There may be more to take.
    More,
    /// The read is complete.
    Done,
}

impl LogReader {
    /// A reader on `store`. Must be created inside the I/O runtime; read-ahead runs there.
    pub fn new(store: Arc<dyn ObjectStore>, limits: ReaderLimits) -> Self {
        Self::with_copy(store.clone(), store, limits)
    }

    /// The same on `copy`; what comes damaged from there is read again from `primary`.
    pub fn with_copy(copy: Arc<dyn ObjectStore>, primary: Arc<dyn ObjectStore>, limits: ReaderLimits) -> Self {
        let pool = IoPool::current();
        let stats = ReaderStats::default();
        let sources = Sources { first: copy, again: primary, damaged: stats.damaged.clone() };
        Self {
            cache: BlockCache::new(sources, pool.clone(), limits.cache_bytes),
            pool,
            limits,
            readahead_permits: Arc::new(Semaphore::new(READAHEAD_TASKS_MAX)),
            readahead_from: Mutex::default(),
            stats,
        }
    }

    /// Bytes in the block cache, for metrics.
    pub fn cache_bytes_held(&self) -> u64 {
        self.cache.bytes_held()
    }

    /// Counters, for metrics.
    pub fn stats(&self) -> &ReaderStats {
        &self.stats
    }

    /// Whole batches, the first containing `from`, up to `bytes_max` (exceeded only by the first batch, and only if
    /// `at_least_one`). Empty at the high watermark. Where compaction left nothing, the first is the next one with records.
    pub async fn read(
        &self,
        view: &Arc<PartitionView>,
        from: Offset,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        self.read_for(TraceContext::NONE, view, from, bytes_max, at_least_one).await
    }

    /// The same for a request of this trace.
    pub async fn read_for(
        &self,
        trace: TraceContext,
        view: &Arc<PartitionView>,
        from: Offset,
        bytes_max: usize,
        at_least_one: bool,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        if from < view.log_start() || from > view.high_watermark() {
            return Err(ReadError::OutOfRange);
        }
        let spans_left = trace::CACHE_SPANS_MAX;
        let mut collected =
            Collected { batches: Vec::new(), hole: None, bytes: 0, bytes_max, at_least_one, spans_left, trace };
        let mut gets_left = 1 + self.limits.readahead_segments;
        let mut missing = None;
        loop {
            match self.step(view, from, &mut collected, &mut gets_left, &mut missing).await {
                Ok(Step::More) => {}
                Ok(Step::Done) => return Ok(collected.into_batches()),
                // What was read is good; the next read meets the error again.
                Err(_) if !collected.batches.is_empty() => return Ok(collected.batches),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes batches from the tail or from one chunk.
    async fn step(
        &self,
        view: &Arc<PartitionView>,
        from: Offset,
        collected: &mut Collected,
        gets_left: &mut usize,
        missing: &mut Option<ObjectKey>,
    ) -> Result<Step, ReadError> {
        let at = collected.next(from);
        let first = collected.batches.is_empty();
        match view.read_tail(at, collected.bytes_left(), first && collected.at_least_one) {
            TailRead::Below => {}
            TailRead::AtEnd => return Ok(Step::Done),
            TailRead::Batches(batches) => {
                collected.batches.extend(batches);
                return Ok(Step::Done);
            }
        }
        let Some(extent) = view.locate(at).filter(|e| e.base <= at) else {
            return Err(no_extent(view, at));
        };
        if !first && !self.cache.knows_chunks_of(&extent) && *gets_left == 0 {
            return Ok(Step::Done);
        }
        let object = &extent.object.key;
        let outcome = self.take_chunk(view, &extent, at, collected, gets_left).await;
        match outcome {
            Err(StoreError::NotFound { .. }) if missing.as_ref() != Some(object) => {
                *missing = Some(object.clone());
                Ok(Step::More)
            }
            outcome => Ok(outcome?),
        }
    }

    async fn take_chunk(
        &self,
        view: &Arc<PartitionView>,
        extent: &Extent,
        at: Offset,
        collected: &mut Collected,
        gets_left: &mut usize,
    ) -> Result<Step, StoreError> {
        let object = &extent.object.key;
        let index = match self.cache.knows_chunks_of(extent) {
            true => Span::none(),
            false => collected.span(|trace| trace::index(trace, object)),
        };
        let specs = self.cache.chunks_of(view.key, extent).instrument(index).await?;
        let spec = spec_at(object, &specs, at)?;
        let hit = self.cache.has(object, spec);
        if !hit {
            if *gets_left == 0 && !collected.batches.is_empty() {
                return Ok(Step::Done);
            }
            *gets_left = gets_left.saturating_sub(1);
        }
        let counted = if hit { &self.stats.hits } else { &self.stats.misses };
        counted.fetch_add(1, Ordering::Relaxed);
        if spec.base == at {
            self.read_ahead(view, spec.next);
        }
        let span = collected.span(|trace| trace::cache(trace, hit, object, spec.len));
        let run = if hit { Vec::new() } else { self.run_after(view, extent, collected.bytes_left()) };
        // Errors behind the first are for the reader that comes to them.
        let rest = futures::future::join_all(run.iter().map(|(object, spec)| self.cache.chunk(object, spec)));
        let (chunk, _) = futures::future::join(self.cache.chunk(object, spec), rest).instrument(span).await;
        let chunk = chunk?;
        for batch in chunk.batches_from(at) {
            if !collected.take(batch) {
                return Ok(Step::Done);
            }
        }
        self.read_ahead(view, spec.next);
        Ok(if collected.bytes_left() == 0 { Step::Done } else { Step::More })
    }

    /// What follows `first` in a row of small extents, is not in the cache, and is wanted if `bytes_wanted` are.
    fn run_after(&self, view: &PartitionView, first: &Extent, bytes_wanted: usize) -> Vec<(ObjectKey, ChunkSpec)> {
        let bytes_max = CHUNK_LEN_MIN.min(bytes_wanted as u64);
        if only_chunk(first).is_none() || first.len >= bytes_max {
            return Vec::new();
        }
        let mut bytes = first.len;
        let mut fits = |spec: &ChunkSpec| {
            bytes += spec.len;
            bytes <= bytes_max
        };
        let following = view.cold_from(first.next, RUN_EXTENTS_MAX - 1);
        let small = following.iter().map_while(|e| Some((e.object.key.clone(), only_chunk(e)?)));
        let run = small.take_while(|(_, spec)| fits(spec));
        run.filter(|(object, spec)| !self.cache.has(object, spec)).collect()
    }

    /// Fetches the chunks from offset `next` on in the background, unless that has been done or too much is under way.
    fn read_ahead(&self, view: &PartitionView, next: Offset) {
        let (key, count) = (view.key, self.limits.readahead_segments);
        if count == 0 || view.cold_from(next, 1).is_empty() {
            return;
        }
        {
            let mut begun = self.readahead_from.lock().expect("no panic under the lock");
            if begun.get(&key) == Some(&next) {
                return;
            }
            if begun.len() >= READAHEAD_PARTITIONS_MAX {
                begun.clear();
            }
            begun.insert(key, next);
        }
        let Ok(permit) = self.readahead_permits.clone().try_acquire_owned() else { return };
        let (cache, extents) = (self.cache.clone(), view.cold_from(next, count.max(RUN_EXTENTS_MAX)));
        self.pool.spawn(async move {
            let _permit = permit;
            // Errors are for the reader that comes to the chunk.
            if let Ok(ahead) = chunks_ahead(&cache, key, &extents, next, count).await {
                futures::future::join_all(ahead.iter().map(|(object, spec)| cache.chunk(object, spec))).await;
            }
        });
    }

    /// The batches whose greatest timestamp is at least `timestamp_ms`: the first such batch at or after the log
    /// start, or `None`. The caller searches its records.
    pub async fn first_batch_at_or_after(
        &self,
        view: &Arc<PartitionView>,
        timestamp_ms: i64,
    ) -> Result<Option<StoredBatch>, ReadError> {
        self.relocating(view, async || self.first_at_or_after(view, view.log_start(), timestamp_ms).await).await
    }

    /// The batch that holds the partition's greatest timestamp (the first, if several do), or `None` if the partition
    /// is empty.
    pub async fn batch_of_max_timestamp(&self, view: &Arc<PartitionView>) -> Result<Option<StoredBatch>, ReadError> {
        self.relocating(view, async || {
            let from = view.log_start();
            let (cut, max_of_whole) = view.with_log(|log| {
                let live = || log.extents.iter().filter(|e| e.next > from);
                let cut = live().next().filter(|e| e.base < from).cloned();
                (cut, live().filter(|e| e.base >= from).map(|e| e.max_timestamp).max())
            });
            let mut max = max_of_whole;
            if let Some(cut) = cut {
                // Part of this extent is below the log start, so its maximum may be too.
                for spec in self.cache.chunks_of(view.key, &cut).await?.iter().filter(|s| s.next > from) {
                    if max.is_none_or(|m| spec.max_timestamp >= m) {
                        let chunk = self.cache.chunk(&cut.object.key, spec).await?;
                        max = max.max(chunk.max_timestamp_from(from));
                    }
                }
            }
            let Some(max) = max else { return Ok(None) };
            self.first_at_or_after(view, from, max).await
        })
        .await
    }

    async fn first_at_or_after(
        &self,
        view: &Arc<PartitionView>,
        from: Offset,
        timestamp_ms: i64,
    ) -> Result<Option<StoredBatch>, StoreError> {
        let candidates = view.with_log(|log| {
            let recent = log.extents.iter().filter(|e| e.next > from && e.max_timestamp >= timestamp_ms);
            recent.take(2).cloned().collect::<Vec<_>>() // the first may have it below the log start only
        });
        for extent in &candidates {
            if let Some(batch) = self.search(view, extent, from, timestamp_ms).await? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// The first batch of `extent` that ends after `from` and is not older than `timestamp_ms`.
    async fn search(
        &self,
        view: &PartitionView,
        extent: &Extent,
        from: Offset,
        timestamp_ms: i64,
    ) -> Result<Option<StoredBatch>, StoreError> {
        let in_tail = view.with_log(|log| {
            let whole = log.tail.front().is_some_and(|b| b.base <= extent.base.max(from));
            let of_extent = log.tail.iter().filter(|b| b.next > from && b.base >= extent.base);
            whole.then(|| of_extent.into_iter().find(|b| b.max_timestamp >= timestamp_ms).cloned())
        });
        if let Some(found) = in_tail {
            return Ok(found);
        }
        for spec in self.cache.chunks_of(view.key, extent).await?.iter() {
            if spec.next > from && spec.max_timestamp >= timestamp_ms {
                let chunk = self.cache.chunk(&extent.object.key, spec).await?;
                if let Some(batch) = chunk.first_at_or_after(from, timestamp_ms) {
                    return Ok(Some(batch));
                }
            }
        }
        Ok(None)
    }

    /// Runs `search` again if an object it looks for is gone: compaction replaced it.
    async fn relocating<T>(
        &self,
        view: &PartitionView,
        search: impl AsyncFn() -> Result<T, StoreError>,
    ) -> Result<T, ReadError> {
        match search().await {
            Err(StoreError::NotFound { key }) if !view.with_log(|l| l.extents.iter().any(|e| e.object.key == key)) => {
                Ok(search().await?)
            }
            result => Ok(result?),
        }
    }
}

/// No extent has an offset that was in range a moment ago: it was trimmed, or the view is wrong.
fn no_extent(view: &PartitionView, at: Offset) -> ReadError {
    if at < view.log_start() {
        return ReadError::OutOfRange;
    }
    let message = format!("no object has offset {at} of partition {}", view.key);
    ReadError::Store(StoreError::Corrupt { key: ObjectKey::new(""), message })
}

fn spec_at<'a>(object: &ObjectKey, specs: &'a [ChunkSpec], at: Offset) -> Result<&'a ChunkSpec, StoreError> {
    let index = specs.partition_point(|s| s.next <= at);
    specs.get(index).ok_or_else(|| {
        let message = format!("it should have offset {at} and does not");
        StoreError::Corrupt { key: object.clone(), message }
    })
}

/// The first `count` chunks from offset `next` on, or more if they are so small that they make one together.
async fn chunks_ahead(
    cache: &BlockCache,
    key: PartitionKey,
    extents: &[Extent],
    next: Offset,
    count: usize,
) -> Result<Vec<(ObjectKey, ChunkSpec)>, StoreError> {
    let (mut ahead, mut bytes) = (Vec::with_capacity(count), 0);
    for extent in extents {
        let specs = cache.chunks_of(key, extent).await?;
        for spec in specs.iter().filter(|s| s.next > next) {
            bytes += spec.len;
            if ahead.len() >= count && (bytes > CHUNK_LEN_MIN || ahead.len() >= RUN_EXTENTS_MAX) {
                return Ok(ahead);
            }
            ahead.push((extent.object.key.clone(), *spec));
        }
    }
    Ok(ahead)
}
