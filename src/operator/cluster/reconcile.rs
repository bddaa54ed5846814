//! One look at a cluster: see what is there, decide, apply, say so, and take the next step with its brokers. In this order:
//! a step that ends something is taken after the status says so, so that another operator could go on.

use super::memory::Memory;
use super::plan::{self, Observed, Plan, PodSeen};
use super::{events, observe, parts};
use crate::operator::apply::{self, WriteError};
use crate::operator::context::{Key, OperatorContext};
use crate::operator::control::{self, ControlError};
use crate::operator::crd::cluster::KafscaleClusterStatus;
use crate::operator::crd::status::{ConditionType, Conditions, Finding};
use crate::operator::crd::{GROUP, KafscaleCluster};
use crate::operator::leader::NotLeading;
use crate::operator::metrics::ClusterGauges;
use crate::operator::resources::{BROKER, hash};
use crate::operator::rollout::state::{Progress, Step};
use crate::operator::view::{ClusterView, FIELD_MANAGER};
use crate::operator::watch::Why;
use crate::operator::{etcd, snapshot};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Until the next look while something is under way.
pub const SOON: Duration = Duration::from_secs(1);
/// Until the next look while etcd is not as it should be.
const UNSETTLED: Duration = Duration::from_secs(3);
/// Until the next look otherwise; so long a changed secret may go unnoticed.
const RESYNC: Duration = Duration::from_secs(30);
/// Objects that can become superfluous and do something as long as they are there: component, group, version, kind.
const PRUNED_AT_ONCE: [(&str, &str, &str, &str); 4] = [
    (BROKER, "networking.k8s.io", "v1", "NetworkPolicy"),
    (BROKER, "autoscaling", "v2", "HorizontalPodAutoscaler"),
    (etcd::COMPONENT, "networking.k8s.io", "v1", "NetworkPolicy"),
    (snapshot::COMPONENT, "batch", "v1", "CronJob"),
];
/// Those that pods of an earlier template may still need.
const PRUNED_WHEN_DONE: [(&str, &str, &str, &str); 3] = [
    (BROKER, "", "v1", "ConfigMap"),
    (BROKER, "", "v1", "ServiceAccount"),
    (snapshot::COMPONENT, "", "v1", "ConfigMap"),
];

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Another operator leads.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// Kubernetes could not be read.
    #[error("Kubernetes cannot be read: {0}")]
    Read(#[from] kube::Error),
    /// Something could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Etcd or its snapshots could not be looked after. Everything else was.
    #[error("{reason}")]
    Part {
        /// Why.
        reason: String,
        /// Something else is under way, which does not wait for it.
        soon: bool,
    },
    /// It took too long.
    #[error("not done within {0} s")]
    TimedOut(u64),
    /// A broker did not do what it was asked.
    #[error("broker {broker}: {source}")]
    Broker {
        /// Which one.
        broker: i32,
        /// Why.
        source: ControlError,
    },
}

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The cluster is gone.
    Never,
    /// Soon, since something is under way.
    Soon(Duration),
    /// When it is time.
    Later(Duration),
}

/// Looks at the cluster `key`.
pub async fn reconcile(
    context: &Arc<OperatorContext>,
    key: &Key,
    memory: &mut Memory,
    why: Why,
) -> Result<Next, ReconcileError> {
    context.leadership.token()?;
    let api: Api<KafscaleCluster> = Api::namespaced(context.client.clone(), &key.namespace);
    let found = api.get_opt(&key.name).await?;
    let Some(cluster) = found.filter(|cluster| cluster.metadata.deletion_timestamp.is_none()) else {
        // Kubernetes deletes what belongs to it.
        context.forget(key);
        return Ok(Next::Never);
    };
    let view = ClusterView { resource: &cluster, defaults: &context.config };
    let observed = observe::observe(context, &view, memory).await?;
    let added = parts::added(context, &view, &observed).await;
    let (done, failed, soon) = (added.done.clone(), added.error.clone(), added.soon);
    let mut plan = plan::plan(&view, &observed, added, &context.namespace, &context.now());
    let applied = apply_all(context, &plan.objects, memory, why).await;
    if let Err(error) = &applied
        && !matches!(error, WriteError::NotLeading(_))
    {
        let finding = Finding::yes(ConditionType::Degraded, "ApplyFailed", error.to_string());
        plan.status.set(&finding, cluster.metadata.generation, &context.now());
        plan.findings.retain(|other| other.kind != finding.kind);
        plan.findings.push(finding);
    }
    write_status(context, &api, &cluster, &plan.status).await?;
    events::findings(context, &cluster, &plan.findings, memory).await;
    events::done(context, &cluster, done).await;
    show(context, key, &cluster, &plan.status);
    applied?;
    let next = advance(context, key, &view, &observed, &plan, memory, why).await?;
    match failed {
        Some(reason) => Err(ReconcileError::Part { reason, soon: matches!(next, Next::Soon(_)) }),
        _ if soon && !matches!(next, Next::Soon(_)) => Ok(Next::Soon(UNSETTLED)),
        _ => Ok(next),
    }
}

/// Goes on with the brokers, and cleans up when they are as they should be.
async fn advance(
    context: &Arc<OperatorContext>,
    key: &Key,
    view: &ClusterView<'_>,
    observed: &Observed,
    plan: &Plan,
    memory: &mut Memory,
    why: Why,
) -> Result<Next, ReconcileError> {
    let Some(decision) = &plan.decision else { return Ok(Next::Later(jittered(RESYNC))) };
    if observed.set_replicas.is_some_and(|old| old != decision.set_replicas) {
        events::scaled(context, view.resource, observed.set_replicas.unwrap_or(0), decision.set_replicas).await;
    }
    step(context, key, view, observed, plan, memory).await?;
    if why == Why::Changed {
        prune(context, view, &plan.objects, &PRUNED_AT_ONCE).await?;
    }
    if decision.progress != Progress::Done {
        return Ok(Next::Soon(SOON));
    }
    if why == Why::Changed {
        prune(context, view, &plan.objects, &PRUNED_WHEN_DONE).await?;
    }
    Ok(Next::Later(jittered(RESYNC)))
}

fn jittered(pause: Duration) -> Duration {
    Duration::from_millis(crate::rng::jitter_ms(pause.as_millis() as u64))
}

/// Applies what is new, or everything if something may have drifted.
async fn apply_all(
    context: &OperatorContext,
    objects: &[DynamicObject],
    memory: &mut Memory,
    why: Why,
) -> Result<(), WriteError> {
    for object in objects {
        let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
        let id = format!("{kind}/{}", object.name_any());
        let fingerprint = hash::of(&serde_json::to_value(object).expect("an object is plain data"));
        if why == Why::Look && memory.applied.get(&id) == Some(&fingerprint) {
            continue;
        }
        memory.applied.remove(&id);
        apply::apply(context, object).await?;
        memory.applied.insert(id, fingerprint);
    }
    Ok(())
}

async fn write_status(
    context: &OperatorContext,
    api: &Api<KafscaleCluster>,
    cluster: &KafscaleCluster,
    status: &KafscaleClusterStatus,
) -> Result<(), ReconcileError> {
    if cluster.status.as_ref() == Some(status) {
        return Ok(());
    }
    context.leadership.token()?;
    let name = cluster.name_any();
    let patch = json!({
        "apiVersion": format!("{GROUP}/v1alpha1"),
        "kind": "KafscaleCluster",
        "metadata": { "name": name },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&name, &params, &Patch::Apply(&patch)).await?;
    Ok(())
}

fn show(context: &OperatorContext, key: &Key, cluster: &KafscaleCluster, status: &KafscaleClusterStatus) {
    let conditions = status.conditions.iter().map(|one| (one.type_.clone(), one.status.clone())).collect();
    let phase = status.rollout.as_ref().and_then(|rollout| rollout.phase.as_deref());
    context.metrics.show(
        key,
        ClusterGauges {
            conditions,
            brokers_wanted: cluster.spec.brokers.replicas,
            brokers_ready: status.ready_replicas,
            rolling: phase.is_some_and(|phase| phase != "Halted"),
        },
    );
}

/// Takes the next step with the brokers.
async fn step(
    context: &Arc<OperatorContext>,
    key: &Key,
    view: &ClusterView<'_>,
    observed: &Observed,
    plan: &Plan,
    memory: &mut Memory,
) -> Result<(), ReconcileError> {
    let Some(decision) = &plan.decision else { return Ok(()) };
    let pod = |ordinal: &i32| observed.pods.iter().find(|pod| pod.ordinal == *ordinal);
    match &decision.step {
        Step::Nothing => {}
        Step::Drain(ordinal) => {
            if let Some(pod) = pod(ordinal) {
                drain(context, key, view, pod, memory).await?;
            }
        }
        Step::Undrain(ordinal) => {
            let Some((pod, address)) = pod(ordinal).and_then(|pod| Some((pod, pod.control.as_deref()?))) else {
                return Ok(());
            };
            context.leadership.token()?;
            memory.drains.forget(&pod.uid);
            control::undrain(address).await.map_err(|source| ReconcileError::Broker { broker: *ordinal, source })?;
            events::step(context, view.resource, pod, "BrokerUndrained", "takes work again".to_owned()).await;
        }
        Step::Delete(ordinal) => {
            let Some(pod) = pod(ordinal) else { return Ok(()) };
            match memory.drains.outcome(&pod.uid) {
                Some(Err(error)) => events::drain_failed(context, view.resource, pod, &error).await,
                Some(Ok(())) => {
                    events::step(context, view.resource, pod, "BrokerDrained", "has given everything away".to_owned())
                        .await;
                }
                None => {}
            }
            let pods = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
            apply::delete(context, &pods, view.namespace(), &pod.name, Some(&pod.uid)).await?;
            events::step(context, view.resource, pod, "BrokerReplaced", "is replaced by a new pod".to_owned()).await;
        }
    }
    Ok(())
}

async fn drain(
    context: &Arc<OperatorContext>,
    key: &Key,
    view: &ClusterView<'_>,
    pod: &PodSeen,
    memory: &mut Memory,
) -> Result<(), ReconcileError> {
    context.leadership.token()?;
    let Some(address) = pod.control.clone() else { return Ok(()) };
    let within = Duration::from_secs(view.resource.spec.rollout.drain_timeout_sec.unsigned_abs().into());
    let (shared, key, began) = (context.clone(), key.clone(), crate::clock::monotonic());
    memory.drains.start(&pod.uid, address, within, move || {
        shared.metrics.drained(began.elapsed());
        shared.seen.queue.push(key, Why::Look);
    });
    events::step(context, view.resource, pod, "BrokerDraining", "gives away what it has".to_owned()).await;
    Ok(())
}

/// Deletes objects of these kinds that are not wanted any more: ConfigMaps of old templates, and what was switched off.
async fn prune(
    context: &OperatorContext,
    view: &ClusterView<'_>,
    wanted: &[DynamicObject],
    kinds: &[(&str, &str, &str, &str)],
) -> Result<(), ReconcileError> {
    let uid = view.resource.metadata.uid.as_deref();
    for (component, group, version, kind) in kinds {
        let labels = view.labels(component).iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let same_kind = |object: &&DynamicObject| object.types.as_ref().is_some_and(|types| types.kind == *kind);
        let names: BTreeSet<String> = wanted.iter().filter(same_kind).map(ResourceExt::name_any).collect();
        let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), view.namespace(), &resource);
        let there = api.list_metadata(&ListParams::default().labels(&labels.join(","))).await?;
        for object in there.items {
            let owners = object.metadata.owner_references.iter().flatten();
            let ours = owners.into_iter().any(|owner| Some(owner.uid.as_str()) == uid);
            let name = object.name_any();
            if ours && !names.contains(&name) {
                apply::delete(context, &resource, view.namespace(), &name, object.uid().as_deref()).await?;
            }
        }
    }
    Ok(())
}
