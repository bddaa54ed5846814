//! What handlers share: decoding and encoding, who leads what, and waiting for the cluster image.

use super::failures::ErrorCodes;
use super::{ConnectionContext, Reply, Request};
use crate::actors::partition::handle::PartitionRef;
use crate::actors::partition::view::PartitionView;
use crate::broker::Broker;
use crate::ids::{BrokerId, LeaderEpoch, PartitionIndex, PartitionKey, TopicId};
use crate::metadata::admin::AdminError;
use crate::metadata::image::{ClusterImage, Topic};
use crate::protocol::error_code::{self, ErrorCode};
use crate::protocol::splice;
use crate::trace::{self, Watch};
use futures::future::LocalBoxFuture;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Span;

/// How often a handler that waits for the cluster image looks at it.
const IMAGE_POLL_INTERVAL_MS: u64 = 5;
/// How long a handler waits for the image to show its own change.
const IMAGE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Decodes a request, or says why the connection must close: what follows cannot be understood either.
pub(super) fn decode<Q: Decodable>(request: &Request) -> Result<Q, Reply> {
    let mut body = request.body.clone();
    Q::decode(&mut body, request.api_version).map_err(|e| {
        Reply::Close(format!("api key {} version {} cannot be read: {e}", request.api_key, request.api_version))
    })
}

/// Encodes a response.
pub(super) fn encode<R: Encodable>(response: &R, version: i16) -> Reply {
    reply(splice::encode_body(response, version))
}

/// The reply for an encoded response.
pub(super) fn reply(encoded: Result<Vec<bytes::Bytes>, splice::EncodeError>) -> Reply {
    encoded.map_or_else(|e| Reply::Close(e.to_string()), Reply::Body)
}

/// Runs a handler that maps a decoded request and its version to a response.
pub(super) fn serve<Q, R, F>(
    ctx: Rc<ConnectionContext>,
    mut request: Request,
    handler: impl FnOnce(Rc<ConnectionContext>, Q, Call) -> F + 'static,
) -> LocalBoxFuture<'static, Reply>
where
    Q: Decodable + 'static,
    R: Encodable + ErrorCodes,
    F: Future<Output = R> + 'static,
{
    Box::pin(async move {
        let call = Call { version: request.api_version, received: request.received };
        match decode(&request) {
            Ok(body) => {
                let (watch, peer) = (Watch::of(&mut request), ctx.peer);
                drop(request);
                let response = handler(ctx, body, call).await;
                let span = Span::current();
                if !span.is_disabled()
                    && let Some(error) = response.failure().and_then(ParseResponseErrorCode::err)
                {
                    trace::fail(&span, error, None);
                }
                watch.done(peer, Duration::ZERO, None, &[]);
                encode(&response, call.version)
            }
            Err(close) => close,
        }
    })
}

/// What a handler knows about a request beside its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// The API version.
    pub version: i16,
    /// When it arrived.
    pub received: Instant,
}

impl Call {
    /// The end of a client's `timeout_ms`, which is trusted up to `max`.
    pub fn deadline(&self, timeout_ms: i32, max: Duration) -> Instant {
        self.received + Duration::from_millis(timeout_ms.max(0) as u64).min(max)
    }
}

/// Why a part of an administrative request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: ErrorCode,
    /// For people; where the response has no room for it, only the code is sent.
    pub message: String,
}

/// Refuses a part of a request.
pub(super) fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        Self { code: error_code::of_admin(&error), message: error.to_string() }
    }
}

/// The topic of this name; one that no topic can have is simply not known, as in Kafka.
pub(super) fn find_topic<'a>(image: &'a ClusterImage, name: &str) -> Result<&'a Arc<Topic>, Refusal> {
    image.topic(name).ok_or_else(|| Refusal {
        code: ErrorCode::UnknownTopicOrPartition,
        message: format!("topic {name} does not exist"),
    })
}

/// Values that are there more than once.
pub(super) fn duplicates<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).collect()
}

/// True if a manual assignment names different live brokers, at least one.
pub(super) fn are_live(image: &ClusterImage, brokers: &[kafka_protocol::messages::BrokerId]) -> bool {
    let live = image.brokers();
    let different: BTreeSet<i32> = brokers.iter().map(|b| b.0).collect();
    let all_live = different.iter().all(|b| live.contains_key(&BrokerId(*b)));
    !different.is_empty() && different.len() == brokers.len() && all_live
}

/// A string of a response.
pub(super) fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// A topic name of a response.
pub(super) fn topic_name(s: &str) -> TopicName {
    TopicName(text(s))
}

/// The id of partition `index` of `topic`.
pub(super) fn partition_key(topic: &Topic, index: i32) -> PartitionKey {
    PartitionKey { topic: topic.value.id, partition: PartitionIndex(index) }
}

/// True if `topic` has a partition `index`.
pub(super) fn has_partition(topic: &Topic, index: i32) -> bool {
    (0..topic.value.partitions).contains(&index)
}

/// The partition, if it exists and this broker serves it.
pub(super) fn led(broker: &Broker, topic: &Topic, index: i32) -> Result<PartitionRef, ErrorCode> {
    if !has_partition(topic, index) {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    if broker.standing.has_slept() {
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    broker.directory.get(&partition_key(topic, index)).ok_or(ErrorCode::NotLeaderOrFollower)
}

/// Compares the leader epoch that a client believes in (-1: none) with the one under which this broker leads.
pub(super) fn check_epoch(view: &PartitionView, believed: i32) -> Result<(), ErrorCode> {
    match believed.cmp(&view.leader_epoch.0) {
        _ if believed < 0 => Ok(()),
        std::cmp::Ordering::Less => Err(ErrorCode::FencedLeaderEpoch),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(ErrorCode::UnknownLeaderEpoch),
    }
}

/// Who leads a partition now, and under which epoch (-1 before the first). A partition that this broker owns but does
/// not serve yet has no leader, so that clients wait for it instead of asking in vain.
pub(super) fn leader(broker: &Broker, image: &ClusterImage, key: &PartitionKey) -> (Option<BrokerId>, LeaderEpoch) {
    if let Some(partition) = broker.directory.get(key) {
        return (Some(broker.node), partition.view.leader_epoch);
    }
    let epoch = image.partition(key).map_or(LeaderEpoch(-1), |p| p.epoch);
    (image.leader(key).filter(|node| *node != broker.node), epoch)
}

/// A live broker as clients see it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub id: BrokerId,
    pub host: StrBytes,
    pub port: i32,
    pub rack: Option<StrBytes>,
}

/// Live brokers by id. This broker is among them even when its registration has not reached the image yet.
pub(super) fn nodes(ctx: &ConnectionContext, image: &ClusterImage) -> Vec<Node> {
    let own = ctx.broker.node;
    let mut nodes: Vec<Node> = Vec::new();
    for (id, live) in image.brokers() {
        let (host, port) = if id == own { (&ctx.advertised.0, ctx.advertised.1) } else { (&live.host, live.port) };
        let rack = live.rack.as_deref().map(text);
        nodes.push(Node { id, host: text(host), port: i32::from(port), rack });
    }
    if nodes.iter().all(|n| n.id != own) {
        let (host, port) = &ctx.advertised;
        nodes.push(Node { id: own, host: text(host), port: i32::from(*port), rack: None });
        nodes.sort_by_key(|n| n.id);
    }
    nodes
}

/// Until when to wait for the image to show a change of our own that the metadata store has already.
pub(super) fn soon() -> Instant {
    crate::clock::monotonic() + IMAGE_WAIT_MAX
}

/// Waits until `done`, at most until `deadline`; says whether it came to be.
pub(super) async fn wait_until(deadline: Instant, mut done: impl FnMut() -> bool) -> bool {
    while !done() {
        let next = crate::clock::monotonic() + Duration::from_millis(IMAGE_POLL_INTERVAL_MS);
        if next > deadline {
            return false;
        }
        tokio::time::sleep_until(next).await;
    }
    true
}

/// True once all partitions of a topic have a leader that serves them, as far as this broker knows.
pub(super) fn is_led(broker: &Broker, name: &str, id: TopicId) -> bool {
    let image = broker.image.load();
    let Some(topic) = image.topic(name).filter(|t| t.value.id == id) else {
        return false;
    };
    (0..topic.value.partitions).all(|p| leader(broker, &image, &partition_key(topic, p)).0.is_some())
}
