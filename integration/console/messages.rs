//! Messages: written, read, searched, followed and exported through the console, against real brokers.

use super::browser::Browser;
use super::process::beside;
use super::schema::Schemas;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::harness::wait_until;
use base64::Engine;
use serde_json::{Value, json};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);
/// S3 requests of the first page of a topic that nobody has in memory.
const REQUESTS_MAX: u64 = 8;

async fn produce(admin: &Browser, topic: &str, records: Vec<Value>) -> Value {
    let answer = admin.post(&format!("/topics/{topic}/messages"), &json!({ "records": records })).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

fn texts(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item["value"]["text"].as_str().unwrap_or("null").to_owned()).collect()
}

/// All pages of a search, one after the other.
async fn all(browser: &Browser, path: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = browser.api(&format!("{path}&cursor={cursor}")).await;
        assert_eq!(page["partial"], json!([]), "{page}");
        found.extend(texts(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_written_found_and_followed() {
    let mut cluster = Cluster::start("console-messages", "50").await;
    let console = beside(&mut cluster, "console-of-messages").await;
    let (admin, viewer) = (console.admin().await, console.viewer().await);
    Client::new(&cluster.stack.address()).create_topic("orders", 3, &[]).await.expect("it is created");
    wait_until("the topic can be read", DEADLINE, async || {
        viewer.get("/api/v1/topics/orders/messages").await.status == 200
    })
    .await;
    let schemas = Schemas::of(&admin).await;
    let mut tail = viewer.events("/api/v1/topics/orders/tail?q=needle", &[]).await;
    assert_eq!(tail.next().await.expect("the stream is open").name, "stats");

    // Hostile bytes are data: what comes back is what was written.
    let hostile = "<script>alert(1)</script>\u{0}\u{7f}";
    let mut records: Vec<Value> = (0..30)
        .map(|n| json!({ "partition": n % 3, "key": format!("k{n}"), "value": format!("{{\"n\":{n},\"big\":9007199254740993}}"), "timestamp_ms": 1_700_000_000_000_i64 + n }))
        .collect();
    records.push(json!({ "partition": 0, "key": "gone", "value": null, "timestamp_ms": 1_700_000_000_100_i64 }));
    records.push(json!({ "partition": 1, "value": hostile, "timestamp_ms": 1_700_000_000_101_i64,
        "headers": [{ "key": "h", "value": "needle" }] }));
    let written = produce(&admin, "orders", records).await;
    schemas.check("/topics/{name}/messages", "post", "200", &written);
    assert!(written["results"].as_array().unwrap().iter().all(|r| r["error"].is_null()), "{written}");
    let refused = viewer.post("/topics/orders/messages", &json!({ "records": [{ "value": "x" }] })).await;
    assert_eq!(refused.status, 403);

    let page = schemas.get(&viewer, "/topics/orders/messages?limit=3", "/topics/{name}/messages").await;
    assert_eq!(page["stopped_by"], "limit");
    assert_eq!(page["items"][0]["headers"][0]["value"]["text"], "needle", "the newest first");
    assert_eq!((&page["items"][1]["value"], &page["items"][1]["key"]["text"]), (&Value::Null, &json!("gone")));
    assert_eq!(texts(&page)[2], "{\n  \"n\": 29,\n  \"big\": 9007199254740993\n}", "numbers stay exact");

    // Down and up, in pages of whatever size: everything once, in order.
    let up = all(&viewer, "/topics/orders/messages?from=oldest&limit=7").await;
    let mut down = all(&viewer, "/topics/orders/messages?from=newest&limit=5").await;
    down.reverse();
    assert_eq!((up.len(), &up), (32, &down));
    let from_time = all(&viewer, "/topics/orders/messages?from=time&time_ms=1700000000020&limit=50").await;
    assert_eq!(from_time, up[20..]);
    let from_offset = all(&viewer, "/topics/orders/messages?from=offset&offset=8&partition=2&limit=50").await;
    assert_eq!(from_offset.len(), 2);

    let filter = "value.n%20%3E%3D%2027%20%26%26%20value.big%20%3D%3D%209007199254740993";
    let found = viewer.api(&format!("/topics/orders/messages?filter={filter}")).await;
    assert_eq!((texts(&found).len(), &found["scanned_records"]), (3, &json!("32")), "{found}");
    assert!(found["partial"][0]["reason"].as_str().unwrap().contains("2 records"), "{found}");
    let found = viewer.api("/topics/orders/messages?q=NEEDLE").await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);

    // The stream has it too, and nothing else.
    loop {
        let event = tail.next().await.expect("the stream goes on");
        if event.name == "messages" {
            assert_eq!(event.data["items"].as_array().unwrap().len(), 1);
            assert_eq!(event.data["items"][0]["headers"][0]["key"], "h");
            break;
        }
    }

    let at = page["items"][0]["offset"].as_str().unwrap();
    let one = format!("/topics/orders/messages/1/{at}");
    schemas.get(&viewer, &one, "/topics/{name}/messages/{partition}/{offset}").await;
    let raw = viewer.get(&format!("/api/v1{one}?raw=value")).await;
    assert_eq!((raw.status, raw.body.as_slice()), (200, hostile.as_bytes()));
    assert_eq!(raw.header("content-type"), "application/octet-stream");
    assert_eq!(viewer.get("/api/v1/topics/orders/messages/1/99999").await.code(), "not_found");
    assert_eq!(viewer.get("/api/v1/topics/nothing/messages").await.code(), "UNKNOWN_TOPIC_OR_PARTITION");

    let export = viewer.get("/api/v1/topics/orders/export?format=jsonl").await;
    let lines: Vec<Value> =
        export.body.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!((lines.len(), export.header("content-type")), (32, "application/x-ndjson"));
    let csv = viewer.get("/api/v1/topics/orders/export?format=csv&q=needle").await;
    // A value that is shown as bytes has several lines, in quotes.
    let csv = String::from_utf8(csv.body).expect("text");
    assert_eq!(
        (csv.lines().filter(|line| line.starts_with("1,")).count(), csv.matches("needle").count()),
        (1, 1),
        "{csv}"
    );
    let audit = admin.api("/audit").await;
    assert_eq!(
        (&audit["items"][0]["action"], &audit["items"][0]["after"]["records"]),
        (&json!("records.produce"), &json!(32))
    );
    avro(&admin, &schemas).await;
}

/// Values as a registry's serializer writes them, and the schema that somebody has pasted.
async fn avro(admin: &Browser, schemas: &Schemas) {
    let bytes = [&[0, 0, 0, 1, 2][..], &[84, 2, 4], b"hi"].concat();
    let value = base64::engine::general_purpose::STANDARD.encode(bytes);
    let record =
        json!({ "partition": 0, "value": value, "value_encoding": "base64", "timestamp_ms": 1_700_000_000_200_i64 });
    produce(admin, "orders", vec![record]).await;
    let schema = "%7B%22type%22%3A%22record%22%2C%22name%22%3A%22R%22%2C%22fields%22%3A%5B%7B%22name%22%3A%22n%22%2C\
                  %22type%22%3A%22long%22%7D%2C%7B%22name%22%3A%22t%22%2C%22type%22%3A%5B%22null%22%2C%22string%22%5D%7D%5D%7D";
    let path = "/topics/orders/messages?limit=1&value_decoder=avro";
    let page = schemas.get(admin, &format!("{path}&value_schema={schema}"), "/topics/{name}/messages").await;
    let shown = &page["items"][0]["value"];
    assert_eq!((&shown["decoder"], &shown["text"]), (&json!("avro"), &json!("{\n  \"n\": 42,\n  \"t\": \"hi\"\n}")));
    assert!(shown["note"].as_str().unwrap().contains("schema 258"), "{shown}");
    let without = admin.api(path).await;
    assert_eq!(without["items"][0]["value"]["decoder"], "hex");
    assert!(without["items"][0]["value"]["note"].as_str().unwrap().contains("schema 258"), "{without}");
    // As long as one may be, and longer; a schema that is none.
    let long = format!("%22{}%22", "a".repeat(16_000));
    for schema in [long.as_str(), "%7B%7D", "nonsense"] {
        let answer = admin.get(&format!("/api/v1{path}&value_schema={schema}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_page_needs_few_requests() {
    let mut cluster = Cluster::start("console-first-page", "50").await;
    let console = beside(&mut cluster, "console-of-first-page").await;
    let admin = console.admin().await;
    Client::new(&cluster.stack.address()).create_topic("big", 1, &[]).await.expect("it is created");
    let value = "x".repeat(8_000);
    for _ in 0..20 {
        produce(&admin, "big", (0..100).map(|_| json!({ "value": value })).collect()).await;
    }
    // After a restart nothing is in memory.
    for n in 0..3 {
        cluster.broker(n).restart().await;
    }
    wait_until("the topic can be read", DEADLINE, async || {
        let page = admin.get("/api/v1/topics/big/messages?limit=1&from=oldest").await;
        page.status == 200 && page.json()["partial"] == json!([])
    })
    .await;
    let before = cluster.stack.proxy().count("GET requests").await;
    let page = admin.api("/topics/big/messages").await;
    let requests = cluster.stack.proxy().count("GET requests").await - before;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["partial"]), (50, &json!([])));
    assert!(requests <= REQUESTS_MAX, "{requests} requests for a page");
}
