//! The WAL writer of a broker: packs the batches of all partitions into one object per flush, uploads several at a
//! time, commits in order, and tells the partitions.
//!
//! The shell of [`state::FlusherState`]. Building and uploading a segment and the metadata transaction run on the I/O
//! pool and come back as messages. A panic anywhere on this path, a seal by another process, or a foreign object under
//! our key ends the process through `on_fatal`: a half-alive writer is worse than a dead one.

mod arrivals;
pub mod state;

use crate::actors::partition::view::ObjectRef;
use crate::actors::partition::{Committed, Origin, Port};
use crate::actors::recovery::extent;
use crate::actors::runtime::IoPool;
use crate::actors::supervisor::panic_message;
use crate::actors::writer::{Fatal, PipelineBudget, WriterStats};
use crate::clock::Clock;
use crate::failpoint;
use crate::ids::{Offset, PartitionKey, Seq};
use crate::metadata::model::{CheckpointRef, WriterValue};
use crate::metadata::ownership::{Ownership, OwnershipError, Registration};
use crate::metadata::{MetadataError, Revision};
use crate::protocol::batch::StoredBatch;
use crate::sabotage::{self, Sabotage};
use crate::storage::layout::Layout;
use crate::storage::segment::{self, ExtentInput, SegmentHeader, SegmentIndex};
use crate::storage::{ObjectStore, StoreError};
use crate::trace::{self, SegmentShape};
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, SpawnHandle};
use arrivals::Arrivals;
use futures::FutureExt;
use state::{Effect, Event, Extents, FlushLimits, FlusherState};
use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument, Span};

/// Longest pause between attempts at an upload or a commit, ms.
const RETRY_MS_MAX: u64 = 2_000;

/// Everything a flusher needs.
#[derive(Clone)]
pub struct FlusherConfig {
    /// Bounds.
    pub limits: FlushLimits,
    /// Bytes of committed batches kept in memory for tailing readers.
    pub tail_bytes_max: u64,
    /// Cluster id, written into every segment.
    pub cluster_id: String,
    /// Where objects go; must resolve ambiguous creates itself (`storage/retry.rs`).
    pub store: Arc<dyn ObjectStore>,
    /// How keys are formatted.
    pub layout: Layout,
    /// Commits.
    pub ownership: Ownership,
    /// This writer.
    pub registration: Registration,
    /// Where I/O runs.
    pub io: IoPool,
    /// Time.
    pub clock: Clock,
    /// Bytes not yet durable.
    pub budget: Arc<PipelineBudget>,
    /// Counters.
    pub stats: Arc<WriterStats>,
    /// Ends the process.
    pub on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
}

/// A batch to store.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Store {
    /// The partition.
    pub port: Arc<Port>,
    /// The batch.
    pub batch: StoredBatch,
    /// The request that brought it.
    pub origin: Origin,
}

/// Points the writer's key to a new checkpoint; answered with the writer's value once that is committed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PointToCheckpoint {
    /// The checkpoint, which is durable.
    pub checkpoint: CheckpointRef,
    /// Told when the pointer is committed.
    pub done: oneshot::Sender<()>,
}

/// Answered when nothing of the partition is open or in flight: its storage is complete.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Quiesce {
    /// The partition, or `None` for all.
    pub key: Option<PartitionKey>,
    /// Told when it is.
    pub done: oneshot::Sender<WriterValue>,
}

/// Partitions are about to move from or to this writer: what it uploads now should not take long.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Hurry;

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Uploaded {
    seq: Seq,
    index: SegmentIndex,
    object: Arc<ObjectRef>,
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct CommitDone {
    head: Seq,
    value: WriterValue,
    revision: Revision,
}

struct Slot {
    ports: Vec<(PartitionKey, Arc<Port>)>,
    bytes: u64,
    uploaded: Option<(SegmentIndex, Arc<ObjectRef>)>,
    /// When its batches came.
    arrivals: Arrivals,
    /// Ends when the slot is announced.
    span: Span,
}

/// What one committed segment holds in memory for tailing readers.
struct TailShare {
    bytes: u64,
    ends: Vec<(Arc<Port>, Offset)>,
}

/// See the module's documentation.
pub struct Flusher {
    config: FlusherConfig,
    state: FlusherState<Arc<Port>>,
    origin: Instant,
    slots: HashMap<Seq, Slot>,
    tail: VecDeque<TailShare>,
    tail_bytes: u64,
    timer: Option<(u64, SpawnHandle)>,
    /// A transaction on the writer's key is under way.
    committing: bool,
    commit_wanted: Option<Seq>,
    checkpoint_wanted: Option<PointToCheckpoint>,
    checkpoint_done: Option<oneshot::Sender<()>>,
    quiescing: Vec<Quiesce>,
    /// What came with the batches of the open segment.
    arrivals: Arrivals,
    effects: Vec<Effect<Arc<Port>>>,
}

impl Flusher {
    /// A writer at its registration's head, which must be 0.
    pub fn new(config: FlusherConfig) -> Self {
        assert_eq!(config.registration.value.head, Seq(0), "every process is a new writer");
        let origin = config.clock.monotonic();
        Self {
            state: FlusherState::new(config.limits, 0),
            config,
            origin,
            slots: HashMap::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            timer: None,
            committing: false,
            commit_wanted: None,
            checkpoint_wanted: None,
            checkpoint_done: None,
            quiescing: Vec::new(),
            arrivals: Arrivals::default(),
            effects: Vec::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_us() / 1_000
    }

    fn now_us(&self) -> u64 {
        (self.config.clock.monotonic() - self.origin).as_micros() as u64
    }

    fn step(&mut self, event: Event<Arc<Port>>, ctx: &mut Context<Self>) {
        let mut effects = std::mem::take(&mut self.effects);
        let now_ms = self.now_ms();
        self.state.step(now_ms, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Upload { seq, extents, twice } => self.upload(seq, extents, twice, ctx.address()),
                Effect::Commit(seq) => {
                    self.commit_wanted = Some(seq);
                    self.commit_next(ctx.address());
                }
                Effect::Announce(seq) => self.announce(seq),
            }
        }
        self.effects = effects;
        // Not before all of them: what was open may be in a slot by now that one of them is about.
        self.answer_quiesced();
        self.arm(now_ms, ctx);
    }

    fn arm(&mut self, now_ms: u64, ctx: &mut Context<Self>) {
        let wanted = self.state.wake_at_ms(now_ms);
        if wanted == self.timer.as_ref().map(|t| t.0) {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        self.timer = wanted.map(|at| {
            // One millisecond later than rounding down, so that the state agrees that the time has come.
            let wait = Duration::from_millis(at.saturating_sub(now_ms).max(1));
            let handle = ctx.run_later(wait, |flusher, ctx| {
                flusher.timer = None;
                flusher.step(Event::Tick, ctx);
            });
            (at, handle)
        });
    }

    fn upload(&mut self, seq: Seq, extents: Extents<Arc<Port>>, twice: bool, flusher: Addr<Self>) {
        failpoint::hit("flusher.upload");
        let mut ports = Vec::with_capacity(extents.len());
        let mut inputs = Vec::with_capacity(extents.len());
        let (mut bytes, mut batches, mut records) = (0, 0, 0);
        for (key, extent) in extents {
            bytes += extent.batches.iter().map(|b| b.byte_len() as u64).sum::<u64>();
            batches += extent.batches.len() as u64;
            records += extent.batches.iter().map(|b| (b.next.0 - b.base.0) as u64).sum::<u64>();
            ports.push((key, extent.port));
            inputs.push(ExtentInput { key, leader_epoch: extent.leader_epoch, batches: extent.batches });
        }
        let stats = &self.config.stats;
        stats.flushes.fetch_add(1, Ordering::Relaxed);
        stats.flushed_bytes.fetch_add(bytes, Ordering::Relaxed);
        stats.flushed_batches.fetch_add(batches, Ordering::Relaxed);
        stats.flushed_records.fetch_add(records, Ordering::Relaxed);
        let arrivals = std::mem::take(&mut self.arrivals);
        let age_us = arrivals.oldest_us().map_or(0, |since| self.now_us().saturating_sub(since));
        let shape = SegmentShape { seq: seq.0, bytes, batches, records, partitions: ports.len(), age_us };
        stats.flush_bytes.record(bytes);
        stats.flush_age.record(age_us);
        let span = trace::flush(shape, &arrivals.links, self.now_us());
        self.slots.insert(seq, Slot { ports, bytes, uploaded: None, arrivals, span: span.clone() });
        let config = self.config.clone();
        self.spawn_io(async move {
            let (index, object) = upload(&config, seq, inputs, twice, span).await?;
            flusher.do_send(Uploaded { seq, index, object });
            Ok(())
        });
    }

    /// Starts the next transaction on the writer's key, if one is wanted and none is under way.
    fn commit_next(&mut self, flusher: Addr<Self>) {
        if self.committing || (self.commit_wanted.is_none() && self.checkpoint_wanted.is_none()) {
            return;
        }
        failpoint::hit("flusher.commit");
        self.committing = true;
        let head = self.commit_wanted.take().unwrap_or(self.state.head());
        let checkpoint = self.checkpoint_wanted.take().map(|c| {
            self.checkpoint_done = Some(c.done);
            c.checkpoint
        });
        let covered = self.state.head().0 + 1..=head.0;
        let spans = covered.filter_map(|seq| self.slots.get(&Seq(seq))).map(|slot| trace::commit(&slot.span, head.0));
        let spans: Vec<Span> = spans.filter(|span| !span.is_disabled()).collect();
        let config = self.config.clone();
        self.spawn_io(async move {
            let started = config.clock.monotonic();
            let mut attempts = 1;
            // What is logged meanwhile is told to one of them.
            let current = spans.first().cloned().unwrap_or_else(Span::none);
            let commit = commit(&config, head, checkpoint, &mut attempts);
            let (value, revision, fenced) = commit.instrument(current).await?;
            config.stats.commit.record_duration(started.elapsed());
            trace::committed(&spans, revision, attempts);
            drop(spans);
            failpoint::hit("flusher.committing");
            flusher.do_send(CommitDone { head, value, revision });
            match fenced {
                None => Ok(()),
                Some(fatal) => {
                    // The sealed head covers the slot: it is acked first. Mailboxes keep the order.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Err(fatal)
                }
            }
        });
    }

    fn spawn_io(&self, work: impl Future<Output = Result<(), Fatal>> + Send + 'static) {
        let on_fatal = self.config.on_fatal.clone();
        drop(self.config.io.spawn(async move {
            match AssertUnwindSafe(work).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(fatal)) => on_fatal(fatal),
                Err(panic) => on_fatal(Fatal::CommitPathPanic(panic_message(&*panic))),
            }
        }));
    }

    fn announce(&mut self, up_to: Seq) {
        let first = self.config.stats.head.load(Ordering::Relaxed) + 1;
        let now_us = self.now_us();
        for seq in first..=up_to.0 {
            let slot = self.slots.remove(&Seq(seq)).expect("a committed slot was cut");
            let (index, object) = slot.uploaded.expect("a committed slot is durable");
            let mut ends = Vec::with_capacity(index.extents.len());
            for (entry, (key, port)) in index.extents.iter().zip(slot.ports) {
                assert_eq!(entry.key, key, "the index is in key order");
                // A partition that failed meanwhile recovers from storage, where this extent is.
                port.committed.do_send(Committed(extent(&object, entry)));
                ends.push((port, entry.next));
            }
            self.config.budget.committed(slot.bytes);
            let durable = &self.config.stats.durable;
            slot.arrivals.waits(now_us).for_each(|(wait_us, count)| durable.record_many(wait_us, count));
            self.tail_bytes += slot.bytes;
            self.tail.push_back(TailShare { bytes: slot.bytes, ends });
        }
        self.config.stats.head.store(up_to.0, Ordering::Release);
        self.note_oldest(up_to.next());
        self.evict_tails();
    }

    /// Publishes when the oldest batch came that is not durable: in slot `first`, or else in the open segment.
    fn note_oldest(&self, first: Seq) {
        let arrivals = self.slots.get(&first).map_or(&self.arrivals, |slot| &slot.arrivals);
        let since = arrivals.oldest_us().map(|us| self.origin + Duration::from_micros(us));
        self.config.stats.oldest.set(since);
    }

    /// The newest segment stays even where the tail may not be as long as one. It goes if it is much longer than a segment
    /// should be: everything that had to wait while the store failed travels in one.
    fn evict_tails(&mut self) {
        let newest_bytes_max = self.config.tail_bytes_max.max(2 * self.config.limits.segment_bytes);
        let bytes_max = |len: usize| if len > 1 { self.config.tail_bytes_max } else { newest_bytes_max };
        while self.tail_bytes > bytes_max(self.tail.len()) {
            let share = self.tail.pop_front().expect("what has bytes is there");
            self.tail_bytes -= share.bytes;
            for (port, end) in share.ends {
                port.view.rearrange(|log| log.evict_tail(end));
            }
        }
        self.config.stats.tail_bytes.store(self.tail_bytes, Ordering::Relaxed);
    }

    fn answer_quiesced(&mut self) {
        if self.quiescing.is_empty() {
            return;
        }
        let value = &self.config.registration.value;
        let (state, slots) = (&self.state, &self.slots);
        let busy = |q: &Quiesce| match &q.key {
            Some(key) => state.is_open(key) || slots.values().any(|s| s.ports.iter().any(|(k, _)| k == key)),
            None => !state.is_idle(),
        };
        let (busy, idle): (Vec<_>, Vec<_>) = self.quiescing.drain(..).partition(busy);
        self.quiescing = busy;
        idle.into_iter().for_each(|q| drop(q.done.send(value.clone())));
    }
}

async fn upload(
    config: &FlusherConfig,
    seq: Seq,
    inputs: Vec<ExtentInput>,
    twice: bool,
    flush: Span,
) -> Result<(SegmentIndex, Arc<ObjectRef>), Fatal> {
    let r = &config.registration;
    let header = SegmentHeader {
        cluster_id: config.cluster_id.clone(),
        level: 0,
        writer: r.writer,
        nonce: r.nonce,
        seq,
        revision_seen: r.revision,
    };
    let key = config.layout.wal(r.writer, r.nonce, seq);
    let (mut payload, index) = segment::build(&header, inputs);
    payload.twice = twice;
    let put = trace::put(&flush, &key, payload.len);
    let mut wait_ms = 50;
    loop {
        if sabotage::is(Sabotage::AckBeforePut) {
            let (config, key, payload) = (config.clone(), key.clone(), payload.clone());
            drop(config.io.clone().spawn(async move { drop(config.store.create(&key, &payload).await) }));
            break;
        }
        match config.store.create(&key, &payload).instrument(put.clone()).await {
            Ok(()) => break,
            Err(StoreError::AlreadyExists { key }) => {
                return Err(Fatal::IdentityClash(format!("object {key} was written by another process")));
            }
            Err(error) => {
                config.stats.retries.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, %key, wait_ms, "upload failed; the slot is never skipped, trying again");
                tokio::time::sleep(Duration::from_millis(crate::rng::jitter_ms(wait_ms))).await;
                wait_ms = (wait_ms * 2).min(RETRY_MS_MAX);
            }
        }
    }
    failpoint::hit("flusher.uploading");
    let object = ObjectRef { key, level: 0, len: payload.len, created_ms: config.clock.wall_ms() };
    Ok((index, Arc::new(object)))
}

/// Moves the head, however long it takes. The last part says that the writer is sealed, although the head covers the
/// slot.
async fn commit(
    config: &FlusherConfig,
    head: Seq,
    checkpoint: Option<CheckpointRef>,
    attempts: &mut u32,
) -> Result<(WriterValue, Revision, Option<Fatal>), Fatal> {
    let registration = &config.registration;
    let mut wanted = registration.value.clone();
    wanted.head = head;
    wanted.checkpoint = checkpoint.clone().or(wanted.checkpoint);
    if sabotage::skips_commit(head) && checkpoint.is_none() {
        return Ok((wanted, registration.revision, None));
    }
    let mut wait_ms = 20;
    loop {
        let error = match config.ownership.commit(registration, head, checkpoint.as_ref()).await {
            Ok((value, revision)) => return Ok((value, revision, None)),
            Err(error) => error,
        };
        let resolved = match error {
            OwnershipError::Metadata(MetadataError::Unavailable { .. }) => {
                config.ownership.resolve_commit(registration, &wanted).await
            }
            error => Err(error),
        };
        match resolved {
            Ok(Some((value, revision))) => return Ok((value, revision, None)),
            Ok(None) => {}
            Err(error @ OwnershipError::Fenced { head: sealed, .. }) => {
                let fatal = Fatal::Fenced(error.to_string());
                let covered = sealed >= head && checkpoint.is_none();
                return if covered { Ok((wanted, registration.revision, Some(fatal))) } else { Err(fatal) };
            }
            Err(OwnershipError::Metadata(error @ MetadataError::WentBack { .. })) => {
                return Err(Fatal::WentBack(error.to_string()));
            }
            Err(OwnershipError::Metadata(error)) => {
                tracing::warn!(%error, %head, wait_ms, "commit has no known outcome yet; trying again");
            }
        }
        *attempts += 1;
        config.stats.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(crate::rng::jitter_ms(wait_ms))).await;
        wait_ms = (wait_ms * 2).min(RETRY_MS_MAX);
    }
}

impl Actor for Flusher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1_024);
    }
}

impl Handler<Store> for Flusher {
    type Result = ();

    fn handle(&mut self, Store { port, batch, origin }: Store, ctx: &mut Self::Context) {
        failpoint::hit("flusher.store");
        self.arrivals.add(self.now_us(), origin.trace);
        if self.state.is_idle() {
            self.note_oldest(self.state.head().next());
        }
        let (key, leader_epoch) = (port.view.key, port.view.leader_epoch);
        let client_waits = origin.client_waits;
        self.step(Event::Append { key, port, leader_epoch, batch, client_waits }, ctx);
    }
}

impl Handler<Uploaded> for Flusher {
    type Result = ();

    fn handle(&mut self, done: Uploaded, ctx: &mut Self::Context) {
        failpoint::hit("flusher.uploaded");
        let slot = self.slots.get_mut(&done.seq).expect("an uploaded slot was cut");
        slot.uploaded = Some((done.index, done.object));
        self.step(Event::Uploaded(done.seq), ctx);
    }
}

impl Handler<CommitDone> for Flusher {
    type Result = ();

    fn handle(&mut self, done: CommitDone, ctx: &mut Self::Context) {
        failpoint::hit("flusher.committed");
        self.committing = false;
        self.config.registration.value = done.value;
        self.config.registration.revision = done.revision;
        self.config.stats.revision.store(done.revision, Ordering::Release);
        self.config.stats.commits.fetch_add(1, Ordering::Relaxed);
        if let Some(told) = self.checkpoint_done.take() {
            let _gone = told.send(());
        }
        if done.head > self.state.head() {
            self.step(Event::Committed(done.head), ctx);
        }
        self.commit_next(ctx.address());
    }
}

impl Handler<PointToCheckpoint> for Flusher {
    type Result = ();

    fn handle(&mut self, message: PointToCheckpoint, ctx: &mut Self::Context) {
        failpoint::hit("flusher.checkpoint");
        self.checkpoint_wanted = Some(message);
        self.commit_next(ctx.address());
    }
}

impl Handler<Hurry> for Flusher {
    type Result = ();

    fn handle(&mut self, _: Hurry, ctx: &mut Self::Context) {
        self.step(Event::Hurry, ctx);
    }
}

impl Handler<Quiesce> for Flusher {
    type Result = ();

    fn handle(&mut self, quiesce: Quiesce, ctx: &mut Self::Context) {
        failpoint::hit("flusher.quiesce");
        self.quiescing.push(quiesce);
        self.step(Event::Drain, ctx);
    }
}
