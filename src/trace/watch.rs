//! Requests that turn out slow.
//!
//! Most requests are not sampled and are not slow, and nothing is made of them: a [`Watch`] is a few numbers and the client's
//! id, which is moved. When such a request ends late, its spans are made then, with the times at which they would have begun, and
//! with the ids that its batches carried through the actors; so a flush can link to it.

use super::context::TraceContext;
use super::{Api, REQUEST, clip, settings};
use crate::clock::{self, Clock};
use crate::protocol::handlers::Request;
use crate::protocol::limits::LogGate;
use kafka_protocol::messages::ApiKey;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// One log line about slow requests in ten seconds; it counts the others.
static LOG: LogGate = LogGate::new(1, 10_000);

/// See the module's documentation.
#[derive(Debug)]
pub struct Watch {
    context: TraceContext,
    received: Instant,
    api_key: i16,
    api_version: i16,
    correlation_id: i32,
    request_bytes: usize,
    client_id: Option<String>,
}

/// A part of a request: name, beginning and end.
pub type Stage = (&'static str, Instant, Instant);

impl Watch {
    /// Takes what would be told about `request`, its client's id included.
    pub fn of(request: &mut Request) -> Self {
        Self {
            context: request.trace,
            received: request.received,
            api_key: request.api_key,
            api_version: request.api_version,
            correlation_id: request.correlation_id,
            request_bytes: request.body.len(),
            client_id: request.client_id.take(),
        }
    }

    /// Who the request is to others.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// The request has ended, `idle` of its time it waited for what need not happen. If it was slow, the log says so, and
    /// its trace is kept.
    pub fn done(self, peer: SocketAddr, idle: Duration, failure: Option<&dyn Display>, stages: &[Stage]) {
        let Some(slow) = settings::slow() else { return };
        let now = clock::monotonic();
        if now.saturating_duration_since(self.received).saturating_sub(idle) >= slow && !waits(self.api_key) {
            self.slow(now, peer, failure, stages);
        }
    }

    #[cold]
    fn slow(self, now: Instant, peer: SocketAddr, failure: Option<&dyn Display>, stages: &[Stage]) {
        let tracing = settings::tracing().filter(|_| self.context.is_undecided());
        if let Some(suppressed) = LOG.admit(Clock::system().wall_ms()) {
            // A request that is sampled runs in its span, and every line in there has its ids.
            let trace_id = tracing.map(|_| tracing::field::display(self.context.trace_id()));
            let span_id = tracing.map(|_| tracing::field::display(self.context.span_id()));
            let took_ms = (now - self.received).as_millis() as u64;
            tracing::info!(
                api = ?Api(self.api_key),
                client_id = self.client_id.as_deref().map(clip),
                %peer,
                took_ms,
                request_bytes = self.request_bytes,
                error = failure.map(tracing::field::display),
                trace_id,
                span_id,
                suppressed,
                "slow request"
            );
        }
        let Some(tracing) = tracing else { return };
        let clock = Times { now, wall: clock::system_time() };
        tracing.pipeline.keep(self.context.trace_id());
        for (name, from, to) in stages {
            let id = SpanId::from_bytes((crate::rng::u64() | 1).to_be_bytes());
            tracing.pipeline.push(SpanData {
                parent_span_id: self.context.span_id(),
                span_kind: SpanKind::Internal,
                ..span(self.context, id, *name, clock.at(*from), clock.at(*to))
            });
        }
        let mut root = self.root(peer, failure, &clock);
        root.attributes.push(KeyValue::new("kafscale.slow", true));
        tracing.pipeline.push(root);
    }

    fn root(self, peer: SocketAddr, failure: Option<&dyn Display>, clock: &Times) -> SpanData {
        let api = format!("{:?}", Api(self.api_key));
        let name = format!("{REQUEST} {api}");
        let mut attributes = vec![
            KeyValue::new("rpc.system", "kafka"),
            KeyValue::new("rpc.method", api),
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("network.peer.address", peer.ip().to_string()),
            KeyValue::new("network.peer.port", i64::from(peer.port())),
            KeyValue::new("kafka.api_key", i64::from(self.api_key)),
            KeyValue::new("kafka.api_version", i64::from(self.api_version)),
            KeyValue::new("kafka.correlation_id", i64::from(self.correlation_id)),
            KeyValue::new("kafka.request.bytes", self.request_bytes as i64),
        ];
        attributes.extend(self.client_id.map(|id| KeyValue::new("messaging.client.id", clip(&id).to_owned())));
        attributes.extend(failure.map(|kind| KeyValue::new("error.type", kind.to_string())));
        let status = if failure.is_some() { Status::error("") } else { Status::Unset };
        let id = self.context.span_id();
        SpanData { attributes, status, ..span(self.context, id, name, clock.at(self.received), clock.wall) }
    }
}

/// Members are answered when others have come: that takes as long as it takes.
fn waits(api_key: i16) -> bool {
    matches!(ApiKey::try_from(api_key), Ok(ApiKey::JoinGroup | ApiKey::SyncGroup))
}

/// Turns monotonic time into wall time.
struct Times {
    now: Instant,
    wall: SystemTime,
}

impl Times {
    fn at(&self, instant: Instant) -> SystemTime {
        self.wall - self.now.saturating_duration_since(instant)
    }
}

fn span(
    context: TraceContext,
    id: SpanId,
    name: impl Into<std::borrow::Cow<'static, str>>,
    start_time: SystemTime,
    end_time: SystemTime,
) -> SpanData {
    SpanData {
        span_context: SpanContext::new(context.trace_id(), id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Server,
        name: name.into(),
        start_time,
        end_time,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("kafscale").build(),
    }
}
