//! Cluster features (KIP-584) as clients know them from Kafka.
//!
//! Kafka's features are levels of formats and protocols that a cluster agrees on. Of those, only `group.version` means
//! something here: 1 says that the consumer group protocol of KIP-848 is served. There is no `metadata.version` or
//! `kraft.version`, since there is no KRaft log.

use super::api;
use kafka_protocol::messages::ApiKey;

/// One feature, with the same level on every broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Kafka's name.
    pub name: &'static str,
    /// Lowest level that is supported.
    pub min: i16,
    /// Highest level that is supported.
    pub max: i16,
    /// The level in force.
    pub level: i16,
}

/// The epoch of the levels in force, which never change while a version of the program runs.
pub const EPOCH: i64 = 0;

/// What this broker supports.
pub fn supported() -> Vec<Feature> {
    let consumer_groups = api::find(ApiKey::ConsumerGroupHeartbeat as i16);
    let group_version = Feature { name: "group.version", min: 0, max: 1, level: 1 };
    consumer_groups.map(|_| group_version).into_iter().collect()
}
