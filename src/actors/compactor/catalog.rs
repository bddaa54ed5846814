//! The part of a checkpoint that says what the cluster consists of, for [`crate::recover`].

use crate::ids::BrokerId;
use crate::metadata::image::ClusterImage;
use crate::metadata::keys;
use crate::storage::checkpoint::{Catalog, TopicRecord};
use std::collections::BTreeMap;

/// What `image` says, as broker `node` sees it.
pub fn of(image: &ClusterImage, node: BrokerId, generation: u32) -> Catalog {
    let topics = image.topics().map(|topic| TopicRecord {
        name: topic.name.to_string(),
        id: topic.value.id,
        partitions: topic.value.partitions,
        configs: topic.value.configs.clone(),
    });
    let mut settings = BTreeMap::new();
    for of in [None, Some(node)] {
        if let Some(configs) = image.defaults().dynamic_of(of).filter(|configs| !configs.is_empty()) {
            settings.insert(keys::broker_settings(of), configs.clone());
        }
    }
    for group in image.configured_groups() {
        if let Some(configs) = image.group_configs(group) {
            settings.insert(keys::group_settings(group), configs.clone());
        }
    }
    Catalog { generation, revision: image.revision, node, topics: topics.collect(), settings }
}
