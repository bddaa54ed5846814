//! What the embedded store does beyond the conformance suite: its file.

use super::*;
use crate::metadata::{Compare, Op};
use bytes::Bytes;

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Txn {
    Txn { compares: vec![], ops: vec![Op::Put(key.to_owned(), Bytes::from(value.to_owned()), lease)] }
}

#[tokio::test]
async fn everything_but_leased_keys_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    store.txn(put("a", "1", None)).await.unwrap();
    store.txn(put("a", "2", None)).await.unwrap();
    let lease = store.lease_grant(Duration::from_secs(600)).await.unwrap();
    store.txn(put("live", "me", Some(lease))).await.unwrap();
    let before = store.get("a").await.unwrap();
    let (_, revision) = store.get_prefix("").await.unwrap();
    drop(store);

    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.get("a").await.unwrap(), before);
    let (entries, after) = store.get_prefix("").await.unwrap();
    assert_eq!((entries.len(), after), (1, revision + 1), "deleting the leased key took a revision");
    assert!(matches!(store.lease_keep_alive(lease).await, Err(MetadataError::LeaseExpired { .. })));
}

#[tokio::test]
async fn a_file_in_use_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.redb");
    let _store = EmbeddedStore::open(&path).unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, MetadataError::Refused { .. }));
    assert!(error.to_string().contains("another kafscale uses this data folder"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.redb");
    std::fs::write(&path, vec![7; 100_000]).unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(error.to_string().contains("metadata.redb"), "{error}");
}

#[tokio::test]
async fn transactions_that_wait_share_a_commit_and_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(folder.path().join("metadata.redb")).unwrap());
    let cas = |n: usize| Txn {
        compares: vec![Compare::ModRevision("winner".to_owned(), 0)],
        ops: vec![Op::Put("winner".to_owned(), Bytes::from(n.to_string()), None)],
    };
    let outcomes = futures::future::join_all((0..200).map(|n| store.txn(cas(n)))).await;
    let committed = outcomes.iter().filter(|o| matches!(o, Ok(TxnOutcome::Committed(_)))).count();
    let rejected = outcomes.iter().filter(|o| matches!(o, Ok(TxnOutcome::Rejected(_)))).count();
    assert_eq!((committed, rejected), (1, 199));
    assert_eq!(store.get("winner").await.unwrap().unwrap().mod_revision, 2);
}

#[tokio::test]
async fn after_a_failed_commit_the_file_decides() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path().join("metadata.redb")).unwrap();
    store.txn(put("a", "1", None)).await.unwrap();
    let mut watch = store.watch("");
    assert!(matches!(watch.recv().await, Some(WatchEvent::Snapshot { .. })));
    store.shared.file.lock().unwrap().as_mut().unwrap().close();
    assert!(matches!(store.txn(put("a", "2", None)).await, Err(MetadataError::Unavailable { .. })));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "1", "the file was opened again and read");
    store.txn(put("a", "3", None)).await.unwrap();
    assert!(matches!(watch.recv().await, Some(WatchEvent::Snapshot { entries, .. }) if entries.len() == 1));
    assert!(matches!(watch.recv().await, Some(WatchEvent::Put(entry)) if entry.value == "3"));
}

#[tokio::test]
async fn a_watch_of_some_keys_is_told_of_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path().join("metadata.redb")).unwrap();
    let mut watch = store.watch_some("r/", "r/b", "r/w/");
    assert!(matches!(watch.recv().await, Some(WatchEvent::Snapshot { .. })));
    for key in ["r/a", "r/b", "r/w/1", "s", "r/x"] {
        store.txn(put(key, "1", None)).await.unwrap();
    }
    for expected in ["r/b", "r/x"] {
        assert!(matches!(watch.recv().await, Some(WatchEvent::Put(entry)) if entry.key == expected), "{expected}");
    }
    assert!(watch.try_recv().is_err(), "nothing else came");
}

#[tokio::test]
async fn the_revision_survives_whatever_came_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.redb");
    let delete = || Txn { compares: vec![], ops: vec![Op::Delete("a".to_owned())] };
    for last in [put("a", "1", None), put("b", "1", None), delete(), put("a", "2", None)] {
        let store = EmbeddedStore::open(&path).unwrap();
        let (_, before) = store.get_prefix("").await.unwrap();
        assert_eq!(store.txn(last).await.unwrap(), TxnOutcome::Committed(before + 1));
        drop(store);
        let (_, after) = EmbeddedStore::open(&path).unwrap().get_prefix("").await.unwrap();
        assert_eq!(after, before + 1);
    }
}
