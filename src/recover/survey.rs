//! What the object store has: one LIST of everything, the newest checkpoint of every writer, and the indexes of the WAL objects
//! behind it.

use super::plan::{Broken, Candidate, Found, Source};
use crate::actors::partition::view::Extent;
use crate::actors::recovery::{Recovery, RecoveryError, Seed, TAILS_IN_FLIGHT_MAX, WriterLog, replay, shown_in};
use crate::clock::WallMs;
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionKey, Seq, WriterId};
use crate::metadata::model::{self, CheckpointRef, ClusterValue, FORMAT, PartitionValue, WriterState, WriterValue};
use crate::storage::layout::{Layout, ParsedKey};
use crate::storage::registered::{REGISTERED_LEN_MAX, Registered};
use crate::storage::segment::SegmentIndex;
use crate::storage::{ObjectKey, ObjectStore, StoreError};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use ulid::Ulid;

/// Why nothing is known of the object store.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// It failed.
    #[error("the object store cannot be read: {0}")]
    Store(#[from] StoreError),
    /// Nothing of a cluster lies there.
    #[error("there is no cluster in the object store below {0}: check the bucket and KAFSCALE_S3_NAMESPACE")]
    NoCluster(String),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Survey {
    /// For the plan.
    pub found: Found,
    /// Objects that are there.
    pub objects: usize,
    /// By source: the log, under its writer's id.
    logs: Vec<BTreeMap<WriterId, WriterLog>>,
}

/// The keys of one writer.
#[derive(Debug, Default)]
struct Keys {
    checkpoints: BTreeMap<(Seq, Ulid), ObjectKey>,
    slots: BTreeSet<Seq>,
}

/// The keys of all.
#[derive(Debug, Default)]
struct Listing {
    lens: HashMap<ObjectKey, u64>,
    writers: BTreeMap<(WriterId, u64), Keys>,
    registered: BTreeSet<WriterId>,
    writer_max: u64,
}

impl Listing {
    fn add(&mut self, parsed: ParsedKey, key: &ObjectKey) {
        let writer = match parsed {
            ParsedKey::Wal { writer, nonce, seq } => {
                self.writers.entry((writer, nonce)).or_default().slots.insert(seq);
                writer
            }
            ParsedKey::Checkpoint { writer, nonce, seq, ulid } => {
                self.writers.entry((writer, nonce)).or_default().checkpoints.insert((seq, ulid), key.clone());
                writer
            }
            ParsedKey::Registered(writer) => {
                self.registered.insert(writer);
                writer
            }
            ParsedKey::Merged { writer, .. } => writer,
            ParsedKey::Segment { .. } | ParsedKey::Cluster | ParsedKey::Probe(_) => return,
        };
        self.writer_max = self.writer_max.max(writer.0);
    }
}

impl Survey {
    /// Looks at everything.
    pub async fn take(store: Arc<dyn ObjectStore>, layout: &Layout, now_ms: WallMs) -> Result<Self, SurveyError> {
        let cluster_id = cluster(&*store, layout).await?;
        let listing = list(&*store, layout).await?;
        let recovery = Recovery {
            store: store.clone(),
            layout: layout.clone(),
            cluster_id: cluster_id.clone(),
            ahead: Default::default(),
        };
        let mut found = Found { cluster_id, writer_max: listing.writer_max, producer_max: -1, ..Found::default() };
        let mut logs = Vec::new();
        for ((writer, nonce), keys) in &listing.writers {
            let Some((value, log)) = read(&recovery, *writer, *nonce, keys, &mut found.damaged).await? else {
                continue;
            };
            let node = match listing.registered.contains(writer) {
                true => registered_node(&*store, layout, *writer).await?,
                false => None,
            };
            found.producer_max = found.producer_max.max(log.producer_max());
            let (head, checkpoint, catalog) = (value.head, value.checkpoint, log.catalog.clone());
            let (writer_id, nonce, is_older) = (*writer, *nonce, false);
            found.sources.push(Source { writer: writer_id, nonce, node, head, checkpoint, catalog, is_older });
            logs.push(BTreeMap::from([(*writer, log)]));
        }
        found.inherited = drop_inherited(layout, &listing, &mut found.sources, &mut logs);
        let mut survey = Self { found, objects: listing.lens.len(), logs };
        for source in 0..survey.found.sources.len() {
            let complete = survey.find_partitions(source, &BTreeSet::new(), &listing, now_ms);
            survey.add_older(source, complete, &recovery, &listing, now_ms).await?;
        }
        survey.look_behind_holes(&recovery, &listing).await?;
        Ok(survey)
    }

    /// Adds what only older checkpoints of a writer have, of those that are still there: `covered` is what newer ones have.
    async fn add_older(
        &mut self,
        source: usize,
        mut covered: BTreeSet<PartitionKey>,
        recovery: &Recovery,
        listing: &Listing,
        now_ms: WallMs,
    ) -> Result<(), SurveyError> {
        let newest = self.found.sources[source].clone();
        let Some(newest_key) = newest.checkpoint.as_ref().map(|c| c.key.clone()) else { return Ok(()) };
        let keys = &listing.writers[&(newest.writer, newest.nonce)];
        let is_newer = |key: &ObjectKey| key.as_str() != newest_key;
        let older = keys.checkpoints.iter().rev().skip_while(|(_, key)| is_newer(key)).skip(1);
        let pointers = older.map(|((seq, _), key)| Some(CheckpointRef { seq: *seq, key: key.as_str().to_owned() }));
        let mut is_next = true;
        for pointer in pointers.chain([None]) {
            // The last one but one may be followed by partitions that were new then. Of those before, their own are enough.
            let from = pointer.as_ref().map_or(Seq(0), |c| c.seq);
            let whole = fenced(newest.nonce, keys, pointer, |_| true);
            let alone = WriterValue { head: from, ..whole.clone() };
            let first = if is_next { &whole } else { &alone };
            let damaged = &mut self.found.damaged;
            let Some(mut log) = load_older(recovery, newest.writer, first, damaged).await? else { continue };
            let has_more = log.partitions().any(|key| !covered.contains(&key));
            if !is_next && has_more {
                let Some(found) = load_older(recovery, newest.writer, &whole, damaged).await? else { continue };
                log = found;
            }
            is_next = false;
            if !has_more {
                continue;
            }
            let (head, checkpoint, catalog) = (whole.head, whole.checkpoint, log.catalog.clone());
            let added = Source { head, checkpoint, catalog, is_older: true, ..newest.clone() };
            self.found.sources.push(added);
            self.logs.push(BTreeMap::from([(newest.writer, log)]));
            let complete = self.find_partitions(self.logs.len() - 1, &covered, listing, now_ms);
            covered.extend(complete);
        }
        Ok(())
    }

    /// Looks at everything but `covered` that a source has. Returns what is complete.
    fn find_partitions(
        &mut self,
        source: usize,
        covered: &BTreeSet<PartitionKey>,
        listing: &Listing,
        now_ms: WallMs,
    ) -> BTreeSet<PartitionKey> {
        let logs = &self.logs[source];
        let keys: BTreeSet<PartitionKey> = logs.values().flat_map(WriterLog::partitions).collect();
        let mut complete = BTreeSet::new();
        for key in keys.difference(covered).copied() {
            match seed(&self.found.sources[source], logs, key, now_ms) {
                Ok(seed) => {
                    let is_there = |e: &Extent| listing.lens.get(&e.object.key) == Some(&e.object.len);
                    let missing = seed.extents.iter().filter(|e| !is_there(e)).map(|e| &e.object.key);
                    let missing = missing.collect::<HashSet<_>>().len();
                    let (epochs, log_start, next_offset) = (seed.epochs, seed.log_start, seed.next_offset);
                    let candidate = Candidate { source, epochs, log_start, next_offset, missing };
                    self.found.partitions.entry(key).or_default().push(candidate);
                    complete.insert(key);
                }
                Err(_) if self.found.sources[source].is_older => {} // newer ones may have replaced its objects
                Err(error) => {
                    let shown = logs.values().find_map(|log| log.shown(&key));
                    let (epoch, end) = shown.unwrap_or((LeaderEpoch(0), Offset(0)));
                    self.found.broken.push(Broken { source, key, epoch, end, error: error.to_string() });
                }
            }
        }
        complete
    }

    /// Incomplete logs may go on behind what is missing of them, and there may show more than before.
    async fn look_behind_holes(&mut self, recovery: &Recovery, listing: &Listing) -> Result<(), SurveyError> {
        let Found { sources, broken, damaged, .. } = &mut self.found;
        for (index, source) in sources.iter().enumerate() {
            let mut open: Vec<&mut Broken> = broken.iter_mut().filter(|b| b.source == index).collect();
            let slots = &listing.writers[&(source.writer, source.nonce)].slots;
            let behind = slots.range(Seq(source.head.0 + 1)..).rev().map(|seq| index_of(recovery, source, *seq));
            let mut behind = futures::stream::iter(behind).buffered(TAILS_IN_FLIGHT_MAX);
            // From the end on: where a partition comes first, its log ends.
            while !open.is_empty()
                && let Some(index) = behind.next().await
            {
                match index? {
                    Ok(index) => open.retain_mut(|broken| match shown_in(&index, &broken.key) {
                        None => true,
                        Some((epoch, end)) => {
                            broken.epoch = broken.epoch.max(epoch);
                            broken.end = broken.end.max(end);
                            false
                        }
                    }),
                    Err(error) if damaged.contains(&error) => {}
                    Err(error) => damaged.push(error),
                }
            }
        }
        Ok(())
    }

    /// Everything that a source has of a partition.
    pub fn seed(&self, source: usize, key: PartitionKey, now_ms: WallMs) -> Result<Seed, RecoveryError> {
        seed(&self.found.sources[source], &self.logs[source], key, now_ms)
    }
}

fn seed(
    source: &Source,
    logs: &BTreeMap<WriterId, WriterLog>,
    key: PartitionKey,
    now_ms: WallMs,
) -> Result<Seed, RecoveryError> {
    let (epoch, history, log_start) = (LeaderEpoch(0), vec![source.writer], Offset(0));
    let value = PartitionValue { v: FORMAT, owner: None, epoch, history, log_start };
    // No epoch is added to those that are there.
    replay(key, Some(&value), LeaderEpoch(i32::MIN), logs, now_ms)
}

/// The cluster that the bucket belongs to.
async fn cluster(store: &dyn ObjectStore, layout: &Layout) -> Result<String, SurveyError> {
    let key = layout.cluster();
    match store.get_suffix(&key, 4_096).await {
        Ok((bytes, _)) => match model::decode_bytes::<ClusterValue>(&bytes) {
            Ok(value) => Ok(value.cluster_id),
            Err(message) => Err(StoreError::Corrupt { key, message }.into()),
        },
        Err(StoreError::NotFound { .. }) => Err(SurveyError::NoCluster(layout.root())),
        Err(error) => Err(error.into()),
    }
}

async fn list(store: &dyn ObjectStore, layout: &Layout) -> Result<Listing, SurveyError> {
    let (mut listing, mut after) = (Listing::default(), None);
    loop {
        let page = store.list(&layout.root(), after.as_ref()).await?;
        let Some(last) = page.last() else { return Ok(listing) };
        after = Some(last.key.clone());
        for object in page {
            let Some(parsed) = layout.parse(&object.key) else { continue };
            listing.add(parsed, &object.key);
            listing.lens.insert(object.key, object.len);
        }
    }
}

/// A writer's log from an older checkpoint on, unless something of it is not there any more. What cannot be read goes to
/// `damaged`: nobody knows what only that has.
async fn load_older(
    recovery: &Recovery,
    writer: WriterId,
    value: &WriterValue,
    damaged: &mut Vec<String>,
) -> Result<Option<WriterLog>, SurveyError> {
    let mut reads: BTreeMap<ObjectKey, u32> = BTreeMap::new();
    loop {
        match recovery.load(writer, value, i64::MAX).await {
            Ok(log) => return Ok(Some(log)),
            Err(RecoveryError::Store(StoreError::NotFound { .. })) => return Ok(None),
            Err(RecoveryError::Store(StoreError::Corrupt { key, .. })) => {
                let reads = reads.entry(key.clone()).or_default();
                *reads += 1;
                if *reads < READS_MAX {
                    continue;
                }
                let line = cannot_be_read(&key);
                if !damaged.contains(&line) {
                    damaged.push(line);
                }
                return Ok(None);
            }
            Err(RecoveryError::Store(error)) => return Err(error.into()),
            Err(_) => return Ok(None), // unreachable: no partition is looked at yet
        }
    }
}

/// A writer with this checkpoint, whose log goes on up to the first slot that is missing.
fn fenced(nonce: u64, keys: &Keys, checkpoint: Option<CheckpointRef>, readable: impl Fn(&Seq) -> bool) -> WriterValue {
    let from = checkpoint.as_ref().map_or(Seq(0), |c| c.seq);
    let is_there = |seq: &Seq| keys.slots.contains(seq) && readable(seq);
    let head = (from.0 + 1..).map(Seq).take_while(is_there).last().unwrap_or(from);
    let (state, node) = (WriterState::Fenced, BrokerId(-1));
    WriterValue { v: FORMAT, node, state, head, nonce, checkpoint }
}

/// How often an object is read before it counts as damaged: bytes may be damaged on their way, too.
const READS_MAX: u32 = 3;

/// The writer's log from its newest readable checkpoint on, up to the first slot that is missing. What cannot be read goes to
/// `damaged`.
async fn read(
    recovery: &Recovery,
    writer: WriterId,
    nonce: u64,
    keys: &Keys,
    damaged: &mut Vec<String>,
) -> Result<Option<(WriterValue, WriterLog)>, SurveyError> {
    let mut unreadable: BTreeSet<ObjectKey> = BTreeSet::new();
    let mut reads: BTreeMap<ObjectKey, u32> = BTreeMap::new();
    loop {
        let newest = keys.checkpoints.iter().rev().find(|(_, key)| !unreadable.contains(*key));
        let checkpoint = newest.map(|((seq, _), key)| CheckpointRef { seq: *seq, key: key.as_str().to_owned() });
        let readable = |seq: &Seq| !unreadable.contains(&recovery.layout.wal(writer, nonce, *seq));
        let value = fenced(nonce, keys, checkpoint, readable);
        let error = match recovery.load(writer, &value, i64::MAX).await {
            Ok(log) => return Ok(Some((value, log))),
            Err(error) => error,
        };
        if let RecoveryError::Store(StoreError::Corrupt { key, .. }) = &error {
            let reads = reads.entry(key.clone()).or_default();
            *reads += 1;
            if *reads < READS_MAX {
                continue;
            }
        }
        match error {
            RecoveryError::Store(StoreError::Corrupt { key, .. } | StoreError::NotFound { key })
                if unreadable.insert(key.clone()) =>
            {
                damaged.push(cannot_be_read(&key));
            }
            RecoveryError::Store(error) => return Err(error.into()),
            _ => return Ok(None), // unreachable: no partition is looked at yet
        }
    }
}

/// The index of a WAL object. If it is damaged, the inner error says so to people.
async fn index_of(recovery: &Recovery, source: &Source, seq: Seq) -> Result<Result<SegmentIndex, String>, SurveyError> {
    let mut reads = 0;
    loop {
        reads += 1;
        match recovery.tail(source.writer, source.nonce, seq, i64::MAX).await {
            Ok((_, index)) => return Ok(Ok(index)),
            Err(RecoveryError::Store(StoreError::Corrupt { .. })) if reads < READS_MAX => {}
            Err(RecoveryError::Store(StoreError::Corrupt { key, .. } | StoreError::NotFound { key })) => {
                return Ok(Err(cannot_be_read(&key)));
            }
            Err(RecoveryError::Store(error)) => return Err(error.into()),
            Err(_) => return Ok(Err(cannot_be_read(&recovery.layout.wal(source.writer, source.nonce, seq)))),
        }
    }
}

fn cannot_be_read(key: &ObjectKey) -> String {
    format!("object {key} cannot be read; restore it (what was written after it is not used)")
}

async fn registered_node(
    store: &dyn ObjectStore,
    layout: &Layout,
    writer: WriterId,
) -> Result<Option<BrokerId>, SurveyError> {
    let key = layout.registered(writer);
    match store.get_suffix(&key, REGISTERED_LEN_MAX).await {
        Ok((bytes, _)) => Ok(Registered::decode(&key, &bytes).ok().map(|r| r.node)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writers whose log is on another one's garbage list were forgotten in order: somebody else has all that they had, and their
/// objects are being deleted.
fn drop_inherited(
    layout: &Layout,
    listing: &Listing,
    sources: &mut Vec<Source>,
    logs: &mut Vec<BTreeMap<WriterId, WriterLog>>,
) -> BTreeSet<(WriterId, u64)> {
    let garbage: Vec<HashSet<&str>> = logs
        .iter()
        .map(|logs| logs.values().flat_map(|log| log.garbage().iter().map(|g| g.key.as_str())).collect())
        .collect();
    let inherited = |index: usize| {
        let source = &sources[index];
        let first = match &source.checkpoint {
            Some(checkpoint) => checkpoint.key.clone(),
            None => {
                let slots = &listing.writers[&(source.writer, source.nonce)].slots;
                let Some(first) = slots.first() else { return false };
                layout.wal(source.writer, source.nonce, *first).as_str().to_owned()
            }
        };
        garbage.iter().enumerate().any(|(other, garbage)| other != index && garbage.contains(first.as_str()))
    };
    let keep: Vec<bool> = (0..sources.len()).map(|index| !inherited(index)).collect();
    drop(garbage);
    let dropped = sources.iter().zip(&keep).filter(|(_, keep)| !**keep).map(|(s, _)| (s.writer, s.nonce)).collect();
    let mut kept = keep.iter();
    sources.retain(|_| *kept.next().expect("one for each"));
    let mut kept = keep.iter();
    logs.retain(|_| *kept.next().expect("one for each"));
    dropped
}
