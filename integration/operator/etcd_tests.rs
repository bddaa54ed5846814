//! Managed etcd on Kubernetes: the operator's program, real members and real brokers behind the pods of its objects.

use super::control_plane::wait_for;
use super::world::{IMAGE, Operator, World, condition};
use crate::harness::{
    ACCESS_KEY, BUCKET, READY_DEADLINE, REGION, S3Server, SECRET_KEY, TestDir, quiet, tool, wait_until,
};
use crate::workload::{Plan, Workload};
use kafscale::operator::etcd::api;
use kafscale::operator::snapshot::state::Access;
use kafscale::operator::snapshot::{self, SnapshotSettings, access};
use std::collections::BTreeMap;
use std::time::Duration;

/// Brokers of these tests.
pub const BROKERS: u32 = 2;

impl World {
    /// A cluster without a word about etcd, or with what `more` says, and its operator, which knows no etcd either.
    pub async fn serving_on_managed_etcd(test: &str, more: &str) -> (Self, Operator) {
        let mut world = Self::managed(test).await;
        world.make_secret().await;
        let operator = world.operator(false).await;
        world.ns.apply(&world.cluster("orders", BROKERS, more)).await.unwrap();
        world.wait_condition("orders", "EtcdAvailable", "True", "QuorumHealthy").await;
        world.wait_rolled("orders", BROKERS as usize, IMAGE).await;
        (world, operator)
    }

    /// Load on the brokers.
    pub async fn load_on_brokers(&self) -> Workload {
        let plan = Plan { partitions: 4, producers: 4, pause: Duration::from_millis(50), ..Plan::new("ledger", 9) };
        let load = Workload::start_on(&self.addresses("orders", BROKERS), plan).await;
        load.wait_acks(50).await;
        load
    }

    /// `etcdctl` with one member.
    pub fn etcdctl(&self, ordinal: u32, arguments: &[&str]) -> Result<String, String> {
        let address = self.kubelet.as_ref().expect("members are real").address(&format!("orders-etcd-{ordinal}"));
        let mut command = std::process::Command::new(tool("etcdctl"));
        let output = command.arg(format!("--endpoints=http://{address}:2379")).args(arguments).output();
        let output = output.expect("etcdctl can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Ids of members as etcd lists them, by name.
    fn member_ids(&self) -> BTreeMap<String, String> {
        let list = self.etcdctl(0, &["member", "list"]).unwrap_or_default();
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(", ").collect();
            Some(((*fields.get(2)?).to_owned(), (*fields.first()?).to_owned()))
        };
        list.lines().filter_map(row).collect()
    }

    /// Loses a member's volume: claim, data, and the pod that used it, which is made again with a new one.
    pub async fn lose_volume(&self, ordinal: u32) {
        let pod = format!("orders-etcd-{ordinal}");
        let (claim, uid) = (format!("data-{pod}"), self.uid(&format!("pod/{pod}")).await);
        // No node takes the next pod until the data is gone.
        for n in 0..super::namespace::NODES {
            self.ns.plane().kubectl(&["cordon", &self.ns.node(n)]).await.unwrap();
        }
        self.ns.kubectl(&["delete", "pvc", &claim, "--wait=false"]).await.unwrap();
        self.ns.kubectl(&["delete", "pod", &pod]).await.unwrap();
        self.ns.wait_object(&format!("pod/{pod}"), "made again", |found| found["metadata"]["uid"] != uid).await;
        std::fs::remove_dir_all(self.ns.dir().join("claims").join(&claim)).expect("the volume can be removed");
        for n in 0..super::namespace::NODES {
            self.ns.uncordon(&self.ns.node(n)).await;
        }
    }

    async fn uid(&self, object: &str) -> String {
        self.ns.get(object).await.expect("it is there")["metadata"]["uid"].as_str().expect("it has one").to_owned()
    }

    /// What the operator remembers of etcd.
    pub async fn etcd_phase(&self) -> String {
        let map = self.ns.get("configmap/orders-etcd-state").await.expect("it is there");
        map["data"]["phase"].as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managed_etcd_is_made_brokers_use_it_and_a_member_that_loses_its_volume_joins_anew() {
    let _quiet = quiet().await;
    let (world, operator) = World::serving_on_managed_etcd("etcd-member", "").await;
    let cluster = world.ns.get("kafscalecluster/orders").await.unwrap();
    let etcd = &cluster["status"]["etcd"];
    let service = format!("http://orders-etcd-client.{}.svc:2379", world.ns.name());
    assert_eq!((&etcd["mode"], &etcd["endpoints"][0]), (&"Managed".into(), &service.into()));
    assert_eq!(world.etcd_phase().await, "Formed");
    world.ns.wait_object("pdb/orders-etcd", "one may go", |b| b["status"]["disruptionsAllowed"] == 1).await;
    world.ns.wait_object("statefulset/orders-etcd", "three members", |s| s["status"]["readyReplicas"] == 3).await;
    let before = world.member_ids();
    assert_eq!(before.len(), 3, "{before:?}");
    let load = world.load_on_brokers().await;
    let keys = world.etcdctl(0, &["get", "", "--prefix", "--keys-only"]).unwrap();
    assert!(keys.contains("ledger"), "metadata of brokers is in it: {keys}");

    // Restarted with its data it stays who it is, although its initial cluster says nothing any more.
    let old = world.uid("pod/orders-etcd-1").await;
    world.ns.kubectl(&["delete", "pod", "orders-etcd-1"]).await.unwrap();
    let is_back = |pod: &serde_json::Value| {
        pod["metadata"]["uid"] != old && pod["status"]["containerStatuses"][0]["ready"] == true
    };
    world.ns.wait_object("pod/orders-etcd-1", "back and ready", is_back).await;
    world.wait_condition("orders", "EtcdAvailable", "True", "QuorumHealthy").await;
    assert_eq!(world.member_ids(), before);

    load.fault("a member of etcd is lost", true);
    world.lose_volume(1).await;
    world.wait_condition("orders", "EtcdAvailable", "True", "MemberDown").await;
    wait_for("another member", async || {
        let ids = world.member_ids();
        let is_new = ids.get("orders-etcd-1").is_some_and(|id| *id != before["orders-etcd-1"]);
        if is_new && ids.len() == 3 { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
    world.wait_condition("orders", "EtcdAvailable", "True", "QuorumHealthy").await;
    load.fault("a member of etcd is lost", false);
    let after = world.member_ids();
    assert_eq!(after["orders-etcd-0"], before["orders-etcd-0"], "the others stay who they are");
    assert_eq!(after["orders-etcd-2"], before["orders-etcd-2"]);
    assert_eq!(world.etcd_phase().await, "Formed", "the door is shut again");
    let events = world.events("orders").await;
    for reason in ["EtcdMemberRemoved", "EtcdMemberAdded", "EtcdMemberJoining"] {
        assert!(events.iter().any(|event| event == reason), "{reason}: {events:?}");
    }
    load.wait_acks(20).await;
    load.finish().await.assert_clean();
    let shown = operator.metrics().await;
    let line =
        format!("kafscale_operator_etcd_members_healthy{{namespace=\"{}\",cluster=\"orders\"}} 3.0", world.ns.name());
    assert!(shown.contains(&line), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_without_space_gets_it_back() {
    let mut world = World::managed("etcd-space").await;
    world.make_secret().await;
    let _operator = world.operator(false).await;
    let quota = "etcd: {managed: {quotaBytes: 67108864, snapshot: {enabled: false}}}";
    world.ns.apply(&world.cluster("orders", 0, quota)).await.unwrap();
    world.wait_condition("orders", "EtcdAvailable", "True", "QuorumHealthy").await;
    // One key all the time: it is the history that takes the space.
    let file = world.ns.dir().join("value");
    std::fs::write(&file, vec![b'x'; 1 << 20]).unwrap();
    let address = world.kubelet.as_ref().unwrap().address("orders-etcd-0");
    let fill = || {
        std::process::Command::new(tool("etcdctl"))
            .arg(format!("--endpoints=http://{address}:2379"))
            .args(["put", "filler"])
            .stdin(std::fs::File::open(&file).unwrap())
            .output()
            .expect("etcdctl can be run")
    };
    let mut refused = String::new();
    for _ in 0..200 {
        let output = fill();
        if !output.status.success() {
            refused = String::from_utf8_lossy(&output.stderr).into_owned();
            break;
        }
    }
    assert!(refused.contains("database space exceeded"), "{refused}");
    wait_until("it takes writes again", READY_DEADLINE * 2, async || fill().status.success()).await;
    world.wait_condition("orders", "EtcdAvailable", "True", "QuorumHealthy").await;
    let events = world.events("orders").await;
    for reason in ["EtcdCompacted", "EtcdDefragmented", "EtcdSpaceAlarmDisarmed"] {
        assert!(events.iter().any(|event| event == reason), "{reason}: {events:?}");
    }
    let cluster = world.ns.get("kafscalecluster/orders").await.unwrap();
    assert_eq!(condition(&cluster, "EtcdSnapshot"), None, "nothing is said of snapshots where there are none");
    assert!(world.ns.get("cronjob/orders-etcd-snapshot").await.unwrap_err().contains("NotFound"));
}

/// The bucket of snapshots is missing, then it is made by a person.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_wait_for_a_bucket_that_can_be_written() {
    let mut world = World::played("etcd-preflight").await;
    world.make_secret().await;
    let backups = [("KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUCKET", "backups".to_owned())];
    let operator = world.operator_with(false, &backups).await;
    world.ns.apply(&world.cluster("orders", 1, "")).await.unwrap();
    let found = world.wait_condition("orders", "EtcdSnapshotAccess", "False", "PreflightRefused").await;
    let said = found["status"]["conditions"].to_string();
    assert!(said.contains("s3://backups/etcd-snapshots/") && said.contains("createBucket"), "{said}");
    let job = "cronjob/orders-etcd-snapshot";
    world.ns.wait_object(job, "suspended", |job| job["spec"]["suspend"] == true).await;
    // Brokers and etcd do not wait for it, the reconciliation fails all the same.
    world.ns.wait_object("statefulset/orders-etcd", "there", |s| s["status"]["replicas"] == 3).await;
    world.ns.wait_object("statefulset/orders-broker", "there", |s| s["status"]["replicas"] == 1).await;
    let labels = format!("{{namespace=\"{}\",cluster=\"orders\"}}", world.ns.name());
    let access = format!("kafscale_operator_etcd_snapshot_access_ok{labels}");
    assert_eq!(operator.metric(&access).await, Some(0.0));
    let errors = "controller_runtime_reconcile_errors_total{controller=\"kafscalecluster\"}";
    wait_for("a reconcile error", async || {
        let count = operator.metric(errors).await;
        if count.is_some_and(|count| count > 0.0) { Ok(()) } else { Err(format!("{count:?}")) }
    })
    .await;
    let events = world.events("orders").await;
    assert!(events.iter().any(|event| event == "PreflightRefused"), "{events:?}");

    let settings = SnapshotSettings { create_bucket: true, ..settings(&world.s3.address(), "backups") };
    let keys = kafscale::storage::s3::StaticCredentials {
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        session_token: None,
    };
    assert_eq!(access::attempt(&settings, Some(keys)).await, Access::Fine);
    // It tries again by itself; nothing of the resource changes.
    world.ns.wait_object(job, "runs", |job| job["spec"]["suspend"] == false).await;
    world.wait_condition("orders", "EtcdSnapshotAccess", "True", "PreflightSucceeded").await;
    wait_for("the metric", async || {
        let value = operator.metric(&access).await;
        if value == Some(1.0) { Ok(()) } else { Err(format!("{value:?}")) }
    })
    .await;
    let never = format!("kafscale_operator_etcd_snapshot_success{labels}");
    assert_eq!(operator.metric(&never).await, Some(0.0));

    // Switched off, the job goes, and nothing is said of snapshots any more.
    world.patch("orders", r#"{"spec":{"etcd":{"managed":{"snapshot":{"enabled":false}}}}}"#).await;
    wait_for("the conditions are gone", async || {
        let cluster = world.ns.get("kafscalecluster/orders").await?;
        let left = ["EtcdSnapshot", "EtcdSnapshotAccess"].map(|kind| condition(&cluster, kind));
        if left == [None, None] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert_eq!(operator.metric(&never).await, None);
}

/// Nothing is made, written or tried for a cluster that is paused, from its first moment on, neither in Kubernetes nor in the bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_cluster_is_left_alone_and_so_is_its_bucket() {
    let mut world = World::played("etcd-paused").await;
    world.make_secret().await;
    let operator = world.operator(false).await;
    let paused = "name: orders, annotations: {kafscale.io/paused: 'true'}";
    world.ns.apply(&world.cluster("orders", 1, "").replace("name: orders", paused)).await.unwrap();
    let topic =
        "apiVersion: kafscale.io/v1alpha1\nkind: KafscaleTopic\nmetadata: {name: t}\nspec: {clusterRef: orders}\n";
    world.ns.apply(topic).await.unwrap();
    world.wait_condition("orders", "Paused", "True", "Annotation").await;
    world.wait_condition("orders", "EtcdSnapshotAccess", "Unknown", "ClusterPaused").await;
    world.wait_condition("orders", "EtcdSnapshot", "False", "SnapshotNeverSucceeded").await;
    let says =
        |reason: &'static str| move |topic: &serde_json::Value| condition(topic, "Ready") == Some(("Unknown", reason));
    world.ns.wait_object("kt/t", "says that its cluster is paused", says("ClusterPaused")).await;
    let keys = || world.s3.objects().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let made = "statefulset,service,configmap,cronjob,pdb,networkpolicy,serviceaccount";
    let ours = async || {
        world.ns.kubectl(&["get", made, "-l", "kafscale.io/cluster=orders", "-o", "name"]).await.expect("listed")
    };
    assert_eq!((keys(), ours().await), (vec![], String::new()));
    let labels = format!("{{namespace=\"{}\",cluster=\"orders\"}}", world.ns.name());
    let access = format!("kafscale_operator_etcd_snapshot_access_ok{labels}");
    assert_eq!(operator.metric(&access).await, None, "nobody knows");

    world.documented("annotate kafscalecluster orders kafscale.io/paused-").await;
    world.wait_condition("orders", "EtcdSnapshotAccess", "True", "PreflightSucceeded").await;
    let first = format!("etcd-snapshots/{}/orders/.preflight", world.ns.name());
    assert_eq!((keys(), operator.metric(&access).await), (vec![first.clone()], Some(1.0)));
    world.ns.wait_object("statefulset/orders-etcd", "there", |s| s["status"]["replicas"] == 3).await;
    world.ns.wait_object("kt/t", "nobody is behind the pods of etcd", says("EtcdUnavailable")).await;

    // Paused again: settings that would be tried at once are not.
    world.documented("annotate kafscalecluster orders kafscale.io/paused=true").await;
    world.wait_condition("orders", "EtcdSnapshotAccess", "Unknown", "ClusterPaused").await;
    world.patch("orders", r#"{"spec":{"etcd":{"managed":{"snapshot":{"prefix":"elsewhere"}}}}}"#).await;
    let seen = |c: &serde_json::Value| c["status"]["observedGeneration"] == c["metadata"]["generation"];
    world.ns.wait_object("kafscalecluster/orders", "the change is seen", seen).await;
    assert_eq!(keys(), vec![first.clone()]);
    world.documented("annotate kafscalecluster orders kafscale.io/paused-").await;
    world.wait_condition("orders", "EtcdSnapshotAccess", "True", "PreflightSucceeded").await;
    assert_eq!(keys(), [format!("elsewhere/{}/orders/.preflight", world.ns.name()), first]);
}

/// The controller of Kubernetes starts the job when it is time; nobody makes one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_when_its_schedule_says_so() {
    let _quiet = quiet().await;
    let mut world = World::managed("etcd-schedule").await;
    world.make_secret().await;
    let operator = world.operator(false).await;
    let every_minute = "etcd: {managed: {snapshot: {schedule: '* * * * *'}}}";
    world.ns.apply(&world.cluster("orders", 0, every_minute)).await.unwrap();
    world.wait_condition("orders", "EtcdAvailable", "True", "QuorumHealthy").await;
    world.wait_condition("orders", "EtcdSnapshotAccess", "True", "PreflightSucceeded").await;
    let job = world.ns.get("cronjob/orders-etcd-snapshot").await.unwrap();
    assert_eq!((&job["spec"]["schedule"], &job["spec"]["timeZone"]), (&"* * * * *".into(), &"Etc/UTC".into()));

    let began = kafscale::clock::monotonic();
    let found = world.wait_condition("orders", "EtcdSnapshot", "True", "SnapshotHealthy").await;
    eprintln!(
        "the first snapshot of a schedule of every minute: {:?} after the bucket could be written",
        began.elapsed()
    );
    let job = world.ns.get("cronjob/orders-etcd-snapshot").await.unwrap();
    assert!(job["status"]["lastScheduleTime"].is_string() && job["status"]["lastSuccessfulTime"].is_string(), "{job}");
    assert!(found["status"]["etcd"]["lastSnapshot"].is_string(), "{}", found["status"]["etcd"]);
    // Every job is the CronJob's, at a full minute, and has brought one snapshot.
    let jobs = world.ns.kubectl(&["get", "jobs", "-o", "json"]).await.unwrap();
    let jobs: serde_json::Value = serde_json::from_str(&jobs).unwrap();
    let jobs = jobs["items"].as_array().unwrap();
    assert!(!jobs.is_empty());
    for one in jobs {
        let owner = &one["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["name"]), (&"CronJob".into(), &"orders-etcd-snapshot".into()), "{one}");
        let at = one["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str().unwrap();
        assert!(at.ends_with(":00Z"), "{at}");
    }
    let taken: Vec<String> = world.s3.objects().into_iter().map(|(key, _)| key).collect();
    let complete = taken.iter().filter(|key| key.ends_with(".db.sha256")).count();
    assert!(complete >= 1 && complete <= jobs.len(), "{taken:?}");
    let labels = format!("{{namespace=\"{}\",cluster=\"orders\"}}", world.ns.name());
    let scheduled = format!("kafscale_operator_etcd_snapshot_last_schedule_timestamp_seconds{labels}");
    assert!(operator.metric(&scheduled).await > Some(0.0));
}

fn settings(address: &str, bucket: &str) -> SnapshotSettings {
    SnapshotSettings {
        bucket: bucket.to_owned(),
        prefix: "etcd-snapshots/shop/demo".to_owned(),
        region: REGION.to_owned(),
        endpoint: Some(format!("http://{address}")),
        path_style: true,
        kms_key_arn: None,
        secret: None,
        schedule: "0 * * * *".to_owned(),
        stale_after: Duration::from_secs(7200),
        retention_days: 14,
        create_bucket: false,
        protect_bucket: false,
        skip_preflight: false,
    }
}

#[tokio::test]
async fn the_preflight_writes_one_object_and_says_what_is_wrong() {
    let dir = TestDir::new("preflight");
    let server = S3Server::start(dir.path()).await;
    let keys = |secret: &str| {
        let (access_key, secret_key) = (ACCESS_KEY.to_owned(), secret.to_owned());
        Some(kafscale::storage::s3::StaticCredentials { access_key, secret_key, session_token: None })
    };
    let good = settings(&server.address(), BUCKET);
    for _ in 0..2 {
        assert_eq!(access::attempt(&good, keys(SECRET_KEY)).await, Access::Fine);
    }
    let written: Vec<String> = server.objects().into_iter().map(|(key, _)| key).collect();
    assert_eq!(written, ["etcd-snapshots/shop/demo/.preflight"]);
    let reason = |access: Access| match access {
        Access::Failing { reason, message } => (reason, message),
        other => panic!("{other:?}"),
    };
    let (code, message) = reason(access::attempt(&good, keys("wrong")).await);
    assert!(code == "PreflightRefused" && message.contains("KAFSCALE_S3_SECRET_KEY"), "{message}");
    let absent = settings(&server.address(), "absent-bucket");
    let (code, message) = reason(access::attempt(&absent, keys(SECRET_KEY)).await);
    assert!(code == "PreflightRefused" && message.contains("createBucket"), "{message}");
    let made = SnapshotSettings { create_bucket: true, protect_bucket: true, ..absent };
    for _ in 0..2 {
        assert_eq!(access::attempt(&made, keys(SECRET_KEY)).await, Access::Fine, "made, then found");
    }
    let (code, _) = reason(access::attempt(&settings("127.0.0.1:1", BUCKET), keys(SECRET_KEY)).await);
    assert_eq!(code, "PreflightFailed");
    assert!(snapshot::SCRIPT.starts_with("#!/bin/sh"));
    let (seen, refusal) = api::look(&BTreeMap::new(), None).await;
    assert!(seen.listed.is_none() && refusal.is_some());
}
