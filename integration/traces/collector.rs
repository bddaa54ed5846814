//! A collector as others run them: it takes OTLP over gRPC and over HTTP, and remembers what it got. It can also be one that hangs
//! or refuses.

use crate::process::free_port;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};

/// What has been received.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Attributes of the process, per export.
    pub resources: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
    /// Values of the header `authorization`, per export.
    pub authorizations: Arc<Mutex<Vec<String>>>,
    /// Everything is refused.
    pub refuses: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Status::permission_denied("not from you"));
        }
        let authorization = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        self.take(request.into_inner(), authorization);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one; its URL.
    pub fn start() -> (Self, String) {
        let (collector, port) = (Self::default(), free_port());
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve((Ipv4Addr::LOCALHOST, port).into()));
        (collector, format!("http://127.0.0.1:{port}"))
    }

    /// Starts one that takes protobuf over HTTP.
    pub async fn start_http() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(served.clone().serve_http(stream));
            }
        });
        (collector, url)
    }

    async fn serve_http(self, mut stream: TcpStream) {
        let mut received = Vec::new();
        loop {
            let head_len = loop {
                if let Some(at) = received.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            let head = String::from_utf8(received[..head_len].to_vec()).unwrap();
            let header = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
            };
            assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
            assert_eq!(header("content-type").as_deref(), Some("application/x-protobuf"));
            let end = head_len + header("content-length").expect("a length").parse::<usize>().unwrap();
            while received.len() < end {
                assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0, "half a request");
            }
            let request = ExportTraceServiceRequest::decode(&received[head_len..end]).unwrap();
            received.drain(..end);
            self.take(request, header("authorization"));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    }

    fn take(&self, request: ExportTraceServiceRequest, authorization: Option<String>) {
        self.authorizations.lock().unwrap().extend(authorization);
        for resource in request.resource_spans {
            let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
            let attributes = attributes.into_iter().filter_map(|a| match a.value?.value? {
                Value::StringValue(text) => Some((a.key, text)),
                _ => None,
            });
            self.resources.lock().unwrap().push(attributes.collect());
            self.spans.lock().unwrap().extend(resource.scope_spans.into_iter().flat_map(|s| s.spans));
        }
    }

    /// All of them.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// The roots of all requests to an API, oldest first.
    pub fn requests(&self, api: &str) -> Vec<Span> {
        let is_root = |s: &Span| s.name.starts_with("kafka.request ") && s.parent_span_id.is_empty();
        let of_api = |s: &Span| text(s, "rpc.method") == api && s.name == format!("kafka.request {api}");
        let mut found: Vec<_> = self.spans().into_iter().filter(|s| is_root(s) && of_api(s)).collect();
        found.sort_by_key(|s| s.start_time_unix_nano);
        found
    }

    /// The children of `parent`, oldest first.
    pub fn children(&self, parent: &Span) -> Vec<Span> {
        let is_child = |s: &Span| s.trace_id == parent.trace_id && s.parent_span_id == parent.span_id;
        let mut found: Vec<_> = self.spans().into_iter().filter(is_child).collect();
        found.sort_by_key(|s| s.start_time_unix_nano);
        found
    }

    /// The flushes with a link to `request`.
    pub fn flushes_of(&self, request: &Span) -> Vec<Span> {
        let leads =
            |s: &Span| s.links.iter().any(|l| (&l.trace_id, &l.span_id) == (&request.trace_id, &request.span_id));
        self.spans().into_iter().filter(|s| s.name == "segment.flush" && leads(s)).collect()
    }
}

/// An attribute.
pub fn value(span: &Span, key: &str) -> Option<Value> {
    let mut found = span.attributes.iter().filter(|a| a.key == key);
    let value = found.next()?.value.clone()?.value;
    assert!(found.next().is_none(), "{key} is there twice in {span:?}");
    value
}

/// An attribute that is a text.
pub fn text(span: &Span, key: &str) -> String {
    match value(span, key) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

/// An attribute that is a number.
pub fn number(span: &Span, key: &str) -> i64 {
    match value(span, key) {
        Some(Value::IntValue(number)) => number,
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

/// Names in their order.
pub fn names(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|s| s.name.as_str()).collect()
}

/// Each ends before the next begins, all inside `outer`.
pub fn assert_in_order(outer: &Span, spans: &[Span]) {
    assert!(spans.iter().all(|s| s.start_time_unix_nano <= s.end_time_unix_nano), "{spans:?}");
    assert!(spans.windows(2).all(|w| w[0].end_time_unix_nano <= w[1].start_time_unix_nano), "{spans:?}");
    let (first, last) = (&spans[0], &spans[spans.len() - 1]);
    assert!(outer.start_time_unix_nano <= first.start_time_unix_nano, "{outer:?} {first:?}");
    assert!(last.end_time_unix_nano <= outer.end_time_unix_nano, "{outer:?} {last:?}");
}
