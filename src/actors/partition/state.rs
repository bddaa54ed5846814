//! The decisions of a partition: which offset a batch gets, whether it is a duplicate, when its ack is due.
//!
//! Pure: no I/O, clock or logging. `R` is whatever the shell uses to answer an append.
//!
//! Invariants, asserted here: a committed extent starts at the high watermark; the high watermark and the log start
//! never go back; nothing is acked above the high watermark.

use super::handle::{AppendError, Appended, ValidBatch};
use super::producers::{Producers, Verdict};
use super::view::Extent;
use crate::ids::{LeaderEpoch, Offset, PartitionKey};
use crate::protocol::batch::{BatchHeader, StoredBatch};
use std::collections::{BTreeMap, VecDeque};

/// After an append was refused, a producer that is not known must begin at sequence 0 for this long, ms: its first batch
/// may be among the refused ones, and accepting the next would put it before the retry of the first. Long enough for
/// what was in flight behind the refused batch; after it, clients send the refused one first.
const ORDER_DOUBT_MS: i64 = 5_000;

/// Something that happened to the partition.
#[derive(Debug)]
pub enum Event<R> {
    /// A client wants a batch appended.
    Append {
        /// The batch.
        batch: ValidBatch,
        /// How to answer.
        reply: R,
    },
    /// The writer's head covers this extent now.
    Committed(Extent),
    /// Everything below was deleted (the metadata store says so already).
    Trimmed(Offset),
    /// Some append was refused before it got here.
    Refused,
    /// The partition is about to be given away: nothing more is appended. What is in flight is finished.
    Departing,
    /// The writer can commit nothing more; what is in flight has no known outcome.
    Interrupted,
}

/// When an event happens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Monotonic time, for what waits.
    pub mono_ms: i64,
    /// [`crate::clock::Clock::settled_ms`]: with it, producers are forgotten.
    pub wall_ms: i64,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Effect<R> {
    /// Give the batch to the flusher.
    Store {
        /// With its final offset.
        batch: StoredBatch,
        /// Its header.
        header: BatchHeader,
    },
    /// Answer an append.
    Reply {
        /// How.
        reply: R,
        /// With what.
        outcome: Result<Appended, AppendError>,
    },
    /// Show newly committed batches to readers.
    Publish {
        /// The new high watermark.
        high_watermark: Offset,
        /// The batches, in order.
        batches: Vec<StoredBatch>,
        /// Where they are stored.
        extent: Extent,
    },
    /// Show the new log start to readers.
    PublishLogStart(Offset),
}

#[derive(Debug)]
struct Waiting<R> {
    reply: R,
    base: Offset,
    log_append_time_ms: i64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct PartitionState<R> {
    key: PartitionKey,
    leader_epoch: LeaderEpoch,
    log_start: Offset,
    high_watermark: Offset,
    next_offset: Offset,
    producers: Producers,
    /// Appended and not yet committed, in offset order.
    in_flight: VecDeque<StoredBatch>,
    /// Answers due when the high watermark reaches the offset; the number keeps equal offsets apart, in order.
    waiting: BTreeMap<(Offset, u64), Waiting<R>>,
    waiting_count: u64,
    /// Until then the first batch of an unknown producer must have sequence 0; monotonic time.
    order_doubted_until_ms: i64,
    /// Nothing more is appended.
    departing: bool,
}

impl<R> PartitionState<R> {
    /// A recovered partition: nothing in flight.
    pub fn new(
        key: PartitionKey,
        leader_epoch: LeaderEpoch,
        log_start: Offset,
        high_watermark: Offset,
        producers: Producers,
    ) -> Self {
        Self {
            key,
            leader_epoch,
            log_start,
            high_watermark,
            next_offset: high_watermark,
            producers,
            in_flight: VecDeque::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            order_doubted_until_ms: i64::MIN,
            departing: false,
        }
    }

    /// End of what is committed (exclusive).
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// First offset that may be read.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// Idempotent producers, to snapshot or expire.
    pub fn producers_mut(&mut self) -> &mut Producers {
        &mut self.producers
    }

    /// Takes one event; appends what follows from it to `effects`.
    pub fn step(&mut self, now: Now, event: Event<R>, effects: &mut Vec<Effect<R>>) {
        match event {
            Event::Append { reply, .. } if self.departing => {
                effects.push(Effect::Reply { reply, outcome: Err(AppendError::NotLeader) });
            }
            Event::Append { batch, reply } => self.append(now, batch, reply, effects),
            Event::Departing => self.departing = true,
            Event::Committed(extent) => self.committed(extent, effects),
            Event::Trimmed(log_start) => {
                if log_start > self.log_start {
                    assert!(log_start <= self.high_watermark, "{}: log start above the high watermark", self.key);
                    self.log_start = log_start;
                    effects.push(Effect::PublishLogStart(log_start));
                }
            }
            Event::Refused => self.order_doubted_until_ms = now.mono_ms.saturating_add(ORDER_DOUBT_MS),
            Event::Interrupted => {
                let waiting = std::mem::take(&mut self.waiting);
                effects.extend(
                    waiting
                        .into_values()
                        .map(|w| Effect::Reply { reply: w.reply, outcome: Err(AppendError::Interrupted) }),
                );
            }
        }
    }

    fn append(&mut self, now: Now, batch: ValidBatch, reply: R, effects: &mut Vec<Effect<R>>) {
        let header = batch.header;
        let log_append_time_ms = batch.log_append_time_ms.unwrap_or(-1);
        if header.is_idempotent() {
            match self.producers.check(&header) {
                Ok(Verdict::Append) if header.base_sequence != 0 && self.doubts(&header, now) => {
                    return effects.push(Effect::Reply { reply, outcome: Err(AppendError::PredecessorMissing) });
                }
                Ok(Verdict::Append) => {}
                Ok(Verdict::Duplicate { base, next }) => {
                    // The original may still be in flight: its duplicate is acked no earlier.
                    return self.answer_at(next, Waiting { reply, base, log_append_time_ms }, effects);
                }
                Err(error) => return effects.push(Effect::Reply { reply, outcome: Err(error) }),
            }
        }
        let base = self.next_offset;
        let stored = StoredBatch::assign(&batch.bytes, &header, base, self.leader_epoch);
        let next = stored.next;
        assert!(next > base, "{}: an empty batch passed validation", self.key);
        if header.is_idempotent() {
            self.producers.appended(&header, base, self.high_watermark, now.wall_ms);
        }
        self.next_offset = next;
        self.in_flight.push_back(stored.clone());
        effects.push(Effect::Store { batch: stored, header });
        self.answer_at(next, Waiting { reply, base, log_append_time_ms }, effects);
    }

    fn doubts(&self, header: &BatchHeader, now: Now) -> bool {
        now.mono_ms < self.order_doubted_until_ms && !self.producers.knows(header.producer_id)
    }

    fn answer_at(&mut self, due: Offset, waiting: Waiting<R>, effects: &mut Vec<Effect<R>>) {
        if due <= self.high_watermark {
            return effects.push(self.ack(waiting));
        }
        self.waiting.insert((due, self.waiting_count), waiting);
        self.waiting_count += 1;
    }

    fn ack(&self, waiting: Waiting<R>) -> Effect<R> {
        let outcome = Ok(Appended {
            base_offset: waiting.base,
            log_start: self.log_start,
            log_append_time_ms: waiting.log_append_time_ms,
        });
        Effect::Reply { reply: waiting.reply, outcome }
    }

    fn committed(&mut self, extent: Extent, effects: &mut Vec<Effect<R>>) {
        assert_eq!(extent.base, self.high_watermark, "{}: a committed extent leaves a hole or overlaps", self.key);
        assert!(extent.next <= self.next_offset, "{}: more was committed than appended", self.key);
        let mut batches = Vec::new();
        while self.in_flight.front().is_some_and(|b| b.next <= extent.next) {
            batches.extend(self.in_flight.pop_front());
        }
        assert_eq!(batches.last().map(|b| b.next), Some(extent.next), "{}: an extent ends inside a batch", self.key);
        self.high_watermark = extent.next;
        effects.push(Effect::Publish { high_watermark: extent.next, batches, extent });
        let still_waiting = self.waiting.split_off(&(self.high_watermark.plus(1), 0));
        let due = std::mem::replace(&mut self.waiting, still_waiting);
        let acks: Vec<_> = due.into_values().map(|w| self.ack(w)).collect();
        effects.extend(acks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::partition::view::ObjectRef;
    use crate::ids::{PartitionIndex, ProducerEpoch, ProducerId, TopicId};
    use crate::protocol::batch::HEADER_LEN;
    use crate::storage::ObjectKey;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn key() -> PartitionKey {
        PartitionKey { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(0) }
    }

    fn state() -> PartitionState<u32> {
        PartitionState::new(key(), LeaderEpoch(3), Offset(0), Offset(0), Producers::default())
    }

    fn batch(producer: i64, sequence: i32, count: i32) -> ValidBatch {
        let mut bytes = vec![0u8; HEADER_LEN];
        bytes[8..12].copy_from_slice(&(HEADER_LEN as i32 - 12).to_be_bytes());
        bytes[16] = 2;
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        bytes[43..51].copy_from_slice(&producer.to_be_bytes());
        bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        let bytes = Bytes::from(bytes);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(producer), ProducerEpoch(0)));
        ValidBatch { bytes, header, log_append_time_ms: None }
    }

    fn extent(base: i64, next: i64) -> Extent {
        let object = ObjectRef { key: ObjectKey::new("k"), level: 0, len: 0, created_ms: 0 };
        Extent {
            base: Offset(base),
            next: Offset(next),
            object: Arc::new(object),
            position: 0,
            len: 0,
            max_timestamp: 0,
            leader_epoch: LeaderEpoch(3),
        }
    }

    fn acks(effects: &[Effect<u32>]) -> Vec<(u32, i64)> {
        let ack = |e: &Effect<u32>| match e {
            Effect::Reply { reply, outcome: Ok(a) } => Some((*reply, a.base_offset.0)),
            _ => None,
        };
        effects.iter().filter_map(ack).collect()
    }

    #[test]
    fn an_ack_waits_for_the_commit_and_a_duplicate_for_its_original() {
        let mut state = state();
        let mut effects = Vec::new();
        state.step(Now::default(), Event::Append { batch: batch(7, 0, 3), reply: 1 }, &mut effects);
        state.step(Now::default(), Event::Append { batch: batch(7, 0, 3), reply: 2 }, &mut effects);
        state.step(Now::default(), Event::Append { batch: batch(-1, -1, 2), reply: 3 }, &mut effects);
        assert_eq!(effects.iter().filter(|e| matches!(e, Effect::Store { .. })).count(), 2);
        assert_eq!(acks(&effects), []);
        state.step(Now::default(), Event::Committed(extent(0, 3)), &mut effects);
        assert_eq!(acks(&effects), [(1, 0), (2, 0)]);
        state.step(Now::default(), Event::Append { batch: batch(7, 0, 3), reply: 4 }, &mut effects);
        assert_eq!(acks(&effects), [(1, 0), (2, 0), (4, 0)]);
        state.step(Now::default(), Event::Committed(extent(3, 5)), &mut effects);
        assert_eq!(acks(&effects).last(), Some(&(3, 3)));
    }

    #[test]
    #[should_panic(expected = "leaves a hole")]
    fn a_hole_in_the_commits_is_fatal() {
        let mut state = state();
        let mut effects = Vec::new();
        for n in 0..2 {
            state.step(Now::default(), Event::Append { batch: batch(-1, -1, 1), reply: n }, &mut effects);
        }
        state.step(Now::default(), Event::Committed(extent(1, 2)), &mut effects);
    }

    #[test]
    fn interruption_answers_everyone_and_the_log_start_only_rises() {
        let mut state = state();
        let mut effects = Vec::new();
        state.step(Now::default(), Event::Append { batch: batch(-1, -1, 4), reply: 1 }, &mut effects);
        state.step(Now::default(), Event::Committed(extent(0, 4)), &mut effects);
        state.step(Now::default(), Event::Append { batch: batch(-1, -1, 1), reply: 2 }, &mut effects);
        state.step(Now::default(), Event::Trimmed(Offset(2)), &mut effects);
        state.step(Now::default(), Event::Trimmed(Offset(1)), &mut effects);
        assert_eq!(state.log_start(), Offset(2));
        effects.clear();
        state.step(Now::default(), Event::Interrupted, &mut effects);
        assert!(matches!(&effects[..], [Effect::Reply { reply: 2, outcome: Err(AppendError::Interrupted) }]));
    }

    #[test]
    fn a_departing_partition_finishes_what_it_has_and_takes_nothing() {
        let mut state = state();
        let mut effects = Vec::new();
        state.step(Now::default(), Event::Append { batch: batch(7, 0, 2), reply: 1 }, &mut effects);
        state.step(Now::default(), Event::Departing, &mut effects);
        effects.clear();
        state.step(Now::default(), Event::Append { batch: batch(7, 0, 2), reply: 2 }, &mut effects);
        state.step(Now::default(), Event::Append { batch: batch(-1, -1, 1), reply: 3 }, &mut effects);
        let refused = |e: &Effect<u32>| matches!(e, Effect::Reply { outcome: Err(AppendError::NotLeader), .. });
        assert!(effects.len() == 2 && effects.iter().all(refused), "{effects:?}");
        effects.clear();
        state.step(Now::default(), Event::Committed(extent(0, 2)), &mut effects);
        assert_eq!(acks(&effects), [(1, 0)]);
    }

    #[test]
    fn after_a_refusal_an_unknown_producer_begins_at_zero() {
        let mut state = state();
        let mut outcome = |mono_ms, batch| {
            let mut effects = Vec::new();
            state.step(Now { mono_ms, wall_ms: 0 }, batch, &mut effects);
            effects.iter().find_map(|e| match e {
                Effect::Reply { outcome: Err(error), .. } => Some(error.clone()),
                _ => None,
            })
        };
        let append = |producer, sequence| Event::Append { batch: batch(producer, sequence, 1), reply: 0 };
        assert_eq!(outcome(0, append(1, 5)), None, "expired, for all we know");
        assert_eq!(outcome(1_000, Event::Refused), None);
        assert_eq!(outcome(1_000, append(2, 5)), Some(AppendError::PredecessorMissing));
        assert_eq!(outcome(1_000, append(1, 6)), None, "a known producer is judged by its sequences");
        assert_eq!(outcome(1_000, append(2, 0)), None);
        assert_eq!(outcome(1_000, append(2, 1)), None);
        assert_eq!(outcome(1_000 + ORDER_DOUBT_MS - 1, append(3, 5)), Some(AppendError::PredecessorMissing));
        assert_eq!(outcome(1_000 + ORDER_DOUBT_MS, append(3, 5)), None);
    }

    proptest! {
        /// Against a naive model: offsets are dense, every append gets one answer, acks never pass the head.
        #[test]
        fn offsets_are_dense_and_acks_follow_commits(ops in prop::collection::vec((0u8..3, 1i32..5), 1..60)) {
            let mut state = state();
            let (mut end, mut committed, mut reply) = (0i64, 0i64, 0u32);
            let mut ends = VecDeque::new();
            let mut due: Vec<(u32, i64, i64)> = Vec::new();
            let mut answered = Vec::new();
            for (op, count) in ops {
                let mut effects = Vec::new();
                if op < 2 {
                    state.step(Now::default(), Event::Append { batch: batch(-1, -1, count), reply }, &mut effects);
                    due.push((reply, end, end + i64::from(count)));
                    end += i64::from(count);
                    ends.push_back(end);
                    reply += 1;
                } else if let Some(next) = ends.drain(..ends.len().min(count as usize)).next_back() {
                    state.step(Now::default(), Event::Committed(extent(committed, next)), &mut effects);
                    committed = next;
                }
                answered.extend(acks(&effects));
                let expected: Vec<_> = due.iter().filter(|d| d.2 <= committed).map(|d| (d.0, d.1)).collect();
                prop_assert_eq!(&answered, &expected);
                prop_assert_eq!(state.high_watermark(), Offset(committed));
            }
        }
    }
}
