//! Traces as a collector receives them: the real program exports over OTLP to a receiver of ours.

mod collector;
mod export;

use crate::client::{Batch, Client, LATEST};
use crate::harness::{Backend, Stack, wait_until};
use collector::{Collector, assert_in_order, names, number, text, value};
use kafscale::protocol::error_code::ErrorCode;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use std::time::Duration;

async fn traced(backend: Backend) -> (Stack, Collector) {
    let (collector, endpoint) = Collector::start();
    let envs = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    (Stack::start("traces", backend, &envs).await, collector)
}

async fn follow(backend: Backend) {
    let (mut stack, collector) = traced(backend).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("traced", 1).await;
    client.produce_values("traced", 0, &[b"hello", b"world"]).await;
    let unknown = client.produce("traced", 7, Batch::of(&[b"nowhere"]).encode()).await.unwrap();
    assert_eq!(unknown.error_code, 3);
    assert!(client.list_offset("nowhere", 0, LATEST).await.is_err());
    assert!(stack.broker.terminate().await.success(), "what is buffered is exported at the end");

    let [produce, failed] = &collector.requests("Produce")[..] else { panic!("two requests: {collector:?}") };
    assert_eq!(text(produce, "messaging.client.id"), "kafscale-test");
    assert_eq!(text(produce, "messaging.system"), "kafka");
    assert!(number(produce, "kafka.api_version") >= 3 && number(produce, "kafka.correlation_id") > 0);
    assert!(number(produce, "kafka.request.bytes") > 60 && number(produce, "kafka.response.bytes") > 20);
    assert_eq!(
        (text(produce, "messaging.destination.name"), text(produce, "messaging.destination.partition.id")),
        ("traced".into(), "0".into())
    );
    assert!(!text(produce, "messaging.kafka.cluster.id").is_empty() && value(produce, "kafscale.slow").is_none());
    assert!(value(produce, "error.type").is_none() && produce.status.as_ref().is_none_or(|s| s.code == 0));
    let children = collector.children(produce);
    assert_eq!(names(&children), ["partition.append", "await.flush"]);
    assert_in_order(produce, &children);
    assert_eq!(number(&children[0], "kafka.partitions"), 1);

    let [flush] = &collector.flushes_of(produce)[..] else { panic!("one flush: {collector:?}") };
    assert!(flush.parent_span_id.is_empty() && flush.trace_id != produce.trace_id, "a trace of its own");
    assert_eq!((number(flush, "kafscale.segment.batches"), number(flush, "kafscale.segment.records")), (1, 2));
    let steps = collector.children(flush);
    assert_eq!(names(&steps), ["s3.put", "etcd.commit"]);
    assert_in_order(flush, &steps);
    assert!(text(&steps[0], "aws.s3.key").contains("/wal/"));
    assert!(number(&steps[0], "kafscale.object.bytes") > number(flush, "kafscale.segment.bytes"));
    assert_eq!(number(&steps[0], "kafscale.attempts"), 1);
    assert_eq!(value(&steps[0], "kafscale.hedged"), Some(Value::BoolValue(false)));
    assert!(number(&steps[1], "kafscale.etcd.revision") > 0 && number(&steps[1], "kafscale.attempts") == 1);
    assert!(steps[1].end_time_unix_nano <= children[1].end_time_unix_nano, "acked after the commit");

    assert_eq!(text(failed, "error.type"), ErrorCode::UnknownTopicOrPartition.to_string());
    assert_eq!(failed.status.as_ref().map(|s| s.code), Some(StatusCode::Error as i32));
    assert_eq!(collector.flushes_of(failed), []);

    // Errors inside the answers of every other API, and none where there is none.
    let [listed] = &collector.requests("ListOffsets")[..] else { panic!("one request: {collector:?}") };
    assert_eq!(text(listed, "error.type"), ErrorCode::UnknownTopicOrPartition.to_string());
    assert_eq!(listed.status.as_ref().map(|s| s.code), Some(StatusCode::Error as i32));
    let created = collector.requests("CreateTopics");
    assert!(created.iter().all(|c| value(c, "error.type").is_none()) && !created.is_empty(), "{created:?}");

    // What a new process reads comes from the object store first, and from the cache then.
    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    for _ in 0..2 {
        client.fetch("traced", 0, 0, 10_000, 1 << 20).await.unwrap();
    }
    assert!(stack.broker.terminate().await.success());
    let [cold, warm] = &collector.requests("Fetch")[..] else { panic!("two fetches: {collector:?}") };
    for (fetch, hit) in [(cold, false), (warm, true)] {
        let reads = collector.children(fetch);
        assert_eq!(names(&reads), ["fetch.read"]);
        let chunks = collector.children(&reads[0]);
        assert_eq!(names(&chunks), ["cache"]);
        assert_eq!(value(&chunks[0], "kafscale.cache.hit"), Some(Value::BoolValue(hit)));
        let gets = collector.children(&chunks[0]);
        assert_eq!(names(&gets), if hit { vec![] } else { vec!["s3.get"] });
        for get in &gets {
            assert_in_order(&chunks[0], std::slice::from_ref(get));
            let range = number(get, "kafscale.range.start")..number(get, "kafscale.range.end");
            assert_eq!(range.end - range.start, number(&chunks[0], "kafscale.chunk.bytes"));
        }
    }
    let service = if backend == Backend::Dev { "kafscale-dev" } else { "kafscale-broker" };
    for resource in collector.resources.lock().unwrap().iter() {
        assert_eq!((resource["service.name"].as_str(), resource["service.instance.id"].as_str()), (service, "0"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_and_a_fetch_can_be_followed() {
    follow(Backend::Dev).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_and_a_fetch_can_be_followed_through_s3_and_etcd() {
    follow(Backend::S3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_of_a_merged_object_is_seen_once() {
    let (mut stack, collector) = traced(Backend::Dev).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("traced", 1).await;
    // As much as starts a merge, in batches that are worth merging.
    for n in 0..80 {
        assert_eq!(client.produce_values("traced", 0, &[&[7; 900_000]]).await, n);
    }
    let merges = async || stack.broker.metric_sum("kafscale_merges").await.is_some_and(|merges| merges > 0.0);
    wait_until("the batches are merged", Duration::from_secs(120), merges).await;
    assert!(stack.broker.terminate().await.success(), "with a checkpoint that names what was merged");
    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    for _ in 0..2 {
        client.fetch("traced", 0, 0, 10_000, 1 << 20).await.unwrap();
    }
    assert!(stack.broker.terminate().await.success());
    let [cold, warm] = &collector.requests("Fetch")[..] else {
        panic!("two fetches: {:?}", collector.requests("Fetch"))
    };
    let steps = |fetch: &Span| collector.children(&collector.children(fetch)[0]);
    assert_eq!(names(&steps(cold))[..2], ["cache.index", "cache"]);
    let index = &steps(cold)[0];
    assert!(text(index, "aws.s3.key").contains("/topics/"), "{index:?}");
    let [get] = &collector.children(index)[..] else { panic!("one read: {collector:?}") };
    assert_eq!((get.name.as_str(), text(get, "aws.s3.key")), ("s3.get", text(index, "aws.s3.key")));
    assert!(number(get, "kafscale.range.suffix") > 0);
    assert_in_order(index, std::slice::from_ref(get));
    assert_eq!(names(&steps(warm))[..1], ["cache"], "the index is in memory then");
}
