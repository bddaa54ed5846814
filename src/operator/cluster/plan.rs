//! From what is wanted and what was seen to what should be: objects, the next step with the brokers, and the status. Pure.

use super::duplicates::Taken;
use super::findings;
use crate::control::proto::{BrokerState, StatusResponse};
use crate::operator::control;
use crate::operator::crd;
use crate::operator::crd::cluster::{BrokerStatus, EtcdStatus, KafscaleClusterStatus, RolloutStatus};
use crate::operator::crd::status::{ConditionType, Conditions, Finding};
use crate::operator::resources::pods::Template;
use crate::operator::resources::{self, BROKER, environment, hash, pods};
use crate::operator::rollout::state::{self, Decision, Doing, Drain, Pod, Progress, Situation, Step};
use crate::operator::view::ClusterView;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DynamicObject;
use std::collections::BTreeMap;
use std::time::Duration;

/// A broker's pod, and what the broker says.
#[derive(Debug, Clone, PartialEq)]
pub struct PodSeen {
    /// Number of the broker.
    pub ordinal: i32,
    /// Name of the pod.
    pub name: String,
    /// Kubernetes' id of the pod.
    pub uid: String,
    /// Fingerprint of its template.
    pub hash: String,
    /// Its deletion has begun.
    pub going: bool,
    /// Its readiness probe passes.
    pub ready: bool,
    /// Where the broker's control plane is.
    pub control: Option<String>,
    /// What the broker says, if it answers and is the one.
    pub status: Option<StatusResponse>,
    /// For how long it has not served.
    pub not_serving_for: Duration,
    /// A drain that this operator asked for.
    pub drain: Option<Drain>,
}

impl PodSeen {
    /// Clients can use it, and it takes what is given to it.
    pub fn serves(&self) -> bool {
        self.ready && !self.going && self.doing() == Doing::Serving
    }

    fn doing(&self) -> Doing {
        self.status.as_ref().map_or(Doing::Other, |status| control::doing(status.state()))
    }
}

/// What secrets hold, or what is wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Keys and values by the secret's name; only keys that are used.
    pub data: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// What is missing, in words.
    pub problems: Vec<String>,
}

/// What was seen of a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Number in the StatefulSet, if there is one.
    pub set_replicas: Option<i32>,
    /// Pods of brokers.
    pub pods: Vec<PodSeen>,
    /// The last template that all brokers served with.
    pub stable: Option<Template>,
    /// Secrets.
    pub secrets: Secrets,
    /// Whether etcd answered.
    pub etcd: Option<Result<(), String>>,
    /// Somebody has its place already.
    pub taken: Option<Taken>,
}

/// What others add to a cluster: managed etcd, snapshots, topics.
#[derive(Debug, Clone, Default)]
pub struct Added {
    /// Objects.
    pub objects: Vec<DynamicObject>,
    /// Findings.
    pub findings: Vec<Finding>,
    /// Number of topics.
    pub topic_count: Option<i64>,
    /// Time of the last snapshot.
    pub last_snapshot: Option<String>,
    /// What was done, for events: a word and a sentence.
    pub done: Vec<(&'static str, String)>,
    /// Something is under way: the next look comes soon.
    pub soon: bool,
    /// Why something could not be done: the look has failed, and is tried again.
    pub error: Option<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Plan {
    /// Everything that should be, in the order in which it is applied.
    pub objects: Vec<DynamicObject>,
    /// What to do with brokers; `None`: nothing may be changed.
    pub decision: Option<Decision>,
    /// The status.
    pub status: KafscaleClusterStatus,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// Plans.
pub fn plan(view: &ClusterView<'_>, observed: &Observed, added: Added, operator_namespace: &str, now: &Time) -> Plan {
    let (paused, replicas) = (crd::is_paused(&view.resource.metadata), view.resource.spec.brokers.replicas);
    let mut findings = vec![
        findings::paused(paused),
        findings::secrets(&observed.secrets.problems),
        findings::etcd(observed.etcd.as_ref()),
        findings::bucket(&observed.pods),
    ];
    let old = view.resource.status.clone().unwrap_or_default();
    let untouched = paused || observed.taken.is_some();
    let decided = (!untouched && observed.secrets.problems.is_empty()).then(|| decide(view, observed, &old));
    match &decided {
        Some((_, decision)) => findings.extend(findings::of_decision(observed, decision, replicas)),
        None => findings.extend(findings::without_decision(observed, observed.taken.as_ref(), replicas)),
    }
    if decided.is_none() && observed.taken.is_none() && !observed.secrets.problems.is_empty() {
        let message = "brokers cannot be changed: see the condition SecretsReady";
        findings.push(Finding::yes(ConditionType::Degraded, "SecretsMissing", message));
    }
    let mut objects = Vec::new();
    if !untouched {
        objects.extend(added.objects);
        objects.extend(resources::around(view, operator_namespace));
        if let Some((wanted, decision)) = &decided {
            objects.extend(brokers(view, observed, wanted, decision));
        }
    }
    // Who looks after a thing knows it better.
    findings.retain(|finding| !added.findings.iter().any(|better| better.kind == finding.kind));
    findings.extend(added.findings);
    let mut status = status(view, observed, old, decided.as_ref().map(|(wanted, decision)| (wanted, decision)), now);
    status.topic_count = added.topic_count.or(status.topic_count);
    if let Some(etcd) = &mut status.etcd {
        etcd.last_snapshot = added.last_snapshot.or(etcd.last_snapshot.take());
    }
    for finding in &findings {
        status.set(finding, view.resource.metadata.generation, now);
    }
    // Said only where there are snapshots.
    let said = |name: &str| findings.iter().any(|finding| finding.kind.name() == name);
    let of_snapshots = [ConditionType::EtcdSnapshot, ConditionType::EtcdSnapshotAccess].map(ConditionType::name);
    status.conditions.retain(|one| !of_snapshots.contains(&one.type_.as_str()) || said(&one.type_));
    Plan { objects, decision: decided.map(|(_, decision)| decision), status, findings }
}

/// What the rollout depends on, and what it says.
fn decide(view: &ClusterView<'_>, observed: &Observed, old: &KafscaleClusterStatus) -> (Template, Decision) {
    let uid = view.resource.metadata.uid.as_deref().unwrap_or_default();
    let wanted = pods::template(view, &hash::of_secrets(uid, &observed.secrets.data));
    let spec = &view.resource.spec;
    let begun = old.rollout.as_ref();
    let halted = begun.filter(|rollout| rollout.phase.as_deref() == Some("Halted"));
    let emptied = begun.filter(|rollout| rollout.phase.as_deref() == Some("Draining")).and_then(|r| r.pod.as_deref());
    let pod = |seen: &PodSeen| Pod {
        uid: seen.uid.clone(),
        hash: seen.hash.clone(),
        going: seen.going,
        ready: seen.ready,
        doing: seen.doing(),
        not_serving_for: seen.not_serving_for,
        drain: seen.drain,
        ours: seen.drain.is_some() || emptied == Some(seen.name.as_str()),
    };
    let decision = state::decide(&Situation {
        wanted: wanted.hash.clone(),
        stable: observed.stable.as_ref().map(|stable| stable.hash.clone()),
        failed: halted.map(|rollout| rollout.target.clone()),
        replicas: spec.brokers.replicas,
        set_replicas: observed.set_replicas,
        pods: observed.pods.iter().map(|seen| (seen.ordinal, pod(seen))).collect(),
        ready_timeout: Duration::from_secs(spec.rollout.ready_timeout_sec.unsigned_abs().into()),
    });
    (wanted, decision)
}

/// The objects of the brokers that depend on how far the rollout is.
fn brokers(view: &ClusterView<'_>, observed: &Observed, wanted: &Template, decision: &Decision) -> Vec<DynamicObject> {
    let stable = observed.stable.as_ref();
    let right = match (&decision.failed, stable) {
        (Some(_), Some(stable)) => stable,
        _ => wanted,
    };
    let stable = if decision.stable { Some(wanted) } else { stable };
    // Those of templates that pods may be made of.
    let mut maps: BTreeMap<&str, &BTreeMap<String, String>> = BTreeMap::new();
    for template in [Some(wanted), stable].into_iter().flatten() {
        maps.insert(&template.config_map, &template.variables);
    }
    let mut objects: Vec<DynamicObject> =
        maps.into_iter().map(|(name, variables)| environment::config_map(view, name, variables)).collect();
    objects.extend(stable.map(|stable| pods::stable(view, stable)));
    objects.push(pods::stateful_set(view, right, decision.set_replicas));
    objects
}

fn status(
    view: &ClusterView<'_>,
    observed: &Observed,
    old: KafscaleClusterStatus,
    decided: Option<(&Template, &Decision)>,
    now: &Time,
) -> KafscaleClusterStatus {
    let replicas = view.resource.spec.brokers.replicas;
    let serving = observed.pods.iter().filter(|pod| pod.ordinal < replicas && pod.serves()).count() as i32;
    let versions: std::collections::BTreeSet<&str> =
        observed.pods.iter().filter_map(|pod| pod.status.as_ref()).map(|status| status.version.as_str()).collect();
    let selector = view.selector(BROKER).iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    let last_snapshot = old.etcd.as_ref().and_then(|etcd| etcd.last_snapshot.clone());
    let rollout = match decided {
        Some((wanted, decision)) => rollout(view, observed, old.rollout.as_ref(), wanted, decision, now),
        None => old.rollout.clone(),
    };
    KafscaleClusterStatus {
        observed_generation: view.resource.metadata.generation,
        replicas: observed.pods.len() as i32,
        ready_replicas: serving,
        brokers_ready: Some(format!("{serving}/{replicas}")),
        selector: Some(selector.join(",")),
        version: versions.first().filter(|_| versions.len() == 1).map(|version| (*version).to_owned()),
        bootstrap_servers: Some(format!("{}.{}.svc:{}", view.brokers_name(), view.namespace(), resources::KAFKA_PORT)),
        brokers: observed.pods.iter().map(broker).collect(),
        etcd: Some(EtcdStatus {
            mode: view.etcd_mode().name().to_owned(),
            endpoints: view.etcd_endpoints(),
            last_snapshot,
        }),
        rollout,
        ..old
    }
}

fn broker(pod: &PodSeen) -> BrokerStatus {
    let said = pod.status.as_ref();
    BrokerStatus {
        id: pod.ordinal,
        pod: pod.name.clone(),
        ready: pod.serves(),
        state: control::state_name(said.map_or(BrokerState::Unspecified, StatusResponse::state)).to_owned(),
        version: said.map(|said| said.version.clone()),
        rack: said.map(|said| said.rack.clone()).filter(|rack| !rack.is_empty()),
    }
}

/// What the next operator has to know if this one ends now.
fn rollout(
    view: &ClusterView<'_>,
    observed: &Observed,
    old: Option<&RolloutStatus>,
    wanted: &Template,
    decision: &Decision,
    now: &Time,
) -> Option<RolloutStatus> {
    let stable = observed.stable.as_ref().map(|stable| stable.hash.clone());
    let name = |ordinal: i32| Some(format!("{}-{ordinal}", view.brokers_name()));
    let there = |ordinal: i32| observed.pods.iter().any(|pod| pod.ordinal == ordinal && !pod.going);
    let deletes = matches!(decision.step, Step::Delete(_));
    let (pod, phase) = match (&decision.step, &decision.progress) {
        (Step::Undrain(n), _) | (_, Progress::Draining(n)) if !deletes => (name(*n), "Draining"),
        (_, Progress::Draining(n)) => (name(*n), "Replacing"),
        (_, Progress::Starting(n)) if deletes || !there(*n) => (name(*n), "Replacing"),
        (_, Progress::Starting(n)) => (name(*n), "Starting"),
        (_, Progress::Waiting(_)) => (None, "Waiting"),
        (_, Progress::Done) => (None, ""),
    };
    let (target, phase) = match &decision.failed {
        Some(failed) => (failed.clone(), "Halted"),
        None => (wanted.hash.clone(), phase),
    };
    // A first start and a broker that comes back by itself are no replacements.
    let replaces = stable.as_ref().is_some_and(|stable| *stable != target)
        || observed.pods.iter().any(|pod| pod.hash != target)
        || phase == "Draining";
    if phase.is_empty() || (!replaces && phase != "Halted") {
        return None;
    }
    let same = old.filter(|old| old.pod == pod && old.phase.as_deref() == Some(phase) && old.target == target);
    let since = same.and_then(|old| old.since.clone()).unwrap_or_else(|| now.0.to_string());
    Some(RolloutStatus { target, stable, pod, phase: Some(phase.to_owned()), since: Some(since) })
}
