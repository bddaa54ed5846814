//! The actor tree on one thread under paused time: random faults of both stores, crashes, and predecessors that go on
//! after they were replaced. Hours of it take seconds, so that many seeds can be tried: `make sim SEEDS=1000`.
//!
//! A seed decides the faults, the load and the moments of crashes. (Jitter and ids are not from the seed: a seed that
//! fails is likely, not certain, to fail again.)
//!
//! Consumer groups commit offsets meanwhile. Whenever a process has started, each group's offsets are at least those that were
//! acked or seen before.
//!
//! At the end, without faults: every acked value is at its acked offset, offsets are dense, no value is there twice,
//! values of one producer are in order, and every WAL slot that a successor needs exists.

use crate::client::{Batch, read_records};
use crate::harness::size;
use crate::workload::Rng;
use async_trait::async_trait;
use kafscale::actors::compactor::plan::MergeLimits;
use kafscale::actors::compactor::{Maintenance, MaintenanceLimits};
use kafscale::actors::context::NodeContext;
use kafscale::actors::flusher::state::FlushLimits;
use kafscale::actors::flusher::{Flusher, FlusherConfig};
use kafscale::actors::group::call::{Answer, Call, Caller};
use kafscale::actors::group::handle::Groups;
use kafscale::actors::group::offsets::{Committed, OffsetToCommit};
use kafscale::actors::group::{self, GroupConfig};
use kafscale::actors::leadership;
use kafscale::actors::partition::handle::ValidBatch;
use kafscale::actors::runtime::{IoPool, Placement};
use kafscale::actors::s3_health::S3Health;
use kafscale::actors::s3_health::state::HealthLimits;
use kafscale::actors::supervisor::ActorRegistry;
use kafscale::actors::writer::{Fatal, PipelineBudget, WriterStats};
use kafscale::broker::Directory;
use kafscale::clock::Clock;
use kafscale::ids::{BrokerId, LeaderEpoch, Offset, PartitionIndex, PartitionKey, Seq, TopicId};
use kafscale::metadata::admin::{self, Admin};
use kafscale::metadata::embedded::EmbeddedStore;
use kafscale::metadata::keys::Keys;
use kafscale::metadata::model::{self, LiveValue};
use kafscale::metadata::ownership::Ownership;
use kafscale::metadata::watcher::{self, ImageFeed};
use kafscale::metadata::{Entry, LeaseId, MetadataError, MetadataStore, Revision, Txn, TxnOutcome, WatchEvent};
use kafscale::protocol::batch::BatchHeader;
use kafscale::storage::ObjectStore;
use kafscale::storage::fault::{FaultRates, FaultStore};
use kafscale::storage::layout::Layout;
use kafscale::storage::memory::MemoryStore;
use kafscale::storage::retry::{RetryPolicy, RetryingStore};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};

const PARTITIONS: i32 = 3;
const PRODUCERS: u64 = 3;
const GROUPS: u64 = 4;
/// Processes that follow each other in one run.
const LIVES: u64 = 5;
/// Unacked batches of a producer in a partition.
const IN_FLIGHT_MAX: usize = 5;
/// How long a start or a step of maintenance may take: with slow stores thousands of objects are read at their pace.
const PATIENCE: Duration = Duration::from_secs(6 * 3_600);
/// How long a client waits for an ack before it sends again.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// Transactions that fail, half of them after they were applied.
#[derive(Debug)]
struct FaultyMetadata {
    inner: EmbeddedStore,
    random: Mutex<Rng>,
    /// Failures per thousand transactions.
    failures: AtomicU64,
}

#[async_trait]
impl MetadataStore for FaultyMetadata {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        self.inner.get(key).await
    }

    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError> {
        self.inner.get_prefix(prefix).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        let (dice, wait_ms, applied) = {
            let mut random = self.random.lock().expect("no panic under the lock");
            (random.below(1_000), random.below(20), random.below(2) == 0)
        };
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        if dice >= self.failures.load(Ordering::Relaxed) {
            return self.inner.txn(txn).await;
        }
        if applied {
            self.inner.txn(txn).await?;
        }
        Err(MetadataError::Unavailable { message: "injected".into() })
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        self.inner.watch(prefix)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.inner.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.inner.lease_revoke(lease).await
    }
}

/// What outlives every process.
pub struct World {
    objects: Arc<FaultStore>,
    /// The objects, behind the faults.
    pub raw: Arc<MemoryStore>,
    metadata: Arc<FaultyMetadata>,
    keys: Keys,
    /// Simulated time.
    pub clock: Clock,
    topic: Cell<Option<TopicId>>,
    /// Where clients find partitions now.
    directory: RefCell<Option<Arc<Directory>>>,
    /// Where clients find the coordinator now.
    groups: RefCell<Option<Groups>>,
    /// By group and partition: the greatest offset that a client knows to be committed.
    committed: RefCell<HashMap<(u64, i32), i64>>,
    stop: Cell<bool>,
    acked: RefCell<HashMap<(i32, i64), u64>>,
    sent: Cell<u64>,
}

impl World {
    /// Empty stores without faults, and a topic.
    pub async fn new(random: &mut Rng) -> Rc<Self> {
        let clock = Clock::simulated(1_700_000_000_000);
        let raw = Arc::new(MemoryStore::new(clock));
        let objects = Arc::new(FaultStore::seeded(raw.clone(), random.next(), FaultRates::default()));
        let inner = EmbeddedStore::in_memory();
        let metadata =
            Arc::new(FaultyMetadata { inner, random: Mutex::new(Rng(random.next())), failures: AtomicU64::new(0) });
        let world = Self {
            objects,
            raw,
            metadata,
            keys: Keys::new("sim"),
            clock,
            topic: Cell::default(),
            directory: RefCell::default(),
            groups: RefCell::default(),
            committed: RefCell::default(),
            stop: Cell::default(),
            acked: RefCell::default(),
            sent: Cell::default(),
        };
        let admin = Admin::new(world.metadata.clone(), world.keys.clone()).with_clock(clock);
        world.topic.set(Some(admin.create_topic("sim", PARTITIONS, BTreeMap::new()).await.expect("created").id));
        Rc::new(world)
    }

    fn set_faults(&self, rates: FaultRates, metadata_failures: u64) {
        self.objects.set_rates(rates);
        self.metadata.failures.store(metadata_failures, Ordering::Relaxed);
    }

    /// A partition of the topic.
    pub fn key(&self, partition: i32) -> PartitionKey {
        PartitionKey { topic: self.topic.get().expect("created first"), partition: PartitionIndex(partition) }
    }
}

/// A running process. Dropping it is a crash: what runs on its thread ends, I/O under way goes on for a while.
pub struct Process {
    /// What its actors share.
    pub context: Arc<NodeContext>,
    /// Its background work.
    pub maintenance: Arc<tokio::sync::Mutex<Maintenance>>,
    /// Its consumer groups.
    groups: Groups,
    dead: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.thread.abort();
    }
}

impl Process {
    /// Starts one, or says why it could not.
    pub async fn start(world: &Rc<World>) -> Result<Self, String> {
        let (started, wait) = oneshot::channel();
        let inside = world.clone();
        let thread = tokio::task::spawn_local(async move {
            let set = LocalSet::new();
            let run = async {
                let _gone = started.send(boot(&inside).await);
                std::future::pending::<()>().await;
            };
            set.run_until(run).await;
        });
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(Ok((context, maintenance, groups, dead)))) => Ok(Self { context, maintenance, groups, dead, thread }),
            Ok(Ok(Err(error))) => {
                thread.abort();
                Err(error)
            }
            Ok(Err(_)) => Err(format!("the process panicked: {:?}", thread.await.err())),
            Err(_) => panic!("a process did not start within {PATIENCE:?}"),
        }
    }
}

type Booted = (Arc<NodeContext>, Arc<tokio::sync::Mutex<Maintenance>>, Groups, Arc<AtomicBool>);

async fn boot(world: &World) -> Result<Booted, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let metadata: Arc<dyn MetadataStore> = world.metadata.clone();
    let store: Arc<dyn ObjectStore> =
        Arc::new(RetryingStore::new(world.objects.clone(), RetryPolicy::default(), Default::default()));
    let (keys, layout, clock) = (world.keys.clone(), Layout::new("sim"), world.clock);
    let cluster_id = admin::ensure_cluster_id(&*metadata, &keys).await.map_err(|e| text(&e))?;
    let ownership = Ownership::new(metadata.clone(), keys.clone());
    let writer = admin::allocate_writer_id(&*metadata, &keys).await.map_err(|e| text(&e))?;
    let live = LiveValue {
        v: model::FORMAT,
        node: BrokerId(1),
        host: "sim".into(),
        port: 1,
        rack: None,
        version: "sim".into(),
    };
    let registered = ownership.register(writer, kafscale::rng::u64(), &live, Duration::from_secs(10)).await;
    let registration = registered.map_err(|e| text(&e))?;
    let dead = Arc::new(AtomicBool::new(false));
    let (budget, stats) = (Arc::new(PipelineBudget::new(1 << 20)), Arc::new(WriterStats::default()));
    let died = dead.clone();
    let on_fatal: Arc<dyn Fn(Fatal) + Send + Sync> = Arc::new(move |fatal| {
        assert!(matches!(fatal, Fatal::Fenced(_)), "only a successor ends a process: {fatal}");
        died.store(true, Ordering::Release);
    });
    let config = FlusherConfig {
        limits: FlushLimits {
            segment_bytes: 4_096,
            interval_ms: 20,
            linger_ms: 2,
            stall_ms: 10,
            full_ms: 5,
            lone_ms: None,
            uploads_max: 4,
            burst: 4,
            cost_bounded: false,
            twice: true,
        },
        tail_bytes_max: 8_192,
        cluster_id: cluster_id.clone(),
        store: store.clone(),
        layout: layout.clone(),
        ownership: ownership.clone(),
        registration: registration.clone(),
        io: IoPool::current(),
        clock,
        budget: budget.clone(),
        stats: stats.clone(),
        on_fatal: on_fatal.clone(),
    };
    let flusher = actix::Actor::start(Flusher::new(config));
    let context = Arc::new(NodeContext {
        store,
        layout,
        metadata: metadata.clone(),
        keys: keys.clone(),
        ownership,
        registration,
        cluster_id,
        flusher,
        shards: vec![Placement::Here],
        io: IoPool::current(),
        clock,
        budget,
        stats,
        directory: Arc::default(),
        registry: Arc::new(ActorRegistry::default()),
        suspended: Arc::default(),
        health: Arc::new(S3Health::new(HealthLimits::default())),
        owned: Default::default(),
    });
    let limits = MaintenanceLimits {
        garbage_age_ms: 2_000,
        scrub_age_ms: 1_000,
        merge: MergeLimits {
            window_extents: 20,
            window_age_ms: 500,
            segment_bytes_min: 4_096,
            ..MergeLimits::default()
        },
        ..MaintenanceLimits::default()
    };
    let maintenance = leadership::start(&context, limits).await.map_err(|e| text(&e))?;
    let feed = ImageFeed::default();
    drop(IoPool::current().spawn(watcher::run(metadata, keys, feed.clone())));
    let config = GroupConfig::of(&context, feed.image().clone(), Default::default(), on_fatal);
    let groups = group::start(config, &Placement::Here, context.registry.clone()).await?;
    drop(actix_rt::spawn(leadership::run(context.clone(), feed)));
    Ok((context, maintenance, groups, dead))
}

/// Writes one producer's values to one partition in order, up to five batches at a time, until told to stop.
async fn produce(world: Rc<World>, producer: u64, partition: i32, seed: u64) {
    let mut random = Rng(seed);
    let (mut sequence, mut queue): (i32, VecDeque<(Vec<u64>, ValidBatch)>) = (0, VecDeque::new());
    while !(world.stop.get() && queue.is_empty()) {
        while !world.stop.get() && queue.len() < 1 + random.below(IN_FLIGHT_MAX as u64) as usize {
            let ids: Vec<u64> = (0..1 + random.below(3))
                .map(|n| (producer << 40) | ((partition as u64) << 32) | (sequence as u64 + n))
                .collect();
            let values: Vec<_> = ids.iter().map(|id| id.to_be_bytes()).collect();
            let slices: Vec<&[u8]> = values.iter().map(|v| &v[..]).collect();
            let bytes = Batch::of(&slices).idempotent(producer as i64, 0, sequence).encode();
            let header = BatchHeader::parse(&bytes).expect("a batch");
            sequence += ids.len() as i32;
            world.sent.set(world.sent.get() + ids.len() as u64);
            queue.push_back((ids, ValidBatch { bytes, header, log_append_time_ms: None }));
        }
        let found = world.directory.borrow().as_ref().and_then(|d| d.get(&world.key(partition)));
        if let Some(found) = found {
            let waiting: Vec<_> = queue.iter().map(|(_, batch)| found.append(batch.clone())).collect();
            for receiver in waiting {
                let Ok(receiver) = receiver else { break };
                let Ok(Ok(outcome)) = tokio::time::timeout(ACK_TIMEOUT, receiver).await else { break };
                use kafscale::actors::partition::handle::AppendError::{InvalidProducerEpoch, OutOfOrderSequence};
                match outcome {
                    Ok(appended) => {
                        let (ids, _) = queue.pop_front().expect("one per receiver");
                        let offsets = appended.base_offset.0..;
                        world.acked.borrow_mut().extend(offsets.zip(ids).map(|(o, id)| ((partition, o), id)));
                    }
                    Err(error @ (OutOfOrderSequence { .. } | InvalidProducerEpoch { .. })) => {
                        panic!("producer {producer}, partition {partition}: {error}")
                    }
                    Err(_retriable) => break,
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
    }
}

/// Commits ever greater offsets until told to stop.
async fn commit(world: Rc<World>, group: u64, seed: u64) {
    let mut random = Rng(seed);
    let mut offset = 0;
    while !world.stop.get() {
        tokio::time::sleep(Duration::from_millis(random.below(100))).await;
        let Some(groups) = world.groups.borrow().clone() else { continue };
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
        let nobody = Caller { generation: -1, ..Caller::default() };
        let call = groups.call(Call::Commit(format!("g{group}").into(), nobody, vec![commit]));
        match tokio::time::timeout(ACK_TIMEOUT, call).await {
            Ok(Ok(Answer::Committed(rows))) => {
                assert_eq!(rows, [Ok(())]);
                world.committed.borrow_mut().insert((group, partition), offset);
            }
            Ok(Ok(other)) => panic!("{other:?} to a commit"),
            Ok(Err(_)) | Err(_) => {} // perhaps committed
        }
    }
}

/// The process that started last has every offset that anybody knows of.
async fn check_offsets(world: &World, groups: &Groups) {
    for group in 0..GROUPS {
        let known = world.committed.borrow().clone();
        let fetched = loop {
            match groups.call(Call::Fetch(format!("g{group}").into(), None, None)).await {
                Ok(Answer::Fetched(fetched)) => break fetched,
                Ok(other) => panic!("{other:?} to a fetch"),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        };
        let offsets: HashMap<i32, i64> =
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
    }
}

async fn life(world: &Rc<World>, random: &mut Rng, zombies: &mut Vec<Process>) {
    let process = loop {
        match Process::start(world).await {
            Ok(process) => break process,
            Err(error) => {
                assert!(!error.contains("panicked"), "{error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    };
    check_offsets(world, &process.groups).await;
    if random.below(3) > 0 {
        *world.groups.borrow_mut() = Some(process.groups.clone());
        *world.directory.borrow_mut() = Some(process.context.directory.clone());
    } // else clients go on with the predecessor for a while
    for _ in 0..random.below(12) {
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        let directory = process.context.directory.clone();
        *world.directory.borrow_mut() = Some(directory);
        *world.groups.borrow_mut() = Some(process.groups.clone());
        zombies.retain(|z| !z.dead.load(Ordering::Acquire));
        if process.dead.load(Ordering::Acquire) {
            panic!("nobody took over, but the process was fenced");
        }
        let mut maintenance = process.maintenance.lock().await;
        // Failures are fine, they are tried again; waiting for ever is not.
        let step = async {
            match random.below(6) {
                0 => drop(maintenance.checkpoint(&[]).await),
                1 => drop(maintenance.merge().await),
                2 => drop(maintenance.collect().await),
                3 | 4 => drop(maintenance.scrub_page().await),
                _ => {}
            }
        };
        tokio::time::timeout(PATIENCE, step).await.expect("maintenance hangs");
    }
    zombies.retain(|_| random.below(2) == 0);
    if random.below(2) == 0 {
        zombies.push(process); // stays until it is fenced
    }
}

async fn simulate(seed: u64) -> (usize, u64) {
    let mut random = Rng(seed);
    let world = World::new(&mut random).await;
    let rate = |random: &mut Rng| random.below(60) as f64 / 1_000.0;
    let mut zombies = Vec::new();
    let mut clients = Vec::new();
    for producer in 1..=PRODUCERS {
        for partition in 0..PARTITIONS {
            let client = produce(world.clone(), producer, partition, random.next());
            clients.push(tokio::task::spawn_local(client));
        }
    }
    let committers: Vec<_> =
        (0..GROUPS).map(|group| tokio::task::spawn_local(commit(world.clone(), group, random.next()))).collect();
    for _ in 0..LIVES {
        let rates = FaultRates {
            fail_before: rate(&mut random),
            fail_after: rate(&mut random),
            late_apply: rate(&mut random),
            delay: rate(&mut random) * 4.0,
            throttle: rate(&mut random),
            corrupt: 0.0,
            truncate: 0.0,
            delay_max: Duration::from_millis(1 + random.below(3_000)),
        };
        world.set_faults(rates, random.below(100));
        life(&world, &mut random, &mut zombies).await;
    }
    world.set_faults(FaultRates::default(), 0);
    world.stop.set(true);
    let last = Process::start(&world).await.expect("nothing fails any more");
    *world.directory.borrow_mut() = Some(last.context.directory.clone());
    for client in clients {
        let done = tokio::time::timeout(Duration::from_secs(3_600), client).await;
        done.expect("every batch is acked once nothing fails").expect("no client panics");
    }
    for committer in committers {
        committer.await.expect("no client panics");
    }
    check_offsets(&world, &last.groups).await;
    check(&world, &last).await;
    scrub(&last).await;
    check(&world, &last).await;
    drop(zombies);
    (world.acked.borrow().len(), world.sent.get())
}

/// Deletes all that can be deleted.
async fn scrub(last: &Process) {
    let mut maintenance = last.maintenance.lock().await;
    for _ in 0..2 {
        while !maintenance.scrub_page().await.expect("no faults") {}
        tokio::time::sleep(Duration::from_secs(60)).await;
        maintenance.checkpoint(&[]).await.expect("no faults");
        while maintenance.collect().await.expect("no faults") > 0 {}
    }
}

/// Everything is as the clients were told, and every object that the partitions consist of exists.
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

#[test]
fn seeds() {
    let seeds = size("SEEDS", 30);
    let first = size("SEED", kafscale::rng::u64() >> 40);
    eprintln!("simulation: SEEDS={seeds} SEED={first}");
    if seeds == 1 {
        // One seed is being looked into.
        tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    }
    let (mut acked, mut sent) = (0, 0);
    for seed in first..first + seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        let run = || runtime.block_on(LocalSet::new().run_until(simulate(seed)));
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok((a, s)) => (acked, sent) = (acked + a, sent + s),
            Err(panic) => {
                eprintln!("simulation failed: SEED={seed} SEEDS=1");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!(
        "simulation: {seeds} seeds from {first}, {sent} records sent, {acked} acked, none lost, doubled or moved"
    );
    assert_eq!(sent, acked as u64, "every record is acked in the end");
}
