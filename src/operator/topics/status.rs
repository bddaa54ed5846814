//! What is said about a KafscaleTopic, and what becomes of its finalizer. Pure.
//!
//! Messages are stable: a status that says the same is not written again.

use super::publish::{self, Verdict};
use crate::config::operator::OperatorConfig;
use crate::metadata::model::desired::{AppliedState, AppliedTopic, DesiredStatusValue};
use crate::operator::cluster::duplicates;
use crate::operator::context::Key;
use crate::operator::crd::status::{ConditionType, Conditions, Finding};
use crate::operator::crd::topic::{KafscaleTopicStatus, TopicDeletion};
use crate::operator::crd::{self, KafscaleCluster, KafscaleTopic};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::sync::Arc;

/// The reason that is given when etcd of the cluster cannot be used.
pub const ETCD_UNAVAILABLE: &str = "EtcdUnavailable";
/// The reason that is given while the cluster is paused.
pub const CLUSTER_PAUSED: &str = "ClusterPaused";
/// The reason that is given while an older cluster has the cluster's place.
pub const CLUSTER_NOT_LOOKED_AFTER: &str = "ClusterNotLookedAfter";

/// Why topics cannot be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One word for it.
    pub reason: &'static str,
    /// For people; stable while the cause is the same.
    pub message: String,
}

impl Trouble {
    /// The cluster is paused: nothing is written on its behalf.
    pub fn paused(cluster: &str) -> Self {
        let message = format!(
            "KafscaleCluster {cluster} has the annotation kafscale.io/paused; its topics are left as they are until it is removed"
        );
        Self { reason: CLUSTER_PAUSED, message }
    }

    /// The cluster's place is another one's: what was written there would be about that one's topics.
    pub fn taken(cluster: &str) -> Self {
        let message = format!(
            "KafscaleCluster {cluster} is not looked after, since an older one has its namespace: see its condition Ready"
        );
        Self { reason: CLUSTER_NOT_LOOKED_AFTER, message }
    }

    /// The cluster's own conditions tell of it.
    pub fn is_the_clusters(&self) -> bool {
        [ETCD_UNAVAILABLE, CLUSTER_PAUSED, CLUSTER_NOT_LOOKED_AFTER].contains(&self.reason)
    }
}

/// Why nothing may be written on behalf of one of `all` clusters, if so.
pub fn held(cluster: &KafscaleCluster, all: &[Arc<KafscaleCluster>], defaults: &OperatorConfig) -> Option<Trouble> {
    let name = cluster.name_any();
    if crd::is_paused(&cluster.metadata) {
        return Some(Trouble::paused(&name));
    }
    let all: Vec<(Key, &KafscaleCluster)> = all.iter().map(|other| (Key::of(&**other), &**other)).collect();
    let elder = duplicates::elder(cluster, all.iter().map(|(key, other)| (key, *other)), defaults);
    elder.map(|_| Trouble::taken(&name))
}

/// What is known when a status is made.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What the brokers have made of the document.
    pub answer: Option<&'a DesiredStatusValue>,
    /// Why nothing can be published, if so.
    pub trouble: Option<&'a Trouble>,
    /// The time.
    pub now: &'a Time,
}

/// A resource without a cluster that could have the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphan {
    /// There is no such KafscaleCluster.
    ClusterNotFound,
    /// It is being deleted.
    ClusterDeleting,
}

/// What to do about the finalizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinalizerChange {
    /// Nothing.
    Keep,
    /// Add it.
    Add,
    /// It has done its work.
    Remove {
        /// The topic was deleted.
        deleted: bool,
    },
    /// It can or shall not do its work; says why.
    Skip(String),
}

impl FinalizerChange {
    /// The same while topics cannot be published, or are not to be (`held`): then only what would hang for ever is let go.
    pub fn in_trouble(self, held: bool) -> Self {
        match self {
            Self::Add => Self::Keep,
            Self::Remove { .. } if held => Self::Keep,
            other => other,
        }
    }
}

/// What the brokers say of a resource's topic, whatever generation it is about.
fn applied<'a>(topic: &KafscaleTopic, answer: Option<&'a DesiredStatusValue>) -> Option<&'a AppliedTopic> {
    answer?.topics.get(topic.topic_name()).filter(|applied| applied.uid == publish::uid(topic))
}

/// True while brokers have not yet answered for this generation of the resource. Such a status is not worth a write at first.
pub fn is_waiting(topic: &KafscaleTopic, verdict: &Verdict, known: &Known<'_>) -> bool {
    let waits = matches!(verdict, Verdict::Published | Verdict::Unguarded);
    waits && known.trouble.is_none() && ready(topic, verdict, known).reason == "Pending"
}

fn ready(topic: &KafscaleTopic, verdict: &Verdict, known: &Known<'_>) -> Finding {
    let name = topic.topic_name();
    let no = |reason, message: String| Finding::no(ConditionType::Ready, reason, message);
    match verdict {
        Verdict::Conflict { with } => no(
            "Conflict",
            format!(
                "KafscaleTopic {with} describes topic {name} already; delete one of the two, or make this one again with another topicName"
            ),
        ),
        Verdict::NoRoom => no(
            "NoRoom",
            format!(
                "the cluster has as many topics described by resources as fit ({} at most); topic {name} is not looked after",
                publish::TOPICS_MAX
            ),
        ),
        Verdict::Deleting | Verdict::Released => no(
            "Deleting",
            match known.trouble {
                Some(trouble) => format!("topic {name} is to be deleted, which waits: {}", trouble.message),
                None => format!("topic {name} is being deleted"),
            },
        ),
        Verdict::Published | Verdict::Paused | Verdict::Unguarded => {
            if let Some(trouble) = known.trouble {
                return Finding::unknown(ConditionType::Ready, trouble.reason, trouble.message.as_str());
            }
            if let Some(error) = known.answer.and_then(|answer| answer.error.as_ref()) {
                return no("NotUnderstood", error.clone());
            }
            let applied = applied(topic, known.answer);
            let applied = applied
                .filter(|applied| *verdict == Verdict::Paused || Some(applied.resource) == topic.metadata.generation);
            match applied.map(|applied| (applied.state, applied.error.as_ref())) {
                Some((AppliedState::Live, _)) => Finding::yes(ConditionType::Ready, "Live", "the topic is live"),
                Some((AppliedState::Refused, error)) => no("Refused", error.cloned().unwrap_or_default()),
                _ => no("Pending", "waiting for the brokers to follow; they have to be running".to_owned()),
            }
        }
    }
}

/// The status of a resource whose cluster is there.
pub fn status(topic: &KafscaleTopic, verdict: &Verdict, known: &Known<'_>) -> KafscaleTopicStatus {
    let mut findings = vec![ready(topic, verdict, known)];
    if *verdict == Verdict::Paused {
        let message = "the annotation kafscale.io/paused says so; the topic is left as it is";
        findings.push(Finding::yes(ConditionType::Paused, "Annotation", message));
    }
    let old = topic.status.clone().unwrap_or_default();
    let mut status = KafscaleTopicStatus {
        topic_name: Some(topic.topic_name().to_owned()),
        ..described(topic, findings, known.now)
    };
    if matches!(verdict, Verdict::Conflict { .. } | Verdict::NoRoom) {
        return status;
    }
    match applied(topic, known.answer).filter(|applied| applied.id.is_some()) {
        Some(applied) if applied.state == AppliedState::Pending && applied.partitions == 0 => {}
        Some(applied) => {
            status.topic_id = applied.id.map(|id| id.to_string());
            status.partitions = (applied.partitions > 0).then_some(applied.partitions);
            status.adopted = Some(applied.adopted);
        }
        // Nobody says otherwise.
        None if known.answer.is_none() => {
            (status.topic_id, status.partitions, status.adopted) = (old.topic_id, old.partitions, old.adopted);
        }
        None => {}
    }
    status
}

/// The status of a resource that has no cluster.
pub fn orphaned(topic: &KafscaleTopic, orphan: Orphan, now: &Time) -> KafscaleTopicStatus {
    let cluster = &topic.spec.cluster_ref;
    let message = match orphan {
        Orphan::ClusterNotFound => {
            format!(
                "there is no KafscaleCluster {cluster} in this namespace; make it, or make this resource again with another clusterRef"
            )
        }
        Orphan::ClusterDeleting => format!("KafscaleCluster {cluster} is being deleted"),
    };
    let reason = match orphan {
        Orphan::ClusterNotFound => "ClusterNotFound",
        Orphan::ClusterDeleting => "ClusterDeleting",
    };
    described(topic, vec![Finding::no(ConditionType::Ready, reason, message)], now)
}

/// Only these findings, with the times of before where they say the same.
fn described(topic: &KafscaleTopic, findings: Vec<Finding>, now: &Time) -> KafscaleTopicStatus {
    let conditions = topic.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let generation = topic.metadata.generation;
    let mut status = KafscaleTopicStatus { conditions, observed_generation: generation, ..Default::default() };
    findings.iter().for_each(|finding| status.set(finding, generation, now));
    status.conditions.retain(|condition| findings.iter().any(|finding| finding.kind.name() == condition.type_));
    status
}

/// What to do about the finalizer of a resource whose cluster is there.
pub fn finalizer(
    topic: &KafscaleTopic,
    verdict: &Verdict,
    answer: Option<&DesiredStatusValue>,
    namespace_ends: bool,
) -> FinalizerChange {
    let deletes = topic.spec.deletion_policy == TopicDeletion::Delete;
    let guarded = publish::is_guarded(topic);
    if !publish::is_deleting(topic) {
        return match (deletes, guarded) {
            (true, false) if *verdict == Verdict::Unguarded => FinalizerChange::Add,
            (false, true) if *verdict != Verdict::Paused => FinalizerChange::Remove { deleted: false },
            _ => FinalizerChange::Keep,
        };
    }
    let name = topic.topic_name();
    match verdict {
        _ if !guarded => FinalizerChange::Keep,
        Verdict::Released if deletes && publish::is_forced(topic) => FinalizerChange::Skip(format!(
            "the annotation kafscale.io/force-delete says so; topic {name} may still be there"
        )),
        Verdict::Deleting | Verdict::Paused if namespace_ends => {
            FinalizerChange::Skip(format!("the namespace is being deleted; topic {name} may still be there"))
        }
        Verdict::Deleting => match applied(topic, answer).map(|applied| applied.state) {
            Some(AppliedState::Deleted) => FinalizerChange::Remove { deleted: true },
            _ => FinalizerChange::Keep,
        },
        Verdict::Paused => FinalizerChange::Keep,
        _ => FinalizerChange::Remove { deleted: false },
    }
}

/// The same of a resource that has no cluster.
pub fn orphan_finalizer(topic: &KafscaleTopic, orphan: Orphan) -> FinalizerChange {
    if !publish::is_deleting(topic) || !publish::is_guarded(topic) {
        return FinalizerChange::Keep;
    }
    if topic.spec.deletion_policy == TopicDeletion::Retain {
        return FinalizerChange::Remove { deleted: false };
    }
    let (name, cluster) = (topic.topic_name(), &topic.spec.cluster_ref);
    FinalizerChange::Skip(match orphan {
        Orphan::ClusterNotFound => format!("KafscaleCluster {cluster} is gone; topic {name} was not deleted"),
        Orphan::ClusterDeleting => format!("KafscaleCluster {cluster} is being deleted; topic {name} was not deleted"),
    })
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
