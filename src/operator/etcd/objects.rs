//! The objects of managed etcd. Pure.
//!
//! The ConfigMap with the record is not among them: it is state, and outlives what is applied here.

use super::super::view::ClusterView;
use super::pods::{container_security, env, pod_security};
use super::{CLAIM, CLIENT_PORT, COMPONENT, DATA_DIR, METRICS_PORT, PEER_PORT, VOLUME_PATH};
use super::{quota_bytes, record, size};
use crate::operator::crd::etcd::VolumeDeletion;
use crate::operator::resources::access::chart_pods;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// Seconds that a member gets to hand its leadership over and stop.
const GRACE_SEC: u32 = 60;

/// Everything that makes a cluster's etcd; nothing if it has one of its own.
pub fn objects(view: &ClusterView<'_>, operator_namespace: &str) -> Vec<DynamicObject> {
    if view.etcd_mode() != crate::operator::view::EtcdMode::Managed {
        return Vec::new();
    }
    let mut list = vec![peer_service(view), client_service(view), disruption_budget(view)];
    if view.resource.spec.network_policy.enabled {
        list.push(network_policy(view, operator_namespace));
    }
    list.push(stateful_set(view));
    list.into_iter().map(dynamic).collect()
}

/// An object that was written down here, which is well-formed.
pub(crate) fn dynamic(value: Value) -> DynamicObject {
    serde_json::from_value(said(value)).expect("every object has a kind and metadata")
}

/// Without what says nothing: nulls, and lists of secrets that are empty.
pub(crate) fn said(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.retain(|key, value| !(value.is_null() || key == "imagePullSecrets" && *value == json!([])));
            map.values_mut().for_each(|value| *value = said(value.take()));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| *value = said(value.take())),
        _ => {}
    }
    value
}

fn peer_service(view: &ClusterView<'_>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": view.metadata(view.etcd_name(), COMPONENT),
        "spec": {
            "clusterIP": "None",
            // Members have to find each other before any of them is ready.
            "publishNotReadyAddresses": true,
            "selector": view.selector(COMPONENT),
            "ports": [port("client", CLIENT_PORT), port("peer", PEER_PORT), port("metrics", METRICS_PORT)],
        },
    })
}

fn client_service(view: &ClusterView<'_>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": view.metadata(view.etcd_client_name(), COMPONENT),
        "spec": {
            "type": "ClusterIP",
            "selector": view.selector(COMPONENT),
            "ports": [port("client", CLIENT_PORT)],
        },
    })
}

fn port(name: &str, number: u16) -> Value {
    json!({"name": name, "port": number, "targetPort": number, "protocol": "TCP"})
}

fn disruption_budget(view: &ClusterView<'_>) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": view.metadata(view.etcd_name(), COMPONENT),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": view.selector(COMPONENT)}},
    })
}

fn network_policy(view: &ClusterView<'_>, operator_namespace: &str) -> Value {
    let own = |component: &str| json!({"podSelector": {"matchLabels": view.selector(component)}});
    let [operator, console] = chart_pods(operator_namespace);
    let clients = [own("broker"), own(COMPONENT), own("snapshot"), own("recover"), operator, console];
    let tcp = |number: u16| json!({"protocol": "TCP", "port": number});
    let mut metrics = json!({"ports": [tcp(METRICS_PORT)]});
    if let Some(peers) = &view.resource.spec.network_policy.metrics_peers {
        metrics["from"] = json!(peers);
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": view.metadata(view.etcd_name(), COMPONENT),
        "spec": {
            "podSelector": {"matchLabels": view.selector(COMPONENT)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": clients, "ports": [tcp(CLIENT_PORT)]},
                {"from": [own(COMPONENT)], "ports": [tcp(PEER_PORT)]},
                metrics,
            ],
        },
    })
}

fn stateful_set(view: &ClusterView<'_>) -> Value {
    let managed = view.resource.spec.etcd.managed.clone().unwrap_or_default();
    let when_deleted = match view.resource.spec.deletion.etcd {
        VolumeDeletion::Retain => "Retain",
        VolumeDeletion::Delete => "Delete",
    };
    let mut metadata = view.metadata(view.etcd_name(), COMPONENT);
    metadata.annotations = None;
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": {
            "serviceName": view.etcd_name(),
            "replicas": size(view),
            // A quorum has to start together.
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
            "revisionHistoryLimit": 5,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": when_deleted, "whenScaled": "Retain"},
            "selector": {"matchLabels": view.selector(COMPONENT)},
            "template": {
                "metadata": {"labels": view.labels(COMPONENT)},
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": GRACE_SEC,
                    "securityContext": pod_security(),
                    "imagePullSecrets": view.pull_secrets(),
                    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
                        "weight": 100,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": view.selector(COMPONENT)},
                        },
                    }]}},
                    "topologySpreadConstraints": [
                        spread(view, "topology.kubernetes.io/zone"),
                        spread(view, "kubernetes.io/hostname"),
                    ],
                    "containers": [container(view)],
                },
            },
            "volumeClaimTemplates": [claim(view, &managed)],
        },
    })
}

fn spread(view: &ClusterView<'_>, key: &str) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": view.selector(COMPONENT)},
    })
}

fn container(view: &ClusterView<'_>) -> Value {
    let managed = view.resource.spec.etcd.managed.clone().unwrap_or_default();
    let resources = managed
        .resources
        .map_or_else(|| json!({"requests": {"cpu": "100m", "memory": "256Mi"}}), |resources| json!(resources));
    json!({
        "name": "etcd",
        "image": image(view),
        "command": ["etcd"],
        "env": environment(view),
        "ports": [
            {"name": "client", "containerPort": CLIENT_PORT, "protocol": "TCP"},
            {"name": "peer", "containerPort": PEER_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "resources": resources,
        "securityContext": container_security(),
        "volumeMounts": [{"name": CLAIM, "mountPath": VOLUME_PATH}],
        // A member that catches up with a large database takes its time.
        "startupProbe": probe("/readyz", 5, 120),
        // Not /health: it fails when etcd is out of space, and reads and deletions go on then.
        "readinessProbe": probe("/readyz", 5, 3),
        "livenessProbe": probe("/livez", 10, 6),
    })
}

fn probe(path: &str, period_sec: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": METRICS_PORT, "scheme": "HTTP"},
        "periodSeconds": period_sec,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}

/// Image of members.
pub fn image(view: &ClusterView<'_>) -> String {
    let own = view.resource.spec.etcd.managed.as_ref().and_then(|managed| managed.image.clone());
    own.unwrap_or_else(|| view.defaults.etcd.image.clone())
}

fn environment(view: &ClusterView<'_>) -> Vec<Value> {
    let own = |port: u16| format!("http://$(POD_NAME).{}.{}.svc:{port}", view.etcd_name(), view.namespace());
    let from_record = |name: &str, key: &str| {
        let reference = json!({"name": record::config_map_name(view), "key": key});
        json!({"name": name, "valueFrom": {"configMapKeyRef": reference}})
    };
    vec![
        json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}),
        env("ETCD_NAME", "$(POD_NAME)"),
        env("ETCD_DATA_DIR", DATA_DIR),
        env("ETCD_LISTEN_CLIENT_URLS", format!("http://0.0.0.0:{CLIENT_PORT}")),
        env("ETCD_ADVERTISE_CLIENT_URLS", own(CLIENT_PORT)),
        env("ETCD_LISTEN_PEER_URLS", format!("http://0.0.0.0:{PEER_PORT}")),
        env("ETCD_INITIAL_ADVERTISE_PEER_URLS", own(PEER_PORT)),
        env("ETCD_LISTEN_METRICS_URLS", format!("http://0.0.0.0:{METRICS_PORT}")),
        from_record("ETCD_INITIAL_CLUSTER", record::INITIAL_CLUSTER),
        from_record("ETCD_INITIAL_CLUSTER_STATE", record::INITIAL_CLUSTER_STATE),
        env("ETCD_INITIAL_CLUSTER_TOKEN", format!("{}.{}", view.namespace(), view.etcd_name())),
        env("ETCD_QUOTA_BACKEND_BYTES", quota_bytes(view).to_string()),
        env("ETCD_AUTO_COMPACTION_MODE", "periodic"),
        env("ETCD_AUTO_COMPACTION_RETENTION", "5m"),
        env("ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true"),
        env("ETCD_LOG_LEVEL", "info"),
    ]
}

fn claim(view: &ClusterView<'_>, managed: &crate::operator::crd::etcd::ManagedEtcdSpec) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "labels": view.selector(COMPONENT)},
        "spec": claim_spec(view, managed),
    })
}

/// What a member's volume has to be.
pub fn claim_spec(view: &ClusterView<'_>, managed: &crate::operator::crd::etcd::ManagedEtcdSpec) -> Value {
    let storage_size = managed.storage_size.clone().unwrap_or_else(|| view.defaults.etcd.storage_size.clone());
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": storage_size}},
    });
    if let Some(class) = managed.storage_class.clone().or_else(|| view.defaults.etcd.storage_class.clone()) {
        spec["storageClassName"] = class.into();
    }
    spec
}
