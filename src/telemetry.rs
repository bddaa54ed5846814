//! Logs and traces.
//!
//! Logs go to standard error: for people if that is a terminal, else one JSON object per line. Spans go to an OTLP/gRPC
//! collector if one is configured, else nowhere: logs do not show the spans of [`crate::trace`], so without a collector
//! nobody is interested in them and they cost next to nothing. `cli.rs` calls [`init`] once and [`Telemetry::shutdown`] at
//! the end, so that the last spans are not lost.
//!
//! Exporting never holds up a request: a span that ends goes into a queue of 2,048, or is dropped if that is full, and
//! a thread of its own sends up to 512 at a time, every 5 s or as soon as so many wait.

use crate::trace;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io::IsTerminal;
use tokio::runtime::Runtime;
use tracing::{Level, Subscriber};
use tracing_subscriber::Registry;
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
const QUIET_TARGETS: [&str; 10] = [
    "h2",
    "hyper",
    "hyper_util",
    "tonic",
    "tower",
    "rustls",
    "opentelemetry",
    "opentelemetry_sdk",
    "opentelemetry-otlp",
    "aws_smithy_runtime",
];

/// Starts logging at `level`, and exporting traces to `otlp_endpoint` if there is one.
pub fn init(level: Level, otlp_endpoint: Option<&str>, component: &str) -> Result<Telemetry, TelemetryError> {
    let exporter = otlp_endpoint.map(|endpoint| exporter(endpoint, component)).transpose()?;
    let subscriber = subscriber(level, exporter.as_ref().map(|(provider, _)| provider));
    subscriber.try_init().map_err(|e| TelemetryError::AlreadyInstalled(e.to_string()))?;
    Ok(Telemetry { exporter })
}

/// Whoever listens to events and spans. There is no layer for what is not wanted: even one that does nothing would make
/// every callsite ask again each time.
fn subscriber(level: Level, provider: Option<&SdkTracerProvider>) -> impl Subscriber + Send + Sync {
    // It would report a failed write to standard error, where it has just failed, and panic: a full disk below a log must
    // not end anything.
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let format = match std::io::stderr().is_terminal() {
        true => format.boxed(),
        false => format.json().flatten_event(true).boxed(),
    };
    let logs = format.with_filter(targets(level).with_target(trace::TARGET, LevelFilter::OFF)).boxed();
    let spans = provider.map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("kafscale"));
        // What these would add to each span says nothing that its name and attributes do not.
        let layer = layer.with_location(false).with_threads(false).with_target(false);
        let layer = layer.with_tracked_inactivity(false).with_context_activation(false);
        layer.with_filter(targets(Level::INFO)).boxed()
    });
    let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = std::iter::once(logs).chain(spans).collect();
    tracing_subscriber::registry().with(layers)
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

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};

    #[derive(Debug)]
    struct Nowhere;

    impl SpanExporter for Nowhere {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Ok(())
        }
    }

    #[test]
    fn without_an_exporter_nobody_is_interested_in_spans() {
        let everything = tracing_subscriber::registry();
        let span = tracing::subscriber::with_default(everything, trace::await_flush);
        let metadata = span.metadata().expect("a subscriber that listens to everything made it");
        assert_eq!(metadata.target(), trace::TARGET);
        for level in [Level::TRACE, Level::INFO] {
            assert!(subscriber(level, None).register_callsite(metadata).is_never());
        }
        let provider = SdkTracerProvider::builder().with_simple_exporter(Nowhere).build();
        assert!(!subscriber(Level::ERROR, Some(&provider)).register_callsite(metadata).is_never());
    }
}
