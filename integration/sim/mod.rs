//! A cluster of a few brokers on one thread under paused time: random faults of both stores, crashes, brokers that go on
//! after they were replaced, drains, moves. Hours of it take seconds, so that many seeds can be tried:
//! `make sim SEEDS=1000`.
//!
//! A seed decides the faults, the load, the moments, jitter and ids, but not the order in which hash maps are walked: a seed
//! that fails is likely, not certain, to fail again.
//!
//! Consumer groups commit offsets meanwhile. Whenever a broker has started, the offsets of each group that it coordinates
//! are at least those that were acked or seen before.
//!
//! At the end, without faults: every acked value is at its acked offset, offsets are dense, no value is there twice,
//! values of one producer are in order, and every WAL slot that a successor needs exists.

mod check;
mod clients;

use crate::harness::size;
use crate::workload::Rng;
use async_trait::async_trait;
pub use check::{check, keys};
use kafscale::actors::compactor::plan::MergeLimits;
use kafscale::actors::compactor::{Maintenance, MaintenanceLimits};
use kafscale::actors::context::NodeContext;
use kafscale::actors::flusher::state::FlushLimits;
use kafscale::actors::flusher::{Flusher, FlusherConfig};
use kafscale::actors::group::handle::Groups;
use kafscale::actors::group::{self, GroupConfig};
use kafscale::actors::leadership;
use kafscale::actors::membership::{Announcement, LEASE_TTL, Membership};
use kafscale::actors::runtime::{IoPool, Placement};
use kafscale::actors::s3_health::S3Health;
use kafscale::actors::s3_health::state::HealthLimits;
use kafscale::actors::standing::Standing;
use kafscale::actors::supervisor::ActorRegistry;
use kafscale::actors::writer::{Fatal, PipelineBudget, WriterStats};
use kafscale::broker::Directory;
use kafscale::clock::Clock;
use kafscale::ids::{BrokerId, PartitionIndex, PartitionKey, TopicId};
use kafscale::metadata::admin::{self, Admin};
use kafscale::metadata::embedded::EmbeddedStore;
use kafscale::metadata::keys::Keys;
use kafscale::metadata::model::{self, LiveValue};
use kafscale::metadata::ownership::Ownership;
use kafscale::metadata::watcher::{self, ImageFeed};
use kafscale::metadata::{Entry, LeaseId, MetadataError, MetadataStore, Revision, Txn, TxnOutcome, WatchEvent};
use kafscale::storage::ObjectStore;
use kafscale::storage::fault::{FaultRates, FaultStore};
use kafscale::storage::layout::Layout;
use kafscale::storage::memory::MemoryStore;
use kafscale::storage::retry::{RetryPolicy, RetryingStore};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};

const PARTITIONS: i32 = 4;
/// Brokers of the cluster, of which some run.
const NODES: i32 = 3;
const PRODUCERS: u64 = 3;
const GROUPS: u64 = 4;
/// Starts of a broker that faults of the stores may prevent in a row.
const START_ATTEMPTS_MAX: u32 = 200;
/// Times that the faults change in one run.
const PHASES: u64 = 5;
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
    /// Where clients find partitions and coordinators, those of brokers that were replaced included.
    found: RefCell<Vec<(Arc<Directory>, Groups)>>,
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
            found: RefCell::default(),
            committed: RefCell::default(),
            stop: Cell::default(),
            acked: RefCell::default(),
            sent: Cell::default(),
        };
        let admin = Admin::new(world.metadata.clone(), world.keys.clone()).with_clock(clock);
        world
            .topic
            .set(Some(admin.create_topic("sim", PARTITIONS, BTreeMap::new(), Vec::new()).await.expect("created").id));
        Rc::new(world)
    }

    fn set_faults(&self, rates: FaultRates, metadata_failures: u64) {
        self.objects.set_rates(rates);
        self.metadata.failures.store(metadata_failures, Ordering::Relaxed);
    }

    /// The metadata store, without faults of its own, and its keys.
    pub fn metadata(&self) -> (Arc<dyn MetadataStore>, Keys) {
        (self.metadata.clone(), self.keys.clone())
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
    feed: ImageFeed,
    live: LiveValue,
    dead: Arc<AtomicBool>,
    membership: JoinHandle<()>,
    thread: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.membership.abort();
        self.thread.abort();
    }
}

impl Process {
    /// Starts broker 1, or says why it could not.
    pub async fn start(world: &Rc<World>) -> Result<Self, String> {
        Self::start_node(world, BrokerId(1)).await
    }

    /// Starts a broker, or says why it could not.
    async fn start_node(world: &Rc<World>, node: BrokerId) -> Result<Self, String> {
        let (started, wait) = oneshot::channel();
        let inside = world.clone();
        let thread = tokio::task::spawn_local(async move {
            let set = LocalSet::new();
            let run = async {
                let _gone = started.send(boot(&inside, node).await);
                std::future::pending::<()>().await;
            };
            set.run_until(run).await;
        });
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(Ok(Booted { context, maintenance, groups, feed, live, dead, membership }))) => {
                Ok(Self { context, maintenance, groups, feed, live, dead, membership, thread })
            }
            Ok(Ok(Err(error))) => {
                thread.abort();
                Err(error)
            }
            Ok(Err(_)) => Err(format!("the process panicked: {:?}", thread.await.err())),
            Err(_) => panic!("a process did not start within {PATIENCE:?}"),
        }
    }
}

struct Booted {
    context: Arc<NodeContext>,
    maintenance: Arc<tokio::sync::Mutex<Maintenance>>,
    groups: Groups,
    feed: ImageFeed,
    live: LiveValue,
    dead: Arc<AtomicBool>,
    membership: JoinHandle<()>,
}

async fn boot(world: &World, node: BrokerId) -> Result<Booted, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let metadata: Arc<dyn MetadataStore> = world.metadata.clone();
    let store: Arc<dyn ObjectStore> =
        Arc::new(RetryingStore::new(world.objects.clone(), RetryPolicy::default(), Default::default()));
    let (keys, layout, clock) = (world.keys.clone(), Layout::new("sim"), world.clock);
    let cluster_id = admin::ensure_cluster(&*metadata, &keys).await.map_err(|e| text(&e))?.cluster_id;
    let ownership = Ownership::new(metadata.clone(), keys.clone());
    let writer = admin::allocate_writer_id(&*metadata, &keys).await.map_err(|e| text(&e))?;
    let live = LiveValue {
        v: model::FORMAT,
        node,
        host: "sim".into(),
        port: 1,
        rack: None,
        version: "sim".into(),
        draining: false,
    };
    let registered = ownership.register(writer, kafscale::rng::u64(), &live, LEASE_TTL).await;
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
    let announcement = Arc::new(Announcement::new(live.clone(), registration.lease));
    let context = Arc::new(NodeContext {
        store,
        layout,
        metadata: metadata.clone(),
        keys: keys.clone(),
        ownership,
        registration,
        cluster_id,
        generation: 0,
        flusher,
        shards: vec![Placement::Here],
        io: IoPool::current(),
        clock,
        budget,
        stats,
        directory: Arc::default(),
        registry: Arc::new(ActorRegistry::default()),
        standing: Arc::new(Standing::new(clock, LEASE_TTL)),
        announcement,
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
    let member = Membership {
        store: metadata.clone(),
        keys: keys.clone(),
        ownership: context.ownership.clone(),
        registration: context.registration.clone(),
        lease_ttl: LEASE_TTL,
        announcement: context.announcement.clone(),
        standing: context.standing.clone(),
        stats: context.stats.clone(),
        clock,
        on_fatal: on_fatal.clone(),
    };
    let membership = tokio::task::spawn_local(member.run());
    let feed = ImageFeed::default();
    drop(IoPool::current().spawn(watcher::run(metadata, keys, feed.clone())));
    if !feed.wait_until(Duration::from_secs(60), |image| image.is_live(writer)).await {
        return Err("its lease ended before it started".to_owned());
    }
    let maintenance = leadership::start(&context, &feed, limits).await.map_err(|e| text(&e))?;
    let config = GroupConfig::of(&context, feed.image().clone(), Default::default(), on_fatal);
    let groups = group::start(config, &Placement::Here).await?;
    drop(actix_rt::spawn(leadership::run(context.clone(), maintenance.clone(), feed.clone())));
    Ok(Booted { context, maintenance, groups, feed, live, dead, membership })
}

/// The brokers of a run.
#[derive(Default)]
struct Brokers {
    running: Vec<Process>,
    /// They do not know that they were, or will be, replaced.
    zombies: Vec<Process>,
}

impl Brokers {
    /// What clients can reach. A replaced broker is reached for as long as it believes in itself.
    fn publish(&self, world: &World) {
        let all = self.running.iter().chain(&self.zombies).filter(|p| !p.dead.load(Ordering::Acquire));
        *world.found.borrow_mut() = all.map(|p| (p.context.directory.clone(), p.groups.clone())).collect();
    }

    async fn start(&mut self, world: &Rc<World>, node: BrokerId) {
        let mut attempts = 0;
        let process = loop {
            match Process::start_node(world, node).await {
                Ok(process) => break process,
                Err(error) => {
                    attempts += 1;
                    let fails_for_ever = error.contains("panicked") || attempts == START_ATTEMPTS_MAX;
                    assert!(!fails_for_ever, "broker {node} does not start: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        clients::check_offsets(world, &process).await;
        self.running.push(process);
        self.publish(world);
    }

    /// Something happens to the cluster.
    async fn change(&mut self, world: &Rc<World>, random: &mut Rng) {
        self.running.retain(|p| !p.dead.load(Ordering::Acquire));
        self.zombies.retain(|p| !p.dead.load(Ordering::Acquire));
        let absent: Vec<i32> = (1..=NODES).filter(|n| self.running.iter().all(|p| p.live.node.0 != *n)).collect();
        let one = |random: &mut Rng, len: usize| random.below(len as u64) as usize;
        match random.below(10) {
            _ if self.running.is_empty() => self.start(world, BrokerId(absent[one(random, absent.len())])).await,
            0..=2 if !absent.is_empty() => self.start(world, BrokerId(absent[one(random, absent.len())])).await,
            3 => {
                // Another process of the same broker, while the former runs.
                let node = self.running[one(random, self.running.len())].live.node;
                let (former, rest) = self.running.drain(..).partition(|p| p.live.node == node);
                self.running = rest;
                self.zombies.extend(former);
                self.start(world, node).await;
            }
            4 => drop(self.running.swap_remove(one(random, self.running.len()))),
            5 => {
                // Its lease ends, and it does not know.
                let process = self.running.swap_remove(one(random, self.running.len()));
                process.membership.abort();
                self.zombies.push(process);
            }
            6 if self.running.len() > 1 => {
                let process = self.running.swap_remove(one(random, self.running.len()));
                drain(&process).await;
            }
            7 | 8 => {
                let moves =
                    (0..PARTITIONS).map(|p| (PartitionIndex(p), BrokerId(1 + random.below(NODES as u64) as i32)));
                let (moves, topic) = (moves.collect(), world.topic.get().expect("created first"));
                let admin = Admin::new(world.metadata.clone(), world.keys.clone()).with_clock(world.clock);
                drop(admin.place_partitions("sim", topic, &moves, BrokerId(1)).await); // a failure is none of ours
            }
            _ => {}
        }
        zombie_dies(&mut self.zombies, random);
        self.publish(world);
    }

    /// A broker does a step of its background work.
    async fn maintain(&mut self, random: &mut Rng) {
        if self.running.is_empty() {
            return;
        }
        let process = &self.running[random.below(self.running.len() as u64) as usize];
        let step = async {
            let mut maintenance = process.maintenance.lock().await;
            // Failures are fine, they are tried again; waiting for ever is not.
            match random.below(7) {
                0 => drop(maintenance.checkpoint().await),
                1 => drop(maintenance.merge().await),
                2 => drop(maintenance.collect().await),
                3 => drop(maintenance.scrub_page().await),
                4 if maintenance.is_controller(&process.feed.current()) => drop(maintenance.forget_writers().await),
                _ => {}
            }
        };
        tokio::time::timeout(PATIENCE, step).await.expect("maintenance hangs");
    }
}

fn zombie_dies(zombies: &mut Vec<Process>, random: &mut Rng) {
    zombies.retain(|_| random.below(4) > 0);
}

/// Gives everything away, if anybody takes it, and ends.
async fn drain(process: &Process) {
    if process.context.set_draining(true).await.is_ok() {
        let busy = || !process.context.owned_partitions().is_empty() || !process.groups.is_idle();
        let empty = async {
            while busy() && !process.dead.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        drop(tokio::time::timeout(Duration::from_secs(60), empty).await);
    }
}

/// One run: how many records were acked, and how many sent.
fn simulate_alone(seed: u64) -> (usize, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(LocalSet::new().run_until(simulate(seed)))
}

async fn simulate(seed: u64) -> (usize, u64) {
    kafscale::rng::follow(seed);
    let mut random = Rng(seed);
    let world = World::new(&mut random).await;
    let rate = |random: &mut Rng| random.below(60) as f64 / 1_000.0;
    let mut running = Vec::new();
    for producer in 1..=PRODUCERS {
        for partition in 0..PARTITIONS {
            let client = clients::produce(world.clone(), producer, partition, random.next());
            running.push(tokio::task::spawn_local(client));
        }
    }
    let committers: Vec<_> = (0..GROUPS)
        .map(|group| tokio::task::spawn_local(clients::commit(world.clone(), group, random.next())))
        .collect();
    let mut brokers = Brokers::default();
    for _ in 0..PHASES {
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
        for _ in 0..1 + random.below(4) {
            brokers.change(&world, &mut random).await;
            for _ in 0..random.below(6) {
                tokio::time::sleep(Duration::from_millis(random.below(1_000))).await;
                brokers.maintain(&mut random).await;
            }
            tokio::time::sleep(Duration::from_millis(random.below(20_000) * random.below(2))).await;
        }
    }
    world.set_faults(FaultRates::default(), 0);
    world.stop.set(true);
    brokers.zombies.clear();
    brokers.publish(&world);
    brokers.start(&world, BrokerId(NODES + 1)).await;
    for client in running {
        let done = tokio::time::timeout(Duration::from_secs(3_600), client).await;
        done.expect("every batch is acked once nothing fails").expect("no client panics");
    }
    for committer in committers {
        committer.await.expect("no client panics");
    }
    let last = brokers.running.pop().expect("just started");
    for process in std::mem::take(&mut brokers.running) {
        drain(&process).await;
        drop(process);
    }
    let everything = async {
        while (0..PARTITIONS).any(|p| last.context.directory.get(&world.key(p)).is_none()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), everything).await.expect("the last broker leads everything");
    clients::check_offsets(&world, &last).await;
    check(&world, &last).await;
    last.maintenance.lock().await.forget_writers().await.expect("no faults");
    check::scrub(&last).await;
    check(&world, &last).await;
    (world.acked.borrow().len(), world.sent.get())
}

#[test]
fn seeds() {
    kafscale::sabotage::choose(&kafscale::config::process_environment());
    let seeds = size("SEEDS", 12);
    let first = size("SEED", kafscale::rng::u64() >> 40);
    eprintln!("simulation: SEEDS={seeds} SEED={first}");
    if seeds == 1 {
        // One seed is being looked into.
        tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    }
    let (mut acked, mut sent) = (0, 0);
    for seed in first..first + seeds {
        match std::panic::catch_unwind(|| simulate_alone(seed)) {
            Ok((a, s)) => (acked, sent) = (acked + a, sent + s),
            Err(panic) => {
                eprintln!("simulation failed; again: make sim SEED={seed} SEEDS=1");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!(
        "simulation: {seeds} seeds from {first}, {sent} records sent, {acked} acked, none lost, doubled or moved"
    );
    assert_eq!(sent, acked as u64, "every record is acked in the end");
}

/// A simulation that does not find what is broken on purpose proves nothing.
#[cfg(debug_assertions)]
#[test]
fn planted_defects_are_found() {
    // Within so many seeds.
    const SEEDS_MAX: u64 = 200;
    let defects =
        ["ack-before-commit", "forget-producers", "recover-short", "claim-early", "let-go-early", "collect-blindly"];
    for defect in defects {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "sim::seeds", "--nocapture"]).env(kafscale::sabotage::VARIABLE, defect);
        command.env("SEEDS", SEEDS_MAX.to_string()).env("RUST_BACKTRACE", "0").env_remove("SEED");
        let output = command.output().expect("it can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("broken on purpose"), "{defect} is not known: {said}");
        assert!(!output.status.success(), "{defect} was not found within {SEEDS_MAX} seeds: {said}");
        let found = said.lines().find(|l| l.starts_with("simulation failed")).unwrap_or("without a seed");
        eprintln!("{defect}: {found}");
    }
}
