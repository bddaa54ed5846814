//! The ledger against brokers that are broken on purpose (`src/sabotage.rs`): whoever judges the others must reject these.
//!
//! Each test runs the load of [`crate::workload`] with few kills against a broker with one defect, and demands that the
//! checker names a violation that follows from it, or that the broker's own assertions end it. The first test runs the
//! same load, seed and kills against the broker as it is.

use crate::checker::{Kind, Report};
use crate::harness::{Backend, Broker, Stack, size};
use crate::workload::{Plan, Rng, Workload};
use kafscale::cli::exit;
use kafscale::sabotage::VARIABLE;
use std::pin::pin;
use std::process::Command;
use std::time::Duration;

/// Of load and moments, unless `SEED` says otherwise.
const SEED: u64 = 20;
/// Most kills of any test here.
const KILLS_MAX: u64 = 3;
/// Batches acked before a kill, at least, and how many more it may be.
const ACKS_BEFORE_KILL_MIN: u64 = 30;
const ACKS_BEFORE_KILL_MORE: u64 = 50;

/// How a run ended.
#[derive(Debug)]
enum Verdict {
    /// With what the checker says, and the answers that no correct broker gives.
    Judged(Report, Vec<String>),
    /// The broker ended by itself, with this exit code.
    Ended(Option<i32>),
}

/// Runs the load with `kills` against a broker with this defect.
async fn short_ledger(sabotage: Option<&str>, kills: u64) -> Verdict {
    let mut envs = vec![("KAFSCALE_FLUSH_INTERVAL_MS", "20")];
    envs.extend(sabotage.map(|name| (VARIABLE, name)));
    let mut stack = Stack::start(sabotage.unwrap_or("unbroken"), Backend::Dev, &envs).await;
    let seed = size("SEED", SEED);
    let load = Workload::start(&stack.address(), Plan::new("broken", seed)).await;
    let mut rng = Rng(seed);
    for kill in 0..=kills {
        let acks = ACKS_BEFORE_KILL_MIN + rng.below(ACKS_BEFORE_KILL_MORE);
        if let Some(code) = ends_before(&mut stack.broker, load.wait_acks(acks)).await {
            return Verdict::Ended(code);
        }
        if kill < kills {
            load.fault("kill", true);
            stack.broker.kill9();
            stack.broker.relaunch();
            load.fault("kill", false);
        }
    }
    let (report, errors) = load.judge().await;
    eprintln!("{sabotage:?}, {kills} kills: {report}{} answers that end a producer", errors.len());
    Verdict::Judged(report, errors)
}

/// The exit code, if the broker ends by itself before `progress` is made.
async fn ends_before(broker: &mut Broker, progress: impl Future<Output = ()>) -> Option<Option<i32>> {
    let mut progress = pin!(progress);
    loop {
        tokio::select! {
            () = &mut progress => return None,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                if let Some(status) = broker.process.exited() {
                    return Some(status.code());
                }
            }
        }
    }
}

/// Asserts that the checker finds one of `kinds` in the history of a broker with this defect.
async fn assert_rejected(sabotage: &str, kills: u64, kinds: &[Kind]) {
    match short_ledger(Some(sabotage), kills).await {
        Verdict::Judged(report, _) => {
            let found = report.violations.iter().any(|v| kinds.contains(&v.kind));
            assert!(found, "{sabotage}: none of {kinds:?} was found: {report}");
        }
        Verdict::Ended(code) => panic!("{sabotage}: the broker ended with {code:?} before it could be judged"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_a_defect_is_accepted() {
    let Verdict::Judged(report, errors) = short_ledger(None, KILLS_MAX).await else { panic!("the broker ended") };
    report.assert_clean();
    assert_eq!(errors, Vec::<String>::new());
    assert!(report.acked_sends as u64 >= (KILLS_MAX + 1) * ACKS_BEFORE_KILL_MIN);
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_before_the_commit_is_found() {
    assert_rejected("ack-before-commit", KILLS_MAX, &[Kind::LostWrite, Kind::WrongAckedOffset]).await;
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_producers_are_found() {
    assert_rejected("forget-producers", 2, &[Kind::Duplicate]).await;
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_given_twice_is_found() {
    // One kill: with the next, recovery itself finds extents that overlap, and the broker does not start.
    assert_rejected("reuse-offset", 1, &[Kind::InconsistentOffset, Kind::WrongAckedOffset]).await;
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_stops_short_is_found() {
    assert_rejected("recover-short", KILLS_MAX, &[Kind::LostWrite, Kind::WrongAckedOffset]).await;
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_a_fetch_is_found() {
    assert_rejected("hole-in-fetch", 1, &[Kind::Hole]).await;
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_stored_twice_ends_the_process() {
    let verdict = short_ledger(Some("store-twice"), 0).await;
    assert!(matches!(verdict, Verdict::Ended(Some(code)) if code == i32::from(exit::SOFTWARE)), "{verdict:?}");
}

#[test]
fn a_release_build_refuses_the_variable() {
    let code = |value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafscale"));
        command.args(["check-config", "--component", "dev"]).env_clear().env(VARIABLE, value);
        command.output().expect("the program can be run").status.code()
    };
    let known = if cfg!(debug_assertions) { 0 } else { i32::from(exit::CONFIG) };
    assert_eq!(code("hole-in-fetch"), Some(known));
    assert_eq!(code("no-such-defect"), Some(exit::CONFIG.into()));
}
