//! Which partitions this broker leads: takes over from sealed writers at start, claims what nobody owns, stops what is
//! deleted.
//!
//! Data is never given up on hearsay: a partition is stopped only if the tombstone of its topic is read from the
//! metadata store, and everything a predecessor had is in this writer's first checkpoint before any of it is served.

use crate::actors::compactor::{Maintenance, MaintenanceError, MaintenanceLimits};
use crate::actors::context::NodeContext;
use crate::actors::recovery::{RecoveryError, Seed, WriterLog, replay};
use crate::ids::{LeaderEpoch, PartitionIndex, PartitionKey, TopicId, WriterId};
use crate::metadata::image::ClusterImage;
use crate::metadata::model::{self, PartitionValue, TopicValue, WriterState, WriterValue};
use crate::metadata::ownership::{CLAIMS_PER_TXN, OwnershipError};
use crate::metadata::{MetadataError, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

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
    /// The first checkpoint could not be written.
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
}

type Found = (PartitionKey, Option<(PartitionValue, Revision)>);

/// Takes over everything that has no live owner and starts leading it. Returns the broker's maintenance.
pub async fn start(
    context: &Arc<NodeContext>,
    limits: MaintenanceLimits,
) -> Result<Arc<Mutex<Maintenance>>, LeadershipError> {
    let me = context.registration.writer;
    let sealed = seal_predecessors(context).await?;
    let partitions = context.ownership.partitions().await?;
    let tombstones = tombstones(context).await?;
    let mut wanted: BTreeMap<PartitionKey, Option<(PartitionValue, Revision)>> = BTreeMap::new();
    for key in live_topic_partitions(context).await? {
        wanted.insert(key, None);
    }
    // A partition whose topic is neither live nor deleted is kept too: losing a topic's name must not lose its data.
    let stored = partitions.into_iter().filter(|(key, _)| !tombstones.contains(&key.topic));
    wanted.extend(stored.map(|(key, found)| (key, Some(found))));
    let mut mine: Vec<Found> = wanted.into_iter().filter(|(_, found)| claimable(found, &sealed)).collect();
    let (_, revision) = context.metadata.get_prefix(&context.keys.cluster()).await?;
    let logs = load_needed(context, &mine, &sealed, revision).await?;
    let mut seeds = Vec::with_capacity(mine.len());
    for (key, found) in &mut mine {
        let epoch = LeaderEpoch(found.as_ref().map_or(0, |(v, _)| v.epoch.0 + 1));
        let seed = replay(*key, found.as_ref().map(|(v, _)| v), epoch, &logs, context.clock.wall_ms())?;
        if let Some((value, _)) = found {
            value.history.clone_from(&seed.history);
        }
        seeds.push(seed);
    }
    let values = claim_all(context, mine).await?;
    let covered = |key: PartitionKey| values.contains_key(&key) || tombstones.contains(&key.topic);
    let whole: Vec<_> = logs.values().filter(|log| log.partitions().all(covered)).collect();
    let mut maintenance = Maintenance::new(context.clone(), limits, &whole);
    let predecessors = logs.len();
    drop(logs);
    maintenance.checkpoint(&seeds).await?;
    forget_unneeded(context, &sealed).await?;
    tracing::info!(partitions = seeds.len(), writer = %me, predecessors, "partitions taken over");
    for seed in seeds {
        let value = values[&seed.key].clone();
        context.lead(seed, value).await;
    }
    Ok(Arc::new(Mutex::new(maintenance)))
}

/// Forgets the keys of sealed writers that no partition's history names.
async fn forget_unneeded(
    context: &NodeContext,
    sealed: &BTreeMap<WriterId, WriterValue>,
) -> Result<(), LeadershipError> {
    let partitions = context.ownership.partitions().await?;
    let named: BTreeSet<WriterId> = partitions.values().flat_map(|(v, _)| v.history.iter().copied()).collect();
    let unneeded: Vec<WriterId> = sealed.keys().filter(|w| !named.contains(w)).copied().collect();
    Ok(context.ownership.forget_writers(&unneeded).await?)
}

/// Seals every writer that is dead or an earlier process of this broker. Returns all sealed writers.
async fn seal_predecessors(context: &NodeContext) -> Result<BTreeMap<WriterId, WriterValue>, LeadershipError> {
    let (me, node) = (context.registration.writer, context.registration.value.node);
    let mut sealed = BTreeMap::new();
    for (writer, (value, _)) in context.ownership.writers().await? {
        if writer == me {
            continue;
        }
        // The newest process of a broker wins: it holds the broker's address, and fencing makes the takeover safe.
        let same_broker = value.node == node && writer < me;
        if let Some(value) = context.ownership.seal(writer, same_broker).await? {
            sealed.insert(writer, value);
        }
    }
    Ok(sealed)
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

async fn live_topic_partitions(context: &NodeContext) -> Result<Vec<PartitionKey>, LeadershipError> {
    let (entries, _) = context.metadata.get_prefix(&context.keys.topics()).await?;
    let mut keys = Vec::new();
    for entry in &entries {
        let topic: TopicValue = model::decode(entry)?;
        keys.extend((0..topic.partitions).map(|p| PartitionKey { topic: topic.id, partition: PartitionIndex(p) }));
    }
    Ok(keys)
}

fn claimable(found: &Option<(PartitionValue, Revision)>, sealed: &BTreeMap<WriterId, WriterValue>) -> bool {
    match found.as_ref().and_then(|(v, _)| v.owner) {
        None => true,
        Some(owner) => sealed.get(&owner).is_some_and(|v| v.state != WriterState::Active),
    }
}

/// Loads the logs of `mine`'s writers, newest first, and older ones only for partitions that no newer checkpoint includes:
/// what is older than a checkpoint may be deleted already.
async fn load_needed(
    context: &NodeContext,
    mine: &[Found],
    sealed: &BTreeMap<WriterId, WriterValue>,
    revision: i64,
) -> Result<BTreeMap<WriterId, WriterLog>, RecoveryError> {
    let mut logs: BTreeMap<WriterId, WriterLog> = BTreeMap::new();
    loop {
        let mut wanted = BTreeMap::new();
        for (key, found) in mine {
            let history = found.as_ref().map_or(&[][..], |(v, _)| &v.history[..]);
            let newest_first = || history.iter().rev();
            let included = newest_first().position(|w| logs.get(w).is_some_and(|log| log.includes(key)));
            let next = newest_first().take(included.unwrap_or(history.len())).find(|w| !logs.contains_key(*w));
            // Replaying says so if the value of a writer that is needed is gone.
            wanted.extend(next.and_then(|w| sealed.get(w).map(|value| (*w, value.clone()))));
        }
        if wanted.is_empty() {
            return Ok(logs);
        }
        logs.extend(context.load_logs(&wanted, revision).await?);
    }
}

/// Claims all of `found`; their present owners are sealed, so that only a newer process of this broker can interfere.
async fn claim_all(
    context: &NodeContext,
    found: Vec<Found>,
) -> Result<BTreeMap<PartitionKey, PartitionValue>, LeadershipError> {
    let mut values = BTreeMap::new();
    for chunk in found.chunks(CLAIMS_PER_TXN) {
        match context.ownership.claim(&context.registration, chunk).await? {
            Some(claimed) => values.extend(claimed),
            None => {
                let message = "partitions changed hands while they were being claimed; start again".to_owned();
                return Err(MetadataError::Unavailable { message }.into());
            }
        }
    }
    Ok(values)
}

/// Follows the image: claims new partitions, stops deleted ones. Returns when `changed` ends.
pub async fn run(context: Arc<NodeContext>, feed: crate::metadata::watcher::ImageFeed) {
    let mut revisions = feed.subscribe();
    loop {
        let image = feed.current();
        crate::failpoint::hit("leadership.step");
        if let Err(error) = step(&context, &image).await {
            tracing::warn!(%error, "partitions could not be claimed; trying again");
        }
        // Also without news: a claim that failed is tried again.
        let news = tokio::time::timeout(Duration::from_secs(1), revisions.changed()).await;
        if matches!(news, Ok(Err(_))) {
            return;
        }
    }
}

async fn step(context: &Arc<NodeContext>, image: &ClusterImage) -> Result<(), LeadershipError> {
    stop_deleted(context, image).await?;
    let mut missing: Vec<PartitionKey> = Vec::new();
    for topic in image.topics() {
        let all = (0..topic.value.partitions).map(PartitionIndex);
        let keys = all.map(|partition| PartitionKey { topic: topic.value.id, partition });
        // Partitions with another owner are taken over at start (or by the controller), never from an image. This
        // broker's own may be missing when it failed between the claim and the start.
        let me = context.registration.writer;
        let free = |k: &PartitionKey| image.partition(k).and_then(|v| v.owner).is_none_or(|owner| owner == me);
        missing.extend(keys.filter(|k| !context.owns(k) && free(k)));
    }
    for chunk in missing.chunks(CLAIMS_PER_TXN) {
        let mut fresh: Vec<Found> = Vec::with_capacity(chunk.len());
        for key in chunk {
            fresh.push((*key, None));
        }
        if let Some(claimed) = context.ownership.claim(&context.registration, &fresh).await? {
            crate::failpoint::hit("leadership.claimed");
            lead_fresh(context, claimed).await;
        } else {
            adopt_own(context, chunk).await?;
        }
    }
    Ok(())
}

/// A claim was rejected because the keys exist: those that say we own them are ours (the answer to an earlier claim was
/// lost before anything was written to them).
async fn adopt_own(context: &Arc<NodeContext>, keys: &[PartitionKey]) -> Result<(), LeadershipError> {
    for key in keys {
        match context.metadata.get(&context.keys.partition(key)).await? {
            Some(entry) => {
                let value: PartitionValue = model::decode(&entry)?;
                if value.owner == Some(context.registration.writer) && value.history.len() == 1 {
                    lead_fresh(context, vec![(*key, value)]).await;
                }
            }
            None => {
                if let Some(claimed) = context.ownership.claim(&context.registration, &[(*key, None)]).await? {
                    lead_fresh(context, claimed).await;
                }
            }
        }
    }
    Ok(())
}

async fn lead_fresh(context: &Arc<NodeContext>, claimed: Vec<(PartitionKey, PartitionValue)>) {
    for (key, value) in claimed {
        let seed: Seed = context.empty_seed(key, value.epoch);
        context.lead(seed, value).await;
    }
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
