//! The load of the fault tests: idempotent producers that never give up, tailing consumers, a final read, a verdict.
//!
//! Producers behave as real ones do: one connection, up to five requests in flight, and after any failure a new
//! connection on which everything unanswered is sent again, in order, with the same sequences.

mod groups;

use crate::checker::{self, Expect, Report};
use crate::client::{Batch, Client, ClientError, Connection, PRODUCE_VERSION, produce_request, read_records};
use crate::harness::wait_until;
use crate::history::{Event, History};
use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Requests in flight per producer, as real idempotent producers have.
const IN_FLIGHT_MAX: usize = 5;
/// How long producers may take to get everything acked, and a final poll to be answered.
const DRAIN_DEADLINE: Duration = Duration::from_secs(120);
/// How long a broker may take to say who leads.
const ROUTE_DEADLINE: Duration = Duration::from_secs(2);
/// Pause before a retry.
const BACKOFF: Duration = Duration::from_millis(50);
/// A fault must be over for producers after this time; far more than any retry interval, since the machine is busy.
pub const EXPECT: Expect = Expect { progress_ms_max: 60_000 };

/// Nobody is known to lead.
const NOT_LEADER: i16 = 6;
/// Codes after which real clients send the same batch again.
pub const RETRIABLE: [i16; 11] = [3, 5, 6, 7, 9, 13, 19, 20, 56, 89, 100];
/// Codes that promise that nothing was appended.
const REFUSED: [i16; 3] = [10, 17, 87];

/// A seeded generator (SplitMix64); the same seed gives the same run, as far as processes allow.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What the load looks like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Topic, created by the workload.
    pub topic: String,
    /// Its partitions.
    pub partitions: i32,
    /// Producers; each writes to all partitions.
    pub producers: u32,
    /// Pause of a producer between two batches, so that histories stay small.
    pub pause: Duration,
    /// Seed of sizes and choices.
    pub seed: u64,
    /// Members of a group that reads all partitions and commits what it has read.
    pub members: u32,
}

impl Plan {
    /// Three producers on four partitions.
    pub fn new(topic: &str, seed: u64) -> Self {
        Self { topic: topic.into(), partitions: 4, producers: 3, pause: Duration::from_millis(4), seed, members: 0 }
    }
}

/// When batches were acked, by partition.
pub type AckTimes = Arc<Mutex<HashMap<i32, Vec<Instant>>>>;

#[derive(Debug)]
struct Shared {
    /// One or several brokers of a cluster.
    addresses: Vec<String>,
    plan: Plan,
    history: History,
    ids: AtomicU64,
    acks: AtomicU64,
    /// When batches were acked, by partition.
    ack_times: AckTimes,
    /// Commits of the group that were acked.
    commits: AtomicU64,
    /// Batches sent again after a failure.
    resent: AtomicU64,
    stop: AtomicBool,
    stop_consumers: AtomicBool,
    /// Answers that no correct broker gives.
    errors: Mutex<Vec<String>>,
    /// By partition: the newest leader epoch that was heard of. Real clients don't follow older news either.
    epochs: Mutex<HashMap<i32, i32>>,
    /// Where the group is by its own commits, by partition.
    committed: Mutex<HashMap<i32, i64>>,
}

/// A running load.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    producers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
    members: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Creates the topic and starts producers and consumers.
    pub async fn start(address: &str, plan: Plan) -> Self {
        Self::start_on(&[address.to_owned()], plan).await
    }

    /// The same on a cluster: whoever writes to or reads from a partition looks for its leader first, and each producer
    /// writes to one partition.
    pub async fn start_on(addresses: &[String], plan: Plan) -> Self {
        let address = addresses.first().expect("there is a broker");
        Client::new(address).ensure_topic(&plan.topic, plan.partitions).await;
        let (producers, partitions, members) = (plan.producers, plan.partitions, plan.members);
        let shared = Arc::new(Shared {
            addresses: addresses.to_vec(),
            plan,
            history: History::new(),
            ids: AtomicU64::new(1),
            acks: AtomicU64::new(0),
            ack_times: AckTimes::default(),
            commits: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            stop_consumers: AtomicBool::new(false),
            errors: Mutex::default(),
            epochs: Mutex::default(),
            committed: Mutex::default(),
        });
        let producers = (0..producers).map(|id| tokio::spawn(produce(shared.clone(), id))).collect();
        let consumers = (0..partitions).map(|p| tokio::spawn(consume(shared.clone(), p))).collect();
        let watched = (members > 0).then(|| tokio::spawn(groups::watch_commits(shared.clone())));
        let members = (0..members).map(|id| tokio::spawn(groups::read_as_member(shared.clone(), id)));
        let members = members.chain(watched).collect();
        Self { shared, producers, consumers, members }
    }

    /// Batches acked so far.
    pub fn acks(&self) -> u64 {
        self.shared.acks.load(Ordering::Relaxed)
    }

    /// When batches were acked, also those of later.
    pub fn ack_times(&self) -> AckTimes {
        self.shared.ack_times.clone()
    }

    /// Commits of the group that were acked so far.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Waits until `more` further batches are acked.
    pub async fn wait_acks(&self, more: u64) {
        let goal = self.acks() + more;
        let what = format!("{more} more batches are acked");
        wait_until(&what, DRAIN_DEADLINE, async || {
            let ended = self.producers.iter().any(JoinHandle::is_finished);
            assert!(!ended || self.failed(), "a producer failed");
            self.acks() >= goal || ended
        })
        .await;
    }

    /// Marks the beginning or the end of a fault in the history.
    pub fn fault(&self, what: &str, on: bool) {
        self.shared.history.push(Event::Fault { what: what.into(), on });
    }

    fn failed(&self) -> bool {
        !self.shared.errors.lock().expect("no panic under the lock").is_empty()
    }

    /// [`Workload::judge`]; panics on answers that no correct broker gives, and keeps a history with violations.
    pub async fn finish(self) -> Report {
        let shared = self.shared.clone();
        let (report, errors) = self.judge().await;
        eprintln!("{} batches were sent again after failures", shared.resent.load(Ordering::Relaxed));
        if !report.violations.is_empty() || !errors.is_empty() {
            let path = std::env::temp_dir().join(format!("kafscale-history-{}.jsonl", std::process::id()));
            shared.history.write(&path).expect("history can be written");
            eprintln!("history: {}\n{report}", path.display());
        }
        assert!(errors.is_empty(), "answers that no correct broker gives: {errors:#?}");
        report
    }

    /// Stops the load, lets producers finish, reads every partition from the beginning, and judges; with the answers that
    /// no correct broker gives.
    pub async fn judge(mut self) -> (Report, Vec<String>) {
        let shared = self.shared.clone();
        shared.history.push(Event::LoadEnd);
        shared.stop.store(true, Ordering::Relaxed);
        for producer in &mut self.producers {
            // A producer that cannot finish leaves sends without an end, which the checker reports.
            let _ = tokio::time::timeout(DRAIN_DEADLINE, producer).await;
        }
        for partition in 0..shared.plan.partitions {
            let mut poller = Poller::new(&shared, partition, true);
            if !poller.read_to_end().await {
                shared.error(format!("final read of partition {partition} got no further for {DRAIN_DEADLINE:?}"));
            }
            if !self.members.is_empty() && tokio::time::timeout(DRAIN_DEADLINE, poller.wait_committed()).await.is_err()
            {
                shared.error(format!("the group did not get to the end of partition {partition}"));
            }
        }
        shared.stop_consumers.store(true, Ordering::Relaxed);
        for consumer in self.consumers.iter_mut().chain(&mut self.members) {
            let _ = tokio::time::timeout(DRAIN_DEADLINE, consumer).await;
        }
        let report = checker::check(&shared.history.entries(), EXPECT);
        let errors = shared.errors.lock().expect("no panic under the lock").clone();
        (report, errors)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.producers.iter().chain(&self.consumers).chain(&self.members).for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn error(&self, what: String) {
        self.errors.lock().expect("no panic under the lock").push(what);
    }

    fn is_cluster(&self) -> bool {
        self.addresses.len() > 1
    }

    /// Where the partition is led, as one of those say that answer.
    async fn route(&self, partition: i32, turn: usize) -> Option<String> {
        if !self.is_cluster() {
            return self.addresses.first().cloned();
        }
        let mut client = Client::new(&self.addresses[turn % self.addresses.len()]);
        let topics = [self.plan.topic.as_str()];
        let metadata = tokio::time::timeout(ROUTE_DEADLINE, client.metadata(Some(&topics), false)).await.ok()?.ok()?;
        let topic = metadata.topics.first()?;
        let found = topic.partitions.iter().find(|p| p.partition_index == partition)?;
        let broker = metadata.brokers.iter().find(|b| b.node_id == found.leader_id)?;
        let mut epochs = self.epochs.lock().expect("no panic under the lock");
        let newest = epochs.entry(partition).or_insert(found.leader_epoch);
        if found.leader_epoch < *newest {
            return None;
        }
        *newest = found.leader_epoch;
        Some(format!("{}:{}", broker.host.as_str(), broker.port))
    }

    fn partition_name(&self, partition: i32) -> String {
        format!("{}-{partition}", self.plan.topic)
    }
}

/// The bytes of value `id`: the id, and a filler that follows from it.
fn value_bytes(id: u64) -> Vec<u8> {
    let mut rng = Rng(id);
    let filler = rng.below(24) as usize;
    let mut bytes = id.to_be_bytes().to_vec();
    (0..filler).for_each(|_| bytes.extend_from_slice(&rng.next().to_be_bytes()));
    bytes
}

/// The id of a value, if its bytes are exactly what [`value_bytes`] makes.
fn value_id(bytes: &[u8]) -> Option<u64> {
    let id = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    (value_bytes(id) == bytes).then_some(id)
}

struct InFlight {
    op: u64,
    partition: i32,
    batch: Bytes,
}

async fn produce(shared: Arc<Shared>, id: u32) {
    let mut client = Client::new(&shared.addresses[0]);
    let (producer_id, epoch) = client.retry("init producer id", async |c| c.init_producer_id().await).await;
    let mut producer = Producer {
        id,
        producer_id,
        epoch,
        rng: Rng(shared.plan.seed.wrapping_add(u64::from(id) << 32)),
        sequences: HashMap::new(),
        queue: VecDeque::new(),
        turn: id as usize,
        shared,
    };
    while !producer.run().await {
        tokio::time::sleep(BACKOFF).await;
    }
}

struct Producer {
    id: u32,
    producer_id: i64,
    epoch: i16,
    rng: Rng,
    sequences: HashMap<i32, i32>,
    /// Unanswered batches, oldest first.
    queue: VecDeque<InFlight>,
    /// Which broker is asked next who leads.
    turn: usize,
    shared: Arc<Shared>,
}

impl Producer {
    /// Works on one connection until it fails (false) or everything is done (true).
    async fn run(&mut self) -> bool {
        match self.run_connection().await {
            Ok(()) => true,
            Err(ClientError::Malformed(what)) => {
                self.shared.error(format!("producer {}: {what}", self.id));
                true
            }
            Err(_) => false,
        }
    }

    async fn run_connection(&mut self) -> Result<(), ClientError> {
        self.turn += 1;
        let Some(address) = self.shared.route(self.id as i32 % self.shared.plan.partitions, self.turn).await else {
            return Err(ClientError::Code(NOT_LEADER));
        };
        let mut connection = Connection::open(&address).await?;
        for again in &self.queue {
            let request = produce_request(&self.shared.plan.topic, again.partition, -1, again.batch.clone());
            connection.send(PRODUCE_VERSION, &request).await?;
            self.shared.resent.fetch_add(1, Ordering::Relaxed);
        }
        loop {
            let stopping = self.shared.stop.load(Ordering::Relaxed);
            if !stopping && self.queue.len() < IN_FLIGHT_MAX {
                self.send_next(&mut connection).await?;
                tokio::time::sleep(self.shared.plan.pause).await;
            } else if self.queue.is_empty() {
                return Ok(());
            } else {
                let answer = connection.receive::<ProduceRequest>(PRODUCE_VERSION).await?;
                let answered = answer.responses.first().and_then(|t| t.partition_responses.first());
                let answered = answered.ok_or_else(|| ClientError::Malformed("no partition in the answer".into()))?;
                self.judge(answered.error_code, answered.base_offset)?;
            }
        }
    }

    async fn send_next(&mut self, connection: &mut Connection) -> Result<(), ClientError> {
        let partition = match self.shared.is_cluster() {
            true => self.id as i32 % self.shared.plan.partitions,
            false => self.rng.below(self.shared.plan.partitions as u64) as i32,
        };
        let count = 1 + self.rng.below(5);
        let first = self.shared.ids.fetch_add(count + 1, Ordering::Relaxed);
        let op = first + count;
        let ids: Vec<u64> = (first..op).collect();
        let values: Vec<Vec<u8>> = ids.iter().map(|id| value_bytes(*id)).collect();
        let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let sequence = self.sequences.entry(partition).or_insert(0);
        let batch = Batch::of(&slices).idempotent(self.producer_id, self.epoch, *sequence).encode();
        *sequence += count as i32;
        let name = self.shared.partition_name(partition);
        let invoke = Event::SendInvoke { op, producer: self.id, partition: name, values: ids };
        self.shared.history.push(invoke);
        let request = produce_request(&self.shared.plan.topic, partition, -1, batch.clone());
        self.queue.push_back(InFlight { op, partition, batch });
        connection.send(PRODUCE_VERSION, &request).await
    }

    /// What a real client makes of the answer to the oldest batch; an error means "reconnect and send again".
    fn judge(&mut self, code: i16, base_offset: i64) -> Result<(), ClientError> {
        let oldest = self.queue.front().expect("an answer was waited for");
        if code == 0 {
            self.shared.history.push(Event::SendOk { op: oldest.op, base_offset });
            self.shared.acks.fetch_add(1, Ordering::Relaxed);
            let mut times = self.shared.ack_times.lock().expect("no panic under the lock");
            times.entry(oldest.partition).or_default().push(kafscale::clock::monotonic());
            self.queue.pop_front();
            Ok(())
        } else if RETRIABLE.contains(&code) {
            Err(ClientError::Code(code))
        } else if REFUSED.contains(&code) {
            let op = oldest.op;
            self.shared.history.push(Event::SendFail { op, code });
            Err(ClientError::Malformed(format!("send {op} was refused with {code}")))
        } else {
            Err(ClientError::Malformed(format!("code {code} for the oldest unanswered send {}", oldest.op)))
        }
    }
}

async fn consume(shared: Arc<Shared>, partition: i32) {
    let mut poller = Poller::new(&shared, partition, false);
    while !shared.stop_consumers.load(Ordering::Relaxed) {
        poller.poll().await;
    }
}

/// Reads one partition in order and writes what it sees into the history.
struct Poller<'a> {
    shared: &'a Shared,
    client: Client,
    partition: i32,
    next: i64,
    last: bool,
    turn: usize,
    /// Its number in the history.
    consumer: u32,
    wait_ms: i32,
}

impl<'a> Poller<'a> {
    fn new(shared: &'a Shared, partition: i32, last: bool) -> Self {
        let client = Client::new(&shared.addresses[0]);
        Self { shared, client, partition, next: 0, last, turn: 0, consumer: partition as u32, wait_ms: 300 }
    }

    /// Looks for the leader again.
    async fn reroute(&mut self) {
        self.turn += 1;
        if self.shared.is_cluster()
            && let Some(address) = self.shared.route(self.partition, self.turn).await
        {
            self.client = Client::new(&address);
        }
    }

    /// Polls until the high watermark is reached.
    /// Reads up to the high watermark; false if it gets no further for [`DRAIN_DEADLINE`].
    async fn read_to_end(&mut self) -> bool {
        let (mut further, mut at) = (self.next, Instant::now());
        while self.poll().await.is_none_or(|high_watermark| self.next < high_watermark) {
            if self.next > further {
                (further, at) = (self.next, Instant::now());
            } else if at.elapsed() > DRAIN_DEADLINE {
                return false;
            }
        }
        true
    }

    /// Waits until the group has committed as much as this has read.
    async fn wait_committed(&self) {
        let committed = || self.shared.committed.lock().expect("no panic under the lock").get(&self.partition).copied();
        while committed().unwrap_or(0) < self.next {
            tokio::time::sleep(BACKOFF).await;
        }
    }

    /// One fetch; the high watermark, if it was answered without an error.
    async fn poll(&mut self) -> Option<i64> {
        let partition = self.shared.partition_name(self.partition);
        let invoke_ns = self.shared.history.now_ns();
        let consumer = self.consumer;
        let topic = &self.shared.plan.topic;
        let answer = self.client.fetch(topic, self.partition, self.next, self.wait_ms, 1 << 20).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) => {
                if let ClientError::Malformed(what) = e {
                    self.shared.error(format!("{partition}: {what}"));
                }
                tokio::time::sleep(BACKOFF).await;
                self.reroute().await;
                return None;
            }
        };
        if answer.error_code != 0 {
            let (from, code) = (self.next, answer.error_code);
            self.shared.history.push(Event::PollFail { consumer, partition, invoke_ns, from, code });
            tokio::time::sleep(BACKOFF).await;
            self.reroute().await;
            return None;
        }
        let records = match read_records(answer.records.as_ref().unwrap_or(&Bytes::new())) {
            Ok(records) => records,
            Err(e) => {
                self.shared.error(format!("{partition} from {}: {e}", self.next));
                Vec::new()
            }
        };
        let from = self.next;
        let mut seen = Vec::new();
        // A batch that begins before the asked offset comes whole; clients drop what they did not ask for.
        for record in records.iter().filter(|r| r.offset >= from) {
            match record.value.as_deref().and_then(value_id) {
                Some(id) => seen.push((record.offset, id)),
                None => {
                    let partition = partition.clone();
                    self.shared.history.push(Event::Damaged { partition, offset: record.offset });
                }
            }
            self.next = record.offset + 1;
        }
        self.shared.history.push(Event::PollOk {
            consumer,
            partition,
            invoke_ns,
            from,
            records: seen,
            high_watermark: answer.high_watermark,
            log_start: answer.log_start_offset,
            last: self.last,
        });
        Some(answer.high_watermark)
    }
}
