//! Consumer groups: members, generations and committed offsets.
//!
//! Every group is an actor of its own ([`coordinator::GroupCoordinator`], the shell of [`state::Group`]): it takes calls and
//! has timers, and decides everything about its members. One more actor per broker ([`directory::CoordinatorShards`], the shell
//! of [`shards::Shards`]) claims coordinator shards, knows which groups there are, hands calls on, and writes what changed, one
//! fenced transaction at a time ([`crate::metadata::coordination`]), so that the number of writes depends on time and not on
//! the number of groups.
//!
//! Everything a group needs is in the metadata store, so there is one way to start: read and replay. A group that panics is
//! started again alone, after what it changed before is durable; nobody else notices. If the shards' actor panics, or a write
//! finds that its claim is gone, all groups end and the shards are claimed again, which makes writes of before fail that are
//! still on their way.
//!
//! Which shards a broker should have follows from the cluster image ([`crate::metadata::placement`]): it gives away those that
//! should be another's, and takes those that nobody has.

pub mod call;
pub mod classic;
pub mod consumer;
pub mod coordinator;
pub mod directory;
pub mod error;
pub mod handle;
pub mod limits;
mod messages;
pub mod offsets;
pub mod shards;
pub mod state;
mod stored;
pub mod value;
pub mod writes;

use crate::actors::context::NodeContext;
use crate::actors::runtime::{IoPool, Placement};
use crate::actors::standing::Standing;
use crate::actors::supervisor::{ActorRegistry, Escalation, RestartPolicy, Supervision, supervise};
use crate::actors::writer::Fatal;
use crate::clock::Clock;
use crate::ids::BrokerId;
use crate::metadata::MetadataStore;
use crate::metadata::coordination::Coordination;
use crate::metadata::image::ClusterImage;
use crate::metadata::watcher::ImageFeed;
use arc_swap::ArcSwap;
use call::Outcome;
use classic::Now;
use directory::CoordinatorShards;
use handle::{GroupStats, Groups};
use limits::CoordinatorLimits;
use state::Env;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Calls that may wait in the mailbox of the shards' actor.
const MAILBOX_LEN_MAX: usize = 16_384;
/// Calls that may wait in a group's mailbox.
const GROUP_MAILBOX_LEN_MAX: usize = 4_096;
/// How long an actor that fails again and again waits before it is tried again, ms.
const OFFLINE_RETRY_MS: u64 = 30_000;
/// Time passes at least this often, ms.
const TICK_MS: u64 = 1_000;
/// Ticks that are further apart than this mean that the process stood still, ms: heartbeats may be waiting unread.
const STALL_MS: u64 = 2_500;

type Reply = oneshot::Sender<Outcome>;

/// What a coordinator needs.
pub struct GroupConfig {
    /// Settings.
    pub limits: CoordinatorLimits,
    /// This broker.
    pub node: BrokerId,
    /// Supervised actors.
    pub registry: Arc<ActorRegistry>,
    /// Claims and writes.
    pub coordination: Coordination,
    /// The metadata store, to look whether a topic is really gone.
    pub metadata: Arc<dyn MetadataStore>,
    /// Which topics there are, and who should have which shard.
    pub feed: ImageFeed,
    /// I/O runtime.
    pub io: IoPool,
    /// Time.
    pub clock: Clock,
    /// Whether this broker may have been sealed without knowing it.
    pub standing: Arc<Standing>,
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
        feed: ImageFeed,
        limits: CoordinatorLimits,
        on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
    ) -> Self {
        Self {
            limits,
            node: context.registration.value.node,
            registry: context.registry.clone(),
            coordination: Coordination::new(context.metadata.clone(), context.keys.clone(), &context.registration),
            metadata: context.metadata.clone(),
            feed,
            io: context.io.clone(),
            clock: context.clock,
            standing: context.standing.clone(),
            stats: Arc::default(),
            on_fatal,
            shards: Arc::default(),
        }
    }
}

/// What the actors of a broker's groups share.
pub(super) struct Shared {
    config: GroupConfig,
    origin: Instant,
    /// The topics that groups know, with a number that changes with them.
    topics: Mutex<(Arc<ClusterImage>, u64)>,
    pulse: Pulse,
}

impl Shared {
    fn new(config: GroupConfig) -> Self {
        let (origin, image) = (config.clock.monotonic(), config.feed.current());
        Self { config, origin, topics: Mutex::new((image, 1)), pulse: Pulse::default() }
    }

    fn now(&self) -> Now {
        let mono_ms = (self.config.clock.monotonic() - self.origin).as_millis() as u64;
        Now { mono_ms, wall_ms: self.config.clock.settled_ms() }
    }

    /// What groups see now.
    fn env(&self) -> Env {
        let image = self.config.feed.image().load();
        let mut known = self.topics.lock().expect("no panic under the lock");
        if !Arc::ptr_eq(&known.0, &image) {
            let version = known.1 + u64::from(!known.0.has_same_topics(&image));
            *known = (image.clone(), version);
        }
        Env { limits: self.config.limits, topics: known.0.clone(), version: known.1 }
    }

    fn supervision(&self, name: String) -> Supervision {
        Supervision {
            name,
            policy: RestartPolicy::default(),
            registry: self.config.registry.clone(),
            on_escalate: Box::new(|_| Escalation::RetryAfterMs(OFFLINE_RETRY_MS)),
        }
    }
}

/// Tells whether the process stood still. Whoever looks first after a pause notices, whether it is the tick that should have
/// come every second or the timer of a group.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    seen_ms: AtomicU64,
    resumed_ms: AtomicU64,
}

impl Pulse {
    /// Looks at the time; returns when the process went on last after it had stood still.
    fn look(&self, now: Now) -> u64 {
        let seen_ms = self.seen_ms.swap(now.mono_ms, Ordering::Relaxed);
        if now.mono_ms.saturating_sub(seen_ms) > STALL_MS {
            self.resumed_ms.store(now.mono_ms, Ordering::Relaxed);
        }
        self.resumed_ms.load(Ordering::Relaxed)
    }
}

/// Starts the broker's groups on a shard of threads. Returns when the first of them are loaded.
pub async fn start(config: GroupConfig, shard: &Placement) -> Result<Groups, String> {
    let shared = Arc::new(Shared::new(config));
    let (started, loaded) = oneshot::channel();
    let (created, actor) = oneshot::channel();
    let inside = shared.clone();
    shard.run(move || {
        let mut started = Some(started);
        let supervision = inside.supervision("groups".to_owned());
        let actor = supervise(supervision, MAILBOX_LEN_MAX, move |_| {
            let shards = CoordinatorShards::new(inside.clone(), started.take());
            Box::pin(async move { Ok(shards) })
        });
        drop(created.send(actor));
    });
    let ended = |_| "the shard has ended".to_owned();
    let actor = actor.await.map_err(ended)?;
    loaded.await.map_err(ended)??;
    let config = &shared.config;
    Ok(Groups::new(actor, config.standing.clone(), config.shards.clone(), config.stats.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_first_after_a_pause_notices_and_so_does_everybody_after() {
        let (pulse, at) = (Pulse::default(), |mono_ms| Now { mono_ms, wall_ms: 0 });
        assert_eq!([pulse.look(at(1_000)), pulse.look(at(1_000 + STALL_MS))], [0, 0]);
        let resumed_ms = 2_001 + 2 * STALL_MS;
        assert_eq!([pulse.look(at(resumed_ms)), pulse.look(at(resumed_ms + 1))], [resumed_ms, resumed_ms]);
    }
}
