//! Record batches (magic 2), read in place.
//!
//! The broker stores batches as the client sent them. It reads the 61-byte header, verifies the CRC once, and patches
//! base offset and leader epoch, which lie in the first [`PREFIX_LEN`] bytes, outside the CRC. Layout: Kafka's
//! `DefaultRecordBatch`, <https://kafka.apache.org/documentation/#recordbatch>.

use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use bytes::{BufMut, Bytes, BytesMut};

/// Length of a batch's header in bytes.
pub const HEADER_LEN: usize = 61;
/// Length of the part that is outside the CRC and that the broker writes: base offset, batch length, leader epoch.
pub const PREFIX_LEN: usize = 16;
/// First byte covered by the CRC (attributes).
pub const CRC_START: usize = 21;
/// The attribute that says that the base timestamp is a delete horizon.
pub const DELETE_HORIZON: i16 = 0x40;
/// Batches up to this size are copied into one buffer; larger ones keep their bytes where they were received.
const COPY_LEN_MAX: usize = 16 * 1024;

/// What is wrong with a batch; the handler maps it to a Kafka error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Length fields do not fit the bytes.
    #[error("record batch is truncated: {needed} bytes needed, {available} available")]
    Truncated {
        /// Bytes the batch claims.
        needed: i64,
        /// Bytes there are.
        available: usize,
    },
    /// Message format older than v2.
    #[error("record batch has magic {0}; only magic 2 is supported")]
    Magic(i8),
    /// CRC-32C does not match.
    #[error("record batch has CRC {stored:08x}, its bytes have {computed:08x}")]
    Crc {
        /// As sent.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A field that contradicts another or that clients may not set.
    #[error("record batch is invalid: {0}")]
    Invalid(String),
}

/// The fixed header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes after the length field (total length is 12 more).
    pub length: i32,
    /// Leader epoch under which the broker stored it.
    pub leader_epoch: LeaderEpoch,
    /// Message format; 2.
    pub magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec (bits 0-2), timestamp type (3), transactional (4), control (5), delete horizon (6).
    pub attributes: i16,
    /// Offset of the last record minus the base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, ms; the delete horizon if the batch has one. Records' timestamps count from it.
    pub base_timestamp: i64,
    /// Greatest timestamp, ms.
    pub max_timestamp: i64,
    /// Producer id, -1 without idempotence.
    pub producer_id: ProducerId,
    /// Producer epoch, -1 without idempotence.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record, -1 without idempotence.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes` without judging it, other than that it is there.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() < HEADER_LEN {
            return Err(BatchError::Truncated { needed: HEADER_LEN as i64, available: bytes.len() });
        }
        let i16_at = |p: usize| i16::from_be_bytes([bytes[p], bytes[p + 1]]);
        let i32_at = |p: usize| i32::from_be_bytes(bytes[p..p + 4].try_into().expect("four bytes"));
        let i64_at = |p: usize| i64::from_be_bytes(bytes[p..p + 8].try_into().expect("eight bytes"));
        Ok(Self {
            base_offset: Offset(i64_at(0)),
            length: i32_at(8),
            leader_epoch: LeaderEpoch(i32_at(12)),
            magic: bytes[16] as i8,
            crc: i32_at(17) as u32,
            attributes: i16_at(21),
            last_offset_delta: i32_at(23),
            base_timestamp: i64_at(27),
            max_timestamp: i64_at(35),
            producer_id: ProducerId(i64_at(43)),
            producer_epoch: ProducerEpoch(i16_at(51)),
            base_sequence: i32_at(53),
            record_count: i32_at(57),
        })
    }

    /// Length of the whole batch in bytes, as claimed.
    pub fn total_len(&self) -> i64 {
        i64::from(self.length) + 12
    }

    /// First offset after the batch.
    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta) + 1)
    }

    /// Sequence of the last record, wrapping from 2^31-1 to 0.
    pub fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.last_offset_delta)
    }

    /// True if the batch carries a producer id.
    pub fn is_idempotent(&self) -> bool {
        self.producer_id.0 >= 0
    }

    /// Bit 4 of the attributes.
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Bit 5 of the attributes.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Bit 3 of the attributes: timestamps are the broker's.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    /// Bit 6 of the attributes (KIP-534): from this time on, ms, compaction may drop the batch's tombstones.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// True if compaction removed all records: the batch only says that nothing is left of its offsets.
    pub fn is_hole(&self) -> bool {
        self.record_count == 0 && !self.is_control()
    }

    /// Bits 0-2 of the attributes: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub fn codec(&self) -> u8 {
        (self.attributes & 0x07) as u8
    }
}

/// Sequence arithmetic of Kafka producers: after 2^31-1 comes 0.
pub fn add_sequence(sequence: i32, increment: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(increment);
    (sum & i64::from(i32::MAX)) as i32
}

/// A batch as it is stored and served: final base offset and leader epoch, in one or two chunks.
#[derive(Debug, Clone)]
pub struct StoredBatch {
    /// Offset of the first record.
    pub base: Offset,
    /// First offset after the batch.
    pub next: Offset,
    /// Greatest timestamp, ms.
    pub max_timestamp: i64,
    /// The first bytes (the patched prefix, or everything).
    pub head: Bytes,
    /// The rest, shared with the buffer it was received in; empty for small batches.
    pub tail: Bytes,
}

impl StoredBatch {
    /// Gives `batch` (whole, already validated) its final `base` offset and `leader_epoch`.
    pub fn assign(batch: &Bytes, header: &BatchHeader, base: Offset, leader_epoch: LeaderEpoch) -> Self {
        let mut prefix = [0u8; PREFIX_LEN];
        prefix[0..8].copy_from_slice(&base.0.to_be_bytes());
        prefix[8..12].copy_from_slice(&batch[8..12]);
        prefix[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
        let (head, tail) = if batch.len() <= COPY_LEN_MAX {
            let mut all = BytesMut::with_capacity(batch.len());
            all.put_slice(&prefix);
            all.put_slice(&batch[PREFIX_LEN..]);
            (all.freeze(), Bytes::new())
        } else {
            (Bytes::copy_from_slice(&prefix), batch.slice(PREFIX_LEN..))
        };
        let next = base.plus(i64::from(header.last_offset_delta) + 1);
        Self { base, next, max_timestamp: header.max_timestamp, head, tail }
    }

    /// A batch read back from storage: `bytes` are exactly the batch that `header` describes.
    pub fn from_stored(bytes: Bytes, header: &BatchHeader) -> Self {
        Self {
            base: header.base_offset,
            next: header.next_offset(),
            max_timestamp: header.max_timestamp,
            head: bytes,
            tail: Bytes::new(),
        }
    }

    /// True if compaction removed all records of it.
    pub fn is_hole(&self) -> bool {
        BatchHeader::parse(&self.head).is_ok_and(|header| header.is_hole())
    }

    /// Length in bytes.
    pub fn byte_len(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}
