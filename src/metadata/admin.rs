//! Administrative changes: topics and producer ids, each one compare-and-swap transaction.

use super::keys::Keys;
use super::model::TopicValue;
use super::{MetadataError, MetadataStore};
use crate::ids::{ProducerId, TopicId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why an administrative change failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdminError {
    /// A topic of this name exists.
    #[error("topic {0} exists already")]
    TopicExists(String),
    /// No such topic.
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    /// The store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Admin {
    _store: Arc<dyn MetadataStore>,
    _keys: Keys,
}

impl Admin {
    /// Changes to the cluster below `keys`.
    pub fn new(store: Arc<dyn MetadataStore>, keys: Keys) -> Self {
        Self { _store: store, _keys: keys }
    }

    /// Creates a topic with a new random id. Name, partition count and configs are valid (the handler checked).
    pub async fn create_topic(
        &self,
        _name: &str,
        _partitions: i32,
        _configs: BTreeMap<String, String>,
    ) -> Result<TopicValue, AdminError> {
        todo!()
    }

    /// Deletes the topic `name` if its id is (still) `id`: the name is free at once, and the topic id is recorded for
    /// the janitor, which deletes the data later.
    pub async fn delete_topic(&self, _name: &str, _id: TopicId) -> Result<(), AdminError> {
        todo!()
    }

    /// A producer id that nobody has; allocated in blocks, so that most calls need no transaction.
    pub async fn next_producer_id(&self) -> Result<ProducerId, AdminError> {
        todo!()
    }
}
