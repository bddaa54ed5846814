//! Which traces there are, how they get to the collector, and what happens when that does not take them.

use super::collector::{Collector, assert_in_order, names, number, text, value};
use crate::client::Client;
use crate::group_client::Member;
use crate::harness::{Backend, Stack, http, wait_until};
use kafscale::protocol::records::BatchBuilder;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::Duration;

const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");

async fn start(backend: Backend, endpoint: &str, envs: &[(&str, &str)]) -> Stack {
    let all = [&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), SOON], envs].concat();
    Stack::start("traces", backend, &all).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_headers_and_the_name_of_the_process_are_as_configured() {
    let (collector, endpoint) = Collector::start_http().await;
    let envs = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20token"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=kafscale-0,service.name=not-this"),
        ("OTEL_SERVICE_NAME", "orders"),
    ];
    let mut stack = start(Backend::Dev, &endpoint, &envs).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("traced", 1).await;
    client.produce_values("traced", 0, &[b"value"]).await;
    assert!(stack.broker.terminate().await.success());
    let [produce] = &collector.requests("Produce")[..] else { panic!("one request: {collector:?}") };
    assert_eq!(collector.flushes_of(produce).len(), 1);
    let resources = collector.resources.lock().unwrap().clone();
    assert!(!resources.is_empty());
    for resource in resources {
        assert_eq!((resource["service.name"].as_str(), resource["k8s.pod.name"].as_str()), ("orders", "kafscale-0"));
        assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    }
    assert!(collector.authorizations.lock().unwrap().iter().all(|value| value == "Bearer token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_takes_headers_too() {
    let (collector, endpoint) = Collector::start();
    let envs = [("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer%20token")];
    let mut stack = start(Backend::Dev, &endpoint, &envs).await;
    Client::new(&stack.address()).ensure_topic("traced", 1).await;
    assert!(stack.broker.terminate().await.success());
    let authorizations = collector.authorizations.lock().unwrap().clone();
    assert!(!authorizations.is_empty() && authorizations.iter().all(|value| value == "Bearer token"));
}

/// Without sampling anything, what is slow can be followed all the same: to the object store and to etcd, and when it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_are_kept_although_nothing_is_sampled() {
    let (collector, endpoint) = Collector::start();
    // Nothing that goes to this S3 takes less.
    let envs = [("OTEL_TRACES_SAMPLER", "always_off"), ("KAFSCALE_TRACE_SLOW_REQUEST_MS", "2")];
    let mut stack = start(Backend::S3, &endpoint, &envs).await;
    stack.proxy().set("profile=std").await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("traced", 1).await;
    client.produce_values("traced", 0, &[b"value"]).await;
    assert!(stack.broker.terminate().await.success());
    let [produce] = &collector.requests("Produce")[..] else { panic!("one request: {collector:?}") };
    assert_eq!(value(produce, "kafscale.slow"), Some(Value::BoolValue(true)));
    assert_eq!((text(produce, "messaging.client.id").as_str(), number(produce, "kafka.api_key")), ("kafscale-test", 0));
    let parts = collector.children(produce);
    assert_eq!(names(&parts), ["partition.append", "await.flush"]);
    assert_in_order(produce, &parts);
    let [flush] = &collector.flushes_of(produce)[..] else { panic!("one flush: {collector:?}") };
    let steps = collector.children(flush);
    assert_eq!(names(&steps), ["s3.put", "etcd.commit"]);
    assert_in_order(flush, &steps);

    stack.broker.restart().await;
    let mut client = Client::new(&stack.address());
    client.fetch("traced", 0, 0, 10_000, 1 << 20).await.unwrap();
    assert!(stack.broker.terminate().await.success());
    let [fetch] = &collector.requests("Fetch")[..] else { panic!("one request: {collector:?}") };
    assert_eq!(value(fetch, "kafscale.slow"), Some(Value::BoolValue(true)));
    let reads = collector.children(fetch);
    assert_eq!(names(&reads), ["cache"]);
    assert_eq!(names(&collector.children(&reads[0])), ["s3.get"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_made_that_is_neither_sampled_nor_slow() {
    let (collector, endpoint) = Collector::start();
    let envs = [("OTEL_TRACES_SAMPLER", "always_off"), ("KAFSCALE_TRACE_SLOW_REQUEST_MS", "0")];
    let mut stack = start(Backend::Dev, &endpoint, &envs).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("traced", 1).await;
    client.produce_values("traced", 0, &[b"value"]).await;
    client.fetch("traced", 0, 0, 10_000, 1 << 20).await.unwrap();
    // Nor is a wait for records slow.
    client.fetch("traced", 0, 1, 100, 1 << 20).await.unwrap();
    assert!(stack.broker.terminate().await.success());
    assert_eq!(names(&collector.spans()), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_is_sampled_and_whole() {
    let (collector, endpoint) = Collector::start();
    let envs = [
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("KAFSCALE_TRACE_SLOW_REQUEST_MS", "0"),
    ];
    let mut stack = start(Backend::Dev, &endpoint, &envs).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("traced", 1).await;
    for n in 0..400 {
        assert_eq!(client.produce_values("traced", 0, &[b"value"]).await, n);
    }
    assert!(stack.broker.terminate().await.success());
    let sampled = collector.requests("Produce");
    // 100 of 400 on average; a deviation by 60 is one of seven standard deviations.
    assert!((40..160).contains(&sampled.len()), "{}", sampled.len());
    for produce in &sampled {
        assert_eq!(names(&collector.children(produce)), ["partition.append", "await.flush"]);
        let [flush] = &collector.flushes_of(produce)[..] else { panic!("{produce:?} has no flush") };
        assert_eq!(names(&collector.children(flush)), ["s3.put", "etcd.commit"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_attempts_at_the_object_store_are_events() {
    let (collector, endpoint) = Collector::start();
    let mut stack = start(Backend::S3, &endpoint, &[]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("traced", 1).await;
    client.produce_values("traced", 0, &[b"before"]).await;
    stack.proxy().set("503=1").await;
    let before = stack.proxy().count("PUT requests").await;
    let mend = async {
        let refused = async || stack.proxy().count("PUT requests").await > before + 1;
        wait_until("a PUT was refused", Duration::from_secs(30), refused).await;
        stack.proxy().set("503=0").await;
    };
    tokio::join!(client.produce_values("traced", 0, &[b"value"]), mend);
    assert!(stack.broker.terminate().await.success());
    let puts: Vec<Span> = collector.spans().into_iter().filter(|s| s.name == "s3.put").collect();
    let repeated: Vec<_> = puts.iter().filter(|s| number(s, "kafscale.attempts") > 1).collect();
    assert!(!repeated.is_empty(), "{puts:?}");
    for put in repeated {
        let retries = put.events.iter().filter(|event| event.name == "s3.retry").count() as i64;
        assert_eq!(retries, number(put, "kafscale.attempts") - 1, "{put:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_names_the_trace_that_its_request_links_to() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for opted_in in [true, false] {
        let (collector, endpoint) = Collector::start();
        let peek = ("KAFSCALE_TRACE_PEEK_HEADERS", if opted_in { "true" } else { "false" });
        let mut stack = start(Backend::Dev, &endpoint, &[peek]).await;
        let mut client = Client::new(&stack.address());
        client.ensure_topic("traced", 1).await;
        let mut batch = BatchBuilder::new();
        batch.push_with_headers(1, Some(b"key"), Some(b"value"), &[(b"traceparent", Some(PARENT.as_bytes()))]);
        let batch = batch.build();
        assert_eq!(client.produce("traced", 0, batch.clone()).await.unwrap().error_code, 0);
        let fetched = client.fetch("traced", 0, 0, 10_000, 1 << 20).await.unwrap();
        let records = fetched.records.expect("records");
        // Base offset, length and leader epoch come before what the checksum covers.
        assert_eq!(records[17..], batch[17..], "nothing of the record is changed");
        assert!(stack.broker.terminate().await.success());
        let [produce] = &collector.requests("Produce")[..] else { panic!("one request: {collector:?}") };
        let linked: Vec<String> =
            produce.links.iter().map(|link| hex(&link.trace_id) + "-" + &hex(&link.span_id)).collect();
        assert_eq!(linked, if opted_in { vec![PARENT[3..52].to_owned()] } else { vec![] });
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_and_a_request_of_the_console_can_be_followed() {
    let (collector, endpoint) = Collector::start();
    let console = format!("127.0.0.1:{}", crate::process::free_port());
    let envs = [("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"), ("KAFSCALE_CONSOLE_HTTP_ADDR", console.as_str())];
    let mut stack = start(Backend::Dev, &endpoint, &envs).await;
    let _member = Member::join(&stack.address(), "followed", None).await;
    http("GET", &console, "/api/v1/auth/config", "").await.unwrap();
    http("GET", &console, "/livez", "").await.unwrap();
    assert!(stack.broker.terminate().await.success());
    let spans = collector.spans();
    let rebalances: Vec<_> = spans.iter().filter(|s| s.name == "group.rebalance").collect();
    assert!(!rebalances.is_empty() && rebalances.iter().all(|s| s.parent_span_id.is_empty()), "{spans:?}");
    assert_eq!(text(rebalances[0], "messaging.consumer.group.name"), "followed");
    assert_eq!(
        (text(rebalances[0], "kafscale.group.state").as_str(), number(rebalances[0], "kafscale.group.members")),
        ("Stable", 1)
    );
    let [asked] = spans.iter().filter(|s| value(s, "url.path").is_some()).collect::<Vec<_>>()[..] else {
        panic!("one request, since probes are not traced: {spans:?}")
    };
    assert_eq!(
        (asked.name.as_str(), text(asked, "http.route").as_str()),
        ("GET /api/v1/auth/config", "/api/v1/auth/config")
    );
    assert_eq!(number(asked, "http.response.status_code"), 200);
}

/// Produces so much that a small queue would be full many times over.
async fn produce_under(endpoint: &str, envs: &[(&str, &str)]) -> Stack {
    let small = [("OTEL_BSP_MAX_QUEUE_SIZE", "16"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")];
    let stack = start(Backend::Dev, endpoint, &[&small[..], envs].concat()).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("traced", 1).await;
    for n in 0..100 {
        assert_eq!(client.produce_values("traced", 0, &[b"value"]).await, n);
    }
    stack
}

async fn dropped(stack: &Stack, reason: &str) -> f64 {
    let name = format!("kafscale_trace_spans_dropped_total{{reason=\"{reason}\"}}");
    let samples = stack.broker.metrics().await;
    samples.into_iter().find(|(sample, _)| *sample == name).expect("the counter is there from the start").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_holds_up_nothing() {
    // Connections are made by the kernel; nobody ever reads from them.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut stack = produce_under(&endpoint, &[]).await;
    assert!(dropped(&stack, "queue_full").await > 100.0, "of at least 600 spans 24 fit");
    assert!(stack.broker.terminate().await.success(), "the last spans are given up in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_not_there_holds_up_nothing() {
    let endpoint = format!("http://127.0.0.1:{}", crate::process::free_port());
    let mut stack = produce_under(&endpoint, &[]).await;
    assert!(dropped(&stack, "queue_full").await > 100.0);
    assert!(stack.broker.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_collector_refuses_is_counted_and_what_it_takes_later_arrives() {
    let (collector, endpoint) = Collector::start();
    collector.refuses.store(true, Ordering::Relaxed);
    let mut stack = produce_under(&endpoint, &[]).await;
    let refused = async || dropped(&stack, "export_failed").await >= 8.0;
    wait_until("a batch was refused", Duration::from_secs(30), refused).await;
    assert_eq!(collector.spans(), []);
    collector.refuses.store(false, Ordering::Relaxed);
    let exported = async || stack.broker.metric_sum("kafscale_trace_spans_exported").await.is_some_and(|n| n > 0.0);
    wait_until("spans are exported again", Duration::from_secs(30), exported).await;
    assert_ne!(collector.spans(), []);
    assert!(stack.broker.terminate().await.success());
}
