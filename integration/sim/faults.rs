//! The metadata store of a simulated cluster, which fails, and what every process has between itself and the stores.
//!
//! The object store's faults are the product's own ([`kafscale::storage::fault`]).

use super::link::Link;
use super::trace::Trace;
use crate::workload::Rng;
use async_trait::async_trait;
use kafscale::metadata::embedded::{Backup, EmbeddedStore};
use kafscale::metadata::rollback::Remembered;
use kafscale::metadata::{Entry, LeaseId, MetadataError, MetadataStore, Op, Revision, Txn, TxnOutcome, WatchEvent};
use kafscale::storage::{self, Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Watches that end or are compacted, per thousand events, while the store fails.
const WATCH_FAULTS: u64 = 10;

/// How a backup is restored.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// What is added to its revision (`--bump-revision`).
    pub bump: Revision,
    /// Its leases begin anew; otherwise they are gone.
    pub keep_leases: bool,
    /// The store gives itself another id.
    pub is_another_cluster: bool,
}

/// Calls fail: before they took effect, after it, or they take effect later.
#[derive(Debug)]
pub struct FaultyMetadata {
    /// What is stored.
    pub inner: Arc<EmbeddedStore>,
    random: Mutex<Rng>,
    /// Failures per thousand calls.
    failures: AtomicU64,
    /// The id that the store gives itself, and how often it went back to a backup.
    cluster: AtomicU64,
    restores: AtomicU64,
    trace: Arc<Trace>,
}

impl FaultyMetadata {
    /// An empty store without faults.
    pub fn new(random: Rng, trace: Arc<Trace>) -> Self {
        let inner = Arc::new(EmbeddedStore::in_memory());
        let (failures, cluster, restores) = (AtomicU64::new(0), AtomicU64::new(1), AtomicU64::new(0));
        Self { inner, random: Mutex::new(random), failures, cluster, restores, trace }
    }

    /// Goes back to a backup. What is on its way does not arrive.
    pub fn restore(&self, backup: &Backup, how: How) {
        self.restores.fetch_add(1, Ordering::Relaxed);
        self.cluster.fetch_add(u64::from(how.is_another_cluster), Ordering::Relaxed);
        self.inner.restore(backup, how.bump, how.keep_leases);
        self.trace.event(format_args!("metadata is as it was at revision {}: {how:?}", backup.revision()));
    }

    /// From now on so many of a thousand transactions fail, and a third as many other calls.
    pub fn set_failures(&self, per_thousand: u64) {
        self.failures.store(per_thousand, Ordering::Relaxed);
    }

    fn below(&self, end: u64) -> u64 {
        self.random.lock().expect("no panic under the lock").below(end)
    }

    fn fails(&self, of: u64) -> bool {
        self.below(1_000 * of) < self.failures.load(Ordering::Relaxed)
    }

    async fn answers(&self, what: &'static str) -> Result<(), MetadataError> {
        if self.fails(3) {
            tokio::time::sleep(Duration::from_millis(self.below(2_000))).await;
            self.trace.happened(what);
            return Err(unavailable("injected"));
        }
        Ok(())
    }

    /// Events of a watch, some of them late, with all that watches can do to those who follow them.
    async fn forward(self: Arc<Self>, prefix: String, link: Arc<Link>, events: mpsc::Sender<WatchEvent>) {
        loop {
            let mut watch = self.inner.watch(&prefix);
            while let Some(event) = next(&mut watch, &events).await {
                if self.fails(1) {
                    tokio::time::sleep(Duration::from_millis(self.below(300))).await;
                    self.trace.happened("metadata watch: late");
                }
                link.gate().await;
                if link.is_cut(&link.metadata) {
                    break;
                }
                if self.failures.load(Ordering::Relaxed) > 0 && self.below(1_000) < WATCH_FAULTS {
                    if self.below(4) == 0 {
                        self.trace.happened("metadata watch: cancelled");
                        return;
                    }
                    self.trace.happened("metadata watch: compacted");
                    tokio::time::sleep(Duration::from_millis(self.below(3_000))).await;
                    break;
                }
                if events.send(event).await.is_err() {
                    return;
                }
            }
            while link.is_cut(&link.metadata) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            if events.is_closed() {
                return;
            }
        }
    }

    async fn apply(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        let written: Vec<String> = txn.ops.iter().map(summary).collect();
        let result = self.inner.txn(txn).await;
        self.trace.event(format_args!("txn {written:?}: {result:?}"));
        result
    }
}

fn summary(op: &Op) -> String {
    match op {
        Op::Put(key, value, _) => format!("{key}={:08x}", storage::crc32c(value)),
        Op::Delete(key) => format!("-{key}"),
    }
}

async fn next(watch: &mut mpsc::Receiver<WatchEvent>, events: &mpsc::Sender<WatchEvent>) -> Option<WatchEvent> {
    tokio::select! {
        biased;
        () = events.closed() => None,
        event = watch.recv() => event,
    }
}

fn unavailable(message: &str) -> MetadataError {
    MetadataError::Unavailable { message: message.to_owned() }
}

/// A process's view of the metadata store.
pub struct NodeMetadata {
    /// The store that all share.
    pub shared: Arc<FaultyMetadata>,
    /// The way there.
    pub link: Arc<Link>,
    /// What the store has said, as the product's client of etcd remembers it.
    remembered: Remembered,
    on_went_back: WentBackHook,
}

/// Hears of a store that went back.
pub type WentBackHook = Box<dyn Fn(&MetadataError) + Send + Sync>;

impl fmt::Debug for NodeMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetadata").field("remembered", &self.remembered).finish_non_exhaustive()
    }
}

impl NodeMetadata {
    /// The store behind `link`.
    pub fn new(shared: Arc<FaultyMetadata>, link: Arc<Link>, on_went_back: WentBackHook) -> Self {
        Self { shared, link, remembered: Remembered::default(), on_went_back }
    }

    /// A linearizable call, whose answer says no less than those before. `revision` is the one of an answer, which is the
    /// store's if the answer has none.
    async fn linearizable<T>(
        &self,
        call: impl Future<Output = Result<T, MetadataError>>,
        revision: impl Fn(&T) -> Option<Revision>,
    ) -> Result<T, MetadataError> {
        let floor = self.remembered.floor();
        let call = async {
            let answer = call.await?;
            let said = revision(&answer).unwrap_or_else(|| self.shared.inner.revision());
            Ok((answer, said, self.shared.cluster.load(Ordering::Relaxed)))
        };
        let (answer, revision, cluster) = self.across(call).await?;
        self.remembered.compare(revision, cluster, floor).inspect_err(|error| (self.on_went_back)(error))?;
        Ok(answer)
    }

    async fn across<T>(&self, call: impl Future<Output = Result<T, MetadataError>>) -> Result<T, MetadataError> {
        self.link.across(&self.link.metadata, || unavailable("it cannot be reached"), call).await
    }
}

#[async_trait]
impl MetadataStore for NodeMetadata {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        let call = async {
            self.shared.answers("metadata: read failed").await?;
            self.shared.inner.get(key).await
        };
        self.linearizable(call, |_| None).await
    }

    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError> {
        let call = async {
            self.shared.answers("metadata: read failed").await?;
            self.shared.inner.get_prefix(prefix).await
        };
        self.linearizable(call, |(_, revision)| Some(*revision)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        let shared = &self.shared;
        let call = async move {
            tokio::time::sleep(Duration::from_millis(shared.below(20))).await;
            if !shared.fails(1) {
                return shared.apply(txn).await;
            }
            match shared.below(4) {
                0 => shared.trace.happened("metadata: txn failed"),
                1 => {
                    shared.trace.happened("metadata: answer to a txn lost");
                    shared.apply(txn).await?;
                }
                2 => {
                    shared.trace.happened("metadata: txn failed and applied later");
                    let (later, wait_ms) = (shared.clone(), shared.below(5_000));
                    let restores = shared.restores.load(Ordering::Relaxed);
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                        if later.restores.load(Ordering::Relaxed) == restores {
                            drop(later.apply(txn).await);
                        }
                    });
                }
                _ => {
                    shared.trace.happened("metadata: answer to a txn late");
                    let result = shared.apply(txn).await;
                    tokio::time::sleep(Duration::from_millis(shared.below(3_000))).await;
                    return result;
                }
            }
            Err(unavailable("injected"))
        };
        let revision = |outcome: &TxnOutcome| match outcome {
            TxnOutcome::Committed(revision) | TxnOutcome::Rejected(revision) => Some(*revision),
        };
        self.linearizable(call, revision).await
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(1_024);
        tokio::spawn(self.shared.clone().forward(prefix.to_owned(), self.link.clone(), sender));
        receiver
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.across(async {
            self.shared.answers("metadata: lease not granted").await?;
            self.shared.inner.lease_grant(ttl).await
        })
        .await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.across(async {
            self.shared.answers("metadata: lease not renewed").await?;
            let result = self.shared.inner.lease_keep_alive(lease).await;
            if result.is_err() {
                self.shared.trace.happened("metadata: lease expired");
            }
            result
        })
        .await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.across(self.shared.inner.lease_revoke(lease)).await
    }
}

/// The objects, with every change and every read among the events.
#[derive(Debug)]
pub struct TracedObjects<S> {
    /// Where they are.
    pub inner: S,
    /// Where the events go.
    pub trace: Arc<Trace>,
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for TracedObjects<Arc<S>> {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        let result = self.inner.create(key, payload).await;
        if result.is_err() {
            self.trace.happened("objects: create met an object (412)");
        }
        self.trace.event(format_args!("create {key} {:08x} {}", payload.crc32c, result.is_ok()));
        result
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<bytes::Bytes, StoreError> {
        self.trace.event(format_args!("get {key} {range:?}"));
        self.inner.get_range(key, range).await
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(bytes::Bytes, u64), StoreError> {
        self.trace.event(format_args!("get {key} {len}"));
        self.inner.get_suffix(key, len).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        self.trace.event(format_args!("head {key}"));
        self.inner.head(key).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        self.trace.event(format_args!("delete {keys:?}"));
        self.inner.delete(keys).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        self.trace.event(format_args!("list {start_after:?}"));
        self.inner.list(prefix, start_after).await
    }
}

/// A process's view of the object store.
#[derive(Debug)]
pub struct NodeObjects {
    /// The store that all share.
    pub shared: Arc<dyn ObjectStore>,
    /// The way there.
    pub link: Arc<Link>,
}

impl NodeObjects {
    async fn across<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let error = || StoreError::Unavailable { message: "it cannot be reached".into() };
        self.link.across(&self.link.objects, error, call).await
    }
}

#[async_trait]
impl ObjectStore for NodeObjects {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        self.across(self.shared.create(key, payload)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<bytes::Bytes, StoreError> {
        self.across(self.shared.get_range(key, range)).await
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(bytes::Bytes, u64), StoreError> {
        self.across(self.shared.get_suffix(key, len)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        self.across(self.shared.head(key)).await
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        self.across(self.shared.delete(keys)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        self.across(self.shared.list(prefix, start_after)).await
    }
}
