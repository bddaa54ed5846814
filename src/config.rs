//! Configuration: the only module that reads the environment.
//!
//! Settings are environment variables (`KAFSCALE_*`), each also a flag. A start either has a complete, typed
//! [`NodeConfig`] or a list of every error at once; a value is never replaced silently, an unknown `KAFSCALE_*` variable
//! is an error, and one that belongs to another component or to a later version is reported. `cli.rs` calls
//! [`resolve`]; the rest of the program sees only the result.

pub mod args;
pub mod console;
pub mod docs;
mod groups;
pub mod operator;
mod s3;
pub mod telemetry;
mod tls;
mod topic_defaults;
mod validate;
mod values;

use crate::actors::group::limits::CoordinatorLimits;
use crate::actors::s3_health::state::HealthLimits;
use crate::ids::BrokerId;
use crate::protocol::config_defaults::StaticDefault;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tracing::Level;

pub use telemetry::TelemetryConfig;
pub use tls::EtcdTls;
pub use validate::ConfigError;

/// A process that can be configured and started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Component {
    /// Everything in one process with embedded stores.
    Dev,
    /// One broker against S3 and etcd.
    Broker,
    /// The Kubernetes operator.
    Operator,
    /// The web console.
    Console,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dev, Self::Broker, Self::Operator, Self::Console];

    /// The command's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Broker => "broker",
            Self::Operator => "operator",
            Self::Console => "console",
        }
    }

    /// The command with its arguments, for `--help`, the docs and the list of known names.
    pub fn command(self) -> clap::Command {
        let command = clap::Command::new(self.name());
        match self {
            Self::Dev => args::DevArgs::augment_args(command),
            Self::Broker => args::BrokerArgs::augment_args(command),
            Self::Operator => operator::OperatorArgs::augment_args(command),
            Self::Console => console::ConsoleArgs::augment_args(command),
        }
    }
}

/// Text that never appears in logs, errors or `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

const REDACTED: &str = "(redacted)";

/// Where objects are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageConfig {
    /// A directory.
    Local {
        /// The directory; created if missing.
        dir: PathBuf,
    },
    /// An S3-compatible store.
    S3 {
        /// Bucket.
        bucket: String,
        /// Region.
        region: String,
        /// URL of the server, if not AWS.
        endpoint: Option<String>,
        /// A copy of the bucket to read from.
        read: Option<Box<ReadReplica>>,
        /// Bucket in the path instead of the host name.
        path_style: bool,
        /// KMS key for SSE-KMS.
        kms_arn: Option<String>,
        /// Access key; `secret_key` is set if and only if this is. Without it: the SDK's default chain.
        access_key: Option<Secret>,
        /// Secret key.
        secret_key: Option<Secret>,
        /// Session token, only with an access key.
        session_token: Option<Secret>,
    },
    /// This process's memory: nothing survives it.
    Memory,
}

/// A bucket that another one is copied to; path style and credentials are those of the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadReplica {
    /// Bucket.
    pub bucket: String,
    /// Region.
    pub region: String,
    /// URL of the server, if not AWS.
    pub endpoint: Option<String>,
}

/// Where metadata is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataConfig {
    /// A redb file.
    Embedded {
        /// The file; created if missing.
        path: PathBuf,
    },
    /// Etcd.
    Etcd {
        /// `http(s)://host:port` or `host:port`, at least one.
        endpoints: Vec<String>,
        /// User name; `password` is set if and only if this is.
        username: Option<String>,
        /// Password.
        password: Option<Secret>,
        /// Certificates for `https://` endpoints.
        tls: EtcdTls,
    },
}

/// Where the control plane listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlAddr {
    /// Listener; port 0 means any free one.
    pub listen: SocketAddr,
    /// Its host as written.
    pub host: String,
}

/// Everything a broker process needs to know, checked.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Which command runs.
    pub component: Component,
    /// Kafka node id.
    pub broker_id: BrokerId,
    /// Kafka listener; port 0 means any free one.
    pub listen: SocketAddr,
    /// Host that clients are told.
    pub advertised_host: String,
    /// Port that clients are told; 0 means the port that `listen` got (only if `listen` has port 0).
    pub advertised_port: u16,
    /// Rack that clients are told.
    pub rack: Option<String>,
    /// Listener of `/metrics`, `/livez`, `/readyz`.
    pub metrics_addr: SocketAddr,
    /// Listener of the gRPC control plane, if there is one.
    pub control_addr: Option<ControlAddr>,
    /// Prefix of object keys and name of the cluster in the metadata store.
    pub namespace: String,
    /// Object store.
    pub storage: StorageConfig,
    /// When the object store does badly.
    pub s3_health: HealthLimits,
    /// Metadata store.
    pub metadata: MetadataConfig,
    /// Flush threshold in bytes.
    pub segment_bytes: u64,
    /// Flush interval.
    pub flush_interval: Duration,
    /// Block cache size in bytes.
    pub cache_bytes: u64,
    /// Segments read ahead.
    pub readahead_segments: u32,
    /// Create unknown topics on demand.
    pub auto_create_topics: bool,
    /// Partitions of topics created without a count.
    pub auto_create_partitions: i32,
    /// What topics fall back to, as the environment has it.
    pub topic_defaults: Vec<StaticDefault>,
    /// Consumer groups and their offsets.
    pub groups: CoordinatorLimits,
    /// Bound of the start-up gate.
    pub startup_timeout: Duration,
    /// Time without a sign of life after which others take over.
    pub lease_ttl: Duration,
    /// Broker configs for DescribeConfigs (Kafka's or a `kafscale.` name, value), without secrets.
    pub shown: Vec<(String, String)>,
}

impl NodeConfig {
    /// What the place where the cluster's objects are is called.
    pub fn log_dir(&self) -> String {
        match &self.storage {
            StorageConfig::Local { dir } => dir.join(&self.namespace).display().to_string(),
            StorageConfig::S3 { bucket, .. } => format!("s3://{bucket}/{}", self.namespace),
            StorageConfig::Memory => format!("memory:{}", self.namespace),
        }
    }

    /// True if the broker serves consumers of its rack with what other brokers lead.
    pub fn follows(&self) -> bool {
        self.rack.is_some() && matches!(self.storage, StorageConfig::S3 { read: Some(_), .. })
    }
}

/// A checked configuration of a process.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// What the node needs.
    pub node: NodeConfig,
    /// The console beside it.
    pub console: Option<console::UiConfig>,
    /// Least severe level to log.
    pub log_level: Level,
    /// Traces.
    pub telemetry: TelemetryConfig,
}

/// One setting as it takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Variable.
    pub name: String,
    /// Value, secrets redacted; `None` if unset without a default.
    pub value: Option<String>,
    /// `default`, `environment`, `flag`, or what it was derived from.
    pub source: String,
}

/// The outcome of [`resolve`], [`operator::resolve`] and [`console::resolve`].
#[derive(Debug)]
pub struct Report<C = ProcessConfig> {
    /// Every setting of the component.
    pub settings: Vec<Setting>,
    /// What the user should know but what does not stop the start.
    pub warnings: Vec<String>,
    /// The configuration, or every error in it.
    pub outcome: Result<C, Vec<ConfigError>>,
}

/// The environment of a process: names and values, unreadable ones replaced by what can be shown.
pub type Environment = Vec<(String, String)>;

/// This process's environment.
pub fn process_environment() -> Environment {
    std::env::vars_os().map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned())).collect()
}

/// Checks the parsed arguments of `dev` or `broker` and the names in `environment`.
pub fn resolve(component: Component, matches: &ArgMatches, environment: &Environment) -> Report {
    let mut report = report(component, matches, environment, |check| match component {
        Component::Dev => validate::dev(check, &parsed(matches)),
        Component::Broker => validate::broker(check, &parsed(matches), environment),
        Component::Operator | Component::Console => unreachable!("they have configurations of their own"),
    });
    if let Ok(config) = &mut report.outcome {
        config.node.shown = shown(&config.node, &report.settings);
        if let Some(console) = &mut config.console {
            console.shown.clone_from(&report.settings);
        }
    }
    report
}

/// Collects what `checked` and the checks of names find.
fn report<C>(
    component: Component,
    matches: &ArgMatches,
    environment: &Environment,
    checked: impl FnOnce(&mut validate::Check) -> Option<C>,
) -> Report<C> {
    let mut check = validate::Check::default();
    check.names(component, environment);
    check.empties(component, matches);
    let config = checked(&mut check);
    let settings = settings(component, matches, &check.derived);
    let outcome = match config {
        Some(config) if check.errors.is_empty() => Ok(config),
        _ => Err(check.errors),
    };
    Report { settings, warnings: check.warnings, outcome }
}

/// Checks what a command needs to read the metadata of the cluster `namespace`, which it also returns.
pub fn etcd(args: &args::EtcdArgs, namespace: &str) -> Result<(MetadataConfig, String), Vec<ConfigError>> {
    let mut check = validate::Check::default();
    let namespace_name = "KAFSCALE_S3_NAMESPACE";
    let given = [
        (namespace_name, Some(namespace)),
        ("KAFSCALE_ETCD_ENDPOINTS", args.etcd_endpoints.as_deref()),
        ("KAFSCALE_ETCD_CA_FILE", args.etcd_ca_file.as_deref()),
        ("KAFSCALE_ETCD_CERT_FILE", args.etcd_cert_file.as_deref()),
        ("KAFSCALE_ETCD_KEY_FILE", args.etcd_key_file.as_deref()),
    ];
    for (name, _) in given.iter().filter(|(_, value)| value.is_some_and(|value| value.trim().is_empty())) {
        check.errors.push(ConfigError::Empty { name: (*name).to_owned() });
    }
    let metadata = validate::etcd(&mut check, args);
    let namespace = check.parse(namespace_name, namespace, values::key_part);
    match metadata.zip(namespace) {
        Some(found) if check.errors.is_empty() => Ok(found),
        _ => Err(check.errors),
    }
}

fn parsed<A: FromArgMatches>(matches: &ArgMatches) -> A {
    A::from_arg_matches(matches).expect("the matches come from this struct's own command")
}

fn settings(component: Component, matches: &ArgMatches, derived: &[(&'static str, String, String)]) -> Vec<Setting> {
    let command = component.command();
    let described =
        command.get_arguments().filter_map(|arg| Some((arg, arg.get_env()?.to_string_lossy().into_owned())));
    described
        .map(|(arg, name)| {
            if let Some((_, value, source)) = derived.iter().find(|d| d.0 == name) {
                return Setting { name, value: Some(value.clone()), source: source.clone() };
            }
            let value = matches.get_one::<String>(arg.get_id().as_str()).cloned();
            let value = value.map(|v| if arg.is_hide_env_values_set() { REDACTED.to_owned() } else { v });
            let source = match matches.value_source(arg.get_id().as_str()) {
                Some(ValueSource::EnvVariable) => "environment",
                Some(ValueSource::CommandLine) => "flag",
                _ => "default",
            };
            Setting { name, value, source: source.to_owned() }
        })
        .collect()
}

/// Broker configs under Kafka's names where Kafka has one, else under `kafscale.`.
fn shown(node: &NodeConfig, settings: &[Setting]) -> Vec<(String, String)> {
    let mut shown = vec![
        ("broker.id".to_owned(), node.broker_id.to_string()),
        ("node.id".to_owned(), node.broker_id.to_string()),
        ("listeners".to_owned(), format!("PLAINTEXT://{}", node.listen)),
        ("advertised.listeners".to_owned(), format!("PLAINTEXT://{}:{}", node.advertised_host, node.advertised_port)),
        ("auto.create.topics.enable".to_owned(), node.auto_create_topics.to_string()),
        ("num.partitions".to_owned(), node.auto_create_partitions.to_string()),
    ];
    shown.extend(groups::shown(&node.groups));
    shown.extend(node.rack.iter().map(|rack| ("broker.rack".to_owned(), rack.clone())));
    let own = settings.iter().filter_map(|s| Some((s.name.strip_prefix("KAFSCALE_")?, s.value.as_ref()?)));
    // What gives topics their defaults is shown under Kafka's names by whoever knows what is changed at run time.
    let kafkas = |name: &str| {
        let name = name.to_lowercase().replace('_', ".");
        node.topic_defaults.iter().any(|default| default.broker_name == name)
    };
    let own = own.filter(|(name, value)| *value != REDACTED && !kafkas(name));
    shown.extend(
        own.map(|(name, value)| (format!("kafscale.{}", name.to_lowercase().replace('_', ".")), value.clone())),
    );
    shown
}

#[cfg(test)]
mod tests;
