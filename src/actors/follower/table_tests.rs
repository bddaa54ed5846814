use super::*;
use crate::actors::partition::view::{Extent, LogState, ObjectRef};
use crate::clock::{Clock, monotonic};
use crate::ids::{Offset, PartitionIndex, TopicId};
use crate::metadata::keys::Keys;
use crate::metadata::{Entry, WatchEvent, model};
use crate::storage::ObjectKey;

const WRITER: WriterId = WriterId(7);
const EPOCH: LeaderEpoch = LeaderEpoch(4);
const LIMITS: FollowerLimits =
    FollowerLimits { views_max: 3, extents_max: 10, idle: Duration::from_secs(60), linger: Duration::from_secs(1) };

fn key(partition: i32) -> PartitionKey {
    PartitionKey { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(partition) }
}

fn pulse() -> Pulse {
    Pulse { standing: Standing::new(Clock::simulated(0), Duration::from_secs(10)), wake: Notify::new() }
}

fn view(partition: i32, extents: i64) -> Arc<PartitionView> {
    let object = Arc::new(ObjectRef { key: ObjectKey::new("o"), level: 0, len: 100, created_ms: 0 });
    let extent = |n| Extent {
        base: Offset(n),
        next: Offset(n + 1),
        object: object.clone(),
        position: 0,
        len: 1,
        max_timestamp: 0,
        leader_epoch: EPOCH,
    };
    let log = LogState { extents: (0..extents).map(extent).collect(), ..LogState::default() };
    Arc::new(PartitionView::new(key(partition), EPOCH, Offset(0), Offset(extents), log))
}

fn image(partitions: &[(i32, Option<WriterId>, LeaderEpoch)]) -> ClusterImage {
    let (keys, mut image) = (Keys::new("test"), ClusterImage::default());
    for (partition, owner, epoch) in partitions {
        let value = PartitionValue { v: 1, owner: *owner, epoch: *epoch, history: vec![WRITER], log_start: Offset(0) };
        let (key, value) = (keys.partition(&key(*partition)), model::encode(&value));
        image.apply(&keys, WatchEvent::Put(Entry { key, value, create_revision: 1, mod_revision: 1 }));
    }
    image
}

impl Table {
    fn read(&mut self, partition: i32, now: Instant) -> Option<bool> {
        self.enter(WRITER, key(partition), EPOCH, now, pulse).map(|(_, is_new)| is_new)
    }

    fn is_ready(&mut self, partition: i32) -> bool {
        matches!(self.look(WRITER, &key(partition), EPOCH), Look::Ready(_))
    }
}

#[tokio::test(start_paused = true)]
async fn views_and_extents_are_bounded() {
    let (mut table, now) = (Table::new(LIMITS), monotonic());
    assert_eq!([0, 1, 2, 3].map(|p| table.read(p, now)), [Some(true), Some(false), Some(false), None]);
    assert_eq!(table.size(), (3, 0));
    assert!(matches!(table.look(WRITER, &key(0), EPOCH), Look::Pending));
    assert!(matches!(table.look(WRITER, &key(3), EPOCH), Look::Refused));
    let (first, second) = (view(0, 6), view(1, 5));
    table.serve(WRITER, &first);
    assert_eq!((table.is_ready(0), table.size()), (true, (3, 6)));
    table.serve(WRITER, &second);
    assert!(second.is_closed() && !table.is_ready(1), "that would be too much");
    assert_eq!((table.read(1, now), table.size()), (None, (3, 6)), "and it is not tried again at once");
    // One that grows too much is let go.
    first.update(Offset(6), Offset(0), |log| log.extents.extend(view(0, 6).with_log(|l| l.extents.clone())));
    table.serve(WRITER, &first);
    assert!(first.is_closed());
    assert_eq!(table.size(), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_reads_is_dropped() {
    let (mut table, start) = (Table::new(LIMITS), monotonic());
    let at = |ms: u64| start + Duration::from_millis(ms);
    assert_eq!((table.read(0, start), table.read(1, start)), (Some(true), Some(false)));
    let views = [view(0, 1), view(1, 1)];
    views.iter().for_each(|view| table.serve(WRITER, view));
    table.leave(WRITER, &key(0), EPOCH, start);
    assert_eq!(table.rest(WRITER, at(59_000)), Rest::Read, "one is being read");
    assert_eq!((table.rest(WRITER, at(60_000)), table.size()), (Rest::Read, (1, 1)));
    assert!(views[0].is_closed() && !views[1].is_closed());
    table.leave(WRITER, &key(1), EPOCH, at(60_000));
    assert_eq!(table.rest(WRITER, at(60_999)), Rest::Read, "somebody may come back at once");
    assert_eq!(table.rest(WRITER, at(61_000)), Rest::Idle);
    assert_eq!((table.rest(WRITER, at(120_000)), table.size()), (Rest::Over, (0, 0)));
    assert!(views[1].is_closed());
    assert_eq!(table.read(0, at(120_000)), Some(true), "it needs a task again");
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_tried_again_later() {
    let (mut table, start) = (Table::new(LIMITS), monotonic());
    table.read(0, start);
    table.read(1, start);
    table.refuse(WRITER, &key(0), EPOCH);
    table.leave(WRITER, &key(0), EPOCH, start);
    assert_eq!(table.rest(WRITER, start + Duration::from_secs(59)), Rest::Read);
    assert_eq!(table.read(0, start + Duration::from_secs(59)), None);
    assert_eq!(table.rest(WRITER, start + Duration::from_secs(60)), Rest::Read);
    assert_eq!(table.read(0, start + Duration::from_secs(60)), Some(false));
}

#[tokio::test(start_paused = true)]
async fn partitions_of_others_are_closed() {
    let (mut table, now) = (Table::new(LIMITS), monotonic());
    let views: Vec<_> = (0..3).map(|p| view(p, 1)).collect();
    for view in &views {
        table.read(view.key.partition.0, now);
        table.serve(WRITER, view);
    }
    let mine = |p| (p, Some(WRITER), EPOCH);
    let worked = |table: &mut Table, image: &ClusterImage| {
        let (work, load) = table.work(WRITER, image);
        (work.iter().map(|w| w.key.partition.0).collect::<Vec<_>>(), load)
    };
    assert_eq!(worked(&mut table, &image(&[mine(0), mine(1), mine(2)])), (vec![0, 1, 2], false));
    // One is another's, one was claimed again.
    let moved = image(&[(0, Some(WriterId(8)), LeaderEpoch(5)), mine(1), (2, Some(WRITER), LeaderEpoch(6))]);
    assert_eq!(worked(&mut table, &moved), (vec![1], false));
    assert_eq!(views.iter().map(|v| v.is_closed()).collect::<Vec<_>>(), [true, false, true]);
    assert!(matches!(table.look(WRITER, &key(0), EPOCH), Look::Refused));
    // Nobody's, or of a topic that is gone.
    assert_eq!(worked(&mut table, &image(&[(1, None, EPOCH)])), (vec![], false));
    assert!(views[1].is_closed());
    assert_eq!(table.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_newer_claim_takes_the_place_of_an_older_one() {
    let (mut table, now) = (Table::new(LIMITS), monotonic());
    let old = view(0, 1);
    table.read(0, now);
    table.serve(WRITER, &old);
    let newer = LeaderEpoch(EPOCH.0 + 2);
    assert!(table.enter(WRITER, key(0), newer, now, pulse).is_some());
    assert!(old.is_closed());
    table.leave(WRITER, &key(0), EPOCH, now); // the reader of the old one
    assert!(matches!(table.look(WRITER, &key(0), newer), Look::Pending));
    table.serve(WRITER, &old);
    assert!(matches!(table.look(WRITER, &key(0), newer), Look::Pending), "what comes late is not served");
    assert_eq!(table.size(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_task_ends_only_what_was_its_own() {
    let (mut table, now) = (Table::new(LIMITS), monotonic());
    let (first, _) = table.enter(WRITER, key(0), EPOCH, now, pulse).unwrap();
    let served = view(0, 1);
    table.serve(WRITER, &served);
    table.reload(WRITER);
    assert!(table.work(WRITER, &image(&[(0, Some(WRITER), EPOCH)])).1, "asked for");
    table.end(WRITER, &first);
    assert!(served.is_closed());
    let (second, is_new) = table.enter(WRITER, key(0), EPOCH, now, pulse).unwrap();
    assert!(is_new);
    table.end(WRITER, &first);
    assert_eq!(table.size(), (1, 0));
    table.end(WRITER, &second);
    assert_eq!(table.size(), (0, 0));
}
