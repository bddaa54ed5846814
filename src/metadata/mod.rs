//! Metadata: a small key-value store with revisions, compare-and-swap transactions, watches and leases.
//!
//! [`MetadataStore`] is etcd's model. `etcd` talks to a real etcd; `embedded` keeps the same semantics in a redb file
//! for `kafscale dev` (or in memory for simulations). One conformance suite runs against all of them.

pub mod admin;
pub mod coordination;
pub mod desired;
pub mod embedded;
pub mod etcd;
pub mod image;
pub mod keys;
pub mod model;
pub mod ownership;
pub mod placement;
pub mod read_replicas;
pub mod rollback;
mod tree;
pub mod watcher;

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::time::Duration;
use tokio::sync::mpsc;

/// Revision of the whole store; rises by one with each transaction that writes.
pub type Revision = i64;

/// A lease's id.
pub type LeaseId = i64;

/// A key with its value and revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Revision at which the key was created (since its last deletion).
    pub create_revision: Revision,
    /// Revision of the last write.
    pub mod_revision: Revision,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key's last write has this revision; 0 means the key does not exist.
    ModRevision(String, Revision),
    /// The key was created at this revision; 0 means the key does not exist.
    CreateRevision(String, Revision),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a value, bound to a lease if given (the key vanishes with the lease).
    Put(String, Bytes, Option<LeaseId>),
    /// Deletes a key if it exists.
    Delete(String),
}

/// A transaction: all compares hold, or nothing is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions, at most [`TXN_OPS_MAX`].
    pub compares: Vec<Compare>,
    /// Writes, at most [`TXN_OPS_MAX`].
    pub ops: Vec<Op>,
}

/// etcd's default `--max-txn-ops`: compares and writes are limited to this many each.
pub const TXN_OPS_MAX: usize = 128;

/// etcd's default `--max-request-bytes`, less some room for what surrounds the keys and values.
pub const TXN_BYTES_MAX: usize = 1_500_000;

impl Txn {
    /// What etcd would refuse, so that every store refuses it, with the same words.
    pub fn check_limits(&self) -> Result<(), MetadataError> {
        let refused = |message: String| Err(MetadataError::Refused { message });
        let most = self.compares.len().max(self.ops.len());
        if most > TXN_OPS_MAX {
            return refused(format!("a transaction of {most} operations exceeds the limit of {TXN_OPS_MAX}"));
        }
        let bytes: usize = self.ops.iter().map(|op| op.key().len() + op.value_len()).sum();
        if bytes > TXN_BYTES_MAX {
            return refused(format!("a transaction of {bytes} bytes exceeds the limit of {TXN_BYTES_MAX}"));
        }
        let mut keys: Vec<&str> = self.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return refused(format!("a transaction writes key {} twice", pair[0]));
        }
        Ok(())
    }
}

impl Op {
    /// The key it writes or deletes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, ..) | Self::Delete(key) => key,
        }
    }

    fn value_len(&self) -> usize {
        match self {
            Self::Put(_, value, _) => value.len(),
            Self::Delete(_) => 0,
        }
    }
}

/// What a transaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All compares held; the writes have this revision.
    Committed(Revision),
    /// A compare did not hold; nothing was written. The store's revision.
    Rejected(Revision),
}

/// A change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key was written.
    Put(Entry),
    /// A key was deleted or its lease ended.
    Delete {
        /// The key.
        key: String,
        /// Revision of the deletion.
        revision: Revision,
    },
    /// Everything below the prefix as it is now. Sent first, and again whenever events may have been missed
    /// (reconnection, compaction): forget what you knew.
    Snapshot {
        /// All entries below the prefix.
        entries: Vec<Entry>,
        /// The revision they were read at.
        revision: Revision,
    },
}

/// Why a metadata call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetadataError {
    /// No answer, or an answer that leaves the outcome unknown: a transaction may or may not have been applied.
    #[error("metadata store is unavailable: {message}")]
    Unavailable {
        /// The transport's or store's words.
        message: String,
    },
    /// The store refuses (authentication, permission, request too large, no space): trying again does not help soon.
    #[error("metadata store refuses the request: {message}")]
    Refused {
        /// The store's words, with what to check.
        message: String,
    },
    /// The lease does not exist (any more).
    #[error("lease {lease} has expired")]
    LeaseExpired {
        /// The lease.
        lease: LeaseId,
    },
    /// The store does not remember what it has told us: it was restored from a backup or replaced by another one.
    #[error("the metadata store went back: {message}; stop all brokers and run `kafscale recover`")]
    WentBack {
        /// What it does not remember.
        message: String,
    },
    /// A stored value cannot be read.
    #[error("metadata key {key} holds a value this version cannot read: {message}")]
    Malformed {
        /// The key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

/// A metadata store. Each call makes one attempt with the store's own time-out; callers own their retries, since only
/// they know whether an unknown outcome is harmless.
#[async_trait]
pub trait MetadataStore: Send + Sync + fmt::Debug + 'static {
    /// Linearizable read of one key.
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError>;

    /// Linearizable read of all keys that start with `prefix`, in key order, at one revision.
    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError>;

    /// Runs a transaction. After [`MetadataError::Unavailable`] the outcome is unknown.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError>;

    /// Watches all keys below `prefix`: a [`WatchEvent::Snapshot`] first, then changes in revision order. Survives
    /// reconnection (with a new snapshot where events may have been missed). Ends when the receiver is dropped. A slow
    /// receiver gets a new snapshot, never an unbounded queue.
    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent>;

    /// The same for the keys below `prefix` from `first` on, except those below `except`. A store may report the others, too.
    fn watch_some(&self, prefix: &str, first: &str, except: &str) -> mpsc::Receiver<WatchEvent> {
        let _unused = (first, except);
        self.watch(prefix)
    }

    /// Grants a lease that ends `ttl` after its last renewal.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, MetadataError>;

    /// Renews a lease once.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError>;

    /// Ends a lease and deletes its keys.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), MetadataError>;
}
