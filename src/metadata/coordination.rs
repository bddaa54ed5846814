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
use super::model::{self, CounterValue, ShardValue, WriterState, WriterValue};
use super::ownership::Registration;
use super::{Compare, Entry, MetadataError, MetadataStore, Op, Revision, Txn, TxnOutcome};
use crate::ids::{LeaderEpoch, WriterId};
use crate::rng;
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
#[derive(Debug, Clone)]
pub struct ShardClaim {
    /// Claimed shards.
    pub shards: BTreeSet<u32>,
    /// Revision of the claim of all of them.
    revision: Revision,
    /// Number and revision of the last write.
    last_write: (u64, Revision),
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
    writer: WriterId,
    fence_revision: Revision,
}

impl Coordination {
    /// Coordination on behalf of a registered writer.
    pub fn new(store: Arc<dyn MetadataStore>, keys: Keys, registration: &Registration) -> Self {
        Self { store, keys, writer: registration.writer, fence_revision: registration.fence_revision }
    }

    /// The keys of the cluster.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    fn fence(&self) -> Compare {
        Compare::CreateRevision(self.keys.fence(self.writer), self.fence_revision)
    }

    /// Claims every one of the `count` shards that nobody or a sealed writer owns, or that this writer owns already.
    pub async fn claim(&self, count: u32) -> Result<ShardClaim, ClaimError> {
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let (txn, shards, seq) = self.plan_claim(count).await?;
            match self.store.txn(txn).await? {
                TxnOutcome::Committed(revision) => {
                    return Ok(ShardClaim { shards, revision, last_write: (seq, revision) });
                }
                TxnOutcome::Rejected(_) => self.check_fence().await?,
            }
        }
        let message = "coordinator shards changed hands while they were being claimed; start again".to_owned();
        Err(MetadataError::Unavailable { message }.into())
    }

    async fn plan_claim(&self, count: u32) -> Result<(Txn, BTreeSet<u32>, u64), MetadataError> {
        let stored = self.shards().await?;
        let marker = self.keys.group_writes(self.writer);
        let (seq, marker_revision) = self.marker(&marker).await?.unwrap_or((0, 0));
        let mut txn = Txn { compares: vec![self.fence()], ops: Vec::new() };
        let (mut shards, mut former) = (BTreeSet::new(), BTreeSet::new());
        for shard in 0..count {
            let found = stored.get(&shard);
            let owner = found.and_then(|(v, _)| v.owner);
            if !self.may_take(owner).await? {
                continue;
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

    async fn may_take(&self, owner: Option<WriterId>) -> Result<bool, MetadataError> {
        let Some(owner) = owner.filter(|owner| *owner != self.writer) else { return Ok(true) };
        let Some(entry) = self.store.get(&self.keys.writer(owner)).await? else { return Ok(true) };
        Ok(model::decode::<WriterValue>(&entry)?.state != WriterState::Active)
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

    /// Everything stored of groups, after a claim: no transaction of before can change it any more.
    pub async fn groups(&self) -> Result<Vec<Entry>, MetadataError> {
        Ok(self.store.get_prefix(&self.keys.groups()).await?.0)
    }

    /// Writes `ops`, keys of groups on `touched` shards. Returns when they are durable, however long the store takes.
    pub async fn write(&self, claim: &mut ShardClaim, touched: &BTreeSet<u32>, ops: Vec<Op>) -> Result<(), ClaimLost> {
        let marker = self.keys.group_writes(self.writer);
        let (seq, revision) = claim.last_write;
        let mut txn = Txn { compares: vec![self.fence()], ops };
        txn.compares.extend(touched.iter().map(|s| Compare::ModRevision(self.keys.shard(*s), claim.revision)));
        txn.compares.push(Compare::ModRevision(marker.clone(), revision));
        txn.ops.push(Op::Put(marker.clone(), encode_marker(seq + 1), None));
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
