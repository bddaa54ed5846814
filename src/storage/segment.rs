//! The `segment` format, version 1: one format at every level.
//!
//! Header | record batches, grouped by partition | index | fixed footer. See `docs/storage-format.md`.

use super::{Payload, StoreError};
use crate::ids::{LeaderEpoch, Offset, PartitionKey, ProducerEpoch, ProducerId, Seq, WriterId};
use crate::protocol::batch::StoredBatch;
use bytes::Bytes;

/// Who wrote a segment and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Cluster id (22 characters of base64url).
    pub cluster_id: String,
    /// Merge level: 0 WAL, 1 merged, 2 one partition's segment.
    pub level: u8,
    /// The writer.
    pub writer: WriterId,
    /// The writer's nonce.
    pub nonce: u64,
    /// WAL slot (level 0), or the last slot merged into it.
    pub seq: Seq,
    /// Revision of the metadata store that the writer had seen.
    pub revision_seen: i64,
}

/// One batch in a segment's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    /// First offset.
    pub base: Offset,
    /// First offset after it.
    pub next: Offset,
    /// Position in the object, bytes.
    pub position: u64,
    /// Length, bytes.
    pub len: u32,
    /// Greatest timestamp, ms.
    pub max_timestamp: i64,
    /// Producer id, -1 without idempotence.
    pub producer_id: ProducerId,
    /// Producer epoch, -1 without idempotence.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record, -1 without idempotence.
    pub first_sequence: i32,
}

/// A run of one partition's batches in a segment's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentEntry {
    /// The partition.
    pub key: PartitionKey,
    /// Leader epoch of its last batch.
    pub leader_epoch: LeaderEpoch,
    /// First offset.
    pub base: Offset,
    /// First offset after it.
    pub next: Offset,
    /// Position in the object, bytes.
    pub position: u64,
    /// Length, bytes.
    pub len: u64,
    /// Greatest timestamp, ms.
    pub max_timestamp: i64,
    /// CRC-32C of the extent's bytes.
    pub crc32c: u32,
    /// Its batches in order: all of them at level 0; at levels 1 and 2 a sparse selection that starts with the first.
    pub batches: Vec<BatchEntry>,
}

/// Everything in a segment but its batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentIndex {
    /// The header.
    pub header: SegmentHeader,
    /// Extents sorted by partition key.
    pub extents: Vec<ExtentEntry>,
}

/// One partition's batches for a segment to build.
#[derive(Debug, Clone)]
pub struct ExtentInput {
    /// The partition.
    pub key: PartitionKey,
    /// Leader epoch of the last batch.
    pub leader_epoch: LeaderEpoch,
    /// Batches in offset order, without gaps.
    pub batches: Vec<StoredBatch>,
}

/// Builds a segment: freezes header, batches, index and footer into a payload, without copying large batches.
pub fn build(_header: &SegmentHeader, _extents: Vec<ExtentInput>) -> (Payload, SegmentIndex) {
    todo!()
}

/// Bytes to read from the end of an object so that the index is usually in them.
pub const TAIL_READ_LEN: u64 = 64 * 1024;

/// What the end of an object says.
#[derive(Debug)]
pub enum Tail {
    /// The whole index was in it.
    Index(SegmentIndex),
    /// Read this many bytes from the end instead.
    NeedBytes(u64),
}

/// Reads the index from the last bytes of an object of `object_len` bytes.
pub fn parse_tail(_key: &super::ObjectKey, _tail: &Bytes, _object_len: u64) -> Result<Tail, StoreError> {
    todo!()
}
