//! Fetch: reads what there is, or waits for it.
//!
//! A round looks at every partition's high watermark (an atomic), reads those that have something, and answers if
//! something is wrong, if there are enough bytes, or if time is up. Otherwise one `Notify` is registered with all views
//! and the next round runs when any of them commits, trims or closes: a long poll on thousands of idle partitions costs
//! atomics only.
//!
//! Reads from the tail in memory are immediate. Reads from the object store run beside the request; one that is not
//! done in time is left to finish (its blocks are cached for the next fetch), and the partition's answer is empty.
//!
//! Consumers with a rack may be sent to a broker nearby, and are served with what another broker leads if this one follows
//! it ([`preferred`]).

use super::common;
use super::fetch_session::{FetchKey, FetchParams, Mode, SessionRequest, Target, Told, TopicKey};
use super::preferred::{self, Elsewhere};
use super::{ConnectionContext, Reply, Request, offsets};
use crate::actors::follower::Reading;
use crate::actors::partition::view::{PartitionView, TailRead, WaiterGuard};
use crate::broker::FetchSource;
use crate::clock::monotonic;
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionIndex, PartitionKey, TopicId};
use crate::metadata::image::ClusterImage;
use crate::protocol::batch::StoredBatch;
use crate::protocol::error_code::{self, ErrorCode};
use crate::protocol::splice::Splicer;
use crate::sabotage;
use crate::storage::StoreError;
use crate::storage::reader::ReadError;
use crate::trace::{self, TraceContext, Watch};
use bytes::Bytes;
use kafka_protocol::messages::fetch_response::{
    EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// Most bytes of one response (Kafka's `fetch.max.bytes` of the broker).
const RESPONSE_BYTES_MAX: i32 = 55 * 1024 * 1024;
/// The same while replies of the process wait for slow peers.
const CROWDED_BYTES_MAX: i32 = 512 << 10;
/// Reads from the object store that one request has in flight.
const COLD_READS_MAX: usize = 8;
/// How long a read from the object store is waited for even when the client's wait is shorter: a client that does not
/// wait at all would otherwise never see old data.
const COLD_READ_WAIT_MIN: Duration = Duration::from_millis(500);
/// Isolation level under which aborted transactions are listed.
const READ_COMMITTED: i8 = 1;

/// One partition of a running fetch.
#[derive(Debug)]
struct Slot {
    target: Target,
    /// The partition's id, if its topic is known.
    key: Option<PartitionKey>,
    view: Result<Arc<PartitionView>, ErrorCode>,
    /// Another broker leads it, and this one follows.
    reading: Option<Reading>,
    outcome: Outcome,
    /// High watermark at the last read: below it there is nothing new.
    read_up_to: Option<Offset>,
}

/// What is known about a slot after a round.
#[derive(Debug, Default)]
struct Outcome {
    error: Option<ErrorCode>,
    diverging: Option<(LeaderEpoch, Offset)>,
    /// The client should read from this broker.
    preferred: Option<BrokerId>,
    batches: Vec<StoredBatch>,
    bytes: usize,
}

type ColdRead = JoinHandle<Result<Vec<StoredBatch>, ReadError>>;

/// A running fetch.
#[derive(Debug)]
struct Fetch {
    slots: Vec<Slot>,
    bytes_min: i64,
    bytes_max: usize,
    deadline: Instant,
    /// Where the client may be sent.
    elsewhere: Option<Elsewhere>,
    /// Something was read that was not in a partition's tail.
    cold: bool,
    /// The request's trace.
    trace: TraceContext,
    /// How long there was nothing to do but to wait for records.
    waited: Duration,
}

pub(super) async fn handle(ctx: Rc<ConnectionContext>, mut request: Request) -> Reply {
    let (version, received) = (request.api_version, request.received);
    let body: FetchRequest = match common::decode(&request) {
        Ok(body) => body,
        Err(close) => return close,
    };
    let watch = Watch::of(&mut request);
    drop(request);
    let limits = (body.max_wait_ms, body.min_bytes, body.max_bytes, body.isolation_level);
    let (max_wait_ms, min_bytes, max_bytes, isolation_level) = limits;
    let rack = body.rack_id.clone();
    let session = session_request(body, version);
    let begun = ctx.sessions.lock().begin(ctx.broker.clock.monotonic_ms(), session);
    let (mode, targets) = match begun {
        Ok(begun) => begun,
        Err(code) => {
            trace::fail(&Span::current(), code, None);
            return common::encode(&FetchResponse::default().with_error_code(code.code()), version);
        }
    };
    let image = ctx.broker.image.load_full();
    let slots: Vec<Slot> =
        targets.into_iter().map(|target| Slot::new(&ctx, &image, target, !rack.is_empty())).collect();
    if trace::is_within() {
        trace_target(&image, &slots);
    }
    let elsewhere = Elsewhere::of(&ctx, &image, &rack);
    drop(image);
    let mut fetch = Fetch {
        slots,
        bytes_min: i64::from(min_bytes.min(RESPONSE_BYTES_MAX)),
        bytes_max: max_bytes.clamp(0, if (ctx.crowded)() { CROWDED_BYTES_MAX } else { RESPONSE_BYTES_MAX }) as usize,
        deadline: received + Duration::from_millis(max_wait_ms.max(0) as u64),
        elsewhere,
        cold: false,
        trace: watch.context(),
        waited: Duration::ZERO,
    };
    fetch.settle(received + preferred::SETTLE_WAIT).await;
    fetch.run(&ctx).await;
    let doubted = ctx.broker.standing.is_doubted();
    if doubted {
        fetch.send_on(ctx.broker.standing.has_slept());
    }
    fetch.count_followed(doubted);
    let (source, waited) = (fetch.source(), fetch.waited);
    let reply = respond(&ctx, version, isolation_level == READ_COMMITTED, mode, fetch.slots);
    ctx.broker.latencies.fetch[source as usize].record_duration(received.elapsed());
    watch.done(ctx.peer, waited, None, &[]);
    reply
}

/// Tells the span of a sampled request which partition it is about, if that is one.
fn trace_target(image: &ClusterImage, slots: &[Slot]) {
    let [slot] = slots else { return };
    let name = match &slot.target.key.topic {
        TopicKey::Name(name) => Some(&**name),
        TopicKey::Id(id) => image.topic_by_id(TopicId(*id)).map(|topic| &*topic.name),
    };
    if let Some(name) = name {
        trace::destination(&Span::current(), name, slot.target.key.partition);
    }
}

fn session_request(body: FetchRequest, version: i16) -> SessionRequest {
    let by_id = version >= 13;
    let topic_key = |name: &str, id: uuid::Uuid| if by_id { TopicKey::Id(id) } else { TopicKey::Name(name.into()) };
    let mut partitions = Vec::new();
    for topic in body.topics {
        let name = topic_key(&topic.topic, topic.topic_id);
        partitions.extend(topic.partitions.into_iter().map(|p| {
            let params = FetchParams {
                fetch_offset: p.fetch_offset,
                current_leader_epoch: p.current_leader_epoch,
                last_fetched_epoch: p.last_fetched_epoch,
                bytes_max: p.partition_max_bytes,
            };
            (FetchKey { topic: name.clone(), partition: p.partition }, params)
        }));
    }
    let mut forgotten = Vec::new();
    for topic in body.forgotten_topics_data {
        let name = topic_key(&topic.topic, topic.topic_id);
        forgotten.extend(topic.partitions.into_iter().map(|partition| FetchKey { topic: name.clone(), partition }));
    }
    // Before version 7 there are no sessions; the codec's defaults are the id and epoch of "none".
    let epoch = if version >= 7 { body.session_epoch } else { -1 };
    SessionRequest { id: body.session_id, epoch, by_id, partitions, forgotten }
}

impl Slot {
    /// Partitions that others lead are served only to clients with a rack, as in Kafka.
    fn new(ctx: &ConnectionContext, image: &ClusterImage, target: Target, has_rack: bool) -> Self {
        let index = target.key.partition;
        let topic = match &target.key.topic {
            TopicKey::Name(name) => image.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition),
            TopicKey::Id(id) => image.topic_by_id(TopicId(*id)).ok_or(ErrorCode::UnknownTopicId),
        };
        let key = topic.as_ref().ok().map(|t| PartitionKey { topic: t.value.id, partition: PartitionIndex(index) });
        let view = topic.and_then(|t| common::led(&ctx.broker, t, index)).map(|p| p.view);
        let may_follow = has_rack && matches!(view, Err(ErrorCode::NotLeaderOrFollower));
        let followers = ctx.broker.followers.as_ref().filter(|_| may_follow && !ctx.broker.standing.is_doubted());
        let reading = followers.zip(key).and_then(|(followers, key)| followers.follow(&key, image));
        Self { target, key, view, reading, outcome: Outcome::default(), read_up_to: None }
    }

    fn offset(&self) -> Offset {
        Offset(self.target.params.fetch_offset)
    }

    /// Looks at the partition without reading: sets an error or a diverging epoch, or returns the high watermark if
    /// there is something to read. Atomics only, unless the client sends the epoch of its last record.
    fn look(&mut self, ctx: &ConnectionContext, elsewhere: Option<&Elsewhere>) -> Option<Offset> {
        let params = self.target.params;
        let checked = self.view.as_ref().map_err(|code| *code).and_then(|view| {
            if view.is_closed() {
                return Err(ErrorCode::NotLeaderOrFollower);
            }
            common::check_epoch(view, params.current_leader_epoch)?;
            Ok(view)
        });
        let offset = Offset(params.fetch_offset);
        match checked {
            Err(code) => self.fail(code),
            Ok(view) if params.last_fetched_epoch >= 0 => {
                let believed = LeaderEpoch(params.last_fetched_epoch);
                let (epoch, end) = offsets::epoch_end(view, believed);
                let is_unknown = epoch.0 < 0 || end.0 < 0;
                if self.reading.is_some() && (is_unknown || epoch < believed || end < offset) {
                    self.fail(ErrorCode::NotLeaderOrFollower); // this may be a beginning of the log
                } else if is_unknown {
                    self.fail(ErrorCode::OffsetOutOfRange);
                } else if epoch < believed || end < offset {
                    self.outcome.diverging = Some((epoch, end));
                } else {
                    return self.look_at_offset(ctx, elsewhere);
                }
            }
            Ok(_) => return self.look_at_offset(ctx, elsewhere),
        }
        None
    }

    fn look_at_offset(&mut self, ctx: &ConnectionContext, elsewhere: Option<&Elsewhere>) -> Option<Offset> {
        let (Ok(view), offset) = (&self.view, self.offset()) else {
            return None;
        };
        let (high_watermark, log_start) = (view.high_watermark(), view.log_start());
        if (log_start..=high_watermark).contains(&offset) {
            let here = self.reading.is_none();
            if let Some(node) = elsewhere.filter(|_| here).and_then(|e| e.node(ctx, &view.key)) {
                self.outcome = Outcome { preferred: Some(node), ..Outcome::default() };
                return None;
            }
            return (offset < high_watermark).then_some(high_watermark);
        }
        if offset > high_watermark && self.reading.is_some() {
            self.fail(ErrorCode::OffsetNotAvailable); // the leader has shown it
            return None;
        }
        // Above the end: if somebody else leads or may lead, the end is not ours to know.
        let others = || ctx.broker.image.load().leader(&view.key).is_some_and(|node| node != ctx.broker.node);
        let code = if offset > high_watermark && (ctx.broker.standing.is_doubted() || others()) {
            ErrorCode::NotLeaderOrFollower
        } else {
            ErrorCode::OffsetOutOfRange
        };
        self.fail(code);
        None
    }

    fn fail(&mut self, code: ErrorCode) {
        self.outcome = Outcome { error: Some(code), ..Outcome::default() };
    }

    fn take(&mut self, read: Result<Vec<StoredBatch>, ReadError>) {
        match read {
            Ok(batches) => {
                let batches = sabotage::fetched(batches);
                self.outcome.bytes = batches.iter().map(StoredBatch::byte_len).sum();
                self.outcome.batches = batches;
            }
            Err(error) => {
                if let ReadError::Store(error) = &error {
                    tracing::warn!(topic = ?self.target.key.topic, partition = self.target.key.partition,
                        offset = self.target.params.fetch_offset, %error, "committed records cannot be read");
                }
                match (&error, &self.reading) {
                    (ReadError::Store(StoreError::NotFound { .. }), Some(reading)) => {
                        reading.outdated();
                        self.fail(ErrorCode::OffsetNotAvailable);
                    }
                    _ => self.fail(error_code::of_read(&error)),
                }
            }
        }
    }
}

impl Fetch {
    /// Waits until it is known where partitions end that other brokers lead.
    async fn settle(&mut self, patience: Instant) {
        let readings: Vec<_> = self.slots.iter().filter_map(|s| Some((s.reading.as_ref()?, s.offset()))).collect();
        let Some((first, _)) = readings.first() else { return };
        preferred::settle(first.followers(), &readings, patience).await;
        for slot in &mut self.slots {
            if let Some(reading) = &slot.reading {
                slot.view = preferred::view(reading);
            }
        }
    }

    /// Counts what was read of partitions that other brokers lead. Nothing was, if it is not known any more where they end.
    fn count_followed(&mut self, doubted: bool) {
        for slot in &mut self.slots {
            let Some(reading) = &slot.reading else { continue };
            if (doubted || reading.is_doubted()) && slot.outcome.error.is_none() {
                slot.fail(ErrorCode::NotLeaderOrFollower);
            }
        }
        let followed =
            || self.slots.iter().filter(|s| s.outcome.bytes > 0).filter_map(|s| s.reading.as_ref().map(|r| (s, r)));
        if let Some((_, reading)) = followed().next() {
            reading.followers().served(followed().map(|(slot, _)| slot.outcome.bytes as u64).sum());
        }
    }

    async fn run(&mut self, ctx: &ConnectionContext) {
        let notify = Arc::new(Notify::new());
        let mut guards: Vec<WaiterGuard> = Vec::new();
        loop {
            self.round(ctx).await;
            if self.is_complete() {
                return;
            }
            if guards.is_empty() {
                // Registered only once there is something to wait for; what happened before is seen by the next round.
                guards.extend(self.slots.iter().filter_map(|s| s.view.as_ref().ok()).map(|v| v.register(&notify)));
                continue;
            }
            let since = monotonic();
            let over = tokio::time::timeout_at(self.deadline, notify.notified()).await.is_err();
            self.waited += since.elapsed();
            if over {
                self.round(ctx).await;
                return;
            }
        }
    }

    /// What is committed is served, unless this broker slept meanwhile. Whoever has all of it looks for the leader, who may
    /// be somebody else.
    fn send_on(&mut self, has_slept: bool) {
        for slot in &mut self.slots {
            let at_end = slot.view.as_ref().is_ok_and(|view| slot.offset() == view.high_watermark());
            if (at_end || has_slept) && slot.outcome.error.is_none() && slot.outcome.diverging.is_none() {
                slot.fail(ErrorCode::NotLeaderOrFollower);
            }
        }
    }

    fn source(&self) -> FetchSource {
        match self.slots.iter().any(|s| s.outcome.bytes > 0) {
            true if self.cold => FetchSource::Store,
            true => FetchSource::Memory,
            false => FetchSource::Nothing,
        }
    }

    fn is_complete(&self) -> bool {
        let wrong = |o: &Outcome| o.error.is_some() || o.diverging.is_some() || o.preferred.is_some();
        let bytes: i64 = self.slots.iter().map(|s| s.outcome.bytes as i64).sum();
        self.slots.is_empty()
            || bytes >= self.bytes_min
            || self.slots.iter().any(|s| wrong(&s.outcome))
            || self.deadline <= monotonic()
    }

    /// Looks at all partitions, and reads again if one of them has more than at the last read.
    async fn round(&mut self, ctx: &ConnectionContext) {
        let mut ready = Vec::new();
        let mut changed = false;
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if let Some(high_watermark) = slot.look(ctx, self.elsewhere.as_ref()) {
                changed |= slot.read_up_to != Some(high_watermark);
                ready.push((i, high_watermark));
            }
        }
        if changed {
            let span = trace::fetch_read(ready.len());
            self.read(ctx, ready).instrument(span).await;
        }
    }

    /// Reads the partitions that are `ready`, up to their high watermarks.
    async fn read(&mut self, ctx: &ConnectionContext, ready: Vec<(usize, Offset)>) {
        let mut budget = self.bytes_max;
        let mut nothing_yet = true;
        let mut cold: Vec<(usize, ColdRead)> = Vec::new();
        for (i, high_watermark) in ready {
            let slot = &mut self.slots[i];
            slot.outcome = Outcome::default();
            slot.read_up_to = Some(high_watermark);
            let Ok(view) = slot.view.clone() else { continue };
            let bytes_max = budget.min(slot.target.params.bytes_max.max(0) as usize);
            if bytes_max == 0 && !nothing_yet {
                continue;
            }
            match view.read_tail(slot.offset(), bytes_max, nothing_yet) {
                TailRead::Batches(batches) => {
                    slot.take(Ok(batches));
                    nothing_yet &= slot.outcome.bytes == 0;
                    budget = budget.saturating_sub(slot.outcome.bytes);
                }
                TailRead::AtEnd => {}
                TailRead::Below if cold.len() < COLD_READS_MAX => {
                    // Counted in full until it is known how much it is, so that reads can run side by side.
                    budget -= bytes_max;
                    self.cold = true;
                    cold.push((i, read_cold(ctx, self.trace, view, slot.offset(), bytes_max, nothing_yet)));
                    nothing_yet = false;
                }
                TailRead::Below => {}
            }
        }
        let patience = self.deadline.max(monotonic() + COLD_READ_WAIT_MIN);
        for (i, read) in cold {
            if let Ok(Ok(read)) = tokio::time::timeout_at(patience, read).await {
                self.slots[i].take(read);
            }
        }
    }
}

fn read_cold(
    ctx: &ConnectionContext,
    trace: TraceContext,
    view: Arc<PartitionView>,
    from: Offset,
    bytes_max: usize,
    at_least_one: bool,
) -> ColdRead {
    let broker = ctx.broker.clone();
    let read = async move { broker.reader.read_for(trace, &view, from, bytes_max, at_least_one).await };
    tokio::task::spawn_local(read.in_current_span())
}

/// Builds the response; makes or updates the session with what it says.
fn respond(ctx: &ConnectionContext, version: i16, read_committed: bool, mode: Mode, mut slots: Vec<Slot>) -> Reply {
    let mut data: Vec<PartitionData> = slots.iter().map(|s| partition_data(s, read_committed)).collect();
    let told = |(slot, data): (&Slot, &PartitionData)| Told {
        records: slot.outcome.bytes > 0,
        error: slot.outcome.error.is_some() || slot.outcome.diverging.is_some() || slot.outcome.preferred.is_some(),
        high_watermark: data.high_watermark,
        log_start: data.log_start_offset,
    };
    let mut response = FetchResponse::default();
    let now_ms = ctx.broker.clock.monotonic_ms();
    for slot in slots.iter().filter(|slot| slot.outcome.bytes > 0) {
        if let Ok(view) = &slot.view {
            view.traffic.bytes_out.add(slot.outcome.bytes as u64, now_ms);
        }
    }
    let mut included = vec![true; slots.len()];
    match mode {
        Mode::Sessionless => {}
        Mode::New { by_id } => {
            let told = slots.iter().zip(&data).map(|pair| (pair.0.target.clone(), told(pair))).collect();
            let new_id = (crate::rng::u64() >> 33) as i32;
            response.session_id = ctx.sessions.lock().create(now_ms, by_id, new_id, told);
        }
        Mode::Incremental { id } => {
            let told: Vec<_> = slots.iter().zip(&data).map(|pair| (pair.0.target.place, told(pair))).collect();
            included = ctx.sessions.lock().update(id, &told);
            response.session_id = id;
        }
    }
    if let Some(code) = slots.iter().find_map(|s| s.outcome.error) {
        trace::fail(&Span::current(), code, None);
    }
    if version >= 12 {
        add_leaders(ctx, version, &slots, &mut data, &mut response);
    }
    let mut splicer = Splicer::new();
    let mut last: Option<TopicKey> = None;
    for ((slot, mut data), _) in slots.iter_mut().zip(data).zip(included).filter(|(_, included)| *included) {
        let chunks = slot.outcome.batches.drain(..).flat_map(|b| [b.head, b.tail]).filter(|c| !c.is_empty()).collect();
        data.records = Some(splicer.register(chunks));
        if last.as_ref() != Some(&slot.target.key.topic) {
            last = Some(slot.target.key.topic.clone());
            response.responses.push(topic_entry(&slot.target.key.topic));
        }
        response.responses.last_mut().expect("pushed above").partitions.push(data);
    }
    common::reply(splicer.encode(&response, version))
}

fn topic_entry(key: &TopicKey) -> FetchableTopicResponse {
    match key {
        TopicKey::Name(name) => FetchableTopicResponse::default().with_topic(common::topic_name(name)),
        TopicKey::Id(id) => FetchableTopicResponse::default().with_topic_id(*id),
    }
}

/// Everything about a partition but its records.
fn partition_data(slot: &Slot, read_committed: bool) -> PartitionData {
    // Read after the records were, so that it is never below them.
    let known = slot.view.as_ref().ok().map(|v| (v.high_watermark().0, v.log_start().0));
    let hidden = !matches!(slot.outcome.error, None | Some(ErrorCode::OffsetOutOfRange));
    let (high_watermark, log_start) = known.filter(|_| !hidden).unwrap_or((-1, -1));
    let mut data = PartitionData::default()
        .with_partition_index(slot.target.key.partition)
        .with_error_code(error_code::number(slot.outcome.error))
        .with_high_watermark(high_watermark)
        .with_last_stable_offset(high_watermark)
        .with_log_start_offset(log_start)
        .with_aborted_transactions(read_committed.then(Vec::new))
        .with_records(Some(Bytes::new()));
    if let Some(node) = slot.outcome.preferred {
        data.preferred_read_replica = node.0.into();
    }
    if let Some((epoch, end)) = slot.outcome.diverging {
        data.diverging_epoch = EpochEndOffset::default().with_epoch(epoch.0).with_end_offset(end.0);
    }
    data
}

/// Tells clients whose metadata is old who leads (KIP-951), with its address from version 16 on.
fn add_leaders(
    ctx: &ConnectionContext,
    version: i16,
    slots: &[Slot],
    data: &mut [PartitionData],
    response: &mut FetchResponse,
) {
    let image = ctx.broker.image.load();
    let mut named: BTreeSet<BrokerId> = BTreeSet::new();
    for (slot, data) in slots.iter().zip(data) {
        let stale = matches!(slot.outcome.error, Some(ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch));
        let Some(key) = slot.key.filter(|_| stale) else { continue };
        let (leader, epoch) = common::leader(&ctx.broker, &image, &key);
        // Who says that it does not lead does not send its client to itself.
        let denied = slot.outcome.error == Some(ErrorCode::NotLeaderOrFollower);
        if let Some(node) = leader.filter(|node| !denied || *node != ctx.broker.node) {
            named.insert(node);
            data.current_leader = LeaderIdAndEpoch::default().with_leader_id(node.0.into()).with_leader_epoch(epoch.0);
        }
    }
    if version >= 16 && !named.is_empty() {
        let nodes = common::nodes(ctx, &image).into_iter().filter(|n| named.contains(&n.id));
        response.node_endpoints = nodes
            .map(|n| {
                NodeEndpoint::default()
                    .with_node_id(n.id.0.into())
                    .with_host(n.host)
                    .with_port(n.port)
                    .with_rack(n.rack)
            })
            .collect();
    }
}
