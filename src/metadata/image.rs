//! The cluster as this process knows it: an immutable value, rebuilt from the watch of the metadata store and
//! published in an `ArcSwap`. It answers "what exists and who leads"; it never grants ownership.

use super::keys::{Keys, ParsedKey};
use super::model::{self, LiveValue, PartitionValue, TopicState, TopicValue};
use super::{Entry, Revision, WatchEvent};
use crate::ids::{BrokerId, PartitionKey, TopicId, WriterId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A topic of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its stored value.
    pub value: TopicValue,
}

/// Everything the metadata store says, at one revision.
#[derive(Debug, Clone, Default)]
pub struct ClusterImage {
    /// Revision of the last change seen.
    pub revision: Revision,
    topics: BTreeMap<String, Arc<Topic>>,
    names: HashMap<TopicId, Arc<str>>,
    partitions: HashMap<PartitionKey, Arc<PartitionValue>>,
    lives: BTreeMap<WriterId, Arc<LiveValue>>,
}

impl ClusterImage {
    /// The live topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name).filter(|t| t.value.state == TopicState::Live)
    }

    /// The live topic with this id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topic(self.names.get(&id)?).filter(|t| t.value.id == id)
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

    /// Live writers and their brokers.
    pub fn lives(&self) -> impl Iterator<Item = (WriterId, &Arc<LiveValue>)> {
        self.lives.iter().map(|(w, l)| (*w, l))
    }

    /// The broker that leads a partition, if its owner is alive.
    pub fn leader(&self, key: &PartitionKey) -> Option<BrokerId> {
        let owner = self.partitions.get(key)?.owner?;
        self.lives.get(&owner).map(|l| l.node)
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
                *self = Self { revision, ..Self::default() };
                for entry in &entries {
                    self.put(keys, entry, &mut warnings);
                }
                self.revision = revision;
            }
            WatchEvent::Put(entry) => {
                self.put(keys, &entry, &mut warnings);
                self.revision = self.revision.max(entry.mod_revision);
            }
            WatchEvent::Delete { key, revision } => {
                self.delete(keys, &key);
                self.revision = self.revision.max(revision);
            }
        }
        warnings
    }

    fn put(&mut self, keys: &Keys, entry: &Entry, warnings: &mut Vec<String>) {
        let mut warn = |e: super::MetadataError| warnings.push(e.to_string());
        match keys.parse(&entry.key) {
            Some(ParsedKey::Topic(name)) => match model::decode::<TopicValue>(entry) {
                Ok(value) => {
                    let shared: Arc<str> = name.as_str().into();
                    self.remove_topic(&name);
                    self.names.insert(value.id, shared.clone());
                    self.topics.insert(name, Arc::new(Topic { name: shared, value }));
                }
                Err(e) => warn(e),
            },
            Some(ParsedKey::Partition(key)) => match model::decode::<PartitionValue>(entry) {
                Ok(value) => drop(self.partitions.insert(key, Arc::new(value))),
                Err(e) => warn(e),
            },
            Some(ParsedKey::Live(writer)) => match model::decode::<LiveValue>(entry) {
                Ok(value) => drop(self.lives.insert(writer, Arc::new(value))),
                Err(e) => warn(e),
            },
            Some(ParsedKey::Writer(_)) | None => {}
        }
    }

    fn delete(&mut self, keys: &Keys, key: &str) {
        match keys.parse(key) {
            Some(ParsedKey::Topic(name)) => self.remove_topic(&name),
            Some(ParsedKey::Partition(key)) => drop(self.partitions.remove(&key)),
            Some(ParsedKey::Live(writer)) => drop(self.lives.remove(&writer)),
            Some(ParsedKey::Writer(_)) | None => {}
        }
    }

    fn remove_topic(&mut self, name: &str) {
        if let Some(old) = self.topics.remove(name) {
            self.names.remove(&old.value.id);
        }
    }
}
