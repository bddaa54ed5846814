//! What the console shows of a cluster, and that it says so when it cannot know.

use super::browser::until;
use super::process::beside;
use super::schema::Schemas;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::workload::{Plan, Workload};
use serde_json::{Value, json};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_of_a_cluster_under_load_is_as_described() {
    let mut cluster = Cluster::start("console-pages", "50").await;
    let console = beside(&mut cluster, "console-of-pages").await;
    let (admin, viewer) = (console.admin().await, console.viewer().await);
    let load =
        Workload::start_on(&cluster.addresses(), Plan { partitions: 6, producers: 3, ..Plan::new("ledger", 1) }).await;
    load.wait_acks(20).await;
    let schemas = Schemas::of(&admin).await;
    let is_measured = |o: &Value| {
        o["rates"]["bytes_in_per_sec"].as_f64() > Some(0.0)
            && o["rates"]["records_in_per_sec"].as_f64() > Some(0.0)
            && o["rates"]["produce_p99_ms"].as_f64() > Some(0.0)
            && o["partial"].as_array().is_some_and(Vec::is_empty)
            && o["groups"].is_number()
    };
    until(&admin, "rates are known", "/overview", is_measured).await;
    let overview = schemas.get(&viewer, "/overview", "/overview").await;
    assert_eq!(overview["brokers"], json!({ "total": 3, "live": 3, "draining": 0 }));
    assert_eq!((&overview["topics"], &overview["partitions"]), (&json!(1), &json!(6)));
    assert_eq!((&overview["etcd"]["state"], &overview["s3"]["state"]), (&json!("healthy"), &json!("healthy")));
    assert_eq!(overview["health"], json!({ "level": "ok", "reasons": [] }));
    let status = viewer.get("/ui/api/status").await.json();
    assert_eq!(status["cluster_id"], overview["cluster_id"], "the guide's name for the same");
    let brokers = schemas.get(&viewer, "/brokers", "/brokers").await;
    let items = brokers["items"].as_array().unwrap();
    assert_eq!(items.iter().map(|b| b["partitions_led"].as_u64().unwrap()).sum::<u64>(), 6);
    assert_eq!(items.iter().filter(|b| b["controller"] == true).count(), 1);
    assert!(
        items.iter().all(|b| b["metrics"] == "ok" && b["control"] == "ok" && b["started_at_ms"].is_i64()),
        "{items:?}"
    );
    let broker = schemas.get(&viewer, "/brokers/2", "/brokers/{id}").await;
    assert_eq!(broker["readiness"], json!({ "ready": true, "failing": {} }));
    let config = |name: &str| broker["configs"].as_array().unwrap().iter().find(|c| c["name"] == name).cloned();
    assert_eq!(config("broker.id").unwrap()["value"], "2");
    assert_eq!(config("kafscale.s3.secret.key"), None);
    assert!(broker["actors_running"].as_u64() > Some(5), "{}", broker["actors_running"]);
    let actors = schemas.get(&viewer, "/actors", "/actors").await;
    let systems: Vec<&str> =
        actors["systems"].as_array().unwrap().iter().filter_map(|s| s["system"].as_str()).collect();
    assert_eq!(systems, ["broker 1", "broker 2", "broker 3", "console"]);
    for name in ["sessions", "scraper", "live-feed", "cluster-watch"] {
        let own = actors["systems"][3]["actors"].as_array().unwrap();
        assert!(own.iter().any(|a| a["name"] == name && a["running"] == true), "{name}: {own:?}");
    }
    let s3 = schemas.get(&viewer, "/s3", "/s3").await;
    let create = &s3["brokers"][0]["requests"][0];
    assert!(create["op"] == "create" && create["total"] != "0" && create["p99_ms"].as_f64() > Some(0.0), "{create}");
    assert_eq!(s3["brokers"][0]["thresholds"]["latency_crit_ms"], 5000.0);
    let etcd = schemas.get(&viewer, "/etcd", "/etcd").await;
    let member = &etcd["members"][0];
    assert!(etcd["kind"] == "etcd" && member["healthy"] == true && member["is_leader"] == true, "{etcd}");
    assert!(member["db_size_bytes"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let metrics = schemas.get(&viewer, "/history/metrics", "/history/metrics").await;
    let names: Vec<&str> = metrics["items"].as_array().unwrap().iter().filter_map(|m| m["metric"].as_str()).collect();
    let history = format!("/history?metric={}", names.join(","));
    let history = schemas.get(&viewer, &history, "/history").await;
    let of = |name: &str| history["series"].as_array().unwrap().iter().filter(|s| s["metric"] == name).count();
    assert_eq!((of("bytes_in_per_sec"), of("partitions_led")), (3, 3));
    let settings = schemas.get(&viewer, "/settings", "/settings").await;
    assert!(!settings.to_string().contains(super::process::ADMIN.1), "{settings}");
    schemas.get(&viewer, "/audit", "/audit").await;
    schemas.get(&viewer, "/auth/session", "/auth/session").await;
    for wrong in ["/history?metric=nothing", "/history?metric=", "/audit?limit=0", "/audit?cursor=x"] {
        assert_eq!(viewer.get(&format!("/api/v1{wrong}")).await.code(), "invalid", "{wrong}");
    }
    assert_eq!(viewer.get("/api/v1/brokers/9").await.code(), "not_found");
    assert_eq!(viewer.get("/api/v1/nothing").await.code(), "not_found");
    load.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_is_drained_by_an_administrator_who_types_its_number() {
    let mut cluster = Cluster::start("console-drain", "50").await;
    let console = beside(&mut cluster, "console-of-drain").await;
    let admin = console.admin().await;
    Client::new(&cluster.stack.address()).create_topic("orders", 6, &[]).await.expect("it is created");
    let led = |brokers: &Value, id: i64| {
        let items = brokers["items"].as_array().unwrap().clone();
        items.into_iter().find(|b| b["id"] == id).map(|b| b["partitions_led"].as_u64().unwrap())
    };
    until(&admin, "broker 2 has its share", "/brokers", |b| led(b, 2) == Some(2)).await;
    let schemas = Schemas::of(&admin).await;
    let refused = admin.post("/brokers/2/drain", &json!({ "confirm": "3" })).await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "confirm_mismatch"));
    let accepted = admin.post("/brokers/2/drain", &json!({ "confirm": "2" })).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    schemas.check("/brokers/{id}/drain", "post", "202", &accepted.json());
    let drained = until(&admin, "it is drained", "/brokers/2/drain", |d| d["state"] == "drained").await;
    schemas.check("/brokers/{id}/drain", "get", "200", &drained);
    assert_eq!((drained["moved"].as_u64(), drained["total"].as_u64() > Some(0)), (drained["total"].as_u64(), true));
    until(&admin, "others have everything", "/brokers", |b| led(b, 2) == Some(0)).await;
    until(&admin, "the overview says so", "/overview", |o| o["brokers"]["draining"] == 1).await;
    let answer = admin.post("/brokers/2/undrain", &json!({})).await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "was_draining": true })));
    until(&admin, "it takes work again", "/brokers", |b| led(b, 2) == Some(2)).await;
    until(&admin, "nothing is left of it", "/brokers/2/drain", |d| d["state"] == "none").await;
    let audit = admin.api("/audit").await;
    let entries: Vec<(&str, &str, &str)> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["action"].as_str().unwrap(), e["resource"].as_str().unwrap(), e["outcome"].as_str().unwrap()))
        .collect();
    let expected = [
        ("broker.undrain", "broker/2", "ok"),
        ("broker.drain", "broker/2", "ok"),
        ("broker.drain", "broker/2", "refused"),
    ];
    assert_eq!(entries, expected);
    assert_eq!(audit["items"][0]["who"], super::process::ADMIN.0);
    let first = admin.api("/audit?limit=1").await;
    let rest = admin.api(&format!("/audit?limit=5&cursor={}", first["next_cursor"].as_str().unwrap())).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_said_to_be_gone_and_since_when() {
    let mut cluster = Cluster::start("console-gone", "50").await;
    let console = beside(&mut cluster, "console-of-gone").await;
    let admin = console.admin().await;
    until(&admin, "all is well", "/overview", |o| o["health"]["level"] == "ok" && o["s3"]["state"] == "healthy").await;
    // A broker whose process hangs is live until its lease is over; its metrics do not answer.
    cluster.broker(2).process.pause();
    let hangs = |o: &Value| {
        let partial = o["partial"].as_array().unwrap();
        partial.iter().any(|m| m["source"] == "broker 3" && m["since_ms"].is_i64()) || o["brokers"]["live"] == 2
    };
    until(&admin, "broker 3 is missed", "/overview", hangs).await;
    until(&admin, "its lease is over", "/brokers", |b| b["total"] == 2).await;
    cluster.broker(2).process.resume();
    until(&admin, "brokers are two or three again", "/overview", |o| o["health"]["level"] != "unknown").await;
    cluster.stack.etcd().process.pause();
    let down = until(&admin, "etcd is missed", "/overview", |o| o["etcd"]["state"] == "unavailable").await;
    assert_eq!(down["health"]["level"], "critical", "{down}");
    let missing = &down["partial"][0];
    assert!(missing["source"] == "etcd" && missing["since_ms"].is_i64() && missing["reason"] != "", "{down}");
    let etcd = admin.api("/etcd").await;
    assert!(etcd["members"][0]["healthy"] == false && etcd["members"][0]["error"].is_string(), "{etcd}");
    cluster.stack.etcd().process.resume();
    until(&admin, "etcd is back", "/overview", |o| o["etcd"]["state"] == "healthy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_pages_get_states_and_hear_of_the_end() {
    let mut cluster = Cluster::start("console-live", "50").await;
    let mut console = beside(&mut cluster, "console-of-live").await;
    let admin = console.admin().await;
    let mut live = admin.events("/api/v1/live", &[]).await;
    let first = live.next().await.unwrap();
    assert_eq!((first.name.as_str(), first.data["dropped"].as_u64()), ("tick", Some(0)));
    let second = live.next().await.unwrap();
    assert!(second.id > first.id, "{:?} {:?}", second.id, first.id);
    assert_eq!(second.data["overview"]["cluster_id"].as_str().map(str::len), Some(22), "{}", second.data);
    assert_eq!(second.data["brokers"].as_array().map(Vec::len), Some(3));
    // The browser says what it has; nothing older comes.
    let id = second.id.unwrap().to_string();
    let mut again = admin.events("/api/v1/live", &[("Last-Event-ID", &id)]).await;
    assert!(again.next().await.unwrap().id > second.id);
    drop(again);
    // A session that ends takes its pages with it.
    let other = console.admin().await;
    let mut of_other = other.events("/ui/api/metrics", &[]).await;
    assert_eq!(of_other.next().await.unwrap().name, "tick");
    assert_eq!(other.post("/auth/logout", &json!({})).await.status, 204);
    let end = loop {
        let event = of_other.next().await.expect("it says why it ends");
        if event.name == "end" {
            break event;
        }
    };
    assert_eq!(end.data["reason"], "session expired");
    assert!(of_other.next().await.is_none());
    console.process.signal(libc::SIGTERM);
    let end = loop {
        let event = live.next().await.expect("it says why it ends");
        if event.name == "end" {
            break event;
        }
    };
    assert_eq!(end.data["reason"], "shutting down");
    assert!(console.process.wait_exit(DEADLINE).await.success());
}
