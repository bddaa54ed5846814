//! The values kept under [`super::keys`]: JSON with a format number `v`, so that people can read them with `etcdctl`
//! and a later version can tell what it is looking at.

use super::{Entry, MetadataError};
use crate::ids::{BrokerId, LeaderEpoch, Offset, Seq, TopicId, WriterId};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub mod desired;

/// The format this version writes and the newest it reads.
pub const FORMAT: u32 = 1;

/// Identity of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterValue {
    /// Format number.
    pub v: u32,
    /// Kafka's cluster id: 22 characters of base64url.
    pub cluster_id: String,
    /// How often the metadata store was rebuilt from the object store.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A counter from which ids are allocated by compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterValue {
    /// Format number.
    pub v: u32,
    /// The next id nobody has.
    pub next: u64,
}

/// Whether a writer may commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum WriterState {
    /// It may.
    Active,
    /// It never may again; its head is final.
    Fenced,
    /// Fenced by recovery, which has taken over what there is of its log; its head is where that ends, and says nothing of
    /// what was committed.
    Closed,
}

/// A writer's head and fence: the one compare-and-swap target of the commit protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterValue {
    /// Format number.
    pub v: u32,
    /// The broker that runs (or ran) the writer.
    pub node: BrokerId,
    /// Whether it may commit.
    pub state: WriterState,
    /// Last committed WAL slot; 0 before the first.
    pub head: Seq,
    /// Random identity of the incarnation, part of its object keys.
    #[serde(with = "hex_u64")]
    pub nonce: u64,
    /// Key of the newest checkpoint and the slot it covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointRef>,
}

/// Points to a checkpoint object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// Every slot up to this one is covered.
    pub seq: Seq,
    /// Object key.
    pub key: String,
}

/// A live broker; the key is bound to the broker's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveValue {
    /// Format number.
    pub v: u32,
    /// Kafka node id.
    pub node: BrokerId,
    /// Advertised host.
    pub host: String,
    /// Advertised port.
    pub port: u16,
    /// Rack, if configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Version of the program.
    pub version: String,
    /// host:port of its gRPC control plane, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// host:port of its metrics listener; earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// It gives away what it leads and takes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// It serves consumers of its rack with what other brokers lead ([`super::read_replicas`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follows: bool,
}

#[cfg(test)]
impl LiveValue {
    /// Broker `node`, of which no more is of interest.
    pub fn sample(node: i32) -> Self {
        Self {
            v: FORMAT,
            node: BrokerId(node),
            host: "h".into(),
            port: 1,
            rack: None,
            version: "0".into(),
            control: None,
            metrics: None,
            draining: false,
            follows: false,
        }
    }
}

/// A partition's ownership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionValue {
    /// Format number.
    pub v: u32,
    /// The writer that owns the partition, if any.
    pub owner: Option<WriterId>,
    /// Leader epoch of the last claim.
    pub epoch: LeaderEpoch,
    /// The writers in whose checkpoints and WAL everything of the partition is, oldest first. One, since a claim is only
    /// made when the claimant's checkpoint has all that there is.
    pub history: Vec<WriterId>,
    /// First offset that may be read. Never decreases.
    pub log_start: Offset,
}

/// Who coordinates the groups of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardValue {
    /// Format number.
    pub v: u32,
    /// The writer that owns the shard, if any.
    pub owner: Option<WriterId>,
    /// Rises by one with every claim.
    pub epoch: LeaderEpoch,
}

/// Life of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TopicState {
    /// It can be used.
    Live,
    /// It is being deleted; its id is never used again.
    Deleting,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicValue {
    /// Format number.
    pub v: u32,
    /// The topic's id.
    pub id: TopicId,
    /// Number of partitions.
    pub partitions: i32,
    /// Configs that differ from the defaults, by Kafka's names.
    #[serde(default)]
    pub configs: BTreeMap<String, String>,
    /// Whether it can be used.
    pub state: TopicState,
    /// The broker that should lead each partition, as [`super::placement`] has it; those it does not reach are anybody's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub placement: Vec<BrokerId>,
}

/// Configs that were changed at run time: of one broker, of all, or of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerConfigsValue {
    /// Format number.
    pub v: u32,
    /// By Kafka's names.
    pub configs: BTreeMap<String, String>,
}

/// A deleted topic: its name is free, its data has still to be collected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTopicValue {
    /// Format number.
    pub v: u32,
    /// The name it had.
    pub name: String,
    /// Its id, never used again.
    pub id: TopicId,
    /// Number of partitions it had.
    pub partitions: i32,
    /// Wall time of the deletion in milliseconds since the Unix epoch.
    pub deleted_ms: i64,
}

/// Encodes a value.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("the model's types always serialize"))
}

/// Decodes the value of `entry`; a format number from the future is an error, not a guess.
pub fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, MetadataError> {
    decode_bytes(&entry.value).map_err(|message| MetadataError::Malformed { key: entry.key.clone(), message })
}

/// Decodes a value, or says why it cannot be read.
pub fn decode_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Format {
        v: u32,
    }
    let format: Format = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if format.v == 0 || format.v > FORMAT {
        return Err(format!("format {} is not supported (newest known: {FORMAT}); upgrade kafscale", format.v));
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

mod hex_u64 {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
