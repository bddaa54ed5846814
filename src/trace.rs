//! The spans of the data path: their names, attributes and links.
//!
//! One function per span, so that names are decided here and nowhere else. Attributes follow OpenTelemetry's semantic
//! conventions where these have a word (`messaging.*`, `rpc.*`, `db.*`, `network.*`, `aws.s3.key`, `error.type`), else they
//! begin with `kafka.` (of the protocol) or `kafscale.`. `docs/observability.md` shows the trees they form.
//!
//! All spans have the target [`TARGET`], which `telemetry.rs` shows to the exporter only. Without an exporter the interest
//! of each callsite is "never": making a span is one load of an atomic, its attributes are not evaluated, nothing is
//! allocated, and every function here returns a span that does nothing.
//!
//! What clients send is bounded before it becomes an attribute, and so is the number of spans per request.

use crate::protocol::handlers::Request;
use crate::storage::ObjectKey;
use kafka_protocol::messages::ApiKey;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Target of every span of the data path.
pub const TARGET: &str = "kafscale::trace";
/// Links from one flush to the requests whose batches it carries.
pub const LINKS_MAX: usize = 32;
/// Chunks and indexes of one read that get a span of their own.
pub const CACHE_SPANS_MAX: usize = 16;
/// Bytes of a client's text that become an attribute.
const TEXT_LEN_MAX: usize = 256;

/// A request: the root of its trace.
pub fn request(request: &Request, peer: SocketAddr) -> Span {
    info_span!(
        target: TARGET,
        parent: None,
        "kafka.request",
        otel.kind = "server",
        rpc.system = "kafka",
        rpc.method = ?Api(request.api_key),
        messaging.system = "kafka",
        messaging.client.id = request.client_id.as_deref().map(clip),
        network.peer.address = %peer.ip(),
        network.peer.port = i64::from(peer.port()),
        kafka.api_version = request.api_version,
        kafka.correlation_id = request.correlation_id,
        kafka.request.bytes = request.body.len() as i64,
        "error.type" = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    )
}

/// Says that the request of `span` failed: with a Kafka error, or by closing the connection. The first failure counts.
pub fn fail(span: &Span, kind: impl fmt::Display, message: Option<&str>) {
    if span.is_disabled() {
        return;
    }
    span.record("error.type", tracing::field::display(kind));
    span.record("otel.status_code", "ERROR");
    if let Some(message) = message {
        span.record("otel.status_description", clip(message));
    }
}

/// Checking the batches of a Produce request and handing them to their partitions. `shape` is asked for the number of
/// partitions and the bytes of their batches.
pub fn append(shape: impl FnOnce() -> (usize, usize)) -> Span {
    let span = info_span!(target: TARGET, "partition.append", kafka.partitions = Empty, kafka.batch.bytes = Empty);
    if !span.is_disabled() {
        let (partitions, bytes) = shape();
        span.record("kafka.partitions", partitions as i64).record("kafka.batch.bytes", bytes as i64);
    }
    span
}

/// Waiting until the batches of a Produce request are durable.
pub fn await_flush() -> Span {
    info_span!(target: TARGET, "await.flush")
}

/// What a segment holds, for its span.
#[derive(Debug, Clone, Copy)]
pub struct SegmentShape {
    /// Its slot.
    pub seq: u64,
    /// Bytes of batches.
    pub bytes: u64,
    /// Batches.
    pub batches: u64,
    /// Partitions.
    pub partitions: usize,
    /// How long its oldest batch waited for the cut, µs.
    pub age_us: u64,
}

/// A segment from its cut until its partitions are told that it is committed: the root of its own trace, linked to the
/// requests whose batches it carries.
pub fn flush(shape: SegmentShape, links: &Links) -> Span {
    let span = info_span!(
        target: TARGET,
        parent: None,
        "segment.flush",
        kafscale.segment.seq = shape.seq as i64,
        kafscale.segment.bytes = shape.bytes as i64,
        kafscale.segment.batches = shape.batches as i64,
        kafscale.segment.partitions = shape.partitions as i64,
        kafscale.segment.age_ms = shape.age_us as f64 / 1e3,
        kafscale.links_left_out = links.left_out as i64,
    );
    if !span.is_disabled() {
        links.links.iter().for_each(|link| span.add_link(link.context()));
    }
    span
}

/// Creating an object, from the first attempt to the last. [`Tries`] adds how many there were.
pub fn put(flush: &Span, key: &ObjectKey, bytes: u64) -> Span {
    info_span!(
        target: TARGET,
        parent: flush,
        "s3.put",
        otel.kind = "client",
        rpc.system = "aws-api",
        rpc.service = "S3",
        rpc.method = "PutObject",
        aws.s3.key = %key,
        kafscale.object.bytes = bytes as i64,
        kafscale.attempts = Empty,
        kafscale.hedged = Empty,
    )
}

/// Moving the writer's head. One transaction may commit several flushes: each has this span.
pub fn commit(flush: &Span, head: u64) -> Span {
    info_span!(
        target: TARGET,
        parent: flush,
        "etcd.commit",
        otel.kind = "client",
        db.system.name = "etcd",
        db.operation.name = "txn",
        kafscale.writer.head = head as i64,
    )
}

/// One look of a Fetch at its partitions that reads from some of them.
pub fn fetch_read(partitions: usize) -> Span {
    info_span!(target: TARGET, "fetch.read", kafka.partitions = partitions as i64)
}

/// Waiting for the index of a segment that is not in memory: it says where chunks begin.
pub fn index(key: &ObjectKey) -> Span {
    info_span!(target: TARGET, "cache.index", aws.s3.key = %key)
}

/// Looking for a chunk in the block cache, and waiting for it.
pub fn cache(hit: bool, key: &ObjectKey, bytes: u64) -> Span {
    info_span!(
        target: TARGET,
        "cache",
        kafscale.cache.hit = hit,
        aws.s3.key = %key,
        kafscale.chunk.bytes = bytes as i64,
    )
}

/// Reading a range of an object.
pub fn get(key: &ObjectKey, range: &Range<u64>) -> Span {
    info_span!(
        target: TARGET,
        "s3.get",
        otel.kind = "client",
        rpc.system = "aws-api",
        rpc.service = "S3",
        rpc.method = "GetObject",
        aws.s3.key = %key,
        kafscale.range.start = range.start as i64,
        kafscale.range.end = range.end as i64,
    )
}

/// Reading the end of an object, where its index is, `len` bytes at first.
pub fn get_suffix(key: &ObjectKey, len: u64) -> Span {
    info_span!(
        target: TARGET,
        "s3.get",
        otel.kind = "client",
        rpc.system = "aws-api",
        rpc.service = "S3",
        rpc.method = "GetObject",
        aws.s3.key = %key,
        kafscale.range.suffix = len as i64,
    )
}

/// Counts the attempts at one call and tells the current span when it is dropped.
#[derive(Debug)]
pub struct Tries {
    attempts: AtomicU32,
    hedged: AtomicBool,
}

impl Default for Tries {
    fn default() -> Self {
        Self { attempts: AtomicU32::new(1), hedged: AtomicBool::new(false) }
    }
}

impl Tries {
    /// Another attempt begins, after one that failed.
    pub fn again(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// True after an attempt that failed.
    pub fn is_repeated(&self) -> bool {
        self.attempts.load(Ordering::Relaxed) > 1
    }

    /// A second request was sent beside the first.
    pub fn hedge(&self) {
        self.hedged.store(true, Ordering::Relaxed);
    }
}

impl Drop for Tries {
    fn drop(&mut self) {
        let span = Span::current();
        span.record("kafscale.attempts", i64::from(*self.attempts.get_mut()));
        span.record("kafscale.hedged", *self.hedged.get_mut());
    }
}

/// Names a span that is exported, so that another trace can link to it; empty if it is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanLink {
    trace: [u8; 16],
    span: [u8; 8],
}

impl SpanLink {
    /// Leads nowhere.
    pub const NONE: Self = Self { trace: [0; 16], span: [0; 8] };

    /// A link to `span`, if it is sampled.
    pub fn to(span: &Span) -> Self {
        if span.is_disabled() {
            return Self::NONE;
        }
        let context = span.context();
        let context = context.span().span_context().clone();
        match context.is_sampled() {
            true => Self { trace: context.trace_id().to_bytes(), span: context.span_id().to_bytes() },
            false => Self::NONE,
        }
    }

    fn context(self) -> SpanContext {
        let (trace, span) = (TraceId::from_bytes(self.trace), SpanId::from_bytes(self.span));
        SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE)
    }
}

/// Up to [`LINKS_MAX`] different links.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Links {
    links: Vec<SpanLink>,
    left_out: u64,
}

impl Links {
    /// Adds a link, unless it leads nowhere or is here already. A request's batches arrive in a row, so a link that
    /// is left out is counted about once.
    pub fn add(&mut self, link: SpanLink) {
        if link == SpanLink::NONE || self.links.contains(&link) {
            return;
        }
        if self.links.len() < LINKS_MAX {
            self.links.push(link);
        } else {
            self.left_out += 1;
        }
    }
}

/// The name of an API key.
struct Api(i16);

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ApiKey::try_from(self.0) {
            Ok(key) => write!(f, "{key:?}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// The beginning of `text`.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_LEN_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(n: u8) -> SpanLink {
        SpanLink { trace: [n; 16], span: [n; 8] }
    }

    #[test]
    fn links_are_few_and_different() {
        let mut links = Links::default();
        links.add(SpanLink::NONE);
        assert_eq!(links, Links::default());
        for n in 1..=40 {
            links.add(link(n));
            links.add(link(n.min(32)));
        }
        assert_eq!((links.links.len(), links.left_out), (LINKS_MAX, 8));
    }

    #[test]
    fn what_clients_send_is_clipped_between_characters() {
        assert_eq!(clip("client"), "client");
        let long = "ä".repeat(200);
        assert_eq!(clip(&format!("x{long}")).len(), 255);
    }

    #[test]
    fn without_a_subscriber_nothing_is_evaluated() {
        let span = append(|| panic!("nobody listens"));
        assert!(span.is_disabled());
        fail(&span, "error", Some("message"));
        assert_eq!(SpanLink::to(&span), SpanLink::NONE);
    }
}
