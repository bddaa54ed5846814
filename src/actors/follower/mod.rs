//! Serves partitions that other brokers lead to consumers of this broker's rack (KIP-392; `docs/storage.md`, "Reading from
//! a broker nearby").
//!
//! A follower owns nothing. For each writer of which somebody reads a partition there is one task ([`task`]) that reads the
//! writer's key and makes views of what is committed ([`PartitionView`], as leaders have them). A view ends at a head that
//! was read from the metadata store, so it is always a beginning of the truth; how old it may be is for
//! [`Reading::is_doubted`] to say. Handlers come with [`Followers::follow`]; while a [`Reading`] lives, its view goes on.

pub mod plan;
pub mod table;
mod task;
#[cfg(test)]
mod tests;

use crate::actors::recovery::Recovery;
use crate::actors::runtime::IoPool;
use crate::actors::standing::Standing;
use crate::clock::Clock;
use crate::ids::{LeaderEpoch, PartitionKey, WriterId};
use crate::metadata::MetadataStore;
use crate::metadata::image::ClusterImage;
use crate::metadata::keys::Keys;
use crate::metadata::ownership::Ownership;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
pub use table::{FollowerLimits, Look};
use table::{Pulse, Table};
use tokio::sync::{Semaphore, watch};

/// What an extent and its share of an object's description take, bytes.
const EXTENT_BYTES: u64 = 200;
/// Loads of checkpoints under way at once.
const LOADS_MAX: usize = 2;

/// Where a follower reads.
pub struct Sources {
    /// Writers' keys.
    pub ownership: Ownership,
    /// Its revision.
    pub metadata: Arc<dyn MetadataStore>,
    /// Keys.
    pub keys: Keys,
    /// What writers left, from the copy of the bucket first.
    pub copy: Recovery,
    /// The same from where it was written.
    pub primary: Recovery,
}

/// What followers have done; all only grow.
#[derive(Debug, Default)]
pub struct FollowerStats {
    /// Reads of a writer's key that brought views up to date.
    pub refreshes: AtomicU64,
    /// Loads of a checkpoint and the slots behind it.
    pub loads: AtomicU64,
    /// Either of them failed.
    pub failures: AtomicU64,
    /// Fetches that were answered with records of partitions that others lead.
    pub fetches: AtomicU64,
    /// Bytes of these records.
    pub bytes: AtomicU64,
}

/// See the module's documentation.
pub struct Followers {
    me: WriterId,
    sources: Sources,
    image: Arc<ArcSwap<ClusterImage>>,
    io: IoPool,
    clock: Clock,
    lease_ttl: Duration,
    loads: Semaphore,
    table: Mutex<Table>,
    /// Rises whenever a task has done something.
    ticks: watch::Sender<u64>,
    stats: FollowerStats,
}

impl std::fmt::Debug for Followers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Followers({})", self.me)
    }
}

impl Followers {
    /// Follows nobody yet. `me` is this broker's own writer; what has not been confirmed for most of `lease_ttl` is in doubt.
    pub fn new(
        me: WriterId,
        sources: Sources,
        image: Arc<ArcSwap<ClusterImage>>,
        io: IoPool,
        clock: Clock,
        lease_ttl: Duration,
        limits: FollowerLimits,
    ) -> Self {
        Self {
            me,
            sources,
            image,
            io,
            clock,
            lease_ttl,
            loads: Semaphore::new(LOADS_MAX),
            table: Mutex::new(Table::new(limits)),
            ticks: watch::Sender::new(0),
            stats: FollowerStats::default(),
        }
    }

    /// The counters, for rendering.
    pub fn stats(&self) -> &FollowerStats {
        &self.stats
    }

    /// Partitions followed now, and about how many bytes their views take.
    pub fn size(&self) -> (u64, u64) {
        let (views, extents) = self.table().size();
        (views as u64, extents as u64 * EXTENT_BYTES)
    }

    /// Begins to read a partition that another broker's writer owns. `None` if nobody else does, if it is not
    /// served here, or if this broker drains: clients then hear so before it is gone.
    pub fn follow(self: &Arc<Self>, key: &PartitionKey, image: &ClusterImage) -> Option<Reading> {
        let value = image.partition(key).filter(|_| !image.drains(self.me))?;
        let (writer, epoch) = (value.owner.filter(|writer| *writer != self.me)?, value.epoch);
        let pulse = || Pulse { standing: Standing::new(self.clock, self.lease_ttl), wake: Default::default() };
        let (pulse, is_new) = self.table().enter(writer, *key, epoch, self.clock.monotonic(), pulse)?;
        pulse.wake.notify_one();
        if is_new {
            drop(self.io.spawn(task::run(self.clone(), writer, pulse.clone())));
        }
        Some(Reading { followers: self.clone(), key: *key, writer, epoch, pulse })
    }

    /// Changes whenever something may have become ready, moved or refused.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// Counts a fetch that was answered with `bytes`.
    pub fn served(&self, bytes: u64) {
        self.stats.fetches.fetch_add(1, Ordering::Relaxed);
        self.stats.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic under the lock")
    }

    fn tick(&self) {
        self.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
    }
}

/// Somebody reads a followed partition. Views are kept up to date while there is one.
#[derive(Debug)]
pub struct Reading {
    followers: Arc<Followers>,
    key: PartitionKey,
    writer: WriterId,
    epoch: LeaderEpoch,
    pulse: Arc<Pulse>,
}

impl Reading {
    /// The view, once it is there and its end can be told as the present one.
    pub fn look(&self) -> Look {
        match self.followers.table().look(self.writer, &self.key, self.epoch) {
            Look::Ready(_) if self.is_doubted() => Look::Pending,
            look => look,
        }
    }

    /// True while nobody knows where the partition ends: the writer's key has not been read for most of a lease's time.
    pub fn is_doubted(&self) -> bool {
        self.pulse.standing.is_doubted()
    }

    /// An object that the view names is gone: it has to be made anew.
    pub fn outdated(&self) {
        self.followers.table().reload(self.writer);
        self.pulse.wake.notify_one();
    }

    /// Counts what was served, see [`Followers::served`].
    pub fn followers(&self) -> &Arc<Followers> {
        &self.followers
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let now = self.followers.clock.monotonic();
        self.followers.table().leave(self.writer, &self.key, self.epoch, now);
    }
}
