//! Configuration of traces: OpenTelemetry's own variables, for every component.
//!
//! The SDK would read them from the environment by itself, ignore what it does not understand and tell nobody. Here they are
//! settings like all others: typed, checked, shown with their source, and secret where they are. As OpenTelemetry
//! has it, a variable of theirs that is set to nothing counts as unset.

use super::validate::Check;
use super::{Secret, tls, values};
use clap::Args;
use std::time::Duration;

const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const TRACES_HEADERS: &str = "OTEL_EXPORTER_OTLP_TRACES_HEADERS";
/// Path of traces below an HTTP endpoint for all signals.
const HTTP_PATH: &str = "/v1/traces";
/// Longest list of headers or attributes, bytes.
const LIST_BYTES_MAX: usize = 8 << 10;

/// Settings of traces that all components share.
#[derive(Debug, Clone, Args)]
pub struct TelemetryArgs {
    /// Collector that receives traces over OTLP, as http://host:port or https://host:port; unset: no traces are made.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The same for traces alone; with http/protobuf it is the whole URL, and nothing is added to it.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value_name = "URL")]
    pub otlp_traces_endpoint: Option<String>,
    /// How to talk to the collector: grpc or http/protobuf; default: grpc.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_name = "PROTOCOL")]
    pub otlp_protocol: Option<String>,
    /// The same for traces alone.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", value_name = "PROTOCOL")]
    pub otlp_traces_protocol: Option<String>,
    /// Headers of every export, as name=value with commas between them and values percent-encoded.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", value_name = "LIST", hide_env_values = true)]
    pub otlp_headers: Option<String>,
    /// The same for traces alone; takes the place of OTEL_EXPORTER_OTLP_HEADERS.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_HEADERS", value_name = "LIST", hide_env_values = true)]
    pub otlp_traces_headers: Option<String>,
    /// Milliseconds after which an export is given up (1 to 600000); default: 10000.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", value_name = "MS")]
    pub otlp_timeout: Option<String>,
    /// The same for traces alone.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", value_name = "MS")]
    pub otlp_traces_timeout: Option<String>,
    /// PEM file with the certificates that sign the collector's; default: the system's.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_name = "PATH")]
    pub otlp_certificate: Option<String>,
    /// PEM file with this process's certificate for the collector; goes with OTEL_EXPORTER_OTLP_CLIENT_KEY.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", value_name = "PATH")]
    pub otlp_client_certificate: Option<String>,
    /// PEM file with the private key of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CLIENT_KEY", value_name = "PATH")]
    pub otlp_client_key: Option<String>,
    /// What is done with traces: otlp, or none.
    #[arg(long, env = "OTEL_TRACES_EXPORTER", value_name = "NAME")]
    pub otel_traces_exporter: Option<String>,
    /// Which traces are kept: always_on, always_off, traceidratio, or one of these after parentbased_; default: parentbased_always_on.
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_name = "NAME")]
    pub otel_traces_sampler: Option<String>,
    /// The share of traces that traceidratio keeps (0 to 1); default: 1.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "SHARE")]
    pub otel_traces_sampler_arg: Option<String>,
    /// What else is known of this process, as name=value with commas between them and values percent-encoded.
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", value_name = "LIST")]
    pub otel_resource_attributes: Option<String>,
    /// Name of this process in traces; default: service.name of OTEL_RESOURCE_ATTRIBUTES, else kafscale- and the component.
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    pub otel_service_name: Option<String>,
    /// Make no traces whatever else is set.
    #[arg(long, env = "OTEL_SDK_DISABLED", value_name = "BOOL")]
    pub otel_sdk_disabled: Option<String>,
    /// Milliseconds between exports while less than a batch waits (1 to 600000); default: 5000.
    #[arg(long, env = "OTEL_BSP_SCHEDULE_DELAY", value_name = "MS")]
    pub otel_bsp_schedule_delay: Option<String>,
    /// Finished spans that may wait for their export; what comes then is dropped (1 to 65536); default: 2048.
    #[arg(long, env = "OTEL_BSP_MAX_QUEUE_SIZE", value_name = "NUMBER")]
    pub otel_bsp_max_queue_size: Option<String>,
    /// Spans of one export, at most OTEL_BSP_MAX_QUEUE_SIZE (1 to 65536); default: 512.
    #[arg(long, env = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", value_name = "NUMBER")]
    pub otel_bsp_max_export_batch_size: Option<String>,
    /// Milliseconds from which a request, a flush or a look of the operator is slow: the log says so, and its trace is kept whatever
    /// the sampler says; waiting for records or members does not count (0 for never, to 3600000).
    #[arg(long, env = "KAFSCALE_TRACE_SLOW_REQUEST_MS", default_value = "1000", value_name = "MS")]
    pub trace_slow_request_ms: String,
}

/// How to talk to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    Http,
}

/// The share of traces that are kept from their beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(u64::MAX);
    /// None of them.
    pub const NONE: Self = Self(0);

    /// A share from 0 to 1.
    pub fn of(share: f64) -> Self {
        // A float of 2^64 becomes the greatest number: all of them.
        Self((share * (u64::MAX as f64)) as u64)
    }

    /// True if a trace that drew `random` is kept.
    pub fn keeps(self, random: u64) -> bool {
        self == Self::ALL || random < self.0
    }
}

/// Where traces go, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportConfig {
    /// The collector; of HTTP the whole URL.
    pub endpoint: String,
    /// How to talk to it.
    pub protocol: Protocol,
    /// Headers of every export, names in lower case.
    pub headers: Vec<(String, Secret)>,
    /// How long an export may take.
    pub timeout: Duration,
    /// PEM certificates to trust instead of the system's.
    pub ca_pem: Option<String>,
    /// PEM certificate chain and key of this process.
    pub identity: Option<(String, Secret)>,
    /// How many traces are kept from their beginning.
    pub share: Share,
    /// What the process is called, if not `kafscale-` and its component.
    pub service_name: Option<String>,
    /// What else it is.
    pub resource: Vec<(String, String)>,
    /// Pause between exports while less than a batch waits.
    pub delay: Duration,
    /// Spans that may wait.
    pub queue_max: usize,
    /// Spans of one export.
    pub batch_max: usize,
}

/// What a component does about traces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Where traces go, if any are made.
    pub export: Option<ExportConfig>,
    /// From when on something is slow.
    pub slow: Option<Duration>,
    /// Sampled requests link to the traces that their records name.
    pub peek_headers: bool,
}

/// Checks what was given.
pub(super) fn checked(check: &mut Check, args: &TelemetryArgs) -> Option<TelemetryConfig> {
    let slow_ms = check
        .parse("KAFSCALE_TRACE_SLOW_REQUEST_MS", &args.trace_slow_request_ms, |t| values::number(t, 0..=3_600_000));
    let disabled = optional(check, "OTEL_SDK_DISABLED", &args.otel_sdk_disabled, values::boolean);
    let exporter = optional(check, "OTEL_TRACES_EXPORTER", &args.otel_traces_exporter, exports);
    let export = export(check, args);
    let on = !disabled?.unwrap_or(false) && exporter?.unwrap_or(true);
    let export = export?.filter(|_| on);
    let slow = Some(slow_ms?).filter(|ms| *ms > 0).map(Duration::from_millis);
    Some(TelemetryConfig { export, slow, peek_headers: false })
}

fn export(check: &mut Check, args: &TelemetryArgs) -> Option<Option<ExportConfig>> {
    let base = optional(check, "OTEL_EXPORTER_OTLP_ENDPOINT", &args.otlp_endpoint, values::url);
    let own = optional(check, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &args.otlp_traces_endpoint, values::url);
    let protocol = optional(check, "OTEL_EXPORTER_OTLP_PROTOCOL", &args.otlp_protocol, protocol);
    let own_protocol =
        optional(check, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", &args.otlp_traces_protocol, self::protocol);
    let headers = headers(check, HEADERS, &args.otlp_headers);
    let own_headers = self::headers(check, TRACES_HEADERS, &args.otlp_traces_headers);
    let ms = |text: &str| values::number(text, 1..=600_000).map(Duration::from_millis);
    let timeout = optional(check, "OTEL_EXPORTER_OTLP_TIMEOUT", &args.otlp_timeout, ms);
    let own_timeout = optional(check, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", &args.otlp_traces_timeout, ms);
    let ca_pem = optional(check, "OTEL_EXPORTER_OTLP_CERTIFICATE", &args.otlp_certificate, tls::roots);
    let identity = identity(check, args);
    let share = share(check, args);
    let resource = optional(check, "OTEL_RESOURCE_ATTRIBUTES", &args.otel_resource_attributes, pairs);
    let count = |text: &str| values::number(text, 1..=65_536).map(|count| count as usize);
    let delay = optional(check, "OTEL_BSP_SCHEDULE_DELAY", &args.otel_bsp_schedule_delay, ms);
    let queue_max = optional(check, "OTEL_BSP_MAX_QUEUE_SIZE", &args.otel_bsp_max_queue_size, count);
    let batch_max = optional(check, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &args.otel_bsp_max_export_batch_size, count);
    let queue_max = queue_max?.unwrap_or(2_048);
    let batch_max = batch_max?.unwrap_or(512.min(queue_max));
    if batch_max > queue_max {
        check.contradiction(format!(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is {batch_max}, more than fit into OTEL_BSP_MAX_QUEUE_SIZE ({queue_max}): choose less"
        ));
    }
    let protocol = own_protocol?.or(protocol?).unwrap_or(Protocol::Grpc);
    let base = base?.map(|base| match protocol {
        Protocol::Grpc => base,
        Protocol::Http => format!("{}{HTTP_PATH}", base.trim_end_matches('/')),
    });
    let (headers, own_headers, timeout, own_timeout) = (headers?, own_headers?, timeout?, own_timeout?);
    let (ca_pem, identity, share, resource, delay) = (ca_pem?, identity?, share?, resource?, delay?);
    let Some(endpoint) = own?.or(base) else { return Some(None) };
    let mut resource = resource.unwrap_or_default();
    let named = given(&args.otel_service_name).map(str::to_owned);
    let position = resource.iter().position(|(name, _)| name == "service.name");
    let service_name = named.or(position.map(|at| resource[at].1.clone()));
    resource.retain(|(name, _)| name != "service.name");
    Some(Some(ExportConfig {
        endpoint,
        protocol,
        headers: own_headers.or(headers).unwrap_or_default(),
        timeout: own_timeout.or(timeout).unwrap_or(Duration::from_secs(10)),
        ca_pem,
        identity,
        share,
        service_name,
        resource,
        delay: delay.unwrap_or(Duration::from_secs(5)),
        queue_max,
        batch_max,
    }))
}

/// What is set to something.
fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|text| !text.trim().is_empty())
}

/// `None` if the value is wrong, `Some(None)` if there is none.
fn optional<T>(
    check: &mut Check,
    name: &'static str,
    value: &Option<String>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<Option<T>> {
    match given(value) {
        Some(text) => check.parse(name, text, parse).map(Some),
        None => Some(None),
    }
}

fn identity(check: &mut Check, args: &TelemetryArgs) -> Option<Option<(String, Secret)>> {
    let (cert_name, key_name) = ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_KEY");
    let (cert, key) = (given(&args.otlp_client_certificate), given(&args.otlp_client_key));
    check.pair((cert_name, cert.is_some()), (key_name, key.is_some()));
    let chain = optional(check, cert_name, &args.otlp_client_certificate, tls::chain);
    let key = optional(check, key_name, &args.otlp_client_key, tls::key);
    let identity = chain?.zip(key?);
    if let Some((chain, key)) = &identity
        && let Err(reason) = tls::belong_together(chain, key)
    {
        check.contradiction(format!("{cert_name} and {key_name} do not belong together: {reason}"));
    }
    Some(identity)
}

/// Values of headers are secrets, so that the list is not part of the message if it is wrong.
fn headers(check: &mut Check, name: &'static str, value: &Option<String>) -> Option<Option<Vec<(String, Secret)>>> {
    let Some(text) = given(value) else { return Some(None) };
    let headers = pairs(text).and_then(|pairs| {
        pairs.into_iter().map(|(name, value)| header(name, value)).collect::<Result<Vec<_>, String>>()
    });
    match headers {
        Ok(headers) => Some(Some(headers)),
        Err(reason) => {
            check.contradiction(format!("{name} cannot be used: {reason}"));
            None
        }
    }
}

fn header(name: String, value: String) -> Result<(String, Secret), String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.bytes().all(token) || name.to_ascii_lowercase().ends_with("-bin") {
        return Err(format!("{name:?} is no name of a header with text"));
    }
    if !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Err(format!("the value of {name} has characters that no header may have"));
    }
    Ok((name.to_ascii_lowercase(), Secret::new(value)))
}

/// `name=value,…` with percent-encoded values. Nothing of the values is in the message if something is wrong.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    const EXPECTED: &str = "expected name=value with commas between them";
    if text.len() > LIST_BYTES_MAX {
        return Err(format!("it is longer than {LIST_BYTES_MAX} bytes"));
    }
    let mut pairs = Vec::new();
    for (index, pair) in text.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("{EXPECTED}; number {} has no =", index + 1))?;
        let name = name.trim();
        if name.is_empty() {
            return Err(format!("{EXPECTED}; number {} has no name", index + 1));
        }
        let value =
            percent_decoded(value.trim()).ok_or_else(|| format!("the value of {name} is not percent-encoded"))?;
        pairs.push((name.to_owned(), value));
    }
    Ok(pairs)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = others;
            continue;
        }
        let digits = std::str::from_utf8(others.get(..2)?).ok()?;
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        rest = &others[2..];
    }
    String::from_utf8(bytes).ok()
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::Http),
        _ => Err("expected grpc or http/protobuf".to_owned()),
    }
}

fn exports(text: &str) -> Result<bool, String> {
    match text {
        "otlp" => Ok(true),
        "none" => Ok(false),
        _ => Err("expected otlp or none".to_owned()),
    }
}

/// Every request begins its own trace here, so that with and without `parentbased_` mean the same.
fn share(check: &mut Check, args: &TelemetryArgs) -> Option<Share> {
    let sampler = optional(check, "OTEL_TRACES_SAMPLER", &args.otel_traces_sampler, |text| {
        match text.strip_prefix("parentbased_").unwrap_or(text) {
            "always_on" => Ok(Some(Share::ALL)),
            "always_off" => Ok(Some(Share::NONE)),
            "traceidratio" => Ok(None),
            _ => Err("expected always_on, always_off, traceidratio, or one of these after parentbased_".to_owned()),
        }
    });
    let argument = optional(check, "OTEL_TRACES_SAMPLER_ARG", &args.otel_traces_sampler_arg, values::share);
    let argument = argument?;
    match sampler? {
        Some(None) => Some(argument.map_or(Share::ALL, Share::of)),
        fixed => {
            if argument.is_some() {
                check
                    .warnings
                    .push("OTEL_TRACES_SAMPLER_ARG has no effect: OTEL_TRACES_SAMPLER is not traceidratio".to_owned());
            }
            Some(fixed.flatten().unwrap_or(Share::ALL))
        }
    }
}

#[cfg(test)]
#[path = "telemetry_tests.rs"]
mod tests;
