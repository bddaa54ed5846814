//! The policy of cutting, against a model of a client and a store: ack latency and number of PUTs, without a clock.
//!
//! The client is what Kafka's clients are by default: records are due at a fixed rate, requests leave 5 ms after their
//! first record, five may be in flight, and a request takes along everything that is due. PUTs take lognormal times.

use super::*;
use crate::ids::{PartitionIndex, TopicId};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const RECORD_BYTES: usize = 1_070;
const RECORDS_PER_S: u64 = 4_883; // 5 MB/s of 1 KiB values
const LINGER_US: u64 = 5_000;
const COMMIT_US: u64 = 2_000;

/// A small generator; the test is the same in every run.
struct Rng(u64);

impl Rng {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Median 65 ms, 99th percentile 220 ms.
    fn put_us(&mut self) -> u64 {
        let normal = (-2.0 * self.uniform().max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos();
        (65_000.0 * (normal / 2.3263 * (220.0f64 / 65.0).ln()).exp()) as u64
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Send,
    Tick,
    Uploaded(u64),
    Committed(u64),
}

struct Model {
    state: FlusherState<()>,
    in_flight_max: usize,
    queue: BinaryHeap<Reverse<(u64, Happens)>>,
    rng: Rng,
    now_us: u64,
    next_record: u64,
    /// Range of records per request that is not acked, oldest first; and in which slot, once that is cut.
    requests: VecDeque<(std::ops::Range<u64>, Option<u64>)>,
    blocked: bool,
    puts: u64,
    latencies_ms: Vec<u64>,
}

impl Model {
    fn run(interval_ms: u64, in_flight_max: usize, seconds: u64) -> (u64, u64, f64) {
        let limits = FlushLimits {
            segment_bytes: 4 << 20,
            interval_ms,
            linger_ms: 3,
            stall_ms: 8,
            full_ms: 1,
            lone_ms: None,
            uploads_max: 8,
            burst: 4,
            cost_bounded: true,
            twice: interval_ms <= 100,
        };
        let mut model = Self {
            state: FlusherState::new(limits, 0),
            in_flight_max,
            queue: BinaryHeap::from([Reverse((LINGER_US, Happens::Send))]),
            rng: Rng(0x9E37_79B9_7F4A_7C15),
            now_us: 0,
            next_record: 0,
            requests: VecDeque::new(),
            blocked: false,
            puts: 0,
            latencies_ms: Vec::new(),
        };
        while let Some(Reverse((at, what))) = model.queue.pop().filter(|Reverse((at, _))| *at < seconds * 1_000_000) {
            model.now_us = at;
            model.happens(what);
        }
        model.latencies_ms.sort_unstable();
        let quantile = |q: f64| model.latencies_ms[(model.latencies_ms.len() as f64 * q) as usize];
        (quantile(0.5), quantile(0.99), model.puts as f64 / seconds as f64)
    }

    fn due_us(record: u64) -> u64 {
        record * 1_000_000 / RECORDS_PER_S
    }

    fn happens(&mut self, what: Happens) {
        match what {
            Happens::Send => self.send(),
            Happens::Tick => self.step(Event::Tick),
            Happens::Uploaded(seq) => self.step(Event::Uploaded(Seq(seq))),
            Happens::Committed(seq) => {
                self.step(Event::Committed(Seq(seq)));
                while self.requests.front().is_some_and(|(_, slot)| slot.is_some_and(|s| s <= seq)) {
                    let (records, _) = self.requests.pop_front().expect("just seen");
                    let now_us = self.now_us;
                    self.latencies_ms.extend(records.step_by(8).map(|r| (now_us - Self::due_us(r)) / 1_000));
                }
                if std::mem::take(&mut self.blocked) {
                    self.send();
                }
            }
        }
    }

    fn send(&mut self) {
        let at = Self::due_us(self.next_record) + LINGER_US;
        if at > self.now_us {
            self.queue.push(Reverse((at, Happens::Send)));
        } else if self.requests.len() >= self.in_flight_max {
            self.blocked = true;
        } else {
            let end = self.now_us * RECORDS_PER_S / 1_000_000 + 1;
            let (base, next) = (self.next_record, end);
            self.next_record = end;
            self.requests.push_back((base..next, None));
            let head = Bytes::from(vec![0; (next - base) as usize * RECORD_BYTES]);
            let (base, next) = (Offset(base as i64), Offset(next as i64));
            let batch = StoredBatch { base, next, max_timestamp: 0, head, tail: Bytes::new() };
            let key = PartitionKey { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(0) };
            let client_waits = self.requests.len() >= self.in_flight_max;
            self.step(Event::Append { key, port: (), leader_epoch: LeaderEpoch(0), batch, client_waits });
            self.send();
        }
    }

    fn step(&mut self, event: Event<()>) {
        let mut effects = Vec::new();
        let now_ms = self.now_us / 1_000;
        self.state.step(now_ms, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Upload { seq, twice, .. } => {
                    self.puts += 1 + u64::from(twice);
                    self.requests
                        .iter_mut()
                        .filter(|(_, slot)| slot.is_none())
                        .for_each(|(_, slot)| *slot = Some(seq.0));
                    let first_us = self.rng.put_us();
                    let put_us = if twice { first_us.min(self.rng.put_us()) } else { first_us };
                    let done = self.now_us + put_us;
                    self.queue.push(Reverse((done, Happens::Uploaded(seq.0))));
                }
                Effect::Commit(seq) => self.queue.push(Reverse((self.now_us + COMMIT_US, Happens::Committed(seq.0)))),
                Effect::Announce(_) => {}
            }
        }
        if let Some(at_ms) = self.state.wake_at_ms(now_ms) {
            self.queue.push(Reverse((at_ms.max(now_ms + 1) * 1_000, Happens::Tick)));
        }
    }
}

#[test]
fn a_client_with_five_requests_in_flight_waits_less_than_the_interval() {
    let (p50_ms, p99_ms, puts_per_s) = Model::run(500, 5, 120);
    println!("500 ms: p50 {p50_ms} ms, p99 {p99_ms} ms, {puts_per_s:.1} PUT/s");
    assert!(p50_ms <= 340 && p99_ms <= 800, "p50 {p50_ms} ms, p99 {p99_ms} ms");
    // Two a second by time, and one per 2 MiB.
    assert!(puts_per_s <= 2.0 + 5.3e6 / f64::from(2 << 20) + 0.1, "{puts_per_s} PUT/s");
    let (p50_ms, p99_ms, puts_per_s) = Model::run(50, 5, 120);
    println!("50 ms: p50 {p50_ms} ms, p99 {p99_ms} ms, {puts_per_s:.1} PUT/s");
    assert!(p50_ms <= 100 && p99_ms <= 250, "p50 {p50_ms} ms, p99 {p99_ms} ms");
    // Twenty a second by time, a cut per 2 MiB, and a second sending per MiB.
    assert!(puts_per_s <= 20.0 + 1.5 * 5.3e6 / f64::from(1 << 20) + 0.1, "{puts_per_s} PUT/s");
}

/// What five requests in flight cost is the client's: with many it waits for half the interval and a PUT.
#[test]
fn a_client_that_never_waits_pays_half_the_interval() {
    let (p50_ms, _, puts_per_s) = Model::run(500, usize::MAX, 120);
    println!("500 ms: p50 {p50_ms} ms, {puts_per_s:.1} PUT/s");
    assert!((300..=350).contains(&p50_ms) && puts_per_s <= 2.1, "p50 {p50_ms} ms, {puts_per_s} PUT/s");
    let (p50_ms, p99_ms, puts_per_s) = Model::run(50, usize::MAX, 120);
    println!("50 ms: p50 {p50_ms} ms, p99 {p99_ms} ms, {puts_per_s:.1} PUT/s");
    assert!(
        p50_ms <= 105 && puts_per_s <= 20.0 + 5.3e6 / f64::from(1 << 20) + 0.3,
        "p50 {p50_ms} ms, {puts_per_s} PUT/s"
    );
}
