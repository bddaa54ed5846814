//! Publishes the topics of one cluster, and says what became of them. One task per cluster: one whose etcd does not answer is in
//! nobody else's way.

use super::publish::{self, Verdict};
use super::status::{self, Known, Trouble};
use super::writes::{self, Write};
use super::{Input, TopicsConfig};
use crate::ids::FencingToken;
use crate::metadata::desired::{self, Published, Writer};
use crate::metadata::etcd::{EtcdSettings, EtcdStore};
use crate::metadata::keys::{Keys, ParsedKey};
use crate::metadata::model::FORMAT;
use crate::metadata::model::desired::{DesiredStatusValue, DesiredValue, unpack};
use crate::metadata::{Entry, MetadataError, MetadataStore, WatchEvent};
use crate::operator::crd::KafscaleCluster;
use crate::operator::crd::topic::KafscaleTopicStatus;
use crate::operator::view::ClusterView;
use crate::trace;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
/// For so long after a write nobody is told that the brokers have not followed yet.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pauses after failures.
const RETRY_MS_MIN: u64 = 500;
const RETRY_MS_MAX: u64 = 15_000;
/// Between two looks at whether a namespace ends while topics of its wait for their deletion.
const NAMESPACE_LOOK: Duration = Duration::from_secs(2);
/// Between two looks at whether this operator leads again.
const LEADERSHIP_LOOK: Duration = Duration::from_secs(1);
/// Writes to Kubernetes under way.
const WRITES_MAX: usize = 8;
/// Keys of the secret that `spec.etcd.credentialsSecretRef` names.
const USERNAME_KEY: &str = "KAFSCALE_ETCD_USERNAME";
const PASSWORD_KEY: &str = "KAFSCALE_ETCD_PASSWORD";

/// Why a connection's work ended.
#[derive(Debug, thiserror::Error)]
enum PublishError {
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
struct Place {
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
struct Seen {
    document: Option<DesiredValue>,
    answer: Option<DesiredStatusValue>,
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
                session.report_trouble(&input, error.trouble()).await;
            }
            let pause = Duration::from_millis(crate::rng::jitter_ms(pause_ms));
            pause_ms = (pause_ms * 2).min(RETRY_MS_MAX);
            tokio::time::sleep(pause).await;
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
            if Place::of(&input.cluster, &self.config) != place {
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

/// Waits for changes of resources, and for those that follow at once. What comes from etcd in the meantime ends the wait and not
/// the gathering.
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

/// The resource's version and its status as they were written.
type News = (Option<String>, KafscaleTopicStatus);

async fn write_one(config: Arc<TopicsConfig>, write: Write) -> (String, Option<News>, Result<(), kube::Error>) {
    let uid = publish::uid(&write.topic).to_owned();
    let news = write.status.clone().map(|status| (write.topic.metadata.resource_version.clone(), status));
    (uid, news, write.run(&config).await)
}

/// What is remembered across connections.
struct Session {
    config: Arc<TopicsConfig>,
    published_at: Instant,
    /// The resource and its status as they were written last, by uid: what a watch shows is behind by a moment.
    told: HashMap<String, News>,
    namespace_looked_at: Option<(Instant, bool)>,
    /// Where the document is, and the token that was taken when it was written there first.
    place: Option<Place>,
    token: Option<FencingToken>,
    /// The trouble that there is an event of.
    trouble: Option<Trouble>,
}

impl Session {
    fn new(config: Arc<TopicsConfig>) -> Self {
        let published_at = config.clock.monotonic();
        Self {
            config,
            published_at,
            told: HashMap::new(),
            namespace_looked_at: None,
            place: None,
            token: None,
            trouble: None,
        }
    }

    /// The document is there. In another place this leadership has written nothing yet.
    fn at(&mut self, place: &Place) {
        if self.place.as_ref() != Some(place) {
            (self.place, self.token) = (Some(place.clone()), None);
        }
    }

    /// Publishes what is to be published and says what became of it. Returns when to look again at the latest.
    async fn step(
        &mut self,
        store: &Arc<dyn MetadataStore>,
        keys: &Keys,
        seen: &mut Seen,
        input: &Input,
    ) -> Result<Duration, PublishError> {
        let nothing = Default::default();
        let published = seen.document.as_ref().map_or(&nothing, |document| &document.topics);
        let decided = publish::decide(&input.topics, published);
        let is_published = seen
            .document
            .as_ref()
            .is_some_and(|document| self.token == Some(document.token) && document.topics == decided.topics);
        if !is_published {
            let writer = self.token.map_or(Writer::Beginning(self.config.token), Writer::Writing);
            let leads = || (self.config.leads)();
            let generation = match desired::publish(&**store, keys, writer, &decided.topics, leads).await? {
                Published::Written { generation, token } => {
                    self.token = Some(token);
                    self.config.stats.published.fetch_add(1, Ordering::Relaxed);
                    self.published_at = self.config.clock.monotonic();
                    let topics = decided.topics.len();
                    let cluster = &input.cluster.metadata.name;
                    tracing::info!(cluster, generation, token = token.0, topics, "topics are published");
                    generation
                }
                Published::Unchanged(generation) => generation,
                Published::Superseded(stored) => {
                    return Err(PublishError::Superseded { stored, own: self.token.unwrap_or(self.config.token) });
                }
                // Whoever led may lead again; if not, this ends from outside.
                Published::NotLeading => return Ok(LEADERSHIP_LOOK),
            };
            let token = self.token.unwrap_or(self.config.token);
            seen.document = Some(DesiredValue { v: FORMAT, token, generation, topics: decided.topics });
        }
        self.trouble = None;
        self.report(input, &decided.verdicts, seen).await
    }

    /// Writes statuses and finalizers that are not as they should be.
    async fn report(&mut self, input: &Input, verdicts: &[Verdict], seen: &Seen) -> Result<Duration, PublishError> {
        let now = self.now();
        let known = Known { answer: seen.answer.as_ref(), trouble: None, now: &now };
        let is_early = self.config.clock.monotonic() - self.published_at < PATIENCE;
        let is_deleting = input.topics.iter().zip(verdicts).any(|(topic, verdict)| {
            publish::is_deleting(topic) && matches!(verdict, Verdict::Deleting | Verdict::Paused)
        });
        let namespace_ends = is_deleting && self.namespace_ends(input).await;
        let mut again = Duration::from_secs(60);
        let mut todo = Vec::new();
        for (topic, verdict) in input.topics.iter().zip(verdicts) {
            let finalizer = status::finalizer(topic, verdict, known.answer, namespace_ends);
            let goes = *verdict == Verdict::Released || matches!(finalizer, status::FinalizerChange::Skip(_));
            let is_quiet = goes || (is_early && status::is_waiting(topic, verdict, &known));
            if is_quiet && !goes {
                again = again.min(PATIENCE);
            }
            let status = (!is_quiet).then(|| status::status(topic, verdict, &known));
            let status = status.filter(|status| self.is_news(topic, status));
            todo.push(Write { topic: topic.clone(), status, finalizer });
        }
        if is_deleting {
            again = again.min(NAMESPACE_LOOK);
        }
        self.write(todo).await?;
        Ok(again)
    }

    /// Says why the topics cannot be published: in the condition of each, and once as an event of their cluster.
    async fn report_trouble(&mut self, input: &Input, trouble: Trouble) {
        if self.trouble.as_ref() != Some(&trouble) {
            writes::tell_of_trouble(&self.config, &input.cluster, &trouble).await;
            self.trouble = Some(trouble.clone());
        }
        let now = self.now();
        let known = Known { answer: None, trouble: Some(&trouble), now: &now };
        let decided = publish::decide(&input.topics, &Default::default());
        let namespace_ends =
            input.topics.iter().any(|topic| publish::is_deleting(topic)) && self.namespace_ends(input).await;
        let mut todo = Vec::new();
        for (topic, verdict) in input.topics.iter().zip(&decided.verdicts) {
            // No answer is known, so nobody is let go whose topic is still to be deleted.
            let finalizer = match status::finalizer(topic, verdict, None, namespace_ends) {
                status::FinalizerChange::Add => status::FinalizerChange::Keep,
                other => other,
            };
            let status = status::status(topic, verdict, &known);
            let status = Some(status).filter(|status| *verdict != Verdict::Released && self.is_news(topic, status));
            todo.push(Write { topic: topic.clone(), status, finalizer });
        }
        if let Err(error) = self.write(todo).await {
            tracing::warn!(%error, "it cannot be said either that topics are not published");
        }
    }

    fn is_news(&self, topic: &crate::operator::crd::KafscaleTopic, status: &KafscaleTopicStatus) -> bool {
        if topic.status.as_ref() == Some(status) {
            return false;
        }
        let told = self.told.get(publish::uid(topic));
        told.is_none_or(|(version, told)| told != status || *version != topic.metadata.resource_version)
    }

    async fn write(&mut self, todo: Vec<Write>) -> Result<(), PublishError> {
        let mut done = futures::stream::iter(todo.into_iter().filter(|write| !write.is_empty()))
            .map(|write| write_one(self.config.clone(), write).boxed())
            .buffer_unordered(WRITES_MAX);
        let (mut failed, mut told) = (None, Vec::new());
        while let Some((uid, news, outcome)) = done.next().await {
            match (outcome, news) {
                (Ok(()), Some(news)) => told.push((uid, news)),
                (Ok(()), None) => {}
                (Err(error), _) => failed = Some(error),
            }
        }
        drop(done);
        if self.told.len() > 4 * publish::TOPICS_MAX {
            self.told.clear();
        }
        self.told.extend(told);
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    async fn namespace_ends(&mut self, input: &Input) -> bool {
        let now = self.config.clock.monotonic();
        if let Some((looked, ends)) = self.namespace_looked_at
            && now - looked < NAMESPACE_LOOK
        {
            return ends;
        }
        let namespace = input.cluster.metadata.namespace.clone().unwrap_or_default();
        let ends = writes::namespace_ends(&self.config, &namespace).await;
        self.namespace_looked_at = Some((now, ends));
        ends
    }

    fn now(&self) -> Time {
        super::time(self.config.clock)
    }
}
