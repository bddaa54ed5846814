//! Brokers of a cluster are stopped with SIGTERM and started again, one after the other, while other people's clients write and
//! read with their defaults: none of them tells its user of an error, and everything is written and read once. And how long a
//! partition goes without acks then. CI goes round once; `make rolling ROLLS=20` is the full size.

use crate::client::{Batch, Client, Connection, PRODUCE_VERSION, check, produce_request, text, topic_name};
use crate::clients::{Client as Program, Running};
use crate::cluster::{BROKERS, Cluster, find_coordinator, leaders};
use crate::harness::{quiet, size, wait_until};
use kafka_protocol::messages::OffsetCommitRequest;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 6;
/// Pause of a client between two records, ms.
const PAUSE_MS: u64 = 10;
/// Records that are acked before and after each change.
const RECORDS: usize = 50;
/// A short one, so that the wait for acks is not mostly that for the next flush.
const FLUSH_MS: &str = "20";

/// Waits until all brokers lead the same number of partitions.
async fn wait_even(addresses: &[String], topic: &str, partitions: i32) {
    wait_until("everybody has its share", DEADLINE, async || {
        let shares = leaders(&addresses[0], topic).await;
        shares.len() == BROKERS && shares.values().all(|share| share.len() == partitions as usize / BROKERS)
    })
    .await;
}

/// Two numbers at the beginning of a line.
fn place(line: &str) -> (i64, i64) {
    let mut words = line.split(' ').map(|word| word.parse().unwrap_or_else(|e| panic!("{line:?}: {e}")));
    (words.next().expect("a partition"), words.next().expect("an offset"))
}

fn sorted(lines: &[String]) -> Vec<(i64, i64)> {
    let mut places: Vec<_> = lines.iter().map(|line| place(line)).collect();
    places.sort_unstable();
    places
}

async fn rolling(name: &str, program: Program) {
    let _quiet = quiet().await;
    let rolls = size("ROLLS", 1);
    let mut cluster = Cluster::start(name, FLUSH_MS).await;
    let addresses = cluster.addresses();
    let bootstrap = addresses.join(",");
    Client::new(&addresses[0]).ensure_topic("t", PARTITIONS).await;
    wait_even(&addresses, "t", PARTITIONS).await;
    let producer = Running::load(&program, &bootstrap, "t", PARTITIONS, PAUSE_MS);
    let members = [(); 2].map(|()| Running::start(&program, &bootstrap, "t", "g", &[]));
    for running in [&producer, &members[0], &members[1]] {
        running.has_read(1).await;
    }
    for _ in 0..rolls {
        for n in 0..BROKERS {
            producer.has_read(RECORDS).await;
            assert!(cluster.broker(n).terminate().await.success());
            producer.has_read(RECORDS).await;
            cluster.broker(n).restart().await;
            wait_even(&addresses, "t", PARTITIONS).await;
        }
    }
    producer.has_read(RECORDS).await;
    let complaints: Vec<String> = [&producer, &members[0], &members[1]].iter().flat_map(|r| r.complaints()).collect();
    let mut written = producer.stop().await;
    let sent = written.pop().expect("it says how many");
    assert_eq!(sent, format!("sent {}", written.len()), "every record is acked once");
    wait_until("everything is read", DEADLINE, async || {
        members.iter().map(Running::count).sum::<usize>() >= written.len()
    })
    .await;
    let mut read = Vec::new();
    for member in members {
        read.extend(member.stop().await);
    }
    let written = sorted(&written);
    let mut ends = [0; PARTITIONS as usize];
    written.iter().for_each(|(partition, _)| ends[*partition as usize] += 1);
    let all: Vec<_> = (0..).zip(ends).flat_map(|(p, end)| (0..end).map(move |offset| (p, offset))).collect();
    assert_eq!(written, all, "nothing is written twice, or acked with another's offset");
    assert_eq!(sorted(&read), all, "every record is read once");
    eprintln!("{name}: {} restarts, {} records written and read", rolls as usize * BROKERS, all.len());
    assert_eq!(complaints, Vec::<String>::new(), "errors that the client told its user of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java() {
    rolling("rolling-java", Program::java()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn librdkafka() {
    rolling("rolling-librdkafka", Program::python("python/confluent.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn franz_go() {
    rolling("rolling-franz", Program::franz()).await;
}

/// When the batches of a partition were acked.
type Acks = Arc<Mutex<Vec<Instant>>>;

/// Writes one batch after the other to a partition, wherever its leader is, without any pause that a client needs not.
async fn write(addresses: Vec<String>, partition: i32, acks: Acks, stop: Arc<AtomicBool>) {
    let mut next = partition as usize;
    let mut leader: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(connection) = &mut leader else {
            next += 1;
            let asked = leaders(&addresses[next % addresses.len()], "t").await;
            let node = asked.iter().find(|(_, partitions)| partitions.contains(&partition)).map(|(node, _)| *node);
            match node.filter(|node| *node > 0) {
                Some(node) => leader = Connection::open(&addresses[node as usize - 1]).await.ok(),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            continue;
        };
        let request = produce_request("t", partition, -1, Batch::of(&[b"value"]).encode());
        let acked = match connection.call(PRODUCE_VERSION, &request).await {
            Ok(answer) => check(answer.responses[0].partition_responses[0].error_code),
            Err(error) => Err(error),
        };
        match acked {
            Ok(()) => acks.lock().expect("no panic under the lock").push(kafscale::clock::monotonic()),
            Err(_) => leader = None,
        }
    }
}

/// Commits offsets of a group, one after the other, wherever its coordinator is.
async fn commit(addresses: Vec<String>, group: String, acks: Acks, stop: Arc<AtomicBool>) {
    let partition = OffsetCommitRequestPartition::default().with_committed_metadata(Some(text("")));
    let topic = OffsetCommitRequestTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(text(&group).into())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let mut coordinator: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(connection) = &mut coordinator else {
            match find_coordinator(&addresses, &group).await {
                Some(node) => coordinator = Connection::open(&addresses[node as usize - 1]).await.ok(),
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            continue;
        };
        match connection.call(8, &request).await.map(|answer| answer.topics[0].partitions[0].error_code) {
            Ok(0) => acks.lock().expect("no panic under the lock").push(kafscale::clock::monotonic()),
            _ => coordinator = None,
        }
    }
}

/// The time that `percent` of all are not above; zero if there are none.
pub fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// The longest time without an ack that touches the time from `from` to `to`.
fn longest_gap(acks: &[Instant], from: Instant, to: Instant) -> Duration {
    let gaps = acks.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_go_on_when_their_leader_is_stopped() {
    const PARTITIONS: i32 = 12;
    const GROUPS: usize = 12;
    let _quiet = quiet().await;
    let rolls = size("ROLLS", 1);
    let profile = std::env::var("S3_PROFILE").unwrap_or_else(|_| "none".into());
    let mut cluster = Cluster::start("rolling-gap", FLUSH_MS).await;
    cluster.stack.proxy().set(&format!("profile={profile}")).await;
    let addresses = cluster.addresses();
    Client::new(&addresses[0]).ensure_topic("t", PARTITIONS).await;
    wait_even(&addresses, "t", PARTITIONS).await;
    let stop = Arc::new(AtomicBool::new(false));
    let acks: Vec<Acks> = (0..PARTITIONS).map(|_| Acks::default()).collect();
    let group_acks: Vec<Acks> = (0..GROUPS).map(|_| Acks::default()).collect();
    let name = |n: usize| format!("group-{n}");
    let writers = (0..PARTITIONS).zip(&acks);
    let writers = writers.map(|(p, acks)| tokio::spawn(write(addresses.clone(), p, acks.clone(), stop.clone())));
    let committers = (0..GROUPS).zip(&group_acks);
    let committers =
        committers.map(|(n, acks)| tokio::spawn(commit(addresses.clone(), name(n), acks.clone(), stop.clone())));
    let running: Vec<_> = writers.chain(committers).collect();
    let acks = [acks, group_acks].concat();
    let acked = |p: usize| acks[p].lock().expect("no panic under the lock").len();
    let all_acked = async || {
        let before: Vec<usize> = (0..acks.len()).map(acked).collect();
        wait_until("all partitions are written to, and all groups commit", DEADLINE, async || {
            (0..acks.len()).all(|p| acked(p) >= before[p] + 10)
        })
        .await;
    };
    let (mut moved, mut stayed, mut groups_moved, mut ends) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rolls as usize * BROKERS {
        let n = round % BROKERS;
        wait_even(&addresses, "t", PARTITIONS).await;
        all_acked().await;
        let led: BTreeSet<i32> = leaders(&addresses[n], "t").await.remove(&(n as i32 + 1)).unwrap_or_default();
        let mut coordinated = BTreeSet::new();
        for group in 0..GROUPS {
            if find_coordinator(&addresses, &name(group)).await == Some(n as i32 + 1) {
                coordinated.insert(group);
            }
        }
        let from = kafscale::clock::monotonic();
        assert!(cluster.broker(n).terminate().await.success());
        let to = kafscale::clock::monotonic();
        all_acked().await;
        for (n, acks) in acks.iter().enumerate() {
            let gap = longest_gap(&acks.lock().expect("no panic under the lock"), from, to);
            match n.checked_sub(PARTITIONS as usize) {
                Some(group) if coordinated.contains(&group) => groups_moved.push(gap),
                Some(_) => {}
                None if led.contains(&(n as i32)) => moved.push(gap),
                None => stayed.push(gap),
            }
        }
        ends.push(to - from);
        cluster.broker(n).restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    for running in running {
        running.await.expect("no panic");
    }
    for (what, mut times) in [
        ("longest time without an ack, of partitions that move", moved),
        ("of those that stay", stayed),
        ("longest time without an acked commit, of groups that move", groups_moved),
        ("from SIGTERM to the end of the process", ends),
    ] {
        times.sort();
        assert!(!times.is_empty());
        let max = times[times.len() - 1];
        eprintln!(
            "S3 profile {profile}, {what}: p50 {:?}, p99 {:?}, max {max:?} of {}",
            quantile(&times, 50),
            quantile(&times, 99),
            times.len()
        );
    }
}
