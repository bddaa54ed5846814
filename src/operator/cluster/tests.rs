//! What is planned, table by table.

use super::duplicates;
use super::plan::*;
use crate::control::proto::{BrokerState, StatusResponse};
use crate::operator::context::Key;
use crate::operator::crd::status::{ConditionType, Finding};
use crate::operator::crd::{KafscaleCluster, PAUSED_ANNOTATION};
use crate::operator::resources::hash;
use crate::operator::resources::pods::{self, Template};
use crate::operator::resources::tests::{LEAST, cluster, defaults};
use crate::operator::rollout::state::Step;
use crate::operator::view::ClusterView;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn wanted(resource: &KafscaleCluster) -> Template {
    let secrets = hash::of_secrets("u-1", &std::collections::BTreeMap::new());
    pods::template(&ClusterView { resource, defaults: &defaults(&[]) }, &secrets)
}

fn pod(ordinal: i32, hash: &str) -> PodSeen {
    let status = StatusResponse {
        broker_id: ordinal,
        state: BrokerState::Serving.into(),
        version: "1".to_owned(),
        ..StatusResponse::default()
    };
    PodSeen {
        ordinal,
        name: format!("orders-broker-{ordinal}"),
        uid: format!("{hash}-{ordinal}"),
        hash: hash.to_owned(),
        going: false,
        ready: true,
        control: None,
        status: Some(status),
        not_serving_for: Duration::ZERO,
        drain: None,
    }
}

fn observed(hashes: [&str; 3]) -> Observed {
    let pods = (0..).zip(hashes).map(|(ordinal, hash)| pod(ordinal, hash)).collect();
    Observed { set_replicas: Some(3), pods, etcd: Some(Ok(())), ..Observed::default() }
}

fn planned(resource: &KafscaleCluster, observed: &Observed) -> Plan {
    let defaults = defaults(&[]);
    plan(&ClusterView { resource, defaults: &defaults }, observed, Added::default(), "kafscale", &at(100))
}

/// Status and reason of a condition.
fn condition(plan: &Plan, kind: ConditionType) -> (String, String) {
    let found = plan.status.conditions.iter().find(|one| one.type_ == kind.name()).expect("it is always said");
    (found.status.clone(), found.reason.clone())
}

fn said(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn kinds(plan: &Plan) -> Vec<String> {
    plan.objects.iter().map(|object| object.types.as_ref().unwrap().kind.clone()).collect()
}

/// What parts say, for as long as they say it.
#[test]
fn what_parts_add_is_applied_and_said_and_of_snapshots_only_where_there_are_some() {
    let mut resource = cluster(LEAST);
    let defaults = defaults(&[]);
    let hash = wanted(&resource).hash;
    let observed = observed([&hash, &hash, &hash]);
    let planned = |resource: &KafscaleCluster, added: Added| {
        plan(&ClusterView { resource, defaults: &defaults }, &observed, added, "kafscale", &at(100))
    };
    let said_by_parts = [
        Finding::unknown(ConditionType::EtcdAvailable, "Forming", "it forms"),
        Finding::no(ConditionType::EtcdSnapshotAccess, "PreflightRefused", "no"),
    ];
    let added = Added { findings: said_by_parts.into(), last_snapshot: Some("t".into()), ..Added::default() };
    let first = planned(&resource, added);
    assert_eq!(condition(&first, ConditionType::EtcdAvailable), said("Unknown", "Forming"), "who looks after it knows");
    assert_eq!(condition(&first, ConditionType::EtcdSnapshotAccess), said("False", "PreflightRefused"));
    resource.status = Some(first.status);
    let second = planned(&resource, Added::default());
    let kinds: Vec<&str> = second.status.conditions.iter().map(|one| one.type_.as_str()).collect();
    assert!(!kinds.contains(&"EtcdSnapshotAccess") && kinds.contains(&"EtcdAvailable"), "{kinds:?}");
    assert_eq!(second.status.etcd.unwrap().last_snapshot.as_deref(), Some("t"));
}

#[test]
fn a_cluster_that_serves_is_ready_and_its_template_is_remembered() {
    let resource = cluster(LEAST);
    let hash = wanted(&resource).hash;
    let plan = planned(&resource, &observed([&hash, &hash, &hash]));
    assert_eq!(condition(&plan, ConditionType::Ready), said("True", "Serving"));
    assert_eq!(condition(&plan, ConditionType::Progressing), said("False", "AsWanted"));
    assert_eq!(condition(&plan, ConditionType::Degraded), said("False", "AsExpected"));
    assert_eq!((plan.status.ready_replicas, plan.status.version.as_deref()), (3, Some("1")));
    assert_eq!(plan.status.observed_generation, Some(3));
    let stable = plan.objects.iter().find(|object| object.metadata.name.as_deref() == Some("orders-broker-stable"));
    let data = serde_json::from_value(stable.expect("it is written").data["data"].clone()).unwrap();
    assert_eq!(pods::read_stable(Some(&data)).unwrap(), wanted(&resource));
    assert_eq!(plan.status.rollout, None);
}

#[test]
fn ready_needs_brokers_that_say_that_they_serve() {
    let resource = cluster(LEAST);
    let hash = wanted(&resource).hash;
    let mut silent = observed([&hash, &hash, &hash]);
    silent.pods[1].status = None;
    let plan = planned(&resource, &silent);
    assert_eq!(condition(&plan, ConditionType::Ready), said("False", "BrokersNotServing"));
    assert_eq!(plan.status.brokers[1].state, "Unknown");
    assert_eq!(plan.status.brokers_ready.as_deref(), Some("2/3"));
}

#[test]
fn without_its_secrets_no_broker_is_touched() {
    let resource = cluster(LEAST);
    let mut missing = observed(["old", "old", "old"]);
    missing.secrets.problems = vec!["make the secret \"s3\"".to_owned()];
    let plan = planned(&resource, &missing);
    assert_eq!(condition(&plan, ConditionType::SecretsReady), said("False", "SecretsMissing"));
    assert!(plan.decision.is_none() && !kinds(&plan).contains(&"StatefulSet".to_owned()), "{:?}", kinds(&plan));
    assert!(kinds(&plan).contains(&"Service".to_owned()));
    assert_eq!(condition(&plan, ConditionType::Ready), said("True", "Serving"), "those that run go on");
}

#[test]
fn a_paused_cluster_is_looked_at_and_left_alone() {
    let mut resource = cluster(LEAST);
    resource.metadata.annotations = Some([(PAUSED_ANNOTATION.to_owned(), "true".to_owned())].into());
    let plan = planned(&resource, &observed(["old", "old", "old"]));
    assert!(plan.objects.is_empty() && plan.decision.is_none());
    assert_eq!(condition(&plan, ConditionType::Paused), said("True", "Annotation"));
    assert_eq!(condition(&plan, ConditionType::Ready), said("True", "Serving"));
}

#[test]
fn a_rollout_stands_in_the_status_and_a_failed_one_stays_there() {
    let mut resource = cluster(LEAST);
    let new = wanted(&resource);
    let old = Template { hash: "old".to_owned(), config_map: "old-map".to_owned(), ..new.clone() };
    let mut seen = Observed { stable: Some(old), ..observed(["old", "old", "old"]) };
    let plan = planned(&resource, &seen);
    assert_eq!(plan.decision.as_ref().unwrap().step, Step::Drain(2));
    let rollout = plan.status.rollout.clone().unwrap();
    assert_eq!((rollout.phase.as_deref(), rollout.pod.as_deref()), (Some("Draining"), Some("orders-broker-2")));
    assert_eq!((rollout.target.as_str(), rollout.stable.as_deref()), (new.hash.as_str(), Some("old")));
    // The new one does not come up.
    resource.status = Some(plan.status);
    seen.pods[2] =
        PodSeen { ready: false, status: None, not_serving_for: Duration::from_secs(301), ..pod(2, &new.hash) };
    let plan = planned(&resource, &seen);
    assert_eq!(condition(&plan, ConditionType::Degraded), said("True", "RolloutFailed"));
    assert_eq!(condition(&plan, ConditionType::Progressing), said("False", "RolloutFailed"));
    assert_eq!(plan.decision.as_ref().unwrap().step, Step::Delete(2));
    let set = plan.objects.iter().find(|object| object.types.as_ref().unwrap().kind == "StatefulSet").unwrap();
    assert_eq!(set.data["spec"]["template"], seen.stable.as_ref().unwrap().pod, "the one before is back");
    // It is back, and the wanted one is not tried again.
    resource.status = Some(plan.status);
    seen.pods[2] = pod(2, "old");
    let plan = planned(&resource, &seen);
    assert_eq!(plan.decision.as_ref().unwrap().step, Step::Nothing);
    assert_eq!(condition(&plan, ConditionType::Degraded), said("True", "RolloutFailed"));
    assert_eq!(condition(&plan, ConditionType::Ready), said("True", "Serving"));
    // Until the resource says something else.
    resource.status = Some(plan.status);
    resource.spec.config.flush_interval_ms = Some(100);
    let plan = planned(&resource, &seen);
    assert_eq!(plan.decision.as_ref().unwrap().step, Step::Drain(2));
    assert_eq!(condition(&plan, ConditionType::Degraded), said("False", "AsExpected"));
}

#[test]
fn the_older_of_two_clusters_in_one_place_keeps_it() {
    let defaults = defaults(&["--operator-etcd-endpoints=http://etcd:2379"]);
    let one = |uid: &str, created: i64, spec: &str| {
        let mut one = cluster(spec);
        (one.metadata.uid, one.metadata.creation_timestamp) = (Some(uid.to_owned()), Some(at(created)));
        one
    };
    let key = |name: &str| Key { namespace: "shop".to_owned(), name: name.to_owned() };
    let table = [
        ("the same etcd", "s3: {bucket: other, region: r}", Some("etcd")),
        (
            "the same etcd, written otherwise",
            "{s3: {bucket: other, region: r}, etcd: {endpoints: ['ETCD:2379']}}",
            Some("etcd"),
        ),
        (
            "the same bucket",
            "{s3: {bucket: segments, region: r}, etcd: {endpoints: ['http://e2:2379']}}",
            Some("bucket"),
        ),
        ("another namespace inside", "s3: {bucket: segments, region: r, namespace: two}", None),
        (
            "a bucket elsewhere",
            "{s3: {bucket: segments, region: r, endpoint: 'http://s3'}, etcd: {endpoints: ['http://e2:2379']}}",
            None,
        ),
    ];
    for (name, spec, expected) in table {
        let (old, new) = (one("a", 1, LEAST), one("b", 2, spec));
        let all = [(key("old"), old.clone()), (key("new"), new.clone())];
        let list = || all.iter().map(|(key, cluster)| (key, cluster));
        let taken = duplicates::elder(&new, list(), &defaults);
        assert_eq!(taken.as_ref().map(|taken| taken.what), expected, "{name}");
        assert!(taken.is_none_or(|taken| taken.by == key("old")));
        assert_eq!(duplicates::elder(&old, list(), &defaults), None, "{name}: the older one");
    }
    let mut seen = observed(["x", "x", "x"]);
    seen.taken = Some(duplicates::Taken { by: key("old"), what: "etcd", namespace: "shop".to_owned() });
    let plan = planned(&cluster(LEAST), &seen);
    assert!(plan.objects.is_empty() && plan.decision.is_none());
    assert_eq!(condition(&plan, ConditionType::Degraded), said("True", "NamespaceTaken"));
}

#[test]
fn a_status_that_is_written_is_read_the_same() {
    let resource = cluster(LEAST);
    let plan = planned(&resource, &observed(["a", "b", "c"]));
    let text = serde_json::to_string(&plan.status).unwrap();
    assert_eq!(
        serde_json::from_str::<crate::operator::crd::cluster::KafscaleClusterStatus>(&text).unwrap(),
        plan.status
    );
}
