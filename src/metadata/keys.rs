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
//! | `recovering` | empty; there while `kafscale recover` writes | at its start, deleted at its end |
//! | `settings/{node}`, `settings/default` | `BrokerConfigsValue`: what was changed at run time | admin |
//! | `settings/group/{group}` | `BrokerConfigsValue`: the configs of a group | admin |
//! | `c/{shard}` | `ShardValue`: who coordinates the groups of a shard | claim |
//! | `_gw/{writer}` | `CounterValue`: number of the writer's last write of group keys | with each such write |
//! | `_g/{group}` | a group's members (`actors::group::value`) | rebalance |
//! | `_g/{group}/o/{topic}/{block}` | offsets of 64 partitions | commits, gathered |
//! | `deleted/{topic_id}` | `DeletedTopicValue`: what the janitor still has to collect | topic deletion, janitor |
//! | `desired` | `DesiredValue`: topics as the operator wants them | when resources change |
//! | `desired-status` | `DesiredStatusValue`: what became of that | by the controller among brokers, when it changes |
//!
//! An underscore marks what changes all the time and is no part of the cluster image. It sorts before all letters, so that
//! whoever follows the image can begin behind it.

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

    /// Where keys begin that may be part of the cluster image: behind those with an underscore.
    pub fn image_first(&self) -> String {
        format!("{}a", self.root)
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> String {
        format!("{}cluster", self.root)
    }

    /// There while the metadata store is being rebuilt from the object store: no broker may start.
    pub fn recovering(&self) -> String {
        format!("{}recovering", self.root)
    }

    /// Prefix of all writers' claim tokens.
    pub fn fences(&self) -> String {
        format!("{}f/", self.root)
    }

    /// Prefix of the configs that were changed at run time.
    pub fn settings(&self) -> String {
        format!("{}settings/", self.root)
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
        format!("{}settings/{}", self.root, broker_settings(node))
    }

    /// The configs of a group. They outlive it.
    pub fn group_configs(&self, group: &str) -> String {
        format!("{}settings/{}", self.root, group_settings(group))
    }

    /// A deleted topic whose data may still exist.
    pub fn deleted(&self, topic: TopicId) -> String {
        format!("{}deleted/{topic}", self.root)
    }

    /// Prefix of all deleted topics.
    pub fn deleted_topics(&self) -> String {
        format!("{}deleted/", self.root)
    }

    /// Topics as the operator wants them.
    pub fn desired(&self) -> String {
        format!("{}desired", self.root)
    }

    /// What became of that. It begins like [`Self::desired`], so that one watch sees both.
    pub fn desired_status(&self) -> String {
        format!("{}desired-status", self.root)
    }

    /// A coordinator shard's owner.
    pub fn shard(&self, shard: u32) -> String {
        format!("{}c/{shard}", self.root)
    }

    /// Prefix of all coordinator shards.
    pub fn shards(&self) -> String {
        format!("{}c/", self.root)
    }

    /// Counts a writer's writes of group keys.
    pub fn group_writes(&self, writer: WriterId) -> String {
        format!("{}_gw/{:016x}", self.root, writer.0)
    }

    /// Prefix of everything stored of groups.
    pub fn groups(&self) -> String {
        format!("{}_g/", self.root)
    }

    /// A group's members.
    pub fn group(&self, group: &str) -> String {
        format!("{}_g/{}", self.root, escape(group))
    }

    /// Prefix of a group's offsets.
    pub fn offsets_of(&self, group: &str) -> String {
        format!("{}_g/{}/o/", self.root, escape(group))
    }

    /// A block of a group's offsets of a topic.
    pub fn group_offsets(&self, group: &str, topic: &str, block: i32) -> String {
        format!("{}_g/{}/o/{topic}/{block}", self.root, escape(group))
    }

    /// What kind of key this is, or `None` for a key of a kind this version does not know.
    pub fn parse(&self, key: &str) -> Option<ParsedKey> {
        let rest = key.strip_prefix(&self.root)?;
        match rest {
            "desired" => return Some(ParsedKey::Desired),
            "desired-status" => return Some(ParsedKey::DesiredStatus),
            _ => {}
        }
        let (kind, rest) = rest.split_once('/')?;
        match kind {
            "w" => parse_writer(rest).map(ParsedKey::Writer),
            "live" => parse_writer(rest).map(ParsedKey::Live),
            "t" => Some(ParsedKey::Topic(rest.to_owned())),
            "settings" if rest == "default" => Some(ParsedKey::BrokerConfigs(None)),
            "settings" if rest.starts_with("group/") => unescape(&rest["group/".len()..]).map(ParsedKey::GroupConfigs),
            "settings" => parse_number(rest).map(|node| ParsedKey::BrokerConfigs(Some(BrokerId(node)))),
            "c" => parse_number(rest).map(ParsedKey::Shard),
            "_gw" => parse_writer(rest).map(ParsedKey::GroupWrites),
            "_g" => parse_group(rest),
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

/// The part of [`Keys::broker_configs`] behind `settings/`.
pub fn broker_settings(node: Option<BrokerId>) -> String {
    node.map_or_else(|| "default".to_owned(), |node| node.to_string())
}

/// The part of [`Keys::group_configs`] behind `settings/`.
pub fn group_settings(group: &str) -> String {
    format!("group/{}", escape(group))
}

// Each id has one spelling, so that no two keys mean the same thing.

fn parse_topic(id: &str) -> Option<TopicId> {
    let is_ours = id.len() == 36 && !id.bytes().any(|b| b.is_ascii_uppercase());
    is_ours.then(|| id.parse().ok().map(TopicId))?
}

fn parse_partition(index: &str) -> Option<PartitionIndex> {
    parse_number(index).map(PartitionIndex)
}

fn parse_number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    let is_ours = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    is_ours.then(|| digits.parse().ok())?
}

fn parse_group(rest: &str) -> Option<ParsedKey> {
    let mut parts = rest.split('/');
    let group = unescape(parts.next()?)?;
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (None, ..) => Some(ParsedKey::Group(group)),
        (Some("o"), Some(topic), Some(block), None) if !topic.is_empty() => {
            Some(ParsedKey::GroupOffsets(group, topic.to_owned(), parse_number(block)?))
        }
        _ => None,
    }
}

/// Group ids may hold any character; what could be mistaken for the structure of a key becomes `%XX`.
fn escape(group: &str) -> String {
    let mut escaped = String::with_capacity(group.len());
    for byte in group.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push((high * 16 + low) as u8);
    }
    let group = String::from_utf8(bytes).ok()?;
    (escape(&group) == escaped).then_some(group)
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
    /// `settings/group/{group}`
    GroupConfigs(String),
    /// `deleted/{topic_id}`
    Deleted(TopicId),
    /// `desired`
    Desired,
    /// `desired-status`
    DesiredStatus,
    /// `c/{shard}`
    Shard(u32),
    /// `_gw/{writer}`
    GroupWrites(WriterId),
    /// `_g/{group}`
    Group(String),
    /// `_g/{group}/o/{topic}/{block}`
    GroupOffsets(String, String, i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_sort_before_what_the_image_is_made_of() {
        let keys = Keys::new("test");
        let topic = TopicId(uuid::Uuid::from_u128(1));
        let partition = keys.partition(&PartitionKey { topic, partition: PartitionIndex(0) });
        for key in [keys.cluster(), keys.shard(0), keys.live(WriterId(1)), partition, keys.topic("a")] {
            assert!(key >= keys.image_first(), "{key}");
        }
        let busy = [keys.group("zz"), keys.group_offsets("zz", "t", 1), keys.group_writes(WriterId(1))];
        for key in busy {
            assert!(key < keys.image_first(), "{key}");
        }
    }

    #[test]
    fn group_keys_of_any_id_are_unambiguous() {
        let keys = Keys::new("test");
        let group = "a/o/t/3 ü%";
        assert_eq!(keys.group(group), "/kafscale/test/_g/a%2Fo%2Ft%2F3%20%C3%BC%25");
        for group in [group, "", "plain-1._", "%2F", "\0\n"] {
            assert_eq!(keys.parse(&keys.group(group)), Some(ParsedKey::Group(group.into())));
            let offsets = keys.group_offsets(group, "t", 7);
            assert_eq!(keys.parse(&offsets), Some(ParsedKey::GroupOffsets(group.into(), "t".into(), 7)));
            let configs = keys.group_configs(group);
            assert_eq!(keys.parse(&configs), Some(ParsedKey::GroupConfigs(group.into())));
            assert!(configs >= keys.image_first());
        }
        for other in
            ["_g/%2f", "_g/%", "_g/%zz", "_g/a b", "_g/a/o/t/07", "_g/a/o/t", "_g/a/o//1", "_g/a/o/t/1/2", "_g/a/x/t/1"]
        {
            assert_eq!(keys.parse(&format!("{}{other}", keys.root())), None, "{other}");
        }
        assert_eq!(keys.parse(&keys.shard(49)), Some(ParsedKey::Shard(49)));
        assert_eq!(keys.parse(&keys.group_writes(WriterId(5))), Some(ParsedKey::GroupWrites(WriterId(5))));
    }
}
