//! The `segment` format, version 1: one format at every level.
//!
//! Header | record batches, grouped by partition | index | fixed footer; `docs/storage-format.md` has the layout
//! tables. All integers are big-endian, as in the record batches. The index starts with a copy of the header, so that
//! one read of the end of an object says everything but the batches.
//!
//! Writing copies only small pieces: batches above [`COPY_LEN_MAX`] stay in the buffer they were received in. Their
//! bytes are not hashed again either: a batch carries a verified CRC, and the CRCs of extents and of the object are
//! combined from those (see [`super::crc`]).
//!
//! Reading trusts nothing: checksums first, then every length, position and order, before anything is allocated.

pub use self::index::{FOOTER_LEN, HEADER_LEN, TAIL_READ_LEN, Tail, parse_header, parse_tail};
use self::index::{corrupt, encode_header, encode_index_and_footer};
use super::crc::RunningCrc;
use super::{ObjectKey, Payload, StoreError, crc32c};
use crate::ids::{LeaderEpoch, Offset, PartitionKey, ProducerEpoch, ProducerId, Seq, WriterId};
use crate::protocol::batch::{self, BatchHeader, StoredBatch};
use bytes::{Bytes, BytesMut};

mod index;
#[cfg(test)]
mod tests;

/// Merge level of one partition's segment whose keys are unique, together with all before it that are compacted.
pub const LEVEL_COMPACTED: u8 = 3;
/// The same with tombstones that have a delete horizon: it is compacted again when that has passed.
pub const LEVEL_COMPACTED_TOMBSTONES: u8 = 4;
/// Pieces up to this size are copied together; larger ones become a chunk of the payload as they are.
const COPY_LEN_MAX: usize = 16 * 1024;
/// At levels 1 and 2 the index has a batch about every so many bytes.
const SPARSE_INDEX_EVERY_LEN: u64 = 16 * 1024;

/// Who wrote a segment and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Cluster id (22 characters of base64url).
    pub cluster_id: String,
    /// Merge level: 0 WAL, 1 merged, 2 one partition's segment, 3 and 4 such a one compacted by key.
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
    /// Greatest timestamp, ms, of this batch and those up to the next one in the index.
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

/// Stored bytes of one partition, to be merged into a segment of a higher level.
#[derive(Debug, Clone)]
pub struct RawExtent {
    /// The object the bytes were read from, for error messages.
    pub source: ObjectKey,
    /// The partition.
    pub key: PartitionKey,
    /// Leader epoch of the last batch.
    pub leader_epoch: LeaderEpoch,
    /// Offset of the first batch.
    pub base: Offset,
    /// Whole batches.
    pub batches: Batches,
}

/// Stored batches of a [`RawExtent`].
#[derive(Debug, Clone)]
pub enum Batches {
    /// As read from an object, back to back. They are checked on the way.
    Read(Bytes),
    /// As they are kept in memory since they were appended. Nothing is copied, and nothing is checked again.
    Kept(Vec<StoredBatch>),
}

/// Builds a segment: freezes header, batches, index and footer into a payload, without copying large batches.
///
/// # Panics
/// If an extent's batches leave a gap between offsets, or a partition comes twice: committing that would lose data.
pub fn build(header: &SegmentHeader, mut extents: Vec<ExtentInput>) -> (Payload, SegmentIndex) {
    extents.sort_by_key(|e| e.key);
    let mut builder = Builder::new(header);
    for extent in extents.iter().filter(|e| !e.batches.is_empty()) {
        builder.open_extent(extent.key, extent.batches[0].base);
        extent.batches.iter().for_each(|batch| builder.append_kept(batch, extent.leader_epoch));
        builder.close_extent();
    }
    builder.finish()
}

/// Builds a segment of a higher level from stored bytes, checking them on the way: every batch's length and CRC, and
/// that offsets are contiguous inside a partition. Extents of one partition follow each other in offset order.
pub fn build_from_extents(
    header: &SegmentHeader,
    mut extents: Vec<RawExtent>,
) -> Result<(Payload, SegmentIndex), StoreError> {
    let mut builder = Builder::new(header);
    extents.sort_by_key(|e| e.key); // stable: keeps the order inside a partition
    for extent in &extents {
        let damaged = |message: String| corrupt(&extent.source, format!("{}: {message}", extent.key));
        if builder.extents.last().is_none_or(|e| e.key != extent.key) {
            builder.close_extent();
            builder.open_extent(extent.key, extent.base);
        }
        let bytes = match &extent.batches {
            Batches::Read(bytes) => bytes,
            Batches::Kept(batches) => {
                batches.iter().for_each(|batch| builder.append_kept(batch, extent.leader_epoch));
                continue;
            }
        };
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let batch_header = check_batch(&rest).map_err(damaged)?;
            let (found, expected) = (batch_header.base_offset, builder.current().next);
            if found != expected {
                return Err(damaged(format!("offset {expected} should follow, found {found}")));
            }
            if batch_header.leader_epoch > extent.leader_epoch || batch_header.leader_epoch.0 < 0 {
                return Err(damaged(format!("batch at offset {found} has leader epoch {}", batch_header.leader_epoch)));
            }
            let bytes = rest.split_to(batch_header.total_len() as usize);
            builder.append(&batch_header, extent.leader_epoch);
            builder.append_crc(&batch_header, &bytes[..batch::HEADER_LEN], &bytes, &[]);
        }
        builder.put(bytes);
    }
    builder.close_extent();
    Ok(builder.finish())
}

/// Checks the batch at the start of `bytes`: length, magic, offsets and CRC. Returns its header, or what is wrong.
pub fn check_batch(bytes: &[u8]) -> Result<BatchHeader, String> {
    let header = BatchHeader::parse(bytes).map_err(|e| e.to_string())?;
    let len = header.total_len();
    if len < batch::HEADER_LEN as i64 || len > bytes.len() as i64 {
        return Err(format!("batch at offset {} claims {len} of {} bytes", header.base_offset, bytes.len()));
    }
    if header.magic != 2 || header.last_offset_delta < 0 || header.base_offset.0 < 0 {
        return Err(format!("batch at offset {} has a header that makes no sense", header.base_offset));
    }
    if header.base_offset.0.checked_add(i64::from(header.last_offset_delta) + 1).is_none() {
        return Err(format!("batch at offset {} ends beyond the last offset", header.base_offset));
    }
    let computed = crc32c(&bytes[batch::CRC_START..len as usize]);
    if computed != header.crc {
        return Err(format!(
            "batch at offset {} has CRC {:08x}, its bytes have {computed:08x}",
            header.base_offset, header.crc
        ));
    }
    Ok(header)
}

/// The first bytes of a batch that may lie in two chunks.
fn batch_header_bytes(batch: &StoredBatch, out: &mut [u8; batch::HEADER_LEN]) {
    let from_head = batch.head.len().min(out.len());
    out[..from_head].copy_from_slice(&batch.head[..from_head]);
    let rest = out.len() - from_head;
    out[from_head..].copy_from_slice(&batch.tail[..rest]);
}

/// A segment under construction.
struct Builder<'a> {
    header: &'a SegmentHeader,
    chunks: Vec<Bytes>,
    /// Small pieces since the last large chunk.
    small: BytesMut,
    position: u64,
    crc: RunningCrc,
    extents: Vec<ExtentEntry>,
    /// The last entry of `extents` is still growing; this is its CRC.
    open: Option<RunningCrc>,
}

impl<'a> Builder<'a> {
    fn new(header: &'a SegmentHeader) -> Self {
        let encoded = encode_header(header);
        let mut crc = RunningCrc::default();
        crc.push(&encoded);
        Self {
            header,
            chunks: Vec::new(),
            small: BytesMut::from(&encoded[..]),
            position: HEADER_LEN as u64,
            crc,
            extents: Vec::new(),
            open: None,
        }
    }

    fn open_extent(&mut self, key: PartitionKey, base: Offset) {
        assert!(self.extents.last().is_none_or(|e| e.key < key), "partition {key} comes twice in one segment");
        self.open = Some(RunningCrc::default());
        self.extents.push(ExtentEntry {
            key,
            leader_epoch: LeaderEpoch(0),
            base,
            next: base,
            position: self.position,
            len: 0,
            max_timestamp: i64::MIN,
            crc32c: 0,
            batches: Vec::new(),
        });
    }

    fn current(&mut self) -> &mut ExtentEntry {
        self.extents.last_mut().expect("an extent was opened")
    }

    /// Enters a batch into the index and moves the position behind it.
    fn append(&mut self, batch: &BatchHeader, leader_epoch: LeaderEpoch) {
        let position = self.position;
        let sparse = self.header.level > 0;
        let extent = self.current();
        assert_eq!(extent.next, batch.base_offset, "partition {}: gap between batches of a segment", extent.key);
        match extent.batches.last_mut() {
            Some(indexed) if sparse && position - indexed.position < SPARSE_INDEX_EVERY_LEN => {
                indexed.max_timestamp = indexed.max_timestamp.max(batch.max_timestamp);
            }
            _ => extent.batches.push(BatchEntry {
                base: batch.base_offset,
                next: batch.next_offset(),
                position,
                len: batch.total_len() as u32,
                max_timestamp: batch.max_timestamp,
                producer_id: batch.producer_id,
                producer_epoch: batch.producer_epoch,
                first_sequence: batch.base_sequence,
            }),
        }
        extent.next = batch.next_offset();
        extent.len += batch.total_len() as u64;
        extent.max_timestamp = extent.max_timestamp.max(batch.max_timestamp);
        extent.leader_epoch = leader_epoch;
        self.position += batch.total_len() as u64;
    }

    /// Appends a batch that is in memory.
    fn append_kept(&mut self, batch: &StoredBatch, leader_epoch: LeaderEpoch) {
        let mut head = [0u8; batch::HEADER_LEN];
        batch_header_bytes(batch, &mut head);
        let batch_header = BatchHeader::parse(&head).expect("the length is that of a header");
        self.append(&batch_header, leader_epoch);
        self.append_crc(&batch_header, &head, &batch.head, &batch.tail);
        self.put(&batch.head);
        self.put(&batch.tail);
    }

    /// Adds a batch, whose first bytes are `head` and whose chunks are `first` and `second`, to the extent's CRC.
    fn append_crc(&mut self, batch: &BatchHeader, head: &[u8], first: &[u8], second: &[u8]) {
        let crc = self.open.as_mut().expect("an extent was opened");
        debug_assert_eq!(first.len() + second.len(), batch.total_len() as usize);
        if second.is_empty() {
            crc.push(&head[..batch::CRC_START]);
            crc.push_known(&first[batch::CRC_START..], batch.crc);
        } else if first.len() <= batch::CRC_START {
            crc.push(&head[..batch::CRC_START]);
            crc.push_known(&second[batch::CRC_START - first.len()..], batch.crc);
        } else {
            crc.push(first);
            crc.push(second);
        }
    }

    fn close_extent(&mut self) {
        let Some(crc) = self.open.take() else { return };
        let extent = self.extents.last_mut().expect("an extent was opened");
        extent.crc32c = crc.value();
        let len = extent.len;
        self.crc.push_crc(crc, len);
    }

    /// Appends bytes to the payload, without a copy if they are many.
    fn put(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPY_LEN_MAX {
            self.small.extend_from_slice(bytes);
            return;
        }
        if !self.small.is_empty() {
            self.chunks.push(self.small.split().freeze());
        }
        self.chunks.push(bytes.clone());
    }

    fn finish(mut self) -> (Payload, SegmentIndex) {
        let index = SegmentIndex { header: self.header.clone(), extents: self.extents };
        let end = encode_index_and_footer(&index, self.position);
        self.crc.push(&end);
        self.small.extend_from_slice(&end);
        self.chunks.push(self.small.freeze());
        let len = self.position + end.len() as u64;
        debug_assert_eq!(len, self.chunks.iter().map(|c| c.len() as u64).sum::<u64>());
        let payload = Payload {
            chunks: self.chunks.into(),
            len,
            crc32c: self.crc.value(),
            nonce: self.header.nonce,
            twice: false,
        };
        (payload, index)
    }
}
