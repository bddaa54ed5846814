//! `KafscaleCluster`: brokers, their bucket and their etcd.

use super::etcd::{DeletionSpec, EtcdSpec};
use super::pods::{ImageSpec, PodOptions, ServiceSpec};
use super::status::Conditions;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kafka brokers that keep their records in a bucket and their metadata in etcd.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "kafscale.io",
    version = "v1alpha1",
    kind = "KafscaleCluster",
    plural = "kafscaleclusters",
    shortname = "kfs",
    category = "kafscale",
    namespaced,
    status = "KafscaleClusterStatus",
    derive = "PartialEq",
    doc = "Kafka brokers that keep their records in a bucket and their metadata in etcd.",
    scale(
        spec_replicas_path = ".spec.brokers.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Brokers", type_ = "string", json_path = ".status.brokersReady"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Topics", type_ = "integer", json_path = ".status.topicCount"),
    printcolumn(name = "Etcd", type_ = "string", json_path = ".status.etcd.mode"),
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.s3.bucket", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("a cluster's name has at most 40 characters: names of pods and Services are made of it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("a cluster's name begins with a letter and has no dots: names of Services are made of it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.autoscaling) || self.autoscaling.maxReplicas >= self.autoscaling.minReplicas")
        .message("autoscaling.maxReplicas must not be less than minReplicas")
)]
pub struct KafscaleClusterSpec {
    /// The brokers.
    #[serde(default)]
    pub brokers: BrokersSpec,
    /// The bucket.
    pub s3: S3Spec,
    /// Etcd; default: KAFSCALE_OPERATOR_ETCD_ENDPOINTS, else etcd that the operator runs.
    #[serde(default)]
    pub etcd: EtcdSpec,
    /// Settings of the brokers.
    #[serde(default)]
    pub config: ConfigSpec,
    /// A HorizontalPodAutoscaler that scales this resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,
    /// Who may connect to pods.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
    /// How brokers are replaced.
    #[serde(default)]
    pub rollout: RolloutSpec,
    /// What happens when the resource is deleted.
    #[serde(default)]
    pub deletion: DeletionSpec,
}

/// The brokers of a cluster.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.advertisedHost) || self.replicas <= 1 || self.advertisedHost.contains('{ordinal}')")
        .message("several brokers need several hosts: write {ordinal} into advertisedHost where the broker's number belongs, for example broker-{ordinal}.example.com"),
    validation = Rule::new("!has(self.advertisedPort) || has(self.advertisedHost)")
        .message("advertisedPort goes with advertisedHost")
)]
pub struct BrokersSpec {
    /// Number of brokers (0 to 1000). 0 stops them all; data stays.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// CPU and memory of a broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Host that clients outside of Kubernetes connect to; `{ordinal}` stands for the broker's number. Default: the pod's name in DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^([a-zA-Z0-9._:-]|[{]ordinal[}])+$')").message("a host is a name or an address without port; {ordinal} may stand in it"))]
    pub advertised_host: Option<String>,
    /// Port that goes with advertisedHost; default 9092.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub advertised_port: Option<i32>,
    /// The Service that clients find the brokers by.
    #[serde(default)]
    pub service: ServiceSpec,
    /// Image; default: the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,
    /// Rack of the brokers, for rack-aware consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<RackSpec>,
    /// Where pods run and what they carry.
    #[serde(default)]
    pub pod: PodOptions,
}

impl Default for BrokersSpec {
    fn default() -> Self {
        Self {
            replicas: three(),
            resources: None,
            advertised_host: None,
            advertised_port: None,
            service: ServiceSpec::default(),
            image: None,
            rack: None,
            pod: PodOptions::default(),
        }
    }
}

fn three() -> i32 {
    3
}

/// Where the rack of a broker comes from.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) != has(self.podLabel)").message("say name or podLabel"))]
pub struct RackSpec {
    /// The same for all brokers, for example the region of a read replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub name: Option<String>,
    /// A label of the pod; Kubernetes 1.35 and newer copy `topology.kubernetes.io/zone` from the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub pod_label: Option<String>,
}

/// The bucket of a cluster.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.readRegion) || has(self.readBucket)").message("readRegion goes with readBucket"),
    validation = Rule::new("!has(self.readEndpoint) || has(self.readBucket)").message("readEndpoint goes with readBucket"),
    validation = Rule::new("!has(self.readBucket) || self.readBucket != self.bucket || (has(self.readRegion) && self.readRegion != self.region) || has(self.readEndpoint)")
        .message("readBucket is a copy of the bucket somewhere else: it cannot be the bucket itself"),
    validation = Rule::new("has(self.namespace) == has(oldSelf.namespace)").message("namespace is immutable: objects keep their keys")
)]
pub struct S3Spec {
    /// Bucket. Immutable.
    #[schemars(length(min = 3, max = 255))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("bucket is immutable: records do not move. Make a new cluster"),
        validation = Rule::new("!self.startsWith('s3://') && !self.contains('/') || self.startsWith('arn:')").message("a bucket is a name without s3:// and without path, or the ARN of an access point")
    )]
    pub bucket: String,
    /// Region.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9-]+$')").message("a region is a name such as us-east-1"))]
    pub region: String,
    /// URL of an S3-compatible server; default: AWS in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^ /]+/?$')").message("an endpoint is http://host:port or https://host"))]
    pub endpoint: Option<String>,
    /// Bucket with a copy, near the brokers: they read from it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 255))]
    pub read_bucket: Option<String>,
    /// Region of readBucket; default: region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub read_region: Option<String>,
    /// URL of the server of readBucket; default: endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^ /]+/?$')").message("an endpoint is http://host:port or https://host"))]
    pub read_endpoint: Option<String>,
    /// ARN of the KMS key that encrypts objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.startsWith('arn:')").message("a KMS key is given by its ARN, arn:aws:kms:region:account:key/id"))]
    pub kms_key_arn: Option<String>,
    /// Secret with KAFSCALE_S3_ACCESS_KEY and KAFSCALE_S3_SECRET_KEY (and KAFSCALE_S3_SESSION_TOKEN if there is one); default: what
    /// the pods' service account may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_ref: Option<String>,
    /// Put the bucket into the path of requests; default: true if there is an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Prefix of object keys and name of the cluster in etcd; default: KAFSCALE_S3_NAMESPACE of the operator, else the resource's
    /// namespace. Two clusters on one bucket or one etcd need two. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("namespace is immutable: objects keep their keys"),
        validation = Rule::new("self.matches('^[a-zA-Z0-9_-][a-zA-Z0-9._-]*$')").message("a namespace consists of letters, digits, '.', '_' and '-'")
    )]
    pub namespace: Option<String>,
}

/// Settings of the brokers; what is not here has the brokers' default. `pod.env` takes the others.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSpec {
    /// Bytes at which a segment is flushed (1024 to 536870912); default: KAFSCALE_SEGMENT_BYTES of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 536_870_912))]
    pub segment_bytes: Option<i64>,
    /// Milliseconds after which a segment is flushed (1 to 60000); default: KAFSCALE_FLUSH_INTERVAL_MS of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 60_000))]
    pub flush_interval_ms: Option<i64>,
    /// Cache of a broker, a quantity such as 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$')").message("a size is a whole number of bytes or a quantity such as 512Mi"))]
    pub cache_size: Option<String>,
    /// Segments that are read ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 64))]
    pub readahead_segments: Option<i32>,
    /// Make topics that clients ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_create_topics: Option<bool>,
    /// Partitions of topics made without a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub auto_create_partitions: Option<i32>,
    /// Least severe level that is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Seconds over which S3 is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 3600))]
    pub s3_health_window_sec: Option<i32>,
    /// Seconds without a sign of life after which others take over from a broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 300))]
    pub broker_lease_sec: Option<i32>,
}

/// Least severe level that is logged.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warn,
    /// What is broken.
    Error,
}

impl LogLevel {
    /// As in KAFSCALE_LOG_LEVEL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A HorizontalPodAutoscaler on this resource's scale.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingSpec {
    /// Fewest brokers.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// Most brokers.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// CPU use, in percent of what is requested, that is aimed at.
    #[serde(default = "seventy")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_utilization_percentage: i32,
}

fn seventy() -> i32 {
    70
}

/// Who may connect to pods.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether there is a policy.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who may speak Kafka; default: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub kafka_peers: Option<Vec<NetworkPolicyPeer>>,
    /// Who may read metrics; default: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub metrics_peers: Option<Vec<NetworkPolicyPeer>>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self { enabled: true, kafka_peers: None, metrics_peers: None }
    }
}

fn yes() -> bool {
    true
}

/// How brokers are replaced, one after the other.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutSpec {
    /// Seconds that a broker may take to hand everything over before it is stopped nevertheless.
    #[serde(default = "drain_timeout_sec")]
    #[schemars(range(min = 5, max = 3600))]
    pub drain_timeout_sec: i32,
    /// Seconds within which a new broker has to serve; else the rollout halts and goes back.
    #[serde(default = "ready_timeout_sec")]
    #[schemars(range(min = 5, max = 3600))]
    pub ready_timeout_sec: i32,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self { drain_timeout_sec: drain_timeout_sec(), ready_timeout_sec: ready_timeout_sec() }
    }
}

fn drain_timeout_sec() -> i32 {
    60
}

fn ready_timeout_sec() -> i32 {
    300
}

/// What the operator knows of a cluster.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct KafscaleClusterStatus {
    /// Ready, and what stands in the way.
    #[serde(default)]
    #[schemars(schema_with = "super::status::conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The generation of the resource that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Broker pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// Brokers that serve.
    #[serde(default)]
    pub ready_replicas: i32,
    /// `serving/wanted`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brokers_ready: Option<String>,
    /// Label selector of the broker pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Version that all brokers have; none while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where clients inside of Kubernetes begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_servers: Option<String>,
    /// Topics of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_count: Option<i64>,
    /// The brokers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub brokers: Vec<BrokerStatus>,
    /// Etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdStatus>,
    /// Replacement of brokers, while there is one and when it has halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

impl Conditions for KafscaleClusterStatus {
    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

/// One broker.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct BrokerStatus {
    /// Kafka node id.
    pub id: i32,
    /// Its pod.
    pub pod: String,
    /// Whether its pod is ready and it says that it serves.
    pub ready: bool,
    /// What it says it does: Serving, Draining, Drained, InDoubt, Stopping; Unknown if it does not answer.
    pub state: String,
    /// Version of its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
}

/// Etcd of a cluster.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EtcdStatus {
    /// Where the endpoints come from: Spec, Operator or Managed.
    pub mode: String,
    /// They.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub endpoints: Vec<String>,
    /// Time of the last snapshot that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_snapshot: Option<String>,
}

/// A replacement of brokers.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Hash of the pods' template that is rolled out.
    pub target: String,
    /// Hash of the last template that all brokers served with: what a failed rollout goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// Pod that is being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Draining, Replacing, Starting, Waiting or Halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}
