//! The spans of the process: their names, attributes and links.
//!
//! One function per span, so that names are decided here and nowhere else. Attributes follow OpenTelemetry's semantic
//! conventions where these have a word (`messaging.*`, `rpc.*`, `db.*`, `network.*`, `aws.s3.key`, `error.type`), else they
//! begin with `kafka.` (of the protocol) or `kafscale.`. [`catalogue`] says what each means; `docs/telemetry.md` shows it, and the
//! trees that they form.
//!
//! All spans have the target [`TARGET`], which `telemetry.rs` shows to the exporter only. Without an exporter the interest
//! of each callsite is "never": making a span is one load of an atomic, its attributes are not evaluated, nothing is
//! allocated, and every function here returns a span that does nothing. With one, a request draws before anything is made of it
//! ([`request`]); most have no span, and so have the parts of them. [`Watch`] is for those that turn out slow.
//!
//! Between actors and threads a trace travels as a [`TraceContext`] in the message. Within one task the current span is the
//! parent.
//!
//! What clients send is bounded before it becomes an attribute, and so is the number of spans per request.

pub mod catalogue;
mod context;
mod peek;
mod settings;
mod watch;

pub use context::{AGE_MS, LINKS_MAX, Links, TraceContext, keep_slow_links, slow_flush};
pub use peek::link_records;
pub use settings::{Tracing, slow_from, start};
pub use watch::{Stage, Watch};

use crate::protocol::handlers::{Reply, Request};
use crate::storage::{ObjectKey, StoreError};
use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

/// Target of every span.
pub const TARGET: &str = "kafscale::trace";
/// Name of the span of a request; the API follows.
pub const REQUEST: &str = "kafka.request";
/// Parts of a Produce request: its batches go to their partitions, and become durable.
pub const APPEND: &str = "partition.append";
/// See [`APPEND`].
pub const AWAIT_FLUSH: &str = "await.flush";
/// Chunks and indexes of one read that get a span of their own.
pub const CACHE_SPANS_MAX: usize = 16;
/// Bytes of a client's text that become an attribute.
const TEXT_LEN_MAX: usize = 256;

/// A span that is only made as a part of another one.
macro_rules! part {
    ($($tokens:tt)*) => {
        if is_within() { info_span!(target: TARGET, $($tokens)*) } else { Span::none() }
    };
}

/// True if the caller runs in a span. What is not sampled has none, and its parts must not become traces of their own.
pub fn is_within() -> bool {
    (cfg!(test) || settings::tracing().is_some()) && !Span::current().is_none()
}

/// A request: the root of its trace, if it draws one. `request` is told which trace it belongs to.
pub fn request(request: &mut Request, peer: SocketAddr, cluster_id: &str) -> Span {
    let Some(tracing) = settings::tracing() else { return Span::none() };
    if !tracing.share.keeps(crate::rng::u64()) {
        request.trace = settings::slow().map_or(TraceContext::NONE, |_| TraceContext::undecided());
        return Span::none();
    }
    let span = request_span(request, peer, cluster_id);
    request.trace = TraceContext::of(&span);
    span
}

fn request_span(request: &Request, peer: SocketAddr, cluster_id: &str) -> Span {
    info_span!(
        target: TARGET,
        parent: None,
        "kafka.request",
        otel.name = format!("{REQUEST} {:?}", Api(request.api_key)),
        otel.kind = "server",
        rpc.system = "kafka",
        rpc.method = ?Api(request.api_key),
        messaging.system = "kafka",
        messaging.client.id = request.client_id.as_deref().map(clip),
        messaging.kafka.cluster.id = cluster_id,
        messaging.destination.name = Empty,
        messaging.destination.partition.id = Empty,
        network.peer.address = %peer.ip(),
        network.peer.port = i64::from(peer.port()),
        kafka.api_key = i64::from(request.api_key),
        kafka.api_version = i64::from(request.api_version),
        kafka.correlation_id = i64::from(request.correlation_id),
        kafka.request.bytes = request.body.len() as i64,
        kafka.response.bytes = Empty,
        kafka.throttle_ms = Empty,
        kafscale.slow = Empty,
        "error.type" = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    )
}

/// Tells the span of a request what became of it.
pub fn replied(span: &Span, reply: &Reply) {
    let len = |parts: &[Bytes]| parts.iter().map(Bytes::len).sum::<usize>() as i64;
    match reply {
        Reply::Body(parts) => _ = span.record("kafka.response.bytes", len(parts)),
        Reply::None => {}
        Reply::Throttled(parts, pause) => {
            if let Some(parts) = parts {
                span.record("kafka.response.bytes", len(parts));
            }
            span.record("kafka.throttle_ms", pause.as_millis() as i64);
        }
        Reply::Close(reason) => fail(span, "connection_closed", Some(reason)),
    }
}

/// The only topic and partition of a request.
pub fn destination(span: &Span, topic: &str, partition: i32) {
    if !span.is_disabled() {
        span.record("messaging.destination.name", clip(topic));
        span.record("messaging.destination.partition.id", display(partition));
    }
}

/// Says that what `span` stands for failed: with a Kafka error, or by closing the connection. The first failure counts.
pub fn fail(span: &Span, kind: impl fmt::Display, message: Option<&str>) {
    if span.is_disabled() {
        return;
    }
    span.record("error.type", display(kind));
    span.record("otel.status_code", "ERROR");
    if let Some(message) = message {
        span.record("otel.status_description", clip(message));
    }
}

/// Checking the batches of a Produce request and handing them to their partitions. `shape` is asked for the number of
/// partitions and the bytes of their batches.
pub fn append(shape: impl FnOnce() -> (usize, usize)) -> Span {
    let span = part!("partition.append", kafka.partitions = Empty, kafka.batch.bytes = Empty);
    if !span.is_disabled() {
        let (partitions, bytes) = shape();
        span.record("kafka.partitions", partitions as i64).record("kafka.batch.bytes", bytes as i64);
    }
    span
}

/// Waiting until the batches of a Produce request are durable.
pub fn await_flush() -> Span {
    part!("await.flush")
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
    /// Records.
    pub records: u64,
    /// Partitions.
    pub partitions: usize,
    /// How long its oldest batch waited for the cut, µs.
    pub age_us: u64,
}

/// A segment from its cut, which is at `now_us` of the time of `links`, until its partitions are told that it is committed: the
/// root of its own trace, linked to the requests whose batches it carries.
pub fn flush(shape: SegmentShape, links: &Links, now_us: u64) -> Span {
    let span = info_span!(
        target: TARGET,
        parent: None,
        "segment.flush",
        kafscale.segment.seq = shape.seq as i64,
        kafscale.segment.bytes = shape.bytes as i64,
        kafscale.segment.batches = shape.batches as i64,
        kafscale.segment.records = shape.records as i64,
        kafscale.segment.partitions = shape.partitions as i64,
        kafscale.segment.age_ms = shape.age_us as f64 / 1e3,
        kafscale.links_left_out = links.left_out as i64,
    );
    if !span.is_disabled() {
        links.tell(&span, now_us);
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

/// The second of two requests that are under way for the same.
pub fn hedge() -> Span {
    part!("s3.hedge", otel.kind = "client", rpc.system = "aws-api", rpc.service = "S3")
}

/// An attempt at the object store failed, and the current span goes on with another one.
pub fn retry(error: &StoreError, attempt: u32) {
    if is_within() {
        tracing::info!(target: TARGET, reason = %error, attempt, "s3.retry");
    }
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
        kafscale.etcd.revision = Empty,
        kafscale.attempts = Empty,
    )
}

/// What came of the transaction of `spans`.
pub fn committed(spans: &[Span], revision: i64, attempts: u32) {
    for span in spans {
        span.record("kafscale.etcd.revision", revision).record("kafscale.attempts", i64::from(attempts));
    }
}

/// One look of a Fetch at its partitions that reads from some of them.
pub fn fetch_read(partitions: usize) -> Span {
    part!("fetch.read", kafka.partitions = partitions as i64)
}

/// Waiting for the index of a segment that is not in memory: it says where chunks begin. `request` is who waits.
pub fn index(request: TraceContext, key: &ObjectKey) -> Span {
    below(request, |parent| info_span!(target: TARGET, parent: parent, "cache.index", aws.s3.key = %key))
}

/// Looking for a chunk in the block cache, and waiting for it. `request` is who waits.
pub fn cache(request: TraceContext, hit: bool, key: &ObjectKey, bytes: u64) -> Span {
    // What is there costs nothing, and so is not worth a span that is probably not kept.
    let request = if hit { TraceContext::NONE } else { request };
    below(request, |parent| {
        info_span!(
            target: TARGET,
            parent: parent,
            "cache",
            kafscale.cache.hit = hit,
            aws.s3.key = %key,
            kafscale.chunk.bytes = bytes as i64,
        )
    })
}

/// A part of the current span, or else of a request that is not sampled but may turn out slow.
fn below(request: TraceContext, span: impl FnOnce(Option<tracing::Id>) -> Span) -> Span {
    if is_within() {
        return span(Span::current().id());
    }
    if !request.is_undecided() {
        return Span::none();
    }
    let span = span(None);
    if !span.is_disabled() {
        request.adopt(&span);
    }
    span
}

/// Reading a range of an object.
pub fn get(key: &ObjectKey, range: &Range<u64>) -> Span {
    let span = get_span(key);
    span.record("kafscale.range.start", range.start as i64).record("kafscale.range.end", range.end as i64);
    span
}

/// Reading the end of an object, where its index is, `len` bytes at first.
pub fn get_suffix(key: &ObjectKey, len: u64) -> Span {
    let span = get_span(key);
    span.record("kafscale.range.suffix", len as i64);
    span
}

fn get_span(key: &ObjectKey) -> Span {
    info_span!(
        target: TARGET,
        "s3.get",
        otel.kind = "client",
        rpc.system = "aws-api",
        rpc.service = "S3",
        rpc.method = "GetObject",
        aws.s3.key = %key,
        kafscale.range.start = Empty,
        kafscale.range.end = Empty,
        kafscale.range.suffix = Empty,
        kafscale.bucket = Empty,
    )
}

/// Tells the current read which bucket answered, if there are two.
pub fn read_from(bucket: &'static str) {
    if is_within() {
        Span::current().record("kafscale.bucket", bucket);
    }
}

/// The members of a group change, from the first news of it until all have their assignment.
pub fn rebalance(group: &str) -> Span {
    info_span!(
        target: TARGET,
        parent: None,
        "group.rebalance",
        messaging.consumer.group.name = clip(group),
        kafscale.group.members = Empty,
        kafscale.group.state = Empty,
    )
}

/// A broker gives everything away, from the request until it has nothing left or is called off.
pub fn drain(round: u64) -> Span {
    info_span!(
        target: TARGET,
        parent: None,
        "drain",
        kafscale.drain.round = round as i64,
        kafscale.drain.partitions = Empty,
        kafscale.drain.outcome = Empty,
    )
}

/// One look of the operator at a resource.
pub fn reconcile(kind: &'static str, name: &dyn fmt::Display) -> Span {
    info_span!(
        target: TARGET,
        parent: None,
        "operator.reconcile",
        otel.name = format!("operator.reconcile {kind}"),
        kafscale.resource.kind = kind,
        kafscale.resource.name = %name,
        "error.type" = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    )
}

/// The operator tries whether snapshots of a cluster can be written.
pub fn snapshot_check(bucket: &str) -> Span {
    info_span!(target: TARGET, parent: None, "snapshot.check", otel.kind = "client", rpc.system = "aws-api", aws.s3.bucket = bucket)
}

/// A request of the console.
pub fn console(method: &str, path: &str) -> Span {
    info_span!(
        target: TARGET,
        parent: None,
        "http.request",
        otel.name = Empty,
        otel.kind = "server",
        http.request.method = clip(method),
        http.route = Empty,
        url.path = clip(path),
        http.response.status_code = Empty,
        kafscale.request_id = Empty,
        otel.status_code = Empty,
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
#[path = "trace/tests.rs"]
mod tests;
