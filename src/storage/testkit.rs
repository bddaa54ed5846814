//! Record batches for the tests of this folder. Their records are random bytes: nothing here looks into records.

use crate::ids::{LeaderEpoch, Offset, PartitionIndex, PartitionKey, TopicId};
use crate::protocol::batch::{BatchHeader, CRC_START, HEADER_LEN, StoredBatch};
use crate::storage::{ObjectKey, ObjectStore, Payload, StoreError, crc32c};
use bytes::Bytes;

/// Partition `n` of a fixed topic.
pub fn partition(n: i32) -> PartitionKey {
    PartitionKey { topic: TopicId(uuid::Uuid::from_u128(0x7011)), partition: PartitionIndex(n) }
}

/// An object key.
pub fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name)
}

/// A batch of `count` records as a producer sends it: base offset 0, `body_len` bytes of records.
pub fn wire_batch(count: i32, body_len: usize, max_timestamp: i64) -> Bytes {
    let mut bytes = vec![0u8; HEADER_LEN + body_len];
    bytes[8..12].copy_from_slice(&((HEADER_LEN - 12 + body_len) as i32).to_be_bytes());
    bytes[16] = 2;
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[27..35].copy_from_slice(&max_timestamp.to_be_bytes());
    bytes[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    bytes[43..51].copy_from_slice(&77i64.to_be_bytes());
    bytes[51..53].copy_from_slice(&3i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&9i32.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    let mut state = 0x2545_f491u32 ^ (count as u32) << 8 ^ body_len as u32;
    for byte in &mut bytes[HEADER_LEN..] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let crc = crc32c(&bytes[CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// The same, stored at `base`.
pub fn stored_batch(base: i64, count: i32, body_len: usize, max_timestamp: i64) -> StoredBatch {
    let wire = wire_batch(count, body_len, max_timestamp);
    let header = BatchHeader::parse(&wire).unwrap();
    StoredBatch::assign(&wire, &header, Offset(base), LeaderEpoch(5))
}

/// The batch's bytes in one piece.
pub fn batch_bytes(batch: &StoredBatch) -> Vec<u8> {
    [&batch.head[..], &batch.tail[..]].concat()
}

/// What every back end must do; run it on an empty store.
pub async fn conformance(store: &impl ObjectStore) {
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
pub async fn race(store: &impl ObjectStore) {
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
pub async fn listing(store: &impl ObjectStore) {
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
