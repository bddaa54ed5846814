//! Background work of a broker's writer: checkpoints, merging, key compaction, retention, deletion of what nothing refers to.
//!
//! One [`Maintenance`] exists per broker, behind a mutex: its steps never overlap. The order that keeps data safe:
//!
//! 1. A checkpoint is durable before the writer's key points to it.
//! 2. An object becomes garbage only when a *committed* checkpoint no longer refers to it, and the garbage list is
//!    itself in the checkpoint. A LIST (`scrub.rs`) only ever adds to that list.
//! 3. Garbage is deleted only after it has aged, after a second look at the writer's key (still active, still ours)
//!    and at the present references.
//! 4. A log start is raised in the metadata store before readers see it and before anything below becomes garbage.
//! 5. A partition leaves the checkpoint only if the metadata store says that its topic is deleted or that another writer's
//!    checkpoint has it.
//! 6. What other writers' checkpoints and WAL refer to is no garbage, whoever listed it.

mod burial;
mod catalog;
pub mod clean;
pub mod clean_plan;
mod cleaning;
pub mod foreign;
pub mod held;
pub mod keys;
pub mod orphans;
pub mod plan;
pub mod scrub;

use crate::actors::context::NodeContext;
use crate::actors::flusher::PointToCheckpoint;
use crate::actors::partition::TakeSnapshot;
use crate::actors::partition::view::{Extent, ObjectRef};
use crate::actors::recovery::{self, RecoveryError, WriterLog};
use crate::broker::{Broker, PartitionControl, RaiseError};
use crate::ids::{Offset, PartitionKey, Seq};
use crate::metadata::image::ClusterImage;
use crate::metadata::model::{CheckpointRef, WriterState};
use crate::metadata::ownership::OwnershipError;
use crate::metadata::watcher::ImageFeed;
use crate::metadata::{MetadataError, Revision};
use crate::storage::checkpoint::{Checkpoint, GarbageRecord, ObjectTable};
use crate::storage::segment::{self, Batches, RawExtent, SegmentHeader};
use crate::storage::{ObjectKey, ObjectStore, StoreError};
use clean_plan::CleanLimits;
use cleaning::Compaction;
use foreign::Foreign;
use futures::{StreamExt, TryStreamExt};
use held::Held;
use plan::{Merge, MergeLimits, Run};
use scrub::Scrub;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

/// Cadence and bounds.
#[derive(Debug, Clone, Copy)]
pub struct MaintenanceLimits {
    /// Flushes after which a checkpoint is due: bounds the requests of a successor's replay.
    pub checkpoint_flushes: u64,
    /// Batches after which a checkpoint is due: bounds the memory of a successor's replay.
    pub checkpoint_batches: u64,
    /// Time after which a checkpoint is due if anything was flushed or merged.
    pub checkpoint_every: Duration,
    /// Time after which a checkpoint is due if topics or settings changed, so that they can be restored from it.
    pub catalog_every: Duration,
    /// Time between looks at merging and retention.
    pub look_every: Duration,
    /// Age at which garbage may be deleted, ms.
    pub garbage_age_ms: i64,
    /// Pause between two passes of the scrub, and before the first.
    pub scrub_every: Duration,
    /// Least age of an object that the scrub may take for an orphan, ms.
    pub scrub_age_ms: i64,
    /// Merging.
    pub merge: MergeLimits,
    /// Key compaction.
    pub clean: CleanLimits,
}

impl Default for MaintenanceLimits {
    fn default() -> Self {
        Self {
            checkpoint_flushes: 512,
            checkpoint_batches: 400_000,
            checkpoint_every: Duration::from_secs(300),
            catalog_every: Duration::from_secs(10),
            look_every: Duration::from_secs(15),
            garbage_age_ms: 3_600_000,
            scrub_every: Duration::from_secs(6 * 3_600),
            scrub_age_ms: 24 * 3_600_000,
            merge: MergeLimits::default(),
            clean: CleanLimits::default(),
        }
    }
}

/// Why a step did not finish; it is tried again at the next look.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The metadata store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Ownership could not be read or changed.
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    /// What another writer left behind could not be read.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A log start could not be raised.
    #[error(transparent)]
    Raise(#[from] RaiseError),
    /// A partition is restarting; its state is needed.
    #[error("partition {0} is not running; maintenance waits for it")]
    PartitionDown(PartitionKey),
    /// The writer is gone or sealed.
    #[error("the writer stopped")]
    WriterStopped,
}

/// Objects read at the same time for merging.
const READS_IN_FLIGHT_MAX: usize = 8;
/// Size up to which a checkpoint that partitions wait for is sent twice at once.
const TWICE_BYTES_MAX: u64 = 4 << 20;
/// Objects deleted by one request.
const DELETE_BATCH_MAX: usize = 1_000;

/// See the module's documentation.
pub struct Maintenance {
    context: Arc<NodeContext>,
    limits: MaintenanceLimits,
    /// Objects that the last checkpoint refers to or that were written since outside the WAL.
    known: HashSet<ObjectKey>,
    garbage: Vec<GarbageRecord>,
    last: Option<CheckpointRef>,
    last_at: Instant,
    last_batches: u64,
    /// Extents were replaced since: until a checkpoint says so, what they replaced is no garbage.
    rearranged: bool,
    scrub: Scrub,
    /// Partitions that do not run here and that this writer's checkpoint has to have all the same.
    held: BTreeMap<PartitionKey, Held>,
    foreign: Foreign,
    compaction: Compaction,
    feed: ImageFeed,
    /// The image whose topics the last checkpoint has.
    recorded: Option<Arc<ClusterImage>>,
}

impl Maintenance {
    /// Maintenance of a writer that has just registered.
    pub fn new(context: Arc<NodeContext>, limits: MaintenanceLimits, feed: ImageFeed) -> Self {
        let last_at = context.clock.monotonic();
        Self {
            context,
            limits,
            known: HashSet::new(),
            garbage: Vec::new(),
            last: None,
            last_at,
            last_batches: 0,
            rearranged: false,
            scrub: Scrub::new(last_at),
            held: BTreeMap::new(),
            foreign: Foreign::default(),
            compaction: Compaction::default(),
            feed,
            recorded: None,
        }
    }

    /// Takes over what a writer left behind that is about to be forgotten: what nothing refers to is garbage from the next
    /// checkpoint on.
    pub fn inherit(&mut self, log: &WriterLog) {
        self.known.extend(log.known_objects());
        self.garbage.extend(log.garbage().iter().cloned());
    }

    /// Writes a checkpoint of all partitions that are owned or held, and points the writer's key to it.
    pub async fn checkpoint(&mut self) -> Result<(), MaintenanceError> {
        self.write_checkpoint(false).await
    }

    /// The same when partitions have no leader until it is done.
    pub async fn checkpoint_soon(&mut self) -> Result<(), MaintenanceError> {
        self.write_checkpoint(true).await
    }

    async fn write_checkpoint(&mut self, soon: bool) -> Result<(), MaintenanceError> {
        let context = self.context.clone();
        let registration = &context.registration;
        // Before the snapshots: partitions have applied at least this much when they answer.
        let seq = Seq(context.stats.head.load(Ordering::Acquire));
        let batches = context.stats.flushed_batches.load(Ordering::Relaxed);
        let mut table = ObjectTable::default();
        let owned = context.owned_partitions();
        let mut partitions: Vec<_> = self.held.values().map(|held| held.seed.checkpoint(&mut table)).collect();
        for (key, owned) in owned {
            assert!(!self.held.contains_key(&key), "{key} is owned and held");
            let addr = owned.actor.addr().ok_or(MaintenanceError::PartitionDown(key))?;
            let snapshot = addr.send(TakeSnapshot).await.map_err(|_| MaintenanceError::PartitionDown(key))?;
            partitions.push(snapshot.into_checkpoint(&mut table));
        }
        partitions.sort_by_key(|p| p.key);
        let objects = table.into_records();
        let referenced: HashSet<ObjectKey> = objects.iter().map(|o| ObjectKey::new(o.key.as_str())).collect();
        let now_ms = context.clock.settled_ms();
        let from = self.last.as_ref().map_or(0, |l| l.seq.0);
        let wal = (from + 1..=seq.0).map(|s| context.layout.wal(registration.writer, registration.nonce, Seq(s)));
        self.known.extend(wal);
        let dropped = self.known.iter().filter(|key| !referenced.contains(*key));
        let mut garbage = self.garbage.clone();
        garbage.extend(dropped.map(|key| GarbageRecord { key: key.as_str().to_owned(), since_ms: now_ms }));
        garbage.extend(self.scrub.nominated.iter().cloned());
        if let Some(last) = &self.last {
            garbage.push(GarbageRecord { key: last.key.clone(), since_ms: now_ms });
        }
        garbage.sort_by(|a, b| a.key.cmp(&b.key).then(a.since_ms.cmp(&b.since_ms)));
        garbage.dedup_by(|later, earlier| later.key == earlier.key);
        let image = self.feed.current();
        let checkpoint = Checkpoint {
            cluster_id: context.cluster_id.clone(),
            writer: registration.writer,
            nonce: registration.nonce,
            seq,
            revision_seen: context.revision_seen(),
            objects,
            partitions,
            garbage,
            catalog: Some(catalog::of(&image, registration.value.node, context.generation)),
        };
        let ulid = crate::rng::ulid(now_ms);
        let key = context.layout.checkpoint(registration.writer, registration.nonce, seq, ulid);
        let mut payload = checkpoint.encode();
        payload.twice = soon && payload.len <= TWICE_BYTES_MAX;
        context.store.create(&key, &payload).await?;
        let pointer = CheckpointRef { seq, key: key.as_str().to_owned() };
        let (done, committed) = oneshot::channel();
        context.flusher.do_send(PointToCheckpoint { checkpoint: pointer.clone(), done });
        committed.await.map_err(|_| MaintenanceError::WriterStopped)?;
        context.stats.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.known = referenced;
        self.garbage = checkpoint.garbage;
        self.scrub.nominated.clear();
        self.last = Some(pointer);
        self.last_at = context.clock.monotonic();
        self.last_batches = batches;
        self.rearranged = false;
        self.recorded = Some(image);
        Ok(())
    }

    /// WAL slots that a successor would have to replay.
    pub fn flushes_since_checkpoint(&self) -> u64 {
        self.context.stats.head.load(Ordering::Acquire) - self.last.as_ref().map_or(0, |l| l.seq.0)
    }

    /// Writes a checkpoint if one is due.
    pub async fn checkpoint_if_due(&mut self) -> Result<(), MaintenanceError> {
        let flushes = self.flushes_since_checkpoint();
        let age = self.context.clock.monotonic() - self.last_at;
        let aged = age >= self.limits.checkpoint_every;
        let news = age >= self.limits.catalog_every && self.catalog_changed();
        if flushes >= self.limits.checkpoint_flushes || (aged && (flushes > 0 || self.rearranged)) || news {
            self.checkpoint().await
        } else {
            Ok(())
        }
    }

    /// True if this writer looks after the catalog and the last checkpoint's is out of date.
    fn catalog_changed(&self) -> bool {
        let image = self.feed.current();
        let same = |before: &Arc<ClusterImage>| before.has_same_topics(&image) && before.has_same_groups(&image);
        self.is_controller(&image) && !self.recorded.as_ref().is_some_and(same)
    }

    /// Merges small extents if enough have gathered. Returns how many objects were written.
    pub async fn merge(&mut self) -> Result<usize, MaintenanceError> {
        let partitions: Vec<_> = self.context.directory.all();
        let extents: Vec<_> = partitions
            .iter()
            .map(|p| (p.key, p.view.with_log(|log| log.extents.iter().cloned().collect::<Vec<_>>())))
            .collect();
        let planned = plan::merges(&extents, &self.limits.merge, self.context.clock.wall_ms());
        drop(extents);
        let mut written = 0;
        for merge in planned {
            let (level, runs) = match merge {
                Merge::Merged(runs) => (1, runs),
                Merge::Segment(run) => (2, vec![run]),
            };
            self.write_merged(level, runs).await?;
            written += 1;
        }
        Ok(written)
    }

    async fn write_merged(&mut self, level: u8, runs: Vec<Run>) -> Result<(), MaintenanceError> {
        let context = self.context.clone();
        let registration = &context.registration;
        let raw = self.read_runs(&runs).await?;
        let head = Seq(context.stats.head.load(Ordering::Acquire));
        let header = SegmentHeader {
            cluster_id: context.cluster_id.clone(),
            level,
            writer: registration.writer,
            nonce: registration.nonce,
            seq: head,
            revision_seen: context.revision_seen(),
        };
        let ulid = crate::rng::ulid(context.clock.wall_ms());
        let key = match &runs[..] {
            [run] if level == 2 => {
                let (first, last) = (&run.extents[0], run.extents.last().expect("a run is not empty"));
                context.layout.segment(&run.key, first.base, last.next, ulid)
            }
            _ => context.layout.merged(registration.writer, Seq(0), head, ulid),
        };
        let (payload, index) = segment::build_from_extents(&header, raw)?;
        // Known before it exists: if this fails half-way, the object is garbage at the next checkpoint.
        self.known.insert(key.clone());
        context.store.create(&key, &payload).await?;
        let created_ms = runs.iter().flat_map(|r| &r.extents).map(|e| e.object.created_ms).min().unwrap_or(0);
        let object = Arc::new(ObjectRef { key, level, len: payload.len, created_ms });
        for entry in &index.extents {
            if let Some(partition) = context.directory.get(&entry.key) {
                // Trimmed or restarted meanwhile: the old extents stay, the new object loses its reference.
                partition.view.rearrange(|log| log.replace(recovery::extent(&object, entry)));
            }
        }
        self.rearranged = true;
        context.stats.merges.fetch_add(1, Ordering::Relaxed);
        context.stats.merged_bytes.fetch_add(payload.len, Ordering::Relaxed);
        Ok(())
    }

    /// The bytes of all runs' extents: from memory where the tail still has them, else by as few GETs as make sense.
    async fn read_runs(&self, runs: &[Run]) -> Result<Vec<RawExtent>, MaintenanceError> {
        let mut raw = Vec::new();
        let mut missing: BTreeMap<ObjectKey, Vec<(usize, Extent)>> = BTreeMap::new();
        for (key, extent) in runs.iter().flat_map(|run| run.extents.iter().map(|e| (run.key, e))) {
            let batches = in_memory(&self.context, &key, extent).unwrap_or_else(|| {
                missing.entry(extent.object.key.clone()).or_default().push((raw.len(), extent.clone()));
                Batches::Read(bytes::Bytes::new())
            });
            let (source, leader_epoch) = (extent.object.key.clone(), extent.leader_epoch);
            raw.push(RawExtent { source, key, leader_epoch, base: extent.base, batches });
        }
        let mut reads = Vec::new();
        for (object, extents) in missing {
            reads.extend(
                spans(extents).into_iter().map(|span| read_span(self.context.store.clone(), object.clone(), span)),
            );
        }
        let mut done = futures::stream::iter(reads).buffer_unordered(READS_IN_FLIGHT_MAX);
        while let Some(parts) = done.try_next().await? {
            for (place, bytes) in parts {
                raw[place].batches = Batches::Read(bytes);
            }
        }
        Ok(raw)
    }

    /// Raises log starts as the topics' retention says.
    pub async fn retain(&mut self, broker: &Broker) -> Result<(), MaintenanceError> {
        let image = broker.image.load_full();
        let now_ms = self.context.clock.settled_ms();
        let mut raises: Vec<(PartitionKey, Offset)> = Vec::new();
        for partition in self.context.directory.all() {
            let Some(topic) = image.topic_by_id(partition.key.topic) else { continue };
            let config = &topic.config;
            if !config.delete {
                continue;
            }
            let extents: Vec<Extent> = partition.view.with_log(|log| log.extents.iter().cloned().collect());
            let (log_start, ms, bytes) = (partition.view.log_start(), config.retention_ms, config.retention_bytes);
            let raised = plan::retained_log_start(&extents, log_start, ms, bytes, now_ms);
            raises.extend(raised.map(|to| (partition.key, to)));
        }
        if raises.is_empty() {
            return Ok(());
        }
        self.context.raise_log_starts(&raises).await?;
        tracing::info!(partitions = raises.len(), "log start raised by retention");
        Ok(())
    }

    /// Deletes garbage that has aged, after a second look at the writer's key and at the references.
    pub async fn collect(&mut self) -> Result<usize, MaintenanceError> {
        let due_ms = self.context.clock.settled_ms() - self.limits.garbage_age_ms;
        let due = |g: &GarbageRecord| g.since_ms <= due_ms;
        let keys: Vec<ObjectKey> = self
            .garbage
            .iter()
            .filter(|g| due(g))
            .take(DELETE_BATCH_MAX)
            .map(|g| ObjectKey::new(g.key.as_str()))
            .collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let referenced = self.references_now();
        self.still_mine().await?;
        let others = self.others().await?;
        // What others refer to comes on their lists when they drop it.
        let (still, gone): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|k| referenced.contains(k) || others.refer_to(k));
        self.context.store.delete(&gone).await?;
        self.context.stats.deleted_objects.fetch_add(gone.len() as u64, Ordering::Relaxed);
        let handled: HashSet<&str> = gone.iter().chain(&still).map(ObjectKey::as_str).collect();
        self.garbage.retain(|g| !handled.contains(g.key.as_str()));
        Ok(gone.len())
    }

    /// The second look: the writer's key is still active, ours, and points to the checkpoint we believe is the newest.
    /// Returns the key's revision.
    async fn still_mine(&self) -> Result<Revision, MaintenanceError> {
        let registration = &self.context.registration;
        let found = self.context.ownership.writer(registration.writer).await;
        let found = found.map_err(|e| MetadataError::Unavailable { message: e.to_string() })?;
        let mine = found.filter(|(v, _)| v.state == WriterState::Active && v.nonce == registration.nonce);
        let (value, revision) = mine.ok_or(MaintenanceError::WriterStopped)?;
        if value.checkpoint == self.last { Ok(revision) } else { Err(MaintenanceError::WriterStopped) }
    }

    fn references_now(&self) -> HashSet<ObjectKey> {
        let mut keys: HashSet<ObjectKey> = self.last.iter().map(|l| ObjectKey::new(l.key.as_str())).collect();
        for partition in self.context.directory.all() {
            partition.view.with_log(|log| keys.extend(log.extents.iter().map(|e| e.object.key.clone())));
        }
        keys.extend(self.known.iter().cloned());
        keys.extend(self.held.values().flat_map(|held| held.seed.extents.iter().map(|e| e.object.key.clone())));
        keys
    }
}

/// Extents of one object, by their places in the result, that are read with one GET.
type Span = Vec<(usize, Extent)>;

/// Groups extents of one object so that a GET returns at least half wanted bytes.
fn spans(mut extents: Span) -> Vec<Span> {
    extents.sort_by_key(|(_, e)| e.position);
    let mut spans: Vec<Span> = Vec::new();
    let (mut start, mut wanted) = (0, 0);
    for (place, extent) in extents {
        let end = extent.position + extent.len;
        match spans.last_mut() {
            Some(span) if 2 * (wanted + extent.len) >= end - start => {
                wanted += extent.len;
                span.push((place, extent));
            }
            _ => {
                (start, wanted) = (extent.position, extent.len);
                spans.push(vec![(place, extent)]);
            }
        }
    }
    spans
}

async fn read_span(
    store: Arc<dyn ObjectStore>,
    object: ObjectKey,
    span: Span,
) -> Result<Vec<(usize, bytes::Bytes)>, StoreError> {
    let start = span.first().map_or(0, |(_, e)| e.position);
    let end = span.last().map_or(0, |(_, e)| e.position + e.len);
    let bytes = store.get_range(&object, start..end).await?;
    if bytes.len() as u64 != end - start {
        let message = format!("{} bytes came instead of {}", bytes.len(), end - start);
        return Err(StoreError::Corrupt { key: object, message });
    }
    let part = |e: &Extent| bytes.slice((e.position - start) as usize..(e.position - start + e.len) as usize);
    Ok(span.iter().map(|(place, extent)| (*place, part(extent))).collect())
}

fn in_memory(context: &NodeContext, key: &PartitionKey, extent: &Extent) -> Option<Batches> {
    let view = context.directory.get(key)?.view;
    view.with_log(|log| {
        let from = log.tail.partition_point(|b| b.base < extent.base);
        if log.tail.get(from)?.base != extent.base {
            return None;
        }
        let kept: Vec<_> = log.tail.range(from..).take_while(|b| b.next <= extent.next).cloned().collect();
        let len: u64 = kept.iter().map(|b| b.byte_len() as u64).sum();
        (len == extent.len).then_some(Batches::Kept(kept))
    })
}

/// Looks after everything until the process ends.
pub async fn run(maintenance: Arc<Mutex<Maintenance>>, broker: Arc<Broker>) {
    let limits = maintenance.lock().await.limits;
    let mut looked = maintenance.lock().await.last_at;
    let tick = limits.look_every.min(Duration::from_secs(1));
    loop {
        tokio::time::sleep(tick).await;
        crate::failpoint::hit("compactor.tick");
        // Others get their turn between two steps: a takeover does not wait for all of them.
        let turn = async || maintenance.lock().await;
        report("checkpoint", turn().await.checkpoint_if_due().await);
        let now = broker.clock.monotonic();
        if now - looked >= limits.look_every {
            looked = now;
            let controller = turn().await.is_controller(&broker.image.load());
            report("topic deletion", turn().await.bury_topics(controller).await);
            if controller {
                report("forgetting writers", turn().await.forget_writers().await);
            }
            report("retention", turn().await.retain(&broker).await);
            report("merge", turn().await.merge().await.map(drop));
            compact(&maintenance, &broker, now + limits.look_every).await;
            report("collection", turn().await.collect().await.map(drop));
            report("scrub", turn().await.scrub_if_due().await);
        }
    }
}

/// Compacts partitions step by step until nothing is left to do or it is time to look after other things again.
async fn compact(maintenance: &Mutex<Maintenance>, broker: &Broker, until: Instant) {
    loop {
        let more = maintenance.lock().await.compact(&broker.image.load_full()).await;
        let goes_on = matches!(more, Ok(true)) && broker.clock.monotonic() < until;
        report("compaction", more.map(drop));
        if !goes_on {
            return;
        }
        report("checkpoint", maintenance.lock().await.checkpoint_if_due().await);
    }
}

fn report(what: &str, outcome: Result<(), MaintenanceError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, what, "maintenance step failed; it is tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::ids::LeaderEpoch;
    use crate::storage::Payload;
    use crate::storage::fault::{Fault, FaultStore, Op};
    use crate::storage::memory::MemoryStore;

    fn extent(position: u64, len: u64) -> Extent {
        let object = Arc::new(ObjectRef { key: ObjectKey::new("o"), level: 0, len: 1_000, created_ms: 0 });
        let (base, next, max_timestamp, leader_epoch) = (Offset(0), Offset(1), 0, LeaderEpoch(0));
        Extent { base, next, object, position, len, max_timestamp, leader_epoch }
    }

    #[tokio::test]
    async fn a_short_answer_is_an_error_and_the_next_one_is_taken() {
        let store = Arc::new(FaultStore::scripted(Arc::new(MemoryStore::new(Clock::system()))));
        let key = ObjectKey::new("o");
        store.create(&key, &Payload::new(vec![bytes::Bytes::from_static(b"0123456789")], 1)).await.unwrap();
        store.script(Op::GetRange, [Fault::Truncate]);
        let read = || read_span(store.clone(), key.clone(), vec![(0, extent(2, 3)), (1, extent(5, 5))]);
        assert!(matches!(read().await, Err(StoreError::Corrupt { .. })));
        let parts = read().await.unwrap();
        assert_eq!(parts, [(0, bytes::Bytes::from_static(b"234")), (1, bytes::Bytes::from_static(b"56789"))]);
    }

    #[test]
    fn a_get_returns_at_least_half_wanted_bytes() {
        let wanted = vec![(3, extent(900, 10)), (0, extent(0, 10)), (1, extent(20, 10)), (2, extent(41, 10))];
        let places: Vec<Vec<usize>> = spans(wanted).iter().map(|s| s.iter().map(|(p, _)| *p).collect()).collect();
        assert_eq!(places, [vec![0, 1, 2], vec![3]]);
        assert!(spans(Vec::new()).is_empty());
    }
}
