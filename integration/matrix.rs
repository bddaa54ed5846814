//! What every client must be able to do with this broker, whoever wrote it: be an administrator, be one of several members of
//! a group that come and go under load, and go on where it was after the broker was killed.
//!
//! The programs commit what they printed before they give a partition up. So whatever happens, every record is read, and
//! none twice.

use crate::client::{Client, LATEST};
use crate::clients::{Client as Program, Running};
use crate::group_client::fetch_offsets;
use crate::harness::{Backend, Stack, wait_until};
use std::cell::Cell;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 6;
/// Records that a member must read before the next change.
const RECORDS: usize = 10;
/// What the programs print of a topic's life.
const ADMINISTERED: [&str; 6] = [
    "created administered",
    "partitions 3 replicas 1",
    "retention.ms 3600000",
    "retention.ms 7200000",
    "partitions 5",
    "exists false",
];

/// Writes to all partitions while `what` goes on.
async fn under_load<T>(address: &str, what: impl Future<Output = T>) -> T {
    let mut client = Client::new(address);
    let ended = Cell::new(false);
    let load = async {
        for n in 0.. {
            client.produce_values("t", n % PARTITIONS, &[b"under load"]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            if ended.get() {
                return;
            }
        }
    };
    let what = async {
        let done = what.await;
        ended.set(true);
        done
    };
    tokio::join!(what, load).0
}

/// Ends of all partitions.
async fn ends(client: &mut Client) -> Vec<i64> {
    let mut ends = Vec::new();
    for partition in 0..PARTITIONS {
        ends.push(client.retry("end", async |c| c.list_offset("t", partition, LATEST).await).await);
    }
    ends
}

/// Waits until the group has read and committed everything.
async fn all_committed(client: &mut Client) {
    let ends = ends(client).await;
    wait_until("everything is committed", DEADLINE, async || {
        let committed = fetch_offsets(client, "g").await.expect("OffsetFetch is answered");
        committed.iter().map(|o| o.2).sum::<i64>() == ends.iter().sum::<i64>()
    })
    .await;
}

/// `protocols`: what each of the four members is told about its protocol, in the order in which they come.
async fn group(program: &Program, stack: &mut Stack, protocols: [&[&str]; 4]) {
    let address = stack.address();
    let mut client = Client::new(&address);
    client.ensure_topic("t", PARTITIONS).await;
    let written = program.run(&["produce", &address, "t", "0", "none", "all", "20"]).await;
    assert_eq!(written.len(), 20);
    let member = |n: usize| Running::start(program, &address, "t", "g", protocols[n]);
    let mut read = Vec::new();

    // Three members come, one leaves.
    let [second, third] = under_load(&address, async {
        let first = member(0);
        first.has_read(RECORDS).await;
        let second = member(1);
        second.has_read(RECORDS).await;
        let third = member(2);
        third.has_read(RECORDS).await;
        read.extend(first.stop().await);
        second.has_read(RECORDS).await;
        third.has_read(RECORDS).await;
        [second, third]
    })
    .await;

    // The broker is killed; the two go on, and so does one that comes after it.
    all_committed(&mut client).await;
    stack.broker.restart().await;
    let mut client = Client::new(&address);
    let last = under_load(&address, async {
        second.has_read(RECORDS).await;
        third.has_read(RECORDS).await;
        read.extend(second.stop().await);
        let last = member(3);
        last.has_read(RECORDS).await;
        read.extend(third.stop().await);
        last
    })
    .await;
    all_committed(&mut client).await;
    read.extend(last.stop().await);

    let place = |line: &String| {
        let mut words = line.split(' ').map(str::parse);
        (words.next().expect("a partition").expect("a number"), words.next().expect("an offset").expect("a number"))
    };
    let mut places: Vec<(i64, i64)> = read.iter().map(place).collect();
    places.sort_unstable();
    let written = ends(&mut client).await;
    let expected: Vec<(i64, i64)> = (0..).zip(written).flat_map(|(p, end)| (0..end).map(move |o| (p, o))).collect();
    let twice: Vec<_> = places.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
    assert_eq!(twice, [], "read twice, of {} records", expected.len());
    assert_eq!(places, expected, "every record is read");
}

async fn everything(program: Program) {
    let envs = [("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "100"), ("KAFSCALE_FLUSH_INTERVAL_MS", "20")];
    let mut stack = Stack::start("matrix", Backend::Dev, &envs).await;
    let printed = program.run(&["admin", &stack.address(), "administered"]).await;
    assert_eq!(printed, ADMINISTERED);
    group(&program, &mut stack, [&[]; 4]).await;
}

/// The same with members of which some or all use the consumer protocol (KIP-848).
async fn members(program: Program, protocols: [&[&str]; 4]) {
    let heartbeat = ("KAFSCALE_GROUP_CONSUMER_HEARTBEAT_INTERVAL_MS", "200");
    let least = ("KAFSCALE_GROUP_CONSUMER_MIN_HEARTBEAT_INTERVAL_MS", "100");
    let mut stack =
        Stack::start("members", Backend::Dev, &[heartbeat, least, ("KAFSCALE_FLUSH_INTERVAL_MS", "20")]).await;
    group(&program, &mut stack, protocols).await;
}

const CONSUMER: &[&str] = &["consumer"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn librdkafka_with_the_consumer_protocol() {
    members(Program::python("python/confluent.py"), [CONSUMER; 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_with_the_consumer_protocol() {
    members(Program::java(), [CONSUMER; 4]).await;
}

/// The group goes over with the second member, and back when the third is the last one of the consumer protocol to leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java_goes_over_to_the_consumer_protocol_and_back() {
    members(Program::java(), [&[], CONSUMER, CONSUMER, &[]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn librdkafka() {
    everything(Program::python("python/confluent.py")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn java() {
    everything(Program::java()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn franz_go() {
    everything(Program::franz()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafkajs() {
    everything(Program::kafkajs()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_python() {
    everything(Program::python("python/kafka_python.py")).await;
}
