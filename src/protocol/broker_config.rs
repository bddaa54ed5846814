//! Broker configs, as DescribeConfigs shows them.
//!
//! Three sources: the defaults of topic configs under their broker names, Kafka names for bounds that are fixed in this
//! broker, and what the configuration shows ([`crate::broker::BrokerSettings::shown_configs`]). None can be changed
//! through the protocol.

use super::topic_config::{ConfigType, TOPIC_CONFIGS};
use crate::broker::{Broker, BrokerSettings};
use std::collections::BTreeMap;

/// One broker config with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Its type.
    pub kind: ConfigType,
    /// Its value.
    pub value: String,
    /// It comes from the environment, not from a default.
    pub is_set: bool,
    /// It must not be shown.
    pub is_sensitive: bool,
    /// What it means.
    pub doc: String,
}

/// Kafka names for what is fixed here: name, type, value, meaning.
const FIXED: &[(&str, ConfigType, &str, &str)] = &[
    ("connections.max.idle.ms", ConfigType::Long, "600000", "Connections that are idle for this long are closed, ms."),
    ("default.replication.factor", ConfigType::Int, "1", "The object store keeps the copies; every topic reports 1."),
    ("delete.topic.enable", ConfigType::Boolean, "true", "Topics can be deleted."),
    ("fetch.max.bytes", ConfigType::Int, "57671680", "Most bytes of one Fetch response."),
    (
        "group.initial.rebalance.delay.ms",
        ConfigType::Int,
        "3000",
        "How long the first rebalance of an empty group waits for more members, ms.",
    ),
    ("group.max.session.timeout.ms", ConfigType::Int, "1800000", "Longest session timeout of a consumer, ms."),
    ("group.max.size", ConfigType::Int, "2147483647", "Most members of a consumer group."),
    ("group.min.session.timeout.ms", ConfigType::Int, "6000", "Shortest session timeout of a consumer, ms."),
    (
        "max.incremental.fetch.session.cache.slots",
        ConfigType::Int,
        "1000",
        "Incremental fetch sessions of this broker.",
    ),
    (
        "max.request.partition.size.limit",
        ConfigType::Int,
        "2000",
        "Most partitions in one DescribeTopicPartitions response.",
    ),
    ("offset.metadata.max.bytes", ConfigType::Int, "4096", "Longest metadata string of a committed offset, bytes."),
    (
        "offsets.retention.minutes",
        ConfigType::Int,
        "10080",
        "Minutes after which the offsets of a group without members are forgotten.",
    ),
    ("offsets.topic.num.partitions", ConfigType::Int, "50", "Shards over which groups are spread; there is no topic."),
    (
        "producer.id.expiration.ms",
        ConfigType::Int,
        "86400000",
        "A producer that is silent for this long is forgotten, ms.",
    ),
    ("socket.request.max.bytes", ConfigType::Int, "104857600", "Largest request, bytes."),
    ("transaction.max.timeout.ms", ConfigType::Int, "900000", "Longest transaction time-out, ms."),
];

/// All broker configs by name.
pub fn all(broker: &Broker) -> BTreeMap<String, BrokerConfig> {
    with_settings(broker.node.0, &broker.settings)
}

fn with_settings(node: i32, settings: &BrokerSettings) -> BTreeMap<String, BrokerConfig> {
    let config = |kind, value: &str, is_set, doc: &str| BrokerConfig {
        kind,
        value: value.to_owned(),
        is_set,
        is_sensitive: false,
        doc: doc.to_owned(),
    };
    let mut all = BTreeMap::new();
    for def in TOPIC_CONFIGS {
        all.insert(def.broker_name.to_owned(), config(def.kind, def.default, false, def.doc));
    }
    for (name, kind, value, doc) in FIXED {
        all.insert((*name).to_owned(), config(*kind, value, false, doc));
    }
    let auto_create = settings.auto_create_topics.to_string();
    let partitions = settings.default_partitions.to_string();
    let set = [
        (
            "auto.create.topics.enable",
            ConfigType::Boolean,
            auto_create,
            "Unknown topics are created when a client asks for them.",
        ),
        ("broker.id", ConfigType::Int, node.to_string(), "Id of this broker."),
        ("node.id", ConfigType::Int, node.to_string(), "Id of this broker."),
        ("num.partitions", ConfigType::Int, partitions, "Partitions of topics that are created without a count."),
    ];
    for (name, kind, value, doc) in set {
        all.insert(name.to_owned(), config(kind, &value, true, doc));
    }
    for (name, value) in &settings.shown_configs {
        let known = all.get(name).map(|c| (c.kind, c.doc.clone()));
        let (kind, doc) = known.unwrap_or((ConfigType::String, "From this broker's environment.".to_owned()));
        all.insert(name.clone(), config(kind, value, true, &doc));
    }
    for (name, config) in &mut all {
        config.is_sensitive = is_secret(name);
    }
    all
}

/// A second line of defence: the configuration does not show secrets in the first place.
fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    ["password", "secret", "token"].iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let settings = BrokerSettings {
            auto_create_topics: false,
            default_partitions: 4,
            shown_configs: vec![
                ("message.max.bytes".into(), "5".into()),
                ("kafscale.flush.interval.ms".into(), "500".into()),
                ("kafscale.s3.secret.key".into(), "hidden".into()),
            ],
        };
        let all = with_settings(3, &settings);
        let value = |name: &str| (all[name].value.as_str(), all[name].is_set);
        assert_eq!(value("num.partitions"), ("4", true));
        assert_eq!(value("auto.create.topics.enable"), ("false", true));
        assert_eq!(value("node.id"), ("3", true));
        assert_eq!(value("log.retention.ms"), ("604800000", false));
        assert_eq!(value("message.max.bytes"), ("5", true));
        assert_eq!(all["message.max.bytes"].kind, ConfigType::Int);
        assert_eq!(value("kafscale.flush.interval.ms"), ("500", true));
        assert!(all["kafscale.s3.secret.key"].is_sensitive);
        assert!(all.values().all(|c| !c.doc.is_empty()));
    }
}
