//! Settings, objects, when the bucket is tried, and what is said.

use super::state::{Access, History, RETRY_FAILING_MS, RETRY_FINE_MS, Tried, access, is_due, snapshot};
use super::{SnapshotSettings, metrics, objects, restore};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::operator::crd::KafscaleCluster;
use crate::operator::etcd::objects::dynamic;
use crate::operator::etcd::record::{Phase, Record};
use crate::operator::etcd::tests::{assert_known, assert_restricted, cluster, defaults};
use crate::operator::view::ClusterView;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::api::DynamicObject;
use serde_json::{Value, json};
use std::time::Duration;

fn settings(cluster: &KafscaleCluster, flags: &[&str]) -> Option<SnapshotSettings> {
    SnapshotSettings::of(&ClusterView { resource: cluster, defaults: &defaults(flags) })
}

fn managed(snapshot: Value) -> KafscaleCluster {
    cluster(json!({"etcd": {"managed": {"snapshot": snapshot}}}))
}

#[test]
fn the_resource_comes_first_then_the_variables_then_the_cluster() {
    let plain = settings(&cluster(json!({})), &[]).unwrap();
    assert_eq!((plain.bucket.as_str(), plain.prefix.as_str()), ("records", "etcd-snapshots/shop/demo"));
    assert_eq!((plain.schedule.as_str(), plain.stale_after.as_secs()), ("0 * * * *", 7200));
    assert_eq!((plain.retention_days, plain.create_bucket, plain.path_style), (14, false, false));
    let flags = [
        "--operator-etcd-snapshot-bucket=backups",
        "--operator-etcd-snapshot-prefix=p",
        "--operator-etcd-snapshot-s3-endpoint=http://minio:9000",
        "--operator-etcd-snapshot-create-bucket=1",
        "--operator-etcd-snapshot-stale-after-sec=90",
    ];
    let of_operator = settings(&cluster(json!({})), &flags).unwrap();
    assert_eq!(
        (of_operator.bucket.as_str(), of_operator.preflight_key().as_str()),
        ("backups", "p/shop/demo/.preflight")
    );
    assert_eq!(of_operator.endpoint.as_deref(), Some("http://minio:9000"));
    assert!(of_operator.create_bucket && of_operator.path_style && of_operator.stale_after.as_secs() == 90);
    let own = managed(json!({
        "bucket": "own", "prefix": "q", "createBucket": false, "staleAfterSec": 60, "retentionDays": 30,
        "schedule": "5 * * * *", "skipPreflight": true,
    }));
    let own = settings(&own, &flags).unwrap();
    assert_eq!((own.bucket.as_str(), own.prefix.as_str(), own.retention_days), ("own", "q/shop/demo", 30));
    assert!(!own.create_bucket && own.skip_preflight && own.schedule == "5 * * * *");
}

#[test]
fn there_are_none_of_etcd_of_others_and_none_where_they_are_off() {
    let others = ["--operator-etcd-endpoints=http://etcd:2379"];
    assert_eq!(settings(&cluster(json!({})), &others), None);
    assert_eq!(settings(&managed(json!({"enabled": false})), &[]), None);
    let config = defaults(&others);
    let resource = cluster(json!({}));
    assert!(objects(&ClusterView { resource: &resource, defaults: &config }, false).is_empty());
}

#[test]
fn the_job_is_one_that_kubernetes_knows_and_restricts() {
    let (config, resource) = (defaults(&[]), cluster(json!({})));
    let view = ClusterView { resource: &resource, defaults: &config };
    let list = objects(&view, true);
    assert_known::<ConfigMap>(&list[0]);
    assert_known::<CronJob>(&list[1]);
    let spec = &list[1].data["spec"];
    assert_eq!((&spec["suspend"], &spec["concurrencyPolicy"]), (&json!(true), &json!("Forbid")));
    assert_eq!(objects(&view, false)[1].data["spec"]["suspend"], false);
    assert_eq!(spec["timeZone"], "Etc/UTC");
    assert_eq!((&spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]), (&json!(3), &json!(3)));
    let pod = &spec["jobTemplate"]["spec"]["template"]["spec"];
    assert_restricted(pod);
    let images = |key: &str| pod[key].as_array().unwrap().iter().map(|c| c["image"].clone()).collect::<Vec<_>>();
    assert_eq!(images("initContainers"), ["quay.io/coreos/etcd:v3.5.12", "quay.io/coreos/etcd:v3.5.12"]);
    assert_eq!(images("containers"), ["amazon/aws-cli:2.15.0"]);
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    let key = variables.iter().find(|e| e["name"] == "AWS_SECRET_ACCESS_KEY").unwrap();
    let reference = &key["valueFrom"]["secretKeyRef"];
    assert_eq!((&reference["name"], &reference["key"]), (&json!("s3-keys"), &json!("KAFSCALE_S3_SECRET_KEY")));
}

/// Each variable of the guide, and what it changes in the CronJob; those that change nothing there are in the test above.
#[test]
fn every_variable_shows_in_the_job() {
    let resource = cluster(json!({}));
    let job = |flags: &[&str]| {
        let config = defaults(flags);
        objects(&ClusterView { resource: &resource, defaults: &config }, false).remove(1).data["spec"].clone()
    };
    let pod = |job: &Value| job["jobTemplate"]["spec"]["template"]["spec"].clone();
    let variable = |job: &Value, name: &str| {
        let list = pod(job)["containers"][0]["env"].as_array().unwrap().clone();
        list.iter().find(|one| one["name"] == name).map(|one| one["value"].clone()).unwrap_or_default()
    };
    let plain = job(&[]);
    let variables = [
        ("bucket", "backups", "SNAPSHOT_BUCKET", "records", "backups"),
        ("prefix", "p", "SNAPSHOT_PREFIX", "etcd-snapshots/shop/demo", "p/shop/demo"),
        ("s3-endpoint", "http://minio:9000", "SNAPSHOT_S3_ENDPOINT", "", "http://minio:9000"),
        ("create-bucket", "1", "SNAPSHOT_CREATE_BUCKET", "false", "true"),
        ("protect-bucket", "1", "SNAPSHOT_PROTECT_BUCKET", "false", "true"),
    ];
    for (flag, value, name, before, after) in variables {
        assert_eq!(variable(&plain, name), before, "{flag}");
        assert_eq!(variable(&job(&[&format!("--operator-etcd-snapshot-{flag}={value}")]), name), after, "{flag}");
    }
    let other = job(&[
        "--operator-etcd-snapshot-schedule=5 * * * *",
        "--operator-etcd-snapshot-etcdctl-image=e:1",
        "--operator-etcd-snapshot-image=a:1",
    ]);
    assert_eq!((&plain["schedule"], &other["schedule"]), (&json!("0 * * * *"), &json!("5 * * * *")));
    let images = |job: &Value| {
        let pod = pod(job);
        ["initContainers", "containers"].map(|key| pod[key][0]["image"].clone())
    };
    assert_eq!(images(&plain), ["quay.io/coreos/etcd:v3.5.12", "amazon/aws-cli:2.15.0"]);
    assert_eq!(images(&other), ["e:1", "a:1"]);
    let skipped = settings(&resource, &["--operator-etcd-snapshot-skip-preflight=1"]).unwrap();
    assert!(skipped.skip_preflight && !settings(&resource, &[]).unwrap().skip_preflight);
}

#[test]
fn the_manifests_for_a_restore_are_objects_of_kubernetes() {
    let (config, resource) = (defaults(&[]), cluster(json!({})));
    let view = ClusterView { resource: &resource, defaults: &config };
    let settings = SnapshotSettings::of(&view).unwrap();
    for (name, documents) in restore::documents(&view, &settings) {
        let many = if ["restore.yaml", "volumes.yaml"].contains(&name) { 3 } else { 1 };
        assert_eq!(documents.len(), many, "{name}");
        for document in documents {
            let object = dynamic(document);
            match name {
                "volumes.yaml" => assert_known::<PersistentVolumeClaim>(&object),
                _ => {
                    assert_known::<Job>(&object);
                    assert_restricted(&object.data["spec"]["template"]["spec"]);
                }
            }
        }
    }
    for (name, text) in restore::manifests(&view, &settings) {
        assert_eq!(text.contains(restore::PLACEHOLDER), name == "restore.yaml", "{name}");
        assert!(text.starts_with("---\napiVersion: "), "{text}");
    }
}

#[test]
fn the_bucket_is_tried_when_something_changed_or_time_has_passed() {
    let failing = Access::Failing { reason: "PreflightFailed", message: String::new() };
    let tried = |access: &Access| Tried { fingerprint: 1, at_ms: 0, access: access.clone() };
    assert!(is_due(None, 1, 0));
    for (access, every_ms) in [(Access::Fine, RETRY_FINE_MS), (failing, RETRY_FAILING_MS)] {
        let last = tried(&access);
        assert!(!is_due(Some(&last), 1, every_ms - 1));
        assert!(is_due(Some(&last), 1, every_ms));
        assert!(is_due(Some(&last), 2, 1), "other settings or credentials");
    }
}

#[test]
fn what_is_said_of_snapshots() {
    let stale_after = Duration::from_secs(7200);
    let of = |last_success_ms| {
        let history = History { last_success_ms, last_schedule_ms: None };
        let finding = snapshot("shop", "demo-etcd-snapshot", &history, stale_after, 10_000_000);
        (finding.holds, finding.reason)
    };
    assert_eq!(of(None), (Some(false), "SnapshotNeverSucceeded"));
    assert_eq!(of(Some(10_000_000 - 7_200_000)), (Some(true), "SnapshotHealthy"));
    assert_eq!(of(Some(10_000_000 - 7_200_001)), (Some(false), "SnapshotStale"));
    assert_eq!(access(&Access::Fine).holds, Some(true));
    assert_eq!(access(&Access::Skipped).holds, None);
    let failing = access(&Access::Failing { reason: "PreflightRefused", message: "why".into() });
    assert_eq!((failing.holds, failing.reason, failing.message.as_str()), (Some(false), "PreflightRefused", "why"));
}

#[test]
fn there_are_numbers_only_where_there_are_snapshots() {
    let registry = Metrics::new();
    let clock = Clock::system();
    let own = metrics::SnapshotMetrics::register(&registry, clock);
    let of = |name: &str| registry.render().unwrap().lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(of("kafscale_operator_etcd_snapshot_"), 0);
    let key = ("shop".to_owned(), "demo".to_owned());
    let stale_after = Duration::from_secs(60);
    let never = metrics::Numbers { access: Access::Fine, history: History::default(), stale_after };
    own.set(&key, never.clone());
    let text = registry.render().unwrap();
    for line in ["access_ok", "success"]
        .map(|n| format!("kafscale_operator_etcd_snapshot_{n}{{namespace=\"shop\",cluster=\"demo\"}}"))
    {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert_eq!(of("kafscale_operator_etcd_snapshot_age_seconds"), 0, "of nothing there is no age");
    let at_ms = clock.wall_ms() - 120_000;
    let history = History { last_success_ms: Some(at_ms), last_schedule_ms: Some(at_ms) };
    own.set(&key, metrics::Numbers { history, ..never });
    let text = registry.render().unwrap();
    assert!(text.contains("kafscale_operator_etcd_snapshot_stale{namespace=\"shop\",cluster=\"demo\"} 1"), "{text}");
    own.forget(&key);
    assert_eq!(of("kafscale_operator_etcd_snapshot_"), 0);
}

/// All objects of managed etcd as text, without the script.
fn golden() -> (std::path::PathBuf, String) {
    let (config, resource) = (defaults(&[]), cluster(json!({})));
    let view = ClusterView { resource: &resource, defaults: &config };
    let mut list = crate::operator::etcd::objects(&view, "kafscale");
    list.push(dynamic(Record::new(Phase::Forming).config_map(&view)));
    list.extend(objects(&view, false));
    for object in &mut list {
        if let Some(script) = object.data.pointer_mut("/data/snapshot.sh") {
            *script = "…".into();
        }
    }
    let text = |o: &DynamicObject| serde_saphyr::to_string(&serde_json::to_value(o).unwrap()).unwrap();
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/operator/snapshot/golden.yaml");
    (path, list.iter().map(text).collect::<Vec<_>>().join("---\n"))
}

/// A difference is either a mistake, or a change that rolls etcd at the operator's next upgrade: then write the file anew
/// (`cargo test --lib write_the_golden_etcd -- --ignored`) and say so in the changelog.
#[test]
fn objects_are_as_written_down() {
    let (path, text) = golden();
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let first = known.lines().zip(text.lines()).find(|(known, now)| known != now);
    assert!(known == text, "{} differs, first at (known, now) {first:?}", path.display());
}

#[test]
#[ignore = "writes a file"]
fn write_the_golden_etcd() {
    let (path, text) = golden();
    std::fs::write(path, text).unwrap();
}
