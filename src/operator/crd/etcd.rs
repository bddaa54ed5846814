//! Etcd of a cluster: somebody else's, or managed by the operator with its snapshots.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where metadata is. Without endpoints here and in KAFSCALE_OPERATOR_ETCD_ENDPOINTS the operator runs etcd itself.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.endpoints) && size(self.endpoints) > 0 && has(self.managed))")
        .message("say endpoints (etcd of yours) or managed (etcd of the operator), not both"),
    validation = Rule::new("!has(self.credentialsSecretRef) || (has(self.endpoints) && size(self.endpoints) > 0)")
        .message("credentialsSecretRef goes with endpoints: managed etcd has no users"),
    validation = Rule::new("(has(self.endpoints) && size(self.endpoints) > 0) == (has(oldSelf.endpoints) && size(oldSelf.endpoints) > 0)")
        .message("a cluster does not move from managed etcd to another one or back: metadata would be lost. Make a new cluster, or use `kafscale recover`"),
    validation = Rule::new("(has(self.managed) ? self.managed.replicas : 3) == (has(oldSelf.managed) ? oldSelf.managed.replicas : 3)")
        .message("the number of members of managed etcd is immutable; without `managed` it is 3"),
    validation = Rule::new("(has(self.managed) && has(self.managed.storageClass)) == (has(oldSelf.managed) && has(oldSelf.managed.storageClass))")
        .message("storageClass cannot be set or unset later: volumes do not change their class")
)]
pub struct EtcdSpec {
    /// Endpoints, `http(s)://host:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 512)))]
    #[x_kube(validation = Rule::new("self.all(endpoint, endpoint.matches('^(https?://)?[a-zA-Z0-9._\\\\[\\\\]:-]+:[0-9]+$'))")
        .message("endpoints are http://host:port, https://host:port or host:port"))]
    pub endpoints: Vec<String>,
    /// Secret with KAFSCALE_ETCD_USERNAME and KAFSCALE_ETCD_PASSWORD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub credentials_secret_ref: Option<String>,
    /// Etcd that the operator runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedEtcdSpec>,
}

/// Etcd that the operator runs. Defaults that are not here come from the operator's variables.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ManagedEtcdSpec {
    /// Members: 1, 3 or 5. Immutable.
    #[serde(default = "three")]
    #[x_kube(
        validation = Rule::new("self in [1, 3, 5]").message("etcd has 1, 3 or 5 members: an even number tolerates no more failures"),
        validation = Rule::new("self == oldSelf").message("the number of members of managed etcd is immutable")
    )]
    pub replicas: i32,
    /// Size of a member's volume; default: KAFSCALE_OPERATOR_ETCD_STORAGE_SIZE (10Gi).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+(\\\\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$')").message("a size is a quantity such as 10Gi"))]
    pub storage_size: Option<String>,
    /// Storage class of the volumes; default: KAFSCALE_OPERATOR_ETCD_STORAGE_CLASS, else the cluster's own default. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("storageClass is immutable: volumes do not change their class"))]
    pub storage_class: Option<String>,
    /// Image; default: KAFSCALE_OPERATOR_ETCD_IMAGE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Space quota of the database in bytes (64 MiB to 8 GiB).
    #[serde(default = "quota")]
    #[schemars(range(min = 67_108_864_i64, max = 8_589_934_592_i64))]
    pub quota_bytes: i64,
    /// CPU and memory of a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Backups.
    #[serde(default)]
    pub snapshot: SnapshotSpec,
}

fn three() -> i32 {
    3
}

fn quota() -> i64 {
    4 << 30
}

/// Backups of managed etcd. Defaults that are not here come from the operator's KAFSCALE_OPERATOR_ETCD_SNAPSHOT_* variables.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSpec {
    /// Whether there are any.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Bucket; default: the operator's variable, else the cluster's bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 255))]
    pub bucket: Option<String>,
    /// Prefix of the objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.endsWith('/')").message("a prefix neither begins nor ends with '/'"))]
    pub prefix: Option<String>,
    /// When, in cron's five fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^(@(hourly|daily|weekly|monthly|yearly|annually|midnight)|([^ ]+ +){4}[^ ]+)$')")
        .message("a schedule has cron's five fields, for example '0 * * * *'"))]
    pub schedule: Option<String>,
    /// URL of the S3 server; default: the operator's variable, else that of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^ /]+/?$')").message("an endpoint is http://host:port or https://host"))]
    pub s3_endpoint: Option<String>,
    /// Seconds after which the last snapshot is too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60))]
    pub stale_after_sec: Option<i64>,
    /// Days for which snapshots are kept; at least 7.
    #[serde(default = "two_weeks")]
    #[schemars(range(max = 3650))]
    #[x_kube(validation = Rule::new("self >= 7").message("snapshots are kept for at least 7 days"))]
    pub retention_days: i32,
    /// Make the bucket if it is not there; default: the operator's variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_bucket: Option<bool>,
    /// Turn on versions and block public access of the bucket; default: the operator's variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protect_bucket: Option<bool>,
    /// Do not try to write to the bucket first; default: the operator's variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_preflight: Option<bool>,
}

impl Default for SnapshotSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            bucket: None,
            prefix: None,
            schedule: None,
            s3_endpoint: None,
            stale_after_sec: None,
            retention_days: two_weeks(),
            create_bucket: None,
            protect_bucket: None,
            skip_preflight: None,
        }
    }
}

fn yes() -> bool {
    true
}

fn two_weeks() -> i32 {
    14
}

/// What happens when a cluster is deleted. Objects in S3 always stay.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct DeletionSpec {
    /// Volumes of managed etcd.
    #[serde(default)]
    pub etcd: VolumeDeletion,
}

/// What happens to volumes.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VolumeDeletion {
    /// They stay: a cluster of the same name finds its metadata again.
    #[default]
    Retain,
    /// They are deleted.
    Delete,
}
