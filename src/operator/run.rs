//! The operator's process: probes and metrics, Kubernetes, the election, the watches, and an end that lets the next
//! operator begin at once.

use super::cluster::Clusters;
use super::context::OperatorContext;
use super::crd::{KafscaleCluster, KafscaleTopic};
use super::etcd::EtcdKeeper;
use super::etcd::metrics::EtcdMetrics;
use super::leader::etcd::EtcdElection;
use super::leader::lease::LeaseElection;
use super::leader::{self, Election, Leadership};
use super::metrics::OperatorMetrics;
use super::snapshot::metrics::SnapshotMetrics;
use super::snapshot::{SnapshotScheduler, SnapshotWatch};
use super::topics::TopicStats;
use super::watch::{self, Seen};
use crate::actors::runtime::IoPool;
use crate::actors::supervisor::ActorRegistry;
use crate::cli::exit;
use crate::clock::Clock;
use crate::config::operator::{OperatorConfig, Watched};
use crate::http::{self, HttpHandle, HttpState, Readiness};
use crate::signals::StopSignals;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Name of the operator in events.
const REPORTER: &str = "kafscale-operator";
/// How long a start waits for Kubernetes to answer.
const KUBERNETES_WITHIN: Duration = Duration::from_secs(30);
/// Pause between questions to a Kubernetes that does not answer, or has no definitions yet.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// How long an end waits for what is under way.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Check of `/readyz`: Kubernetes answers.
const KUBERNETES: &str = "kubernetes";
/// Check of `/readyz`: the custom resources are defined.
const DEFINITIONS: &str = "definitions";

/// Why the operator did not start; `Display` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nobody says where Kubernetes is.
    #[error(
        "no access to Kubernetes is configured: {0}; run the operator in a pod with a service account, or set KUBECONFIG"
    )]
    NoAccess(String),
    /// It does not answer.
    #[error("Kubernetes at {address} does not answer: {reason}; check the address, the network and the credentials")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// The address of metrics is taken.
    #[error("cannot listen on {addr}: {reason}; free it or set KAFSCALE_OPERATOR_METRICS_ADDR")]
    Listen {
        /// The address.
        addr: std::net::SocketAddr,
        /// Why.
        reason: String,
    },
}

impl StartError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NoAccess(_) => exit::CONFIG,
            Self::Unreachable { .. } => exit::UNAVAILABLE,
            Self::Listen { .. } => exit::RESOURCE,
        }
    }
}

/// Runs the operator until it is told to stop.
pub fn run(config: OperatorConfig) -> ExitCode {
    let outcome = actix_rt::System::new().block_on(async move {
        let stop = CancellationToken::new();
        let signalled = stop.clone();
        let mut signals = StopSignals::listen();
        actix_rt::spawn(async move {
            signals.received().await;
            tracing::info!("stopping: leadership is given up");
            signalled.cancel();
        });
        operate(config, stop).await
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Everything from the first probe to the last.
async fn operate(config: OperatorConfig, stop: CancellationToken) -> Result<(), StartError> {
    let readiness = Readiness::new([KUBERNETES, DEFINITIONS]);
    let state = Arc::new(HttpState { readiness, ..HttpState::default() });
    let listen = |error: http::HttpError| match error {
        http::HttpError::Bind { addr, source } => StartError::Listen { addr, reason: source.to_string() },
        http::HttpError::Start { addr, message } => StartError::Listen { addr, reason: message },
    };
    let http = http::spawn(config.metrics_addr, state.clone()).map_err(listen)?;
    let outcome = tokio::select! {
        outcome = work(config, &state, &http, stop.clone()) => outcome,
        // Before there was anything to give up.
        () = stopped_early(&state, &stop) => Ok(()),
    };
    http.stop();
    outcome
}

/// Told to stop before it was ready.
async fn stopped_early(state: &HttpState, stop: &CancellationToken) {
    stop.cancelled().await;
    if state.readiness.failing().is_empty() {
        std::future::pending::<()>().await;
    }
}

async fn work(
    config: OperatorConfig,
    state: &Arc<HttpState>,
    http: &HttpHandle,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let (client, namespace) = connect(&config, state).await?;
    state.readiness.pass(KUBERNETES);
    let clock = Clock::system();
    let leadership = Leadership::new(clock);
    let seen = Arc::new(Seen::default());
    let (metrics, registry) = (Arc::new(OperatorMetrics::default()), Arc::new(ActorRegistry::default()));
    let topics = Arc::new(TopicStats::default());
    topics.register(&state.metrics);
    metrics.register(&state.metrics, leadership.clone(), seen.clone(), registry.clone());
    let keeper = EtcdKeeper::new(client.clone(), clock, EtcdMetrics::register(&state.metrics));
    let scheduler = SnapshotScheduler::start(clock, registry.clone());
    let shown = SnapshotMetrics::register(&state.metrics, clock);
    let reporter = Reporter { controller: REPORTER.to_owned(), instance: Some(config.identity.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let context = Arc::new(OperatorContext {
        client: client.clone(),
        config,
        namespace,
        leadership: leadership.clone(),
        seen,
        recorder,
        metrics,
        topics,
        etcd: keeper.while_leading(leadership.clone()),
        snapshots: SnapshotWatch::new(client, clock, scheduler, shown),
        registry,
        clock,
    });
    wait_for_definitions(&context, state).await;
    state.readiness.pass(DEFINITIONS);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        metrics = %http.addr(),
        namespace = context.namespace,
        watched = ?context.watched(),
        "the operator is ready"
    );
    watch::start(&context, &IoPool::current());
    let clusters = actix_rt::spawn(Clusters::default().run(context.clone(), stop.clone()));
    let election = actix_rt::spawn(leader::run(election(&context), leadership, stop.clone()));
    stop.cancelled().await;
    for task in [clusters, election] {
        if tokio::time::timeout(END_WITHIN, task).await.is_err() {
            tracing::warn!("something under way did not end in time");
        }
    }
    Ok(())
}

fn election(context: &OperatorContext) -> Box<dyn Election> {
    let config = &context.config;
    if config.etcd_endpoints.is_empty() {
        let client = context.client.clone();
        let lease = LeaseElection::new(client, &context.namespace, &config.leader_key, &config.identity, context.clock);
        return Box::new(lease);
    }
    Box::new(EtcdElection::new(config.etcd_endpoints.clone(), &config.leader_key, &config.identity))
}

/// Connects to Kubernetes and waits for its first answer; the namespace of the operator.
async fn connect(config: &OperatorConfig, state: &HttpState) -> Result<(Client, String), StartError> {
    let access = Config::infer().await.map_err(|error| StartError::NoAccess(error.to_string()))?;
    let address = access.cluster_url.to_string();
    let namespace = config.namespace.clone().unwrap_or_else(|| access.default_namespace.clone());
    let client = Client::try_from(access).map_err(|error| StartError::NoAccess(error.to_string()))?;
    let began = crate::clock::monotonic();
    loop {
        let asked = tokio::time::timeout(KUBERNETES_WITHIN, client.apiserver_version()).await;
        let reason = match asked {
            Ok(Ok(_)) => return Ok((client, namespace)),
            Ok(Err(error)) => reasons(&error),
            Err(_) => format!("no answer within {} s", KUBERNETES_WITHIN.as_secs()),
        };
        if began.elapsed() >= KUBERNETES_WITHIN {
            return Err(StartError::Unreachable { address, reason });
        }
        state.readiness.fail(KUBERNETES, format!("{address} does not answer: {reason}"));
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// An error with what is behind it.
fn reasons(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Waits until both custom resources can be listed. It says what is missing, in the log and in `/readyz`.
async fn wait_for_definitions(context: &OperatorContext, state: &HttpState) {
    let namespaces = match context.watched() {
        Watched::All => vec![None],
        Watched::Namespaces(names) => names.into_iter().map(Some).collect(),
    };
    let mut before = String::new();
    loop {
        let mut problem = None;
        for namespace in &namespaces {
            let namespace = namespace.as_deref();
            let first = can_list::<KafscaleCluster>(&context.client, namespace, "kafscaleclusters").await;
            problem = problem.or(first.err());
            let second = can_list::<KafscaleTopic>(&context.client, namespace, "kafscaletopics").await;
            problem = problem.or(second.err());
        }
        let Some(problem) = problem else { return };
        if problem != before {
            tracing::warn!("{problem}");
            before.clone_from(&problem);
        }
        state.readiness.fail(DEFINITIONS, problem);
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn can_list<K>(client: &Client, namespace: Option<&str>, plural: &str) -> Result<(), String>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let place = namespace.map_or("all namespaces".to_owned(), |name| format!("namespace {name:?}"));
    match api.list_metadata(&ListParams::default().limit(1)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Err(format!(
            "{plural}.kafscale.io are not defined; run `kafscale crd | kubectl apply --server-side -f -` with this version's program"
        )),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            Err(format!("the operator may not list {plural} in {place}: {}", status.message))
        }
        Err(error) => Err(format!("{plural} in {place} cannot be listed: {}", reasons(&error))),
    }
}
