//! The scrub on memory stores and paused time: what nothing ever referred to goes, in its time; everything else stays.

use crate::client::Batch;
use crate::sim::{Process, World, keys};
use crate::workload::Rng;
use bytes::Bytes;
use kafscale::actors::partition::handle::ValidBatch;
use kafscale::ids::{LeaderEpoch, Offset, Seq, WriterId};
use kafscale::protocol::batch::{BatchHeader, StoredBatch};
use kafscale::storage::checkpoint::Checkpoint;
use kafscale::storage::segment::{self, ExtentInput, SegmentHeader};
use kafscale::storage::{ObjectKey, ObjectStore, Payload};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::LocalSet;

fn batch(value: u64) -> ValidBatch {
    let bytes = Batch::of(&[&value.to_be_bytes()]).encode();
    let header = BatchHeader::parse(&bytes).unwrap();
    ValidBatch { bytes, header, log_append_time_ms: None }
}

/// Appends a value; each has to be one more than the one before.
async fn produce(world: &World, process: &Process, value: u64) {
    let partition = process.context.directory.get(&world.key(0)).expect("led");
    partition.append(batch(value)).unwrap().await.unwrap().unwrap();
}

/// A segment as `writer` of `cluster_id` would have written it.
fn segment(
    world: &World,
    cluster_id: &str,
    level: u8,
    writer: u64,
    nonce: u64,
    seq: u64,
    revision_seen: i64,
) -> Payload {
    let cluster_id = cluster_id.to_owned();
    let (writer, seq) = (WriterId(writer), Seq(seq));
    let header = SegmentHeader { cluster_id, level, writer, nonce, seq, revision_seen };
    let valid = batch(0);
    let batches = vec![StoredBatch::assign(&valid.bytes, &valid.header, Offset(0), LeaderEpoch(0))];
    let extent = ExtentInput { key: world.key(0), leader_epoch: LeaderEpoch(0), batches };
    segment::build(&header, vec![extent]).0
}

/// A checkpoint of a slot, with nothing in it.
fn checkpoint_of(writer: u64, nonce: u64, seq: Seq, cluster_id: &str) -> Payload {
    let (cluster_id, writer, garbage) = (cluster_id.to_owned(), WriterId(writer), Vec::new());
    let (objects, partitions) = (Vec::new(), Vec::new());
    let (revision_seen, catalog) = (1, None);
    let all = Checkpoint { cluster_id, writer, nonce, seq, revision_seen, objects, partitions, garbage, catalog };
    all.encode()
}

async fn pass(process: &Process) {
    let mut maintenance = process.maintenance.lock().await;
    while !maintenance.scrub_page().await.unwrap() {}
}

async fn collect(process: &Process) {
    while process.maintenance.lock().await.collect().await.unwrap() > 0 {}
}

async fn scenario() {
    let world: Rc<World> = World::new(&mut Rng(7)).await;
    // Two predecessors with data, which nothing names any more once the third process has what they had.
    for value in 0..2 {
        let process = Process::start(&world).await.unwrap();
        produce(&world, &process, value).await;
        process.maintenance.lock().await.checkpoint().await.unwrap();
    }
    let process = Process::start(&world).await.unwrap();
    produce(&world, &process, 2).await;
    process.maintenance.lock().await.forget_writers().await.unwrap();
    let context = process.context.clone();
    let (layout, cluster, me) = (context.layout.clone(), context.cluster_id.clone(), &context.registration);
    assert_eq!(me.writer, WriterId(3), "writers are counted from 1");
    let ulid = || kafscale::rng::ulid(world.clock.wall_ms());
    let seg = |level, writer, nonce, seq| segment(&world, &cluster, level, writer, nonce, seq, 1);
    let checkpoint = |writer: u64, cluster_id: &str| checkpoint_of(writer, 9, Seq(4), cluster_id);
    let orphans = [
        (layout.merged(WriterId(1), Seq(0), Seq(4), ulid()), seg(1, 1, 9, 4)),
        (layout.merged(WriterId(2), Seq(0), Seq(4), ulid()), seg(1, 2, 9, 4)),
        (layout.merged(me.writer, Seq(0), Seq(4), ulid()), seg(1, me.writer.0, me.nonce, 4)),
        (layout.wal(WriterId(1), 9, Seq(40)), seg(0, 1, 9, 40)),
        (layout.segment(&world.key(0), Offset(0), Offset(1), ulid()), seg(2, 1, 9, 4)),
        (layout.checkpoint(WriterId(1), 9, Seq(4), ulid()), checkpoint(1, &cluster)),
        (layout.probe(ulid()), Payload::new(vec![Bytes::from_static(b"probe")], 1)),
    ];
    let mut foreign_topic = world.key(0);
    foreign_topic.topic.0 = uuid::Uuid::from_u128(99);
    let kept = [
        // Not ours by their keys, or not what their keys say.
        (ObjectKey::new("sim/README.txt"), Payload::new(vec![Bytes::from_static(b"hands off")], 1)),
        (ObjectKey::new("other/merged/x"), seg(1, 1, 9, 4)),
        (layout.merged(WriterId(1), Seq(0), Seq(4), ulid()), Payload::new(vec![Bytes::from_static(b"?")], 1)),
        (layout.merged(WriterId(1), Seq(0), Seq(4), ulid()), seg(1, 2, 9, 4)),
        (layout.checkpoint(WriterId(1), 9, Seq(4), ulid()), checkpoint(1, "CCCCCCCCCCCCCCCCCCCCCC")),
        // From a future that the metadata store does not remember.
        (layout.merged(WriterId(1), Seq(0), Seq(4), ulid()), segment(&world, &cluster, 1, 1, 9, 4, 1 << 40)),
        // Our own WAL, a writer that is newer, a partition that is not ours.
        (layout.wal(me.writer, me.nonce, Seq(40)), seg(0, me.writer.0, me.nonce, 40)),
        (layout.merged(WriterId(4), Seq(0), Seq(4), ulid()), seg(1, 4, 9, 4)),
        (layout.segment(&foreign_topic, Offset(0), Offset(1), ulid()), seg(2, 1, 9, 4)),
    ];
    // That the forgotten two were registered is of no use any more either.
    let mut registered = world.raw.list(&layout.all_registered(), None).await.unwrap();
    registered.retain(|object| object.key != layout.registered(me.writer));
    assert_eq!(registered.len(), 2);
    let count = (orphans.len() + registered.len()) as u64;
    for (key, payload) in orphans.iter().chain(&kept) {
        world.raw.create(key, payload).await.unwrap();
    }
    let stats = &context.stats;

    pass(&process).await;
    assert_eq!(stats.scrub_orphaned_objects.load(Ordering::Relaxed), 0, "nothing is old enough");
    tokio::time::sleep(Duration::from_secs(1)).await;
    pass(&process).await;
    assert_eq!(stats.scrub_orphaned_objects.load(Ordering::Relaxed), count);
    let bytes: u64 = orphans.iter().map(|(_, p)| p.len).chain(registered.iter().map(|o| o.len)).sum();
    assert_eq!(stats.scrub_orphaned_bytes.load(Ordering::Relaxed), bytes);
    collect(&process).await;
    let still = keys(&world).await;
    assert!(orphans.iter().all(|(key, _)| still.contains(key)), "the scrub deletes nothing, and garbage has to age");

    // Another pass finds nothing new: what is on the list is not nominated twice.
    pass(&process).await;
    assert_eq!(stats.scrub_orphaned_objects.load(Ordering::Relaxed), count);
    tokio::time::sleep(Duration::from_secs(3)).await;
    collect(&process).await;
    let after = keys(&world).await;
    for key in orphans.iter().map(|(key, _)| key).chain(registered.iter().map(|object| &object.key)) {
        assert!(!after.contains(key), "{key} is an orphan");
    }
    for (key, _) in &kept {
        assert!(after.contains(key), "{key} is not to be touched");
    }
    crate::sim::check(&world, &process).await;
}

#[test]
fn orphans_go_after_they_have_aged_on_the_garbage_list_and_nothing_else_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(scenario()));
}

#[test]
fn a_writer_that_was_sealed_nominates_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        let world = World::new(&mut Rng(8)).await;
        let old = Process::start(&world).await.unwrap();
        produce(&world, &old, 0).await;
        let registration = &old.context.registration;
        let (writer, nonce) = (registration.writer, registration.nonce);
        // Of the slot that the head is at: one above it would say that the metadata store has gone back.
        let key = old.context.layout.checkpoint(writer, nonce, Seq(1), kafscale::rng::ulid(1));
        let payload = checkpoint_of(writer.0, nonce, Seq(1), &old.context.cluster_id);
        world.raw.create(&key, &payload).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let _new = Process::start(&world).await.unwrap();
        old.maintenance.lock().await.scrub_page().await.expect_err("it is not its to say any more");
        assert_eq!(old.context.stats.scrub_orphaned_objects.load(Ordering::Relaxed), 0);
    }));
}
