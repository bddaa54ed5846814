//! Passes of key compaction against a naive model: the fold of all records.

use super::*;
use crate::ids::ProducerId;
use crate::protocol::batch::StoredBatch;
use crate::protocol::compression::Codec;
use crate::protocol::records::{BatchBuilder, records_bytes};
use crate::storage::segment::check_batch;
use proptest::prelude::*;
use std::collections::HashMap;

/// A record as the model has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    offset: i64,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    /// Of a tombstone that a pass has seen.
    horizon_ms: Option<i64>,
}

/// Batches that are stored together.
#[derive(Debug, Clone)]
struct Stored {
    level: u8,
    base: i64,
    next: i64,
    batches: Vec<Bytes>,
}

/// A partition, and what it should be.
#[derive(Debug, Default)]
struct Log {
    stored: Vec<Stored>,
    model: Vec<Known>,
    /// The last offset and value of each key.
    last: HashMap<u8, (i64, Option<Vec<u8>>)>,
    start: i64,
    end: i64,
}

const RETENTION_MS: i64 = 100;
/// Records of one batch, at most.
const RECORDS_MAX: usize = 7;
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

impl Log {
    /// Appends one extent; each batch is its codec and keys with or without values.
    fn append(&mut self, batches: &[(usize, Vec<(u8, bool)>)]) {
        let mut stored = Stored { level: 1, base: self.end, next: self.end, batches: Vec::new() };
        for (codec, records) in batches {
            let mut builder = BatchBuilder::new().codec(CODECS[*codec]);
            for (key, has_value) in records {
                let (offset, value) = (stored.next, stored.next.to_be_bytes());
                let timestamp_ms = 10_000 + (offset * 7) % 50;
                let value = has_value.then_some(&value[..]);
                builder.push(timestamp_ms, Some(&[*key]), value);
                self.last.insert(*key, (offset, value.map(<[u8]>::to_vec)));
                let (key, value) = (Some(vec![*key]), value.map(<[u8]>::to_vec));
                self.model.push(Known { offset, timestamp_ms, key, value, horizon_ms: None });
                stored.next += 1;
            }
            let bytes = builder.build();
            let header = BatchHeader::parse(&bytes).unwrap();
            let base = Offset(stored.next - records.len() as i64);
            let batch = StoredBatch::assign(&bytes, &header, base, LeaderEpoch(2));
            stored.batches.push(Bytes::from([&batch.head[..], &batch.tail[..]].concat()));
        }
        self.end = stored.next;
        self.stored.push(stored);
    }

    /// One pass; returns where its map ended and what it saw.
    fn pass(&mut self, keys_max: usize, piece_bytes_max: usize, group_len: usize, now_ms: i64) -> (i64, Seen) {
        let mut map = KeyMap::new(keys_max);
        let clean = self.stored.iter().take_while(|s| s.level >= LEVEL_COMPACTED).count();
        let mut map_end = self.end;
        'indexing: for batch in self.stored[clean..].iter().flat_map(|s| &s.batches) {
            let header = check_batch(batch).unwrap();
            if index(&mut map, &header, batch) == Indexed::Full {
                map_end = header.base_offset.0;
                break 'indexing;
            }
        }
        let mut seen = Seen::default();
        let (log_start, map_end) = (Offset(self.start), Offset(map_end));
        let rules = Rules { log_start, map_end, may_set_horizons: true, now_ms, delete_retention_ms: RETENTION_MS };
        let mut after = Vec::new();
        for group in self.stored.chunks(group_len) {
            if group[0].base >= map_end.0 {
                after.extend(group.iter().cloned());
                continue;
            }
            let mut pieces = Pieces::new(map_end, piece_bytes_max);
            for batch in group.iter().flat_map(|s| &s.batches) {
                let header = check_batch(batch).unwrap();
                let fate = Cleaner::new(&map, rules, &mut seen).judge(&header, batch).unwrap();
                pieces.push(&header, batch, &fate);
            }
            let (pieces, changed) = pieces.finish();
            if !changed && group.len() == 1 {
                let same: Vec<u8> = pieces.iter().flat_map(|p| p.bytes.to_vec()).collect();
                assert_eq!(same, group[0].batches.concat(), "nothing changed");
            }
            assert_eq!((pieces[0].base.0, pieces.last().unwrap().next.0), (group[0].base, group.last().unwrap().next));
            after.extend(pieces.into_iter().map(stored));
        }
        self.stored = after;
        self.fold(map_end.0, now_ms);
        (map_end.0, seen)
    }

    /// The same on the model, which knows all records.
    fn fold(&mut self, map_end: i64, now_ms: i64) {
        let newest: HashMap<_, _> =
            self.model.iter().filter(|r| r.offset < map_end).map(|r| (r.key.clone(), r.offset)).collect();
        let start = self.start;
        self.model.retain(|r| {
            let superseded = newest.get(&r.key).is_some_and(|newest| *newest > r.offset);
            let expired = r.horizon_ms.is_some_and(|horizon| horizon <= now_ms);
            r.offset >= map_end || (r.offset >= start && !superseded && !expired)
        });
        for record in self.model.iter_mut().filter(|r| r.offset < map_end && r.value.is_none()) {
            record.horizon_ms.get_or_insert(now_ms + RETENTION_MS);
        }
    }

    /// What is stored is what the model says, and its batches adjoin each other.
    fn check(&self) {
        assert_eq!(self.records(), self.model);
    }

    /// Each key has the value that was written last, if it has any.
    fn check_last(&self) {
        let mut records = self.records();
        records.retain(|r| r.offset >= self.start); // nobody reads what a batch that stays has below it
        let left: HashMap<u8, _> = records.into_iter().map(|r| (r.key.unwrap()[0], (r.offset, r.value))).collect();
        assert!(left.iter().all(|(key, last)| self.last[key] == *last), "an old value came back");
        let live = self.last.iter().filter(|(_, (offset, value))| value.is_some() && *offset >= self.start);
        assert_eq!(live.filter(|(key, _)| !left.contains_key(key)).count(), 0, "a value is lost");
    }

    fn records(&self) -> Vec<Known> {
        let (mut expected, mut records) = (self.stored.first().map_or(0, |s| s.base), Vec::new());
        for stored in &self.stored {
            assert_eq!(stored.base, expected);
            let mut horizons = false;
            for batch in &stored.batches {
                let header = check_batch(batch).unwrap();
                assert_eq!(header.base_offset.0, expected, "batches adjoin each other");
                expected = header.next_offset().0;
                let found = read(&header, batch);
                horizons |= found.iter().any(|r| r.horizon_ms.is_some());
                let timestamps = found.iter().map(|r| r.timestamp_ms).max();
                assert_eq!(header.max_timestamp, timestamps.unwrap_or(-1));
                records.extend(found);
            }
            assert_eq!(stored.next, expected);
            assert!(stored.level < LEVEL_COMPACTED || horizons == (stored.level == LEVEL_COMPACTED_TOMBSTONES));
        }
        assert_eq!(expected, self.end);
        records
    }
}

fn stored(piece: Piece) -> Stored {
    let (mut rest, mut batches) = (piece.bytes.freeze(), Vec::new());
    while !rest.is_empty() {
        batches.push(rest.split_to(check_batch(&rest).unwrap().total_len() as usize));
    }
    Stored { level: piece.level, base: piece.base.0, next: piece.next.0, batches }
}

fn read(header: &BatchHeader, batch: &[u8]) -> Vec<Known> {
    let plain = records_bytes(header, batch).unwrap();
    let records = Records::stored(&plain, header).map(|r| {
        let r = r.unwrap();
        let value = r.value.map(|v| plain[v].to_vec());
        Known {
            offset: header.base_offset.0 + i64::from(r.offset_delta),
            timestamp_ms: header.base_timestamp + r.timestamp_delta,
            key: r.key.map(|k| plain[k].to_vec()),
            horizon_ms: header.delete_horizon_ms().filter(|_| value.is_none()),
            value,
        }
    });
    records.collect()
}

fn batches() -> impl Strategy<Value = Vec<(usize, Vec<(u8, bool)>)>> {
    let records = proptest::collection::vec((0..8u8, proptest::bool::weighted(0.7)), 1..=RECORDS_MAX);
    proptest::collection::vec((0..CODECS.len(), records), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn passes_equal_a_naive_model(
        rounds in proptest::collection::vec((proptest::collection::vec(batches(), 0..4), 0..80i64, 0..4i64), 1..10),
        keys_max in 1..20usize, piece_bytes_max in 1..2_000usize, group_len in 1..4usize,
    ) {
        let (mut log, mut now_ms) = (Log::default(), 50_000);
        for (appended, passes_ms, trimmed) in rounds {
            appended.iter().for_each(|extent| log.append(extent));
            log.start = (log.start + trimmed).min(log.end);
            now_ms += passes_ms;
            let mut ended = -1;
            // Each pass comes further, and the last one to the end.
            while ended < log.end {
                let (map_end, _) = log.pass(keys_max, piece_bytes_max, group_len, now_ms);
                assert!(map_end > ended, "the pass made no progress at {map_end} of {}", log.end);
                ended = map_end;
                log.check_last();
                if keys_max >= RECORDS_MAX {
                    log.check(); // the model does not know of batches that have too many keys for the map
                }
            }
        }
    }
}

#[test]
fn each_key_keeps_its_last_value_and_tombstones_go_after_their_horizon() {
    let mut log = Log::default();
    log.append(&[(0, vec![(1, true), (2, true), (3, true)]), (4, vec![(1, true), (2, false)])]);
    log.append(&[(2, vec![(3, true)])]);
    let (end, seen) = log.pass(100, 10_000, 1, 1_000);
    assert_eq!((end, seen.dropped, seen.horizon_ms), (6, 3, Some(1_100)));
    log.check();
    assert_eq!(log.model.iter().map(|r| r.offset).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(log.stored.iter().map(|s| s.level).collect::<Vec<_>>(), [4, 3]);
    let headers: Vec<_> = log.stored[0].batches.iter().map(|b| check_batch(b).unwrap()).collect();
    assert!(headers[0].is_hole() && headers[0].producer_id == ProducerId(-1));
    log.pass(100, 10_000, 1, 1_099);
    assert_eq!(log.model.len(), 3, "a tombstone is kept until its horizon has passed");
    log.pass(100, 10_000, 1, 1_100);
    log.check();
    assert_eq!(log.model.iter().map(|r| r.offset).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(log.stored[0].level, 3);
}

#[test]
fn what_is_not_for_compaction_stays_byte_for_byte() {
    let stays = |batch: &Bytes| {
        let header = check_batch(batch).unwrap();
        let mut map = KeyMap::new(10);
        assert_eq!(index(&mut map, &header, batch), Indexed::Yes);
        assert_eq!(map.newest(b"k"), None);
        map.insert(b"k", Offset(1_000));
        let rules = Rules {
            log_start: Offset(0),
            map_end: Offset(2_000),
            may_set_horizons: true,
            now_ms: 0,
            delete_retention_ms: 0,
        };
        let mut seen = Seen::default();
        let fate = Cleaner::new(&map, rules, &mut seen).judge(&header, batch).unwrap();
        assert_eq!(fate, Fate::Stays(false));
        // A tombstone above it stays for ever if it may hide something.
        let above = BatchBuilder::new().record(0, Some(b"t"), None).build();
        let fate = Cleaner::new(&map, rules, &mut seen).judge(&check_batch(&above).unwrap(), &above).unwrap();
        (seen.unreadable, fate == Fate::Stays(false))
    };
    let one = || BatchBuilder::new().record(0, Some(b"k"), Some(b"v"));
    assert_eq!(stays(&one().attributes(0x20).build()), (0, false), "a control batch has no keys");
    assert_eq!(stays(&one().attributes(0x10).build()), (1, true));
    let mut damaged = BytesMut::from(&one().codec(Codec::Zstd).build()[..]);
    damaged[61..].fill(7);
    records::seal(&mut damaged);
    assert_eq!(stays(&damaged.freeze()), (1, true));
    let many = (0..11u8).fold(BatchBuilder::new(), |b, i| b.record(0, Some(&[i]), None));
    assert_eq!(stays(&many.build()), (1, true), "more keys than the map may have");
}

#[test]
fn records_without_a_key_and_below_the_log_start_go() {
    let mut log = Log { start: 2, ..Log::default() };
    log.append(&[(0, vec![(1, true), (2, true), (3, true)])]);
    let keyless = BatchBuilder::new().record(0, None, Some(b"v")).record(0, Some(b"k"), Some(b"v")).build();
    let header = BatchHeader::parse(&keyless).unwrap();
    let batch = StoredBatch::assign(&keyless, &header, Offset(3), LeaderEpoch(2));
    log.stored.push(Stored { level: 1, base: 3, next: 5, batches: vec![batch.head] });
    log.end = 5;
    let (_, seen) = log.pass(10, 10_000, 2, 0);
    assert_eq!(seen.dropped, 3);
    let left: Vec<_> = log.stored.iter().flat_map(|s| &s.batches).map(|b| (check_batch(b).unwrap(), b)).collect();
    let left: Vec<_> = left.iter().flat_map(|(header, batch)| read(header, batch)).map(|r| r.offset).collect();
    assert_eq!(left, [2, 4]);
}
