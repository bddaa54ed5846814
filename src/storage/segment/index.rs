//! Bytes of a segment's header, index and footer.

use super::{BatchEntry, ExtentEntry, SegmentHeader, SegmentIndex};
use crate::ids::{
    LeaderEpoch, Offset, PartitionIndex, PartitionKey, ProducerEpoch, ProducerId, Seq, TopicId, WriterId,
};
use crate::protocol::batch;
use crate::storage::{ObjectKey, StoreError, crc32c};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// First bytes of a segment.
const MAGIC: [u8; 8] = *b"KFSSEGMT";
/// Last bytes of a segment.
const FOOTER_MAGIC: [u8; 4] = *b"KFSE";
/// The version of the format that this module writes and reads.
const VERSION: u16 = 1;
/// Length of the header in bytes; the first batch is here.
pub const HEADER_LEN: usize = 96;
/// Length of the footer in bytes.
pub const FOOTER_LEN: usize = 40;
const EXTENT_RECORD_LEN: usize = 72;
const BATCH_RECORD_LEN: usize = 48;
const CLUSTER_ID_LEN_MAX: usize = 24;
/// Greatest merge level.
const LEVEL_MAX: u8 = super::LEVEL_COMPACTED_TOMBSTONES;

pub(super) fn encode_header(header: &SegmentHeader) -> [u8; HEADER_LEN] {
    let id = header.cluster_id.as_bytes();
    assert!(id.len() <= CLUSTER_ID_LEN_MAX, "cluster id {} is too long", header.cluster_id);
    let mut bytes = [0u8; HEADER_LEN];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_be_bytes());
    bytes[10] = header.level;
    bytes[12..12 + id.len()].copy_from_slice(id);
    bytes[40..48].copy_from_slice(&header.writer.0.to_be_bytes());
    bytes[48..56].copy_from_slice(&header.nonce.to_be_bytes());
    bytes[56..64].copy_from_slice(&header.seq.0.to_be_bytes());
    bytes[64..72].copy_from_slice(&header.revision_seen.to_be_bytes());
    let crc = crc32c(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

pub(super) fn encode_index_and_footer(index: &SegmentIndex, index_position: u64) -> BytesMut {
    let batch_count: usize = index.extents.iter().map(|e| e.batches.len()).sum();
    let index_len = HEADER_LEN + index.extents.len() * EXTENT_RECORD_LEN + batch_count * BATCH_RECORD_LEN;
    let mut out = BytesMut::with_capacity(index_len + FOOTER_LEN);
    out.put_slice(&encode_header(&index.header));
    for extent in &index.extents {
        out.put_slice(extent.key.topic.0.as_bytes());
        out.put_i32(extent.key.partition.0);
        out.put_i32(extent.leader_epoch.0);
        out.put_i64(extent.base.0);
        out.put_i64(extent.next.0);
        out.put_u64(extent.position);
        out.put_u64(extent.len);
        out.put_i64(extent.max_timestamp);
        out.put_u32(extent.crc32c);
        out.put_u32(extent.batches.len() as u32);
    }
    for batch in index.extents.iter().flat_map(|e| &e.batches) {
        out.put_i64(batch.base.0);
        out.put_u64(batch.position);
        out.put_i64(batch.max_timestamp);
        out.put_i64(batch.producer_id.0);
        out.put_u32(batch.len);
        out.put_u32((batch.next.0 - batch.base.0) as u32);
        out.put_i32(batch.first_sequence);
        out.put_i16(batch.producer_epoch.0);
        out.put_u16(0);
    }
    debug_assert_eq!(out.len(), index_len);
    let index_crc = crc32c(&out);
    out.put_u64(index_position);
    out.put_u64(index_len as u64);
    out.put_u32(index.extents.len() as u32);
    out.put_u32(batch_count as u32);
    out.put_u32(index_crc);
    out.put_u16(VERSION);
    out.put_u16(0);
    let footer_crc = crc32c(&out[index_len..]);
    out.put_u32(footer_crc);
    out.put_slice(&FOOTER_MAGIC);
    debug_assert_eq!(out.len(), index_len + FOOTER_LEN);
    out
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
pub fn parse_tail(key: &ObjectKey, tail: &Bytes, object_len: u64) -> Result<Tail, StoreError> {
    parse(tail, object_len).map_err(|message| corrupt(key, message))
}

/// Reads the header from the first bytes of an object.
pub fn parse_header(key: &ObjectKey, bytes: &[u8]) -> Result<SegmentHeader, StoreError> {
    decode_header(bytes).map_err(|message| corrupt(key, message))
}

pub(super) fn corrupt(key: &ObjectKey, message: impl Into<String>) -> StoreError {
    StoreError::Corrupt { key: key.clone(), message: message.into() }
}

fn parse(tail: &[u8], object_len: u64) -> Result<Tail, String> {
    let len_min = (HEADER_LEN + HEADER_LEN + FOOTER_LEN) as u64;
    if object_len < len_min || tail.len() as u64 > object_len {
        return Err(format!("{} bytes of an object of {object_len} are not the end of a segment", tail.len()));
    }
    if tail.len() < FOOTER_LEN {
        return Ok(Tail::NeedBytes(TAIL_READ_LEN.min(object_len)));
    }
    let footer = Footer::decode(&tail[tail.len() - FOOTER_LEN..], object_len)?;
    let needed = footer.index_len + FOOTER_LEN as u64; // at most object_len, checked by the footer
    if (tail.len() as u64) < needed {
        return Ok(Tail::NeedBytes(needed));
    }
    let index = &tail[tail.len() - needed as usize..tail.len() - FOOTER_LEN];
    if crc32c(index) != footer.index_crc {
        return Err(format!("index has CRC {:08x}, its bytes have {:08x}", footer.index_crc, crc32c(index)));
    }
    let header = decode_header(index)?;
    if tail.len() as u64 == object_len && tail[..HEADER_LEN] != index[..HEADER_LEN] {
        return Err("the header differs from its copy in the index".to_owned());
    }
    let (extents, batches) = index[HEADER_LEN..].split_at(footer.extent_count * EXTENT_RECORD_LEN);
    let extents = decode_extents(extents, batches, &header, footer.index_position)?;
    Ok(Tail::Index(SegmentIndex { header, extents }))
}

struct Footer {
    index_position: u64,
    index_len: u64,
    extent_count: usize,
    index_crc: u32,
}

impl Footer {
    fn decode(bytes: &[u8], object_len: u64) -> Result<Self, String> {
        let (body, mut end) = bytes.split_at(FOOTER_LEN - 8);
        let crc = end.get_u32();
        if end != FOOTER_MAGIC {
            return Err("the last bytes are not those of a segment".to_owned());
        }
        if crc != crc32c(body) {
            return Err(format!("footer has CRC {crc:08x}, its bytes have {:08x}", crc32c(body)));
        }
        let mut body = body;
        let index_position = body.get_u64();
        let index_len = body.get_u64();
        let extent_count = body.get_u32();
        let batch_count = body.get_u32();
        let index_crc = body.get_u32();
        let version = body.get_u16();
        if version != VERSION {
            return Err(format!("format version {version} is unknown; a newer release wrote it"));
        }
        let records_len = u64::from(extent_count) * EXTENT_RECORD_LEN as u64
            + u64::from(batch_count) * BATCH_RECORD_LEN as u64
            + HEADER_LEN as u64;
        let end = index_position.checked_add(index_len).and_then(|e| e.checked_add(FOOTER_LEN as u64));
        if index_position < HEADER_LEN as u64 || index_len != records_len || end != Some(object_len) {
            return Err(format!(
                "index of {index_len} bytes at {index_position} does not fit an object of {object_len} bytes"
            ));
        }
        Ok(Self { index_position, index_len, extent_count: extent_count as usize, index_crc })
    }
}

fn decode_header(bytes: &[u8]) -> Result<SegmentHeader, String> {
    let Some(bytes) = bytes.get(..HEADER_LEN) else {
        return Err(format!("{} bytes are too few for a segment's header", bytes.len()));
    };
    if bytes[..8] != MAGIC {
        return Err("the first bytes are not those of a segment".to_owned());
    }
    let (body, mut crc) = bytes.split_at(HEADER_LEN - 4);
    let crc = crc.get_u32();
    if crc != crc32c(body) {
        return Err(format!("header has CRC {crc:08x}, its bytes have {:08x}", crc32c(body)));
    }
    let version = u16::from_be_bytes([body[8], body[9]]);
    if version != VERSION {
        return Err(format!("format version {version} is unknown; a newer release wrote it"));
    }
    let level = body[10];
    let id = &body[12..12 + CLUSTER_ID_LEN_MAX];
    let id = &id[..id.iter().position(|b| *b == 0).unwrap_or(id.len())];
    let Ok(cluster_id) = std::str::from_utf8(id) else { return Err("cluster id is not text".to_owned()) };
    if level > LEVEL_MAX {
        return Err(format!("merge level {level} is unknown"));
    }
    let mut numbers = &body[40..];
    Ok(SegmentHeader {
        cluster_id: cluster_id.to_owned(),
        level,
        writer: WriterId(numbers.get_u64()),
        nonce: numbers.get_u64(),
        seq: Seq(numbers.get_u64()),
        revision_seen: numbers.get_i64(),
    })
}

/// Reads the extent records and gives each its batch records. `body_end` is where the batches end.
fn decode_extents(
    mut extents: &[u8],
    mut batches: &[u8],
    header: &SegmentHeader,
    body_end: u64,
) -> Result<Vec<ExtentEntry>, String> {
    let mut out: Vec<ExtentEntry> = Vec::with_capacity(extents.len() / EXTENT_RECORD_LEN);
    let mut position_min = HEADER_LEN as u64;
    while extents.has_remaining() {
        let mut topic = [0u8; 16];
        extents.copy_to_slice(&mut topic);
        let mut extent = ExtentEntry {
            key: PartitionKey {
                topic: TopicId(uuid::Uuid::from_bytes(topic)),
                partition: PartitionIndex(extents.get_i32()),
            },
            leader_epoch: LeaderEpoch(extents.get_i32()),
            base: Offset(extents.get_i64()),
            next: Offset(extents.get_i64()),
            position: extents.get_u64(),
            len: extents.get_u64(),
            max_timestamp: extents.get_i64(),
            crc32c: extents.get_u32(),
            batches: Vec::new(),
        };
        let batch_count = extents.get_u32() as usize;
        let end = extent.position.checked_add(extent.len).filter(|end| *end <= body_end);
        let inside = extent.position >= position_min && extent.len > 0 && end.is_some();
        let ordered = out.last().is_none_or(|e| e.key < extent.key);
        if !inside || !ordered || extent.base.0 < 0 || extent.next <= extent.base {
            return Err(format!("extent {} of partition {} contradicts the others", out.len(), extent.key));
        }
        let batches_len = batch_count.checked_mul(BATCH_RECORD_LEN).filter(|len| *len <= batches.len());
        let Some(batches_len) = batches_len else {
            return Err(format!("extent of partition {} claims {batch_count} batches, too many", extent.key));
        };
        let (own, others) = batches.split_at(batches_len);
        batches = others;
        extent.batches = decode_batches(own);
        check_batches(&extent, header.level)?;
        position_min = extent.position + extent.len;
        out.push(extent);
    }
    if batches.is_empty() { Ok(out) } else { Err("index has batches that belong to no extent".to_owned()) }
}

fn decode_batches(mut records: &[u8]) -> Vec<BatchEntry> {
    let mut out = Vec::with_capacity(records.len() / BATCH_RECORD_LEN);
    while records.has_remaining() {
        let base = Offset(records.get_i64());
        let position = records.get_u64();
        let max_timestamp = records.get_i64();
        let producer_id = ProducerId(records.get_i64());
        let len = records.get_u32();
        let next = Offset(base.0.saturating_add(i64::from(records.get_u32())));
        let first_sequence = records.get_i32();
        let producer_epoch = ProducerEpoch(records.get_i16());
        records.advance(2);
        out.push(BatchEntry { base, next, position, len, max_timestamp, producer_id, producer_epoch, first_sequence });
    }
    out
}

/// Batches lie inside their extent, in order; at level 0 they fill it without a gap.
fn check_batches(extent: &ExtentEntry, level: u8) -> Result<(), String> {
    let dense = level == 0;
    let (mut position, mut offset) = (extent.position, extent.base);
    for (i, batch) in extent.batches.iter().enumerate() {
        let adjoins = batch.position == position && batch.base == offset;
        let follows = batch.position >= position && batch.base >= offset;
        let fits = if dense || i == 0 { adjoins } else { follows };
        if !fits || batch.next <= batch.base || (batch.len as usize) < batch::HEADER_LEN {
            return Err(format!("batch {i} of partition {} contradicts the one before", extent.key));
        }
        position = batch.position.saturating_add(u64::from(batch.len));
        offset = batch.next;
    }
    let end = extent.position + extent.len; // checked by the caller
    let filled = position == end && offset == extent.next;
    let inside = position <= end && offset <= extent.next && !extent.batches.is_empty();
    if (dense && filled) || (!dense && inside) {
        return Ok(());
    }
    Err(format!("batches of partition {} do not fit their extent", extent.key))
}
