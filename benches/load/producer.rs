//! A producer cheap enough not to be what is measured: batches are prefixes of a prebuilt one with random values, and a
//! request costs one copy and one CRC. Otherwise it is a real client: idempotent, acks=all, linger, up to five requests in
//! flight on one connection, batches that grow while it waits.
//!
//! One thread writes, one reads. At a fixed rate, record n is due at `start + n / rate`, whatever the broker does, and its
//! latency counts from then (no coordinated omission).

use crate::client::{Batch, CRC_START, PRODUCE_VERSION, crc32c};
use bytes::Bytes;
use hdrhistogram::Histogram;
use kafka_protocol::messages::{ProduceResponse, ResponseHeader};
use kafka_protocol::protocol::Decodable;
use kafscale::clock::monotonic;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of each value.
pub const VALUE_BYTES: usize = 1024;
/// Records of the largest batch: just below Kafka's default `max.message.bytes` of 1,048,588.
const BATCH_RECORDS_MAX: usize = 1000;
const IN_FLIGHT_MAX: usize = 5;
const LINGER: Duration = Duration::from_millis(5);
/// Keyless records go to one partition until it has got this much, as in clients with a sticky partitioner.
const STICKY_RECORDS: u64 = (64 * 1024 / VALUE_BYTES) as u64;
const TIMEOUT: Duration = Duration::from_secs(60);

/// What to produce.
#[derive(Debug, Clone)]
pub struct Load {
    /// host:port.
    pub address: String,
    /// Topic, which exists.
    pub topic: String,
    /// Its partitions.
    pub partitions: usize,
    /// Values per second; `None` is as fast as the broker takes them.
    pub records_per_s: Option<f64>,
    /// From InitProducerId.
    pub producer: (i64, i16),
}

/// Shared with whoever measures.
#[derive(Debug)]
pub struct Meter {
    /// Values acked.
    pub records: AtomicU64,
    /// Latencies are recorded only while this is on.
    pub measuring: AtomicBool,
    /// Ends the load.
    pub stop: AtomicBool,
    /// When each record of a partition was due; its index is its offset, since nobody else writes there.
    pub due: Vec<Mutex<Vec<Instant>>>,
}

impl Meter {
    /// For `partitions`.
    pub fn new(partitions: usize) -> Arc<Self> {
        Arc::new(Self {
            records: AtomicU64::new(0),
            measuring: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            due: (0..partitions).map(|_| Mutex::default()).collect(),
        })
    }
}

/// An empty histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds are valid")
}

/// A prebuilt batch of which every prefix of records can be sent.
struct Template {
    bytes: Vec<u8>,
    /// Length of a batch with n records.
    lengths: Vec<usize>,
}

impl Template {
    fn new() -> Self {
        let random = |_| kafscale::rng::u64().to_le_bytes();
        let values: Vec<Vec<u8>> =
            (0..BATCH_RECORDS_MAX).map(|_| (0..VALUE_BYTES / 8).flat_map(random).collect()).collect();
        let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let length = |n: usize| Batch::of(&slices[..n]).encode().len();
        let bytes = Batch::of(&slices).encode().to_vec();
        // A record is longer by one byte where its offset delta needs two.
        let (one, small, large) = (length(1), length(2) - length(1), length(66) - length(65));
        let lengths: Vec<usize> = std::iter::once(0)
            .chain((1..=BATCH_RECORDS_MAX).map(|n| one + (n.min(64) - 1) * small + n.saturating_sub(64) * large))
            .collect();
        assert_eq!(lengths[BATCH_RECORDS_MAX], bytes.len(), "lengths of prefixes");
        Self { bytes, lengths }
    }

    /// Appends a batch of the first `count` records to `frame`.
    fn append(&self, frame: &mut Vec<u8>, count: usize, producer: (i64, i16), sequence: i32) {
        let at = frame.len();
        frame.extend_from_slice(&self.bytes[..self.lengths[count]]);
        let batch = &mut frame[at..];
        let length = batch.len() as i32 - 12;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[23..27].copy_from_slice(&(count as i32 - 1).to_be_bytes());
        batch[43..51].copy_from_slice(&producer.0.to_be_bytes());
        batch[51..53].copy_from_slice(&producer.1.to_be_bytes());
        batch[53..57].copy_from_slice(&sequence.to_be_bytes());
        batch[57..61].copy_from_slice(&(count as i32).to_be_bytes());
        let crc = crc32c(&batch[CRC_START..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// One partition's share of a request: when each of its records was due.
struct Share {
    partition: usize,
    due: Vec<Instant>,
}

/// What the reader must know of a request.
struct Sent {
    correlation: i32,
    shares: Vec<Share>,
}

struct Writer {
    stream: TcpStream,
    load: Load,
    meter: Arc<Meter>,
    template: Template,
    sequences: Vec<i32>,
    correlation: i32,
    frame: Vec<u8>,
}

/// Runs the load until [`Meter::stop`]; blocks. The histogram has the latencies (µs) of what was due and acked while
/// measuring.
pub fn run(load: Load, meter: Arc<Meter>) -> Histogram<u64> {
    let stream = TcpStream::connect(&load.address).expect("broker accepts connections");
    stream.set_nodelay(true).expect("socket option");
    stream.set_read_timeout(Some(TIMEOUT)).expect("socket option");
    stream.set_write_timeout(Some(TIMEOUT)).expect("socket option");
    let reading = stream.try_clone().expect("socket handle");
    let (free, tokens) = mpsc::channel();
    (0..IN_FLIGHT_MAX).for_each(|_| free.send(()).expect("receiver lives"));
    let (sent, to_read) = mpsc::channel::<Sent>();
    let reader_meter = meter.clone();
    let reader = std::thread::spawn(move || read_answers(reading, &to_read, &free, &reader_meter));
    let sequences = vec![0; load.partitions];
    let mut writer =
        Writer { stream, load, meter, template: Template::new(), sequences, correlation: 0, frame: Vec::new() };
    match writer.load.records_per_s {
        None => writer.full_speed(&tokens, &sent),
        Some(rate) => writer.paced(Duration::from_secs_f64(1.0 / rate), &tokens, &sent),
    }
    drop(sent);
    reader.join().expect("every request is answered without an error")
}

impl Writer {
    fn stopped(&self) -> bool {
        self.meter.stop.load(Ordering::Relaxed)
    }

    fn full_speed(&mut self, tokens: &mpsc::Receiver<()>, sent: &mpsc::Sender<Sent>) {
        let mut partition = 0;
        while !self.stopped() && tokens.recv().is_ok() {
            partition = (partition + 1) % self.load.partitions;
            let due = vec![monotonic(); BATCH_RECORDS_MAX];
            self.send(vec![Share { partition, due }], sent);
        }
    }

    fn paced(&mut self, spacing: Duration, tokens: &mpsc::Receiver<()>, sent: &mpsc::Sender<Sent>) {
        let start = monotonic();
        let due = |record: u64| start + spacing.mul_f64(record as f64);
        let mut next = 0u64;
        while !self.stopped() {
            let wait = (due(next) + LINGER).saturating_duration_since(monotonic());
            std::thread::sleep(wait);
            if tokens.recv().is_err() {
                return;
            }
            // Everything that became due meanwhile: per partition one batch, as clients gather it while they wait.
            let now = monotonic();
            let mut shares: Vec<Share> = Vec::new();
            while due(next) <= now {
                let partition = (next / STICKY_RECORDS) as usize % self.load.partitions;
                let known = shares.iter().position(|s| s.partition == partition);
                let share = known.unwrap_or_else(|| {
                    shares.push(Share { partition, due: Vec::new() });
                    shares.len() - 1
                });
                if shares[share].due.len() == BATCH_RECORDS_MAX {
                    break; // the next request goes out as soon as one may be in flight
                }
                shares[share].due.push(due(next));
                next += 1;
            }
            for share in &shares {
                let mut times = self.meter.due[share.partition].lock().expect("no panic under the lock");
                times.extend(&share.due);
            }
            self.send(shares, sent);
        }
    }

    /// Sends one Produce request (v9) with a batch per partition.
    fn send(&mut self, shares: Vec<Share>, sent: &mpsc::Sender<Sent>) {
        self.correlation += 1;
        let frame = &mut self.frame;
        frame.clear();
        frame.extend_from_slice(&[0; 4]); // length, below
        frame.extend_from_slice(&0i16.to_be_bytes()); // Produce
        frame.extend_from_slice(&PRODUCE_VERSION.to_be_bytes());
        frame.extend_from_slice(&self.correlation.to_be_bytes());
        frame.extend_from_slice(&4i16.to_be_bytes());
        frame.extend_from_slice(b"load\0"); // client id, no tags
        frame.push(0); // no transactional id
        frame.extend_from_slice(&(-1i16).to_be_bytes()); // acks=all
        frame.extend_from_slice(&30_000i32.to_be_bytes());
        put_uvarint(frame, 2); // one topic
        put_uvarint(frame, self.load.topic.len() + 1);
        frame.extend_from_slice(self.load.topic.as_bytes());
        put_uvarint(frame, shares.len() + 1);
        for Share { partition, due } in &shares {
            let count = due.len();
            frame.extend_from_slice(&(*partition as i32).to_be_bytes());
            put_uvarint(frame, self.template.lengths[count] + 1);
            let sequence = &mut self.sequences[*partition];
            self.template.append(frame, count, self.load.producer, *sequence);
            *sequence = kafscale::protocol::batch::add_sequence(*sequence, count as i32);
            frame.push(0); // tags
        }
        frame.extend_from_slice(&[0, 0]); // tags of the topic and of the request
        let length = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        // A dead reader has panicked with the reason, which `run` reports.
        let _ = sent.send(Sent { correlation: self.correlation, shares });
        self.stream.write_all(&self.frame).expect("broker reads requests");
    }
}

fn put_uvarint(out: &mut Vec<u8>, value: usize) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn read_answers(
    mut stream: TcpStream,
    sent: &mpsc::Receiver<Sent>,
    free: &mpsc::Sender<()>,
    meter: &Meter,
) -> Histogram<u64> {
    let mut latencies = histogram();
    for request in sent {
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("broker answers");
        let mut frame = vec![0; i32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame).expect("broker answers");
        let acked = monotonic();
        let _ = free.send(()); // the writer may have stopped
        let mut frame = Bytes::from(frame);
        let header = ResponseHeader::decode(&mut frame, 1).expect("response header");
        assert_eq!(header.correlation_id, request.correlation, "answers are in the order of requests");
        let answer = ProduceResponse::decode(&mut frame, PRODUCE_VERSION).expect("response");
        for partition in answer.responses.iter().flat_map(|t| &t.partition_responses) {
            assert_eq!(partition.error_code, 0, "Produce was answered with an error");
        }
        let measuring = meter.measuring.load(Ordering::Relaxed);
        for due in request.shares.iter().map(|s| &s.due) {
            meter.records.fetch_add(due.len() as u64, Ordering::Relaxed);
            for due in due.iter().filter(|_| measuring) {
                latencies.saturating_record(acked.saturating_duration_since(*due).as_micros() as u64);
            }
        }
    }
    latencies
}

/// A server that reads Produce requests and says yes at once: what it takes shows what the producer can send.
pub fn null_server() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("one client comes");
        let (mut length, mut frame) = ([0; 4], Vec::new());
        // Ends when the client closes.
        while stream.read_exact(&mut length).is_ok() {
            frame.resize(i32::from_be_bytes(length) as usize, 0);
            stream.read_exact(&mut frame).expect("whole requests");
            let correlation = &frame[4..8];
            // Header v1 with no tags, no topics, no throttling, no tags.
            let answer = [&[0, 0, 0, 11][..], correlation, &[0, 1, 0, 0, 0, 0, 0]].concat();
            stream.write_all(&answer).expect("client reads answers");
        }
    });
    address
}
