//! The committed offsets of one group: what may be committed, what is fetched, what expires. Pure.
//!
//! Offsets live in blocks of up to [`BLOCK_PARTITIONS`] partitions of a topic, because a block is what one metadata key
//! holds. A block belongs to a topic *id*: a topic that is deleted and made again starts without offsets.

use super::error::GroupError;
use crate::clock::WallMs;
use crate::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Partitions of a topic in one block.
pub const BLOCK_PARTITIONS: i32 = 64;
/// Blocks of one group: four million partitions of one topic, or 65,536 topics.
pub const BLOCKS_MAX: usize = 1 << 16;

/// Memory of an offset without its metadata, bytes.
const SLOT_BYTES: usize = 96;

/// Number of a block of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub i32);

/// A block of one group: topic name and number.
pub type BlockKey = (Arc<str>, BlockIndex);

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The offset.
    pub offset: Offset,
    /// Leader epoch of the last record consumed, -1 if unknown.
    pub leader_epoch: LeaderEpoch,
    /// The client's string.
    pub metadata: String,
    /// Wall time of the commit, ms.
    pub commit_ms: WallMs,
    /// Wall time at which it expires, where the client gave a retention time (API versions 2 to 4).
    pub expire_ms: Option<WallMs>,
}

/// Offsets of up to [`BLOCK_PARTITIONS`] partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The topic's id at the time of the commits.
    pub topic: TopicId,
    /// By partition number modulo [`BLOCK_PARTITIONS`].
    pub slots: BTreeMap<u8, Committed>,
}

impl Block {
    /// What a decoder cannot know.
    pub fn check(&self) -> Result<(), String> {
        match self.slots.keys().next_back() {
            Some(slot) if i32::from(*slot) >= BLOCK_PARTITIONS => Err(format!("slot {slot} of {BLOCK_PARTITIONS}")),
            _ => Ok(()),
        }
    }

    /// Memory it takes, roughly.
    fn bytes(&self) -> usize {
        self.slots.values().map(|c| SLOT_BYTES + c.metadata.len()).sum()
    }
}

/// One offset of a commit request, its topic known to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// Topic name.
    pub topic: Arc<str>,
    /// Its id now.
    pub topic_id: TopicId,
    /// Partition.
    pub partition: PartitionIndex,
    /// What to keep.
    pub committed: Committed,
}

/// Where a partition's offset is kept.
pub fn place(partition: PartitionIndex) -> (BlockIndex, u8) {
    (BlockIndex(partition.0 / BLOCK_PARTITIONS), (partition.0 % BLOCK_PARTITIONS) as u8)
}

/// The offsets of one group.
#[derive(Debug, Default)]
pub struct Offsets {
    blocks: BTreeMap<BlockKey, Block>,
    bytes: usize,
}

impl Offsets {
    /// True without any offset.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Memory they take, roughly, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The block of a key.
    pub fn block(&self, key: &BlockKey) -> Option<&Block> {
        self.blocks.get(key)
    }

    /// Keys of all blocks.
    pub fn keys(&self) -> impl Iterator<Item = &BlockKey> {
        self.blocks.keys()
    }

    /// A block as the metadata store has it. The one way in which blocks come to be, live and in recovery.
    pub fn replay(&mut self, key: BlockKey, block: Option<Block>) {
        let before = match block.filter(|b| !b.slots.is_empty()) {
            Some(block) => {
                self.bytes += block.bytes();
                self.blocks.insert(key, block)
            }
            None => self.blocks.remove(&key),
        };
        self.bytes -= before.as_ref().map_or(0, Block::bytes);
    }

    /// Keeps an offset; returns the block that changed.
    pub fn commit(&mut self, offset: OffsetToCommit, metadata_len_max: usize) -> Result<BlockKey, GroupError> {
        if offset.committed.metadata.len() > metadata_len_max {
            return Err(GroupError::OffsetMetadataTooLarge);
        }
        let (index, slot) = place(offset.partition);
        let key = (offset.topic, index);
        if self.blocks.len() >= BLOCKS_MAX && !self.blocks.contains_key(&key) {
            return Err(GroupError::TooManyOffsets);
        }
        let known = self.blocks.get(&key).filter(|b| b.topic == offset.topic_id).cloned();
        let mut block = known.unwrap_or_else(|| Block { topic: offset.topic_id, slots: BTreeMap::new() });
        block.slots.insert(slot, offset.committed);
        self.replay(key.clone(), Some(block));
        Ok(key)
    }

    /// The offset of a partition of the topic with this name and this id.
    pub fn get(&self, topic: &Arc<str>, id: TopicId, partition: PartitionIndex) -> Option<&Committed> {
        let (index, slot) = place(partition);
        if partition.0 < 0 {
            return None;
        }
        let block = self.blocks.get(&(topic.clone(), index))?;
        (id == block.topic).then(|| block.slots.get(&slot))?
    }

    /// Every offset, in the order of topics and partitions.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<str>, TopicId, PartitionIndex, &Committed)> {
        self.blocks.iter().flat_map(|((topic, index), block)| {
            let first = index.0 * BLOCK_PARTITIONS;
            let slots = block.slots.iter();
            slots.map(move |(slot, c)| (topic, block.topic, PartitionIndex(first + i32::from(*slot)), c))
        })
    }

    /// Topics with offsets; one for each block.
    pub fn topics(&self) -> impl Iterator<Item = (&Arc<str>, TopicId)> {
        self.blocks.iter().map(|((topic, _), block)| (topic, block.topic))
    }

    /// Forgets an offset; returns the block that changed.
    pub fn delete(&mut self, topic: &Arc<str>, partition: PartitionIndex) -> Option<BlockKey> {
        let (index, slot) = place(partition);
        let key = (topic.clone(), index);
        let mut block = self.blocks.get(&key)?.clone();
        block.slots.remove(&slot)?;
        self.replay(key.clone(), Some(block));
        Some(key)
    }

    /// Forgets the offsets that `expired` names; returns the blocks that changed.
    pub fn retain(&mut self, mut expired: impl FnMut(&str, TopicId, &Committed) -> bool) -> Vec<BlockKey> {
        let mut changed = Vec::new();
        for (key, block) in &mut self.blocks {
            let (count, bytes) = (block.slots.len(), block.bytes());
            block.slots.retain(|_, committed| !expired(&key.0, block.topic, committed));
            if block.slots.len() != count {
                self.bytes -= bytes - block.bytes();
                changed.push(key.clone());
            }
        }
        self.blocks.retain(|_, block| !block.slots.is_empty());
        changed
    }

    /// Forgets everything; returns the blocks there were.
    pub fn clear(&mut self) -> Vec<BlockKey> {
        self.bytes = 0;
        std::mem::take(&mut self.blocks).into_keys().collect()
    }
}

/// When offsets expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long offsets are kept that nobody uses, ms.
    pub retention_ms: i64,
}

/// What decides about the offsets of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage<'a> {
    /// It has no members since this wall time.
    EmptySince(WallMs),
    /// It never had members: only its commits count.
    CommitsOnly,
    /// Its members are subscribed to these topics; what they are not subscribed to ages from its commit.
    Subscribed(&'a std::collections::BTreeSet<String>),
    /// It has members whose subscription is not known: nothing expires.
    InUse,
}

impl Retention {
    /// True if an offset of `topic` has expired.
    pub fn is_expired(&self, now_ms: WallMs, usage: Usage<'_>, topic: &str, committed: &Committed) -> bool {
        let base_ms = match usage {
            Usage::InUse => return false,
            Usage::Subscribed(topics) if topics.contains(topic) => return false,
            Usage::EmptySince(since_ms) => since_ms.max(committed.commit_ms),
            Usage::CommitsOnly | Usage::Subscribed(_) => committed.commit_ms,
        };
        match committed.expire_ms {
            Some(expire_ms) => now_ms >= expire_ms,
            None => now_ms - base_ms >= self.retention_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use uuid::Uuid;

    const DAY_MS: i64 = 86_400_000;

    fn id(n: u128) -> TopicId {
        TopicId(Uuid::from_u128(n))
    }

    fn committed(offset: i64, metadata: &str) -> Committed {
        Committed {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch(4),
            metadata: metadata.into(),
            commit_ms: 1_000,
            expire_ms: None,
        }
    }

    fn commit(offsets: &mut Offsets, topic: &str, topic_id: TopicId, partition: i32, offset: i64) -> BlockKey {
        let partition = PartitionIndex(partition);
        let committed = committed(offset, "x");
        offsets.commit(OffsetToCommit { topic: topic.into(), topic_id, partition, committed }, 4096).unwrap()
    }

    #[test]
    fn offsets_with_metadata_and_epoch_come_back() {
        let mut offsets = Offsets::default();
        assert_eq!(commit(&mut offsets, "t", id(1), 63, 5), ("t".into(), BlockIndex(0)));
        assert_eq!(commit(&mut offsets, "t", id(1), 64, 6), ("t".into(), BlockIndex(1)));
        let got = offsets.get(&"t".into(), id(1), PartitionIndex(63)).unwrap();
        assert_eq!((got.offset, got.leader_epoch, got.metadata.as_str()), (Offset(5), LeaderEpoch(4), "x"));
        assert!(offsets.get(&"t".into(), id(1), PartitionIndex(62)).is_none());
        assert!(offsets.get(&"u".into(), id(1), PartitionIndex(63)).is_none());
        let all: Vec<_> = offsets.all().map(|(t, _, p, c)| (t.to_string(), p.0, c.offset.0)).collect();
        assert_eq!(all, [("t".into(), 63, 5), ("t".into(), 64, 6)]);
    }

    #[test]
    fn long_metadata_is_refused() {
        for (len, expected) in [(4096, Ok(())), (4097, Err(GroupError::OffsetMetadataTooLarge))] {
            let committed = committed(1, &"m".repeat(len));
            let offset = OffsetToCommit { topic: "t".into(), topic_id: id(1), partition: PartitionIndex(0), committed };
            assert_eq!(Offsets::default().commit(offset, 4096).map(drop), expected, "{len}");
        }
    }

    #[test]
    fn a_topic_made_again_has_no_offsets() {
        let mut offsets = Offsets::default();
        commit(&mut offsets, "t", id(1), 0, 5);
        commit(&mut offsets, "t", id(1), 1, 5);
        assert!(offsets.get(&"t".into(), id(2), PartitionIndex(0)).is_none());
        commit(&mut offsets, "t", id(2), 0, 7);
        assert!(offsets.get(&"t".into(), id(2), PartitionIndex(1)).is_none(), "not inherited");
        assert_eq!(offsets.get(&"t".into(), id(2), PartitionIndex(0)).unwrap().offset, Offset(7));
    }

    #[test]
    fn deleting_the_last_offset_of_a_block_deletes_the_block() {
        let mut offsets = Offsets::default();
        let key = commit(&mut offsets, "t", id(1), 3, 5);
        commit(&mut offsets, "t", id(1), 4, 5);
        assert_eq!(offsets.delete(&"t".into(), PartitionIndex(3)), Some(key.clone()));
        assert_eq!(offsets.delete(&"t".into(), PartitionIndex(3)), None);
        assert!(offsets.block(&key).is_some());
        assert_eq!(offsets.delete(&"t".into(), PartitionIndex(4)), Some(key.clone()));
        assert!(offsets.block(&key).is_none() && offsets.is_empty());
    }

    #[test]
    fn when_offsets_expire() {
        let retention = Retention { retention_ms: 7 * DAY_MS };
        let subscribed = BTreeSet::from(["t".to_owned()]);
        let at = |days: i64| 1_000 + days * DAY_MS;
        let table = [
            (Usage::EmptySince(at(3)), None, at(10) - 1, false), // since it became empty, not since the commit
            (Usage::EmptySince(at(3)), None, at(10), true),
            (Usage::EmptySince(0), None, at(7) - 1, false), // committed by an admin after it became empty
            (Usage::EmptySince(0), None, at(7), true),
            (Usage::CommitsOnly, None, at(7) - 1, false),
            (Usage::CommitsOnly, None, at(7), true),
            (Usage::Subscribed(&subscribed), None, at(99), false),
            (Usage::InUse, None, at(99), false),
            (Usage::InUse, Some(at(1)), at(99), false),
            (Usage::CommitsOnly, Some(at(1)), at(1) - 1, false), // the client's own retention time
            (Usage::CommitsOnly, Some(at(1)), at(1), true),
        ];
        for (usage, expire_ms, now_ms, expected) in table {
            let committed = Committed { expire_ms, ..committed(1, "") };
            assert_eq!(retention.is_expired(now_ms, usage, "t", &committed), expected, "{usage:?} {expire_ms:?}");
        }
        let other = Usage::Subscribed(&subscribed);
        assert!(retention.is_expired(at(7), other, "no longer subscribed", &committed(1, "")));
    }

    #[test]
    fn retain_reports_what_changed() {
        let mut offsets = Offsets::default();
        let kept = commit(&mut offsets, "a", id(1), 0, 1);
        let gone = commit(&mut offsets, "b", id(2), 0, 1);
        assert_eq!(offsets.retain(|topic, _, _| topic == "b"), std::slice::from_ref(&gone));
        assert!(offsets.block(&kept).is_some() && offsets.block(&gone).is_none());
        assert_eq!(offsets.bytes(), SLOT_BYTES + 1);
        commit(&mut offsets, "a", id(1), 0, 2);
        assert_eq!(offsets.bytes(), SLOT_BYTES + 1, "in place of the former");
        assert_eq!(offsets.clear(), [kept]);
        assert!(offsets.is_empty() && offsets.bytes() == 0);
    }
}
