//! What the object store has: one LIST of everything, the newest checkpoint of every writer, and the indexes of the WAL objects
//! behind it.

use super::plan::{Candidate, Found, Source};
use crate::actors::recovery::{Recovery, RecoveryError, Seed, WriterLog, replay};
use crate::clock::WallMs;
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionKey, Seq, WriterId};
use crate::metadata::model::{self, CheckpointRef, ClusterValue, FORMAT, PartitionValue, WriterState, WriterValue};
use crate::storage::layout::{Layout, ParsedKey};
use crate::storage::registered::{REGISTERED_LEN_MAX, Registered};
use crate::storage::{ObjectKey, ObjectStore, StoreError};
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
            found.sources.push(Source { writer: *writer, nonce: *nonce, node, head, checkpoint, catalog });
            logs.push(BTreeMap::from([(*writer, log)]));
        }
        found.inherited = drop_inherited(layout, &listing, &mut found.sources, &mut logs);
        let mut survey = Self { found, objects: listing.lens.len(), logs };
        survey.find_partitions(&listing, now_ms);
        Ok(survey)
    }

    fn find_partitions(&mut self, listing: &Listing, now_ms: WallMs) {
        for (source, logs) in self.logs.iter().enumerate() {
            let keys: BTreeSet<PartitionKey> = logs.values().flat_map(WriterLog::partitions).collect();
            for key in keys {
                match seed(&self.found.sources[source], logs, key, now_ms) {
                    Ok(seed) => {
                        let is_there = |e: &crate::actors::partition::view::Extent| {
                            listing.lens.get(&e.object.key).is_some_and(|len| *len == e.object.len)
                        };
                        let missing = seed.extents.iter().filter(|e| !is_there(e)).map(|e| &e.object.key);
                        let missing = missing.collect::<HashSet<_>>().len();
                        let (epochs, log_start, next_offset) = (seed.epochs, seed.log_start, seed.next_offset);
                        let candidate = Candidate { source, epochs, log_start, next_offset, missing };
                        self.found.partitions.entry(key).or_default().push(candidate);
                    }
                    Err(error) => self.found.broken.push((source, key, error.to_string())),
                }
            }
        }
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
        let from = checkpoint.as_ref().map_or(Seq(0), |c| c.seq);
        let readable =
            |seq: &Seq| keys.slots.contains(seq) && !unreadable.contains(&recovery.layout.wal(writer, nonce, *seq));
        let head = (from.0 + 1..).map(Seq).take_while(readable).last().unwrap_or(from);
        let (state, node) = (WriterState::Fenced, BrokerId(-1));
        let value = WriterValue { v: FORMAT, node, state, head, nonce, checkpoint };
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
                damaged
                    .push(format!("object {key} cannot be read; restore it (what was written after it is not used)"));
            }
            RecoveryError::Store(error) => return Err(error.into()),
            _ => return Ok(None), // unreachable: no partition is looked at yet
        }
    }
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
