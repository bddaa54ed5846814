//! Hostile connections beside a well-behaved client: memory stays bounded, nothing panics, the client keeps its share.
//!
//! The hostile ones send garbage, half frames, lengths and counts that lie, or pipeline requests and never read an answer.
//! Windows with and without them alternate, and the client's requests are counted in each, so that other work on the
//! machine hits both alike. CI: 200 connections and a loose share; `make abuse CONNECTIONS=1000 SHARE_PERCENT_MIN=80`.

use crate::client::{Batch, Client, Connection, PRODUCE_VERSION, fetch_request, produce_request};
use crate::harness::{Backend, Stack, quiet, size};
use crate::workload::Rng;
use bytes::Bytes;
use kafka_protocol::messages::MetadataRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How much more than idle the broker may take, at any time.
const RSS_ABOVE_IDLE_BYTES_MAX: u64 = 512 << 20;
/// Bytes in the topic that the never-reading fetches ask for.
const PRELOADED_BATCHES: u64 = 64;
const PRELOADED_BATCH_BYTES: usize = 512 * 1024;
/// Windows of each kind.
const WINDOWS: u32 = 4;
/// Pause of a hostile connection between two acts, so that it is the broker that works and not this process.
const ACT_PAUSE: Duration = Duration::from_millis(700);
const TOPIC: &str = "abused";

/// What a hostile connection does, by its number.
#[derive(Debug, Clone, Copy)]
enum Abuse {
    Garbage,
    HalfFrame,
    LyingLength,
    LyingCounts,
    NeverReads,
}

const KINDS: [Abuse; 5] = [Abuse::Garbage, Abuse::HalfFrame, Abuse::LyingLength, Abuse::LyingCounts, Abuse::NeverReads];

/// A frame with a request header v1 (no client id) and `body`.
fn frame(api_key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = ((10 + body.len()) as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(&api_key.to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&7i32.to_be_bytes());
    frame.extend_from_slice(&(-1i16).to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// A batch whose header claims two billion records.
fn lying_batch() -> Bytes {
    let mut batch = Batch::of(&[b"x"]).encode().to_vec();
    batch[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
    batch[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    crate::client::fix_crc(&mut batch);
    Bytes::from(batch)
}

fn payload(kind: Abuse, rng: &mut Rng) -> Vec<u8> {
    match kind {
        Abuse::Garbage => (0..1 + rng.below(512)).flat_map(|_| rng.next().to_be_bytes()).collect(),
        Abuse::HalfFrame => {
            let whole = Connection::frame(1, 9, &produce_request(TOPIC, 0, -1, Batch::of(&[&[1; 4096]]).encode()));
            let whole = whole.expect("a good request encodes");
            whole[..1 + rng.below(whole.len() as u64 - 1) as usize].to_vec()
        }
        Abuse::LyingLength => {
            let length = [i32::MAX, i32::MIN, -1, 0, 3, 104_857_600, 104_857_601][rng.below(7) as usize];
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend_from_slice(&[0; 64 * 1024][..rng.below(64 * 1024) as usize]);
            bytes
        }
        Abuse::LyingCounts => match rng.below(4) {
            0 => frame(3, 8, &i32::MAX.to_be_bytes()),
            1 => frame(0, 3, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
            2 => frame(1, 12, &[0xff; 48]),
            _ => {
                let request = produce_request(TOPIC, 0, -1, lying_batch());
                Connection::frame(1, 9, &request).expect("a lying request encodes").to_vec()
            }
        },
        Abuse::NeverReads => {
            let fetch = Connection::frame(1, 12, &fetch_request(TOPIC, 0, 0, 0, 50 << 20)).expect("encodes");
            let metadata = Connection::frame(2, 8, &MetadataRequest::default().with_topics(None)).expect("encodes");
            let mut bytes = Vec::new();
            for _ in 0..100 {
                bytes.extend_from_slice(&fetch);
                bytes.extend_from_slice(&metadata);
            }
            bytes
        }
    }
}

/// One hostile connection: while `on`, it acts, and comes back when it is thrown out; while off, it is closed.
async fn hostile(address: String, number: u64, mut on: watch::Receiver<bool>, thrown_out: Arc<AtomicU64>) {
    let (kind, mut rng) = (KINDS[number as usize % KINDS.len()], Rng(number));
    loop {
        if on.wait_for(|on| *on).await.is_err() {
            return;
        }
        let abuse = async {
            tokio::time::sleep(ACT_PAUSE.mul_f64(rng.below(100) as f64 / 100.0)).await; // not all at once
            let Ok(mut stream) = TcpStream::connect(&address).await else { return };
            loop {
                let bytes = payload(kind, &mut rng);
                // A broker that does not read any more blocks this write: just what a flood meets.
                if stream.write_all(&bytes).await.is_err() {
                    break;
                }
                tokio::time::sleep(ACT_PAUSE).await;
                let mut answer = [0u8; 4096];
                if !matches!(kind, Abuse::NeverReads) && matches!(stream.try_read(&mut answer), Ok(0)) {
                    break;
                }
            }
            thrown_out.fetch_add(1, Ordering::Relaxed);
        };
        tokio::select! {
            () = abuse => {}
            _ = on.wait_for(|on| !*on) => {}
        }
    }
}

/// A well-behaved client: produces and fetches, one request after the other, and counts what was answered well.
async fn well_behaved(address: String, done: Arc<AtomicU64>) {
    let mut client = Client::new(&address);
    let batch = Batch::of(&[&[7; 1024]]).encode();
    loop {
        let produced = client.produce(TOPIC, 1, batch.clone()).await.expect("a good request is answered");
        assert_eq!(produced.error_code, 0);
        let fetched = client.fetch(TOPIC, 1, produced.base_offset, 100, 1 << 20).await;
        assert_eq!(fetched.expect("a good request is answered").error_code, 0);
        done.fetch_add(2, Ordering::Relaxed);
    }
}

async fn preload(client: &mut Client) {
    client.ensure_topic(TOPIC, 2).await;
    let value = vec![3u8; PRELOADED_BATCH_BYTES];
    for _ in 0..PRELOADED_BATCHES {
        client.produce_values(TOPIC, 0, &[&value]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_connections_neither_starve_nor_fill_the_broker() {
    let _quiet = quiet().await;
    let connections = size("CONNECTIONS", 200);
    let share_percent_min = size("SHARE_PERCENT_MIN", 25);
    let window = Duration::from_secs(size("DURATION_SEC", 3));
    let mut stack = Stack::start("abuse", Backend::Dev, &[]).await;
    let address = stack.address();
    let mut client = Client::new(&address);
    preload(&mut client).await;
    let idle_bytes = stack.broker.process.rss_bytes();

    let (switch, on) = watch::channel(false);
    let thrown_out = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicU64::new(0));
    let hostile: Vec<_> =
        (0..connections).map(|n| tokio::spawn(hostile(address.clone(), n, on.clone(), thrown_out.clone()))).collect();
    let good = tokio::spawn(well_behaved(address.clone(), done.clone()));
    let (mut counts, mut rss_max_bytes) = ([0u64; 2], 0);
    for nth in 0..2 * WINDOWS {
        let under_abuse = nth % 2 == 1;
        switch.send_replace(under_abuse);
        tokio::time::sleep(Duration::from_secs(1)).await; // connections open or close; not counted
        let before = done.load(Ordering::Relaxed);
        let end = kafscale::clock::monotonic() + window;
        while kafscale::clock::monotonic() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            rss_max_bytes = stack.broker.process.rss_bytes().max(rss_max_bytes);
        }
        counts[usize::from(under_abuse)] += done.load(Ordering::Relaxed) - before;
    }
    assert!(!good.is_finished(), "the well-behaved client failed");
    good.abort();
    hostile.iter().for_each(tokio::task::JoinHandle::abort);

    let share_percent = counts[1] * 100 / counts[0].max(1);
    let above_bytes = rss_max_bytes.saturating_sub(idle_bytes);
    eprintln!(
        "{connections} hostile connections, thrown out {} times: the client made {} requests without and {} beside them \
         ({share_percent}%); RSS idle {} MiB, greatest {} MiB",
        thrown_out.load(Ordering::Relaxed),
        counts[0],
        counts[1],
        idle_bytes >> 20,
        rss_max_bytes >> 20
    );
    assert_eq!(stack.broker.process.exited(), None, "the broker is alive");
    assert_eq!(stack.broker.metric_sum("panic").await, Some(0.0), "panics are counted, and there was none");
    assert!(above_bytes <= RSS_ABOVE_IDLE_BYTES_MAX, "{above_bytes} bytes above idle");
    assert!(share_percent >= share_percent_min, "the client kept only {share_percent}%");
}

/// The version constant is what the frames above are written for.
#[test]
fn frames_are_those_of_the_client() {
    assert_eq!(PRODUCE_VERSION, 9);
    let ours = frame(3, 8, &[1, 2]);
    assert_eq!(ours[..8], [0, 0, 0, 12, 0, 3, 0, 8]);
}
