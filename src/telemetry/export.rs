//! Sends finished spans to a collector: OTLP over gRPC, or as protobuf over HTTP.
//!
//! One connection, one export at a time, each with a time limit. What the collector refuses for good is lost; what it could
//! not take now is tried a few times, while the queue before it fills and then drops. Nothing here reads the environment.

use crate::config::telemetry::{ExportConfig, Protocol};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::time::Duration;
use tonic::codegen::http;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request};

/// How much of a collector's answer is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How much of its reason is passed on.
const REASON_CHARS_MAX: usize = 300;

/// Why spans did not get there.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ExportError {
    reason: String,
    /// Sending the same again may help.
    pub is_passing: bool,
}

impl ExportError {
    fn passing(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_passing: true }
    }
}

/// A collector and the way to it.
pub struct Exporter {
    transport: Transport,
    resource: ResourceAttributesWithSchema,
    timeout: Duration,
}

enum Transport {
    Grpc { client: TraceServiceClient<Channel>, metadata: MetadataMap },
    Http { client: Box<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>, parts: Parts },
}

/// What is the same in every HTTP request.
struct Parts {
    uri: http::Uri,
    headers: http::HeaderMap,
}

impl Parts {
    fn with(&self, body: Vec<u8>) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::new(Full::new(body.into()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().clone_from(&self.headers);
        request
    }
}

impl Exporter {
    /// Prepares the way; connects with the first export. Call it inside a tokio runtime.
    pub fn new(config: &ExportConfig, resource: &opentelemetry_sdk::Resource) -> Result<Self, String> {
        let transport = match config.protocol {
            Protocol::Grpc => over_grpc(config)?,
            Protocol::Http => over_http(config)?,
        };
        Ok(Self { transport, resource: resource.into(), timeout: config.timeout })
    }

    /// Sends `spans`. Returns how many of them the collector did not want.
    pub async fn send(&mut self, spans: Vec<SpanData>) -> Result<u64, ExportError> {
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let request = ExportTraceServiceRequest { resource_spans };
        let send = async {
            match &mut self.transport {
                Transport::Grpc { client, metadata } => {
                    let request = Request::from_parts(metadata.clone(), Default::default(), request);
                    let answer = client.export(request).await;
                    answer.map(tonic::Response::into_inner).map_err(|status| of_status(&status))
                }
                Transport::Http { client, parts } => post(client, parts.with(request.encode_to_vec())).await,
            }
        };
        match tokio::time::timeout(self.timeout, send).await {
            Ok(answer) => {
                let rejected = answer?.partial_success.map_or(0, |partial| partial.rejected_spans);
                Ok(u64::try_from(rejected).unwrap_or(0))
            }
            Err(_) => Err(ExportError::passing(format!("no answer within {} ms", self.timeout.as_millis()))),
        }
    }
}

fn over_grpc(config: &ExportConfig) -> Result<Transport, String> {
    let mut endpoint = Endpoint::from_shared(config.endpoint.clone()).map_err(|e| e.to_string())?;
    endpoint = endpoint.connect_timeout(config.timeout);
    if config.endpoint.starts_with("https://") {
        let tls = ClientTlsConfig::new();
        let mut tls = match &config.ca_pem {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((chain, key)) = &config.identity {
            tls = tls.identity(Identity::from_pem(chain, key.expose()));
        }
        endpoint = endpoint.tls_config(tls).map_err(|e| e.to_string())?;
    }
    let mut metadata = MetadataMap::new();
    for (name, value) in &config.headers {
        let key: AsciiMetadataKey = name.parse().map_err(|_| format!("{name:?} is no name of a gRPC header"))?;
        let mut value: AsciiMetadataValue =
            value.expose().parse().map_err(|_| format!("the value of {name} is none for a gRPC header"))?;
        value.set_sensitive(true);
        metadata.append(key, value);
    }
    let client = TraceServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(ANSWER_BYTES_MAX);
    Ok(Transport::Grpc { client, metadata })
}

fn over_http(config: &ExportConfig) -> Result<Transport, String> {
    use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls(config)?).https_or_http().enable_http1().build();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("kafscale/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &config.headers {
        let key: HeaderName = name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
        let mut value =
            HeaderValue::from_str(value.expose()).map_err(|_| format!("the value of {name} is none for a header"))?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    let uri = config.endpoint.parse().map_err(|e| format!("{e}"))?;
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector);
    Ok(Transport::Http { client: Box::new(client), parts: Parts { uri, headers } })
}

fn tls(config: &ExportConfig) -> Result<ClientConfig, String> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &config.ca_pem {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|e| e.to_string())?;
            }
            builder.with_root_certificates(roots)
        }
        // Without TLS the system's certificates are not needed, and a small image may have none.
        None if config.endpoint.starts_with("http://") => builder.with_root_certificates(RootCertStore::empty()),
        None => builder.with_native_roots().map_err(|e| format!("the system's certificates cannot be read: {e}"))?,
    };
    match &config.identity {
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|e| e.to_string())?;
            builder.with_client_auth_cert(certificates(chain)?, key).map_err(|e| e.to_string())
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

async fn post(
    client: &Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    request: http::Request<Full<Bytes>>,
) -> Result<ExportTraceServiceResponse, ExportError> {
    let answer = client.request(request).await.map_err(|e| ExportError::passing(crate::web::fetch::reasons(&e)))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|e| ExportError::passing(format!("the answer cannot be read: {e}")))?.to_bytes();
    if status.is_success() {
        // Some collectors answer with JSON or nothing; that they took the spans is all that matters.
        return Ok(ExportTraceServiceResponse::decode(body).unwrap_or_default());
    }
    let reason: String =
        String::from_utf8_lossy(&body).trim().chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
    let is_passing = matches!(status.as_u16(), 408 | 429 | 502..=504);
    Err(ExportError { reason: format!("answered {status}: {reason}"), is_passing })
}

fn of_status(status: &tonic::Status) -> ExportError {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable, Unknown};
    let passing = [Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable, Unknown];
    let message: String = status.message().chars().take(REASON_CHARS_MAX).collect();
    ExportError { reason: format!("{:?}: {message}", status.code()), is_passing: passing.contains(&status.code()) }
}
