//! One led partition: assigns offsets, dedups producers, parks acks.
//!
//! The shell of [`state::PartitionState`]: turns messages into events and effects into messages, publishes what is
//! committed in the shared [`view::PartitionView`], and decides nothing. When it ends, for whatever reason, its view
//! is closed and readers and producers get a retriable error until a successor has recovered from storage.

pub mod handle;
pub mod producers;
pub mod state;
pub mod traffic;
pub mod view;

use crate::actors::flusher::{Flusher, Store};
use crate::actors::recovery::Seed;
use crate::actors::s3_health::S3Health;
use crate::actors::standing::Standing;
use crate::actors::supervisor::{ActorRef, Place, SendError};
use crate::actors::writer::PipelineBudget;
use crate::clock::Clock;
use crate::failpoint;
use crate::ids::Offset;
use crate::sabotage::{self, Sabotage};
use crate::storage::checkpoint::{ObjectTable, PartitionCheckpoint};
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult, Recipient};
pub use handle::Origin;
use handle::{Append, AppendError, AppendSink, Appended};
use producers::ProducerSnapshot;
use state::{Effect, Event, Now, PartitionState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use view::{Extent, LogState, PartitionView};

/// Appends that may wait in a partition's mailbox.
pub const MAILBOX_LEN_MAX: usize = 4_096;

type Reply = oneshot::Sender<Result<Appended, AppendError>>;

/// Where the flusher reaches a partition's actor.
#[derive(Debug)]
pub struct Port {
    /// Committed data of the partition.
    pub view: Arc<PartitionView>,
    /// Its mailbox.
    pub committed: Recipient<Committed>,
}

/// The writer's head covers this extent now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Committed(pub Extent);

/// The metadata store has this log start now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Trimmed(pub Offset);

/// Asks for the committed state.
#[derive(Debug, Message)]
#[rtype(result = "PartitionSnapshot")]
pub struct TakeSnapshot;

/// Asks for the idempotent producers, committed batches only.
#[derive(Debug, Message)]
#[rtype(result = "Vec<ProducerSnapshot>")]
pub struct ListProducers;

/// The committed state of a partition; extents still name their objects.
#[derive(Debug, actix::MessageResponse)]
pub struct PartitionSnapshot {
    /// Everything but the extents.
    pub checkpoint: PartitionCheckpoint,
    /// The extents.
    pub extents: Vec<Extent>,
}

impl PartitionSnapshot {
    /// The checkpoint with its extents, whose objects go into `table`.
    pub fn into_checkpoint(mut self, table: &mut ObjectTable) -> PartitionCheckpoint {
        self.checkpoint.extents = self.extents.iter().map(|e| table.extent(e)).collect();
        self.checkpoint
    }
}

/// The partition is about to be given away: it takes nothing more, and finishes what is in flight.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Depart;

/// Stop: the partition is deleted or handed over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Stop;

/// An append that waits in the mailbox. Its share of the budget is given back however it leaves: handled, or dropped
/// with the mailbox of an actor that failed.
#[derive(Message)]
#[rtype(result = "()")]
struct Queued {
    append: Append,
    share: QueueShare,
}

struct QueueShare {
    budget: Arc<PipelineBudget>,
    bytes: u64,
    _place: Place,
}

impl Drop for QueueShare {
    fn drop(&mut self) {
        self.budget.dequeued(self.bytes);
    }
}

/// See the module's documentation.
pub struct Partition {
    state: PartitionState<Reply>,
    view: Arc<PartitionView>,
    port: Option<Arc<Port>>,
    flusher: Addr<Flusher>,
    budget: Arc<PipelineBudget>,
    clock: Clock,
    /// Set when an append was refused on its way here.
    refused: Arc<AtomicBool>,
    /// The request whose append is being handled.
    origin: Origin,
    effects: Vec<Effect<Reply>>,
}

impl Partition {
    /// A partition from its recovered state. Readers may use the view at once.
    pub fn new(
        seed: Seed,
        flusher: Addr<Flusher>,
        budget: Arc<PipelineBudget>,
        clock: Clock,
        refused: Arc<AtomicBool>,
    ) -> Self {
        let log = LogState { extents: seed.extents, tail: Default::default(), epochs: seed.epochs };
        let view = PartitionView::new(seed.key, seed.leader_epoch, seed.log_start, seed.next_offset, log);
        let state = PartitionState::new(seed.key, seed.leader_epoch, seed.log_start, seed.next_offset, seed.producers);
        let (view, origin) = (Arc::new(view), Origin::NONE);
        Self { state, view, port: None, flusher, budget, clock, refused, origin, effects: Vec::new() }
    }

    /// The shared view.
    pub fn view(&self) -> &Arc<PartitionView> {
        &self.view
    }

    fn step(&mut self, event: Event<Reply>) {
        let mut effects = std::mem::take(&mut self.effects);
        let now = Now { mono_ms: self.clock.monotonic_ms(), wall_ms: self.clock.settled_ms() };
        self.state.step(now, event, &mut effects);
        for effect in effects.drain(..) {
            self.run(effect);
        }
        self.effects = effects;
    }

    fn run(&mut self, effect: Effect<Reply>) {
        match effect {
            Effect::Store { batch, .. } => {
                self.budget.stored(batch.byte_len() as u64);
                let port = self.port.clone().expect("set when the actor started");
                let origin = self.origin;
                if sabotage::is(Sabotage::StoreTwice) {
                    self.flusher.do_send(Store { port: port.clone(), batch: batch.clone(), origin });
                }
                if sabotage::is(Sabotage::ServeAboveHead) {
                    self.view.update(batch.next, self.state.log_start(), |log| log.tail.push_back(batch.clone()));
                }
                self.flusher.do_send(Store { port, batch, origin });
            }
            // Nobody may be waiting any more (acks=0, closed connection): the batch is stored all the same.
            Effect::Reply { reply, outcome } => drop(reply.send(outcome)),
            Effect::Publish { high_watermark, batches, extent } => {
                let log_start = self.state.log_start();
                if sabotage::is(Sabotage::ServeAboveHead) {
                    return self.view.rearrange(|log| log.extents.push_back(extent));
                }
                let (traffic, now_ms) = (&self.view.traffic, self.clock.monotonic_ms());
                traffic.bytes_in.add(extent.len, now_ms);
                traffic.records_in.add((extent.next.0 - extent.base.0).max(0) as u64, now_ms);
                self.view.update(high_watermark, log_start, |log| {
                    log.extents.push_back(extent);
                    log.tail.extend(batches);
                });
            }
            Effect::PublishLogStart(log_start) => {
                let high_watermark = sabotage::shown(self.state.high_watermark(), &self.view);
                self.view.update(high_watermark, log_start, |log| log.trim(log_start));
            }
        }
    }
}

impl Actor for Partition {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let port = Port { view: self.view.clone(), committed: ctx.address().recipient() };
        self.port = Some(Arc::new(port));
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.view.close(); // infallible, since it may run while a panic unwinds
    }
}

impl Handler<Queued> for Partition {
    type Result = ();

    fn handle(&mut self, Queued { append, share }: Queued, _: &mut Self::Context) {
        failpoint::hit("partition.append");
        drop(share);
        if self.refused.load(Ordering::Acquire) && self.refused.swap(false, Ordering::AcqRel) {
            self.step(Event::Refused);
        }
        self.origin = append.origin;
        self.step(Event::Append { batch: append.batch, reply: append.reply });
    }
}

impl Handler<Committed> for Partition {
    type Result = ();

    fn handle(&mut self, Committed(extent): Committed, _: &mut Self::Context) {
        failpoint::hit("partition.committed");
        self.step(Event::Committed(extent));
    }
}

impl Handler<Trimmed> for Partition {
    type Result = ();

    fn handle(&mut self, Trimmed(log_start): Trimmed, _: &mut Self::Context) {
        failpoint::hit("partition.trimmed");
        self.step(Event::Trimmed(log_start));
    }
}

impl Handler<TakeSnapshot> for Partition {
    type Result = PartitionSnapshot;

    fn handle(&mut self, _: TakeSnapshot, _: &mut Self::Context) -> PartitionSnapshot {
        failpoint::hit("partition.snapshot");
        let (high_watermark, now_ms) = (self.state.high_watermark(), self.clock.settled_ms());
        let log_start = self.state.log_start();
        let producers = self.state.producers_mut();
        producers.expire(high_watermark, now_ms);
        let producers = producers.snapshot(high_watermark);
        let (epochs, extents) = self.view.with_log(|log| (log.epochs.clone(), log.extents.iter().cloned().collect()));
        let key = self.view.key;
        let checkpoint =
            PartitionCheckpoint { key, log_start, next_offset: high_watermark, epochs, extents: Vec::new(), producers };
        PartitionSnapshot { checkpoint, extents }
    }
}

impl Handler<ListProducers> for Partition {
    type Result = MessageResult<ListProducers>;

    fn handle(&mut self, _: ListProducers, _: &mut Self::Context) -> Self::Result {
        let (high_watermark, now_ms) = (self.state.high_watermark(), self.clock.settled_ms());
        let producers = self.state.producers_mut();
        producers.expire(high_watermark, now_ms);
        MessageResult(producers.snapshot(high_watermark))
    }
}

impl Handler<Depart> for Partition {
    type Result = ();

    fn handle(&mut self, _: Depart, _: &mut Self::Context) {
        failpoint::hit("partition.depart");
        self.step(Event::Departing);
    }
}

impl Handler<Stop> for Partition {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        failpoint::hit("partition.stop");
        self.step(Event::Interrupted);
        actix::ActorContext::stop(ctx);
    }
}

/// Delivers appends to a supervised partition, under the process-wide bound on bytes that are not yet durable.
pub struct PartitionSink {
    actor: ActorRef<Partition>,
    budget: Arc<PipelineBudget>,
    /// Whether this broker may have been sealed without knowing it.
    standing: Arc<Standing>,
    health: Arc<S3Health>,
    /// Tells the partition that an append did not reach it.
    refused: Arc<AtomicBool>,
}

impl PartitionSink {
    /// A sink for `actor`.
    pub fn new(
        actor: ActorRef<Partition>,
        budget: Arc<PipelineBudget>,
        standing: Arc<Standing>,
        health: Arc<S3Health>,
        refused: Arc<AtomicBool>,
    ) -> Self {
        Self { actor, budget, standing, health, refused }
    }

    fn deliver(&self, append: Append) -> Result<(), AppendError> {
        if self.standing.is_doubted() {
            return Err(AppendError::NotLeader);
        }
        if !self.health.admits(self.budget.bytes()) {
            return Err(AppendError::StoreUnavailable);
        }
        let bytes = append.batch.bytes.len() as u64;
        if !self.budget.try_enqueue(bytes) {
            return Err(AppendError::Overloaded);
        }
        let share = QueueShare { budget: self.budget.clone(), bytes, _place: self.actor.place() };
        self.actor.try_send(Queued { append, share }).map_err(|error| match error {
            SendError::Down => AppendError::NotLeader,
            SendError::Full => AppendError::Overloaded,
        })
    }
}

impl AppendSink for PartitionSink {
    fn append(&self, append: Append) -> Result<(), AppendError> {
        self.deliver(append).inspect_err(|_| self.refused.store(true, Ordering::Release))
    }
}
