//! What is written about topics to Kubernetes: statuses, finalizers, events.

use super::TopicsConfig;
use super::publish;
use super::status::{FinalizerChange, Trouble};
use crate::operator::crd::topic::KafscaleTopicStatus;
use crate::operator::crd::{GROUP, KafscaleCluster, KafscaleTopic, TOPIC_FINALIZER};
use crate::operator::view::FIELD_MANAGER;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;

/// Longest note that Kubernetes takes is 1 kB.
const NOTE_CHARS_MAX: usize = 900;

/// What is to be written about one resource.
#[derive(Debug)]
pub struct Write {
    /// The resource as it was seen.
    pub topic: Arc<KafscaleTopic>,
    /// Its status, if that is news.
    pub status: Option<KafscaleTopicStatus>,
    /// Its finalizer.
    pub finalizer: FinalizerChange,
}

impl Write {
    /// True if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.status.is_none() && self.finalizer == FinalizerChange::Keep
    }

    /// Writes it. What was changed or deleted by somebody else in the meantime will be looked at again: no error.
    pub async fn run(self, config: &TopicsConfig) -> Result<(), kube::Error> {
        if !(config.leads)() {
            return Ok(());
        }
        let api: Api<KafscaleTopic> =
            Api::namespaced(config.client.clone(), &self.topic.namespace().unwrap_or_default());
        if let Some(status) = &self.status {
            expected(apply_status(&api, &self.topic, status).await)?;
        }
        match &self.finalizer {
            FinalizerChange::Keep => {}
            FinalizerChange::Add => {
                expected(set_finalizer(&api, &self.topic, true).await)?;
            }
            FinalizerChange::Remove { deleted } => {
                if expected(set_finalizer(&api, &self.topic, false).await)? && *deleted {
                    let note = format!("topic {} was deleted with its records", self.topic.topic_name());
                    tell(config, &*self.topic, EventType::Normal, "TopicDeleted", note).await;
                }
            }
            FinalizerChange::Skip(why) => {
                if expected(set_finalizer(&api, &self.topic, false).await)? {
                    tracing::warn!(topic = self.topic.topic_name(), why, "a topic is let go without cleaning up");
                    tell(config, &*self.topic, EventType::Warning, "CleanupSkipped", why.clone()).await;
                }
            }
        }
        Ok(())
    }
}

/// Whether it was written. Not, if the resource has changed or is gone: whoever watches it hears of that.
fn expected(outcome: Result<KafscaleTopic, kube::Error>) -> Result<bool, kube::Error> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn apply_status(
    api: &Api<KafscaleTopic>,
    topic: &KafscaleTopic,
    status: &KafscaleTopicStatus,
) -> Result<KafscaleTopic, kube::Error> {
    let name = topic.name_any();
    let body = json!({
        "apiVersion": format!("{GROUP}/v1alpha1"),
        "kind": KafscaleTopic::kind(&()),
        "metadata": {"name": name, "uid": publish::uid(topic)},
        "status": status,
    });
    api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&body)).await
}

/// Adds or removes our finalizer, if the resource is as it was seen: the list belongs to many.
async fn set_finalizer(
    api: &Api<KafscaleTopic>,
    topic: &KafscaleTopic,
    there: bool,
) -> Result<KafscaleTopic, kube::Error> {
    let mut finalizers: Vec<String> = topic.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != TOPIC_FINALIZER);
    finalizers.extend(there.then(|| TOPIC_FINALIZER.to_owned()));
    let seen = &topic.metadata.resource_version;
    let body = json!({"metadata": {"resourceVersion": seen, "uid": publish::uid(topic), "finalizers": finalizers}});
    api.patch(&topic.name_any(), &PatchParams::default(), &Patch::Merge(&body)).await
}

/// An event that cannot be written (no more can be in a namespace that ends) is logged and nothing more.
async fn tell<K: Resource<DynamicType = ()>>(
    config: &TopicsConfig,
    about: &K,
    type_: EventType,
    reason: &str,
    note: String,
) {
    let note = note.chars().take(NOTE_CHARS_MAX).collect();
    let event =
        Event { type_, reason: reason.to_owned(), note: Some(note), action: "Reconcile".to_owned(), secondary: None };
    if let Err(error) = config.recorder.publish(&event, &about.object_ref(&())).await {
        tracing::info!(%error, reason, "an event cannot be written");
    }
}

/// Says of a cluster that its topics cannot be published, unless the cluster's own conditions tell.
pub async fn tell_of_trouble(config: &TopicsConfig, cluster: &KafscaleCluster, trouble: &Trouble) {
    if !trouble.is_the_clusters() && (config.leads)() {
        let note = format!("KafscaleTopics are not published ({}): {}", trouble.reason, trouble.message);
        tell(config, cluster, EventType::Warning, "TopicsNotPublished", note).await;
    }
}

/// True if the namespace is being deleted. Whoever may not know goes on as if it were not.
pub async fn namespace_ends(config: &TopicsConfig, namespace: &str) -> bool {
    let api: Api<Namespace> = Api::all(config.client.clone());
    match api.get_opt(namespace).await {
        Ok(found) => found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()),
        Err(error) => {
            tracing::debug!(%error, namespace, "it is not known whether the namespace is being deleted");
            false
        }
    }
}
