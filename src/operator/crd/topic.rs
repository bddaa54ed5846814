//! `KafscaleTopic`: a topic of one cluster.

use super::status::Conditions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A Kafka topic. Partitions only grow. What the resource says about configs wins over what Kafka clients change; configs
/// it does not name are left alone.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kafscale.io",
    version = "v1alpha1",
    kind = "KafscaleTopic",
    plural = "kafscaletopics",
    shortname = "kt",
    category = "kafscale",
    namespaced,
    status = "KafscaleTopicStatus",
    derive = "PartialEq",
    doc = "A Kafka topic of a KafscaleCluster in the same namespace.",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topicName"),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.partitions"),
    printcolumn(name = "Retention ms", type_ = "integer", json_path = ".spec.retentionMs"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("has(self.spec.topicName) || size(self.metadata.name) <= 249")
        .message("a topic's name has at most 249 characters: set spec.topicName, or give the resource a shorter name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName)")
        .message("topicName cannot be set or unset later: a topic is not renamed; make another KafscaleTopic"),
    validation = Rule::new("!has(self.retentionMs) || !has(self.config) || !('retention.ms' in self.config)")
        .message("say the retention once: retentionMs or config['retention.ms']"),
    validation = Rule::new("!has(self.retentionBytes) || !has(self.config) || !('retention.bytes' in self.config)")
        .message("say the retention once: retentionBytes or config['retention.bytes']")
)]
pub struct KafscaleTopicSpec {
    /// Name of the KafscaleCluster, in the same namespace. Immutable.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef is immutable: a topic does not move between clusters"))]
    pub cluster_ref: String,
    /// Name of the topic in Kafka; default: the resource's name. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("topicName is immutable: a topic is not renamed; make another KafscaleTopic"),
        validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$')").message("a topic's name consists of letters, digits, '.', '_' and '-'"),
        validation = Rule::new("self != '.' && self != '..'").message("a topic cannot be called '.' or '..'"),
        validation = Rule::new("!self.startsWith('__')").message("names that begin with '__' belong to the brokers")
    )]
    pub topic_name: Option<String>,
    /// Partitions (1 to 10000); only grows.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10000))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("partitions only grow: records would be lost otherwise; make a new topic instead"))]
    pub partitions: i32,
    /// Milliseconds for which records are kept; -1: for ever. Default: what the brokers say (7 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    pub retention_ms: Option<i64>,
    /// Bytes that a partition keeps; -1: any number. Default: what the brokers say (any number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    pub retention_bytes: Option<i64>,
    /// Other topic configs under Kafka's names, for example `cleanup.policy: compact`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(name, name.matches('^[a-z][a-z0-9.]*$') && size(name) <= 128)")
        .message("config names are Kafka's, for example cleanup.policy"))]
    pub config: BTreeMap<String, ConfigText>,
    /// What happens to the topic and its records when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: TopicDeletion,
}

/// A config's value, as text: quote numbers and truth values.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(transparent)]
pub struct ConfigText(#[schemars(length(max = 1024))] pub String);

/// What happens to a topic when its resource is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopicDeletion {
    /// It stays, with its records.
    #[default]
    Retain,
    /// It is deleted, with its records.
    Delete,
}

fn one() -> i32 {
    1
}

/// What the operator knows of a topic.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct KafscaleTopicStatus {
    /// Ready, and what stands in the way.
    #[serde(default)]
    #[schemars(schema_with = "super::status::conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The generation of the resource that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The topic's name in Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// The topic's id in Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Partitions that the topic has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Whether the topic was there before the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<bool>,
}

impl Conditions for KafscaleTopicStatus {
    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl KafscaleTopic {
    /// The topic's name in Kafka.
    pub fn topic_name(&self) -> &str {
        self.spec.topic_name.as_deref().or(self.metadata.name.as_deref()).unwrap_or_default()
    }

    /// All configs that the resource names, under Kafka's names.
    pub fn configs(&self) -> BTreeMap<String, String> {
        let spec = &self.spec;
        let mut configs: BTreeMap<_, _> = spec.config.iter().map(|(k, v)| (k.clone(), v.0.clone())).collect();
        configs.extend(spec.retention_ms.map(|ms| ("retention.ms".to_owned(), ms.to_string())));
        configs.extend(spec.retention_bytes.map(|bytes| ("retention.bytes".to_owned(), bytes.to_string())));
        configs
    }
}
