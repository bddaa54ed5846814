//! The description of the API, as OpenAPI 3.1. It is kept by hand in `openapi/*.json`, one file per part of the API; tests compare
//! it with the routes and with real answers.

use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The parts: the first has everything that is not of a path or a schema.
const PARTS: &[&str] = &[
    include_str!("openapi/cluster.json"),
    include_str!("openapi/messages.json"),
    include_str!("openapi/storage.json"),
    include_str!("openapi/topics.json"),
];

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// Adds the routes of this module.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/openapi.json", web::get().to(openapi));
}

async fn openapi() -> HttpResponse {
    HttpResponse::Ok().json(&*DOCUMENT)
}

fn document() -> Value {
    let mut parts = PARTS.iter().map(|part| serde_json::from_str::<Value>(part).expect("a test reads it"));
    let mut document = parts.next().expect("there is one part");
    for mut part in parts {
        for place in ["/paths", "/components/schemas"] {
            let more = part.pointer_mut(place).map(Value::take);
            let all = document.pointer_mut(place).and_then(Value::as_object_mut).expect("the first part has it");
            all.extend(more.and_then(|more| more.as_object().cloned()).into_iter().flatten());
        }
    }
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Routes in the sources of this module: method and path.
    fn routes_in(folder: &Path, found: &mut BTreeSet<(String, String)>) {
        let route = regex::Regex::new(r#"\.route\(\s*"(/[^"]*)",\s*web::(get|post|put|patch|delete)\(\)"#).unwrap();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                routes_in(&path, found);
                continue;
            }
            // The server's own file has what is not of the API, and the guide's names for what is.
            let is_source = path.extension().is_some_and(|ending| ending == "rs");
            if !is_source || path.ends_with("server.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for capture in route.captures_iter(&text) {
                found.insert((capture[2].to_owned(), capture[1].to_owned()));
            }
        }
    }

    #[test]
    fn every_route_is_described_and_every_description_is_of_a_route() {
        let mut routes = BTreeSet::from([("get".to_owned(), "/live".to_owned())]);
        routes_in(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/web")), &mut routes);
        let document = document();
        let described = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.clone(), path.clone()))
        });
        let described: BTreeSet<_> = described.collect();
        // actix may say what a part of a path looks like; OpenAPI does not.
        let plain = regex::Regex::new(r"\{(\w+):[^}]*\}").unwrap();
        let routes: BTreeSet<_> =
            routes.into_iter().map(|(method, path)| (method, plain.replace_all(&path, "{$1}").into_owned())).collect();
        assert_eq!(routes, described);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(document: &Value, value: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(reference)) = fields.get("$ref") {
                        let place = reference.strip_prefix('#').expect("a reference into the document");
                        assert!(document.pointer(place).is_some(), "{reference}");
                    }
                    fields.values().for_each(|value| walk(document, value));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(document, value)),
                _ => {}
            }
        }
        let document = document();
        walk(&document, &document);
        assert_eq!(document["openapi"], "3.1.0");
    }
}
