//! What must hold at the end.

use super::clients::value;
use super::world::Told;
use super::{PARTITIONS, Process, World, compacted};
use crate::client::read_records;
use kafscale::actors::membership::LEASE_TTL;
use kafscale::ids::Seq;
use kafscale::storage::checkpoint::Checkpoint;
use kafscale::storage::layout::ParsedKey;
use kafscale::storage::{ObjectKey, ObjectStore};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Keys of all objects.
pub async fn keys(world: &World) -> BTreeSet<ObjectKey> {
    let mut keys = BTreeSet::new();
    loop {
        let page = world.raw.list("", keys.last()).await.expect("no faults");
        if page.is_empty() {
            return keys;
        }
        keys.extend(page.into_iter().map(|o| o.key));
    }
}

/// Forgets and deletes all that can be: writers and topics of the past, and objects that nothing refers to.
pub async fn clean_up(last: &Process) {
    tokio::time::sleep(2 * LEASE_TTL).await;
    for _ in 0..2 {
        let mut maintenance = last.maintenance.lock().await;
        maintenance.bury_topics(true).await.expect("no faults");
        maintenance.forget_writers().await.expect("no faults"); // partitions of deleted topics name them no more
        while !maintenance.scrub_page().await.expect("no faults") {}
        drop(maintenance);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut maintenance = last.maintenance.lock().await;
        maintenance.checkpoint().await.expect("no faults");
        while maintenance.collect().await.expect("no faults") > 0 {}
    }
}

/// Nothing is stored but what is needed: no writer but `last`, no deleted topic, no object that nothing refers to.
pub async fn nothing_is_left(world: &World, last: &Process) {
    let _steady = last.maintenance.lock().await;
    let me = last.context.registration.writer;
    let mut writers = last.context.ownership.writers().await.expect("no faults");
    let (value, _) = writers.remove(&me).expect("it is registered");
    assert!(writers.is_empty(), "writers of the past: {writers:?}");
    let partitions = last.context.ownership.partitions().await.expect("no faults");
    let expected = compacted::partitions(world).len();
    assert_eq!(partitions.len(), expected, "of deleted topics: {partitions:?}");
    let pointer = value.checkpoint.expect("it was just written");
    let key = ObjectKey::new(pointer.key.as_str());
    let (bytes, _) = world.raw.get_suffix(&key, u64::from(u32::MAX)).await.expect("it is pointed to");
    let checkpoint = Checkpoint::decode(&key, &bytes).expect("no faults");
    let mut left = keys(world).await;
    left.retain(|key| !matches!(last.context.layout.parse(key), Some(ParsedKey::Wal { writer, .. }) if writer == me));
    let layout = &last.context.layout;
    for needed in [&key, &layout.cluster(), &layout.registered(me)] {
        left.remove(needed);
    }
    for known in checkpoint.objects.iter().map(|o| &o.key).chain(checkpoint.garbage.iter().map(|g| &g.key)) {
        left.remove(&ObjectKey::new(known.as_str()));
    }
    assert!(left.is_empty(), "nothing refers to {left:?}");
}

/// Everything is as the clients were told, and every object that the partitions consist of exists. `last` leads them all.
pub async fn check(world: &World, last: &Process) {
    for partition in 0..PARTITIONS {
        let told = world.told(partition, |told| told.clone());
        check_log(world, last, partition, &told).await;
    }
    for (writer, (value, _)) in last.context.ownership.writers().await.expect("no faults") {
        let from = value.checkpoint.as_ref().map_or(0, |c| c.seq.0);
        for seq in from + 1..=value.head.0 {
            let key = last.context.layout.wal(writer, value.nonce, Seq(seq));
            // A predecessor's slots may be collected once the first checkpoint of its successor has their contents.
            if writer == last.context.registration.writer {
                assert!(world.raw.head(&key).await.expect("no faults").is_some(), "slot {key} is missing");
            }
        }
    }
}

async fn check_log(world: &World, last: &Process, partition: i32, told: &Told) {
    let found = last.context.directory.get(&world.key(partition)).expect("led");
    let (log_start, end) = (found.view.log_start().0, found.view.high_watermark().0);
    let may = told.trimmed..=told.trim_asked;
    assert!(may.contains(&log_start), "partition {partition}: log start {log_start}, {may:?} was asked for");
    assert_eq!(world.ownership(partition).log_start.0, log_start, "partition {partition}: the stored log start");
    let extents: Vec<_> = found.view.with_log(|log| log.extents.iter().cloned().collect());
    let (mut next, mut latest, mut seen) = (None, BTreeMap::new(), BTreeMap::new());
    for extent in extents {
        let range = extent.position..extent.position + extent.len;
        let bytes = world.raw.get_range(&extent.object.key, range).await.expect("a referenced object exists");
        for record in read_records(&bytes).expect("whole batches") {
            let id = value(record.value.as_ref());
            assert_eq!(record.offset, next.unwrap_or(record.offset), "partition {partition}: offsets are dense");
            next = Some(record.offset + 1);
            assert_eq!(seen.insert(id, record.offset), None, "partition {partition}: value {id:x} is there twice");
            let before = latest.insert(id >> 32, id);
            assert!(before.is_none_or(|b| b + 1 == id), "partition {partition}: {id:x} after {before:x?}");
            if let Some(expected) = told.values.get(&record.offset) {
                assert_eq!(*expected, id, "partition {partition}, offset {}: another value", record.offset);
            }
        }
    }
    assert_eq!(next.unwrap_or(log_start), end, "partition {partition}: all that is committed is read");
    let lost: Vec<_> = told.offsets.iter().filter(|(id, o)| **o >= log_start && !seen.contains_key(id)).collect();
    assert!(lost.is_empty(), "partition {partition}, from {log_start} to {end}: acked or read, and gone: {lost:x?}");
    let first = seen.values().min();
    assert!(first.is_none_or(|first| *first <= log_start), "partition {partition}: nothing at its start {log_start}");
}
