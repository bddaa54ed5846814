//! Broker configs, as DescribeConfigs shows them.
//!
//! Three sources: the defaults of topic configs under their broker names ([`Defaults`]), Kafka names for bounds that are
//! fixed in this broker, and what the configuration shows ([`crate::broker::BrokerSettings::shown_configs`]). Only some
//! of the first can be changed at run time.

use super::config_defaults::{self, Defaults, Source};
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
    /// Where the value comes from.
    pub source: Source,
    /// All places that give a value, what counts first: name, value, source.
    pub layers: Vec<(String, String, Source)>,
    /// It can be changed at run time.
    pub is_dynamic: bool,
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
        "group.consumer.assignors",
        ConfigType::List,
        "uniform,range",
        "Assignors of the consumer protocol, the default one first.",
    ),
    ("group.consumer.heartbeat.interval.ms", ConfigType::Int, "5000", "How often members send heartbeats, ms."),
    ("group.consumer.max.heartbeat.interval.ms", ConfigType::Int, "15000", "Greatest heartbeat interval, ms."),
    ("group.consumer.max.session.timeout.ms", ConfigType::Int, "60000", "Greatest session timeout, ms."),
    ("group.consumer.max.size", ConfigType::Int, "2147483647", "Most members of a group of the consumer protocol."),
    (
        "group.consumer.migration.policy",
        ConfigType::String,
        "bidirectional",
        "Which groups change their protocol while they have members.",
    ),
    ("group.consumer.min.heartbeat.interval.ms", ConfigType::Int, "5000", "Least heartbeat interval, ms."),
    ("group.consumer.min.session.timeout.ms", ConfigType::Int, "45000", "Least session timeout, ms."),
    (
        "group.consumer.session.timeout.ms",
        ConfigType::Int,
        "45000",
        "How long a member of the consumer protocol may be silent, ms.",
    ),
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
pub fn all(broker: &Broker, defaults: &Defaults) -> BTreeMap<String, BrokerConfig> {
    with_settings(broker.node.0, &broker.settings, defaults)
}

fn with_settings(node: i32, settings: &BrokerSettings, defaults: &Defaults) -> BTreeMap<String, BrokerConfig> {
    let mut all = of_topics(defaults);
    let config = |name: &str, kind, value: &str, is_set, doc: &str| {
        let source = if is_set { Source::StaticBroker } else { Source::Default };
        BrokerConfig {
            kind,
            value: value.to_owned(),
            source,
            layers: vec![(name.to_owned(), value.to_owned(), source)],
            is_dynamic: false,
            is_sensitive: is_secret(name),
            doc: doc.to_owned(),
        }
    };
    for (name, kind, value, doc) in FIXED {
        all.insert((*name).to_owned(), config(name, *kind, value, false, doc));
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
        all.insert(name.to_owned(), config(name, kind, &value, true, doc));
    }
    for (name, value) in &settings.shown_configs {
        let known = all.get(name).map(|c| (c.kind, c.doc.clone()));
        let (kind, doc) = known.unwrap_or((ConfigType::String, "From this broker's environment.".to_owned()));
        all.insert(name.clone(), config(name, kind, value, true, &doc));
    }
    all
}

/// The defaults of topic configs under their broker names.
fn of_topics(defaults: &Defaults) -> BTreeMap<String, BrokerConfig> {
    let mut all = BTreeMap::new();
    for def in TOPIC_CONFIGS {
        let (value, source) = defaults.value(def);
        let layers = defaults.layers(def).into_iter();
        let config = BrokerConfig {
            kind: def.kind,
            value: value.to_owned(),
            source,
            layers: layers.map(|l| (l.name.to_owned(), l.value.to_owned(), l.source)).collect(),
            is_dynamic: config_defaults::dynamic(def.broker_name).is_some(),
            is_sensitive: false,
            doc: def.doc.to_owned(),
        };
        all.insert(def.broker_name.to_owned(), config);
        // Other names for the same default, in other units, as far as they are set.
        let others = defaults.statics().iter().filter(|s| s.config == def.name && s.broker_name != def.broker_name);
        for other in others {
            let config = BrokerConfig {
                kind: ConfigType::Int,
                value: other.raw.clone(),
                source: Source::StaticBroker,
                layers: vec![(other.broker_name.to_owned(), other.raw.clone(), Source::StaticBroker)],
                is_dynamic: false,
                is_sensitive: false,
                doc: format!("{} In the unit that the name says; {} comes first.", def.doc, def.broker_name),
            };
            all.insert(other.broker_name.to_owned(), config);
        }
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
    use crate::ids::BrokerId;
    use crate::protocol::config_defaults::StaticDefault;
    use crate::protocol::group_config::GroupBounds;

    #[test]
    fn sources() {
        let settings = BrokerSettings {
            auto_create_topics: false,
            default_partitions: 4,
            group_bounds: GroupBounds::default(),
            log_dir: "objects".into(),
            shown_configs: vec![
                ("socket.request.max.bytes".into(), "5".into()),
                ("kafscale.flush.interval.ms".into(), "500".into()),
                ("kafscale.s3.secret.key".into(), "hidden".into()),
            ],
        };
        let hours = StaticDefault {
            config: "retention.ms",
            broker_name: "log.retention.hours",
            raw: "2".into(),
            value: "7200000".into(),
        };
        let mut defaults = Defaults::new(BrokerId(3), vec![hours]);
        defaults.set_dynamic(None, &[("message.max.bytes".to_owned(), "9".to_owned())].into());
        let all = with_settings(3, &settings, &defaults);
        let value = |name: &str| (all[name].value.as_str(), all[name].source, all[name].is_dynamic);
        assert_eq!(value("num.partitions"), ("4", Source::StaticBroker, false));
        assert_eq!(value("auto.create.topics.enable"), ("false", Source::StaticBroker, false));
        assert_eq!(value("node.id"), ("3", Source::StaticBroker, false));
        assert_eq!(value("log.retention.ms"), ("7200000", Source::StaticBroker, true));
        assert_eq!(value("log.retention.hours"), ("2", Source::StaticBroker, false));
        assert_eq!(value("message.max.bytes"), ("9", Source::DynamicDefault, true));
        assert_eq!(value("log.retention.bytes"), ("-1", Source::Default, true));
        assert!(!value("log.flush.interval.ms").2);
        assert_eq!(value("socket.request.max.bytes"), ("5", Source::StaticBroker, false));
        assert_eq!(all["socket.request.max.bytes"].kind, ConfigType::Int);
        assert_eq!(value("kafscale.flush.interval.ms"), ("500", Source::StaticBroker, false));
        assert!(all["kafscale.s3.secret.key"].is_sensitive);
        assert!(all.values().all(|c| !c.doc.is_empty() && !c.layers.is_empty()));
        let layers: Vec<_> =
            all["log.retention.ms"].layers.iter().map(|(name, value, _)| (&**name, &**value)).collect();
        assert_eq!(layers, [("log.retention.hours", "2"), ("log.retention.ms", "604800000")]);
    }
}
