//! The shortest path through everything: one topic, one record, on each backend, and what survives SIGKILL.

use crate::client::Client;
use crate::harness::{Backend, Stack};

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
