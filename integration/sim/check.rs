//! What must hold at the end.

use super::{PARTITIONS, Process, World};
use crate::client::read_records;
use kafscale::ids::Seq;
use kafscale::storage::{ObjectKey, ObjectStore};
use std::collections::{BTreeSet, HashMap, HashSet};
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

/// Deletes all that can be deleted.
pub async fn scrub(last: &Process) {
    let mut maintenance = last.maintenance.lock().await;
    for _ in 0..2 {
        while !maintenance.scrub_page().await.expect("no faults") {}
        tokio::time::sleep(Duration::from_secs(60)).await;
        maintenance.checkpoint().await.expect("no faults");
        while maintenance.collect().await.expect("no faults") > 0 {}
    }
}

/// Everything is as the clients were told, and every object that the partitions consist of exists. `last` leads them all.
pub async fn check(world: &World, last: &Process) {
    let acked = world.acked.borrow().clone();
    let mut seen = HashSet::new();
    for partition in 0..PARTITIONS {
        let found = last.context.directory.get(&world.key(partition)).expect("led");
        let extents: Vec<_> = found.view.with_log(|log| log.extents.iter().cloned().collect());
        let (mut next, mut latest) = (0, HashMap::new());
        for extent in extents {
            let range = extent.position..extent.position + extent.len;
            let bytes = world.raw.get_range(&extent.object.key, range).await.expect("a referenced object exists");
            for record in read_records(&bytes).expect("whole batches") {
                assert_eq!(record.offset, next, "partition {partition}: offsets are dense");
                next += 1;
                let value = record.value.expect("a value");
                let id = u64::from_be_bytes(value[..].try_into().expect("eight bytes"));
                assert!(seen.insert(id), "partition {partition}: value {id:x} is there twice");
                let before = latest.insert(id >> 32, id);
                assert!(before.is_none_or(|b| b + 1 == id), "partition {partition}: {id:x} after {before:x?}");
                if let Some(expected) = acked.get(&(partition, record.offset)) {
                    assert_eq!(*expected, id, "partition {partition}, offset {}: another value", record.offset);
                }
            }
        }
        assert_eq!(found.view.high_watermark().0, next, "all that is committed is read");
    }
    let lost: Vec<_> = acked.values().filter(|id| !seen.contains(id)).collect();
    assert!(lost.is_empty(), "acked and gone: {lost:x?}");
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
