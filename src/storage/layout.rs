//! The only place that formats an object key.
//!
//! | key | what |
//! | --- | --- |
//! | `{ns}/cluster` | identity of the cluster that owns the prefix |
//! | `{ns}/wal/{h}/{writer:016x}-{nonce:016x}/{seq:016x}.kfs` | L0: one flush, many partitions |
//! | `{ns}/merged/{h}/{writer:016x}/{from:016x}-{to:016x}-{ulid}.kfs` | L1: a range of L0 merged, sorted by partition |
//! | `{ns}/topics/{topic_id}/{partition}/{base:020}-{next:020}-{ulid}.kfs` | L2: one partition |
//! | `{ns}/checkpoints/{writer:016x}-{nonce:016x}/{seq:016x}-{ulid}.ckpt` | a writer's checkpoint |
//! | `{ns}/probe/{ulid}` | start-up probe, deleted at once |
//!
//! `{h}` is two hex digits that spread prefixes over the store's partitions.

use super::ObjectKey;
use crate::ids::{Offset, PartitionKey, Seq, WriterId};

/// Formats keys below one namespace (`KAFSCALE_S3_NAMESPACE`).
#[derive(Debug, Clone)]
pub struct Layout {
    namespace: String,
}

impl Layout {
    /// Keys below `namespace`, which must be a valid key part (checked by the configuration).
    pub fn new(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into() }
    }

    /// Prefix of everything that belongs to the cluster, with the trailing slash.
    pub fn root(&self) -> String {
        format!("{}/", self.namespace)
    }

    /// The cluster's identity object.
    pub fn cluster(&self) -> ObjectKey {
        ObjectKey::new(format!("{}/cluster", self.namespace))
    }

    /// A WAL object.
    pub fn wal(&self, writer: WriterId, nonce: u64, seq: Seq) -> ObjectKey {
        let ns = &self.namespace;
        let h = spread(writer.0 ^ seq.0.rotate_left(17));
        ObjectKey::new(format!("{ns}/wal/{h:02x}/{:016x}-{nonce:016x}/{:016x}.kfs", writer.0, seq.0))
    }

    /// A merged (L1) object that replaces the WAL range `from..=to` of `writer`.
    pub fn merged(&self, writer: WriterId, from: Seq, to: Seq, ulid: ulid::Ulid) -> ObjectKey {
        let ns = &self.namespace;
        let h = spread(writer.0 ^ to.0.rotate_left(17));
        ObjectKey::new(format!("{ns}/merged/{h:02x}/{:016x}/{:016x}-{:016x}-{ulid}.kfs", writer.0, from.0, to.0))
    }

    /// A partition's own (L2) segment with offsets `base..next`.
    pub fn segment(&self, key: &PartitionKey, base: Offset, next: Offset, ulid: ulid::Ulid) -> ObjectKey {
        let ns = &self.namespace;
        ObjectKey::new(format!("{ns}/topics/{}/{}/{:020}-{:020}-{ulid}.kfs", key.topic, key.partition, base.0, next.0))
    }

    /// A writer's checkpoint that covers the WAL up to `seq`.
    pub fn checkpoint(&self, writer: WriterId, nonce: u64, seq: Seq, ulid: ulid::Ulid) -> ObjectKey {
        let ns = &self.namespace;
        ObjectKey::new(format!("{ns}/checkpoints/{:016x}-{nonce:016x}/{:016x}-{ulid}.ckpt", writer.0, seq.0))
    }

    /// A start-up probe object.
    pub fn probe(&self, ulid: ulid::Ulid) -> ObjectKey {
        ObjectKey::new(format!("{}/probe/{ulid}", self.namespace))
    }
}

fn spread(value: u64) -> u8 {
    (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}
