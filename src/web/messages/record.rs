//! Records out of what a broker sends: fetched batches taken apart, with the same code that the broker takes them apart with.

use super::decode::{self, Avro, Decoder};
use super::filter::{Filter, Subject, Verdict, memmem::Needle};
use crate::protocol::batch::{BatchHeader, HEADER_LEN};
use crate::protocol::records::{self, Records};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::Instant;

/// Names of codecs by their numbers.
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// What a record takes besides its bytes, about.
const RECORD_BYTES: usize = 200;
/// Headers of a record that are shown.
const HEADERS_MAX: usize = 256;

/// A record with its own bytes, so that the batch it came in can go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Unix milliseconds.
    pub timestamp_ms: i64,
    /// The broker gave it its time.
    pub is_append_time: bool,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// Key, value and headers, bytes.
    pub size_bytes: usize,
    /// How its batch is compressed.
    pub codec: &'static str,
    /// Producer, if it has an id.
    pub producer_id: Option<i64>,
    /// Written in a transaction.
    pub is_transactional: bool,
    /// Says how a transaction ended.
    pub is_control: bool,
}

/// How records are shown.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Decoder of keys.
    pub key: Decoder,
    /// Decoder of values and of headers' values.
    pub value: Decoder,
    /// What keys and values in Avro are read with.
    pub schemas: (Option<Arc<Avro>>, Option<Arc<Avro>>),
    /// Longest text, bytes.
    pub text_bytes_max: usize,
}

impl Record {
    /// As the API has it.
    pub fn item(&self, shown: &Shown) -> Value {
        let decoded = |bytes: &Option<Bytes>, decoder, schema: Option<&Avro>| {
            bytes.as_ref().map(|b| decode::decode(b, decoder, schema, shown.text_bytes_max))
        };
        let header = |(name, value): &(Bytes, Option<Bytes>)| json!({ "key": String::from_utf8_lossy(name), "value": decoded(value, Decoder::Auto, None) });
        let (key_schema, value_schema) = (shown.schemas.0.as_deref(), shown.schemas.1.as_deref());
        json!({
            "partition": self.partition,
            "offset": self.offset.to_string(),
            "timestamp_ms": self.timestamp_ms,
            "timestamp_type": if self.is_append_time { "append" } else { "create" },
            "key": decoded(&self.key, shown.key, key_schema),
            "value": decoded(&self.value, shown.value, value_schema),
            "headers": self.headers.iter().take(HEADERS_MAX).map(header).collect::<Vec<_>>(),
            "size_bytes": self.size_bytes.to_string(),
            "codec": self.codec,
            "producer_id": self.producer_id.map(|id| id.to_string()),
            "transactional": self.is_transactional,
            "control": self.is_control,
        })
    }
}

/// Which records are wanted.
#[derive(Debug, Default)]
pub struct Matcher {
    /// A text that they contain.
    pub needle: Option<Needle>,
    /// An expression that is true for them.
    pub filter: Option<Filter>,
}

impl Matcher {
    /// Everything is wanted.
    pub fn is_everything(&self) -> bool {
        self.needle.is_none() && self.filter.is_none()
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Taken {
    /// Records that are wanted, in order of offsets.
    pub records: Vec<Record>,
    /// Everything before this offset was looked at; `None` if nothing was.
    pub next: Option<i64>,
    /// Records looked at.
    pub scanned_records: u64,
    /// Their bytes, decompressed.
    pub scanned_bytes: u64,
    /// Bytes of the records that are wanted.
    pub found_bytes: usize,
    /// Records for which the expression had no value, and why for the first of them.
    pub failed: (u64, Option<String>),
    /// Why it went no further, if the bytes are not what they should be.
    pub damage: Option<String>,
}

/// The bounds of reading.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// First offset that is wanted.
    pub from: i64,
    /// First offset that is not.
    pub to: i64,
    /// Decompressed bytes, after which no further batch is begun.
    pub bytes_max: u64,
    /// Bytes of records that were found, after which no further record is looked at.
    pub found_bytes_max: usize,
    /// When time is over.
    pub deadline: Instant,
}

/// Takes `bytes`, the batches of a partition, apart. A batch that is cut off at the end is left for the next fetch.
pub fn take(partition: i32, bytes: &Bytes, matcher: &Matcher, bounds: Bounds) -> Taken {
    let mut taken = Taken::default();
    let mut position = 0;
    while let Ok(header) = BatchHeader::parse(&bytes[position.min(bytes.len())..]) {
        let Ok(len) = usize::try_from(header.total_len()) else { break };
        let Some(batch) = position.checked_add(len).and_then(|end| bytes.get(position..end)) else { break };
        if len < HEADER_LEN || header.magic != 2 {
            taken.damage = Some(format!("the batch at offset {} is damaged", header.base_offset.0));
            break;
        }
        position += len;
        let next = header.next_offset().0;
        if next <= bounds.from {
            taken.next = Some(next);
            continue;
        }
        if header.base_offset.0 >= bounds.to {
            taken.next = taken.next.max(Some(bounds.to));
            break;
        }
        if taken.scanned_bytes >= bounds.bytes_max || !read(partition, &header, batch, matcher, bounds, &mut taken) {
            break;
        }
        taken.next = taken.next.max(Some(next));
        if taken.found_bytes >= bounds.found_bytes_max {
            break;
        }
    }
    taken
}

/// Reads a batch; false if time is over, or it cannot be read.
fn read(
    partition: i32,
    header: &BatchHeader,
    batch: &[u8],
    matcher: &Matcher,
    bounds: Bounds,
    taken: &mut Taken,
) -> bool {
    let bytes = match records::records_bytes(header, batch) {
        Ok(bytes) => bytes,
        Err(error) => {
            taken.damage = Some(format!("the batch at offset {}: {error}", header.base_offset.0));
            // It stays unreadable: what follows is looked at.
            return true;
        }
    };
    for record in Records::stored(&bytes, header) {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                taken.damage = Some(format!("the batch at offset {}: {error}", header.base_offset.0));
                return true;
            }
        };
        let offset = header.base_offset.0.saturating_add(i64::from(record.offset_delta));
        if offset < bounds.from || offset >= bounds.to {
            continue;
        }
        if crate::clock::monotonic() >= bounds.deadline || taken.found_bytes >= bounds.found_bytes_max {
            return false;
        }
        taken.scanned_records += 1;
        taken.scanned_bytes += record.span.len() as u64;
        consider(partition, offset, header, &bytes, &record, matcher, bounds.deadline, taken);
        taken.next = Some(offset + 1);
    }
    true
}

#[allow(clippy::too_many_arguments)] // where the record is, and what is asked of it
fn consider(
    partition: i32,
    offset: i64,
    header: &BatchHeader,
    bytes: &[u8],
    record: &records::Record,
    matcher: &Matcher,
    deadline: Instant,
    taken: &mut Taken,
) {
    let timestamp_ms = match header.is_log_append_time() {
        true => header.max_timestamp,
        false => header.base_timestamp.wrapping_add(record.timestamp_delta),
    };
    let headers: Vec<(&[u8], Option<&[u8]>)> = records::headers(bytes, record)
        .into_iter()
        .map(|(name, value)| (&bytes[name], value.map(|value| &bytes[value])))
        .collect();
    let key = record.key.clone().map(|range| &bytes[range]);
    let value = record.value.clone().map(|range| &bytes[range]);
    let of_headers: usize = headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
    let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + of_headers;
    let subject = Subject { partition, offset, timestamp_ms, key, value, headers: &headers, size };
    if matcher.needle.as_ref().is_some_and(|needle| !subject.contains(needle)) {
        return;
    }
    match matcher.filter.as_ref().map(|filter| filter.judge(&subject, deadline)) {
        None | Some(Verdict::Shown) => {}
        Some(Verdict::Hidden) => return,
        Some(Verdict::Failed(why)) => {
            taken.failed.0 += 1;
            taken.failed.1.get_or_insert(why);
            return;
        }
    }
    taken.found_bytes += size + RECORD_BYTES;
    taken.records.push(Record {
        partition,
        offset,
        timestamp_ms,
        is_append_time: header.is_log_append_time(),
        key: key.map(Bytes::copy_from_slice),
        value: value.map(Bytes::copy_from_slice),
        headers: headers
            .iter()
            .map(|(name, value)| (Bytes::copy_from_slice(name), value.map(Bytes::copy_from_slice)))
            .collect(),
        size_bytes: size,
        codec: CODECS.get(usize::from(header.codec())).copied().unwrap_or("unknown"),
        producer_id: header.is_idempotent().then_some(header.producer_id.0),
        is_transactional: header.is_transactional(),
        is_control: header.is_control(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::compression::Codec;
    use crate::protocol::records::BatchBuilder;
    use crate::web::kafka::within;
    use proptest::prelude::*;
    use std::time::Duration;

    fn bounds(from: i64, to: i64) -> Bounds {
        let deadline = within(Duration::from_secs(60));
        Bounds { from, to, bytes_max: 1 << 20, found_bytes_max: usize::MAX, deadline }
    }

    fn batches() -> Bytes {
        let mut bytes = Vec::new();
        for (base, codec) in [(0_i64, Codec::None), (3, Codec::Zstd), (6, Codec::Gzip)] {
            let mut builder = BatchBuilder::new().codec(codec);
            for offset in base..base + 3 {
                builder.push(1_000 + offset, Some(format!("k{offset}").as_bytes()), Some(b"v"));
            }
            let mut batch = builder.build().to_vec();
            batch[0..8].copy_from_slice(&base.to_be_bytes());
            bytes.extend(batch);
        }
        Bytes::from(bytes)
    }

    #[test]
    fn records_come_out_from_where_they_are_wanted() {
        let taken = take(7, &batches(), &Matcher::default(), bounds(2, 7));
        let offsets: Vec<i64> = taken.records.iter().map(|r| r.offset).collect();
        assert_eq!((offsets, taken.next, taken.scanned_records), (vec![2, 3, 4, 5, 6], Some(9), 5));
        let record = &taken.records[1];
        assert_eq!((record.partition, record.timestamp_ms, record.codec), (7, 1_003, "zstd"));
        assert_eq!((record.key.as_deref(), record.size_bytes), (Some(&b"k3"[..]), 3));
        let item = record.item(&Shown { text_bytes_max: 100, ..Shown::default() });
        assert_eq!((&item["offset"], &item["key"]["text"]), (&json!("3"), &json!("k3")));
    }

    #[test]
    fn a_batch_that_is_cut_off_is_left() {
        let bytes = batches();
        let cut = bytes.slice(..bytes.len() - 1);
        let taken = take(0, &cut, &Matcher::default(), bounds(0, 100));
        assert_eq!((taken.records.len(), taken.next), (6, Some(6)));
        let over = Bounds { deadline: crate::clock::monotonic(), ..bounds(0, 100) };
        assert_eq!(take(0, &bytes, &Matcher::default(), over).next, None, "what was not looked at is not behind us");
        let few = Bounds { found_bytes_max: RECORD_BYTES + 10, ..bounds(0, 100) };
        let taken = take(0, &bytes, &Matcher::default(), few);
        assert_eq!((taken.records.len(), taken.next), (2, Some(2)), "enough was found in the middle of a batch");
    }

    #[test]
    fn headers_are_found_behind_whatever_is_null() {
        // length, attributes, timestamp 0, offset 0, key null, value null, 2 headers: "a" = "b", "c" = null
        let record = [11 << 1, 0, 0, 0, 1, 1, 2 << 1, 1 << 1, b'a', 1 << 1, b'b', 1 << 1, b'c', 1];
        let mut record = record.to_vec();
        record[0] = ((record.len() - 1) << 1) as u8;
        let parsed = Records::new(&record, 1).next().unwrap().unwrap();
        let headers = records::headers(&record, &parsed);
        let text: Vec<_> = headers.into_iter().map(|(n, v)| (&record[n], v.map(|v| &record[v]))).collect();
        assert_eq!(text, [(&b"a"[..], Some(&b"b"[..])), (&b"c"[..], None)]);
    }

    proptest! {
        /// Whatever bytes come, reading ends.
        #[test]
        fn hostile_bytes_are_read_to_an_end(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20)) {
            let mut bytes = batches().to_vec();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            take(0, &Bytes::from(bytes), &Matcher::default(), bounds(0, 100));
        }
    }
}
