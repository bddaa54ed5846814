//! A load that fills every bound on the write path: connections that each keep several requests of about 1 MB in flight.
//!
//! Its producers behave as real ones without idempotence do: whatever may pass is tried again after a pause, a broken
//! connection is made anew, for as long as the load lasts. It only counts; what its records say is of no interest.

use crate::client::{Batch, Client, ClientError, Connection, LATEST, PRODUCE_VERSION, produce_request};
use crate::workload::RETRIABLE;
use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Topic of the load.
const TOPIC: &str = "pressure";
/// Its partitions.
const PARTITIONS: i32 = 4;
/// Producers, each with a connection of its own.
const CONNECTIONS: usize = 40;
/// Requests that each has in flight: together 200 MiB, more than the edge has permits for.
const IN_FLIGHT: usize = 5;
/// Bytes of the one value of a batch, so that the batch is just below `max.message.bytes`.
const VALUE_BYTES: usize = (1 << 20) - 200;
/// After this time the broker says that it does not know (code 7), and the batch is sent again beside the first.
const TIMEOUT_MS: i32 = 3_000;
/// Pause before another try.
const BACKOFF: Duration = Duration::from_millis(50);
/// How long a producer may take to have everything answered at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(120);
/// Kafka's NOT_ENOUGH_REPLICAS: refused, nothing was written.
const REFUSED: i16 = 19;

#[derive(Debug)]
struct Shared {
    address: String,
    batch: Bytes,
    stop: AtomicBool,
    /// Batches acked, by producer.
    acked: Vec<AtomicU64>,
    refused: AtomicU64,
    other_retries: AtomicU64,
    reconnects: AtomicU64,
    /// Answers after which a real producer gives up.
    errors: Mutex<Vec<String>>,
}

/// A running load.
#[derive(Debug)]
pub struct Pressure {
    shared: Arc<Shared>,
    producers: Vec<JoinHandle<()>>,
    /// Batches in the log at the start.
    stored_before: u64,
}

impl Pressure {
    /// Creates the topic; later loads use it without asking for metadata.
    pub async fn prepare(address: &str) {
        Client::new(address).ensure_topic(TOPIC, PARTITIONS).await;
    }

    /// Starts the producers.
    pub async fn start(address: &str) -> Self {
        let stored_before = stored(address).await;
        let shared = Arc::new(Shared {
            address: address.into(),
            batch: Batch::of(&[&vec![7; VALUE_BYTES]]).encode(),
            stop: AtomicBool::new(false),
            acked: (0..CONNECTIONS).map(|_| AtomicU64::new(0)).collect(),
            refused: AtomicU64::new(0),
            other_retries: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            errors: Mutex::default(),
        });
        let producers = (0..CONNECTIONS).map(|id| tokio::spawn(produce(shared.clone(), id))).collect();
        Self { shared, producers, stored_before }
    }

    /// Batches that were refused although they were good.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Panics if an answer came after which a real producer gives up.
    pub fn assert_no_error(&self) {
        let errors = self.shared.errors.lock().expect("no panic under the lock");
        assert!(errors.is_empty(), "the heavy load got answers that end a producer: {errors:?}");
    }

    /// Batches acked so far, by producer.
    pub fn acked(&self) -> Vec<u64> {
        self.shared.acked.iter().map(|a| a.load(Ordering::Relaxed)).collect()
    }

    /// True if every producer was acked since `before`.
    pub fn all_acked_since(&self, before: &[u64]) -> bool {
        self.acked().iter().zip(before).all(|(now, then)| now > then)
    }

    /// Ends the load. Panics as [`Self::assert_no_error`], and if the log is shorter than what was acked.
    pub async fn finish(mut self) -> String {
        self.shared.stop.store(true, Ordering::Relaxed);
        for producer in &mut self.producers {
            tokio::time::timeout(DRAIN_DEADLINE, producer).await.expect("the producers end").expect("no panic");
        }
        let shared = &self.shared;
        self.assert_no_error();
        let acked: u64 = self.acked().iter().sum();
        let stored = stored(&shared.address).await - self.stored_before;
        assert!(stored >= acked, "{acked} batches of one record were acked, {stored} are stored");
        let [refused, retries, reconnects] =
            [&shared.refused, &shared.other_retries, &shared.reconnects].map(|n| n.load(Ordering::Relaxed));
        format!("heavy load: {acked} acked, {refused} refused, {retries} other retries, {reconnects} reconnects")
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.producers.iter().for_each(JoinHandle::abort);
    }
}

/// Batches (of one record) in the log.
async fn stored(address: &str) -> u64 {
    let (mut client, mut records) = (Client::new(address), 0);
    for partition in 0..PARTITIONS {
        records += client.retry("end of the log", async |c| c.list_offset(TOPIC, partition, LATEST).await).await;
    }
    records as u64
}

async fn produce(shared: Arc<Shared>, id: usize) {
    while !shared.stop.load(Ordering::Relaxed) {
        match shared.run_connection(id).await {
            Ok(()) => return,
            Err(ClientError::Malformed(what)) => {
                shared.errors.lock().expect("no panic under the lock").push(what);
                return;
            }
            Err(_) => shared.reconnects.fetch_add(1, Ordering::Relaxed),
        };
        tokio::time::sleep(BACKOFF).await;
    }
}

impl Shared {
    /// Sends on one connection until it breaks, or the load ends.
    async fn run_connection(&self, id: usize) -> Result<(), ClientError> {
        let mut connection = Connection::open(&self.address).await?;
        let request =
            produce_request(TOPIC, id as i32 % PARTITIONS, -1, self.batch.clone()).with_timeout_ms(TIMEOUT_MS);
        let mut in_flight = 0;
        loop {
            let stopping = self.stop.load(Ordering::Relaxed);
            if in_flight < IN_FLIGHT && !stopping {
                connection.send(PRODUCE_VERSION, &request).await?;
                in_flight += 1;
                continue;
            }
            if in_flight == 0 {
                return Ok(());
            }
            let answer = connection.receive::<ProduceRequest>(PRODUCE_VERSION).await?;
            in_flight -= 1;
            let partition = answer.responses.first().and_then(|t| t.partition_responses.first());
            let code = partition.ok_or_else(|| ClientError::Malformed("no partition in the answer".into()))?.error_code;
            match code {
                0 => self.acked[id].fetch_add(1, Ordering::Relaxed),
                REFUSED => self.refused.fetch_add(1, Ordering::Relaxed),
                code if RETRIABLE.contains(&code) => self.other_retries.fetch_add(1, Ordering::Relaxed),
                code => return Err(ClientError::Malformed(format!("code {code}"))),
            };
            if code != 0 && !stopping {
                let throttle_ms = u64::try_from(answer.throttle_time_ms).unwrap_or(0);
                tokio::time::sleep(BACKOFF.max(Duration::from_millis(throttle_ms))).await;
            }
        }
    }
}
