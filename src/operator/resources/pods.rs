//! The broker pods: their template with its fingerprint, the StatefulSet around it, and the memory of the last template
//! that served.
//!
//! The StatefulSet replaces nothing by itself (`OnDelete`): [`rollout`](crate::operator::rollout) deletes pods, one after the
//! other. A pod is of today if its fingerprint annotation is that of the template.

use super::{BROKER, CONTROL_PORT, KAFKA_PORT, METRICS_PORT, build, environment, hash, prune};
use crate::operator::crd::{CLUSTER_LABEL, RESTART_ANNOTATION};
use crate::operator::view::ClusterView;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Annotation with the fingerprint of the template a pod was made of.
pub const SPEC_HASH_ANNOTATION: &str = "kafscale.io/spec-hash";
/// Annotation with the fingerprint of the secrets that a template was made with: a secret that changes rolls brokers.
const SECRETS_HASH_ANNOTATION: &str = "kafscale.io/secrets-hash";
/// User and group of the image's processes.
const USER: i64 = 65_532;
/// Time beyond the drain in which a broker that was told to stop commits and leaves.
const GRACE_SEC: i32 = 15;
/// Of `/tmp`, the only folder that can be written.
const SCRATCH_SIZE: &str = "64Mi";
/// What is not ready within this many probes of a start is started again: five minutes, of which a start that cannot reach
/// its stores takes 30 s before it gives up by itself.
const STARTUP_PROBES_MAX: i32 = 150;

/// What broker pods are made of. Two with the same fingerprint are the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// Fingerprint.
    pub hash: String,
    /// Name of the ConfigMap that the pods read.
    pub config_map: String,
    /// What stands in it.
    pub variables: BTreeMap<String, String>,
    /// The pod template of the StatefulSet.
    pub pod: Value,
    /// Image, for people.
    pub image: String,
}

/// The image of the brokers.
pub fn image(view: &ClusterView<'_>) -> String {
    let default = &view.defaults.broker_image;
    let Some(own) = &view.resource.spec.brokers.image else { return default.clone() };
    let (repository, rest) = split_image(default);
    let named = own.repository.as_deref().unwrap_or(repository);
    match (&own.digest, &own.tag, &own.repository) {
        (Some(digest), ..) => format!("{named}@{digest}"),
        (None, Some(tag), _) => format!("{named}:{tag}"),
        // Another repository has the same version of the program under the same tag; a digest belongs to its repository.
        (None, None, Some(_)) if rest.starts_with('@') => named.to_owned(),
        (None, None, _) => format!("{named}{rest}"),
    }
}

/// Repository and the rest, with its separator.
fn split_image(image: &str) -> (&str, &str) {
    let at = image.find('@').or_else(|| {
        let slash = image.rfind('/').map_or(0, |at| at + 1);
        image[slash..].find(':').map(|at| slash + at)
    });
    image.split_at(at.unwrap_or(image.len()))
}

/// What the brokers should be made of; `secrets_hash` stands for what their secrets hold.
pub fn template(view: &ClusterView<'_>, secrets_hash: &str) -> Template {
    let variables = environment::variables(view);
    let config_map = environment::config_map_name(view, &variables);
    let options = &view.resource.spec.brokers.pod;
    let mut labels = options.labels.clone();
    labels.extend(view.labels(BROKER));
    let mut annotations = options.annotations.clone();
    annotations.insert(SECRETS_HASH_ANNOTATION.to_owned(), secrets_hash.to_owned());
    let asked = view.resource.metadata.annotations.as_ref().and_then(|all| all.get(RESTART_ANNOTATION));
    annotations.extend(asked.map(|at| (RESTART_ANNOTATION.to_owned(), at.clone())));
    let image = image(view);
    let mut pod = json!({
        "metadata": { "labels": labels, "annotations": annotations },
        "spec": pod_spec(view, &config_map, &variables, &image),
    });
    prune(&mut pod);
    let hash = hash::of(&pod);
    pod["metadata"]["annotations"][SPEC_HASH_ANNOTATION] = json!(hash);
    Template { hash, config_map, variables, pod, image }
}

fn pod_spec(view: &ClusterView<'_>, config_map: &str, variables: &BTreeMap<String, String>, image: &str) -> Value {
    let (spec, options) = (&view.resource.spec, &view.resource.spec.brokers.pod);
    let spread = match &options.topology_spread_constraints {
        Some(own) => json!(own),
        None => json!([spread(view, "topology.kubernetes.io/zone"), spread(view, "kubernetes.io/hostname")]),
    };
    let account = options.service_account_name.clone().unwrap_or_else(|| view.brokers_name());
    let some = |value: Value, empty: bool| if empty { Value::Null } else { value };
    let pull_secrets = view.pull_secrets();
    json!({
        "serviceAccountName": account,
        "automountServiceAccountToken": false,
        // Variables of Services beside the brokers would look like settings.
        "enableServiceLinks": false,
        // A broker that is told to stop drains by itself: there is nothing to do before. It gets as long as a drain may
        // take, and then some to commit and to leave.
        "terminationGracePeriodSeconds": spec.rollout.drain_timeout_sec + GRACE_SEC,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": spread,
        "nodeSelector": some(json!(options.node_selector), options.node_selector.is_empty()),
        "tolerations": some(json!(options.tolerations), options.tolerations.is_empty()),
        "affinity": options.affinity,
        "priorityClassName": options.priority_class_name,
        "imagePullSecrets": some(json!(pull_secrets), pull_secrets.is_empty()),
        "containers": [container(view, config_map, variables, image)],
        "volumes": [{ "name": "tmp", "emptyDir": { "sizeLimit": SCRATCH_SIZE } }],
    })
}

fn spread(view: &ClusterView<'_>, key: &str) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": view.selector(BROKER) },
    })
}

fn container(view: &ClusterView<'_>, config_map: &str, variables: &BTreeMap<String, String>, image: &str) -> Value {
    let brokers = &view.resource.spec.brokers;
    let pull_policy = brokers.image.as_ref().and_then(|image| image.pull_policy).map(|policy| policy.name());
    let get = |path: &str| json!({ "path": path, "port": "metrics" });
    json!({
        "name": "broker",
        "image": image,
        "imagePullPolicy": pull_policy.unwrap_or(view.defaults.broker_image_pull_policy.as_str()),
        "args": ["broker"],
        "envFrom": [{ "configMapRef": { "name": config_map } }],
        "env": environment::container_env(view, variables),
        "ports": [
            { "name": "kafka", "containerPort": KAFKA_PORT, "protocol": "TCP" },
            { "name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP" },
            { "name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP" },
        ],
        "startupProbe": { "httpGet": get("/readyz"), "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": STARTUP_PROBES_MAX },
        "readinessProbe": { "httpGet": get("/readyz"), "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2 },
        "livenessProbe": { "httpGet": get("/livez"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
        "resources": brokers.resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
    })
}

/// The StatefulSet with `replicas` pods of `template`.
pub fn stateful_set(view: &ClusterView<'_>, template: &Template, replicas: i32) -> DynamicObject {
    let spec = json!({
        "replicas": replicas,
        "serviceName": view.brokers_headless_name(),
        "podManagementPolicy": "Parallel",
        "updateStrategy": { "type": "OnDelete" },
        "revisionHistoryLimit": 5,
        "selector": { "matchLabels": view.selector(BROKER) },
        "template": template.pod,
    });
    build(view, ("apps/v1", "StatefulSet"), view.brokers_name(), BROKER, json!({ "spec": spec }))
}

/// Name of the ConfigMap with the last template that all brokers served with.
pub fn stable_name(view: &ClusterView<'_>) -> String {
    format!("{}-stable", view.brokers_name())
}

/// The memory of the last template that all brokers served with: what a rollout that fails goes back to.
pub fn stable(view: &ClusterView<'_>, template: &Template) -> DynamicObject {
    let text = serde_json::to_string(template).expect("a template is plain data");
    let data = Map::from_iter([("template.json".to_owned(), json!(text))]);
    build(view, ("v1", "ConfigMap"), stable_name(view), BROKER, json!({ "data": data }))
}

/// Reads it again. What cannot be read is no memory.
pub fn read_stable(data: Option<&BTreeMap<String, String>>) -> Option<Template> {
    serde_json::from_str(data?.get("template.json")?).ok()
}

/// The cluster that labels name, if any.
pub fn cluster_of(labels: Option<&BTreeMap<String, String>>) -> Option<&str> {
    labels?.get(CLUSTER_LABEL).map(String::as_str)
}
