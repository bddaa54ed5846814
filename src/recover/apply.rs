//! Writes a plan. Every step can be repeated, in this order, by another run that was planned anew:
//!
//! 1. `recovering` keeps brokers from starting until the end. Each run writes it anew, and everything that a run writes is
//!    compared with that: what an interrupted run has sent, and what is applied later, does not undo what came after it.
//! 2. Every old writer is fenced, each by compare-and-swap on its key as it was read. Its claim token goes, so that no
//!    process of before can commit, claim or release anything, whatever revisions the store reaches. All of them are there before
//!    the counter of writer ids rises: until then a run that is repeated knows that they are not writers of the past.
//! 3. The new writers' checkpoints are durable before their keys point to them, and these before partitions name them.
//! 4. Topics, settings, counters, and last the cluster's identity, without which no broker takes the store for its own.

use super::plan::{Plan, Store};
use super::survey::Survey;
use crate::clock::WallMs;
use crate::ids::{LeaderEpoch, Seq, WriterId};
use crate::metadata::keys::Keys;
use crate::metadata::model::{self, BrokerConfigsValue, CheckpointRef, CounterValue, FORMAT, WriterState, WriterValue};
use crate::metadata::{Compare, MetadataError, MetadataStore, Op, Revision, Txn, TxnOutcome};
use crate::rng;
use crate::storage::checkpoint::{Checkpoint, ObjectTable};
use crate::storage::layout::Layout;
use crate::storage::{ObjectStore, StoreError};
use std::sync::Arc;

/// Keys written in one transaction: with a compare or two operations each below etcd's 128.
const KEYS_PER_TXN: usize = 40;

/// Why a plan was not carried out, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The metadata store failed.
    #[error("{0}; run the command again")]
    Metadata(#[from] MetadataError),
    /// The object store failed.
    #[error("{0}; run the command again")]
    Store(#[from] StoreError),
    /// Somebody wrote meanwhile.
    #[error("{0} changed while the plan was made: make sure that no broker runs, and run the command again")]
    Changed(String),
    /// Another recovery has begun or ended meanwhile.
    #[error(
        "another `kafscale recover` has begun or ended since the plan was made; run the command again, once at a time"
    )]
    AnotherRun,
    /// What was planned cannot be read any more.
    #[error("{0}; run the command again")]
    Recovery(#[from] crate::actors::recovery::RecoveryError),
}

/// What to write, and where.
pub struct Apply<'a> {
    /// Metadata.
    pub metadata: Arc<dyn MetadataStore>,
    /// Objects.
    pub objects: Arc<dyn ObjectStore>,
    /// Keys of metadata.
    pub keys: &'a Keys,
    /// Keys of objects.
    pub layout: &'a Layout,
    /// As it was when the plan was made.
    pub store: &'a Store,
    /// What was found.
    pub survey: &'a Survey,
    /// What to do.
    pub plan: &'a Plan,
    /// Now.
    pub now_ms: WallMs,
}

/// One key with what it was when it was read; 0: it did not exist.
struct Change {
    compare: Option<(String, i64)>,
    ops: Vec<Op>,
}

impl Change {
    fn put(key: String, value: bytes::Bytes) -> Self {
        Self { compare: None, ops: vec![Op::Put(key, value, None)] }
    }
}

impl Apply<'_> {
    /// Does it.
    pub async fn run(&self) -> Result<(), ApplyError> {
        let run = self.begin().await?;
        self.write(run, self.fences()).await?;
        self.write(run, self.homes().await?).await?;
        self.write(run, self.partitions()).await?;
        self.write(run, self.topics()).await?;
        let mut ops = Vec::new();
        for (key, next) in
            [(self.keys.next_writer(), self.plan.next_writer), (self.keys.next_producer(), self.plan.next_producer)]
        {
            ops.push(Op::Put(key, model::encode(&CounterValue { v: FORMAT, next }), None));
        }
        ops.extend(self.plan.cluster.iter().map(|c| Op::Put(self.keys.cluster(), model::encode(c), None)));
        ops.push(Op::Delete(self.keys.recovering()));
        self.write(run, vec![Change { compare: None, ops }]).await
    }

    /// Writes `recovering`. Its revision is this run's: it holds until the run has ended or another one has begun.
    async fn begin(&self) -> Result<Revision, ApplyError> {
        let (recovering, cluster) = (self.keys.recovering(), self.keys.cluster());
        let compares = vec![
            Compare::ModRevision(recovering.clone(), self.store.recovering),
            // Every run that gets to its end writes it.
            Compare::ModRevision(cluster, self.store.cluster_revision),
        ];
        let ops = vec![Op::Put(recovering, bytes::Bytes::new(), None)];
        match self.metadata.txn(Txn { compares, ops }).await? {
            TxnOutcome::Committed(revision) => Ok(revision),
            TxnOutcome::Rejected(_) => Err(ApplyError::AnotherRun),
        }
    }

    async fn write(&self, run: Revision, changes: Vec<Change>) -> Result<(), ApplyError> {
        let recovering = self.keys.recovering();
        for chunk in changes.chunks(KEYS_PER_TXN) {
            let compared = chunk.iter().filter_map(|change| change.compare.clone()).chain([(recovering.clone(), run)]);
            let compares = compared.map(|(key, revision)| Compare::ModRevision(key, revision)).collect();
            let ops = chunk.iter().flat_map(|change| change.ops.clone()).collect();
            if let TxnOutcome::Rejected(_) = self.metadata.txn(Txn { compares, ops }).await? {
                let is_ours = self.metadata.get(&recovering).await?.is_some_and(|entry| entry.mod_revision == run);
                let what = chunk.iter().find_map(|change| change.compare.as_ref()).filter(|_| is_ours);
                return Err(what.map_or(ApplyError::AnotherRun, |(key, _)| {
                    ApplyError::Changed(format!("the metadata store ({key} or one behind it)"))
                }));
            }
        }
        Ok(())
    }

    fn fences(&self) -> Vec<Change> {
        let unfenced = |writer: WriterId, op: Op| {
            let revision = self.store.writers.get(&writer).map_or(0, |(_, revision)| *revision);
            let ops = vec![op, Op::Delete(self.keys.fence(writer)), Op::Delete(self.keys.group_writes(writer))];
            Change { compare: Some((self.keys.writer(writer), revision)), ops }
        };
        let fenced =
            self.plan.writers.iter().map(|(writer, value)| {
                unfenced(*writer, Op::Put(self.keys.writer(*writer), model::encode(value), None))
            });
        let forgotten = self.plan.forgotten.iter();
        fenced.chain(forgotten.map(|writer| unfenced(*writer, Op::Delete(self.keys.writer(*writer))))).collect()
    }

    /// Writes the new writers' checkpoints.
    async fn homes(&self) -> Result<Vec<Change>, ApplyError> {
        let mut changes = Vec::new();
        for home in &self.plan.homes {
            let (nonce, mut table, mut partitions) = (rng::u64(), ObjectTable::default(), Vec::new());
            for key in &home.partitions {
                let mut seed = self.survey.seed(home.source, *key, self.now_ms)?;
                seed.log_start = seed.log_start.max(self.plan.partitions[key].value.log_start);
                let log_start = seed.log_start;
                seed.extents.retain(|extent| extent.next > log_start);
                seed.epochs.retain(|e| e.epoch >= LeaderEpoch(0));
                let mut checkpoint = seed.checkpoint(&mut table);
                let epoch = self.plan.partitions[key].value.epoch;
                if checkpoint.epochs.last().is_none_or(|newest| newest.epoch < epoch) {
                    let start = checkpoint.next_offset;
                    checkpoint.epochs.push(crate::actors::partition::view::EpochStart { epoch, start });
                }
                partitions.push(checkpoint);
            }
            let checkpoint = Checkpoint {
                cluster_id: self.survey.found.cluster_id.clone(),
                writer: home.writer,
                nonce,
                seq: Seq(0),
                revision_seen: 0,
                objects: table.into_records(),
                partitions,
                garbage: Vec::new(),
                catalog: Some(self.plan.catalog.clone()),
            };
            let key = self.layout.checkpoint(home.writer, nonce, Seq(0), rng::ulid(self.now_ms));
            self.objects.create(&key, &checkpoint.encode()).await?;
            let checkpoint = Some(CheckpointRef { seq: Seq(0), key: key.as_str().to_owned() });
            let node = self.plan.writers.get(&self.survey.found.sources[home.source].writer).map(|w| w.node);
            let (node, state) = (node.unwrap_or(crate::ids::BrokerId(-1)), WriterState::Fenced);
            let value = WriterValue { v: FORMAT, node, state, head: Seq(0), nonce, checkpoint };
            let key = self.keys.writer(home.writer);
            let ops = vec![Op::Put(key.clone(), model::encode(&value), None)];
            changes.push(Change { compare: Some((key, 0)), ops });
        }
        Ok(changes)
    }

    fn partitions(&self) -> Vec<Change> {
        let read = |key| self.store.partitions.get(key).map_or(0, |(_, revision)| *revision);
        let restored = self.plan.partitions.iter().map(|(key, restored)| {
            let stored = self.keys.partition(key);
            let ops = vec![Op::Put(stored.clone(), model::encode(&restored.value), None)];
            Change { compare: Some((stored, read(key))), ops }
        });
        let unclaimed = self.plan.unclaimed.iter().map(|key| {
            let stored = self.keys.partition(key);
            Change { compare: Some((stored.clone(), read(key))), ops: vec![Op::Delete(stored)] }
        });
        restored.chain(unclaimed).collect()
    }

    fn topics(&self) -> Vec<Change> {
        let deleted = self.plan.deleted.iter().map(|topic| {
            let mut ops = vec![Op::Put(self.keys.deleted(topic.id), model::encode(topic), None)];
            if !self.plan.topics.contains_key(&topic.name) {
                ops.push(Op::Delete(self.keys.topic(&topic.name)));
            }
            Change { compare: None, ops }
        });
        let topics = self.plan.topics.iter();
        let topics = topics.map(|(name, topic)| Change::put(self.keys.topic(name), model::encode(topic)));
        let settings = self.plan.settings.iter().map(|(key, configs)| {
            let value = BrokerConfigsValue { v: FORMAT, configs: configs.clone() };
            Change::put(format!("{}{key}", self.keys.settings()), model::encode(&value))
        });
        deleted.chain(topics).chain(settings).collect()
    }
}
