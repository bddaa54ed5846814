//! From all KafscaleTopics of a cluster to the document that its brokers follow. Pure.
//!
//! Of several resources for one topic the oldest counts, so that nobody takes a topic over by describing it, too. A resource that
//! is being deleted leaves the document, and its topic stays, unless its policy is Delete: then the document says so until the
//! brokers have done it.

use crate::ids::FencingToken;
use crate::metadata::desired::DesiredTopics;
use crate::metadata::model::FORMAT;
use crate::metadata::model::desired::{self, DESIRED_BYTES_MAX, DesiredDeletion, DesiredTopic, DesiredValue};
use crate::operator::crd::topic::TopicDeletion;
use crate::operator::crd::{self, FORCE_DELETE_ANNOTATION, KafscaleTopic, TOPIC_FINALIZER};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Topics of one document.
pub const TOPICS_MAX: usize = 10_000;

/// What was decided about one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The document says what the resource says.
    Published,
    /// The document still says what it said: the resource is to be left alone.
    Paused,
    /// The document still says what it said, until the resource has the finalizer without which its topic could be forgotten.
    Unguarded,
    /// The document says that the topic is to be deleted.
    Deleting,
    /// The resource is being deleted, and the document does not know it (any more).
    Released,
    /// Another resource describes the topic.
    Conflict {
        /// Its name.
        with: String,
    },
    /// The document has no room for it.
    NoRoom,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Topics by name, as the document is to have them.
    pub topics: DesiredTopics,
    /// One for each resource, in their order.
    pub verdicts: Vec<Verdict>,
}

/// True if the resource is to be left alone.
pub fn is_paused(topic: &KafscaleTopic) -> bool {
    crd::is_paused(&topic.metadata)
}

/// True if the resource is to go whatever becomes of its topic.
pub fn is_forced(topic: &KafscaleTopic) -> bool {
    let annotations = topic.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(FORCE_DELETE_ANNOTATION)).is_some_and(|value| value == "true")
}

/// True if the resource is being deleted.
pub fn is_deleting(topic: &KafscaleTopic) -> bool {
    topic.metadata.deletion_timestamp.is_some()
}

/// True if the resource has our finalizer.
pub fn is_guarded(topic: &KafscaleTopic) -> bool {
    topic.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TOPIC_FINALIZER)
}

/// Its uid.
pub fn uid(topic: &KafscaleTopic) -> &str {
    topic.metadata.uid.as_deref().unwrap_or_default()
}

/// Decides about all resources of one cluster. `published` is what the document says now.
pub fn decide(resources: &[Arc<KafscaleTopic>], published: &DesiredTopics) -> Decided {
    let mut order: Vec<usize> = (0..resources.len()).collect();
    order.sort_by_key(|n| {
        let metadata = &resources[*n].metadata;
        (metadata.creation_timestamp.as_ref().map(|time| time.0), uid(&resources[*n]))
    });
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    let mut verdicts = vec![Verdict::Released; resources.len()];
    let mut topics = DesiredTopics::new();
    for n in &order {
        let resource = &*resources[*n];
        let (name, is_deleting) = (resource.topic_name(), is_deleting(resource));
        let is_paused = is_paused(resource) && !is_forced(resource);
        let deletes = resource.spec.deletion_policy == TopicDeletion::Delete;
        if is_deleting && !is_paused && (!deletes || !is_guarded(resource) || is_forced(resource)) {
            continue; // released
        }
        if let Some(owner) = owners.get(name) {
            if !is_deleting {
                let with = resources[*owner].metadata.name.clone().unwrap_or_default();
                verdicts[*n] = Verdict::Conflict { with };
            }
            continue;
        }
        owners.insert(name, *n);
        let before = published.get(name).filter(|before| before.uid == uid(resource));
        let unguarded = deletes && !is_deleting && !is_guarded(resource);
        let entry = match is_paused || unguarded {
            true => before.cloned(),
            false => Some(entry(resource)),
        };
        topics.extend(entry.map(|entry| (name.to_owned(), entry)));
        verdicts[*n] = match () {
            () if is_paused => Verdict::Paused,
            () if unguarded => Verdict::Unguarded,
            () if is_deleting => Verdict::Deleting,
            () => Verdict::Published,
        };
    }
    fit(&mut topics, &order, resources, &mut verdicts);
    Decided { topics, verdicts }
}

fn entry(resource: &KafscaleTopic) -> DesiredTopic {
    DesiredTopic {
        uid: uid(resource).to_owned(),
        resource: resource.metadata.generation.unwrap_or_default(),
        partitions: resource.spec.partitions,
        configs: resource.configs(),
        deletion: is_deleting(resource).then_some(DesiredDeletion::Delete),
    }
}

/// Leaves the youngest topics out until the document fits. What is to be deleted stays in it.
fn fit(topics: &mut DesiredTopics, order: &[usize], resources: &[Arc<KafscaleTopic>], verdicts: &mut [Verdict]) {
    let fits = |topics: &DesiredTopics| {
        let value =
            DesiredValue { v: FORMAT, token: FencingToken(u64::MAX), generation: u64::MAX, topics: topics.clone() };
        topics.len() <= TOPICS_MAX && desired::pack(&value).len() <= DESIRED_BYTES_MAX
    };
    if fits(topics) {
        return;
    }
    let in_document = |n: &&usize| {
        let found = topics.get(resources[**n].topic_name());
        found.is_some_and(|topic| topic.uid == uid(&resources[**n]) && topic.deletion.is_none())
    };
    let by_age: Vec<usize> = order.iter().filter(in_document).copied().collect();
    let without = |left_out: usize| {
        let mut rest = topics.clone();
        for n in &by_age[by_age.len() - left_out..] {
            rest.remove(resources[*n].topic_name());
        }
        rest
    };
    let (mut too_few, mut enough) = (0, by_age.len());
    while too_few + 1 < enough {
        let middle = (too_few + enough) / 2;
        match fits(&without(middle)) {
            true => enough = middle,
            false => too_few = middle,
        }
    }
    let rest = without(enough);
    for n in &by_age[by_age.len() - enough..] {
        verdicts[*n] = Verdict::NoRoom;
    }
    *topics = rest;
}

#[cfg(test)]
#[path = "publish_tests.rs"]
pub(super) mod tests;
