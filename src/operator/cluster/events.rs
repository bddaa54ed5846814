//! Says in Kubernetes what was decided, one event per decision. An event that cannot be written is logged and nothing more.

use super::memory::Memory;
use super::plan::PodSeen;
use crate::operator::context::OperatorContext;
use crate::operator::control::ControlError;
use crate::operator::crd::KafscaleCluster;
use crate::operator::crd::status::{ConditionType, Finding};
use kube::Resource;
use kube::runtime::events::{Event, EventType};

/// Longest note that Kubernetes takes is 1 kB.
const NOTE_CHARS_MAX: usize = 900;

async fn publish(context: &OperatorContext, cluster: &KafscaleCluster, type_: EventType, reason: &str, note: String) {
    if context.leadership.token().is_err() {
        return;
    }
    let note = note.chars().take(NOTE_CHARS_MAX).collect();
    let event =
        Event { type_, reason: reason.to_owned(), note: Some(note), action: "Reconcile".to_owned(), secondary: None };
    if let Err(error) = context.recorder.publish(&event, &cluster.object_ref(&())).await {
        tracing::warn!(%error, reason, "an event cannot be written");
    }
}

/// Whether a finding is bad news.
fn is_bad(finding: &Finding) -> bool {
    match finding.kind {
        ConditionType::Degraded => finding.holds == Some(true),
        ConditionType::Paused | ConditionType::Progressing | ConditionType::Ready => false,
        _ => finding.holds == Some(false),
    }
}

/// One event for each condition that has changed since the last look.
pub async fn findings(context: &OperatorContext, cluster: &KafscaleCluster, findings: &[Finding], memory: &mut Memory) {
    let before = cluster.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    for finding in findings {
        let told = memory.told.insert(finding.kind.name(), (finding.holds, finding.reason));
        // A new actor does not repeat what the one before has told.
        let same_in_status = || {
            let old = before.iter().find(|condition| condition.type_ == finding.kind.name());
            old.is_some_and(|old| old.reason == finding.reason)
        };
        let news = told.map_or_else(|| !same_in_status(), |told| told != (finding.holds, finding.reason));
        if !news || finding.holds.is_none() {
            continue;
        }
        let type_ = if is_bad(finding) { EventType::Warning } else { EventType::Normal };
        publish(context, cluster, type_, finding.reason, finding.message.clone()).await;
    }
}

/// What was done to other parts of the cluster.
pub async fn done(context: &OperatorContext, cluster: &KafscaleCluster, done: Vec<(&'static str, String)>) {
    for (reason, note) in done {
        publish(context, cluster, EventType::Normal, reason, note).await;
    }
}

/// A step with a broker.
pub async fn step(context: &OperatorContext, cluster: &KafscaleCluster, pod: &PodSeen, reason: &str, what: String) {
    tracing::info!(pod = pod.name, reason, "broker {} {what}", pod.ordinal);
    publish(context, cluster, EventType::Normal, reason, format!("broker {} {what}", pod.ordinal)).await;
}

/// A broker is replaced although it has not given everything away.
pub async fn drain_failed(context: &OperatorContext, cluster: &KafscaleCluster, pod: &PodSeen, error: &ControlError) {
    let note = format!("broker {} is stopped although it has not given everything away: {error}", pod.ordinal);
    tracing::warn!(pod = pod.name, "{note}");
    publish(context, cluster, EventType::Warning, "DrainIncomplete", note).await;
}

/// The number of brokers changes.
pub async fn scaled(context: &OperatorContext, cluster: &KafscaleCluster, from: i32, to: i32) {
    let reason = if to > from { "ScaledOut" } else { "ScaledIn" };
    publish(context, cluster, EventType::Normal, reason, format!("from {from} to {to} brokers")).await;
}
