use super::*;
use crate::clock::Clock;
use crate::storage::fault::{Fault, FaultStore, Op};
use crate::storage::memory::MemoryStore;
use crate::storage::testkit::key;

/// A store under test over faults over memory, on paused time.
struct Bench {
    memory: Arc<MemoryStore>,
    faults: Arc<FaultStore>,
    cancel: CancellationToken,
    store: RetryingStore,
}

fn bench(policy: RetryPolicy) -> Bench {
    let memory = Arc::new(MemoryStore::new(Clock::simulated(1_000)));
    let faults = Arc::new(FaultStore::scripted(memory.clone()));
    let cancel = CancellationToken::new();
    let store = RetryingStore::new(faults.clone(), policy, cancel.clone());
    Bench { memory, faults, cancel, store }
}

fn plain() -> Bench {
    bench(RetryPolicy::default())
}

fn ours() -> Payload {
    Payload::new(vec![Bytes::from_static(b"ours")], 1)
}

fn others() -> Payload {
    Payload::new(vec![Bytes::from_static(b"ours")], 2)
}

/// Creates, heads, and whether it took longer than the shortest backoff.
async fn create_under(bench: &Bench, faults: &[Fault]) -> (Result<(), StoreError>, u64, u64) {
    bench.faults.script(Op::Create, faults.iter().cloned());
    let result = bench.store.create(&key("k"), &ours()).await;
    (result, bench.faults.calls(Op::Create), bench.faults.calls(Op::Head))
}

async fn assert_stored(bench: &Bench, payload: &Payload) {
    let head = bench.memory.head(&key("k")).await.unwrap().unwrap();
    assert!(is_ours(&head, payload));
}

#[tokio::test(start_paused = true)]
async fn ambiguous_failures_look_at_the_key_first() {
    use Fault::{FailAfter, FailBefore, Throttle};
    let late = Fault::LateApply(Duration::from_millis(1));
    let very_late = Fault::LateApply(Duration::from_secs(60));
    // faults of successive creates; creates and heads it takes
    let cases: &[(&[Fault], u64, u64)] = &[
        (&[], 1, 0),
        (&[FailAfter], 1, 1),                         // applied, answer lost: no second create
        (&[FailBefore], 2, 1),                        // nothing there: again
        (&[FailBefore, FailBefore, FailAfter], 3, 3), // a cut connection does not loop for ever
        (&[Throttle, Throttle], 3, 0),                // not ambiguous: no look
        (&[Throttle, FailAfter], 2, 1),
        (&[late], 2, 2),      // landed during the backoff: 412, look, ours
        (&[very_late], 2, 1), // lands after we have won: harmless
    ];
    for (faults, creates, heads) in cases {
        let bench = plain();
        let (result, c, h) = create_under(&bench, faults).await;
        assert!(result.is_ok(), "{faults:?}: {result:?}");
        assert_eq!((c, h), (*creates, *heads), "{faults:?}");
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_stored(&bench, &ours()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_is_a_clash_and_stays() {
    for faults in [vec![], vec![Fault::FailBefore], vec![Fault::FailAfter]] {
        let bench = plain();
        bench.memory.create(&key("k"), &others()).await.unwrap();
        let (result, _, heads) = create_under(&bench, &faults).await;
        assert!(matches!(result, Err(StoreError::AlreadyExists { .. })), "{faults:?}: {result:?}");
        assert_eq!(heads, 1);
        assert_stored(&bench, &others()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_create_of_the_same_bytes_succeeds() {
    let bench = plain();
    bench.store.create(&key("k"), &ours()).await.unwrap();
    bench.store.create(&key("k"), &ours()).await.unwrap();
    assert_eq!(bench.store.stats().creates_resolved.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn another_body_under_our_nonce_is_not_ours() {
    let bench = plain();
    let same_nonce = Payload::new(vec![Bytes::from_static(b"else")], 1);
    bench.memory.create(&key("k"), &same_nonce).await.unwrap();
    let (result, ..) = create_under(&bench, &[]).await;
    assert!(matches!(result, Err(StoreError::AlreadyExists { .. })), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn creates_outlast_an_outage_far_beyond_the_budget() {
    for outage in [Fault::FailBefore, Fault::FailAfter, Fault::Throttle] {
        let bench = Arc::new(plain());
        bench.faults.set_outage(Some(outage.clone()));
        let start = clock::monotonic();
        let create = async { bench.store.create(&key("k"), &ours()).await };
        let heal = async {
            tokio::time::sleep(Duration::from_secs(600)).await;
            bench.faults.set_outage(None);
        };
        let (result, ()) = tokio::join!(create, heal);
        result.unwrap();
        assert!(start.elapsed() < Duration::from_secs(604), "{outage:?}: goes on soon after the store has healed");
        let calls = bench.faults.calls(Op::Create) + bench.faults.calls(Op::Head);
        assert!(calls < 700, "{outage:?}: {calls} calls in 600 s");
        assert_stored(&bench, &ours()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_a_create_that_hangs() {
    for fault in [Fault::Hang, Fault::FailBefore] {
        let bench = plain();
        bench.faults.set_outage(Some(fault));
        let stop = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            bench.cancel.cancel();
        };
        let (key, payload) = (key("k"), ours());
        let (result, ()) = tokio::join!(bench.store.create(&key, &payload), stop);
        assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_handed_on_at_once() {
    let bench = plain();
    let (result, creates, _) = create_under(&bench, &[Fault::Refuse]).await;
    assert!(matches!(result, Err(StoreError::Refused { .. })), "{result:?}");
    assert_eq!(creates, 1);
}

#[tokio::test(start_paused = true)]
async fn reads_are_retried_a_bounded_number_of_times() {
    let bench = plain();
    bench.store.create(&key("k"), &ours()).await.unwrap();
    bench.faults.script(Op::GetRange, [Fault::FailBefore, Fault::Throttle, Fault::FailAfter]);
    assert_eq!(bench.store.get_range(&key("k"), 0..4).await.unwrap(), &b"ours"[..]);
    assert_eq!(bench.faults.calls(Op::GetRange), 4);
    bench.faults.set_outage(Some(Fault::FailBefore));
    bench.store.get_range(&key("k"), 0..4).await.unwrap_err();
    assert_eq!(bench.faults.calls(Op::GetRange), 4 + 6);
    let missing = bench.store.get_range(&key("missing"), 0..1).await;
    assert!(missing.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_succeed_is_not_retried() {
    let bench = plain();
    let result = bench.store.get_range(&key("missing"), 0..4).await;
    assert!(matches!(result, Err(StoreError::NotFound { .. })));
    assert_eq!(bench.faults.calls(Op::GetRange), 1);
}

#[tokio::test(start_paused = true)]
async fn in_a_long_outage_the_budget_stops_retries_of_reads() {
    let bench = plain();
    bench.faults.set_outage(Some(Fault::FailBefore));
    for _ in 0..1_000 {
        bench.store.get_range(&key("k"), 0..4).await.unwrap_err();
    }
    let calls = bench.faults.calls(Op::GetRange);
    assert!((1_200..=1_320).contains(&calls), "{calls} calls for 1,000 reads");
}

fn hedging() -> Bench {
    let hedge = HedgePolicy { delay_min: Duration::from_millis(20), quantile: 0.95 };
    bench(RetryPolicy { hedge: Some(hedge), ..RetryPolicy::default() })
}

/// Creates that take 50 ms each, so that there is an estimate and a budget.
async fn warm_up(bench: &Bench) {
    for i in 0..100 {
        bench.faults.script(Op::Create, [Fault::Delay(Duration::from_millis(50))]);
        bench.store.create(&key(&format!("warm/{i}")), &ours()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_create_is_hedged_and_the_first_answer_counts() {
    let slow = Fault::Delay(Duration::from_secs(5));
    let cases = [
        // the hedge wins; the hedge fails and the first is awaited; the first has landed and the hedge meets a 412
        (vec![slow.clone(), Fault::Delay(Duration::from_millis(10))], 61, 0),
        (vec![slow.clone(), Fault::FailBefore], 5_001, 0),
        (vec![Fault::Hang, Fault::FailAfter], 3_600_000, 0),
    ];
    for (faults, elapsed_ms_max, heads) in cases {
        let bench = hedging();
        warm_up(&bench).await;
        let before = bench.faults.calls(Op::Create);
        let start = clock::monotonic();
        bench.faults.script(Op::Create, faults.iter().cloned());
        let created = tokio::time::timeout(Duration::from_secs(3_000), bench.store.create(&key("k"), &ours())).await;
        if faults[0] == Fault::Hang {
            assert!(created.is_err(), "a time-out of the back end ends this in the product");
            continue;
        }
        created.unwrap().unwrap();
        assert!(start.elapsed() <= Duration::from_millis(elapsed_ms_max), "{faults:?}: {:?}", start.elapsed());
        assert_eq!(bench.faults.calls(Op::Create) - before, 2);
        assert_eq!(bench.faults.calls(Op::Head), heads);
        assert_stored(&bench, &ours()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_read_of_an_end_is_sent_again_and_the_first_answer_counts() {
    let slow = Fault::Delay(Duration::from_secs(5));
    let cases = [
        // the hedge answers; it fails and the first is awaited; nothing is slow; the store throttles
        (vec![slow.clone(), Fault::Pass], 100, 2),
        (vec![slow.clone(), Fault::FailBefore], 5_001, 2),
        (vec![Fault::Delay(Duration::from_millis(50))], 51, 1),
        (vec![Fault::Throttle, slow, Fault::Pass], 5_200, 2),
    ];
    for (faults, elapsed_ms_max, calls) in cases {
        let bench = hedging();
        bench.store.create(&key("k"), &ours()).await.unwrap();
        bench.faults.script(Op::GetSuffix, faults.iter().cloned());
        let start = clock::monotonic();
        assert_eq!(bench.store.get_suffix(&key("k"), 2).await.unwrap(), (Bytes::from_static(b"rs"), 4));
        assert!(start.elapsed() <= Duration::from_millis(elapsed_ms_max), "{faults:?}: {:?}", start.elapsed());
        assert_eq!(bench.faults.calls(Op::GetSuffix), calls, "{faults:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn both_attempts_landing_is_success() {
    let bench = hedging();
    warm_up(&bench).await;
    // The first lands at once but its answer takes a second; the hedge meets it and the key says it is ours.
    bench.memory.create(&key("k"), &ours()).await.unwrap();
    bench.faults.script(Op::Create, [Fault::Delay(Duration::from_secs(1))]);
    let start = clock::monotonic();
    bench.store.create(&key("k"), &ours()).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(100));
    assert_eq!(bench.faults.calls(Op::Head), 1);
    assert_eq!(bench.store.stats().hedges_won.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_look_does_not_hold_up_the_first_attempt() {
    let bench = hedging();
    warm_up(&bench).await;
    // The first takes 200 ms; meanwhile the hedge has landed, its answer says so too late, and nobody can look.
    bench.faults.script(Op::Create, [Fault::Delay(Duration::from_millis(200)), Fault::FailAfter]);
    bench.faults.script(Op::Head, [Fault::Hang]);
    let created = tokio::time::timeout(Duration::from_secs(60), bench.store.create(&key("k"), &ours())).await;
    assert!(created.is_err(), "the first attempt met a 412: only a look can say whose object it is");
    // The first attempt succeeds while the look is under way.
    let bench = hedging();
    warm_up(&bench).await;
    bench.faults.script(Op::Create, [Fault::Delay(Duration::from_millis(200)), Fault::FailBefore]);
    bench.faults.script(Op::Head, [Fault::Hang]);
    bench.store.create(&key("k"), &ours()).await.unwrap();
    assert_stored(&bench, &ours()).await;
}

#[tokio::test(start_paused = true)]
async fn no_hedge_while_the_store_throttles_and_few_in_all() {
    let bench = hedging();
    warm_up(&bench).await;
    bench.faults.script(Op::Create, [Fault::Throttle, Fault::Delay(Duration::from_secs(1))]);
    bench.store.create(&key("throttled"), &ours()).await.unwrap();
    assert_eq!(bench.store.stats().hedges.load(Ordering::Relaxed), 0);
    tokio::time::sleep(HEDGE_PAUSE).await;
    let before = bench.faults.calls(Op::Create);
    for i in 0..1_000 {
        // A store that is slow throughout: a hedge does not help and must not double the load.
        let delay = Duration::from_millis(if i % 2 == 0 { 50 } else { 400 });
        bench.faults.script(Op::Create, [Fault::Delay(delay)]);
        bench.store.create(&key(&format!("slow/{i}")), &ours()).await.unwrap();
    }
    let extra = bench.faults.calls(Op::Create) - before - 1_000;
    assert!(extra <= 60, "{extra} hedges for 1,000 creates");
}

fn ours_twice() -> Payload {
    Payload { twice: true, ..ours() }
}

#[tokio::test(start_paused = true)]
async fn twice_means_two_attempts_at_once_of_which_the_first_answer_counts() {
    let slow = Fault::Delay(Duration::from_secs(5));
    let quick = Fault::Delay(Duration::from_millis(10));
    // faults of the two; how long it takes, heads
    let cases = [
        (vec![slow.clone(), quick.clone()], 11, 0),
        (vec![quick.clone(), slow.clone()], 11, 0),
        (vec![Fault::Hang, quick.clone()], 11, 0),
        (vec![Fault::FailBefore, quick.clone()], 11, 0),
        (vec![slow.clone(), Fault::FailBefore], 5_001, 0),
        (vec![slow.clone(), Fault::FailAfter], 5_001, 1), // only the slow one's 412 tells to look
        (vec![Fault::FailBefore, Fault::FailBefore], 100, 1), // once more, and that is one attempt
    ];
    for (faults, elapsed_ms_max, heads) in cases {
        let bench = plain();
        bench.faults.script(Op::Create, faults.iter().cloned());
        let start = clock::monotonic();
        bench.store.create(&key("k"), &ours_twice()).await.unwrap();
        assert!(start.elapsed() <= Duration::from_millis(elapsed_ms_max), "{faults:?}: {:?}", start.elapsed());
        assert_eq!(bench.faults.calls(Op::Head), heads, "{faults:?}");
        assert!(bench.faults.calls(Op::Create) <= 3, "{faults:?}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_stored(&bench, &ours()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_slower_of_two_attempts_goes_on_and_few_payloads_are_sent_twice() {
    let bench = plain();
    for n in 0..TWICE_MAX as u64 + 2 {
        let attempts = if n < TWICE_MAX as u64 { 2 } else { 1 };
        let faults = [Fault::Delay(Duration::from_millis(1)), Fault::Delay(Duration::from_secs(60))];
        bench.faults.script(Op::Create, faults.into_iter().take(attempts));
        let before = bench.faults.calls(Op::Create);
        bench.store.create(&key(&format!("k{n}")), &ours_twice()).await.unwrap();
        assert_eq!(bench.faults.calls(Op::Create) - before, attempts as u64, "payload {n}");
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(bench.store.twice.available_permits(), TWICE_MAX, "those that went on have ended");
    let before = bench.faults.calls(Op::Create);
    bench.store.create(&key("k"), &ours_twice()).await.unwrap();
    assert_eq!(bench.faults.calls(Op::Create) - before, 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_twice_to_a_store_that_throttles() {
    let bench = plain();
    bench.faults.script(Op::Create, [Fault::Throttle]);
    bench.store.create(&key("a"), &ours()).await.unwrap();
    let before = bench.faults.calls(Op::Create);
    bench.store.create(&key("b"), &ours_twice()).await.unwrap();
    assert_eq!(bench.faults.calls(Op::Create) - before, 1);
}
