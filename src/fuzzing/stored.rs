//! What is read from the object store: segments, their ends, checkpoints.

use crate::ids::{LeaderEpoch, PartitionIndex, PartitionKey, Seq, TopicId, WriterId};
use crate::protocol::batch::StoredBatch;
use crate::storage::checkpoint::Checkpoint;
use crate::storage::segment::{
    self, Batches, ExtentInput, FOOTER_LEN, HEADER_LEN, RawExtent, SegmentHeader, SegmentIndex, Tail,
};
use crate::storage::{ObjectKey, crc32c};
use bytes::Bytes;

/// First bytes of a segment and of its copy of the header.
const SEGMENT_MAGIC: &[u8] = b"KFSSEGMT\0\x01";
/// Last bytes of a segment.
const FOOTER_MAGIC: &[u8] = b"KFSE";
/// First bytes of a checkpoint.
const CHECKPOINT_MAGICS: [&[u8]; 2] = [b"KFSCKPT1", b"KFSCKPT2"];

fn object() -> ObjectKey {
    ObjectKey::new("fuzz")
}

fn header(level: u8) -> SegmentHeader {
    SegmentHeader {
        cluster_id: "fuzzfuzzfuzzfuzzfuzzfu".into(),
        level,
        writer: WriterId(1),
        nonce: 2,
        seq: Seq(3),
        revision_seen: 4,
    }
}

/// Builds a segment of one batch and reads it back; what is read must be what was written.
pub(super) fn segment_of(batch: StoredBatch, leader_epoch: LeaderEpoch) {
    let key = PartitionKey { topic: TopicId(uuid::Uuid::from_u128(5)), partition: PartitionIndex(6) };
    let extent = ExtentInput { key, leader_epoch, batches: vec![batch] };
    let (payload, index) = segment::build(&header(0), vec![extent]);
    let bytes = Bytes::from(payload.chunks.concat());
    assert_eq!((payload.len, payload.crc32c), (bytes.len() as u64, crc32c(&bytes)), "combined CRC is the real one");
    match segment::parse_tail(&object(), &bytes, payload.len).expect("a segment just built is readable") {
        Tail::Index(read) => assert_eq!(read, index),
        Tail::NeedBytes(more) => panic!("{more} bytes are asked for although all are there"),
    }
    check_extents(&index, &bytes);
}

/// A whole segment object, opened as recovery does: the end first, more of it if asked for.
pub fn segment_object(data: &[u8]) -> bool {
    let accepted = open(&Bytes::copy_from_slice(data));
    open(&resealed_segment(data));
    accepted
}

fn open(bytes: &Bytes) -> bool {
    let header = segment::parse_header(&object(), bytes);
    let mut tail_len = FOOTER_LEN.min(bytes.len());
    let index = loop {
        let tail = bytes.slice(bytes.len() - tail_len..);
        match segment::parse_tail(&object(), &tail, bytes.len() as u64) {
            Ok(Tail::Index(index)) => break index,
            Ok(Tail::NeedBytes(more)) => {
                assert!(more > tail_len as u64 && more <= bytes.len() as u64, "asks for {more} after {tail_len}");
                tail_len = more as usize;
            }
            Err(_) => return false,
        }
    };
    check_index(&index, bytes.len() as u64);
    check_extents(&index, bytes) && header.is_ok_and(|header| header == index.header)
}

/// What every reader of an index relies on.
fn check_index(index: &SegmentIndex, object_len: u64) {
    assert!(index.extents.windows(2).all(|pair| pair[0].key < pair[1].key), "sorted, each partition once");
    let body_end = object_len - FOOTER_LEN as u64;
    for extent in &index.extents {
        assert!(extent.position >= HEADER_LEN as u64 && extent.position + extent.len <= body_end);
        assert!(extent.base.0 >= 0 && extent.base < extent.next && !extent.batches.is_empty());
        assert_eq!((extent.batches[0].base, extent.batches[0].position), (extent.base, extent.position));
        for batch in &extent.batches {
            assert!(batch.base < batch.next && batch.next <= extent.next);
            assert!(batch.position + u64::from(batch.len) <= extent.position + extent.len);
        }
    }
}

/// Reads the extents and merges them into a segment of a higher level; true if all of them are intact.
fn check_extents(index: &SegmentIndex, bytes: &Bytes) -> bool {
    let raw = |extent: &segment::ExtentEntry| {
        let range = extent.position as usize..(extent.position + extent.len) as usize;
        let bytes = bytes.slice(range);
        let intact = crc32c(&bytes) == extent.crc32c;
        (
            RawExtent {
                source: object(),
                key: extent.key,
                leader_epoch: extent.leader_epoch,
                base: extent.base,
                batches: Batches::Read(bytes),
            },
            intact,
        )
    };
    let (raws, intact): (Vec<_>, Vec<_>) = index.extents.iter().map(raw).unzip();
    let Ok((payload, merged)) = segment::build_from_extents(&header(1), raws) else { return false };
    let bytes = Bytes::from(payload.chunks.concat());
    assert_eq!(payload.crc32c, crc32c(&bytes));
    match segment::parse_tail(&object(), &bytes, payload.len).expect("a merged segment is readable") {
        Tail::Index(read) => assert_eq!(read, merged),
        Tail::NeedBytes(more) => panic!("{more} bytes are asked for although all are there"),
    }
    intact.iter().all(|ok| *ok)
}

/// The same bytes with magics, the header's copy, the index's place and all checksums put right.
fn resealed_segment(data: &[u8]) -> Bytes {
    let mut bytes = data.to_vec();
    let Some(footer) = bytes.len().checked_sub(FOOTER_LEN).filter(|at| *at >= 2 * HEADER_LEN) else {
        return bytes.into();
    };
    let claimed = u64::from_be_bytes(bytes[footer..footer + 8].try_into().expect("eight bytes"));
    let index = claimed.clamp(HEADER_LEN as u64, (footer - HEADER_LEN) as u64) as usize;
    bytes[..SEGMENT_MAGIC.len()].copy_from_slice(SEGMENT_MAGIC);
    let crc = crc32c(&bytes[..HEADER_LEN - 4]);
    bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_be_bytes());
    bytes.copy_within(..HEADER_LEN, index);
    bytes[footer..footer + 8].copy_from_slice(&(index as u64).to_be_bytes());
    bytes[footer + 8..footer + 16].copy_from_slice(&((footer - index) as u64).to_be_bytes());
    let index_crc = crc32c(&bytes[index..footer]);
    bytes[footer + 24..footer + 28].copy_from_slice(&index_crc.to_be_bytes());
    seal_footer(&mut bytes[footer..]);
    bytes.into()
}

/// Puts version, checksum and magic of a footer right.
fn seal_footer(footer: &mut [u8]) {
    footer[28..30].copy_from_slice(&[0, 1]);
    let crc = crc32c(&footer[..FOOTER_LEN - 8]);
    footer[FOOTER_LEN - 8..FOOTER_LEN - 4].copy_from_slice(&crc.to_be_bytes());
    footer[FOOTER_LEN - 4..].copy_from_slice(FOOTER_MAGIC);
}

/// The end of an object of any claimed length: `object length u64 | its last bytes`.
pub fn footer(data: &[u8]) -> bool {
    let Some((claimed, tail)) = data.split_at_checked(8) else { return false };
    let object_len = u64::from_be_bytes(claimed.try_into().expect("eight bytes"));
    let accepted = read_tail(&Bytes::copy_from_slice(tail), object_len);
    if let Some(footer) = tail.len().checked_sub(FOOTER_LEN) {
        let mut sealed = tail.to_vec();
        let index_len = u64::from_be_bytes(sealed[footer + 8..footer + 16].try_into().expect("eight bytes"));
        if let Some(index) = usize::try_from(index_len).ok().and_then(|len| footer.checked_sub(len)) {
            let crc = crc32c(&sealed[index..footer]);
            sealed[footer + 24..footer + 28].copy_from_slice(&crc.to_be_bytes());
        }
        seal_footer(&mut sealed[footer..]);
        read_tail(&sealed.into(), object_len);
    }
    accepted
}

fn read_tail(tail: &Bytes, object_len: u64) -> bool {
    match segment::parse_tail(&object(), tail, object_len) {
        Ok(Tail::Index(index)) => check_index(&index, object_len),
        Ok(Tail::NeedBytes(more)) => assert!(more > tail.len() as u64 && more <= object_len),
        Err(_) => return false,
    }
    true
}

/// A checkpoint object, or (second try) the body of one.
pub fn checkpoint(data: &[u8]) -> bool {
    let accepted = read_checkpoint(&Bytes::copy_from_slice(data));
    let body = data.get(16..).unwrap_or(data);
    for magic in CHECKPOINT_MAGICS {
        let mut sealed = magic.to_vec();
        sealed.extend((body.len() as u32).to_be_bytes());
        sealed.extend(crc32c(body).to_be_bytes());
        sealed.extend(body);
        read_checkpoint(&sealed.into());
    }
    accepted
}

fn read_checkpoint(bytes: &Bytes) -> bool {
    let Ok(checkpoint) = Checkpoint::decode(&object(), bytes) else { return false };
    let objects = checkpoint.object_refs();
    for partition in &checkpoint.partitions {
        let mut expected = None;
        for record in &partition.extents {
            let extent = record.extent(&objects);
            assert!(extent.base < extent.next && expected.is_none_or(|next| next == extent.base));
            assert!(extent.position.checked_add(extent.len).is_some_and(|end| end <= extent.object.len));
            expected = Some(extent.next);
        }
        assert!(partition.producers.iter().all(|p| !p.batches.is_empty()));
    }
    let again = Bytes::from(checkpoint.encode().chunks.concat());
    assert_eq!(Checkpoint::decode(&object(), &again).expect("what was read can be written and read"), checkpoint);
    true
}
