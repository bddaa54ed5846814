//! The rules of cutting, one by one, with a mock clock.

use super::*;
use crate::ids::{PartitionIndex, TopicId};
use bytes::Bytes;
use proptest::prelude::*;

const LIMITS: FlushLimits = FlushLimits {
    segment_bytes: 1_000,
    interval_ms: 500,
    linger_ms: 2,
    stall_ms: 20,
    full_ms: 5,
    lone_ms: None,
    uploads_max: 4,
    burst: 2,
    cost_bounded: true,
    twice: false,
};

fn key(n: i32) -> PartitionKey {
    PartitionKey { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(n) }
}

fn append(partition: i32, base: i64, len: usize) -> Event<i32> {
    let head = Bytes::from(vec![0; len]);
    let (base, next) = (Offset(base), Offset(base + 1));
    let batch = StoredBatch { base, next, max_timestamp: 0, head, tail: Bytes::new() };
    let leader_epoch = LeaderEpoch(0);
    Event::Append { key: key(partition), port: partition, leader_epoch, batch, client_waits: false }
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
    let twice = |effect: &Effect<i32>| matches!(effect, Effect::Upload { twice: true, .. });
    assert!(bench.effects.iter().any(twice), "who comes now waits for it");
}

#[test]
fn while_partitions_move_small_segments_are_sent_twice() {
    let mut bench = Bench::new(FlushLimits { burst: 4, ..LIMITS });
    bench.event(Event::Hurry);
    for (at_ms, len, expected) in [(10, 250, true), (20, 251, false), (990, 1, true), (HURRY_MS, 1, false)] {
        bench.sleep_until(at_ms);
        bench.effects.clear();
        bench.event(append(0, at_ms as i64, len));
        bench.sleep_until(at_ms + 5);
        let twice = bench.effects.iter().find_map(|effect| match effect {
            Effect::Upload { twice, .. } => Some(*twice),
            _ => None,
        });
        assert_eq!(twice, Some(expected), "{len} bytes at {at_ms} ms");
    }
}

proptest! {
    /// PUTs never exceed what size and time allow, nothing waits longer than the interval, no slot is skipped.
    #[test]
    fn puts_are_bounded_by_time_and_size(
        steps in prop::collection::vec((0u64..300, 1usize..600, 0i32..3), 1..200),
        twice: bool,
    ) {
        let limits = FlushLimits { twice, ..LIMITS };
        let mut bench = Bench::new(limits);
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
        let second = bench.twice().iter().filter(|twice| **twice).count() as u64;
        prop_assert!(seqs.len() as u64 <= by_time + by_size);
        prop_assert!(seqs.len() as u64 + second <= by_time + 2 * by_size);
    }
}

/// Short intervals: what PUTs are left over are spent on sending segments twice.
const TWICE: FlushLimits = FlushLimits { interval_ms: 50, burst: 1, twice: true, ..LIMITS };

impl Bench {
    /// Whether each segment so far was to be sent twice.
    fn twice(&self) -> Vec<bool> {
        let upload = |e: &Effect<i32>| match e {
            Effect::Upload { twice, .. } => Some(*twice),
            _ => None,
        };
        self.effects.iter().filter_map(upload).collect()
    }
}

#[test]
fn a_full_client_window_is_answered_sooner_than_silence() {
    let mut bench = Bench::new(FlushLimits { burst: 0, ..LIMITS });
    bench.event(append(0, 0, 400));
    let Event::Append { key, port, leader_epoch, batch, .. } = append(0, 1, 400) else { unreachable!() };
    bench.event(Event::Append { key, port, leader_epoch, batch, client_waits: true });
    assert_eq!(bench.sleep_until(100), [5]);
    bench.finish(1);
    bench.event(append(0, 2, 400));
    assert_eq!(bench.sleep_until(200), [120], "the next batch says nothing of the kind");
}

#[test]
fn small_segments_are_sent_twice_as_far_as_tokens_and_data_pay() {
    let mut bench = Bench::new(TWICE);
    bench.event(append(0, 0, 10));
    assert_eq!(bench.sleep_until(30), [20], "the only token pays for the cut");
    bench.finish(1);
    bench.event(append(0, 1, 240));
    assert_eq!(bench.sleep_until(100), [70], "a new token");
    bench.finish(2);
    bench.event(append(0, 2, 240));
    assert_eq!(bench.sleep_until(149), [120]);
    bench.finish(3);
    assert_eq!(bench.twice(), [false, true, false], "250 bytes have paid for one");
    bench.event(append(0, 3, 251));
    assert_eq!(bench.sleep_until(200), [169], "paid with bytes and tokens");
    bench.finish(4);
    assert_eq!(bench.twice()[3..], [false], "too large");
    bench.sleep_until(1_000);
    bench.event(append(0, 4, 1));
    bench.sleep_until(1_100);
    assert_eq!(bench.twice()[4..], [true], "saved up");
}

#[test]
fn with_a_short_interval_nothing_waits_longer_than_it() {
    let mut bench = Bench::new(TWICE);
    for n in 0..200 {
        bench.event(append(0, n, 1));
        let now_ms = bench.now_ms;
        bench.sleep_until(now_ms + 1);
        assert!(bench.state.open.is_empty() || bench.now_ms - bench.state.opened_ms <= 50);
        let last = bench.state.last_cut().0;
        if last > bench.state.head().0 {
            bench.finish(last);
        }
    }
    assert_eq!(bench.uploads(), 4, "steady producers: one PUT per interval");
}
