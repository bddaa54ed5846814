//! What every object store must do. Compiled into the unit tests, and into the integration tests for S3 servers.

use super::{ObjectKey, ObjectStore, Payload, StoreError, crc32c};
use bytes::Bytes;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name)
}

/// Runs everything on an empty store.
pub async fn run(store: &impl ObjectStore) {
    let payload = |text: &str, nonce| {
        let (a, b) = text.split_at(text.len() / 2);
        Payload::new(vec![Bytes::from(a.to_owned()), Bytes::new(), Bytes::from(b.to_owned())], nonce)
    };
    let not_found = |e: StoreError| assert!(matches!(e, StoreError::NotFound { .. }), "{e}");
    not_found(store.get_range(&key("n/a"), 0..1).await.unwrap_err());
    not_found(store.get_suffix(&key("n/a"), 1).await.unwrap_err());
    assert_eq!(store.head(&key("n/a")).await.unwrap(), None);
    store.delete(&[key("n/a")]).await.unwrap();

    store.create(&key("n/a"), &payload("hello world", 7)).await.unwrap();
    let second = store.create(&key("n/a"), &payload("HELLO WORLD", 8)).await.unwrap_err();
    assert!(matches!(second, StoreError::AlreadyExists { .. }), "{second}");
    let head = store.head(&key("n/a")).await.unwrap().unwrap();
    assert_eq!((head.len, head.nonce, head.crc32c), (11, Some(7), Some(crc32c(b"hello world"))));
    assert!(head.last_modified_ms > 1_500_000_000_000);
    assert_eq!(store.get_range(&key("n/a"), 0..11).await.unwrap(), &b"hello world"[..]);
    assert_eq!(store.get_range(&key("n/a"), 4..7).await.unwrap(), &b"o w"[..]);
    assert_eq!(store.get_range(&key("n/a"), 4..4).await.unwrap(), &b""[..]);
    for range in [0..12, 11..12, 500..600] {
        let beyond = store.get_range(&key("n/a"), range).await.unwrap_err();
        assert!(matches!(beyond, StoreError::Corrupt { .. }), "{beyond}");
    }
    assert_eq!(store.get_suffix(&key("n/a"), 5).await.unwrap(), (Bytes::from_static(b"world"), 11));
    assert_eq!(store.get_suffix(&key("n/a"), 50).await.unwrap(), (Bytes::from_static(b"hello world"), 11));
    assert_eq!(store.get_suffix(&key("n/a"), 0).await.unwrap(), (Bytes::new(), 11));

    store.create(&key("n/empty"), &Payload::new(vec![], 1)).await.unwrap();
    assert_eq!(store.get_suffix(&key("n/empty"), 5).await.unwrap(), (Bytes::new(), 0));
    assert_eq!(store.head(&key("n/empty")).await.unwrap().unwrap().len, 0);

    race(store).await;
    listing(store).await;
}

/// Of 16 creates at once exactly one wins, and the object is the winner's.
async fn race(store: &impl ObjectStore) {
    for round in 0..8 {
        let key = key(&format!("race/{round}"));
        let attempt = |n: u64| {
            let payload = Payload::new(vec![Bytes::from(vec![n as u8; 5_000])], n);
            let key = &key;
            async move { store.create(key, &payload).await.map(|()| n) }
        };
        let outcomes = futures::future::join_all((0..16).map(attempt)).await;
        let winners: Vec<u64> = outcomes.into_iter().filter_map(Result::ok).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(store.head(&key).await.unwrap().unwrap().nonce, Some(winners[0]));
        assert_eq!(store.get_range(&key, 0..5_000).await.unwrap(), vec![winners[0] as u8; 5_000]);
        store.delete(&[key]).await.unwrap();
    }
}

/// LIST: byte order, pages of 1,000, prefixes that end inside a name; DELETE of more than a page.
async fn listing(store: &impl ObjectStore) {
    let mut keys: Vec<ObjectKey> = (0..1_203).map(|i| key(&format!("list/{:03}/x{i:05}", i % 7))).collect();
    keys.extend(["list/000-a", "list/000.b", "list/0000", "list/zz", "list2/000/x"].map(key));
    for key in &keys {
        store.create(key, &Payload::new(vec![Bytes::from_static(b"12")], 1)).await.unwrap();
    }
    keys.sort();
    for prefix in ["list/", "list", "list/00", "list/003/", "list/000", "list/zz", "none/"] {
        let expected: Vec<&ObjectKey> = keys.iter().filter(|k| k.as_str().starts_with(prefix)).collect();
        let mut found: Vec<ObjectKey> = Vec::new();
        loop {
            let page = store.list(prefix, found.last()).await.unwrap();
            assert!(page.len() <= 1_000 && page.iter().all(|l| l.len == 2));
            if page.is_empty() {
                break;
            }
            found.extend(page.into_iter().map(|l| l.key));
        }
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "prefix {prefix}");
    }
    store.delete(&keys).await.unwrap();
    assert_eq!(store.list("list", None).await.unwrap(), vec![]);
}
