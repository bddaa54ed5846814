//! The metadata store of a cluster: etcd 3.5 or newer.
//!
//! Every call has a time-out, after which its outcome is unknown. One member is used at a time; when it fails, the
//! next call goes to the next endpoint (`connection`). Watches are re-established by a loop of ours (`watch`), since
//! the client library re-establishes nothing.
//!
//! Grants that the user of `KAFSCALE_ETCD_USERNAME` needs: read and write on the prefix `/kafscale/`.

use super::{Compare, Entry, LeaseId, MetadataError, MetadataStore, Op, Revision, Txn, TxnOutcome, WatchEvent};
use crate::actors::runtime::IoPool;
use async_trait::async_trait;
use bytes::Bytes;
use connection::{Connection, Connections, MESSAGE_BYTES_MAX};
use etcd_client::{CompareOp, GetOptions, KeyValue, PutOptions, TxnOp};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

mod connection;
pub mod members;
mod watch;

/// How long a call may take unless [`EtcdSettings`] say otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a renewal of a lease may take: when a member hangs, the others have to be asked before the lease is over.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What gRPC says of an answer above [`MESSAGE_BYTES_MAX`].
const TOO_LARGE: &str = "message length too large";

/// Keys per page of a prefix read, fewer where values are large.
const PAGE_KEYS: i64 = 1000;

/// Hears that etcd does not remember what it has told us ([`MetadataError::WentBack`]), before the call that noticed returns.
pub type WentBackHook = Arc<dyn Fn(&MetadataError) + Send + Sync>;

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdSettings {
    /// Members, each `http://host:port`, `https://host:port` or `host:port` (plaintext).
    pub endpoints: Vec<String>,
    /// User of etcd's basic authentication.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// How long a call may take.
    pub request_timeout: Duration,
    /// PEM certificates to trust for `https`, besides the system's.
    pub tls_ca_pem: Option<Vec<u8>>,
    /// PEM certificate chain and private key that `https` members are shown.
    pub tls_identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// For those who must not go on then, whatever they are doing.
    pub on_went_back: Option<WentBackHook>,
}

impl EtcdSettings {
    /// Settings without authentication.
    pub fn new(endpoints: Vec<String>) -> Self {
        let (username, password, request_timeout) = (None, None, REQUEST_TIMEOUT);
        let (tls_ca_pem, tls_identity_pem, on_went_back) = (None, None, None);
        Self { endpoints, username, password, request_timeout, tls_ca_pem, tls_identity_pem, on_went_back }
    }
}

impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, username, password, request_timeout, tls_ca_pem, tls_identity_pem, .. } = self;
        f.debug_struct("EtcdSettings")
            .field("endpoints", endpoints)
            .field("username", username)
            .field("password", &password.as_ref().map(|_| "…"))
            .field("request_timeout", request_timeout)
            .field("tls_ca_pem", &tls_ca_pem.is_some())
            .field("tls_identity_pem", &tls_identity_pem.is_some())
            .finish_non_exhaustive()
    }
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct EtcdStore {
    connections: Arc<Connections>,
    pool: IoPool,
}

impl EtcdStore {
    /// Connects to the first endpoint that answers. Call it inside the runtime that shall run the watches.
    pub async fn connect(settings: EtcdSettings) -> Result<Self, MetadataError> {
        let store = Self { connections: Arc::new(Connections::new(settings)?), pool: IoPool::current() };
        store.connections.call(|_| async { Ok(()) }).await?;
        Ok(store)
    }
}

#[async_trait]
impl MetadataStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        let connections = &self.connections;
        let request = |connection: Arc<Connection>| async move {
            let floor = connections.floor();
            let mut response = connection.kv().get(key, None).await?;
            connections.revision_of(response.header(), floor)?;
            Ok(response.take_kvs().into_iter().next().map(entry))
        };
        self.connections.call(request).await
    }

    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError> {
        self.connections.get_range(&KeyRange { first: prefix.to_owned(), end: prefix_end(prefix) }).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        txn.check_limits()?;
        let lease = txn.ops.iter().find_map(|op| match op {
            Op::Put(_, _, lease) => *lease,
            Op::Delete(_) => None,
        });
        let (txn, connections) = (request(txn), &self.connections);
        let request = |connection: Arc<Connection>| {
            let txn = txn.clone();
            async move {
                let floor = connections.floor();
                let response = connection.kv().txn(txn).await?;
                let revision = connections.revision_of(response.header(), floor)?;
                Ok(match response.succeeded() {
                    true => TxnOutcome::Committed(revision),
                    false => TxnOutcome::Rejected(revision),
                })
            }
        };
        let outcome = self.connections.call(request).await;
        name_lease(outcome, lease)
    }

    fn watch(&self, prefix: &str) -> mpsc::Receiver<WatchEvent> {
        self.watch_some(prefix, prefix, "")
    }

    /// etcd watches one range: what is in the middle of it is reported.
    fn watch_some(&self, prefix: &str, first: &str, _: &str) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(watch::EVENTS_MAX);
        let keys = KeyRange { first: first.to_owned(), end: prefix_end(prefix) };
        self.pool.spawn(watch::run(self.connections.clone(), keys, sender));
        receiver
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        let ttl_s = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let request = |connection: Arc<Connection>| async move {
            Ok(connection.client().lease_client().grant(ttl_s, None).await?.id())
        };
        self.connections.call(request).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        // One renewal per stream: a stream that outlived its connection would fail renewals without telling.
        let request = |connection: Arc<Connection>| async move {
            connection.client().lease_client().keep_alive(lease).await?;
            Ok(())
        };
        let limit = RENEWAL_TIMEOUT.min(self.connections.request_timeout());
        name_lease(self.connections.call_within(limit, request).await, Some(lease))
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), MetadataError> {
        let request = |connection: Arc<Connection>| async move {
            connection.client().lease_client().revoke(lease).await?;
            Ok(())
        };
        name_lease(self.connections.call(request).await, Some(lease))
    }
}

impl Connections {
    /// All keys of the range at one revision, in pages that fit a message.
    async fn get_range(&self, keys: &KeyRange) -> Result<(Vec<Entry>, Revision), MetadataError> {
        let (mut entries, mut revision): (Vec<Entry>, _) = (Vec::new(), None);
        let mut limit = PAGE_KEYS;
        loop {
            let from = match entries.last() {
                Some(last) => [last.key.as_bytes(), b"\0"].concat(),
                None => keys.start(),
            };
            let options = GetOptions::new().with_range(keys.end.clone()).with_limit(limit);
            let options = revision.map_or(options.clone(), |revision| options.with_revision(revision));
            let (page, at, more) = match self.page(from, options).await {
                Err(error) if limit > 1 && error.to_string().contains(TOO_LARGE) => {
                    limit = (limit / 4).max(1); // values of groups may have a megabyte each
                    continue;
                }
                other => other?,
            };
            revision.get_or_insert(at);
            let is_last = !more || page.is_empty();
            entries.extend(page);
            if is_last {
                return Ok((entries, revision.unwrap_or(at)));
            }
        }
    }

    async fn page(&self, key: Vec<u8>, options: GetOptions) -> Result<(Vec<Entry>, Revision, bool), MetadataError> {
        let request = |connection: Arc<Connection>| {
            let (key, options) = (key.clone(), options.clone());
            async move {
                let floor = self.floor();
                let mut response = connection.kv().get(key, Some(options)).await?;
                let entries = response.take_kvs().into_iter().map(entry).collect();
                Ok((entries, self.revision_of(response.header(), floor)?, response.more()))
            }
        };
        self.call(request).await
    }
}

/// Keys from `first` to before `end`.
#[derive(Debug, Clone)]
struct KeyRange {
    first: String,
    end: Vec<u8>,
}

impl KeyRange {
    /// etcd has no empty key.
    fn start(&self) -> Vec<u8> {
        if self.first.is_empty() { vec![0] } else { self.first.clone().into_bytes() }
    }
}

/// The first key after all keys that start with `prefix`.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0] // etcd's word for "no end"
}

fn request(txn: Txn) -> etcd_client::Txn {
    let compares: Vec<_> = txn
        .compares
        .into_iter()
        .map(|compare| match compare {
            Compare::ModRevision(key, r) => etcd_client::Compare::mod_revision(key, CompareOp::Equal, r),
            Compare::CreateRevision(key, r) => etcd_client::Compare::create_revision(key, CompareOp::Equal, r),
        })
        .collect();
    let ops: Vec<_> = txn
        .ops
        .into_iter()
        .map(|op| match op {
            Op::Put(key, value, lease) => {
                TxnOp::put(key, Vec::from(value), lease.map(|lease| PutOptions::new().with_lease(lease)))
            }
            Op::Delete(key) => TxnOp::delete(key, None),
        })
        .collect();
    etcd_client::Txn::new().when(compares).and_then(ops)
}

fn entry(kv: KeyValue) -> Entry {
    let (create_revision, mod_revision) = (kv.create_revision(), kv.mod_revision());
    let (key, value) = kv.into_key_value();
    // Keys of ours are ASCII; a foreign one below the prefix must not stop us, and none of ours is mistaken for it.
    let key = String::from_utf8(key).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Entry { key, value: Bytes::from(value), create_revision, mod_revision }
}

/// etcd does not say which lease it misses.
fn name_lease<T>(result: Result<T, MetadataError>, asked: Option<LeaseId>) -> Result<T, MetadataError> {
    result.map_err(|error| match (error, asked) {
        (MetadataError::LeaseExpired { .. }, Some(lease)) => MetadataError::LeaseExpired { lease },
        (error, _) => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end("/kafscale/a/"), b"/kafscale/a0");
        assert_eq!(prefix_end(""), [0]);
    }

    #[test]
    fn settings_hide_the_password() {
        let password = Some("hush".to_owned());
        let shown = format!("{:?}", EtcdSettings { password, ..EtcdSettings::new(vec!["a:1".into()]) });
        assert!(shown.contains("a:1") && !shown.contains("hush"), "{shown}");
    }
}
