//! What is durable of a group: the values of its metadata keys and their binary formats.
//!
//! A value is one byte for its format and the structure in postcard's wire format. `docs/storage-format.md` has the layout;
//! the golden bytes of the tests hold it.

use super::consumer::value::ConsumerValue;
use super::offsets::Block;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Format of the value of a group with the classic protocol.
const FORMAT_CLASSIC: u8 = 1;
/// Format of the value of a group with the consumer protocol.
const FORMAT_CONSUMER: u8 = 2;
/// Format of a block of offsets.
const FORMAT_OFFSETS: u8 = 1;

/// Where a group was when its last record was written. A rebalance in which members still join has no record of its own:
/// a successor knows the group as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// No members.
    Empty,
    /// The members of the generation are known, the leader's assignment is not.
    Completing,
    /// Every member has its assignment.
    Stable,
}

/// A member as its group's record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberValue {
    /// Member id.
    pub id: String,
    /// `group.instance.id` of a static member.
    pub instance: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Address it joined from.
    pub client_host: String,
    /// How long a rebalance waits for it, ms.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent, ms.
    pub session_timeout_ms: i32,
    /// Protocols in its order of preference, each with the member's metadata.
    pub protocols: Vec<Protocol>,
    /// What the leader assigned; opaque.
    #[serde(with = "blob")]
    pub assignment: Bytes,
}

/// A protocol (an assignor) that a member supports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// Its name.
    pub name: String,
    /// The member's metadata for it; opaque.
    #[serde(with = "blob")]
    pub metadata: Bytes,
}

/// A group of the classic protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupValue {
    /// Its generation.
    pub generation: i32,
    /// `consumer`, `connect`, … ; `None` before the first member.
    pub protocol_type: Option<String>,
    /// The protocol that all members use in this generation.
    pub protocol: Option<String>,
    /// Member id of the leader; none in an empty group, and while nobody has joined since the group was one of the consumer
    /// protocol.
    pub leader: Option<String>,
    /// Where it was.
    pub phase: Phase,
    /// Wall time since when it is there, ms.
    pub since_ms: i64,
    /// Its members in the order of their ids.
    pub members: Vec<MemberValue>,
}

/// Encodes a group.
pub fn encode_group(value: &GroupValue) -> Bytes {
    encode(FORMAT_CLASSIC, value)
}

/// Reads a group; the error says what is wrong.
pub fn decode_group(bytes: &[u8]) -> Result<GroupValue, String> {
    decode(FORMAT_CLASSIC, bytes)
}

/// Encodes a group of the consumer protocol.
pub fn encode_consumer(value: &ConsumerValue) -> Bytes {
    encode(FORMAT_CONSUMER, value)
}

/// A group of either protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredGroup {
    /// Of the classic protocol.
    Classic(GroupValue),
    /// Of the consumer protocol.
    Consumer(ConsumerValue),
}

/// Reads a group of either protocol; the error says what is wrong.
pub fn decode_stored(bytes: &[u8]) -> Result<StoredGroup, String> {
    if bytes.first() != Some(&FORMAT_CONSUMER) {
        return decode_group(bytes).map(StoredGroup::Classic);
    }
    let value: ConsumerValue = decode(FORMAT_CONSUMER, bytes)?;
    value.check()?;
    Ok(StoredGroup::Consumer(value))
}

/// Encodes a block of offsets.
pub fn encode_block(block: &Block) -> Bytes {
    encode(FORMAT_OFFSETS, block)
}

/// Reads a block of offsets; the error says what is wrong.
pub fn decode_block(bytes: &[u8]) -> Result<Block, String> {
    let block: Block = decode(FORMAT_OFFSETS, bytes)?;
    block.check()?;
    Ok(block)
}

fn encode<T: Serialize>(format: u8, value: &T) -> Bytes {
    let bytes = postcard::to_extend(value, vec![format]).expect("memory takes every value");
    Bytes::from(bytes)
}

fn decode<T: DeserializeOwned>(known: u8, bytes: &[u8]) -> Result<T, String> {
    let (format, body) = bytes.split_first().ok_or_else(|| "it is empty".to_owned())?;
    if *format != known {
        return Err(format!("format {format} is not supported (known: {known}); upgrade kafscale"));
    }
    let (value, rest) = postcard::take_from_bytes(body).map_err(|e| e.to_string())?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes follow the value", rest.len())) }
}

/// Bytes with their length before them.
mod blob {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Ok(Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::group::consumer::value::{ConsumerMember, MemberState};
    use crate::actors::group::offsets::Committed;
    use crate::ids::PartitionIndex;
    use crate::ids::{LeaderEpoch, Offset, TopicId};
    use std::collections::{BTreeMap, BTreeSet};
    use uuid::Uuid;

    fn group() -> GroupValue {
        let member = MemberValue {
            id: "m".into(),
            instance: Some("i".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout_ms: 300,
            session_timeout_ms: 100,
            protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"\x01\x02") }],
            assignment: Bytes::from_static(b"\x09"),
        };
        GroupValue {
            generation: 3,
            protocol_type: Some("consumer".into()),
            protocol: Some("range".into()),
            leader: Some("m".into()),
            phase: Phase::Stable,
            since_ms: 1_000,
            members: vec![member],
        }
    }

    fn block() -> Block {
        let committed = Committed {
            offset: Offset(300),
            leader_epoch: LeaderEpoch(-1),
            metadata: "x".into(),
            commit_ms: 1_000,
            expire_ms: None,
        };
        Block { topic: TopicId(Uuid::from_u128(7)), slots: BTreeMap::from([(5, committed)]) }
    }

    #[test]
    fn golden_bytes_of_a_group_of_the_consumer_protocol() {
        let topic = TopicId(Uuid::from_u128(7));
        let held =
            |partitions: &[i32]| BTreeMap::from([(topic, partitions.iter().copied().map(PartitionIndex).collect())]);
        let member = ConsumerMember {
            id: "m".into(),
            instance: None,
            rack: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout_ms: 300,
            assignor: Some("range".into()),
            names: BTreeSet::from(["t".to_owned()]),
            regex: None,
            epoch: 3,
            previous_epoch: 2,
            state: MemberState::Unreleased,
            assigned: held(&[0]),
            revoking: BTreeMap::new(),
            target: held(&[0, 1]),
            classic: None,
        };
        let value = ConsumerValue { epoch: 4, target_epoch: 3, topics_hash: 5, since_ms: 1_000, members: vec![member] };
        let mut golden =
            b"\x02\x08\x06\x05\xd0\x0f\x01\x01m\x00\x00\x01c\x02/h\xd8\x04\x01\x05range\x01\x01t\x00\x06\x04\x02"
                .to_vec();
        golden.extend(b"\x01\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x01\x00\x00");
        golden.extend(b"\x01\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x02\x00\x02\x00");
        assert_eq!(encode_consumer(&value), golden);
        assert_eq!(decode_stored(&golden), Ok(StoredGroup::Consumer(value)));
    }

    #[test]
    fn golden_bytes_of_a_group() {
        let golden = b"\x01\x06\x01\x08consumer\x01\x05range\x01\x01m\x02\xd0\x0f\x01\x01m\x01\x01i\x01c\x02/h\xd8\x04\xc8\x01\x01\x05range\x02\x01\x02\x01\x09";
        assert_eq!(&encode_group(&group())[..], golden);
        assert_eq!(decode_group(golden), Ok(group()));
    }

    #[test]
    fn golden_bytes_of_a_block() {
        let golden = b"\x01\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\x01\x05\xd8\x04\x01\x01x\xd0\x0f\0";
        assert_eq!(&encode_block(&block())[..], golden);
        assert_eq!(decode_block(golden), Ok(block()));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let good = encode_group(&group());
        for len in 0..good.len() {
            assert!(decode_group(&good[..len]).is_err(), "cut to {len}");
        }
        assert!(decode_group(&[&good[..], b"x"].concat()).unwrap_err().contains("follow"));
        let mut newer = good.to_vec();
        newer[0] = 9;
        assert!(decode_group(&newer).unwrap_err().contains("format 9"));
        let mut outside = block();
        let committed = outside.slots[&5].clone();
        outside.slots.insert(64, committed);
        assert!(decode_block(&encode_block(&outside)).unwrap_err().contains("64"));
    }
}
