use super::*;
use crate::config::telemetry::{Protocol, Share};
use opentelemetry::trace::{Link, SpanId, SpanKind, Status, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
use std::time::SystemTime;

const SLOW: Duration = Duration::from_millis(100);

fn config() -> ExportConfig {
    ExportConfig {
        endpoint: "http://127.0.0.1:1".to_owned(),
        protocol: Protocol::Grpc,
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        ca_pem: None,
        identity: None,
        share: Share::NONE,
        service_name: None,
        resource: Vec::new(),
        delay: Duration::from_millis(10),
        queue_max: 8,
        batch_max: 4,
    }
}

fn pipeline() -> (Processor, &'static SpanStats) {
    let stats: &'static SpanStats = Box::leak(Box::default());
    (Processor(Pipeline::new(&config(), Some(SLOW), stats)), stats)
}

fn context(trace: u8, span: u8, flags: TraceFlags) -> SpanContext {
    SpanContext::new(TraceId::from_bytes([trace; 16]), SpanId::from_bytes([span; 8]), flags, false, TraceState::NONE)
}

fn span(trace: u8, id: u8, parent: u8, took_ms: u64, flags: TraceFlags) -> SpanData {
    let start_time = SystemTime::UNIX_EPOCH;
    SpanData {
        span_context: context(trace, id, flags),
        parent_span_id: SpanId::from_bytes([parent; 8]),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "span".into(),
        start_time,
        end_time: start_time + Duration::from_millis(took_ms),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("test").build(),
    }
}

fn queued(processor: &Processor) -> Vec<(u8, u8)> {
    let queue = processor.0.queue();
    let ids = |s: &SpanData| (s.span_context.trace_id().to_bytes()[0], s.span_context.span_id().to_bytes()[0]);
    assert!(queue.iter().all(|s| s.span_context.is_sampled()), "what is exported is sampled");
    queue.iter().map(ids).collect()
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    let (processor, stats) = pipeline();
    for id in 1..=11 {
        processor.on_end(span(1, id, 0, 1, TraceFlags::SAMPLED));
    }
    assert_eq!(queued(&processor).len(), 8);
    assert_eq!(stats.dropped_full.load(Ordering::Relaxed), 3);
    assert_eq!(stats.queued.load(Ordering::Relaxed), 8);
}

#[test]
fn a_trace_that_is_not_sampled_is_kept_if_its_root_was_slow() {
    let none = TraceFlags::default();
    let (processor, _) = pipeline();
    for (trace, took_ms) in [(1, 99), (2, 100)] {
        processor.on_end(span(trace, 2, 1, 5, none));
        processor.on_end(span(trace, 3, 2, 5, none));
        assert_eq!(queued(&processor), []);
        processor.on_end(span(trace, 1, 0, took_ms, none));
    }
    assert_eq!(queued(&processor), [(2, 2), (2, 3), (2, 1)]);
    assert!(processor.0.undecided.lock().unwrap().is_empty(), "what was not slow is forgotten");
}

#[test]
fn a_flush_is_as_slow_as_its_oldest_batch_and_leads_to_those_that_were() {
    let (processor, _) = pipeline();
    let mut flush = span(1, 1, 0, 40, TraceFlags::default());
    flush.attributes.push(KeyValue::new(crate::trace::AGE_MS, 70.0));
    for (id, waited_ms, flags) in
        [(2, 70.0, TraceFlags::default()), (3, 20.0, TraceFlags::default()), (4, 1.0, TraceFlags::SAMPLED)]
    {
        let waited = vec![KeyValue::new("kafscale.wait_ms", waited_ms)];
        flush.links.links.push(Link::new(context(id, id, flags), waited, 0));
    }
    processor.on_end(flush);
    let queue = processor.0.queue();
    let [kept] = queue.iter().collect::<Vec<_>>()[..] else { panic!("70 + 40 ms is slow: {queue:?}") };
    let linked: Vec<_> =
        kept.links.iter().map(|l| (l.span_context.span_id().to_bytes()[0], l.span_context.is_sampled())).collect();
    assert_eq!(linked, [(2, true), (4, true)], "20 + 40 ms was not slow and has no trace");
}

#[test]
fn a_sampled_flush_does_not_lead_to_requests_without_a_trace() {
    let (processor, _) = pipeline();
    let mut flush = span(1, 1, 0, 5, TraceFlags::SAMPLED);
    for (id, flags) in [(2, TraceFlags::default()), (3, TraceFlags::SAMPLED)] {
        flush.links.links.push(Link::new(context(id, id, flags), Vec::new(), 0));
    }
    processor.on_end(flush);
    assert_eq!(processor.0.queue()[0].links.len(), 1);
}

#[test]
fn a_request_that_turned_out_slow_takes_what_was_kept_of_it() {
    let (processor, _) = pipeline();
    processor.on_end(span(1, 2, 9, 5, TraceFlags::default()));
    processor.on_end(span(2, 2, 9, 5, TraceFlags::default()));
    processor.0.keep(TraceId::from_bytes([1; 16]));
    assert_eq!(queued(&processor), [(1, 2)]);
}

#[test]
fn what_is_not_decided_is_bounded() {
    let (processor, stats) = pipeline();
    for n in 0..2 * UNDECIDED_MAX {
        processor.on_end(span(1, (n % 200) as u8 + 1, 9, 5, TraceFlags::default()));
    }
    assert_eq!(processor.0.undecided.lock().unwrap().len(), UNDECIDED_MAX);
    assert_eq!(stats.dropped_full.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_collector_that_is_not_there_gets_nothing_and_holds_nothing_up() {
    let (processor, stats) = pipeline();
    let config = config();
    let resource = opentelemetry_sdk::Resource::builder_empty().build();
    for id in 1..=3 {
        processor.on_end(span(1, id, 0, 1, TraceFlags::SAMPLED));
    }
    processor.0.close();
    processor.0.clone().run(Exporter::new(&config, &resource).unwrap()).await;
    assert_eq!(stats.dropped_failed.load(Ordering::Relaxed), 3);
    assert_eq!(queued(&processor), []);
}
