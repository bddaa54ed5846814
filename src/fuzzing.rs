//! What fuzzers run: every place where bytes from outside are first read, each as a function of bytes alone.
//!
//! A function returns whether its input was accepted, and panics if an invariant of that place does not hold: bytes
//! that the guard accepts decode to the same length, an accepted batch stays readable after offsets are assigned, an
//! index never points outside its object. Checksums would keep a fuzzer from getting past them, so most functions try
//! the input twice: as it is, and with lengths and checksums put right.
//!
//! `fuzz/` has a target for each entry of [`TARGETS`]; `fuzz/corpus/` has their seeds, made by the tests of this module.
//! `integration/fuzz_corpus.rs` runs seeds and a bounded number of mutations of them with every test run; `make fuzz`
//! runs a coverage-guided fuzzer as long as one likes. Nothing in production calls this.

mod requests;
#[cfg(test)]
mod seeds;
mod stored;

use crate::actors::compactor::clean::{self, Cleaner, Fate, Indexed, Rules, Seen};
use crate::actors::compactor::keys::KeyMap;
use crate::actors::group::value::{self, StoredGroup};
use crate::ids::{LeaderEpoch, Offset};
use crate::metadata::image::ClusterImage;
use crate::metadata::keys::{Keys, ParsedKey};
use crate::metadata::model::desired::{self, DesiredStatusValue, DesiredValue};
use crate::metadata::model::{self, BrokerConfigsValue, ClusterValue, CounterValue, DeletedTopicValue, LiveValue};
use crate::metadata::model::{PartitionValue, ShardValue, TopicValue, WriterValue};
use crate::metadata::{Entry, WatchEvent};
use crate::protocol::batch::{self, BatchHeader, StoredBatch};
use crate::protocol::compression::{self, Codec};
use crate::protocol::records::{self, Records};
use crate::protocol::validate::{self, BatchLimits};
use crate::storage::segment;
use bytes::{Bytes, BytesMut};
pub use requests::request;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
pub use stored::{checkpoint, footer, segment_object};

/// A function of this module: says whether it accepted the bytes.
pub type Target = fn(&[u8]) -> bool;

/// Every target by the name of its folder in `fuzz/corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("batch", batch),
    ("checkpoint", checkpoint),
    ("footer", footer),
    ("metadata_image", metadata_image),
    ("metadata_key", metadata_key),
    ("metadata_value", metadata_value),
    ("records", records),
    ("request", request),
    ("segment", segment_object),
];

/// The broker's time, so that inputs mean the same every day.
const NOW_MS: i64 = 1_750_000_000_000;
/// The namespace whose keys are read.
const NAMESPACE: &str = "ns";

/// A produced batch: validation under several topics' limits, then what the write path does with an accepted one.
pub fn batch(data: &[u8]) -> bool {
    let accepted = produced_batch(&Bytes::copy_from_slice(data));
    if let Some(sealed) = sealed_batch(data) {
        produced_batch(&sealed);
    }
    accepted
}

/// The same bytes with magic, lengths and CRC put right, so that what lies behind those checks is reached.
fn sealed_batch(data: &[u8]) -> Option<Bytes> {
    let mut sealed = BytesMut::from(data);
    let length = sealed.len().checked_sub(12).and_then(|len| i32::try_from(len).ok())?;
    if sealed.len() < batch::HEADER_LEN {
        return None;
    }
    sealed[..8].fill(0);
    sealed[8..12].copy_from_slice(&length.to_be_bytes());
    sealed[16] = 2;
    records::seal(&mut sealed);
    Some(sealed.freeze())
}

fn produced_batch(bytes: &Bytes) -> bool {
    let lax = BatchLimits {
        max_message_bytes: i32::MAX,
        log_append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        compacted: false,
        zstd: true,
        now_ms: NOW_MS,
    };
    let strict = BatchLimits { compacted: true, timestamp_before_max_ms: 1_000, timestamp_after_max_ms: 1_000, ..lax };
    let stamped = BatchLimits { log_append_time: true, ..lax };
    for limits in [strict, stamped] {
        match validate::validate(bytes, &limits) {
            Ok(valid) => stored_batch(&valid.bytes, &valid.header),
            Err(refused) => assert!(refused.record_errors().len() <= bytes.len(), "more errors than bytes"),
        }
    }
    let Ok(valid) = validate::validate(bytes, &lax) else { return false };
    assert_eq!(&valid.bytes, bytes, "nothing is stamped, nothing changes");
    stored_batch(&valid.bytes, &valid.header);
    let Ok(plain) = records::records_bytes(&valid.header, bytes) else { return true };
    let intact = walk_records(&plain, valid.header.record_count);
    assert!(intact || valid.header.codec() != 0, "uncompressed records were walked by the validation");
    true
}

/// Gives an accepted batch an offset, puts it into a segment and reads that back.
fn stored_batch(bytes: &Bytes, header: &BatchHeader) {
    assert_eq!(header.total_len(), bytes.len() as i64);
    let (base, leader_epoch) = (Offset(7_000), LeaderEpoch(3));
    let stored = StoredBatch::assign(bytes, header, base, leader_epoch);
    let whole = [&stored.head[..], &stored.tail[..]].concat();
    let read = segment::check_batch(&whole).expect("an accepted batch is intact after its offset was assigned");
    assert_eq!((read.base_offset, read.leader_epoch, read.crc), (base, leader_epoch, header.crc));
    assert_eq!(read.next_offset(), stored.next);
    compacted(&read, &whole);
    stored::segment_of(stored, leader_epoch);
}

/// Compacts an accepted batch, of which half of the keys are written again later: what is left is as it was.
fn compacted(header: &BatchHeader, batch: &[u8]) {
    let Ok(plain) = records::records_bytes(header, batch) else { return };
    let mut map = KeyMap::new(100_000);
    if clean::index(&mut map, header, batch) == Indexed::Full {
        return;
    }
    let later = header.next_offset().plus(1);
    let key = |r: &records::Record| r.key.clone().map(|k| &plain[k]);
    for record in Records::stored(&plain, header).flatten().filter(|r| r.offset_delta % 2 == 1) {
        if let Some(key) = key(&record).filter(|key| map.newest(key).is_some()) {
            map.insert(key, later);
        }
    }
    let rules = Rules {
        log_start: Offset(0),
        map_end: later.plus(1),
        may_set_horizons: true,
        now_ms: NOW_MS,
        delete_retention_ms: 1,
    };
    let mut seen = Seen::default();
    let fate = Cleaner::new(&map, rules, &mut seen).judge(header, batch).expect("memory can be written to");
    let Fate::Becomes(bytes, _) = fate else { return };
    let left = segment::check_batch(&bytes).expect("what is left is a whole batch");
    assert_eq!((left.base_offset, left.next_offset()), (header.base_offset, header.next_offset()));
    let packed = records::records_bytes(&left, &bytes).expect("it was compressed just now");
    let count = Records::stored(&packed, &left).filter(Result::is_ok).count();
    assert_eq!((count as i32, count as u64 + seen.dropped), (left.record_count, header.record_count as u64));
}

/// Records behind a codec: `codec u8 | count i32 | compressed records`.
pub fn records(data: &[u8]) -> bool {
    let Some((head, packed)) = data.split_at_checked(5) else { return false };
    let Ok(codec) = Codec::from_bits(head[0]) else { return false };
    let count = i32::from_be_bytes(head[1..5].try_into().expect("four bytes"));
    let Ok(plain) = compression::decompress(codec, packed) else { return false };
    assert!(codec == Codec::None || plain.len() <= compression::output_max(packed.len()), "output is bounded");
    walk_records(&plain, count)
}

/// Reads all records; true if there are exactly `count` good ones.
fn walk_records(plain: &[u8], count: i32) -> bool {
    let mut good = 0;
    let mut failed = false;
    for record in Records::new(plain, count) {
        assert!(!failed, "nothing follows an error");
        let Ok(record) = record else {
            failed = true;
            continue;
        };
        assert_eq!(record.offset_delta, good);
        for range in [record.key, record.value].into_iter().flatten() {
            assert!(range.start <= range.end && range.end <= plain.len(), "a field lies inside the records");
        }
        assert!(record.header_count >= 0 && record.header_count as usize <= plain.len());
        good += 1;
    }
    assert!(good as usize <= plain.len(), "a record has at least one byte");
    !failed && good == count.max(0)
}

/// A metadata key.
pub fn metadata_key(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let keys = Keys::new(NAMESPACE);
    let Some(parsed) = keys.parse(text) else { return false };
    let formatted = match &parsed {
        ParsedKey::Writer(writer) => keys.writer(*writer),
        ParsedKey::Live(writer) => keys.live(*writer),
        ParsedKey::Partition(key) => keys.partition(key),
        ParsedKey::Topic(name) => keys.topic(name),
        ParsedKey::BrokerConfigs(node) => keys.broker_configs(*node),
        ParsedKey::GroupConfigs(group) => keys.group_configs(group),
        ParsedKey::Deleted(topic) => keys.deleted(*topic),
        ParsedKey::Desired => keys.desired(),
        ParsedKey::DesiredStatus => keys.desired_status(),
        ParsedKey::Shard(shard) => keys.shard(*shard),
        ParsedKey::GroupWrites(writer) => keys.group_writes(*writer),
        ParsedKey::Group(group) => keys.group(group),
        ParsedKey::GroupOffsets(group, topic, block) => keys.group_offsets(group, topic, *block),
    };
    assert_eq!(formatted, text, "two keys must not mean the same");
    true
}

/// The value of a metadata key, read as each kind of value there is.
pub fn metadata_value(data: &[u8]) -> bool {
    [
        value_survives::<ClusterValue>(data),
        value_survives::<CounterValue>(data),
        value_survives::<WriterValue>(data),
        value_survives::<LiveValue>(data),
        value_survives::<PartitionValue>(data),
        value_survives::<TopicValue>(data),
        value_survives::<BrokerConfigsValue>(data),
        value_survives::<DeletedTopicValue>(data),
        value_survives::<ShardValue>(data),
        packed_survives::<DesiredValue>(data),
        packed_survives::<DesiredStatusValue>(data),
        group_value_survives(data),
    ]
    .contains(&true)
}

/// A group's members or a block of its offsets.
fn group_value_survives(data: &[u8]) -> bool {
    let group = value::decode_stored(data).map(|group| {
        let again = match &group {
            StoredGroup::Classic(group) => value::encode_group(group),
            StoredGroup::Consumer(group) => value::encode_consumer(group),
        };
        assert_eq!(value::decode_stored(&again), Ok(group));
    });
    let block = value::decode_block(data).map(|block| {
        assert_eq!(value::decode_block(&value::encode_block(&block)), Ok(block));
    });
    group.is_ok() || block.is_ok()
}

fn value_survives<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) -> bool {
    let Ok(value) = model::decode_bytes::<T>(data) else { return false };
    let again = model::decode_bytes::<T>(&model::encode(&value)).expect("what was read can be written and read");
    assert_eq!(again, value);
    true
}

/// A value that may be packed.
fn packed_survives<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) -> bool {
    let Ok(value) = desired::unpack_bytes::<T>(data) else { return false };
    let again = desired::unpack_bytes::<T>(&desired::pack(&value)).expect("what was read can be written and read");
    assert_eq!(again, value);
    true
}

/// A change that the watch reports, `key 0x00 value`, as the cluster image takes it in.
pub fn metadata_image(data: &[u8]) -> bool {
    let Some(end) = data.iter().position(|b| *b == 0) else { return false };
    let Ok(key) = std::str::from_utf8(&data[..end]) else { return false };
    let value = Bytes::copy_from_slice(&data[end + 1..]);
    let entry = Entry { key: key.to_owned(), value, create_revision: 1, mod_revision: 2 };
    let keys = Keys::new(NAMESPACE);
    let mut image = ClusterImage::default();
    let put_warnings = image.apply(&keys, WatchEvent::Put(entry.clone()));
    let warnings = image.apply(&keys, WatchEvent::Snapshot { entries: vec![entry.clone()], revision: 3 });
    assert_eq!(put_warnings, warnings, "a value is judged the same however it arrives");
    let known = image.topics_any_state().count() + image.lives().count();
    image.apply(&keys, WatchEvent::Delete { key: entry.key, revision: 4 });
    assert_eq!((image.topics_any_state().count(), image.lives().count()), (0, 0), "a deleted key leaves nothing");
    assert!(image.defaults().is_static());
    assert!(known <= 1 && image.revision == 4);
    keys.parse(key).is_some() && warnings.is_empty()
}
