use super::*;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use http_body::Body;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

/// What came over the wire, and what to answer.
#[derive(Debug, Clone, Default)]
struct Wire(Arc<Mutex<WireState>>);

#[derive(Debug, Default)]
struct WireState {
    requests: Vec<Seen>,
    answers: VecDeque<Answer>,
}

#[derive(Debug)]
struct Seen {
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
    body: Vec<Bytes>,
}

#[derive(Debug, Clone)]
enum Answer {
    Http(u16, Vec<(&'static str, String)>, Vec<Bytes>),
    Cut,
    Never,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let wire = self.clone();
        HttpConnectorFuture::new(async move {
            let headers = request.headers().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let (method, uri) = (request.method().to_owned(), request.uri().to_owned());
            let mut body = Vec::new();
            let mut incoming = request.into_body();
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
                body.extend(frame.unwrap().into_data());
            }
            let answer = {
                let mut state = wire.0.lock().unwrap();
                state.requests.push(Seen { method, uri, headers, body });
                state.answers.pop_front().unwrap_or(Answer::Http(200, vec![], vec![]))
            };
            match answer {
                Answer::Cut => Err(ConnectorError::io("connection reset".into())),
                Answer::Never => std::future::pending().await,
                Answer::Http(status, headers, chunks) => {
                    let payload = Payload::new(chunks, 0);
                    let body = SdkBody::from_body_1_x(ChunkBody::new(&payload));
                    let mut response = HttpResponse::new(StatusCode::try_from(status).unwrap(), body);
                    for (name, value) in headers {
                        response.headers_mut().insert(name, value);
                    }
                    Ok(response)
                }
            }
        })
    }
}

fn config() -> S3Config {
    let credentials =
        StaticCredentials { access_key: "AK".into(), secret_key: "SECRET".into(), session_token: Some("TOKEN".into()) };
    S3Config {
        bucket: "bucket".into(),
        region: "eu-central-1".into(),
        endpoint: Some("http://store.test:9000".into()),
        path_style: true,
        credentials: Some(credentials),
        kms_key_arn: None,
    }
}

async fn store_with(config: S3Config, answers: Vec<Answer>) -> (S3Store, Wire) {
    let wire = Wire::default();
    wire.0.lock().unwrap().answers = answers.into();
    let connector = wire.clone();
    let http = http_client_fn(move |_, _| SharedHttpConnector::new(connector.clone()));
    (S3Store::connect_through(config, http).await.unwrap(), wire)
}

async fn store(answers: Vec<Answer>) -> (S3Store, Wire) {
    store_with(config(), answers).await
}

fn requests(wire: &Wire) -> Vec<Seen> {
    std::mem::take(&mut wire.0.lock().unwrap().requests)
}

fn error(status: u16, code: &str) -> Answer {
    let xml = format!("<Error><Code>{code}</Code><Message>words</Message></Error>");
    Answer::Http(status, vec![("content-length", xml.len().to_string())], vec![xml.into()])
}

fn key() -> ObjectKey {
    ObjectKey::new("ns/wal/0a/1.kfs")
}

#[tokio::test]
async fn a_create_sends_its_chunks_once_and_unhashed() {
    for endpoint in ["http://store.test:9000", "https://store.test"] {
        let config =
            S3Config { endpoint: Some(endpoint.into()), kms_key_arn: Some("arn:aws:kms:k".into()), ..config() };
        let (store, wire) = store_with(config, vec![]).await;
        let chunks = vec![Bytes::from(vec![1u8; 70_000]), Bytes::new(), Bytes::from(vec![2u8; 300_000])];
        let payload = Payload::new(chunks.clone(), 0xabc);
        store.create(&key(), &payload).await.unwrap();
        let seen = requests(&wire);
        assert_eq!(seen.len(), 1);
        let put = &seen[0];
        assert_eq!((put.method.as_str(), put.header("if-none-match")), ("PUT", Some("*")));
        assert!(put.uri.starts_with(&format!("{endpoint}/bucket/ns/wal/0a/1.kfs")), "{}", put.uri);
        assert_eq!(put.header("content-length"), Some("370000"));
        assert_eq!(put.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"), "no SHA-256 of the body");
        assert_eq!(put.header("content-encoding"), None, "no aws-chunked");
        assert_eq!((put.header("x-amz-trailer"), put.header("transfer-encoding")), (None, None));
        let crc = BASE64.encode(payload.crc32c.to_be_bytes());
        assert_eq!(put.header("x-amz-checksum-crc32c"), Some(crc.as_str()));
        assert_eq!(put.header("x-amz-meta-kafscale-nonce"), Some("0000000000000abc"));
        assert_eq!(put.header("x-amz-meta-kafscale-crc32c"), Some(format!("{:08x}", payload.crc32c).as_str()));
        assert_eq!(put.header("x-amz-server-side-encryption"), Some("aws:kms"));
        assert_eq!(put.header("x-amz-server-side-encryption-aws-kms-key-id"), Some("arn:aws:kms:k"));
        assert_eq!(put.header("x-amz-security-token"), Some("TOKEN"));
        let signed = put.header("authorization").unwrap();
        for name in ["x-amz-checksum-crc32c", "if-none-match", "x-amz-content-sha256"] {
            assert!(signed.contains(name), "{name} is signed: {signed}");
        }
        let sent: Vec<_> = put.body.iter().map(|c| c.as_ptr()).collect();
        assert_eq!(sent, vec![chunks[0].as_ptr(), chunks[2].as_ptr()], "the chunks themselves are sent");
    }
}

#[tokio::test]
async fn outcomes_of_a_create() {
    let kind = |result: Result<(), StoreError>| match result {
        Ok(()) => "ok",
        Err(StoreError::AlreadyExists { .. }) => "exists",
        Err(StoreError::Unavailable { .. }) => "unavailable",
        Err(StoreError::Throttled { .. }) => "throttled",
        Err(StoreError::Refused { .. }) => "refused",
        Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => "wrong",
    };
    let cases = [
        (error(412, "PreconditionFailed"), "exists"),
        (error(409, "ConditionalRequestConflict"), "unavailable"),
        (error(500, "InternalError"), "unavailable"),
        (error(502, ""), "unavailable"),
        (error(503, "ServiceUnavailable"), "unavailable"),
        (error(400, "RequestTimeout"), "unavailable"),
        (error(503, "SlowDown"), "throttled"),
        (error(429, "TooManyRequests"), "throttled"),
        (error(403, "AccessDenied"), "refused"),
        (error(403, "InvalidAccessKeyId"), "refused"),
        (error(404, "NoSuchBucket"), "refused"),
        (error(400, "BadDigest"), "refused"),
        (error(301, "PermanentRedirect"), "refused"),
        (Answer::Cut, "unavailable"),
        (Answer::Http(503, vec![], vec![Bytes::from_static(b"<html>not xml")]), "unavailable"),
    ];
    for (answer, expected) in cases {
        let (store, wire) = store(vec![answer.clone()]).await;
        let result = store.create(&key(), &Payload::new(vec![Bytes::from_static(b"x")], 1)).await;
        assert_eq!(kind(result.clone()), expected, "{answer:?}: {result:?}");
        assert_eq!(requests(&wire).len(), 1, "one attempt: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_never_answers_ends() {
    let (store, _wire) = store(vec![Answer::Never, Answer::Never]).await;
    let result = store.create(&key(), &Payload::new(vec![], 1)).await;
    assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{result:?}");
    let result = store.get_range(&key(), 0..10).await;
    assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{result:?}");
}

fn ranged(content_range: &str, chunks: &[&'static str]) -> Answer {
    let len: usize = chunks.iter().map(|c| c.len()).sum();
    let headers = vec![("content-range", content_range.to_owned()), ("content-length", len.to_string())];
    Answer::Http(206, headers, chunks.iter().map(|c| Bytes::from_static(c.as_bytes())).collect())
}

#[tokio::test]
async fn ranges() {
    let whole = Bytes::from_static(b"hello");
    let (store, wire) = store(vec![
        ranged("bytes 3-7/20", &["hello"]),
        ranged("bytes 3-7/20", &["he", "llo"]),
        ranged("bytes 3-5/6", &["hel"]),
        error(416, "InvalidRange"),
        error(404, "NoSuchKey"),
        error(404, "NoSuchBucket"),
        Answer::Http(200, vec![("content-length", "9".into())], vec![Bytes::from_static(b"whole obj")]),
        Answer::Http(206, vec![], vec![Bytes::from_static(b"too long a body")]),
        Answer::Http(206, vec![], vec![Bytes::from_static(b"sho"), Bytes::from_static(b"r")]),
    ])
    .await;
    assert_eq!(store.get_range(&key(), 3..8).await.unwrap(), whole);
    assert_eq!(store.get_range(&key(), 3..8).await.unwrap(), whole);
    assert_eq!(requests(&wire)[0].header("range"), Some("bytes=3-7"));
    for expected in ["damaged", "damaged", "not exist", "refuses", "damaged", "damaged", "damaged"] {
        let error = store.get_range(&key(), 3..8).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let before = requests(&wire).len();
    assert_eq!(store.get_range(&key(), 3..3).await.unwrap(), Bytes::new());
    assert_eq!((before, requests(&wire).len()), (7, 0));
}

#[tokio::test]
async fn suffixes() {
    let head = |len: &str| Answer::Http(200, vec![("content-length", len.to_owned())], vec![]);
    let (store, wire) = store(vec![
        ranged("bytes 15-19/20", &["hello"]),
        ranged("bytes 0-1/2", &["he"]),
        Answer::Http(200, vec![("content-length", "2".into())], vec![Bytes::from_static(b"he")]),
        ranged("bytes 0-4/20", &["hello"]),
        error(416, "InvalidRange"),
        head("0"),
        error(404, "NoSuchKey"),
    ])
    .await;
    assert_eq!(store.get_suffix(&key(), 5).await.unwrap(), (Bytes::from_static(b"hello"), 20));
    assert_eq!(requests(&wire)[0].header("range"), Some("bytes=-5"));
    assert_eq!(store.get_suffix(&key(), 5).await.unwrap(), (Bytes::from_static(b"he"), 2));
    assert_eq!(store.get_suffix(&key(), 5).await.unwrap(), (Bytes::from_static(b"he"), 2));
    assert!(matches!(store.get_suffix(&key(), 5).await, Err(StoreError::Corrupt { .. })));
    assert_eq!(store.get_suffix(&key(), 5).await.unwrap(), (Bytes::new(), 0));
    assert!(matches!(store.get_suffix(&key(), 5).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn heads() {
    let crc = BASE64.encode(0x0102_0304u32.to_be_bytes());
    let with = |headers: Vec<(&'static str, String)>| Answer::Http(200, headers, vec![]);
    let (store, _wire) = store(vec![
        with(vec![
            ("content-length", "7".into()),
            ("last-modified", "Sun, 22 Nov 2026 20:00:00 GMT".into()),
            ("x-amz-meta-kafscale-nonce", "00000000000000ff".into()),
            ("x-amz-meta-kafscale-crc32c", "01020304".into()),
        ]),
        with(vec![("content-length", "7".into()), ("x-amz-checksum-crc32c", crc)]),
        Answer::Http(404, vec![], vec![]),
        Answer::Http(403, vec![], vec![]),
        Answer::Http(500, vec![], vec![]),
    ])
    .await;
    let head = store.head(&key()).await.unwrap().unwrap();
    assert_eq!((head.len, head.nonce, head.crc32c), (7, Some(0xff), Some(0x0102_0304)));
    assert_eq!(head.last_modified_ms, 1_795_377_600_000);
    let head = store.head(&key()).await.unwrap().unwrap();
    assert_eq!((head.nonce, head.crc32c), (None, Some(0x0102_0304)));
    assert_eq!(store.head(&key()).await.unwrap(), None);
    assert!(matches!(store.head(&key()).await, Err(StoreError::Refused { .. })));
    assert!(matches!(store.head(&key()).await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn deletes_go_by_the_thousand_or_one_by_one() {
    let keys: Vec<ObjectKey> = (0..1_001).map(|i| ObjectKey::new(format!("k{i}"))).collect();
    let done = Answer::Http(200, vec![], vec![Bytes::from_static(b"<DeleteResult/>")]);
    let (store, wire) = store(vec![done.clone(), done]).await;
    store.delete(&keys).await.unwrap();
    let seen = requests(&wire);
    assert_eq!(seen.iter().map(|r| r.method.as_str()).collect::<Vec<_>>(), ["POST", "POST"]);

    wire.0.lock().unwrap().answers = VecDeque::from([error(501, "NotImplemented"), error(404, "NoSuchKey")]);
    store.delete(&keys[..3]).await.unwrap();
    let methods: Vec<_> = requests(&wire).into_iter().map(|r| r.method).collect();
    assert_eq!(methods, ["POST", "DELETE", "DELETE", "DELETE"]);

    let unreadable = Answer::Http(200, vec![], vec![]);
    wire.0.lock().unwrap().answers = VecDeque::from([unreadable]);
    assert!(matches!(store.delete(&keys[..3]).await, Err(StoreError::Unavailable { .. })));

    let partly = "<DeleteResult><Error><Key>k1</Key><Code>AccessDenied</Code></Error></DeleteResult>";
    wire.0.lock().unwrap().answers = VecDeque::from([Answer::Http(200, vec![], vec![partly.into()])]);
    assert!(matches!(store.delete(&keys[..3]).await, Err(StoreError::Refused { .. })));
}

#[test]
fn secrets_are_not_shown() {
    assert!(!format!("{:?}", config()).contains("SECRET"));
}
