//! One conformance suite for every metadata store, and what only a real etcd can show: restarts, dead members,
//! authentication.

use crate::client::Client;
use crate::harness::{Broker, Etcd, READY_DEADLINE, TestDir, tool, wait_until};
use crate::process::{Process, free_port};
use bytes::Bytes;
use kafscale::metadata::admin;
use kafscale::metadata::embedded::EmbeddedStore;
use kafscale::metadata::etcd::{EtcdSettings, EtcdStore, WentBackHook};
use kafscale::metadata::keys::Keys;
use kafscale::metadata::model::CounterValue;
use kafscale::metadata::{
    Compare, Entry, LeaseId, MetadataError, MetadataStore, Op, Revision, TXN_BYTES_MAX, TXN_OPS_MAX, Txn, TxnOutcome,
    WatchEvent,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

type Store = Arc<dyn MetadataStore>;

#[tokio::test(start_paused = true)]
async fn embedded_in_memory_conforms() {
    conformance(&(Arc::new(EmbeddedStore::in_memory()) as Store)).await;
}

#[tokio::test(start_paused = true)]
async fn embedded_file_conforms() {
    let dir = TestDir::new("metadata");
    conformance(&(Arc::new(EmbeddedStore::open(dir.path().join("m.redb")).unwrap()) as Store)).await;
}

#[tokio::test]
async fn etcd_conforms() {
    let dir = TestDir::new("metadata");
    let etcd = Etcd::start(dir.path()).await;
    conformance(&(Arc::new(connect(&[&etcd.endpoint()]).await) as Store)).await;
}

async fn connect(endpoints: &[&str]) -> EtcdStore {
    EtcdStore::connect(settings(endpoints)).await.unwrap()
}

fn settings(endpoints: &[&str]) -> EtcdSettings {
    EtcdSettings::new(endpoints.iter().map(ToString::to_string).collect())
}

/// Everything the rest of Kafscale relies on. Each part has its own prefix.
async fn conformance(store: &Store) {
    compares(store).await;
    revisions(store).await;
    limits(store).await;
    prefixes(store).await;
    one_winner(store).await;
    watch_order(store).await;
    slow_watcher(store).await;
    leases(store).await;
    revoked_lease(store).await;
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(key.to_owned(), Bytes::from(value.to_owned()), None)
}

fn leased(key: &str, lease: LeaseId) -> Op {
    Op::Put(key.to_owned(), Bytes::from_static(b"leased"), Some(lease))
}

fn mod_is(key: &str, revision: Revision) -> Compare {
    Compare::ModRevision(key.to_owned(), revision)
}

fn created_is(key: &str, revision: Revision) -> Compare {
    Compare::CreateRevision(key.to_owned(), revision)
}

async fn run(store: &Store, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, MetadataError> {
    store.txn(Txn { compares, ops }).await
}

/// Runs a transaction that must commit; its revision.
async fn write(store: &Store, ops: Vec<Op>) -> Revision {
    match run(store, vec![], ops).await.unwrap() {
        TxnOutcome::Committed(revision) => revision,
        rejected => panic!("{rejected:?}"),
    }
}

async fn entry(store: &Store, key: &str) -> Entry {
    store.get(key).await.unwrap().unwrap_or_else(|| panic!("{key} is absent"))
}

async fn compares(store: &Store) {
    assert!(store.get("cmp/a").await.unwrap().is_none());
    let rejected = |outcome: TxnOutcome| matches!(outcome, TxnOutcome::Rejected(_));
    assert!(rejected(run(store, vec![mod_is("cmp/a", 1)], vec![put("cmp/a", "x")]).await.unwrap()));
    let created = run(store, vec![mod_is("cmp/a", 0), created_is("cmp/a", 0)], vec![put("cmp/a", "1")]).await.unwrap();
    let TxnOutcome::Committed(first) = created else { panic!("{created:?}") };
    for absent in [mod_is("cmp/a", 0), created_is("cmp/a", 0)] {
        assert_eq!(
            run(store, vec![absent], vec![put("cmp/a", "x")]).await.unwrap(),
            TxnOutcome::Rejected(first),
            "0 means absent"
        );
    }
    let second = write(store, vec![put("cmp/a", "2")]).await;
    // All compares must hold; one that does not is enough.
    let mixed = vec![created_is("cmp/a", first), mod_is("cmp/a", first)];
    assert!(rejected(run(store, mixed, vec![put("cmp/a", "x"), put("cmp/b", "x")]).await.unwrap()));
    let right = vec![created_is("cmp/a", first), mod_is("cmp/a", second), mod_is("cmp/b", 0)];
    let outcome = run(store, right, vec![Op::Delete("cmp/a".into()), put("cmp/b", "1")]).await.unwrap();
    assert_eq!(outcome, TxnOutcome::Committed(second + 1));
    assert!(store.get("cmp/a").await.unwrap().is_none());
    assert_eq!(entry(store, "cmp/b").await.value, "1");
}

async fn revisions(store: &Store) {
    let first = write(store, vec![put("rev/a", "1")]).await;
    let second = write(store, vec![put("rev/a", "2"), put("rev/b", "1")]).await;
    assert_eq!(second, first + 1, "one revision per transaction");
    let a = entry(store, "rev/a").await;
    assert_eq!((a.create_revision, a.mod_revision, a.value), (first, second, Bytes::from_static(b"2")));
    assert_eq!(write(store, vec![]).await, second, "nothing written, no revision");
    assert_eq!(write(store, vec![Op::Delete("rev/none".into())]).await, second, "nothing deleted, no revision");
    let gone = write(store, vec![Op::Delete("rev/a".into())]).await;
    let again = write(store, vec![put("rev/a", "3")]).await;
    assert_eq!((gone, again), (second + 1, second + 2));
    let a = entry(store, "rev/a").await;
    assert_eq!((a.create_revision, a.mod_revision), (again, again), "a key created again is a new key");
    assert_eq!(write(store, vec![put("rev/empty", "")]).await, again + 1);
    assert!(entry(store, "rev/empty").await.value.is_empty());
}

async fn limits(store: &Store) {
    let puts = |count: usize| (0..count).map(|n| put(&format!("limit/{n}"), "1")).collect::<Vec<_>>();
    let absent = |count: usize| (0..count).map(|n| mod_is(&format!("limit/none/{n}"), 0)).collect::<Vec<_>>();
    let full = run(store, absent(TXN_OPS_MAX), puts(TXN_OPS_MAX)).await.unwrap();
    assert!(matches!(full, TxnOutcome::Committed(_)));
    let big = |bytes: usize| vec![Op::Put("limit/big".into(), vec![b'x'; bytes].into(), None)];
    write(store, big(TXN_BYTES_MAX - 100)).await;
    let refused = [
        (absent(TXN_OPS_MAX + 1), vec![]),
        (vec![], puts(TXN_OPS_MAX + 1)),
        (vec![], big(TXN_BYTES_MAX + 1)),
        (vec![], vec![put("limit/twice", "1"), Op::Delete("limit/twice".into())]),
    ];
    for (compares, ops) in refused {
        let result = run(store, compares, ops).await;
        assert!(matches!(result, Err(MetadataError::Refused { .. })), "{result:?}");
    }
    assert!(store.get("limit/twice").await.unwrap().is_none());
}

async fn prefixes(store: &Store) {
    const KEYS: usize = 2500; // more than two pages of etcd's
    let keys: Vec<String> = (0..KEYS).map(|n| format!("prefix/{n:05}")).collect();
    for some in keys.chunks(TXN_OPS_MAX) {
        write(store, some.iter().map(|key| put(key, key)).collect()).await;
    }
    let last = write(store, vec![put("prefix0", "after"), put("prefi", "before")]).await;
    let (entries, revision) = store.get_prefix("prefix/").await.unwrap();
    assert_eq!(revision, last);
    assert_eq!(entries.iter().map(|e| e.key.clone()).collect::<Vec<_>>(), keys, "all, in order, and no other");
    assert!(entries.iter().all(|e| e.value == e.key));
    let (none, _) = store.get_prefix("prefix/none").await.unwrap();
    assert!(none.is_empty());
}

async fn one_winner(store: &Store) {
    let claims = (0..50).map(|n| run(store, vec![mod_is("cas/one", 0)], vec![put("cas/one", &n.to_string())].clone()));
    let claims = futures::future::join_all(claims).await;
    let won: Vec<_> = claims.iter().filter(|c| matches!(c, Ok(TxnOutcome::Committed(_)))).collect();
    let lost = claims.iter().filter(|c| matches!(c, Ok(TxnOutcome::Rejected(_)))).count();
    assert_eq!((won.len(), lost), (1, 49));

    let count = async || {
        for _ in 0..5 {
            let next = |found: Option<&CounterValue>| {
                Ok(Some(CounterValue { v: 1, next: found.map_or(1, |counter| counter.next + 1) }))
            };
            admin::update(&**store, "cas/counter", next).await.unwrap();
        }
    };
    futures::future::join_all((0..10).map(|_| count())).await;
    assert_eq!(entry(store, "cas/counter").await.value, "{\"v\":1,\"next\":50}");
}

/// What a watcher knows after the events it got.
#[derive(Debug, Default)]
struct Seen {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    snapshots: usize,
    changes: usize,
}

impl Seen {
    fn apply(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Snapshot { entries, revision } => {
                self.entries = entries.into_iter().map(|e| (e.key.clone(), e)).collect();
                (self.revision, self.snapshots) = (revision, self.snapshots + 1);
            }
            WatchEvent::Put(entry) => {
                assert!(self.snapshots > 0, "the snapshot comes first");
                assert!(entry.mod_revision >= self.revision, "revisions rise");
                (self.revision, self.changes) = (entry.mod_revision, self.changes + 1);
                self.entries.insert(entry.key.clone(), entry);
            }
            WatchEvent::Delete { key, revision } => {
                assert!(self.snapshots > 0, "the snapshot comes first");
                assert!(revision >= self.revision, "revisions rise");
                (self.revision, self.changes) = (revision, self.changes + 1);
                assert!(self.entries.remove(&key).is_some(), "{key} was deleted and not known");
            }
        }
    }

    async fn until(&mut self, watch: &mut mpsc::Receiver<WatchEvent>, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let next = tokio::time::timeout(READY_DEADLINE, watch.recv()).await;
            self.apply(next.unwrap_or_else(|_| panic!("no event; seen so far: {self:?}")).expect("the watch goes on"));
        }
    }
}

async fn watch_order(store: &Store) {
    write(store, vec![put("watch/old", "1"), put("watcher", "not below the prefix")]).await;
    let mut watch = store.watch("watch/");
    let mut seen = Seen::default();
    seen.until(&mut watch, |seen| seen.snapshots == 1).await;
    assert_eq!(seen.entries.keys().collect::<Vec<_>>(), ["watch/old"]);

    let revision = write(store, vec![put("watch/b", "1"), put("watch/a", "1"), put("watcher", "2")]).await;
    let first = watch.recv().await.unwrap();
    assert!(matches!(&first, WatchEvent::Put(e) if e.key == "watch/b" && e.mod_revision == revision), "{first:?}");
    seen.apply(first);
    write(store, vec![put("watch/a", "2")]).await;
    write(store, vec![Op::Delete("watch/a".into()), Op::Delete("watch/none".into())]).await;
    let last = write(store, vec![put("watch/a", "3")]).await;
    seen.until(&mut watch, |seen| seen.revision == last).await;
    assert_eq!((seen.snapshots, seen.changes), (1, 5), "every change once: {seen:?}");
    let (entries, _) = store.get_prefix("watch/").await.unwrap();
    assert_eq!(seen.entries.into_values().collect::<Vec<_>>(), entries);
}

async fn slow_watcher(store: &Store) {
    let mut slow = store.watch("slow/");
    let mut seen = Seen::default();
    seen.until(&mut slow, |seen| seen.snapshots == 1).await;
    // A second watcher that keeps up tells when the first one's queue has long been full.
    let (mut quick, mut quick_seen) = (store.watch("slow/"), Seen::default());
    let mut last = 0;
    for round in 0..40 {
        let ops = (0..100).map(|n| put(&format!("slow/{n}"), &round.to_string())).collect();
        last = write(store, ops).await;
        quick_seen.until(&mut quick, |seen| seen.revision >= last).await;
    }
    assert_eq!(slow.len(), slow.max_capacity(), "the queue is full, and bounded");
    seen.until(&mut slow, |seen| seen.revision >= last).await;
    assert_eq!(seen.snapshots, 2, "a snapshot stands for what did not fit");
    assert!(seen.entries.values().all(|e| e.value == "39"));
    let after = write(store, vec![Op::Delete("slow/0".into())]).await;
    seen.until(&mut slow, |seen| seen.revision >= after).await;
    assert_eq!((seen.entries.len(), seen.snapshots), (99, 2), "and changes follow as before");
}

async fn leases(store: &Store) {
    let ttl = Duration::from_secs(5);
    let (kept, left) = (store.lease_grant(ttl).await.unwrap(), store.lease_grant(ttl).await.unwrap());
    assert_ne!(kept, left);
    write(store, vec![leased("lease/kept", kept), leased("lease/left", left), leased("lease/freed", left)]).await;
    write(store, vec![put("lease/freed", "written again without the lease")]).await;
    let mut watch = store.watch("lease/");
    let mut seen = Seen::default();
    seen.until(&mut watch, |seen| seen.snapshots == 1).await;
    {
        let renew = async {
            loop {
                tokio::time::sleep(ttl / 5).await;
                store.lease_keep_alive(kept).await.unwrap();
            }
        };
        tokio::select! {
            () = renew => {}
            () = seen.until(&mut watch, |seen| !seen.entries.contains_key("lease/left")) => {}
        }
    }
    assert!(store.get("lease/left").await.unwrap().is_none());
    assert_eq!(entry(store, "lease/kept").await.value, "leased");
    assert_eq!(entry(store, "lease/freed").await.value, "written again without the lease");
    expired(store.lease_keep_alive(left).await, left);
    expired(run(store, vec![], vec![leased("lease/late", left)]).await, left);

    seen.until(&mut watch, |seen| !seen.entries.contains_key("lease/kept")).await;
    let (entries, revision) = store.get_prefix("lease/").await.unwrap();
    assert_eq!(seen.revision, revision, "an expiry takes a revision");
    assert_eq!(entries.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["lease/freed"]);
}

async fn revoked_lease(store: &Store) {
    let lease = store.lease_grant(Duration::from_secs(600)).await.unwrap();
    write(store, vec![leased("revoke/a", lease), leased("revoke/b", lease), put("revoke/c", "stays")]).await;
    let mut watch = store.watch("revoke/");
    let mut seen = Seen::default();
    seen.until(&mut watch, |seen| seen.snapshots == 1).await;
    store.lease_revoke(lease).await.unwrap();
    seen.until(&mut watch, |seen| seen.entries.len() == 1).await;
    let (entries, _) = store.get_prefix("revoke/").await.unwrap();
    assert_eq!(entries.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["revoke/c"]);
    expired(store.lease_keep_alive(lease).await, lease);
    expired(store.lease_revoke(lease).await, lease);
}

fn expired<T: std::fmt::Debug>(result: Result<T, MetadataError>, expected: LeaseId) {
    assert!(matches!(result, Err(MetadataError::LeaseExpired { lease }) if lease == expected), "{result:?}");
}

fn unavailable<T>(result: Result<T, MetadataError>) -> bool {
    matches!(result, Err(MetadataError::Unavailable { .. }))
}

#[tokio::test]
async fn a_watch_and_a_lease_survive_a_restart_of_etcd() {
    let dir = TestDir::new("metadata");
    let mut etcd = Etcd::start(dir.path()).await;
    let store: Store = Arc::new(connect(&[&etcd.endpoint()]).await);
    let lease = store.lease_grant(Duration::from_secs(60)).await.unwrap();
    write(&store, vec![leased("a/live", lease), put("a/b", "1")]).await;
    let mut watch = store.watch("a/");
    let mut seen = Seen::default();
    seen.until(&mut watch, |seen| seen.snapshots == 1).await;

    etcd.process.kill9();
    assert!(unavailable(store.get("a/b").await), "and not absent");
    assert!(unavailable(run(&store, vec![], vec![put("a/b", "lost")]).await));
    assert!(unavailable(store.lease_keep_alive(lease).await), "and not expired");
    etcd.restart().await;
    wait_until("the lease can be renewed", READY_DEADLINE, async || store.lease_keep_alive(lease).await.is_ok()).await;
    let revision = write(&store, vec![put("a/b", "2")]).await;
    seen.until(&mut watch, |seen| seen.revision >= revision).await;
    assert_eq!(seen.entries.keys().collect::<Vec<_>>(), ["a/b", "a/live"]);
    assert_eq!(seen.entries["a/b"].value, "2");
}

#[tokio::test]
async fn a_member_that_hangs_is_given_up_in_time() {
    let dir = TestDir::new("metadata");
    let mut etcd = Etcd::start(dir.path()).await;
    let request_timeout = Duration::from_secs(1);
    let settings = EtcdSettings { request_timeout, ..settings(&[&etcd.endpoint()]) };
    let store: Store = Arc::new(EtcdStore::connect(settings).await.unwrap());
    write(&store, vec![put("a", "1")]).await;
    etcd.process.pause();
    // The kernel takes a moment to stop all threads.
    wait_until("calls are given up", READY_DEADLINE, async || unavailable(store.get("a").await)).await;
    for _ in 0..2 {
        let error = store.get("a").await.unwrap_err();
        assert!(matches!(error, MetadataError::Unavailable { .. }) && error.to_string().contains("within"), "{error}");
    }
    etcd.process.resume();
    wait_until("etcd answers again", READY_DEADLINE, async || store.get("a").await.is_ok()).await;
}

#[tokio::test]
async fn dead_endpoints_are_skipped() {
    let (first_dir, second_dir) = (TestDir::new("metadata"), TestDir::new("metadata"));
    let mut first = Etcd::start(first_dir.path()).await;
    let second = Etcd::start(second_dir.path()).await;
    let dead = format!("127.0.0.1:{}", free_port());
    let error = EtcdStore::connect(settings(&[&dead])).await.unwrap_err();
    assert!(error.to_string().contains(&dead) && error.to_string().contains("refused"), "{error}");

    let heard = Arc::new(AtomicU64::new(0));
    let hears = heard.clone();
    let hook: WentBackHook = Arc::new(move |_| {
        hears.fetch_add(1, Ordering::Relaxed);
    });
    let all = settings(&[&dead, &first.endpoint(), &second.address()]);
    let all = EtcdSettings { on_went_back: Some(hook), ..all };
    let store: Store = Arc::new(EtcdStore::connect(all).await.unwrap());
    write(&store, vec![put("where", "first")]).await;
    first.process.kill9();
    // Not one cluster: the second answers, and is not taken for the one that it was.
    let is_another = |error: &MetadataError| matches!(error, MetadataError::WentBack { .. });
    wait_until("the second answers", READY_DEADLINE, async || store.get("where").await.is_err_and(|e| is_another(&e)))
        .await;
    assert!(heard.load(Ordering::Relaxed) > 0 && store.get_prefix("").await.is_err_and(|e| is_another(&e)));
}

#[tokio::test]
async fn compaction_under_a_watch_costs_a_snapshot() {
    let dir = TestDir::new("metadata");
    let etcd = Etcd::start(dir.path()).await;
    let store: Store = Arc::new(connect(&[&etcd.endpoint()]).await);
    let (mut watch, mut seen) = (store.watch("c/"), Seen::default());
    seen.until(&mut watch, |seen| seen.snapshots == 1).await;
    // The watcher falls behind, and what it missed is compacted before it comes back.
    let mut last = 0;
    for round in 0..40 {
        last = write(&store, (0..100).map(|n| put(&format!("c/{n}"), &round.to_string())).collect()).await;
    }
    etcdctl(&etcd, &["compact", &last.to_string()]);
    let after = write(&store, vec![Op::Delete("c/0".into())]).await;
    seen.until(&mut watch, |seen| seen.revision >= after).await;
    assert_eq!(seen.entries.len(), 99);
}

#[tokio::test]
async fn large_values_are_read_in_smaller_pages_and_a_watch_can_start_behind_them() {
    let dir = TestDir::new("metadata");
    let etcd = Etcd::start(dir.path()).await;
    let store: Store = Arc::new(connect(&[&etcd.endpoint()]).await);
    let large = "x".repeat(1_000_000);
    for n in 0..80 {
        write(&store, vec![put(&format!("all/a{n:02}"), &large)]).await; // more than one message may have
    }
    write(&store, vec![put("all/b", "1")]).await;
    let (entries, _) = store.get_prefix("all/").await.unwrap();
    assert_eq!(entries.len(), 81);
    assert!(entries.windows(2).all(|w| w[0].key < w[1].key));
    let (mut watch, mut seen) = (store.watch_some("all/", "all/b", ""), Seen::default());
    seen.until(&mut watch, |seen| seen.snapshots == 1).await;
    let last = write(&store, vec![put("all/a00", "2"), put("all/c", "3")]).await;
    seen.until(&mut watch, |seen| seen.revision >= last).await;
    assert_eq!(seen.entries.keys().map(String::as_str).collect::<Vec<_>>(), ["all/b", "all/c"]);
}

#[tokio::test]
async fn basic_authentication() {
    let dir = TestDir::new("metadata");
    let etcd = Etcd::start(dir.path()).await;
    let endpoint = etcd.endpoint();
    let with = |user: &str, password: &str| EtcdSettings {
        username: Some(user.to_owned()),
        password: Some(password.to_owned()),
        ..settings(&[&endpoint])
    };
    // Both kinds of clients are there before authentication is enabled.
    let early: Store = Arc::new(EtcdStore::connect(with("app", "secret")).await.unwrap());
    let anonymous: Store = Arc::new(connect(&[&endpoint]).await);
    let keys = Keys::new("auth");
    enable_authentication(&etcd, keys.root());

    let mine = keys.topic("a");
    write(&early, vec![put(&mine, "1")]).await;
    let (mut watch, mut seen) = (early.watch(keys.root()), Seen::default());
    seen.until(&mut watch, |seen| seen.snapshots == 1).await;
    let refused = [
        (anonymous.get(&mine).await.map(drop), "KAFSCALE_ETCD_USERNAME"),
        (EtcdStore::connect(with("app", "wrong")).await.map(drop), "KAFSCALE_ETCD_PASSWORD"),
        (early.get("/elsewhere").await.map(drop), "/kafscale/"),
        (run(&early, vec![], vec![put("/elsewhere", "1")]).await.map(drop), "/kafscale/"),
    ];
    for (result, advice) in refused {
        let refused = matches!(&result, Err(e @ MetadataError::Refused { .. }) if e.to_string().contains(advice));
        assert!(refused, "{result:?} should advise on {advice}");
    }

    // Tokens die with the authentication that issued them.
    etcdctl(&etcd, &["--user=root:root", "auth", "disable"]);
    etcdctl(&etcd, &["auth", "enable"]);
    let lease = early.lease_grant(Duration::from_secs(60)).await.unwrap();
    early.lease_keep_alive(lease).await.unwrap();
    let revision = write(&early, vec![leased(&mine, lease)]).await;
    seen.until(&mut watch, |seen| seen.revision >= revision).await;
    early.lease_revoke(lease).await.unwrap();
    seen.until(&mut watch, |seen| seen.entries.is_empty()).await;
}

/// An authority of our own, and a certificate that it signed for 127.0.0.1: PEM files below `dir`.
fn make_certificates(dir: &Path) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &ca).unwrap();
    for (name, pem) in [("ca.pem", ca.pem()), ("cert.pem", cert.pem()), ("key.pem", key.serialize_pem())] {
        std::fs::write(dir.join(name), pem).unwrap();
    }
}

/// etcd demands a certificate of its clients here, and a broker gets everything it needs from its configuration.
#[tokio::test]
async fn a_broker_reaches_etcd_over_tls_with_certificates_of_a_private_authority() {
    let dir = TestDir::new("metadata");
    let endpoint = format!("https://127.0.0.1:{}", free_port());
    let path = |name: &str| dir.path().join(name).display().to_string();
    make_certificates(dir.path());
    let args = [
        format!("--data-dir={}", path("etcd")),
        format!("--cert-file={}", path("cert.pem")),
        format!("--key-file={}", path("key.pem")),
        format!("--trusted-ca-file={}", path("ca.pem")),
        "--client-cert-auth".to_owned(),
        format!("--listen-client-urls={endpoint}"),
        format!("--advertise-client-urls={endpoint}"),
        format!("--listen-peer-urls=http://127.0.0.1:{}", free_port()),
        "--unsafe-no-fsync".to_owned(),
    ];
    let _process = Process::spawn("etcd", &tool("etcd"), &args, &[], &dir.path().join("etcd.log"));
    let ca_pem = std::fs::read(path("ca.pem")).unwrap();
    let identity = (std::fs::read(path("cert.pem")).unwrap(), std::fs::read(path("key.pem")).unwrap());
    let trusting = EtcdSettings { tls_ca_pem: Some(ca_pem), ..settings(&[&endpoint]) };
    let proving = EtcdSettings { tls_identity_pem: Some(identity), ..trusting.clone() };
    let connected = async || EtcdStore::connect(proving.clone()).await.is_ok();
    wait_until("etcd takes connections", READY_DEADLINE, connected).await;
    let error = EtcdStore::connect(settings(&[&endpoint])).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    EtcdStore::connect(trusting).await.expect_err("etcd wants to know who asks");

    let envs = [
        ("KAFSCALE_ETCD_ENDPOINTS", endpoint),
        ("KAFSCALE_ETCD_CA_FILE", path("ca.pem")),
        ("KAFSCALE_ETCD_CERT_FILE", path("cert.pem")),
        ("KAFSCALE_ETCD_KEY_FILE", path("key.pem")),
        ("KAFSCALE_USE_MEMORY_S3", "true".to_owned()),
    ];
    let mut broker = Broker::spawn("broker", &envs, &dir.path().join("broker.log"));
    broker.wait_ready().await;
    let mut client = Client::new(&broker.address());
    client.ensure_topic("secured", 1).await;
    assert_eq!(client.produce_values("secured", 0, &[b"value"]).await, 0);
    let store: Store = Arc::new(EtcdStore::connect(proving).await.unwrap());
    let (topics, _) = store.get_prefix(&Keys::new("default").topics()).await.unwrap();
    assert_eq!(topics.len(), 1, "the broker keeps its metadata there");
}

fn enable_authentication(etcd: &Etcd, prefix: &str) {
    for command in [
        "user add root:root",
        "user grant-role root root",
        "role add app",
        &format!("role grant-permission app --prefix=true readwrite {prefix}"),
        "user add app:secret",
        "user grant-role app app",
        "auth enable",
    ] {
        etcdctl(etcd, &command.split(' ').collect::<Vec<_>>());
    }
}

fn etcdctl(etcd: &Etcd, args: &[&str]) {
    let program: &Path = &tool("etcdctl");
    let output = Command::new(program).arg(format!("--endpoints={}", etcd.endpoint())).args(args).output().unwrap();
    assert!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
