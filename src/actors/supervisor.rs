//! Restarts actors that panic.
//!
//! An actix actor that panics is gone with its mailbox, and `actix::Supervisor` does not bring it back. [`supervise`]
//! runs one actor at a time from a factory, waits out a backoff after a failure, and publishes the new address behind
//! a stable [`ActorRef`], whose sends fail fast while nobody is there. Too many restarts in a short time escalate: the
//! `on_escalate` callback decides (a partition goes offline for a while; a writer ends the process).

use crate::actors::runtime::IoPool;
use crate::clock::Clock;
use actix::{Actor, Addr, Context, dev::ToEnvelope};
use arc_swap::ArcSwapOption;
use futures::future::LocalBoxFuture;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How often and how fast to restart.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// First backoff, ms; doubles with every restart inside the window.
    pub backoff_ms_min: u64,
    /// Longest backoff, ms.
    pub backoff_ms_max: u64,
    /// More restarts than this inside the window escalate.
    pub restart_count_max: usize,
    /// The window, ms.
    pub window_ms: u64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { backoff_ms_min: 10, backoff_ms_max: 5_000, restart_count_max: 5, window_ms: 60_000 }
    }
}

/// Why an actor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// It stopped itself, or was told to.
    Stopped,
    /// It panicked with this message.
    Panicked(String),
    /// Its factory failed.
    FactoryFailed(String),
}

/// What happens after too many restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escalation {
    /// Wait this many milliseconds, then start counting anew.
    RetryAfterMs(u64),
    /// Give the actor up.
    GiveUp,
}

/// How many messages wait in a mailbox, for actors whose senders count them: actix does not tell.
#[derive(Debug, Default)]
pub struct Waiting {
    messages: AtomicUsize,
    is_counted: AtomicBool,
}

/// A counted message's place; it is free again when the message is handled, or dropped with the mailbox.
#[derive(Debug)]
pub struct Place(Arc<Waiting>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.messages.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a supervised actor has been through, for metrics and the console.
#[derive(Debug)]
pub struct ActorStatus {
    /// `kind` or `kind/instance`.
    pub name: String,
    /// Messages that its mailbox holds at most; `None` for loops, which have none.
    pub mailbox_capacity: Option<usize>,
    waiting: Arc<Waiting>,
    restarts: AtomicU64,
    running: AtomicBool,
    /// Unix milliseconds of its last start; 0 before the first.
    started_ms: AtomicI64,
    /// Why and when (Unix milliseconds) it ended last.
    last_exit: Mutex<Option<(ExitReason, i64)>>,
}

impl ActorStatus {
    fn new(name: String, mailbox_capacity: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            name,
            mailbox_capacity,
            waiting: Arc::default(),
            restarts: AtomicU64::new(0),
            running: AtomicBool::new(false),
            started_ms: AtomicI64::new(0),
            last_exit: Mutex::new(None),
        })
    }

    fn started(&self) {
        self.started_ms.store(Clock::system().wall_ms(), Ordering::Relaxed);
        self.running.store(true, Ordering::Relaxed);
    }

    fn ended(&self, reason: ExitReason) {
        self.running.store(false, Ordering::Relaxed);
        *self.last_exit.lock().expect("no panic under the lock") = Some((reason, Clock::system().wall_ms()));
    }

    /// When it was started last, Unix milliseconds.
    pub fn started_ms(&self) -> Option<i64> {
        Some(self.started_ms.load(Ordering::Relaxed)).filter(|ms| *ms != 0)
    }

    /// When it ended last, Unix milliseconds.
    pub fn last_exit_ms(&self) -> Option<i64> {
        self.last_exit.lock().expect("no panic under the lock").as_ref().map(|(_, ms)| *ms)
    }

    /// Messages that wait now; `None` if nobody counts them.
    pub fn waiting(&self) -> Option<usize> {
        let is_counted = self.waiting.is_counted.load(Ordering::Relaxed);
        is_counted.then(|| self.waiting.messages.load(Ordering::Relaxed))
    }

    /// Restarts so far.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// True while the actor can receive messages.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// Why it ended last, if it ever did.
    pub fn last_exit(&self) -> Option<ExitReason> {
        self.last_exit.lock().expect("no panic under the lock").as_ref().map(|(reason, _)| reason.clone())
    }
}

/// All supervised actors of the process.
#[derive(Debug, Default)]
pub struct ActorRegistry {
    actors: Mutex<Vec<Weak<ActorStatus>>>,
    restarts: AtomicU64,
}

impl ActorRegistry {
    /// Actors that are still supervised.
    pub fn all(&self) -> Vec<Arc<ActorStatus>> {
        self.actors.lock().expect("no panic under the lock").iter().filter_map(Weak::upgrade).collect()
    }

    /// Restarts of all actors, those no longer supervised included.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    fn add(&self, status: &Arc<ActorStatus>) {
        let mut actors = self.actors.lock().expect("no panic under the lock");
        if actors.len() == actors.capacity() {
            actors.retain(|a| a.strong_count() > 0);
        }
        actors.push(Arc::downgrade(status));
    }
}

/// A stable reference to a supervised actor.
pub struct ActorRef<A: Actor> {
    slot: Arc<Slot<A>>,
}

struct Slot<A: Actor> {
    addr: ArcSwapOption<Addr<A>>,
    closed: AtomicBool,
    waiting: Arc<Waiting>,
}

impl<A: Actor> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        Self { slot: self.slot.clone() }
    }
}

/// Nobody is there to receive the message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The actor is restarting or ended.
    #[error("the actor is not running")]
    Down,
    /// Its mailbox is full.
    #[error("the actor's mailbox is full")]
    Full,
}

impl<A: Actor<Context = Context<A>>> ActorRef<A> {
    /// The present incarnation's address.
    pub fn addr(&self) -> Option<Arc<Addr<A>>> {
        self.slot.addr.load_full()
    }

    /// Sends without waiting; the mailbox bound applies.
    pub fn try_send<M>(&self, message: M) -> Result<(), SendError>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        A: actix::Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        match self.slot.addr.load().as_ref() {
            Some(addr) => addr.try_send(message).map_err(|e| match e {
                actix::dev::SendError::Full(_) => SendError::Full,
                actix::dev::SendError::Closed(_) => SendError::Down,
            }),
            None => Err(SendError::Down),
        }
    }

    /// The same; gives the message back if it was not sent.
    pub fn send_or_return<M>(&self, message: M) -> Result<(), (SendError, M)>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        A: actix::Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        match self.slot.addr.load().as_ref() {
            Some(addr) => addr.try_send(message).map_err(|e| match e {
                actix::dev::SendError::Full(message) => (SendError::Full, message),
                actix::dev::SendError::Closed(message) => (SendError::Down, message),
            }),
            None => Err((SendError::Down, message)),
        }
    }

    /// A place for a message that is to be counted; it travels with the message.
    pub fn place(&self) -> Place {
        let waiting = &self.slot.waiting;
        waiting.is_counted.store(true, Ordering::Relaxed);
        waiting.messages.fetch_add(1, Ordering::Relaxed);
        Place(waiting.clone())
    }

    /// Ends supervision: the actor is not started again.
    pub fn close(&self) {
        self.slot.closed.store(true, Ordering::Release);
    }
}

/// Everything `supervise` needs besides the factory.
pub struct Supervision {
    /// Name for logs, metrics and the console.
    pub name: String,
    /// Restart policy.
    pub policy: RestartPolicy,
    /// Registry of the process.
    pub registry: Arc<ActorRegistry>,
    /// Decides after too many restarts.
    pub on_escalate: Box<dyn Fn(&ExitReason) -> Escalation>,
}

/// Runs actors from `factory` on the current thread until one stops by itself, supervision is closed or given up.
/// `capacity` bounds the mailbox. The factory may wait (a partition recovers in it); what it returns starts at once.
/// Must be called on an arbiter or inside a `LocalSet`.
pub fn supervise<A, F>(supervision: Supervision, capacity: usize, mut factory: F) -> ActorRef<A>
where
    A: Actor<Context = Context<A>>,
    F: FnMut(ActorRef<A>) -> LocalBoxFuture<'static, Result<A, String>> + 'static,
{
    let status = ActorStatus::new(supervision.name.clone(), Some(capacity));
    let (addr, closed, waiting) = (ArcSwapOption::empty(), AtomicBool::new(false), status.waiting.clone());
    let actor_ref = ActorRef { slot: Arc::new(Slot { addr, closed, waiting }) };
    supervision.registry.add(&status);
    let handle = actor_ref.clone();
    actix_rt::spawn(async move {
        let mut recent = VecDeque::new();
        while !handle.slot.closed.load(Ordering::Acquire) {
            let reason = match factory(handle.clone()).await {
                Ok(actor) => run_once(&handle, &status, capacity, actor).await,
                Err(message) => ExitReason::FactoryFailed(message),
            };
            status.ended(reason.clone());
            if reason == ExitReason::Stopped || handle.slot.closed.load(Ordering::Acquire) {
                return;
            }
            let Some(wait) = after_failure(&supervision, &mut recent, &reason) else { return };
            status.restarts.fetch_add(1, Ordering::Relaxed);
            supervision.registry.restarts.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                actor = supervision.name,
                ?reason,
                wait_ms = wait.as_millis() as u64,
                "actor failed; restarting"
            );
            tokio::time::sleep(wait).await;
        }
    });
    actor_ref
}

/// Runs a loop (a watcher, maintenance) on the I/O pool and starts it again when it panics, with the default policy.
/// It is not started again when it returns.
pub fn supervise_loop<F, W>(name: &'static str, registry: &Arc<ActorRegistry>, io: &IoPool, work: F)
where
    F: Fn() -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let status = ActorStatus::new(name.to_owned(), None);
    registry.add(&status);
    let (registry, pool) = (registry.clone(), io.clone());
    drop(io.spawn(async move {
        let policy = RestartPolicy::default();
        let mut backoff_ms = policy.backoff_ms_min;
        loop {
            let started = crate::clock::monotonic();
            status.started();
            let Err(error) = pool.spawn(work()).await else { return status.ended(ExitReason::Stopped) };
            let Ok(payload) = error.try_into_panic() else { return status.ended(ExitReason::Stopped) };
            let reason = ExitReason::Panicked(panic_message(&*payload));
            tracing::error!(actor = name, ?reason, backoff_ms, "loop failed; restarting");
            status.ended(reason);
            status.restarts.fetch_add(1, Ordering::Relaxed);
            registry.restarts.fetch_add(1, Ordering::Relaxed);
            if started.elapsed() > Duration::from_millis(policy.window_ms) {
                backoff_ms = policy.backoff_ms_min;
            }
            tokio::time::sleep(Duration::from_millis(crate::rng::jitter_ms(backoff_ms))).await;
            backoff_ms = (backoff_ms * 2).min(policy.backoff_ms_max);
        }
    }));
}

async fn run_once<A: Actor<Context = Context<A>>>(
    handle: &ActorRef<A>,
    status: &ActorStatus,
    capacity: usize,
    actor: A,
) -> ExitReason {
    let mut context = Context::new();
    actix::AsyncContext::address(&context); // makes sure that the mailbox exists
    context.set_mailbox_capacity(capacity);
    handle.slot.addr.store(Some(Arc::new(actix::AsyncContext::address(&context))));
    status.started();
    let ended = actix_rt::spawn(context.into_future(actor)).await;
    handle.slot.addr.store(None);
    match ended {
        Ok(()) => ExitReason::Stopped,
        Err(e) if e.is_panic() => ExitReason::Panicked(panic_message(&*e.into_panic())),
        Err(_) => ExitReason::Stopped,
    }
}

fn after_failure(s: &Supervision, recent: &mut VecDeque<Instant>, reason: &ExitReason) -> Option<Duration> {
    let now = crate::clock::monotonic();
    let window = Duration::from_millis(s.policy.window_ms);
    while recent.front().is_some_and(|t| now.duration_since(*t) > window) {
        recent.pop_front();
    }
    recent.push_back(now);
    if recent.len() > s.policy.restart_count_max {
        tracing::error!(actor = s.name, ?reason, "actor fails too often; escalating");
        recent.clear();
        return match (s.on_escalate)(reason) {
            Escalation::RetryAfterMs(ms) => Some(Duration::from_millis(ms)),
            Escalation::GiveUp => None,
        };
    }
    let doublings = (recent.len() - 1).min(16) as u32;
    let backoff_ms = (s.policy.backoff_ms_min << doublings).min(s.policy.backoff_ms_max);
    Some(Duration::from_millis(crate::rng::jitter_ms(backoff_ms)))
}

/// The message of a caught panic.
pub fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix::{Handler, Message};

    struct Echo;
    impl Actor for Echo {
        type Context = Context<Self>;
    }
    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Say(u32);
    impl Handler<Say> for Echo {
        type Result = u32;
        fn handle(&mut self, Say(n): Say, _: &mut Context<Self>) -> u32 {
            assert_ne!(n, 13, "unlucky");
            n
        }
    }

    fn start(registry: &Arc<ActorRegistry>, escalation: Escalation) -> ActorRef<Echo> {
        let supervision = Supervision {
            name: "echo".into(),
            policy: RestartPolicy::default(),
            registry: registry.clone(),
            on_escalate: Box::new(move |_| escalation),
        };
        supervise(supervision, 16, |_| Box::pin(async { Ok(Echo) }))
    }

    async fn say(echo: &ActorRef<Echo>, n: u32) -> Option<u32> {
        for _ in 0..1_000 {
            match echo.addr() {
                Some(addr) => return addr.send(Say(n)).await.ok(),
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_after_a_panic_and_counts() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let registry = Arc::new(ActorRegistry::default());
                let echo = start(&registry, Escalation::GiveUp);
                assert_eq!(say(&echo, 1).await, Some(1));
                assert_eq!(say(&echo, 13).await, None);
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(say(&echo, 2).await, Some(2));
                assert_eq!(registry.restarts(), 1);
                let status = &registry.all()[0];
                assert_eq!(status.waiting(), None, "nobody has counted");
                let (first, second) = (echo.place(), echo.place());
                assert_eq!(status.waiting(), Some(2));
                drop((first, second));
                assert_eq!(status.waiting(), Some(0));
                assert!(matches!(status.last_exit(), Some(ExitReason::Panicked(m)) if m.contains("unlucky")));
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn escalates_after_five_restarts_in_a_minute() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let registry = Arc::new(ActorRegistry::default());
                let echo = start(&registry, Escalation::GiveUp);
                for _ in 0..6 {
                    assert_eq!(say(&echo, 13).await, None);
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                assert!(echo.addr().is_none(), "given up");
                assert_eq!(echo.try_send(Say(1)), Err(SendError::Down));
                assert_eq!(registry.restarts(), 5);
            })
            .await;
    }
}
