//! Record batches for the tests of this folder. Their records are random bytes: nothing here looks into records.

use crate::ids::{LeaderEpoch, Offset, PartitionIndex, PartitionKey, TopicId};
use crate::protocol::batch::{BatchHeader, CRC_START, HEADER_LEN, StoredBatch};
use crate::storage::{ObjectKey, crc32c};
use bytes::Bytes;

/// Partition `n` of a fixed topic.
pub fn partition(n: i32) -> PartitionKey {
    PartitionKey { topic: TopicId(uuid::Uuid::from_u128(0x7011)), partition: PartitionIndex(n) }
}

/// An object key.
pub fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name)
}

/// A batch of `count` records as a producer sends it: base offset 0, `body_len` bytes of records.
pub fn wire_batch(count: i32, body_len: usize, max_timestamp: i64) -> Bytes {
    let mut bytes = vec![0u8; HEADER_LEN + body_len];
    bytes[8..12].copy_from_slice(&((HEADER_LEN - 12 + body_len) as i32).to_be_bytes());
    bytes[16] = 2;
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[27..35].copy_from_slice(&max_timestamp.to_be_bytes());
    bytes[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    bytes[43..51].copy_from_slice(&77i64.to_be_bytes());
    bytes[51..53].copy_from_slice(&3i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&9i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    let mut state = 0x2545_f491u32 ^ (count as u32) << 8 ^ body_len as u32;
    for byte in &mut bytes[HEADER_LEN..] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let crc = crc32c(&bytes[CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// The same, stored at `base`.
pub fn stored_batch(base: i64, count: i32, body_len: usize, max_timestamp: i64) -> StoredBatch {
    let wire = wire_batch(count, body_len, max_timestamp);
    let header = BatchHeader::parse(&wire).unwrap();
    StoredBatch::assign(&wire, &header, Offset(base), LeaderEpoch(5))
}

/// The batch's bytes in one piece.
pub fn batch_bytes(batch: &StoredBatch) -> Vec<u8> {
    [&batch.head[..], &batch.tail[..]].concat()
}
