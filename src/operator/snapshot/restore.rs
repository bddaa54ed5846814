//! Manifests that people apply to restore a snapshot, kept in the ConfigMap beside the script. Pure.
//!
//! They are written by the operator since it knows images, volumes, secrets and the names of members; `docs/etcd-restore.md`
//! says in which order they are used. `@SNAPSHOT@` stands for the name of a snapshot.

use super::super::etcd::objects::{claim_spec, said};
use super::super::etcd::pods::{container_security, env, env_secret, pod_security};
use super::super::etcd::{CLAIM, COMPONENT as ETCD, DATA_DIR, VOLUME_PATH, claim_name, member_name, peer_url, size};
use super::super::resources::pods;
use super::super::view::ClusterView;
use super::SnapshotSettings;
use super::objects::{FILE, mount, pod, restore_image, script, volumes};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Stands for the name of a snapshot.
pub const PLACEHOLDER: &str = "@SNAPSHOT@";
/// Component label of the jobs.
const COMPONENT: &str = "snapshot";
/// Seconds that a restore may take.
const DEADLINE_SEC: u32 = 3_600;

/// File names and what stands in them, as YAML.
pub fn manifests(view: &ClusterView<'_>, settings: &SnapshotSettings) -> BTreeMap<String, String> {
    let files = documents(view, settings).into_iter();
    files.map(|(name, documents)| (name.to_owned(), documents.iter().map(yaml).collect())).collect()
}

/// File names and the objects in them.
pub fn documents(view: &ClusterView<'_>, settings: &SnapshotSettings) -> [(&'static str, Vec<Value>); 5] {
    let of_members = |one: &dyn Fn(u32) -> Value| (0..size(view)).map(one).collect::<Vec<_>>();
    [
        ("list.yaml", vec![list(view, settings)]),
        ("volumes.yaml", of_members(&|n| claim(view, n))),
        ("restore.yaml", of_members(&|n| restore(view, settings, n))),
        ("recover-plan.yaml", vec![recover(view, "plan", &["recover"])]),
        ("recover-write.yaml", vec![recover(view, "write", &["recover", "--write"])]),
    ]
    .map(|(name, documents)| (name, documents.into_iter().map(said).collect()))
}

fn yaml(document: &Value) -> String {
    let text = serde_saphyr::to_string(document).expect("plain data has a YAML form");
    format!("---\n{text}")
}

fn job(view: &ClusterView<'_>, name: String, component: &str, pod: Value) -> Value {
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": view.namespace(), "labels": view.labels(component)},
        "spec": {
            "activeDeadlineSeconds": DEADLINE_SEC,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 86_400,
            "template": {"metadata": {"labels": view.labels(component)}, "spec": pod},
        },
    })
}

fn list(view: &ClusterView<'_>, settings: &SnapshotSettings) -> Value {
    let mut pod = pod(view);
    pod["containers"] = json!([script(view, settings, "list", &["list"])]);
    pod["volumes"] = volumes(view);
    job(view, format!("{}-snapshots", view.etcd_name()), COMPONENT, pod)
}

/// A member's volume, where it is lost: the StatefulSet takes it over.
fn claim(view: &ClusterView<'_>, ordinal: u32) -> Value {
    let managed = view.resource.spec.etcd.managed.clone().unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": claim_name(view, ordinal),
            "namespace": view.namespace(),
            "labels": view.selector(ETCD),
        },
        "spec": claim_spec(view, &managed),
    })
}

/// Fetches and verifies the snapshot, moves what the member has aside, and makes its data from the snapshot.
fn restore(view: &ClusterView<'_>, settings: &SnapshotSettings, ordinal: u32) -> Value {
    let mut make_room = script(view, settings, "make-room", &["make-room"]);
    let add = |container: &mut Value, key: &str, item: Value| {
        container[key].as_array_mut().expect("it is a list").push(item);
    };
    add(&mut make_room, "env", env("ETCD_DATA_DIR", DATA_DIR));
    add(&mut make_room, "volumeMounts", mount(CLAIM, VOLUME_PATH, false));
    let members: Vec<String> =
        (0..size(view)).map(|n| format!("{}={}", member_name(view, n), peer_url(view, n))).collect();
    let write = json!({
        "name": "restore",
        "image": restore_image(view),
        "command": [
            "etcdutl", "snapshot", "restore", FILE,
            format!("--name={}", member_name(view, ordinal)),
            format!("--data-dir={DATA_DIR}"),
            format!("--initial-cluster={}", members.join(",")),
            format!("--initial-advertise-peer-urls={}", peer_url(view, ordinal)),
            // A member that was forgotten with the old data must not talk to the new ones.
            format!("--initial-cluster-token={}.{}.{PLACEHOLDER}", view.namespace(), view.etcd_name()),
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "securityContext": container_security(),
        "volumeMounts": [
            mount("snapshot", "/snapshot", false),
            mount("tmp", "/tmp", false),
            mount(CLAIM, VOLUME_PATH, false),
        ],
    });
    let mut pod = pod(view);
    pod["initContainers"] = json!([script(view, settings, "fetch", &["fetch", PLACEHOLDER]), make_room]);
    pod["containers"] = json!([write]);
    pod["volumes"] = volumes(view);
    let volume = json!({"name": CLAIM, "persistentVolumeClaim": {"claimName": claim_name(view, ordinal)}});
    add(&mut pod, "volumes", volume);
    job(view, format!("{}-restore-{ordinal}", view.etcd_name()), COMPONENT, pod)
}

/// `kafscale recover` with what it needs of the brokers' settings.
fn recover(view: &ClusterView<'_>, name: &str, arguments: &[&str]) -> Value {
    let mut command = vec!["kafscale"];
    command.extend(arguments);
    let pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(),
        "imagePullSecrets": view.pull_secrets(),
        "serviceAccountName": view.resource.spec.brokers.pod.service_account_name,
        "containers": [{
            "name": "recover",
            "image": pods::image(view),
            "command": command,
            "env": recover_environment(view),
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
            "securityContext": container_security(),
        }],
    });
    job(view, format!("{}-recover-{name}", view.name()), "recover", pod)
}

fn recover_environment(view: &ClusterView<'_>) -> Vec<Value> {
    let s3 = &view.resource.spec.s3;
    let mut list = vec![
        env("KAFSCALE_ETCD_ENDPOINTS", view.etcd_endpoints().join(",")),
        env("KAFSCALE_S3_BUCKET", &*s3.bucket),
        env("KAFSCALE_S3_REGION", &*s3.region),
        env("KAFSCALE_S3_NAMESPACE", view.kafscale_namespace()),
    ];
    let optional = [
        ("KAFSCALE_S3_ENDPOINT", s3.endpoint.clone()),
        ("KAFSCALE_S3_KMS_ARN", s3.kms_key_arn.clone()),
        ("KAFSCALE_S3_PATH_STYLE", Some(s3.path_style.unwrap_or(s3.endpoint.is_some()).to_string())),
    ];
    list.extend(optional.into_iter().filter_map(|(name, value)| Some(env(name, value?))));
    if let Some(secret) = &s3.credentials_secret_ref {
        for (name, is_optional) in
            [("KAFSCALE_S3_ACCESS_KEY", false), ("KAFSCALE_S3_SECRET_KEY", false), ("KAFSCALE_S3_SESSION_TOKEN", true)]
        {
            list.push(env_secret(name, secret, name, is_optional));
        }
    }
    list
}
