//! A world under load, and what has to be true after each fault.

use super::world::{QUOTA_BYTES, Shape, World};
use crate::harness::{READY_DEADLINE, http, size, wait_until};
use crate::workload::{Plan, Workload};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Topic of the load.
pub const TOPIC: &str = "load";
/// Its partitions.
pub const PARTITIONS: usize = 6;
/// Worlds at a time: more of them than cores only wait for each other.
const WORLDS_MAX: usize = 3;
/// Batches that show that producers get on.
const ACKS_AFTER: u64 = 20;
/// Exit code of a broker that another one has sealed.
pub const FENCED: Option<i32> = Some(75);

/// Lives as long as a test.
pub struct Trial {
    /// Load first: it ends before what it talks to.
    pub load: Workload,
    /// Everything else.
    pub world: World,
    /// How long a fault lasts.
    pub duration: Duration,
    /// Of all that is random.
    pub seed: u64,
    name: String,
    _turn: SemaphorePermit<'static>,
}

impl Trial {
    /// With a lease that is long enough for nobody to be sealed by accident.
    pub async fn start(name: &str) -> Self {
        Self::start_as(name, Shape { lease_sec: 10, quota_bytes: QUOTA_BYTES, envs: &[] }).await
    }

    /// With a world of another shape.
    pub async fn start_as(name: &str, shape: Shape) -> Self {
        static WORLDS: Semaphore = Semaphore::const_new(WORLDS_MAX);
        let turn = WORLDS.acquire().await.expect("never closed");
        let seed = size("SEED", kafscale::rng::u64() >> 32);
        let duration = Duration::from_secs(size("DURATION_SEC", 2));
        eprintln!("{name}: {duration:?} per fault, SEED={seed}");
        let world = World::start(name, shape).await;
        let pause = Duration::from_millis(20);
        let plan = Plan { partitions: PARTITIONS as i32, producers: 6, pause, members: 2, ..Plan::new(TOPIC, seed) };
        let load = Workload::start_on(&world.addresses(), plan).await;
        load.wait_acks(ACKS_AFTER).await;
        Self { load, world, duration, seed, name: name.into(), _turn: turn }
    }

    /// The fault that was just made lasts.
    pub async fn last(&self) {
        tokio::time::sleep(self.duration).await;
    }

    /// A fault that ends nobody: makes it, lets it last, heals it, and sees everybody get on.
    pub async fn fault(&mut self, what: &str, begin: impl AsyncFnOnce(&mut World), end: impl AsyncFnOnce(&mut World)) {
        self.load.fault(what, true);
        begin(&mut self.world).await;
        self.last().await;
        end(&mut self.world).await;
        self.load.fault(what, false);
        self.got_on(what).await;
    }

    /// Nobody has ended, and producers get on.
    pub async fn got_on(&mut self, what: &str) {
        self.load.wait_acks(ACKS_AFTER).await;
        let ended = self.world.ended();
        assert!(ended.is_empty(), "{what} ended brokers: {ended:?}");
        eprintln!("{}: {what}: healed, {} batches acked", self.name, self.load.acks());
    }

    /// Brokers that were sealed, or `killed`, start again, as under a supervisor; nobody ended in another way.
    pub async fn recover(&mut self, what: &str, killed: bool) {
        // Whoever was sealed finds out once it reaches etcd again.
        let give_up = kafscale::clock::monotonic() + READY_DEADLINE;
        loop {
            let codes = self.world.restart_ended().await;
            assert!(
                codes.iter().all(|c| *c == FENCED || (killed && c.is_none())),
                "{what} ended brokers with {codes:?}"
            );
            let mut certain = true;
            for node in &self.world.nodes {
                let metrics = http("GET", &node.broker.metrics_address(), "/metrics", "").await;
                certain &= metrics.is_ok_and(|text| text.contains("\nkafscale_appends_suspended 0"));
            }
            if certain && self.world.ended().is_empty() {
                return;
            }
            assert!(kafscale::clock::monotonic() < give_up, "{what}: brokers still doubt their leases");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends the load and asks the checker.
    pub async fn finish(mut self) {
        wait_until("all brokers are alive", READY_DEADLINE, async || self.world.ended().is_empty()).await;
        let report = self.load.finish().await;
        eprintln!("{}: {report}", self.name);
        report.assert_clean();
    }
}
