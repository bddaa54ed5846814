//! The actor that holds a broker's coordinator shards: the shell of [`shards::Shards`](super::shards::Shards). It claims shards
//! and gives them away, starts and stops the actors of their groups, hands calls on to them, and runs one write at a time.

use super::call::Call;
use super::classic::Ms;
use super::coordinator::{self, Forget, Forwarded, GroupCoordinator, Part, Stop, Sweep};
use super::error::GroupError;
use super::limits::{Loaded, shard_of};
use super::messages::{Ask, Drain, Missing, Ready, Recover, Said};
use super::shards::{Admission, Incarnation, Shards, ToMove, to_move};
use super::state::Group;
use super::stored::{self, Stored};
use super::writes::GroupId;
use super::{GROUP_MAILBOX_LEN_MAX, Reply, Shared, TICK_MS};
use crate::actors::supervisor::{ActorRef, SendError};
use crate::actors::writer::Fatal;
use crate::failpoint;
use crate::ids::TopicId;
use crate::metadata::coordination::{ClaimError, ClaimLost, ShardClaim};
use crate::metadata::placement::Candidates;
use crate::metadata::watcher::ImageFeed;
use actix::dev::ToEnvelope;
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

/// Time between two sweeps of all groups, ms.
const SWEEP_MS: u64 = 60_000;
/// Groups that are told to sweep at a time.
const SWEEPS_MAX: usize = 1_000;

/// Brokers have come, gone or changed, or shards have: others may have become this broker's.
#[derive(Message)]
#[rtype(result = "()")]
struct Look;

#[derive(Message)]
#[rtype(result = "()")]
struct Gained(Result<(ShardClaim, Stored), ClaimError>);

#[derive(Message)]
#[rtype(result = "()")]
struct Written(Result<ShardClaim, ClaimLost>);

#[derive(Message)]
#[rtype(result = "()")]
struct Released(Result<ShardClaim, ClaimLost>);

#[derive(Message)]
#[rtype(result = "()")]
struct Parted;

#[derive(Message)]
#[rtype(result = "()")]
struct Reread(Recover, Result<Vec<Loaded>, String>);

#[derive(Message)]
#[rtype(result = "()")]
struct TopicsGone(BTreeSet<TopicId>);

/// What is under way with the metadata store. One thing at a time: a claim makes a write fail that is on its way.
#[derive(Debug, PartialEq, Eq)]
enum Busy {
    Nothing,
    Writing,
    Claiming,
    Releasing,
}

/// Shards on their way to somebody else.
struct Losing {
    shards: BTreeSet<u32>,
    /// The groups have been told, and have said what they had to say.
    parted: bool,
}

/// See the module's documentation.
pub struct CoordinatorShards {
    shared: Arc<Shared>,
    state: Shards<Reply>,
    claim: ShardClaim,
    groups: BTreeMap<GroupId, ActorRef<GroupCoordinator>>,
    /// Calls for groups whose actors are about to start.
    starting: BTreeMap<GroupId, Vec<Forwarded>>,
    busy: Busy,
    /// It is time to see whether the shards are the right ones.
    look: bool,
    losing: Option<Losing>,
    recovering: Vec<Recover>,
    sweeping: VecDeque<GroupId>,
    wake: Option<(Ms, SpawnHandle)>,
    ticked_ms: Ms,
    sweep_ms: Ms,
    /// Nothing new is taken.
    stopping: bool,
    /// The groups have been told that it stops.
    parted: bool,
    /// Who waits for the first load.
    started: Option<oneshot::Sender<Result<(), String>>>,
    /// Who waits until everything is durable.
    drained: Vec<oneshot::Sender<()>>,
}

impl CoordinatorShards {
    pub(super) fn new(shared: Arc<Shared>, started: Option<oneshot::Sender<Result<(), String>>>) -> Self {
        let state = Shards::new(shared.config.limits);
        Self {
            shared,
            state,
            claim: ShardClaim::default(),
            groups: BTreeMap::new(),
            starting: BTreeMap::new(),
            look: true,
            busy: Busy::Nothing,
            losing: None,
            recovering: Vec::new(),
            sweeping: VecDeque::new(),
            wake: None,
            ticked_ms: 0,
            sweep_ms: SWEEP_MS,
            stopping: false,
            parted: false,
            started,
            drained: Vec::new(),
        }
    }

    /// Does what a message or time leaves to be done.
    fn proceed(&mut self, ctx: &mut Context<Self>) {
        let now = self.shared.now();
        let mut wanted_ms = now.mono_ms.saturating_add(TICK_MS).min(self.ticked_ms + TICK_MS);
        self.reread_settled(ctx);
        if self.busy == Busy::Nothing {
            if let Some(batch) = self.state.begin_write(now) {
                self.busy = Busy::Writing;
                let stats = &self.shared.config.stats;
                stats.writes.fetch_add(1, Ordering::Relaxed);
                stats.keys_written.fetch_add(batch.len() as u64, Ordering::Relaxed);
                let claim = self.claim.clone();
                self.in_background(ctx, |shared| async move {
                    Written(stored::write(&shared.config.coordination, claim, batch).await)
                });
            } else if let Some(at) = self.state.next_write() {
                wanted_ms = wanted_ms.min(at);
            }
        }
        if self.busy == Busy::Nothing {
            self.move_shards(ctx);
        }
        for (reply, outcome) in self.state.take_answers() {
            drop(reply.send(outcome)); // whoever asked may be gone
        }
        if self.parted && self.state.is_clean() {
            self.drained.drain(..).for_each(|done| _ = done.send(()));
        }
        if self.wake.is_some_and(|(at, _)| at <= wanted_ms) {
            return;
        }
        if let Some((_, handle)) = self.wake.take() {
            ctx.cancel_future(handle);
        }
        let wait = Duration::from_millis(wanted_ms.saturating_sub(now.mono_ms).max(1));
        let handle = ctx.run_later(wait, |shards, ctx| {
            shards.wake = None;
            shards.tick(ctx);
        });
        self.wake = Some((wanted_ms, handle));
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        failpoint::hit("groups.tick");
        let now = self.shared.now();
        self.shared.pulse.look(now);
        (self.ticked_ms, self.look) = (now.mono_ms, true);
        self.state.tick(now);
        let stats = &self.shared.config.stats;
        stats.groups.store(self.state.len() as u64, Ordering::Relaxed);
        stats.members.store(self.state.members() as u64, Ordering::Relaxed);
        if self.sweep_ms <= now.mono_ms {
            self.sweep_ms = now.mono_ms + SWEEP_MS;
            self.sweeping = self.groups.keys().cloned().collect();
        }
        for id in self.sweeping.drain(..self.sweeping.len().min(SWEEPS_MAX)) {
            if let Some(group) = self.groups.get(&id) {
                _ = group.try_send(Sweep); // one that is down sweeps the next time
            }
        }
        self.proceed(ctx);
    }

    /// Does `work` on the I/O pool and tells this actor what came of it.
    fn in_background<M, F>(&self, ctx: &Context<Self>, work: impl FnOnce(Arc<Shared>) -> F)
    where
        F: Future<Output = M> + Send + 'static,
        M: Message<Result = ()> + Send + 'static,
        Self: Handler<M>,
        Context<Self>: ToEnvelope<Self, M>,
    {
        let (work, addr) = (work(self.shared.clone()), ctx.address());
        drop(self.shared.config.io.spawn(async move { addr.do_send(work.await) }));
    }

    /// Takes shards that should be this broker's, and gives away those that should be another's.
    fn move_shards(&mut self, ctx: &mut Context<Self>) {
        if let Some(losing) = &self.losing {
            if losing.parted && self.state.is_settled(&losing.shards) {
                self.busy = Busy::Releasing;
                let (claim, going) = (self.claim.clone(), losing.shards.clone());
                self.in_background(ctx, |shared| async move {
                    Released(stored::release(&shared.config.coordination, claim, &going).await)
                });
            }
            return;
        }
        if !std::mem::take(&mut self.look) || (self.stopping && !self.parted) {
            return;
        }
        let image = self.shared.config.feed.current();
        let (candidates, me) = (Candidates::of(&image), self.shared.config.coordination.writer());
        let leader = |shard| candidates.coordinator(shard);
        let is_free = |shard| image.shard_owner(shard).is_none_or(|owner| !image.is_live(owner) || owner == me);
        match to_move(&self.claim.shards(), self.shared.config.node, leader, is_free) {
            ToMove::Away(shards) => self.part_from(shards, ctx),
            ToMove::Here(wanted) if !self.stopping => {
                self.busy = Busy::Claiming;
                self.in_background(ctx, |shared| async move {
                    let gained = stored::claim(&shared.config.coordination, &wanted).await;
                    if let Err(error @ ClaimError::Fenced(_)) = &gained {
                        (shared.config.on_fatal)(Fatal::Fenced(error.to_string()));
                    }
                    Gained(gained)
                });
            }
            ToMove::Here(_) | ToMove::Nothing => {
                if let Some(started) = self.started.take() {
                    drop(started.send(Ok(())));
                }
            }
        }
    }

    /// The groups of these shards are not served any more; when they have said what they have to say, the shards can go.
    fn part_from(&mut self, shards: BTreeSet<u32>, ctx: &mut Context<Self>) {
        let ids = self.state.stop_serving(&shards);
        self.publish();
        self.losing = Some(Losing { shards, parted: false });
        self.tell_to_part(ids, ctx);
    }

    fn tell_to_part(&self, ids: Vec<GroupId>, ctx: &mut Context<Self>) {
        let mut waiting = Vec::with_capacity(ids.len());
        for group in ids.iter().filter_map(|id| self.groups.get(id)) {
            let (done, wait) = oneshot::channel();
            if group.try_send(Part { done }).is_ok() {
                waiting.push(wait);
            }
        }
        let addr = ctx.address();
        actix_rt::spawn(async move {
            for wait in waiting {
                drop(wait.await); // one that fails has nothing more to say
            }
            addr.do_send(Parted);
        });
    }

    /// Who asks where a group is hears of these shards.
    fn publish(&self) {
        self.shared.config.stats.claimed.store(self.claim.shards().len() as u64, Ordering::Release);
        self.shared.config.shards.store(Arc::new(self.state.serving().clone()));
    }

    fn start_group(&mut self, id: GroupId, incarnation: Incarnation, stored: Vec<Loaded>, ctx: &mut Context<Self>) {
        let group = coordinator::start(&self.shared, ctx.address(), id.clone(), incarnation, stored);
        self.starting.insert(id.clone(), Vec::new());
        self.groups.insert(id, group);
    }

    fn stop_group(&mut self, id: &GroupId) {
        self.starting.remove(id);
        if let Some(group) = self.groups.remove(id) {
            group.close();
            _ = group.try_send(Stop); // it is down otherwise
        }
    }

    /// Another process has claimed the shards, or this one will: nobody may hear anything more from the groups.
    fn lose_all(&mut self) {
        for id in self.state.lose_all(GroupError::NotCoordinator) {
            self.stop_group(&id); // who waits there hears the same
        }
        self.claim = ShardClaim::default();
        (self.losing, self.recovering, self.look) = (None, Vec::new(), true);
        self.publish();
    }

    /// Reads what is stored of groups that failed, where everything that they had changed is durable by now.
    fn reread_settled(&mut self, ctx: &mut Context<Self>) {
        let state = &self.state;
        let settled = |r: &Recover| state.is_group_settled(&r.id);
        let (settled, unsettled): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.recovering).into_iter().partition(settled);
        self.recovering = unsettled;
        for recover in settled {
            self.in_background(ctx, |shared| async move {
                let found = stored::group(&shared.config.coordination, &recover.id).await;
                Reread(recover, found)
            });
        }
    }

    fn forward(&mut self, id: &GroupId, call: Call, reply: Reply) {
        let Some(group) = self.groups.get(id) else { return };
        if let Some(waiting) = self.starting.get_mut(id).filter(|waiting| waiting.len() < GROUP_MAILBOX_LEN_MAX) {
            return waiting.push(Forwarded { call, reply, place: group.place() });
        }
        if let Err((error, Forwarded { reply, .. })) =
            group.send_or_return(Forwarded { call, reply, place: group.place() })
        {
            let error = match error {
                SendError::Down => GroupError::Loading,
                SendError::Full => GroupError::NotAvailable,
            };
            self.state.not_forwarded(id);
            drop(reply.send(Err(error)));
        }
    }
}

impl Drop for CoordinatorShards {
    fn drop(&mut self) {
        // Infallible, since it may run while a panic unwinds: groups without it must not go on.
        for group in self.groups.values() {
            group.close();
            _ = group.try_send(Stop);
        }
    }
}

/// Tells the actor when it has to look: groups without a coordinator wait for nobody's tick.
async fn follow(feed: ImageFeed, shards: Addr<CoordinatorShards>) {
    let mut publications = feed.subscribe();
    let mut seen = feed.current();
    loop {
        publications.changed().await;
        let image = feed.current();
        if !image.has_same_coordinators(&seen) {
            shards.do_send(Look);
        }
        seen = image;
    }
}

impl Actor for CoordinatorShards {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.publish();
        self.tick(ctx);
        let (feed, me) = (self.shared.config.feed.clone(), ctx.address());
        ctx.spawn(follow(feed, me).into_actor(self));
    }
}

impl Handler<Look> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, _: Look, ctx: &mut Self::Context) {
        failpoint::hit("groups.look");
        self.look = true;
        self.proceed(ctx);
    }
}

impl Handler<Ask> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, Ask { call, reply, place }: Ask, ctx: &mut Self::Context) {
        failpoint::hit("groups.ask");
        drop(place);
        if self.stopping {
            return drop(reply.send(Err(GroupError::NotCoordinator)));
        }
        if self.started.is_some() || (self.state.serving().is_empty() && self.busy == Busy::Claiming) {
            return drop(reply.send(Err(GroupError::Loading)));
        }
        let (now, env) = (self.shared.now(), self.shared.env());
        match self.state.admit(now, &call, &*env.topics, reply) {
            (Admission::Forward(id), Some(reply)) => return self.forward(&id, call, reply),
            (Admission::Create(id), Some(reply)) => {
                let incarnation = self.state.create(&id);
                self.start_group(id.clone(), incarnation, Vec::new(), ctx);
                return self.forward(&id, call, reply);
            }
            _ => {}
        }
        self.proceed(ctx);
    }
}

impl Handler<Ready> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, Ready(id): Ready, _: &mut Self::Context) {
        failpoint::hit("groups.ready");
        for Forwarded { call, reply, .. } in self.starting.remove(&id).unwrap_or_default() {
            self.forward(&id, call, reply);
        }
    }
}

impl Handler<Said> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, Said { id, changed }: Said, ctx: &mut Self::Context) {
        failpoint::hit("groups.said");
        if self.state.changed(self.shared.now(), &id, changed) {
            self.stop_group(&id);
        }
        self.proceed(ctx);
    }
}

impl Handler<Gained> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, Gained(gained): Gained, ctx: &mut Self::Context) {
        failpoint::hit("groups.gained");
        self.busy = Busy::Nothing;
        let outcome = match gained {
            Ok((claim, stored)) => {
                let (now, shards, groups) = (self.shared.now(), claim.shards(), stored.groups.len());
                self.claim.extend(claim);
                for (id, stored) in stored.groups.into_iter().filter(|(id, _)| !stored.damaged.contains(id)) {
                    let group: Group<()> = Group::recover(id.clone(), &self.shared.config.limits, now, stored.clone());
                    let incarnation = self.state.add(&id, group.report());
                    self.start_group(id, incarnation, stored, ctx);
                }
                stored.damaged.iter().for_each(|id| self.state.add_damaged(id));
                tracing::info!(shards = shards.len(), groups, damaged = stored.damaged.len(), "groups loaded");
                self.state.serve(shards);
                self.publish();
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "groups could not be loaded; trying again");
                Err(error.to_string())
            }
        };
        if let Some(started) = self.started.take() {
            drop(started.send(outcome));
            return self.tick(ctx);
        }
        match outcome {
            Ok(()) => self.proceed(ctx),
            Err(_) => self.arm_retry(ctx),
        }
    }
}

impl CoordinatorShards {
    /// Looks again with the next tick, not at once.
    fn arm_retry(&mut self, ctx: &mut Context<Self>) {
        self.busy = Busy::Claiming;
        ctx.run_later(Duration::from_millis(TICK_MS), |shards, ctx| {
            shards.busy = Busy::Nothing;
            shards.proceed(ctx);
        });
        self.proceed(ctx);
    }
}

impl Handler<Written> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, Written(written): Written, ctx: &mut Self::Context) {
        failpoint::hit("groups.written");
        self.busy = Busy::Nothing;
        match written {
            Ok(claim) => {
                self.claim = claim;
                self.state.write_committed();
            }
            Err(error) => {
                tracing::warn!(%error, "groups are loaded again");
                self.lose_all();
            }
        }
        self.proceed(ctx);
    }
}

impl Handler<Parted> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, _: Parted, ctx: &mut Self::Context) {
        failpoint::hit("groups.parted");
        match &mut self.losing {
            Some(losing) if !losing.parted => losing.parted = true,
            _ => self.parted = self.stopping,
        }
        self.proceed(ctx);
    }
}

impl Handler<Released> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, Released(released): Released, ctx: &mut Self::Context) {
        failpoint::hit("groups.released");
        self.busy = Busy::Nothing;
        match (released, self.losing.take()) {
            (Ok(claim), Some(losing)) => {
                self.claim = claim;
                let gone: Vec<GroupId> =
                    self.state.ids().filter(|id| losing.shards.contains(&shard_of(id))).cloned().collect();
                for id in &gone {
                    self.state.remove(id);
                    self.stop_group(id);
                }
                self.publish();
                tracing::info!(shards = losing.shards.len(), groups = gone.len(), "groups given away");
            }
            (Ok(_), None) => {} // all was lost meanwhile
            (Err(error), _) => {
                tracing::warn!(%error, "groups are loaded again");
                self.lose_all();
            }
        }
        self.proceed(ctx);
    }
}

impl Handler<Recover> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, recover: Recover, ctx: &mut Self::Context) {
        failpoint::hit("groups.recover");
        // One that is not known any more is not wanted back; its supervision was told.
        if self.state.incarnation(&recover.id).is_some() {
            self.recovering.push(recover);
        }
        self.proceed(ctx);
    }
}

impl Handler<Reread> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, Reread(recover, found): Reread, ctx: &mut Self::Context) {
        failpoint::hit("groups.reread");
        match found {
            Ok(stored) if self.state.incarnation(&recover.id).is_some() => {
                let (now, limits) = (self.shared.now(), &self.shared.config.limits);
                let group: Group<()> = Group::recover(recover.id.clone(), limits, now, stored.clone());
                let incarnation = self.state.add(&recover.id, group.report());
                drop(recover.reply.send((incarnation, stored)));
            }
            Ok(_) => {}
            Err(message) => tracing::warn!(group = %recover.id, message, "the group cannot be read; trying again"),
        }
        self.proceed(ctx);
    }
}

impl Handler<Missing> for CoordinatorShards {
    type Result = ();

    /// A topic that the image does not have under its id is looked for in the store; only if it is not there either its
    /// offsets are forgotten.
    fn handle(&mut self, Missing(missing): Missing, ctx: &mut Self::Context) {
        failpoint::hit("groups.missing");
        self.in_background(ctx, |shared| async move {
            let config = &shared.config;
            TopicsGone(stored::topics_gone(&*config.metadata, config.coordination.keys(), missing).await)
        });
    }
}

impl Handler<TopicsGone> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, TopicsGone(gone): TopicsGone, ctx: &mut Self::Context) {
        failpoint::hit("groups.topics_gone");
        let gone = Arc::new(gone);
        for group in self.groups.values().filter(|_| !gone.is_empty()) {
            _ = group.try_send(Forget(gone.clone())); // the next sweep finds what is missed
        }
        self.proceed(ctx);
    }
}

impl Handler<Drain> for CoordinatorShards {
    type Result = ();

    fn handle(&mut self, Drain(done): Drain, ctx: &mut Self::Context) {
        failpoint::hit("groups.drain");
        self.stopping = true;
        if self.state.serving().is_empty() && self.losing.is_none() {
            let _gone = done.send(());
            return ctx.stop();
        }
        self.drained.push(done);
        let ids = self.state.ids().cloned().collect();
        self.tell_to_part(ids, ctx);
        self.proceed(ctx);
    }
}
