//! The shortest path through everything: one topic, one record, on each backend, and what survives SIGKILL.

use crate::client::Client;
use crate::harness::{BUCKET, Backend, Etcd, S3Proxy, S3Server, Stack, TestDir, http};

async fn produce_kill_read(backend: Backend) {
    let mut stack = Stack::start("smoke", backend, &[]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("greetings", 3).await;
    assert_eq!(client.produce_values("greetings", 1, &[b"hello", b"world"]).await, 0);
    assert_eq!(client.produce_values("greetings", 1, &[b"again"]).await, 2);
    stack.broker.restart().await;
    let values: Vec<_> = client.read_all("greetings", 1).await.into_iter().filter_map(|r| r.value).collect();
    assert_eq!(values, ["hello", "world", "again"]);
    assert_eq!(client.read_all("greetings", 0).await, []);
    assert!(stack.broker.terminate().await.success(), "SIGTERM ends the broker in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_store_keeps_what_was_acked() {
    produce_kill_read(Backend::Dev).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_and_etcd_keep_what_was_acked() {
    produce_kill_read(Backend::S3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_behind_the_broker_start_count_and_fail_on_demand() {
    let dir = TestDir::new("parts");
    let mut etcd = Etcd::start(dir.path()).await;
    let before = etcd.revision().await;
    let put = http("POST", &etcd.address(), "/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#).await;
    assert!(put.is_ok(), "{put:?}");
    assert_eq!(etcd.revision().await, before + 1);
    etcd.restart().await;
    assert_eq!(etcd.revision().await, before + 1, "data survives SIGKILL");

    let mut s3 = S3Server::start(dir.path()).await;
    let proxy = S3Proxy::start(dir.path(), &s3.address(), 1, "profile=none").await;
    assert_eq!(proxy.count("GET requests").await, 0);
    // Unsigned, so the server refuses; the proxy passes that on and counts it.
    let refused = http("GET", &proxy.address(), &format!("/{BUCKET}/key"), "").await.unwrap_err();
    assert!(refused.contains(" 403 "), "{refused}");
    assert_eq!(proxy.count("GET requests").await, 1);
    proxy.set("503=1").await;
    let slow_down = http("GET", &proxy.address(), &format!("/{BUCKET}/key"), "").await.unwrap_err();
    assert!(slow_down.contains("SlowDown"), "{slow_down}");
    s3.restart().await;
    assert_eq!(s3.objects(), []);
}
