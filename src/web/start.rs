//! Puts the console together: a thread with an actor system of its own, the actors in it, and the server before them.

use super::assets::Assets;
use super::audit::Audit;
use super::auth::actor::{self, Sessions};
use super::auth::password::Logins;
use super::cluster::Cluster;
use super::data::DataState;
use super::drains::Drains;
use super::kafka::KafkaClient;
use super::live::{LiveFeed, Tick};
use super::overview::Tally;
use super::probes::{self, ConsoleStats};
use super::scrape::{Scraper, Shared};
use super::server;
use super::snapshots::Snapshots;
use super::source::BrokerSource;
use super::state::{ConsoleState, History};
use crate::actors::runtime::IoPool;
use crate::actors::supervisor::{ActorRegistry, Escalation, RestartPolicy, Supervision, supervise};
use crate::cli::exit;
use crate::clock::Clock;
use crate::config::console::{ConsoleConfig, UiConfig};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::signals::StopSignals;
use actix_web::dev::ServerHandle;
use actix_web::web;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Messages that wait for actors that talk to themselves.
const OWN_MAILBOX_LEN_MAX: usize = 16;
/// How long an actor that fails all the time is left alone, ms.
const RETRY_MS: u64 = 30_000;

/// Why the console did not start; `Display` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {addr} for the web console: {source}; free it, or set KAFSCALE_CONSOLE_HTTP_ADDR to another \
         address (`kafscale dev` also takes off)"
    )]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The thread or its server could not be started.
    #[error("cannot start the web console: {0}")]
    Start(String),
}

/// What a console is made of.
pub struct Parts {
    component: &'static str,
    config: UiConfig,
    cluster: Cluster,
    snapshots: Snapshots,
    clock: Clock,
}

impl Parts {
    /// Of `kafscale console`.
    pub fn remote(config: ConsoleConfig) -> Self {
        let clock = Clock::system();
        let cluster = Cluster::remote(clock, config.metadata, config.namespace, config.metrics_url);
        let snapshots = Snapshots::new(config.operator_metrics_url);
        Self { component: "console", config: config.ui, cluster, snapshots, clock }
    }

    /// Of the console beside a broker in the same process.
    pub fn beside(config: UiConfig, node: &Node) -> Self {
        let context = node.context();
        let (clock, namespace) = (context.clock, node.namespace().to_owned());
        let cluster = Cluster::beside(clock, node.feed().clone(), namespace, context.cluster_id.clone());
        Self { component: "dev", config, cluster, snapshots: Snapshots::new(None), clock }
    }
}

/// A running console.
#[derive(Debug)]
pub struct ConsoleHandle {
    addr: SocketAddr,
    server: ServerHandle,
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

impl ConsoleHandle {
    /// The address that is listened on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Tells live pages that it ends, stops the server and waits for its thread; requests in flight get about a second.
    pub fn stop(self) {
        self.shutdown.cancel();
        // The command is queued when `stop` is called; the future only waits for the end, which `join` does.
        drop(self.server.stop(true));
        if self.thread.join().is_err() {
            tracing::error!("the web console panicked");
        }
    }
}

/// Takes the address.
pub fn bind(addr: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).map_err(|source| StartError::Bind { addr, source })
}

/// Starts the console on `listener`.
pub fn spawn(listener: TcpListener, parts: Parts) -> Result<ConsoleHandle, StartError> {
    let failed = |message: String| StartError::Start(message);
    let addr = listener.local_addr().map_err(|e| failed(e.to_string()))?;
    let shutdown = CancellationToken::new();
    let (started, outcome) = mpsc::sync_channel(1);
    let ending = shutdown.clone();
    let thread = std::thread::Builder::new()
        .name("console".to_owned())
        .spawn(move || serve(listener, parts, ending, &started))
        .map_err(|e| failed(e.to_string()))?;
    let server = outcome.recv().map_err(|_| failed("its thread ended".to_owned()))?.map_err(failed)?;
    tracing::info!(%addr, "serving the web console");
    Ok(ConsoleHandle { addr, server, shutdown, thread })
}

fn serve(
    listener: TcpListener,
    parts: Parts,
    shutdown: CancellationToken,
    started: &mpsc::SyncSender<Result<ServerHandle, String>>,
) {
    actix_rt::System::new().block_on(async move {
        let state = web::Data::from(start_actors(parts, shutdown));
        let (server, handle) = match server::serve(listener, state) {
            Ok(running) => running,
            Err(error) => return drop(started.send(Err(error.to_string()))),
        };
        // The receiver waits for exactly this message.
        let _ = started.send(Ok(handle));
        if let Err(error) = server.await {
            tracing::error!(%error, "the web console failed");
        }
    });
}

fn supervision(name: &str, registry: &Arc<ActorRegistry>) -> Supervision {
    Supervision {
        name: name.to_owned(),
        policy: RestartPolicy::default(),
        registry: registry.clone(),
        on_escalate: Box::new(|_| Escalation::RetryAfterMs(RETRY_MS)),
    }
}

/// Starts the actors on this thread.
fn start_actors(parts: Parts, shutdown: CancellationToken) -> Arc<ConsoleState> {
    let Parts { component, config, cluster, snapshots, clock } = parts;
    let (registry, cluster) = (Arc::new(ActorRegistry::default()), Arc::new(cluster));
    cluster.start(&registry, &IoPool::current());
    let (auth_stats, stats) = (Arc::<actor::AuthStats>::default(), Arc::<ConsoleStats>::default());
    let counted = auth_stats.clone();
    let sessions = supervise(supervision("sessions", &registry), actor::MAILBOX_LEN_MAX, move |_| {
        let sessions = Sessions::new(clock, counted.clone());
        Box::pin(async move { Ok(sessions) })
    });
    let (scraped, history) = (Arc::<Shared>::default(), History::default());
    let source: Arc<dyn BrokerSource> = cluster.clone();
    let kafka = Arc::new(KafkaClient::new(source.clone()));
    let data = DataState::start(clock, &kafka, &cluster, &registry, &IoPool::current());
    let (shared, ring, scrapes) = (scraped.clone(), history.clone(), stats.clone());
    supervise(supervision("scraper", &registry), OWN_MAILBOX_LEN_MAX, move |_| {
        let scraper = Scraper::new(clock, source.clone(), shared.clone(), ring.clone(), scrapes.clone());
        Box::pin(async move { Ok(scraper) })
    });
    let (ticks, live) = watch::channel(Arc::new(Tick::default()));
    let (verifying, login_places, request_places, stream_places) = ConsoleState::places();
    let state = Arc::new(ConsoleState {
        clock,
        component,
        logins: Arc::new(Logins::new(&config)),
        config,
        sessions,
        auth_stats,
        verifying,
        login_places,
        request_places,
        stream_places,
        assets: Assets::embedded(),
        cluster,
        kafka,
        data,
        scraped,
        snapshots,
        history,
        tally: Tally::default(),
        live,
        drains: Drains::default(),
        audit: Arc::new(Audit::new(clock)),
        metrics: Metrics::new(),
        stats,
        registry: registry.clone(),
        shutdown,
    });
    let watched = Arc::downgrade(&state);
    supervise(supervision("live-feed", &registry), OWN_MAILBOX_LEN_MAX, move |_| {
        let feed = LiveFeed::new(clock, watched.clone(), ticks.clone());
        Box::pin(async move { Ok(feed) })
    });
    probes::register(&state.metrics, &state);
    state
}

/// Runs `kafscale console` until it is told to stop.
pub fn run(config: ConsoleConfig) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(exit::RESOURCE);
        }
    };
    let mut signals = {
        let _entered = runtime.enter();
        StopSignals::listen()
    };
    let listen = config.ui.listen;
    let started = bind(listen).and_then(|listener| spawn(listener, Parts::remote(config)));
    let handle = match started {
        Ok(handle) => handle,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::from(exit::RESOURCE);
        }
    };
    runtime.block_on(signals.received());
    tracing::info!("stopping: live pages are told, requests in flight are answered");
    handle.stop();
    ExitCode::SUCCESS
}
