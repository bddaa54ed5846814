//! Makes topics what the operator's document says. Who does it is [`ClusterImage::controller`]; everybody else looks at the image
//! now and then and rests.
//!
//! What is to be done is decided by [`plan`]. It is done in rounds: the answer is stored with what is about to happen, then it
//! happens, then the image is waited for and looked at again, until there is nothing left to do. A controller that dies in the
//! middle leaves an answer that the next one goes on from; one that was replaced without knowing it can no longer store an answer,
//! and makes no topic once another one has.
//!
//! Changes that Kafka clients make to what the document names show up in the image, and are taken back the same way.

pub mod plan;

use crate::actors::context::NodeContext;
use crate::broker::Broker;
use crate::ids::TopicId;
use crate::metadata::admin::AdminError;
use crate::metadata::image::ClusterImage;
use crate::metadata::model::desired::{DesiredStatusValue, DesiredValue};
use crate::metadata::model::{FORMAT, TopicState, TopicValue};
use crate::metadata::watcher::ImageFeed;
use crate::metadata::{MetadataError, Revision, desired};
use crate::protocol::config_change::{self, Owner};
use crate::rng;
use futures::{FutureExt, StreamExt};
use plan::{Operate, Plan};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Images that follow each other are looked at together.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pause after something did not work.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long the image may take to show what was done.
const IMAGE_WITHIN: Duration = Duration::from_secs(5);
/// Changes under way at the same time.
const CONCURRENT_MAX: usize = 16;
/// Ids that are remembered as used up.
const USED_UP_MAX: usize = 1_000;

/// Follows the operator's document until the process ends.
pub async fn run(context: Arc<NodeContext>, broker: Arc<Broker>, feed: ImageFeed) {
    let mut publications = feed.subscribe();
    let mut follower = Follower::new(context, broker, feed);
    loop {
        crate::failpoint::hit("desired.look");
        match follower.look().await {
            Ok(Next::Rest) => {
                publications.changed().await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(Next::Again) => {}
            Err(error) => {
                tracing::warn!(%error, "the operator's document of topics cannot be followed; trying again");
                follower.forget();
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Rest,
    Again,
}

/// The document as last read.
struct Document {
    revision: Revision,
    /// Or why it cannot be read.
    value: Result<DesiredValue, String>,
}

struct Follower {
    context: Arc<NodeContext>,
    broker: Arc<Broker>,
    feed: ImageFeed,
    document: Option<Document>,
    status: Option<(DesiredStatusValue, Revision)>,
    used_up: BTreeSet<TopicId>,
    /// The image for which there was nothing to do.
    done: Option<Arc<ClusterImage>>,
    /// What the last round did.
    last: Vec<(String, Operate)>,
}

impl Follower {
    fn new(context: Arc<NodeContext>, broker: Arc<Broker>, feed: ImageFeed) -> Self {
        Self {
            context,
            broker,
            feed,
            document: None,
            status: None,
            used_up: BTreeSet::new(),
            done: None,
            last: Vec::new(),
        }
    }

    /// What was read may be out of date.
    fn forget(&mut self) {
        (self.document, self.status, self.done) = (None, None, None);
        self.last.clear();
    }

    /// One round.
    async fn look(&mut self) -> Result<Next, MetadataError> {
        let image = self.feed.current();
        if image.desired() == 0 || image.controller() != Some(self.context.registration.writer) {
            self.forget();
            return Ok(Next::Rest);
        }
        let same = |done: &Arc<ClusterImage>| done.has_same_topics(&image) && done.desired() == image.desired();
        if self.done.as_ref().is_some_and(same) {
            return Ok(Next::Rest);
        }
        let Some((plan, revision)) = self.prepare(&image).await? else { return Ok(Next::Again) };
        if plan.operations.is_empty() {
            (self.done, self.last) = (Some(image), Vec::new());
            return Ok(Next::Rest);
        }
        if self.context.standing.is_doubted() {
            tokio::time::sleep(RETRY_AFTER).await;
            self.forget();
            return Ok(Next::Again);
        }
        self.execute(&plan, revision).await?;
        if plan.operations == self.last {
            // It was done before and does not show: not in a hurry.
            tokio::time::sleep(RETRY_AFTER).await;
            self.forget();
        } else {
            self.last = plan.operations;
        }
        Ok(Next::Again)
    }

    /// Reads what is not known, decides, and stores the answer; `None` if somebody else stored one.
    async fn prepare(&mut self, image: &ClusterImage) -> Result<Option<(Plan, Revision)>, MetadataError> {
        let (store, keys) = (self.context.metadata.clone(), self.context.keys.clone());
        if self.document.as_ref().is_none_or(|document| document.revision < image.desired()) {
            self.document = match desired::read(&*store, &keys).await {
                Ok(Some((value, revision))) => Some(Document { revision, value: Ok(value) }),
                Ok(None) => None,
                Err(MetadataError::Malformed { message, .. }) => {
                    tracing::error!(%message, "the operator's document of topics cannot be read");
                    Some(Document { revision: image.desired(), value: Err(message) })
                }
                Err(error) => return Err(error),
            };
        }
        let (before, revision) = match self.status.take() {
            Some(known) => known,
            None => desired::read_status(&*store, &keys).await?,
        };
        let plan = match self.document.as_ref().map(|document| &document.value) {
            Some(Ok(value)) => plan::plan(value, image, &before, &self.used_up, || TopicId(rng::uuid())),
            Some(Err(message)) => {
                let error = Some(format!("brokers cannot read the operator's document of topics: {message}"));
                Plan { status: DesiredStatusValue { error, ..before.clone() }, operations: Vec::new() }
            }
            // It has gone since; the image will say so.
            None => Plan { status: before.clone(), operations: Vec::new() },
        };
        if plan.status == before {
            self.status = Some((before, revision));
            return Ok(Some((plan, revision)));
        }
        let Some(revision) = desired::write_status(&*store, &keys, &plan.status, revision).await? else {
            return Ok(None);
        };
        crate::failpoint::hit("desired.stored");
        self.status = Some((plan.status.clone(), revision));
        Ok(Some((plan, revision)))
    }

    /// Does everything, and waits until the image shows it. What fails is decided again.
    async fn execute(&mut self, plan: &Plan, status: Revision) -> Result<(), MetadataError> {
        tracing::info!(
            operations = plan.operations.len(),
            generation = plan.status.generation,
            "topics are made as the operator wants them"
        );
        let guard = (self.context.keys.desired_status(), status);
        let mut done = futures::stream::iter(plan.operations.clone())
            .map(|(name, operation)| operate(self.broker.clone(), name, operation, guard.clone()).boxed())
            .buffered(CONCURRENT_MAX);
        let (mut newest, mut failed) = (0, None);
        let mut deleted: Vec<(String, TopicId)> = Vec::new();
        while let Some((name, outcome)) = done.next().await {
            match outcome {
                Ok(Outcome::Done(revision)) => {
                    newest = newest.max(revision);
                    tracing::debug!(topic = name, "done as the operator wants it");
                }
                Ok(Outcome::Deleted(id)) => deleted.push((name, id)),
                Ok(Outcome::UsedUp(id)) => {
                    if self.used_up.len() == USED_UP_MAX {
                        self.used_up.clear();
                    }
                    self.used_up.insert(id);
                }
                Ok(Outcome::Changed) => {}
                Err(error) => {
                    tracing::warn!(topic = name, %error, "a topic could not be made as the operator wants it; trying again");
                    failed = Some(error);
                }
            }
        }
        drop(done);
        let shown = |image: &ClusterImage| {
            let gone = |(name, id): &(String, TopicId)| image.topic(name).is_none_or(|topic| topic.value.id != *id);
            image.revision >= newest && deleted.iter().all(gone)
        };
        self.feed.wait_until(IMAGE_WITHIN, shown).await;
        failed.map_or(Ok(()), Err)
    }
}

/// What became of an operation.
enum Outcome {
    /// This revision has it.
    Done(Revision),
    /// The topic with this id is gone.
    Deleted(TopicId),
    /// The id can no longer be given to a topic.
    UsedUp(TopicId),
    /// The topic is another than it was: look again.
    Changed,
}

async fn operate(
    broker: Arc<Broker>,
    name: String,
    operation: Operate,
    unless_changed: (String, Revision),
) -> (String, Result<Outcome, MetadataError>) {
    let outcome = attempt(&broker, &name, operation, unless_changed).await;
    (name, outcome)
}

async fn attempt(
    broker: &Broker,
    name: &str,
    operation: Operate,
    unless_changed: (String, Revision),
) -> Result<Outcome, MetadataError> {
    let done = match operation {
        Operate::Create { id, partitions, configs, placement } => {
            let topic = TopicValue { v: FORMAT, id, partitions, configs, state: TopicState::Live, placement };
            return Ok(match broker.admin.create_topic_as(name, topic, unless_changed).await? {
                Some(revision) => Outcome::Done(revision),
                None if broker.admin.is_used_up(id).await? => Outcome::UsedUp(id),
                None => Outcome::Changed,
            });
        }
        Operate::Grow { id, partitions, placement } => broker
            .admin
            .create_partitions(name, id, partitions, &placement)
            .await
            .map(|(_, revision)| Outcome::Done(revision)),
        Operate::Configure { id, changes } => {
            let change = move |stored: &_| config_change::incremental(Owner::Topic, stored, &changes);
            broker.admin.alter_topic_configs(name, id, false, change).await.map(Outcome::Done)
        }
        Operate::Delete { id } => broker.admin.delete_topic(name, id).await.map(|()| Outcome::Deleted(id)),
    };
    done.or_else(|error| match error {
        AdminError::Metadata(error) => Err(error),
        // Somebody else's change came between: the next look tells.
        AdminError::TopicExists(_)
        | AdminError::UnknownTopic(_)
        | AdminError::NotMorePartitions { .. }
        | AdminError::Config(_) => Ok(Outcome::Changed),
    })
}
