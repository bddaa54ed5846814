use super::*;
use crate::clock::Clock;
use crate::storage::fault::{Fault, FaultStore};
use crate::storage::measured::MeasuredStore;
use crate::storage::memory::MemoryStore;
use crate::storage::retry::{RetryPolicy, RetryingStore};
use crate::storage::testkit::key;
use crate::storage::{ObjectStore, Payload};
use tokio_util::sync::CancellationToken;

struct Bed {
    faults: Arc<FaultStore>,
    store: MeasuredStore,
    health: Arc<S3Health>,
    created: u64,
}

impl Bed {
    fn new() -> Self {
        let faults = Arc::new(FaultStore::scripted(Arc::new(MemoryStore::new(Clock::system()))));
        let health = Arc::new(S3Health::new(HealthLimits::default()));
        let store = MeasuredStore::observed(faults.clone(), health.clone());
        Self { faults, store, health, created: 0 }
    }

    /// A create every 100 ms, and judgements as often as `run` has them.
    async fn creates(&mut self, count: u64, fault: Option<Fault>) -> Level {
        self.faults.set_outage(fault);
        for _ in 0..count {
            self.created += 1;
            let _ = self.store.create(&key(&self.created.to_string()), &Payload::new(vec![], 1)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.health.verdict().level
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_become_levels_and_levels_hold_producers_back() {
    let mut bed = Bed::new();
    let judging = crate::actors::runtime::IoPool::current().spawn(bed.health.clone().run());
    assert_eq!(bed.creates(50, None).await, Level::Healthy);
    assert_eq!((bed.health.throttle_ms(), bed.health.admits(0)), (0, true));

    assert_eq!(bed.creates(60, Some(Fault::Delay(Duration::from_millis(1_800)))).await, Level::Degraded);
    let throttle_ms = bed.health.throttle_ms();
    assert!((100..500).contains(&throttle_ms), "{throttle_ms}");
    assert!(bed.health.admits(1 << 20), "slow is not away");

    assert_eq!(bed.creates(50, Some(Fault::FailBefore)).await, Level::Unavailable);
    // With something to be repeated there is no need for probes; without, there is one in a while.
    assert!(!bed.health.admits(1));
    assert_eq!([bed.health.admits(0), bed.health.admits(0)], [true, false]);
    tokio::time::sleep(Duration::from_millis(PROBE_INTERVAL_MS)).await;
    assert_eq!([bed.health.admits(0), bed.health.admits(0)], [true, false]);
    assert_eq!(bed.health.refused(), 3);

    assert_eq!(bed.creates(400, None).await, Level::Healthy);
    assert!(bed.health.admits(u64::MAX));
    let changes = Level::ALL.map(|(level, _)| bed.health.transitions_to(level));
    assert_eq!(changes, [1, 2, 1]);
    judging.abort();
}

#[tokio::test(start_paused = true)]
async fn answers_that_say_no_are_answers() {
    let mut bed = Bed::new();
    bed.creates(1, None).await;
    for _ in 0..20 {
        bed.store.create(&key("1"), &Payload::new(vec![], 2)).await.unwrap_err();
        bed.store.get_range(&key("none"), 0..1).await.unwrap_err();
        bed.store.get_suffix(&key("none"), 1).await.unwrap_err();
    }
    bed.faults.set_outage(Some(Fault::FailBefore));
    for _ in 0..20 {
        bed.store.list("", None).await.unwrap_err();
        bed.store.delete(&[key("1")]).await.unwrap_err();
    }
    bed.health.judge();
    let seen = bed.health.verdict().seen;
    assert_eq!((seen.creates.attempts, seen.reads.attempts), (21, 40));
    assert_eq!((seen.creates.failures, seen.reads.failures), (0, 0));
}

/// After a failure that leaves the outcome open nothing but HEAD is sent until it is answered.
#[tokio::test(start_paused = true)]
async fn creates_in_doubt_that_cannot_be_resolved_are_an_outage() {
    let bed = Bed::new();
    let judging = crate::actors::runtime::IoPool::current().spawn(bed.health.clone().run());
    bed.faults.set_outage(Some(Fault::FailBefore));
    let store = RetryingStore::new(Arc::new(bed.store), RetryPolicy::default(), CancellationToken::new());
    let create = crate::actors::runtime::IoPool::current()
        .spawn(async move { store.create(&key("a"), &Payload::new(vec![], 1)).await });
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!((bed.health.verdict().level, bed.faults.calls(Op::Create)), (Level::Unavailable, 1));
    bed.faults.set_outage(None);
    create.await.unwrap().unwrap();
    assert_eq!((bed.faults.calls(Op::Create), bed.health.verdict().seen.creates.failures > 5), (2, true));
    judging.abort();
}
