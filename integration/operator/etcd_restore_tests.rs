//! The drill of `docs/etcd-restore.md`: snapshots are taken by the operator's job, etcd is lost, and the manifests that the
//! operator wrote bring it back. Brokers do not serve from the older etcd until `kafscale recover` has run, and then have
//! everything that was acked.

use super::control_plane::wait_for;
use super::etcd_tests::Managed;
use crate::harness::{Broker, store_envs};
use crate::workload::{Plan, Workload};
use kafscale::cli::exit;
use kafscale::clock::Clock;
use kafscale::metrics::Metrics;
use kafscale::operator::etcd::Phase;
use kafscale::operator::snapshot::metrics::SnapshotMetrics;
use kafscale::operator::snapshot::{self, SnapshotReport, SnapshotScheduler, SnapshotWatch, restore};
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(90);
const BROKERS: usize = 2;
const PREFIX: &str = "etcd-snapshots";

/// Asks an actor that lives on a thread of its own, as it does in an operator.
async fn observe(managed: &Managed) -> SnapshotReport {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        actix::System::new().block_on(async move {
            let scheduler = SnapshotScheduler::start(Clock::system(), Arc::default());
            sender.send(scheduler).ok();
            std::future::pending::<()>().await
        });
    });
    let scheduler = receiver.await.expect("it starts");
    let metrics = SnapshotMetrics::register(&Metrics::new(), Clock::system());
    let watch = SnapshotWatch::new(managed.ns.client().await, Clock::system(), scheduler, metrics);
    watch.observe(&managed.view()).await
}

impl Managed {
    /// Applies a manifest from the operator's ConfigMap with the name of a snapshot, as the documentation says.
    async fn create(&self, file: &str, snapshot: &str) {
        let template = format!("go-template={{{{index .data \"{file}\"}}}}");
        let yaml = self.ns.kubectl(&["get", "configmap", "demo-etcd-snapshot", "-o", &template]).await.expect("it is there");
        let yaml = yaml.replace(restore::PLACEHOLDER, snapshot);
        self.ns.apply(&yaml).await.unwrap_or_else(|e| panic!("{e}\n{yaml}"));
    }

    /// Waits for the end of a job, and says whether it was a good one.
    async fn ended(&self, job: &str) -> bool {
        wait_for(&format!("the end of {job}"), async || {
            let job = self.ns.get(&format!("job/{job}")).await?;
            let count = |key: &str| job["status"][key].as_u64().unwrap_or(0);
            match (count("succeeded"), count("failed")) {
                (0, 0) => Err(job["status"].to_string()),
                (good, _) => Ok(good > 0),
            }
        })
        .await
    }

    /// What a job's container has printed.
    async fn output(&self, job: &str, container: &str) -> String {
        let selector = format!("job-name={job}");
        let path = "jsonpath={.items[0].metadata.name}";
        let pod = self.ns.kubectl(&["get", "pods", "-l", &selector, "-o", path]).await.expect("it has a pod");
        self.kubelet.log(&pod, container)
    }

    async fn scale_etcd(&self, replicas: usize) {
        let replicas = format!("--replicas={replicas}");
        self.ns.kubectl(&["scale", "statefulset/demo-etcd", &replicas]).await.expect("it can be scaled");
    }

    fn snapshots(&self) -> Vec<String> {
        let keys = self.s3.objects().into_iter().map(|(key, _)| key);
        let mut all: Vec<String> = keys.filter(|key| key.starts_with(PREFIX) && key.contains(".db")).collect();
        all.sort();
        all
    }
}

fn start_brokers(managed: &Managed) -> Vec<Broker> {
    let broker = |id: usize| {
        let mut envs = store_envs(&managed.endpoints(), &managed.s3.address());
        envs.push(("KAFSCALE_BROKER_ID", id.to_string()));
        envs.push(("KAFSCALE_BROKER_LEASE_SEC", "2".to_owned()));
        envs.push(("KAFSCALE_FLUSH_INTERVAL_MS", "20".to_owned()));
        Broker::spawn("broker", &envs, &managed.ns.dir().join(format!("broker-{id}.log")))
    };
    (0..BROKERS).map(broker).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_brings_a_lost_etcd_back_and_nothing_that_was_acked_is_missing() {
    let managed = Managed::new("etcd-restore", "").await;
    managed.start().await;
    let report = observe(&managed).await;
    assert_eq!((report.suspended, &report.error), (false, &None), "the bucket can be written");
    assert_eq!(report.findings[0].reason, "SnapshotNeverSucceeded");
    assert_eq!(report.findings[1].reason, "PreflightSucceeded");
    managed.apply(&snapshot::objects(&managed.view(), report.suspended)).await;

    let mut brokers = start_brokers(&managed);
    for broker in &mut brokers {
        broker.wait_ready().await;
    }
    let addresses: Vec<String> = brokers.iter().map(Broker::address).collect();
    let plan = Plan { partitions: 4, producers: 4, pause: Duration::from_millis(20), ..Plan::new("ledger", 9) };
    let load = Workload::start_on(&addresses, plan).await;
    load.wait_acks(50).await;

    managed.ns.kubectl(&["create", "job", "by-hand", "--from=cronjob/demo-etcd-snapshot"]).await.unwrap();
    assert!(managed.ended("by-hand").await, "{}", managed.output("by-hand", "upload").await);
    let taken = managed.snapshots();
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert!(taken[1] == format!("{}.sha256", taken[0]), "{taken:?}");
    let name = taken[0].rsplit('/').next().unwrap().to_owned();
    wait_for("the CronJob knows of its success", async || {
        let report = observe(&managed).await;
        if report.findings[0].reason == "SnapshotHealthy" { Ok(()) } else { Err(format!("{report:?}")) }
    })
    .await;
    load.wait_acks(200).await;

    // Etcd is lost with its volumes.
    load.fault("disaster", true);
    managed.scale_etcd(0).await;
    for n in 0..3 {
        managed.ns.wait_gone(&format!("pod/demo-etcd-{n}")).await;
        std::fs::remove_dir_all(managed.ns.dir().join(format!("claims/data-demo-etcd-{n}"))).unwrap();
    }

    managed.create("list.yaml", "").await;
    assert!(managed.ended("demo-etcd-snapshots").await);
    assert!(managed.output("demo-etcd-snapshots", "list").await.lines().any(|line| line == name));

    // A snapshot that is not what its checksum says is refused, and etcd gets no data of it.
    let folder = managed.ns.dir().join("s3/data").join(crate::harness::BUCKET).join(&taken[0]);
    let mut bytes = std::fs::read(&folder).unwrap();
    let damaged = "20200101T000000Z.db";
    std::fs::copy(format!("{}.sha256", folder.display()), folder.with_file_name(format!("{damaged}.sha256"))).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(folder.with_file_name(damaged), bytes).unwrap();
    managed.create("restore.yaml", damaged).await;
    for n in 0..3 {
        let job = format!("demo-etcd-restore-{n}");
        assert!(!managed.ended(&job).await);
        assert!(managed.output(&job, "fetch").await.contains("is damaged"));
        assert!(!managed.ns.dir().join(format!("claims/data-demo-etcd-{n}/data")).exists());
        managed.ns.kubectl(&["delete", "job", &job]).await.unwrap();
    }

    managed.create("restore.yaml", &name).await;
    for n in 0..3 {
        let job = format!("demo-etcd-restore-{n}");
        assert!(managed.ended(&job).await, "{}", managed.output(&job, "restore").await);
    }
    managed.scale_etcd(3).await;
    managed.wait_finding("QuorumHealthy").await;
    assert_eq!(managed.config_map("demo-etcd-state").await["phase"], format!("{:?}", Phase::Formed));

    // Whoever still runs notices, and so does whoever starts.
    for broker in &mut brokers {
        let status = broker.process.wait_exit(DEADLINE).await;
        assert_eq!(status.code(), Some(exit::WENT_BACK.into()), "{}", broker.process.log_tail());
        broker.relaunch();
        let status = broker.process.wait_exit(DEADLINE).await;
        assert_eq!(status.code(), Some(exit::WENT_BACK.into()), "{}", broker.process.log_tail());
    }
    managed.create("recover-plan.yaml", "").await;
    assert!(managed.ended("demo-recover-plan").await, "{}", managed.output("demo-recover-plan", "recover").await);
    assert!(managed.output("demo-recover-plan", "recover").await.contains("Nothing was written"));
    managed.create("recover-write.yaml", "").await;
    assert!(managed.ended("demo-recover-write").await, "{}", managed.output("demo-recover-write", "recover").await);
    for broker in &mut brokers {
        broker.relaunch();
    }
    for broker in &mut brokers {
        broker.wait_ready().await;
    }
    load.fault("disaster", false);
    load.wait_acks(100).await;
    load.finish().await.assert_clean();
}
