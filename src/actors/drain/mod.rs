//! Gives everything away while clients are still served, so that they find the next leader at once: on request (the
//! control plane) and when the process ends. There is one way for both.
//!
//! [`Drains`] is what they hold. Its loop tells the others (`live/{writer}`), upon which leadership and the coordinator
//! shards let go of what they have, looks how far they are, and waits until what was written is durable. [`state`] decides.

pub mod state;

use crate::actors::context::NodeContext;
use crate::actors::flusher::Quiesce;
use crate::actors::group::handle::Groups;
use crate::metadata::image::ClusterImage;
use crate::metadata::placement::Candidates;
use crate::metadata::watcher::ImageFeed;
use crate::trace;
use state::{End, Phase, Refused, Seen, State, Ticket};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tracing::Span;

/// How often it looks how far it is while it gives away.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it looks whether anybody else is left when all is given away.
const DRAINED_LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pause before others are told again.
const RETRY: Duration = Duration::from_millis(200);

/// How far a broker is, as others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The round of [`state`].
    pub round: u64,
    /// How far it is in it.
    pub phase: Phase,
    /// Why the round before ended.
    pub ended: Option<End>,
    /// Partitions that it leads.
    pub partitions: usize,
    /// Coordinator shards that it has.
    pub shards: u64,
    /// Bytes of batches that are not durable.
    pub inflight_bytes: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Drains {
    context: Arc<NodeContext>,
    groups: Groups,
    feed: ImageFeed,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    /// The span of the round that goes on.
    span: Mutex<Option<Span>>,
}

/// Waits for a drain; dropped before everything is given away, and with nobody else waiting, it calls it off.
#[derive(Debug)]
pub struct Hold {
    drains: Arc<Drains>,
    ticket: Ticket,
}

impl Hold {
    /// The round that is waited for: with another one in [`Progress`] it has ended.
    pub fn round(&self) -> u64 {
        self.ticket.round
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.drains.change(|state| state.gone(self.ticket));
    }
}

impl Drains {
    /// Of the broker of `context`.
    pub fn new(context: Arc<NodeContext>, groups: Groups, feed: ImageFeed) -> Arc<Self> {
        let state = State::default();
        let progress = Progress {
            round: state.round(),
            phase: state.phase(),
            ended: None,
            partitions: 0,
            shards: 0,
            inflight_bytes: 0,
        };
        Arc::new(Self {
            context,
            groups,
            feed,
            state: Mutex::new(state),
            progress: watch::Sender::new(progress),
            span: Mutex::default(),
        })
    }

    /// Follows how far it is.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// How far it is now.
    pub fn progress(&self) -> Progress {
        self.read(&self.state())
    }

    /// True once the process ends.
    pub fn is_stopping(&self) -> bool {
        self.state().is_stopping()
    }

    /// Begins a drain, or joins one.
    pub fn begin(self: &Arc<Self>) -> Result<Hold, Refused> {
        let others = self.others(&self.feed.current());
        let ticket = self.change(|state| state.begin(others))?;
        tracing::info!(round = ticket.round, "draining: everything is given to other brokers");
        Ok(Hold { drains: self.clone(), ticket })
    }

    /// Ends a drain: the broker takes work again. Returns whether there was one.
    pub fn undrain(&self) -> Result<bool, Refused> {
        self.change(State::undrain)
    }

    /// The process ends: returns when everything is given away, or nobody is there to take it.
    pub async fn stop(&self) {
        let others = self.others(&self.feed.current());
        let mut progress = self.watch();
        self.change(|state| state.stop(others));
        let over = |p: &Progress| matches!(p.phase, Phase::Serving | Phase::Drained);
        drop(progress.wait_for(over).await); // we hold the sender
    }

    /// The loop; can be started again at any time.
    pub async fn run(self: Arc<Self>) {
        // What others were told last, if that is known: as registered, at first.
        let mut told = (self.progress().round == 0 && !self.context.announcement.told().0.draining).then_some(false);
        let mut progress = self.watch();
        loop {
            let (wanted, phase, round) = {
                let state = self.state();
                (state.announcement(), state.phase(), state.round())
            };
            if let Some(draining) = wanted.filter(|_| told != wanted) {
                told = None;
                match self.context.set_draining(draining).await {
                    Ok(()) => told = wanted,
                    Err(error) => {
                        tracing::warn!(%error, draining, "others cannot be told whether this broker drains");
                        self.change(State::unannounced);
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            }
            match phase {
                Phase::Serving => _ = progress.changed().await, // we hold the sender
                Phase::Flushing => {
                    let (done, quiet) = oneshot::channel();
                    self.context.flusher.do_send(Quiesce { key: None, done });
                    tokio::select! {
                        biased;
                        _ = quiet => {}
                        () = called(&mut progress, phase, round) => continue, // off
                    }
                    let seen = self.see();
                    self.change(|state| {
                        state.look(seen);
                        state.flushed(round);
                    });
                }
                Phase::HandingOver | Phase::Drained => {
                    let wait = if phase == Phase::Drained { DRAINED_LOOK_EVERY } else { LOOK_EVERY };
                    let seen = self.see();
                    let after = self.change(|state| {
                        state.look(seen);
                        state.phase()
                    });
                    if after == phase {
                        // Not only with news of the state: what is left is seen by looking.
                        drop(tokio::time::timeout(wait, called(&mut progress, phase, round)).await);
                    }
                }
            }
        }
    }

    fn others(&self, image: &ClusterImage) -> bool {
        Candidates::of(image).others_than(self.context.registration.value.node)
    }

    fn see(&self) -> Seen {
        let (image, me) = (self.feed.current(), self.context.registration.writer);
        Seen {
            others: self.others(&image),
            known: image.lives().any(|(writer, live)| writer == me && live.draining),
            partitions: self.context.owned_count(),
            shards: self.groups.claimed(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the lock")
    }

    /// Changes the state and shows it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let before = (state.phase(), state.round());
        let answer = change(&mut state);
        let after = (state.phase(), state.round());
        let span = self.follow(before.0, after);
        let _within = span.enter();
        if before.1 != after.1 {
            tracing::info!(why = ?state.ended(), "not draining any more");
        } else if before != after {
            tracing::info!(phase = ?after.0, "draining");
        }
        let progress = self.read(&state);
        self.progress.send_if_modified(|shown| std::mem::replace(shown, progress) != progress);
        answer
    }

    /// The span of the round, which ends when nothing is left or it is called off.
    fn follow(&self, before: Phase, (phase, round): (Phase, u64)) -> Span {
        let goes_on = |phase| matches!(phase, Phase::HandingOver | Phase::Flushing);
        let mut span = self.span.lock().expect("no panic under the lock");
        if goes_on(phase) {
            return span.get_or_insert_with(|| trace::drain(round)).clone();
        }
        let Some(span) = span.take().filter(|_| goes_on(before)) else { return Span::none() };
        let left = self.context.owned_count() as i64;
        span.record("kafscale.drain.partitions", left).record("kafscale.drain.outcome", format!("{phase:?}"));
        span
    }

    fn read(&self, state: &State) -> Progress {
        Progress {
            round: state.round(),
            phase: state.phase(),
            ended: state.ended(),
            partitions: self.context.owned_count(),
            shards: self.groups.claimed(),
            inflight_bytes: self.context.budget.bytes(),
        }
    }
}

/// Waits until the phase or the round is another one.
async fn called(progress: &mut watch::Receiver<Progress>, phase: Phase, round: u64) {
    drop(progress.wait_for(|p| (p.phase, p.round) != (phase, round)).await);
}
