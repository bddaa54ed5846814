//! The decisions of the WAL writer: when to cut a segment, what to upload, what to commit.
//!
//! Pure. `P` identifies a partition's actor to the shell. Slots are dense and never skipped: a cut takes the next
//! `seq`, its bytes are frozen, and nothing after it commits before it does. One commit is outstanding at a time and
//! covers every finished upload in a row.
//!
//! When to cut: at `segment_bytes`; at `interval_ms` of age; and, with a store that charges for requests, as soon as
//! `linger_ms` has passed and the token bucket (one token per interval, a small burst) has a token. A sporadic
//! producer thus pays the PUT's latency only, a steady one causes no more PUTs than the fixed interval would.
//!
//! Clients keep few requests in flight (five if they are idempotent), so a producer that waits for its acks would wait
//! out the interval each time, with records piling up behind it. Silence for `stall_ms` is taken for that, or for
//! `full_ms` if the last batch came with as many requests as a client keeps in flight. Then the segment is cut if the
//! data has paid for it: every half segment appended pays for one such cut. Over time a PUT therefore carries half a
//! segment, or is one that the interval allows. A store whose requests cost no money cuts a single batch after `lone_ms`
//! of silence, too: its producer waits for every ack. A store without any request costs is written whenever an upload
//! slot is free.
//!
//! With an interval so short that the time of a PUT is most of the latency (`twice`), a PUT is better spent on sending a
//! segment a second time at once than on cutting earlier. Small segments are then sent twice as far as tokens are left
//! or the data pays: every quarter of a segment appended pays for one. Tokens are not spent on cutting after `linger_ms`
//! then, but on what producers wait for. What is cut for a drain, or while partitions
//! move from or to this writer, is sent twice at any interval: their clients wait for the slowest of several uploads.

use crate::ids::{LeaderEpoch, Offset, PartitionKey, Seq};
use crate::protocol::batch::StoredBatch;
use std::collections::{BTreeMap, VecDeque};

/// Cuts for waiting producers that can be saved up.
const STALL_CUTS_MAX: u64 = 2;
/// For how long small segments are sent twice when partitions are about to move, ms.
const HURRY_MS: u64 = 1_000;
/// Second sendings that can be saved up.
const TWICE_MAX: u64 = 2;
/// Uploads on their way at which a silence still counts as producers waiting.
const STALL_UPLOADS_MAX: usize = 1;

/// Bounds of the writer.
#[derive(Debug, Clone, Copy)]
pub struct FlushLimits {
    /// Size at which a segment is cut (`KAFSCALE_SEGMENT_BYTES`).
    pub segment_bytes: u64,
    /// Age at which a segment is cut, and the time one PUT is worth (`KAFSCALE_FLUSH_INTERVAL_MS`).
    pub interval_ms: u64,
    /// Least age of a segment: lets requests that arrive together travel together.
    pub linger_ms: u64,
    /// Silence after which producers are taken to be waiting for us.
    pub stall_ms: u64,
    /// The same when the last batch's client is known to wait.
    pub full_ms: u64,
    /// Silence after which a single batch is cut without being paid for; longer than clients linger.
    pub lone_ms: Option<u64>,
    /// Uploads in flight.
    pub uploads_max: usize,
    /// Tokens the bucket holds, in PUTs.
    pub burst: u64,
    /// False for stores whose requests cost nothing.
    pub cost_bounded: bool,
    /// Small segments are sent twice at once, as far as that is paid for.
    pub twice: bool,
}

/// One partition's batches in an open or uploading segment.
#[derive(Debug)]
pub struct OpenExtent<P> {
    /// The partition's actor.
    pub port: P,
    /// Leader epoch of the last batch.
    pub leader_epoch: LeaderEpoch,
    /// In offset order, without gaps.
    pub batches: Vec<StoredBatch>,
}

impl<P> OpenExtent<P> {
    /// First offset after the extent.
    pub fn next(&self) -> Offset {
        self.batches.last().expect("an extent has a batch").next
    }
}

/// What a segment consists of, by partition.
pub type Extents<P> = BTreeMap<PartitionKey, OpenExtent<P>>;

/// Something that happened to the writer.
#[derive(Debug)]
pub enum Event<P> {
    /// A partition has a batch to store.
    Append {
        /// The partition.
        key: PartitionKey,
        /// Its actor.
        port: P,
        /// Its epoch.
        leader_epoch: LeaderEpoch,
        /// The batch.
        batch: StoredBatch,
        /// Its client sends nothing more before an ack.
        client_waits: bool,
    },
    /// The wake-up asked for has come.
    Tick,
    /// The object of `seq` is durable.
    Uploaded(Seq),
    /// The metadata store's head is `seq` now.
    Committed(Seq),
    /// Cut what is open without waiting (shutdown, a draining partition).
    Drain,
    /// Partitions are about to move from or to this writer.
    Hurry,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Effect<P> {
    /// Build, freeze and upload a segment under slot `seq`.
    Upload {
        /// The slot.
        seq: Seq,
        /// Its contents.
        extents: Extents<P>,
        /// Send it twice at once.
        twice: bool,
    },
    /// Commit the head up to `seq`.
    Commit(Seq),
    /// Slots up to and including `seq` are committed; tell their partitions, oldest first.
    Announce(Seq),
}

#[derive(Debug)]
struct Slot {
    seq: Seq,
    uploaded: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct FlusherState<P> {
    limits: FlushLimits,
    open: Extents<P>,
    open_bytes: u64,
    open_batches: u64,
    opened_ms: u64,
    last_append_ms: u64,
    /// The client of the last batch is known to wait.
    client_waits: bool,
    draining: bool,
    hurried_until_ms: u64,
    /// Cut and not yet committed, in order.
    slots: VecDeque<Slot>,
    next_seq: Seq,
    head: Seq,
    committing: bool,
    /// Thousandths of a token.
    millitokens: u64,
    /// Bytes appended and not yet spent on cutting for producers that wait.
    stall_credit_bytes: u64,
    /// Bytes appended and not yet spent on sending segments twice.
    twice_credit_bytes: u64,
    refilled_ms: u64,
}

impl<P> FlusherState<P> {
    /// A new writer at head 0. Times are monotonic milliseconds from any origin.
    pub fn new(limits: FlushLimits, now_ms: u64) -> Self {
        assert!(limits.uploads_max > 0 && limits.segment_bytes > 0 && limits.interval_ms > 0);
        Self {
            limits,
            open: BTreeMap::new(),
            open_bytes: 0,
            open_batches: 0,
            opened_ms: now_ms,
            last_append_ms: now_ms,
            client_waits: false,
            draining: false,
            hurried_until_ms: 0,
            slots: VecDeque::new(),
            next_seq: Seq(1),
            head: Seq(0),
            committing: false,
            millitokens: limits.burst * 1_000,
            stall_credit_bytes: 0,
            twice_credit_bytes: 0,
            refilled_ms: now_ms,
        }
    }

    /// Last committed slot.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// True if nothing is open or in flight.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.slots.is_empty()
    }

    /// Last slot that was cut.
    pub fn last_cut(&self) -> Seq {
        Seq(self.next_seq.0 - 1)
    }

    /// True if the open segment holds batches of `key`.
    pub fn is_open(&self, key: &PartitionKey) -> bool {
        self.open.contains_key(key)
    }

    /// Takes one event; appends what follows from it to `effects`.
    pub fn step(&mut self, now_ms: u64, event: Event<P>, effects: &mut Vec<Effect<P>>) {
        match event {
            Event::Append { key, port, leader_epoch, batch, client_waits } => {
                self.client_waits = client_waits;
                self.append(now_ms, key, port, leader_epoch, batch);
            }
            Event::Tick => {}
            Event::Uploaded(seq) => {
                let slot = self.slots.iter_mut().find(|s| s.seq == seq);
                slot.expect("an upload finishes once, before its commit").uploaded = true;
                self.commit_if_ready(effects);
            }
            Event::Committed(seq) => {
                assert!(self.committing && seq > self.head, "head moved to {seq} without being asked to");
                self.committing = false;
                self.head = seq;
                while self.slots.front().is_some_and(|s| s.seq <= seq) {
                    let slot = self.slots.pop_front().expect("just seen");
                    assert!(slot.uploaded, "slot {} was committed before it was durable", slot.seq);
                }
                effects.push(Effect::Announce(seq));
                self.commit_if_ready(effects);
            }
            Event::Drain => self.draining = !self.open.is_empty(),
            Event::Hurry => self.hurried_until_ms = now_ms + HURRY_MS,
        }
        self.cut_if_due(now_ms, effects);
    }

    /// When to send [`Event::Tick`], if nothing else happens before.
    pub fn wake_at_ms(&self, now_ms: u64) -> Option<u64> {
        if self.open.is_empty() || self.slots.len() >= self.limits.uploads_max {
            return None; // the end of an upload wakes us
        }
        let l = &self.limits;
        let lingered = self.opened_ms + l.linger_ms;
        if !l.cost_bounded {
            return Some(lingered.max(now_ms));
        }
        let missing = 1_000u64.saturating_sub(self.tokens_at(now_ms));
        let token = now_ms + (missing * l.interval_ms).div_ceil(1_000);
        let silent = self.last_append_ms + self.silence_ms();
        let mut at = self.opened_ms + l.interval_ms;
        if !l.twice {
            at = at.min(lingered.max(token));
        } else if self.few_uploads() {
            at = at.min(silent.max(token));
        }
        if self.may_cut_for_stalled() {
            at = at.min(silent);
        }
        if let Some(lone_ms) = l.lone_ms.filter(|_| self.open_batches == 1) {
            at = at.min(self.last_append_ms + lone_ms);
        }
        Some(at.max(now_ms))
    }

    fn append(&mut self, now_ms: u64, key: PartitionKey, port: P, leader_epoch: LeaderEpoch, batch: StoredBatch) {
        if self.open.is_empty() {
            self.opened_ms = now_ms;
        }
        self.last_append_ms = now_ms;
        let bytes = batch.byte_len() as u64;
        self.open_bytes += bytes;
        self.open_batches += 1;
        self.stall_credit_bytes = (self.stall_credit_bytes + bytes).min(STALL_CUTS_MAX * self.stall_cost_bytes());
        self.twice_credit_bytes = (self.twice_credit_bytes + bytes).min(TWICE_MAX * self.twice_cost_bytes());
        let extent = self.open.entry(key).or_insert_with(|| OpenExtent { port, leader_epoch, batches: Vec::new() });
        if let Some(last) = extent.batches.last() {
            assert_eq!(last.next, batch.base, "{key}: batches reached the writer out of order");
        }
        extent.leader_epoch = leader_epoch;
        extent.batches.push(batch);
    }

    fn cut_if_due(&mut self, now_ms: u64, effects: &mut Vec<Effect<P>>) {
        if self.open.is_empty() || self.slots.len() >= self.limits.uploads_max {
            return;
        }
        let tokens = self.tokens_at(now_ms);
        let silence_ms = now_ms.saturating_sub(self.last_append_ms);
        let lone = self.open_batches == 1 && self.limits.lone_ms.is_some_and(|lone_ms| silence_ms >= lone_ms);
        let stalled = silence_ms >= self.silence_ms();
        if self.is_due(now_ms, tokens) {
            self.spend_token(now_ms);
        } else if stalled && self.may_cut_for_stalled() {
            self.stall_credit_bytes -= self.stall_cost_bytes();
        } else if stalled && self.limits.twice && tokens >= 1_000 && self.few_uploads() {
            self.spend_token(now_ms);
        } else if !lone {
            return;
        }
        let hurried = self.draining || now_ms < self.hurried_until_ms;
        let hurried = hurried && self.limits.cost_bounded && self.open_bytes <= self.twice_cost_bytes();
        let twice = hurried || (self.limits.twice && self.pay_for_twice(now_ms));
        let seq = self.next_seq;
        self.next_seq = seq.next();
        self.slots.push_back(Slot { seq, uploaded: false });
        self.open_bytes = 0;
        self.open_batches = 0;
        self.draining = false;
        effects.push(Effect::Upload { seq, extents: std::mem::take(&mut self.open), twice });
    }

    fn is_due(&self, now_ms: u64, millitokens: u64) -> bool {
        let l = &self.limits;
        let age_ms = now_ms.saturating_sub(self.opened_ms);
        let full = self.open_bytes >= l.segment_bytes || age_ms >= l.interval_ms || self.draining;
        full || (age_ms >= l.linger_ms && (!l.cost_bounded || (millitokens >= 1_000 && !l.twice)))
    }

    /// How long nothing arrives before producers are taken to be waiting.
    fn silence_ms(&self) -> u64 {
        if self.client_waits { self.limits.full_ms } else { self.limits.stall_ms }
    }

    fn spend_token(&mut self, now_ms: u64) {
        self.millitokens = self.tokens_at(now_ms).saturating_sub(1_000);
        self.refilled_ms = now_ms;
    }

    /// Pays for sending the open segment twice, if it is small and there is something to pay with.
    fn pay_for_twice(&mut self, now_ms: u64) -> bool {
        let cost = self.twice_cost_bytes();
        if self.open_bytes > cost {
            return false;
        }
        if self.twice_credit_bytes >= cost {
            self.twice_credit_bytes -= cost;
            return true;
        }
        let paid = self.tokens_at(now_ms) >= 1_000;
        if paid {
            self.spend_token(now_ms);
        }
        paid
    }

    /// True if the data pays for a cut as soon as producers fall silent. With more uploads on their way, silence says
    /// little: the acks of one of them will bring new requests anyway.
    fn may_cut_for_stalled(&self) -> bool {
        self.stall_credit_bytes >= self.stall_cost_bytes() && self.few_uploads()
    }

    fn few_uploads(&self) -> bool {
        self.slots.len() <= STALL_UPLOADS_MAX
    }

    /// Bytes that pay for one cut.
    fn stall_cost_bytes(&self) -> u64 {
        (self.limits.segment_bytes / 2).max(1)
    }

    /// Bytes that pay for sending a segment twice, and the size up to which that is done.
    fn twice_cost_bytes(&self) -> u64 {
        (self.limits.segment_bytes / 4).max(1)
    }

    fn tokens_at(&self, now_ms: u64) -> u64 {
        let earned = now_ms.saturating_sub(self.refilled_ms) * 1_000 / self.limits.interval_ms;
        (self.millitokens + earned).min(self.limits.burst * 1_000)
    }

    fn commit_if_ready(&mut self, effects: &mut Vec<Effect<P>>) {
        if self.committing {
            return;
        }
        let last = self.slots.iter().take_while(|s| s.uploaded).last();
        if let Some(slot) = last {
            self.committing = true;
            effects.push(Effect::Commit(slot.seq));
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod model_tests;

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
