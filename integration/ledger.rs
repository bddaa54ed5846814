//! SIGKILL of the broker at random moments under idempotent load: nothing acked is lost, doubled, moved or reordered.
//!
//! CI kills a few times; `make chaos KILLS=100 BACKEND=dev|s3` is the full size. The seed is printed and can be given back
//! (`SEED=…`): it decides the load and the moments, as far as a real machine lets it.

use crate::harness::{Backend, Stack, size};
use crate::workload::{Plan, Rng, Workload};
use std::time::Duration;

/// Kills between half a second before readiness and this many acked batches after it.
const ACKS_BEFORE_KILL_MAX: u64 = 150;

async fn kill_ledger(backend: Backend, kills_default: u64) {
    if std::env::var("BACKEND").is_ok_and(|only| only != format!("{backend:?}").to_lowercase()) {
        return; // the other half of `make chaos`
    }
    let kills = size("KILLS", kills_default);
    let seed = size("SEED", kafscale::rng::u64() >> 32);
    eprintln!("ledger on {backend:?}: {kills} kills, SEED={seed}");
    let mut rng = Rng(seed);
    let mut stack = Stack::start("ledger", backend, &[("KAFSCALE_FLUSH_INTERVAL_MS", "20")]).await;
    let load = Workload::start(&stack.address(), Plan::new("ledger", seed)).await;
    load.wait_acks(20).await;
    for kill in 1..=kills {
        if rng.below(5) == 0 {
            // While it starts, recovers and is being found by its clients again.
            tokio::time::sleep(Duration::from_millis(rng.below(500))).await;
        } else {
            stack.broker.wait_ready().await;
            load.wait_acks(1 + rng.below(ACKS_BEFORE_KILL_MAX)).await;
        }
        load.fault("kill", true);
        stack.broker.kill9();
        stack.broker.relaunch();
        load.fault("kill", false);
        if kill % 10 == 0 {
            eprintln!("{kill} kills, {} batches acked", load.acks());
        }
    }
    stack.broker.wait_ready().await;
    load.wait_acks(20).await;
    let report = load.finish().await;
    eprintln!("ledger on {backend:?}, {kills} kills, SEED={seed}: {report}");
    report.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_on_the_embedded_store() {
    kill_ledger(Backend::Dev, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_on_s3_and_etcd() {
    kill_ledger(Backend::S3, 3).await;
}
