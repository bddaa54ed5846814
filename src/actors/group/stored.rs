//! What the metadata store has of groups: reading it with a claim, and writing it under one. No state; the futures run on the
//! I/O pool.

use super::limits::{Loaded, shard_of};
use super::offsets::BlockIndex;
use super::value::{self, StoredGroup};
use super::writes::{GroupId, Part, WriteKey};
use crate::ids::TopicId;
use crate::metadata::coordination::{ClaimError, ClaimLost, Coordination, ShardClaim};
use crate::metadata::keys::{Keys, ParsedKey};
use crate::metadata::model::{self, TopicValue};
use crate::metadata::{Entry, MetadataStore, Op};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is stored of the groups of some shards.
#[derive(Default)]
pub(super) struct Stored {
    /// By group.
    pub groups: BTreeMap<GroupId, Vec<Loaded>>,
    /// Of these something cannot be read.
    pub damaged: BTreeSet<GroupId>,
}

/// Claims shards, and then reads their groups.
pub(super) async fn claim(
    coordination: &Coordination,
    wanted: &BTreeSet<u32>,
) -> Result<(ShardClaim, Stored), ClaimError> {
    let claim = coordination.claim(wanted).await?;
    let shards = claim.shards();
    let mut stored = Stored::default();
    if shards.is_empty() {
        return Ok((claim, stored));
    }
    for entry in coordination.groups().await? {
        let Some(group) = group_of(coordination.keys(), &entry.key).filter(|g| shards.contains(&shard_of(g))) else {
            continue;
        };
        match read(coordination.keys(), &entry) {
            Ok(loaded) => stored.groups.entry(group).or_default().extend(loaded),
            Err(message) => {
                let hint = "the group is not served; restore the key, or delete all keys of the group";
                tracing::error!(key = entry.key, message, "{hint}");
                stored.damaged.insert(group);
            }
        }
    }
    Ok((claim, stored))
}

/// Reads one group.
pub(super) async fn group(coordination: &Coordination, id: &GroupId) -> Result<Vec<Loaded>, String> {
    let mut stored = Vec::new();
    for entry in coordination.group(id).await.map_err(|e| e.to_string())? {
        stored.extend(read(coordination.keys(), &entry)?);
    }
    Ok(stored)
}

/// Writes a batch under `claim`. Returns the claim as it is then.
pub(super) async fn write(
    coordination: &Coordination,
    mut claim: ShardClaim,
    batch: Vec<(WriteKey, Option<Bytes>)>,
) -> Result<ShardClaim, ClaimLost> {
    let keys = coordination.keys();
    let touched: BTreeSet<u32> = batch.iter().map(|(key, _)| shard_of(&key.group)).collect();
    let op = |(key, value): (WriteKey, Option<Bytes>)| {
        let name = match &key.part {
            Part::State => keys.group(&key.group),
            Part::Offsets((topic, block)) => keys.group_offsets(&key.group, topic, block.0),
        };
        match value {
            Some(value) => Op::Put(name, value, None),
            None => Op::Delete(name),
        }
    };
    let ops = batch.into_iter().map(op).collect();
    coordination.write(&mut claim, &touched, ops).await.map(|()| claim)
}

/// Gives shards away. Returns what is left of the claim.
pub(super) async fn release(
    coordination: &Coordination,
    mut claim: ShardClaim,
    going: &BTreeSet<u32>,
) -> Result<ShardClaim, ClaimLost> {
    coordination.release(&mut claim, going).await.map(|()| claim)
}

/// Those of `missing` that the store does not have either, or has under another id.
pub(super) async fn topics_gone(
    metadata: &dyn MetadataStore,
    keys: &Keys,
    missing: BTreeSet<(Arc<str>, TopicId)>,
) -> BTreeSet<TopicId> {
    let mut gone = BTreeSet::new();
    for (name, id) in missing {
        let found = metadata.get(&keys.topic(&name)).await;
        let other = |entry: &Entry| model::decode::<TopicValue>(entry).is_ok_and(|topic| topic.id != id);
        if found.is_ok_and(|entry| entry.as_ref().is_none_or(other)) {
            gone.insert(id);
        }
    }
    gone
}

fn group_of(keys: &Keys, key: &str) -> Option<GroupId> {
    match keys.parse(key) {
        Some(ParsedKey::Group(group) | ParsedKey::GroupOffsets(group, ..)) => Some(group.into()),
        _ => None,
    }
}

fn read(keys: &Keys, entry: &Entry) -> Result<Option<Loaded>, String> {
    Ok(match keys.parse(&entry.key) {
        Some(ParsedKey::Group(_)) => Some(match value::decode_stored(&entry.value)? {
            StoredGroup::Classic(value) => Loaded::Group(value),
            StoredGroup::Consumer(value) => Loaded::Consumer(value),
        }),
        Some(ParsedKey::GroupOffsets(_, topic, block)) => {
            Some(Loaded::Block((topic.into(), BlockIndex(block)), value::decode_block(&entry.value)?))
        }
        _ => None,
    })
}
