//! The key-value tree of the embedded store: etcd's revisions, compares and leases as pure data.
//!
//! A change is decided against the tree ([`Staged::run`]), made durable by the caller, and only then applied
//! ([`Tree::apply`]), so that a reader never sees what a crash could take back. Between the two the tree must not
//! change; the embedded store has one committer.

use super::{Compare, Entry, LeaseId, MetadataError, Op, Revision, Txn, TxnOutcome, WatchEvent};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The lease of a value that is bound to none.
pub(super) const NO_LEASE: LeaseId = 0;

/// A value with its revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) value: Bytes,
    pub(super) create_revision: Revision,
    pub(super) mod_revision: Revision,
    /// [`NO_LEASE`] for none.
    pub(super) lease: LeaseId,
}

impl Stored {
    fn entry(&self, key: &str) -> Entry {
        Entry {
            key: key.to_owned(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
        }
    }
}

/// All keys at one revision.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    entries: BTreeMap<String, Stored>,
    revision: Revision,
}

impl Tree {
    /// A tree with these entries, last changed at `revision`. etcd's first revision is 1, and so is ours.
    pub(super) fn new(entries: BTreeMap<String, Stored>, revision: Revision) -> Self {
        Self { entries, revision: revision.max(1) }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// The same keys in a store that claims to be at a revision that is greater by `bump`.
    pub(super) fn bumped(mut self, bump: Revision) -> Self {
        self.revision += bump;
        self
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).map(|stored| stored.entry(key))
    }

    pub(super) fn get_prefix(&self, prefix: &str) -> Vec<Entry> {
        let from_prefix = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from_prefix.take_while(|(key, _)| key.starts_with(prefix)).map(|(key, stored)| stored.entry(key)).collect()
    }

    /// Keys bound to any lease.
    pub(super) fn leased_keys(&self) -> Vec<String> {
        self.entries.iter().filter(|(_, stored)| stored.lease != NO_LEASE).map(|(key, _)| key.clone()).collect()
    }

    /// Makes staged changes visible and returns them in the order in which they happened.
    pub(super) fn apply(&mut self, staged: Staged) -> Vec<WatchEvent> {
        self.revision = staged.revision;
        for (key, change) in staged.changes {
            match change {
                Some(stored) => self.entries.insert(key, stored),
                None => self.entries.remove(&key),
            };
        }
        staged.events
    }
}

/// Changes that are decided but not yet visible.
#[derive(Debug)]
pub(super) struct Staged {
    /// Final state of each changed key; `None` is deleted.
    changes: BTreeMap<String, Option<Stored>>,
    events: Vec<WatchEvent>,
    revision: Revision,
}

impl Staged {
    pub(super) fn new(tree: &Tree) -> Self {
        Self { changes: BTreeMap::new(), events: Vec::new(), revision: tree.revision }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = (&str, Option<&Stored>)> {
        self.changes.iter().map(|(key, change)| (key.as_str(), change.as_ref()))
    }

    /// Decides one transaction on top of what is staged already.
    pub(super) fn run(
        &mut self,
        tree: &Tree,
        txn: &Txn,
        lease_exists: impl Fn(LeaseId) -> bool,
    ) -> Result<TxnOutcome, MetadataError> {
        txn.check_limits()?;
        if !txn.compares.iter().all(|compare| self.holds(tree, compare)) {
            return Ok(TxnOutcome::Rejected(self.revision));
        }
        let leases = txn.ops.iter().filter_map(|op| match op {
            Op::Put(_, _, lease) => *lease,
            Op::Delete(_) => None,
        });
        if let Some(lease) = leases.into_iter().find(|lease| !lease_exists(*lease)) {
            return Err(MetadataError::LeaseExpired { lease });
        }
        let revision = self.revision + 1;
        for op in &txn.ops {
            match op {
                Op::Put(key, value, lease) => self.put(tree, key, value, lease.unwrap_or(NO_LEASE), revision),
                Op::Delete(key) => self.delete(tree, key, revision),
            }
        }
        Ok(TxnOutcome::Committed(self.revision))
    }

    /// Deletes the keys bound to `lease`, in one revision.
    pub(super) fn end_lease(&mut self, tree: &Tree, lease: LeaseId) {
        let mut keys: Vec<String> =
            tree.entries.iter().filter(|(_, stored)| stored.lease == lease).map(|(key, _)| key.clone()).collect();
        keys.extend(self.changes.keys().cloned());
        keys.retain(|key| self.current(tree, key).is_some_and(|stored| stored.lease == lease));
        keys.sort_unstable();
        keys.dedup();
        self.delete_all(tree, &keys);
    }

    /// Deletes `keys` in one revision.
    pub(super) fn delete_all(&mut self, tree: &Tree, keys: &[String]) {
        let revision = self.revision + 1;
        for key in keys {
            self.delete(tree, key, revision);
        }
    }

    fn current<'a>(&'a self, tree: &'a Tree, key: &str) -> Option<&'a Stored> {
        match self.changes.get(key) {
            Some(change) => change.as_ref(),
            None => tree.entries.get(key),
        }
    }

    fn holds(&self, tree: &Tree, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision(key, revision) => {
                self.current(tree, key).map_or(0, |stored| stored.mod_revision) == *revision
            }
            Compare::CreateRevision(key, revision) => {
                self.current(tree, key).map_or(0, |stored| stored.create_revision) == *revision
            }
        }
    }

    fn put(&mut self, tree: &Tree, key: &str, value: &Bytes, lease: LeaseId, revision: Revision) {
        let create_revision = self.current(tree, key).map_or(revision, |stored| stored.create_revision);
        let stored = Stored { value: value.clone(), create_revision, mod_revision: revision, lease };
        self.events.push(WatchEvent::Put(stored.entry(key)));
        self.changes.insert(key.to_owned(), Some(stored));
        self.revision = revision;
    }

    fn delete(&mut self, tree: &Tree, key: &str, revision: Revision) {
        if self.current(tree, key).is_some() {
            self.events.push(WatchEvent::Delete { key: key.to_owned(), revision });
            self.changes.insert(key.to_owned(), None);
            self.revision = revision;
        }
    }
}
