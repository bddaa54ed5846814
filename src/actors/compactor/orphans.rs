//! Which objects of a LIST nobody can need: the decisions of the scrub, without I/O.
//!
//! A LIST only ever nominates. An object is an orphan if its key is exactly one of ours, it is old, nothing this writer
//! knows refers to it, and nobody else can refer to it either:
//!
//! - Only the owner of a partition refers to the partition's own segments (level 2).
//! - Only a writer itself refers to its checkpoints, and only it or whoever has its partitions now to its WAL and merged
//!   objects. This writer's own checkpoints are judged, and its merged objects while it is *alone*: no other writer is
//!   active and every partition is its own. The slots of its WAL are accounted for one by one and never judged.
//! - What others wrote is judged if this writer is alone and they are *gone*: older than this one, not active, and in no
//!   partition's history.
//!
//! Before an orphan is nominated, its first bytes have to say that it is what its key says (see [`Facts::confirms`]).
//! Whoever errs here must err by keeping: an orphan costs space, and the next pass sees it again.

use crate::ids::{PartitionKey, Seq, WriterId};
use crate::metadata::Revision;
use crate::metadata::model::{PartitionValue, WriterState, WriterValue};
use crate::storage::layout::ParsedKey;
use crate::storage::{Listed, ObjectKey};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Why an object is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its key is not one of ours.
    Foreign,
    /// It has not been there for long enough, or the store does not say since when.
    Young,
    /// Something refers to it.
    Referenced,
    /// It is garbage already and will be deleted in its time.
    Garbage,
    /// Somebody may need it.
    Needed,
}

/// What an object's first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The cluster it belongs to.
    pub cluster_id: String,
    /// Who wrote it.
    pub writer: WriterId,
    /// The writer's nonce.
    pub nonce: u64,
    /// Slot of a WAL object; last slot that another one covers.
    pub seq: Seq,
    /// Revision of the metadata store that the writer had seen.
    pub revision_seen: Revision,
}

/// What a page is judged by. Everything is read *after* the page was listed.
#[derive(Debug)]
pub struct Facts {
    me: WriterId,
    nonce: u64,
    /// All writers in the metadata store.
    writers: BTreeMap<WriterId, WriterValue>,
    /// Partitions and their owners.
    owners: BTreeMap<PartitionKey, Option<WriterId>>,
    /// Writers in partitions' histories.
    named: BTreeSet<WriterId>,
    /// Checkpoints that a writer's key points to.
    pointed: HashSet<String>,
    alone: bool,
}

impl Facts {
    /// What the metadata store says, as this writer sees it.
    pub fn new(
        me: WriterId,
        nonce: u64,
        writers: BTreeMap<WriterId, WriterValue>,
        partitions: &BTreeMap<PartitionKey, PartitionValue>,
    ) -> Self {
        let owners: BTreeMap<_, _> = partitions.iter().map(|(key, value)| (*key, value.owner)).collect();
        let named = partitions.values().flat_map(|p| p.history.iter().chain(&p.owner).copied()).collect();
        let pointed = writers.values().filter_map(|w| Some(w.checkpoint.as_ref()?.key.clone())).collect();
        let others_active = writers.iter().any(|(id, w)| *id != me && w.state == WriterState::Active);
        let alone = !others_active && owners.values().all(|owner| *owner == Some(me));
        Self { me, nonce, writers, owners, named, pointed, alone }
    }

    /// `Ok` if `object`, whose key says `kind`, is an orphan. `old_ms` is the newest time of creation that is old enough.
    pub fn judge(
        &self,
        object: &Listed,
        kind: Option<&ParsedKey>,
        referenced: &HashSet<ObjectKey>,
        garbage: &HashSet<ObjectKey>,
        old_ms: i64,
    ) -> Result<(), Reason> {
        let kind = kind.ok_or(Reason::Foreign)?;
        // A store that does not say when an object was made says 0.
        if object.last_modified_ms <= 0 || object.last_modified_ms > old_ms {
            return Err(Reason::Young);
        }
        if referenced.contains(&object.key) || self.pointed.contains(object.key.as_str()) {
            return Err(Reason::Referenced);
        }
        if garbage.contains(&object.key) {
            return Err(Reason::Garbage);
        }
        let orphan = match kind {
            ParsedKey::Cluster => false,
            ParsedKey::Probe(_) => true,
            // The newest stays, since it is not older than itself: it tells that its id was given away.
            ParsedKey::Registered(writer) => self.is_gone(*writer),
            ParsedKey::Wal { writer, .. } => self.is_gone(*writer),
            ParsedKey::Merged { writer, .. } if *writer == self.me => self.alone,
            ParsedKey::Merged { writer, .. } => self.is_gone(*writer),
            ParsedKey::Checkpoint { writer, nonce, .. } if *writer == self.me => *nonce == self.nonce,
            ParsedKey::Checkpoint { writer, .. } => self.is_gone(*writer),
            ParsedKey::Segment { key, .. } => self.owners.get(key) == Some(&Some(self.me)),
        };
        if orphan { Ok(()) } else { Err(Reason::Needed) }
    }

    /// True if the object is what its key says, of our cluster, and not from a future that the metadata store does not
    /// remember (it was restored from a backup, and somebody may want to rebuild what it lost). `revision_now` is the
    /// metadata store's revision or an older one.
    pub fn confirms(&self, kind: &ParsedKey, origin: &Origin, cluster_id: &str, revision_now: Revision) -> bool {
        let mine = (origin.writer, origin.nonce) == (self.me, self.nonce);
        let by_key = match kind {
            ParsedKey::Wal { writer, nonce, seq } | ParsedKey::Checkpoint { writer, nonce, seq, .. } => {
                (origin.writer, origin.nonce, origin.seq) == (*writer, *nonce, *seq)
            }
            ParsedKey::Merged { writer, to, .. } => (origin.writer, origin.seq) == (*writer, *to),
            ParsedKey::Registered(writer) => origin.writer == *writer,
            ParsedKey::Segment { .. } => true,
            ParsedKey::Cluster | ParsedKey::Probe(_) => false,
        };
        by_key
            && (mine || self.is_inactive(origin.writer))
            && origin.cluster_id == cluster_id
            && origin.revision_seen <= revision_now
    }

    /// Older than this writer and unable to write: sealed, or forgotten after that.
    fn is_inactive(&self, writer: WriterId) -> bool {
        writer < self.me && self.writers.get(&writer).is_none_or(|w| w.state != WriterState::Active)
    }

    fn is_gone(&self, writer: WriterId) -> bool {
        self.alone && self.is_inactive(writer) && !self.named.contains(&writer)
    }
}

#[cfg(test)]
#[path = "orphans_tests.rs"]
mod tests;
