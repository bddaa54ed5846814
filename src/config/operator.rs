//! Configuration of `kafscale operator`: what clusters get that do not say otherwise, and where the operator listens.

use super::telemetry::{self, TelemetryArgs, TelemetryConfig};
use super::{Component, Environment, Report, values};
use clap::{ArgMatches, Args};
use std::net::SocketAddr;
use std::time::Duration;
use tracing::Level;

/// Settings of `kafscale operator`.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// Etcd endpoints of clusters that name none, comma-separated; unset: the operator runs etcd for them.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_ENDPOINTS", value_name = "LIST")]
    pub operator_etcd_endpoints: Option<String>,
    /// Image of managed etcd.
    #[arg(
        long,
        env = "KAFSCALE_OPERATOR_ETCD_IMAGE",
        default_value = "quay.io/coreos/etcd:v3.5.12",
        value_name = "IMAGE"
    )]
    pub operator_etcd_image: String,
    /// Volume size of a member of managed etcd.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_STORAGE_SIZE", default_value = "10Gi", value_name = "QUANTITY")]
    pub operator_etcd_storage_size: String,
    /// Storage class of the volumes of managed etcd; default: that of Kubernetes.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_STORAGE_CLASS", value_name = "NAME")]
    pub operator_etcd_storage_class: Option<String>,
    /// Bucket of etcd snapshots; default: the cluster's bucket.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUCKET", value_name = "NAME")]
    pub operator_etcd_snapshot_bucket: Option<String>,
    /// Prefix of etcd snapshots.
    #[arg(
        long,
        env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PREFIX",
        default_value = "etcd-snapshots",
        value_name = "PREFIX"
    )]
    pub operator_etcd_snapshot_prefix: String,
    /// When etcd snapshots are taken, in cron's five fields.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SCHEDULE", default_value = "0 * * * *", value_name = "CRON")]
    pub operator_etcd_snapshot_schedule: String,
    /// Image with etcdctl that takes snapshots.
    #[arg(
        long,
        env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_ETCDCTL_IMAGE",
        default_value = "quay.io/coreos/etcd:v3.5.12",
        value_name = "IMAGE"
    )]
    pub operator_etcd_snapshot_etcdctl_image: String,
    /// Image with the AWS command line that uploads snapshots.
    #[arg(
        long,
        env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_IMAGE",
        default_value = "amazon/aws-cli:2.15.0",
        value_name = "IMAGE"
    )]
    pub operator_etcd_snapshot_image: String,
    /// URL of the S3 server of etcd snapshots; default: that of the cluster.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_S3_ENDPOINT", value_name = "URL")]
    pub operator_etcd_snapshot_s3_endpoint: Option<String>,
    /// Seconds after which the last etcd snapshot is too old (60 to 31536000).
    #[arg(
        long,
        env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_STALE_AFTER_SEC",
        default_value = "7200",
        value_name = "SECONDS"
    )]
    pub operator_etcd_snapshot_stale_after_sec: String,
    /// Make the bucket of etcd snapshots if it is not there.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_CREATE_BUCKET", default_value = "false", value_name = "BOOL")]
    pub operator_etcd_snapshot_create_bucket: String,
    /// Turn on versions and block public access of the bucket of etcd snapshots.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PROTECT_BUCKET", default_value = "false", value_name = "BOOL")]
    pub operator_etcd_snapshot_protect_bucket: String,
    /// Do not try whether the bucket of etcd snapshots can be written.
    #[arg(long, env = "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SKIP_PREFLIGHT", default_value = "false", value_name = "BOOL")]
    pub operator_etcd_snapshot_skip_preflight: String,
    /// Id of the leader election among operators: a key in etcd if KAFSCALE_OPERATOR_ETCD_ENDPOINTS is set, else a Lease.
    #[arg(long, env = "KAFSCALE_OPERATOR_LEADER_KEY", default_value = "kafscale-operator", value_name = "NAME")]
    pub operator_leader_key: String,
    /// Prefix of object keys of clusters that name none; default: the namespace of the resource.
    #[arg(long, env = "KAFSCALE_S3_NAMESPACE", value_name = "NAME")]
    pub s3_namespace: Option<String>,
    /// Bytes at which brokers flush a segment, where the resource does not say (1024 to 536870912).
    #[arg(long, env = "KAFSCALE_SEGMENT_BYTES", default_value = "4194304", value_name = "BYTES")]
    pub segment_bytes: String,
    /// Milliseconds after which brokers flush a segment, where the resource does not say (1 to 60000).
    #[arg(long, env = "KAFSCALE_FLUSH_INTERVAL_MS", default_value = "500", value_name = "MS")]
    pub flush_interval_ms: String,
    /// Image of brokers.
    #[arg(
        long,
        env = "KAFSCALE_OPERATOR_BROKER_IMAGE",
        default_value = concat!("ghcr.io/kafscale/kafscale:v", env!("CARGO_PKG_VERSION")),
        value_name = "IMAGE"
    )]
    pub operator_broker_image: String,
    /// When nodes pull the image of brokers: Always, IfNotPresent or Never.
    #[arg(
        long,
        env = "KAFSCALE_OPERATOR_BROKER_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent",
        value_name = "POLICY"
    )]
    pub operator_broker_image_pull_policy: String,
    /// Pull secrets of brokers whose cluster names none, comma-separated; they have to be in the namespace of the cluster.
    #[arg(long, env = "KAFSCALE_OPERATOR_BROKER_IMAGE_PULL_SECRETS", value_name = "LIST")]
    pub operator_broker_image_pull_secrets: Option<String>,
    /// Namespace of the operator itself; default: the one of its service account, else `default`.
    #[arg(long, env = "KAFSCALE_OPERATOR_NAMESPACE", value_name = "NAME")]
    pub operator_namespace: Option<String>,
    /// Namespaces whose resources are looked after, comma-separated, or `*` for all; default: KAFSCALE_OPERATOR_NAMESPACE.
    #[arg(long, env = "KAFSCALE_OPERATOR_WATCH_NAMESPACES", value_name = "LIST")]
    pub operator_watch_namespaces: Option<String>,
    /// Name of this operator in the leader election; default: the machine's name.
    #[arg(long, env = "KAFSCALE_OPERATOR_POD_NAME", value_name = "NAME")]
    pub operator_pod_name: Option<String>,
    /// Listen address of /metrics, /livez and /readyz (host:port; port 0 takes any free one).
    #[arg(long, env = "KAFSCALE_OPERATOR_METRICS_ADDR", default_value = "0.0.0.0:8080", value_name = "HOST:PORT")]
    pub operator_metrics_addr: String,
    /// Least severe level that is logged: trace, debug, info, warn or error.
    #[arg(long, env = "KAFSCALE_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: TelemetryArgs,
}

/// Whose resources are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// Those of all namespaces.
    All,
    /// Those of these; at least one.
    Namespaces(Vec<String>),
}

/// What managed etcd is made of, where a cluster does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdDefaults {
    /// Image.
    pub image: String,
    /// Volume size, a quantity.
    pub storage_size: String,
    /// Storage class.
    pub storage_class: Option<String>,
}

/// How managed etcd is backed up, where a cluster does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDefaults {
    /// Bucket; `None`: the cluster's.
    pub bucket: Option<String>,
    /// Prefix of the objects, without slashes at its ends.
    pub prefix: String,
    /// Cron's five fields.
    pub schedule: String,
    /// Image with etcdctl.
    pub etcdctl_image: String,
    /// Image with the AWS command line.
    pub image: String,
    /// URL of the S3 server; `None`: the cluster's.
    pub s3_endpoint: Option<String>,
    /// Age from which the last snapshot is too old.
    pub stale_after: Duration,
    /// Make the bucket.
    pub create_bucket: bool,
    /// Versions and no public access.
    pub protect_bucket: bool,
    /// Do not try to write first.
    pub skip_preflight: bool,
}

/// Everything the operator needs to know, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorConfig {
    /// Etcd endpoints of clusters that name none; empty: managed etcd.
    pub etcd_endpoints: Vec<String>,
    /// Managed etcd.
    pub etcd: EtcdDefaults,
    /// Its snapshots.
    pub snapshot: SnapshotDefaults,
    /// Id of the leader election.
    pub leader_key: String,
    /// Prefix of object keys of clusters that name none; `None`: the namespace of the resource.
    pub s3_namespace: Option<String>,
    /// Flush threshold in bytes of brokers.
    pub segment_bytes: u64,
    /// Flush interval of brokers.
    pub flush_interval: Duration,
    /// Image of brokers.
    pub broker_image: String,
    /// Its pull policy.
    pub broker_image_pull_policy: String,
    /// Pull secrets of brokers whose cluster names none.
    pub broker_image_pull_secrets: Vec<String>,
    /// Namespace of the operator; `None`: the one of its service account.
    pub namespace: Option<String>,
    /// Whose resources are looked after; `None`: those of its own namespace.
    pub watched: Option<Watched>,
    /// Name of this operator in the leader election.
    pub identity: String,
    /// Listener of `/metrics`, `/livez`, `/readyz`.
    pub metrics_addr: SocketAddr,
    /// Least severe level to log.
    pub log_level: Level,
    /// Traces.
    pub telemetry: TelemetryConfig,
}

/// Checks the parsed arguments of the operator and the names in `environment`.
pub fn resolve(matches: &ArgMatches, environment: &Environment) -> Report<OperatorConfig> {
    super::report(Component::Operator, matches, environment, |check| {
        let args: OperatorArgs = super::parsed(matches);
        let etcd_endpoints =
            check.parse_optional("KAFSCALE_OPERATOR_ETCD_ENDPOINTS", &args.operator_etcd_endpoints, values::endpoints);
        let storage_size =
            check.parse("KAFSCALE_OPERATOR_ETCD_STORAGE_SIZE", &args.operator_etcd_storage_size, values::quantity);
        let bucket = check.parse_optional(
            "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUCKET",
            &args.operator_etcd_snapshot_bucket,
            values::bucket,
        );
        let prefix = check.parse(
            "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PREFIX",
            &args.operator_etcd_snapshot_prefix,
            values::object_prefix,
        );
        let schedule = check.parse(
            "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SCHEDULE",
            &args.operator_etcd_snapshot_schedule,
            values::cron,
        );
        let s3_endpoint = check.parse_optional(
            "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_S3_ENDPOINT",
            &args.operator_etcd_snapshot_s3_endpoint,
            values::url,
        );
        let stale_after_sec = check.parse(
            "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_STALE_AFTER_SEC",
            &args.operator_etcd_snapshot_stale_after_sec,
            |t| values::number(t, 60..=31_536_000),
        );
        let mut truth = |name, text: &str| check.parse(name, text, values::boolean);
        let create_bucket =
            truth("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_CREATE_BUCKET", &args.operator_etcd_snapshot_create_bucket);
        let protect_bucket =
            truth("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PROTECT_BUCKET", &args.operator_etcd_snapshot_protect_bucket);
        let skip_preflight =
            truth("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SKIP_PREFLIGHT", &args.operator_etcd_snapshot_skip_preflight);
        let leader_key =
            check.parse("KAFSCALE_OPERATOR_LEADER_KEY", &args.operator_leader_key, values::kubernetes_name);
        let s3_namespace = check.parse_optional("KAFSCALE_S3_NAMESPACE", &args.s3_namespace, values::key_part);
        let mut number = |name, text: &str, range| check.parse(name, text, |t| values::number(t, range));
        let segment_bytes = number("KAFSCALE_SEGMENT_BYTES", &args.segment_bytes, 1 << 10..=512 << 20);
        let flush_interval_ms = number("KAFSCALE_FLUSH_INTERVAL_MS", &args.flush_interval_ms, 1..=60_000);
        let pull_policy = check.parse(
            "KAFSCALE_OPERATOR_BROKER_IMAGE_PULL_POLICY",
            &args.operator_broker_image_pull_policy,
            values::pull_policy,
        );
        let pull_secrets = check.parse_optional(
            "KAFSCALE_OPERATOR_BROKER_IMAGE_PULL_SECRETS",
            &args.operator_broker_image_pull_secrets,
            names,
        );
        let namespace =
            check.parse_optional("KAFSCALE_OPERATOR_NAMESPACE", &args.operator_namespace, values::kubernetes_name);
        let watched =
            check.parse_optional("KAFSCALE_OPERATOR_WATCH_NAMESPACES", &args.operator_watch_namespaces, watched);
        let identity = match &args.operator_pod_name {
            Some(name) => Some(name.clone()),
            None => values::machine_name().map_err(|reason| check.contradiction(reason)).ok(),
        };
        let metrics_addr =
            check.parse("KAFSCALE_OPERATOR_METRICS_ADDR", &args.operator_metrics_addr, values::listen_address);
        let log_level = check.parse("KAFSCALE_LOG_LEVEL", &args.log_level, values::level);
        let telemetry = telemetry::checked(check, &args.telemetry);
        Some(OperatorConfig {
            etcd_endpoints: etcd_endpoints?.unwrap_or_default(),
            etcd: EtcdDefaults {
                image: args.operator_etcd_image,
                storage_size: storage_size?,
                storage_class: args.operator_etcd_storage_class,
            },
            snapshot: SnapshotDefaults {
                bucket: bucket?,
                prefix: prefix?,
                schedule: schedule?,
                etcdctl_image: args.operator_etcd_snapshot_etcdctl_image,
                image: args.operator_etcd_snapshot_image,
                s3_endpoint: s3_endpoint?,
                stale_after: Duration::from_secs(stale_after_sec?),
                create_bucket: create_bucket?,
                protect_bucket: protect_bucket?,
                skip_preflight: skip_preflight?,
            },
            leader_key: leader_key?,
            s3_namespace: s3_namespace?,
            segment_bytes: segment_bytes?,
            flush_interval: Duration::from_millis(flush_interval_ms?),
            broker_image: args.operator_broker_image,
            broker_image_pull_policy: pull_policy?,
            broker_image_pull_secrets: pull_secrets?.unwrap_or_default(),
            namespace: namespace?,
            watched: watched?,
            identity: identity?,
            metrics_addr: metrics_addr?.0,
            log_level: log_level?,
            telemetry: telemetry?,
        })
    })
}

fn watched(text: &str) -> Result<Watched, String> {
    if text.trim() == "*" {
        return Ok(Watched::All);
    }
    names(text).map(Watched::Namespaces).map_err(|reason| format!("{reason}, * means all"))
}

fn names(text: &str) -> Result<Vec<String>, String> {
    let names = text.split(',').map(|name| values::kubernetes_name(name.trim())).collect::<Result<_, _>>();
    names.map_err(|reason| format!("{reason}; several have commas between them"))
}
