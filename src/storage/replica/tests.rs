use super::breaker::{FAILURES_MAX, PAUSE_MS_MIN};
use super::*;
use crate::clock::Clock;
use crate::storage::fault::{Fault, FaultStore, Op};
use crate::storage::memory::MemoryStore;
use crate::storage::testkit::key;

/// A primary that has `a` and `b`, and a replica that has only `a`.
struct Bed {
    primary: Arc<FaultStore>,
    replica: Arc<FaultStore>,
    store: ReplicaStore,
}

const BODY: &[u8] = b"0123456789";

impl Bed {
    async fn new() -> Self {
        let memory = || Arc::new(FaultStore::scripted(Arc::new(MemoryStore::new(Clock::system()))));
        let (primary, replica) = (memory(), memory());
        let body = Payload::new(vec![Bytes::from_static(BODY)], 1);
        for (store, name) in [(&primary, "a"), (&primary, "b"), (&replica, "a")] {
            store.create(&key(name), &body).await.unwrap();
        }
        let store = ReplicaStore::new(primary.clone(), replica.clone());
        Self { primary, replica, store }
    }

    /// Reads the middle of an object both ways, as callers do.
    async fn read(&self, name: &str) {
        assert_eq!(self.store.get_range(&key(name), 2..5).await.unwrap(), &BODY[2..5]);
        assert_eq!(self.store.get_suffix(&key(name), 3).await.unwrap(), (Bytes::from_static(&BODY[7..]), 10));
    }

    /// Hits, misses, errors, timeouts, skipped.
    fn counts(&self) -> [u64; 5] {
        let s = self.store.stats();
        [&s.hits, &s.misses, &s.errors, &s.timeouts, &s.skipped].map(|n| n.load(Ordering::Relaxed))
    }

    fn primary_reads(&self) -> u64 {
        self.primary.calls(Op::GetRange) + self.primary.calls(Op::GetSuffix)
    }
}

#[tokio::test(start_paused = true)]
async fn each_outcome_is_counted_and_answered_from_where_the_bytes_are() {
    let table = [
        ("hit", "a", Fault::Pass, [2, 0, 0, 0, 0]),
        ("miss", "b", Fault::Pass, [0, 2, 0, 0, 0]),
        ("error", "a", Fault::FailBefore, [0, 0, 2, 0, 0]),
        ("throttled", "a", Fault::Throttle, [0, 0, 2, 0, 0]),
        ("refused", "a", Fault::Refuse, [0, 0, 2, 0, 0]),
        ("slow", "a", Fault::Delay(Duration::from_millis(400)), [2, 0, 0, 0, 0]),
        ("too slow", "a", Fault::Delay(Duration::from_secs(5)), [0, 0, 0, 2, 0]),
        ("dead", "a", Fault::Hang, [0, 0, 0, 2, 0]),
    ];
    for (case, name, fault, expected) in table {
        let bed = Bed::new().await;
        bed.replica.set_outage(Some(fault));
        let started = clock::monotonic();
        bed.read(name).await;
        assert_eq!(bed.counts(), expected, "{case}");
        assert_eq!(bed.primary_reads(), 2 - expected[0], "{case}");
        assert!(started.elapsed() <= (WAIT + Duration::from_millis(10)) * 2, "{case}: {:?}", started.elapsed());
        assert_eq!(bed.store.stats().bytes.load(Ordering::Relaxed), if expected[0] == 2 { 6 } else { 0 }, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_length_is_not_believed() {
    let bed = Bed::new().await;
    bed.replica.create(&key("b"), &Payload::new(vec![Bytes::from_static(b"01")], 1)).await.unwrap();
    assert_eq!(bed.store.get_range(&key("b"), 2..5).await.unwrap(), &BODY[2..5]);
    assert_eq!(bed.counts(), [0, 0, 1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_nowhere_is_not_found_and_failures_of_the_primary_are_told() {
    let bed = Bed::new().await;
    let missing = bed.store.get_range(&key("c"), 0..1).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    bed.primary.set_outage(Some(Fault::FailBefore));
    bed.read("a").await;
    let failed = bed.store.get_range(&key("b"), 0..1).await;
    assert!(matches!(failed, Err(StoreError::Unavailable { .. })), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn only_reads_go_to_the_replica() {
    let bed = Bed::new().await;
    let before = bed.replica.calls(Op::Create);
    bed.store.create(&key("c"), &Payload::new(vec![Bytes::from_static(BODY)], 1)).await.unwrap();
    assert!(bed.store.head(&key("b")).await.unwrap().is_some());
    assert_eq!(bed.store.list("", None).await.unwrap().len(), 3);
    bed.store.delete(&[key("a")]).await.unwrap();
    assert_eq!(bed.store.head(&key("a")).await.unwrap(), None);
    let others = [Op::Head, Op::List, Op::Delete, Op::GetRange, Op::GetSuffix].map(|op| bed.replica.calls(op));
    assert_eq!((bed.replica.calls(Op::Create), others), (before, [0; 5]));
}

#[tokio::test(start_paused = true)]
async fn a_dead_replica_costs_a_few_reads_their_wait_and_comes_back() {
    let bed = Bed::new().await;
    bed.replica.set_outage(Some(Fault::Hang));
    let started = clock::monotonic();
    for _ in 0..50 {
        bed.read("a").await;
    }
    assert!(started.elapsed() < (WAIT + Duration::from_millis(10)) * (FAILURES_MAX + 2), "{:?}", started.elapsed());
    let [hits, _, _, timeouts, skipped] = bed.counts();
    assert_eq!((hits, timeouts + skipped, bed.store.is_used()), (0, 100, false));
    bed.replica.set_outage(None);
    tokio::time::sleep(Duration::from_millis(4 * PAUSE_MS_MIN)).await;
    bed.read("a").await;
    assert_eq!((bed.counts()[0], bed.store.is_used()), (2, true));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_answer_at_the_start_is_left_alone_until_it_does() {
    let bed = Bed::new().await;
    bed.store.probe(&key("nothing")).await.unwrap();
    assert!(bed.store.is_used());
    bed.replica.set_outage(Some(Fault::Refuse));
    let refused = bed.store.probe(&key("nothing")).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    bed.read("a").await;
    assert_eq!((bed.counts(), bed.store.is_used()), ([0, 0, 0, 0, 2], false));
    bed.replica.set_outage(None);
    tokio::time::sleep(Duration::from_millis(PAUSE_MS_MIN)).await;
    bed.read("a").await;
    assert_eq!((bed.counts()[0], bed.store.is_used()), (2, true));
}
