//! One client connection: reads requests, runs their handlers concurrently, writes the replies in request order.
//!
//! A connection is one task on its shard with three parts that are polled in this order: the *reader* takes frames,
//! guards them and starts handlers; the *writer* polls the running handlers and writes what is at the head of the queue;
//! the *watchdog* judges the peer. They share [`Pipe`], so nothing is sent between tasks.
//!
//! Invariants:
//! - A handler's future is created, and polled once, before the next request's future is created.
//! - What reads partitions is not started before the Produces that were sent before it have ended: its answer shows what
//!   they did, as if requests were handled one at a time.
//! - Replies leave in request order; a request's byte permit is held until its reply is written.
//! - No more than `connection_inflight_max` requests run, and none is started while more than
//!   `connection_reply_bytes_max` of replies wait for the peer.
//! - A handler that panics closes this connection and nothing else.
//! - After a reply that asks the client to wait, no request is started for as long, whatever the client does (KIP-219).
//!
//! Once reading ends (end of stream, a malformed request, shutdown), the requests in flight have `drain` to finish.

use super::api;
use super::budget::{Permit, RequestBudget, SMALL_LEN_MAX};
use super::close::CloseReason;
use super::frame::{self, Frame, FrameReader, HeaderError, Phase, ReadProgress};
use super::guard;
use super::handlers::{Reply, Request};
use super::limits::{EdgeLimits, EdgeStats, LogGate};
use super::outbox::Outbox;
use crate::clock;
use crate::trace::TraceContext;
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use kafka_protocol::messages::ApiKey;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests whose decoded form is estimated above this take a permit for it. Bytes.
const DECODED_FREE_MAX: usize = 256 * 1024;
/// Reply bytes that may wait on a connection while the process is crowded.
const CROWDED_REPLY_BYTES_MAX: usize = 256 * 1024;
/// Replies are gathered into one write up to about this many bytes.
const WRITE_BATCH_LEN: usize = 1 << 20;
/// How often the watchdog looks at a connection that owes something, and at one that does not.
const WATCH_BUSY: Duration = Duration::from_secs(1);
const WATCH_IDLE: Duration = Duration::from_secs(5);
/// How often a fetch looks again while the replies of the process wait for slow peers.
const FETCH_PAUSE: Duration = Duration::from_millis(10);

/// What all connections of a process share.
#[derive(Debug)]
pub struct Edge {
    /// The bounds.
    pub limits: EdgeLimits,
    /// Byte permits.
    pub budget: RequestBudget,
    /// Counters.
    pub stats: EdgeStats,
    /// Limits the log lines about misbehaving peers.
    pub log: LogGate,
}

impl Edge {
    /// A new edge with these bounds.
    pub fn new(limits: EdgeLimits) -> Self {
        let budget = RequestBudget::new(&limits);
        Self { limits, budget, stats: EdgeStats::default(), log: LogGate::default() }
    }

    /// True while a quarter of the reply bytes that may wait do wait: long before fetches have to wait.
    pub fn is_crowded(&self) -> bool {
        self.stats.reply_bytes.load(Ordering::Relaxed) > self.limits.reply_bytes_max / 4
    }
}

/// Starts handlers; [`super::handlers::dispatch`] in the product.
pub trait Dispatch {
    /// Starts the handler of `request`; see the order promised in [`super::handlers`].
    fn dispatch(&self, request: Request) -> LocalBoxFuture<'static, Reply>;
}

/// True if the answer to this API shows what was produced before.
fn reads_partitions(key: ApiKey) -> bool {
    use ApiKey::{DeleteRecords, DescribeLogDirs, DescribeProducers, Fetch, ListOffsets, OffsetForLeaderEpoch};
    matches!(key, Fetch | ListOffsets | OffsetForLeaderEpoch | DeleteRecords | DescribeProducers | DescribeLogDirs)
}

/// A request in flight.
struct Slot {
    produces: bool,
    correlation_id: i32,
    tagged_header: bool,
    state: SlotState,
    permits: [Option<Permit>; 2],
}

fn produce_runs(slots: &VecDeque<Slot>) -> bool {
    slots.iter().any(|slot| slot.produces && matches!(slot.state, SlotState::Running(_)))
}

enum SlotState {
    Running(LocalBoxFuture<'static, Reply>),
    Done(Reply),
}

/// A write that the peer has not taken completely.
#[derive(Clone, Copy)]
struct Writing {
    started: Instant,
    progressed: Instant,
    len: usize,
}

/// Serves one connection until it ends.
pub async fn run<R, W, D>(reader: R, writer: W, dispatch: D, edge: &Edge, shutdown: &CancellationToken) -> CloseReason
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    D: Dispatch,
{
    let pipe = Pipe::new(dispatch, edge);
    let reason = pipe.run(reader, writer, shutdown).await;
    pipe.discard_replies();
    if reason.is_protocol_error() {
        edge.stats.protocol_errors.fetch_add(1, Ordering::Relaxed);
    }
    if reason.is_stall() {
        edge.stats.connections_stalled.fetch_add(1, Ordering::Relaxed);
    }
    reason
}

/// What reader, writer and watchdog share.
struct Pipe<'a, D> {
    dispatch: D,
    edge: &'a Edge,
    slots: RefCell<VecDeque<Slot>>,
    /// Requests whose permits are held, including those whose replies are being written.
    in_flight: Cell<usize>,
    /// Reply bytes that are ready but not written.
    reply_bytes: Cell<usize>,
    /// Woken when requests leave the queue.
    room: Notify,
    /// The reader waits until no Produce runs; woken then.
    awaits_produces: Cell<bool>,
    produced: Notify,
    /// The client was asked to send nothing until then.
    muted_until: Cell<Option<Instant>>,
    requests: Cell<u64>,
    progress: ReadProgress,
    opened: Instant,
    last_written: Cell<Instant>,
    writing: Cell<Option<Writing>>,
    /// Nothing more is read; the writer ends after the last slot.
    reading_done: Cell<bool>,
}

impl<'a, D: Dispatch> Pipe<'a, D> {
    fn new(dispatch: D, edge: &'a Edge) -> Self {
        let progress = ReadProgress::new();
        let now = progress.since.get();
        Self {
            dispatch,
            edge,
            slots: RefCell::default(),
            in_flight: Cell::new(0),
            reply_bytes: Cell::new(0),
            room: Notify::new(),
            awaits_produces: Cell::new(false),
            produced: Notify::new(),
            muted_until: Cell::new(None),
            requests: Cell::new(0),
            progress,
            opened: now,
            last_written: Cell::new(now),
            writing: Cell::new(None),
            reading_done: Cell::new(false),
        }
    }

    async fn run<R, W>(&self, reader: R, writer: W, shutdown: &CancellationToken) -> CloseReason
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut read = pin!(self.read_requests(FrameReader::new(reader, self.edge.limits.request_bytes_max)));
        let mut write = pin!(self.write_replies(writer));
        let mut watch = pin!(self.watch());
        let mut shut = pin!(shutdown.cancelled());
        // Reader before writer: the writer sees, in the same poll, what the reader just queued.
        let reason = tokio::select! {
            biased;
            () = &mut shut => CloseReason::Shutdown,
            reason = &mut read => reason,
            reason = &mut write => return reason,
            reason = &mut watch => return reason,
        };
        self.reading_done.set(true);
        self.progress.enter(Phase::Waiting);
        tokio::select! {
            biased;
            failed = &mut write => if matches!(failed, CloseReason::Eof) { reason } else { failed },
            _ = &mut watch => reason,
            () = tokio::time::sleep(self.edge.limits.drain) => reason,
        }
    }

    /// Reads until the stream ends or brings something that is not a request.
    async fn read_requests<R: AsyncRead + Unpin>(&self, mut frames: FrameReader<R>) -> CloseReason {
        loop {
            self.wait_for_room().await;
            self.wait_while_muted().await;
            let accepted = match frames.next(&self.edge.budget, &self.progress).await {
                Ok(Some(mut frame)) => {
                    // The reply that mutes may have been written while this frame was on its way.
                    if self.wait_while_muted().await {
                        frame.received = clock::monotonic();
                    }
                    self.accept(frame).await
                }
                Ok(None) => return CloseReason::Eof,
                Err(error) => return error.into(),
            };
            if let Err(reason) = accepted {
                return reason;
            }
        }
    }

    async fn wait_for_room(&self) {
        let limits = &self.edge.limits;
        while self.in_flight.get() >= limits.connection_inflight_max || self.reply_bytes.get() > self.reply_bytes_max()
        {
            self.progress.enter(Phase::Waiting);
            self.room.notified().await;
        }
    }

    /// Returns when the client may be served again; true if it had to wait.
    async fn wait_while_muted(&self) -> bool {
        let mut waited = false;
        while let Some(until) = self.muted_until.take() {
            if until <= clock::monotonic() {
                break;
            }
            waited = true;
            self.muted_until.set(Some(until));
            self.progress.enter(Phase::Waiting);
            tokio::time::sleep_until(until).await;
        }
        waited
    }

    fn mute(&self, throttle: Duration) {
        let until = clock::monotonic() + throttle;
        self.muted_until.set(self.muted_until.get().max(Some(until)));
        self.edge.stats.throttles.fetch_add(1, Ordering::Relaxed);
        self.edge.stats.throttle_ms.fetch_add(throttle.as_millis() as u64, Ordering::Relaxed);
    }

    /// Checks a request and starts its handler.
    async fn accept(&self, frame: Frame) -> Result<(), CloseReason> {
        self.edge.stats.bytes_in.fetch_add(frame.bytes.len() as u64 + 4, Ordering::Relaxed);
        self.requests.set(self.requests.get() + 1);
        let header = match frame::read_header(&frame.bytes) {
            Ok(header) => header,
            Err(HeaderError::ApiVersions { correlation_id, .. }) => {
                let reply = Reply::Body(vec![api::unsupported_api_versions_body()]);
                self.account(reply_len(&reply) as isize);
                let permits = [Some(frame.permit), None];
                self.push(Slot {
                    produces: false,
                    correlation_id,
                    tagged_header: false,
                    state: SlotState::Done(reply),
                    permits,
                });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let (key, version) = (header.api.key as i16, header.version);
        let body = frame.bytes.slice(header.len..);
        let walk = guard::check(key, version, &body);
        let walk = walk.map_err(|error| CloseReason::Guard { key, version, error })?;
        let decoded = self.permit_for_decoding(key, walk.decoded_bytes).await?;
        if reads_partitions(header.api.key) {
            self.wait_for_produces().await;
        }
        if header.api.key == ApiKey::Fetch {
            self.wait_for_slow_peers().await;
        }
        self.edge.stats.count_request(key);
        let request = Request {
            api_key: key,
            api_version: version,
            correlation_id: header.correlation_id,
            client_id: header.client_id,
            body,
            received: frame.received,
            ahead: self.in_flight.get(),
            trace: TraceContext::NONE,
        };
        let state = self.start(request).await;
        let tagged_header = header.api.response_header_version(version) >= 1;
        let closes = matches!(state, SlotState::Done(Reply::Close(_)));
        let produces = header.api.key == ApiKey::Produce;
        let (correlation_id, permits) = (header.correlation_id, [Some(frame.permit), decoded]);
        self.push(Slot { produces, correlation_id, tagged_header, state, permits });
        // Nothing after a request that closes the connection is served; the writer ends it in its turn.
        if closes { std::future::pending().await } else { Ok(()) }
    }

    /// Reply bytes that may wait on this connection; few while the process is crowded, so that those who do not read
    /// cannot take what is left.
    fn reply_bytes_max(&self) -> usize {
        let max = self.edge.limits.connection_reply_bytes_max;
        if self.edge.is_crowded() { max.min(CROWDED_REPLY_BYTES_MAX) } else { max }
    }

    /// Produces run side by side, and their acks take as long as a PUT: only who reads waits for them.
    async fn wait_for_produces(&self) {
        while produce_runs(&self.slots.borrow()) {
            self.progress.enter(Phase::Waiting);
            self.awaits_produces.set(true);
            self.produced.notified().await;
        }
    }

    /// Fetch is what makes replies much larger than requests: none is started while more than `reply_bytes_max` wait.
    /// The watchdogs of the connections that hold them then close those that do not read.
    async fn wait_for_slow_peers(&self) {
        while self.edge.stats.reply_bytes.load(Ordering::Relaxed) > self.edge.limits.reply_bytes_max {
            self.progress.enter(Phase::Waiting);
            tokio::time::sleep(FETCH_PAUSE).await;
        }
    }

    async fn permit_for_decoding(&self, key: i16, bytes: usize) -> Result<Option<Permit>, CloseReason> {
        let max = self.edge.limits.decoded_bytes_max;
        if bytes > max {
            return Err(CloseReason::TooManyElements { key, bytes, max });
        }
        if bytes <= DECODED_FREE_MAX {
            return Ok(None);
        }
        self.progress.enter(Phase::Waiting);
        Ok(Some(self.edge.budget.decoded(bytes).await))
    }

    /// Creates the handler's future and polls it once.
    async fn start(&self, request: Request) -> SlotState {
        let Ok(future) = catch_unwind(AssertUnwindSafe(|| self.dispatch.dispatch(request))) else {
            return SlotState::Done(self.panicked());
        };
        let mut state = SlotState::Running(future);
        poll_fn(|cx| {
            self.poll_slot(&mut state, cx);
            Poll::Ready(())
        })
        .await;
        state
    }

    /// Polls a running handler; a finished one becomes `Done`.
    fn poll_slot(&self, state: &mut SlotState, cx: &mut Context<'_>) {
        let SlotState::Running(future) = state else { return };
        let reply = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(reply)) => reply,
            Err(_) => self.panicked(),
        };
        self.account(reply_len(&reply) as isize);
        *state = SlotState::Done(reply);
    }

    fn panicked(&self) -> Reply {
        self.edge.stats.handler_panics.fetch_add(1, Ordering::Relaxed);
        Reply::Close("the request's handler panicked".to_owned())
    }

    /// Adds to the reply bytes that wait.
    fn account(&self, delta: isize) {
        self.reply_bytes.set(self.reply_bytes.get().wrapping_add_signed(delta));
        if delta != 0 {
            self.edge.stats.reply_bytes.fetch_add(delta as usize, Ordering::Relaxed); // wraps for negative ones
        }
    }

    fn push(&self, slot: Slot) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.slots.borrow_mut().push_back(slot);
    }

    /// Writes replies until the connection has to end; `Eof` once reading is over and the last reply is written.
    async fn write_replies<W: AsyncWrite + Unpin>(&self, mut io: W) -> CloseReason {
        let mut outbox = Outbox::default();
        let mut taken = Taken::default();
        loop {
            let end = poll_fn(|cx| self.poll_replies(cx, &mut outbox, &mut taken)).await;
            if let Err(error) = self.write_out(&mut io, &mut outbox).await {
                return CloseReason::Write(error);
            }
            self.release(&mut taken);
            if let Some(reason) = end {
                return reason;
            }
        }
    }

    /// Polls every running handler, then takes the finished ones at the head of the queue. Ready when there is something
    /// to write or the connection ends; then with the reason.
    fn poll_replies(&self, cx: &mut Context<'_>, outbox: &mut Outbox, taken: &mut Taken) -> Poll<Option<CloseReason>> {
        let mut slots = self.slots.borrow_mut();
        slots.iter_mut().for_each(|slot| self.poll_slot(&mut slot.state, cx));
        if self.awaits_produces.get() && !produce_runs(&slots) {
            self.awaits_produces.set(false);
            self.produced.notify_one();
        }
        while outbox.len() < WRITE_BATCH_LEN {
            let Some(slot) = slots.pop_front_if(|slot| matches!(slot.state, SlotState::Done(_))) else { break };
            taken.permits.extend(slot.permits.into_iter().flatten());
            taken.requests += 1;
            let SlotState::Done(reply) = slot.state else { continue };
            let body = match reply {
                Reply::Body(body) => Some(body),
                Reply::None => None,
                Reply::Throttled(body, throttle) => {
                    self.mute(throttle);
                    body
                }
                Reply::Close(reason) => return Poll::Ready(Some(CloseReason::Handler(reason))),
            };
            if let Some(body) = body {
                taken.reply_bytes += body.iter().map(Bytes::len).sum::<usize>();
                outbox.push_response(slot.correlation_id, slot.tagged_header, body);
            }
        }
        if !outbox.is_empty() {
            return Poll::Ready(None);
        }
        let finished = slots.is_empty() && self.reading_done.get();
        drop(slots);
        self.release(taken);
        if finished { Poll::Ready(Some(CloseReason::Eof)) } else { Poll::Pending }
    }

    async fn write_out<W: AsyncWrite + Unpin>(&self, io: &mut W, outbox: &mut Outbox) -> io::Result<()> {
        if outbox.is_empty() {
            return Ok(());
        }
        let started = clock::monotonic();
        let len = outbox.len();
        while !outbox.is_empty() {
            self.writing.set(Some(Writing { started, progressed: clock::monotonic(), len }));
            let written = outbox.write_some(io).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.edge.stats.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
        }
        io.flush().await?;
        self.last_written.set(started);
        self.writing.set(None);
        Ok(())
    }

    /// Gives back what the written requests held.
    fn release(&self, taken: &mut Taken) {
        if taken.requests == 0 {
            return;
        }
        taken.permits.clear();
        self.in_flight.set(self.in_flight.get() - taken.requests);
        self.account(-(taken.reply_bytes as isize));
        (taken.requests, taken.reply_bytes) = (0, 0);
        self.room.notify_one();
    }

    /// Gives back the accounting of replies that will not be written.
    fn discard_replies(&self) {
        self.account(-(self.reply_bytes.get() as isize));
    }

    /// Returns when the peer is overdue with something.
    async fn watch(&self) -> CloseReason {
        loop {
            let owes = self.progress.phase.get() == Phase::InFrame || self.writing.get().is_some();
            let busy = owes || self.requests.get() == 0;
            tokio::time::sleep(if busy { WATCH_BUSY } else { WATCH_IDLE }).await;
            if let Some(reason) = self.overdue(clock::monotonic()) {
                return reason;
            }
        }
    }

    fn overdue(&self, now: Instant) -> Option<CloseReason> {
        let limits = &self.edge.limits;
        if let Some(writing) = self.writing.get() {
            let contended = self.edge.stats.reply_bytes.load(Ordering::Relaxed) > limits.reply_bytes_max;
            let stall = if contended { limits.contended_stall } else { limits.write_stall };
            let total = limits.write_stall + transfer_time(writing.len, limits.rate_min);
            if now - writing.progressed > stall || now - writing.started > total {
                return Some(CloseReason::WriteStalled(self.reply_bytes.get()));
            }
        }
        let frame_len = self.progress.frame_len.get();
        let phase = self.progress.phase.get();
        let no_request_yet = self.requests.get() == 0 && phase != Phase::Waiting && frame_len <= SMALL_LEN_MAX;
        if no_request_yet && now - self.opened > limits.first_request {
            return Some(CloseReason::Idle(limits.first_request));
        }
        match phase {
            Phase::Idle => {
                let since = self.progress.since.get().max(self.last_written.get());
                (self.in_flight.get() == 0 && now - since > limits.idle).then_some(CloseReason::Idle(limits.idle))
            }
            Phase::InFrame => {
                let contended = self.edge.budget.is_contended();
                let stall = if contended { limits.contended_stall } else { limits.frame_stall };
                let total = limits.frame_stall + transfer_time(frame_len, limits.rate_min);
                let stalled = now - self.progress.since.get() > stall;
                let slow = now - self.progress.frame_started.get() > total;
                (stalled || slow).then_some(CloseReason::FrameStalled(frame_len))
            }
            Phase::Waiting => None,
        }
    }
}

/// What requests hold that left the queue and whose replies are being written.
#[derive(Default)]
struct Taken {
    permits: Vec<Permit>,
    requests: usize,
    reply_bytes: usize,
}

fn reply_len(reply: &Reply) -> usize {
    match reply {
        Reply::Body(chunks) | Reply::Throttled(Some(chunks), _) => chunks.iter().map(Bytes::len).sum(),
        Reply::None | Reply::Throttled(None, _) | Reply::Close(_) => 0,
    }
}

fn transfer_time(len: usize, rate_min: u64) -> Duration {
    Duration::from_millis(len as u64 * 1000 / rate_min.max(1))
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
