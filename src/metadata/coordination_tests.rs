//! Claims and fenced writes against the embedded store, with answers that get lost and attempts that arrive late.

use super::*;
use crate::metadata::embedded::EmbeddedStore;
use crate::metadata::model::LiveValue;
use crate::metadata::ownership::Ownership;
use crate::metadata::{LeaseId, WatchEvent};
use async_trait::async_trait;
use std::sync::Mutex;
use tokio::sync::mpsc;

/// What becomes of a transaction.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// It does not reach the store; no answer.
    Lost,
    /// It is applied, the answer is lost.
    Unanswered,
    /// It arrives later, when the test says so; no answer.
    Late,
}

#[derive(Debug)]
struct Flaky {
    inner: EmbeddedStore,
    fates: Mutex<Vec<Fate>>,
    late: Mutex<Vec<Txn>>,
}

impl Flaky {
    async fn arrive(&self) -> Vec<TxnOutcome> {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        let mut outcomes = Vec::new();
        for txn in late {
            outcomes.push(self.inner.txn(txn).await.unwrap());
        }
        outcomes
    }
}

#[async_trait]
impl MetadataStore for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Entry>, MetadataError> {
        self.inner.get(key).await
    }
    async fn get_prefix(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), MetadataError> {
        self.inner.get_prefix(prefix).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetadataError> {
        txn.check_limits()?;
        let fate = self.fates.lock().unwrap().pop();
        match fate {
            None => return self.inner.txn(txn).await,
            Some(Fate::Lost) => {}
            Some(Fate::Unanswered) => drop(self.inner.txn(txn).await?),
            Some(Fate::Late) => self.late.lock().unwrap().push(txn),
        }
        Err(MetadataError::Unavailable { message: "no answer".into() })
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

struct Bed {
    store: Arc<Flaky>,
    ownership: Ownership,
    keys: Keys,
}

impl Bed {
    fn new() -> Self {
        let (inner, keys) = (EmbeddedStore::in_memory(), Keys::new("test"));
        let store = Arc::new(Flaky { inner, fates: Mutex::default(), late: Mutex::default() });
        Self { ownership: Ownership::new(store.clone(), keys.clone()), store, keys }
    }

    async fn writer(&self, id: u64) -> Coordination {
        let live = LiveValue::sample(1);
        let registration = self.ownership.register(WriterId(id), id, &live, Duration::from_secs(3_600)).await.unwrap();
        Coordination::new(self.store.clone(), self.keys.clone(), &registration)
    }

    fn put(&self, value: &'static str) -> Vec<Op> {
        vec![Op::Put(self.keys.group("g"), Bytes::from_static(value.as_bytes()), None)]
    }

    async fn stored(&self) -> String {
        let entry = self.store.get(&self.keys.group("g")).await.unwrap().unwrap();
        String::from_utf8(entry.value.to_vec()).unwrap()
    }

    fn fates(&self, fates: &[Fate]) {
        *self.store.fates.lock().unwrap() = fates.iter().rev().copied().collect();
    }
}

fn all() -> BTreeSet<u32> {
    (0..50).collect()
}

fn touched() -> BTreeSet<u32> {
    BTreeSet::from([3])
}

#[tokio::test(start_paused = true)]
async fn claims_everything_free_and_counts_epochs() {
    let bed = Bed::new();
    let first = bed.writer(1).await;
    assert_eq!(first.claim(&all()).await.unwrap().shards().len(), 50);
    let second = bed.writer(2).await;
    assert!(second.claim(&all()).await.unwrap().shards().is_empty(), "the owner is alive");
    bed.ownership.seal(WriterId(1), true).await.unwrap();
    assert_eq!(second.claim(&all()).await.unwrap().shards().len(), 50);
    let entry = bed.store.get(&bed.keys.shard(7)).await.unwrap().unwrap();
    let value: ShardValue = model::decode(&entry).unwrap();
    assert_eq!(value, ShardValue { v: 1, owner: Some(WriterId(2)), epoch: LeaderEpoch(1) });
    assert_eq!(bed.store.get(&bed.keys.group_writes(WriterId(1))).await.unwrap(), None, "cleaned up");
    assert!(matches!(first.claim(&all()).await, Err(ClaimError::Fenced(WriterId(1)))));
}

#[tokio::test(start_paused = true)]
async fn a_sealed_or_superseded_owner_writes_nothing_more() {
    let bed = Bed::new();
    let first = bed.writer(1).await;
    let mut claim = first.claim(&all()).await.unwrap();
    first.write(&mut claim, &touched(), bed.put("1")).await.unwrap();
    let mut before = claim.clone();
    let mut again = first.claim(&all()).await.unwrap(); // as after a failure of the actor
    assert_eq!(first.write(&mut before, &touched(), bed.put("old")).await, Err(ClaimLost));
    first.write(&mut again, &touched(), bed.put("2")).await.unwrap();
    bed.ownership.seal(WriterId(1), true).await.unwrap();
    assert_eq!(first.write(&mut again, &touched(), bed.put("late")).await, Err(ClaimLost));
    assert_eq!(bed.stored().await, "2");
}

#[tokio::test(start_paused = true)]
async fn lost_answers_are_resolved() {
    let bed = Bed::new();
    let writer = bed.writer(1).await;
    let mut claim = writer.claim(&all()).await.unwrap();
    for (n, fates) in [
        &[Fate::Lost, Fate::Lost][..],
        &[Fate::Unanswered],
        &[Fate::Unanswered, Fate::Lost],
        &[Fate::Lost, Fate::Unanswered],
    ]
    .into_iter()
    .enumerate()
    {
        bed.fates(fates);
        let value = ["a", "b", "c", "d"][n];
        writer.write(&mut claim, &touched(), bed.put(value)).await.unwrap();
        assert_eq!(bed.stored().await, value);
    }
    let (_, revision) = bed.store.get_prefix("").await.unwrap();
    writer.write(&mut claim, &touched(), bed.put("e")).await.unwrap();
    assert_eq!(bed.store.get_prefix("").await.unwrap().1, revision + 1, "and nothing was written twice");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_arrives_late_brings_nothing_back() {
    let bed = Bed::new();
    let writer = bed.writer(1).await;
    let mut claim = writer.claim(&all()).await.unwrap();
    bed.fates(&[Fate::Late]);
    writer.write(&mut claim, &touched(), bed.put("old")).await.unwrap();
    writer.write(&mut claim, &touched(), bed.put("new")).await.unwrap();
    assert!(matches!(bed.store.arrive().await[..], [TxnOutcome::Rejected(_)]));
    assert_eq!(bed.stored().await, "new");
    // The same across a claim.
    bed.fates(&[Fate::Late]);
    let mut before = claim.clone();
    let shards = touched();
    let lost = tokio::time::timeout(Duration::from_millis(1), writer.write(&mut before, &shards, bed.put("x")));
    assert!(lost.await.is_err(), "waits to try again");
    let mut claim = writer.claim(&all()).await.unwrap();
    assert!(matches!(bed.store.arrive().await[..], [TxnOutcome::Rejected(_)]));
    writer.write(&mut claim, &touched(), bed.put("last")).await.unwrap();
    assert_eq!(writer.write(&mut before, &touched(), bed.put("y")).await, Err(ClaimLost));
    assert_eq!(bed.stored().await, "last");
}

#[tokio::test(start_paused = true)]
async fn a_write_of_the_largest_batch_fits_a_transaction() {
    use crate::actors::group::writes::KEYS_MAX;
    let bed = Bed::new();
    let writer = bed.writer(1).await;
    let mut claim = writer.claim(&all()).await.unwrap();
    let ops = (0..KEYS_MAX).map(|n| Op::Put(bed.keys.group(&format!("g{n}")), Bytes::new(), None)).collect();
    writer.write(&mut claim, &(0..50).collect(), ops).await.unwrap();
    assert_eq!(writer.groups().await.unwrap().len(), KEYS_MAX);
}
