//! Produce: checks each batch, appends them all, then waits for them to be durable.
//!
//! Everything up to the last append happens before the first `await`, so that requests of one connection reach their
//! partitions in the order in which they were sent. An ack means durable for acks=1 as for acks=all; acks=0 skips the
//! waiting and gets no response at all (if something is wrong already, the connection closes, as with Kafka, so that the
//! client looks for the leader again).

use super::common::{self, text};
use super::{ConnectionContext, Reply, Request};
use crate::actors::partition::handle::{AppendError, AppendReceiver, Appended, Origin, PartitionRef, ValidBatch};
use crate::clock::monotonic;
use crate::ids::{PartitionKey, TopicId};
use crate::metadata::image::{ClusterImage, Topic};
use crate::protocol::error_code::{self, ErrorCode};
use crate::protocol::topic_name;
use crate::protocol::validate::{self, BatchLimits, RejectedBatch};
use crate::trace::{self, Watch};
use bytes::Bytes;
use kafka_protocol::messages::produce_request::TopicProduceData;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{Instrument, Span};
use uuid::Uuid;

/// Produce requests that Kafka's clients keep in flight on a connection (`max.in.flight.requests.per.connection`; the most
/// that idempotence allows). With fewer a client that waits is told by its silence.
const CLIENT_IN_FLIGHT: usize = 5;
/// How long acks=1 is waited for. Kafka answers it without waiting for replicas, so its `timeout_ms` does not apply.
const ACKS_ONE_WAIT: Duration = Duration::from_secs(30);
/// Longest wait that a client may ask for.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// What an overloaded partition asks its producers to wait, ms; an object store that does badly asks for its own.
const OVERLOAD_THROTTLE_MS: i32 = 100;
/// A stored batch shares the buffer of its request, and keeps all of it alive as long as it waits for durability or is in
/// the tail. Both are bounded by the bytes of batches. Therefore a request may be so many times as long as the batches
/// that are stored of it; out of a longer one they are copied.
const SHARED_PARTS_MAX: usize = 2;

/// Why nothing was appended, or why it is not known whether something was.
#[derive(Debug)]
struct Failure {
    code: ErrorCode,
    message: Option<String>,
    record_errors: Vec<(i32, String)>,
    overloaded: bool,
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None, record_errors: Vec::new(), overloaded: false }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        let overloaded = error == AppendError::Overloaded;
        Self { message: Some(error.to_string()), overloaded, ..error_code::of_append(&error).into() }
    }
}

impl From<RejectedBatch> for Failure {
    fn from(error: RejectedBatch) -> Self {
        let message = Some(error.to_string());
        Self { message, record_errors: error.record_errors(), ..error_code::of_batch(&error).into() }
    }
}

/// One partition of the request, and how far its append has come.
struct Slot<A> {
    index: i32,
    key: Option<PartitionKey>,
    append: Result<A, Failure>,
}

/// One topic of the request.
struct TopicSlots<A> {
    name: TopicName,
    id: Uuid,
    slots: Vec<Slot<A>>,
}

/// A good batch and where it goes.
struct Checked {
    partition: PartitionRef,
    batch: ValidBatch,
}

pub(super) async fn handle(ctx: Rc<ConnectionContext>, mut request: Request) -> Reply {
    let version = request.api_version;
    let (received, request_len) = (request.received, request.body.len());
    let client_waits = request.ahead + 1 >= CLIENT_IN_FLIGHT;
    let body: ProduceRequest = match common::decode(&request) {
        Ok(body) => body,
        Err(close) => return close,
    };
    let watch = Watch::of(&mut request);
    drop(request);
    let (acks, timeout_ms) = (body.acks, body.timeout_ms);
    let span = Span::current();
    let topics = trace::append(|| shape(&body)).in_scope(|| {
        let image = ctx.broker.image.load_full();
        let call = Call { ctx: &ctx, image: &image, version, acks };
        let topics: Vec<_> = body.topic_data.into_iter().map(|t| check_topic(&call, t)).collect();
        let good = topics.iter().flat_map(|t| &t.slots).filter_map(|s| s.append.as_ref().ok());
        let stored_len: usize = good.map(|c| c.batch.bytes.len()).sum();
        let copies = stored_len < request_len / SHARED_PARTS_MAX;
        trace_content(&span, &topics);
        let origin = Origin { trace: watch.context(), client_waits };
        topics.into_iter().map(|t| append_topic(t, copies, origin)).collect::<Vec<_>>()
    });
    let appended = monotonic();
    let append = (trace::APPEND, received, appended);
    if acks == 0 {
        watch.done(ctx.peer, Duration::ZERO, None, &[append]);
        let failed = topics.iter().flat_map(|t| &t.slots).find_map(|s| s.append.as_ref().err());
        return match failed {
            Some(failure) => Reply::Close(format!("produce with acks=0 failed: {}", failure.code)),
            None => throttled(Reply::None, ctx.broker.health.throttle_ms()),
        };
    }
    let wait = if acks == 1 { ACKS_ONE_WAIT } else { Duration::from_millis(timeout_ms.max(0) as u64).min(WAIT_MAX) };
    let respond = respond(&ctx, version, topics, received + wait);
    let (response, failure) = respond.instrument(trace::await_flush()).await;
    let reply = throttled(common::encode(&response, version), response.throttle_time_ms as u64);
    if let Some(code) = failure {
        trace::fail(&span, code, None);
    }
    ctx.broker.latencies.produce.record_duration(received.elapsed());
    let failure = failure.as_ref().map(|code| code as &dyn Display);
    watch.done(ctx.peer, Duration::ZERO, failure, &[append, (trace::AWAIT_FLUSH, appended, monotonic())]);
    reply
}

/// The reply, with what follows from asking the client to wait for `throttle_ms`.
fn throttled(reply: Reply, throttle_ms: u64) -> Reply {
    let throttle = Duration::from_millis(throttle_ms);
    match reply {
        reply if throttle.is_zero() => reply,
        Reply::Body(body) => Reply::Throttled(Some(body), throttle),
        Reply::None => Reply::Throttled(None, throttle),
        reply @ (Reply::Throttled(..) | Reply::Close(_)) => reply,
    }
}

/// Partitions of the request, and bytes of their batches.
fn shape(body: &ProduceRequest) -> (usize, usize) {
    let partitions = || body.topic_data.iter().flat_map(|t| &t.partition_data);
    (partitions().count(), partitions().filter_map(|p| p.records.as_ref()).map(Bytes::len).sum())
}

/// Tells the span of a sampled request about its content.
fn trace_content(request: &Span, topics: &[TopicSlots<Checked>]) {
    if request.is_disabled() {
        return;
    }
    if let [topic] = topics
        && let [slot] = &topic.slots[..]
    {
        trace::destination(request, &topic.name, slot.index);
    }
    let good = topics.iter().flat_map(|t| &t.slots).filter_map(|s| s.append.as_ref().ok());
    trace::link_records(request, good.map(|checked| (&checked.batch.header, &checked.batch.bytes[..])));
}

/// What all batches of a request are checked with.
struct Call<'a> {
    ctx: &'a ConnectionContext,
    image: &'a ClusterImage,
    version: i16,
    acks: i16,
}

fn check_topic(call: &Call<'_>, data: TopicProduceData) -> TopicSlots<Checked> {
    let topic = find_topic(call.image, call.version, &data).and_then(|topic| match call.acks {
        -1..=1 => Ok(topic),
        _ => Err(ErrorCode::InvalidRequiredAcks),
    });
    let slots = data.partition_data.into_iter().map(|partition| {
        let index = partition.index;
        let key = topic.as_ref().ok().map(|t| common::partition_key(t, index));
        let append = match &topic {
            Ok(topic) => check(call, topic, index, partition.records.unwrap_or_default()),
            Err(code) => Err((*code).into()),
        };
        Slot { index, key, append }
    });
    TopicSlots { slots: slots.collect(), name: data.name, id: data.topic_id }
}

fn find_topic<'a>(image: &'a ClusterImage, version: i16, data: &TopicProduceData) -> Result<&'a Arc<Topic>, ErrorCode> {
    if version >= 13 {
        return image.topic_by_id(TopicId(data.topic_id)).ok_or(ErrorCode::UnknownTopicId);
    }
    image.topic(&data.name).ok_or_else(|| match topic_name::check(&data.name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    })
}

fn check(call: &Call<'_>, topic: &Topic, index: i32, records: Bytes) -> Result<Checked, Failure> {
    let broker = &call.ctx.broker;
    let partition = common::led(broker, topic, index)?;
    let limits = BatchLimits::new(&topic.config, call.version, broker.clock.wall_ms());
    let batch = validate::validate(&records, &limits)?;
    Ok(Checked { partition, batch })
}

fn append_topic(topic: TopicSlots<Checked>, copies: bool, origin: Origin) -> TopicSlots<AppendReceiver> {
    let append = |Checked { partition, mut batch }: Checked| {
        if copies {
            batch.bytes = Bytes::copy_from_slice(&batch.bytes);
        }
        Ok(partition.append_from(batch, origin)?)
    };
    let slots = topic.slots.into_iter().map(|slot| Slot {
        index: slot.index,
        key: slot.key,
        append: slot.append.and_then(append),
    });
    TopicSlots { slots: slots.collect(), name: topic.name, id: topic.id }
}

/// The response, and the first error in it.
async fn respond(
    ctx: &ConnectionContext,
    version: i16,
    topics: Vec<TopicSlots<AppendReceiver>>,
    deadline: Instant,
) -> (ProduceResponse, Option<ErrorCode>) {
    let mut response = ProduceResponse::default();
    let mut moved = BTreeSet::new();
    let mut failure = None;
    for topic in topics {
        let mut partitions = Vec::with_capacity(topic.slots.len());
        for slot in topic.slots {
            let outcome = match slot.append {
                Ok(receiver) => outcome(receiver, deadline).await,
                Err(failure) => Err(failure),
            };
            failure = failure.or(outcome.as_ref().err().map(|f| f.code));
            if outcome.as_ref().is_err_and(|f| f.overloaded) {
                response.throttle_time_ms = OVERLOAD_THROTTLE_MS;
            }
            let mut partition = partition_response(slot.index, outcome);
            let not_leader = partition.error_code == ErrorCode::NotLeaderOrFollower.code();
            if let Some(key) = slot.key.filter(|_| not_leader && version >= 10) {
                let (node, epoch) = common::leader(&ctx.broker, &ctx.broker.image.load(), &key);
                if let Some(node) = node {
                    moved.insert(node);
                    partition.current_leader =
                        LeaderIdAndEpoch::default().with_leader_id(node.0.into()).with_leader_epoch(epoch.0);
                }
            }
            partitions.push(partition);
        }
        let mut entry = TopicProduceResponse::default().with_partition_responses(partitions);
        // Both are written in some versions only; the codec ignores the other.
        entry.name = topic.name;
        entry.topic_id = topic.id;
        response.responses.push(entry);
    }
    if !moved.is_empty() {
        let nodes = common::nodes(ctx, &ctx.broker.image.load());
        response.node_endpoints = nodes
            .into_iter()
            .filter(|n| moved.contains(&n.id))
            .map(|n| {
                NodeEndpoint::default()
                    .with_node_id(n.id.0.into())
                    .with_host(n.host)
                    .with_port(n.port)
                    .with_rack(n.rack)
            })
            .collect();
    }
    let throttle_ms = ctx.broker.health.throttle_ms().min(i32::MAX as u64) as i32;
    response.throttle_time_ms = response.throttle_time_ms.max(throttle_ms);
    (response, failure)
}

async fn outcome(receiver: AppendReceiver, deadline: Instant) -> Result<Appended, Failure> {
    match tokio::time::timeout_at(deadline, receiver).await {
        Ok(Ok(outcome)) => Ok(outcome?),
        Ok(Err(_dropped)) => Err(AppendError::Interrupted.into()),
        Err(_elapsed) => Err(ErrorCode::RequestTimedOut.into()),
    }
}

fn partition_response(index: i32, outcome: Result<Appended, Failure>) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(index);
    match outcome {
        Ok(appended) => response
            .with_base_offset(appended.base_offset.0)
            .with_log_append_time_ms(appended.log_append_time_ms)
            .with_log_start_offset(appended.log_start.0),
        Err(failure) => {
            let blame = failure.record_errors.into_iter().map(|(index, message)| {
                BatchIndexAndErrorMessage::default()
                    .with_batch_index(index)
                    .with_batch_index_error_message(Some(message.into()))
            });
            response
                .with_error_code(failure.code.code())
                .with_base_offset(-1)
                .with_record_errors(blame.collect())
                .with_error_message(failure.message.as_deref().map(text))
        }
    }
}
