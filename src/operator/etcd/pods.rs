//! What all pods of etcd and of its snapshots have in common: they satisfy the Pod Security level *restricted*.

use serde_json::{Value, json};

/// User and group of the processes; the images have none of their own.
const USER: i64 = 65_532;

/// Security of a pod. Volumes belong to the group.
pub fn pod_security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Security of a container.
pub fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// A variable with a value.
pub fn env(name: &str, value: impl Into<String>) -> Value {
    json!({"name": name, "value": value.into()})
}

/// A variable from a secret.
pub fn env_secret(name: &str, secret: &str, key: &str, optional: bool) -> Value {
    let mut reference = json!({"name": secret, "key": key});
    if optional {
        reference["optional"] = true.into();
    }
    json!({"name": name, "valueFrom": {"secretKeyRef": reference}})
}
