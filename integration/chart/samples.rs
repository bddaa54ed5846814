//! The samples: what they ask for exists, and they fit together. Whether the API server takes them is asked with the
//! operator's tests, which get them from [`samples`].

use crate::chart::helm::{documents, title};
use crate::chart::{read, repository};
use kafscale::operator::crd::{KafscaleCluster, KafscaleTopic, definitions};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// All objects of the samples, with the path of their file.
pub fn samples() -> Vec<(String, Value)> {
    let mut files = Vec::new();
    for folder in ["samples", "samples/production", "samples/dev", "samples/read-replica"] {
        for entry in std::fs::read_dir(repository(folder)).expect("the folder can be read") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path.strip_prefix(repository("")).expect("it is in the repository").display().to_string());
            }
        }
    }
    files.sort();
    files.iter().flat_map(|file| documents(&read(file)).into_iter().map(|object| (file.clone(), object))).collect()
}

/// Fields of `value` that the schema does not know, and the API server would drop.
fn unknown(value: &Value, schema: &Value, place: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let place = format!("{place}.{key}");
                let known = schema["properties"].get(key).or_else(|| schema.get("additionalProperties"));
                match known {
                    Some(schema) => unknown(value, schema, &place, found),
                    None => found.push(place),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| unknown(item, &schema["items"], place, found)),
        _ => {}
    }
}

#[test]
fn samples_use_fields_that_exist() {
    let definitions = definitions().map(|definition| serde_json::to_value(definition).expect("plain data"));
    let mut checked = BTreeSet::new();
    for (file, object) in samples() {
        let kind = object["kind"].as_str().expect("a kind");
        let Some(definition) = definitions.iter().find(|d| d["spec"]["names"]["kind"] == kind) else { continue };
        assert_eq!(object["apiVersion"], "kafscale.io/v1alpha1", "{file}");
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut found = Vec::new();
        unknown(&object["spec"], &schema["properties"]["spec"], "spec", &mut found);
        assert_eq!(found, Vec::<String>::new(), "{file}");
        match kind {
            "KafscaleCluster" => drop(serde_json::from_value::<KafscaleCluster>(object.clone()).expect("a cluster")),
            _ => drop(serde_json::from_value::<KafscaleTopic>(object.clone()).expect("a topic")),
        }
        checked.insert(title(&object));
    }
    assert_eq!(checked.len(), 6, "{checked:?}");
}

#[test]
fn a_field_that_does_not_exist_is_noticed() {
    let schema = serde_json::json!({"properties": {"s3": {"properties": {"bucket": {}}}}});
    let mut found = Vec::new();
    unknown(&serde_json::json!({"s3": {"bucket": "b", "buckett": "b"}}), &schema, "spec", &mut found);
    assert_eq!(found, ["spec.s3.buckett"]);
}

#[test]
fn samples_fit_together() {
    let samples = samples();
    let secret = samples.iter().find(|(_, object)| object["kind"] == "Secret").expect("a secret");
    let keys: Vec<_> = secret.1["stringData"].as_object().expect("keys").keys().collect();
    assert_eq!(keys, ["KAFSCALE_S3_ACCESS_KEY", "KAFSCALE_S3_SECRET_KEY"]);
    let mut places = BTreeSet::new();
    for (file, object) in samples.iter().filter(|(_, object)| object["kind"] == "KafscaleCluster") {
        let s3 = &object["spec"]["s3"];
        assert_eq!(s3["credentialsSecretRef"], secret.1["metadata"]["name"], "{file}");
        let place = format!("{} {}", s3["bucket"], s3["namespace"]);
        assert!(places.insert(place), "{file}: another sample has the same bucket and namespace");
    }
    let apart = |(file, _): &&(String, Value)| Path::new(file).parent() == Some(Path::new("samples"));
    let together: Vec<_> = samples.iter().filter(apart).map(|(_, object)| object).collect();
    let cluster = together.iter().find(|object| object["kind"] == "KafscaleCluster").expect("a cluster");
    for topic in together.iter().filter(|object| object["kind"] == "KafscaleTopic") {
        assert_eq!(topic["spec"]["clusterRef"], cluster["metadata"]["name"]);
    }
}

#[test]
fn the_guides_paths_lead_to_the_same_files() {
    for (link, target) in [("deploy/helm/kafscale", "helm/kafscale"), ("config/samples", "samples")] {
        let resolved = std::fs::canonicalize(repository(link)).expect("the link leads somewhere");
        assert_eq!(resolved, std::fs::canonicalize(repository(target)).expect("it is there"));
        assert!(std::fs::read_link(repository(link)).expect("it is a link").is_relative());
    }
}
