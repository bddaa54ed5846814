//! The cluster as this process knows it: an immutable value, rebuilt from the watch of the metadata store and
//! published in an `ArcSwap`. It answers "what exists and who leads"; it never grants ownership.
//!
//! Copies share what did not change: a change of one partition among 10,000 copies one shard of about 40.

use super::keys::{Keys, ParsedKey};
use super::model::{self, BrokerConfigsValue, LiveValue, PartitionValue, ShardValue, TopicState, TopicValue};
use super::{Entry, MetadataError, Revision, WatchEvent};
use crate::ids::{BrokerId, PartitionKey, TopicId, WriterId};
use crate::protocol::config_defaults::{Configs, Defaults};
use crate::protocol::group_config::GroupOverrides;
use crate::protocol::topic_config::TopicConfig;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A topic of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its stored value.
    pub value: TopicValue,
    /// The configs that the broker acts on, parsed once per change of the topic or of the defaults.
    pub config: TopicConfig,
}

/// What a group sets itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupConfigs {
    /// As stored.
    pub configs: Configs,
    /// What is acted on, parsed once per change.
    pub overrides: GroupOverrides,
}

/// Everything the metadata store says, at one revision.
#[derive(Debug, Clone, Default)]
pub struct ClusterImage {
    /// Revision of the last change seen.
    pub revision: Revision,
    topics: Arc<BTreeMap<Arc<str>, Arc<Topic>>>,
    names: Sharded<TopicId, Arc<str>>,
    partitions: Sharded<PartitionKey, Arc<PartitionValue>>,
    lives: Arc<BTreeMap<WriterId, Arc<LiveValue>>>,
    /// Owners of coordinator shards.
    shards: Arc<BTreeMap<u32, WriterId>>,
    /// What topics' configs fall back to in this process.
    defaults: Arc<Defaults>,
    groups: Arc<BTreeMap<Arc<str>, GroupConfigs>>,
    /// When the operator's document was last written; the document itself is read by the one who follows it.
    desired: Revision,
}

impl ClusterImage {
    /// An empty image whose topics will fall back to `defaults`.
    pub fn with_defaults(defaults: Defaults) -> Self {
        Self { defaults: Arc::new(defaults), ..Self::default() }
    }

    /// What topics' configs fall back to in this process.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// What a group sets itself.
    pub fn group_overrides(&self, group: &str) -> GroupOverrides {
        self.groups.get(group).map_or_else(GroupOverrides::default, |g| g.overrides)
    }

    /// The configs of a group that has some.
    pub fn group_configs(&self, group: &str) -> Option<&Configs> {
        self.groups.get(group).map(|g| &g.configs)
    }

    /// Groups that have configs, in the order of their ids.
    pub fn configured_groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.groups.keys()
    }

    /// The live topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name).filter(|t| t.value.state == TopicState::Live)
    }

    /// The live topic with this id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topic(self.names.get(&id)?).filter(|t| t.value.id == id)
    }

    /// Revision of the operator's document of topics; 0 if there is none.
    pub fn desired(&self) -> Revision {
        self.desired
    }

    /// True if the topics of the other image are known to be the same.
    pub fn has_same_topics(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.topics, &other.topics)
    }

    /// True if neither has configs of groups that the other does not have; may be false by mistake.
    pub fn has_same_groups(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.groups, &other.groups)
    }

    /// True if the live brokers and the owners of coordinator shards are known to be the same.
    pub fn has_same_coordinators(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lives, &other.lives) && Arc::ptr_eq(&self.shards, &other.shards)
    }

    /// Live topics in name order.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values().filter(|t| t.value.state == TopicState::Live)
    }

    /// All topics, those being deleted included.
    pub fn topics_any_state(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// A partition's ownership, as last seen.
    pub fn partition(&self, key: &PartitionKey) -> Option<&Arc<PartitionValue>> {
        self.partitions.get(key)
    }

    /// Topics of which somebody has claimed partitions.
    pub fn topics_of_partitions(&self) -> BTreeSet<TopicId> {
        self.partitions.keys().map(|key| key.topic).collect()
    }

    /// Live writers and their brokers.
    pub fn lives(&self) -> impl Iterator<Item = (WriterId, &Arc<LiveValue>)> {
        self.lives.iter().map(|(w, l)| (*w, l))
    }

    /// True if a live writer's broker says that it drains.
    pub fn drains(&self, writer: WriterId) -> bool {
        self.lives.get(&writer).is_some_and(|live| live.draining)
    }

    /// The broker that leads a partition, if its owner is alive.
    pub fn leader(&self, key: &PartitionKey) -> Option<BrokerId> {
        let owner = self.partitions.get(key)?.owner?;
        self.lives.get(&owner).map(|l| l.node)
    }

    /// The broker that coordinates the groups of a shard, if its owner is alive.
    pub fn coordinator(&self, shard: u32) -> Option<BrokerId> {
        self.lives.get(self.shards.get(&shard)?).map(|l| l.node)
    }

    /// The writer that owns a coordinator shard, as last seen.
    pub fn shard_owner(&self, shard: u32) -> Option<WriterId> {
        self.shards.get(&shard).copied()
    }

    /// True while the writer's lease lives, as last seen.
    pub fn is_live(&self, writer: WriterId) -> bool {
        self.lives.contains_key(&writer)
    }

    /// The writer that looks after what concerns nobody in particular: the one that has been there for longest. It is
    /// a division of labour, not a lock; whatever it does is decided by compare-and-swap.
    pub fn controller(&self) -> Option<WriterId> {
        self.lives.keys().next().copied()
    }

    /// Live brokers by id; when two incarnations of one broker overlap, the newer writer wins.
    pub fn brokers(&self) -> BTreeMap<BrokerId, Arc<LiveValue>> {
        self.lives.values().map(|l| (l.node, l.clone())).collect()
    }

    /// Applies a watch event. Values that cannot be read are returned as warnings and leave the old value in place.
    pub fn apply(&mut self, keys: &Keys, event: WatchEvent) -> Vec<String> {
        let mut warnings = Vec::new();
        match event {
            WatchEvent::Snapshot { entries, revision } => {
                let before = std::mem::take(self);
                self.defaults = Arc::new(before.defaults.without_dynamic());
                for entry in &entries {
                    if let Err(error) = self.put(keys, entry) {
                        warnings.push(error.to_string());
                        self.keep(keys, &entry.key, &before);
                    }
                }
                self.revision = revision;
            }
            WatchEvent::Put(entry) => {
                warnings.extend(self.put(keys, &entry).err().map(|error| error.to_string()));
                self.revision = self.revision.max(entry.mod_revision);
            }
            WatchEvent::Delete { key, revision } => {
                self.delete(keys, &key);
                self.revision = self.revision.max(revision);
            }
        }
        warnings
    }

    fn put(&mut self, keys: &Keys, entry: &Entry) -> Result<(), MetadataError> {
        match keys.parse(&entry.key) {
            Some(ParsedKey::Topic(name)) => {
                let value: TopicValue = model::decode(entry)?;
                let config = TopicConfig::new(&value.configs, &self.defaults);
                self.put_topic(Topic { name: name.into(), value, config });
            }
            Some(ParsedKey::Partition(key)) => self.partitions.insert(key, Arc::new(model::decode(entry)?)),
            Some(ParsedKey::Live(writer)) => {
                let live = Arc::new(model::decode(entry)?);
                Arc::make_mut(&mut self.lives).insert(writer, live);
            }
            Some(ParsedKey::Shard(shard)) => {
                let value: ShardValue = model::decode(entry)?;
                let shards = Arc::make_mut(&mut self.shards);
                match value.owner {
                    Some(owner) => drop(shards.insert(shard, owner)),
                    None => drop(shards.remove(&shard)),
                }
            }
            Some(ParsedKey::BrokerConfigs(node)) => {
                let value: BrokerConfigsValue = model::decode(entry)?;
                self.set_dynamic(node, &value.configs);
            }
            Some(ParsedKey::GroupConfigs(group)) => {
                let configs = model::decode::<BrokerConfigsValue>(entry)?.configs;
                let overrides = GroupOverrides::from(&configs);
                Arc::make_mut(&mut self.groups).insert(group.into(), GroupConfigs { configs, overrides });
            }
            Some(ParsedKey::Desired) => self.desired = entry.mod_revision,
            Some(_) | None => {} // no part of the image
        }
        Ok(())
    }

    fn delete(&mut self, keys: &Keys, key: &str) {
        match keys.parse(key) {
            Some(ParsedKey::Topic(name)) => self.remove_topic(&name),
            Some(ParsedKey::Partition(key)) => self.partitions.remove(&key),
            Some(ParsedKey::Live(writer)) => drop(Arc::make_mut(&mut self.lives).remove(&writer)),
            Some(ParsedKey::Shard(shard)) => drop(Arc::make_mut(&mut self.shards).remove(&shard)),
            Some(ParsedKey::BrokerConfigs(node)) => self.set_dynamic(node, &BTreeMap::new()),
            Some(ParsedKey::GroupConfigs(group)) => drop(Arc::make_mut(&mut self.groups).remove(group.as_str())),
            Some(ParsedKey::Desired) => self.desired = 0,
            Some(_) | None => {} // no part of the image
        }
    }

    /// Takes over what `before` knew of a key whose value cannot be read now.
    fn keep(&mut self, keys: &Keys, key: &str, before: &Self) {
        match keys.parse(key) {
            Some(ParsedKey::Topic(name)) => {
                if let Some(topic) = before.topics.get(name.as_str()) {
                    self.put_topic(Topic::clone(topic));
                }
            }
            Some(ParsedKey::Partition(key)) => {
                if let Some(value) = before.partitions.get(&key) {
                    self.partitions.insert(key, value.clone());
                }
            }
            Some(ParsedKey::Live(writer)) => {
                if let Some(live) = before.lives.get(&writer) {
                    Arc::make_mut(&mut self.lives).insert(writer, live.clone());
                }
            }
            Some(ParsedKey::Shard(shard)) => {
                if let Some(owner) = before.shards.get(&shard) {
                    Arc::make_mut(&mut self.shards).insert(shard, *owner);
                }
            }
            Some(ParsedKey::BrokerConfigs(node)) => {
                let kept = before.defaults.dynamic_of(node).cloned().unwrap_or_default();
                self.set_dynamic(node, &kept);
            }
            Some(ParsedKey::GroupConfigs(group)) => {
                if let Some((id, configs)) = before.groups.get_key_value(group.as_str()) {
                    Arc::make_mut(&mut self.groups).insert(id.clone(), configs.clone());
                }
            }
            Some(_) | None => {} // no part of the image
        }
    }

    /// Takes over dynamic broker configs; what topics do not set themselves changes with them.
    fn set_dynamic(&mut self, node: Option<BrokerId>, configs: &BTreeMap<String, String>) {
        let mut defaults = Defaults::clone(&self.defaults);
        defaults.set_dynamic(node, configs);
        if defaults == *self.defaults {
            return;
        }
        for topic in Arc::make_mut(&mut self.topics).values_mut() {
            let config = TopicConfig::new(&topic.value.configs, &defaults);
            if config != topic.config {
                Arc::make_mut(topic).config = config;
            }
        }
        self.defaults = Arc::new(defaults);
    }

    fn put_topic(&mut self, topic: Topic) {
        self.remove_topic(&topic.name);
        self.names.insert(topic.value.id, topic.name.clone());
        Arc::make_mut(&mut self.topics).insert(topic.name.clone(), Arc::new(topic));
    }

    fn remove_topic(&mut self, name: &str) {
        if let Some(old) = Arc::make_mut(&mut self.topics).remove(name) {
            self.names.remove(&old.value.id);
        }
    }
}

const SHARDS: usize = 256;

/// A hash map whose copies share their shards until they differ.
#[derive(Debug, Clone)]
struct Sharded<K, V> {
    shards: Arc<Vec<Arc<HashMap<K, V>>>>,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { shards: Arc::new(vec![empty; SHARDS]) }
    }
}

impl<K: ShardKey, V: Clone> Sharded<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.shards[key.shard()].get(key)
    }

    fn insert(&mut self, key: K, value: V) {
        self.shard_mut(&key).insert(key, value);
    }

    fn remove(&mut self, key: &K) {
        if self.get(key).is_some() {
            self.shard_mut(key).remove(key);
        }
    }

    fn keys(&self) -> impl Iterator<Item = &K> {
        self.shards.iter().flat_map(|shard| shard.keys())
    }

    fn shard_mut(&mut self, key: &K) -> &mut HashMap<K, V> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[key.shard()])
    }
}

/// Topic ids are random, so their low bits spread the keys.
trait ShardKey: Eq + std::hash::Hash + Clone {
    fn shard(&self) -> usize;
}

impl ShardKey for TopicId {
    fn shard(&self) -> usize {
        self.0.as_u128() as usize % SHARDS
    }
}

impl ShardKey for PartitionKey {
    fn shard(&self) -> usize {
        self.topic.shard().wrapping_add(self.partition.0 as usize) % SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaderEpoch, Offset, PartitionIndex};
    use bytes::Bytes;

    const KEYS: fn() -> Keys = || Keys::new("test");

    fn put(key: String, value: Bytes, revision: Revision) -> WatchEvent {
        WatchEvent::Put(Entry { key, value, create_revision: revision, mod_revision: revision })
    }

    fn topic(id: u128) -> TopicValue {
        let id = TopicId(uuid::Uuid::from_u128(id));
        TopicValue { v: 1, id, partitions: 3, configs: BTreeMap::new(), state: TopicState::Live, placement: Vec::new() }
    }

    fn partition(owner: u64) -> PartitionValue {
        let owner = Some(WriterId(owner));
        PartitionValue { v: 1, owner, epoch: LeaderEpoch(1), history: vec![WriterId(1)], log_start: Offset(0) }
    }

    fn key(topic: u128, partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicId(uuid::Uuid::from_u128(topic)), partition: PartitionIndex(partition) }
    }

    #[test]
    fn a_partition_is_led_while_its_owner_is_alive() {
        let (keys, mut image) = (KEYS(), ClusterImage::default());
        image.apply(&keys, put(keys.partition(&key(7, 2)), model::encode(&partition(5)), 10));
        assert_eq!(image.leader(&key(7, 2)), None);
        image.apply(&keys, put(keys.live(WriterId(5)), model::encode(&LiveValue::sample(9)), 11));
        assert_eq!(image.leader(&key(7, 2)), Some(BrokerId(9)));
        assert_eq!(image.leader(&key(7, 1)), None);
        image.apply(&keys, WatchEvent::Delete { key: keys.live(WriterId(5)), revision: 12 });
        assert_eq!(image.leader(&key(7, 2)), None);
        assert_eq!(image.revision, 12);
    }

    #[test]
    fn a_recreated_topic_is_found_by_its_new_id_only() {
        let (keys, mut image) = (KEYS(), ClusterImage::default());
        image.apply(&keys, put(keys.topic("a"), model::encode(&topic(1)), 2));
        image.apply(&keys, put(keys.topic("a"), model::encode(&topic(2)), 3));
        assert!(image.topic_by_id(topic(1).id).is_none());
        assert_eq!(image.topic_by_id(topic(2).id).map(|t| &*t.name), Some("a"));
        image.apply(&keys, WatchEvent::Delete { key: keys.topic("a"), revision: 4 });
        assert!(image.topic("a").is_none() && image.topic_by_id(topic(2).id).is_none());
    }

    #[test]
    fn unreadable_values_warn_and_leave_the_old_ones() {
        let (keys, mut image) = (KEYS(), ClusterImage::default());
        image.apply(&keys, put(keys.topic("a"), model::encode(&topic(1)), 2));
        let warnings = image.apply(&keys, put(keys.topic("a"), Bytes::from_static(b"{\"v\":99}"), 3));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains(&keys.topic("a")) && warnings[0].contains("99"), "{warnings:?}");
        assert!(image.topic("a").is_some());
        let WatchEvent::Put(entry) = put(keys.topic("a"), Bytes::from_static(b"garbage"), 4) else { unreachable!() };
        let warnings = image.apply(&keys, WatchEvent::Snapshot { entries: vec![entry], revision: 9 });
        assert_eq!(warnings.len(), 1);
        assert!(image.topic("a").is_some(), "the old value is kept across a snapshot");
        image.apply(&keys, WatchEvent::Snapshot { entries: vec![], revision: 10 });
        assert!(image.topic("a").is_none(), "but not when the key is gone");
    }

    #[test]
    fn topics_follow_dynamic_defaults() {
        let (keys, mut image) = (KEYS(), ClusterImage::with_defaults(Defaults::new(BrokerId(1), Vec::new())));
        let set = |value: &str| {
            let configs = [("log.retention.ms".to_owned(), value.to_owned())].into();
            model::encode(&BrokerConfigsValue { v: 1, configs })
        };
        let own = TopicValue { configs: [("retention.ms".to_owned(), "9".to_owned())].into(), ..topic(2) };
        let retention = |image: &ClusterImage, name: &str| image.topic(name).unwrap().config.retention_ms;
        let both = |image: &ClusterImage| (retention(image, "a"), retention(image, "own"));
        image.apply(&keys, put(keys.topic("a"), model::encode(&topic(1)), 2));
        image.apply(&keys, put(keys.topic("own"), model::encode(&own), 3));
        assert_eq!(both(&image), (604_800_000, 9));
        image.apply(&keys, put(keys.broker_configs(None), set("5"), 4));
        assert_eq!(both(&image), (5, 9));
        image.apply(&keys, put(keys.broker_configs(Some(BrokerId(2))), set("6"), 5));
        assert_eq!(both(&image), (5, 9), "another broker's");
        image.apply(&keys, put(keys.broker_configs(Some(BrokerId(1))), set("7"), 6));
        assert_eq!(both(&image), (7, 9));
        // An unreadable value leaves the old one, also across a snapshot; keys that are gone are forgotten.
        let unreadable = put(keys.broker_configs(Some(BrokerId(1))), Bytes::from_static(b"x"), 7);
        assert_eq!(image.apply(&keys, unreadable.clone()).len(), 1);
        let WatchEvent::Put(unreadable) = unreadable else { unreachable!() };
        let WatchEvent::Put(a) = put(keys.topic("a"), model::encode(&topic(1)), 2) else { unreachable!() };
        let entries = vec![unreadable, a];
        assert_eq!(image.apply(&keys, WatchEvent::Snapshot { entries, revision: 8 }).len(), 1);
        assert_eq!(retention(&image, "a"), 7);
        image.apply(&keys, WatchEvent::Delete { key: keys.broker_configs(Some(BrokerId(1))), revision: 9 });
        assert_eq!(retention(&image, "a"), 604_800_000);
        assert!(image.defaults().is_static());
    }

    #[test]
    fn a_copy_is_unaffected_by_later_changes_and_shares_the_rest() {
        let (keys, mut image) = (KEYS(), ClusterImage::default());
        for p in 0..1000 {
            image.apply(&keys, put(keys.partition(&key(7, p)), model::encode(&partition(1)), 2));
        }
        let before = image.clone();
        image.apply(&keys, put(keys.partition(&key(7, 3)), model::encode(&partition(2)), 3));
        let owner = |image: &ClusterImage, p| image.partition(&key(7, p)).and_then(|v| v.owner);
        assert_eq!((owner(&before, 3), owner(&image, 3)), (Some(WriterId(1)), Some(WriterId(2))));
        let shared = before.partitions.shards.iter().zip(image.partitions.shards.iter());
        assert_eq!(shared.filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
    }
}
