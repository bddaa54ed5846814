//! Logs and traces.
//!
//! Logs go to standard error: for people if that is a terminal, else one JSON object per line. Spans go to an OTLP/gRPC
//! collector if one is configured, else nowhere. `cli.rs` calls [`init`] once and [`Telemetry::shutdown`] at the end, so
//! that the last spans are not lost.

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io::IsTerminal;
use tokio::runtime::Runtime;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter could not be made.
    #[error("cannot export traces to {endpoint}: {message}; check OTEL_EXPORTER_OTLP_ENDPOINT")]
    Exporter {
        /// Collector.
        endpoint: String,
        /// What went wrong.
        message: String,
    },
    /// Somebody else installed a subscriber.
    #[error("logging is set up already: {0}")]
    AlreadyInstalled(String),
}

/// Keeps the exporter alive.
#[derive(Debug, Default)]
pub struct Telemetry {
    exporter: Option<(SdkTracerProvider, Runtime)>,
}

impl Telemetry {
    /// Sends what is still buffered, for at most the exporter's own time-out, and stops.
    pub fn shutdown(self) {
        let Some((provider, runtime)) = self.exporter else { return };
        if let Err(error) = provider.shutdown() {
            eprintln!("the last traces could not be exported: {error}");
        }
        runtime.shutdown_background();
    }
}

/// Libraries whose own events help only their authors; they are heard from WARN on.
const QUIET_TARGETS: [&str; 8] =
    ["h2", "hyper", "hyper_util", "tonic", "tower", "rustls", "opentelemetry_sdk", "aws_smithy_runtime"];

/// Starts logging at `level`, and exporting traces to `otlp_endpoint` if there is one.
pub fn init(level: Level, otlp_endpoint: Option<&str>, component: &str) -> Result<Telemetry, TelemetryError> {
    let exporter = otlp_endpoint.map(|endpoint| exporter(endpoint, component)).transpose()?;
    let spans = exporter.as_ref().map(|(provider, _)| {
        let tracer = provider.tracer("kafscale");
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(targets(Level::INFO))
    });
    let is_terminal = std::io::stderr().is_terminal();
    let people = is_terminal.then(|| tracing_subscriber::fmt::layer().with_writer(std::io::stderr));
    let machines = (!is_terminal)
        .then(|| tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr));
    tracing_subscriber::registry()
        .with(spans)
        .with(people.with_filter(targets(level)))
        .with(machines.with_filter(targets(level)))
        .try_init()
        .map_err(|e| TelemetryError::AlreadyInstalled(e.to_string()))?;
    Ok(Telemetry { exporter })
}

fn targets(level: Level) -> Targets {
    let quiet = LevelFilter::from_level(level).min(LevelFilter::WARN);
    let targets = Targets::new().with_default(level);
    QUIET_TARGETS.into_iter().fold(targets, |targets, name| targets.with_target(name, quiet))
}

/// The exporter needs a tokio runtime for its connection; it gets its own, so that it lives longer than any shard.
fn exporter(endpoint: &str, component: &str) -> Result<(SdkTracerProvider, Runtime), TelemetryError> {
    let failed = |message: String| TelemetryError::Exporter { endpoint: endpoint.to_owned(), message };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("otlp")
        .enable_all()
        .build()
        .map_err(|e| failed(e.to_string()))?;
    let _entered = runtime.enter();
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|e| failed(e.to_string()))?;
    let resource = Resource::builder()
        .with_service_name(format!("kafscale-{component}"))
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    drop(_entered);
    Ok((provider, runtime))
}
