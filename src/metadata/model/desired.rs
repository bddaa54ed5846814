//! Topics as the operator wants them (`desired`), and what brokers have made of that (`desired-status`).
//!
//! Both are JSON like everything else, and zstd around it when they are large: etcd takes no value above 1.5 MiB, and the ten
//! thousand topics of a large cluster are more than that in plain text.

use super::{FORMAT, decode_bytes, encode};
use crate::ids::{FencingToken, TopicId};
use crate::metadata::{Entry, MetadataError};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Longest document that the operator writes, as stored. What the brokers answer holds as much, and an id per topic: it has to
/// fit, too.
pub const DESIRED_BYTES_MAX: usize = 1_150_000;
/// Longest answer, as stored.
pub const DESIRED_STATUS_BYTES_MAX: usize = 1_450_000;
/// Longest explanation of what could not be done, bytes.
pub const ERROR_LEN_MAX: usize = 400;
/// Values up to this length are stored as plain text.
const PLAIN_BYTES_MAX: usize = 256 << 10;
/// Longest value that is unpacked.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;
/// How zstd's frames begin.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredValue {
    /// Format number.
    pub v: u32,
    /// Of the operator that wrote it. Only those with the same or a greater one write again.
    pub token: FencingToken,
    /// One more with every write.
    pub generation: u64,
    /// Topics by name.
    pub topics: BTreeMap<String, DesiredTopic>,
}

/// A topic that a resource describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredTopic {
    /// Uid of the resource.
    pub uid: String,
    /// Generation of the resource.
    pub resource: i64,
    /// Number of partitions.
    pub partitions: i32,
    /// The configs that the resource names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, String>,
    /// Set once the resource is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<DesiredDeletion>,
}

/// What is to happen to a topic whose resource is being deleted. A topic that stays is named no more instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DesiredDeletion {
    /// It is deleted, with its records.
    Delete,
}

/// What brokers have made of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredStatusValue {
    /// Format number.
    pub v: u32,
    /// Generation of the document that this is about.
    pub generation: u64,
    /// Why the document cannot be followed at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The topics of the document.
    pub topics: BTreeMap<String, AppliedTopic>,
}

impl Default for DesiredStatusValue {
    fn default() -> Self {
        Self { v: FORMAT, generation: 0, error: None, topics: BTreeMap::new() }
    }
}

/// How far a topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum AppliedState {
    /// What it takes is under way. Written before anything is done, so that whoever goes on knows what was begun.
    Pending,
    /// It is as the document says.
    Live,
    /// Something cannot be done.
    Refused,
    /// It was to be deleted, and it is gone or never was the resource's.
    Deleted,
}

/// What became of one topic, and what has to be remembered for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedTopic {
    /// Uid of the resource.
    pub uid: String,
    /// The generation of the resource that this is about.
    pub resource: i64,
    /// How far it is.
    pub state: AppliedState,
    /// Id of the topic that the resource made or adopted, or is about to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TopicId>,
    /// Partitions it has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub partitions: i32,
    /// The topic was there before the resource.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// Configs that were, or are about to be, set because the resource names them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub configs: BTreeSet<String>,
    /// What cannot be done and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A value as it is stored.
pub fn pack<T: Serialize>(value: &T) -> Bytes {
    let plain = encode(value);
    if plain.len() <= PLAIN_BYTES_MAX {
        return plain;
    }
    Bytes::from(zstd::stream::encode_all(&plain[..], 3).expect("memory can be read and written"))
}

/// The other way round.
pub fn unpack<T: DeserializeOwned>(entry: &Entry) -> Result<T, MetadataError> {
    unpack_bytes(&entry.value).map_err(|message| MetadataError::Malformed { key: entry.key.clone(), message })
}

/// The same of bytes, or why they cannot be read.
pub fn unpack_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if !bytes.starts_with(&ZSTD_MAGIC) {
        return decode_bytes(bytes);
    }
    let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(|e| e.to_string())?;
    let mut plain = Vec::new();
    decoder.take(UNPACKED_BYTES_MAX + 1).read_to_end(&mut plain).map_err(|e| e.to_string())?;
    if plain.len() as u64 > UNPACKED_BYTES_MAX {
        return Err(format!("it unpacks to more than {UNPACKED_BYTES_MAX} bytes"));
    }
    decode_bytes(&plain)
}

/// The answer as it is stored: with shorter explanations if it does not fit otherwise. `None` if it does not fit even then.
pub fn pack_status(status: &DesiredStatusValue) -> Option<Bytes> {
    for len_max in [ERROR_LEN_MAX, 60, 0] {
        let mut shorter = status.clone();
        for topic in shorter.topics.values_mut() {
            topic.error = topic.error.take().map(|error| shortened(error, len_max));
        }
        let packed = pack(&shorter);
        if packed.len() <= DESIRED_STATUS_BYTES_MAX {
            return Some(packed);
        }
    }
    None
}

/// At most `len_max` bytes of a text.
pub fn shortened(mut text: String, len_max: usize) -> String {
    if text.len() > len_max {
        let end = (0..=len_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
