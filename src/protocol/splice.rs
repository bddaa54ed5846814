//! Responses as lists of chunks: record bytes are spliced in, not copied.
//!
//! The codec writes into a [`BufMut`] and knows record bytes only as a slice. A handler registers the chunks of a record
//! set with a [`Splicer`] and puts the placeholder it gets into the response. The placeholder has the right length, so
//! that the codec writes the right length fields, but it points into a region that nobody reads. When the codec
//! writes it, the buffer recognises the address and takes the registered chunks instead.
//!
//! Invariant: slice `REGION[i..i + len]` stands for record set `i` of the splicer that made it. A placeholder is
//! worthless outside the response that its own splicer encodes.

// The only unsafe code delegates `BufMut`'s contract to `BytesMut`; the trait is unsafe to implement, and implementing it
// is the only way to see which slice the codec writes.
#![allow(unsafe_code)]

use bytes::buf::UninitSlice;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Encodable;
use kafka_protocol::protocol::buf::ByteBufMut;
use std::ops::Range;
use std::sync::LazyLock;

/// Chunks up to this length are copied together: an entry in a vectored write costs more than copying them.
pub const COPY_LEN_MAX: usize = 4 * 1024;
/// Longest record set that can be spliced, and how many sets there can be; beyond either they are copied.
const REGION_LEN: usize = 256 << 20;
/// Address space that is never touched, so it takes no memory. (A constant would be in the program's file, zeros and all.)
static REGION: LazyLock<&'static [u8]> = LazyLock::new(|| vec![0; REGION_LEN].leak());

/// A response that the codec refuses.
#[derive(Debug, thiserror::Error)]
#[error("response cannot be encoded in version {version}: {reason}; this is a bug in the handler")]
pub struct EncodeError {
    /// Version asked for.
    pub version: i16,
    /// What the codec said.
    pub reason: String,
}

/// Encodes a response without splicing.
pub fn encode_body<M: Encodable>(response: &M, version: i16) -> Result<Vec<Bytes>, EncodeError> {
    Splicer::new().encode(response, version)
}

/// Collects the record sets of one response; see the module's documentation.
#[derive(Debug, Default)]
pub struct Splicer {
    sets: Vec<RecordSet>,
}

#[derive(Debug)]
struct RecordSet {
    chunks: Vec<Bytes>,
    len: usize,
}

impl Splicer {
    /// A splicer for one response.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what stands for `chunks`, concatenated, in the response.
    pub fn register(&mut self, chunks: Vec<Bytes>) -> Bytes {
        let len = chunks.iter().map(Bytes::len).sum();
        let index = self.sets.len();
        if len == 0 {
            return Bytes::new();
        }
        let Some(placeholder) = REGION.get(index..index + len) else {
            return chunks.concat().into();
        };
        self.sets.push(RecordSet { chunks, len });
        Bytes::from_static(placeholder)
    }

    /// Encodes `response`; the concatenation of the chunks is byte for byte what the plain codec gives.
    pub fn encode<M: Encodable>(self, response: &M, version: i16) -> Result<Vec<Bytes>, EncodeError> {
        let mut buffer = SpliceBuf { sets: self.sets, done: Vec::new(), open: BytesMut::with_capacity(256) };
        let encoded = response.encode(&mut buffer, version);
        encoded.map_err(|e| EncodeError { version, reason: e.to_string() })?;
        Ok(buffer.finish())
    }
}

/// Where the codec writes: closed chunks, then one open buffer.
struct SpliceBuf {
    sets: Vec<RecordSet>,
    done: Vec<Bytes>,
    open: BytesMut,
}

impl SpliceBuf {
    /// The record set that `slice` stands for.
    fn registered(&self, slice: &[u8]) -> Option<usize> {
        let index = (slice.as_ptr() as usize).checked_sub(REGION.as_ptr() as usize)?;
        self.sets.get(index).filter(|set| set.len == slice.len())?;
        Some(index)
    }

    fn splice(&mut self, index: usize) {
        for chunk in std::mem::take(&mut self.sets[index].chunks) {
            if chunk.len() <= COPY_LEN_MAX {
                self.open.put_slice(&chunk);
                continue;
            }
            self.close();
            self.done.push(chunk);
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(self.open.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.done
    }
}

// SAFETY: the three required methods are `BytesMut`'s, on a field that nothing else changes between `chunk_mut` and
// `advance_mut`.
unsafe impl BufMut for SpliceBuf {
    fn remaining_mut(&self) -> usize {
        self.open.remaining_mut()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller promises that `count` bytes of `chunk_mut`, which is `open`'s, are initialised.
        unsafe { self.open.advance_mut(count) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.open.chunk_mut()
    }

    fn put_slice(&mut self, slice: &[u8]) {
        match self.registered(slice) {
            Some(index) => self.splice(index),
            None => self.open.put_slice(slice),
        }
    }
}

/// The codec uses gaps only for record batches, which it does not encode here.
impl ByteBufMut for SpliceBuf {
    fn offset(&self) -> usize {
        self.open.len()
    }

    fn seek(&mut self, offset: usize) {
        self.open.resize(offset, 0);
    }

    fn range(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.open[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use kafka_protocol::messages::{FetchResponse, TopicName};
    use kafka_protocol::protocol::StrBytes;

    /// A response over `records`, one partition each, in a shape that `version` can express.
    fn response(version: i16, records: Vec<Option<Bytes>>) -> FetchResponse {
        let partition = |(index, records)| {
            let base = PartitionData::default().with_partition_index(index as i32).with_high_watermark(77);
            base.with_records(records)
        };
        let mut topic = FetchableTopicResponse::default();
        topic = match version {
            13.. => topic.with_topic_id(uuid::Uuid::from_u128(7)),
            _ => topic.with_topic(TopicName(StrBytes::from_static_str("orders"))),
        };
        topic = topic.with_partitions(records.into_iter().enumerate().map(partition).collect());
        FetchResponse::default().with_throttle_time_ms(1).with_responses(vec![topic])
    }

    fn chunk(seed: u8, len: usize) -> Bytes {
        (0..len).map(|i| seed.wrapping_add(i as u8)).collect::<Vec<u8>>().into()
    }

    #[test]
    fn spliced_fetch_responses_equal_plain_ones() {
        let sets: Vec<Vec<Bytes>> = vec![
            vec![],
            vec![chunk(1, 10)],
            vec![chunk(2, 200_000), chunk(3, 16), chunk(4, 100_000)],
            vec![chunk(5, COPY_LEN_MAX), chunk(6, COPY_LEN_MAX + 1)],
            vec![chunk(2, 200_000)],
            vec![chunk(9, 200_000)],
        ];
        for version in 4..=18 {
            let plain = sets.iter().map(|s| Some(Bytes::from(s.concat()))).chain([None]).collect();
            let mut expected = BytesMut::new();
            response(version, plain).encode(&mut expected, version).unwrap();

            let mut splicer = Splicer::new();
            let spliced = sets.iter().map(|s| Some(splicer.register(s.clone()))).chain([None]).collect();
            let chunks = splicer.encode(&response(version, spliced), version).unwrap();
            assert_eq!(chunks.concat(), expected, "version {version}");
            for large in sets.iter().flatten().filter(|c| c.len() > COPY_LEN_MAX) {
                assert!(chunks.iter().any(|c| c.as_ptr() == large.as_ptr()), "a large chunk was copied");
            }
            assert!(chunks.len() <= 12, "small chunks are coalesced: {}", chunks.len());
        }
    }

    #[test]
    fn a_set_too_long_for_the_region_is_copied() {
        let chunk = Bytes::from(vec![3u8; 64 << 20]);
        let mut splicer = Splicer::new();
        let records = splicer.register(vec![chunk; 5]);
        assert_eq!(records.len(), 5 * (64 << 20));
        assert!(splicer.sets.is_empty() && records[0] == 3);
    }

    #[test]
    fn a_version_that_cannot_be_encoded_is_an_error() {
        let error = encode_body(&FetchResponse::default(), 99).unwrap_err();
        assert_eq!(error.version, 99);
    }
}
