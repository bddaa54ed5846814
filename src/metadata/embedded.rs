//! The metadata store of `kafscale dev` and of simulations: etcd's semantics without etcd.
//!
//! [`EmbeddedStore::open`] keeps everything in one redb file that this process has to itself: each commit is fsync'd
//! before anybody sees it, and transactions that wait for a running commit share the next one. Reads come from a
//! decoded copy in memory. [`EmbeddedStore::in_memory`] is the same without the file, and without threads, so that a
//! simulation under paused time stays deterministic.
//!
//! Leases live in the process: whoever held them is gone when the file is opened again, so their keys are deleted
//! then. After a commit fails (disk full, I/O error) its outcome is unknown; every call reports the store as
//! unavailable until the file could be read again.

use super::tree::{Staged, Tree};
use super::{Entry, LeaseId, MetadataError, MetadataStore, Revision, Txn, TxnOutcome, WatchEvent};
use crate::actors::runtime::IoPool;
use crate::clock;
use async_trait::async_trait;
use file::MetadataFile;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

mod file;

/// Events that wait for a watcher; one that falls behind further gets a snapshot instead.
pub const WATCH_EVENTS_MAX: usize = 1024;

/// How long a lease's timer waits after the store could not delete its keys.
const LEASE_RETRY: Duration = Duration::from_secs(1);

/// What a store held at one moment.
#[derive(Debug, Clone)]
pub struct Backup {
    tree: Tree,
    leases: BTreeMap<LeaseId, Duration>,
}

impl Backup {
    /// A key as it was.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.tree.get(key)
    }

    /// The revision as it was.
    pub fn revision(&self) -> Revision {
        self.tree.revision()
    }
}

/// See the module's documentation. Dropping it ends its watches and leases.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

impl EmbeddedStore {
    /// Opens or creates the file `path`. Blocks on the disk; call it inside the runtime that shall run the timers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, MetadataError> {
        let (file, mut tree) = MetadataFile::open(path.as_ref())?;
        let mut staged = Staged::new(&tree);
        staged.delete_all(&tree, &tree.leased_keys());
        if !staged.is_empty() {
            file.commit(&staged).map_err(|e| unavailable(file.path(), &e))?;
            tree.apply(staged);
        }
        Ok(Self::with(tree, Some(file)))
    }

    /// An empty store that ends with the process. Call it inside the runtime that shall run the timers.
    pub fn in_memory() -> Self {
        Self::with(Tree::new(Default::default(), 1), None)
    }

    fn with(tree: Tree, file: Option<MetadataFile>) -> Self {
        let state = State {
            tree,
            leases: BTreeMap::new(),
            last_lease: 0,
            watchers: Vec::new(),
            last_watcher: 0,
            queue: Vec::new(),
            committing: false,
            failed: None,
        };
        let on_disk = file.is_some();
        let pool = IoPool::current();
        Self { shared: Arc::new(Shared { state: Mutex::new(state), file: Mutex::new(file), on_disk, pool }) }
    }

    /// Everything that it holds, for [`Self::restore`].
    pub fn backup(&self) -> Backup {
        let state = self.shared.state();
        let leases = state.leases.iter().map(|(lease, held)| (*lease, held.ttl)).collect();
        Backup { tree: state.tree.clone(), leases }
    }

    /// Goes back to a backup, for simulations of a restored etcd: watches end, leases begin anew (or are gone, unless
    /// `keep_leases`), and the revision is the backup's, or greater by `bump` (`--bump-revision`).
    ///
    /// # Panics
    /// If it is kept in a file.
    pub fn restore(&self, backup: &Backup, bump: Revision, keep_leases: bool) {
        assert!(!self.shared.on_disk, "a file is restored by copying it");
        let mut state = self.shared.state();
        state.tree = backup.tree.clone().bumped(bump);
        state.watchers.clear();
        state.leases.clear();
        if !keep_leases {
            let mut staged = Staged::new(&state.tree);
            staged.delete_all(&state.tree, &state.tree.leased_keys());
            drop(state.tree.apply(staged)); // nobody watches
            return;
        }
        for (lease, ttl) in &backup.leases {
            let deadline = clock::monotonic() + *ttl;
            state.leases.insert(*lease, Lease { ttl: *ttl, deadline });
            self.shared.pool.spawn(lease_timer(Arc::downgrade(&self.shared), *lease, deadline));
        }
    }

    /// Its revision now.
    pub fn revision(&self) -> Revision {
        self.shared.state().tree.revision()
    }

    async fn submit(&self, request: Request) -> Result<TxnOutcome, MetadataError> {
        finish(self.shared.enqueue(request)).await
    }

    /// Makes sure that the tree in memory is what the file holds.
    async fn readable(&self) -> Result<(), MetadataError> {
        let failed = self.shared.state().failed.is_some();
        if failed {
            self.submit(Request::Txn(Txn::default())).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl MetadataStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        self.readable().await?;
        Ok(self.shared.state().tree.get(key))
    }

    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError> {
        self.readable().await?;
        let state = self.shared.state();
        Ok((state.tree.get_prefix(prefix), state.tree.revision()))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        self.submit(Request::Txn(txn)).await
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        self.watch_some(prefix, prefix, "")
    }

    fn watch_some(&self, prefix: &str, first: &str, except: &str) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(WATCH_EVENTS_MAX);
        let mut state = self.shared.state();
        state.last_watcher += 1;
        let id = state.last_watcher;
        let snapshot = state.snapshot(prefix);
        sender.try_send(snapshot).expect("the queue is empty and we hold its receiver");
        state.watchers.retain(|watcher| !watcher.sender.is_closed());
        let except = (!except.is_empty()).then(|| except.to_owned());
        let (prefix, first) = (prefix.to_owned(), first.to_owned());
        state.watchers.push(Watcher { id, prefix, first, except, sender, behind: false });
        receiver
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.readable().await?;
        let deadline = clock::monotonic() + ttl;
        let mut state = self.shared.state();
        state.last_lease += 1;
        let lease = state.last_lease;
        state.leases.insert(lease, Lease { ttl, deadline });
        self.shared.pool.spawn(lease_timer(Arc::downgrade(&self.shared), lease, deadline));
        Ok(lease)
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.readable().await?;
        let mut state = self.shared.state();
        let held = state.leases.get_mut(&lease).ok_or(MetadataError::LeaseExpired { lease })?;
        held.deadline = clock::monotonic() + held.ttl;
        Ok(())
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.submit(Request::EndLease { lease, only_if_due: false }).await.map(drop)
    }
}

/// What the committer does.
#[derive(Debug, Clone)]
enum Request {
    Txn(Txn),
    EndLease { lease: LeaseId, only_if_due: bool },
}

type Answer = Result<TxnOutcome, MetadataError>;

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    prefix: String,
    /// Changes of smaller keys, and of those that begin like this, are none of its business: whoever watches is woken for
    /// each, and a writer's head moves with every flush.
    first: String,
    except: Option<String>,
    sender: mpsc::Sender<WatchEvent>,
    /// Its queue overflowed; it gets a snapshot as soon as it has room again.
    behind: bool,
}

impl Watcher {
    fn wants(&self, key: &str) -> bool {
        let excepted = self.except.as_ref().is_some_and(|except| key.starts_with(except));
        key.starts_with(&self.prefix) && *key >= *self.first && !excepted
    }
}

#[derive(Debug)]
struct State {
    tree: Tree,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: LeaseId,
    watchers: Vec<Watcher>,
    last_watcher: u64,
    /// Requests for the next commit. Bounded by the callers, each of which waits for its answer.
    queue: Vec<(Request, oneshot::Sender<Answer>)>,
    /// Somebody drains the queue.
    committing: bool,
    /// Why the tree may not be what the file holds.
    failed: Option<String>,
}

impl State {
    fn snapshot(&self, prefix: &str) -> WatchEvent {
        WatchEvent::Snapshot { entries: self.tree.get_prefix(prefix), revision: self.tree.revision() }
    }

    fn stage(&mut self, staged: &mut Staged, request: &Request, ended: &mut Vec<(LeaseId, Lease)>) -> Answer {
        match request {
            Request::Txn(txn) => staged.run(&self.tree, txn, |lease| self.leases.contains_key(&lease)),
            Request::EndLease { lease, only_if_due } => {
                let held = self.leases.remove(lease).ok_or(MetadataError::LeaseExpired { lease: *lease })?;
                if *only_if_due && held.deadline > clock::monotonic() {
                    self.leases.insert(*lease, held);
                    return Ok(TxnOutcome::Rejected(staged.revision()));
                }
                staged.end_lease(&self.tree, *lease);
                ended.push((*lease, held));
                Ok(TxnOutcome::Committed(staged.revision()))
            }
        }
    }
}

struct Shared {
    state: Mutex<State>,
    /// Locked for the whole of a commit, always before `state`; `None` in memory.
    file: Mutex<Option<MetadataFile>>,
    on_disk: bool,
    pool: IoPool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("on_disk", &self.on_disk).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the lock")
    }

    /// Hands a request to the committer. In memory it is done when this returns; on disk the first one starts a
    /// blocking task, and those that come while it works are committed together.
    fn enqueue(self: &Arc<Self>, request: Request) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        if !self.on_disk {
            let mut none = self.file.lock().expect("no panic under the lock");
            let answer = self.commit_group(&mut none, &[&request]).pop().expect("one answer per request");
            let _ = sender.send(answer);
            return receiver;
        }
        let begins = {
            let mut state = self.state();
            state.queue.push((request, sender));
            !std::mem::replace(&mut state.committing, true)
        };
        // Not under the lock, for which the thread that is woken would have to wait.
        if begins {
            let drain = Drain { shared: Some(self.clone()) };
            drop(tokio::task::spawn_blocking(move || drain.run()));
        }
        receiver
    }

    /// Decides the requests in order, makes them durable together, then visible.
    fn commit_group(self: &Arc<Self>, file: &mut Option<MetadataFile>, requests: &[&Request]) -> Vec<Answer> {
        if let Err(error) = self.heal(file) {
            return requests.iter().map(|_| Err(error.clone())).collect();
        }
        let mut ended = Vec::new();
        let (staged, answers) = {
            let mut state = self.state();
            let mut staged = Staged::new(&state.tree);
            let answers: Vec<Answer> =
                requests.iter().map(|request| state.stage(&mut staged, request, &mut ended)).collect();
            (staged, answers)
        };
        if staged.is_empty() {
            return answers;
        }
        if let Some(file) = file
            && let Err(message) = file.commit(&staged)
        {
            let error = unavailable(file.path(), &message);
            let mut state = self.state();
            state.leases.extend(ended);
            state.failed = Some(message);
            return requests.iter().map(|_| Err(error.clone())).collect();
        }
        let mut state = self.state();
        let events = state.tree.apply(staged);
        self.notify(&mut state, &events);
        answers
    }

    /// After a failed commit: opens the file again and starts from what it holds.
    fn heal(self: &Arc<Self>, file: &mut Option<MetadataFile>) -> Result<(), MetadataError> {
        let failed = self.state().failed.is_some();
        let Some(file) = file.as_mut().filter(|_| failed) else { return Ok(()) };
        let tree = file.reopen()?;
        let mut state = self.state();
        state.tree = tree;
        state.failed = None;
        for index in 0..state.watchers.len() {
            let snapshot = state.snapshot(&state.watchers[index].prefix);
            self.deliver(&mut state.watchers[index], snapshot);
        }
        Ok(())
    }

    fn notify(self: &Arc<Self>, state: &mut State, events: &[WatchEvent]) {
        for watcher in &mut state.watchers {
            for event in events {
                let key = match event {
                    WatchEvent::Put(entry) => &entry.key,
                    WatchEvent::Delete { key, .. } => key,
                    WatchEvent::Snapshot { .. } => continue,
                };
                if watcher.wants(key) {
                    self.deliver(watcher, event.clone());
                }
            }
        }
        state.watchers.retain(|watcher| !watcher.sender.is_closed());
    }

    fn deliver(self: &Arc<Self>, watcher: &mut Watcher, event: WatchEvent) {
        if watcher.behind {
            return;
        }
        if let Err(TrySendError::Full(_)) = watcher.sender.try_send(event) {
            watcher.behind = true;
            self.pool.spawn(catch_up(Arc::downgrade(self), watcher.id, watcher.sender.clone()));
        }
    }
}

/// Drains the queue of one store on a thread that may block. If it never runs (the runtime is shutting down), the
/// waiting callers see the store as unavailable and the next one starts anew.
struct Drain {
    shared: Option<Arc<Shared>>,
}

impl Drain {
    fn run(mut self) {
        loop {
            let shared = self.shared.take().expect("put back by every turn but the last");
            let (requests, senders): (Vec<_>, Vec<_>) = std::mem::take(&mut shared.state().queue).into_iter().unzip();
            let answers = {
                let mut file = shared.file.lock().expect("no panic under the lock");
                shared.commit_group(&mut file, &requests.iter().collect::<Vec<_>>())
            };
            let more = {
                let mut state = shared.state();
                state.committing = !state.queue.is_empty();
                state.committing
            };
            // The store goes before the answers: a caller that drops it next has closed the file by then.
            match more {
                true => self.shared = Some(shared),
                false => drop(shared),
            }
            for (sender, answer) in senders.into_iter().zip(answers) {
                let _ = sender.send(answer);
            }
            if !more {
                return;
            }
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take()
            && let Ok(mut state) = shared.state.lock()
        {
            state.committing = false;
            state.queue.clear();
        }
    }
}

async fn finish(answer: oneshot::Receiver<Answer>) -> Answer {
    answer.await.unwrap_or_else(|_| {
        Err(MetadataError::Unavailable { message: "the embedded store stopped before it answered".to_owned() })
    })
}

/// Ends a lease when nobody has renewed it for its time to live.
async fn lease_timer(store: Weak<Shared>, lease: LeaseId, mut deadline: Instant) {
    loop {
        tokio::time::sleep_until(deadline).await;
        let Some(shared) = store.upgrade() else { return };
        let renewed = match shared.state().leases.get(&lease) {
            Some(held) => held.deadline,
            None => return,
        };
        if renewed > deadline {
            deadline = renewed;
            continue;
        }
        let answer = shared.enqueue(Request::EndLease { lease, only_if_due: true });
        drop(shared);
        match finish(answer).await {
            Ok(TxnOutcome::Committed(_)) | Err(MetadataError::LeaseExpired { .. }) => return,
            Ok(TxnOutcome::Rejected(_)) => {}
            Err(error) => {
                tracing::warn!(lease, %error, "the keys of an expired lease could not be deleted");
                tokio::time::sleep(LEASE_RETRY).await;
            }
        }
    }
}

/// Waits until a watcher that fell behind has room, then gives it a snapshot.
async fn catch_up(store: Weak<Shared>, id: u64, sender: mpsc::Sender<WatchEvent>) {
    let Ok(permit) = sender.reserve_owned().await else { return };
    let Some(shared) = store.upgrade() else { return };
    let mut state = shared.state();
    let Some(index) = state.watchers.iter().position(|watcher| watcher.id == id) else { return };
    permit.send(state.snapshot(&state.watchers[index].prefix));
    state.watchers[index].behind = false;
}

fn unavailable(path: &Path, message: &str) -> MetadataError {
    MetadataError::Unavailable { message: format!("file {}: {message}", path.display()) }
}

#[cfg(test)]
mod tests;
