//! The only place that formats a metadata key. Everything of one cluster lies below `/kafscale/{namespace}/`.
//!
//! | key | value ([`super::model`]) | written |
//! | --- | --- | --- |
//! | `cluster` | `ClusterValue`: the cluster id | once |
//! | `next/writer`, `next/producer` | `CounterValue` | per broker start; per block of producer ids |
//! | `w/{writer}` | `WriterValue`: **head and fence in one key** | once per flush |
//! | `f/{writer}` | empty; exists while the writer may claim | created at start, deleted by the seal |
//! | `live/{writer}` | `LiveValue`, bound to a lease | at start |
//! | `p/{topic_id}/{partition}` | `PartitionValue` | claim, release, trim |
//! | `t/{name}` | `TopicValue` | admin |
//! | `settings/{node}`, `settings/default` | `BrokerConfigsValue`: what was changed at run time | admin |
//! | `deleted/{topic_id}` | `DeletedTopicValue`: what the janitor still has to collect | topic deletion, janitor |

use crate::ids::{BrokerId, PartitionIndex, PartitionKey, TopicId, WriterId};

/// Formats the keys of one cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// Keys of the cluster `namespace` (`KAFSCALE_S3_NAMESPACE`).
    pub fn new(namespace: &str) -> Self {
        Self { root: format!("/kafscale/{namespace}/") }
    }

    /// Prefix of every key of the cluster, with the trailing slash.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> String {
        format!("{}cluster", self.root)
    }

    /// Counter of writer ids.
    pub fn next_writer(&self) -> String {
        format!("{}next/writer", self.root)
    }

    /// Counter of producer ids.
    pub fn next_producer(&self) -> String {
        format!("{}next/producer", self.root)
    }

    /// A writer's head and fence.
    pub fn writer(&self, writer: WriterId) -> String {
        format!("{}w/{:016x}", self.root, writer.0)
    }

    /// Prefix of all writers' heads.
    pub fn writers(&self) -> String {
        format!("{}w/", self.root)
    }

    /// A writer's claim token.
    pub fn fence(&self, writer: WriterId) -> String {
        format!("{}f/{:016x}", self.root, writer.0)
    }

    /// A writer's liveness, bound to its lease.
    pub fn live(&self, writer: WriterId) -> String {
        format!("{}live/{:016x}", self.root, writer.0)
    }

    /// Prefix of all liveness keys.
    pub fn lives(&self) -> String {
        format!("{}live/", self.root)
    }

    /// A partition's ownership.
    pub fn partition(&self, key: &PartitionKey) -> String {
        format!("{}p/{}/{}", self.root, key.topic, key.partition)
    }

    /// Prefix of all partitions' ownership.
    pub fn partitions(&self) -> String {
        format!("{}p/", self.root)
    }

    /// Prefix of the ownership of one topic's partitions.
    pub fn partitions_of(&self, topic: TopicId) -> String {
        format!("{}p/{topic}/", self.root)
    }

    /// A topic, by name.
    pub fn topic(&self, name: &str) -> String {
        format!("{}t/{name}", self.root)
    }

    /// Prefix of all topics.
    pub fn topics(&self) -> String {
        format!("{}t/", self.root)
    }

    /// The configs of a broker that were changed at run time; with `None` those of all brokers. They sort beside what
    /// else the cluster image is made of.
    pub fn broker_configs(&self, node: Option<BrokerId>) -> String {
        match node {
            Some(node) => format!("{}settings/{node}", self.root),
            None => format!("{}settings/default", self.root),
        }
    }

    /// A deleted topic whose data may still exist.
    pub fn deleted(&self, topic: TopicId) -> String {
        format!("{}deleted/{topic}", self.root)
    }

    /// Prefix of all deleted topics.
    pub fn deleted_topics(&self) -> String {
        format!("{}deleted/", self.root)
    }

    /// What kind of key this is, or `None` for a key of a kind this version does not know.
    pub fn parse(&self, key: &str) -> Option<ParsedKey> {
        let rest = key.strip_prefix(&self.root)?;
        let (kind, rest) = rest.split_once('/')?;
        match kind {
            "w" => parse_writer(rest).map(ParsedKey::Writer),
            "live" => parse_writer(rest).map(ParsedKey::Live),
            "t" => Some(ParsedKey::Topic(rest.to_owned())),
            "settings" if rest == "default" => Some(ParsedKey::BrokerConfigs(None)),
            "settings" => parse_number(rest).map(|node| ParsedKey::BrokerConfigs(Some(BrokerId(node)))),
            "deleted" => parse_topic(rest).map(ParsedKey::Deleted),
            "p" => {
                let (topic, partition) = rest.split_once('/')?;
                let (topic, partition) = (parse_topic(topic)?, parse_partition(partition)?);
                Some(ParsedKey::Partition(PartitionKey { topic, partition }))
            }
            _ => None,
        }
    }
}

// Each id has one spelling, so that no two keys mean the same thing.

fn parse_topic(id: &str) -> Option<TopicId> {
    let is_ours = id.len() == 36 && !id.bytes().any(|b| b.is_ascii_uppercase());
    is_ours.then(|| id.parse().ok().map(TopicId))?
}

fn parse_partition(index: &str) -> Option<PartitionIndex> {
    parse_number(index).map(PartitionIndex)
}

fn parse_number(digits: &str) -> Option<i32> {
    let is_ours = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    is_ours.then(|| digits.parse().ok())?
}

fn parse_writer(hex: &str) -> Option<WriterId> {
    let is_ours = hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
    is_ours.then(|| u64::from_str_radix(hex, 16).ok().map(WriterId))?
}

/// A key taken apart by [`Keys::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedKey {
    /// `w/{writer}`
    Writer(WriterId),
    /// `live/{writer}`
    Live(WriterId),
    /// `p/{topic_id}/{partition}`
    Partition(PartitionKey),
    /// `t/{name}`
    Topic(String),
    /// `settings/{node}`, or `settings/default`
    BrokerConfigs(Option<BrokerId>),
    /// `deleted/{topic_id}`
    Deleted(TopicId),
}
