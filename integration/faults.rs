//! S3 or etcd fail for a while and heal: nothing is lost or doubled, producers go on by themselves, memory stays bounded.
//!
//! Each fault lasts `DURATION_SEC` (CI: 5; `make chaos-faults DURATION_SEC=30` is the full size) while the producers of
//! [`crate::workload`] push as fast as they are let. The broker is never restarted. Beside the faults during which
//! nothing can be committed, [`crate::pressure`] fills the bounds of the write path.

use crate::harness::{Backend, Stack, quiet, size};
use crate::pressure::Pressure;
use crate::workload::{Plan, Workload};
use std::time::Duration;
use tokio::sync::MutexGuard;

/// Bytes of batches that may wait for durability (`PIPELINE_BYTES_MAX`).
const PIPELINE_BYTES_MAX: u64 = 256 << 20;
/// Bytes of requests that are read and not answered (`EdgeLimits`): most of them are batches in the pipeline, but not once
/// a request timed out whose batch stays there.
const REQUEST_BYTES_MAX: u64 = (192 + 64) << 20;
/// `KAFSCALE_CACHE_BYTES`: the block cache, and a quarter of it for the newest batches.
const CACHE_BYTES: u64 = 64 << 20;
/// Everything else: code, stacks, socket buffers, what the allocator keeps.
const BASE_BYTES_MAX: u64 = 128 << 20;
/// Resident memory of the broker at any time.
const RSS_BYTES_MAX: u64 = PIPELINE_BYTES_MAX + REQUEST_BYTES_MAX + CACHE_BYTES + BASE_BYTES_MAX;
/// Bytes of the newest committed batches: a quarter of the cache, which is more than the one segment that always stays.
const TAIL_BYTES_MAX: u64 = CACHE_BYTES / 4;
/// One batch of the heavy load: with less room than this the pipeline refuses it.
const BATCH_BYTES: u64 = 1 << 20;
/// How long the heavy load may take to fill everything, and to get on after the fault, besides the fault itself.
const PRESSURE_DEADLINE: Duration = Duration::from_secs(180);

struct Trial {
    stack: Stack,
    load: Workload,
    rss_max_bytes: u64,
    seconds: u64,
    pid: u32,
    _quiet: MutexGuard<'static, ()>,
}

impl Trial {
    async fn start(name: &str, more_envs: &[(&str, &str)]) -> Self {
        let quiet = quiet().await;
        let seed = size("SEED", kafscale::rng::u64() >> 32);
        let seconds = size("DURATION_SEC", 5);
        eprintln!("{name}: {seconds} s per fault, SEED={seed}");
        let cache_bytes = CACHE_BYTES.to_string();
        let envs = [("KAFSCALE_FLUSH_INTERVAL_MS", "50"), ("KAFSCALE_CACHE_BYTES", cache_bytes.as_str())];
        let stack = Stack::start(name, Backend::S3, &[&envs, more_envs].concat()).await;
        Pressure::prepare(&stack.address()).await;
        let load = Workload::start(&stack.address(), Plan::new(name, seed)).await;
        load.wait_acks(50).await;
        let pid = stack.broker.process.pid();
        Self { stack, load, rss_max_bytes: 0, seconds, pid, _quiet: quiet }
    }

    fn look_at_rss(&mut self) {
        self.rss_max_bytes = self.rss_max_bytes.max(self.stack.broker.process.rss_bytes());
    }

    /// Marks the beginning of a fault that was just made, and lets it last.
    async fn last(&mut self, what: &str) {
        self.load.fault(what, true);
        for _ in 0..self.seconds * 5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.look_at_rss();
        }
    }

    /// A fault during which nothing can be committed, beside a load that fills the bounds: requests wait for memory,
    /// batches are refused, and after the fault every producer gets on without help.
    async fn under_pressure(
        &mut self,
        what: &str,
        begin: impl AsyncFnOnce(&mut Stack),
        end: impl AsyncFnOnce(&mut Stack),
    ) {
        begin(&mut self.stack).await;
        let waits_before = self.metric("kafscale_request_waits").await;
        let refused_before = self.metric("kafscale_s3_refused_batches").await;
        let pressure = Pressure::start(&self.stack.address()).await;
        let mut seen = (false, false, false);
        let give_up = kafscale::clock::monotonic() + PRESSURE_DEADLINE + Duration::from_secs(self.seconds);
        while seen != (true, true, true) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            pressure.assert_no_error();
            let pipeline_bytes = self.look_at_bounds().await;
            // A broker whose lease is in doubt takes nothing more, nor does one that knows that S3 is away; where that
            // comes first, nothing is filled.
            let suspended = self.metric("kafscale_appends_suspended").await == 1;
            let closed = suspended || self.metric("kafscale_s3_refused_batches").await > refused_before;
            seen.0 |= self.metric("kafscale_request_waits").await > waits_before || closed;
            seen.1 |= pipeline_bytes + BATCH_BYTES > PIPELINE_BYTES_MAX || closed;
            seen.2 |= pressure.refused() > 0 || suspended;
            let in_time = kafscale::clock::monotonic() < give_up;
            assert!(in_time, "{what}: did requests wait, was the pipeline full, were batches refused? {seen:?}");
        }
        self.last(what).await;
        self.look_at_bounds().await;
        end(&mut self.stack).await;
        self.load.fault(what, false);
        let acked_before = pressure.acked();
        while !pressure.all_acked_since(&acked_before) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            pressure.assert_no_error();
            self.look_at_bounds().await;
            let in_time = kafscale::clock::monotonic() < give_up;
            assert!(in_time, "{what}: not every producer got on by itself: {:?}", pressure.acked());
        }
        eprintln!("{what}: {}", pressure.finish().await);
        self.got_on(what).await;
    }

    /// Each bound by itself, and the memory that all of them take; returns the bytes in the pipeline.
    async fn look_at_bounds(&mut self) -> u64 {
        self.look_at_rss();
        let pipeline_bytes = self.metric("kafscale_pipeline_bytes").await;
        assert!(pipeline_bytes <= PIPELINE_BYTES_MAX + BATCH_BYTES, "{pipeline_bytes} bytes are not durable");
        let request_bytes = self.metric("kafscale_request_bytes").await;
        assert!(request_bytes <= REQUEST_BYTES_MAX, "{request_bytes} bytes of requests are not answered");
        let tail_bytes = self.metric("kafscale_tail_bytes").await;
        assert!(tail_bytes <= TAIL_BYTES_MAX, "{tail_bytes} bytes are kept for tailing readers");
        pipeline_bytes
    }

    /// A gauge or counter of the broker's.
    async fn metric(&self, name: &str) -> u64 {
        self.stack.broker.metric_sum(name).await.unwrap_or_else(|| panic!("there is no metric {name}")) as u64
    }

    /// Marks its end, and waits until the producers have got on without help.
    async fn healed(&mut self, what: &str) {
        self.load.fault(what, false);
        self.got_on(what).await;
    }

    async fn got_on(&mut self, what: &str) {
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
    let mut trial = Trial::start("s3-faults", &[]).await;
    trial.proxy_fault("a third of the requests fail", "500=0.15&503=0.15&409=0.05", "500=0&503=0&409=0").await;
    trial.proxy_fault("applied, but answered 500 or cut", "applied500=0.2&lost=0.2", "applied500=0&lost=0").await;
    trial.proxy_fault("cut now, applied later", "late=0.2&late_ms=700", "late=0").await;
    trial.proxy_fault("only 500", "500=1", "500=0").await;

    let slow_down = async |s: &mut Stack| s.proxy().set("503=1").await;
    trial.under_pressure("only SlowDown", slow_down, async |s| s.proxy().set("503=0").await).await;
    let pause = async |s: &mut Stack| s.s3().process.pause();
    trial.under_pressure("no answer at all", pause, async |s| s.s3().process.resume()).await;
    let kill = async |s: &mut Stack| s.s3().process.kill9();
    trial.under_pressure("connection refused", kill, async |s| s.s3().restart().await).await;
    trial.finish("s3-faults").await;
}

/// Nothing is refused because S3 does badly, so the bounds of the write path have to hold by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_hold_without_a_look_at_the_state_of_s3() {
    let never = [("KAFSCALE_S3_ERROR_RATE_CRIT", "0"), ("KAFSCALE_S3_LATENCY_CRIT_MS", "0")];
    let mut trial = Trial::start("s3-bounds", &never).await;
    let slow_down = async |s: &mut Stack| s.proxy().set("503=1").await;
    trial.under_pressure("only SlowDown", slow_down, async |s| s.proxy().set("503=0").await).await;
    trial.finish("s3-bounds").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_that_hangs_and_vanishes_loses_nothing() {
    let mut trial = Trial::start("etcd-faults", &[]).await;
    let pause = async |s: &mut Stack| s.etcd().process.pause();
    trial.under_pressure("etcd does not answer", pause, async |s| s.etcd().process.resume()).await;
    let kill = async |s: &mut Stack| s.etcd().process.kill9();
    trial.under_pressure("etcd is gone", kill, async |s| s.etcd().restart().await).await;
    trial.finish("etcd-faults").await;
}
