//! The CronJob that takes snapshots, and the ConfigMap with its script and the manifests for a restore. Pure.

use super::super::etcd::objects::{dynamic, image as etcd_image};
use super::super::etcd::pods::{container_security, env, env_secret, pod_security};
use super::super::etcd::{quota_bytes, service_url};
use super::super::view::ClusterView;
use super::{COMPONENT, SCRIPT, SnapshotSettings, restore};
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// Seconds that a snapshot may take.
const DEADLINE_SEC: u32 = 1_800;
/// Seconds after which a missed start is given up.
const START_WITHIN_SEC: u32 = 600;
/// Where the snapshot is, in pods.
pub const FILE: &str = "/snapshot/etcd.db";
/// Where the script is, in pods.
pub const SCRIPT_PATH: &str = "/scripts/snapshot.sh";

/// Everything that backs a cluster's etcd up; nothing if that is not wanted. While the bucket cannot be written the CronJob
/// is `suspended`.
pub fn objects(view: &ClusterView<'_>, suspended: bool) -> Vec<DynamicObject> {
    let Some(settings) = SnapshotSettings::of(view) else { return Vec::new() };
    vec![dynamic(config_map(view, &settings)), dynamic(cron_job(view, &settings, suspended))]
}

/// Name of the CronJob and of the ConfigMap.
pub fn name(view: &ClusterView<'_>) -> String {
    format!("{}-snapshot", view.etcd_name())
}

fn config_map(view: &ClusterView<'_>, settings: &SnapshotSettings) -> Value {
    let mut data = restore::manifests(view, settings);
    data.insert("snapshot.sh".to_owned(), SCRIPT.to_owned());
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": view.metadata(name(view), COMPONENT),
        "data": data,
    })
}

fn cron_job(view: &ClusterView<'_>, settings: &SnapshotSettings, suspended: bool) -> Value {
    let save = json!({
        "name": "save",
        "image": view.defaults.snapshot.etcdctl_image,
        "command": ["etcdctl", "snapshot", "save", FILE],
        "env": [env("ETCDCTL_API", "3"), env("ETCDCTL_ENDPOINTS", service_url(view))],
        "resources": resources(),
        "securityContext": container_security(),
        "volumeMounts": [mount("snapshot", "/snapshot", false), mount("tmp", "/tmp", false)],
    });
    // Reads all of it: what is not a database of etcd is not uploaded.
    let check = json!({
        "name": "check",
        "image": view.defaults.snapshot.etcdctl_image,
        "command": ["etcdutl", "snapshot", "status", FILE, "--write-out=json"],
        "resources": resources(),
        "securityContext": container_security(),
        "volumeMounts": [mount("snapshot", "/snapshot", false), mount("tmp", "/tmp", false)],
    });
    let mut pod = pod(view);
    pod["initContainers"] = json!([save, check]);
    pod["containers"] = json!([script(view, settings, "upload", &["upload"])]);
    pod["volumes"] = volumes(view);
    json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": view.metadata(name(view), COMPONENT),
        "spec": {
            "schedule": settings.schedule,
            // Like the names of snapshots; else it would be that of the controller's machine.
            "timeZone": "Etc/UTC",
            "suspend": suspended,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": START_WITHIN_SEC,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "metadata": {"labels": view.labels(COMPONENT)},
                "spec": {
                    "activeDeadlineSeconds": DEADLINE_SEC,
                    "backoffLimit": 2,
                    "template": {"metadata": {"labels": view.labels(COMPONENT)}, "spec": pod},
                },
            },
        },
    })
}

/// A pod that ends, without containers.
pub fn pod(view: &ClusterView<'_>) -> Value {
    let mut pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(),
        "imagePullSecrets": view.pull_secrets(),
    });
    // An account with a role that may write to the bucket, as the brokers have it.
    if let Some(account) = &view.resource.spec.brokers.pod.service_account_name {
        pod["serviceAccountName"] = account.clone().into();
    }
    pod
}

/// A container that runs the script.
pub fn script(view: &ClusterView<'_>, settings: &SnapshotSettings, name: &str, arguments: &[&str]) -> Value {
    let mut command = vec!["/bin/sh", SCRIPT_PATH];
    command.extend(arguments);
    json!({
        "name": name,
        "image": view.defaults.snapshot.image,
        "command": command,
        "env": environment(settings),
        "resources": resources(),
        "securityContext": container_security(),
        "volumeMounts": [
            mount("snapshot", "/snapshot", false),
            mount("tmp", "/tmp", false),
            mount("scripts", "/scripts", true),
        ],
    })
}

/// Volumes that [`script`] mounts. The snapshot is about as large as the quota.
pub fn volumes(view: &ClusterView<'_>) -> Value {
    let limit_bytes = quota_bytes(view) + (1 << 30);
    json!([
        {"name": "snapshot", "emptyDir": {"sizeLimit": limit_bytes.to_string()}},
        {"name": "tmp", "emptyDir": {"sizeLimit": limit_bytes.to_string()}},
        {"name": "scripts", "configMap": {"name": name(view), "items": [{"key": "snapshot.sh", "path": "snapshot.sh"}]}},
    ])
}

/// A volume's mount.
pub fn mount(name: &str, path: &str, is_read_only: bool) -> Value {
    match is_read_only {
        true => json!({"name": name, "mountPath": path, "readOnly": true}),
        false => json!({"name": name, "mountPath": path}),
    }
}

fn resources() -> Value {
    json!({"requests": {"cpu": "50m", "memory": "128Mi"}})
}

/// Image with etcdutl for restores: that of the members, so that versions agree.
pub fn restore_image(view: &ClusterView<'_>) -> String {
    etcd_image(view)
}

/// Variables of the script and of the AWS command line.
pub fn environment(settings: &SnapshotSettings) -> Vec<Value> {
    let addressing = match (settings.path_style, &settings.endpoint) {
        (true, _) => "path",
        (false, Some(_)) => "virtual",
        (false, None) => "",
    };
    let mut list = vec![
        env("HOME", "/tmp"),
        env("SNAPSHOT_FILE", FILE),
        env("SNAPSHOT_BUCKET", &*settings.bucket),
        env("SNAPSHOT_PREFIX", &*settings.prefix),
        env("SNAPSHOT_RETENTION_DAYS", settings.retention_days.to_string()),
        env("SNAPSHOT_CREATE_BUCKET", settings.create_bucket.to_string()),
        env("SNAPSHOT_PROTECT_BUCKET", settings.protect_bucket.to_string()),
        env("SNAPSHOT_S3_ENDPOINT", settings.endpoint.clone().unwrap_or_default()),
        env("SNAPSHOT_S3_ADDRESSING", addressing),
        env("SNAPSHOT_KMS_KEY", settings.kms_key_arn.clone().unwrap_or_default()),
        env("AWS_DEFAULT_REGION", &*settings.region),
        env("AWS_REGION", &*settings.region),
        env("AWS_PAGER", ""),
    ];
    if let Some(secret) = &settings.secret {
        list.push(env_secret("AWS_ACCESS_KEY_ID", secret, "KAFSCALE_S3_ACCESS_KEY", false));
        list.push(env_secret("AWS_SECRET_ACCESS_KEY", secret, "KAFSCALE_S3_SECRET_KEY", false));
        list.push(env_secret("AWS_SESSION_TOKEN", secret, "KAFSCALE_S3_SESSION_TOKEN", true));
        list.push(env("AWS_EC2_METADATA_DISABLED", "true"));
    }
    list
}
