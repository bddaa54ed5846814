//! S3 or etcd fail for a while and heal: nothing is lost or doubled, producers go on by themselves, memory stays bounded.
//!
//! Each fault lasts `DURATION_SEC` (CI: 5; `make chaos-faults DURATION_SEC=30` is the full size) while the producers of
//! [`crate::workload`] push as fast as they are let. The broker is never restarted.

use crate::harness::{Backend, Stack, size};
use crate::workload::{Plan, Workload};
use std::time::Duration;

/// Resident memory of the broker at any time during a fault.
const RSS_BYTES_MAX: u64 = 512 << 20;

struct Trial {
    stack: Stack,
    load: Workload,
    rss_max_bytes: u64,
    seconds: u64,
    pid: u32,
}

impl Trial {
    async fn start(name: &str) -> Self {
        let seed = size("SEED", kafscale::rng::u64() >> 32);
        let seconds = size("DURATION_SEC", 5);
        eprintln!("{name}: {seconds} s per fault, SEED={seed}");
        let stack = Stack::start(name, Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "50")]).await;
        let load = Workload::start(&stack.address(), Plan::new(name, seed)).await;
        load.wait_acks(50).await;
        let pid = stack.broker.process.pid();
        Self { stack, load, rss_max_bytes: 0, seconds, pid }
    }

    /// Marks the beginning of a fault that was just made, and lets it last.
    async fn last(&mut self, what: &str) {
        self.load.fault(what, true);
        for _ in 0..self.seconds * 5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.rss_max_bytes = self.rss_max_bytes.max(self.stack.broker.process.rss_bytes());
        }
    }

    /// Marks its end, and waits until the producers have got on without help.
    async fn healed(&mut self, what: &str) {
        self.load.fault(what, false);
        self.load.wait_acks(50).await;
        let ended = self.stack.broker.process.exited();
        assert!(ended.is_none(), "the broker ended with {ended:?} because of {what}");
        eprintln!("{what}: healed, {} batches acked", self.load.acks());
    }

    /// A fault of the proxy.
    async fn proxy_fault(&mut self, what: &str, rates: &str, off: &str) {
        self.stack.proxy().set(rates).await;
        self.last(what).await;
        self.stack.proxy().set(off).await;
        self.healed(what).await;
    }

    async fn finish(self, name: &str) {
        let report = self.load.finish().await;
        eprintln!("{name}: {report}greatest RSS {} MiB", self.rss_max_bytes >> 20);
        report.assert_clean();
        assert!(self.rss_max_bytes <= RSS_BYTES_MAX, "{} bytes resident", self.rss_max_bytes);
        assert_eq!(self.stack.broker.process.pid(), self.pid, "nobody restarted the broker");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_that_errs_and_vanishes_loses_nothing() {
    let mut trial = Trial::start("s3-faults").await;
    trial.proxy_fault("a third of the requests fail", "500=0.15&503=0.15&409=0.05", "500=0&503=0&409=0").await;
    trial.proxy_fault("applied, but answered 500 or cut", "applied500=0.2&lost=0.2", "applied500=0&lost=0").await;
    trial.proxy_fault("cut now, applied later", "late=0.2&late_ms=700", "late=0").await;
    trial.proxy_fault("only SlowDown", "503=1", "503=0").await;
    trial.proxy_fault("only 500", "500=1", "500=0").await;

    trial.stack.s3().process.pause();
    trial.last("no answer at all").await;
    trial.stack.s3().process.resume();
    trial.healed("no answer at all").await;

    trial.stack.s3().process.kill9();
    trial.last("connection refused").await;
    trial.stack.s3().restart().await;
    trial.healed("connection refused").await;
    trial.finish("s3-faults").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_that_hangs_and_vanishes_loses_nothing() {
    let mut trial = Trial::start("etcd-faults").await;
    trial.stack.etcd().process.pause();
    trial.last("etcd does not answer").await;
    trial.stack.etcd().process.resume();
    trial.healed("etcd does not answer").await;

    trial.stack.etcd().process.kill9();
    trial.last("etcd is gone").await;
    trial.stack.etcd().restart().await;
    trial.healed("etcd is gone").await;
    trial.finish("etcd-faults").await;
}
