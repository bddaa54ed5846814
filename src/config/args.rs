//! What can be set: one struct per component, one doc line and one default per field.
//!
//! Every field is text here; [`super::validate`] gives it its type and bounds, so that all errors are reported at once
//! and not one per start. A field whose environment value is hidden from `--help` is a secret and is redacted
//! everywhere else too. `docs/configuration.md` is generated from these structs.

use super::telemetry::TelemetryArgs;
use clap::Args;

/// Settings that `dev` and `broker` share.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Host that clients are told to connect to; `{ordinal}` in it stands for the broker's id. Default: the host of
    /// KAFSCALE_BROKER_ADDR, or the machine's name if that is a wildcard.
    #[arg(long, env = "KAFSCALE_BROKER_HOST", value_name = "HOST")]
    pub broker_host: Option<String>,
    /// Port that clients are told to connect to; default: the port of KAFSCALE_BROKER_ADDR.
    #[arg(long, env = "KAFSCALE_BROKER_PORT", value_name = "PORT")]
    pub broker_port: Option<String>,
    /// Kafka node id of this broker; default: the ordinal at the end of POD_NAME (broker only), else 0.
    #[arg(long, env = "KAFSCALE_BROKER_ID", value_name = "NUMBER")]
    pub broker_id: Option<String>,
    /// Rack or zone of this broker, told to clients for rack-aware reads; with KAFSCALE_S3_READ_BUCKET it serves its rack's consumers with what other brokers lead.
    #[arg(long, env = "KAFSCALE_BROKER_RACK", value_name = "NAME")]
    pub broker_rack: Option<String>,
    /// Prefix of all object keys, and the cluster's name in the metadata store.
    #[arg(long, env = "KAFSCALE_S3_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub s3_namespace: String,
    /// Size in bytes at which an open segment is flushed (1024 to 536870912).
    #[arg(long, env = "KAFSCALE_SEGMENT_BYTES", default_value = "4194304", value_name = "BYTES")]
    pub segment_bytes: String,
    /// Age in milliseconds at which an open segment is flushed; also bounds the rate of PUTs, second sendings at 100 or less
    /// included (1 to 60000).
    #[arg(long, env = "KAFSCALE_FLUSH_INTERVAL_MS", default_value = "500", value_name = "MS")]
    pub flush_interval_ms: String,
    /// Size in bytes of the cache of segment blocks (1048576 to 1099511627776).
    #[arg(long, env = "KAFSCALE_CACHE_BYTES", default_value = "268435456", value_name = "BYTES")]
    pub cache_bytes: String,
    /// Segments that are read ahead of a consumer that reads in order (0 to 64).
    #[arg(long, env = "KAFSCALE_READAHEAD_SEGMENTS", default_value = "2", value_name = "NUMBER")]
    pub readahead_segments: String,
    /// Create a topic when a client asks for one that does not exist.
    #[arg(long, env = "KAFSCALE_AUTO_CREATE_TOPICS", default_value = "true", value_name = "BOOL")]
    pub auto_create_topics: String,
    /// Partitions of topics that are created without a count (1 to 10000).
    #[arg(long, env = "KAFSCALE_AUTO_CREATE_PARTITIONS", default_value = "1", value_name = "NUMBER")]
    pub auto_create_partitions: String,
    /// Largest record batch that topics accept, bytes; Kafka's message.max.bytes; default: 1048588.
    #[arg(long, env = "KAFSCALE_MESSAGE_MAX_BYTES", value_name = "BYTES")]
    pub message_max_bytes: Option<String>,
    /// Age in milliseconds at which topics delete records, -1 for never; Kafka's log.retention.ms; default: 604800000 (a week).
    #[arg(long, env = "KAFSCALE_LOG_RETENTION_MS", value_name = "MS", allow_hyphen_values = true)]
    pub log_retention_ms: Option<String>,
    /// The same in minutes, if KAFSCALE_LOG_RETENTION_MS is not set.
    #[arg(long, env = "KAFSCALE_LOG_RETENTION_MINUTES", value_name = "MINUTES", allow_hyphen_values = true)]
    pub log_retention_minutes: Option<String>,
    /// The same in hours, if neither milliseconds nor minutes are set.
    #[arg(long, env = "KAFSCALE_LOG_RETENTION_HOURS", value_name = "HOURS", allow_hyphen_values = true)]
    pub log_retention_hours: Option<String>,
    /// Size of a partition in bytes above which topics delete records, -1 for no limit; Kafka's log.retention.bytes; default: -1.
    #[arg(long, env = "KAFSCALE_LOG_RETENTION_BYTES", value_name = "BYTES", allow_hyphen_values = true)]
    pub log_retention_bytes: Option<String>,
    /// What topics do with old records: delete, compact, or both with a comma; Kafka's log.cleanup.policy; default: delete.
    #[arg(long, env = "KAFSCALE_LOG_CLEANUP_POLICY", value_name = "LIST")]
    pub log_cleanup_policy: Option<String>,
    /// Whose time records of topics carry: CreateTime or LogAppendTime; Kafka's log.message.timestamp.type; default: CreateTime.
    #[arg(long, env = "KAFSCALE_LOG_MESSAGE_TIMESTAMP_TYPE", value_name = "TYPE")]
    pub log_message_timestamp_type: Option<String>,
    /// How far in the past a producer's timestamp may lie, ms; Kafka's log.message.timestamp.before.max.ms; default: no limit.
    #[arg(long, env = "KAFSCALE_LOG_MESSAGE_TIMESTAMP_BEFORE_MAX_MS", value_name = "MS")]
    pub log_message_timestamp_before_max_ms: Option<String>,
    /// How far in the future a producer's timestamp may lie, ms; Kafka's log.message.timestamp.after.max.ms; default: 3600000 (an hour).
    #[arg(long, env = "KAFSCALE_LOG_MESSAGE_TIMESTAMP_AFTER_MAX_MS", value_name = "MS")]
    pub log_message_timestamp_after_max_ms: Option<String>,
    /// Shortest session timeout in milliseconds that a consumer may ask for (1 to 86400000).
    #[arg(long, env = "KAFSCALE_GROUP_MIN_SESSION_TIMEOUT_MS", default_value = "6000", value_name = "MS")]
    pub group_min_session_timeout_ms: String,
    /// Longest session timeout in milliseconds that a consumer may ask for (1 to 86400000).
    #[arg(long, env = "KAFSCALE_GROUP_MAX_SESSION_TIMEOUT_MS", default_value = "1800000", value_name = "MS")]
    pub group_max_session_timeout_ms: String,
    /// Milliseconds that the first rebalance of an empty group waits for more members (0 to 600000).
    #[arg(long, env = "KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", default_value = "3000", value_name = "MS")]
    pub group_initial_rebalance_delay_ms: String,
    /// Most members of a consumer group (1 to 2147483647).
    #[arg(long, env = "KAFSCALE_GROUP_MAX_SIZE", default_value = "2147483647", value_name = "NUMBER")]
    pub group_max_size: String,
    /// How long a member of the consumer protocol may be silent, in milliseconds (1 to 86400000).
    #[arg(long, env = "KAFSCALE_GROUP_CONSUMER_SESSION_TIMEOUT_MS", default_value = "45000", value_name = "MS")]
    pub group_consumer_session_timeout_ms: String,
    /// Least value of the session timeout of the consumer protocol, in milliseconds (1 to 86400000).
    #[arg(long, env = "KAFSCALE_GROUP_CONSUMER_MIN_SESSION_TIMEOUT_MS", default_value = "45000", value_name = "MS")]
    pub group_consumer_min_session_timeout_ms: String,
    /// Greatest value of the session timeout of the consumer protocol, in milliseconds (1 to 86400000).
    #[arg(long, env = "KAFSCALE_GROUP_CONSUMER_MAX_SESSION_TIMEOUT_MS", default_value = "60000", value_name = "MS")]
    pub group_consumer_max_session_timeout_ms: String,
    /// How often members of the consumer protocol send heartbeats, in milliseconds (1 to 86400000).
    #[arg(long, env = "KAFSCALE_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", default_value = "5000", value_name = "MS")]
    pub group_consumer_heartbeat_interval_ms: String,
    /// Least value of the heartbeat interval of the consumer protocol, in milliseconds (1 to 86400000).
    #[arg(long, env = "KAFSCALE_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS", default_value = "5000", value_name = "MS")]
    pub group_consumer_min_heartbeat_interval_ms: String,
    /// Greatest value of the heartbeat interval of the consumer protocol, in milliseconds (1 to 86400000).
    #[arg(long, env = "KAFSCALE_GROUP_CONSUMER_MAX_HEARTBEAT_INTERVAL_MS", default_value = "15000", value_name = "MS")]
    pub group_consumer_max_heartbeat_interval_ms: String,
    /// Most members of a group of the consumer protocol (1 to 2147483647).
    #[arg(long, env = "KAFSCALE_GROUP_CONSUMER_MAX_SIZE", default_value = "2147483647", value_name = "NUMBER")]
    pub group_consumer_max_size: String,
    /// Assignors of the consumer protocol with commas between them, the default one first: uniform, range.
    #[arg(long, env = "KAFSCALE_GROUP_CONSUMER_ASSIGNORS", default_value = "uniform,range", value_name = "LIST")]
    pub group_consumer_assignors: String,
    /// Which groups change their protocol while they have members: disabled, upgrade (to consumer), downgrade, bidirectional.
    #[arg(
        long,
        env = "KAFSCALE_GROUP_CONSUMER_MIGRATION_POLICY",
        default_value = "bidirectional",
        value_name = "POLICY"
    )]
    pub group_consumer_migration_policy: String,
    /// Minutes after which the offsets of a group without members are forgotten (1 to 2147483647).
    #[arg(long, env = "KAFSCALE_OFFSETS_RETENTION_MINUTES", default_value = "10080", value_name = "MINUTES")]
    pub offsets_retention_minutes: String,
    /// Longest metadata string in bytes that a consumer may commit with an offset (0 to 16384).
    #[arg(long, env = "KAFSCALE_OFFSET_METADATA_MAX_BYTES", default_value = "4096", value_name = "BYTES")]
    pub offset_metadata_max_bytes: String,
    /// Least severe level that is logged: trace, debug, info, warn or error.
    #[arg(long, env = "KAFSCALE_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// Seconds without a sign of life after which other brokers take over what this one has (2 to 300).
    #[arg(long, env = "KAFSCALE_BROKER_LEASE_SEC", default_value = "10", value_name = "SECONDS")]
    pub broker_lease_sec: String,
    /// Seconds after which a start that cannot reach its stores is given up (1 to 3600).
    #[arg(long, env = "KAFSCALE_STARTUP_TIMEOUT_SEC", default_value = "30", value_name = "SECONDS")]
    pub startup_timeout_sec: String,
    /// Let sampled Produce requests link to the traces that their records name: of the first record of each batch that is not
    /// compressed, the header `traceparent` is read. Headers are never changed.
    #[arg(long, env = "KAFSCALE_TRACE_PEEK_HEADERS", default_value = "false", value_name = "BOOL")]
    pub trace_peek_headers: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub telemetry: TelemetryArgs,
}

/// Where etcd is and how to talk to it.
#[derive(Debug, Clone, Args)]
pub struct EtcdArgs {
    /// Etcd endpoints for metadata and offsets, comma-separated, each host:port, http://host:port or https://host:port; required.
    #[arg(long, env = "KAFSCALE_ETCD_ENDPOINTS", value_name = "LIST")]
    pub etcd_endpoints: Option<String>,
    /// User name for etcd's basic authentication.
    #[arg(long, env = "KAFSCALE_ETCD_USERNAME", value_name = "NAME")]
    pub etcd_username: Option<String>,
    /// Password for etcd's basic authentication.
    #[arg(long, env = "KAFSCALE_ETCD_PASSWORD", value_name = "SECRET", hide_env_values = true)]
    pub etcd_password: Option<String>,
    /// PEM file with the certificates that sign those of etcd, trusted besides the system's; for https:// endpoints.
    #[arg(long, env = "KAFSCALE_ETCD_CA_FILE", value_name = "PATH")]
    pub etcd_ca_file: Option<String>,
    /// PEM file with this broker's certificate for etcd, and those between it and its root; goes with KAFSCALE_ETCD_KEY_FILE.
    #[arg(long, env = "KAFSCALE_ETCD_CERT_FILE", value_name = "PATH")]
    pub etcd_cert_file: Option<String>,
    /// PEM file with the private key of KAFSCALE_ETCD_CERT_FILE.
    #[arg(long, env = "KAFSCALE_ETCD_KEY_FILE", value_name = "PATH")]
    pub etcd_key_file: Option<String>,
}

/// Settings of `kafscale dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Kafka listener address (host:port; port 0 takes any free one).
    #[arg(long, env = "KAFSCALE_BROKER_ADDR", default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub broker_addr: String,
    /// Listen address of /metrics, /livez and /readyz (host:port; port 0 takes any free one).
    #[arg(long, env = "KAFSCALE_METRICS_ADDR", default_value = "127.0.0.1:9093", value_name = "HOST:PORT")]
    pub metrics_addr: String,
    /// Listen address of the gRPC control plane (host:port; port 0 takes any free one), or off; see docs/control.md.
    #[arg(long, env = "KAFSCALE_CONTROL_ADDR", default_value = "off", value_name = "HOST:PORT")]
    pub control_addr: String,
    /// Folder that holds everything: objects and metadata.
    #[arg(long, env = "KAFSCALE_DATA_DIR", default_value = "./.kafscale", value_name = "PATH")]
    pub data_dir: String,
    /// Listen address of the web console (host:port; port 0 takes any free one), or off; see docs/console.md.
    #[arg(long, env = "KAFSCALE_CONSOLE_HTTP_ADDR", default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    pub console_http_addr: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub ui: super::console::UiArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: CommonArgs,
}

/// Settings of `kafscale broker`.
#[derive(Debug, Clone, Args)]
pub struct BrokerArgs {
    /// Kafka listener address (host:port; port 0 takes any free one).
    #[arg(long, env = "KAFSCALE_BROKER_ADDR", default_value = "0.0.0.0:9092", value_name = "HOST:PORT")]
    pub broker_addr: String,
    /// Listen address of /metrics, /livez and /readyz (host:port; port 0 takes any free one).
    #[arg(long, env = "KAFSCALE_METRICS_ADDR", default_value = "0.0.0.0:9093", value_name = "HOST:PORT")]
    pub metrics_addr: String,
    /// Listen address of the gRPC control plane (host:port; port 0 takes any free one), or off; plain text and for everybody who
    /// reaches it, see docs/control.md.
    #[arg(long, env = "KAFSCALE_CONTROL_ADDR", default_value = "0.0.0.0:9094", value_name = "HOST:PORT")]
    pub control_addr: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub etcd: EtcdArgs,
    /// S3 bucket for segments; required unless KAFSCALE_USE_MEMORY_S3 is true.
    #[arg(long, env = "KAFSCALE_S3_BUCKET", value_name = "NAME")]
    pub s3_bucket: Option<String>,
    /// S3 region; required unless KAFSCALE_USE_MEMORY_S3 is true.
    #[arg(long, env = "KAFSCALE_S3_REGION", value_name = "NAME")]
    pub s3_region: Option<String>,
    /// URL of an S3-compatible server; default: AWS in the region.
    #[arg(long, env = "KAFSCALE_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Bucket that holds a copy of KAFSCALE_S3_BUCKET near this broker: consumers are served from it where it has what they want.
    #[arg(long, env = "KAFSCALE_S3_READ_BUCKET", value_name = "NAME")]
    pub s3_read_bucket: Option<String>,
    /// Region of KAFSCALE_S3_READ_BUCKET; default: KAFSCALE_S3_REGION.
    #[arg(long, env = "KAFSCALE_S3_READ_REGION", value_name = "NAME")]
    pub s3_read_region: Option<String>,
    /// URL of the S3-compatible server of KAFSCALE_S3_READ_BUCKET; default: KAFSCALE_S3_ENDPOINT.
    #[arg(long, env = "KAFSCALE_S3_READ_ENDPOINT", value_name = "URL")]
    pub s3_read_endpoint: Option<String>,
    /// Put the bucket into the path of requests instead of the host name; for the read bucket too.
    #[arg(long, env = "KAFSCALE_S3_PATH_STYLE", default_value = "false", value_name = "BOOL")]
    pub s3_path_style: String,
    /// ARN of the KMS key that encrypts objects (SSE-KMS); default: what the bucket says.
    #[arg(long, env = "KAFSCALE_S3_KMS_ARN", value_name = "ARN")]
    pub s3_kms_arn: Option<String>,
    /// S3 access key; without it credentials come from the AWS SDK's default chain.
    #[arg(long, env = "KAFSCALE_S3_ACCESS_KEY", value_name = "SECRET", hide_env_values = true)]
    pub s3_access_key: Option<String>,
    /// S3 secret key; goes with KAFSCALE_S3_ACCESS_KEY.
    #[arg(long, env = "KAFSCALE_S3_SECRET_KEY", value_name = "SECRET", hide_env_values = true)]
    pub s3_secret_key: Option<String>,
    /// S3 session token of temporary credentials; goes with KAFSCALE_S3_ACCESS_KEY.
    #[arg(long, env = "KAFSCALE_S3_SESSION_TOKEN", value_name = "SECRET", hide_env_values = true)]
    pub s3_session_token: Option<String>,
    /// Seconds over which requests to S3 are judged (5 to 3600).
    #[arg(long, env = "KAFSCALE_S3_HEALTH_WINDOW_SEC", default_value = "30", value_name = "SECONDS")]
    pub s3_health_window_sec: String,
    /// Milliseconds, as the 90th percentile of PUTs, from which producers are throttled (0 for never, to 600000).
    #[arg(long, env = "KAFSCALE_S3_LATENCY_WARN_MS", default_value = "1000", value_name = "MS")]
    pub s3_latency_warn_ms: String,
    /// Milliseconds, as the 90th percentile of PUTs, from which new batches are refused until PUTs are quicker (0 for never, to 600000).
    #[arg(long, env = "KAFSCALE_S3_LATENCY_CRIT_MS", default_value = "5000", value_name = "MS")]
    pub s3_latency_crit_ms: String,
    /// Share of failed requests, of PUTs or of GETs, from which producers are throttled (0 for never, to 1).
    #[arg(long, env = "KAFSCALE_S3_ERROR_RATE_WARN", default_value = "0.1", value_name = "SHARE")]
    pub s3_error_rate_warn: String,
    /// Share of failed PUTs from which new batches are refused until PUTs succeed (0 for never, to 1).
    #[arg(long, env = "KAFSCALE_S3_ERROR_RATE_CRIT", default_value = "0.5", value_name = "SHARE")]
    pub s3_error_rate_crit: String,
    /// Keep objects in memory instead of S3: everything is lost when the process ends. For tries only.
    #[arg(long, env = "KAFSCALE_USE_MEMORY_S3", default_value = "false", value_name = "BOOL")]
    pub use_memory_s3: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: CommonArgs,
}

/// Variables of the operations guide that later versions implement: known, but a process that is given one says that
/// it has no effect.
pub const PLANNED: &[(&str, &str)] = &[
    ("KAFSCALE_TRACE_KAFKA", "Protocol tracing."),
    ("KAFSCALE_THROUGHPUT_WINDOW_SEC", "Throughput window in seconds."),
];
