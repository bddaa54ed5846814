//! Brokers that are alive and should not be: paused for longer than their lease, or cut off from etcd. From the moment in
//! which another broker has sealed it, such a writer acks nothing, and what it serves was committed before.

use super::trial::{FENCED, PARTITIONS, TOPIC, Trial};
use super::world::{BROKERS, DEADLINE, QUOTA_BYTES, Shape, World};
use crate::client::{Batch, Client, ClientError, Connection, FETCH_VERSION, LATEST, PRODUCE_VERSION};
use crate::client::{fetch_request, produce_request, read_records};
use crate::harness::size;
use bytes::Bytes;
use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use std::time::Duration;

/// The topic that is written to and read from beside the load, a partition for each broker.
const PROBE: &str = "probe";
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Batches that wait in the sockets of a paused broker.
const WAITING: usize = 5;
/// How long one answer of a broker that may die at any moment is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A partition of the probe topic, led by the broker that is going to be paused or isolated.
struct Probe {
    zombie: usize,
    address: String,
    partition: i32,
    /// End of what was acked before.
    acked: i64,
    /// With requests on their way that the zombie reads when it goes on.
    producer: Connection,
    consumer: Connection,
}

/// What the cluster says after it has replaced the zombie.
struct Sealed {
    /// End of what was committed before the seal.
    end: i64,
    /// End with what was written since.
    now: i64,
}

fn batch(text: &str) -> Bytes {
    Batch::of(&[text.as_bytes()]).encode()
}

impl Probe {
    async fn prepare(world: &World, zombie: usize) -> Self {
        let address = world.nodes[zombie].clients.address();
        Client::new(&address).ensure_topic(PROBE, BROKERS as i32).await;
        let leaders = world.leaders(zombie, PROBE).await;
        let partition = *leaders[&zombie].first().expect("every broker leads one");
        let mut client = Client::new(&address);
        let mut acked = 0;
        for n in 0..10 {
            acked = client.produce_values(PROBE, partition, &[format!("before {n}").as_bytes()]).await + 1;
        }
        let mut producer = Connection::open(&address).await.expect("the broker accepts");
        let mut consumer = Connection::open(&address).await.expect("the broker accepts");
        // Both are known to the broker before it stops accepting.
        let fetch = fetch_request(PROBE, partition, 0, 0, 1 << 20);
        for connection in [&mut producer, &mut consumer] {
            connection.call(FETCH_VERSION, &fetch).await.expect("it serves");
            connection.deadline = PATIENCE;
        }
        Self { zombie, address, partition, acked, producer, consumer }
    }

    /// Requests that the zombie finds when it goes on.
    async fn leave_requests(&mut self) {
        for n in 0..WAITING {
            let request = produce_request(PROBE, self.partition, -1, batch(&format!("left {n}")));
            self.producer.send(PRODUCE_VERSION, &request).await.expect("the kernel takes it");
            let request = fetch_request(PROBE, self.partition, if n % 2 == 0 { 0 } else { self.acked }, 0, 1 << 20);
            self.consumer.send(FETCH_VERSION, &request).await.expect("the kernel takes it");
        }
    }

    /// Waits until others lead everything, and writes to the successor.
    async fn replaced(&self, world: &World) -> Sealed {
        let alive = (self.zombie + 1) % BROKERS;
        world.wait_taken_over(alive, self.zombie, PROBE, BROKERS).await;
        world.wait_taken_over(alive, self.zombie, TOPIC, PARTITIONS).await;
        let leaders = world.leaders(alive, PROBE).await;
        let (leader, _) = leaders.iter().find(|(_, led)| led.contains(&self.partition)).expect("it is led");
        let mut client = Client::new(&world.nodes[*leader].clients.address());
        let end =
            client.retry("the end of the log", async |c| c.list_offset(PROBE, self.partition, LATEST).await).await;
        assert!(end >= self.acked, "{end} after {} was acked", self.acked);
        let now = client.produce_values(PROBE, self.partition, &[b"after"]).await + 1;
        assert!(now > end, "a successor begins where the sealed writer ended");
        Sealed { end, now }
    }

    /// What the zombie makes of the requests that waited: no ack, and nothing from above the end.
    async fn judge_left(&mut self, sealed: &Sealed) -> usize {
        let mut answers = 0;
        for _ in 0..WAITING {
            let Ok(answer) = self.producer.receive::<ProduceRequest>(PRODUCE_VERSION).await else { break };
            let answer = &answer.responses[0].partition_responses[0];
            assert_ne!(answer.error_code, 0, "acked at {} by a sealed writer", answer.base_offset);
            answers += 1;
        }
        for _ in 0..WAITING {
            let Ok(answer) = self.consumer.receive::<FetchRequest>(FETCH_VERSION).await else { break };
            let answer = &answer.responses[0].partitions[0];
            judge_fetch(answer.error_code, answer.high_watermark, answer.records.as_ref(), sealed);
            answers += 1;
        }
        answers
    }

    /// Asks the zombie until `until`, or until it ends; how many answers it gave. It may be gone at any moment.
    async fn ask(&self, world: &mut World, sealed: &Sealed, until: Duration) -> u64 {
        let (mut answers, end) = (0, kafscale::clock::monotonic() + until);
        let mut client = Client::new(&self.address);
        while kafscale::clock::monotonic() < end && world.nodes[self.zombie].broker.process.exited().is_none() {
            let produced = tokio::time::timeout(PATIENCE, client.produce(PROBE, self.partition, batch("never"))).await;
            if let Ok(Ok(answer)) = produced {
                assert_ne!(answer.error_code, 0, "acked at {} by a sealed writer", answer.base_offset);
                answers += 1;
            }
            for from in [0, sealed.end, sealed.now] {
                let fetch = client.fetch(PROBE, self.partition, from, 0, 1 << 20);
                match tokio::time::timeout(PATIENCE, fetch).await {
                    Ok(Ok(answer)) => {
                        judge_fetch(answer.error_code, answer.high_watermark, answer.records.as_ref(), sealed);
                        answers += 1;
                    }
                    Ok(Err(ClientError::Malformed(what))) => panic!("{what}"),
                    _ => {}
                }
            }
            let latest = client.list_offset(PROBE, self.partition, LATEST);
            if let Ok(Ok(latest)) = tokio::time::timeout(PATIENCE, latest).await {
                assert!(latest <= sealed.end, "a sealed writer's log ends at {latest}, above {}", sealed.end);
            }
        }
        answers
    }
}

fn judge_fetch(code: i16, high_watermark: i64, records: Option<&Bytes>, sealed: &Sealed) {
    assert_ne!(code, OFFSET_OUT_OF_RANGE, "it cannot know where the log ends");
    assert!(high_watermark <= sealed.end, "high watermark {high_watermark} of a writer sealed at {}", sealed.end);
    for record in read_records(records.unwrap_or(&Bytes::new())).expect("records") {
        assert!(record.offset < sealed.end, "record {} of a writer sealed at {}", record.offset, sealed.end);
    }
}

/// Its lease is short: it is over within the fault.
const SHORT_LEASE: Shape = Shape { lease_sec: 2, quota_bytes: QUOTA_BYTES, envs: &[] };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_writer_acks_and_serves_nothing_new_after_it_was_sealed() {
    let pauses = size("PAUSES", 2);
    let mut trial = Trial::start_as("chaos-pause", SHORT_LEASE).await;
    for pause in 0..pauses {
        let zombie = (pause as usize + 2) % BROKERS;
        trial.world.wait_shared_out(TOPIC).await;
        let mut probe = Probe::prepare(&trial.world, zombie).await;
        trial.load.fault("pause", true);
        trial.world.nodes[zombie].broker.process.pause();
        probe.leave_requests().await;
        let sealed = probe.replaced(&trial.world).await;
        trial.last().await;
        // Every other one learns of its end from etcd, the rest has to behave without.
        let isolated = pause % 2 == 1;
        if isolated {
            trial.world.nodes[zombie].cut_etcd(true, true);
        }
        trial.world.nodes[zombie].broker.process.resume();
        let left = probe.judge_left(&sealed).await;
        let until = if isolated { trial.duration } else { DEADLINE };
        let asked = probe.ask(&mut trial.world, &sealed, until).await;
        eprintln!("pause {pause}: {left} requests of before were answered, {asked} of after");
        if isolated {
            assert!(left > 0 && asked > 0, "it answers, and says that it is not the leader");
            trial.world.nodes[zombie].cut_etcd(false, false);
        }
        let process = &mut trial.world.nodes[zombie].broker.process;
        assert_eq!(process.wait_exit(DEADLINE).await.code(), FENCED, "{}", process.log_tail());
        trial.world.restart_ended().await;
        trial.load.fault("pause", false);
        trial.got_on("pause").await;
    }
    trial.finish().await;
}

/// It answers clients all the time, and hears nothing of what happens to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_cut_off_from_etcd_acks_and_serves_nothing_new_after_it_was_sealed() {
    let mut trial = Trial::start_as("chaos-isolated", SHORT_LEASE).await;
    for (round, (requests, answers)) in [(true, false), (false, true)].into_iter().enumerate() {
        let zombie = (round + 1) % BROKERS;
        trial.world.wait_shared_out(TOPIC).await;
        let probe = Probe::prepare(&trial.world, zombie).await;
        trial.load.fault("isolation", true);
        trial.world.nodes[zombie].cut_etcd(requests, answers);
        let sealed = probe.replaced(&trial.world).await;
        let duration = trial.duration;
        let asked = probe.ask(&mut trial.world, &sealed, duration).await;
        assert!(asked > 0, "it answers, and says that it is not the leader");
        eprintln!("isolation, requests cut {requests}, answers cut {answers}: {asked} answers");
        trial.world.nodes[zombie].cut_etcd(false, false);
        let process = &mut trial.world.nodes[zombie].broker.process;
        assert_eq!(process.wait_exit(DEADLINE).await.code(), FENCED, "{}", process.log_tail());
        trial.world.restart_ended().await;
        trial.load.fault("isolation", false);
        trial.got_on("isolation").await;
    }
    trial.finish().await;
}
