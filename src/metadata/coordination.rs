//! Coordinator shards: who owns them, what is stored of their groups, and the fenced writes of their owner.
//!
//! A shard is `c/{shard}`, claimed like a partition: `IF mod(c) == r AND create(f/me) == C THEN c = {owner me, epoch + 1}`,
//! only from nobody or from a sealed writer. Everything of a group is written by
//!
//! ```text
//! IF create(f/me) == C AND mod(c/{each shard touched}) == claim AND mod(_gw/me) == r THEN _gw/me = {seq + 1}, puts, deletes
//! ```
//!
//! - The claim's revision fences: whoever claims the shard again, a successor or this process after a failure, makes every
//!   transaction of before fail, also one that is still on its way.
//! - `_gw/{writer}` tells an answer that was lost: its number says which transaction was the last. And it makes a
//!   transaction that arrives late, after it was sent again, fail instead of bringing old values back.

use super::keys::{Keys, ParsedKey};
use super::model::{self, CounterValue, ShardValue};
use super::ownership::{Ownership, OwnershipError, Registration};
use super::{Compare, Entry, MetadataError, MetadataStore, Op, Revision, Txn, TxnOutcome};
use crate::ids::{LeaderEpoch, WriterId};
use crate::rng;
use crate::sabotage::{self, Sabotage};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const BACKOFF_MS_MIN: u64 = 50;
const BACKOFF_MS_MAX: u64 = 2_000;
/// Attempts at a claim that others' changes prevented.
const CLAIM_ATTEMPTS_MAX: u32 = 10;

/// A claim counts further than a write, so that a write of before the claim, sent again, does not take it for itself.
const CLAIM_STEP: u64 = 2;

/// The shards of this process and where its writes stand.
#[derive(Debug, Clone, Default)]
pub struct ShardClaim {
    /// Claimed shards, with the revisions of their claims.
    shards: BTreeMap<u32, Revision>,
    /// Number and revision of the last write or claim.
    last_write: (u64, Revision),
}

impl ShardClaim {
    /// Claimed shards.
    pub fn shards(&self) -> BTreeSet<u32> {
        self.shards.keys().copied().collect()
    }

    /// Adds a later claim of the same process.
    pub fn extend(&mut self, later: Self) {
        self.shards.extend(later.shards);
        self.last_write = later.last_write;
    }
}

/// The claim is lost: another process owns the shards, or this one has claimed them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator shards were claimed again; what was not written yet is dropped")]
pub struct ClaimLost;

/// Why shards could not be claimed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClaimError {
    /// Somebody sealed this writer: it can claim nothing more.
    #[error("writer {0} was sealed: another process took over its broker")]
    Fenced(WriterId),
    /// The store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Coordination {
    store: Arc<dyn MetadataStore>,
    keys: Keys,
    ownership: Ownership,
    writer: WriterId,
    fence_revision: Revision,
}

impl Coordination {
    /// Coordination on behalf of a registered writer.
    pub fn new(store: Arc<dyn MetadataStore>, keys: Keys, registration: &Registration) -> Self {
        let ownership = Ownership::new(store.clone(), keys.clone());
        Self { store, keys, ownership, writer: registration.writer, fence_revision: registration.fence_revision }
    }

    /// On whose behalf.
    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// The keys of the cluster.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    fn fence(&self) -> Compare {
        Compare::CreateRevision(self.keys.fence(self.writer), self.fence_revision)
    }

    /// Claims every one of `wanted` that nobody or a dead writer owns, or that this writer owns already. No write of this
    /// process may be under way: it would fail.
    pub async fn claim(&self, wanted: &BTreeSet<u32>) -> Result<ShardClaim, ClaimError> {
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let (txn, shards, seq) = self.plan_claim(wanted).await?;
            match self.store.txn(txn).await? {
                TxnOutcome::Committed(revision) => {
                    let shards = shards.into_iter().map(|shard| (shard, revision)).collect();
                    return Ok(ShardClaim { shards, last_write: (seq, revision) });
                }
                TxnOutcome::Rejected(_) => self.check_fence().await?,
            }
        }
        let message = "coordinator shards changed hands while they were being claimed; start again".to_owned();
        Err(MetadataError::Unavailable { message }.into())
    }

    async fn plan_claim(&self, wanted: &BTreeSet<u32>) -> Result<(Txn, BTreeSet<u32>, u64), ClaimError> {
        let stored = self.shards().await?;
        let marker = self.keys.group_writes(self.writer);
        let (seq, marker_revision) = self.marker(&marker).await?.unwrap_or((0, 0));
        let mut txn = Txn { compares: vec![self.fence()], ops: Vec::new() };
        let (mut shards, mut former) = (BTreeSet::new(), BTreeSet::new());
        // Asked once for each owner: a dead broker had many shards, and clients wait.
        let mut free: BTreeMap<WriterId, bool> = BTreeMap::new();
        for &shard in wanted {
            let found = stored.get(&shard);
            let owner = found.and_then(|(v, _)| v.owner);
            if let Some(owner) = owner.filter(|owner| *owner != self.writer) {
                let is_free = match free.get(&owner) {
                    Some(known) => *known,
                    None => self.may_take_from(owner).await?,
                };
                free.insert(owner, is_free);
                if !is_free {
                    continue;
                }
            }
            former.extend(owner.filter(|owner| *owner != self.writer));
            let epoch = LeaderEpoch(found.map_or(0, |(v, _)| v.epoch.0 + 1));
            let value = ShardValue { v: model::FORMAT, owner: Some(self.writer), epoch };
            let key = self.keys.shard(shard);
            txn.compares.push(Compare::ModRevision(key.clone(), found.map_or(0, |(_, r)| *r)));
            txn.ops.push(Op::Put(key, model::encode(&value), None));
            shards.insert(shard);
        }
        txn.compares.push(Compare::ModRevision(marker.clone(), marker_revision));
        txn.ops.push(Op::Put(marker, encode_marker(seq + CLAIM_STEP), None));
        let rest = super::TXN_OPS_MAX - txn.ops.len();
        txn.ops.extend(former.into_iter().take(rest).map(|writer| Op::Delete(self.keys.group_writes(writer))));
        Ok((txn, shards, seq + CLAIM_STEP))
    }

    async fn shards(&self) -> Result<BTreeMap<u32, (ShardValue, Revision)>, MetadataError> {
        let (entries, _) = self.store.get_prefix(&self.keys.shards()).await?;
        let mut shards = BTreeMap::new();
        for entry in &entries {
            if let Some(ParsedKey::Shard(shard)) = self.keys.parse(&entry.key) {
                shards.insert(shard, (model::decode(entry)?, entry.mod_revision));
            }
        }
        Ok(shards)
    }

    async fn may_take_from(&self, owner: WriterId) -> Result<bool, ClaimError> {
        let unavailable = |e: OwnershipError| match e {
            OwnershipError::Metadata(error) => error,
            fenced @ OwnershipError::Fenced { .. } => MetadataError::Unavailable { message: fenced.to_string() },
        };
        if self.ownership.writer(owner).await.map_err(unavailable)?.is_none() {
            return Ok(true);
        }
        Ok(self.ownership.seal(owner, false).await.map_err(unavailable)?.is_some())
    }

    /// Gives shards away, all of whose groups are written. Returns when that is durable, however long the store takes.
    pub async fn release(&self, claim: &mut ShardClaim, shards: &BTreeSet<u32>) -> Result<(), ClaimLost> {
        let mut backoff_ms = BACKOFF_MS_MIN;
        loop {
            match self.try_release(claim, shards).await {
                Ok(TxnOutcome::Committed(_)) => {
                    claim.shards.retain(|shard, _| !shards.contains(shard));
                    return Ok(());
                }
                // Perhaps by an earlier attempt whose answer was lost; claiming again finds out.
                Ok(TxnOutcome::Rejected(_)) => return Err(ClaimLost),
                Err(error) => {
                    tracing::warn!(%error, "coordinator shards could not be given away; trying again");
                    tokio::time::sleep(Duration::from_millis(rng::jitter_ms(backoff_ms))).await;
                    backoff_ms = (backoff_ms * 2).min(BACKOFF_MS_MAX);
                }
            }
        }
    }

    async fn try_release(&self, claim: &ShardClaim, shards: &BTreeSet<u32>) -> Result<TxnOutcome, MetadataError> {
        let stored = self.shards().await?;
        let mut txn = Txn { compares: vec![self.fence()], ops: Vec::new() };
        for (shard, revision) in claim.shards.iter().filter(|(shard, _)| shards.contains(shard)) {
            let epoch = stored.get(shard).map_or(LeaderEpoch(0), |(v, _)| v.epoch);
            let value = ShardValue { v: model::FORMAT, owner: None, epoch };
            txn.compares.push(Compare::ModRevision(self.keys.shard(*shard), *revision));
            txn.ops.push(Op::Put(self.keys.shard(*shard), model::encode(&value), None));
        }
        self.store.txn(txn).await
    }

    /// Fails if this writer was sealed.
    async fn check_fence(&self) -> Result<(), ClaimError> {
        let entry = self.store.get(&self.keys.fence(self.writer)).await?;
        if entry.is_some_and(|e| e.create_revision == self.fence_revision) {
            return Ok(());
        }
        Err(ClaimError::Fenced(self.writer))
    }

    async fn marker(&self, key: &str) -> Result<Option<(u64, Revision)>, MetadataError> {
        let Some(entry) = self.store.get(key).await? else { return Ok(None) };
        Ok(Some((model::decode::<CounterValue>(&entry)?.next, entry.mod_revision)))
    }

    /// Everything stored of one group.
    pub async fn group(&self, group: &str) -> Result<Vec<Entry>, MetadataError> {
        let state = self.store.get(&self.keys.group(group)).await?;
        let mut entries = self.store.get_prefix(&self.keys.offsets_of(group)).await?.0;
        entries.extend(state);
        Ok(entries)
    }

    /// Everything stored of groups, after a claim: no transaction of before can change it any more.
    pub async fn groups(&self) -> Result<Vec<Entry>, MetadataError> {
        Ok(self.store.get_prefix(&self.keys.groups()).await?.0)
    }

    /// Writes `ops`, keys of groups on `touched` shards. Returns when they are durable, however long the store takes.
    pub async fn write(&self, claim: &mut ShardClaim, touched: &BTreeSet<u32>, ops: Vec<Op>) -> Result<(), ClaimLost> {
        let marker = self.keys.group_writes(self.writer);
        let (seq, revision) = claim.last_write;
        let mut txn = Txn { compares: vec![self.fence()], ops };
        // A shard that is not claimed has a revision that no key can have.
        let revision_of = |shard: &u32| claim.shards.get(shard).copied().unwrap_or(Revision::MAX);
        txn.compares.extend(touched.iter().map(|s| Compare::ModRevision(self.keys.shard(*s), revision_of(s))));
        txn.compares.push(Compare::ModRevision(marker.clone(), revision));
        txn.ops.push(Op::Put(marker.clone(), encode_marker(seq + 1), None));
        let txn = sabotage::fenced(Sabotage::WriteGroupsUnfenced, txn);
        let mut backoff_ms = BACKOFF_MS_MIN;
        loop {
            let resolved = match self.store.txn(txn.clone()).await {
                Ok(TxnOutcome::Committed(revision)) => Ok(Some((seq + 1, revision))),
                // Perhaps by an earlier attempt whose answer was lost.
                Ok(TxnOutcome::Rejected(_)) => self.marker(&marker).await,
                Err(error) => Err(error),
            };
            match resolved {
                Ok(Some(found)) if found.0 == seq + 1 => {
                    claim.last_write = found;
                    return Ok(());
                }
                Ok(_) => return Err(ClaimLost),
                Err(error) => {
                    tracing::warn!(%error, "group state could not be written; trying again");
                    tokio::time::sleep(Duration::from_millis(rng::jitter_ms(backoff_ms))).await;
                    backoff_ms = (backoff_ms * 2).min(BACKOFF_MS_MAX);
                }
            }
        }
    }
}

fn encode_marker(seq: u64) -> Bytes {
    model::encode(&CounterValue { v: model::FORMAT, next: seq })
}

#[cfg(test)]
#[path = "coordination_tests.rs"]
mod tests;
