//! The shortest path through everything: one topic, one record, on each backend, and what survives SIGKILL.

use crate::client::Client;
use crate::harness::{BUCKET, Backend, Broker, Etcd, S3Proxy, S3Server, Stack, TestDir, http, wait_until};
use std::time::Duration;

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

/// Told to stop while it starts, a broker does not go on until its start has failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_waits_for_its_stores_can_be_stopped() {
    let dir = TestDir::new("stopped-early");
    // Connections are made by the kernel; nobody ever answers.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("it is bound"));
    let envs = [
        ("KAFSCALE_ETCD_ENDPOINTS", endpoint),
        ("KAFSCALE_USE_MEMORY_S3", "true".to_owned()),
        ("KAFSCALE_STARTUP_TIMEOUT_SEC", "600".to_owned()),
    ];
    let mut broker = Broker::spawn("broker", &envs, &dir.path().join("broker.log"));
    let answers = async || http("GET", &broker.metrics_address(), "/livez", "").await.is_ok();
    wait_until("the broker is alive", Duration::from_secs(60), answers).await;
    let ready = http("GET", &broker.metrics_address(), "/readyz", "").await;
    assert!(ready.is_err(), "without its stores: {ready:?}");
    assert!(broker.terminate().await.success(), "{}", broker.process.log_tail());
}
