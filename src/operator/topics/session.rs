//! What a publisher remembers across connections, and its one step: publish what is to be published, say what became of it.

use super::publish::{self, Verdict};
use super::publisher::{Place, PublishError, Seen};
use super::status::{self, FinalizerChange, Known, Trouble};
use super::writes::{self, Write};
use super::{Input, TopicsConfig};
use crate::ids::FencingToken;
use crate::metadata::MetadataStore;
use crate::metadata::desired::{self, Published, Writer};
use crate::metadata::keys::Keys;
use crate::metadata::model::FORMAT;
use crate::metadata::model::desired::DesiredValue;
use crate::operator::crd::topic::KafscaleTopicStatus;
use crate::operator::crd::{self, KafscaleCluster, KafscaleTopic};
use futures::{FutureExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// For so long after a write nobody is told that the brokers have not followed yet.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at whether a namespace ends while topics of its wait for their deletion.
const NAMESPACE_LOOK: Duration = Duration::from_secs(2);
/// Between two looks at whether this operator may write again.
const ALLOWED_LOOK: Duration = Duration::from_secs(1);
/// Between two looks when nothing is expected.
const IDLE_LOOK: Duration = Duration::from_secs(60);
/// Writes to Kubernetes under way.
const WRITES_MAX: usize = 8;

/// The resource's version and its status as they were written.
type News = (Option<String>, KafscaleTopicStatus);

async fn write_one(config: Arc<TopicsConfig>, write: Write) -> (String, Option<News>, Result<(), kube::Error>) {
    let uid = publish::uid(&write.topic).to_owned();
    let news = write.status.clone().map(|status| (write.topic.metadata.resource_version.clone(), status));
    (uid, news, write.run(&config).await)
}

/// What is remembered across connections.
pub(super) struct Session {
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
    pub(super) fn new(config: Arc<TopicsConfig>) -> Self {
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
    pub(super) fn at(&mut self, place: &Place) {
        if self.place.as_ref() != Some(place) {
            (self.place, self.token) = (Some(place.clone()), None);
        }
    }

    /// Publishes what is to be published and says what became of it. Returns when to look again at the latest.
    pub(super) async fn step(
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
            if !self.may_write(input).await? {
                return Ok(ALLOWED_LOOK);
            }
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
                Published::NotLeading => return Ok(ALLOWED_LOOK),
            };
            let token = self.token.unwrap_or(self.config.token);
            seen.document = Some(DesiredValue { v: FORMAT, token, generation, topics: decided.topics });
        }
        self.trouble = None;
        self.report(input, &decided.verdicts, seen).await
    }

    /// Whether the cluster is not paused at this moment. What a watch shows is behind, and who has paused a cluster relies on it that
    /// nothing is written any more.
    async fn may_write(&self, input: &Input) -> Result<bool, kube::Error> {
        let known = &input.cluster;
        let namespace = known.namespace().unwrap_or_default();
        let clusters: Api<KafscaleCluster> = Api::namespaced(self.config.client.clone(), &namespace);
        let found = clusters.get_opt(&known.name_any()).await?;
        Ok(found.is_some_and(|now| now.metadata.uid == known.metadata.uid && !crd::is_paused(&now.metadata)))
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
        let mut again = IDLE_LOOK;
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

    /// Says why the topics cannot be published: in the condition of each, and once as an event of their cluster. Returns when to look
    /// again at the latest.
    pub(super) async fn report_trouble(&mut self, input: &Input, trouble: &Trouble) -> Duration {
        if self.trouble.as_ref() != Some(trouble) {
            writes::tell_of_trouble(&self.config, &input.cluster, trouble).await;
            self.trouble = Some(trouble.clone());
        }
        let now = self.now();
        let known = Known { answer: None, trouble: Some(trouble), now: &now };
        let decided = publish::decide(&input.topics, &Default::default());
        let is_deleting = input.topics.iter().any(|topic| publish::is_deleting(topic));
        let namespace_ends = is_deleting && self.namespace_ends(input).await;
        let mut todo = Vec::new();
        for (topic, verdict) in input.topics.iter().zip(&decided.verdicts) {
            // No answer is known, so nobody is let go whose topic is still to be deleted.
            let finalizer = status::finalizer(topic, verdict, None, namespace_ends).in_trouble(input.held.is_some());
            let stays = input.held.is_some() && publish::is_guarded(topic) && finalizer == FinalizerChange::Keep;
            let goes = *verdict == Verdict::Released && !stays;
            let status = status::status(topic, verdict, &known);
            let status = Some(status).filter(|status| !goes && self.is_news(topic, status));
            todo.push(Write { topic: topic.clone(), status, finalizer });
        }
        if let Err(error) = self.write(todo).await {
            tracing::warn!(%error, "it cannot be said either that topics are not published");
            return ALLOWED_LOOK;
        }
        if is_deleting { NAMESPACE_LOOK } else { IDLE_LOOK }
    }

    fn is_news(&self, topic: &KafscaleTopic, status: &KafscaleTopicStatus) -> bool {
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
