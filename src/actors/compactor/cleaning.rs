//! Key compaction: reads a partition, writes what is left of it as new objects, and puts those in place of the old ones.
//!
//! One partition at a time, in steps that are small enough for others to get their turn between two of them: a step indexes
//! or cleans one group of extents. Between steps the partition may be trimmed, merged, given away or deleted; each step looks
//! at its extents anew, and a pass that no longer fits is given up. Nothing is lost with it: whatever groups were cleaned so
//! far are a compacted beginning of the log (see [`super::clean_plan`]).
//!
//! As with merging, new extents become part of the truth with the next checkpoint. A crash before that leaves the old ones.

use super::clean::{self, Cleaner, Indexed, Piece, Pieces, Rules, Seen};
use super::clean_plan::{self, Due};
use super::keys::KeyMap;
use super::{Maintenance, MaintenanceError, in_memory};
use crate::actors::context::NodeContext;
use crate::actors::partition::view::{Extent, ObjectRef, PartitionView};
use crate::actors::recovery;
use crate::ids::{Offset, PartitionKey, Seq};
use crate::metadata::image::ClusterImage;
use crate::protocol::batch::BatchHeader;
use crate::protocol::topic_config::CompactionConfig;
use crate::sabotage::{self, Sabotage};
use crate::storage::StoreError;
use crate::storage::segment::{self, Batches, LEVEL_COMPACTED, LEVEL_COMPACTED_TOMBSTONES, RawExtent, SegmentHeader};
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of batches that are looked into before other tasks get their turn.
const YIELD_EVERY_BYTES: usize = 256 * 1024;

/// What compaction remembers between its steps. None of it is needed after a restart.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    pass: Option<Pass>,
    /// When the next tombstone of a partition may go, ms, as the last pass saw it.
    horizons: HashMap<PartitionKey, i64>,
    /// Partitions whose pass failed, and when they are tried again, ms.
    failed: HashMap<PartitionKey, i64>,
}

/// A partition that is being compacted.
#[derive(Debug)]
struct Pass {
    key: PartitionKey,
    view: Arc<PartitionView>,
    map: KeyMap,
    /// Where the map ends, once that is known.
    map_end: Option<Offset>,
    /// Where it is to end, if all keys fit.
    end: Offset,
    /// First offset that has not been indexed; then, that has not been cleaned.
    next: Offset,
    /// Only horizons that have passed are looked for.
    tombstones_only: bool,
    seen: Seen,
}

impl Maintenance {
    /// Does one step of compaction. True if there is more to do now.
    pub async fn compact(&mut self, image: &ClusterImage) -> Result<bool, MaintenanceError> {
        let now_ms = self.context.clock.settled_ms(); // tombstones go for their age
        let Some(mut pass) = self.compaction.pass.take().or_else(|| self.most_urgent(image, now_ms)) else {
            return Ok(false);
        };
        let config = compacted(image, &pass.key);
        let serving = self.context.directory.get(&pass.key);
        let (Some(config), Some(_)) = (config, serving.filter(|p| Arc::ptr_eq(&p.view, &pass.view))) else {
            return Ok(true); // it is somebody else's now, or compacted no more
        };
        match self.step(&mut pass, &config, now_ms).await {
            Ok(true) => self.compaction.pass = Some(pass),
            Ok(false) => {}
            Err(error) => {
                self.compaction.failed.insert(pass.key, now_ms + self.limits.clean.retry_ms);
                return Err(error);
            }
        }
        Ok(true)
    }

    /// A pass over the partition with the greatest dirty share, if one is due.
    fn most_urgent(&mut self, image: &ClusterImage, now_ms: i64) -> Option<Pass> {
        let directory = self.context.directory.clone();
        let memory = &mut self.compaction;
        memory.horizons.retain(|key, _| directory.get(key).is_some());
        memory.failed.retain(|_, until_ms| *until_ms > now_ms);
        let mut best: Option<(Due, Arc<PartitionView>)> = None;
        for partition in directory.all() {
            let Some(config) = compacted(image, &partition.key) else { continue };
            if memory.failed.contains_key(&partition.key) {
                continue;
            }
            let extents = extents_of(&partition.view);
            let horizon_ms = memory.horizons.get(&partition.key).copied();
            let due = clean_plan::due(&extents, &config, &self.limits.clean, horizon_ms, now_ms);
            if let Some(due) = due.filter(|d| best.as_ref().is_none_or(|(b, _)| d.urgency() > b.urgency())) {
                best = Some((due, partition.view.clone()));
            }
        }
        let (due, view) = best?;
        let (next, end, map_end) = match due {
            Due::All { dirty, end, .. } => (dirty, end, None),
            Due::Tombstones { end } => (view.with_log(|log| log.extents.front().map(|e| e.base))?, end, Some(end)),
        };
        let tombstones_only = map_end.is_some();
        let map = KeyMap::new(self.limits.clean.keys_max);
        let key = view.key;
        memory.horizons.remove(&key); // until the pass has come to its end
        Some(Pass { key, view, map, map_end, end, next, tombstones_only, seen: Seen::default() })
    }

    /// True if the pass goes on.
    async fn step(
        &mut self,
        pass: &mut Pass,
        config: &CompactionConfig,
        now_ms: i64,
    ) -> Result<bool, MaintenanceError> {
        let extents = extents_of(&pass.view);
        let bytes_max = self.limits.clean.group_bytes_max;
        let group = clean_plan::group(&extents, pass.next, pass.map_end.unwrap_or(pass.end), bytes_max).to_vec();
        let Some(map_end) = pass.map_end else {
            self.index(pass, &group).await?;
            return Ok(true);
        };
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            self.finish(pass);
            return Ok(false);
        };
        if first.base != pass.next && first.base > pass.view.log_start() {
            return Ok(false); // it was rearranged meanwhile
        }
        let next = last.next;
        let rules = Rules {
            log_start: pass.view.log_start(),
            map_end,
            may_set_horizons: !pass.tombstones_only,
            now_ms,
            delete_retention_ms: config.delete_retention_ms,
        };
        let nothing_expires = |e: &Extent| pass.tombstones_only && e.object.level != LEVEL_COMPACTED_TOMBSTONES;
        if !group.iter().all(nothing_expires) && !self.clean(pass, rules, group).await? {
            return Ok(false);
        }
        pass.next = next;
        Ok(true)
    }

    /// Enters the keys of a group. Without one, or when the map is full, the map is complete and cleaning begins.
    async fn index(&mut self, pass: &mut Pass, group: &[Extent]) -> Result<(), MaintenanceError> {
        let mut full = None;
        'group: for extent in group {
            let mut source = Source::new(&self.context, pass.key, extent, self.limits.clean.read_bytes);
            while let Some((header, batch)) = source.next().await? {
                if header.next_offset() > pass.next && clean::index(&mut pass.map, &header, &batch) == Indexed::Full {
                    full = Some(header.base_offset);
                    break 'group;
                }
            }
            pass.next = extent.next;
        }
        if full.is_some() || pass.next >= pass.end || group.is_empty() {
            pass.map_end = Some(full.unwrap_or(pass.next));
            let goes = |e: &&Extent| !(sabotage::is(Sabotage::CompactDirtyOnly) && e.object.level >= LEVEL_COMPACTED);
            let start = pass.view.with_log(|log| log.extents.iter().find(goes).map(|e| e.base));
            pass.next = start.unwrap_or(pass.end);
        }
        Ok(())
    }

    /// Cleans a group and puts what is left in its place. False if it is not there any more.
    async fn clean(&mut self, pass: &mut Pass, rules: Rules, group: Vec<Extent>) -> Result<bool, MaintenanceError> {
        let map_end = rules.map_end;
        let alone_and_clean = matches!(&group[..], [e] if e.object.level >= segment::LEVEL_COMPACTED);
        let mut pieces = Pieces::new(map_end, self.limits.clean.group_bytes_max as usize);
        let mut with = Vec::new();
        let dropped_before = pass.seen.dropped;
        for extent in &group {
            let mut source = Source::new(&self.context, pass.key, extent, self.limits.clean.read_bytes);
            while let Some((header, batch)) = source.next().await? {
                let mut cleaner = Cleaner::new(&pass.map, rules, &mut pass.seen);
                // To leave it as it is would not do: tombstones above it are to go.
                let fate = cleaner.judge(&header, &batch).map_err(|e| source.damaged(e.to_string()))?;
                pieces.push(&header, &batch, &fate);
                for piece in pieces.take_complete() {
                    with.push(self.write_piece(pass.key, piece).await?);
                }
            }
        }
        let (rest, changed) = pieces.finish();
        if !changed && alone_and_clean {
            return Ok(true);
        }
        for piece in rest {
            with.push(self.write_piece(pass.key, piece).await?);
        }
        let done = !pass.view.is_closed() && pass.view.rearrange(|log| log.compact(with));
        if done {
            self.rearranged = true;
            let dropped = pass.seen.dropped - dropped_before;
            self.context.stats.compacted_records.fetch_add(dropped, Ordering::Relaxed);
        }
        Ok(done)
    }

    async fn write_piece(&mut self, partition: PartitionKey, piece: Piece) -> Result<Extent, MaintenanceError> {
        let context = self.context.clone();
        let (registration, created_ms) = (&context.registration, context.clock.wall_ms());
        let header = SegmentHeader {
            cluster_id: context.cluster_id.clone(),
            level: piece.level,
            writer: registration.writer,
            nonce: registration.nonce,
            seq: Seq(context.stats.head.load(Ordering::Acquire)),
            revision_seen: registration.revision,
        };
        let key = context.layout.segment(&partition, piece.base, piece.next, crate::rng::ulid(created_ms));
        let raw = RawExtent {
            source: key.clone(),
            key: partition,
            leader_epoch: piece.leader_epoch,
            base: piece.base,
            batches: Batches::Read(piece.bytes.freeze()),
        };
        let (payload, index) = segment::build_from_extents(&header, vec![raw])?;
        // Known before it exists: if this fails half-way, the object is garbage at the next checkpoint.
        self.known.insert(key.clone());
        context.store.create(&key, &payload).await?;
        context.stats.compacted_bytes.fetch_add(payload.len, Ordering::Relaxed);
        let object = Arc::new(ObjectRef { key, level: piece.level, len: payload.len, created_ms });
        let extent = recovery::extent(&object, &index.extents[0]);
        assert_eq!((extent.base, extent.next), (piece.base, piece.next), "a piece keeps its offsets");
        Ok(extent)
    }

    fn finish(&mut self, pass: &Pass) {
        self.context.stats.compactions.fetch_add(1, Ordering::Relaxed);
        self.compaction.horizons.insert(pass.key, pass.seen.horizon_ms.unwrap_or(i64::MAX));
        if pass.seen.unreadable > 0 {
            tracing::warn!(
                partition = %pass.key,
                batches = pass.seen.unreadable,
                "batches whose records cannot be read stay as they are, and tombstones above them too"
            );
        }
        tracing::debug!(partition = %pass.key, dropped = pass.seen.dropped, end = %pass.end, "compacted");
    }
}

/// How the partition's topic is compacted, if it is.
fn compacted(image: &ClusterImage, key: &PartitionKey) -> Option<CompactionConfig> {
    let config = &image.topic_by_id(key.topic)?.config;
    config.compact.then_some(config.compaction)
}

fn extents_of(view: &PartitionView) -> Vec<Extent> {
    view.with_log(|log| log.extents.iter().cloned().collect())
}

/// The batches of an extent, one after the other, checked.
struct Source {
    context: Arc<NodeContext>,
    extent: Extent,
    read_bytes: u64,
    /// Batches that are in memory since they were appended.
    kept: VecDeque<Bytes>,
    /// Read and not yet given out.
    buffer: Bytes,
    /// Position in the object of what comes after the buffer.
    position: u64,
    /// Offset that follows.
    expected: Offset,
    since_yield: usize,
}

impl Source {
    fn new(context: &Arc<NodeContext>, key: PartitionKey, extent: &Extent, read_bytes: u64) -> Self {
        let kept = match in_memory(context, &key, extent) {
            Some(Batches::Kept(batches)) => batches.iter().map(|b| whole(&b.head, &b.tail)).collect(),
            _ => VecDeque::new(),
        };
        let position = if kept.is_empty() { extent.position } else { extent.position + extent.len };
        let (extent, buffer, expected) = (extent.clone(), Bytes::new(), extent.base);
        let context = context.clone();
        Self { context, extent, read_bytes, kept, buffer, position, expected, since_yield: 0 }
    }

    /// The next batch and its header.
    async fn next(&mut self) -> Result<Option<(BatchHeader, Bytes)>, StoreError> {
        if self.since_yield >= YIELD_EVERY_BYTES {
            self.since_yield = 0;
            tokio::task::yield_now().await;
        }
        if let Some(kept) = self.kept.pop_front() {
            self.buffer = kept;
        }
        while self.wants_more() {
            self.fill().await?;
        }
        if self.buffer.is_empty() {
            return if self.expected == self.extent.next {
                Ok(None)
            } else {
                Err(self
                    .damaged(format!("its batches end at offset {} instead of {}", self.expected, self.extent.next)))
            };
        }
        let header = segment::check_batch(&self.buffer).map_err(|message| self.damaged(message))?;
        if header.base_offset != self.expected {
            let message = format!("a batch at offset {} is where {} should be", header.base_offset, self.expected);
            return Err(self.damaged(message));
        }
        self.expected = header.next_offset();
        let batch = self.buffer.split_to(header.total_len() as usize);
        self.since_yield += batch.len();
        Ok(Some((header, batch)))
    }

    /// True if the buffer does not have the whole next batch and there is more to read.
    fn wants_more(&self) -> bool {
        let more = self.position < self.extent.position + self.extent.len;
        let batch_len = BatchHeader::parse(&self.buffer).map_or(i64::MAX, |header| header.total_len());
        more && (self.buffer.len() as i64) < batch_len
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        let end = (self.position + self.read_bytes).min(self.extent.position + self.extent.len);
        let read = self.context.store.get_range(&self.extent.object.key, self.position..end).await?;
        if read.len() as u64 != end - self.position {
            return Err(self.damaged(format!("{} bytes came instead of {}", read.len(), end - self.position)));
        }
        self.position = end;
        self.buffer = whole(&self.buffer, &read);
        Ok(())
    }

    fn damaged(&self, message: String) -> StoreError {
        StoreError::Corrupt { key: self.extent.object.key.clone(), message }
    }
}

/// Both parts as one, without a copy if one is empty.
fn whole(first: &Bytes, second: &Bytes) -> Bytes {
    if second.is_empty() {
        return first.clone();
    }
    if first.is_empty() {
        return second.clone();
    }
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(first);
    both.extend_from_slice(second);
    both.freeze()
}
