//! Groups of the classic protocol with the real binary: what survives SIGKILL, what commits and heartbeats cost, and what
//! Kafka's own tool does with them. `matrix.rs` has other people's consumers.

use crate::client::{Client, Connection};
use crate::clients::{Client as Program, Running, java, try_java};
use crate::group_client::{Member, commit_on_time, commit_request, fetch_offsets};
use crate::harness::{Backend, Stack, size, wait_until};
use crate::workload::Rng;
use kafscale::metadata::etcd::{EtcdSettings, EtcdStore};
use kafscale::metadata::keys::Keys;
use kafscale::metadata::{MetadataStore, Op, Txn, TxnOutcome};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const NO_DELAY: (&str, &str) = ("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "0");
/// The namespace of the stack.
const NAMESPACE: &str = "test";
const DEADLINE: Duration = Duration::from_secs(120);

async fn commit(connection: &mut Connection, member: &Member, offsets: &[(i32, i64)]) -> Vec<i16> {
    let answer = connection.call(9, &commit_request(member, "t", offsets)).await.expect("OffsetCommit is answered");
    answer.topics[0].partitions.iter().map(|p| p.error_code).collect()
}

/// Two members and their commits outlive the broker: same generation, same ids, same offsets, no rebalance.
async fn members_go_on_after_sigkill(backend: Backend) {
    let mut stack = Stack::start("group-sigkill", backend, &[NO_DELAY]).await;
    Client::new(&stack.address()).ensure_topic("t", 2).await;
    let mut first = Member::join(&stack.address(), "g", None).await;
    let mut second = Member::join_with(&stack.address(), "g", None, &mut [&mut first]).await;
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    assert_eq!(commit(&mut connection, &first, &[(0, 5), (1, 6)]).await, [0, 0]);
    for round in 0..3 {
        stack.broker.restart().await;
        let mut connection = Connection::open(&stack.address()).await.unwrap();
        for member in [&mut first, &mut second] {
            assert!(member.heartbeat(&mut connection).await, "round {round}: no rebalance");
        }
        assert_eq!(commit(&mut connection, &second, &[(1, 7 + round)]).await, [0]);
        let mut client = Client::new(&stack.address());
        let offsets: Vec<i64> = fetch_offsets(&mut client, "g").await.unwrap().iter().map(|o| o.2).collect();
        assert_eq!(offsets, [5, 7 + round]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_go_on_after_sigkill_of_a_broker_with_embedded_stores() {
    members_go_on_after_sigkill(Backend::Dev).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_go_on_after_sigkill_of_a_broker_with_etcd() {
    members_go_on_after_sigkill(Backend::S3).await;
}

/// A value that cannot be read keeps its group from being served, and is kept itself; nobody else notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_cannot_be_read_concerns_its_group_alone() {
    const NOT_AVAILABLE: i16 = 15;
    let mut stack = Stack::start("group-unreadable", Backend::S3, &[NO_DELAY]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 1).await;
    let [broken, whole] = ["broken", "whole"].map(Member::none);
    for member in [&broken, &whole] {
        client.call(9, &commit_request(member, "t", &[(0, 5)])).await.unwrap();
    }
    stack.broker.kill9();
    let key = Keys::new(NAMESPACE).group_offsets("broken", "t", 0);
    let store = EtcdStore::connect(EtcdSettings::new(vec![stack.etcd().endpoint()])).await.unwrap();
    let good = store.get(&key).await.unwrap().expect("the commit is stored").value;
    let put = async |value: &bytes::Bytes| {
        let ops = vec![Op::Put(key.clone(), value.clone(), None)];
        assert!(matches!(store.txn(Txn { compares: vec![], ops }).await, Ok(TxnOutcome::Committed(_))));
    };
    let bad = bytes::Bytes::from_static(b"\xff");
    put(&bad).await;
    stack.broker.relaunch();
    stack.broker.wait_ready().await;
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    assert_eq!(commit(&mut connection, &broken, &[(0, 9)]).await, [NOT_AVAILABLE]);
    assert_eq!(commit(&mut connection, &whole, &[(0, 6)]).await, [0]);
    assert!(stack.broker.terminate().await.success());
    assert_eq!(store.get(&key).await.unwrap().expect("it is kept").value, bad);
    // Once the value can be read again, so can the group.
    put(&good).await;
    stack.broker.relaunch();
    stack.broker.wait_ready().await;
    let mut client = Client::new(&stack.address());
    for (group, offset) in [("broken", 5), ("whole", 6)] {
        let offsets: Vec<i64> = fetch_offsets(&mut client, group).await.unwrap().iter().map(|o| o.2).collect();
        assert_eq!(offsets, [offset], "{group}");
    }
}

/// Kills the broker in the middle of commits: what was acked is there, and no offset goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acked_commit_is_lost_by_kills() {
    let kills = size("GROUP_KILLS", 5);
    let mut stack = Stack::start("group-kills", Backend::S3, &[NO_DELAY]).await;
    Client::new(&stack.address()).ensure_topic("t", 4).await;
    let mut dice = Rng(size("SEED", 7));
    let mut sent = 0i64;
    // By group and partition: the greatest offset that was acked.
    let mut acked: BTreeMap<(String, i32), i64> = BTreeMap::new();
    for _ in 0..kills {
        let mut connection = Connection::open(&stack.address()).await.unwrap();
        let (commits, kill_at) = (20 + dice.below(200), dice.below(20) + 1);
        let mut waiting = Vec::new();
        for n in 0..commits {
            sent += 1;
            let group = format!("g{}", dice.below(30));
            let partition = dice.below(4) as i32;
            let member = Member::none(&group);
            if connection.send(9, &commit_request(&member, "t", &[(partition, sent)])).await.is_err() {
                break;
            }
            waiting.push(((group, partition), sent));
            if n >= kill_at {
                let answer = connection.receive::<kafka_protocol::messages::OffsetCommitRequest>(9).await;
                let Ok(answer) = answer else { break };
                assert_eq!(answer.topics[0].partitions[0].error_code, 0);
                let (key, offset) = waiting.remove(0);
                let highest = acked.entry(key).or_default();
                *highest = offset.max(*highest);
            }
        }
        stack.broker.restart().await; // SIGKILL, with commits unanswered
        let mut client = Client::new(&stack.address());
        let mut groups: BTreeSet<String> = BTreeSet::new();
        groups.extend(acked.keys().map(|(group, _)| group.clone()));
        for group in groups {
            for (_, partition, offset, _) in fetch_offsets(&mut client, &group).await.unwrap() {
                let key = (group.clone(), partition);
                let least = acked.get(&key).copied().unwrap_or(0);
                assert!(offset >= least, "{group}/{partition}: {offset} after {least} was acked");
                acked.insert(key, offset); // seen, so it must not go back either
            }
            let found = fetch_offsets(&mut client, &group).await.unwrap().len();
            assert_eq!(found, acked.keys().filter(|(g, _)| *g == group).count(), "{group}");
        }
    }
    assert!(acked.len() > 20, "{acked:?}");
}

/// Commits per second that [`what_groups_cost`] offers, and the etcd writes per second that they may cost.
const COMMITS_PER_SEC: u64 = 5_000;
const WRITES_PER_SEC_MAX: f64 = 30.0;

/// Consumers of hundreds of groups commit on time, whatever becomes of it: all of it is acked, and the commits of a group
/// share writes as groups share transactions. And heartbeats write nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_groups_cost() {
    let _alone = crate::harness::quiet().await;
    let (groups, commits) = (500u64, size("COMMITS", 20_000));
    let (each, every) = (commits / groups, Duration::from_millis(groups * 1_000 / COMMITS_PER_SEC));
    let mut stack = Stack::start("group-cost", Backend::S3, &[NO_DELAY]).await;
    Client::new(&stack.address()).ensure_topic("t", 1).await;
    let address = stack.address();
    let before = stack.etcd().revision().await;
    let started = kafscale::clock::monotonic();
    let clients = (0..groups).map(|n| {
        let address = address.clone();
        // Their clocks are spread over the interval.
        let first = started + every + every * n as u32 / groups as u32;
        tokio::spawn(async move { commit_on_time(&address, &format!("g{n}"), first, every, each).await })
    });
    let mut took_us = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        took_us.extend(client.await.expect("every commit is acked"));
    }
    let seconds = started.elapsed().as_secs_f64();
    let writes = stack.etcd().revision().await - before;
    let keys = stack.broker.metric_sum("kafscale_group_keys_written").await.unwrap();
    took_us.sort_unstable();
    let ms = |percent: usize| took_us[(took_us.len() - 1) * percent / 100] as f64 / 1e3;
    println!(
        "{} commits of {groups} groups, {COMMITS_PER_SEC}/s offered, {:.0}/s acked: {:.1} etcd writes/s of {:.0} keys each, ack p50 \
         {:.0} ms, p99 {:.0} ms",
        took_us.len(),
        took_us.len() as f64 / seconds,
        writes as f64 / seconds,
        keys / writes as f64,
        ms(50),
        ms(99),
    );
    assert_eq!(took_us.len() as u64, each * groups);
    // By the commits, unless this machine was too slow to offer them in time.
    let offered_seconds = (each * groups) as f64 / COMMITS_PER_SEC as f64;
    assert!(writes as f64 <= WRITES_PER_SEC_MAX * offered_seconds.max(seconds), "{writes} writes in {seconds} s");
    let mut client = Client::new(&address);
    for group in ["g0", "g499"] {
        assert_eq!(fetch_offsets(&mut client, group).await.unwrap()[0].2, each as i64 - 1, "{group}");
    }

    let mut members = Vec::new();
    for n in 0..30 {
        members.push(Member::join(&address, &format!("idle-{n}"), None).await);
    }
    let written = stack.broker.metric_sum("kafscale_group_writes_total").await.unwrap();
    let mut connection = Connection::open(&address).await.unwrap();
    for _ in 0..20 {
        for member in &mut members {
            assert!(member.heartbeat(&mut connection).await);
        }
    }
    assert_eq!(stack.broker.metric_sum("kafscale_group_writes_total").await.unwrap(), written, "heartbeats are free");
}

/// Members come and go at random: nobody who is alive hears that it is unknown ([`Member`] panics if it does).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_at_random_stay_known() {
    let changes = size("CHANGES", 60);
    let stack =
        Stack::start("group-random", Backend::Dev, &[("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "20")]).await;
    let left = Arc::new(std::sync::atomic::AtomicI64::new(changes as i64));
    let members = (0..6u64).map(|n| {
        let (address, left) = (stack.address(), left.clone());
        tokio::spawn(async move {
            let mut dice = Rng(size("SEED", 1) + n);
            let mut connection = Connection::open(&address).await.unwrap();
            // Some are static.
            let instance = (n % 3 == 0).then(|| format!("i{n}"));
            let mut member = Member { instance, ..Member::none("g") };
            let mut joined = 0;
            while left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(dice.below(100))).await;
                let mut beats = dice.below(20);
                settle(&mut member, &mut connection).await;
                while beats > 0 {
                    beats -= 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if !member.heartbeat(&mut connection).await {
                        settle(&mut member, &mut connection).await;
                    }
                }
                member.leave(&mut connection).await;
                joined += 1;
            }
            joined
        })
    });
    let deadline = DEADLINE + Duration::from_secs(changes);
    let mut joined = 0;
    for member in members.collect::<Vec<_>>() {
        joined +=
            tokio::time::timeout(deadline, member).await.expect("nobody waits for ever").expect("nobody is unknown");
    }
    println!("{joined} times a member joined and left");
    assert_eq!(joined, changes);
}

/// Many groups with three members each, idle but for heartbeats; then one with many members rebalances.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_at_scale() {
    let _alone = crate::harness::quiet().await;
    let (groups, seconds, members_max) = (size("GROUP_COUNT", 30), size("DURATION_SEC", 3), size("MEMBERS", 30));
    let envs = [("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "500")];
    let mut stack = Stack::start("group-scale", Backend::S3, &envs).await;
    let address = stack.address();
    let idle_rss = stack.broker.process.rss_bytes();
    let mut tasks = Vec::new();
    let ready = Arc::new(tokio::sync::Semaphore::new(0));
    for n in 0..groups * 3 {
        let (address, ready) = (address.clone(), ready.clone());
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(&address).await.unwrap();
            let mut member = Member::none(&format!("g{}", n / 3));
            settle(&mut member, &mut connection).await;
            ready.add_permits(1);
            let mut waits_us = Vec::new();
            let end = kafscale::clock::monotonic() + Duration::from_secs(seconds);
            while kafscale::clock::monotonic() < end {
                let asked = kafscale::clock::monotonic();
                if !member.heartbeat(&mut connection).await {
                    settle(&mut member, &mut connection).await;
                }
                waits_us.push(asked.elapsed().as_micros() as u64);
                tokio::time::sleep(Duration::from_millis(1_000)).await;
            }
            waits_us
        }));
    }
    drop(ready.acquire_many(groups as u32 * 3).await.unwrap());
    let before = stack.etcd().revision().await;
    let started = kafscale::clock::monotonic();
    let mut waits_us = Vec::new();
    for task in tasks {
        waits_us.extend(task.await.expect("no member is unknown"));
    }
    let writes = (stack.etcd().revision().await - before) as f64 / started.elapsed().as_secs_f64();
    let rss_mib = (stack.broker.process.rss_bytes() - idle_rss.min(stack.broker.process.rss_bytes())) >> 20;
    waits_us.sort_unstable();
    let p99_ms = waits_us[waits_us.len() * 99 / 100] as f64 / 1_000.0;
    println!("{groups} groups: heartbeats p99 {p99_ms:.1} ms, {writes:.1} etcd writes/s, {rss_mib} MiB above idle");
    assert!(writes <= 30.0 && rss_mib <= 600);

    let started = kafscale::clock::monotonic();
    let joins = (0..members_max).map(|_| {
        let address = address.clone();
        tokio::spawn(async move {
            let mut connection = Connection::open(&address).await.unwrap();
            let mut member = Member::none("large");
            settle(&mut member, &mut connection).await;
            member
        })
    });
    let mut generations = BTreeSet::new();
    for member in joins.collect::<Vec<_>>() {
        generations.insert(member.await.expect("no member is unknown").generation);
    }
    println!("{members_max} members joined in {:.2} s, generations {generations:?}", started.elapsed().as_secs_f64());
    assert_eq!(generations.len(), 1, "one rebalance for all");
}

/// Joins until it has an assignment.
async fn settle(member: &mut Member, connection: &mut Connection) {
    member.rejoin(connection).await;
    while !member.sync(connection).await {
        member.rejoin(connection).await;
    }
}

/// Three members come one after the other and go again while records arrive, and the broker is killed while the third one
/// joins. Every record is read. (Without kills in the middle of a rebalance: `matrix.rs`, for every client.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cooperative_members_outlive_a_kill_while_one_joins() {
    let envs = [("KAFSCALE_GROUP_INITIAL_REBALANCE_DELAY_MS", "100")];
    let mut stack = Stack::start("group-clients", Backend::Dev, &envs).await;
    let bootstrap = stack.address();
    let program = Program::python("python/confluent.py");
    let mut producer = Client::new(&bootstrap);
    producer.ensure_topic("t", 6).await;
    let (mut running, mut read, mut produced) = (Vec::new(), BTreeSet::new(), 0);
    for step in 0..6 {
        if step < 3 {
            running.push(Running::start(&program, &bootstrap, "t", "g", &["cooperative-sticky"]));
        } else if running.len() > 1 {
            read.extend(running.remove(0).stop().await);
        }
        if step == 2 {
            stack.broker.restart().await; // SIGKILL
            producer = Client::new(&bootstrap);
        }
        for n in 0..60 {
            let value = format!("{step}-{n}");
            producer.produce_values("t", n % 6, &[value.as_bytes()]).await;
            produced += 1;
        }
        wait_until("the records are read", DEADLINE, async || {
            let lines = running.iter().flat_map(Running::lines);
            lines.chain(read.iter().cloned()).collect::<BTreeSet<String>>().len() >= produced
        })
        .await;
    }
    for member in running {
        read.extend(member.stop().await);
    }
    assert_eq!(read.len(), produced, "every record is read");
    // The group's offsets are the ends of the partitions.
    let committed = fetch_offsets(&mut Client::new(&bootstrap), "g").await.unwrap();
    assert_eq!(committed.iter().map(|o| o.2).sum::<i64>(), produced as i64);
}

async fn groups_command(bootstrap: &str, args: &[&str]) -> String {
    let all: Vec<&str> = ["--bootstrap-server", bootstrap].iter().chain(args).copied().collect();
    java("consumer.group.ConsumerGroupCommand", &all, "").await
}

/// Kafka's own tool, with what administrators do with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_consumer_groups() {
    let stack = Stack::start("group-tool", Backend::Dev, &[NO_DELAY]).await;
    let bootstrap = stack.address();
    let mut client = Client::new(&bootstrap);
    client.ensure_topic("t", 2).await;
    for n in 0..10 {
        client.produce_values("t", n % 2, &[b"value"]).await;
    }
    let mut args = vec!["--bootstrap-server", &bootstrap, "--topic", "t", "--group", "readers", "--from-beginning"];
    args.extend(["--max-messages", "10", "--timeout-ms", "90000"]);
    assert_eq!(java("consumer.ConsoleConsumer", &args, "").await.lines().filter(|l| *l == "value").count(), 10);

    let listed = groups_command(&bootstrap, &["--list"]).await;
    assert_eq!(listed.trim(), "readers");
    let described = groups_command(&bootstrap, &["--describe", "--group", "readers"]).await;
    let row = |partition: &str| {
        let rows = described.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        rows.filter(|r| r.len() > 5 && r[1] == "t" && r[2] == partition).map(|r| r[3..6].join(" ")).next()
    };
    assert_eq!((row("0").as_deref(), row("1").as_deref()), (Some("5 5 0"), Some("5 5 0")), "{described}");
    let state = groups_command(&bootstrap, &["--describe", "--group", "readers", "--state"]).await;
    assert!(state.contains("Empty"), "{state}");

    // A group with a member: it is shown, and neither reset nor deleted.
    let member = Member::join(&bootstrap, "busy", None).await;
    let members = groups_command(&bootstrap, &["--describe", "--group", "busy", "--members", "--verbose"]).await;
    assert!(members.contains(&member.id), "{members}");
    let listed = groups_command(&bootstrap, &["--list", "--state", "stable"]).await;
    assert!(listed.contains("busy") && !listed.contains("readers"), "{listed}");
    let refused = try_java(
        "consumer.group.ConsumerGroupCommand",
        &["--bootstrap-server", &bootstrap, "--delete", "--group", "busy"],
    )
    .await;
    assert!(refused.contains("GroupNotEmptyException"), "{refused}");

    let reset = ["--group", "readers", "--topic", "t", "--reset-offsets", "--to-offset", "2", "--execute"];
    groups_command(&bootstrap, &reset).await;
    let offsets: Vec<i64> = fetch_offsets(&mut client, "readers").await.unwrap().iter().map(|o| o.2).collect();
    assert_eq!(offsets, [2, 2]);
    groups_command(&bootstrap, &["--group", "readers", "--topic", "t:1", "--delete-offsets"]).await;
    assert_eq!(fetch_offsets(&mut client, "readers").await.unwrap().len(), 1);
    let deleted = groups_command(&bootstrap, &["--delete", "--group", "readers"]).await;
    assert!(deleted.contains("successful"), "{deleted}");
    assert!(!groups_command(&bootstrap, &["--list"]).await.contains("readers"));
}
