//! Batches that compaction takes records from.
//!
//! Offsets do not change: base offset and last offset delta stay whatever is removed, so that batches of a partition adjoin
//! each other as before. Nothing of what is kept changes either, but for a batch that gets a delete horizon (KIP-534): the
//! horizon takes the place of the base timestamp, and the records' timestamps then count from there.

use super::batch::{BatchHeader, DELETE_HORIZON, HEADER_LEN};
use super::compression::{self, Codec};
use super::records::{self, Record, RecordError, Records, put_varlong, varlong_len};
use crate::ids::{LeaderEpoch, Offset};
use bytes::{BufMut, Bytes, BytesMut};

/// The part of the attributes that names the codec.
const CODEC_BITS: i16 = 0x07;

/// The batch `batch` with those of its records that `keep` names, compressed as before. `plain` are its records, which have
/// been read once without an error. With `horizon_ms` the batch gets that delete horizon.
///
/// # Errors
/// If the records cannot be read.
pub fn retain(
    header: &BatchHeader,
    batch: &[u8],
    plain: &[u8],
    horizon_ms: Option<i64>,
    mut keep: impl FnMut(&Record) -> bool,
) -> Result<Bytes, RecordError> {
    let mut kept = Vec::with_capacity(plain.len());
    let (mut count, mut max_timestamp) = (0i32, i64::MIN);
    for record in Records::stored(plain, header) {
        let record = record?;
        if !keep(&record) {
            continue;
        }
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        match horizon_ms {
            Some(horizon) => put_from(&mut kept, plain, &record, timestamp.wrapping_sub(horizon)),
            None => kept.extend_from_slice(&plain[record.span]),
        }
        max_timestamp = max_timestamp.max(timestamp);
        count += 1;
    }
    let codec = Codec::from_bits(header.codec())?;
    let fits = |packed: &Vec<u8>| kept.len() <= compression::output_max(packed.len());
    // What shrinks so much that nobody would decompress it again is better stored as it is.
    let packed = compression::compress(codec, &kept).ok().filter(fits);
    let (attributes, packed) = match packed {
        Some(packed) => (header.attributes, packed),
        None => (header.attributes & !CODEC_BITS, kept),
    };
    let attributes = if horizon_ms.is_some() { attributes | DELETE_HORIZON } else { attributes };
    let mut out = BytesMut::with_capacity(HEADER_LEN + packed.len());
    out.put_slice(&batch[..HEADER_LEN]);
    out.put_slice(&packed);
    out[8..12].copy_from_slice(&((HEADER_LEN - 12 + packed.len()) as i32).to_be_bytes());
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    if let Some(horizon) = horizon_ms {
        out[27..35].copy_from_slice(&horizon.to_be_bytes());
    }
    if !header.is_log_append_time() {
        out[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    }
    out[57..61].copy_from_slice(&count.to_be_bytes());
    records::seal(&mut out);
    Ok(out.freeze())
}

/// A record with another timestamp delta.
fn put_from(out: &mut Vec<u8>, plain: &[u8], record: &Record, timestamp_delta: i64) {
    let rest = &plain[record.offset_at..record.span.end];
    put_varlong(out, (1 + varlong_len(timestamp_delta) + rest.len()) as i64);
    out.push(plain[record.attributes_at]);
    put_varlong(out, timestamp_delta);
    out.extend_from_slice(rest);
}

/// A batch without records, which says that nothing is left of the offsets `base..next`. At most 2^31 offsets fit.
pub fn hole(base: Offset, next: Offset, leader_epoch: LeaderEpoch) -> Bytes {
    let delta = next.0 - base.0 - 1;
    assert!((0..=i64::from(i32::MAX)).contains(&delta), "a hole from {base} to {next} is no batch");
    let mut out = BytesMut::with_capacity(HEADER_LEN);
    out.put_i64(base.0);
    out.put_i32((HEADER_LEN - 12) as i32);
    out.put_i32(leader_epoch.0);
    out.put_i8(2);
    out.put_u32(0);
    out.put_i16(0);
    out.put_i32(delta as i32);
    out.put_i64(-1); // no timestamps
    out.put_i64(-1);
    out.put_i64(-1); // no producer
    out.put_i16(-1);
    out.put_i32(-1);
    out.put_i32(0);
    records::seal(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::records::{BatchBuilder, records_bytes};
    use crate::storage::segment::check_batch;

    const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// Offset, timestamp, key and value of each record.
    type Read = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn read(batch: &[u8]) -> Vec<Read> {
        let header = check_batch(batch).unwrap();
        let plain = records_bytes(&header, batch).unwrap();
        let records = Records::stored(&plain, &header).map(|r| {
            let r = r.unwrap();
            let text = |range: Option<std::ops::Range<usize>>| range.map(|r| plain[r].to_vec());
            let (offset, at) = (header.base_offset.0 + i64::from(r.offset_delta), header.base_timestamp);
            (offset, at + r.timestamp_delta, text(r.key), text(r.value))
        });
        records.collect()
    }

    #[test]
    fn what_is_kept_does_not_change() {
        for codec in ALL {
            let mut builder = BatchBuilder::new().codec(codec).producer(7, 1, 40);
            for i in 0..20u8 {
                builder.push(1_000 + i64::from(i) * 100, Some(&[i]), (i % 3 > 0).then_some(&[i; 50][..]));
            }
            let batch = builder.build();
            let header = BatchHeader::parse(&batch).unwrap();
            let plain = records_bytes(&header, &batch).unwrap();
            let all = read(&batch);
            for horizon in [None, Some(500_000), Some(0)] {
                let out = retain(&header, &batch, &plain, horizon, |r| r.offset_delta % 2 == 1).unwrap();
                let odd: Vec<_> = all.iter().filter(|r| r.0 % 2 == 1).cloned().collect();
                assert_eq!(read(&out), odd, "{codec:?} {horizon:?}");
                let now = BatchHeader::parse(&out).unwrap();
                assert_eq!((now.record_count, now.last_offset_delta, now.max_timestamp), (10, 19, 2_900));
                assert_eq!((now.codec(), now.delete_horizon_ms()), (header.codec(), horizon));
                let producer = (now.producer_id, now.producer_epoch, now.base_sequence);
                assert_eq!(producer, (header.producer_id, header.producer_epoch, header.base_sequence));
                // A horizon stays when more records go.
                let plain = records_bytes(&now, &out).unwrap();
                let less = retain(&now, &out, &plain, None, |r| r.offset_delta < 4).unwrap();
                assert_eq!(read(&less), odd[..2]);
                assert_eq!(BatchHeader::parse(&less).unwrap().delete_horizon_ms(), horizon);
            }
        }
    }

    #[test]
    fn what_would_shrink_too_much_to_be_read_again_is_not_compressed() {
        // Random bytes keep the ratio of the whole batch within the limits; they go, and zeros stay.
        let mut seed = 1u64;
        let random = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        });
        let random: Vec<u8> = random.take(40_000).collect();
        let zeros = vec![0; 17 << 20];
        let batch = BatchBuilder::new().codec(Codec::Zstd).record(0, Some(b"r"), Some(&random));
        let batch = batch.record(0, Some(b"z"), Some(&zeros)).build();
        let header = BatchHeader::parse(&batch).unwrap();
        let plain = records_bytes(&header, &batch).unwrap();
        let out = retain(&header, &batch, &plain, None, |r| r.offset_delta == 1).unwrap();
        assert_eq!(BatchHeader::parse(&out).unwrap().codec(), 0);
        assert_eq!(read(&out), read(&batch)[1..]);
    }

    #[test]
    fn the_brokers_time_stays() {
        let batch =
            BatchBuilder::new().attributes(0x08).record(5, Some(b"a"), None).record(900, Some(b"b"), None).build();
        let header = BatchHeader::parse(&batch).unwrap();
        let out = retain(&header, &batch, &batch[HEADER_LEN..], None, |r| r.offset_delta == 0).unwrap();
        assert_eq!(BatchHeader::parse(&out).unwrap().max_timestamp, 900);
    }

    #[test]
    fn holes_are_valid_batches_without_records() {
        for (base, next) in [(0, 1), (7, 1_000_000), (5, 5 + (1i64 << 31))] {
            let bytes = hole(Offset(base), Offset(next), LeaderEpoch(3));
            let header = check_batch(&bytes).unwrap();
            assert!(header.is_hole());
            assert_eq!((header.base_offset.0, header.next_offset().0, header.leader_epoch.0), (base, next, 3));
            assert_eq!(read(&bytes), []);
        }
    }
}
