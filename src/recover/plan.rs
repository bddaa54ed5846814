//! From what was found to what is to be written: the decisions of `kafscale recover`, without I/O.
//!
//! **Whose data a partition has.** Every writer that has something of it is a candidate, with its newest checkpoint and all of
//! its WAL behind that. The one whose last leader epoch is highest wins: before a broker claims a partition, its checkpoint
//! has everything of the epochs before, and the new epoch itself. Among equals the longest log wins, which is a continuation of
//! the shorter ones. What a loser has beyond the point where the winner's epochs went on is left out, as a follower of Kafka
//! truncates; it is never guessed that somebody was acked.
//!
//! A checkpoint that is newer than everything that was committed may lack partitions: a broker whose metadata store went back under it
//! believes for a moment that they are somebody else's. What only older checkpoints of a writer have, as far as these are
//! still there, is therefore a candidate, too. If the partition was given away in order, whoever took it has a later epoch.
//!
//! **What is not acked may appear.** An object above the head that the metadata store remembers counts if no slot before it is
//! missing: its commit may be what the store has forgotten.
//!
//! **A writer of the backup that left nothing behind** was forgotten since, in order, if others led all partitions that the
//! backup says it had at a later leader epoch. Otherwise the bucket lost something.
//!
//! **A log that is not complete** is what is left of one that is collected (its checkpoint is gone, and objects that others refer to
//! are not), or it was damaged. It cannot have had anything later than the last epoch and the end that it still shows, so that
//! it hides nothing if the winner has that epoch up to that end, or a later one: see `succession`.
//!
//! **What topics there are** is what the newest of two says: the metadata store or the catalogs in checkpoints. Generations order
//! catalogs across earlier recoveries, revisions within one. A topic that has data and that neither has ever heard of is
//! restored under a name made of its id; one that a catalog had and a newer one has not was deleted.

use super::succession::{incomplete, left_out, not_succeeded};
use crate::actors::partition::view::EpochStart;
use crate::clock::WallMs;
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionKey, Seq, TopicId, WriterId};
use crate::metadata::Revision;
use crate::metadata::model::{CheckpointRef, ClusterValue, DeletedTopicValue, FORMAT, PartitionValue};
use crate::metadata::model::{TopicState, TopicValue, WriterState, WriterValue};
use crate::protocol::config_defaults::Configs;
use crate::storage::checkpoint::{Catalog, TopicRecord};
use std::collections::{BTreeMap, BTreeSet};

/// Writer ids that are skipped, besides all that were seen: of writers that left nothing behind.
const WRITER_ID_GAP: u64 = 1_000;
/// Producer ids that are skipped, besides all that were seen: clients may have some that they have not used yet.
const PRODUCER_ID_GAP: u64 = 1_000_000_000;

/// What the metadata store has.
#[derive(Debug, Clone, Default)]
pub struct Store {
    /// `None` if it is empty.
    pub cluster: Option<ClusterValue>,
    /// Revision at which that was written, 0 if never.
    pub cluster_revision: Revision,
    /// Revision at which the last recovery that was not finished began, 0 if there is none.
    pub recovering: Revision,
    /// Its revision.
    pub revision: Revision,
    /// The next writer id.
    pub next_writer: u64,
    /// The next producer id.
    pub next_producer: u64,
    /// Writers.
    pub writers: BTreeMap<WriterId, (WriterValue, Revision)>,
    /// Ownership.
    pub partitions: BTreeMap<PartitionKey, (PartitionValue, Revision)>,
    /// Topics by name.
    pub topics: BTreeMap<String, TopicValue>,
    /// Topics whose data is being deleted.
    pub deleted: BTreeSet<TopicId>,
    /// Configs that were changed at run time, by the part of their key behind `settings/`.
    pub settings: BTreeMap<String, Configs>,
    /// Brokers that live.
    pub live: Vec<BrokerId>,
    /// Consumer groups.
    pub groups: usize,
}

/// A writer's log in the object store.
#[derive(Debug, Clone)]
pub struct Source {
    /// The writer.
    pub writer: WriterId,
    /// Its nonce.
    pub nonce: u64,
    /// Its broker, if known.
    pub node: Option<BrokerId>,
    /// The last slot before which none is missing.
    pub head: Seq,
    /// The newest checkpoint that is readable.
    pub checkpoint: Option<CheckpointRef>,
    /// What that says of topics.
    pub catalog: Option<Catalog>,
    /// Another source is the same writer's log from a newer checkpoint on; this one has what that lacks.
    pub is_older: bool,
}

/// What a writer has of a partition.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Index into [`Found::sources`].
    pub source: usize,
    /// Leader epochs, ascending.
    pub epochs: Vec<EpochStart>,
    /// First offset.
    pub log_start: Offset,
    /// End.
    pub next_offset: Offset,
    /// Objects that it consists of and that are not there.
    pub missing: usize,
}

/// What a writer has of a partition, and what cannot be put together.
#[derive(Debug, Clone)]
pub struct Broken {
    /// Index into [`Found::sources`].
    pub source: usize,
    /// The partition.
    pub key: PartitionKey,
    /// The last leader epoch that it shows.
    pub epoch: LeaderEpoch,
    /// The greatest end that it shows.
    pub end: Offset,
    /// What is wrong.
    pub error: String,
}

impl Candidate {
    /// The last leader epoch, 0 if there is none yet.
    pub fn last_epoch(&self) -> LeaderEpoch {
        self.epochs.last().map_or(LeaderEpoch(0), |e| e.epoch.max(LeaderEpoch(0)))
    }
}

/// What the object store has.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The cluster.
    pub cluster_id: String,
    /// Writers.
    pub sources: Vec<Source>,
    /// Partitions.
    pub partitions: BTreeMap<PartitionKey, Vec<Candidate>>,
    /// Logs of partitions that are not complete.
    pub broken: Vec<Broken>,
    /// Objects that cannot be read.
    pub damaged: Vec<String>,
    /// Writers, with their nonces, that others have taken everything over from.
    pub inherited: BTreeSet<(WriterId, u64)>,
    /// The greatest writer id in any key.
    pub writer_max: u64,
    /// The greatest producer id.
    pub producer_max: i64,
}

impl Found {
    /// The candidate that wins.
    pub fn best(&self, used: &BTreeSet<usize>, key: &PartitionKey) -> Option<&Candidate> {
        let candidates = self.partitions.get(key).into_iter().flatten().filter(|c| used.contains(&c.source));
        candidates.max_by_key(|c| (c.last_epoch(), c.next_offset, self.sources[c.source].writer))
    }
}

/// What a partition will have.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// Index into [`Found::sources`].
    pub source: usize,
    /// Its ownership: of nobody, with everything in the new writer's checkpoint.
    pub value: PartitionValue,
    /// End.
    pub next_offset: Offset,
}

/// A new writer whose only purpose is its checkpoint: it has what was found with one old writer.
#[derive(Debug, Clone, PartialEq)]
pub struct Home {
    /// Index into [`Found::sources`].
    pub source: usize,
    /// The new writer.
    pub writer: WriterId,
    /// Its partitions.
    pub partitions: Vec<PartitionKey>,
}

/// What is to be written.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The cluster's identity.
    pub cluster: Option<ClusterValue>,
    /// Old writers, fenced, so that what they wrote is collected in its time.
    pub writers: BTreeMap<WriterId, WriterValue>,
    /// Writers of the store that have nothing in the object store.
    pub forgotten: Vec<WriterId>,
    /// New writers.
    pub homes: Vec<Home>,
    /// Partitions.
    pub partitions: BTreeMap<PartitionKey, Restored>,
    /// Ownership that goes: nothing was ever written to these.
    pub unclaimed: Vec<PartitionKey>,
    /// Topics that are new or differ.
    pub topics: BTreeMap<String, TopicValue>,
    /// Topics that were deleted after the backup.
    pub deleted: Vec<DeletedTopicValue>,
    /// All topics as they will be.
    pub catalog: Catalog,
    /// Configs that are new or differ.
    pub settings: BTreeMap<String, Configs>,
    /// Counter of writer ids.
    pub next_writer: u64,
    /// Counter of producer ids.
    pub next_producer: u64,
    /// What was decided, for people.
    pub decisions: Vec<String>,
    /// What cannot be restored. Somebody has to agree to that (`--force`).
    pub losses: Vec<String>,
}

/// Decides. `Err` says why nothing can be decided.
pub fn plan(store: &Store, found: &Found, now_ms: WallMs) -> Result<Plan, String> {
    if let Some(cluster) = store.cluster.as_ref().filter(|c| c.cluster_id != found.cluster_id) {
        let (metadata, objects) = (&cluster.cluster_id, &found.cluster_id);
        return Err(format!(
            "the metadata store belongs to cluster {metadata} but the object store to cluster {objects}: check the bucket, \
             KAFSCALE_S3_NAMESPACE and KAFSCALE_ETCD_ENDPOINTS"
        ));
    }
    let mut plan = Plan { losses: found.damaged.clone(), ..Plan::default() };
    let used = used_sources(store, found, &mut plan);
    let newest = newest_catalog(found, &used);
    let generation = newest.map_or(0, |c| c.generation).max(store.cluster.as_ref().map_or(0, |c| c.generation)) + 1;
    plan.cluster = Some(ClusterValue { v: FORMAT, cluster_id: found.cluster_id.clone(), generation });
    let topics = topics(store, found, &used, now_ms, &mut plan);
    writers(store, found, &used, &topics, &mut plan);
    partitions(store, found, &used, &topics, &mut plan);
    homes(store, found, &mut plan);
    let ids: BTreeMap<TopicId, &String> = topics.iter().map(|(name, t)| (t.id, name)).collect();
    plan.unclaimed.retain(|key| ids.contains_key(&key.topic));
    let record = |(name, t): (&String, &TopicValue)| TopicRecord {
        name: name.clone(),
        id: t.id,
        partitions: t.partitions,
        configs: t.configs.clone(),
    };
    let topics = topics.iter().map(record).collect();
    let settings = store.settings.clone().into_iter().chain(plan.settings.clone()).collect();
    plan.catalog = Catalog { generation, revision: 0, node: BrokerId(-1), topics, settings };
    Ok(plan)
}

/// Sources that count: writers that the store knows or cannot know yet. One that it has known and forgotten left nothing that
/// nobody else has.
fn used_sources(store: &Store, found: &Found, plan: &mut Plan) -> BTreeSet<usize> {
    let forgotten = |s: &Source| {
        store.cluster.is_some() && s.writer.0 < store.next_writer && !store.writers.contains_key(&s.writer)
    };
    let (stale, used): (Vec<usize>, Vec<usize>) =
        (0..found.sources.len()).partition(|index| forgotten(&found.sources[*index]));
    if !stale.is_empty() {
        plan.decisions.push(format!("{} writer(s) of the past have nothing that others do not have", stale.len()));
    }
    used.into_iter().collect()
}

fn age(catalog: &Catalog) -> (u32, Revision) {
    (catalog.generation, catalog.revision)
}

fn newest_catalog<'a>(found: &'a Found, used: &BTreeSet<usize>) -> Option<&'a Catalog> {
    used.iter().filter_map(|index| found.sources[*index].catalog.as_ref()).max_by_key(|c| age(c))
}

/// All topics as they will be; what is to be written of them goes into the plan.
fn topics(
    store: &Store,
    found: &Found,
    used: &BTreeSet<usize>,
    now_ms: WallMs,
    plan: &mut Plan,
) -> BTreeMap<String, TopicValue> {
    let newest = newest_catalog(found, used);
    let store_age = store.cluster.as_ref().map(|c| (c.generation, store.revision));
    let newer = newest.filter(|catalog| store_age.is_none_or(|store| age(catalog) > store));
    let mut topics = store.topics.clone();
    if let Some(catalog) = newer {
        topics.clear();
        for record in catalog.topics.iter().filter(|t| !store.deleted.contains(&t.id)) {
            topics.insert(record.name.clone(), restored_topic(record, store));
        }
        for (name, topic) in &store.topics {
            if topics.get(name).is_none_or(|kept| kept.id != topic.id) {
                plan.decisions.push(format!("topic {name} ({}) was deleted after the backup", topic.id));
                let (name, id, partitions) = (name.clone(), topic.id, topic.partitions);
                plan.deleted.push(DeletedTopicValue { v: FORMAT, name, id, partitions, deleted_ms: now_ms });
            }
        }
        plan.settings = settings(store, found, used, catalog);
    }
    let mut last: BTreeMap<TopicId, i32> = BTreeMap::new();
    for (key, candidates) in &found.partitions {
        if candidates.iter().any(|c| used.contains(&c.source)) {
            let last = last.entry(key.topic).or_default();
            *last = (*last).max(key.partition.0);
        }
    }
    let known: BTreeSet<TopicId> = topics.values().map(|t| t.id).collect();
    let ever = used.iter().filter_map(|index| found.sources[*index].catalog.as_ref()).flat_map(|c| &c.topics);
    let ever: BTreeSet<TopicId> = ever.map(|t| t.id).collect();
    let gone: BTreeSet<TopicId> = plan.deleted.iter().map(|t| t.id).chain(store.deleted.iter().copied()).collect();
    for id in last.keys().filter(|id| !known.contains(id) && !gone.contains(id)) {
        let record = newest.and_then(|c| c.topics.iter().find(|t| t.id == *id));
        match record {
            Some(record) if newer.is_none() && !topics.contains_key(&record.name) => {
                plan.decisions.push(format!("topic {} was created after the backup", record.name));
                topics.insert(record.name.clone(), restored_topic(record, store));
            }
            None if ever.contains(id) => {
                plan.decisions.push(format!("topic id {id} was deleted; its data stays garbage"))
            }
            _ => {
                let name = format!("recovered-{id}");
                plan.decisions.push(format!(
                    "topic id {id} has data, but no checkpoint has its name yet: it becomes {name}, without configs"
                ));
                let (configs, placement) = Default::default();
                let state = TopicState::Live;
                topics.insert(name, TopicValue { v: FORMAT, id: *id, partitions: 1, configs, state, placement });
            }
        }
    }
    for topic in topics.values_mut() {
        topic.partitions = topic.partitions.max(last.get(&topic.id).map_or(0, |last| last + 1));
    }
    let differs = |(name, topic): &(&String, &TopicValue)| store.topics.get(*name) != Some(*topic);
    plan.topics = topics.iter().filter(differs).map(|(name, topic)| (name.clone(), topic.clone())).collect();
    topics
}

fn restored_topic(record: &TopicRecord, store: &Store) -> TopicValue {
    let before = store.topics.get(&record.name).filter(|t| t.id == record.id);
    TopicValue {
        v: FORMAT,
        id: record.id,
        partitions: record.partitions.max(before.map_or(0, |t| t.partitions)),
        configs: record.configs.clone(),
        state: TopicState::Live,
        placement: before.map(|t| t.placement.clone()).unwrap_or_default(),
    }
}

/// A broker's own settings are in its own catalogs only, everything else in all of them.
fn settings(store: &Store, found: &Found, used: &BTreeSet<usize>, newest: &Catalog) -> BTreeMap<String, Configs> {
    let mut settings = newest.settings.clone();
    let mut by_node: BTreeMap<BrokerId, &Catalog> = BTreeMap::new();
    for catalog in used.iter().filter_map(|index| found.sources[*index].catalog.as_ref()) {
        let known = by_node.entry(catalog.node).or_insert(catalog);
        if age(catalog) > age(known) {
            *known = catalog;
        }
    }
    for (node, catalog) in by_node {
        let own = crate::metadata::keys::broker_settings(Some(node));
        settings.extend(catalog.settings.get(&own).map(|configs| (own, configs.clone())));
    }
    settings.retain(|key, configs| store.settings.get(key) != Some(configs));
    settings
}

/// Fences everybody.
fn writers(
    store: &Store,
    found: &Found,
    used: &BTreeSet<usize>,
    topics: &BTreeMap<String, TopicValue>,
    plan: &mut Plan,
) {
    for source in used.iter().map(|index| &found.sources[*index]).filter(|source| !source.is_older) {
        let known = store.writers.get(&source.writer).map(|(value, _)| value);
        if let Some(known) = known.filter(|known| known.nonce == source.nonce) {
            let pointer = |c: &Option<CheckpointRef>| c.as_ref().map_or(Seq(0), |c| c.seq);
            let is_shorter = known.head > source.head || pointer(&known.checkpoint) > pointer(&source.checkpoint);
            let missing = is_shorter.then(|| not_succeeded(source.writer, store, found, used, topics));
            if let Some(of) = missing.flatten() {
                plan.losses.push(format!(
                    "{of}: writer {} has committed slot {}, but the bucket has its log only up to {}: restore the bucket",
                    source.writer, known.head, source.head
                ));
            }
        }
        let node = source.node.or(known.map(|known| known.node)).unwrap_or(BrokerId(-1));
        let (head, nonce, checkpoint) = (source.head, source.nonce, source.checkpoint.clone());
        let value = WriterValue { v: FORMAT, node, state: WriterState::Closed, head, nonce, checkpoint };
        if let Some(twice) = plan.writers.insert(source.writer, value) {
            let writer = source.writer;
            plan.decisions
                .push(format!("writer id {writer} was used twice, with nonces {:x} and {nonce:x}", twice.nonce));
        }
    }
    for (writer, (value, _)) in &store.writers {
        let is_source = |index: &usize| found.sources[*index].nonce == value.nonce;
        if !used.iter().any(is_source) {
            let inherited = found.inherited.contains(&(*writer, value.nonce));
            let wrote = value.head > Seq(0) || value.checkpoint.is_some();
            match not_succeeded(*writer, store, found, used, topics) {
                _ if !wrote || inherited => {}
                None => plan.decisions.push(format!(
                    "writer {writer} was forgotten after the backup: others went on with everything that it had"
                )),
                Some(of) => plan.losses.push(format!(
                    "{of}: writer {writer} has committed slot {}, but the bucket has nothing of it: restore the bucket",
                    value.head
                )),
            }
            if !plan.writers.contains_key(writer) {
                plan.forgotten.push(*writer);
            }
        }
    }
}

fn partitions(
    store: &Store,
    found: &Found,
    used: &BTreeSet<usize>,
    topics: &BTreeMap<String, TopicValue>,
    plan: &mut Plan,
) {
    let live: BTreeMap<TopicId, &String> = topics.iter().map(|(name, t)| (t.id, name)).collect();
    let named = |key: &PartitionKey| live.get(&key.topic).map(|name| format!("{name}-{}", key.partition));
    incomplete(store, found, used, &named, plan);
    for (key, candidates) in &found.partitions {
        let (Some(name), Some(best)) = (named(key), found.best(used, key)) else { continue };
        for loser in candidates.iter().filter(|c| used.contains(&c.source) && c.source != best.source) {
            let (epoch, end) = (loser.last_epoch(), loser.next_offset);
            plan.decisions.extend(left_out(found, &name, loser.source, epoch, end, best));
        }
        if best.missing > 0 {
            plan.losses.push(format!("{name}: {} object(s) of it are not in the bucket: restore them", best.missing));
        }
        let known = store.partitions.get(key).map(|(value, _)| value);
        if let Some(known) = known.filter(|v| v.epoch > best.last_epoch() || v.log_start > best.next_offset) {
            plan.losses.push(format!(
                "{name}: the metadata store is at leader epoch {} and log start {}, the bucket has it only up to epoch {} and \
                 offset {}: restore the bucket",
                known.epoch,
                known.log_start,
                best.last_epoch(),
                best.next_offset
            ));
        }
        let log_start = best.log_start.max(known.map_or(Offset(0), |v| v.log_start)).min(best.next_offset);
        let epoch = best.last_epoch().max(known.map_or(LeaderEpoch(0), |v| v.epoch));
        let value = PartitionValue { v: FORMAT, owner: None, epoch, history: Vec::new(), log_start };
        let restored = Restored { source: best.source, value, next_offset: best.next_offset };
        plan.partitions.insert(*key, restored);
    }
    for (key, (value, _)) in store.partitions.iter().filter(|(key, _)| !plan.partitions.contains_key(key)) {
        if value.epoch > LeaderEpoch(0) || value.log_start > Offset(0) {
            let Some(name) = named(key) else { continue };
            plan.losses
                .push(format!("{name}: the bucket has nothing of it; it begins anew, empty: restore the bucket"));
        }
        plan.unclaimed.push(*key);
    }
}

/// Gives every source that something is restored from a new writer.
fn homes(store: &Store, found: &Found, plan: &mut Plan) {
    let mut next = store.next_writer.max(found.writer_max + 1) + WRITER_ID_GAP;
    let mut by_source: BTreeMap<usize, Vec<PartitionKey>> = BTreeMap::new();
    for (key, restored) in &plan.partitions {
        by_source.entry(restored.source).or_default().push(*key);
    }
    for (source, partitions) in by_source {
        let writer = WriterId(next);
        next += 1;
        for key in &partitions {
            if let Some(restored) = plan.partitions.get_mut(key) {
                restored.value.history = vec![writer];
            }
        }
        plan.homes.push(Home { source, writer, partitions });
    }
    plan.next_writer = next;
    let producers = u64::try_from(found.producer_max + 1).unwrap_or(0);
    plan.next_producer = store.next_producer.max(producers) + PRODUCER_ID_GAP;
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
