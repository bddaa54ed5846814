//! Panics on purpose: in each actor and supervised loop, at each of its messages.
//!
//! A panic must cost clients nothing but retries, must be followed by a restart that is counted, and on the commit path
//! must end the process with exit code 70, after which a new process recovers. All of it under the idempotent load whose
//! history is judged at the end (`workload.rs`).
//!
//! The broker is this test binary itself, started again with [`child_entry`] as its only test: that way failpoints can be
//! armed from outside without any switch in the product.

use crate::client::{Batch, Client, ClientError, Connection, EARLIEST, FetchedRecord, LATEST, topic_name};
use crate::group_client::{Member, commit_request, fetch_offsets};
use crate::harness::{Backend, Broker, Stack, TestDir, http, quiet, s3_envs, wait_until};
use crate::process::free_port;
use crate::workload::{Plan, Workload};
use kafka_protocol::messages::DeleteTopicsRequest;
use kafscale::actors::writer::Fatal;
use kafscale::failpoint;
use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Port on which a child takes orders; set only for children.
const CONTROL_PORT: &str = "SUPERVISION_CONTROL_PORT";
/// How long a panic may be in coming and a restart in being counted.
const DEADLINE: Duration = Duration::from_secs(90);

/// Not a test unless started by [`Child::start`]: then it is a broker whose failpoints are armed over a socket.
#[test]
fn child_entry() {
    let Ok(port) = std::env::var(CONTROL_PORT) else { return };
    let orders = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).expect("the control port is free");
    std::thread::spawn(move || {
        for stream in orders.incoming().flatten() {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("an order");
            let (name, count) = line.trim().split_once(' ').expect("name and count");
            failpoint::arm(name, count.parse().expect("a count"));
            (&stream).write_all(b"armed").expect("an answer");
        }
    });
    assert_eq!(kafscale::cli::run(["kafscale", "dev"].map(Into::into)), ExitCode::SUCCESS);
}

struct Child {
    broker: Broker,
    control: String,
    _dir: TestDir,
}

impl Child {
    async fn start(name: &str) -> Self {
        let dir = TestDir::new(name);
        let port = free_port();
        let envs = [
            (CONTROL_PORT, port.to_string()),
            ("KAFSCALE_DATA_DIR", dir.path().join("data").display().to_string()),
            ("KAFSCALE_CONSOLE_HTTP_ADDR", "off".into()),
            ("KAFSCALE_FLUSH_INTERVAL_MS", "1".into()), // a checkpoint is due after a number of flushes
        ];
        let program = std::env::current_exe().expect("the running program has a path");
        let args = ["--exact", "supervision::child_entry", "--nocapture"];
        let broker = Broker::spawn_program(&program, &args, &envs, &dir.path().join("broker.log"));
        let mut child = Self { broker, control: format!("127.0.0.1:{port}"), _dir: dir };
        child.broker.wait_ready().await;
        child
    }

    /// Lets the next `count` hits of a failpoint panic.
    async fn arm(&self, name: &str, count: u32) {
        let mut stream = tokio::net::TcpStream::connect(&self.control).await.expect("the child listens");
        stream.write_all(format!("{name} {count}\n").as_bytes()).await.expect("the child reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the child answers");
        assert_eq!(answer, "armed");
    }

    async fn metric(&self, name: &str) -> f64 {
        self.broker.metric_sum(name).await.unwrap_or_else(|| panic!("there is no metric {name}"))
    }

    async fn restarts(&self) -> u64 {
        self.metric("kafscale_actor_restarts").await as u64
    }

    /// Arms, waits until that many restarts were counted.
    async fn panics(&self, name: &str, count: u32, meanwhile: impl AsyncFnOnce()) {
        let goal = self.restarts().await + u64::from(count);
        self.arm(name, count).await;
        meanwhile().await;
        let what = format!("{count} restarts after {name} are counted");
        wait_until(&what, DEADLINE, async || self.restarts().await >= goal).await;
    }

    /// Everything acked or refused has left the pipeline: a panic must not leak its bound.
    async fn assert_pipeline_drains(&self) {
        let empty = async || self.metric("kafscale_pipeline_bytes").await == 0.0;
        wait_until("the pipeline is empty", Duration::from_secs(20), empty).await;
    }
}

/// Panics under load, once and three times in a row, and every time the load goes on.
async fn under_load(child: &Child, load: &Workload, failpoints: &[&str]) {
    for name in failpoints {
        for count in [1, 3] {
            load.fault(name, true);
            child.panics(name, count, async || {}).await;
            load.fault(name, false);
            load.wait_acks(20).await;
        }
    }
}

fn plan(topic: &str) -> Plan {
    // Enough partitions that none has six panics within a minute.
    Plan { partitions: 10, ..Plan::new(topic, kafscale::rng::u64() >> 32) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_panic_lose_nothing() {
    let _quiet = quiet().await;
    let child = Child::start("panic-partition").await;
    Client::new(&child.broker.address()).ensure_topic("ledger", 10).await;
    // At the very first batches of a producer nothing tells yet which sequence is to come.
    child.arm("partition.append", 2).await;
    let load = Workload::start(&child.broker.address(), plan("ledger")).await;
    load.wait_acks(20).await;
    wait_until("the first panics are counted", DEADLINE, async || child.restarts().await >= 2).await;
    under_load(&child, &load, &["partition.append", "partition.committed", "partition.snapshot"]).await;
    load.finish().await.assert_clean();
    child.assert_pipeline_drains().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_coordinator_that_panics_loses_neither_members_nor_offsets() {
    let child = Child::start("panic-group").await;
    let mut client = Client::new(&child.broker.address());
    client.ensure_topic("t", 1).await;
    let mut member = Member::join(&child.broker.address(), "g", None).await;
    let mut committed = 0;
    let of_all = ["groups.ask", "groups.said", "groups.written", "groups.tick"];
    let cases = of_all.map(|name| vec![name]).into_iter();
    // Of one group; while it starts again, too; and while all start again.
    let others = [vec!["group.call"], vec!["group.call", "groups.recover"], vec!["group.call", "groups.reread"]];
    for failpoints in cases
        .chain(others)
        .chain(["groups.gained", "groups.ready", "groups.look"].map(|after| vec!["groups.ask", after]))
    {
        let before = child.restarts().await + failpoints.len() as u64;
        for name in &failpoints {
            child.arm(name, 1).await;
        }
        wait_until("the panics are counted", DEADLINE, async || {
            // What is not acked is tried again; an answer that is not an ack must say so.
            let request = commit_request(&member, "t", &[(0, committed + 1)]);
            let code = client.call(9, &request).await.expect("an answer").topics[0].partitions[0].error_code;
            assert!([0, 14, 15, 16].contains(&code), "only retriable errors: {code}");
            committed += i64::from(code == 0);
            child.restarts().await >= before
        })
        .await;
        let offsets = client.retry("fetch", async |c| fetch_offsets(c, "g").await).await;
        let found = offsets.first().map_or(0, |o| o.2);
        assert!(found >= committed, "{found} after {committed}");
        committed = found;
        let mut connection = Connection::open(&child.broker.address()).await.expect("the broker accepts");
        assert!(member.heartbeat(&mut connection).await, "no rebalance after {failpoints:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_panics_is_nobody_elses_business() {
    let child = Child::start("panic-one-group").await;
    let address = child.broker.address();
    let mut client = Client::new(&address);
    client.ensure_topic("t", 1).await;
    let (mut unlucky, other) =
        (Member::join(&address, "unlucky", None).await, Member::join(&address, "other", None).await);
    let mut connection = Connection::open(&address).await.expect("the broker accepts");
    let mut unlucky_connection = Connection::open(&address).await.expect("the broker accepts");
    for round in 1..=3 {
        let before = child.restarts().await;
        child.arm("group.call", 1).await;
        // Whoever calls next meets it; the answer says that it is worth trying again.
        let request = commit_request(&unlucky, "t", &[(0, round)]);
        let code = client.call(9, &request).await.expect("an answer").topics[0].partitions[0].error_code;
        assert!([14, 15, 16].contains(&code), "only retriable errors: {code}");
        for _ in 0..20 {
            let code = other.heartbeat_code(&mut connection).await;
            assert_eq!(code, 0, "the other group does not notice");
        }
        wait_until("the panic is counted", DEADLINE, async || child.restarts().await > before).await;
        assert!(unlucky.heartbeat(&mut unlucky_connection).await, "and its own members go on");
        client
            .retry("commit", async |c| match c.call(9, &request).await?.topics[0].partitions[0].error_code {
                0 => Ok(()),
                code => Err(ClientError::Code(code)),
            })
            .await;
    }
    let offsets = client.retry("fetch", async |c| fetch_offsets(c, "unlucky").await).await;
    assert_eq!(offsets.first().map(|o| o.2), Some(3));
    assert_eq!(child.restarts().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_that_panic_go_on() {
    let _quiet = quiet().await;
    let child = Child::start("panic-loop").await;
    let load = Workload::start(&child.broker.address(), plan("ledger")).await;
    load.wait_acks(20).await;
    under_load(&child, &load, &["leadership.step", "compactor.tick", "membership.renew"]).await;
    // What these do shows in new topics only.
    let mut client = Client::new(&child.broker.address());
    for (name, count) in [("watcher.publish", 1), ("watcher.publish", 3), ("leadership.claimed", 1)] {
        let topic = format!("{name}-{count}");
        child.panics(name, count, async || client.ensure_topic(&topic, 3).await).await;
        for partition in 0..3 {
            assert_eq!(client.produce_values(&topic, partition, &[b"value"]).await, 0);
        }
    }
    load.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_on_the_commit_path_ends_the_process_and_the_next_one_recovers() {
    let _quiet = quiet().await;
    let mut child = Child::start("panic-flusher").await;
    let load = Workload::start(&child.broker.address(), plan("ledger")).await;
    load.wait_acks(20).await;
    let messages = ["store", "upload", "uploading", "uploaded", "commit", "committing", "committed", "checkpoint"];
    for message in messages.into_iter().chain(["quiesce"]) {
        let name = format!("flusher.{message}");
        load.fault(&name, true);
        child.arm(&name, 1).await;
        if message == "quiesce" {
            child.arm("partition.append", 1).await; // its recovery sends the message
        }
        let status = child.broker.process.wait_exit(DEADLINE).await;
        let expected = Fatal::CommitPathPanic(String::new()).exit_code();
        assert_eq!(status.code(), Some(expected.into()), "after {name}\n{}", child.broker.process.log_tail());
        child.broker.restart().await;
        load.fault(&name, false);
        load.wait_acks(20).await;
    }
    load.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_while_trimming_keeps_the_log_start() {
    let child = Child::start("panic-trim").await;
    let mut client = Client::new(&child.broker.address());
    client.retry("create", async |c| c.create_topic("short", 3, &[("retention.bytes", "1000")]).await).await;
    client.ensure_topic("short", 3).await;
    let producer = client.retry("producer id", async |c| c.init_producer_id().await).await;
    let mut next = [0; 3];
    for count in [1, 3] {
        let before = child.restarts().await + count;
        child.arm("partition.trimmed", count as u32).await;
        // Retention looks now and then and sees all partitions; each record makes more of them due.
        wait_until("the panics are counted", DEADLINE, async || {
            for (partition, next) in next.iter_mut().enumerate() {
                assert_eq!(produce_nth(&mut client, "short", partition as i32, producer, *next).await, *next);
                *next += 1;
            }
            child.restarts().await >= before
        })
        .await;
    }
    for (partition, next) in next.into_iter().enumerate() {
        let partition = partition as i32;
        let start = client.retry("earliest", async |c| c.list_offset("short", partition, EARLIEST).await).await;
        let end = client.retry("latest", async |c| c.list_offset("short", partition, LATEST).await).await;
        assert!(start > 0, "the log start was raised in the metadata store before the panic");
        assert_eq!(end, next);
        let read = client.read_all("short", partition).await;
        let first = read.first().map_or(end, |r| r.offset);
        assert!(first >= start, "nothing below the log start comes back");
        assert_all_read(&read, first..end);
    }
    child.assert_pipeline_drains().await;
}

/// Value of the record that belongs at offset `n`.
fn nth_value(n: i64) -> Vec<u8> {
    format!("{n:0100}").into_bytes()
}

/// The only record of a producer's `n`th batch in a partition that nobody else writes.
fn nth_batch((producer, epoch): (i64, i16), n: i64) -> bytes::Bytes {
    Batch::of(&[&nth_value(n)]).idempotent(producer, epoch, n as i32).encode()
}

/// Sends it until it is acked; the offset.
async fn produce_nth(client: &mut Client, topic: &str, partition: i32, producer: (i64, i16), n: i64) -> i64 {
    let produced =
        client.retry("produce", async |c| match c.produce(topic, partition, nth_batch(producer, n)).await? {
            answer if answer.error_code == 0 => Ok(answer.base_offset),
            answer => Err(ClientError::Code(answer.error_code)),
        });
    produced.await
}

fn assert_all_read(read: &[FetchedRecord], offsets: std::ops::Range<i64>) {
    let expected: Vec<_> = offsets.map(|n| (n, nth_value(n))).collect();
    let read: Vec<_> = read.iter().map(|r| (r.offset, r.value.as_deref().unwrap_or_default().to_vec())).collect();
    assert_eq!(read, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_while_stopping_does_not_keep_a_deleted_topic() {
    let child = Child::start("panic-stop").await;
    let mut client = Client::new(&child.broker.address());
    client.ensure_topic("doomed", 2).await;
    client.ensure_topic("kept", 1).await;
    client.produce_values("doomed", 0, &[b"old"]).await;
    client.produce_values("kept", 0, &[b"kept"]).await;
    child.arm("partition.stop", 2).await;
    let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("doomed")]).with_timeout_ms(30_000);
    let answer = client.call(5, &request).await.expect("an answer");
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
    wait_until("the stops panicked", DEADLINE, async || child.broker.process.log().contains("partition.stop")).await;
    client.ensure_topic("doomed", 2).await;
    assert_eq!(client.produce_values("doomed", 0, &[b"new"]).await, 0);
    let values: Vec<_> = client.read_all("doomed", 0).await.into_iter().filter_map(|r| r.value).collect();
    assert_eq!(values, ["new"]);
    assert_eq!(client.produce_values("kept", 0, &[b"more"]).await, 1);
    assert_eq!(child.restarts().await, 0, "who is told to stop is not started again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_panics_take_a_partition_offline_for_a_while_and_no_other() {
    let child = Child::start("panic-offline").await;
    let mut client = Client::new(&child.broker.address());
    client.ensure_topic("pair", 2).await;
    assert_eq!(client.produce_values("pair", 0, &[b"before"]).await, 0);
    assert_eq!(client.produce_values("pair", 1, &[b"before"]).await, 0);
    child.arm("partition.append", 6).await;
    let batch = Batch::of(&[b"panic"]).encode();
    wait_until("the sixth panic escalates", DEADLINE, async || {
        let answer = client.produce("pair", 0, batch.clone()).await.expect("only the partition is down");
        assert!([6, 7].contains(&answer.error_code), "only retriable errors: {answer:?}");
        child.broker.process.log().contains("escalating")
    })
    .await;
    assert_eq!(child.restarts().await, 6);
    assert_eq!(client.produce("pair", 0, batch.clone()).await.expect("an answer").error_code, 6, "offline");
    assert_eq!(client.produce_values("pair", 1, &[b"meanwhile"]).await, 1, "its neighbour serves");
    assert_eq!(client.produce_values("pair", 0, &[b"after"]).await, 1, "it comes back by itself");
    let values: Vec<_> = client.read_all("pair", 0).await.into_iter().filter_map(|r| r.value).collect();
    assert_eq!(values, ["before", "after"]);
    assert!(http("GET", &child.broker.metrics_address(), "/readyz", "").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_of_a_broker_seals_the_first() {
    let mut stack = Stack::start("second-process", Backend::S3, &[("KAFSCALE_BROKER_ID", "4")]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("fenced", 1).await;
    let producer = client.retry("producer id", async |c| c.init_producer_id().await).await;
    let proxy = stack.proxy().address();
    let mut envs = s3_envs(stack.etcd(), &proxy);
    envs.push(("KAFSCALE_BROKER_ID", "4".into()));
    let mut second = None;
    let mut acked = 0;
    // Goes on writing to the first process until it ends.
    let status = loop {
        match client.produce("fenced", 0, nth_batch(producer, acked)).await {
            Ok(answer) if answer.error_code == 0 => {
                assert_eq!(answer.base_offset, acked, "offsets are dense");
                acked += 1;
            }
            Ok(answer) => assert!([3, 5, 6, 7, 19].contains(&answer.error_code), "{answer:?}"),
            Err(_) => {}
        }
        if acked >= 20 && second.is_none() {
            second = Some(Broker::spawn("broker", &envs, &stack.dir.path().join("second.log")));
        }
        if let Some(status) = stack.broker.process.exited() {
            break status;
        }
    };
    let code = Fatal::Fenced(String::new()).exit_code();
    assert_eq!(status.code(), Some(code.into()), "{}", stack.broker.process.log_tail());
    let mut second = second.expect("started above");
    second.wait_ready().await;
    let mut client = Client::new(&second.address());
    // The last batch may have been committed before the seal without being acked: the retry finds out.
    for n in acked..acked + 5 {
        assert_eq!(produce_nth(&mut client, "fenced", 0, producer, n).await, n);
    }
    assert_all_read(&client.read_all("fenced", 0).await, 0..acked + 5);
    assert!(second.terminate().await.success());
}
