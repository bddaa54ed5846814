//! What the console's handlers and actors share.

use super::assets::Assets;
use super::audit::Audit;
use super::auth::actor::{AuthStats, Sessions};
use super::auth::password::Logins;
use super::auth::{VERIFYING_MAX, WAITING_MAX};
use super::cluster::Cluster;
use super::data::DataState;
use super::drains::Drains;
use super::gate::{REQUESTS_MAX, STREAMS_MAX};
use super::history::ring::Ring;
use super::kafka::KafkaClient;
use super::live::Tick;
use super::overview::Tally;
use super::probes::ConsoleStats;
use super::problem::Problem;
use super::scrape::Shared;
use super::snapshots::Snapshots;
use crate::actors::supervisor::{ActorRef, ActorRegistry};
use crate::clock::Clock;
use crate::config::console::UiConfig;
use crate::metrics::Metrics;
use actix::Handler;
use actix::dev::ToEnvelope;
use serde::Serialize;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// The last day's numbers.
pub type History = Arc<Mutex<Ring>>;

/// A source that an answer is without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// For example `broker 2`.
    pub source: String,
    /// Why.
    pub reason: String,
    /// Since when, Unix milliseconds.
    pub since_ms: Option<i64>,
}

/// See the module's documentation.
pub struct ConsoleState {
    /// Time.
    pub clock: Clock,
    /// `console` or `dev`.
    pub component: &'static str,
    /// Configuration.
    pub config: UiConfig,
    /// Who may sign in.
    pub logins: Arc<Logins>,
    /// Who is.
    pub sessions: ActorRef<Sessions>,
    /// Counters of signing in.
    pub auth_stats: Arc<AuthStats>,
    /// Passwords that are compared at a time.
    pub verifying: Semaphore,
    /// Logins that may wait for that.
    pub login_places: Semaphore,
    /// Requests at a time.
    pub request_places: Arc<Semaphore>,
    /// Streams at a time.
    pub stream_places: Arc<Semaphore>,
    /// Pages.
    pub assets: Assets,
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// The cluster's brokers, as a client of Kafka.
    pub kafka: Arc<KafkaClient>,
    /// What pages about topics and groups keep.
    pub data: DataState,
    /// What brokers say in their metrics.
    pub scraped: Arc<Shared>,
    /// Snapshots of etcd.
    pub snapshots: Snapshots,
    /// The last day.
    pub history: History,
    /// What was counted in the image, and since when something is wrong.
    pub tally: Tally,
    /// The live feed.
    pub live: watch::Receiver<Arc<Tick>>,
    /// Drains that were asked for here.
    pub drains: Drains,
    /// Changes.
    pub audit: Arc<Audit>,
    /// Metrics of the console.
    pub metrics: Metrics,
    /// Its counters.
    pub stats: Arc<ConsoleStats>,
    /// Its actors.
    pub registry: Arc<ActorRegistry>,
    /// The console stops.
    pub shutdown: CancellationToken,
}

impl ConsoleState {
    /// Asks the actor that owns the sessions.
    pub async fn ask_sessions<M>(&self, message: M) -> Result<M::Result, Problem>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        Sessions: Handler<M>,
        <Sessions as actix::Actor>::Context: ToEnvelope<Sessions, M>,
    {
        let unavailable = || Problem::unavailable("sessions are not available for a moment: try again");
        let addr = self.sessions.addr().ok_or_else(unavailable)?;
        addr.send(message).await.map_err(|_| unavailable())
    }

    /// Does something with the last day's numbers.
    pub fn with_history<T>(&self, f: impl FnOnce(&Ring) -> T) -> T {
        f(&self.history.lock().expect("no panic under the lock"))
    }

    /// What is missing in everything that comes from etcd and from brokers' metrics.
    pub fn partial(&self) -> Vec<Missing> {
        let stale = self.cluster.stale().map(|(reason, since_ms)| Missing {
            source: "etcd".to_owned(),
            reason,
            since_ms: Some(since_ms),
        });
        let readings = self.scraped.readings.load();
        let silent = readings.brokers.iter().filter_map(|(broker, reading)| {
            let source = if *broker < 0 { "broker metrics".to_owned() } else { format!("broker {broker}") };
            Some(Missing { source, reason: reading.error.clone()?, since_ms: Some(reading.since_ms) })
        });
        stale.into_iter().chain(silent).collect()
    }

    /// Places for logins, requests and streams.
    pub(super) fn places() -> (Semaphore, Semaphore, Arc<Semaphore>, Arc<Semaphore>) {
        let (verifying, waiting) = (Semaphore::new(VERIFYING_MAX), Semaphore::new(VERIFYING_MAX + WAITING_MAX));
        (verifying, waiting, Arc::new(Semaphore::new(REQUESTS_MAX)), Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}
