//! What a produced batch must look like before a partition sees it.
//!
//! The checks need no partition state: exactly one batch, format, size, CRC, counts, timestamps, and what clients may
//! not send. Compressed records are not decompressed, except where the topic's configs make Kafka look at every record
//! (compacted topics, a limit on old timestamps); uncompressed ones are walked, which costs a few nanoseconds each and
//! keeps out batches that no consumer could read. Called by the produce handler for every partition of a request.

use super::batch::{BatchError, BatchHeader, HEADER_LEN};
use super::compression::Codec;
use super::records::{self, RecordError, Records};
use super::topic_config::TopicConfig;
use crate::actors::partition::handle::ValidBatch;
use crate::storage::crc32c;
use bytes::{Bytes, BytesMut};

/// Bytes of a batch before the part that its length field counts.
const LENGTH_PREFIX_LEN: usize = 12;
/// Attribute bit of LogAppendTime.
const LOG_APPEND_TIME: u8 = 0x08;
/// Records that are named in one refusal; more would make the answer larger than the request.
const RECORD_ERRORS_MAX: usize = 1_000;

/// What bounds the batches of one topic in one request.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Largest batch, bytes.
    pub max_message_bytes: i32,
    /// Stamp the broker's time.
    pub log_append_time: bool,
    /// Oldest timestamp, ms before `now_ms`.
    pub timestamp_before_max_ms: i64,
    /// Newest timestamp, ms after `now_ms`.
    pub timestamp_after_max_ms: i64,
    /// Records must have keys.
    pub compacted: bool,
    /// The request's version knows zstd.
    pub zstd: bool,
    /// The broker's time, ms.
    pub now_ms: i64,
}

impl BatchLimits {
    /// The limits of a topic for a Produce request of `version` at `now_ms`.
    pub fn new(config: &TopicConfig, version: i16, now_ms: i64) -> Self {
        Self {
            max_message_bytes: config.max_message_bytes,
            log_append_time: config.log_append_time,
            timestamp_before_max_ms: config.timestamp_before_max_ms,
            timestamp_after_max_ms: config.timestamp_after_max_ms,
            compacted: config.compact,
            zstd: version >= 7,
            now_ms,
        }
    }
}

/// Why a batch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RejectedBatch {
    /// A length field is impossible.
    #[error("record batch claims {0} bytes")]
    Length(i64),
    /// None, more than one, or bytes left over.
    #[error("exactly one record batch is expected per partition: {first} of {available} bytes are the first batch")]
    NotOneBatch {
        /// Bytes that the first batch claims, 0 if there is none.
        first: i64,
        /// Bytes there are.
        available: usize,
    },
    /// Message format other than v2.
    #[error("record batch has magic {0}; only magic 2 is accepted")]
    Magic(i8),
    /// Larger than the topic allows.
    #[error("record batch has {len} bytes, max.message.bytes is {max}")]
    TooLarge {
        /// Its length, bytes.
        len: usize,
        /// The topic's limit, bytes.
        max: i32,
    },
    /// CRC-32C does not match.
    #[error("record batch has CRC {stored:08x}, its bytes have {computed:08x}")]
    Crc {
        /// As sent.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A field that contradicts another, or that clients may not set.
    #[error("record batch is invalid: {0}")]
    Invalid(&'static str),
    /// The records cannot be read.
    #[error("record batch is invalid: {0}")]
    Records(#[from] RecordError),
    /// No such codec.
    #[error("compression codec {0} is not known")]
    Codec(u8),
    /// zstd before Produce version 7.
    #[error("zstd needs Produce version 7 or later")]
    ZstdTooNew,
    /// A transactional batch; no transaction can be open.
    #[error("record batch belongs to a transaction, and none is open")]
    Transactional,
    /// A timestamp outside the topic's limits.
    #[error("timestamp {timestamp_ms} is outside the range {from_ms} to {to_ms} that the topic accepts")]
    Timestamp {
        /// As sent.
        timestamp_ms: i64,
        /// Oldest accepted.
        from_ms: i64,
        /// Newest accepted.
        to_ms: i64,
        /// Position of the record in the batch, if the records were read.
        index: Option<i32>,
    },
    /// The producer claims that the broker stamped the batch.
    #[error("producers may not set timestamp type LogAppendTime")]
    TimestampType,
    /// Records without a key on a compacted topic.
    #[error("compacted topics accept only records with a key")]
    NullKeys {
        /// Positions of (the first thousand of) those records in the batch.
        indexes: Vec<i32>,
    },
}

impl RejectedBatch {
    /// The records to blame: position in the batch and why.
    pub fn record_errors(&self) -> Vec<(i32, String)> {
        match self {
            Self::NullKeys { indexes } => {
                indexes.iter().map(|i| (*i, "record has no key, and the topic is compacted".to_owned())).collect()
            }
            Self::Timestamp { index: Some(index), .. } => vec![(*index, self.to_string())],
            _ => Vec::new(),
        }
    }
}

/// Checks the records of one partition in a Produce request. With `LogAppendTime` the result is a stamped copy; else it
/// shares the request's bytes.
pub fn validate(records: &Bytes, limits: &BatchLimits) -> Result<ValidBatch, RejectedBatch> {
    let header = check_frame(records, limits)?;
    let computed = crc32c(&records[super::batch::CRC_START..]);
    if computed != header.crc {
        return Err(RejectedBatch::Crc { stored: header.crc, computed });
    }
    check_header(&header, limits)?;
    check_records(&header, records, limits)?;
    if limits.log_append_time {
        return Ok(stamp(records, limits.now_ms));
    }
    Ok(ValidBatch { bytes: records.clone(), header, log_append_time_ms: None })
}

/// One batch of format v2, no larger than allowed. What this reads is not covered by the CRC.
fn check_frame(records: &[u8], limits: &BatchLimits) -> Result<BatchHeader, RejectedBatch> {
    let available = records.len();
    // The magic byte is at the same place in every format, so that old formats are told apart from garbage.
    if let Some(magic) = records.get(16).map(|m| *m as i8).filter(|m| (0..2).contains(m)) {
        return Err(RejectedBatch::Magic(magic));
    }
    let header = BatchHeader::parse(records).map_err(|e| match e {
        BatchError::Truncated { .. } => RejectedBatch::NotOneBatch { first: 0, available },
        _ => RejectedBatch::Invalid("unreadable header"),
    })?;
    if header.magic != 2 {
        return Err(RejectedBatch::Magic(header.magic));
    }
    if header.length < (HEADER_LEN - LENGTH_PREFIX_LEN) as i32 {
        return Err(RejectedBatch::Length(header.total_len()));
    }
    if header.total_len() != available as i64 {
        return Err(RejectedBatch::NotOneBatch { first: header.total_len(), available });
    }
    if available as i64 > i64::from(limits.max_message_bytes) {
        return Err(RejectedBatch::TooLarge { len: available, max: limits.max_message_bytes });
    }
    Ok(header)
}

fn check_header(header: &BatchHeader, limits: &BatchLimits) -> Result<(), RejectedBatch> {
    match Codec::from_bits(header.codec()) {
        Err(_) => return Err(RejectedBatch::Codec(header.codec())),
        Ok(Codec::Zstd) if !limits.zstd => return Err(RejectedBatch::ZstdTooNew),
        Ok(_) => {}
    }
    let rules = [
        (header.base_offset.0 != 0, "base offset must be 0"),
        (header.is_control(), "clients may not write control batches"),
        (header.delete_horizon_ms().is_some(), "clients may not set a delete horizon"),
        (header.record_count <= 0, "it has no records"),
        (i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1, "record count and offsets differ"),
        (header.producer_id.0 < -1, "negative producer id"),
        (header.is_idempotent() && header.base_sequence < 0, "negative sequence with a producer id"),
        (header.is_idempotent() && header.producer_epoch.0 < 0, "negative epoch with a producer id"),
    ];
    if let Some((_, message)) = rules.iter().find(|(broken, _)| *broken) {
        return Err(RejectedBatch::Invalid(message));
    }
    if header.is_transactional() {
        return Err(RejectedBatch::Transactional);
    }
    if header.is_log_append_time() {
        return Err(RejectedBatch::TimestampType);
    }
    limits.check_timestamp(header.max_timestamp, None)?;
    limits.check_timestamp(header.base_timestamp, None)
}

impl BatchLimits {
    /// A `CreateTime` timestamp must lie in the topic's range; -1 is "none".
    fn check_timestamp(&self, timestamp_ms: i64, index: Option<i32>) -> Result<(), RejectedBatch> {
        let from_ms = self.now_ms.saturating_sub(self.timestamp_before_max_ms);
        let to_ms = self.now_ms.saturating_add(self.timestamp_after_max_ms);
        if self.log_append_time || timestamp_ms == -1 || (from_ms..=to_ms).contains(&timestamp_ms) {
            return Ok(());
        }
        Err(RejectedBatch::Timestamp { timestamp_ms, from_ms, to_ms, index })
    }
}

fn check_records(header: &BatchHeader, batch: &[u8], limits: &BatchLimits) -> Result<(), RejectedBatch> {
    let old_matters = !limits.log_append_time && limits.timestamp_before_max_ms != i64::MAX;
    if header.codec() != 0 && !limits.compacted && !old_matters {
        return Ok(());
    }
    let bytes = records::records_bytes(header, batch)?;
    let mut null_keys = Vec::new();
    for record in Records::new(&bytes, header.record_count) {
        let record = record?;
        if old_matters {
            let timestamp_ms = header.base_timestamp.wrapping_add(record.timestamp_delta);
            limits.check_timestamp(timestamp_ms, Some(record.offset_delta))?;
        }
        if limits.compacted && record.key.is_none() && null_keys.len() < RECORD_ERRORS_MAX {
            null_keys.push(record.offset_delta);
        }
    }
    if null_keys.is_empty() { Ok(()) } else { Err(RejectedBatch::NullKeys { indexes: null_keys }) }
}

/// A copy whose timestamps are the broker's.
fn stamp(records: &[u8], now_ms: i64) -> ValidBatch {
    let mut bytes = BytesMut::from(records);
    bytes[22] |= LOG_APPEND_TIME;
    bytes[35..43].copy_from_slice(&now_ms.to_be_bytes());
    records::seal(&mut bytes);
    let header = BatchHeader::parse(&bytes).expect("it parsed before it was stamped");
    ValidBatch { bytes: bytes.freeze(), header, log_append_time_ms: Some(now_ms) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::error_code;
    use crate::protocol::records::BatchBuilder;
    use proptest::prelude::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn limits() -> BatchLimits {
        BatchLimits::new(&TopicConfig::default(), 9, NOW_MS)
    }

    fn one() -> BatchBuilder {
        BatchBuilder::new().record(NOW_MS, None, Some(b"value"))
    }

    /// Changes a byte range inside the CRC and seals again.
    fn patched(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
        let mut copy = BytesMut::from(&batch[..]);
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        records::seal(&mut copy);
        copy.freeze()
    }

    fn code(batch: &Bytes, limits: &BatchLimits) -> i16 {
        validate(batch, limits).map_or_else(|e| error_code::of_batch(&e).code(), |_| 0)
    }

    #[test]
    fn table() {
        let good = one().build();
        let flip = |at: usize| {
            let mut copy = BytesMut::from(&good[..]);
            copy[at] ^= 1;
            copy.freeze()
        };
        let two = Bytes::from([&good[..], &good[..]].concat());
        let trailing = Bytes::from([&good[..], &[0][..]].concat());
        let ahead = |ms: i64| BatchBuilder::new().record(NOW_MS + ms, None, None).build();
        let zstd = one().codec(Codec::Zstd).build();
        let table: Vec<(&str, Bytes, BatchLimits, i16)> = vec![
            ("good", good.clone(), limits(), 0),
            ("empty", Bytes::new(), limits(), 87),
            ("cut off", good.slice(..good.len() - 1), limits(), 87),
            ("cut in the header", good.slice(..30), limits(), 87),
            ("two batches", two, limits(), 87),
            ("trailing byte", trailing, limits(), 87),
            ("flipped value byte", flip(good.len() - 2), limits(), 2),
            ("flipped attribute", flip(22), limits(), 2),
            ("flipped crc", flip(18), limits(), 2),
            ("negative length", patched(&good, 8, &(-1i32).to_be_bytes()), limits(), 2),
            ("short length", patched(&good, 8, &48i32.to_be_bytes()), limits(), 2),
            ("magic 1", patched(&good, 16, &[1]), limits(), 87),
            ("magic 3", patched(&good, 16, &[3]), limits(), 87),
            ("control", one().attributes(0x20).build(), limits(), 87),
            ("transactional", one().attributes(0x10).producer(1, 0, 0).build(), limits(), 48),
            ("claims LogAppendTime", one().attributes(0x08).build(), limits(), 32),
            ("delete horizon", one().attributes(0x40).build(), limits(), 87),
            ("codec 5", patched(&good, 21, &5i16.to_be_bytes()), limits(), 76),
            ("zstd in v7", zstd.clone(), limits(), 0),
            ("zstd in v6", zstd, BatchLimits { zstd: false, ..limits() }, 76),
            ("base offset", patched(&good, 0, &1i64.to_be_bytes()), limits(), 87),
            ("no records", BatchBuilder::new().build(), limits(), 87),
            ("count above delta", patched(&good, 57, &2i32.to_be_bytes()), limits(), 87),
            ("delta above count", patched(&good, 23, &1i32.to_be_bytes()), limits(), 87),
            ("count i32::MAX", patched(&good, 57, &i32::MAX.to_be_bytes()), limits(), 87),
            ("sequence", one().producer(7, 0, 0).build(), limits(), 0),
            ("negative sequence", one().producer(7, 0, -1).build(), limits(), 87),
            ("negative epoch", one().producer(7, -1, 0).build(), limits(), 87),
            ("59 min ahead", ahead(59 * 60_000), limits(), 0),
            ("2 h ahead", ahead(2 * 3_600_000), limits(), 32),
            ("2 h ahead, stamped", ahead(2 * 3_600_000), BatchLimits { log_append_time: true, ..limits() }, 0),
            ("too large", good.clone(), BatchLimits { max_message_bytes: good.len() as i32 - 1, ..limits() }, 10),
            ("just fits", good.clone(), BatchLimits { max_message_bytes: good.len() as i32, ..limits() }, 0),
            ("malformed record", patched(&good, HEADER_LEN, &[2]), limits(), 87),
        ];
        for (name, batch, limits, expected) in table {
            assert_eq!(code(&batch, &limits), expected, "{name}");
        }
    }

    #[test]
    fn a_batch_of_both_records_is_counted_once() {
        // Two claimed, two there; then the second is hidden from the count.
        let batch = one().record(NOW_MS, None, None).build();
        assert_eq!(code(&batch, &limits()), 0);
        let lie = patched(&patched(&batch, 57, &1i32.to_be_bytes()), 23, &0i32.to_be_bytes());
        assert!(matches!(validate(&lie, &limits()), Err(RejectedBatch::Records(RecordError::Trailing(_)))));
    }

    #[test]
    fn compacted_topics_want_keys_whatever_the_codec() {
        let compacted = BatchLimits { compacted: true, ..limits() };
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut builder = BatchBuilder::new().codec(codec);
            for i in 0..20 {
                let key: Option<&[u8]> = if i % 2 == 0 { Some(b"k") } else { None };
                builder.push(NOW_MS, key, Some(b"v"));
            }
            let error = validate(&builder.build(), &compacted).unwrap_err();
            assert_eq!(error_code::of_batch(&error).code(), 87);
            let blamed: Vec<_> = error.record_errors().into_iter().map(|(i, _)| i).collect();
            assert_eq!(blamed, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19], "{codec:?}");
            assert_eq!(code(&builder.build(), &limits()), 0);
        }
    }

    #[test]
    fn old_timestamps_are_found_inside_the_batch() {
        let limited = BatchLimits { timestamp_before_max_ms: 1_000, ..limits() };
        let batch = BatchBuilder::new()
            .codec(Codec::Lz4)
            .record(NOW_MS, None, None)
            .record(NOW_MS - 1_001, None, None)
            .record(NOW_MS, None, None)
            .build();
        let error = validate(&batch, &limited).unwrap_err();
        assert!(matches!(error, RejectedBatch::Timestamp { index: Some(1), .. }), "{error:?}");
        assert_eq!(code(&batch, &limits()), 0);
    }

    #[test]
    fn log_append_time_is_stamped() {
        let batch = one().producer(5, 1, 9).build();
        let valid = validate(&batch, &BatchLimits { log_append_time: true, ..limits() }).unwrap();
        assert_eq!(valid.log_append_time_ms, Some(NOW_MS));
        assert_eq!(BatchHeader::parse(&valid.bytes).unwrap(), valid.header);
        assert!(valid.header.is_log_append_time());
        assert_eq!(valid.header.max_timestamp, NOW_MS);
        assert_eq!(valid.header.crc, crc32c(&valid.bytes[21..]));
        assert_eq!(valid.bytes[43..], batch[43..], "nothing else changed");
    }

    #[test]
    fn nothing_is_copied_without_stamping() {
        let batch = one().build();
        let valid = validate(&batch, &limits()).unwrap();
        assert_eq!(valid.bytes.as_ptr(), batch.as_ptr());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), compacted in any::<bool>()) {
            let limits = BatchLimits { compacted, ..limits() };
            let _ = validate(&Bytes::from(bytes.clone()), &limits);
            // The same behind a header that passes, so that the records are reached.
            let mut batch = BytesMut::from(&one().build()[..HEADER_LEN]);
            batch.extend_from_slice(&bytes);
            let len = (batch.len() - LENGTH_PREFIX_LEN) as i32;
            batch[8..12].copy_from_slice(&len.to_be_bytes());
            records::seal(&mut batch);
            let _ = validate(&batch.freeze(), &limits);
        }

        #[test]
        fn any_flipped_bit_is_noticed(at in 8usize..70, bit in 0u8..8) {
            let good = one().build();
            let at = at.min(good.len() - 1);
            if !(12..16).contains(&at) { // the leader epoch is the broker's to set
                let mut copy = BytesMut::from(&good[..]);
                copy[at] ^= 1 << bit;
                prop_assert!(validate(&copy.freeze(), &limits()).is_err());
            }
        }
    }
}
