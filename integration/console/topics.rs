//! Topics through the console, as people do it: created, changed, filled by somebody else, emptied, deleted.

use super::browser::{Answer, Browser, until};
use super::process::beside;
use super::schema::Schemas;
use crate::client::{Batch, Client};
use crate::cluster::Cluster;
use crate::harness::wait_until;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// A change as a page of the console sends it.
pub(super) async fn change(browser: &Browser, method: &str, path: &str, body: &Value) -> Answer {
    let token = browser.csrf.clone().unwrap_or_default();
    let headers = [("Content-Type", "application/json"), ("X-CSRF-Token", token.as_str())];
    browser.send(method, &format!("/api/v1{path}"), &headers, &body.to_string()).await
}

/// A change that works, with the answer that is described.
pub(super) async fn changed(
    schemas: &Schemas,
    browser: &Browser,
    (method, path, described): (&str, &str, &str),
    body: &Value,
) -> Value {
    let answer = change(browser, method, path, body).await;
    assert_eq!(answer.status, 200, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
    schemas.check(described, &method.to_ascii_lowercase(), "200", &answer.json());
    answer.json()
}

/// Produces to whoever leads the partition.
pub(super) async fn produce(addresses: &[String], topic: &str, partition: i32, values: &[&[u8]]) {
    let batch = Batch::of(values).encode();
    wait_until("it is produced", DEADLINE, async || {
        for address in addresses {
            let answer = Client::new(address).produce(topic, partition, batch.clone()).await;
            if answer.is_ok_and(|answer| answer.error_code == 0) {
                return true;
            }
        }
        false
    })
    .await;
}

pub(super) fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| item[field].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_created_changed_emptied_and_deleted() {
    let mut cluster = Cluster::start("console-topics", "50").await;
    let console = beside(&mut cluster, "console-of-topics").await;
    let (admin, viewer) = (console.admin().await, console.viewer().await);
    until(&admin, "the cluster is known", "/topics", |list| list["total"] == 0).await;
    let schemas = Schemas::of(&admin).await;

    // Looked at first, then done; the command says the same.
    let wanted = |validate_only: bool| json!({ "name": "orders", "partitions": 3, "configs": { "retention.ms": "86400000" }, "validate_only": validate_only });
    let at = ("POST", "/topics", "/topics");
    let checked = changed(&schemas, &admin, at, &wanted(true)).await;
    let command = checked["command"].as_str().unwrap();
    assert!(command.ends_with("--create --topic orders --partitions 3 --config retention.ms=86400000"), "{command}");
    assert_eq!(admin.api("/topics").await["total"], 0, "nothing was created");
    assert_eq!(change(&viewer, "POST", "/topics", &wanted(false)).await.code(), "forbidden");
    changed(&schemas, &admin, at, &wanted(false)).await;
    assert_eq!(change(&admin, "POST", "/topics", &wanted(false)).await.code(), "TOPIC_ALREADY_EXISTS");
    for (body, code) in [
        (json!({ "name": "a b", "partitions": 1 }), "INVALID_TOPIC_EXCEPTION"),
        (json!({ "name": "x", "partitions": 0 }), "invalid"),
        (json!({ "name": "x", "partitions": 1, "configs": { "retention.ms": "soon" } }), "INVALID_CONFIG"),
    ] {
        assert_eq!(change(&admin, "POST", "/topics", &body).await.code(), code, "{body}");
    }

    // Somebody fills it.
    for partition in 0..3 {
        produce(&cluster.addresses(), "orders", partition, &[b"a", b"b"]).await;
    }
    let led = |t: &Value| t["records"] == "6" && t["size_bytes"].as_str().is_some_and(|bytes| bytes != "0");
    until(&viewer, "its records are counted", "/topics/orders", led).await;
    let topic = schemas.get(&viewer, "/topics/orders", "/topics/{name}").await;
    let partitions = topic["partitions"].as_array().unwrap();
    assert!(
        partitions.iter().all(|p| p["start_offset"] == "0" && p["end_offset"] == "2" && p["leader"].is_i64()),
        "{topic}"
    );
    assert!(partitions.iter().all(|p| p["last_timestamp_ms"].is_i64() && p["error"].is_null()), "{topic}");
    assert_eq!(topic["partial"], json!([]));
    let list = schemas.get(&viewer, "/topics", "/topics").await;
    let item = &list["items"][0];
    assert_eq!(
        (&item["name"], &item["records"], &item["size_bytes"]),
        (&json!("orders"), &json!("6"), &topic["size_bytes"])
    );
    assert_eq!((&item["retention_ms"], &item["cleanup_policy"]), (&json!(86_400_000), &json!("delete")));

    configs_are_changed(&schemas, &admin, &viewer).await;

    // Partitions are added, never taken away.
    let at = ("POST", "/topics/orders/partitions", "/topics/{name}/partitions");
    let more = changed(&schemas, &admin, at, &json!({ "count": 4, "validate_only": true })).await;
    assert_eq!((&more["before"], &more["after"]), (&json!(3), &json!(4)));
    changed(&schemas, &admin, at, &json!({ "count": 4 })).await;
    assert_eq!(change(&admin, "POST", at.1, &json!({ "count": 2 })).await.code(), "INVALID_PARTITIONS");

    records_are_deleted(&schemas, &admin).await;

    // Gone only if its name is typed.
    assert_eq!(
        change(&admin, "DELETE", "/topics/orders", &json!({ "confirm": "Orders" })).await.code(),
        "confirm_mismatch"
    );
    assert_eq!(change(&viewer, "DELETE", "/topics/orders", &json!({ "confirm": "orders" })).await.code(), "forbidden");
    assert_eq!(change(&admin, "DELETE", "/topics/orders", &json!({ "confirm": "orders" })).await.status, 204);
    until(&admin, "it is gone from the list", "/topics", |list| list["total"] == 0).await;
    assert_eq!(admin.get("/api/v1/topics/orders").await.code(), "UNKNOWN_TOPIC_OR_PARTITION");
    let audit = admin.api("/audit").await;
    let entries: Vec<(&str, &str)> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["action"].as_str().unwrap(), e["outcome"].as_str().unwrap()))
        .collect();
    for entry in [
        ("topic.create", "ok"),
        ("topic.create", "failed"),
        ("topic.configs", "ok"),
        ("topic.partitions", "ok"),
        ("topic.partitions", "failed"),
        ("topic.delete_records", "ok"),
        ("topic.delete_records", "refused"),
        ("topic.delete", "refused"),
    ] {
        assert!(entries.contains(&entry), "{entry:?} in {entries:?}");
    }
    assert_eq!(entries[0], ("topic.delete", "ok"));
    assert_eq!(audit["items"][0]["before"]["partitions"], 4, "{audit}");
}

async fn configs_are_changed(schemas: &Schemas, admin: &Browser, viewer: &Browser) {
    let path = "/topics/orders/configs";
    let find = |list: &Value, name: &str| {
        let items = list["items"].as_array().unwrap();
        items.iter().find(|config| config["name"] == name).cloned().expect("the config is there")
    };
    let before = find(&schemas.get(viewer, path, "/topics/{name}/configs").await, "retention.ms");
    assert_eq!((&before["value"], &before["default"]), (&json!("86400000"), &json!("604800000")));
    assert_eq!((&before["source"], &before["type"]), (&json!("DYNAMIC_TOPIC_CONFIG"), &json!("long")));
    assert!(before["documentation"].as_str().is_some_and(|text| !text.is_empty()), "{before}");
    let at = ("PATCH", path, "/topics/{name}/configs");
    let body = |validate_only: bool| json!({ "set": { "cleanup.policy": "compact,delete" }, "unset": ["retention.ms"], "validate_only": validate_only });
    let diff = changed(schemas, admin, at, &body(true)).await;
    let expected = json!([
        { "name": "cleanup.policy", "before": "delete", "after": "compact,delete" },
        { "name": "retention.ms", "before": "86400000", "after": "604800000" },
    ]);
    assert_eq!(diff["diff"], expected);
    assert!(diff["command"].as_str().unwrap().contains("'cleanup.policy=[compact,delete]'"), "{diff}");
    assert_eq!(find(&viewer.api(path).await, "retention.ms")["value"], "86400000", "nothing was changed");
    changed(schemas, admin, at, &body(false)).await;
    let now_is = |list: &Value| find(list, "retention.ms")["value"] == "604800000";
    let list = until(viewer, "the broker that answers knows", path, now_is).await;
    assert_eq!(find(&list, "cleanup.policy")["value"], "compact,delete");
    let refused = change(admin, "PATCH", path, &json!({ "set": { "no.such": "1" } })).await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "INVALID_CONFIG"), "{refused:?}");
}

async fn records_are_deleted(schemas: &Schemas, admin: &Browser) {
    let at = ("POST", "/topics/orders/records/delete", "/topics/{name}/records/delete");
    let body = |confirm: &str, validate_only: bool| {
        let partitions = json!([{ "partition": 0, "before_offset": "1" }, { "partition": 1, "before_offset": null }]);
        json!({ "partitions": partitions, "confirm": confirm, "validate_only": validate_only })
    };
    let expected = json!([
        { "partition": 0, "start_before": "0", "start_after": "1" },
        { "partition": 1, "start_before": "0", "start_after": "2" },
    ]);
    let plan = changed(schemas, admin, at, &body("", true)).await;
    assert_eq!(plan["changes"], expected);
    assert_eq!(change(admin, "POST", at.1, &body("order", false)).await.code(), "confirm_mismatch");
    assert_eq!(admin.api("/topics/orders").await["partitions"][1]["start_offset"], "0", "nothing was deleted");
    assert_eq!(changed(schemas, admin, at, &body("orders", false)).await["changes"], expected);
    let topic = admin.api("/topics/orders").await;
    assert_eq!(
        (&topic["partitions"][0]["start_offset"], &topic["partitions"][1]["start_offset"]),
        (&json!("1"), &json!("2"))
    );
    let beyond =
        json!({ "partitions": [{ "partition": 0, "before_offset": "9007199254740993" }], "confirm": "orders" });
    assert_eq!(change(admin, "POST", at.1, &beyond).await.code(), "OFFSET_OUT_OF_RANGE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_topics_are_searched_sorted_and_paged_by_the_server() {
    let mut cluster = Cluster::start("console-list", "50").await;
    let console = beside(&mut cluster, "console-of-list").await;
    let viewer = console.viewer().await;
    let mut client = Client::new(&cluster.stack.address());
    for (name, partitions) in [("b", 2), ("a", 1), ("Cc", 3), ("c-2", 1), ("__hidden", 1)] {
        client.create_topic(name, partitions, &[]).await.expect("it is created");
    }
    until(&viewer, "all are known", "/topics?internal=true", |list| list["total"] == 5).await;
    let all = viewer.api("/topics").await;
    assert_eq!(names(&all, "name"), ["Cc", "a", "b", "c-2"]);
    assert_eq!(names(&viewer.api("/topics?q=C").await, "name"), ["Cc", "c-2"], "whatever the case");
    assert_eq!(names(&viewer.api("/topics?sort=partitions&order=desc&limit=2").await, "name"), ["Cc", "b"]);
    assert_eq!(names(&viewer.api("/topics?sort=size").await, "name").len(), 4);
    let (mut found, mut path) = (Vec::new(), "/topics?limit=1&order=desc".to_owned());
    loop {
        let page = viewer.api(&path).await;
        assert_eq!(page["total"], 4);
        found.extend(names(&page, "name"));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/topics?limit=1&order=desc&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(found, ["c-2", "b", "a", "Cc"]);
    for wrong in ["?limit=0", "?limit=501", "?cursor=%25", "?sort=colour"] {
        assert_eq!(viewer.get(&format!("/api/v1/topics{wrong}")).await.code(), "invalid", "{wrong}");
    }
}
