//! Objects, records and findings.

use super::findings::{Names, external, managed};
use super::maintenance::state::{Listed, Seen, Serving};
use super::record::{self, Phase, Record};
use super::{objects, peer_url, size};
use crate::config::Component;
use crate::config::operator::{self, OperatorConfig};
use crate::operator::crd::KafscaleCluster;
use crate::operator::view::ClusterView;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// The operator's configuration with these flags.
pub fn defaults(flags: &[&str]) -> OperatorConfig {
    let arguments = ["operator"].iter().chain(flags);
    let command = Component::Operator.command().mut_args(|argument| argument.env(None::<&str>));
    let matches = command.try_get_matches_from(arguments).expect("flags are known");
    operator::resolve(&matches, &Vec::new()).outcome.expect("flags are valid")
}

/// A cluster `demo` in `shop`, with what is merged into its spec.
pub fn cluster(more: Value) -> KafscaleCluster {
    let mut spec = json!({
        "s3": {"bucket": "records", "region": "eu-west-1", "credentialsSecretRef": "s3-keys"},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let mut cluster = KafscaleCluster::new("demo", serde_json::from_value(spec).expect("the spec is one"));
    cluster.metadata.namespace = Some("shop".to_owned());
    cluster.metadata.uid = Some("00000000-0000-0000-0000-000000000001".to_owned());
    cluster
}

/// Every field that was written is one that Kubernetes knows: nothing is lost on the way through its types.
pub fn assert_known<K: serde::Serialize + serde::de::DeserializeOwned>(object: &DynamicObject) {
    let written = serde_json::to_value(object).unwrap();
    let typed: K = serde_json::from_value(written.clone()).unwrap_or_else(|e| panic!("{e}: {written:#}"));
    let mut read = serde_json::to_value(typed).unwrap();
    for key in ["apiVersion", "kind"] {
        read[key] = written[key].clone();
    }
    assert_subset(&written, &read, "");
}

fn assert_subset(written: &Value, read: &Value, path: &str) {
    match (written, read) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let other = b.get(key).unwrap_or_else(|| panic!("{path}.{key} is not a field of Kubernetes"));
                assert_subset(value, other, &format!("{path}.{key}"));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}");
            a.iter().zip(b).enumerate().for_each(|(n, (a, b))| assert_subset(a, b, &format!("{path}[{n}]")));
        }
        (a, b) => assert_eq!(a, b, "{path}"),
    }
}

/// What Pod Security *restricted* asks of a pod.
pub fn assert_restricted(pod: &Value) {
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let lists = ["containers", "initContainers"].map(|key| pod[key].as_array().cloned().unwrap_or_default());
    let containers = lists.concat();
    assert!(!containers.is_empty());
    for container in containers {
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false, "{container:#}");
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    }
}

fn find<'a>(list: &'a [DynamicObject], kind: &str, name: &str) -> &'a DynamicObject {
    let is = |o: &&DynamicObject| {
        o.types.as_ref().is_some_and(|t| t.kind == kind) && o.metadata.name.as_deref() == Some(name)
    };
    list.iter().find(is).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

#[test]
fn the_objects_are_those_of_kubernetes() {
    let (defaults, cluster) = (defaults(&[]), cluster(json!({})));
    let view = ClusterView { resource: &cluster, defaults: &defaults };
    let list = objects(&view, "kafscale");
    assert_eq!(list.len(), 5);
    assert_known::<Service>(find(&list, "Service", "demo-etcd"));
    assert_known::<Service>(find(&list, "Service", "demo-etcd-client"));
    assert_known::<PodDisruptionBudget>(find(&list, "PodDisruptionBudget", "demo-etcd"));
    assert_known::<NetworkPolicy>(find(&list, "NetworkPolicy", "demo-etcd"));
    let set = find(&list, "StatefulSet", "demo-etcd");
    assert_known::<StatefulSet>(set);
    assert_restricted(&set.data["spec"]["template"]["spec"]);
    for object in &list {
        assert_eq!(object.metadata.owner_references.as_ref().unwrap()[0].name, "demo");
        assert_eq!(object.metadata.labels.as_ref().unwrap()["kafscale.io/cluster"], "demo");
    }
    let container = &set.data["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "quay.io/coreos/etcd:v3.5.12");
    assert_eq!(container["command"], json!(["etcd"]), "the image has no shell");
    assert!(set.data["spec"]["template"]["spec"].get("imagePullSecrets").is_none());
}

#[test]
fn the_guides_variables_and_the_resource_decide_in_this_order() {
    let flags = ["--operator-etcd-image=i:1", "--operator-etcd-storage-size=20Gi", "--operator-etcd-storage-class=ssd"];
    let defaults = defaults(&flags);
    let plain = cluster(json!({"deletion": {"etcd": "Delete"}, "networkPolicy": {"enabled": false}}));
    let own = cluster(json!({"etcd": {"managed": {
        "replicas": 5, "image": "own:2", "storageSize": "7Gi", "storageClass": "own", "quotaBytes": 1_073_741_824,
    }}}));
    let set = |cluster: &KafscaleCluster| {
        let view = ClusterView { resource: cluster, defaults: &defaults };
        find(&objects(&view, "kafscale"), "StatefulSet", "demo-etcd").data["spec"].clone()
    };
    let of = |set: &Value| {
        let claim = &set["volumeClaimTemplates"][0]["spec"];
        let container = &set["template"]["spec"]["containers"][0];
        let quota = container["env"].as_array().unwrap().iter().find(|e| e["name"] == "ETCD_QUOTA_BACKEND_BYTES");
        json!([
            set["replicas"],
            container["image"],
            claim["resources"]["requests"]["storage"],
            claim["storageClassName"],
            quota.unwrap()["value"],
            set["persistentVolumeClaimRetentionPolicy"]["whenDeleted"],
        ])
    };
    assert_eq!(of(&set(&plain)), json!([3, "i:1", "20Gi", "ssd", "4294967296", "Delete"]));
    assert_eq!(of(&set(&own)), json!([5, "own:2", "7Gi", "own", "1073741824", "Retain"]));
    let view = ClusterView { resource: &plain, defaults: &defaults };
    assert!(objects(&view, "kafscale").iter().all(|o| o.types.as_ref().unwrap().kind != "NetworkPolicy"));
}

#[test]
fn etcd_of_others_is_left_alone() {
    let defaults = defaults(&["--operator-etcd-endpoints=http://etcd:2379"]);
    let cluster = cluster(json!({}));
    assert!(objects(&ClusterView { resource: &cluster, defaults: &defaults }, "kafscale").is_empty());
}

#[test]
fn the_initial_cluster_opens_one_door_at_a_time() {
    let peers: Vec<(String, String)> = (0..3).map(|n| (format!("e-{n}"), format!("http://e-{n}:2380"))).collect();
    let of = |phase| Record::new(phase).initial_cluster(&peers);
    let all = "e-0=http://e-0:2380,e-1=http://e-1:2380,e-2=http://e-2:2380";
    assert_eq!(of(Phase::Forming), ("new", all.to_owned()));
    let (state, locked) = of(Phase::Formed);
    assert!(
        state == "existing" && peers.iter().all(|(name, url)| !locked.contains(name) && !locked.contains(url)),
        "{locked}"
    );
    let one = "not-e-0=http://e-0:2380,e-1=http://e-1:2380,not-e-2=http://e-2:2380";
    assert_eq!(of(Phase::Joining(1)), ("existing", one.to_owned()));
}

#[test]
fn a_record_survives_its_config_map_and_what_is_damaged_opens_nothing() {
    let (defaults, cluster) = (defaults(&[]), cluster(json!({})));
    let view = ClusterView { resource: &cluster, defaults: &defaults };
    for phase in [Phase::Forming, Phase::Formed, Phase::Joining(2)] {
        let mut record = Record::new(phase);
        record.volumes = [(0, "a".to_owned()), (2, "b=c".to_owned())].into();
        record.defragmented_ms = [(1, 17)].into();
        assert_eq!(Record::from_data(&record.data(&view)), record);
        let object = crate::operator::etcd::objects::dynamic(record.config_map(&view));
        assert_known::<ConfigMap>(&object);
        assert!(object.metadata.owner_references.is_none(), "it stays as long as the volumes do");
    }
    assert_eq!(Record::from_data(&Default::default()).phase, Phase::Formed);
    let damaged = [("phase".to_owned(), "Joining-x".to_owned())].into();
    assert_eq!(Record::from_data(&damaged).phase, Phase::Formed);
    assert_eq!(record::config_map_name(&view), "demo-etcd-state");
    assert_eq!((size(&view), peer_url(&view, 1).as_str()), (3, "http://demo-etcd-1.demo-etcd.shop.svc:2380"));
}

#[test]
fn findings_name_the_members_and_what_to_do() {
    let serving =
        |n: u32| Serving { id: u64::from(n), leads: n == 0, follows: true, db_bytes: 1, used_bytes: 1, revision: 1 };
    let listed = |n: u32| Listed { id: u64::from(n), ordinal: Some(n), started: true };
    let of = |ordinals: &[u32]| Seen {
        serving: ordinals.iter().map(|n| (*n, serving(*n))).collect(),
        listed: (ordinals.len() > 1).then(|| (0..3).map(listed).collect()),
        ..Seen::default()
    };
    let no_space = Seen { no_space: [1].into(), ..of(&[0, 1, 2]) };
    let corrupt = Seen { corrupt: [1].into(), ..of(&[0, 1, 2]) };
    let mut strange = of(&[0, 1, 2]);
    strange.listed.as_mut().unwrap().push(Listed { id: 9, ordinal: None, started: true });
    let cases = [
        (Phase::Formed, of(&[0, 1, 2]), Some(true), "QuorumHealthy", "all members"),
        (Phase::Formed, of(&[0, 2]), Some(true), "MemberDown", "demo-etcd-1"),
        (Phase::Joining(1), of(&[0, 2]), Some(true), "MemberJoining", "demo-etcd-1"),
        (Phase::Formed, of(&[0]), Some(false), "QuorumLost", "docs/etcd-restore.md"),
        (Phase::Forming, of(&[]), None, "Forming", "demo-etcd-0, demo-etcd-1, demo-etcd-2"),
        (Phase::Formed, no_space, Some(false), "NoSpace", "compacts"),
        (Phase::Formed, corrupt, Some(false), "Corrupt", "docs/etcd-restore.md"),
        (Phase::Formed, strange, Some(true), "StrangeMember", "etcdctl member list"),
    ];
    let names = Names { namespace: "shop", etcd: "demo-etcd" };
    for (phase, seen, holds, reason, part) in cases {
        let finding = managed(names, &Record::new(phase), &seen, 3, 1 << 30);
        assert_eq!((finding.holds, finding.reason), (holds, reason));
        assert!(finding.message.contains(part), "{}", finding.message);
        assert!(!finding.message.contains("  "), "{}", finding.message);
    }
    assert_eq!(external(&of(&[0, 1, 2])), None);
    let full = Seen { no_space: [7].into(), ..of(&[0, 1, 2]) };
    assert_eq!(external(&full).unwrap().reason, "NoSpace");
    let corrupt = Seen { corrupt: [7].into(), ..full };
    assert_eq!(external(&corrupt).unwrap().reason, "Corrupt", "what is worse comes first");
}

#[test]
fn etcd_is_that_of_the_resource_then_of_the_operator_then_managed() {
    let of_operator = ["--operator-etcd-endpoints=http://a:2379,http://b:2379"];
    let (own, managed) = (json!({"etcd": {"endpoints": ["http://own:2379"]}}), json!({"etcd": {"managed": {}}}));
    let service = "http://demo-etcd-client.shop.svc:2379";
    let all: [Vec<&str>; 3] = [vec!["http://own:2379"], vec!["http://a:2379", "http://b:2379"], vec![service]];
    let [of_resource, of_both, of_service] = all.each_ref().map(Vec::as_slice);
    let none: &[&str] = &[];
    let table = [
        (own, &of_operator[..], "Spec", of_resource, 0),
        (json!({}), &of_operator[..], "Operator", of_both, 0),
        (json!({}), none, "Managed", of_service, 5),
        (managed.clone(), none, "Managed", of_service, 5),
        (managed, &of_operator[..], "Managed", of_service, 5),
    ];
    for (spec, flags, mode, endpoints, count) in table {
        let (defaults, resource) = (defaults(flags), cluster(spec));
        let view = ClusterView { resource: &resource, defaults: &defaults };
        assert_eq!(
            (view.etcd_mode().name(), view.etcd_endpoints()),
            (mode, endpoints.iter().map(|e| (*e).to_owned()).collect())
        );
        assert_eq!(objects(&view, "kafscale").len(), count, "{mode}");
    }
}
