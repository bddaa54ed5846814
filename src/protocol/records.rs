//! The records inside a batch, read in place and bounded by the bytes there are.
//!
//! Every length is checked against the record it is in before it is used, and nothing is allocated, so a batch that
//! lies about counts or lengths costs no more than its own bytes. [`BatchBuilder`] makes batches for tools and tests.
//! Layout: <https://kafka.apache.org/documentation/#record>.

use super::batch::{BatchHeader, HEADER_LEN};
use super::compression::{self, Codec, CompressionError};
use crate::storage::crc32c;
use bytes::{BufMut, Bytes, BytesMut};
use std::borrow::Cow;
use std::ops::Range;

/// Why the records of a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Decompression failed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A length points outside its record, or a number has too many bytes.
    #[error("record {index} of the batch is malformed")]
    Malformed {
        /// Position in the batch, from 0.
        index: i32,
    },
    /// Offset deltas must count up from 0; where records were removed they only have to rise.
    #[error("record {index} of the batch has offset delta {delta}")]
    OffsetDelta {
        /// Position in the batch, from 0.
        index: i32,
        /// As sent.
        delta: i64,
    },
    /// Bytes after the last record that the header announced.
    #[error("{0} bytes follow the last record of the batch")]
    Trailing(usize),
}

/// One record; ranges are positions in the decompressed records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset minus the batch's base offset.
    pub offset_delta: i32,
    /// Its timestamp minus the batch's base timestamp, ms.
    pub timestamp_delta: i64,
    /// The key; `None` is null.
    pub key: Option<Range<usize>>,
    /// The value; `None` is null.
    pub value: Option<Range<usize>>,
    /// Number of headers.
    pub header_count: i32,
    /// All of it, the length before it included.
    pub span: Range<usize>,
    /// Where its attributes are; the timestamp delta follows.
    pub attributes_at: usize,
    /// Where its offset delta is; what follows does not depend on where and when.
    pub offset_at: usize,
}

/// Decompresses the records of a whole batch (whose header is `header`), if they are compressed.
pub fn records_bytes<'a>(header: &BatchHeader, batch: &'a [u8]) -> Result<Cow<'a, [u8]>, RecordError> {
    let codec = Codec::from_bits(header.codec())?;
    Ok(compression::decompress(codec, batch.get(HEADER_LEN..).unwrap_or_default())?)
}

/// Iterates over `count` records in decompressed bytes; ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    bytes: &'a [u8],
    position: usize,
    index: i32,
    count: i32,
    /// The offset delta that the next record has at least, and the greatest it may have.
    delta_min: i64,
    delta_max: Option<i32>,
}

impl<'a> Records<'a> {
    /// The records in `bytes`, of which the header says there are `count`, as a producer sends them: none is missing.
    pub fn new(bytes: &'a [u8], count: i32) -> Self {
        Self { bytes, position: 0, index: 0, count, delta_min: 0, delta_max: None }
    }

    /// The records of a stored batch, of which compaction may have removed some.
    pub fn stored(bytes: &'a [u8], header: &BatchHeader) -> Self {
        Self { delta_max: Some(header.last_offset_delta), ..Self::new(bytes, header.record_count) }
    }

    fn read(&mut self) -> Result<Record, RecordError> {
        let malformed = RecordError::Malformed { index: self.index };
        let mut cursor = Cursor { bytes: self.bytes, position: self.position };
        let len = cursor.length().ok_or(malformed.clone())?;
        let attributes_at = cursor.position;
        let end = attributes_at.checked_add(len).filter(|end| *end <= self.bytes.len()).ok_or(malformed.clone())?;
        cursor.bytes = &self.bytes[..end];
        let (record, delta) = cursor.record().filter(|_| cursor.position == end).ok_or(malformed)?;
        let fits = match self.delta_max {
            None => delta == i64::from(self.index),
            Some(max) => (self.delta_min..=i64::from(max)).contains(&delta),
        };
        if !fits {
            return Err(RecordError::OffsetDelta { index: self.index, delta });
        }
        let span = self.position..end;
        self.position = end;
        self.index += 1;
        self.delta_min = delta + 1;
        Ok(Record { offset_delta: delta as i32, span, attributes_at, ..record })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.count {
            let trailing = self.bytes.len() - self.position;
            if trailing > 0 {
                self.position = self.bytes.len();
                return Some(Err(RecordError::Trailing(trailing)));
            }
            return None;
        }
        let result = self.read();
        if result.is_err() {
            self.index = self.count;
            self.position = self.bytes.len();
        }
        Some(result)
    }
}

/// Names and values of the headers of `record`, as ranges of the decompressed `bytes` that it was read from.
pub fn headers(bytes: &[u8], record: &Record) -> Vec<(Range<usize>, Option<Range<usize>>)> {
    let mut cursor = Cursor { bytes: bytes.get(..record.span.end).unwrap_or(bytes), position: record.offset_at };
    let mut read = || {
        cursor.varlong()?;
        cursor.nullable()?;
        cursor.nullable()?;
        let count = cursor.length()?;
        // Each takes two bytes at least, so that they are no more than the record is long.
        let mut headers = Vec::with_capacity(count.min(record.span.len()));
        for _ in 0..count {
            headers.push((cursor.nullable()??, cursor.nullable()?));
        }
        Some(headers)
    };
    // The record was read before: what is not there now was not there then.
    read().unwrap_or_default()
}

struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.position)?;
        self.position += 1;
        Some(byte)
    }

    /// A zigzag varint of up to 10 bytes.
    fn varlong(&mut self) -> Option<i64> {
        let first = self.byte()?;
        let mut raw = u64::from(first & 0x7f);
        let mut last = first;
        let mut shift = 7;
        while last & 0x80 != 0 {
            if shift > 63 {
                return None;
            }
            last = self.byte()?;
            raw |= u64::from(last & 0x7f) << shift;
            shift += 7;
        }
        Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varlong()?).ok().filter(|len| *len <= i32::MAX as usize)
    }

    /// A length-prefixed run of bytes; `Some(None)` is null (length -1).
    fn nullable(&mut self) -> Option<Option<Range<usize>>> {
        let len = self.varlong()?;
        if len == -1 {
            return Some(None);
        }
        let start = self.position;
        let end = start.checked_add(usize::try_from(len).ok()?).filter(|end| *end <= self.bytes.len())?;
        self.position = end;
        Some(Some(start..end))
    }

    /// Everything after the length; the offset delta is returned beside the record, unjudged.
    fn record(&mut self) -> Option<(Record, i64)> {
        let _attributes = self.byte()?;
        let timestamp_delta = self.varlong()?;
        let offset_at = self.position;
        let delta = self.varlong()?;
        let key = self.nullable()?;
        let value = self.nullable()?;
        let header_count = i32::try_from(self.length()?).ok()?;
        for _ in 0..header_count {
            self.nullable()??; // a header's key is never null
            self.nullable()?;
        }
        let (span, attributes_at) = (0..0, 0); // the caller's
        let record =
            Record { offset_delta: 0, timestamp_delta, key, value, header_count, span, attributes_at, offset_at };
        Some((record, delta))
    }
}

/// Builds record batches, for tools and tests.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    codec: Codec,
    attributes: i16,
    producer: (i64, i16, i32),
    base_timestamp_ms: Option<i64>,
    max_timestamp_ms: i64,
    count: i32,
    records: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch without compression and producer id.
    pub fn new() -> Self {
        Self {
            codec: Codec::None,
            attributes: 0,
            producer: (-1, -1, -1),
            base_timestamp_ms: None,
            max_timestamp_ms: -1,
            count: 0,
            records: Vec::new(),
        }
    }

    /// Compresses the records.
    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets producer id, epoch and first sequence.
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }

    /// Sets further attribute bits (timestamp type, transactional, control).
    #[must_use]
    pub fn attributes(mut self, bits: i16) -> Self {
        self.attributes |= bits;
        self
    }

    /// Adds a record.
    #[must_use]
    pub fn record(mut self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        self.push(timestamp_ms, key, value);
        self
    }

    /// Adds a record.
    pub fn push(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.push_with_headers(timestamp_ms, key, value, &[]);
    }

    /// Adds a record with headers: names and values.
    pub fn push_with_headers(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        let base = *self.base_timestamp_ms.get_or_insert(timestamp_ms);
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        let mut record = vec![0u8];
        put_varlong(&mut record, timestamp_ms.wrapping_sub(base));
        put_varlong(&mut record, i64::from(self.count));
        put_field(&mut record, key);
        put_field(&mut record, value);
        put_varlong(&mut record, headers.len() as i64);
        for (name, value) in headers {
            put_field(&mut record, Some(name));
            put_field(&mut record, *value);
        }
        put_varlong(&mut self.records, record.len() as i64);
        self.records.extend(record);
        self.count += 1;
    }

    /// The batch, with base offset 0 and a valid CRC.
    pub fn build(&self) -> Bytes {
        let packed = compression::compress(self.codec, &self.records).expect("writing to memory cannot fail");
        let mut batch = BytesMut::with_capacity(HEADER_LEN + packed.len());
        batch.put_i64(0);
        batch.put_i32((HEADER_LEN - 12 + packed.len()) as i32);
        batch.put_i32(-1);
        batch.put_i8(2);
        batch.put_u32(0);
        batch.put_i16(self.attributes | self.codec as i16);
        batch.put_i32(self.count - 1);
        batch.put_i64(self.base_timestamp_ms.unwrap_or(-1));
        batch.put_i64(self.max_timestamp_ms);
        batch.put_i64(self.producer.0);
        batch.put_i16(self.producer.1);
        batch.put_i32(self.producer.2);
        batch.put_i32(self.count);
        batch.put_slice(&packed);
        seal(&mut batch);
        batch.freeze()
    }
}

/// Writes the CRC of a batch into its header.
pub fn seal(batch: &mut [u8]) {
    let crc = crc32c(&batch[super::batch::CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.extend(bytes);
        }
        None => put_varlong(out, -1),
    }
}

pub(super) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

pub(super) fn varlong_len(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (raw | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn built_records_read_back() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let batch = BatchBuilder::new()
                .codec(codec)
                .record(100, Some(b"k"), Some(b"value"))
                .record(90, None, Some(b""))
                .record(300, Some(b""), None)
                .build();
            let header = BatchHeader::parse(&batch).unwrap();
            assert_eq!((header.base_timestamp, header.max_timestamp, header.record_count), (100, 300, 3));
            let bytes = records_bytes(&header, &batch).unwrap();
            let records: Vec<_> = Records::new(&bytes, header.record_count).map(Result::unwrap).collect();
            let deltas: Vec<_> = records.iter().map(|r| (r.offset_delta, r.timestamp_delta)).collect();
            assert_eq!(deltas, [(0, 0), (1, -10), (2, 200)]);
            let text = |r: &Option<Range<usize>>| r.clone().map(|r| bytes[r].to_vec());
            assert_eq!(text(&records[0].key).unwrap(), b"k");
            assert_eq!(text(&records[0].value).unwrap(), b"value");
            assert_eq!((text(&records[1].key), text(&records[1].value)), (None, Some(vec![])));
            assert_eq!((text(&records[2].key), text(&records[2].value)), (Some(vec![]), None));
        }
    }

    #[test]
    fn lies_are_errors_and_end_the_iteration() {
        let lie = |bytes: &[u8], count: i32| Records::new(bytes, count).collect::<Vec<_>>();
        let good = {
            let mut b = BatchBuilder::new();
            b.push(0, None, Some(b"v"));
            b.records
        };
        assert_eq!(lie(&good, 1).len(), 1);
        assert!(lie(&good, 1)[0].is_ok());
        assert_eq!(lie(&good, 0), [Err(RecordError::Trailing(good.len()))]);
        assert_eq!(lie(&good, i32::MAX).len(), 2, "one record, one error");
        assert_eq!(lie(&[], 1), [Err(RecordError::Malformed { index: 0 })]);
        // Length of 2^31, then nothing.
        assert!(lie(&[0xff, 0xff, 0xff, 0xff, 0x1f], 1)[0].is_err());
        // A varint that never ends.
        assert!(lie(&[0xff; 32], 1)[0].is_err());
        // i32::MAX headers in a record of seven bytes.
        let headers = [24, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0];
        assert_eq!(lie(&headers, 1), [Err(RecordError::Malformed { index: 0 })]);
        // Second record repeats delta 0.
        let twice = [good.clone(), good].concat();
        assert_eq!(lie(&twice, 2)[1], Err(RecordError::OffsetDelta { index: 1, delta: 0 }));
    }

    #[test]
    fn stored_records_may_be_missing_but_not_out_of_order() {
        let batch = (0..4u8).fold(BatchBuilder::new(), |b, i| b.record(0, Some(&[i]), None)).build();
        let whole = BatchHeader::parse(&batch).unwrap();
        let spans: Vec<_> = Records::new(&batch[HEADER_LEN..], 4).map(|r| r.unwrap().span).collect();
        let some = |picked: &[usize], last_offset_delta: i32| {
            let bytes: Vec<u8> = picked.iter().flat_map(|i| &batch[HEADER_LEN..][spans[*i].clone()]).copied().collect();
            let header = BatchHeader { record_count: picked.len() as i32, last_offset_delta, ..whole };
            Records::stored(&bytes, &header).map(|r| r.map(|r| r.offset_delta)).collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(some(&[1, 3], 3), Ok(vec![1, 3]));
        assert_eq!(some(&[], 3), Ok(vec![]));
        assert_eq!(some(&[3, 1], 3), Err(RecordError::OffsetDelta { index: 1, delta: 1 }));
        assert_eq!(some(&[1, 1], 3), Err(RecordError::OffsetDelta { index: 1, delta: 1 }));
        assert_eq!(some(&[1, 3], 2), Err(RecordError::OffsetDelta { index: 1, delta: 3 }));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), count in any::<i32>()) {
            let read = Records::new(&bytes, count).take(1_000).filter(Result::is_ok).count();
            prop_assert!(read <= bytes.len());
        }

        #[test]
        fn varlongs(value in any::<i64>()) {
            let mut out = Vec::new();
            put_varlong(&mut out, value);
            prop_assert_eq!(out.len(), varlong_len(value));
            prop_assert_eq!(Cursor { bytes: &out, position: 0 }.varlong(), Some(value));
        }
    }
}
