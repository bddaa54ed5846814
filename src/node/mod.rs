//! One broker process, from configuration to shutdown.
//!
//! Start-up order: metrics server, stores, listener, probe, cluster identity, writer registration, takeover of what
//! sealed predecessors left, first checkpoint, and only then the first connection is served. Whatever fails on the way
//! ends the process with a message that says what to do; nothing falls back.

mod control;
mod dev;
pub mod identity;
mod limits;
mod metrics;
mod pages;
mod reading;
pub mod rollback;
mod storage_pages;
pub(crate) mod stores;

use crate::actors::compactor::{self, Maintenance};
use crate::actors::context::NodeContext;
use crate::actors::controller;
use crate::actors::desired;
use crate::actors::drain::Drains;
use crate::actors::flusher::{Flusher, FlusherConfig, Quiesce};
use crate::actors::group::{self, GroupConfig};
use crate::actors::leadership::{self, LeadershipError};
use crate::actors::membership::{Announcement, Membership};
use crate::actors::recovery::RecoveryError;
use crate::actors::runtime::{IoPool, Placement};
use crate::actors::standing::Standing;
use crate::actors::supervisor::{ActorRegistry, supervise_loop};
use crate::actors::writer::{Fatal, PipelineBudget, WriterStats};
use crate::broker::{Broker, BrokerSettings};
use crate::cli::exit;
use crate::clock::Clock;
use crate::config::console::UiConfig;
use crate::config::{Component, NodeConfig, StorageConfig};
use crate::http::{self, HttpState, Readiness};
use crate::metadata::admin::Admin;
use crate::metadata::etcd::WentBackHook;
use crate::metadata::keys::Keys;
use crate::metadata::model::{self, ClusterValue, LiveValue};
use crate::metadata::ownership::{Ownership, Registration};
use crate::metadata::watcher::{self, ImageFeed};
use crate::protocol::config_defaults::Defaults;
use crate::protocol::limits::EdgeLimits;
use crate::protocol::server::{self, EdgeContext};
use crate::signals::StopSignals;
use crate::storage::layout::Layout;
use limits::{dev_shards, flush_limits, maintenance_limits, take_small_pages};
pub use pages::{actors, quantile};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use stores::Stores;
pub use stores::open_metadata;
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

/// Bytes of batches that may wait for durability.
const PIPELINE_BYTES_MAX: u64 = 256 << 20;
/// How long a shutdown waits for what is in flight.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a shutdown goes on giving partitions and groups away.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a node that is told to stop while it starts may go on, to be there to leave in order.
const LATE_START: Duration = Duration::from_secs(5);
/// How long a shutdown goes on answering consumers that read what others lead, so that they hear that they should ask
/// the leader.
const FAREWELL: Duration = Duration::from_secs(1);
/// Why the node did not start or run; `Display` says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    message: String,
    exit_code: u8,
}

impl NodeError {
    /// A store that fails or refuses, in all words.
    fn unavailable(message: String) -> Self {
        Self { message, exit_code: exit::UNAVAILABLE }
    }

    fn new(what: &str, error: impl std::fmt::Display) -> Self {
        Self::unavailable(format!("{what}: {error}"))
    }

    /// Metadata that is older than what brokers have done.
    fn went_back(message: String) -> Self {
        Self { message, exit_code: exit::WENT_BACK }
    }

    /// Something of this machine that is taken or cannot be made.
    fn resource(message: String) -> Self {
        Self { message, exit_code: exit::RESOURCE }
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

/// Runs the node, and the console beside it, until it is asked to stop.
pub fn run(config: NodeConfig, console: Option<UiConfig>) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = if config.component == Component::Dev { dev_shards(cores) } else { cores };
    if config.component == Component::Dev {
        take_small_pages();
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(cores).thread_name("io").enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start threads");
            return ExitCode::from(exit::UNAVAILABLE);
        }
    };
    let io = runtime.block_on(async { IoPool::current() });
    let outcome = actix_rt::System::new().block_on(async move {
        let mut signals = StopSignals::listen();
        let shards = (0..shards).map(|_| Placement::Arbiter(actix_rt::Arbiter::new().handle())).collect();
        let is_dev = config.component == Component::Dev;
        // Bound first: an address that is taken is an error before anything has begun.
        let console = console.map(dev::Console::bind).transpose()?;
        let data = dev::data_folder(&config);
        let Some(node) = start_unless_stopped(Node::start(config, io, shards), &mut signals).await? else {
            return Ok(());
        };
        let console = console.map(|console| console.start(&node)).transpose()?;
        if is_dev {
            dev::announce(&node, &data, console.as_ref());
        }
        signals.received().await;
        tracing::info!("stopping: no new requests; what is in flight is finished and committed");
        if let Some(console) = console {
            console.stop();
        }
        node.stop().await;
        Ok::<_, NodeError>(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Waits for the node, or for a signal: then for a start that is nearly done, whose node leaves in order. Nothing is served
/// before the last wait of a start, so that it may be left at any of them.
async fn start_unless_stopped(
    start: impl Future<Output = Result<Node, NodeError>>,
    signals: &mut StopSignals,
) -> Result<Option<Node>, NodeError> {
    let mut start = std::pin::pin!(start);
    tokio::select! {
        node = &mut start => return node.map(Some),
        () = signals.received() => tracing::info!("stopping before the start is done"),
    }
    tokio::select! {
        node = tokio::time::timeout(LATE_START, start) => {
            if let Ok(Ok(node)) = node {
                node.stop().await;
            }
        }
        () = signals.received() => {}
    }
    Ok(None)
}

/// A running broker.
pub struct Node {
    context: Arc<NodeContext>,
    broker: Arc<Broker>,
    feed: ImageFeed,
    namespace: String,
    maintenance: Arc<Mutex<Maintenance>>,
    http: http::HttpHandle,
    readiness: Arc<HttpState>,
    addr: SocketAddr,
    shutdown: CancellationToken,
    served: Vec<oneshot::Receiver<()>>,
    stores: Stores,
    drains: Arc<Drains>,
    control: Option<SocketAddr>,
    control_shutdown: CancellationToken,
}

impl Node {
    /// Starts a broker on `shards`; I/O runs on `io`. Returns when it serves.
    pub async fn start(config: NodeConfig, io: IoPool, shards: Vec<Placement>) -> Result<Self, NodeError> {
        let checks = ["startup"];
        let state = Arc::new(HttpState { readiness: Readiness::new(checks), ..HttpState::default() });
        let http = http::spawn(config.metrics_addr, state.clone()).map_err(|e| NodeError::resource(e.to_string()))?;
        let listeners = server::bind(config.listen, shards.len()).map_err(|e| NodeError::resource(e.to_string()))?;
        let bound = listeners[0].local_addr().map_err(|e| NodeError::new("cannot read the listener's address", e))?;
        let control = config.control_addr.as_ref().map(|control| control::bind(&config, control)).transpose()?;
        let timeout = config.startup_timeout;
        let waiting = state.clone();
        let start = Self::start_bound(config, io, shards, listeners, bound, control, http, state);
        match tokio::time::timeout(timeout, start).await {
            Ok(outcome) => outcome,
            Err(_) => Err(NodeError::unavailable(format!(
                "not started within {} s (KAFSCALE_STARTUP_TIMEOUT_SEC); it was waiting for: {}",
                timeout.as_secs(),
                waiting.readiness.failing().values().cloned().collect::<Vec<_>>().join("; ")
            ))),
        }
    }

    #[allow(clippy::too_many_arguments)] // what was bound, each of its own type
    async fn start_bound(
        config: NodeConfig,
        io: IoPool,
        shards: Vec<Placement>,
        listeners: Vec<TcpListener>,
        bound: SocketAddr,
        control: Option<(Arc<TcpListener>, String)>,
        http: http::HttpHandle,
        state: Arc<HttpState>,
    ) -> Result<Self, NodeError> {
        let progress = |what: &str| state.readiness.fail("startup", what);
        let clock = Clock::system();
        progress("the metadata and object stores to answer");
        let hook: WentBackHook = Arc::new(|error| die(Fatal::WentBack(error.to_string())));
        let stores = Stores::open(&config, &io, clock, Some(hook)).await?;
        let (keys, layout) = (Keys::new(&config.namespace), Layout::new(config.namespace.as_str()));
        progress("a probe object to be written to the object store");
        identity::probe(&stores, &layout, clock).await?;
        progress("the read replica to answer");
        stores.probe_replica(&layout, clock).await;
        progress("the cluster's identity to be read");
        let cluster =
            identity::establish(&*stores.metadata, &*stores.objects, &keys, &layout, &config.namespace).await?;
        progress("the object store to be compared with the metadata store");
        rollback::check(&stores.metadata, &*stores.objects, &keys, &layout).await?;
        progress("the writer to be registered in the metadata store");
        let port = if config.advertised_port == 0 { bound.port() } else { config.advertised_port };
        let live = LiveValue {
            v: model::FORMAT,
            node: config.broker_id,
            host: config.advertised_host.clone(),
            port,
            rack: config.rack.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            control: control.as_ref().map(|(_, address)| address.clone()),
            metrics: Some(control::reachable(&config, http.addr(), &config.metrics_addr.ip().to_string())),
            draining: false,
            follows: config.follows(),
        };
        let ownership = Ownership::new(stores.metadata.clone(), keys.clone());
        let (metadata, objects) = (&stores.metadata, &*stores.objects);
        let registration =
            identity::register(metadata, objects, &keys, &layout, &cluster.cluster_id, &live, config.lease_ttl).await?;
        let on_fatal: Arc<dyn Fn(Fatal) + Send + Sync> = Arc::new(die);
        let context = build_context(
            &config,
            &stores,
            keys,
            layout,
            cluster,
            ownership,
            registration,
            live,
            &io,
            shards,
            clock,
            &on_fatal,
        )
        .await;
        // Taking over may take longer than the lease lives, and needs to know who else is there.
        start_membership(&context, config.lease_ttl, &on_fatal);
        let feed = follow_cluster(&config, &context).await;
        progress("partitions to be taken over");
        let maintenance =
            leadership::start(&context, &feed, maintenance_limits(&config)).await.map_err(|error| match error {
                LeadershipError::Recovery(error @ RecoveryError::RevisionWentBack { .. }) => {
                    NodeError::went_back(error.to_string())
                }
                error => NodeError::new("partitions cannot be taken over", error),
            })?;
        let broker = start_loops(&config, &context, &stores, &maintenance, feed.clone(), on_fatal).await?;
        let drains = start_drains(&context, &broker, feed.clone());
        let edge =
            Arc::new(EdgeContext::new(broker.clone(), (config.advertised_host.clone(), port), EdgeLimits::default()));
        metrics::register(&state.metrics, &context, &broker, &edge, &stores);
        pages::register(&state, &config, &context, &broker, &stores);
        storage_pages::register(&state, &broker);
        let shutdown = CancellationToken::new();
        let served = serve(&context, listeners, &edge, &shutdown);
        let control_shutdown = CancellationToken::new();
        let control = control.map(|(listener, _)| control::serve(&context, &drains, listener, &control_shutdown));
        state.readiness.pass("startup");
        announce(&config, bound);
        Ok(Self {
            context,
            broker,
            feed,
            namespace: config.namespace.clone(),
            maintenance,
            http,
            readiness: state,
            addr: bound,
            shutdown,
            served,
            stores,
            drains,
            control,
            control_shutdown,
        })
    }

    /// Address of the Kafka listener.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Address of the metrics listener.
    pub fn metrics_addr(&self) -> SocketAddr {
        self.http.addr()
    }

    /// Address of the control plane's listener, if there is one.
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control
    }

    /// What request handlers stand on.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// The cluster as this process knows it.
    pub fn feed(&self) -> &ImageFeed {
        &self.feed
    }

    /// The cluster's name in the metadata store.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What the actors share.
    pub fn context(&self) -> &Arc<NodeContext> {
        &self.context
    }

    /// Background work, to run a step by hand.
    pub fn maintenance(&self) -> &Arc<Mutex<Maintenance>> {
        &self.maintenance
    }

    /// Gives everything to other brokers if there are any, stops accepting, finishes what is in flight, commits it, writes a
    /// checkpoint and leaves the cluster.
    pub async fn stop(self) {
        self.readiness.readiness.fail("startup", "stopping");
        let is_read = self.broker.followers.as_ref().is_some_and(|followers| followers.size().0 > 0);
        if tokio::time::timeout(DRAIN_TIMEOUT, self.drains.stop()).await.is_err() {
            tracing::warn!("not everything could be given to other brokers in time; they take it over");
        }
        if is_read {
            tokio::time::sleep(FAREWELL).await;
        }
        self.shutdown.cancel();
        let finish = async {
            // While connections are there to take the answers of those who wait for other members.
            self.broker.groups.drain().await;
            for served in self.served {
                drop(served.await);
            }
            let (done, quiet) = oneshot::channel();
            self.context.flusher.do_send(Quiesce { key: None, done });
            drop(quiet.await);
            if let Err(error) = self.maintenance.lock().await.checkpoint().await {
                tracing::warn!(%error, "no last checkpoint; the next start replays a little more");
            }
            let (_, lease) = self.context.announcement.told();
            if let Err(error) = self.context.metadata.lease_revoke(lease).await {
                tracing::warn!(%error, "the lease ends by itself");
            }
        };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, finish).await.is_err() {
            tracing::error!("not everything in flight could be committed in time; its clients retry");
        }
        self.stores.cancel();
        self.control_shutdown.cancel();
        self.http.stop();
    }
}

/// Ends the process: a half-alive writer is worse than a dead one.
fn die(fatal: Fatal) {
    tracing::error!(exit_code = fatal.exit_code(), "{fatal}");
    std::process::exit(i32::from(fatal.exit_code()));
}

#[allow(clippy::too_many_arguments)] // the parts of a context, each of its own type
async fn build_context(
    config: &NodeConfig,
    stores: &Stores,
    keys: Keys,
    layout: Layout,
    cluster: ClusterValue,
    ownership: Ownership,
    registration: Registration,
    live: LiveValue,
    io: &IoPool,
    shards: Vec<Placement>,
    clock: Clock,
    on_fatal: &Arc<dyn Fn(Fatal) + Send + Sync>,
) -> Arc<NodeContext> {
    let budget = Arc::new(PipelineBudget::new(PIPELINE_BYTES_MAX));
    let stats = Arc::new(WriterStats::default());
    let flusher_config = FlusherConfig {
        limits: flush_limits(config),
        tail_bytes_max: config.cache_bytes / 4,
        cluster_id: cluster.cluster_id.clone(),
        store: stores.objects.clone(),
        layout: layout.clone(),
        ownership: ownership.clone(),
        registration: registration.clone(),
        io: io.clone(),
        clock,
        budget: budget.clone(),
        stats: stats.clone(),
        on_fatal: on_fatal.clone(),
    };
    let flusher =
        start_flusher(&shards[0], flusher_config, matches!(config.storage, StorageConfig::Local { .. })).await;
    let announcement = Arc::new(Announcement::new(live, registration.lease));
    Arc::new(NodeContext {
        store: stores.objects.clone(),
        layout,
        metadata: stores.metadata.clone(),
        keys,
        ownership,
        registration,
        cluster_id: cluster.cluster_id,
        generation: cluster.generation,
        flusher,
        shards,
        io: io.clone(),
        clock,
        budget,
        stats,
        directory: Arc::default(),
        registry: Arc::new(ActorRegistry::default()),
        standing: Arc::new(Standing::new(clock, config.lease_ttl)),
        announcement,
        health: stores.health.clone(),
        ahead: Default::default(),
        urgency: Default::default(),
        owned: Default::default(),
    })
}

/// Starts the writer; if its actor panics the process ends. File I/O blocks threads of its own: with `files` it is
/// started from the writer's thread, since a detour over the I/O pool would double the wake-ups of each flush.
async fn start_flusher(shard: &Placement, mut config: FlusherConfig, files: bool) -> actix::Addr<Flusher> {
    let (started, addr) = oneshot::channel();
    let on_fatal = config.on_fatal.clone();
    shard.run(move || {
        if files {
            config.io = IoPool::current();
        }
        let context = actix::Context::new();
        drop(started.send(actix::AsyncContext::address(&context)));
        let running = context.into_future(Flusher::new(config));
        drop(actix_rt::spawn(async move {
            if let Err(error) = actix_rt::spawn(running).await
                && let Ok(panic) = error.try_into_panic()
            {
                on_fatal(Fatal::CommitPathPanic(crate::actors::supervisor::panic_message(&*panic)));
            }
        }));
    });
    addr.await.expect("the shard runs")
}

async fn start_loops(
    config: &NodeConfig,
    context: &Arc<NodeContext>,
    stores: &Stores,
    maintenance: &Arc<Mutex<Maintenance>>,
    feed: ImageFeed,
    on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
) -> Result<Arc<Broker>, NodeError> {
    let (io, registry) = (&context.io, &context.registry);
    let group_config = GroupConfig::of(context, feed.clone(), config.groups, on_fatal.clone());
    let shard = context.shards.last().expect("there is a shard");
    let groups = group::start(group_config, shard).await;
    let groups = groups.map_err(|e| NodeError::new("consumer groups cannot be loaded", e))?;
    let reader = reading::reader(config, stores, io).await?;
    let broker = Arc::new(Broker {
        cluster_id: context.cluster_id.clone(),
        node: config.broker_id,
        settings: BrokerSettings {
            auto_create_topics: config.auto_create_topics,
            default_partitions: config.auto_create_partitions,
            group_bounds: config.groups.consumer.bounds,
            log_dir: config.log_dir(),
            shown_configs: config.shown.clone(),
        },
        clock: context.clock,
        image: feed.image().clone(),
        directory: context.directory.clone(),
        partitions: context.clone(),
        reader,
        admin: Admin::new(context.metadata.clone(), context.keys.clone()).with_clock(context.clock),
        latencies: Default::default(),
        health: context.health.clone(),
        standing: context.standing.clone(),
        groups,
        followers: config.follows().then(|| reading::followers(config, stores, context, &feed)),
        sent_away: Default::default(),
    });
    let health = context.health.clone();
    supervise_loop("s3-health", registry, io, move || health.clone().run());
    let (ctx, b, followed) = (context.clone(), broker.clone(), feed.clone());
    supervise_loop("controller", registry, io, move || controller::run(ctx.clone(), b.clone(), followed.clone()));
    let (ctx, b, followed) = (context.clone(), broker.clone(), feed.clone());
    supervise_loop("desired", registry, io, move || desired::run(ctx.clone(), b.clone(), followed.clone()));
    let (ctx, m) = (context.clone(), maintenance.clone());
    supervise_loop("leadership", registry, io, move || leadership::run(ctx.clone(), m.clone(), feed.clone()));
    let (m, b) = (maintenance.clone(), broker.clone());
    supervise_loop("compactor", registry, io, move || compactor::run(m.clone(), b.clone()));
    Ok(broker)
}

/// Ready to give everything away.
fn start_drains(context: &Arc<NodeContext>, broker: &Arc<Broker>, feed: ImageFeed) -> Arc<Drains> {
    let drains = Drains::new(context.clone(), broker.groups.clone(), feed);
    let running = drains.clone();
    supervise_loop("drain", &context.registry, &context.io, move || running.clone().run());
    drains
}

/// Keeps the lease alive from now on.
fn start_membership(context: &Arc<NodeContext>, lease_ttl: Duration, on_fatal: &Arc<dyn Fn(Fatal) + Send + Sync>) {
    let (ctx, on_fatal) = (context.clone(), on_fatal.clone());
    supervise_loop("membership", &context.registry, &context.io, move || {
        let membership = Membership {
            store: ctx.metadata.clone(),
            keys: ctx.keys.clone(),
            ownership: ctx.ownership.clone(),
            registration: ctx.registration.clone(),
            lease_ttl,
            announcement: ctx.announcement.clone(),
            standing: ctx.standing.clone(),
            stats: ctx.stats.clone(),
            clock: ctx.clock,
            on_fatal: on_fatal.clone(),
        };
        membership.run()
    });
}

/// Follows the cluster's image; returns when this broker is in it.
async fn follow_cluster(config: &NodeConfig, context: &Arc<NodeContext>) -> ImageFeed {
    let feed = ImageFeed::with_defaults(Defaults::new(config.broker_id, config.topic_defaults.clone()));
    let (store, keys, followed) = (context.metadata.clone(), context.keys.clone(), feed.clone());
    supervise_loop("metadata-watcher", &context.registry, &context.io, move || {
        watcher::run(store.clone(), keys.clone(), followed.clone())
    });
    let me = context.registration.writer;
    feed.wait_until(Duration::from_secs(3600), |image| image.is_live(me)).await;
    feed
}

fn serve(
    context: &NodeContext,
    listeners: Vec<TcpListener>,
    edge: &Arc<EdgeContext>,
    shutdown: &CancellationToken,
) -> Vec<oneshot::Receiver<()>> {
    let mut served = Vec::new();
    for (shard, listener) in context.shards.iter().zip(listeners) {
        let (done, wait) = oneshot::channel();
        let (edge, shutdown) = (edge.clone(), shutdown.clone());
        shard.spawn(move || {
            Box::pin(async move {
                if let Err(error) = server::serve(listener, edge, shutdown).await {
                    tracing::error!(%error, "a listener failed");
                }
                let _gone = done.send(());
            })
        });
        served.push(wait);
    }
    served
}

fn announce(config: &NodeConfig, bound: SocketAddr) {
    tracing::info!(broker = config.broker_id.0, %bound, advertised = %config.advertised_host, "serving Kafka clients");
}
