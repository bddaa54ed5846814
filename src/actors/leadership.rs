//! Which partitions this broker leads. The cluster image and [`placement`](crate::metadata::placement) say which ones
//! should be its own; it claims those that nobody owns, takes over those of writers that are dead, gives away those that
//! should be another's, and stops those whose topic is deleted.
//!
//! Data is never given up on hearsay: what an image says is looked up in the metadata store before it is acted on, a
//! partition is stopped only if the tombstone of its topic is read there, and everything a predecessor had is in this
//! writer's committed checkpoint before the partition is claimed ([`held`](crate::actors::compactor::held)).

use crate::actors::compactor::{Maintenance, MaintenanceError, MaintenanceLimits};
use crate::actors::context::NodeContext;
use crate::actors::flusher::{Hurry, Quiesce};
use crate::actors::partition::{Depart, TakeSnapshot};
use crate::actors::recovery::{RecoveryError, Seed, WriterLog, replay};
use crate::ids::{LeaderEpoch, PartitionIndex, PartitionKey, TopicId, WriterId};
use crate::metadata::MetadataError;
use crate::metadata::image::ClusterImage;
use crate::metadata::model::{self, PartitionValue, WriterState, WriterValue};
use crate::metadata::ownership::{CLAIMS_PER_TXN, OwnershipError, StoredPartition};
use crate::metadata::placement::Candidates;
use crate::metadata::watcher::ImageFeed;
use crate::sabotage::{self, Sabotage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

/// Partitions given away together. Those that move later go on meanwhile.
const RELEASES_MAX: usize = 500;
/// Flushes since the last checkpoint that a successor may be left to replay when partitions are given away. Few: nobody serves
/// them meanwhile, and the slowest of many reads is slow.
const REPLAY_FLUSHES_MAX: u64 = 8;
/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How long a start waits to see in the image what it has just done itself.
const SEALED_SEEN_WITHIN: Duration = Duration::from_secs(5);
/// Pause before a partition is tried again that could not be rebuilt.
const BROKEN_RETRY: Duration = Duration::from_secs(30);

/// Why leadership could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LeadershipError {
    /// Ownership calls failed.
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    /// The metadata store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Data could not be rebuilt.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A checkpoint could not be written.
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
}

/// Takes over everything that should be this broker's and has no live owner, and starts leading it. The image of `feed` has
/// this broker in it. Returns the broker's maintenance.
pub async fn start(
    context: &Arc<NodeContext>,
    feed: &ImageFeed,
    limits: MaintenanceLimits,
) -> Result<Arc<Mutex<Maintenance>>, LeadershipError> {
    let predecessors = seal_predecessors(context).await?;
    let mut maintenance = Maintenance::new(context.clone(), limits, feed.clone());
    // What they had is free only for those whose image says that they are gone.
    let gone = |image: &ClusterImage| !predecessors.iter().any(|writer| image.is_live(*writer));
    feed.wait_until(SEALED_SEEN_WITHIN, gone).await;
    let image = feed.current();
    let candidates = Candidates::of(&image);
    let node = context.registration.value.node;
    // A partition whose topic is neither live nor deleted is kept too: losing a topic's name must not lose its data.
    let tombstones = tombstones(context).await?;
    let nameless = context.ownership.partitions().await?.into_keys();
    let nameless = nameless.filter(|k| image.topic_by_id(k.topic).is_none() && !tombstones.contains(&k.topic));
    let mut wanted: Vec<PartitionKey> = nameless.filter(|k| candidates.leader(None, k) == Some(node)).collect();
    wanted.extend(split(context, &image, &candidates).wanted);
    let taken = take_over(context, &mut maintenance, wanted).await?;
    if let Some((_, error)) = taken.failed.into_iter().next() {
        return Err(error.into());
    }
    tracing::info!(partitions = context.owned_partitions().len(), writer = %context.registration.writer, "leading");
    Ok(Arc::new(Mutex::new(maintenance)))
}

/// Seals every writer of an earlier process of this broker: the newest wins, since it holds the broker's address, and
/// fencing makes the takeover safe.
async fn seal_predecessors(context: &NodeContext) -> Result<Vec<WriterId>, LeadershipError> {
    let (me, node) = (context.registration.writer, context.registration.value.node);
    let writers = context.ownership.writers().await?;
    let earlier = writers.into_iter().filter(|(writer, (value, _))| *writer < me && value.node == node);
    let earlier: Vec<WriterId> = earlier.map(|(writer, _)| writer).collect();
    for writer in &earlier {
        context.ownership.seal(*writer, true).await?;
    }
    Ok(earlier)
}

async fn tombstones(context: &NodeContext) -> Result<BTreeSet<TopicId>, LeadershipError> {
    let (entries, _) = context.metadata.get_prefix(&context.keys.deleted_topics()).await?;
    let parsed = entries.iter().filter_map(|e| context.keys.parse(&e.key));
    Ok(parsed
        .filter_map(|key| match key {
            crate::metadata::keys::ParsedKey::Deleted(topic) => Some(topic),
            _ => None,
        })
        .collect())
}

/// What an image says that this broker should do.
struct Split {
    /// To be taken, as far as it is free.
    wanted: Vec<PartitionKey>,
    /// To be given away.
    unwanted: Vec<PartitionKey>,
    /// Who is to give something to this broker.
    givers: BTreeSet<WriterId>,
}

fn split(context: &NodeContext, image: &ClusterImage, candidates: &Candidates) -> Split {
    let (me, node) = (context.registration.writer, context.registration.value.node);
    let mut split = Split { wanted: Vec::new(), unwanted: Vec::new(), givers: BTreeSet::new() };
    for topic in image.topics() {
        for index in 0..topic.value.partitions {
            let key = PartitionKey { topic: topic.value.id, partition: PartitionIndex(index) };
            let leader = candidates.leader(topic.value.placement.get(index as usize).copied(), &key);
            match (leader == Some(node), context.owns(&key)) {
                (true, false) => {
                    // This broker's own may be missing when it failed between the claim and the start.
                    let owner = image.partition(&key).and_then(|v| v.owner);
                    match owner.filter(|owner| *owner != me && image.is_live(*owner)) {
                        Some(giver) => drop(split.givers.insert(giver)),
                        None => split.wanted.push(key),
                    }
                }
                (false, true) if leader.is_some() => split.unwanted.push(key),
                _ => {}
            }
        }
    }
    split
}

/// What became of partitions that were to be taken over.
#[derive(Default)]
struct Taken {
    /// Cannot be rebuilt.
    failed: Vec<(PartitionKey, RecoveryError)>,
}

/// Takes over those of `wanted` that are free or whose owners are dead.
async fn take_over(
    context: &Arc<NodeContext>,
    maintenance: &mut Maintenance,
    wanted: Vec<PartitionKey>,
) -> Result<Taken, LeadershipError> {
    let mut taken = Taken::default();
    if wanted.is_empty() {
        return Ok(taken);
    }
    let stored = context.ownership.partitions_among(&wanted).await?;
    let fresh: Vec<PartitionKey> = wanted.into_iter().filter(|key| !stored.contains_key(key)).collect();
    claim_fresh(context, &fresh).await?;
    // Claimed by this broker, which failed before it led them: nothing was ever written to those in their first epoch, and
    // of the others the claim is still held.
    let me = context.registration.writer;
    let (own, mut stored): (BTreeMap<_, _>, BTreeMap<_, _>) =
        stored.into_iter().partition(|(_, (v, _))| v.owner == Some(me));
    let first = own.into_iter().map(|(key, (value, _))| (key, value)).filter(|(_, v)| v.epoch == LeaderEpoch(0));
    lead_fresh(context, first.collect()).await;
    let writers = writers_of(context, &mut stored).await?;
    if stored.is_empty() {
        return Ok(taken);
    }
    context.flusher.do_send(Hurry);
    let (_, revision) = context.metadata.get_prefix(&context.keys.cluster()).await?;
    let logs = load_needed(context, &stored, &writers, revision).await?;
    let (mut claims, mut before) = (Vec::with_capacity(stored.len()), BTreeMap::new());
    for (key, found) in stored {
        let epoch = LeaderEpoch(found.0.epoch.0 + 1);
        let seed = match maintenance.given_away(&key) {
            Some(seed) if found.0.history == [me] => Ok(seed.again(&found.0)),
            _ => replay(key, Some(&found.0), epoch, &logs, context.clock.settled_ms()),
        };
        match seed {
            Ok(seed) => {
                before.insert(key, maintenance.hold(seed, Some(found.clone())));
                claims.push((key, Some(found)));
            }
            Err(error) => taken.failed.push((key, error)),
        }
    }
    drop(logs);
    let outdated = match checkpoint_taken(context, maintenance, &writers).await {
        Ok(outdated) => outdated,
        Err(error) => {
            // Without a committed checkpoint nothing may be claimed.
            before.into_iter().for_each(|(key, held)| maintenance.hold_as_before(key, held));
            return Err(error);
        }
    };
    claims.retain(|(key, found): &Claim| {
        let is_outdated = found.iter().any(|(v, _)| v.history.iter().any(|writer| outdated.contains(writer)));
        if is_outdated {
            maintenance.hold_as_before(*key, before.remove(key).flatten()); // read again, by the next step
        }
        !is_outdated
    });
    claim_held(context, maintenance, claims).await?;
    Ok(taken)
}

/// Commits a checkpoint with what was read of `writers`. Returns those whose checkpoint is another one by now. What was read
/// of them may be deleted: they merge what they gave away before, too, and what their new checkpoint does not name is garbage.
/// If it is still the same, nothing that it names was deleted, and from now on this writer's checkpoint names it as well.
async fn checkpoint_taken(
    context: &NodeContext,
    maintenance: &mut Maintenance,
    writers: &BTreeMap<WriterId, WriterValue>,
) -> Result<BTreeSet<WriterId>, LeadershipError> {
    if !sabotage::is(Sabotage::ClaimEarly) {
        maintenance.checkpoint_soon().await?;
    }
    let mut outdated = BTreeSet::new();
    for (writer, read) in writers.iter().filter(|(_, read)| read.state == WriterState::Active) {
        let now = context.ownership.writer(*writer).await?;
        if now.is_none_or(|(now, _)| now.checkpoint != read.checkpoint) && !sabotage::is(Sabotage::ClaimOutdated) {
            tracing::info!(%writer, "a new checkpoint came while partitions were being taken; they are read again");
            outdated.insert(*writer);
        }
    }
    Ok(outdated)
}

/// Seals the dead owners of `stored`, and leaves out partitions whose owners live. Returns the values of all writers that
/// have something of the rest.
async fn writers_of(
    context: &NodeContext,
    stored: &mut BTreeMap<PartitionKey, StoredPartition>,
) -> Result<BTreeMap<WriterId, WriterValue>, LeadershipError> {
    let me = context.registration.writer;
    let owners: BTreeSet<WriterId> = stored.values().filter_map(|(v, _)| v.owner).collect();
    let mut writers = BTreeMap::new();
    for owner in owners.into_iter().filter(|owner| *owner != me) {
        writers.extend(context.ownership.seal(owner, false).await?.map(|value| (owner, value)));
    }
    stored.retain(|_, (v, _)| v.owner.is_none_or(|owner| writers.contains_key(&owner)));
    let named: BTreeSet<WriterId> = stored.values().flat_map(|(v, _)| v.history.iter().copied()).collect();
    for writer in named.into_iter().filter(|writer| *writer != me) {
        if !writers.contains_key(&writer) {
            writers.extend(context.ownership.writer(writer).await?.map(|(value, _)| (writer, value)));
        }
    }
    Ok(writers)
}

/// Loads the logs of the partitions' writers, newest first, and older ones only for partitions that no newer checkpoint
/// includes: what is older than a checkpoint may be deleted already.
async fn load_needed(
    context: &NodeContext,
    stored: &BTreeMap<PartitionKey, StoredPartition>,
    writers: &BTreeMap<WriterId, WriterValue>,
    revision: i64,
) -> Result<BTreeMap<WriterId, WriterLog>, RecoveryError> {
    let mut logs: BTreeMap<WriterId, WriterLog> = BTreeMap::new();
    loop {
        let mut wanted = BTreeMap::new();
        for (key, (value, _)) in stored {
            let newest_first = || value.history.iter().rev();
            let included = newest_first().position(|w| logs.get(w).is_some_and(|log| log.includes(key)));
            let next = newest_first().take(included.unwrap_or(value.history.len())).find(|w| !logs.contains_key(*w));
            // Replaying says so if the value of a writer that is needed is gone.
            wanted.extend(next.and_then(|w| writers.get(w).map(|value| (*w, value.clone()))));
        }
        if wanted.is_empty() {
            return Ok(logs);
        }
        logs.extend(context.load_logs(&wanted, revision).await?);
    }
}

/// A claim, and the ownership it was based on.
type Claim = (PartitionKey, Option<StoredPartition>);

/// Claims partitions that are held, with a committed checkpoint that has them, and starts leading them. What somebody else
/// has by now is let go; after an error, what may have been claimed stays held.
async fn claim_held(
    context: &Arc<NodeContext>,
    maintenance: &mut Maintenance,
    claims: Vec<Claim>,
) -> Result<(), LeadershipError> {
    for chunk in claims.chunks(CLAIMS_PER_TXN) {
        if let Some(claimed) = context.ownership.claim(&context.registration, chunk).await? {
            lead_held(context, maintenance, claimed).await;
            continue;
        }
        // One that changed prevents all of them.
        for claim in chunk {
            let claimed = match context.ownership.claim(&context.registration, std::slice::from_ref(claim)).await? {
                Some(claimed) => claimed,
                None => own(context, claim.0).await?.into_iter().collect(),
            };
            if claimed.is_empty() {
                maintenance.let_go(&claim.0);
            }
            lead_held(context, maintenance, claimed).await;
        }
    }
    Ok(())
}

/// The partition's ownership, if the store says that it is this writer's: the answer to an earlier claim was lost.
async fn own(
    context: &NodeContext,
    key: PartitionKey,
) -> Result<Option<(PartitionKey, PartitionValue)>, LeadershipError> {
    let Some(entry) = context.metadata.get(&context.keys.partition(&key)).await? else { return Ok(None) };
    let value: PartitionValue = model::decode(&entry)?;
    Ok((value.owner == Some(context.registration.writer)).then_some((key, value)))
}

async fn lead_held(
    context: &Arc<NodeContext>,
    maintenance: &mut Maintenance,
    claimed: Vec<(PartitionKey, PartitionValue)>,
) {
    for (key, value) in claimed {
        if let Some(held) = maintenance.let_go(&key) {
            context.lead(held.seed, value).await;
        }
    }
}

/// Claims partitions that never had an owner.
async fn claim_fresh(context: &Arc<NodeContext>, keys: &[PartitionKey]) -> Result<(), LeadershipError> {
    for chunk in keys.chunks(CLAIMS_PER_TXN) {
        let fresh: Vec<Claim> = chunk.iter().map(|key| (*key, None)).collect();
        if let Some(claimed) = context.ownership.claim(&context.registration, &fresh).await? {
            crate::failpoint::hit("leadership.claimed");
            lead_fresh(context, claimed).await;
        } else {
            adopt_own(context, chunk).await?;
        }
    }
    Ok(())
}

/// A claim was rejected because keys exist: those that say we own them are ours (the answer to an earlier claim was
/// lost before anything was written to them).
async fn adopt_own(context: &Arc<NodeContext>, keys: &[PartitionKey]) -> Result<(), LeadershipError> {
    for key in keys {
        let claimed = match own(context, *key).await? {
            Some((key, value)) if value.epoch == LeaderEpoch(0) => vec![(key, value)],
            Some(_) => continue,
            None => context.ownership.claim(&context.registration, &[(*key, None)]).await?.unwrap_or_default(),
        };
        lead_fresh(context, claimed).await;
    }
    Ok(())
}

async fn lead_fresh(context: &Arc<NodeContext>, claimed: Vec<(PartitionKey, PartitionValue)>) {
    for (key, value) in claimed {
        let seed: Seed = context.empty_seed(key, value.epoch);
        context.lead(seed, value).await;
    }
}

/// Gives partitions away: nothing more is appended, what is in flight is committed, then they are free.
async fn give_away(
    context: &Arc<NodeContext>,
    maintenance: &mut Maintenance,
    keys: &[PartitionKey],
) -> Result<(), LeadershipError> {
    context.flusher.do_send(Hurry);
    if maintenance.flushes_since_checkpoint() > REPLAY_FLUSHES_MAX {
        maintenance.checkpoint().await?; // while the partitions still serve
    }
    let me = context.registration.writer;
    let owned: BTreeMap<_, _> = context.owned_partitions().into_iter().collect();
    let actors = keys.iter().filter_map(|key| Some((*key, owned.get(key)?)));
    let actors: Vec<_> = actors.filter_map(|(key, owned)| Some((key, owned.actor.addr()?, owned))).collect();
    let mut quiet = Vec::with_capacity(actors.len());
    for (key, actor, _) in &actors {
        if !sabotage::is(Sabotage::GiveAwayEarly) && actor.send(Depart).await.is_ok() {
            let (done, wait) = oneshot::channel();
            context.flusher.do_send(Quiesce { key: Some(*key), done });
            quiet.push(wait);
        }
    }
    for wait in quiet {
        drop(wait.await);
    }
    let mut seeds = BTreeMap::new();
    for (key, actor, owned) in actors {
        if let Ok(snapshot) = actor.send(TakeSnapshot).await {
            seeds.insert(key, Seed::of(snapshot, owned.value.epoch, me));
        }
    }
    let departing: Vec<PartitionKey> = seeds.keys().copied().collect();
    for chunk in departing.chunks(CLAIMS_PER_TXN) {
        let free = loop {
            match context.ownership.release(&context.registration, chunk).await {
                Ok(free) => break free,
                // They serve nobody any more: nothing else can be done with them.
                Err(OwnershipError::Metadata(error @ MetadataError::Unavailable { .. })) => {
                    tracing::warn!(%error, "partitions could not be given away; trying again");
                    tokio::time::sleep(RETRY).await;
                }
                // Sealed, or something that has to be mended by hand: checkpoints go on meanwhile.
                Err(error) => return Err(error.into()),
            }
        };
        for key in chunk {
            context.forget(key);
            let kept = |_: &Seed| free.contains(key) && !sabotage::is(Sabotage::LetGoEarly);
            if let Some(seed) = seeds.remove(key).filter(kept) {
                maintenance.hold(seed, None);
            }
        }
    }
    Ok(())
}

/// Follows the image, for ever.
pub async fn run(context: Arc<NodeContext>, maintenance: Arc<Mutex<Maintenance>>, feed: ImageFeed) {
    let mut publications = feed.subscribe();
    let mut broken = BTreeMap::new();
    loop {
        let image = feed.current();
        crate::failpoint::hit("leadership.step");
        let wait = match step(&context, &maintenance, &image, &mut broken).await {
            Ok(()) => Duration::from_secs(1),
            Err(error) => {
                tracing::warn!(%error, "partitions could not be claimed or given away; trying again");
                RETRY
            }
        };
        // Also without news: a claim that failed is tried again.
        let _in_time = tokio::time::timeout(wait, publications.changed()).await;
    }
}

/// Does what the image says. Partitions in `broken` could not be rebuilt at the time given, which has been said.
async fn step(
    context: &Arc<NodeContext>,
    maintenance: &Mutex<Maintenance>,
    image: &ClusterImage,
    broken: &mut BTreeMap<PartitionKey, Instant>,
) -> Result<(), LeadershipError> {
    stop_deleted(context, image).await?;
    let Split { wanted, unwanted, givers } = split(context, image, &Candidates::of(image));
    context.ahead.follow(context, &givers);
    let now = context.clock.monotonic();
    broken.retain(|_, since| now - *since < BROKEN_RETRY);
    let wanted = wanted.into_iter().filter(|key| !broken.contains_key(key));
    // New partitions need no checkpoint, and clients wait for them.
    let (fresh, wanted): (Vec<_>, Vec<_>) = wanted.partition(|key| image.partition(key).is_none());
    claim_fresh(context, &fresh).await?;
    // Nothing may be checkpointed between what is read of other partitions and their claim or release.
    let mut maintenance = match maintenance.try_lock() {
        Ok(maintenance) => maintenance,
        Err(_) if wanted.is_empty() && unwanted.is_empty() => return Ok(()), // the rest has time
        Err(_) => maintenance.lock().await,
    };
    let claims = maintenance.claiming();
    claim_held(context, &mut maintenance, claims).await?;
    maintenance.let_go_of_taken(image).await?;
    for chunk in unwanted.chunks(RELEASES_MAX) {
        give_away(context, &mut maintenance, chunk).await?;
    }
    let taken = take_over(context, &mut maintenance, wanted).await?;
    for (key, error) in taken.failed {
        tracing::error!(%key, %error, "the partition cannot be rebuilt, nobody leads it; restore what is missing");
        broken.insert(key, now);
    }
    context.ahead.retain(&givers);
    Ok(())
}

async fn stop_deleted(context: &NodeContext, image: &ClusterImage) -> Result<(), LeadershipError> {
    let owned: BTreeSet<TopicId> = context.owned_partitions().iter().map(|(k, _)| k.topic).collect();
    let gone: Vec<TopicId> = owned.into_iter().filter(|t| image.topic_by_id(*t).is_none()).collect();
    for topic in gone {
        if context.metadata.get(&context.keys.deleted(topic)).await?.is_some() {
            for (key, _) in context.owned_partitions().iter().filter(|(k, _)| k.topic == topic) {
                context.forget(key);
            }
        }
    }
    Ok(())
}
