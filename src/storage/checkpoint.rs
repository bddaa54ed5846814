//! A writer's checkpoint: what a successor needs so that it replays only the WAL after it, and the manifest of what
//! the writer's partitions consist of.
//!
//! Version 2: magic `KFSCKPT2` | body length u32 | CRC-32C of the body u32 (both big-endian) | body in postcard's
//! format (<https://postcard.jamesmunns.com/wire-format>). Version 1 (`KFSCKPT1`) is the same without the catalog at the end
//! of the body; it is still read. The pointer to the newest checkpoint is in the writer's metadata key, so replacing it is one
//! compare-and-swap; a checkpoint nobody points to is an orphan. `docs/storage-format.md`.

use super::{ObjectKey, Payload, StoreError, crc32c};
use crate::actors::partition::producers::ProducerSnapshot;
use crate::actors::partition::view::{EpochStart, Extent, ObjectRef};
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionKey, Seq, TopicId, WriterId};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"KFSCKPT2";
/// Without a catalog.
const MAGIC_V1: &[u8; 8] = b"KFSCKPT1";
const PREFIX_LEN: usize = 16;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Cluster id (22 characters of base64url).
    pub cluster_id: String,
    /// The writer.
    pub writer: WriterId,
    /// The writer's nonce.
    pub nonce: u64,
    /// Every slot of the writer up to this one is covered.
    pub seq: Seq,
    /// Revision of the metadata store that the writer had seen.
    pub revision_seen: i64,
    /// Objects that extents refer to.
    pub objects: Vec<ObjectRecord>,
    /// Partitions, sorted by key.
    pub partitions: Vec<PartitionCheckpoint>,
    /// Objects that nothing refers to any more, to be deleted when old enough.
    pub garbage: Vec<GarbageRecord>,
    /// What the cluster consists of, as the writer saw it; `None` in version 1. Written behind the other fields.
    #[serde(skip)]
    pub catalog: Option<Catalog>,
}

/// What the metadata store says of topics and settings. Brokers never read it; it is there for the day on which the metadata
/// store is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// How often the metadata store had been rebuilt: revisions of different generations cannot be compared.
    pub generation: u32,
    /// Revision of the metadata store at which it was so.
    pub revision: i64,
    /// The broker that saw it.
    pub node: BrokerId,
    /// Live topics, by name.
    pub topics: Vec<TopicRecord>,
    /// What was configured at run time, by the part of the metadata key behind `settings/`; of brokers only the one that
    /// saw it.
    pub settings: BTreeMap<String, BTreeMap<String, String>>,
}

/// A topic in a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: TopicId,
    /// Number of partitions.
    pub partitions: i32,
    /// Configs that differ from the defaults.
    pub configs: BTreeMap<String, String>,
}

/// An object in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Its key.
    pub key: String,
    /// Merge level.
    pub level: u8,
    /// Size in bytes.
    pub len: u64,
    /// When it was written, ms since the Unix epoch.
    pub created_ms: i64,
}

/// An unreferenced object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarbageRecord {
    /// Its key.
    pub key: String,
    /// Since when nothing refers to it, ms since the Unix epoch.
    pub since_ms: i64,
}

/// A partition in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionCheckpoint {
    /// The partition.
    pub key: PartitionKey,
    /// First offset that may be read.
    pub log_start: Offset,
    /// End of what is committed.
    pub next_offset: Offset,
    /// Leader epochs in ascending order.
    pub epochs: Vec<EpochStart>,
    /// Extents in offset order.
    pub extents: Vec<ExtentRecord>,
    /// Idempotent producers, committed state only.
    pub producers: Vec<ProducerSnapshot>,
}

/// An extent in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentRecord {
    /// First offset.
    pub base: Offset,
    /// First offset after it.
    pub next: Offset,
    /// Index into [`Checkpoint::objects`].
    pub object: u32,
    /// Position in the object, bytes.
    pub position: u64,
    /// Length in bytes.
    pub len: u64,
    /// Greatest timestamp, ms.
    pub max_timestamp: i64,
    /// Leader epoch of the last batch.
    pub leader_epoch: LeaderEpoch,
}

/// Collects the objects of a checkpoint under construction.
#[derive(Debug, Default)]
pub struct ObjectTable {
    indexes: HashMap<ObjectKey, u32>,
    records: Vec<ObjectRecord>,
}

impl ObjectTable {
    /// Records `extent` and its object.
    pub fn extent(&mut self, extent: &Extent) -> ExtentRecord {
        let object = *self.indexes.entry(extent.object.key.clone()).or_insert_with(|| {
            self.records.push(ObjectRecord {
                key: extent.object.key.as_str().to_owned(),
                level: extent.object.level,
                len: extent.object.len,
                created_ms: extent.object.created_ms,
            });
            (self.records.len() - 1) as u32
        });
        ExtentRecord {
            base: extent.base,
            next: extent.next,
            object,
            position: extent.position,
            len: extent.len,
            max_timestamp: extent.max_timestamp,
            leader_epoch: extent.leader_epoch,
        }
    }

    /// The objects, in the order their indexes say.
    pub fn into_records(self) -> Vec<ObjectRecord> {
        self.records
    }
}

impl Checkpoint {
    /// Freezes the checkpoint into an object's payload.
    pub fn encode(&self) -> Payload {
        const SERIALIZES: &str = "the checkpoint's types always serialize";
        let mut body = postcard::to_stdvec(self).expect(SERIALIZES);
        if let Some(catalog) = &self.catalog {
            body.extend(postcard::to_stdvec(catalog).expect(SERIALIZES));
        }
        let mut bytes = BytesMut::with_capacity(PREFIX_LEN + body.len());
        bytes.put_slice(if self.catalog.is_some() { MAGIC } else { MAGIC_V1 });
        bytes.put_u32(body.len() as u32);
        bytes.put_u32(crc32c(&body));
        bytes.put_slice(&body);
        Payload::new(vec![bytes.freeze()], self.nonce)
    }

    /// Reads the object `key`; damage is an error, never a guess.
    pub fn decode(key: &ObjectKey, bytes: &Bytes) -> Result<Self, StoreError> {
        let corrupt = |message: &str| StoreError::Corrupt { key: key.clone(), message: message.to_owned() };
        if bytes.len() < PREFIX_LEN || (&bytes[..8] != MAGIC && &bytes[..8] != MAGIC_V1) {
            return Err(corrupt("not a checkpoint of version 1 or 2"));
        }
        let (prefix, body) = bytes.split_at(PREFIX_LEN);
        let len = u32::from_be_bytes(prefix[8..12].try_into().expect("four bytes")) as usize;
        let crc = u32::from_be_bytes(prefix[12..16].try_into().expect("four bytes"));
        if body.len() != len || crc32c(body) != crc {
            return Err(corrupt("length or checksum differs"));
        }
        let (mut checkpoint, rest): (Self, _) = postcard::take_from_bytes(body).map_err(|e| corrupt(&e.to_string()))?;
        if &prefix[..8] == MAGIC {
            checkpoint.catalog = Some(postcard::from_bytes(rest).map_err(|e| corrupt(&e.to_string()))?);
        }
        for partition in &checkpoint.partitions {
            checkpoint
                .check(partition)
                .map_err(|message| corrupt(&format!("partition {}: {message}", partition.key)))?;
        }
        Ok(checkpoint)
    }

    /// As many of an object's first bytes as [`Self::origin`] may need.
    pub const ORIGIN_LEN_MAX: u64 = 96;

    /// Cluster id, writer, nonce, slot and revision, from the first bytes of a checkpoint, whose checksum cannot be
    /// compared then. `None` if they are not those of a checkpoint.
    pub fn origin(bytes: &[u8]) -> Option<(String, WriterId, u64, Seq, i64)> {
        let body =
            bytes.strip_prefix(MAGIC).or_else(|| bytes.strip_prefix(MAGIC_V1))?.get(PREFIX_LEN - MAGIC.len()..)?;
        postcard::take_from_bytes(body).ok().map(|(origin, _)| origin)
    }

    /// What readers of a checkpoint rely on.
    fn check(&self, partition: &PartitionCheckpoint) -> Result<(), &'static str> {
        let mut expected = None;
        for extent in &partition.extents {
            let object =
                self.objects.get(extent.object as usize).ok_or("an extent names an object not in the table")?;
            if extent.position.checked_add(extent.len).is_none_or(|end| end > object.len) {
                return Err("an extent reaches beyond its object");
            }
            if extent.next <= extent.base || expected.is_some_and(|next| next != extent.base) {
                return Err("extents leave a gap or overlap");
            }
            expected = Some(extent.next);
        }
        if partition.producers.iter().any(|p| p.batches.is_empty()) {
            return Err("a producer has no batches");
        }
        Ok(())
    }

    /// The objects as shared references, by index.
    pub fn object_refs(&self) -> Vec<Arc<ObjectRef>> {
        let shared = |o: &ObjectRecord| {
            let key = ObjectKey::new(o.key.as_str());
            Arc::new(ObjectRef { key, level: o.level, len: o.len, created_ms: o.created_ms })
        };
        self.objects.iter().map(shared).collect()
    }
}

impl ExtentRecord {
    /// The extent, with its object from [`Checkpoint::object_refs`].
    pub fn extent(&self, objects: &[Arc<ObjectRef>]) -> Extent {
        Extent {
            base: self.base,
            next: self.next,
            object: objects[self.object as usize].clone(),
            position: self.position,
            len: self.len,
            max_timestamp: self.max_timestamp,
            leader_epoch: self.leader_epoch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::partition::producers::ProducerBatch;
    use crate::ids::{PartitionIndex, ProducerEpoch, ProducerId, TopicId};

    fn sample() -> Checkpoint {
        let mut table = ObjectTable::default();
        let object = ObjectRef { key: ObjectKey::new("ns/wal/1"), level: 0, len: 300, created_ms: 5 };
        let extent = Extent {
            base: Offset(3),
            next: Offset(9),
            object: Arc::new(object),
            position: 96,
            len: 100,
            max_timestamp: 7,
            leader_epoch: LeaderEpoch(2),
        };
        let following = Extent { base: Offset(9), next: Offset(12), position: 196, ..extent.clone() };
        let extents = vec![table.extent(&extent), table.extent(&following)];
        let batch = ProducerBatch {
            epoch: ProducerEpoch(1),
            first_sequence: 0,
            last_sequence: 5,
            base: Offset(3),
            next: Offset(9),
        };
        let partition = PartitionCheckpoint {
            key: PartitionKey { topic: TopicId(uuid::Uuid::from_u128(9)), partition: PartitionIndex(4) },
            log_start: Offset(3),
            next_offset: Offset(12),
            epochs: vec![EpochStart { epoch: LeaderEpoch(2), start: Offset(0) }],
            extents,
            producers: vec![ProducerSnapshot { id: ProducerId(1000), last_append_ms: 8, batches: vec![batch] }],
        };
        Checkpoint {
            cluster_id: "AAAAAAAAAAAAAAAAAAAAAA".into(),
            writer: WriterId(7),
            nonce: 0x1234,
            seq: Seq(11),
            revision_seen: 99,
            objects: table.into_records(),
            partitions: vec![partition],
            garbage: vec![GarbageRecord { key: "ns/wal/0".into(), since_ms: 4 }],
            catalog: None,
        }
    }

    fn with_catalog() -> Checkpoint {
        let configs: BTreeMap<_, _> = [("retention.ms".to_owned(), "9".to_owned())].into();
        let id = TopicId(uuid::Uuid::from_u128(9));
        let catalog = Catalog {
            generation: 1,
            revision: 98,
            node: BrokerId(3),
            topics: vec![TopicRecord { name: "orders".into(), id, partitions: 5, configs: configs.clone() }],
            settings: [("default".to_owned(), configs)].into(),
        };
        Checkpoint { catalog: Some(catalog), ..sample() }
    }

    fn hex(checkpoint: &Checkpoint) -> String {
        checkpoint.encode().chunks.iter().flatten().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_format_is_what_it_was() {
        assert_eq!(hex(&sample()), GOLDEN, "checkpoint bytes changed: a new format needs a new magic");
        let (v1, v2) = (hex(&sample()), hex(&with_catalog()));
        // Magic, length and CRC differ; the body goes on.
        assert_eq!(v2[..16], hex_of(MAGIC));
        assert_eq!(v2[32..], format!("{}{GOLDEN_CATALOG}", &v1[32..]));
    }

    fn hex_of(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    const GOLDEN_CATALOG: &str = "01c4010601066f726465727310000000000000000000000000000000090a010c726574656e74696f\
        6e2e6d730139010764656661756c74010c726574656e74696f6e2e6d730139";

    const GOLDEN: &str = "4b4653434b5054310000006858e32b7e1641414141414141414141414141414141414141414141\
        07b4240bc60101086e732f77616c2f3100ac020a0110000000000000000000000000000000090806180104000206120060640e\
        04121800c401640e0401d00f100102000a061201086e732f77616c2f3008";

    #[test]
    fn it_survives_a_round_trip_and_detects_every_flipped_bit() {
        let key = ObjectKey::new("c");
        let bytes = sample().encode().chunks[0].clone();
        assert_eq!(Checkpoint::decode(&key, &bytes).unwrap(), sample());
        let origin = ("AAAAAAAAAAAAAAAAAAAAAA".to_owned(), WriterId(7), 0x1234, Seq(11), 99);
        let first = bytes.len().min(Checkpoint::ORIGIN_LEN_MAX as usize);
        assert_eq!(Checkpoint::origin(&bytes[..first]), Some(origin));
        assert_eq!(Checkpoint::origin(&bytes[1..]), None);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&key, &damaged.into()).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Checkpoint::decode(&key, &bytes.slice(..len)).is_err(), "cut at {len}");
        }
        let bytes = with_catalog().encode().chunks[0].clone();
        assert_eq!(Checkpoint::decode(&key, &bytes).unwrap(), with_catalog());
        assert!(Checkpoint::origin(&bytes).is_some());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::decode(&key, &damaged.into()).is_err(), "bit {bit}");
        }
    }
}
