//! Every rule of the custom resources, tried on the real API server: `rules.json` has for each an object that it accepts and one
//! that it refuses, as changes of the smallest object; those of rules about changes also have what was there `before`. A rule without
//! a row fails the test.

use super::control_plane::wait_for;
use super::namespace::Namespace;
use kafscale::operator::crd::definitions;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Kind, path in the schema, text of the rule.
type RuleKey = (String, String, String);

/// Every rule in the definitions with its message, and what is written besides these two.
fn rules() -> BTreeMap<RuleKey, String> {
    let mut found = BTreeMap::new();
    for definition in definitions() {
        let value = serde_json::to_value(&definition).expect("plain data");
        let kind = value["spec"]["names"]["kind"].as_str().expect("a kind").to_owned();
        for version in value["spec"]["versions"].as_array().expect("versions") {
            walk(&version["schema"]["openAPIV3Schema"], "", &mut |path, rule| {
                let text = |field: &str| rule[field].as_str().unwrap_or_default().to_owned();
                // `messageExpression`, `reason` and `fieldPath` came after Kubernetes 1.26.
                let fields: Vec<&str> = rule.as_object().expect("a rule is a map").keys().map(String::as_str).collect();
                assert_eq!(fields, ["message", "rule"], "{kind}{path}");
                let twice = found.insert((kind.clone(), path.to_owned(), text("rule")), text("message"));
                assert_eq!(twice, None, "{kind}{path} says a rule twice");
            });
        }
    }
    found
}

fn walk(schema: &Value, path: &str, each: &mut impl FnMut(&str, &Value)) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        each(path, rule);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), each);
    }
    for (part, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[part].is_object() {
            walk(&schema[part], &format!("{path}{suffix}"), each);
        }
    }
}

/// As a JSON merge patch does it.
fn merge(object: &mut Value, change: &Value) {
    for (name, value) in change.as_object().expect("changes are maps") {
        match value {
            Value::Null => drop(object.as_object_mut().expect("a map").remove(name)),
            Value::Object(_) => {
                if !object[name].is_object() {
                    object[name] = json!({});
                }
                merge(&mut object[name], value);
            }
            _ => object[name] = value.clone(),
        }
    }
}

fn smallest(kind: &str, name: &str) -> Value {
    let spec = match kind {
        "KafscaleCluster" => json!({"s3": {"bucket": "records", "region": "us-east-1"}}),
        _ => json!({"clusterRef": "demo"}),
    };
    json!({"apiVersion": "kafscale.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

struct Try {
    api: Api<DynamicObject>,
    /// Of an object that is there, which is to become another.
    version: Option<String>,
}

impl Try {
    /// Asks, without consequences.
    async fn ask(&self, mut object: Value) -> Result<(), String> {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        if let Some(version) = &self.version {
            object["metadata"]["resourceVersion"] = version.as_str().into();
        }
        let object: DynamicObject = serde_json::from_value(object).expect("an object");
        let name = object.metadata.name.clone().expect("it has a name");
        let answer = match self.version {
            Some(_) => self.api.replace(&name, &params, &object).await,
            None => self.api.create(&params, &object).await,
        };
        answer.map(drop).map_err(|error| error.to_string())
    }
}

async fn try_row(client: &Client, namespace: &str, n: usize, row: &Value, message: &str) -> Result<(), String> {
    let kind = row["kind"].as_str().unwrap_or_default();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kafscale.io", "v1alpha1", kind));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let mut object = smallest(kind, &format!("rule-{n}"));
    let mut version = None;
    if row["before"].is_object() {
        merge(&mut object, &row["before"]);
        let patch = Patch::Apply(&object);
        let made = api.patch(&format!("rule-{n}"), &PatchParams::apply("test"), &patch).await;
        version = made.map_err(|error| format!("what is there before is refused: {error}"))?.metadata.resource_version;
    }
    let question = Try { api, version };
    let with = |part: &str| {
        let mut object = object.clone();
        merge(&mut object, &row[part]);
        object
    };
    question.ask(with("accepted")).await.map_err(|error| format!("the accepted example is refused: {error}"))?;
    match question.ask(with("rejected")).await {
        Ok(()) => Err("the rejected example is accepted".to_owned()),
        Err(error) if error.contains(message) => Ok(()),
        Err(error) => Err(format!("the rejected example is refused for another reason: {error}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_accepts_and_refuses() {
    let table: Vec<Value> = serde_json::from_str(include_str!("rules.json")).expect("a table");
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let key = |row: &Value| (text(row, "kind"), text(row, "path"), text(row, "rule"));
    let rules = rules();
    let covered: Vec<RuleKey> = table.iter().map(key).collect();
    for rule in rules.keys() {
        assert_eq!(covered.iter().filter(|key| *key == rule).count(), 1, "rows in rules.json for {rule:?}");
    }
    let namespace = Namespace::new("rules").await;
    super::define(&namespace).await;
    let client = namespace.client().await;
    let mut wrong = Vec::new();
    for (n, row) in table.iter().enumerate() {
        let message =
            rules.get(&key(row)).unwrap_or_else(|| panic!("rules.json has a row for a rule that is not there: {row}"));
        if let Err(why) = try_row(&client, namespace.name(), n, row, message).await {
            wrong.push(format!("{:?}: {why}", key(row)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!("{} rules", table.len());
    namespace.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_knows_the_resources() {
    let namespace = Namespace::new("kubectl").await;
    super::define(&namespace).await;
    namespace
        .apply(
            "apiVersion: kafscale.io/v1alpha1
kind: KafscaleCluster
metadata: {name: demo}
spec: {s3: {bucket: records, region: us-east-1}}
---
apiVersion: kafscale.io/v1alpha1
kind: KafscaleTopic
metadata: {name: orders}
spec: {clusterRef: demo, retentionMs: 86400000}
",
        )
        .await
        .expect("the smallest resources are valid");
    let columns = namespace.kubectl(&["get", "kfs,kt"]).await.expect("short names");
    for column in ["READY", "REASON", "BROKERS", "ETCD", "CLUSTER", "PARTITIONS", "RETENTION MS", "AGE"] {
        assert!(columns.contains(column), "{column} in {columns}");
    }
    let all = namespace.kubectl(&["get", "kafscale", "-o", "name"]).await.expect("a category");
    assert_eq!(all.lines().count(), 2, "{all}");
    for field in ["kfs.spec.brokers.rack", "kfs.spec.etcd.managed.snapshot", "kfs.status.conditions", "kt.spec.config"]
    {
        let explained = namespace.kubectl(&["explain", field]).await.expect("explained");
        assert!(explained.contains("DESCRIPTION") && !explained.contains("<empty>"), "{explained}");
    }
    // What is scaled is the resource itself, as an autoscaler does it; the selector comes with the status.
    namespace.kubectl(&["scale", "kfs/demo", "--replicas=5"]).await.expect("it can be scaled");
    namespace.wait_object("kfs/demo", "five brokers", |found| found["spec"]["brokers"]["replicas"] == 5).await;
    let unknown = "apiVersion: kafscale.io/v1alpha1
kind: KafscaleTopic
metadata: {name: typo}
spec: {clusterRef: demo, partition: 3}
";
    let refused = namespace.apply(unknown).await.expect_err("a field that is not there");
    assert!(refused.contains("partition"), "{refused}");
    wait_for("a topic that is deleted", async || namespace.kubectl(&["delete", "kt", "orders"]).await).await;
    namespace.delete().await;
}
