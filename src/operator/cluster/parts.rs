//! Where other parts of the operator come in: topics, and etcd for clusters that have none.

use super::plan::{Added, Observed};
use crate::actors::runtime::IoPool;
use crate::ids::FencingToken;
use crate::operator::context::OperatorContext;
use crate::operator::topics::{TopicsConfig, TopicsHandle};
use crate::operator::view::{ClusterView, EtcdMode};
use crate::operator::{crd, etcd, snapshot};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Api;
use kube::api::DynamicObject;
use std::sync::Arc;

/// What works as long as this operator leads, and ends when it is dropped.
#[derive(Debug)]
pub struct Leading {
    token: FencingToken,
    topics: TopicsHandle,
}

impl Leading {
    /// This operator begins to lead.
    pub fn start(context: &Arc<OperatorContext>, token: FencingToken) -> Self {
        let leadership = context.leadership.clone();
        let topics = TopicsHandle::start(TopicsConfig {
            client: context.client.clone(),
            defaults: Arc::new(context.config.clone()),
            recorder: context.recorder.clone(),
            clock: context.clock,
            io: IoPool::current(),
            registry: context.registry.clone(),
            token,
            leads: Arc::new(move || leadership.token() == Ok(token)),
            stats: context.topics.clone(),
        });
        let leading = Self { token, topics };
        if context.seen.is_complete() {
            leading.changed(context);
        }
        leading
    }

    /// Of this leadership.
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Clusters or topics have changed; all of them are known.
    pub fn changed(&self, context: &OperatorContext) {
        self.topics.clusters_changed(context.seen.clusters().into_values().collect());
        self.topics.topics_changed(context.seen.topics().into_values().collect());
    }
}

/// What they add to a cluster. Asked once per look, before anything is applied.
pub async fn added(context: &OperatorContext, view: &ClusterView<'_>, observed: &Observed) -> Added {
    if view.etcd_mode() != EtcdMode::Managed {
        let alarm = match observed.etcd {
            Some(Ok(())) => context.etcd.alarm(view).await,
            _ => None,
        };
        return Added { findings: alarm.into_iter().collect(), ..Added::default() };
    }
    let taken = observed.taken.is_some();
    let hands_off = taken || crd::is_paused(&view.resource.metadata);
    let etcd = context.etcd.observe(view, hands_off).await;
    let soon = !hands_off && !etcd.is_settled();
    let mut added =
        Added { findings: vec![etcd.finding], done: etcd.done, error: etcd.error, soon, ..Added::default() };
    if taken {
        return added;
    }
    let snapshots = context.snapshots.observe(view, hands_off).await;
    added.findings.extend(snapshots.findings);
    added.last_snapshot = snapshots.last_snapshot;
    added.error = added.error.or(snapshots.error);
    if hands_off {
        return added;
    }
    added.objects = etcd::objects(view, &context.namespace);
    if let Err(error) = keep_claims(context, view, &mut added.objects).await {
        // Not applied: a set whose claims have changed is refused, and with it everything behind it.
        added.objects.clear();
        added.error = Some(format!("the StatefulSet of etcd cannot be read: {error}"));
    }
    added.objects.extend(snapshot::objects(view, snapshots.suspended));
    added
}

/// Claims of a StatefulSet cannot be changed: those that it was made with stay, whatever defaults have become since.
async fn keep_claims(
    context: &OperatorContext,
    view: &ClusterView<'_>,
    objects: &mut [DynamicObject],
) -> kube::Result<()> {
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), view.namespace());
    let there = sets.get_opt(&view.etcd_name()).await?.map(|set| set.spec);
    let Some(mut claims) = there.and_then(|spec| spec.volume_claim_templates) else { return Ok(()) };
    for claim in &mut claims {
        (claim.status, claim.metadata.creation_timestamp) = (None, None);
    }
    let is_set = |object: &&mut DynamicObject| object.types.as_ref().is_some_and(|types| types.kind == "StatefulSet");
    for set in objects.iter_mut().filter(is_set) {
        for (kept, wanted) in
            claims.iter().zip(set.data["spec"]["volumeClaimTemplates"].as_array_mut().into_iter().flatten())
        {
            *wanted = serde_json::json!(kept);
        }
    }
    Ok(())
}
