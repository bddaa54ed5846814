//! Turns arguments into a [`ProcessConfig`], collecting every error instead of stopping at the first.

use super::args::{BrokerArgs, CommonArgs, DevArgs, EtcdArgs, PLANNED};
use super::{
    Component, ControlAddr, Environment, EtcdTls, MetadataConfig, NodeConfig, ProcessConfig, Secret, StorageConfig,
    TelemetryConfig, console, groups, s3, telemetry, tls, topic_defaults, values,
};
use crate::actors::group::limits::CoordinatorLimits;
use crate::actors::s3_health::state::HealthLimits;
use crate::ids::BrokerId;
use crate::protocol::config_defaults::StaticDefault;
use crate::web::assets;
use crate::{clock, sabotage};
use clap::ArgMatches;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Something wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that cannot be used. Secrets are never part of the message.
    #[error("{name}={value:?} cannot be used: {reason}")]
    Bad {
        /// Variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// A variable is set to nothing.
    #[error("{name} is set but empty: unset it or give it a value")]
    Empty {
        /// Variable.
        name: String,
    },
    /// A required variable is not set.
    #[error("{name} is required: {reason}")]
    Missing {
        /// Variable.
        name: &'static str,
        /// What it is for.
        reason: &'static str,
    },
    /// Variables that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// A `KAFSCALE_*` variable nobody knows.
    #[error("{name} is not a known variable{}", hint(.suggestion))]
    Unknown {
        /// Variable.
        name: String,
        /// The most similar known name.
        suggestion: Option<String>,
    },
    /// A variable of another component.
    #[error("{name} belongs to `kafscale {owner}` and has no effect on `kafscale {component}`: unset it{advice}")]
    Foreign {
        /// Variable.
        name: String,
        /// The component that knows it.
        owner: &'static str,
        /// The component that is started.
        component: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
}

fn hint(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map(|s| format!(": did you mean {s}?")).unwrap_or_default()
}

/// Collects what is found on the way.
#[derive(Debug, Default)]
pub(super) struct Check {
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<String>,
    /// Values that were computed: variable, value, from what.
    pub derived: Vec<(&'static str, String, String)>,
}

impl Check {
    /// Reports variables that this component does not read.
    pub fn names(&mut self, component: Component, environment: &Environment) {
        let own = known_names(component);
        for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("KAFSCALE_")) {
            let switch = sabotage::is_choice(name, value) || clock::is_choice(name) || assets::is_choice(name);
            if own.contains(name) || is_service_link(name, value) || switch {
                continue;
            }
            if PLANNED.iter().any(|(planned, _)| planned == name) {
                self.warnings.push(format!("{name} is not implemented yet and has no effect"));
                continue;
            }
            // What belongs to another component belongs to `dev` too, which is all of them.
            let owners = [Component::Broker, Component::Console, Component::Operator, Component::Dev];
            let owner = owners.into_iter().find(|other| known_names(*other).contains(name));
            self.errors.push(match owner {
                Some(owner) => ConfigError::Foreign {
                    name: name.clone(),
                    owner: owner.name(),
                    component: component.name(),
                    advice: match component {
                        Component::Dev => ", or start `kafscale broker`",
                        Component::Broker | Component::Operator | Component::Console => "",
                    },
                },
                None => ConfigError::Unknown { name: name.clone(), suggestion: most_similar(name) },
            });
        }
    }

    /// Reports settings that are given but empty.
    pub fn empties(&mut self, component: Component, matches: &ArgMatches) {
        for arg in component.command().get_arguments() {
            // OpenTelemetry's own that are set to nothing count as unset, says its specification.
            let Some(name) = arg.get_env().filter(|name| !name.to_string_lossy().starts_with("OTEL_")) else {
                continue;
            };
            if matches.get_one::<String>(arg.get_id().as_str()).is_some_and(|value| value.trim().is_empty()) {
                self.errors.push(ConfigError::Empty { name: name.to_string_lossy().into_owned() });
            }
        }
    }

    pub fn parse<T>(
        &mut self,
        name: &'static str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if text.trim().is_empty() {
            return None; // reported by `empties`
        }
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.errors.push(ConfigError::Bad { name, value: text.to_owned(), reason });
                None
            }
        }
    }

    /// `None` if the value is wrong, `Some(None)` if there is none.
    pub fn parse_optional<T>(
        &mut self,
        name: &'static str,
        text: &Option<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match text {
            None => Some(None),
            Some(text) => self.parse(name, text, parse).map(Some),
        }
    }

    pub fn required<T>(
        &mut self,
        name: &'static str,
        reason: &'static str,
        text: &Option<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match text {
            Some(text) => self.parse(name, text, parse),
            None => {
                self.errors.push(ConfigError::Missing { name, reason });
                None
            }
        }
    }

    pub fn contradiction(&mut self, message: impl Into<String>) {
        self.errors.push(ConfigError::Contradiction(message.into()));
    }

    /// Two values that make sense only together.
    pub fn pair(&mut self, a: (&str, bool), b: (&str, bool)) {
        if a.1 != b.1 {
            let (given, missing) = if a.1 { (a.0, b.0) } else { (b.0, a.0) };
            self.contradiction(format!("{given} is set without {missing}: set both or neither"));
        }
    }
}

/// Checks `kafscale dev`.
pub(super) fn dev(check: &mut Check, args: &DevArgs) -> Option<ProcessConfig> {
    let data_dir = check.parse("KAFSCALE_DATA_DIR", &args.data_dir, |text| Ok(PathBuf::from(text)));
    let broker_id = broker_id(check, &args.common, None);
    let addresses = Addresses { broker: &args.broker_addr, metrics: &args.metrics_addr, control: &args.control_addr };
    let common = common(check, &args.common, broker_id, addresses);
    let console = check.parse("KAFSCALE_CONSOLE_HTTP_ADDR", &args.console_http_addr, values::listen_address_or_off);
    let listen = console.clone().flatten().map(|(listen, _)| listen);
    // Checked even if it is off: a wrong value is an error in any case.
    let unused = SocketAddr::from(([127, 0, 0, 1], 0));
    let ui = console::ui(check, &args.ui, console.as_ref().map(|_| listen.unwrap_or(unused)));
    let (data_dir, common, broker_id) = (data_dir?, common?, broker_id?);
    let storage = StorageConfig::Local { dir: data_dir.join("objects") };
    let metadata = MetadataConfig::Embedded { path: data_dir.join("metadata.redb") };
    if let Some(listen) = listen.filter(|listen| listen.port() != 0) {
        let others = [("KAFSCALE_BROKER_ADDR", common.listen), ("KAFSCALE_METRICS_ADDR", common.metrics_addr)];
        for (name, _) in others.iter().filter(|(_, other)| *other == listen) {
            check.contradiction(format!("{name} and KAFSCALE_CONSOLE_HTTP_ADDR are both {listen}: choose two ports"));
        }
    }
    let process = common.into_process(Component::Dev, broker_id, storage, metadata, HealthLimits::local());
    let (ui, console) = (ui?, console?);
    Some(ProcessConfig { console: console.map(|_| ui), ..process })
}

/// Checks `kafscale broker`.
pub(super) fn broker(check: &mut Check, args: &BrokerArgs, environment: &Environment) -> Option<ProcessConfig> {
    let pod_name = environment.iter().find(|(name, _)| name == "POD_NAME").map(|(_, value)| value.as_str());
    let broker_id = broker_id(check, &args.common, pod_name);
    let metadata = etcd(check, &args.etcd);
    let storage = s3::storage(check, args);
    let health = s3::health(check, args);
    let addresses = Addresses { broker: &args.broker_addr, metrics: &args.metrics_addr, control: &args.control_addr };
    let common = common(check, &args.common, broker_id, addresses);
    Some(common?.into_process(Component::Broker, broker_id?, storage?, metadata?, health?))
}

pub(super) fn etcd(check: &mut Check, args: &EtcdArgs) -> Option<MetadataConfig> {
    let reason = "a broker keeps its metadata in etcd (comma-separated endpoints, for example http://etcd:2379)";
    let endpoints = check.required("KAFSCALE_ETCD_ENDPOINTS", reason, &args.etcd_endpoints, values::endpoints);
    let (username, password) = (args.etcd_username.clone(), args.etcd_password.clone().map(Secret::new));
    check.pair(("KAFSCALE_ETCD_USERNAME", username.is_some()), ("KAFSCALE_ETCD_PASSWORD", password.is_some()));
    let tls = EtcdTlsArgs {
        endpoints: ("KAFSCALE_ETCD_ENDPOINTS", endpoints.as_deref()),
        ca_file: ("KAFSCALE_ETCD_CA_FILE", &args.etcd_ca_file),
        cert_file: ("KAFSCALE_ETCD_CERT_FILE", &args.etcd_cert_file),
        key_file: ("KAFSCALE_ETCD_KEY_FILE", &args.etcd_key_file),
    };
    let tls = etcd_tls(check, tls);
    Some(MetadataConfig::Etcd { endpoints: endpoints?, username, password, tls: tls? })
}

/// Names and values of what etcd's certificates come from.
pub(super) struct EtcdTlsArgs<'a> {
    pub endpoints: (&'static str, Option<&'a [String]>),
    pub ca_file: (&'static str, &'a Option<String>),
    pub cert_file: (&'static str, &'a Option<String>),
    pub key_file: (&'static str, &'a Option<String>),
}

pub(super) fn etcd_tls(check: &mut Check, args: EtcdTlsArgs<'_>) -> Option<EtcdTls> {
    let (endpoints_name, endpoints) = args.endpoints;
    if endpoints.is_some_and(|e| e.iter().all(|e| !e.starts_with("https://"))) {
        let given = [args.ca_file, args.cert_file, args.key_file];
        for (name, _) in given.iter().filter(|(_, path)| path.is_some()) {
            check.contradiction(format!("{name} is set, but no endpoint in {endpoints_name} is https://"));
        }
    }
    let ((cert_name, cert), (key_name, key)) = (args.cert_file, args.key_file);
    check.pair((cert_name, cert.is_some()), (key_name, key.is_some()));
    let ca_pem = check.parse_optional(args.ca_file.0, args.ca_file.1, tls::roots);
    let chain = check.parse_optional(cert_name, cert, tls::chain);
    let key = check.parse_optional(key_name, key, tls::key);
    let identity = chain?.zip(key?);
    if let Some((chain, key)) = &identity
        && let Err(reason) = tls::belong_together(chain, key)
    {
        check.contradiction(format!("{cert_name} and {key_name} do not belong together: {reason}"));
    }
    Some(EtcdTls { ca_pem: ca_pem?, identity })
}

/// The node id: as set, else the ordinal of the pod, else 0.
fn broker_id(check: &mut Check, args: &CommonArgs, pod_name: Option<&str>) -> Option<BrokerId> {
    const NAME: &str = "KAFSCALE_BROKER_ID";
    const ID_MAX: u64 = i32::MAX as u64;
    if let Some(text) = &args.broker_id {
        return check.parse(NAME, text, |t| values::number(t, 0..=ID_MAX)).map(|id| BrokerId(id as i32));
    }
    let Some(pod_name) = pod_name else {
        check.derived.push((NAME, "0".to_owned(), "default".to_owned()));
        return Some(BrokerId(0));
    };
    let ordinal = pod_name.rsplit_once('-').and_then(|(_, ordinal)| values::number(ordinal, 0..=ID_MAX).ok());
    let Some(ordinal) = ordinal else {
        check.contradiction(format!(
            "POD_NAME={pod_name:?} does not end in an ordinal, so the broker id is unknown: set {NAME}, or run brokers as a StatefulSet"
        ));
        return None;
    };
    check.derived.push((NAME, ordinal.to_string(), "POD_NAME".to_owned()));
    Some(BrokerId(ordinal as i32))
}

/// The part of the configuration that `dev` and `broker` share, checked.
struct Common {
    listen: SocketAddr,
    metrics_addr: SocketAddr,
    control_addr: Option<ControlAddr>,
    advertised_host: String,
    advertised_port: u16,
    rack: Option<String>,
    namespace: String,
    segment_bytes: u64,
    flush_interval: Duration,
    cache_bytes: u64,
    readahead_segments: u32,
    auto_create_topics: bool,
    auto_create_partitions: i32,
    topic_defaults: Vec<StaticDefault>,
    groups: CoordinatorLimits,
    startup_timeout: Duration,
    lease_ttl: Duration,
    log_level: tracing::Level,
    telemetry: TelemetryConfig,
}

/// What a broker listens on, as given.
struct Addresses<'a> {
    broker: &'a str,
    metrics: &'a str,
    control: &'a str,
}

fn common(
    check: &mut Check,
    args: &CommonArgs,
    broker_id: Option<BrokerId>,
    addresses: Addresses<'_>,
) -> Option<Common> {
    let broker_addr = check.parse("KAFSCALE_BROKER_ADDR", addresses.broker, values::listen_address);
    let metrics_addr = check.parse("KAFSCALE_METRICS_ADDR", addresses.metrics, values::listen_address);
    let control_addr = check.parse("KAFSCALE_CONTROL_ADDR", addresses.control, values::listen_address_or_off);
    let listeners = [
        ("KAFSCALE_BROKER_ADDR", broker_addr.as_ref()),
        ("KAFSCALE_METRICS_ADDR", metrics_addr.as_ref()),
        ("KAFSCALE_CONTROL_ADDR", control_addr.as_ref().and_then(Option::as_ref)),
    ];
    for (n, (name, address)) in listeners.iter().enumerate() {
        let Some((address, _)) = address.filter(|(address, _)| address.port() != 0) else { continue };
        for (other, _) in listeners[..n].iter().filter(|(_, other)| other.is_some_and(|(other, _)| other == address)) {
            check.contradiction(format!("{other} and {name} are both {address}: choose two ports"));
        }
    }
    let advertised = advertised(check, args, broker_id, broker_addr.as_ref());
    let rack = check.parse_optional("KAFSCALE_BROKER_RACK", &args.broker_rack, values::key_part);
    let namespace = check.parse("KAFSCALE_S3_NAMESPACE", &args.s3_namespace, values::key_part);
    let mut number = |name, text: &str, range| check.parse(name, text, |t| values::number(t, range));
    let segment_bytes = number("KAFSCALE_SEGMENT_BYTES", &args.segment_bytes, 1 << 10..=512 << 20);
    let flush_interval_ms = number("KAFSCALE_FLUSH_INTERVAL_MS", &args.flush_interval_ms, 1..=60_000);
    let cache_bytes = number("KAFSCALE_CACHE_BYTES", &args.cache_bytes, 1 << 20..=1 << 40);
    let readahead_segments = number("KAFSCALE_READAHEAD_SEGMENTS", &args.readahead_segments, 0..=64);
    let partitions = number("KAFSCALE_AUTO_CREATE_PARTITIONS", &args.auto_create_partitions, 1..=10_000);
    let lease_sec = number("KAFSCALE_BROKER_LEASE_SEC", &args.broker_lease_sec, 2..=300);
    let startup_timeout_sec = number("KAFSCALE_STARTUP_TIMEOUT_SEC", &args.startup_timeout_sec, 1..=3_600);
    let topic_defaults = topic_defaults::checked(check, args);
    let groups = groups::checked(check, args);
    let auto_create_topics = check.parse("KAFSCALE_AUTO_CREATE_TOPICS", &args.auto_create_topics, values::boolean);
    let log_level = check.parse("KAFSCALE_LOG_LEVEL", &args.log_level, values::level);
    let trace_peek_headers = check.parse("KAFSCALE_TRACE_PEEK_HEADERS", &args.trace_peek_headers, values::boolean);
    let telemetry = telemetry::checked(check, &args.telemetry);
    let (advertised_host, advertised_port) = advertised?;
    Some(Common {
        listen: broker_addr?.0,
        metrics_addr: metrics_addr?.0,
        control_addr: control_addr?.map(|(listen, host)| ControlAddr { listen, host }),
        advertised_host,
        advertised_port,
        rack: rack?,
        namespace: namespace?,
        segment_bytes: segment_bytes?,
        flush_interval: Duration::from_millis(flush_interval_ms?),
        cache_bytes: cache_bytes?,
        readahead_segments: readahead_segments? as u32,
        auto_create_topics: auto_create_topics?,
        auto_create_partitions: partitions? as i32,
        topic_defaults: topic_defaults?,
        groups: groups?,
        startup_timeout: Duration::from_secs(startup_timeout_sec?),
        lease_ttl: Duration::from_secs(lease_sec?),
        log_level: log_level?,
        telemetry: TelemetryConfig { peek_headers: trace_peek_headers?, ..telemetry? },
    })
}

/// Host and port that clients are told.
fn advertised(
    check: &mut Check,
    args: &CommonArgs,
    broker_id: Option<BrokerId>,
    broker_addr: Option<&(SocketAddr, String)>,
) -> Option<(String, u16)> {
    const HOST: &str = "KAFSCALE_BROKER_HOST";
    const PORT: &str = "KAFSCALE_BROKER_PORT";
    // Without an id that is an error already.
    let ordinal = broker_id.unwrap_or(BrokerId(0)).to_string();
    let host = check.parse_optional(HOST, &args.broker_host, |text| values::host(&text.replace("{ordinal}", &ordinal)));
    let port = check.parse_optional(PORT, &args.broker_port, |t| values::number(t, 1..=65_535));
    let (listen, listen_host) = broker_addr?;
    let port = match port? {
        Some(port) => port as u16,
        None => {
            check.derived.push((PORT, listen.port().to_string(), "KAFSCALE_BROKER_ADDR".to_owned()));
            listen.port()
        }
    };
    if let Some(host) = host? {
        return Some((host, port));
    }
    let (host, source) = if listen.ip().is_unspecified() {
        match values::machine_name() {
            Ok(name) => (name, "the machine's name"),
            Err(reason) => {
                check.contradiction(format!("KAFSCALE_BROKER_ADDR is a wildcard and {reason}: set {HOST}"));
                return None;
            }
        }
    } else {
        (listen_host.clone(), "KAFSCALE_BROKER_ADDR")
    };
    check.derived.push((HOST, host.clone(), source.to_owned()));
    Some((host, port))
}

impl Common {
    fn into_process(
        self,
        component: Component,
        broker_id: BrokerId,
        storage: StorageConfig,
        metadata: MetadataConfig,
        s3_health: HealthLimits,
    ) -> ProcessConfig {
        let node = NodeConfig {
            component,
            broker_id,
            listen: self.listen,
            advertised_host: self.advertised_host,
            advertised_port: self.advertised_port,
            rack: self.rack,
            metrics_addr: self.metrics_addr,
            control_addr: self.control_addr,
            namespace: self.namespace,
            storage,
            s3_health,
            metadata,
            segment_bytes: self.segment_bytes,
            flush_interval: self.flush_interval,
            cache_bytes: self.cache_bytes,
            readahead_segments: self.readahead_segments,
            auto_create_topics: self.auto_create_topics,
            auto_create_partitions: self.auto_create_partitions,
            topic_defaults: self.topic_defaults,
            groups: self.groups,
            startup_timeout: self.startup_timeout,
            lease_ttl: self.lease_ttl,
            shown: Vec::new(),
        };
        ProcessConfig { node, console: None, log_level: self.log_level, telemetry: self.telemetry }
    }
}

/// The variables that `component` reads.
fn known_names(component: Component) -> BTreeSet<String> {
    let command = component.command();
    command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())).collect()
}

/// Variables that Kubernetes makes for a service whose name begins with `kafscale-`.
fn is_service_link(name: &str, value: &str) -> bool {
    let of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|p| p.parse::<u16>().is_ok()) && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    });
    let is_url = value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
    of_port || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || (name.ends_with("_PORT") && is_url)
}

/// The known name nearest to `name`, if it is near enough to be meant.
fn most_similar(name: &str) -> Option<String> {
    let planned = PLANNED.iter().map(|(name, _)| (*name).to_owned());
    let known: BTreeSet<String> = Component::ALL.into_iter().flat_map(known_names).chain(planned).collect();
    let tail = |name: &str| name.trim_start_matches("KAFSCALE_").to_owned();
    let distance = |known: &String| strsim::damerau_levenshtein(&tail(name), &tail(known));
    let nearest = known.into_iter().min_by_key(distance)?;
    (distance(&nearest) <= (tail(name).len() / 3).max(2)).then_some(nearest)
}
