//! Who may write: registering a writer, sealing a dead one, claiming partitions, committing a head.
//!
//! The ordering rules live here, in one place (`docs/storage.md`, "Ownership"):
//!
//! - A writer is `w/{id}` (head and fence in one key) plus `f/{id}` (its right to claim) plus `live/{id}` (a lease).
//! - *Commit*: `IF mod(w/me) == r AND create(f/me) == C THEN put w/me {head}`. Only our own last revision can be `r`; once
//!   anybody else wrote the key, this writer commits nothing more. The fence is there for metadata stores that were rebuilt,
//!   whose revisions can repeat: a rebuilt store has no fence of an old writer.
//! - *Seal*: `IF mod(w/X) == r [AND live/X absent] THEN w/X = FENCED, delete f/X`. The head read at `r` is final.
//! - *Claim*: `IF mod(p) == r AND create(f/me) == C THEN p = {owner me, epoch + 1}`, only from nobody or a sealed
//!   writer. A watch event or an image never grants anything.

use super::keys::Keys;
use super::model::{self, CheckpointRef, LiveValue, PartitionValue, WriterState, WriterValue};
use super::{Compare, Entry, LeaseId, MetadataError, MetadataStore, Op, Revision, Txn, TxnOutcome};
use crate::ids::{BrokerId, LeaderEpoch, Offset, PartitionKey, Seq, TopicId, WriterId};
use crate::sabotage::{self, Sabotage};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Partitions claimed in one transaction: two operations each (compare and put), below etcd's 128.
pub const CLAIMS_PER_TXN: usize = 60;

/// More partitions than this are read by one request for all there are.
const READ_ONE_BY_ONE_MAX: usize = 100;
/// Requests for partitions at the same time.
const GETS_IN_FLIGHT_MAX: usize = 16;

/// A partition's ownership with the revision it was read at.
pub type StoredPartition = (PartitionValue, Revision);

/// Why ownership could not be changed or kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OwnershipError {
    /// Somebody sealed this writer: it can commit nothing more.
    #[error("writer {writer} was sealed at head {head}: another process took over broker {node}")]
    Fenced {
        /// This writer.
        writer: WriterId,
        /// Its final head.
        head: Seq,
        /// Its broker.
        node: BrokerId,
    },
    /// The store failed; see `MetadataError` for whether the outcome is known.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// A registered writer and what it needs to prove itself.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its id.
    pub writer: WriterId,
    /// Its random identity.
    pub nonce: u64,
    /// Revision at which `f/{writer}` was created; claims compare it.
    pub fence_revision: Revision,
    /// The lease behind `live/{writer}`.
    pub lease: LeaseId,
    /// `w/{writer}` as written last, with its revision.
    pub value: WriterValue,
    /// Revision of `w/{writer}`.
    pub revision: Revision,
}

/// Ownership calls on one cluster.
#[derive(Debug, Clone)]
pub struct Ownership {
    store: Arc<dyn MetadataStore>,
    keys: Keys,
}

impl Ownership {
    /// Ownership below `keys`.
    pub fn new(store: Arc<dyn MetadataStore>, keys: Keys) -> Self {
        Self { store, keys }
    }

    /// Registers `writer` as active at head 0. Any error means "start over with a new writer id".
    pub async fn register(
        &self,
        writer: WriterId,
        nonce: u64,
        live: &LiveValue,
        lease_ttl: Duration,
    ) -> Result<Registration, OwnershipError> {
        let lease = self.store.lease_grant(lease_ttl).await?;
        let value = WriterValue {
            v: model::FORMAT,
            node: live.node,
            state: WriterState::Active,
            head: Seq(0),
            nonce,
            checkpoint: None,
        };
        let txn = Txn {
            compares: vec![
                Compare::ModRevision(self.keys.writer(writer), 0),
                Compare::ModRevision(self.keys.recovering(), 0),
            ],
            ops: vec![
                Op::Put(self.keys.writer(writer), model::encode(&value), None),
                Op::Put(self.keys.fence(writer), bytes::Bytes::new(), None),
                Op::Put(self.keys.live(writer), model::encode(live), Some(lease)),
            ],
        };
        match self.store.txn(txn).await? {
            TxnOutcome::Committed(revision) => {
                Ok(Registration { writer, nonce, fence_revision: revision, lease, value, revision })
            }
            TxnOutcome::Rejected(_) if self.store.get(&self.keys.recovering()).await?.is_some() => {
                let message = "`kafscale recover --write` is under way or was interrupted: let it finish, or run it \
                               again"
                    .to_owned();
                Err(MetadataError::Refused { message }.into())
            }
            TxnOutcome::Rejected(_) => {
                Err(MetadataError::WentBack { message: format!("writer id {writer} exists already") }.into())
            }
        }
    }

    /// All writers that are not closed.
    pub async fn writers(&self) -> Result<BTreeMap<WriterId, (WriterValue, Revision)>, OwnershipError> {
        let (entries, _) = self.store.get_prefix(&self.keys.writers()).await?;
        let mut writers = BTreeMap::new();
        for entry in &entries {
            if let Some(super::keys::ParsedKey::Writer(id)) = self.keys.parse(&entry.key) {
                writers.insert(id, (model::decode::<WriterValue>(entry)?, entry.mod_revision));
            }
        }
        Ok(writers)
    }

    /// A writer's value now.
    pub async fn writer(&self, writer: WriterId) -> Result<Option<(WriterValue, Revision)>, OwnershipError> {
        let Some(entry) = self.store.get(&self.keys.writer(writer)).await? else { return Ok(None) };
        Ok(Some((model::decode(&entry)?, entry.mod_revision)))
    }

    /// True while the writer's lease lives.
    pub async fn is_live(&self, writer: WriterId) -> Result<bool, OwnershipError> {
        Ok(self.store.get(&self.keys.live(writer)).await?.is_some())
    }

    /// Seals `writer`. With `even_if_live` the lease is ignored (a newer process of the same broker takes over);
    /// otherwise a live writer is left alone and `None` is returned. Returns the final value.
    pub async fn seal(&self, writer: WriterId, even_if_live: bool) -> Result<Option<WriterValue>, OwnershipError> {
        loop {
            let Some((value, revision)) = self.writer(writer).await? else { return Ok(None) };
            if value.state != WriterState::Active {
                return Ok(Some(value));
            }
            let sealed = WriterValue { state: WriterState::Fenced, ..value };
            let mut txn = Txn {
                compares: vec![Compare::ModRevision(self.keys.writer(writer), revision)],
                ops: vec![
                    Op::Put(self.keys.writer(writer), model::encode(&sealed), None),
                    Op::Delete(self.keys.fence(writer)),
                ],
            };
            if even_if_live {
                txn.ops.push(Op::Delete(self.keys.live(writer)));
            } else {
                txn.compares.push(Compare::ModRevision(self.keys.live(writer), 0));
                if self.is_live(writer).await? {
                    return Ok(None);
                }
            }
            if let TxnOutcome::Committed(_) = self.store.txn(txn).await? {
                return Ok(Some(sealed));
            } // else it committed once more or renewed its lease meanwhile: look again
        }
    }

    /// Moves the head and, if given, the checkpoint. On an unknown outcome call [`Self::resolve_commit`].
    pub async fn commit(
        &self,
        registration: &Registration,
        head: Seq,
        checkpoint: Option<&CheckpointRef>,
    ) -> Result<(WriterValue, Revision), OwnershipError> {
        let mut value = registration.value.clone();
        assert!(head >= value.head, "the head never goes back");
        value.head = head;
        if let Some(checkpoint) = checkpoint {
            value.checkpoint = Some(checkpoint.clone());
        }
        let key = self.keys.writer(registration.writer);
        let txn = Txn {
            compares: vec![
                Compare::ModRevision(key.clone(), registration.revision),
                Compare::CreateRevision(self.keys.fence(registration.writer), registration.fence_revision),
            ],
            ops: vec![Op::Put(key, model::encode(&value), None)],
        };
        match self.store.txn(sabotage::fenced(Sabotage::CommitUnfenced, txn)).await? {
            TxnOutcome::Committed(revision) => Ok((value, revision)),
            TxnOutcome::Rejected(_) => self.resolve_commit(registration, &value).await?.ok_or_else(|| {
                MetadataError::Unavailable { message: "the head moved without this writer; reading again".into() }
                    .into()
            }),
        }
    }

    /// After an unknown or rejected commit: `Some` if `wanted` is what the store holds (it was applied), `None` if
    /// nothing was applied and the commit may be tried again, `Fenced` if this writer is sealed. A sealed head that
    /// covers `wanted.head` still means that the slot is committed; the error carries the head, or 0 where it means nothing.
    pub async fn resolve_commit(
        &self,
        registration: &Registration,
        wanted: &WriterValue,
    ) -> Result<Option<(WriterValue, Revision)>, OwnershipError> {
        let found = self.writer(registration.writer).await?;
        let (writer, node) = (registration.writer, registration.value.node);
        let Some((value, revision)) = found else {
            return Err(OwnershipError::Fenced { writer, head: Seq(0), node });
        };
        if value.nonce != registration.nonce || value.state != WriterState::Active {
            return Err(OwnershipError::Fenced { writer, head: committed_head(&value, registration), node });
        }
        if revision < registration.revision {
            let written = registration.revision;
            let message = format!("writer {writer} committed at revision {written}, the store says {revision}");
            return Err(MetadataError::WentBack { message }.into());
        }
        Ok((value == *wanted).then_some((value, revision)))
    }

    /// Forgets sealed writers that no partition needs any more.
    pub async fn forget_writers(&self, writers: &[WriterId]) -> Result<(), OwnershipError> {
        for chunk in writers.chunks(CLAIMS_PER_TXN) {
            let ops = chunk.iter().map(|w| Op::Delete(self.keys.writer(*w))).collect();
            self.store.txn(Txn { compares: Vec::new(), ops }).await?;
        }
        Ok(())
    }

    /// Partitions' ownership as stored now, those never claimed left out.
    pub async fn partitions(&self) -> Result<BTreeMap<PartitionKey, StoredPartition>, OwnershipError> {
        let (entries, _) = self.store.get_prefix(&self.keys.partitions()).await?;
        entries.iter().filter_map(|e| self.decode_partition(e).transpose()).collect()
    }

    /// The same of one topic.
    pub async fn partitions_of(
        &self,
        topic: TopicId,
    ) -> Result<BTreeMap<PartitionKey, StoredPartition>, OwnershipError> {
        let (entries, _) = self.store.get_prefix(&self.keys.partitions_of(topic)).await?;
        entries.iter().filter_map(|e| self.decode_partition(e).transpose()).collect()
    }

    fn decode_partition(&self, entry: &Entry) -> Result<Option<(PartitionKey, StoredPartition)>, OwnershipError> {
        match self.keys.parse(&entry.key) {
            Some(super::keys::ParsedKey::Partition(key)) => {
                Ok(Some((key, (model::decode(entry)?, entry.mod_revision))))
            }
            _ => Ok(None),
        }
    }

    /// Claims up to [`CLAIMS_PER_TXN`] partitions in one transaction; each is given with its value and revision as
    /// read (`None`: never claimed). Every previous owner must be sealed or have released it, and this writer's committed
    /// checkpoint must have all there is of each: from now on a successor asks nobody else. Returns the new values, or
    /// `None` if something changed meanwhile (read again).
    pub async fn claim(
        &self,
        registration: &Registration,
        partitions: &[(PartitionKey, Option<StoredPartition>)],
    ) -> Result<Option<Vec<(PartitionKey, PartitionValue)>>, OwnershipError> {
        assert!(partitions.len() <= CLAIMS_PER_TXN);
        let me = registration.writer;
        let fence = Compare::CreateRevision(self.keys.fence(me), registration.fence_revision);
        let mut txn = Txn { compares: vec![fence], ops: Vec::new() };
        let mut claimed = Vec::with_capacity(partitions.len());
        for (key, found) in partitions {
            let (epoch, log_start, revision) = match found {
                Some((v, revision)) => (LeaderEpoch(v.epoch.0 + 1), v.log_start, *revision),
                None => (LeaderEpoch(0), Offset(0), 0),
            };
            let value = PartitionValue { v: model::FORMAT, owner: Some(me), epoch, history: vec![me], log_start };
            let stored = self.keys.partition(key);
            txn.compares.push(Compare::ModRevision(stored.clone(), revision));
            txn.ops.push(Op::Put(stored, model::encode(&value), None));
            claimed.push((*key, value));
        }
        match self.store.txn(sabotage::fenced(Sabotage::ClaimUnfenced, txn)).await? {
            TxnOutcome::Committed(_) => Ok(Some(claimed)),
            TxnOutcome::Rejected(_) => Ok(None),
        }
    }

    /// Gives up to [`CLAIMS_PER_TXN`] owned partitions away: whoever claims them next finds all there is of them in this
    /// writer's checkpoint and WAL. Nothing of them may be in flight, and nothing may be appended any more. Returns those
    /// that are free now; the others are not this writer's any more.
    pub async fn release(
        &self,
        registration: &Registration,
        partitions: &[PartitionKey],
    ) -> Result<Vec<PartitionKey>, OwnershipError> {
        assert!(partitions.len() <= CLAIMS_PER_TXN);
        let me = registration.writer;
        loop {
            let fence = Compare::CreateRevision(self.keys.fence(me), registration.fence_revision);
            let mut txn = Txn { compares: vec![fence], ops: Vec::new() };
            let mut free = Vec::new();
            for (key, (value, revision)) in self.read(partitions).await? {
                let stored = self.keys.partition(&key);
                match value.owner {
                    None if value.history == [me] => free.push(key), // by an attempt whose answer was lost
                    Some(owner) if owner == me => {
                        free.push(key);
                        let released = PartitionValue { owner: None, history: vec![me], ..value };
                        txn.compares.push(Compare::ModRevision(stored.clone(), revision));
                        txn.ops.push(Op::Put(stored, model::encode(&released), None));
                    }
                    _ => {}
                }
            }
            if txn.ops.is_empty() {
                return Ok(free);
            }
            if let TxnOutcome::Committed(_) = self.store.txn(txn).await? {
                return Ok(free);
            }
            self.check_fence(registration).await?; // else a log start was raised meanwhile: look again
        }
    }

    /// Fails if this writer was sealed.
    async fn check_fence(&self, registration: &Registration) -> Result<(), OwnershipError> {
        let writer = registration.writer;
        let entry = self.store.get(&self.keys.fence(writer)).await?;
        if entry.is_some_and(|e| e.create_revision == registration.fence_revision) {
            return Ok(());
        }
        let head = self.writer(writer).await?.map_or(Seq(0), |(value, _)| committed_head(&value, registration));
        Err(OwnershipError::Fenced { writer, head, node: registration.value.node })
    }

    /// The ownership of `keys` now, those never claimed left out.
    pub async fn partitions_among(
        &self,
        keys: &[PartitionKey],
    ) -> Result<BTreeMap<PartitionKey, StoredPartition>, OwnershipError> {
        if keys.len() > READ_ONE_BY_ONE_MAX {
            let wanted: HashSet<&PartitionKey> = keys.iter().collect();
            let mut all = self.partitions().await?;
            all.retain(|key, _| wanted.contains(key));
            return Ok(all);
        }
        self.read(keys).await
    }

    /// The same by a request for each, several at a time.
    async fn read(&self, keys: &[PartitionKey]) -> Result<BTreeMap<PartitionKey, StoredPartition>, OwnershipError> {
        let gets = keys.iter().map(|key| {
            let (store, stored, key) = (self.store.clone(), self.keys.partition(key), *key);
            async move { Ok::<_, MetadataError>((key, store.get(&stored).await?)) }
        });
        let (gets, mut found): (Vec<_>, _) = (gets.collect(), BTreeMap::new());
        let mut gets = futures::stream::iter(gets).buffer_unordered(GETS_IN_FLIGHT_MAX);
        while let Some((key, entry)) = gets.try_next().await? {
            if let Some(entry) = entry {
                found.insert(key, (model::decode(&entry)?, entry.mod_revision));
            }
        }
        Ok(found)
    }

    /// Forgets partitions of a deleted topic, if nothing has changed of them since they were read.
    pub async fn forget_partitions(
        &self,
        registration: &Registration,
        partitions: &[(PartitionKey, Revision)],
    ) -> Result<bool, OwnershipError> {
        let fence = Compare::CreateRevision(self.keys.fence(registration.writer), registration.fence_revision);
        let mut all = true;
        for chunk in partitions.chunks(CLAIMS_PER_TXN) {
            let mut txn = Txn { compares: vec![fence.clone()], ops: Vec::new() };
            for (key, revision) in chunk {
                let stored = self.keys.partition(key);
                txn.compares.push(Compare::ModRevision(stored.clone(), *revision));
                txn.ops.push(Op::Delete(stored));
            }
            all &= matches!(self.store.txn(txn).await?, TxnOutcome::Committed(_));
        }
        Ok(all)
    }

    /// Says in the broker's registration whether it drains. The lease stays as it is.
    pub async fn announce(
        &self,
        registration: &Registration,
        live: &LiveValue,
        lease: LeaseId,
    ) -> Result<(), OwnershipError> {
        let fence = Compare::CreateRevision(self.keys.fence(registration.writer), registration.fence_revision);
        let put = Op::Put(self.keys.live(registration.writer), model::encode(live), Some(lease));
        match self.store.txn(Txn { compares: vec![fence], ops: vec![put] }).await? {
            TxnOutcome::Committed(_) => Ok(()),
            TxnOutcome::Rejected(_) => self.check_fence(registration).await,
        }
    }

    /// Raises log starts of owned partitions, before anything below is deleted or any DeleteRecords is answered.
    /// Returns false if one of them is not (any more) as expected: owned by this writer with a lower log start.
    pub async fn raise_log_starts(
        &self,
        registration: &Registration,
        raises: &[(PartitionKey, Offset)],
    ) -> Result<bool, OwnershipError> {
        let fence = Compare::CreateRevision(self.keys.fence(registration.writer), registration.fence_revision);
        for chunk in raises.chunks(CLAIMS_PER_TXN) {
            let mut txn = Txn { compares: vec![fence.clone()], ops: Vec::new() };
            for (key, log_start) in chunk {
                let stored = self.keys.partition(key);
                let Some(entry) = self.store.get(&stored).await? else { return Ok(false) };
                let mut value: PartitionValue = model::decode(&entry)?;
                if value.owner != Some(registration.writer) {
                    return Ok(false);
                }
                value.log_start = value.log_start.max(*log_start);
                value.history = vec![registration.writer]; // serving since a checkpoint that includes it
                txn.compares.push(Compare::ModRevision(stored.clone(), entry.mod_revision));
                txn.ops.push(Op::Put(stored, model::encode(&value), None));
            }
            if let TxnOutcome::Rejected(_) = self.store.txn(txn).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The slot up to which this writer may take its log for committed, now that it is sealed. Recovery takes over whatever it
/// finds of a log: objects of which nobody knows that they were committed, and which are left out where a successor went on.
fn committed_head(value: &WriterValue, registration: &Registration) -> Seq {
    let is_sealed = value.nonce == registration.nonce && value.state == WriterState::Fenced;
    if is_sealed { value.head } else { Seq(0) }
}
