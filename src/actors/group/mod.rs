//! The coordinator of consumer groups: members, generations and committed offsets.
//!
//! One actor coordinates all groups on the coordinator shards that this broker owns. It is the shell of
//! [`state::Coordinator`]: it claims the shards, loads what is stored of their groups, turns calls and time into calls of the
//! machine, sends the answers, and runs one fenced write at a time ([`crate::metadata::coordination`]). It decides nothing.
//!
//! Everything a group needs is in the metadata store, so there is one way to start: claim, read, replay. It is taken at the
//! start of the process, after a panic, and when a write finds that the claim is gone. Claiming again makes writes of
//! before fail that are still on their way. Until it is done callers hear that the coordinator is loading.

pub mod call;
pub mod classic;
pub mod consumer;
pub mod error;
pub mod handle;
pub mod offsets;
pub mod state;
pub mod value;
pub mod writes;

use crate::actors::context::NodeContext;
use crate::actors::runtime::{IoPool, Placement};
use crate::actors::supervisor::{ActorRegistry, Escalation, RestartPolicy, Supervision, supervise};
use crate::actors::writer::Fatal;
use crate::clock::Clock;
use crate::failpoint;
use crate::ids::TopicId;
use crate::metadata::coordination::{ClaimError, ClaimLost, Coordination, ShardClaim};
use crate::metadata::image::ClusterImage;
use crate::metadata::keys::ParsedKey;
use crate::metadata::model::{self, TopicValue};
use crate::metadata::{Entry, MetadataError, MetadataStore, Op};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, SpawnHandle};
use arc_swap::ArcSwap;
use call::{Call, Outcome};
use classic::{Ms, Now};
use error::GroupError;
use handle::{GroupStats, Groups};
use offsets::BlockIndex;
use state::{Coordinator, CoordinatorLimits, Loaded, SHARDS, shard_of};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use value::StoredGroup;
use writes::{Part, WriteKey};

/// Calls that may wait in the mailbox.
const MAILBOX_LEN_MAX: usize = 16_384;
/// How long a coordinator that fails again and again waits before it is tried again, ms.
const OFFLINE_RETRY_MS: u64 = 30_000;
/// Time passes at least this often, ms.
const TICK_MS: u64 = 1_000;
/// Time between two looks for offsets of deleted topics, ms.
const JANITOR_MS: u64 = 60_000;
/// Pause after a failed attempt to load.
const LOAD_RETRY: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Outcome>;

/// What a coordinator needs.
pub struct GroupConfig {
    /// Settings.
    pub limits: CoordinatorLimits,
    /// Claims and writes.
    pub coordination: Coordination,
    /// The metadata store, to look whether a topic is really gone.
    pub metadata: Arc<dyn MetadataStore>,
    /// Which topics there are.
    pub image: Arc<ArcSwap<ClusterImage>>,
    /// I/O runtime.
    pub io: IoPool,
    /// Time.
    pub clock: Clock,
    /// Set while this broker may have been sealed without knowing it.
    pub suspended: Arc<AtomicBool>,
    /// Counters.
    pub stats: Arc<GroupStats>,
    /// Ends the process when the writer is sealed.
    pub on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
    /// Shards of this coordinator, for those who ask where a group is.
    pub shards: Arc<ArcSwap<BTreeSet<u32>>>,
}

impl GroupConfig {
    /// For the broker of `context`.
    pub fn of(
        context: &NodeContext,
        image: Arc<ArcSwap<ClusterImage>>,
        limits: CoordinatorLimits,
        on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
    ) -> Self {
        Self {
            limits,
            coordination: Coordination::new(context.metadata.clone(), context.keys.clone(), &context.registration),
            metadata: context.metadata.clone(),
            image,
            io: context.io.clone(),
            clock: context.clock,
            suspended: context.suspended.clone(),
            stats: Arc::default(),
            on_fatal,
            shards: Arc::default(),
        }
    }
}

/// Starts the broker's coordinator on a shard of threads. Returns when it has loaded its groups.
pub async fn start(config: GroupConfig, shard: &Placement, registry: Arc<ActorRegistry>) -> Result<Groups, String> {
    let config = Arc::new(config);
    let (started, loaded) = oneshot::channel();
    let (created, actor) = oneshot::channel();
    let shared = config.clone();
    shard.run(move || {
        let supervision = Supervision {
            name: "groups".to_owned(),
            policy: RestartPolicy::default(),
            registry,
            on_escalate: Box::new(|_| Escalation::RetryAfterMs(OFFLINE_RETRY_MS)),
        };
        let mut started = Some(started);
        let actor = supervise(supervision, MAILBOX_LEN_MAX, move |_| {
            let coordinator = GroupCoordinator::new(shared.clone(), started.take());
            Box::pin(async move { Ok(coordinator) })
        });
        drop(created.send(actor));
    });
    let ended = |_| "the shard has ended".to_owned();
    let actor = actor.await.map_err(ended)?;
    loaded.await.map_err(ended)??;
    Ok(Groups::new(actor, config.suspended.clone(), config.shards.clone(), config.stats.clone()))
}

/// See the module's documentation.
pub struct GroupCoordinator {
    config: Arc<GroupConfig>,
    /// `None` while loading.
    state: Option<(Coordinator<Reply>, ShardClaim)>,
    /// The image whose topics the state knows.
    topics: Option<Arc<ClusterImage>>,
    writing: bool,
    stopping: bool,
    origin: Instant,
    wake: Option<(Ms, SpawnHandle)>,
    ticked_ms: Ms,
    counted_ms: Ms,
    janitor_ms: Ms,
    /// Who waits for the first load.
    started: Option<oneshot::Sender<Result<(), String>>>,
    /// Who waits until everything is durable.
    drained: Vec<oneshot::Sender<()>>,
}

/// A call with the place for its answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Ask {
    call: Call,
    reply: Reply,
}

#[derive(Message)]
#[rtype(result = "()")]
struct LoadDone(Result<(ShardClaim, Vec<Loaded>), String>);

#[derive(Message)]
#[rtype(result = "()")]
struct WriteDone(Result<ShardClaim, ClaimLost>);

#[derive(Message)]
#[rtype(result = "()")]
struct TopicsGone(BTreeSet<TopicId>);

/// The process stops: parked requests are answered, what was changed becomes durable, nothing new is taken.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Drain(oneshot::Sender<()>);

impl GroupCoordinator {
    fn new(config: Arc<GroupConfig>, started: Option<oneshot::Sender<Result<(), String>>>) -> Self {
        let origin = config.clock.monotonic();
        Self {
            config,
            state: None,
            topics: None,
            writing: false,
            stopping: false,
            origin,
            wake: None,
            ticked_ms: 0,
            counted_ms: 0,
            janitor_ms: JANITOR_MS,
            started,
            drained: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        let mono_ms = (self.config.clock.monotonic() - self.origin).as_millis() as u64;
        Now { mono_ms, wall_ms: self.config.clock.wall_ms() }
    }

    fn load(&self, ctx: &mut Context<Self>) {
        let (config, addr) = (self.config.clone(), ctx.address());
        drop(self.config.io.spawn(async move {
            let loaded = load(&config.coordination).await;
            if let Err(error @ ClaimError::Fenced(_)) = &loaded {
                (config.on_fatal)(Fatal::Fenced(error.to_string()));
            }
            addr.do_send(LoadDone(loaded.map_err(|e| e.to_string())));
        }));
    }

    /// Does what a call, a timer or a write leaves to be done.
    fn proceed(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let Some((state, claim)) = &mut self.state else { return };
        let mut wanted_ms = now.mono_ms.saturating_add(TICK_MS).min(self.ticked_ms + TICK_MS);
        if !self.writing {
            if let Some(batch) = state.begin_write(now) {
                self.writing = true;
                write(&self.config, claim.clone(), batch, ctx.address());
            } else if let Some(at) = state.next_write() {
                wanted_ms = wanted_ms.min(at);
            }
        }
        if let Some(at) = state.next_timer().filter(|_| !self.config.suspended.load(Ordering::Acquire)) {
            wanted_ms = wanted_ms.min(at);
        }
        for (reply, outcome) in state.take_answers() {
            drop(reply.send(outcome)); // whoever asked may be gone
        }
        if state.is_clean() {
            self.drained.drain(..).for_each(|done| _ = done.send(()));
        }
        if self.wake.is_some_and(|(at, _)| at <= wanted_ms) {
            return;
        }
        if let Some((_, handle)) = self.wake.take() {
            ctx.cancel_future(handle);
        }
        let wait = Duration::from_millis(wanted_ms.saturating_sub(now.mono_ms).max(1));
        let handle = ctx.run_later(wait, |coordinator, ctx| {
            coordinator.wake = None;
            coordinator.tick(ctx);
        });
        self.wake = Some((wanted_ms, handle));
    }

    /// Lets the state know if topics came, went or changed, or what groups set themselves.
    fn see_topics(&mut self) {
        let Some((state, _)) = &mut self.state else { return };
        let image = self.config.image.load();
        match &self.topics {
            Some(known) if known.has_same_topics(&image) && known.has_same_groups(&image) => return,
            Some(known) if known.has_same_topics(&image) => state.set_group_configs(image.clone()),
            _ => state.set_topics(image.clone()),
        }
        self.topics = Some(image.clone());
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        failpoint::hit("group.tick");
        let now = self.now();
        self.see_topics();
        self.ticked_ms = now.mono_ms;
        if let Some((state, _)) = &mut self.state {
            state.tick(now, self.config.suspended.load(Ordering::Acquire));
            if self.counted_ms + TICK_MS <= now.mono_ms {
                self.counted_ms = now.mono_ms;
                self.config.stats.groups.store(state.len() as u64, Ordering::Relaxed);
                self.config.stats.members.store(state.members() as u64, Ordering::Relaxed);
            }
            if self.janitor_ms <= now.mono_ms {
                self.janitor_ms = now.mono_ms + JANITOR_MS;
                look_for_deleted_topics(&self.config, state, ctx.address());
            }
        }
        self.proceed(ctx);
    }
}

/// Claims the shards and reads their groups.
async fn load(coordination: &Coordination) -> Result<(ShardClaim, Vec<Loaded>), ClaimError> {
    let claim = coordination.claim(SHARDS).await?;
    let mut loaded = Vec::new();
    for entry in coordination.groups().await? {
        let Some(stored) = read(coordination, &entry)? else { continue };
        let (Loaded::Group(group, _) | Loaded::Consumer(group, _) | Loaded::Block(group, ..)) = &stored;
        if claim.shards.contains(&shard_of(group)) {
            loaded.push(stored);
        }
    }
    Ok((claim, loaded))
}

fn read(coordination: &Coordination, entry: &Entry) -> Result<Option<Loaded>, MetadataError> {
    let malformed = |message| MetadataError::Malformed { key: entry.key.clone(), message };
    Ok(match coordination.keys().parse(&entry.key) {
        Some(ParsedKey::Group(group)) => Some(match value::decode_stored(&entry.value).map_err(malformed)? {
            StoredGroup::Classic(value) => Loaded::Group(group.into(), value),
            StoredGroup::Consumer(value) => Loaded::Consumer(group.into(), value),
        }),
        Some(ParsedKey::GroupOffsets(group, topic, block)) => {
            let decoded = value::decode_block(&entry.value).map_err(malformed)?;
            Some(Loaded::Block(group.into(), (topic.into(), BlockIndex(block)), decoded))
        }
        _ => None,
    })
}

/// Writes a batch on the I/O pool.
fn write(
    config: &Arc<GroupConfig>,
    mut claim: ShardClaim,
    batch: Vec<(WriteKey, Option<bytes::Bytes>)>,
    coordinator: actix::Addr<GroupCoordinator>,
) {
    config.stats.writes.fetch_add(1, Ordering::Relaxed);
    config.stats.keys_written.fetch_add(batch.len() as u64, Ordering::Relaxed);
    let shared = config.clone();
    drop(config.io.spawn(async move {
        let keys = shared.coordination.keys();
        let touched: BTreeSet<u32> = batch.iter().map(|(key, _)| shard_of(&key.group)).collect();
        let ops = batch.into_iter().map(|(key, value)| {
            let name = match &key.part {
                Part::State => keys.group(&key.group),
                Part::Offsets((topic, block)) => keys.group_offsets(&key.group, topic, block.0),
            };
            value.map_or_else(|| Op::Delete(name.clone()), |value| Op::Put(name.clone(), value, None))
        });
        let ops = ops.collect();
        let written = shared.coordination.write(&mut claim, &touched, ops).await;
        coordinator.do_send(WriteDone(written.map(|()| claim)));
    }));
}

/// A topic that the image does not have under its id is looked for in the store; only if it is not there either its
/// offsets are forgotten.
fn look_for_deleted_topics(
    config: &Arc<GroupConfig>,
    state: &Coordinator<Reply>,
    coordinator: actix::Addr<GroupCoordinator>,
) {
    let image = config.image.load();
    let exists = |name: &str, id: TopicId| image.topic(name).is_some_and(|t| t.value.id == id);
    let missing: Vec<_> = state.topics().into_iter().filter(|(name, id)| !exists(name, *id)).collect();
    if missing.is_empty() {
        return;
    }
    let shared = config.clone();
    drop(config.io.spawn(async move {
        let mut gone = BTreeSet::new();
        for (name, id) in missing {
            let found = shared.metadata.get(&shared.coordination.keys().topic(&name)).await;
            let other = |entry: &Entry| model::decode::<TopicValue>(entry).is_ok_and(|topic| topic.id != id);
            if found.is_ok_and(|entry| entry.as_ref().is_none_or(other)) {
                gone.insert(id);
            }
        }
        coordinator.do_send(TopicsGone(gone));
    }));
}

impl Actor for GroupCoordinator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.load(ctx);
    }
}

impl Handler<Ask> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, Ask { call, reply }: Ask, ctx: &mut Self::Context) {
        failpoint::hit("group.call");
        let now = self.now();
        self.see_topics();
        let Some((state, _)) = self.state.as_mut().filter(|_| !self.stopping) else {
            let error = if self.stopping { GroupError::NotCoordinator } else { GroupError::Loading };
            return drop(reply.send(Err(error)));
        };
        // Only a member without an id needs one.
        let unique = match &call {
            Call::Join(_, request) if request.member_id.is_empty() => crate::rng::uuid().to_string(),
            Call::Beat(_, request) if request.member_id.is_empty() => crate::rng::uuid().to_string(),
            _ => String::new(),
        };
        state.call(now, call, &unique, reply);
        self.proceed(ctx);
    }
}

impl Handler<LoadDone> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, LoadDone(loaded): LoadDone, ctx: &mut Self::Context) {
        failpoint::hit("group.loaded");
        let outcome = match loaded {
            Ok((claim, stored)) => {
                let (now, keys) = (self.now(), stored.len());
                let state = Coordinator::recover(self.config.limits, claim.shards.clone(), now, stored);
                tracing::info!(shards = claim.shards.len(), groups = state.len(), keys, "groups loaded");
                self.config.shards.store(Arc::new(claim.shards.clone()));
                self.state = Some((state, claim));
                self.topics = None;
                self.ticked_ms = now.mono_ms;
                Ok(())
            }
            Err(message) => {
                tracing::warn!(error = message, "groups could not be loaded; trying again");
                ctx.run_later(LOAD_RETRY, |coordinator, ctx| coordinator.load(ctx));
                Err(message)
            }
        };
        if let Some(started) = self.started.take() {
            drop(started.send(outcome));
        }
        self.tick(ctx);
    }
}

impl Handler<WriteDone> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, WriteDone(written): WriteDone, ctx: &mut Self::Context) {
        failpoint::hit("group.written");
        self.writing = false;
        let Some((state, claim)) = &mut self.state else { return };
        match written {
            Ok(now) => {
                *claim = now;
                state.write_committed();
            }
            Err(error) => {
                tracing::warn!(%error, "groups are loaded again");
                state.fail_all(GroupError::NotCoordinator);
                for (reply, outcome) in state.take_answers() {
                    drop(reply.send(outcome));
                }
                self.state = None;
                self.load(ctx);
            }
        }
        self.proceed(ctx);
    }
}

impl Handler<TopicsGone> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, TopicsGone(gone): TopicsGone, ctx: &mut Self::Context) {
        let now = self.now();
        if let Some((state, _)) = &mut self.state {
            state.forget_topics(now, &gone);
        }
        self.proceed(ctx);
    }
}

impl Handler<Drain> for GroupCoordinator {
    type Result = ();

    fn handle(&mut self, Drain(done): Drain, ctx: &mut Self::Context) {
        self.stopping = true;
        match &mut self.state {
            Some((state, _)) => {
                state.fail_parked(GroupError::NotCoordinator);
                self.drained.push(done);
            }
            None => {
                let _gone = done.send(());
                ctx.stop();
            }
        }
        self.proceed(ctx);
    }
}
