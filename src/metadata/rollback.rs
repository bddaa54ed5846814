//! Does the metadata store still know what brokers have done? Somebody may have restored it from a backup.
//!
//! Objects are evidence of what the store once said. Each of these contradicts a store that forgot nothing, whatever
//! revision it claims to be at (a restored store can be given a higher one):
//!
//! - A writer is registered whose id the counter has not given away.
//! - A checkpoint covers a slot above its writer's head: a checkpoint has only what is committed.
//! - A writer id has two nonces.
//! - An object above a writer's head was cut when its writer's key had a later revision than it has now: the revision in a WAL
//!   object is that of the writer's last commit.
//!
//! A process that runs also remembers what the store has said to it ([`Remembered`]).
//!
//! What they cannot show is the very last commits before the store was lost, if no later object was cut; see
//! `docs/disaster-recovery.md`. Everything here is pure; `node/rollback.rs` gathers the evidence *before* it reads what the
//! store knows, so that what happens meanwhile contradicts nothing.

use super::model::WriterValue;
use super::{MetadataError, Revision};
use crate::ids::{Seq, WriterId};
use crate::sabotage::{self, Sabotage};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What the store has said so far to one process. No later answer can say less.
#[derive(Debug, Default)]
pub struct Remembered {
    /// The highest revision that a linearizable answer had.
    revision: AtomicI64,
    /// The id of the store's cluster, 0 before the first answer: it never changes while the data lives.
    cluster: AtomicU64,
}

impl Remembered {
    /// What a linearizable request that is sent now will see at least; for [`Self::compare`].
    pub fn floor(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// The revision of a linearizable answer to a request that was sent at `floor`. A lower one, or another cluster, means
    /// that the store does not remember what it has told us: it was restored from a backup, or it is another one.
    ///
    /// # Errors
    /// [`MetadataError::WentBack`] in that case.
    pub fn compare(&self, revision: Revision, cluster: u64, floor: Revision) -> Result<Revision, MetadataError> {
        let known = self.cluster.compare_exchange(0, cluster, Ordering::AcqRel, Ordering::Acquire);
        let message = match known {
            _ if sabotage::is(Sabotage::OverlookRollback) => return Ok(revision),
            Err(known) if known != cluster => format!("etcd was cluster {known:x} and is cluster {cluster:x} now"),
            _ if revision < floor => format!("etcd was at revision {floor} and is at {revision} now"),
            _ => {
                self.revision.fetch_max(revision, Ordering::AcqRel);
                return Ok(revision);
            }
        };
        Err(MetadataError::WentBack { message })
    }
}

/// What the metadata store knows.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The counter of writer ids: this one and all above were not given away.
    pub next_writer: u64,
    /// Writers that are not forgotten, with the revisions of their keys.
    pub writers: BTreeMap<WriterId, (WriterValue, Revision)>,
}

/// A WAL object above a writer's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Above {
    /// The writer.
    pub writer: WriterId,
    /// Its nonce.
    pub nonce: u64,
    /// The slot.
    pub seq: Seq,
    /// The revision of the writer's key when the object was cut.
    pub revision_seen: Revision,
}

/// A checkpoint's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// The writer.
    pub writer: WriterId,
    /// Its nonce.
    pub nonce: u64,
    /// The last slot that it covers.
    pub seq: Seq,
}

/// What the object store has.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Registered writers.
    pub registered: Vec<WriterId>,
    /// Checkpoints.
    pub checkpoints: Vec<Covered>,
    /// WAL objects above heads.
    pub above: Vec<Above>,
}

/// What the metadata store has forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forgotten {
    /// See the module's documentation.
    #[error("writer {writer} exists, but the next id to be given away is {next}")]
    Writer {
        /// The writer.
        writer: WriterId,
        /// The counter.
        next: u64,
    },
    /// See the module's documentation.
    #[error("writer {writer} had a checkpoint of slot {seq}, but its head is {head}")]
    Head {
        /// The writer.
        writer: WriterId,
        /// Covered.
        seq: Seq,
        /// The head in the metadata store.
        head: Seq,
    },
    /// See the module's documentation.
    #[error("writer id {writer} was given away twice")]
    Nonce {
        /// The writer.
        writer: WriterId,
    },
    /// See the module's documentation.
    #[error(
        "slot {seq} of writer {writer} was written after a commit at revision {seen}, but the last one was at {now}"
    )]
    Commit {
        /// The writer.
        writer: WriterId,
        /// The slot.
        seq: Seq,
        /// Seen by the object.
        seen: Revision,
        /// Of the writer's key.
        now: Revision,
    },
}

/// The first thing that `evidence` shows and `known` does not have.
pub fn forgotten(known: &Known, evidence: &Evidence) -> Option<Forgotten> {
    if sabotage::is(Sabotage::OverlookRollback) {
        return None;
    }
    let next = known.next_writer;
    let writers = evidence.registered.iter().chain(evidence.checkpoints.iter().map(|c| &c.writer));
    if let Some(writer) = writers.copied().filter(|writer| writer.0 >= next).max() {
        return Some(Forgotten::Writer { writer, next });
    }
    for Covered { writer, nonce, seq } in evidence.checkpoints.iter().copied() {
        let Some((value, _)) = known.writers.get(&writer) else { continue }; // forgotten in order
        if value.nonce != nonce {
            return Some(Forgotten::Nonce { writer });
        }
        if seq > value.head {
            return Some(Forgotten::Head { writer, seq, head: value.head });
        }
    }
    for Above { writer, nonce, seq, revision_seen: seen } in evidence.above.iter().copied() {
        let Some((value, now)) = known.writers.get(&writer) else { continue };
        if value.nonce == nonce && seq > value.head && seen > *now {
            return Some(Forgotten::Commit { writer, seq, seen, now: *now });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BrokerId;
    use crate::metadata::model::WriterState;

    fn known() -> Known {
        let value = |head, nonce| WriterValue {
            v: 1,
            node: BrokerId(1),
            state: WriterState::Active,
            head: Seq(head),
            nonce,
            checkpoint: None,
        };
        let writers = [(WriterId(3), (value(10, 30), 100)), (WriterId(5), (value(0, 50), 90))].into();
        Known { next_writer: 6, writers }
    }

    fn covered(writer: u64, nonce: u64, seq: u64) -> Evidence {
        let covered = Covered { writer: WriterId(writer), nonce, seq: Seq(seq) };
        Evidence { checkpoints: vec![covered], ..Evidence::default() }
    }

    fn above(seq: u64, revision_seen: Revision) -> Evidence {
        let above = Above { writer: WriterId(3), nonce: 30, seq: Seq(seq), revision_seen };
        Evidence { above: vec![above], ..Evidence::default() }
    }

    #[test]
    fn what_a_store_that_remembers_everything_has_contradicts_nothing() {
        let registered = vec![WriterId(1), WriterId(5)];
        let all = Evidence { registered, ..Evidence::default() };
        let kept = [all, covered(3, 30, 10), covered(3, 30, 0), covered(4, 1, 99), above(11, 100), above(10, 101)];
        for evidence in kept {
            assert_eq!(forgotten(&known(), &evidence), None, "{evidence:?}");
        }
    }

    #[test]
    fn a_store_says_no_less_than_before() {
        let remembered = Remembered::default();
        assert_eq!(remembered.compare(7, 1, 0).unwrap(), 7);
        assert_eq!(remembered.floor(), 7);
        assert_eq!(remembered.compare(6, 1, 5).unwrap(), 6, "the request was sent before the answer at 7 came");
        assert_eq!(remembered.floor(), 7);
        for (revision, cluster, floor) in [(6, 1, 7), (8, 2, 7)] {
            let error = remembered.compare(revision, cluster, floor).unwrap_err();
            assert!(matches!(error, MetadataError::WentBack { .. }), "{error}");
        }
    }

    #[test]
    fn what_was_forgotten_is_named() {
        let registered = Evidence { registered: vec![WriterId(6)], ..Evidence::default() };
        let writer = WriterId(3);
        let cases = [
            (registered, Forgotten::Writer { writer: WriterId(6), next: 6 }),
            (covered(7, 1, 0), Forgotten::Writer { writer: WriterId(7), next: 6 }),
            (covered(3, 31, 1), Forgotten::Nonce { writer }),
            (covered(3, 30, 11), Forgotten::Head { writer, seq: Seq(11), head: Seq(10) }),
            (above(12, 101), Forgotten::Commit { writer, seq: Seq(12), seen: 101, now: 100 }),
        ];
        for (evidence, expected) in cases {
            assert_eq!(forgotten(&known(), &evidence), Some(expected));
        }
    }
}
