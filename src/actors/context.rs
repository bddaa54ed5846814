//! What the actors of one broker share, and how its partitions are started and stopped.

use crate::actors::ahead::Ahead;
use crate::actors::flusher::{Flusher, Quiesce};
use crate::actors::membership::Announcement;
use crate::actors::partition::handle::PartitionRef;
use crate::actors::partition::{self, Partition, PartitionSink, Stop};
use crate::actors::recovery::{Recovery, Seed, replay};
use crate::actors::runtime::{IoPool, Placement};
use crate::actors::s3_health::S3Health;
use crate::actors::standing::Standing;
use crate::actors::supervisor::{ActorRef, ActorRegistry, Escalation, RestartPolicy, Supervision, supervise};
use crate::actors::writer::{PipelineBudget, WriterStats};
use crate::broker::Directory;
use crate::clock::Clock;
use crate::ids::{LeaderEpoch, PartitionKey, WriterId};
use crate::metadata::keys::Keys;
use crate::metadata::model::PartitionValue;
use crate::metadata::ownership::{Ownership, OwnershipError, Registration};
use crate::metadata::{MetadataStore, Revision};
use crate::sabotage;
use crate::storage::ObjectStore;
use crate::storage::layout::Layout;
use actix::Addr;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use tokio::sync::oneshot;

/// How long an offline partition waits before it is tried again, ms.
const OFFLINE_RETRY_MS: u64 = 30_000;
/// Writers whose logs are read at the same time.
const LOGS_IN_FLIGHT_MAX: usize = 4;

/// A partition this broker owns, serving or not.
#[derive(Clone)]
pub struct OwnedPartition {
    /// Its supervised actor.
    pub actor: ActorRef<Partition>,
    /// Its ownership value as claimed.
    pub value: PartitionValue,
}

/// See the module's documentation.
pub struct NodeContext {
    /// Object store with retries.
    pub store: Arc<dyn ObjectStore>,
    /// Object keys.
    pub layout: Layout,
    /// Metadata store.
    pub metadata: Arc<dyn MetadataStore>,
    /// Metadata keys.
    pub keys: Keys,
    /// Ownership calls.
    pub ownership: Ownership,
    /// This writer; its head and revision are as of registration.
    pub registration: Registration,
    /// Cluster id.
    pub cluster_id: String,
    /// How often the metadata store was rebuilt.
    pub generation: u32,
    /// The WAL writer.
    pub flusher: Addr<Flusher>,
    /// Threads that connections are spread over; the first is [`Self::writer_shard`].
    pub shards: Vec<Placement>,
    /// I/O runtime.
    pub io: IoPool,
    /// Time.
    pub clock: Clock,
    /// Bytes not yet durable.
    pub budget: Arc<PipelineBudget>,
    /// Counters.
    pub stats: Arc<WriterStats>,
    /// Serving partitions, as handlers see them.
    pub directory: Arc<Directory>,
    /// Supervised actors.
    pub registry: Arc<ActorRegistry>,
    /// Whether this broker may have been sealed without knowing it.
    pub standing: Arc<Standing>,
    /// What the metadata store says of this broker.
    pub announcement: Arc<Announcement>,
    /// How the object store does.
    pub health: Arc<S3Health>,
    /// What has been read of writers that are about to give partitions away.
    pub ahead: Arc<Ahead>,
    /// Owned partitions.
    pub owned: RwLock<BTreeMap<PartitionKey, OwnedPartition>>,
}

impl std::fmt::Debug for NodeContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeContext({})", self.registration.writer)
    }
}

impl NodeContext {
    /// The highest revision of the metadata store at which this writer has written.
    pub fn revision_seen(&self) -> Revision {
        self.registration.revision.max(self.stats.revision.load(Ordering::Acquire))
    }

    /// Owned partitions, by key.
    pub fn owned_partitions(&self) -> Vec<(PartitionKey, OwnedPartition)> {
        let owned = self.owned.read().expect("no panic under the lock");
        owned.iter().map(|(k, p)| (*k, p.clone())).collect()
    }

    /// How many they are.
    pub fn owned_count(&self) -> usize {
        self.owned.read().expect("no panic under the lock").len()
    }

    /// True if this broker owns the partition.
    pub fn owns(&self, key: &PartitionKey) -> bool {
        self.owned.read().expect("no panic under the lock").contains_key(key)
    }

    /// Where the writer and the partitions run. Every batch and every commit passes between them, which on one thread
    /// costs under a microsecond, and a wake-up of 50 µs or more between two. What takes time (reading sockets, checking
    /// batches) is done where the connections are.
    pub fn writer_shard(&self) -> &Placement {
        &self.shards[0]
    }

    /// Reads what writers left behind.
    pub fn recovery(&self) -> Recovery {
        Recovery {
            store: self.store.clone(),
            layout: self.layout.clone(),
            cluster_id: self.cluster_id.clone(),
            ahead: self.ahead.clone(),
        }
    }

    /// Starts leading `seed`'s partition, claimed with `value`, on the writer's shard. The first incarnation starts from the
    /// seed; later ones recover from storage, after everything in flight has been committed.
    pub async fn lead(self: &Arc<Self>, seed: Seed, value: PartitionValue) {
        let key = seed.key;
        let context = self.clone();
        let (started, wait) = oneshot::channel();
        self.writer_shard().run(move || {
            let registry = context.registry.clone();
            let supervision = Supervision {
                name: format!("partition/{key}"),
                policy: RestartPolicy::default(),
                registry,
                on_escalate: Box::new(|_| Escalation::RetryAfterMs(OFFLINE_RETRY_MS)),
            };
            let mut first = Some((seed, started));
            let actor = supervise(supervision, partition::MAILBOX_LEN_MAX, move |actor| {
                let (context, value) = (context.clone(), value.clone());
                let first = first.take();
                Box::pin(async move {
                    let Some((seed, started)) = first else {
                        let seed = context.recover_own(key, &value).await?;
                        return Ok(context.start(seed, actor));
                    };
                    // Before clients can reach it: no checkpoint whose slots have its batches may leave it out.
                    let owned = OwnedPartition { actor: actor.clone(), value };
                    context.owned.write().expect("no panic under the lock").insert(key, owned);
                    let partition = context.start(seed, actor);
                    let _nobody_waits = started.send(());
                    Ok(partition)
                })
            });
            drop(actor);
        });
        drop(wait.await); // an error means that the process is ending
    }

    fn start(&self, seed: Seed, actor: ActorRef<Partition>) -> Partition {
        let key = seed.key;
        let refused = Arc::new(AtomicBool::new(true)); // by whoever was here before, if anybody
        let seed = sabotage::started_from(seed);
        let partition = Partition::new(seed, self.flusher.clone(), self.budget.clone(), self.clock, refused.clone());
        let (standing, health) = (self.standing.clone(), self.health.clone());
        let sink = PartitionSink::new(actor, self.budget.clone(), standing, health, refused);
        self.directory.insert(PartitionRef { key, view: partition.view().clone(), sink: Arc::new(sink) });
        partition
    }

    /// Rebuilds an owned partition whose actor failed, exactly as a successor of this broker would.
    async fn recover_own(&self, key: PartitionKey, value: &PartitionValue) -> Result<Seed, String> {
        let (done, quiet) = oneshot::channel();
        self.flusher.do_send(Quiesce { key: Some(key), done });
        let writer = quiet.await.map_err(|_| "the writer stopped".to_owned())?;
        let me = self.registration.writer;
        let (recovery, revision) = (self.recovery(), i64::MAX);
        let load = async move { recovery.load(me, &writer, revision).await };
        let log = self.io.spawn(load).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let logs = BTreeMap::from([(me, log)]);
        let mine = PartitionValue { history: vec![me], ..value.clone() };
        let stored = self.metadata.get(&self.keys.partition(&key)).await.map_err(|e| e.to_string())?;
        let stored = stored.ok_or_else(|| "its ownership key is gone".to_owned())?;
        let now: PartitionValue = crate::metadata::model::decode(&stored).map_err(|e| e.to_string())?;
        let mine = PartitionValue { log_start: now.log_start, ..mine };
        replay(key, Some(&mine), value.epoch, &logs, self.clock.settled_ms()).map_err(|e| e.to_string())
    }

    /// From now on the broker drains (gives away what it has, takes nothing), or does not any more. Returns when the others
    /// can know.
    pub async fn set_draining(&self, draining: bool) -> Result<(), OwnershipError> {
        self.announcement.set_draining(draining);
        let (live, lease) = self.announcement.told();
        self.ownership.announce(&self.registration, &live, lease).await
    }

    /// Stops leading a partition whose topic is deleted or that is another's.
    pub fn forget(&self, key: &PartitionKey) {
        self.directory.remove(key);
        let owned = self.owned.write().expect("no panic under the lock").remove(key);
        if let Some(owned) = owned {
            owned.actor.close();
            if let Some(addr) = owned.actor.addr() {
                addr.do_send(Stop);
            }
        }
    }

    /// Loads the logs of `writers`; `revision_now` as in [`Recovery::load`].
    pub async fn load_logs(
        &self,
        writers: &BTreeMap<WriterId, crate::metadata::model::WriterValue>,
        revision_now: i64,
    ) -> Result<BTreeMap<WriterId, crate::actors::recovery::WriterLog>, crate::actors::recovery::RecoveryError> {
        let loads = writers.iter().map(|(writer, value)| {
            let (recovery, writer, value) = (self.recovery(), *writer, value.clone());
            async move { Ok((writer, recovery.load(writer, &value, revision_now).await?)) }
        });
        let loads: Vec<_> = loads.collect();
        futures::stream::iter(loads).buffer_unordered(LOGS_IN_FLIGHT_MAX).try_collect().await
    }

    /// The seed of a partition that never held anything.
    pub fn empty_seed(&self, key: PartitionKey, epoch: LeaderEpoch) -> Seed {
        replay(key, None, epoch, &BTreeMap::new(), self.clock.settled_ms()).expect("nothing to read, nothing to fail")
    }
}
