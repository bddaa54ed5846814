//! KafscaleClusters. One actor per cluster looks after it ([`reconcile`]): one look at a time, soon again while something is
//! under way or failed, else when something happens or it is time. [`Clusters`] gives each its actor, while this operator
//! leads; when it does not lead any more, the actors end with everything they had begun.

pub mod duplicates;
pub mod events;
pub mod findings;
pub mod memory;
pub mod observe;
pub mod parts;
pub mod plan;
pub mod reconcile;

#[cfg(test)]
mod tests;

use super::context::{Key, OperatorContext};
use super::metrics::{Controller, Outcome};
use super::watch::Why;
use crate::actors::supervisor::{ActorRef, Escalation, RestartPolicy, SendError, Supervision, supervise};
use crate::trace;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, WrapFuture};
use actix::{ActorFutureExt, SpawnHandle};
use memory::Memory;
use parts::Leading;
use reconcile::{Next, ReconcileError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// What happens within this time is one reason to look.
const GATHER: Duration = Duration::from_millis(100);
/// Pause before a change is looked at after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Pause after a first failure; it doubles.
const BACKOFF_MS_MIN: u64 = 500;
/// Longest pause after failures.
const BACKOFF_MS_MAX: u64 = 60_000;
/// How long one look may take.
const LOOK_WITHIN: Duration = Duration::from_secs(120);
/// Everything is applied again this often, though no watch has seen a change.
const FULL_EVERY: Duration = Duration::from_secs(300);
/// Pause after an actor has failed too often.
const ESCALATED_MS: u64 = 60_000;
/// Messages that wait for an actor; they say all the same.
const MAILBOX: usize = 16;

/// Look at the cluster.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Look(pub Why);

/// End.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Leave;

/// See the module's documentation.
pub struct ClusterActor {
    context: Arc<OperatorContext>,
    key: Key,
    /// Away while a look goes on.
    memory: Option<Memory>,
    wanted: Option<Why>,
    timer: Option<SpawnHandle>,
    failures: u32,
    full_at_ms: i64,
}

impl ClusterActor {
    fn new(context: Arc<OperatorContext>, key: Key) -> Self {
        Self {
            context,
            key,
            memory: Some(Memory::default()),
            wanted: None,
            timer: None,
            failures: 0,
            full_at_ms: i64::MIN,
        }
    }

    fn schedule(&mut self, ctx: &mut Context<Self>, pause: Duration) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = Some(ctx.run_later(pause, |actor, ctx| {
            actor.timer = None;
            actor.look(ctx);
        }));
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let Some(mut memory) = self.memory.take() else { return };
        let now_ms = self.context.clock.monotonic_ms();
        let mut why = self.wanted.take().unwrap_or_default();
        if now_ms >= self.full_at_ms {
            (why, self.full_at_ms) = (Why::Changed, now_ms + FULL_EVERY.as_millis() as i64);
        }
        let (context, key) = (self.context.clone(), self.key.clone());
        let began = crate::clock::monotonic();
        let look = async move {
            let span = trace::reconcile("KafscaleCluster", &key);
            let look = reconcile::reconcile(&context, &key, &mut memory, why);
            let outcome = tokio::time::timeout(LOOK_WITHIN, look).instrument(span.clone()).await;
            let outcome = outcome.unwrap_or(Err(ReconcileError::TimedOut(LOOK_WITHIN.as_secs())));
            if let Err(error) = &outcome {
                trace::fail(&span, "reconcile", Some(&error.to_string()));
            }
            (memory, outcome)
        };
        ctx.spawn(look.into_actor(self).map(move |(memory, outcome), actor, ctx| {
            actor.memory = Some(memory);
            actor.looked(outcome, why, began.elapsed(), ctx);
        }));
    }

    fn looked(&mut self, outcome: Result<Next, ReconcileError>, why: Why, took: Duration, ctx: &mut Context<Self>) {
        let metrics = &self.context.metrics;
        let pause = match outcome {
            Ok(next) => {
                self.failures = 0;
                let (outcome, pause) = match next {
                    Next::Never => (Outcome::Success, None),
                    Next::Soon(pause) => (Outcome::Requeue, Some(pause)),
                    Next::Later(pause) => (Outcome::Success, Some(pause)),
                };
                metrics.reconciled(Controller::Cluster, outcome, took);
                pause
            }
            Err(ReconcileError::NotLeading(_)) => None,
            Err(ReconcileError::Part { reason, soon: true }) => {
                metrics.reconciled(Controller::Cluster, Outcome::Error, took);
                tracing::debug!(cluster = %self.key, reason, "a look at a cluster failed in part");
                Some(reconcile::SOON)
            }
            Err(error) => {
                metrics.reconciled(Controller::Cluster, Outcome::Error, took);
                tracing::warn!(cluster = %self.key, %error, failures = self.failures, "a look at a cluster failed");
                let backoff_ms = (BACKOFF_MS_MIN << self.failures.min(10)).min(BACKOFF_MS_MAX);
                self.failures += 1;
                // What it wanted to apply is not applied yet.
                if !matches!(error, ReconcileError::Part { .. }) {
                    self.wanted = self.wanted.max(Some(why));
                }
                let pause = Duration::from_millis(crate::rng::jitter_ms(backoff_ms));
                self.schedule(ctx, pause);
                return;
            }
        };
        match (self.wanted, pause) {
            (Some(_), _) => self.schedule(ctx, GATHER),
            (None, Some(pause)) => self.schedule(ctx, pause),
            // Gone, or another operator's: the address ends with the actor, and a new cluster of the name gets a new one.
            (None, None) => ctx.stop(),
        }
    }
}

impl Actor for ClusterActor {
    type Context = Context<Self>;

    /// It begins with a look, also after it has failed.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.wanted = Some(Why::Changed);
        self.schedule(ctx, Duration::ZERO);
    }
}

impl Handler<Look> for ClusterActor {
    type Result = ();

    fn handle(&mut self, Look(why): Look, ctx: &mut Context<Self>) {
        self.wanted = self.wanted.max(Some(why));
        let pause = match (self.failures, why) {
            (0, _) => GATHER,
            // A change may be the repair.
            (_, Why::Changed) => AFTER_FAILURE,
            (_, Why::Look) => return,
        };
        if self.memory.is_some() {
            self.schedule(ctx, pause);
        }
    }
}

impl Handler<Leave> for ClusterActor {
    type Result = ();

    fn handle(&mut self, _: Leave, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

/// Gives each cluster its actor.
#[derive(Default)]
pub struct Clusters {
    actors: BTreeMap<Key, ActorRef<ClusterActor>>,
    leading: Option<Leading>,
}

impl Clusters {
    /// Works until `stop`.
    pub async fn run(mut self, context: Arc<OperatorContext>, stop: CancellationToken) {
        let mut leads = context.leadership.changes();
        leads.mark_changed();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = leads.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    leads.mark_unchanged();
                    self.lead_or_leave(&context);
                }
                // Leadership also ends without anybody saying so, while the election waits for an answer.
                _ = tick.tick() => self.lead_or_leave(&context),
                dirty = context.seen.queue.take() => {
                    self.lead_or_leave(&context);
                    if let Some(leading) = self.leading.as_ref().filter(|_| context.seen.is_complete()) {
                        leading.changed(&context);
                        dirty.into_iter().for_each(|(key, why)| self.look(&context, &key, why));
                    }
                }
            }
        }
        self.leave(&context);
    }

    fn lead_or_leave(&mut self, context: &Arc<OperatorContext>) {
        let token = context.leadership.token().ok();
        if token == self.leading.as_ref().map(Leading::token) {
            return;
        }
        self.leave(context);
        self.leading = token.map(|token| Leading::start(context, token));
        if self.leading.is_some() {
            context.seen.clusters().into_keys().for_each(|key| context.seen.queue.push(key, Why::Changed));
        }
    }

    fn look(&mut self, context: &Arc<OperatorContext>, key: &Key, why: Why) {
        if let Some(actor) = self.actors.get(key) {
            match actor.try_send(Look(why)) {
                // A full mailbox is full of the same.
                Ok(()) | Err(SendError::Full) => return,
                Err(SendError::Down) => {}
            }
        }
        if !context.seen.clusters().contains_key(key) {
            if let Some(actor) = self.actors.remove(key) {
                actor.close();
            }
            return;
        }
        let (shared, of) = (context.clone(), key.clone());
        let supervision = Supervision {
            name: format!("cluster/{key}"),
            policy: RestartPolicy::default(),
            registry: context.registry.clone(),
            on_escalate: Box::new(|_| Escalation::RetryAfterMs(ESCALATED_MS)),
        };
        let actor = supervise(supervision, MAILBOX, move |_| {
            let actor = ClusterActor::new(shared.clone(), of.clone());
            Box::pin(async move { Ok(actor) })
        });
        if let Some(old) = self.actors.insert(key.clone(), actor) {
            old.close();
        }
    }

    fn leave(&mut self, context: &OperatorContext) {
        self.leading = None;
        for (key, actor) in std::mem::take(&mut self.actors) {
            actor.close();
            // One that is not there has left.
            let _left = actor.try_send(Leave);
            context.forget(&key);
        }
    }
}
