//! A broker of a simulated cluster: the product's own parts, put together on one thread.

use super::PATIENCE;
use super::faults::{NodeMetadata, NodeObjects, WentBackHook};
use super::link::Link;
use super::world::{Reachable, World};
use crate::workload::Rng;
use kafscale::actors::compactor::clean_plan::CleanLimits;
use kafscale::actors::compactor::plan::MergeLimits;
use kafscale::actors::compactor::{Maintenance, MaintenanceLimits};
use kafscale::actors::context::NodeContext;
use kafscale::actors::drain::Drains;
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
use kafscale::ids::BrokerId;
use kafscale::metadata::MetadataStore;
use kafscale::metadata::image::ClusterImage;
use kafscale::metadata::keys::Keys;
use kafscale::metadata::model::{self, LiveValue};
use kafscale::metadata::ownership::Ownership;
use kafscale::metadata::watcher::{self, ImageFeed};
use kafscale::node::{NodeError, identity, rollback};
use kafscale::storage::ObjectStore;
use kafscale::storage::layout::Layout;
use kafscale::storage::reader::{LogReader, ReaderLimits};
use kafscale::storage::retry::{RetryPolicy, RetryingStore};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle, LocalSet};

/// Segments that are uploaded at the same time.
pub const UPLOADS_MAX: usize = 4;
/// Pause before a watch that was cancelled is begun again.
const WATCH_RETRY: Duration = Duration::from_millis(100);

/// Steps of key compaction that are made in a row.
const COMPACTION_STEPS: u32 = 8;

/// A running process. Dropping it is a crash: what runs on its thread ends, I/O under way goes on for a moment.
pub struct Process {
    /// What its actors share.
    pub context: Arc<NodeContext>,
    /// Its background work.
    pub maintenance: Arc<tokio::sync::Mutex<Maintenance>>,
    /// Its consumer groups.
    pub(super) groups: Groups,
    /// Which broker it is.
    pub(super) node: BrokerId,
    /// What is between it and the stores.
    pub(super) link: Arc<Link>,
    /// How wrong its wall clock is, ms.
    pub(super) clock_shift_ms: &'static AtomicI64,
    /// How it gives everything away.
    pub(super) drains: Arc<Drains>,
    /// How often the metadata store had been restored when it started.
    pub(super) age: u64,
    feed: ImageFeed,
    reader: Arc<LogReader>,
    dead: Arc<AtomicBool>,
    membership: AbortHandle,
    thread: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.link.crash();
        self.thread.abort();
    }
}

impl Process {
    /// Starts broker 1, or says why it could not. It does its background work when it is told to.
    pub async fn start(world: &Rc<World>) -> Result<Self, String> {
        Self::start_node(world, BrokerId(1), false).await
    }

    /// Starts a broker, or says why it could not.
    pub(super) async fn start_node(world: &Rc<World>, node: BrokerId, maintain: bool) -> Result<Self, String> {
        let (started, wait) = oneshot::channel();
        let inside = world.clone();
        let link = Arc::new(Link::new(world.trace.clone()));
        let (way, age) = (link.clone(), world.age.get());
        let thread = tokio::task::spawn_local(async move {
            let set = LocalSet::new();
            let run = async {
                let booted = boot(&inside, node, &way).await;
                if let (Ok(booted), true) = (&booted, maintain) {
                    let random = Rng(kafscale::rng::u64());
                    tokio::task::spawn_local(maintain_for_ever(
                        booted.maintenance.clone(),
                        booted.feed.clone(),
                        random,
                        inside.compacted.get().is_some(),
                    ));
                }
                let _gone = started.send(booted);
                std::future::pending::<()>().await;
            };
            way.thread(set.run_until(run)).await;
        });
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(Ok(booted))) => {
                let Booted { context, maintenance, groups, feed, clock_shift_ms, drains, reader, dead, membership } =
                    booted;
                Ok(Self {
                    context,
                    maintenance,
                    groups,
                    node,
                    link,
                    clock_shift_ms,
                    drains,
                    age,
                    feed,
                    reader,
                    dead,
                    membership,
                    thread,
                })
            }
            Ok(Ok(Err(error))) => {
                link.crash();
                thread.abort();
                Err(error)
            }
            Ok(Err(_)) => Err(format!("the process panicked: {:?}", thread.await.err())),
            Err(_) => panic!("a process did not start within {PATIENCE:?}"),
        }
    }

    /// What the broker knows of the cluster.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.feed.current()
    }

    /// True once it knows that it was replaced.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// From now on it does not renew its lease, and does not know.
    pub(super) fn forget_lease(&self) {
        self.membership.abort();
    }

    /// As clients find it.
    pub(super) fn reachable(&self) -> Reachable {
        let (context, groups) = (self.context.clone(), self.groups.clone());
        Reachable { context, groups, reader: self.reader.clone(), link: self.link.clone(), age: self.age }
    }
}

struct Booted {
    context: Arc<NodeContext>,
    maintenance: Arc<tokio::sync::Mutex<Maintenance>>,
    groups: Groups,
    feed: ImageFeed,
    clock_shift_ms: &'static AtomicI64,
    drains: Arc<Drains>,
    reader: Arc<LogReader>,
    dead: Arc<AtomicBool>,
    membership: AbortHandle,
}

/// What a process does that must not live on. It ends at once if the metadata store went back.
fn ending(world: &World, link: &Arc<Link>, dead: &Arc<AtomicBool>) -> Arc<dyn Fn(Fatal) + Send + Sync> {
    let (link, dead, broken, trace) = (link.clone(), dead.clone(), world.broken.clone(), world.trace.clone());
    let may_go_back = world.may_go_back.clone();
    Arc::new(move |fatal| {
        let went_back = matches!(fatal, Fatal::WentBack(_)) && may_go_back.load(Ordering::Relaxed);
        if went_back {
            trace.happened("rollback: a broker ended");
            link.end();
        } else if !matches!(fatal, Fatal::Fenced(_)) {
            broken.lock().expect("no panic under the lock").push(format!("a writer ended: {fatal}"));
        }
        dead.store(true, Ordering::Release);
    })
}

async fn boot(world: &World, node: BrokerId, link: &Arc<Link>) -> Result<Booted, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let ends = |e: NodeError| format!("{e} (exit code {})", e.exit_code());
    let dead = Arc::new(AtomicBool::new(false));
    let on_fatal = ending(world, link, &dead);
    let fatal = on_fatal.clone();
    let hook: WentBackHook = Box::new(move |error| fatal(Fatal::WentBack(error.to_string())));
    let metadata: Arc<dyn MetadataStore> = Arc::new(NodeMetadata::new(world.metadata.clone(), link.clone(), hook));
    let objects = Arc::new(NodeObjects { shared: world.objects.clone(), link: link.clone() });
    let store: Arc<dyn ObjectStore> = Arc::new(RetryingStore::new(objects, RetryPolicy::default(), Default::default()));
    let clock_shift_ms: &'static AtomicI64 = Box::leak(Box::default());
    let (keys, layout, clock) = (world.keys.clone(), Layout::new("sim"), world.clock.shifted(clock_shift_ms));
    let cluster = identity::establish(&*metadata, &*store, &keys, &layout, "sim").await.map_err(ends)?;
    let (cluster_id, generation) = (cluster.cluster_id, cluster.generation);
    rollback::check(&metadata, &*store, &keys, &layout).await.map_err(ends)?;
    let ownership = Ownership::new(metadata.clone(), keys.clone());
    let live = LiveValue {
        v: model::FORMAT,
        node,
        host: "sim".into(),
        port: 1,
        rack: None,
        version: "sim".into(),
        control: None,
        metrics: None,
        draining: false,
        follows: false,
    };
    let registered = identity::register(&metadata, &*store, &keys, &layout, &cluster_id, &live, LEASE_TTL).await;
    let registration = registered.map_err(ends)?;
    let writer = registration.writer;
    let (budget, stats) = (Arc::new(PipelineBudget::new(1 << 20)), Arc::new(WriterStats::default()));
    let config = FlusherConfig {
        limits: flush_limits(),
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
    let limits = ReaderLimits { cache_bytes: 1 << 26, readahead_segments: 1 };
    let reader = Arc::new(LogReader::new(store.clone(), limits));
    let context = Arc::new(NodeContext {
        store,
        layout,
        metadata: metadata.clone(),
        keys: keys.clone(),
        ownership,
        registration,
        cluster_id,
        generation,
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
        ahead: Default::default(),
        urgency: Default::default(),
        owned: Default::default(),
    });
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
    let membership = tokio::task::spawn_local(member.run()).abort_handle();
    let feed = ImageFeed::default();
    drop(IoPool::current().spawn(follow(metadata, keys, feed.clone(), link.clone())));
    if !feed.wait_until(Duration::from_secs(60), |image| image.is_live(writer)).await {
        return Err("its lease ended before it started".to_owned());
    }
    let maintenance = leadership::start(&context, &feed, maintenance_limits()).await.map_err(|e| text(&e))?;
    let config = GroupConfig::of(&context, feed.clone(), Default::default(), on_fatal);
    let groups = group::start(config, &Placement::Here).await?;
    drop(actix_rt::spawn(leadership::run(context.clone(), maintenance.clone(), feed.clone())));
    let drains = Drains::new(context.clone(), groups.clone(), feed.clone());
    tokio::task::spawn_local(drains.clone().run());
    Ok(Booted { context, maintenance, groups, feed, clock_shift_ms, drains, reader, dead, membership })
}

fn flush_limits() -> FlushLimits {
    FlushLimits {
        segment_bytes: 4_096,
        interval_ms: 20,
        linger_ms: 2,
        stall_ms: 10,
        full_ms: 5,
        lone_ms: None,
        uploads_max: UPLOADS_MAX,
        burst: 4,
        cost_bounded: false,
        twice: true,
    }
}

fn maintenance_limits() -> MaintenanceLimits {
    MaintenanceLimits {
        garbage_age_ms: 2_000,
        scrub_age_ms: 1_000,
        merge: MergeLimits {
            window_extents: 20,
            window_age_ms: 500,
            segment_bytes_min: 4_096,
            ..MergeLimits::default()
        },
        // Several passes, groups, reads and pieces for a few kilobytes.
        clean: CleanLimits {
            keys_max: 12,
            dirty_bytes_min: 0,
            group_bytes_max: 1_500,
            read_bytes: 300,
            retry_ms: 100,
            ..CleanLimits::default()
        },
        ..MaintenanceLimits::default()
    }
}

async fn follow(metadata: Arc<dyn MetadataStore>, keys: Keys, feed: ImageFeed, link: Arc<Link>) {
    while !link.is_silent() {
        watcher::run(metadata.clone(), keys.clone(), feed.clone()).await;
        tokio::time::sleep(WATCH_RETRY).await;
    }
}

/// A step of background work now and then.
async fn maintain_for_ever(
    maintenance: Arc<tokio::sync::Mutex<Maintenance>>,
    feed: ImageFeed,
    mut random: Rng,
    compacts: bool,
) {
    loop {
        tokio::time::sleep(Duration::from_millis(random.below(2_500))).await;
        let mut maintenance = maintenance.lock().await;
        // Failures are fine, they are tried again; waiting for ever is not.
        let step = async {
            match random.below(8) {
                0 => drop(maintenance.checkpoint().await),
                1 => drop(maintenance.merge().await),
                2 => drop(maintenance.collect().await),
                3 => drop(maintenance.scrub_page().await),
                4 => {
                    let controller = maintenance.is_controller(&feed.current());
                    drop(maintenance.bury_topics(controller).await);
                }
                5 if compacts => {
                    let image = feed.current();
                    for _ in 0..COMPACTION_STEPS {
                        drop(maintenance.compact(&image).await);
                    }
                }
                6 if maintenance.is_controller(&feed.current()) => drop(maintenance.forget_writers().await),
                _ => {}
            }
        };
        tokio::time::timeout(PATIENCE, step).await.expect("maintenance hangs");
    }
}
