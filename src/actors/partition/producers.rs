//! Idempotent producers of one partition, as Kafka's `ProducerStateManager` judges them.
//!
//! The last [`BATCHES_KEPT`] batches of a producer are remembered, committed or in flight. A repeated batch is answered
//! with the original's offset; anything else must follow the last sequence. A producer that is not known may start with
//! any sequence (it expired, or its records were deleted), unless `state.rs` has reason to doubt that; a new epoch starts at 0. Sequences wrap from 2^31-1 to 0.

use super::handle::AppendError;
use crate::ids::{Offset, ProducerEpoch, ProducerId};
use crate::protocol::batch::{BatchHeader, add_sequence};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// Batches remembered per producer (Kafka's `ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
pub const BATCHES_KEPT: usize = 5;
/// Kafka's default of `producer.id.expiration.ms`.
pub const EXPIRATION_MS: i64 = 86_400_000;
/// Producers remembered per partition; the longest silent one is forgotten first.
pub const PRODUCERS_MAX: usize = 100_000;

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerBatch {
    /// Its producer epoch.
    pub epoch: ProducerEpoch,
    /// Sequence of its first record.
    pub first_sequence: i32,
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its first record.
    pub base: Offset,
    /// First offset after it.
    pub next: Offset,
}

/// A producer in a checkpoint: committed batches only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerSnapshot {
    /// The producer.
    pub id: ProducerId,
    /// Wall time of its last append, ms.
    pub last_append_ms: i64,
    /// Its last batches, oldest first; never empty.
    pub batches: Vec<ProducerBatch>,
}

#[derive(Debug, Clone)]
struct Producer {
    last_append_ms: i64,
    /// Oldest first; never empty. Up to `BATCHES_KEPT` committed ones, then all that are in flight.
    batches: VecDeque<ProducerBatch>,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Producers {
    producers: HashMap<ProducerId, Producer>,
}

/// What to do with a batch of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    Append,
    /// It is the batch at `base..next`; answer with that once it is committed.
    Duplicate {
        /// Offset of the original's first record.
        base: Offset,
        /// First offset after the original.
        next: Offset,
    },
}

impl Producers {
    /// Rebuilds from a checkpoint.
    pub fn restore(snapshots: Vec<ProducerSnapshot>) -> Self {
        let producers = snapshots
            .into_iter()
            .filter(|s| !s.batches.is_empty())
            .map(|s| (s.id, Producer { last_append_ms: s.last_append_ms, batches: s.batches.into() }))
            .collect();
        Self { producers }
    }

    /// Number of producers remembered.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// True if no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// True if anything of the producer is remembered.
    pub fn knows(&self, id: ProducerId) -> bool {
        self.producers.contains_key(&id)
    }

    /// Judges a batch without changing anything.
    pub fn check(&self, header: &BatchHeader) -> Result<Verdict, AppendError> {
        let Some(producer) = self.producers.get(&header.producer_id) else { return Ok(Verdict::Append) };
        let last = producer.batches.back().expect("a remembered producer has a batch");
        if header.producer_epoch < last.epoch {
            return Err(AppendError::InvalidProducerEpoch {
                producer: header.producer_id.0,
                epoch: header.producer_epoch.0,
                current: last.epoch.0,
            });
        }
        let out_of_order = |expected| AppendError::OutOfOrderSequence {
            producer: header.producer_id.0,
            sequence: header.base_sequence,
            expected,
        };
        if header.producer_epoch > last.epoch {
            return if header.base_sequence == 0 { Ok(Verdict::Append) } else { Err(out_of_order(0)) };
        }
        let duplicate = producer.batches.iter().rev().take(BATCHES_KEPT).find(|b| {
            b.epoch == header.producer_epoch
                && b.first_sequence == header.base_sequence
                && b.last_sequence == header.last_sequence()
        });
        if let Some(original) = duplicate {
            return Ok(Verdict::Duplicate { base: original.base, next: original.next });
        }
        let expected = add_sequence(last.last_sequence, 1);
        if header.base_sequence == expected { Ok(Verdict::Append) } else { Err(out_of_order(expected)) }
    }

    /// Remembers a batch that was appended at `base` (in flight) or replayed (committed below `high_watermark`).
    pub fn appended(&mut self, header: &BatchHeader, base: Offset, high_watermark: Offset, now_ms: i64) {
        let batch = ProducerBatch {
            epoch: header.producer_epoch,
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base,
            next: base.plus(i64::from(header.last_offset_delta) + 1),
        };
        self.remember(header.producer_id, batch, high_watermark, now_ms);
    }

    /// As [`Self::appended`], from a segment's index.
    pub fn remember(&mut self, id: ProducerId, batch: ProducerBatch, high_watermark: Offset, now_ms: i64) {
        if self.producers.len() >= PRODUCERS_MAX && !self.producers.contains_key(&id) {
            let oldest = self.producers.iter().min_by_key(|(id, p)| (p.last_append_ms, **id)).map(|(id, _)| *id);
            oldest.map(|id| self.producers.remove(&id));
        }
        let fresh = || Producer { last_append_ms: now_ms, batches: VecDeque::with_capacity(1) };
        let producer = self.producers.entry(id).or_insert_with(fresh);
        producer.last_append_ms = producer.last_append_ms.max(now_ms);
        producer.batches.push_back(batch);
        while producer.batches.get(BATCHES_KEPT).is_some_and(|sixth| sixth.next <= high_watermark) {
            producer.batches.pop_front();
        }
    }

    /// Forgets producers that were silent for [`EXPIRATION_MS`] and have nothing in flight.
    pub fn expire(&mut self, high_watermark: Offset, now_ms: i64) {
        self.producers.retain(|_, p| {
            let in_flight = p.batches.back().is_some_and(|b| b.next > high_watermark);
            in_flight || now_ms - p.last_append_ms < EXPIRATION_MS
        });
    }

    /// The committed state, for a checkpoint. A batch in flight must not be in it: after a crash its retry would be
    /// taken for a duplicate of something that was never stored.
    pub fn snapshot(&self, high_watermark: Offset) -> Vec<ProducerSnapshot> {
        let mut snapshots: Vec<_> = self
            .producers
            .iter()
            .filter_map(|(id, producer)| {
                let mut batches: Vec<_> =
                    producer.batches.iter().filter(|b| b.next <= high_watermark).copied().collect();
                batches.drain(..batches.len().saturating_sub(BATCHES_KEPT));
                let any = !batches.is_empty();
                any.then_some(ProducerSnapshot { id: *id, last_append_ms: producer.last_append_ms, batches })
            })
            .collect();
        snapshots.sort_by_key(|s| s.id);
        snapshots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaderEpoch;

    pub fn header(id: i64, epoch: i16, sequence: i32, count: i32) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(0),
            length: 0,
            leader_epoch: LeaderEpoch(0),
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: sequence,
            record_count: count,
        }
    }

    fn run(steps: &[(i16, i32, i32)]) -> Producers {
        let mut producers = Producers::default();
        let mut next = Offset(0);
        for &(epoch, sequence, count) in steps {
            let h = header(7, epoch, sequence, count);
            assert_eq!(producers.check(&h), Ok(Verdict::Append), "{h:?}");
            producers.appended(&h, next, next, 0);
            next = next.plus(i64::from(count));
        }
        producers
    }

    #[test]
    fn the_last_five_are_duplicates_the_sixth_last_is_out_of_order() {
        let producers = run(&[(0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 3, 1), (0, 4, 1), (0, 5, 1)]);
        for sequence in 1..6 {
            let base = Offset(i64::from(sequence));
            assert_eq!(
                producers.check(&header(7, 0, sequence, 1)),
                Ok(Verdict::Duplicate { base, next: base.plus(1) })
            );
        }
        assert!(matches!(producers.check(&header(7, 0, 0, 1)), Err(AppendError::OutOfOrderSequence { .. })));
    }

    #[test]
    fn gaps_old_epochs_and_new_epochs() {
        let producers = run(&[(1, 0, 3)]);
        assert!(matches!(
            producers.check(&header(7, 1, 4, 1)),
            Err(AppendError::OutOfOrderSequence { expected: 3, .. })
        ));
        assert!(matches!(
            producers.check(&header(7, 0, 3, 1)),
            Err(AppendError::InvalidProducerEpoch { current: 1, .. })
        ));
        assert!(matches!(
            producers.check(&header(7, 2, 3, 1)),
            Err(AppendError::OutOfOrderSequence { expected: 0, .. })
        ));
        assert_eq!(producers.check(&header(7, 2, 0, 1)), Ok(Verdict::Append));
        assert_eq!(
            producers.check(&header(8, 0, 1000, 1)),
            Ok(Verdict::Append),
            "unknown producers may start anywhere"
        );
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let producers = run(&[(0, i32::MAX - 1, 2), (0, 0, 1)]);
        assert_eq!(producers.check(&header(7, 0, 1, 1)), Ok(Verdict::Append));
        let across = run(&[(0, i32::MAX, 3)]);
        assert_eq!(across.check(&header(7, 0, 2, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn snapshots_hold_committed_batches_only() {
        let mut producers = Producers::default();
        for sequence in 0..8 {
            producers.appended(&header(7, 0, sequence, 1), Offset(i64::from(sequence)), Offset(2), 50);
        }
        let snapshot = producers.snapshot(Offset(2));
        let bases: Vec<_> = snapshot[0].batches.iter().map(|b| b.base.0).collect();
        assert_eq!(bases, [0, 1]);
        assert!(producers.snapshot(Offset(0)).is_empty());
        let restored = Producers::restore(snapshot);
        assert_eq!(restored.check(&header(7, 0, 2, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn a_silent_producer_goes_on_as_long_as_it_is_remembered() {
        // Case 34: nothing shorter than `producer.id.expiration.ms` (no transactional id, no idle connection) ends it.
        let mut producers = run(&[(0, 0, 1)]);
        producers.expire(Offset(1), EXPIRATION_MS - 1);
        assert_eq!(producers.check(&header(7, 0, 1, 1)), Ok(Verdict::Append));
        let repeated = Verdict::Duplicate { base: Offset(0), next: Offset(1) };
        assert_eq!(producers.check(&header(7, 0, 0, 1)), Ok(repeated));
        assert!(producers.check(&header(7, 0, 2, 1)).is_err(), "a gap is still one");
        producers.expire(Offset(1), EXPIRATION_MS);
        assert_eq!(producers.check(&header(7, 0, 2, 1)), Ok(Verdict::Append), "unknown now");
    }

    #[test]
    fn silence_expires_but_not_what_is_in_flight() {
        let mut producers = run(&[(0, 0, 1)]);
        producers.expire(Offset(0), EXPIRATION_MS);
        assert_eq!(producers.len(), 1, "in flight");
        producers.expire(Offset(1), EXPIRATION_MS - 1);
        assert_eq!(producers.len(), 1);
        producers.expire(Offset(1), EXPIRATION_MS);
        assert!(producers.is_empty());
    }
}
