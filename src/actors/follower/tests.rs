use super::*;
use crate::actors::partition::view::PartitionView;
use crate::ids::{Offset, Seq};
use crate::metadata::embedded::EmbeddedStore;
use crate::metadata::model::{self, CheckpointRef, LiveValue, PartitionValue};
use crate::metadata::ownership::Registration;
use crate::metadata::{Entry, LeaseId, MetadataError, Revision, Txn, TxnOutcome, WatchEvent};
use crate::storage::checkpoint::Checkpoint;
use crate::storage::fault::{Fault, FaultStore, Op};
use crate::storage::layout::Layout;
use crate::storage::memory::MemoryStore;
use crate::storage::replica::ReplicaStore;
use crate::storage::segment::{self, ExtentInput, SegmentHeader};
use crate::storage::testkit::{partition, stored_batch};
use crate::storage::{ObjectKey, ObjectStore};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;

const CLUSTER: &str = "cluster";
const WRITER: WriterId = WriterId(7);
const ME: WriterId = WriterId(9);
const NONCE: u64 = 0xabc;
const EPOCH: LeaderEpoch = LeaderEpoch(5);
const LEASE: Duration = Duration::from_secs(10);

/// A metadata store that can be cut off.
#[derive(Debug)]
struct Link {
    store: EmbeddedStore,
    cut: AtomicBool,
}

impl Link {
    fn check(&self) -> Result<(), MetadataError> {
        match self.cut.load(Ordering::SeqCst) {
            true => Err(MetadataError::Unavailable { message: "cut".into() }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl MetadataStore for Link {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        self.check()?;
        self.store.get(key).await
    }

    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError> {
        self.check()?;
        self.store.get_prefix(prefix).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        self.store.txn(txn).await
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        self.store.watch(prefix)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.store.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.store.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.store.lease_revoke(lease).await
    }
}

/// A writer elsewhere, played by hand, and somebody who follows it.
struct Bed {
    link: Arc<Link>,
    keys: Keys,
    layout: Layout,
    ownership: Ownership,
    registration: Registration,
    primary: Arc<FaultStore>,
    copy: Arc<FaultStore>,
    image: Arc<ArcSwap<ClusterImage>>,
    followers: Arc<Followers>,
    next: i64,
}

impl Bed {
    async fn new() -> Self {
        let clock = Clock::simulated(0);
        let link = Arc::new(Link { store: EmbeddedStore::in_memory(), cut: AtomicBool::new(false) });
        let (keys, layout) = (Keys::new("test"), Layout::new("test"));
        let ownership = Ownership::new(link.clone(), keys.clone());
        let live = LiveValue::sample(1);
        let registration = ownership.register(WRITER, NONCE, &live, Duration::from_secs(1 << 30)).await.unwrap();
        let memory = || Arc::new(FaultStore::scripted(Arc::new(MemoryStore::new(clock))));
        let (primary, copy) = (memory(), memory());
        let recovery = |store: Arc<dyn ObjectStore>| Recovery {
            store,
            layout: layout.clone(),
            cluster_id: CLUSTER.to_owned(),
            ahead: Arc::default(),
        };
        let sources = Sources {
            ownership: ownership.clone(),
            metadata: link.clone(),
            keys: keys.clone(),
            copy: recovery(Arc::new(ReplicaStore::new(primary.clone(), copy.clone()))),
            primary: recovery(primary.clone()),
        };
        let image: Arc<ArcSwap<ClusterImage>> = Arc::default();
        let limits = FollowerLimits::default();
        let followers = Followers::new(ME, sources, image.clone(), IoPool::current(), clock, LEASE, limits);
        let followers = Arc::new(followers);
        let bed = Self { link, keys, layout, ownership, registration, primary, copy, image, followers, next: 0 };
        bed.owned(Some(WRITER), LeaderEpoch(0), 0);
        bed
    }

    /// What the image says of the partition.
    fn owned(&self, owner: Option<WriterId>, epoch: LeaderEpoch, log_start: i64) {
        let history = vec![owner.unwrap_or(WRITER)];
        let value = PartitionValue { v: 1, owner, epoch, history, log_start: Offset(log_start) };
        self.put(self.keys.partition(&partition(1)), model::encode(&value));
    }

    /// What it says of this broker.
    fn draining(&self, draining: bool) {
        self.put(self.keys.live(ME), model::encode(&LiveValue { draining, ..LiveValue::sample(2) }));
    }

    fn put(&self, key: String, value: Bytes) {
        let mut image = ClusterImage::clone(&self.image.load());
        let warnings =
            image.apply(&self.keys, WatchEvent::Put(Entry { key, value, create_revision: 1, mod_revision: 1 }));
        assert_eq!(warnings, Vec::<String>::new());
        self.image.store(Arc::new(image));
    }

    /// An object for the next slot with `count` records, not committed; its key.
    async fn upload(&mut self, count: i32) -> ObjectKey {
        let seq = self.registration.value.head.next();
        let header = SegmentHeader {
            cluster_id: CLUSTER.to_owned(),
            level: 0,
            writer: WRITER,
            nonce: NONCE,
            seq,
            revision_seen: self.registration.revision,
        };
        let batches = vec![stored_batch(self.next, count, 100, 1)];
        let extent = ExtentInput { key: partition(1), leader_epoch: EPOCH, batches };
        let other = ExtentInput { key: partition(0), leader_epoch: EPOCH, batches: vec![stored_batch(0, 1, 9, 1)] };
        let (payload, _) = segment::build(&header, vec![extent, other]);
        let key = self.layout.wal(WRITER, NONCE, seq);
        self.primary.create(&key, &payload).await.unwrap();
        self.next += i64::from(count);
        key
    }

    /// The head covers the next slot.
    async fn commit(&mut self, checkpoint: Option<&CheckpointRef>, slots: u64) {
        let head = Seq(self.registration.value.head.0 + slots);
        let (value, revision) = self.ownership.commit(&self.registration, head, checkpoint).await.unwrap();
        (self.registration.value, self.registration.revision) = (value, revision);
    }

    async fn produce(&mut self, count: i32) -> ObjectKey {
        let key = self.upload(count).await;
        self.commit(None, 1).await;
        key
    }

    /// A committed checkpoint that knows nothing.
    async fn checkpoint(&mut self, name: &str) {
        let seq = self.registration.value.head;
        let checkpoint = Checkpoint {
            cluster_id: CLUSTER.to_owned(),
            writer: WRITER,
            nonce: NONCE,
            seq,
            revision_seen: 1,
            objects: Vec::new(),
            partitions: Vec::new(),
            garbage: Vec::new(),
            catalog: None,
        };
        self.primary.create(&ObjectKey::new(name), &checkpoint.encode()).await.unwrap();
        self.commit(Some(&CheckpointRef { seq, key: name.into() }), 0).await;
    }

    fn follow(&self) -> Reading {
        self.followers.follow(&partition(1), &self.image.load()).expect("it is followed")
    }
}

/// The view once it ends at `end`.
async fn ready(bed: &Bed, reading: &Reading, end: i64) -> Arc<PartitionView> {
    let mut ticks = bed.followers.ticks();
    loop {
        if let Look::Ready(view) = reading.look()
            && view.high_watermark() >= Offset(end)
        {
            assert_eq!(view.high_watermark(), Offset(end));
            return view;
        }
        ticks.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_view_ends_at_the_committed_head_and_goes_on_with_it() {
    let mut bed = Bed::new().await;
    bed.produce(3).await;
    bed.upload(2).await; // durable, but nobody has committed it
    let reading = bed.follow();
    assert!(matches!(reading.look(), Look::Pending));
    let view = ready(&bed, &reading, 3).await;
    assert_eq!((view.leader_epoch, view.log_start()), (LeaderEpoch(0), Offset(0)));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(view.high_watermark(), Offset(3), "however often it looks");
    bed.commit(None, 1).await;
    let same = ready(&bed, &reading, 5).await;
    assert!(Arc::ptr_eq(&view, &same));
    assert_eq!(view.locate(Offset(3)).unwrap().base, Offset(3));
    // A sealed writer's head is final, and what it covers is served.
    bed.produce(1).await;
    bed.ownership.seal(WRITER, true).await.unwrap();
    ready(&bed, &reading, 6).await;
    let loads = bed.followers.stats().loads.load(Ordering::Relaxed);
    assert_eq!(loads, 1, "the rest was read slot by slot");
    assert_eq!(bed.followers.size(), (1, 3 * EXTENT_BYTES));
}

#[tokio::test(start_paused = true)]
async fn what_a_sealed_writer_has_not_committed_is_never_served() {
    let mut bed = Bed::new().await;
    bed.produce(3).await;
    let reading = bed.follow();
    let view = ready(&bed, &reading, 3).await;
    bed.upload(2).await; // in flight when it is sealed
    bed.ownership.seal(WRITER, true).await.unwrap();
    let refused = bed.ownership.commit(&bed.registration, bed.registration.value.head.next(), None).await;
    assert!(refused.is_err(), "{refused:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(matches!(reading.look(), Look::Ready(_)), "what it had is served until somebody claims");
    assert_eq!((view.high_watermark(), view.with_log(|l| l.extents.len())), (Offset(3), 1));
    // Nor by who begins to read it now, and so begins with a load.
    reading.outdated();
    let loads = || bed.followers.stats().loads.load(Ordering::Relaxed);
    let (before, mut ticks) = (loads(), bed.followers.ticks());
    while loads() == before {
        ticks.changed().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(view.high_watermark(), Offset(3));
    assert_eq!(bed.followers.stats().failures.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_reads_and_nothing_is_asked() {
    let mut bed = Bed::new().await;
    bed.produce(3).await;
    let reading = bed.follow();
    let view = ready(&bed, &reading, 3).await;
    drop(reading);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let refreshes = || bed.followers.stats().refreshes.load(Ordering::Relaxed);
    let before = refreshes();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(refreshes(), before);
    bed.commit(None, 0).await;
    let reading = bed.follow();
    assert!(matches!(reading.look(), Look::Pending), "where it ends has to be asked first");
    assert!(Arc::ptr_eq(&view, &ready(&bed, &reading, 3).await));
    drop(reading);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(view.is_closed());
    assert_eq!(bed.followers.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn another_owner_ends_the_view() {
    let mut bed = Bed::new().await;
    bed.produce(3).await;
    let reading = bed.follow();
    let view = ready(&bed, &reading, 3).await;
    bed.owned(Some(WriterId(8)), LeaderEpoch(1), 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(view.is_closed() && matches!(reading.look(), Look::Refused));
    bed.owned(Some(ME), LeaderEpoch(2), 0);
    assert!(bed.followers.follow(&partition(1), &bed.image.load()).is_none(), "what is led here is not followed");
    bed.owned(None, LeaderEpoch(2), 0);
    assert!(bed.followers.follow(&partition(1), &bed.image.load()).is_none(), "nor what nobody leads");
    // A writer that nobody knows.
    bed.owned(Some(WriterId(8)), LeaderEpoch(3), 0);
    let reading = bed.follow();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(reading.look(), Look::Refused));
}

#[tokio::test(start_paused = true)]
async fn whoever_drains_follows_nobody() {
    let mut bed = Bed::new().await;
    bed.produce(3).await;
    let reading = bed.follow();
    let view = ready(&bed, &reading, 3).await;
    bed.draining(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(view.is_closed() && matches!(reading.look(), Look::Refused));
    assert!(bed.followers.follow(&partition(1), &bed.image.load()).is_none());
    bed.draining(false);
    ready(&bed, &bed.follow(), 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_without_the_partition_ends_the_view() {
    let mut bed = Bed::new().await;
    bed.produce(3).await;
    let reading = bed.follow();
    let view = ready(&bed, &reading, 3).await;
    bed.checkpoint("c/1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(view.is_closed(), "its writer has given it away");
    // Under a later claim, a checkpoint without it is no empty partition.
    bed.owned(Some(WRITER), LeaderEpoch(2), 0);
    let reading = bed.follow();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(reading.look(), Look::Refused));
}

#[tokio::test(start_paused = true)]
async fn cut_off_it_does_not_claim_to_know_the_end() {
    let mut bed = Bed::new().await;
    bed.produce(3).await;
    let reading = bed.follow();
    ready(&bed, &reading, 3).await;
    bed.link.cut.store(true, Ordering::SeqCst);
    bed.produce(4).await;
    tokio::time::sleep(LEASE * 6 / 10).await;
    assert!(matches!(reading.look(), Look::Ready(_)));
    tokio::time::sleep(LEASE * 2 / 10).await;
    assert!(reading.is_doubted() && matches!(reading.look(), Look::Pending));
    assert!(bed.followers.stats().failures.load(Ordering::Relaxed) > 0);
    bed.link.cut.store(false, Ordering::SeqCst);
    ready(&bed, &reading, 7).await;
}

#[tokio::test(start_paused = true)]
async fn log_starts_come_from_the_partition_key() {
    let mut bed = Bed::new().await;
    bed.produce(3).await;
    bed.produce(3).await;
    bed.owned(Some(WRITER), LeaderEpoch(0), 1);
    let reading = bed.follow();
    let view = ready(&bed, &reading, 6).await;
    assert_eq!(view.log_start(), Offset(1));
    bed.owned(Some(WRITER), LeaderEpoch(0), 4);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((view.log_start(), view.with_log(|l| l.extents.len())), (Offset(4), 1));
}

#[tokio::test(start_paused = true)]
async fn the_copy_is_read_first_and_never_relied_on() {
    let mut bed = Bed::new().await;
    let key = bed.produce(3).await;
    let body = bed.primary.get_suffix(&key, 1 << 20).await.unwrap().0;
    bed.copy.create(&key, &crate::storage::Payload::new(vec![body], 1)).await.unwrap();
    let (gets, reading) = (bed.primary.calls(Op::GetSuffix), bed.follow());
    ready(&bed, &reading, 3).await;
    assert_eq!(bed.primary.calls(Op::GetSuffix), gets, "the copy has it");
    bed.produce(2).await;
    ready(&bed, &reading, 5).await; // the copy has not
    bed.copy.set_outage(Some(Fault::Corrupt));
    reading.outdated();
    let loads = || bed.followers.stats().loads.load(Ordering::Relaxed);
    let before = loads();
    let mut ticks = bed.followers.ticks();
    while loads() == before {
        ticks.changed().await.unwrap();
    }
    ready(&bed, &reading, 5).await;
    assert_eq!(bed.followers.stats().failures.load(Ordering::Relaxed), 0);
}
