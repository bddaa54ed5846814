//! What brokers are told: `KAFSCALE_*` variables, in a ConfigMap that is named after its content, and the rest that
//! Kubernetes puts in (secrets by the names of their keys, fields of the pod).

use super::{BROKER, CONTROL_PORT, KAFKA_PORT, METRICS_PORT, build, hash};
use crate::operator::view::ClusterView;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A secret's keys that a cluster uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUse {
    /// Name of the secret.
    pub secret: String,
    /// Where the resource names it.
    pub field: &'static str,
    /// Keys that have to be there. Variables have the same names.
    pub required: &'static [&'static str],
    /// Keys that may be there.
    pub optional: &'static [&'static str],
}

/// The secrets that the brokers of a cluster use.
pub fn secrets(view: &ClusterView<'_>) -> Vec<SecretUse> {
    let spec = &view.resource.spec;
    let s3 = spec.s3.credentials_secret_ref.clone().map(|secret| SecretUse {
        secret,
        field: "spec.s3.credentialsSecretRef",
        required: &["KAFSCALE_S3_ACCESS_KEY", "KAFSCALE_S3_SECRET_KEY"],
        optional: &["KAFSCALE_S3_SESSION_TOKEN"],
    });
    let etcd = spec.etcd.credentials_secret_ref.clone().map(|secret| SecretUse {
        secret,
        field: "spec.etcd.credentialsSecretRef",
        required: &["KAFSCALE_ETCD_USERNAME", "KAFSCALE_ETCD_PASSWORD"],
        optional: &[],
    });
    s3.into_iter().chain(etcd).collect()
}

/// The variables that are the same for all brokers and no secret.
pub fn variables(view: &ClusterView<'_>) -> BTreeMap<String, String> {
    let (spec, defaults) = (&view.resource.spec, view.defaults);
    let (s3, config) = (&spec.s3, &spec.config);
    let mut all = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        all.extend(value.map(|value| (format!("KAFSCALE_{name}"), value)));
    };
    put("BROKER_ADDR", Some(format!("0.0.0.0:{KAFKA_PORT}")));
    put("METRICS_ADDR", Some(format!("0.0.0.0:{METRICS_PORT}")));
    put("CONTROL_ADDR", Some(format!("0.0.0.0:{CONTROL_PORT}")));
    put("BROKER_PORT", Some(spec.brokers.advertised_port.unwrap_or(i32::from(KAFKA_PORT)).to_string()));
    put("BROKER_RACK", spec.brokers.rack.as_ref().and_then(|rack| rack.name.clone()));
    put("ETCD_ENDPOINTS", Some(view.etcd_endpoints().join(",")));
    put("S3_BUCKET", Some(s3.bucket.clone()));
    put("S3_REGION", Some(s3.region.clone()));
    put("S3_ENDPOINT", s3.endpoint.clone());
    put("S3_READ_BUCKET", s3.read_bucket.clone());
    put("S3_READ_REGION", s3.read_region.clone());
    put("S3_READ_ENDPOINT", s3.read_endpoint.clone());
    put("S3_KMS_ARN", s3.kms_key_arn.clone());
    put("S3_PATH_STYLE", Some(s3.path_style.unwrap_or(s3.endpoint.is_some()).to_string()));
    put("S3_NAMESPACE", Some(view.kafscale_namespace().to_owned()));
    put("SEGMENT_BYTES", Some(config.segment_bytes.unwrap_or(defaults.segment_bytes as i64).to_string()));
    let flush_ms = config.flush_interval_ms.unwrap_or(defaults.flush_interval.as_millis() as i64);
    put("FLUSH_INTERVAL_MS", Some(flush_ms.to_string()));
    put("CACHE_BYTES", config.cache_size.as_deref().and_then(quantity_bytes).map(|bytes| bytes.to_string()));
    put("READAHEAD_SEGMENTS", config.readahead_segments.map(|n| n.to_string()));
    put("AUTO_CREATE_TOPICS", config.auto_create_topics.map(|yes| yes.to_string()));
    put("AUTO_CREATE_PARTITIONS", config.auto_create_partitions.map(|n| n.to_string()));
    put("LOG_LEVEL", config.log_level.map(|level| level.name().to_owned()));
    put("S3_HEALTH_WINDOW_SEC", config.s3_health_window_sec.map(|n| n.to_string()));
    put("BROKER_LEASE_SEC", config.broker_lease_sec.map(|n| n.to_string()));
    all
}

/// Bytes of a whole quantity such as 512Mi.
pub fn quantity_bytes(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[number.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Name of the ConfigMap with these variables.
pub fn config_map_name(view: &ClusterView<'_>, variables: &BTreeMap<String, String>) -> String {
    format!("{}-{}", view.brokers_name(), &hash::of(&json!(variables))[..10])
}

/// The ConfigMap with these variables. It never changes: others have another name.
pub fn config_map(view: &ClusterView<'_>, name: &str, variables: &BTreeMap<String, String>) -> DynamicObject {
    build(view, ("v1", "ConfigMap"), name, BROKER, json!({ "immutable": true, "data": variables }))
}

/// The `env` of the broker's container: what differs between brokers, secrets, and what the user adds.
pub fn container_env(view: &ClusterView<'_>, variables: &BTreeMap<String, String>) -> Vec<Value> {
    let brokers = &view.resource.spec.brokers;
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let host = brokers
        .advertised_host
        .clone()
        .unwrap_or_else(|| format!("$(POD_NAME).{}.{}.svc", view.brokers_headless_name(), view.namespace()));
    // POD_NAME comes first: what refers to it has to stand behind it. Brokers take their number from it.
    let mut env = vec![field("POD_NAME", "metadata.name"), json!({ "name": "KAFSCALE_BROKER_HOST", "value": host })];
    if let Some(label) = brokers.rack.as_ref().and_then(|rack| rack.pod_label.as_deref()) {
        env.push(field("KAFSCALE_BROKER_RACK", &format!("metadata.labels['{label}']")));
    }
    for used in secrets(view) {
        let key = |key: &str, optional: Option<bool>| {
            let reference = json!({ "name": used.secret, "key": key, "optional": optional });
            json!({ "name": key, "valueFrom": { "secretKeyRef": reference } })
        };
        env.extend(used.required.iter().map(|name| key(name, None)));
        env.extend(used.optional.iter().map(|name| key(name, Some(true))));
    }
    let mut taken: BTreeSet<String> = variables.keys().cloned().collect();
    taken.extend(env.iter().filter_map(|one| one["name"].as_str().map(str::to_owned)));
    // It decides which partitions and which address a broker has; two of the same would fight.
    taken.insert("KAFSCALE_BROKER_ID".to_owned());
    for own in &brokers.pod.env {
        if taken.insert(own.name.clone()) {
            env.push(json!(own));
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let table = [
            ("7", Some(7)),
            ("1k", Some(1_000)),
            ("512Mi", Some(512 << 20)),
            ("2Ti", Some(2 << 40)),
            ("1X", None),
            ("Mi", None),
        ];
        for (text, bytes) in table {
            assert_eq!(quantity_bytes(text), bytes, "{text}");
        }
    }
}
