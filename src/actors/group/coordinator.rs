//! The actor of one group: the shell of [`state::Group`](super::state::Group). It turns messages into calls of the machine, and
//! sends on what comes out of it: answers to whoever asked, and what changed to the shards' actor, which writes it.

use super::call::Call;
use super::classic::Ms;
use super::directory::CoordinatorShards;
use super::error::GroupError;
use super::limits::Loaded;
use super::messages::{Missing, Ready, Recover, Said};
use super::shards::{Changed, Incarnation};
use super::state::{Group, Out, Report};
use super::writes::GroupId;
use super::{GROUP_MAILBOX_LEN_MAX, Reply, Shared, TICK_MS};
use crate::actors::supervisor::{ActorRef, Place, supervise};
use crate::failpoint;
use crate::ids::TopicId;
use crate::trace;
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, SpawnHandle};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::Span;

/// A call with the place for its answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Forwarded {
    pub call: Call,
    pub reply: Reply,
    pub place: Place,
}

/// What became old is to be forgotten.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Sweep;

/// These topics were deleted.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Forget(pub Arc<BTreeSet<TopicId>>);

/// The group is about to be somebody else's, or nobody's: those who wait for other members are sent away, what changed is
/// reported, and then `done` is told.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Part {
    pub done: oneshot::Sender<()>,
}

/// The group is not here any more.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Stop;

/// See the module's documentation.
pub struct GroupCoordinator {
    id: GroupId,
    group: Group<Reply>,
    shared: Arc<Shared>,
    shards: Addr<CoordinatorShards>,
    incarnation: Incarnation,
    handled: u64,
    reported: Report,
    wake: Option<(Ms, SpawnHandle)>,
    /// When the process went on last, as far as the group knows.
    resumed_ms: Ms,
    /// The span of the rebalance that goes on.
    rebalance: Option<Span>,
}

/// Starts the actor of a group, of which `stored` is stored. When it fails, its successor asks `shards` for what is stored then.
pub(super) fn start(
    shared: &Arc<Shared>,
    shards: Addr<CoordinatorShards>,
    id: GroupId,
    incarnation: Incarnation,
    stored: Vec<Loaded>,
) -> ActorRef<GroupCoordinator> {
    let mut first = Some((incarnation, stored));
    let shared = shared.clone();
    supervise(shared.supervision(format!("group/{id}")), GROUP_MAILBOX_LEN_MAX, move |_| {
        let (shared, shards, id, first) = (shared.clone(), shards.clone(), id.clone(), first.take());
        Box::pin(async move {
            let (incarnation, stored) = match first {
                Some(first) => first,
                None => {
                    let (reply, recovered) = oneshot::channel();
                    shards.do_send(Recover { id: id.clone(), reply });
                    recovered.await.map_err(|_| "its stored state could not be read".to_owned())?
                }
            };
            Ok(GroupCoordinator::new(shared, shards, id, incarnation, stored))
        })
    })
}

impl GroupCoordinator {
    fn new(
        shared: Arc<Shared>,
        shards: Addr<CoordinatorShards>,
        id: GroupId,
        incarnation: Incarnation,
        stored: Vec<Loaded>,
    ) -> Self {
        let now = shared.now();
        let group = Group::recover(id.clone(), &shared.config.limits, now, stored);
        let (reported, resumed_ms) = (group.report(), shared.pulse.look(now));
        Self { id, group, shared, shards, incarnation, handled: 0, reported, wake: None, resumed_ms, rebalance: None }
    }

    /// Sends on what came out of the machine, and sees to it that its next timer runs out.
    fn proceed(&mut self, out: Out<Reply>, ctx: &mut Context<Self>) {
        for (reply, outcome) in out.answers {
            drop(reply.send(outcome)); // whoever asked may be gone
        }
        let report = self.group.report();
        self.follow_rebalance(&report);
        let silent = out.writes.is_empty() && out.waiting.is_empty() && report == self.reported;
        if !silent || report.is_nothing {
            self.reported = report.clone();
            let (incarnation, handled) = (self.incarnation, self.handled);
            let changed = Changed { incarnation, writes: out.writes, waiting: out.waiting, report, handled };
            self.shards.do_send(Said { id: self.id.clone(), changed });
        }
        self.arm(ctx);
    }

    /// A rebalance is a trace of its own: who caused it is one of several, and who waits for it asks again and again.
    fn follow_rebalance(&mut self, report: &Report) {
        match (&self.rebalance, report.is_rebalancing()) {
            (None, true) => self.rebalance = Some(trace::rebalance(&self.id)),
            (Some(span), false) => {
                span.record("kafscale.group.members", report.members as i64)
                    .record("kafscale.group.state", report.state());
                self.rebalance = None;
            }
            _ => {}
        }
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        let wanted = self.group.next_deadline();
        if self.wake.as_ref().map(|(at, _)| *at) == wanted {
            return;
        }
        if let Some((_, handle)) = self.wake.take() {
            ctx.cancel_future(handle);
        }
        if let Some(at) = wanted {
            self.wake_at(at, at, ctx);
        }
    }

    /// Wakes at `at` for what is due at `due`.
    fn wake_at(&mut self, at: Ms, due: Ms, ctx: &mut Context<Self>) {
        let wait = Duration::from_millis(at.saturating_sub(self.shared.now().mono_ms).max(1));
        let handle = ctx.run_later(wait, |group, ctx| {
            group.wake = None;
            group.time_passes(ctx);
        });
        self.wake = Some((due, handle));
    }

    fn time_passes(&mut self, ctx: &mut Context<Self>) {
        failpoint::hit("group.timer");
        let now = self.shared.now();
        let resumed_ms = self.shared.pulse.look(now);
        // The broker may have been replaced without knowing it, so that members cannot reach it: their silence means nothing.
        if self.shared.config.standing.is_doubted() {
            if let Some(due) = self.group.next_deadline() {
                self.wake_at(now.mono_ms + TICK_MS, due, ctx);
            }
            return;
        }
        let (env, mut out) = (self.shared.env(), Out::default());
        if self.resumed_ms < resumed_ms {
            self.resumed_ms = resumed_ms;
            self.group.extend_sessions(now, &env);
        }
        self.group.expire(now, &env, &mut out);
        self.proceed(out, ctx);
    }
}

impl Actor for GroupCoordinator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.shards.do_send(Ready(self.id.clone()));
        self.arm(ctx);
    }
}

impl Handler<Forwarded> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, Forwarded { call, reply, place }: Forwarded, ctx: &mut Self::Context) {
        failpoint::hit("group.call");
        drop(place);
        self.handled += 1;
        // Only a member without an id needs one.
        let unique = match &call {
            Call::Join(_, request) if request.member_id.is_empty() => crate::rng::uuid().to_string(),
            Call::Beat(_, request) if request.member_id.is_empty() => crate::rng::uuid().to_string(),
            _ => String::new(),
        };
        let (now, env, mut out) = (self.shared.now(), self.shared.env(), Out::default());
        self.group.call(now, call, &unique, reply, &env, &mut out);
        self.proceed(out, ctx);
    }
}

impl Handler<Sweep> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, _: Sweep, ctx: &mut Self::Context) {
        failpoint::hit("group.sweep");
        let mut out = Out::default();
        let missing = self.group.sweep(self.shared.now(), &self.shared.env(), &mut out);
        if !missing.is_empty() {
            self.shards.do_send(Missing(missing));
        }
        self.proceed(out, ctx);
    }
}

impl Handler<Forget> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, Forget(gone): Forget, ctx: &mut Self::Context) {
        failpoint::hit("group.forget");
        let mut out = Out::default();
        self.group.forget_topics(&gone, &mut out);
        self.proceed(out, ctx);
    }
}

impl Handler<Part> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, Part { done }: Part, ctx: &mut Self::Context) {
        failpoint::hit("group.part");
        let mut out = Out::default();
        self.group.fail_parked(GroupError::NotCoordinator, &mut out);
        self.proceed(out, ctx);
        _ = done.send(());
    }
}

impl Handler<Stop> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
