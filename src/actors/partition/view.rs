//! The committed part of a partition, shared between its actor (the only writer) and any number of readers.
//!
//! Readers take a short read lock or an atomic, never a message: fetches and offset queries do not queue behind
//! appends. Nothing in here is above the committed head. When the actor goes away the view is closed for good; its
//! successor publishes a new one.

use super::traffic::Traffic;
use crate::ids::{LeaderEpoch, Offset, PartitionKey};
use crate::protocol::batch::StoredBatch;
use crate::storage::ObjectKey;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::Notify;

/// An immutable object that holds extents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its key.
    pub key: ObjectKey,
    /// Merge level: 0 WAL, 1 merged, 2 one partition's segment, 3 and 4 such a one compacted by key.
    pub level: u8,
    /// Size in bytes.
    pub len: u64,
    /// When it was written, ms since the Unix epoch.
    pub created_ms: i64,
}

/// A run of one partition's batches inside an object, contiguous in offsets and bytes.
#[derive(Debug, Clone)]
pub struct Extent {
    /// First offset.
    pub base: Offset,
    /// First offset after it.
    pub next: Offset,
    /// The object.
    pub object: Arc<ObjectRef>,
    /// Position of the first batch in the object, bytes.
    pub position: u64,
    /// Length in bytes.
    pub len: u64,
    /// Greatest timestamp of its records, ms.
    pub max_timestamp: i64,
    /// Leader epoch of its last batch.
    pub leader_epoch: LeaderEpoch,
}

/// Start of a leader epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// First offset written under it.
    pub start: Offset,
}

/// The mutable inside of a view.
#[derive(Debug, Default)]
pub struct LogState {
    /// Extents in offset order, without gaps, from the log start (or a little below) to the high watermark.
    pub extents: VecDeque<Extent>,
    /// Newest committed batches, in offset order without gaps up to the high watermark; an in-memory copy of the end
    /// of `extents`, bounded by the flusher's tail budget.
    pub tail: VecDeque<StoredBatch>,
    /// Leader epochs in ascending order.
    pub epochs: Vec<EpochStart>,
}

impl LogState {
    /// Drops what lies wholly below `log_start`.
    pub(crate) fn trim(&mut self, log_start: Offset) {
        while self.extents.front().is_some_and(|e| e.next <= log_start) {
            self.extents.pop_front();
        }
        self.evict_tail(log_start);
    }

    /// Drops the in-memory copy of batches that end at or before `end`.
    pub(crate) fn evict_tail(&mut self, end: Offset) {
        while self.tail.front().is_some_and(|b| b.next <= end) {
            self.tail.pop_front();
        }
    }

    /// Replaces the extents that make up `with`'s offsets by `with`. Returns false, changing nothing, if they are not
    /// there any more as a whole (trimmed meanwhile).
    pub(crate) fn replace(&mut self, with: Extent) -> bool {
        self.replace_run(vec![with])
    }

    /// The same for a run of extents that adjoin each other.
    pub(crate) fn replace_run(&mut self, with: Vec<Extent>) -> bool {
        assert!(with.windows(2).all(|w| w[0].next == w[1].base), "extents leave a gap or overlap");
        let (Some(first), Some(last)) = (with.first(), with.last()) else { return false };
        let from = self.extents.partition_point(|e| e.base < first.base);
        let to = self.extents.partition_point(|e| e.next <= last.next);
        let whole = from < to && self.extents[from].base == first.base && self.extents[to - 1].next == last.next;
        if whole {
            let behind = self.extents.split_off(to);
            self.extents.truncate(from);
            self.extents.extend(with);
            self.extents.extend(behind);
        }
        whole
    }

    /// Replaces extents by what compaction left of them, in memory too: what is gone is not served any more.
    pub(crate) fn compact(&mut self, with: Vec<Extent>) -> bool {
        let end = with.last().map(|e| e.next);
        let whole = self.replace_run(with);
        if whole && let Some(end) = end {
            self.evict_tail(end);
        }
        whole
    }
}

/// What the tail has at an offset.
#[derive(Debug)]
pub enum TailRead {
    /// Whole batches, the first containing the offset.
    Batches(Vec<StoredBatch>),
    /// The offset is the high watermark: nothing to read yet.
    AtEnd,
    /// The offset is below the tail: read the extents.
    Below,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct PartitionView {
    /// The partition.
    pub key: PartitionKey,
    /// Epoch under which this view's actor leads.
    pub leader_epoch: LeaderEpoch,
    /// How much comes in and goes out.
    pub traffic: Traffic,
    high_watermark: AtomicI64,
    log_start: AtomicI64,
    closed: AtomicBool,
    log: RwLock<LogState>,
    waiters: Mutex<BTreeMap<u64, Arc<Notify>>>,
    next_waiter: AtomicU64,
}

/// Keeps a long poll registered; dropping it ends the registration.
#[derive(Debug)]
pub struct WaiterGuard {
    view: Arc<PartitionView>,
    id: u64,
}

impl Drop for WaiterGuard {
    fn drop(&mut self) {
        if let Ok(mut waiters) = self.view.waiters.lock() {
            waiters.remove(&self.id);
        }
    }
}

impl PartitionView {
    /// A view of a recovered partition.
    pub fn new(
        key: PartitionKey,
        leader_epoch: LeaderEpoch,
        log_start: Offset,
        high_watermark: Offset,
        log: LogState,
    ) -> Self {
        Self {
            key,
            leader_epoch,
            traffic: Traffic::default(),
            high_watermark: AtomicI64::new(high_watermark.0),
            log_start: AtomicI64::new(log_start.0),
            closed: AtomicBool::new(false),
            log: RwLock::new(log),
            waiters: Mutex::new(BTreeMap::new()),
            next_waiter: AtomicU64::new(0),
        }
    }

    /// First offset that is not committed (exclusive end of what may be read). Without transactions it is the last
    /// stable offset too.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// First offset that may be read.
    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// True once the actor behind the view is gone: answer NOT_LEADER_OR_FOLLOWER.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Registers a long poll: `notify` is woken by the next commit, trim or close. Check the offsets again after
    /// registering, then wait.
    pub fn register(self: &Arc<Self>, notify: &Arc<Notify>) -> WaiterGuard {
        let id = self.next_waiter.fetch_add(1, Ordering::Relaxed);
        self.waiters.lock().expect("no panic under the lock").insert(id, notify.clone());
        WaiterGuard { view: self.clone(), id }
    }

    /// Whole batches from the in-memory tail, the first containing `from`, up to `bytes_max` (exceeded only by the
    /// first batch, and only if `at_least_one`).
    pub fn read_tail(&self, from: Offset, bytes_max: usize, at_least_one: bool) -> TailRead {
        let log = self.log.read().expect("no panic under the lock");
        if from >= self.high_watermark() {
            return TailRead::AtEnd;
        }
        let first = log.tail.partition_point(|b| b.next <= from);
        match log.tail.get(first) {
            Some(batch) if batch.base <= from => {}
            _ => return TailRead::Below,
        }
        let mut batches = Vec::new();
        let mut bytes = 0;
        for batch in log.tail.range(first..) {
            let fits = bytes + batch.byte_len() <= bytes_max;
            let must_have = batches.is_empty() && at_least_one;
            if !fits && !must_have {
                break;
            }
            bytes += batch.byte_len();
            batches.push(batch.clone());
        }
        TailRead::Batches(batches)
    }

    /// Runs `f` on the extents, tail and epochs under the read lock; keep it short.
    pub fn with_log<T>(&self, f: impl FnOnce(&LogState) -> T) -> T {
        f(&self.log.read().expect("no panic under the lock"))
    }

    /// The extent that contains `from`, or the first after it.
    pub fn locate(&self, from: Offset) -> Option<Extent> {
        self.with_log(|log| log.extents.get(log.extents.partition_point(|e| e.next <= from)).cloned())
    }

    /// The same and those that follow it, `count` at most, without what begins in memory.
    pub fn cold_from(&self, from: Offset, count: usize) -> Vec<Extent> {
        self.with_log(|log| {
            let first = log.extents.partition_point(|e| e.next <= from);
            let tail = log.tail.front().map(|b| b.base);
            let cold = log.extents.range(first..).take_while(|e| tail.is_none_or(|tail| e.base < tail));
            cold.take(count).cloned().collect()
        })
    }

    /// End offset of the largest epoch that is not above `epoch` (KIP-320): `(epoch, end)`, or `None` if `epoch` is
    /// before everything known.
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.with_log(|log| {
            let after = log.epochs.partition_point(|e| e.epoch <= epoch);
            let found = log.epochs[..after].last()?;
            let end = log.epochs.get(after).map_or_else(|| self.high_watermark(), |e| e.start);
            Some((found.epoch, end))
        })
    }

    // Below: called by the partition's actor only.

    /// Changes the log under the write lock, then publishes the new ends and wakes every long poll.
    pub(crate) fn update(&self, high_watermark: Offset, log_start: Offset, f: impl FnOnce(&mut LogState)) {
        {
            let mut log = self.log.write().expect("no panic under the lock");
            f(&mut log);
            let before = self.high_watermark.swap(high_watermark.0, Ordering::AcqRel);
            assert!(before <= high_watermark.0, "{}: high watermark went back", self.key);
            let before = self.log_start.swap(log_start.0, Ordering::AcqRel);
            assert!(before <= log_start.0, "{}: log start went back", self.key);
        }
        self.wake();
    }

    /// Changes how the log is stored (compaction, tail eviction) without changing what it says.
    pub(crate) fn rearrange<T>(&self, f: impl FnOnce(&mut LogState) -> T) -> T {
        f(&mut self.log.write().expect("no panic under the lock"))
    }

    /// Ends the view: readers answer NOT_LEADER_OR_FOLLOWER from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        let waiters = self.waiters.lock().expect("no panic under the lock");
        waiters.values().for_each(|n| n.notify_one());
    }
}
