//! The drill of `docs/etcd-restore.md`, command by command: snapshots are taken by the operator's job, etcd is lost, and the
//! manifests that the operator wrote bring it back. Brokers do not serve from the older etcd until `kafscale recover` has
//! run, and then have everything that was acked.

use super::control_plane::{kubectl, wait_for};
use super::etcd_tests::BROKERS;
use super::world::{IMAGE, World};
use crate::harness::{BUCKET, quiet};
use kafscale::cli::exit;
use kafscale::clock::Clock;
use serde_json::Value;
use std::time::Duration;

const PREFIX: &str = "etcd-snapshots";

impl World {
    /// `manifest FILE | sed s/@SNAPSHOT@/NAME/ | kubectl create -f -` (or `apply`), as the documentation has it.
    async fn manifest(&self, file: &str, snapshot: &str, verb: &str) {
        let template = format!("go-template={{{{index .data \"{file}\"}}}}");
        let yaml = self.ns.kubectl(&["get", "configmap", "orders-etcd-snapshot", "-o", &template]).await;
        let yaml = yaml.expect("it is there").replace("@SNAPSHOT@", snapshot);
        let args = ["-n", self.ns.name(), verb, "-f", "-"];
        let done = kubectl(&self.ns.plane().kubeconfig(), &args, &yaml).await;
        done.unwrap_or_else(|e| panic!("{e}\n{yaml}"));
    }

    pub async fn documented(&self, args: &str) -> String {
        let words: Vec<&str> = args.split(' ').collect();
        self.ns.kubectl(&words).await.unwrap_or_else(|e| panic!("{e}"))
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
        self.kubelet.as_ref().expect("pods are real").log(&pod, container)
    }

    async fn good_end(&self, job: &str, container: &str) -> String {
        assert!(self.ended(job).await, "{job}: {}", self.output(job, container).await);
        self.output(job, container).await
    }

    fn snapshots(&self) -> Vec<String> {
        let keys = self.s3.objects().into_iter().map(|(key, _)| key);
        let mut all: Vec<String> = keys.filter(|key| key.starts_with(PREFIX) && key.contains(".db")).collect();
        all.sort();
        all
    }

    /// The folder of a claim's volume.
    fn volume(&self, ordinal: u32) -> std::path::PathBuf {
        self.ns.dir().join(format!("claims/data-orders-etcd-{ordinal}"))
    }

    /// Puts a snapshot there that is as old as this.
    fn put_old(&self, name: &str, days: u64) {
        let folder = self.ns.dir().join("s3/data").join(BUCKET).join(PREFIX).join(self.ns.name()).join("orders");
        let now_ms = Clock::system().wall_ms().unsigned_abs();
        let at = std::time::UNIX_EPOCH + Duration::from_millis(now_ms - days * 86_400_000);
        for file in [name.to_owned(), format!("{name}.sha256")] {
            let file = std::fs::File::create(folder.join(file)).expect("the folder is that of .preflight");
            file.set_modified(at).expect("a file can be dated");
        }
    }

    /// Writes a snapshot beside `key` that is not what its checksum says; its name.
    fn damage(&self, key: &str) -> &'static str {
        const DAMAGED: &str = "20200101T000000Z.db";
        let good = self.ns.dir().join("s3/data").join(BUCKET).join(key);
        let mut bytes = std::fs::read(&good).expect("the snapshot is there");
        let sum = format!("{}.sha256", good.display());
        std::fs::copy(sum, good.with_file_name(format!("{DAMAGED}.sha256"))).expect("a copy can be made");
        bytes[1000] ^= 1;
        std::fs::write(good.with_file_name(DAMAGED), bytes).expect("it can be written");
        DAMAGED
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_brings_a_lost_etcd_back_and_nothing_that_was_acked_is_missing() {
    let _quiet = quiet().await;
    let (world, operator) = World::serving_on_managed_etcd("etcd-restore", "rollout: {drainTimeoutSec: 10}").await;
    world.wait_condition("orders", "EtcdSnapshotAccess", "True", "PreflightSucceeded").await;
    world.wait_condition("orders", "EtcdSnapshot", "False", "SnapshotNeverSucceeded").await;
    let load = world.load_on_brokers().await;

    // A snapshot at once, by the job that the CronJob makes every hour.
    let (too_old, kept) = ("20260101T000000Z.db", "20260102T000000Z.db");
    world.put_old(too_old, 15);
    world.put_old(kept, 13);
    world.documented("create job by-hand --from=cronjob/orders-etcd-snapshot").await;
    let said = world.good_end("by-hand", "upload").await;
    let (old, taken): (Vec<String>, Vec<String>) =
        world.snapshots().into_iter().partition(|key| key.contains(kept) || key.contains(too_old));
    assert!(old.len() == 2 && old.iter().all(|key| key.contains(kept)), "14 days are kept: {old:?} {said}");
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert_eq!(taken[1], format!("{}.sha256", taken[0]));
    assert!(taken[0].starts_with(&format!("{PREFIX}/{}/orders/", world.ns.name())), "{taken:?}");
    let name = taken[0].rsplit('/').next().unwrap().to_owned();
    let found = world.wait_condition("orders", "EtcdSnapshot", "True", "SnapshotHealthy").await;
    assert!(found["status"]["etcd"]["lastSnapshot"].is_string(), "{}", found["status"]["etcd"]);
    let labels = format!("{{namespace=\"{}\",cluster=\"orders\"}}", world.ns.name());
    for (metric, value) in [("access_ok", 1.0), ("success", 1.0), ("stale", 0.0)] {
        let metric = format!("kafscale_operator_etcd_snapshot_{metric}{labels}");
        assert_eq!(operator.metric(&metric).await, Some(value), "{metric}");
    }
    load.wait_acks(200).await;

    // Etcd is lost with its volumes. What comes in their place refuses to start, and the operator leaves it so.
    load.fault("disaster", true);
    for n in 0..3 {
        world.lose_volume(n).await;
    }
    world.wait_condition("orders", "EtcdAvailable", "False", "QuorumLost").await;

    // 1. Stop the operator's work on it, the brokers and etcd.
    world.documented("annotate kafscalecluster orders kafscale.io/paused=true").await;
    world.documented("wait --for=condition=Paused kafscalecluster/orders --timeout=2m").await;
    world.documented(r#"patch cronjob orders-etcd-snapshot -p {"spec":{"suspend":true}}"#).await;
    world.documented("scale statefulset orders-broker orders-etcd --replicas=0").await;
    let pods = "app.kubernetes.io/instance=orders, app.kubernetes.io/component in (broker, etcd)";
    world.ns.kubectl(&["wait", "--for=delete", "pod", "--timeout=2m", "-l", pods]).await.unwrap();

    // 2. Choose a snapshot.
    world.manifest("list.yaml", "", "create").await;
    let listed = world.good_end("orders-etcd-snapshots", "list").await;
    assert_eq!(listed.lines().collect::<Vec<_>>(), [kept, name.as_str()], "oldest first");

    // 3. Make lost volumes again: of one even the claim is gone.
    world.documented("delete pvc data-orders-etcd-2").await;
    world.ns.wait_gone("pvc/data-orders-etcd-2").await;
    world.manifest("volumes.yaml", "", "apply").await;

    // 4. Restore. A snapshot that is not what its checksum says is refused, and etcd gets no data of it.
    let damaged = world.damage(&taken[0]);
    world.manifest("restore.yaml", damaged, "create").await;
    for n in 0..3 {
        let job = format!("orders-etcd-restore-{n}");
        assert!(!world.ended(&job).await);
        assert!(world.output(&job, "fetch").await.contains("is damaged"));
        assert!(!world.volume(n).join("data/member/wal").exists(), "etcd has no data");
    }
    world.documented("delete job -l app.kubernetes.io/component=snapshot").await;
    world.manifest("restore.yaml", &name, "create").await;
    for n in 0..3 {
        world.good_end(&format!("orders-etcd-restore-{n}"), "restore").await;
    }

    // 5. Start etcd.
    world.documented("scale statefulset orders-etcd --replicas=3").await;
    world.documented("rollout status statefulset orders-etcd --timeout=2m").await;
    world.wait_condition("orders", "EtcdAvailable", "True", "QuorumHealthy").await;

    // Whoever starts a broker now learns that etcd went back.
    world.documented(&format!("scale statefulset orders-broker --replicas={BROKERS}")).await;
    for n in 0..BROKERS {
        let refused = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            let codes = [&status["state"], &status["lastState"]].map(|state| state["terminated"]["exitCode"].clone());
            codes.contains(&exit::WENT_BACK.into())
        };
        let pod = world.ns.wait_object(&format!("pod/orders-broker-{n}"), "refuses to serve", refused).await;
        assert_eq!(pod["status"]["containerStatuses"][0]["ready"], false);
    }
    world.documented("scale statefulset orders-broker --replicas=0").await;
    world
        .ns
        .kubectl(&["wait", "--for=delete", "pod", "--timeout=2m", "-l", "app.kubernetes.io/component=broker"])
        .await
        .unwrap();

    // 6. Recover.
    world.manifest("recover-plan.yaml", "", "create").await;
    let plan = world.good_end("orders-recover-plan", "recover").await;
    assert!(plan.contains("Nothing was written"), "{plan}");
    world.manifest("recover-write.yaml", "", "create").await;
    world.good_end("orders-recover-write", "recover").await;

    // 7. Let the operator go on.
    world.documented("annotate kafscalecluster orders kafscale.io/paused-").await;
    world.wait_rolled("orders", BROKERS as usize, IMAGE).await;
    world.ns.wait_object("cronjob/orders-etcd-snapshot", "runs again", |job| job["spec"]["suspend"] == false).await;
    world.wait_condition("orders", "EtcdAvailable", "True", "QuorumHealthy").await;
    assert_eq!(world.etcd_phase().await, "Formed");
    load.fault("disaster", false);
    load.wait_acks(100).await;
    load.finish().await.assert_clean();
}
