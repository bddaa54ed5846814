//! What outlives every process of a simulated cluster: the stores, and what clients know.

use super::compacted::Keyed;
use super::faults::{FaultyMetadata, How, TracedObjects};
use super::link::Link;
use super::trace::Trace;
use super::{PARTITIONS, Process};
use crate::workload::Rng;
use futures::FutureExt;
use kafscale::actors::context::NodeContext;
use kafscale::actors::group::handle::Groups;
use kafscale::actors::group::limits::shard_of;
use kafscale::actors::partition::handle::PartitionRef;
use kafscale::clock::Clock;
use kafscale::ids::{PartitionIndex, PartitionKey, TopicId, WriterId};
use kafscale::metadata::admin::Admin;
use kafscale::metadata::embedded::Backup;
use kafscale::metadata::keys::Keys;
use kafscale::metadata::model::{self, PartitionValue, ShardValue, WriterValue};
use kafscale::metadata::ownership::Ownership;
use kafscale::metadata::{MetadataStore, Op, Revision, Txn};
use kafscale::storage::ObjectStore;
use kafscale::storage::fault::{FaultRates, FaultStore};
use kafscale::storage::memory::MemoryStore;
use kafscale::storage::reader::LogReader;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A broker as clients find it.
#[derive(Clone)]
pub struct Reachable {
    /// What its actors share.
    pub context: Arc<NodeContext>,
    /// Its consumer groups.
    pub groups: Groups,
    /// Its reader.
    pub reader: Arc<LogReader>,
    /// Whether it runs.
    pub link: Arc<Link>,
    /// How often the metadata store had been restored when it started.
    pub age: u64,
}

/// What clients have been told of the log of one partition.
#[derive(Debug, Default, Clone)]
pub struct Told {
    /// By offset: the values that were acked or read.
    pub values: BTreeMap<i64, u64>,
    /// By value: its offset.
    pub offsets: BTreeMap<u64, i64>,
    /// How many of them were acked.
    pub acked: u64,
    /// The first offset after all of those.
    pub acked_end: i64,
    /// The greatest log start that somebody asked for.
    pub trim_asked: i64,
    /// The greatest log start that was confirmed.
    pub trimmed: i64,
}

impl Told {
    /// Somebody was told that the value is at the offset.
    pub fn hear(&mut self, partition: i32, offset: i64, id: u64, how: &str) {
        let before = self.values.insert(offset, id).unwrap_or(id);
        assert_eq!(before, id, "partition {partition}, offset {offset}: another value than before was {how}");
        let before = self.offsets.insert(id, offset).unwrap_or(offset);
        assert_eq!(before, offset, "partition {partition}, value {id:x}: {how} at another offset than before");
    }
}

/// See the module's documentation.
pub struct World {
    pub(super) objects: Arc<FaultStore>,
    /// The objects, behind the faults.
    pub raw: Arc<MemoryStore>,
    pub(super) metadata: Arc<FaultyMetadata>,
    pub(super) keys: Keys,
    /// Simulated time.
    pub clock: Clock,
    pub(super) topic: Cell<Option<TopicId>>,
    /// Where clients find partitions and coordinators, those of brokers that were replaced included.
    pub(super) found: RefCell<Vec<Reachable>>,
    /// By group and partition: the greatest offset that a client knows to be committed.
    pub(super) committed: RefCell<BTreeMap<(u64, i32), i64>>,
    pub(super) stop: Cell<bool>,
    /// How often the metadata store was restored or rebuilt. What brokers and clients know from before need not be so.
    pub(super) age: Cell<u64>,
    /// The highest revision that the metadata store had before it went back.
    revision_seen: Cell<Revision>,
    /// True from when a backup is restored: brokers may end because of that.
    pub(super) may_go_back: Arc<AtomicBool>,
    /// The topic that is compacted by key, if there is one, and what clients know of it.
    pub(super) compacted: Cell<Option<TopicId>>,
    pub(super) keyed: RefCell<Keyed>,
    /// By partition.
    pub(super) told: RefCell<BTreeMap<i32, Told>>,
    pub(super) sent: Cell<u64>,
    pub(super) trace: Arc<Trace>,
    /// Ends of processes that no correct process has.
    pub(super) broken: Arc<Mutex<Vec<String>>>,
}

impl World {
    /// Empty stores without faults, and a topic.
    pub async fn new(random: &mut Rng) -> Rc<Self> {
        Self::with_topic(random, BTreeMap::new()).await
    }

    /// The same with a topic that has these configs.
    pub async fn with_topic(random: &mut Rng, configs: BTreeMap<String, String>) -> Rc<Self> {
        Self::traced(random, configs, false).await
    }

    /// The same, whose events are kept as text if `keep`.
    pub(super) async fn traced(random: &mut Rng, configs: BTreeMap<String, String>, keep: bool) -> Rc<Self> {
        let clock = Clock::simulated(1_700_000_000_000);
        let trace = Arc::new(Trace::new(clock, keep));
        let raw = Arc::new(MemoryStore::new(clock));
        let traced = Arc::new(TracedObjects { inner: raw.clone(), trace: trace.clone() });
        let objects = Arc::new(FaultStore::seeded(traced, random.next(), FaultRates::default()));
        let metadata = Arc::new(FaultyMetadata::new(Rng(random.next()), trace.clone()));
        let keys = Keys::new("sim");
        let admin = Admin::new(metadata.inner.clone(), keys.clone()).with_clock(clock);
        let topic = admin.create_topic("sim", PARTITIONS, configs, Vec::new()).await.expect("created").id;
        Rc::new(Self {
            objects,
            raw,
            metadata,
            keys,
            clock,
            topic: Cell::new(Some(topic)),
            found: RefCell::default(),
            committed: RefCell::default(),
            stop: Cell::default(),
            age: Cell::default(),
            revision_seen: Cell::default(),
            may_go_back: Arc::default(),
            compacted: Cell::default(),
            keyed: RefCell::default(),
            told: RefCell::default(),
            sent: Cell::default(),
            trace,
            broken: Arc::default(),
        })
    }

    /// The objects, as brokers reach them.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        self.objects.clone()
    }

    /// How often the stores fail from now on: objects, and transactions per thousand.
    pub fn set_faults(&self, rates: FaultRates, metadata_failures: u64) {
        self.objects.set_rates(rates);
        self.metadata.set_failures(metadata_failures);
    }

    /// The metadata store, without faults of its own, and its keys.
    pub fn metadata(&self) -> (Arc<dyn MetadataStore>, Keys) {
        (self.metadata.inner.clone(), self.keys.clone())
    }

    /// A partition of the topic.
    pub fn key(&self, partition: i32) -> PartitionKey {
        PartitionKey { topic: self.topic.get().expect("created first"), partition: PartitionIndex(partition) }
    }

    /// What clients have been told of a partition.
    pub(super) fn told<T>(&self, partition: i32, f: impl FnOnce(&mut Told) -> T) -> T {
        f(self.told.borrow_mut().entry(partition).or_default())
    }

    /// What clients can reach. A replaced broker is reached for as long as it believes in itself.
    pub(super) fn publish<'a>(&self, processes: impl Iterator<Item = &'a Process>) {
        *self.found.borrow_mut() = processes.filter(|p| !p.is_dead()).map(Process::reachable).collect();
    }

    fn stored<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        let entry = self.metadata.inner.get(key).now_or_never().expect("it is in memory").expect("no faults");
        Some(model::decode(&entry?).expect("readable"))
    }

    /// The metadata store goes back to a backup.
    pub(super) fn go_back(&self, backup: &Backup, how: How) {
        self.age.set(self.age.get() + 1);
        self.may_go_back.store(true, Ordering::Relaxed);
        self.revision_seen.set(self.revision_seen.get().max(self.metadata.inner.revision()));
        self.metadata.restore(backup, how);
    }

    /// Lets the metadata store reach the highest revision that it ever had.
    pub(super) async fn catch_up(&self) {
        while self.metadata.inner.revision() < self.revision_seen.get() {
            let put = Op::Put("/elsewhere".to_owned(), Default::default(), None);
            self.metadata.inner.txn(Txn { compares: Vec::new(), ops: vec![put] }).await.expect("no faults");
        }
    }

    /// Writers, as stored now.
    pub(super) fn writers(&self) -> BTreeMap<WriterId, (WriterValue, Revision)> {
        let ownership = Ownership::new(self.metadata.inner.clone(), self.keys.clone());
        ownership.writers().now_or_never().expect("it is in memory").expect("no faults")
    }

    /// Who owns a partition of any topic, if anybody ever did.
    pub(super) fn ownership_of(&self, key: &PartitionKey) -> Option<PartitionValue> {
        self.stored(&self.keys.partition(key))
    }

    /// Who owns the partition now, and what is known of it.
    pub(super) fn ownership(&self, partition: i32) -> PartitionValue {
        self.ownership_if_any(partition).expect("it is led")
    }

    /// The same, if anybody ever led it.
    pub(super) fn ownership_if_any(&self, partition: i32) -> Option<PartitionValue> {
        self.ownership_of(&self.key(partition))
    }

    /// True if nothing was restored since the broker started: what it says must agree with what is stored.
    pub(super) fn is_of_today(&self, broker: &Reachable) -> bool {
        broker.age == self.age.get()
    }

    /// True if the writer may coordinate the group now.
    pub(super) fn may_coordinate(&self, writer: WriterId, group: &str) -> bool {
        let stored: Option<ShardValue> = self.stored(&self.keys.shard(shard_of(group)));
        stored.is_some_and(|v| v.owner == Some(writer))
    }

    /// One of those who say that they lead the partition.
    pub(super) fn leader(&self, key: &PartitionKey, random: &mut Rng) -> Option<(Reachable, PartitionRef)> {
        let broker = self.one(random, |r| r.context.directory.get(key).is_some())?;
        let found = broker.context.directory.get(key)?;
        Some((broker, found))
    }

    /// Administration, of which nothing fails.
    pub(super) fn admin(&self) -> Admin {
        Admin::new(self.metadata.inner.clone(), self.keys.clone()).with_clock(self.clock)
    }

    /// One of those who say that they coordinate the group.
    pub(super) fn coordinator(&self, group: &str, random: &mut Rng) -> Option<Reachable> {
        self.one(random, |r| r.groups.coordinates(group))
    }

    fn one(&self, random: &mut Rng, able: impl Fn(&Reachable) -> bool) -> Option<Reachable> {
        let found = self.found.borrow();
        let mut able: Vec<_> = found.iter().filter(|r| able(r)).cloned().collect();
        (!able.is_empty()).then(|| able.swap_remove(random.below(able.len() as u64) as usize))
    }
}
