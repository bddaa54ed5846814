//! A topic that is compacted by key: who writes to it, and what everybody who reads all of it has to find.
//!
//! Of each key the record that was written last is there, at the offset it was acked at; only a tombstone may be gone, once
//! it is older than `delete.retention.ms`, and then nothing older of its key is left. Offsets rise, and what is at an
//! offset never changes.

use super::process::Process;
use super::world::{Reachable, World};
use super::{ACK_TIMEOUT, PARTITIONS};
use crate::workload::Rng;
use kafscale::actors::partition::handle::{AppendError, PartitionRef, ValidBatch};
use kafscale::actors::partition::view::PartitionView;
use kafscale::ids::{PartitionIndex, PartitionKey};
use kafscale::protocol::batch::BatchHeader;
use kafscale::protocol::compression::Codec;
use kafscale::protocol::records::{BatchBuilder, Records, records_bytes};
use kafscale::storage::reader::LogReader;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

pub const TOPIC: &str = "compacted";
/// A producer that writes nothing else.
const PRODUCER: i64 = 1_000;
const KEYS: u64 = 6;
const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];
/// How long tombstones are kept: some are dropped within a run, and some must not be.
pub const DELETE_RETENTION: Duration = Duration::from_secs(20);

/// Key and value; a tombstone has none.
type Written = (u8, Option<u64>);
/// The records of a batch, and the batch.
type Sent = (Vec<Written>, ValidBatch);
/// What was read: offset, key, value.
type Scanned = Vec<(i64, u8, Option<u64>)>;

/// What clients have been told.
#[derive(Debug, Default)]
pub struct Keyed {
    /// By offset: what was acked or read.
    records: BTreeMap<i64, Written>,
    /// By value: its offset.
    offsets: BTreeMap<u64, i64>,
    /// By key: the offset that was acked last, whether it is a tombstone, and when it was sent.
    last: BTreeMap<u8, (i64, bool, Instant)>,
    /// Keys of the batch that is being sent.
    pending: BTreeSet<u8>,
    /// A wall clock was wrong: tombstones may have been dropped early.
    clock_jumped: bool,
}

impl Keyed {
    fn hear(&mut self, offset: i64, (key, value): Written, how: &str) {
        let before = *self.records.entry(offset).or_insert((key, value));
        assert_eq!(before, (key, value), "compacted topic, offset {offset}: another record than before was {how}");
        if let Some(id) = value {
            let before = self.offsets.insert(id, offset).unwrap_or(offset);
            assert_eq!(before, offset, "compacted topic, value {id}: {how} at another offset than before");
        }
    }

    /// A process's clock is wrong from now on.
    pub fn clock_jumps(&mut self) {
        self.clock_jumped = true;
    }
}

/// Creates the topic.
pub async fn create(world: &World) {
    let configs = [
        ("cleanup.policy", "compact".to_owned()),
        ("min.cleanable.dirty.ratio", "0.1".to_owned()),
        ("segment.ms", "100".to_owned()),
        ("delete.retention.ms", DELETE_RETENTION.as_millis().to_string()),
    ];
    let configs = configs.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let created = world.admin().create_topic(TOPIC, 1, configs, Vec::new()).await.expect("no faults");
    world.compacted.set(Some(created.id));
}

/// The topic's partition, if there is such a topic.
pub fn key(world: &World) -> Option<PartitionKey> {
    world.compacted.get().map(|topic| PartitionKey { topic, partition: PartitionIndex(0) })
}

/// Writes, one batch at a time, until told to stop.
pub async fn produce(world: Rc<World>, seed: u64) {
    let (mut random, mut sequence) = (Rng(seed), 0);
    let key = key(&world).expect("created");
    while !world.stop.get() {
        let batch = batch(&world, &mut random, &mut sequence);
        let sent = Instant::now();
        world.keyed.borrow_mut().pending = batch.0.iter().map(|(key, _)| *key).collect();
        loop {
            tokio::time::sleep(Duration::from_millis(random.below(250))).await;
            let Some((broker, found)) = world.leader(&key, &mut random) else { continue };
            if send(&world, &broker, &found, &batch, sent).await {
                break;
            }
        }
        world.keyed.borrow_mut().pending.clear();
        tokio::time::sleep(Duration::from_millis(random.below(1_000))).await;
    }
}

fn batch(world: &World, random: &mut Rng, sequence: &mut i32) -> Sent {
    let producer = BatchBuilder::new().producer(PRODUCER, 0, *sequence);
    let mut builder = producer.codec(CODECS[random.below(CODECS.len() as u64) as usize]);
    let mut written = Vec::new();
    for _ in 0..1 + random.below(4) {
        let value = (random.below(3) > 0).then_some(*sequence as u64);
        let key = random.below(KEYS) as u8;
        builder.push(world.clock.wall_ms(), Some(&[key]), value.map(u64::to_be_bytes).as_ref().map(|v| &v[..]));
        written.push((key, value));
        *sequence += 1;
    }
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes).expect("a batch");
    (written, ValidBatch { bytes, header, log_append_time_ms: None })
}

/// True if the batch is acked.
async fn send(world: &World, broker: &Reachable, found: &PartitionRef, (written, batch): &Sent, at: Instant) -> bool {
    let Ok(receiver) = found.append(batch.clone()) else { return false };
    match tokio::time::timeout(ACK_TIMEOUT, receiver).await {
        Ok(Ok(Ok(appended))) => {
            world.trace.event(format_args!("ack compacted {} {written:?}", appended.base_offset));
            let mut keyed = world.keyed.borrow_mut();
            for (offset, (key, value)) in (appended.base_offset.0..).zip(written.iter().copied()) {
                keyed.hear(offset, (key, value), "acked");
                keyed.last.insert(key, (offset, value.is_none(), at));
            }
            true
        }
        Ok(Ok(Err(error @ AppendError::OutOfOrderSequence { .. }))) => {
            let stored = world.ownership_of(&found.key).expect("it is led").epoch;
            let is_replaced = found.view.leader_epoch < stored;
            assert!(!world.is_of_today(broker) || is_replaced, "compacted topic: {error}");
            false
        }
        _ => false,
    }
}

/// Reads everything, from wherever it is led, again and again, until told to stop.
pub async fn consume(world: Rc<World>, seed: u64) {
    let mut random = Rng(seed);
    let key = key(&world).expect("created");
    while !world.stop.get() {
        tokio::time::sleep(Duration::from_millis(random.below(4_000))).await;
        let Some((broker, found)) = world.leader(&key, &mut random) else { continue };
        let leads = || {
            let epoch = world.ownership_of(&key).map(|v| v.epoch);
            let is_leader = epoch == Some(found.view.leader_epoch) && !found.view.is_closed();
            is_leader && world.is_of_today(&broker) && !broker.link.is_paused()
        };
        if leads() {
            scan(&world, &broker.reader, &found.view, leads).await;
        }
    }
}

/// The topic as `last`, which leads it, has it, without faults.
pub async fn check(world: &World, last: &Process) {
    let Some(key) = key(world) else { return };
    let found = last.context.directory.get(&key).expect("led");
    assert!(scan(world, &last.reachable().reader, &found.view, || true).await, "it can be read without faults");
}

/// Reads everything and compares it, if that is possible. `leads` says whether what is read has to be up to date.
async fn scan(
    world: &World,
    reader: &LogReader,
    view: &std::sync::Arc<PartitionView>,
    leads: impl Fn() -> bool,
) -> bool {
    let since = Instant::now();
    let (last, busy) = {
        let keyed = world.keyed.borrow();
        (keyed.last.clone(), keyed.pending.clone())
    };
    let (end, mut next, mut scanned) = (view.high_watermark(), view.log_start(), Scanned::new());
    while next < end {
        let read = tokio::time::timeout(ACK_TIMEOUT, reader.read(view, next, 2_000, true)).await;
        let Ok(Ok(batches)) = read else { return false };
        assert!(!batches.is_empty(), "compacted topic: a consumer at {next} would stall");
        for batch in batches {
            assert!(batch.next > next, "compacted topic: offsets rise");
            next = batch.next;
            records_of(&[&batch.head[..], &batch.tail[..]].concat(), &mut scanned);
        }
    }
    assert!(scanned.windows(2).all(|w| w[0].0 < w[1].0), "compacted topic: offsets rise");
    let mut keyed = world.keyed.borrow_mut();
    let mut newest = BTreeMap::new();
    for (offset, key, value) in scanned {
        keyed.hear(offset, (key, value), "read");
        newest.insert(key, offset);
    }
    if !leads() || since.elapsed() > DELETE_RETENTION / 2 {
        return true; // somebody else may have more, or tombstones may have come and gone meanwhile
    }
    world.trace.happened("compacted topic: all of it read");
    for (key, (offset, is_tombstone, at)) in last.into_iter().filter(|(key, _)| !busy.contains(key)) {
        let found = newest.get(&key).copied();
        let is_gone = is_tombstone && found.is_none() && (at.elapsed() >= DELETE_RETENTION || keyed.clock_jumped);
        assert!(
            found >= Some(offset) || is_gone,
            "compacted topic, key {key}: its record at {offset} (tombstone: {is_tombstone}, {:?} old) is gone, the newest is {found:?}",
            at.elapsed()
        );
    }
    true
}

fn records_of(batch: &[u8], to: &mut Scanned) {
    let header = BatchHeader::parse(batch).expect("a batch");
    let plain = records_bytes(&header, batch).expect("what was read is right");
    for record in Records::stored(&plain, &header).map(|r| r.expect("what was read is right")) {
        let offset = header.base_offset.0 + i64::from(record.offset_delta);
        let key = plain[record.key.expect("each has one")][0];
        let value = record.value.map(|v| u64::from_be_bytes(plain[v].try_into().expect("eight bytes")));
        to.push((offset, key, value));
    }
}

/// Partitions of topics that stay.
pub fn partitions(world: &World) -> Vec<PartitionKey> {
    (0..PARTITIONS).map(|p| world.key(p)).chain(key(world)).collect()
}
