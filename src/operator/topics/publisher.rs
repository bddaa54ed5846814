//! Publishes the topics of one cluster, and says what became of them. One task per cluster: one whose etcd does not answer is in
//! nobody else's way.

use super::session::Session;
use super::status::{self, Trouble};
use super::{Input, TopicsConfig};
use crate::ids::FencingToken;
use crate::metadata::etcd::{EtcdSettings, EtcdStore};
use crate::metadata::keys::{Keys, ParsedKey};
use crate::metadata::model::desired::{DesiredStatusValue, DesiredValue, unpack};
use crate::metadata::{Entry, MetadataError, MetadataStore, WatchEvent};
use crate::operator::crd::KafscaleCluster;
use crate::operator::view::ClusterView;
use crate::trace;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Changes of resources that come within this time of each other are published together…
const QUIET: Duration = Duration::from_millis(200);
/// … but the first of them waits no longer than this.
const PUBLISH_WITHIN: Duration = Duration::from_secs(1);
/// Answers that follow each other are looked at together.
const ANSWERS_QUIET: Duration = Duration::from_millis(20);
/// Pauses after failures.
const RETRY_MS_MIN: u64 = 500;
const RETRY_MS_MAX: u64 = 15_000;
/// Keys of the secret that `spec.etcd.credentialsSecretRef` names.
const USERNAME_KEY: &str = "KAFSCALE_ETCD_USERNAME";
const PASSWORD_KEY: &str = "KAFSCALE_ETCD_PASSWORD";

/// Why a connection's work ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    /// Etcd.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The secret with the credentials of etcd.
    #[error("secret {name} with the credentials of etcd {problem}")]
    Secret {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Kubernetes.
    #[error("Kubernetes: {0}")]
    Kubernetes(#[from] kube::Error),
    /// The document has a greater token than the one that this leadership took, and this operator leads nevertheless.
    #[error("another operator has written the document of topics, with token {stored}; this one has {own}")]
    Superseded {
        /// Of the document.
        stored: FencingToken,
        /// Taken by this leadership.
        own: FencingToken,
    },
}

impl PublishError {
    /// For people; stable while the cause is the same.
    fn trouble(&self) -> Trouble {
        let (reason, message) = match self {
            Self::Metadata(MetadataError::Unavailable { .. }) => (
                status::ETCD_UNAVAILABLE,
                "etcd of the cluster does not answer; see the EtcdAvailable condition of the KafscaleCluster".to_owned(),
            ),
            Self::Metadata(MetadataError::Malformed { message, .. }) => {
                ("DocumentUnreadable", format!("the document of topics in etcd cannot be read: {message}"))
            }
            Self::Superseded { .. } => (
                "Superseded",
                "another operator writes the topics of this cluster, or etcd was restored; stop the other one or give both \
                 the same leader key, then restart this operator"
                    .to_owned(),
            ),
            other => (status::ETCD_UNAVAILABLE, other.to_string()),
        };
        Trouble { reason, message }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Another connection is needed.
    Reconnect,
    /// The cluster is no longer looked after here.
    Stopped,
}

/// Where and as whom etcd is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    endpoints: Vec<String>,
    credentials: Option<String>,
    namespace: String,
}

impl Place {
    fn of(cluster: &KafscaleCluster, config: &TopicsConfig) -> Self {
        let view = ClusterView { resource: cluster, defaults: &config.defaults };
        Self {
            endpoints: view.etcd_endpoints(),
            credentials: cluster.spec.etcd.credentials_secret_ref.clone(),
            namespace: view.kafscale_namespace().to_owned(),
        }
    }
}

/// What etcd has.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The document.
    pub(super) document: Option<DesiredValue>,
    /// What the brokers have made of it.
    pub(super) answer: Option<DesiredStatusValue>,
    /// The first look has been had.
    is_known: bool,
}

impl Seen {
    fn apply(&mut self, keys: &Keys, event: WatchEvent) -> Result<(), MetadataError> {
        match event {
            WatchEvent::Snapshot { entries, .. } => {
                (self.document, self.answer, self.is_known) = (None, None, true);
                entries.iter().try_for_each(|entry| self.put(keys, entry))
            }
            WatchEvent::Put(entry) => self.put(keys, &entry),
            WatchEvent::Delete { key, .. } => {
                match keys.parse(&key) {
                    Some(ParsedKey::Desired) => self.document = None,
                    Some(ParsedKey::DesiredStatus) => self.answer = None,
                    _ => {}
                }
                Ok(())
            }
        }
    }

    fn put(&mut self, keys: &Keys, entry: &Entry) -> Result<(), MetadataError> {
        match keys.parse(&entry.key) {
            Some(ParsedKey::Desired) => self.document = Some(unpack(entry)?),
            Some(ParsedKey::DesiredStatus) => self.answer = Some(unpack(entry)?),
            _ => {}
        }
        Ok(())
    }
}

/// See the module's documentation.
pub(super) struct Publisher {
    pub(super) config: Arc<TopicsConfig>,
    pub(super) input: watch::Receiver<Input>,
    pub(super) stop: CancellationToken,
}

impl Publisher {
    /// Works until it is stopped.
    pub(super) async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(mut self) {
        let mut pause_ms = RETRY_MS_MIN;
        let mut session = Session::new(self.config.clone());
        loop {
            if self.hold(&mut session).await == End::Stopped {
                return;
            }
            let began = self.config.clock.monotonic();
            let error = match self.connected(&mut session).await {
                Ok(End::Stopped) => return,
                Ok(End::Reconnect) => continue,
                Err(error) => error,
            };
            if self.config.clock.monotonic() - began > Duration::from_millis(RETRY_MS_MAX) {
                pause_ms = RETRY_MS_MIN;
            }
            let cluster = self.input.borrow().cluster.metadata.name.clone();
            tracing::warn!(%error, cluster, pause_ms, "topics of a cluster cannot be published; trying again");
            if !matches!(error, PublishError::Kubernetes(_)) {
                let input = self.input.borrow_and_update().clone();
                session.report_trouble(&input, &error.trouble()).await;
            }
            let pause = Duration::from_millis(crate::rng::jitter_ms(pause_ms));
            pause_ms = (pause_ms * 2).min(RETRY_MS_MAX);
            tokio::time::sleep(pause).await;
        }
    }

    /// As long as nothing may be written for the cluster: says so, and waits. Etcd is not even asked, which may be away meanwhile, or be
    /// another one afterwards.
    async fn hold(&mut self, session: &mut Session) -> End {
        loop {
            let input = self.input.borrow_and_update().clone();
            let Some(trouble) = &input.held else { return End::Reconnect };
            let again = session.report_trouble(&input, trouble).await;
            tokio::select! {
                changed = self.input.changed() => if changed.is_err() {
                    return End::Stopped;
                },
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Works with one connection to etcd.
    async fn connected(&mut self, session: &mut Session) -> Result<End, PublishError> {
        let place = Place::of(&self.input.borrow().cluster, &self.config);
        session.at(&place);
        let namespace = self.input.borrow().cluster.metadata.namespace.clone().unwrap_or_default();
        let store = connect(&self.config, &namespace, &place).await?;
        let keys = Keys::new(&place.namespace);
        // One watch for both keys: the one begins like the other.
        let mut events = store.watch(&keys.desired());
        let mut seen = Seen::default();
        while !seen.is_known {
            let Some(event) = events.recv().await else { return Ok(End::Reconnect) };
            seen.apply(&keys, event)?;
        }
        let mut input = self.input.borrow_and_update().clone();
        let mut changes = Changes::default();
        loop {
            if input.held.is_some() || Place::of(&input.cluster, &self.config) != place {
                return Ok(End::Reconnect);
            }
            let span = trace::reconcile("KafscaleTopic", &place.namespace);
            let step = session.step(&store, &keys, &mut seen, &input).instrument(span.clone()).await;
            if let Err(error) = &step {
                trace::fail(&span, "publish", Some(&error.to_string()));
            }
            drop(span); // what follows is waiting
            let again = step?;
            let end = tokio::select! {
                end = follow(&mut events, &keys, &mut seen) => end?,
                end = quiet(&mut self.input, &mut changes) => {
                    input = self.input.borrow_and_update().clone();
                    end
                }
                () = tokio::time::sleep(again) => None,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }
}

/// Waits for news from etcd.
async fn follow(
    events: &mut mpsc::Receiver<WatchEvent>,
    keys: &Keys,
    seen: &mut Seen,
) -> Result<Option<End>, PublishError> {
    let Some(event) = events.recv().await else { return Ok(Some(End::Reconnect)) };
    seen.apply(keys, event)?;
    tokio::time::sleep(ANSWERS_QUIET).await;
    while let Ok(event) = events.try_recv() {
        seen.apply(keys, event)?;
    }
    Ok(None)
}

/// Changes of resources that have not been taken in yet: when the first and the last of them came.
#[derive(Debug, Default)]
struct Changes(Option<(Instant, Instant)>);

impl Changes {
    fn add(&mut self, now: Instant) {
        self.0 = Some((self.0.map_or(now, |(first, _)| first), now));
    }

    /// When they are to be taken in.
    fn due(&self) -> Option<Instant> {
        self.0.map(|(first, last)| (last + QUIET).min(first + PUBLISH_WITHIN))
    }
}

/// Waits for changes of resources, and for those that follow at once, unless nothing may be written any more. What comes from
/// etcd in the meantime ends the wait and not the gathering.
async fn quiet(input: &mut watch::Receiver<Input>, changes: &mut Changes) -> Option<End> {
    loop {
        let due = changes.due();
        let pause = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = input.changed() => match changed {
                Ok(()) if input.borrow().held.is_some() => return None,
                Ok(()) => changes.add(crate::clock::monotonic()),
                Err(_) => return Some(End::Stopped),
            },
            () = pause => {
                changes.0 = None;
                return None;
            }
        }
    }
}

async fn connect(
    config: &TopicsConfig,
    namespace: &str,
    place: &Place,
) -> Result<Arc<dyn MetadataStore>, PublishError> {
    let mut settings = EtcdSettings::new(place.endpoints.clone());
    if let Some(name) = &place.credentials {
        let api: Api<Secret> = Api::namespaced(config.client.clone(), namespace);
        let problem = |problem: &str| PublishError::Secret { name: name.clone(), problem: problem.to_owned() };
        let secret = api.get_opt(name).await?.ok_or_else(|| problem("is not there; make it"))?;
        let value = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        };
        let missing = || problem(&format!("must have {USERNAME_KEY} and {PASSWORD_KEY}"));
        settings.username = Some(value(USERNAME_KEY).ok_or_else(missing)?);
        settings.password = Some(value(PASSWORD_KEY).ok_or_else(missing)?);
    }
    Ok(Arc::new(EtcdStore::connect(settings).await?))
}
