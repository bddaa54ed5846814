//! Rebuilds partitions from storage: the last checkpoint that includes a partition, then the indexes of the WAL objects
//! after it, up to each writer's head and never by LIST. Used at start, at a takeover, and when a partition's actor
//! failed: there is one way to come back.

use crate::actors::ahead::Ahead;
use crate::actors::partition::PartitionSnapshot;
use crate::actors::partition::producers::{ProducerBatch, Producers};
use crate::actors::partition::view::{EpochStart, Extent, ObjectRef};
use crate::clock::WallMs;
use crate::ids::{LeaderEpoch, Offset, PartitionKey, Seq, WriterId};
use crate::metadata::model::{PartitionValue, WriterValue};
use crate::protocol::batch::add_sequence;
use crate::sabotage;
use crate::storage::checkpoint::{Catalog, Checkpoint, GarbageRecord, PartitionCheckpoint};
use crate::storage::layout::Layout;
use crate::storage::segment::{self, ExtentEntry, SegmentIndex, Tail};
use crate::storage::{ObjectKey, ObjectStore, StoreError};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Index tails read at the same time.
pub const TAILS_IN_FLIGHT_MAX: usize = 32;

/// A recovered partition, ready to be led.
#[derive(Debug)]
pub struct Seed {
    /// The partition.
    pub key: PartitionKey,
    /// Epoch of the claim under which it will be led.
    pub leader_epoch: LeaderEpoch,
    /// First offset that may be read.
    pub log_start: Offset,
    /// End of what is committed.
    pub next_offset: Offset,
    /// Leader epochs in ascending order, the claim's included.
    pub epochs: Vec<EpochStart>,
    /// Extents in offset order.
    pub extents: VecDeque<Extent>,
    /// Idempotent producers.
    pub producers: Producers,
    /// Writers that it was rebuilt from, oldest first: a successor needs them until this broker's first checkpoint.
    pub history: Vec<WriterId>,
}

/// Why a partition could not be rebuilt.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RecoveryError {
    /// An object could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Committed data is missing or contradicts itself.
    #[error("partition {key}: {message}")]
    Inconsistent {
        /// The partition.
        key: PartitionKey,
        /// What is wrong.
        message: String,
    },
    /// A writer in a partition's history is not in the metadata store.
    #[error(
        "writer {0} is named by a partition but unknown to the metadata store; if it was restored from a backup, stop all \
         brokers and run `kafscale recover`"
    )]
    UnknownWriter(WriterId),
    /// The metadata store is older than what objects say.
    #[error(
        "the metadata store is at revision {now} but {key} was written when it was at {seen}: it was restored from \
         an older backup; stop all brokers and run `kafscale recover`"
    )]
    RevisionWentBack {
        /// Present revision.
        now: i64,
        /// Revision in the object.
        seen: i64,
        /// The object.
        key: ObjectKey,
    },
}

/// What one writer left behind: its checkpoint and the indexes of the WAL objects after it.
#[derive(Debug)]
pub struct WriterLog {
    checkpoint_key: Option<ObjectKey>,
    objects: Vec<Arc<ObjectRef>>,
    partitions: BTreeMap<PartitionKey, PartitionCheckpoint>,
    garbage: Vec<GarbageRecord>,
    tails: Vec<(Arc<ObjectRef>, SegmentIndex)>,
    uncommitted: Vec<ObjectKey>,
    /// What the checkpoint says of topics and settings.
    pub catalog: Option<Catalog>,
}

/// Loads writers' logs and replays partitions from them.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Where objects are.
    pub store: Arc<dyn ObjectStore>,
    /// How keys are formatted.
    pub layout: Layout,
    /// Whose objects they must be.
    pub cluster_id: String,
    /// What has been read already.
    pub ahead: Arc<Ahead>,
}

/// Slots after a sealed head that an upload may still have reached.
const UNCOMMITTED_SLOTS: u64 = 16;

impl Recovery {
    /// Loads what `writer` left behind up to the head in `value`. `revision_now` is the metadata store's.
    pub async fn load(
        &self,
        writer: WriterId,
        value: &WriterValue,
        revision_now: i64,
    ) -> Result<WriterLog, RecoveryError> {
        let mut log = WriterLog {
            checkpoint_key: None,
            objects: Vec::new(),
            partitions: BTreeMap::new(),
            garbage: Vec::new(),
            tails: Vec::new(),
            uncommitted: Vec::new(),
            catalog: None,
        };
        let head = sabotage::recovered_head(value.head);
        let tails = |from: Seq| self.tails(writer, value.nonce, from.0 + 1..=head.0, revision_now);
        if let Some(pointer) = &value.checkpoint {
            let key = ObjectKey::new(pointer.key.as_str());
            // Both at once: nobody serves the partitions meanwhile.
            let (checkpoint, after) = futures::join!(self.checkpoint(writer, &key, revision_now), tails(pointer.seq));
            let checkpoint = checkpoint?;
            log.tails = if checkpoint.seq == pointer.seq { after? } else { tails(checkpoint.seq).await? };
            log.objects = checkpoint.object_refs();
            log.garbage = checkpoint.garbage;
            log.catalog = checkpoint.catalog;
            log.partitions = checkpoint.partitions.into_iter().map(|p| (p.key, p)).collect();
            log.checkpoint_key = Some(key);
        } else {
            log.tails = tails(Seq(0)).await?;
        }
        let after = value.head.0 + 1..=value.head.0 + UNCOMMITTED_SLOTS;
        log.uncommitted = after.map(|seq| self.layout.wal(writer, value.nonce, Seq(seq))).collect();
        Ok(log)
    }

    async fn checkpoint(
        &self,
        writer: WriterId,
        key: &ObjectKey,
        revision_now: i64,
    ) -> Result<Checkpoint, RecoveryError> {
        let (bytes, _) = self.end(writer, key, u64::from(u32::MAX)).await?;
        let checkpoint = Checkpoint::decode(key, &bytes)?;
        self.check_origin(key, &checkpoint.cluster_id, checkpoint.revision_seen, revision_now)?;
        Ok(checkpoint)
    }

    /// The end of an object of `writer`, at least `len` bytes if it has as many; and its length.
    async fn end(&self, writer: WriterId, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        match self.ahead.take(writer, key).await {
            Some((bytes, object_len)) if bytes.len() as u64 >= len.min(object_len) => Ok((bytes, object_len)),
            _ => self.store.get_suffix(key, len).await,
        }
    }

    /// The indexes of a run of committed slots, in order.
    pub(crate) async fn tails(
        &self,
        writer: WriterId,
        nonce: u64,
        slots: RangeInclusive<u64>,
        revision_now: i64,
    ) -> Result<Vec<(Arc<ObjectRef>, SegmentIndex)>, RecoveryError> {
        let slots = slots.map(|seq| self.tail(writer, nonce, Seq(seq), revision_now));
        futures::stream::iter(slots).buffered(TAILS_IN_FLIGHT_MAX).try_collect().await
    }

    /// A WAL object and its index.
    pub async fn tail(
        &self,
        writer: WriterId,
        nonce: u64,
        seq: Seq,
        revision_now: i64,
    ) -> Result<(Arc<ObjectRef>, SegmentIndex), RecoveryError> {
        let key = self.layout.wal(writer, nonce, seq);
        let mut want = segment::TAIL_READ_LEN;
        let (index, len) = loop {
            let (bytes, len) = self.end(writer, &key, want).await?;
            match segment::parse_tail(&key, &bytes, len)? {
                Tail::Index(index) => break (index, len),
                Tail::NeedBytes(more) if more > want => want = more,
                Tail::NeedBytes(_) => {
                    let message = "its index does not fit into it".to_owned();
                    return Err(StoreError::Corrupt { key, message }.into());
                }
            }
        };
        let h = &index.header;
        self.check_origin(&key, &h.cluster_id, h.revision_seen, revision_now)?;
        if (h.writer, h.nonce, h.seq) != (writer, nonce, seq) {
            let message = format!("it says it is slot {} of writer {}", h.seq, h.writer);
            return Err(StoreError::Corrupt { key, message }.into());
        }
        let newest = index.extents.iter().map(|e| e.max_timestamp).max().unwrap_or(0);
        Ok((Arc::new(ObjectRef { key, level: 0, len, created_ms: newest }), index))
    }

    fn check_origin(&self, key: &ObjectKey, cluster: &str, seen: i64, now: i64) -> Result<(), RecoveryError> {
        if cluster != self.cluster_id {
            let message = format!("it belongs to cluster {cluster}, not to {}", self.cluster_id);
            return Err(StoreError::Corrupt { key: key.clone(), message }.into());
        }
        if seen > now {
            return Err(RecoveryError::RevisionWentBack { now, seen, key: key.clone() });
        }
        Ok(())
    }
}

/// Rebuilds `key`, whose ownership value before the coming claim (or, after a failure, of the present claim) is
/// `value`; it will be led under `leader_epoch`.
pub fn replay(
    key: PartitionKey,
    value: Option<&PartitionValue>,
    leader_epoch: LeaderEpoch,
    logs: &BTreeMap<WriterId, WriterLog>,
    now_ms: WallMs,
) -> Result<Seed, RecoveryError> {
    let mut seed = Seed {
        key,
        leader_epoch,
        log_start: Offset(0),
        next_offset: Offset(0),
        epochs: Vec::new(),
        extents: VecDeque::new(),
        producers: Producers::default(),
        history: Vec::new(),
    };
    for writer in value.map_or(&[][..], |v| &v.history[..]).iter().rev() {
        let log = logs.get(writer).ok_or(RecoveryError::UnknownWriter(*writer))?;
        seed.history.insert(0, *writer);
        if let Some(checkpoint) = log.partitions.get(&key) {
            seed.start_from(checkpoint, &log.objects); // everything older is in it
            break;
        }
    }
    if let Some(PartitionValue { history, epoch, .. }) = value
        && let [named] = history[..]
        && *epoch > LeaderEpoch(0)
        && seed.epochs.last().is_none_or(|newest| newest.epoch < *epoch)
    {
        // Its claim came after a checkpoint with all of the partition: without that, this would be an empty or an old log.
        let message = format!(
            "the checkpoint of writer {named} does not have it as of epoch {epoch}, under which the writer claimed it; \
             restore that checkpoint object, or the metadata store as it was"
        );
        return Err(RecoveryError::Inconsistent { key, message });
    }
    for writer in seed.history.clone() {
        for (object, index) in &logs[&writer].tails {
            let found = index.extents.binary_search_by(|e| e.key.cmp(&key));
            if let Ok(position) = found {
                seed.apply(object, &index.extents[position], now_ms)?;
            }
        }
    }
    if let Some(value) = value {
        seed.log_start = seed.log_start.max(value.log_start);
    }
    if seed.log_start > seed.next_offset {
        let message = format!("log start {} is above the committed end {}", seed.log_start, seed.next_offset);
        return Err(RecoveryError::Inconsistent { key, message });
    }
    while seed.extents.front().is_some_and(|e| e.next <= seed.log_start) {
        seed.extents.pop_front();
    }
    if seed.epochs.last().is_none_or(|e| e.epoch < leader_epoch) {
        seed.epochs.push(EpochStart { epoch: leader_epoch, start: seed.next_offset });
    }
    Ok(seed)
}

impl WriterLog {
    /// Everything the log knows of that the next checkpoint may stop referring to.
    pub fn known_objects(&self) -> impl Iterator<Item = ObjectKey> {
        let objects = self.objects.iter().map(|o| o.key.clone());
        let tails = self.tails.iter().map(|(o, _)| o.key.clone());
        objects.chain(tails).chain(self.checkpoint_key.clone()).chain(self.uncommitted.iter().cloned())
    }

    /// True if the log's checkpoint includes the partition: no older log is needed for it.
    pub fn includes(&self, key: &PartitionKey) -> bool {
        self.partitions.contains_key(key)
    }

    /// The last leader epoch and the greatest end that there is of a partition, whether or not the log is complete; nothing that
    /// it lost from before its head was later than that.
    pub fn shown(&self, key: &PartitionKey) -> Option<(LeaderEpoch, Offset)> {
        let checkpoint = self.partitions.get(key);
        let entry = checkpoint.map(|p| (p.epochs.last().map_or(LeaderEpoch(0), |e| e.epoch), p.next_offset));
        let tails = self.tails.iter().filter_map(|(_, index)| shown_in(index, key));
        tails.chain(entry).reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
    }

    /// Garbage that the log's checkpoint had not deleted yet.
    pub fn garbage(&self) -> &[GarbageRecord] {
        &self.garbage
    }

    /// The greatest producer id in the log, -1 if there is none.
    pub fn producer_max(&self) -> i64 {
        let ids = self.partitions.values().flat_map(|p| p.producers.iter().map(|p| p.id.0));
        let extents = self.tails.iter().flat_map(|(_, index)| &index.extents);
        ids.chain(extents.flat_map(|e| e.batches.iter().map(|b| b.producer_id.0))).max().unwrap_or(-1)
    }

    /// Partitions that have something in the log, with repetitions.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionKey> {
        let tails = self.tails.iter().flat_map(|(_, index)| index.extents.iter().map(|e| e.key));
        self.partitions.keys().copied().chain(tails)
    }
}

impl Seed {
    fn start_from(&mut self, checkpoint: &PartitionCheckpoint, objects: &[Arc<ObjectRef>]) {
        self.log_start = checkpoint.log_start;
        self.next_offset = checkpoint.next_offset;
        self.epochs.clone_from(&checkpoint.epochs);
        self.extents = checkpoint.extents.iter().map(|e| e.extent(objects)).collect();
        self.producers = Producers::restore(checkpoint.producers.clone());
    }

    /// Applies a committed extent; one that the checkpoint had already is skipped.
    fn apply(&mut self, object: &Arc<ObjectRef>, entry: &ExtentEntry, now_ms: WallMs) -> Result<(), RecoveryError> {
        let before = self.next_offset;
        self.next_offset = append(self.key, before, &mut self.epochs, &mut self.extents, object, entry)?;
        if self.next_offset == before {
            return Ok(());
        }
        for batch in entry.batches.iter().filter(|b| b.producer_id.0 >= 0) {
            let count = (batch.next.0 - batch.base.0) as i32;
            let remembered = ProducerBatch {
                epoch: batch.producer_epoch,
                first_sequence: batch.first_sequence,
                last_sequence: add_sequence(batch.first_sequence, count - 1),
                base: batch.base,
                next: batch.next,
            };
            self.producers.remember(batch.producer_id, remembered, self.next_offset, now_ms);
        }
        Ok(())
    }

    /// A partition as it was when it was given away.
    pub fn of(snapshot: PartitionSnapshot, leader_epoch: LeaderEpoch, me: WriterId) -> Self {
        let PartitionSnapshot { checkpoint, extents } = snapshot;
        Self {
            key: checkpoint.key,
            leader_epoch,
            log_start: checkpoint.log_start,
            next_offset: checkpoint.next_offset,
            epochs: checkpoint.epochs,
            extents: extents.into(),
            producers: Producers::restore(checkpoint.producers),
            history: vec![me],
        }
    }

    /// The same partition, to be led again under `value`'s next epoch.
    pub fn again(&self, value: &PartitionValue) -> Self {
        let leader_epoch = LeaderEpoch(value.epoch.0 + 1);
        let log_start = self.log_start.max(value.log_start);
        let mut epochs = self.epochs.clone();
        epochs.push(EpochStart { epoch: leader_epoch, start: self.next_offset });
        let extents = self.extents.iter().filter(|e| e.next > log_start).cloned().collect();
        let producers = Producers::restore(self.producers.snapshot(self.next_offset));
        Self { leader_epoch, log_start, epochs, extents, producers, history: self.history.clone(), ..*self }
    }

    /// The partition as the next checkpoint has it.
    pub fn checkpoint(&self, table: &mut crate::storage::checkpoint::ObjectTable) -> PartitionCheckpoint {
        PartitionCheckpoint {
            key: self.key,
            log_start: self.log_start,
            next_offset: self.next_offset,
            epochs: self.epochs.clone(),
            extents: self.extents.iter().map(|e| table.extent(e)).collect(),
            producers: self.producers.snapshot(self.next_offset),
        }
    }
}

/// Puts a committed extent behind the others of `key`, whose log ends at `end`, and returns the new end. One that the log
/// has already is left out; one that leaves a gap is an error.
pub(crate) fn append(
    key: PartitionKey,
    end: Offset,
    epochs: &mut Vec<EpochStart>,
    extents: &mut VecDeque<Extent>,
    object: &Arc<ObjectRef>,
    entry: &ExtentEntry,
) -> Result<Offset, RecoveryError> {
    if entry.next <= end {
        return Ok(end);
    }
    if entry.base != end {
        let (object, base, next) = (&object.key, entry.base, entry.next);
        let message = format!("object {object} has offsets {base}..{next} but the log ends at {end}");
        return Err(RecoveryError::Inconsistent { key, message });
    }
    if epochs.last().is_none_or(|e| e.epoch < entry.leader_epoch) {
        epochs.push(EpochStart { epoch: entry.leader_epoch, start: entry.base });
    }
    extents.push_back(extent(object, entry));
    Ok(entry.next)
}

/// Leader epoch and end of what an object has of a partition.
pub fn shown_in(index: &SegmentIndex, key: &PartitionKey) -> Option<(LeaderEpoch, Offset)> {
    let position = index.extents.binary_search_by(|e| e.key.cmp(key)).ok()?;
    let entry = &index.extents[position];
    Some((entry.leader_epoch, entry.next))
}

/// An extent of `object` as its index describes it.
pub fn extent(object: &Arc<ObjectRef>, entry: &ExtentEntry) -> Extent {
    Extent {
        base: entry.base,
        next: entry.next,
        object: object.clone(),
        position: entry.position,
        len: entry.len,
        max_timestamp: entry.max_timestamp,
        leader_epoch: entry.leader_epoch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PartitionIndex, TopicId};

    fn log_with(key: PartitionKey, epochs: &[i32]) -> WriterLog {
        let epochs = epochs.iter().map(|epoch| EpochStart { epoch: LeaderEpoch(*epoch), start: Offset(0) }).collect();
        let partition = PartitionCheckpoint {
            key,
            log_start: Offset(0),
            next_offset: Offset(0),
            epochs,
            extents: Vec::new(),
            producers: Vec::new(),
        };
        WriterLog {
            checkpoint_key: None,
            objects: Vec::new(),
            partitions: BTreeMap::from([(key, partition)]),
            garbage: Vec::new(),
            tails: Vec::new(),
            uncommitted: Vec::new(),
            catalog: None,
        }
    }

    #[test]
    fn a_log_without_what_was_claimed_is_no_empty_partition() {
        let of = |n| PartitionKey { topic: TopicId(uuid::Uuid::from_u128(n)), partition: PartitionIndex(0) };
        let logs = BTreeMap::from([(WriterId(7), log_with(of(1), &[0, 2]))]);
        let replayed = |key, epoch| {
            let (owner, history) = (Some(WriterId(7)), vec![WriterId(7)]);
            let value = PartitionValue { v: 1, owner, epoch: LeaderEpoch(epoch), history, log_start: Offset(0) };
            replay(key, Some(&value), LeaderEpoch(epoch + 1), &logs, 0).is_ok()
        };
        assert!(replayed(of(1), 2));
        assert!(!replayed(of(1), 3), "the entry is from before the claim");
        assert!(!replayed(of(2), 1), "there is none");
        assert!(replayed(of(2), 0), "a new partition of which nothing was written");
    }
}
