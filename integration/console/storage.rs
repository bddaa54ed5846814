//! What the console says of objects and of cost: the parts of a topic leave no gap, and dollars follow from requests that really
//! were made, as the proxy before the object store counts them.

use super::browser::{Browser, until};
use super::process::beside;
use super::schema::Schemas;
use crate::client::{Client, LATEST};
use crate::cluster::Cluster;
use crate::workload::{Plan, Workload};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PARTITIONS: i32 = 6;

fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no number in a string"))
}

fn dollars(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// All pages of a list.
async fn pages(schemas: &Schemas, browser: &Browser, path: &str, described: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = schemas.get(browser, &format!("{path}&cursor={cursor}"), described).await;
        assert_eq!(page["partial"], json!([]), "{page:#}");
        items.extend(page["items"].as_array().expect("items").clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return items,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_of_a_topic_leave_no_gap_on_any_page() {
    let mut cluster = Cluster::start("console-segments", "50").await;
    let console = beside(&mut cluster, "console-of-segments").await;
    let viewer = console.viewer().await;
    let plan = Plan { partitions: PARTITIONS, producers: 3, ..Plan::new("ledger", 1) };
    let load = Workload::start_on(&cluster.addresses(), plan).await;
    load.wait_acks(40).await;
    // The topic that is written to is the busiest, and others are still.
    Client::new(&cluster.addresses()[0]).ensure_topic("still", 1).await;
    let path = "/topics?sort=rate&order=desc";
    let is_busy = |page: &Value| {
        page["items"][0]["name"] == "ledger" && page["items"][0]["bytes_in_per_sec"].as_f64().is_some_and(|n| n > 0.0)
    };
    until(&viewer, "the topic is busy", path, is_busy).await;
    load.finish().await.assert_clean();
    let schemas = Schemas::of(&viewer).await;
    let page = schemas.get(&viewer, path, "/topics").await;
    assert!(page["items"][0]["records_in_per_sec"].as_f64().is_some_and(|n| n > 0.0), "{page:#}");
    assert_eq!((&page["items"][1]["name"], &page["items"][1]["bytes_in_per_sec"]), (&json!("still"), &json!(0.0)));
    let described = "/topics/{name}/segments";
    until(&viewer, "all partitions are led", "/topics/ledger/segments", |page| page["partial"] == json!([])).await;
    let items = pages(&schemas, &viewer, "/topics/ledger/segments?limit=3", described).await;
    let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
    for item in &items {
        let partition = item["partition"].as_i64().expect("a number");
        let end = ends.entry(partition).or_default();
        // What is merged between two pages may begin before the page.
        assert!(number(&item["base_offset"]) <= *end && number(&item["last_offset"]) >= *end, "a gap at {end}: {item}");
        *end = number(&item["last_offset"]) + 1;
        assert!(number(&item["bytes"]) > 0 && number(&item["object_bytes"]) >= number(&item["bytes"]), "{item}");
    }
    let mut clients: Vec<Client> = cluster.addresses().iter().map(|address| Client::new(address)).collect();
    for partition in 0..PARTITIONS {
        let mut end = None;
        for client in &mut clients {
            end = end.or(client.list_offset("ledger", partition, LATEST).await.ok());
        }
        assert_eq!(
            ends.get(&partition.into()).copied().unwrap_or(0),
            end.expect("a leader answers"),
            "partition {partition}"
        );
    }
    let one = pages(&schemas, &viewer, "/topics/ledger/segments?partition=2&limit=500", described).await;
    let same: Vec<_> = items.iter().filter(|item| item["partition"] == 2).collect();
    assert!(!one.is_empty() && one.iter().all(|item| item["partition"] == 2) && one.len() <= same.len(), "{one:?}");
    for (path, status, code) in [
        ("/api/v1/topics/nobody/segments", 404, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("/api/v1/topics/%3Cscript%3E/segments", 404, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("/api/v1/topics/ledger/segments?partition=99", 404, "not_found"),
        ("/api/v1/topics/ledger/segments?cursor=x", 400, "invalid"),
        ("/api/v1/topics/ledger/segments?limit=501", 400, "invalid"),
    ] {
        let answer = viewer.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
        schemas.check_problem(&answer.json());
    }
    // A broker that is gone is missed, and what the others have is still shown.
    cluster.broker(2).kill9();
    until(&viewer, "the broker is missed", "/topics/ledger/segments?limit=500", |page| page["partial"] != json!([]))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dollars_follow_from_requests_that_were_made() {
    let mut cluster = Cluster::start("console-cost", "200").await;
    let console = beside(&mut cluster, "console-of-cost").await;
    let viewer = console.viewer().await;
    let schemas = Schemas::of(&viewer).await;
    let load =
        Workload::start_on(&cluster.addresses(), Plan { partitions: PARTITIONS, ..Plan::new("ledger", 2) }).await;
    load.wait_acks(20).await;
    let counted =
        |cost: &Value| cost["measured"]["requests"][0]["count"].as_str().map_or(0, |n| n.parse().unwrap_or(0));
    let is_measured = |cost: &Value| {
        counted(cost) > 20_u64
            && cost["partial"] == json!([])
            && cost["measured"]["brokers"] == 3
            && cost["topics"] != json!([])
    };
    until(&viewer, "requests are counted", "/cost", is_measured).await;
    let cost = schemas.get(&viewer, "/cost", "/cost").await;
    let puts = cluster.stack.proxy().count("PUT requests").await;
    // The history began after the brokers did, and rates are means: nothing that would be off by a factor.
    assert!(counted(&cost) <= puts * 2 && counted(&cost) * 20 >= puts, "{} of {puts}", counted(&cost));
    let measured = &cost["measured"];
    let window_sec = dollars(&measured["window_sec"]);
    let of = |n: usize| number(&measured["requests"][n]["count"]) as f64;
    let price = |name: &str| dollars(&cost["prices"][name]);
    let month = 30.0 * 86_400.0 / window_sec / 1_000.0;
    let expected =
        month * (of(0) * price("put_per_1000") + of(1) * price("get_per_1000") + of(2) * price("list_per_1000"));
    let said = dollars(&cost["total"]["requests"]);
    // Counts are whole numbers there: half a request each is what it may be off.
    let slack = month * 0.5 * (price("put_per_1000") + price("get_per_1000") + price("list_per_1000")) + 1e-6;
    assert!((expected - said).abs() <= slack, "{expected} and {said}");
    let topics = cost["topics"].as_array().expect("topics");
    let shares: f64 = topics.iter().map(|topic| dollars(&topic["share_in"])).sum();
    assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    let sum: f64 = topics.iter().map(|topic| dollars(&topic["dollars"]["total"])).sum();
    assert!((sum - dollars(&cost["total"]["total"])).abs() < 1e-6, "the topics' dollars are all of them");

    // The guide's example: 100 GB a day, kept for seven days; asked by one who may only look.
    let guide =
        json!({ "what_if": { "mb_per_day": 100_000.0, "retention_ms": 604_800_000.0, "flush_interval_ms": 500.0 } });
    let answer = viewer.post("/cost/estimate", &guide).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let example = answer.json();
    schemas.check("/cost/estimate", "post", "200", &example);
    let what_if = &example["what_if"];
    assert!((dollars(&what_if["storage"]) - 16.1).abs() < 1e-6, "700 GB at $0.023: {what_if}");
    for line in what_if["calculation"].as_array().expect("lines") {
        eprintln!("{}", line.as_str().unwrap_or_default());
    }
    let rare =
        json!({ "what_if": { "mb_per_day": 100_000.0, "retention_ms": 604_800_000.0, "flush_interval_ms": 5_000.0 } });
    let rare = viewer.post("/cost/estimate", &rare).await.json();
    assert!(number(&rare["what_if"]["requests_per_month"]["put"]) < number(&what_if["requests_per_month"]["put"]));
    let dear = json!({ "prices": { "put_per_1000": 5.0 } });
    let dear = viewer.post("/cost/estimate", &dear).await.json();
    assert!(
        dollars(&dear["total"]["requests"]) > said * 100.0,
        "{} at a thousand times the price of a PUT",
        dear["total"]
    );
    for wrong in [
        json!({ "prices": { "put_per_1000": -1.0 } }),
        json!({ "prices": { "nonsense": 1.0 } }),
        json!({ "what_if": { "retention_ms": 0.0 } }),
        json!({ "window_sec": 1 }),
    ] {
        let answer = viewer.post("/cost/estimate", &wrong).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid"), "{wrong}");
    }
    load.finish().await.assert_clean();
}
