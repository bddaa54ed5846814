//! Logs and traces.
//!
//! Logs go to standard error: for people if that is a terminal, else one JSON object per line. Spans go to an OTLP collector
//! if one is configured, else nowhere: logs do not show the spans of [`crate::trace`], so without a collector
//! nobody is interested in them and they cost next to nothing. `cli.rs` calls [`init`] once and [`Telemetry::shutdown`] at
//! the end, so that the last spans are not lost.
//!
//! [`export`] talks to the collector, [`pipeline`] sees to it that nobody waits for that, [`sampling`] decides which traces
//! there are, [`lines`] names them in the log.

pub mod export;
pub mod lines;
pub mod pipeline;
pub mod sampling;

use crate::config::TelemetryConfig;
use crate::config::telemetry::ExportConfig;
use crate::metrics::Families;
use crate::trace::{self, Tracing};
use export::Exporter;
use lines::WithTrace;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::SdkTracerProvider;
use pipeline::{Pipeline, Processor, STATS};
use sampling::Sampler;
use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tracing::{Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Format;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// How long the end of the process waits for the last spans.
const LAST_SPANS_WITHIN: Duration = Duration::from_secs(5);

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

/// Which process this is.
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    /// The command that it runs.
    pub component: &'static str,
    /// Which of several, if that is known.
    pub instance: Option<&'a str>,
}

/// Keeps the exporter alive.
#[derive(Debug, Default)]
pub struct Telemetry {
    export: Option<Export>,
}

#[derive(Debug)]
struct Export {
    provider: SdkTracerProvider,
    pipeline: Arc<Pipeline>,
    work: JoinHandle<()>,
    runtime: Runtime,
}

impl Telemetry {
    /// Sends what is still buffered, for a bounded time, and stops.
    pub fn shutdown(self) {
        let Some(Export { provider, pipeline, work, runtime }) = self.export else { return };
        pipeline.close();
        let sent = runtime.block_on(async { tokio::time::timeout(LAST_SPANS_WITHIN, work).await });
        if sent.is_err() {
            eprintln!("the last traces could not be exported within {} s", LAST_SPANS_WITHIN.as_secs());
        }
        drop(provider);
        runtime.shutdown_background();
    }
}

/// Libraries whose own events help only their authors; they are heard from WARN on.
const QUIET_TARGETS: [&str; 9] = [
    "h2",
    "hyper",
    "hyper_util",
    "tonic",
    "tower",
    "rustls",
    "opentelemetry",
    "opentelemetry_sdk",
    "aws_smithy_runtime",
];

/// Starts logging at `level`, and exporting traces if that is configured.
pub fn init(level: Level, config: TelemetryConfig, process: Process<'_>) -> Result<Telemetry, TelemetryError> {
    let export = config.export.as_ref().map(|export| start(export, config.slow, process)).transpose()?;
    let subscriber = subscriber(level, export.as_ref().map(|export| &export.provider));
    subscriber.try_init().map_err(|e| TelemetryError::AlreadyInstalled(e.to_string()))?;
    trace::slow_from(config.slow);
    if let (Some(export), Some(config_export)) = (&export, &config.export) {
        trace::start(Tracing {
            share: config_export.share,
            peek_headers: config.peek_headers,
            pipeline: export.pipeline.clone(),
        });
    }
    Ok(Telemetry { export })
}

/// Whoever listens to events and spans. There is no layer for what is not wanted: even one that does nothing would make
/// every callsite ask again each time.
fn subscriber(level: Level, provider: Option<&SdkTracerProvider>) -> impl Subscriber + Send + Sync {
    // It would report a failed write to standard error, where it has just failed, and panic: a full disk below a log must
    // not end anything.
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let is_json = !std::io::stderr().is_terminal();
    let format = match (is_json, provider) {
        (false, None) => format.boxed(),
        (true, None) => format.json().flatten_event(true).boxed(),
        (false, Some(_)) => {
            let inner = Format::default().with_ansi(true);
            format.event_format(WithTrace { inner, is_json }).boxed()
        }
        (true, Some(_)) => {
            let inner = Format::default().json().flatten_event(true);
            format.json().event_format(WithTrace { inner, is_json }).boxed()
        }
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
fn start(config: &ExportConfig, slow: Option<Duration>, process: Process<'_>) -> Result<Export, TelemetryError> {
    let failed = |message: String| TelemetryError::Exporter { endpoint: config.endpoint.clone(), message };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("otlp")
        .enable_all()
        .build()
        .map_err(|e| failed(e.to_string()))?;
    let resource = resource(config, process);
    let entered = runtime.enter();
    let exporter = Exporter::new(config, &resource).map_err(failed)?;
    drop(entered);
    let pipeline = Pipeline::new(config, slow, &STATS);
    let work = runtime.spawn(pipeline.clone().run(exporter));
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler { share: config.share, records: slow.is_some() })
        .with_span_processor(Processor(pipeline.clone()))
        .with_resource(resource)
        .build();
    Ok(Export { provider, pipeline, work, runtime })
}

/// What is known of the process. What the configuration says goes before what it is.
fn resource(config: &ExportConfig, process: Process<'_>) -> Resource {
    let name = config.service_name.clone().unwrap_or_else(|| format!("kafscale-{}", process.component));
    let instance = process.instance.map(|instance| KeyValue::new("service.instance.id", instance.to_owned()));
    let given = config.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(instance)
        .with_attributes(given)
        .with_service_name(name)
        .build()
}

/// What became of spans, for metrics.
pub fn encode(families: &mut Families<'_>) -> fmt::Result {
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    families.counter("kafscale_trace_spans_exported", "Spans that the collector has", read(&STATS.exported))?;
    families.counters(
        "kafscale_trace_spans_dropped",
        "Spans that are lost: the queue was full, or the collector did not take them",
        [
            (&[("reason", "queue_full")] as crate::metrics::Labels<'_>, read(&STATS.dropped_full)),
            (&[("reason", "export_failed")], read(&STATS.dropped_failed)),
        ],
    )?;
    families.gauge("kafscale_trace_spans_queued", "Spans that wait for their export", read(&STATS.queued) as f64)
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
        let span = tracing::subscriber::with_default(everything, || trace::drain(1));
        let metadata = span.metadata().expect("a subscriber that listens to everything made it");
        assert_eq!(metadata.target(), trace::TARGET);
        for level in [Level::TRACE, Level::INFO] {
            assert!(subscriber(level, None).register_callsite(metadata).is_never());
        }
        let provider = SdkTracerProvider::builder().with_simple_exporter(Nowhere).build();
        assert!(!subscriber(Level::ERROR, Some(&provider)).register_callsite(metadata).is_never());
    }
}
