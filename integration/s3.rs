//! The S3 back end against a real server, with and without faults between them.

use crate::harness::{ACCESS_KEY, BUCKET, REGION, S3Proxy, S3Server, SECRET_KEY, TestDir};
use bytes::Bytes;
use kafscale::storage::measured::MeasuredStore;
use kafscale::storage::retry::{HedgePolicy, RetryPolicy, RetryingStore};
use kafscale::storage::s3::{S3Config, S3Store, StaticCredentials};
use kafscale::storage::{ObjectKey, ObjectStore, Payload, StoreError, crc32c, fault::Op};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

#[path = "../src/storage/conformance.rs"]
mod conformance;

fn config(address: &str) -> S3Config {
    S3Config {
        bucket: BUCKET.to_owned(),
        region: REGION.to_owned(),
        endpoint: Some(format!("http://{address}")),
        path_style: true,
        credentials: Some(StaticCredentials {
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            session_token: None,
        }),
        kms_key_arn: None,
    }
}

async fn connect(address: &str) -> S3Store {
    S3Store::connect(config(address)).await.expect("fixed credentials need no source")
}

fn retrying(store: Arc<dyn ObjectStore>, hedge: Option<HedgePolicy>) -> RetryingStore {
    RetryingStore::new(store, RetryPolicy { hedge, ..RetryPolicy::default() }, CancellationToken::new())
}

fn payload(fill: u8, len: usize, nonce: u64) -> Payload {
    let chunk = Bytes::from(vec![fill; len / 2]);
    Payload::new(vec![chunk.clone(), Bytes::from_static(b"middle"), chunk], nonce)
}

#[tokio::test]
async fn the_server_conforms() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(dir.path()).await;
    conformance::run(&connect(&server.address()).await).await;
}

#[tokio::test]
async fn a_body_that_is_not_what_its_checksum_says_is_refused() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(dir.path()).await;
    let store = connect(&server.address()).await;
    let key = ObjectKey::new("n/wrong");
    for len in [10, 2_000_000] {
        let mut wrong = payload(1, len, 1);
        wrong.crc32c ^= 1;
        let refused = store.create(&key, &wrong).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        assert_eq!(store.head(&key).await.unwrap(), None, "nothing is stored");
    }
}

/// The server answers 412 before it has read a large body and closes; the client sees a cut connection or the 412.
#[tokio::test]
async fn creates_of_large_bodies_that_exist_are_resolved() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(dir.path()).await;
    let store = retrying(Arc::new(connect(&server.address()).await), None);
    let key = ObjectKey::new("n/large");
    let ours = payload(7, 8 << 20, 1);
    store.create(&key, &ours).await.unwrap();
    for _ in 0..10 {
        store.create(&key, &ours).await.expect("our own object is success");
        let clash = store.create(&key, &payload(8, 8 << 20, 2)).await;
        assert!(matches!(clash, Err(StoreError::AlreadyExists { .. })), "{clash:?}");
    }
    assert_eq!(store.stats().creates_resolved.load(Ordering::Relaxed), 10);
    let body = store.get_range(&key, 0..ours.len).await.unwrap();
    assert_eq!(crc32c(&body), ours.crc32c);
}

#[tokio::test]
async fn every_create_and_read_ends_well_under_faults() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(dir.path()).await;
    let faults = "profile=none&lost=0.1&applied500=0.1&late=0.05&late_ms=150&409=0.05&500=0.1&503=0.05&truncated=0.1";
    let proxy = S3Proxy::start(dir.path(), &server.address(), 42, faults).await;
    let hedge = HedgePolicy::default();
    let store = retrying(Arc::new(connect(&proxy.address()).await), Some(hedge));
    let object = |i: u64| (ObjectKey::new(format!("n/{i:04}")), payload(i as u8, 100 << (i % 12), i));
    let create = async |i: u64| {
        let (key, payload) = object(i);
        store.create(&key, &payload).await.unwrap_or_else(|e| panic!("{key}: {e}"));
    };
    for batch in 0..20 {
        futures::future::join_all((0..10).map(|n| create(batch * 10 + n))).await;
    }
    let stats = store.stats();
    assert!(stats.retries.load(Ordering::Relaxed) > 0 && stats.creates_resolved.load(Ordering::Relaxed) > 0);
    proxy.set("lost=0&applied500=0&late=0&409=0&500=0.05&503=0&truncated=0.05").await;
    for i in 0..200 {
        let (key, payload) = object(i);
        let head = store.head(&key).await.unwrap().unwrap();
        assert_eq!((head.nonce, head.crc32c), (Some(i), Some(payload.crc32c)), "{key}");
        let body = store.get_range(&key, 0..payload.len).await.unwrap();
        assert_eq!(crc32c(&body), payload.crc32c, "{key}");
    }
    assert_eq!(server.objects().len(), 200);
}

#[tokio::test]
async fn hedges_are_few_and_store_nothing_twice() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(dir.path()).await;
    let proxy = S3Proxy::start(dir.path(), &server.address(), 7, "profile=express").await;
    let measured = MeasuredStore::new(Arc::new(connect(&proxy.address()).await));
    let attempts = measured.stats();
    let store =
        retrying(Arc::new(measured), Some(HedgePolicy { delay_min: std::time::Duration::ZERO, quantile: 0.95 }));
    for i in 0..400 {
        store.create(&ObjectKey::new(format!("n/{i}")), &payload(1, 4_000, i)).await.unwrap();
    }
    let hedges = store.stats().hedges.load(Ordering::Relaxed);
    assert!((1..=25).contains(&hedges), "{hedges} hedges for 400 creates");
    // A hedge is dropped, perhaps unsent, when the first attempt answers.
    let puts = proxy.count("PUT requests").await;
    assert!((401..=400 + hedges).contains(&puts), "{puts} PUTs with {hedges} hedges");
    assert_eq!(attempts.op(Op::Create).in_flight.load(Ordering::Relaxed), 0);
    assert_eq!(server.objects().len(), 400);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(dir.path()).await;
    let good = config(&server.address());
    let bad_key = StaticCredentials { access_key: "nobody".into(), ..good.credentials.clone().unwrap() };
    let bad_secret = StaticCredentials { secret_key: "wrong".into(), ..good.credentials.clone().unwrap() };
    let cases = [
        (S3Config { bucket: "no-such-bucket".into(), ..good.clone() }, "KAFSCALE_S3_BUCKET"),
        (S3Config { credentials: Some(bad_key), ..good.clone() }, "KAFSCALE_S3_ACCESS_KEY"),
        (S3Config { credentials: Some(bad_secret), ..good.clone() }, "KAFSCALE_S3_SECRET_KEY"),
        (S3Config { region: "eu-west-9".into(), ..good.clone() }, "KAFSCALE_S3_REGION"),
    ];
    for (config, advice) in cases {
        let store = S3Store::connect(config).await.unwrap();
        let refused = store.create(&ObjectKey::new("n/a"), &payload(1, 10, 1)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused { .. }) && refused.to_string().contains(advice), "{refused}");
    }
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn the_kms_key_is_sent() {
    let dir = TestDir::new("s3");
    let server = S3Server::start(dir.path()).await;
    let proxy = S3Proxy::start(dir.path(), &server.address(), 1, "profile=none").await;
    let config = S3Config { kms_key_arn: Some("arn:aws:kms:eu-west-1:1:key/k".into()), ..config(&proxy.address()) };
    let store = S3Store::connect(config).await.unwrap();
    store.create(&ObjectKey::new("n/a"), &payload(1, 10, 1)).await.unwrap();
    assert_eq!(proxy.count("PUT with x-amz-server-side-encryption").await, 1);
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_comes_back() {
    let dir = TestDir::new("s3");
    let mut server = S3Server::start(dir.path()).await;
    let store = connect(&server.address()).await;
    store.create(&ObjectKey::new("n/a"), &payload(1, 10, 1)).await.unwrap();
    server.process.kill9();
    for _ in 0..2 {
        let away = store.create(&ObjectKey::new("n/b"), &payload(1, 10, 1)).await;
        assert!(matches!(away, Err(StoreError::Unavailable { .. })), "{away:?}");
    }
    server.restart().await;
    store.create(&ObjectKey::new("n/b"), &payload(1, 10, 1)).await.unwrap();
}
