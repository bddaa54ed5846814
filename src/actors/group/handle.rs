//! What the protocol edge sees of the coordinator: calls, and where a group is coordinated.

use super::call::{Call, Outcome};
use super::directory::CoordinatorShards;
use super::error::GroupError;
use super::limits::shard_of;
use super::messages::{Ask, Drain};
use crate::actors::standing::Standing;
use crate::actors::supervisor::{ActorRef, SendError};
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::oneshot;

/// Counters of the coordinator.
#[derive(Debug, Default)]
pub struct GroupStats {
    /// Groups it knows.
    pub groups: AtomicU64,
    /// Their members.
    pub members: AtomicU64,
    /// Transactions begun.
    pub writes: AtomicU64,
    /// Keys in them.
    pub keys_written: AtomicU64,
    /// Shards claimed, those on their way to another broker included.
    pub claimed: AtomicU64,
}

/// The broker's coordinator. Cheap to clone; fails fast while the actor is down.
#[derive(Clone)]
pub struct Groups {
    actor: ActorRef<CoordinatorShards>,
    standing: Arc<Standing>,
    shards: Arc<ArcSwap<BTreeSet<u32>>>,
    stats: Arc<GroupStats>,
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Groups({} shards)", self.shards.load().len())
    }
}

impl Groups {
    pub(super) fn new(
        actor: ActorRef<CoordinatorShards>,
        standing: Arc<Standing>,
        shards: Arc<ArcSwap<BTreeSet<u32>>>,
        stats: Arc<GroupStats>,
    ) -> Self {
        Self { actor, standing, shards, stats }
    }

    /// Counters.
    pub fn stats(&self) -> &GroupStats {
        &self.stats
    }

    /// True if this broker coordinates the group.
    pub fn coordinates(&self, group: &str) -> bool {
        self.shards.load().contains(&shard_of(group))
    }

    /// True if this broker has no coordinator shard.
    pub fn is_idle(&self) -> bool {
        self.claimed() == 0
    }

    /// Coordinator shards of this broker, those on their way to another one included.
    pub fn claimed(&self) -> u64 {
        self.stats.claimed.load(Ordering::Acquire)
    }

    /// Asks the coordinator. The call is on its way when this returns; what it yields waits for the answer.
    pub fn call(&self, call: Call) -> impl Future<Output = Outcome> + use<> {
        let (reply, answer) = oneshot::channel();
        // Another broker may have taken over: what it has answered must not be contradicted.
        let sent = if self.standing.is_doubted() {
            Err(GroupError::NotAvailable)
        } else {
            self.actor.try_send(Ask { call, reply, place: self.actor.place() }).map_err(|error| match error {
                SendError::Down => GroupError::Loading,
                SendError::Full => GroupError::NotAvailable,
            })
        };
        async move {
            sent?;
            // Without an answer the actor has failed; what became of the call is not known, and asking again is right.
            answer.await.unwrap_or(Err(GroupError::NotCoordinator))
        }
    }

    /// Answers parked requests and waits until everything that was changed is durable.
    pub async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.actor.try_send(Drain(done)).is_ok() {
            drop(drained.await);
        }
    }
}
