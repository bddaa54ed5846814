//! Administrative changes: topics, producer ids and the cluster's identity, each one compare-and-swap transaction.
//!
//! A transaction whose outcome is unknown is resolved by trying again with the same compares: what we write carries a
//! random id of ours, so reading it back tells whether it was us. Retries are bounded; after them the caller hears
//! that the store is unavailable.

use super::keys::Keys;
use super::model::{self, BrokerConfigsValue, ClusterValue, CounterValue, DeletedTopicValue, FORMAT};
use super::model::{TopicState, TopicValue};
use super::{Compare, MetadataError, MetadataStore, Op, Revision, Txn, TxnOutcome};
use crate::clock::Clock;
use crate::ids::{BrokerId, PartitionIndex, ProducerId, TopicId, WriterId};
use crate::protocol::config_change::ChangeError;
use crate::protocol::config_defaults::Configs;
use crate::rng;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Partitions of one topic. Each is a metadata key; the whole cluster is meant to have some ten thousand.
pub const PARTITIONS_MAX: i32 = 10_000;

/// Producer ids allocated by one transaction.
const PRODUCER_ID_BLOCK: u64 = 1000;

/// Attempts of one change that the store did not answer.
const UNAVAILABLE_ATTEMPTS_MAX: u32 = 6;

/// Attempts of one change that somebody else's change prevented.
const CONFLICT_ATTEMPTS_MAX: u32 = 100;

const BACKOFF_MS_MIN: u64 = 50;
const BACKOFF_MS_MAX: u64 = 2000;

/// Why an administrative change failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdminError {
    /// A topic of this name exists.
    #[error("topic {0} exists already")]
    TopicExists(String),
    /// No such topic.
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    /// The number of partitions can only grow.
    #[error("topic {topic} has {has} partition(s) already; {wanted} would not be more")]
    NotMorePartitions {
        /// The topic.
        topic: String,
        /// Partitions it has.
        has: i32,
        /// Partitions it was to have.
        wanted: i32,
    },
    /// Configs are not changed like this.
    #[error(transparent)]
    Config(#[from] ChangeError),
    /// The store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Admin {
    store: Arc<dyn MetadataStore>,
    keys: Keys,
    clock: Clock,
    /// Allocated producer ids that nobody has yet.
    producer_ids: tokio::sync::Mutex<Range<u64>>,
}

impl Admin {
    /// Changes to the cluster below `keys`.
    pub fn new(store: Arc<dyn MetadataStore>, keys: Keys) -> Self {
        Self { store, keys, clock: Clock::system(), producer_ids: tokio::sync::Mutex::new(0..0) }
    }

    /// The same with another source of wall time.
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Creates a topic with a new random id. Name, partition count, configs and placement are valid (the handler checked).
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        configs: BTreeMap<String, String>,
        placement: Vec<BrokerId>,
    ) -> Result<TopicValue, AdminError> {
        let (id, state) = (TopicId(rng::uuid()), TopicState::Live);
        let value = TopicValue { v: FORMAT, id, partitions, configs, state, placement };
        let key = self.keys.topic(name);
        let txn = Txn {
            // The second compare matters when an earlier attempt of ours was applied, and the topic deleted since.
            compares: vec![Compare::ModRevision(key.clone(), 0), Compare::ModRevision(self.keys.deleted(value.id), 0)],
            ops: vec![Op::Put(key.clone(), model::encode(&value), None)],
        };
        let mut attempts = Attempts::default();
        loop {
            match attempts.txn(&*self.store, txn.clone()).await? {
                Attempt::Committed(_) => return Ok(value),
                Attempt::Unknown => continue,
                Attempt::Rejected => {}
            }
            match attempts.read::<TopicValue>(&*self.store, &key).await? {
                Some((found, _)) if found.id == value.id => return Ok(value),
                Some(_) => return Err(AdminError::TopicExists(name.to_owned())),
                None if self.was_deleted(&mut attempts, value.id).await? => return Ok(value),
                None => attempts.conflict(&key).await?,
            }
        }
    }

    /// Creates a topic with an id that was chosen before, if `unless_changed` (a key and its last write) still holds: one attempt.
    /// The revision that has it, or `None` if the topic or the key is another by now, or the id was used up.
    pub async fn create_topic_as(
        &self,
        name: &str,
        topic: TopicValue,
        unless_changed: (String, Revision),
    ) -> Result<Option<Revision>, MetadataError> {
        let key = self.keys.topic(name);
        let compares = vec![
            Compare::ModRevision(key.clone(), 0),
            Compare::ModRevision(self.keys.deleted(topic.id), 0),
            Compare::ModRevision(unless_changed.0, unless_changed.1),
        ];
        let txn = Txn { compares, ops: vec![Op::Put(key, model::encode(&topic), None)] };
        Ok(match self.store.txn(txn).await? {
            TxnOutcome::Committed(revision) => Some(revision),
            TxnOutcome::Rejected(_) => None,
        })
    }

    /// True if a topic with this id was deleted and its data is not collected yet.
    pub async fn is_used_up(&self, id: TopicId) -> Result<bool, MetadataError> {
        Ok(self.store.get(&self.keys.deleted(id)).await?.is_some())
    }

    /// Deletes the topic `name` if its id is (still) `id`: the name is free at once, and the topic id is recorded for
    /// the janitor, which deletes the data later.
    pub async fn delete_topic(&self, name: &str, id: TopicId) -> Result<(), AdminError> {
        let key = self.keys.topic(name);
        let mut attempts = Attempts::default();
        loop {
            let found = attempts.read::<TopicValue>(&*self.store, &key).await?;
            let Some((topic, mod_revision)) = found.filter(|(topic, _)| topic.id == id) else {
                let ours = attempts.any_unknown && self.was_deleted(&mut attempts, id).await?;
                return if ours { Ok(()) } else { Err(AdminError::UnknownTopic(name.to_owned())) };
            };
            let deleted = DeletedTopicValue {
                v: FORMAT,
                name: name.to_owned(),
                id,
                partitions: topic.partitions,
                deleted_ms: self.clock.wall_ms(),
            };
            let txn = Txn {
                compares: vec![Compare::ModRevision(key.clone(), mod_revision)],
                ops: vec![Op::Delete(key.clone()), Op::Put(self.keys.deleted(id), model::encode(&deleted), None)],
            };
            match attempts.txn(&*self.store, txn).await? {
                Attempt::Committed(_) => return Ok(()),
                Attempt::Unknown => {}
                Attempt::Rejected => attempts.conflict(&key).await?,
            }
        }
    }

    /// Raises the number of partitions of the topic `name` to `partitions` if its id is (still) `id`; `placed` are the
    /// brokers that should lead the new ones. Returns the topic and the revision at which it says so.
    pub async fn create_partitions(
        &self,
        name: &str,
        id: TopicId,
        partitions: i32,
        placed: &[BrokerId],
    ) -> Result<(TopicValue, Revision), AdminError> {
        self.update_topic(name, id, |topic, may_be_ours| {
            if may_be_ours && topic.partitions == partitions {
                return Ok(None);
            }
            if topic.partitions >= partitions {
                let (topic, has) = (name.to_owned(), topic.partitions);
                return Err(AdminError::NotMorePartitions { topic, has, wanted: partitions });
            }
            let mut placement = topic.placement.clone();
            if placement.len() == topic.partitions as usize {
                placement.extend(placed);
            }
            Ok(Some(TopicValue { partitions, placement, ..topic.clone() }))
        })
        .await
    }

    /// Says which brokers should lead partitions of the topic `name` from now on, if its id is (still) `id`. Partitions
    /// that nobody was named for are named `otherwise`. Returns the revision that has the change.
    pub async fn place_partitions(
        &self,
        name: &str,
        id: TopicId,
        moves: &BTreeMap<PartitionIndex, BrokerId>,
        otherwise: BrokerId,
    ) -> Result<Revision, AdminError> {
        let decide = |topic: &TopicValue, _: bool| {
            let mut placement = topic.placement.clone();
            placement.resize(topic.partitions as usize, otherwise);
            for (partition, node) in moves {
                if let Some(place) = placement.get_mut(partition.0 as usize) {
                    *place = *node;
                }
            }
            Ok((placement != topic.placement).then(|| TopicValue { placement, ..topic.clone() }))
        };
        Ok(self.update_topic(name, id, decide).await?.1)
    }

    /// Changes the configs of the topic `name` if its id is (still) `id`, or, with `validate_only`, only says whether
    /// that can be done. `change` maps what is stored to what is to be stored; applied twice it must give the same.
    /// Returns the revision that has the change.
    pub async fn alter_topic_configs(
        &self,
        name: &str,
        id: TopicId,
        validate_only: bool,
        change: impl Fn(&Configs) -> Result<Configs, ChangeError> + Send,
    ) -> Result<Revision, AdminError> {
        let decide = move |topic: &TopicValue, _: bool| {
            let configs = change(&topic.configs)?;
            let differs = configs != topic.configs && !validate_only;
            Ok(differs.then(|| TopicValue { configs, ..topic.clone() }))
        };
        Ok(self.update_topic(name, id, decide).await?.1)
    }

    /// The same for the configs of a broker that are changed at run time, or with `None` of all brokers.
    pub async fn alter_broker_configs(
        &self,
        node: Option<BrokerId>,
        validate_only: bool,
        change: impl Fn(&Configs) -> Result<Configs, ChangeError> + Send,
    ) -> Result<Revision, AdminError> {
        self.alter_configs(self.keys.broker_configs(node), validate_only, change).await
    }

    /// The same for the configs of a group.
    pub async fn alter_group_configs(
        &self,
        group: &str,
        validate_only: bool,
        change: impl Fn(&Configs) -> Result<Configs, ChangeError> + Send,
    ) -> Result<Revision, AdminError> {
        self.alter_configs(self.keys.group_configs(group), validate_only, change).await
    }

    /// Changes configs that have a key of their own; it goes with the last of them.
    async fn alter_configs(
        &self,
        key: String,
        validate_only: bool,
        change: impl Fn(&Configs) -> Result<Configs, ChangeError> + Send,
    ) -> Result<Revision, AdminError> {
        let mut attempts = Attempts::default();
        loop {
            let found = attempts.read::<BrokerConfigsValue>(&*self.store, &key).await?;
            let (before, mod_revision) = found.map_or_else(Default::default, |(value, r)| (value.configs, r));
            let configs = change(&before)?;
            if validate_only || configs == before {
                return Ok(mod_revision);
            }
            let op = match configs.is_empty() {
                true => Op::Delete(key.clone()),
                false => Op::Put(key.clone(), model::encode(&BrokerConfigsValue { v: FORMAT, configs }), None),
            };
            let txn = Txn { compares: vec![Compare::ModRevision(key.clone(), mod_revision)], ops: vec![op] };
            match attempts.txn(&*self.store, txn).await? {
                Attempt::Committed(revision) => return Ok(revision),
                Attempt::Unknown => {}
                Attempt::Rejected => attempts.conflict(&key).await?,
            }
        }
    }

    /// Changes the topic `name` by compare-and-swap if its id is (still) `id`. `decide` gets the stored value, and
    /// whether an earlier decision may be in it already; it returns the new value, or `None` to leave it. Returns what
    /// is stored then, and the revision that has it.
    async fn update_topic(
        &self,
        name: &str,
        id: TopicId,
        mut decide: impl FnMut(&TopicValue, bool) -> Result<Option<TopicValue>, AdminError> + Send,
    ) -> Result<(TopicValue, Revision), AdminError> {
        let key = self.keys.topic(name);
        let mut attempts = Attempts::default();
        loop {
            let found = attempts.read::<TopicValue>(&*self.store, &key).await?;
            let Some((topic, mod_revision)) = found.filter(|(topic, _)| topic.id == id) else {
                return Err(AdminError::UnknownTopic(name.to_owned()));
            };
            let Some(value) = decide(&topic, attempts.any_unknown)? else { return Ok((topic, mod_revision)) };
            let txn = Txn {
                compares: vec![Compare::ModRevision(key.clone(), mod_revision)],
                ops: vec![Op::Put(key.clone(), model::encode(&value), None)],
            };
            match attempts.txn(&*self.store, txn).await? {
                Attempt::Committed(revision) => return Ok((value, revision)),
                Attempt::Unknown => {}
                Attempt::Rejected => attempts.conflict(&key).await?,
            }
        }
    }

    /// A producer id that nobody has; allocated in blocks, so that most calls need no transaction.
    pub async fn next_producer_id(&self) -> Result<ProducerId, AdminError> {
        let mut ids = self.producer_ids.lock().await;
        if ids.is_empty() {
            *ids = allocate(&*self.store, &self.keys.next_producer(), PRODUCER_ID_BLOCK).await?;
        }
        let id = ids.next().expect("a block is never empty");
        Ok(ProducerId(i64::try_from(id).expect("allocation stops before i64::MAX")))
    }

    async fn was_deleted(&self, attempts: &mut Attempts, id: TopicId) -> Result<bool, MetadataError> {
        let found = attempts.read::<DeletedTopicValue>(&*self.store, &self.keys.deleted(id)).await?;
        Ok(found.is_some())
    }
}

/// The cluster's identity, made up by whoever starts first: 22 characters of base64url, as Kafka's ids.
pub async fn ensure_cluster(store: &dyn MetadataStore, keys: &Keys) -> Result<ClusterValue, MetadataError> {
    let cluster_id = URL_SAFE_NO_PAD.encode(rng::uuid().as_bytes());
    let proposed = ClusterValue { v: FORMAT, cluster_id, generation: 0 };
    update::<ClusterValue>(store, &keys.cluster(), |found| Ok(found.is_none().then(|| proposed.clone()))).await
}

/// A writer id that nobody has or had.
pub async fn allocate_writer_id(store: &dyn MetadataStore, keys: &Keys) -> Result<WriterId, MetadataError> {
    allocate(store, &keys.next_writer(), 1).await.map(|ids| WriterId(ids.start))
}

/// Takes `count` numbers from a counter, which starts at 1. An unknown outcome wastes numbers, never gives one twice.
async fn allocate(store: &dyn MetadataStore, key: &str, count: u64) -> Result<Range<u64>, MetadataError> {
    let updated = update::<CounterValue>(store, key, |found| {
        let next = found.map_or(1, |counter| counter.next);
        let next = next.checked_add(count).filter(|next| i64::try_from(*next).is_ok());
        let next = next.ok_or_else(|| MetadataError::Malformed {
            key: key.to_owned(),
            message: "the counter is exhausted".to_owned(),
        })?;
        Ok(Some(CounterValue { v: FORMAT, next }))
    })
    .await?;
    Ok(updated.next - count..updated.next)
}

/// Changes one value by compare-and-swap. `decide` gets the stored value and returns the new one, or `None` to leave
/// it; it is asked again after a conflict and after an unknown outcome, so its answer must be right in both cases.
/// Returns the value that is stored then.
pub async fn update<T: Serialize + DeserializeOwned>(
    store: &dyn MetadataStore,
    key: &str,
    mut decide: impl FnMut(Option<&T>) -> Result<Option<T>, MetadataError> + Send,
) -> Result<T, MetadataError> {
    let mut attempts = Attempts::default();
    loop {
        let (found, mod_revision) = attempts.read::<T>(store, key).await?.map_or((None, 0), |(v, r)| (Some(v), r));
        let Some(value) = decide(found.as_ref())? else {
            return found.ok_or_else(|| MetadataError::Malformed {
                key: key.to_owned(),
                message: "it is absent, and nothing was decided".to_owned(),
            });
        };
        let put = Op::Put(key.to_owned(), model::encode(&value), None);
        let txn = Txn { compares: vec![Compare::ModRevision(key.to_owned(), mod_revision)], ops: vec![put] };
        match attempts.txn(store, txn).await? {
            Attempt::Committed(_) => return Ok(value),
            Attempt::Unknown => {}
            Attempt::Rejected => attempts.conflict(key).await?,
        }
    }
}

/// Outcome of one attempt at a transaction.
enum Attempt {
    Committed(Revision),
    Rejected,
    Unknown,
}

/// Bounds the retries of one change.
#[derive(Debug, Default)]
struct Attempts {
    unavailable: u32,
    conflicts: u32,
    any_unknown: bool,
}

impl Attempts {
    /// One attempt; an unknown outcome is waited out, and an error once there were too many.
    async fn txn(&mut self, store: &dyn MetadataStore, txn: Txn) -> Result<Attempt, MetadataError> {
        match store.txn(txn).await {
            Ok(TxnOutcome::Committed(revision)) => Ok(Attempt::Committed(revision)),
            Ok(TxnOutcome::Rejected(_)) => Ok(Attempt::Rejected),
            Err(error @ MetadataError::Unavailable { .. }) => {
                self.any_unknown = true;
                self.back_off(error).await?;
                Ok(Attempt::Unknown)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a value and its revision, again if the store does not answer.
    async fn read<T: DeserializeOwned>(
        &mut self,
        store: &dyn MetadataStore,
        key: &str,
    ) -> Result<Option<(T, i64)>, MetadataError> {
        loop {
            match store.get(key).await {
                Ok(Some(entry)) => return Ok(Some((model::decode(&entry)?, entry.mod_revision))),
                Ok(None) => return Ok(None),
                Err(error @ MetadataError::Unavailable { .. }) => self.back_off(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn back_off(&mut self, error: MetadataError) -> Result<(), MetadataError> {
        self.unavailable += 1;
        if self.unavailable >= UNAVAILABLE_ATTEMPTS_MAX {
            return Err(error);
        }
        sleep((BACKOFF_MS_MIN << self.unavailable).min(BACKOFF_MS_MAX)).await;
        Ok(())
    }

    async fn conflict(&mut self, key: &str) -> Result<(), MetadataError> {
        self.conflicts += 1;
        if self.conflicts >= CONFLICT_ATTEMPTS_MAX {
            let message = format!("key {key} changed {CONFLICT_ATTEMPTS_MAX} times while it was being updated");
            return Err(MetadataError::Unavailable { message });
        }
        sleep(u64::from(self.conflicts)).await;
        Ok(())
    }
}

async fn sleep(base_ms: u64) {
    tokio::time::sleep(Duration::from_millis(rng::jitter_ms(base_ms))).await;
}

#[cfg(test)]
mod tests;
