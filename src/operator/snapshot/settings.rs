//! How a cluster's snapshots are taken, with the operator's defaults where the resource is silent. Pure.

use super::super::view::{ClusterView, EtcdMode};
use std::time::Duration;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotSettings {
    /// Bucket.
    pub bucket: String,
    /// Prefix of this cluster's snapshots, without slash at its end.
    pub prefix: String,
    /// Region.
    pub region: String,
    /// URL of the S3 server; `None` is AWS.
    pub endpoint: Option<String>,
    /// Bucket in the path of requests.
    pub path_style: bool,
    /// KMS key that encrypts objects.
    pub kms_key_arn: Option<String>,
    /// Secret with the credentials.
    pub secret: Option<String>,
    /// Cron's five fields.
    pub schedule: String,
    /// Age from which the last snapshot is too old.
    pub stale_after: Duration,
    /// Days for which they are kept.
    pub retention_days: i32,
    /// Make the bucket.
    pub create_bucket: bool,
    /// Versions and no public access.
    pub protect_bucket: bool,
    /// Do not try to write first.
    pub skip_preflight: bool,
}

impl SnapshotSettings {
    /// Of a cluster; `None` if no snapshots are to be taken of it.
    pub fn of(view: &ClusterView<'_>) -> Option<Self> {
        let spec = &view.resource.spec;
        let own = spec.etcd.managed.clone().unwrap_or_default().snapshot;
        if view.etcd_mode() != EtcdMode::Managed || !own.enabled {
            return None;
        }
        let defaults = &view.defaults.snapshot;
        let bucket = own.bucket.or_else(|| defaults.bucket.clone()).unwrap_or_else(|| spec.s3.bucket.clone());
        let prefix = own.prefix.unwrap_or_else(|| defaults.prefix.clone());
        let endpoint = own.s3_endpoint.or_else(|| defaults.s3_endpoint.clone()).or_else(|| spec.s3.endpoint.clone());
        let stale_after_sec = own.stale_after_sec.and_then(|sec| u64::try_from(sec).ok());
        Some(Self {
            // A key of the cluster's bucket need not exist where another one is.
            kms_key_arn: spec.s3.kms_key_arn.clone().filter(|_| bucket == spec.s3.bucket),
            bucket,
            prefix: format!("{prefix}/{}/{}", view.namespace(), view.name()),
            region: spec.s3.region.clone(),
            path_style: spec.s3.path_style.unwrap_or(endpoint.is_some()),
            endpoint,
            secret: spec.s3.credentials_secret_ref.clone(),
            schedule: own.schedule.unwrap_or_else(|| defaults.schedule.clone()),
            stale_after: stale_after_sec.map_or(defaults.stale_after, Duration::from_secs),
            retention_days: own.retention_days.max(7),
            create_bucket: own.create_bucket.unwrap_or(defaults.create_bucket),
            protect_bucket: own.protect_bucket.unwrap_or(defaults.protect_bucket),
            skip_preflight: own.skip_preflight.unwrap_or(defaults.skip_preflight),
        })
    }

    /// Key of the object that the operator writes to see whether it can.
    pub fn preflight_key(&self) -> String {
        format!("{}/.preflight", self.prefix)
    }
}
