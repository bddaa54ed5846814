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
//! out the interval each time, with records piling up behind it. Silence for `stall_ms` is taken for that. Then the
//! segment is cut if the data has paid for it: every half segment appended pays for one such cut. Over time a PUT
//! therefore carries half a segment, or is one that the interval allows. A store whose requests cost no money cuts a
//! single batch after `lone_ms` of silence, too: its producer waits for every ack. A store without any request costs is
//! written whenever an upload slot is free.

use crate::ids::{LeaderEpoch, Offset, PartitionKey, Seq};
use crate::protocol::batch::StoredBatch;
use std::collections::{BTreeMap, VecDeque};

/// Cuts for waiting producers that can be saved up.
const STALL_CUTS_MAX: u64 = 2;
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
    /// Silence after which a single batch is cut without being paid for; longer than clients linger.
    pub lone_ms: Option<u64>,
    /// Uploads in flight.
    pub uploads_max: usize,
    /// Tokens the bucket holds, in PUTs.
    pub burst: u64,
    /// False for stores whose requests cost nothing.
    pub cost_bounded: bool,
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
    },
    /// The wake-up asked for has come.
    Tick,
    /// The object of `seq` is durable.
    Uploaded(Seq),
    /// The metadata store's head is `seq` now.
    Committed(Seq),
    /// Cut what is open without waiting (shutdown, a draining partition).
    Drain,
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
    draining: bool,
    /// Cut and not yet committed, in order.
    slots: VecDeque<Slot>,
    next_seq: Seq,
    head: Seq,
    committing: bool,
    /// Thousandths of a token.
    millitokens: u64,
    /// Bytes appended and not yet spent on cutting for producers that wait.
    stall_credit_bytes: u64,
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
            draining: false,
            slots: VecDeque::new(),
            next_seq: Seq(1),
            head: Seq(0),
            committing: false,
            millitokens: limits.burst * 1_000,
            stall_credit_bytes: 0,
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
            Event::Append { key, port, leader_epoch, batch } => self.append(now_ms, key, port, leader_epoch, batch),
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
        let mut at = (self.opened_ms + l.interval_ms).min(lingered.max(token));
        if self.may_cut_for_stalled() {
            at = at.min(self.last_append_ms + l.stall_ms);
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
        if self.is_due(now_ms, tokens) {
            self.millitokens = tokens.saturating_sub(1_000);
            self.refilled_ms = now_ms;
        } else if self.may_cut_for_stalled() && silence_ms >= self.limits.stall_ms {
            self.stall_credit_bytes -= self.stall_cost_bytes();
        } else if !lone {
            return;
        }
        let seq = self.next_seq;
        self.next_seq = seq.next();
        self.slots.push_back(Slot { seq, uploaded: false });
        self.open_bytes = 0;
        self.open_batches = 0;
        self.draining = false;
        effects.push(Effect::Upload { seq, extents: std::mem::take(&mut self.open) });
    }

    fn is_due(&self, now_ms: u64, millitokens: u64) -> bool {
        let l = &self.limits;
        let age_ms = now_ms.saturating_sub(self.opened_ms);
        let full = self.open_bytes >= l.segment_bytes || age_ms >= l.interval_ms || self.draining;
        full || (age_ms >= l.linger_ms && (!l.cost_bounded || millitokens >= 1_000))
    }

    /// True if the data pays for a cut as soon as producers fall silent. With more uploads on their way, silence says
    /// little: the acks of one of them will bring new requests anyway.
    fn may_cut_for_stalled(&self) -> bool {
        self.stall_credit_bytes >= self.stall_cost_bytes() && self.slots.len() <= STALL_UPLOADS_MAX
    }

    /// Bytes that pay for one cut.
    fn stall_cost_bytes(&self) -> u64 {
        (self.limits.segment_bytes / 2).max(1)
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
mod tests {
    use super::*;
    use crate::ids::{PartitionIndex, TopicId};
    use bytes::Bytes;
    use proptest::prelude::*;

    const LIMITS: FlushLimits = FlushLimits {
        segment_bytes: 1_000,
        interval_ms: 500,
        linger_ms: 2,
        stall_ms: 20,
        lone_ms: None,
        uploads_max: 4,
        burst: 2,
        cost_bounded: true,
    };

    fn key(n: i32) -> PartitionKey {
        PartitionKey { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(n) }
    }

    fn append(partition: i32, base: i64, len: usize) -> Event<i32> {
        let head = Bytes::from(vec![0; len]);
        let (base, next) = (Offset(base), Offset(base + 1));
        let batch = StoredBatch { base, next, max_timestamp: 0, head, tail: Bytes::new() };
        Event::Append { key: key(partition), port: partition, leader_epoch: LeaderEpoch(0), batch }
    }

    /// Runs the state with a mock clock; uploads and commits finish when told.
    struct Bench {
        state: FlusherState<i32>,
        now_ms: u64,
        effects: Vec<Effect<i32>>,
    }

    impl Bench {
        fn new(limits: FlushLimits) -> Self {
            Self { state: FlusherState::new(limits, 0), now_ms: 0, effects: Vec::new() }
        }

        fn event(&mut self, event: Event<i32>) {
            self.state.step(self.now_ms, event, &mut self.effects);
        }

        /// Advances to `until_ms`, ticking whenever the state asked for it; returns the times of cuts.
        fn sleep_until(&mut self, until_ms: u64) -> Vec<u64> {
            let mut cuts = Vec::new();
            while let Some(at) = self.state.wake_at_ms(self.now_ms).filter(|at| *at <= until_ms) {
                let before = self.uploads();
                self.now_ms = at;
                self.event(Event::Tick);
                if self.uploads() > before {
                    cuts.push(at);
                }
                assert!(self.uploads() > before || self.state.wake_at_ms(at) > Some(at), "a wake-up must help");
            }
            self.now_ms = until_ms;
            cuts
        }

        fn uploads(&self) -> usize {
            self.effects.iter().filter(|e| matches!(e, Effect::Upload { .. })).count()
        }

        fn finish(&mut self, seq: u64) {
            self.event(Event::Uploaded(Seq(seq)));
            if let Some(Effect::Commit(seq)) = self.effects.iter().rev().find(|e| matches!(e, Effect::Commit(_))) {
                let seq = *seq;
                if self.state.committing {
                    self.event(Event::Committed(seq));
                }
            }
        }
    }

    #[test]
    fn a_sporadic_record_waits_for_the_linger_only() {
        let mut bench = Bench::new(LIMITS);
        bench.event(append(0, 0, 10));
        assert_eq!(bench.sleep_until(499), [2]);
    }

    #[test]
    fn a_steady_trickle_costs_one_put_per_interval() {
        let mut bench = Bench::new(LIMITS);
        let mut cuts = 0;
        for n in 0..1_000 {
            bench.event(append(0, n, 1));
            cuts += bench.sleep_until((n as u64 + 1) * 10).len();
            let last = bench.state.last_cut().0;
            if last > bench.state.head().0 {
                bench.finish(last);
            }
        }
        assert!((20..=22).contains(&cuts), "10 s at one PUT per 500 ms and a burst of 2, not {cuts}");
    }

    #[test]
    fn size_cuts_at_once_and_uploads_are_bounded() {
        let mut bench = Bench::new(LIMITS);
        for n in 0..6 {
            bench.event(append(0, n, 1_000));
        }
        assert_eq!(bench.uploads(), 4);
        assert_eq!(bench.state.wake_at_ms(0), None);
        bench.finish(1);
        assert_eq!(bench.uploads(), 5, "both waiting batches travel in one segment");
    }

    #[test]
    fn producers_that_wait_for_acks_are_served_as_far_as_their_data_pays() {
        let mut bench = Bench::new(FlushLimits { burst: 0, ..LIMITS });
        bench.event(append(0, 0, 700));
        assert_eq!(bench.sleep_until(100), [20], "half a segment pays for a cut");
        bench.finish(1);
        bench.event(append(0, 1, 200));
        assert!(bench.sleep_until(590).is_empty(), "400 of 500 bytes are left");
        bench.event(append(0, 2, 150));
        assert_eq!(bench.sleep_until(700), [600], "the interval has come before the silence");
        bench.finish(2);
        bench.event(append(0, 3, 1));
        assert_eq!(bench.sleep_until(800), [720], "what was saved up pays");
        bench.event(append(0, 4, 1));
        assert!(bench.sleep_until(1_299).is_empty());
    }

    #[test]
    fn where_requests_cost_no_money_a_producer_that_waits_for_each_ack_does_not_wait_for_tokens() {
        let mut bench = Bench::new(FlushLimits { burst: 0, lone_ms: Some(8), ..LIMITS });
        for n in 0..5 {
            bench.event(append(0, n, 1));
            let sent_ms = bench.now_ms;
            assert_eq!(bench.sleep_until(sent_ms + 20), [sent_ms + 8]);
            bench.finish(n as u64 + 1);
        }
        bench.event(append(0, 5, 1));
        bench.event(append(1, 0, 1));
        assert_eq!(bench.sleep_until(1_000), [600], "two batches wait for their token or the interval");
    }

    #[test]
    fn silence_says_little_while_several_uploads_are_under_way() {
        let mut bench = Bench::new(FlushLimits { burst: 0, ..LIMITS });
        bench.event(append(0, 0, 1_000));
        bench.event(append(0, 1, 1_000));
        bench.event(append(0, 2, 900));
        assert!(bench.sleep_until(100).is_empty());
        bench.finish(1);
        assert_eq!(bench.uploads(), 3, "one is left, and nothing arrived for long");
    }

    #[test]
    fn commits_wait_for_the_slots_before_and_cover_a_row() {
        let mut bench = Bench::new(LIMITS);
        for n in 0..3 {
            bench.event(append(0, n, 1_000));
        }
        bench.event(Event::Uploaded(Seq(3)));
        bench.event(Event::Uploaded(Seq(2)));
        assert!(!bench.effects.iter().any(|e| matches!(e, Effect::Commit(_))));
        bench.event(Event::Uploaded(Seq(1)));
        assert!(matches!(bench.effects.last(), Some(Effect::Commit(Seq(3)))));
        bench.event(Event::Committed(Seq(3)));
        assert!(matches!(bench.effects.last(), Some(Effect::Announce(Seq(3)))));
        assert!(bench.state.is_idle());
    }

    #[test]
    fn a_free_store_is_written_whenever_a_slot_is_free() {
        let mut bench = Bench::new(FlushLimits { cost_bounded: false, linger_ms: 0, uploads_max: 1, ..LIMITS });
        bench.event(append(0, 0, 1));
        assert_eq!(bench.uploads(), 1);
        bench.event(append(0, 1, 1));
        bench.event(append(1, 0, 1));
        assert_eq!(bench.uploads(), 1);
        bench.finish(1);
        assert_eq!(bench.uploads(), 2);
    }

    #[test]
    fn draining_cuts_at_once() {
        let mut bench = Bench::new(FlushLimits { burst: 0, ..LIMITS });
        bench.event(append(0, 0, 1));
        bench.event(Event::Drain);
        assert_eq!(bench.uploads(), 1);
        bench.event(Event::Drain);
        bench.event(append(0, 1, 1));
        assert_eq!(bench.uploads(), 1, "draining nothing does not cut what comes later");
    }

    proptest! {
        /// PUTs never exceed what size and time allow, nothing waits longer than the interval, no slot is skipped.
        #[test]
        fn puts_are_bounded_by_time_and_size(steps in prop::collection::vec((0u64..300, 1usize..600, 0i32..3), 1..200)) {
            let mut bench = Bench::new(LIMITS);
            let mut bases = [0i64; 3];
            let mut bytes = 0;
            for (wait_ms, len, partition) in steps {
                let opened = (!bench.state.open.is_empty()).then_some(bench.state.opened_ms);
                let cuts = bench.sleep_until(bench.now_ms + wait_ms);
                if let (Some(opened), Some(first)) = (opened, cuts.first()) {
                    prop_assert!(*first <= opened + LIMITS.interval_ms);
                }
                let last = bench.state.last_cut().0;
                if last > bench.state.head().0 && bench.state.slots.front().is_some() {
                    for seq in bench.state.head().0 + 1..=last {
                        bench.event(Event::Uploaded(Seq(seq)));
                    }
                    while bench.state.committing {
                        let seq = bench.effects.iter().rev().find_map(|e| match e { Effect::Commit(s) => Some(*s), _ => None });
                        bench.event(Event::Committed(seq.unwrap()));
                    }
                }
                bench.event(append(partition, bases[partition as usize], len));
                bases[partition as usize] += 1;
                bytes += len as u64;
            }
            let seqs: Vec<u64> = bench.effects.iter().filter_map(|e| match e { Effect::Upload { seq, .. } => Some(seq.0), _ => None }).collect();
            prop_assert_eq!(&seqs, &(1..=seqs.len() as u64).collect::<Vec<_>>());
            let by_time = bench.now_ms / LIMITS.interval_ms + LIMITS.burst + 1;
            let by_size = bytes / (LIMITS.segment_bytes / 4) + 1;
            prop_assert!(seqs.len() as u64 <= by_time + by_size);
        }
    }
}
