//! What clients do meanwhile: producers with several batches in flight, consumers, groups that commit offsets, and
//! those who delete records and topics. All of them compare what they are told with what anybody was told before.

use super::world::{Reachable, World};
use super::{ACK_TIMEOUT, GROUPS, IN_FLIGHT_MAX, PARTITIONS};
use crate::client::{Batch, read_records};
use crate::workload::Rng;
use kafscale::actors::group::call::{Answer, Call, Caller};
use kafscale::actors::group::offsets::{Committed, OffsetToCommit};
use kafscale::actors::partition::handle::{AppendError, PartitionRef, ValidBatch};
use kafscale::broker::PartitionControl;
use kafscale::ids::{LeaderEpoch, Offset, PartitionIndex, PartitionKey};
use kafscale::protocol::batch::{BatchHeader, StoredBatch};
use kafscale::storage::StoreError;
use kafscale::storage::reader::ReadError;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Partitions of each topic that comes and goes.
const PARTITIONS_OF_CHURN: i32 = 2;

/// How often a coordinator may not answer in a row.
const OFFSETS_ATTEMPTS_MAX: u32 = 600;

/// Values of a batch, and the batch.
type Sent = (Vec<u64>, ValidBatch);

/// Writes one producer's values to one partition in order, up to five batches at a time, until told to stop.
pub async fn produce(world: Rc<World>, producer: u64, partition: i32, seed: u64) {
    let mut random = Rng(seed);
    let (mut sequence, mut queue): (i32, VecDeque<Sent>) = (0, VecDeque::new());
    while !(world.stop.get() && queue.is_empty()) {
        while !world.stop.get() && queue.len() < 1 + random.below(IN_FLIGHT_MAX as u64) as usize {
            let (count, first) = (1 + random.below(3), (producer << 40) | ((partition as u64) << 32));
            let ids: Vec<u64> = (0..count).map(|n| first | (sequence as u64 + n)).collect();
            let values: Vec<_> = ids.iter().map(|id| id.to_be_bytes()).collect();
            let slices: Vec<&[u8]> = values.iter().map(|v| &v[..]).collect();
            let base_timestamp_ms = world.clock.wall_ms();
            let batch = Batch { base_timestamp_ms, ..Batch::of(&slices) };
            let bytes = batch.idempotent(producer as i64, 0, sequence).encode();
            let header = BatchHeader::parse(&bytes).expect("a batch");
            sequence += ids.len() as i32;
            world.sent.set(world.sent.get() + ids.len() as u64);
            queue.push_back((ids, ValidBatch { bytes, header, log_append_time_ms: None }));
        }
        if let Some((broker, found)) = world.leader(&world.key(partition), &mut random) {
            send(&world, partition, &broker, &found, &mut queue).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(250))).await;
    }
}

async fn send(world: &World, partition: i32, broker: &Reachable, found: &PartitionRef, queue: &mut VecDeque<Sent>) {
    let waiting: Vec<_> = queue.iter().map(|(_, batch)| found.append(batch.clone())).collect();
    for receiver in waiting {
        let Ok(receiver) = receiver else { break };
        let Ok(Ok(outcome)) = tokio::time::timeout(ACK_TIMEOUT, receiver).await else { break };
        match outcome {
            Ok(appended) => {
                let (ids, _) = queue.pop_front().expect("one per receiver");
                world.trace.event(format_args!("ack {partition} {} {ids:x?}", appended.base_offset));
                world.told(partition, |told| {
                    told.acked += ids.len() as u64;
                    told.acked_end = told.acked_end.max(appended.base_offset.0 + ids.len() as i64);
                    (appended.base_offset.0..).zip(ids).for_each(|(o, id)| told.hear(partition, o, id, "acked"));
                });
            }
            Err(error @ (AppendError::OutOfOrderSequence { .. } | AppendError::InvalidProducerEpoch { .. })) => {
                let is_replaced = || found.view.leader_epoch < world.ownership(partition).epoch;
                assert!(!world.is_of_today(broker) || is_replaced(), "partition {partition}: {error}");
                break; // it was replaced, and does not know
            }
            Err(_retriable) => break,
        }
    }
}

/// Reads a partition from wherever it is led, again and again, until told to stop.
pub async fn consume(world: Rc<World>, partition: i32, seed: u64) {
    let mut random = Rng(seed);
    let mut next = 0;
    while !world.stop.get() {
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        if random.below(20) == 0 {
            next = world.ownership_if_any(partition).map_or(0, |v| v.log_start.0); // all of it once more
        }
        let Some((broker, found)) = world.leader(&world.key(partition), &mut random) else { continue };
        if broker.link.is_paused() {
            continue;
        }
        if world.is_of_today(&broker) {
            let confirmed = world.ownership(partition).log_start;
            let shown = found.view.log_start();
            assert!(
                shown <= confirmed,
                "partition {partition}: {confirmed} is the log start that is stored, not {shown}"
            );
        }
        let bytes_max = random.below(3_000) as usize;
        let read = broker.reader.read(&found.view, Offset(next), bytes_max, true);
        let Ok(read) = tokio::time::timeout(ACK_TIMEOUT, read).await else { continue };
        let epoch = world.ownership_if_any(partition).map(|v| v.epoch);
        let leads = world.is_of_today(&broker) && epoch == Some(found.view.leader_epoch) && !found.view.is_closed();
        match read {
            Ok(batches) => next = hear(&world, partition, next, &batches),
            Err(ReadError::OutOfRange) if next < found.view.log_start().0 => next = found.view.log_start().0,
            Err(error @ (ReadError::OutOfRange | ReadError::Store(StoreError::NotFound { .. }))) => {
                assert!(!leads, "partition {partition}: {next} could be read before: {error}");
            }
            Err(ReadError::Store(_)) => world.trace.happened("client: a read failed"),
        }
    }
}

/// Takes what was read from `next` on. Returns what to read next.
fn hear(world: &World, partition: i32, mut next: i64, batches: &[StoredBatch]) -> i64 {
    for batch in batches {
        let bytes = [&batch.head[..], &batch.tail[..]].concat().into();
        let from = next;
        for record in read_records(&bytes).expect("whole batches").iter().filter(|r| r.offset >= from) {
            assert_eq!(record.offset, next, "partition {partition}: a hole was read");
            world.told(partition, |told| told.hear(partition, next, value(record.value.as_ref()), "read"));
            next += 1;
        }
    }
    world.trace.event(format_args!("read {partition} up to {next}"));
    next
}

/// A producer's value.
pub fn value(bytes: Option<&bytes::Bytes>) -> u64 {
    u64::from_be_bytes(bytes.expect("a value")[..].try_into().expect("eight bytes"))
}

/// Deletes records of one partition now and then, until told to stop.
pub async fn trim(world: Rc<World>, partition: i32, seed: u64) {
    let mut random = Rng(seed);
    while !world.stop.get() {
        tokio::time::sleep(Duration::from_millis(random.below(20_000))).await;
        let key = world.key(partition);
        let Some((broker, found)) = world.leader(&key, &mut random) else { continue };
        let to = world.told(partition, |told| {
            let to = random.below(1 + told.acked_end as u64) as i64;
            told.trim_asked = told.trim_asked.max(to);
            to
        });
        if broker.link.is_paused() || to > found.view.high_watermark().0 {
            continue; // in the second case it was replaced, and does not know
        }
        let (raises, age) = ([(key, Offset(to))], world.age.get());
        let raise = broker.context.raise_log_starts(&raises);
        if let Ok(Ok(())) = tokio::time::timeout(ACK_TIMEOUT, raise).await {
            world.trace.happened("client: records deleted");
            world.trace.event(format_args!("trimmed {partition} to {to}"));
            if world.age.get() == age {
                world.told(partition, |told| told.trimmed = told.trimmed.max(to));
            }
        }
    }
}

/// Creates topics, writes to them and deletes them, until told to stop.
pub async fn churn(world: Rc<World>, seed: u64) {
    let mut random = Rng(seed);
    let mut topics = 0;
    while !world.stop.get() {
        tokio::time::sleep(Duration::from_millis(random.below(20_000))).await;
        topics += 1;
        let name = format!("churn{topics}");
        let created = world.admin().create_topic(&name, PARTITIONS_OF_CHURN, BTreeMap::new(), Vec::new()).await;
        let topic = created.expect("no faults").id;
        for _ in 0..random.below(20) {
            tokio::time::sleep(Duration::from_millis(random.below(500))).await;
            let partition = PartitionIndex(random.below(PARTITIONS_OF_CHURN as u64) as i32);
            let leader = world.leader(&PartitionKey { topic, partition }, &mut random);
            let batch = Batch { base_timestamp_ms: world.clock.wall_ms(), ..Batch::of(&[b"churn"]) }.encode();
            let header = BatchHeader::parse(&batch).expect("a batch");
            let batch = ValidBatch { bytes: batch, header, log_append_time_ms: None };
            if let Some(Ok(receiver)) = leader.map(|(_, found)| found.append(batch)) {
                drop(tokio::time::timeout(Duration::from_secs(1), receiver).await);
            }
        }
        let age = world.age.get();
        let deleted = world.admin().delete_topic(&name, topic).await;
        assert!(deleted.is_ok() || age > 0, "{name}: {deleted:?}"); // a backup may not have it
        world.trace.happened("client: topic deleted");
    }
}

/// Commits ever greater offsets until told to stop, and looks at what is committed.
pub async fn commit(world: Rc<World>, group: u64, seed: u64) {
    let mut random = Rng(seed);
    let mut offset = 0;
    let name = format!("g{group}");
    while !world.stop.get() {
        tokio::time::sleep(Duration::from_millis(random.below(100))).await;
        let Some(broker) = world.coordinator(&name, &mut random) else { continue };
        if random.below(10) == 0 {
            check_group(&world, &broker, group).await;
            continue;
        }
        offset += 1;
        let partition = random.below(PARTITIONS as u64) as i32;
        let committed = Committed {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch(-1),
            metadata: String::new(),
            commit_ms: world.clock.wall_ms(),
            expire_ms: None,
        };
        let topic_id = world.topic.get().expect("created first");
        let partition_index = PartitionIndex(partition);
        let commit = OffsetToCommit { topic: "sim".into(), topic_id, partition: partition_index, committed };
        let (nobody, age) = (Caller { generation: -1, ..Caller::default() }, world.age.get());
        let call = broker.groups.call(Call::Commit(name.as_str().into(), nobody, vec![commit]));
        match tokio::time::timeout(ACK_TIMEOUT, call).await {
            Ok(Ok(Answer::Committed(rows))) => {
                assert_eq!(rows, [Ok(())]);
                world.trace.event(format_args!("committed {group} {partition} {offset}"));
                if world.age.get() == age {
                    world.committed.borrow_mut().insert((group, partition), offset);
                }
            }
            Ok(Ok(other)) => panic!("{other:?} to a commit"),
            Ok(Err(_)) | Err(_) => {} // perhaps committed
        }
    }
}

/// A process has every offset that anybody knows of, of the groups that it coordinates.
pub async fn check_offsets(world: &World, broker: &Reachable) {
    for group in 0..GROUPS {
        let mut attempts = 0;
        while broker.groups.coordinates(&format!("g{group}")) && !check_group(world, broker, group).await {
            attempts += 1;
            assert!(attempts < OFFSETS_ATTEMPTS_MAX, "group {group}: its coordinator never answers");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// If the process coordinates the group, it has every offset that anybody knows of. False if it does not answer.
async fn check_group(world: &World, broker: &Reachable, group: u64) -> bool {
    let (name, writer) = (format!("g{group}"), broker.context.registration.writer);
    let known = world.committed.borrow().clone();
    let was_coordinator = world.may_coordinate(writer, &name);
    let call = broker.groups.call(Call::Fetch(name.as_str().into(), None, None));
    let fetched = match tokio::time::timeout(ACK_TIMEOUT, call).await {
        Ok(Ok(Answer::Fetched(fetched))) => fetched,
        Ok(Ok(other)) => panic!("{other:?} to a fetch"),
        Ok(Err(_)) | Err(_) => return false,
    };
    if !(was_coordinator && world.may_coordinate(writer, &name) && world.is_of_today(broker)) {
        return true; // another one has perhaps newer offsets
    }
    let offsets: BTreeMap<i32, i64> =
        fetched.into_iter().map(|f| (f.partition.0, f.committed.expect("all of them").offset.0)).collect();
    for ((_, partition), least) in known.iter().filter(|((g, _), _)| *g == group) {
        let found = offsets.get(partition).copied();
        assert!(found >= Some(*least), "group {group}, partition {partition}: {found:?} after {least}");
    }
    let mut committed = world.committed.borrow_mut();
    for (partition, offset) in offsets {
        let highest = committed.entry((group, partition)).or_default();
        *highest = offset.max(*highest);
    }
    true
}
