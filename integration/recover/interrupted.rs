//! A recovery that ends after any of its transactions is finished by another one, on memory stores, and what it has sent and is
//! applied after that changes nothing.

use crate::client::Batch;
use crate::sim::{Process, World};
use crate::workload::Rng;
use async_trait::async_trait;
use kafscale::actors::partition::handle::ValidBatch;
use kafscale::ids::{Offset, WriterId};
use kafscale::metadata::embedded::EmbeddedStore;
use kafscale::metadata::keys::Keys;
use kafscale::metadata::model::{self, LiveValue, WriterState};
use kafscale::metadata::ownership::Ownership;
use kafscale::metadata::{Entry, LeaseId, MetadataError, MetadataStore, Revision, Txn, TxnOutcome, WatchEvent};
use kafscale::protocol::batch::BatchHeader;
use kafscale::recover::apply::{Apply, ApplyError};
use kafscale::recover::plan::{Plan, Store, plan};
use kafscale::recover::read_store;
use kafscale::recover::survey::Survey;
use kafscale::storage::ObjectStore;
use kafscale::storage::layout::Layout;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

const NOW_MS: i64 = 1_800_000_000_000;

/// A store that answers no transaction any more after so many.
#[derive(Debug)]
struct Dying {
    inner: Arc<dyn MetadataStore>,
    left: AtomicI64,
    /// The first one that was not answered.
    held: Mutex<Option<Txn>>,
}

#[async_trait]
impl MetadataStore for Dying {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        self.inner.get(key).await
    }

    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError> {
        self.inner.get_prefix(prefix).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.held.lock().unwrap().get_or_insert(txn);
            return Err(MetadataError::Unavailable { message: "it died".into() });
        }
        self.inner.txn(txn).await
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        self.inner.watch(prefix)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.inner.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.inner.lease_revoke(lease).await
    }
}

/// Writes `count` records to a partition.
async fn produce(world: &World, process: &Process, partition: i32, count: u64) {
    let values: Vec<[u8; 8]> = (0..count).map(u64::to_be_bytes).collect();
    let bytes = Batch::of(&values.iter().map(<[u8; 8]>::as_slice).collect::<Vec<_>>()).encode();
    let header = BatchHeader::parse(&bytes).unwrap();
    let batch = ValidBatch { bytes, header, log_append_time_ms: None };
    let partition = process.context.directory.get(&world.key(partition)).expect("led");
    partition.append(batch).unwrap().await.unwrap().unwrap();
}

struct Scene {
    objects: Arc<dyn ObjectStore>,
    layout: Layout,
    keys: Keys,
}

impl Scene {
    async fn look(&self, metadata: &Arc<dyn MetadataStore>) -> (Store, Survey, Plan) {
        let store = read_store(metadata, &self.keys).await.unwrap();
        let survey = Survey::take(self.objects.clone(), &self.layout, NOW_MS).await.unwrap();
        let plan = plan(&store, &survey.found, NOW_MS).unwrap();
        (store, survey, plan)
    }

    async fn recover(&self, metadata: Arc<dyn MetadataStore>) -> Result<(), ApplyError> {
        let (store, survey, plan) = self.look(&metadata).await;
        assert_eq!(plan.losses, Vec::<String>::new());
        let (keys, layout, objects) = (&self.keys, &self.layout, self.objects.clone());
        let (store, survey, plan) = (&store, &survey, &plan);
        Apply { metadata, objects, keys, layout, store, survey, plan, now_ms: NOW_MS }.run().await
    }

    async fn may_register(&self, metadata: &Arc<dyn MetadataStore>) -> bool {
        let live: LiveValue = model::decode_bytes(br#"{"v":1,"node":9,"host":"h","port":1,"version":"0"}"#).unwrap();
        let ownership = Ownership::new(metadata.clone(), self.keys.clone());
        let registered = ownership.register(WriterId(1 << 40), 1, &live, Duration::from_secs(1)).await;
        if let Ok(registered) = &registered {
            ownership.forget_writers(&[registered.writer]).await.unwrap();
        }
        registered.is_ok()
    }
}

/// Two writers with four partitions: one died, the other took over and wrote on.
async fn history(world: &std::rc::Rc<World>) -> Scene {
    let first = Process::start(world).await.unwrap();
    produce(world, &first, 0, 3).await;
    produce(world, &first, 1, 5).await;
    first.maintenance.lock().await.checkpoint().await.unwrap();
    produce(world, &first, 1, 2).await;
    drop(first);
    let second = Process::start(world).await.unwrap();
    produce(world, &second, 1, 4).await;
    produce(world, &second, 3, 1).await;
    let (layout, (_, keys)) = (second.context.layout.clone(), world.metadata());
    drop(second);
    Scene { objects: world.raw.clone(), layout, keys }
}

async fn scenario(lost: bool) {
    let mut interrupted = 0;
    for transactions in 0.. {
        let world = World::new(&mut Rng(11)).await;
        let scene = history(&world).await;
        let metadata: Arc<dyn MetadataStore> = match lost {
            true => Arc::new(EmbeddedStore::in_memory()),
            false => world.metadata().0,
        };
        let left = AtomicI64::new(transactions);
        let dying = Arc::new(Dying { inner: metadata.clone(), left, held: Mutex::default() });
        let done = scene.recover(dying.clone()).await.is_ok();
        assert_eq!(scene.may_register(&metadata).await, done || transactions == 0, "after {transactions}");
        if !done {
            interrupted += 1;
            scene.recover(metadata.clone()).await.unwrap();
            let late = dying.held.lock().unwrap().take().expect("it died there");
            let applied = metadata.txn(late).await.unwrap();
            assert!(matches!(applied, TxnOutcome::Rejected(_)), "transaction {transactions} comes late");
        }
        assert!(scene.may_register(&metadata).await);
        // What is there now is what another recovery would write.
        let (store, _, plan) = scene.look(&metadata).await;
        assert_eq!(plan.losses, Vec::<String>::new());
        assert!(plan.topics.is_empty(), "{:?}", plan.topics);
        assert!(store.writers.values().all(|(value, _)| value.state != WriterState::Active));
        assert!(store.next_writer > store.writers.keys().next_back().unwrap().0);
        for (partition, expected) in [(0, 3), (1, 11), (2, 0), (3, 1)] {
            let key = world.key(partition);
            let end = plan.partitions.get(&key).map_or(Offset(0), |restored| restored.next_offset);
            assert_eq!(end, Offset(expected), "partition {partition} after {transactions} transactions");
            if expected > 0 {
                let value = &store.partitions[&key].0;
                assert!(value.history.iter().all(|writer| store.writers.contains_key(writer)), "{value:?}");
                assert_eq!(value.owner, None);
            }
        }
        if done {
            break;
        }
    }
    assert!(interrupted > 4, "it takes some transactions");
}

fn run(future: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(future));
}

#[test]
fn a_recovery_of_a_lost_store_is_finished_by_the_next() {
    run(scenario(true));
}

#[test]
fn a_recovery_of_a_store_that_has_everything_is_finished_by_the_next() {
    run(scenario(false));
}
