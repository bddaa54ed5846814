//! Groups of the consumer protocol (KIP-848) with the real binary: what survives SIGKILL, how soon members are assigned, and
//! what Kafka's tools show. On raw requests; `matrix.rs` has other people's clients.

mod member;
mod statics;

use crate::client::{Client, text};
use crate::clients::java;
use crate::group_client::group_id;
use crate::harness::{Backend, Stack, size, wait_until};
use crate::tools::{CONSUMER_GROUPS, GROUPS, Tools};
use kafka_protocol::messages::ConsumerGroupDescribeRequest;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use member::{LEAVE, Member, assert_apart, settle};
use std::collections::BTreeSet;
use std::time::Duration;

/// Heartbeats within which everybody has what it should have.
const HEARTBEATS_MAX: usize = 3;

async fn describe(client: &mut Client, groups: &[&str]) -> Vec<DescribedGroup> {
    let ids = groups.iter().map(|id| group_id(id)).collect();
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(ids);
    client.call(1, &request).await.expect("ConsumerGroupDescribe is answered").groups
}

async fn state_of(client: &mut Client, group: &str) -> (String, i32, usize) {
    let found = &describe(client, &[group]).await[0];
    assert_eq!(found.error_code, 0, "{:?}", found.error_message);
    (found.group_state.to_string(), found.group_epoch, found.members.len())
}

fn held(members: &[Member]) -> Vec<(i32, BTreeSet<(uuid::Uuid, i32)>)> {
    members.iter().map(|m| (m.epoch, m.owned.clone())).collect()
}

/// Members outlive the broker with their epochs and partitions, and nothing is assigned again.
async fn members_go_on_after_sigkill(backend: Backend) {
    let mut stack = Stack::start("consumer-sigkill", backend, &[]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 4).await;
    let mut members = vec![Member::join(&mut client, "g").await, Member::join(&mut client, "g").await];
    settle(&mut client, &mut members).await;
    let (before, epoch) = (held(&members), members[0].epoch);
    assert!(members.iter().all(|m| m.owned.len() == 2), "{members:?}");
    assert_eq!(members[0].commit(&mut client, epoch).await, 0);
    assert_eq!(members[0].commit(&mut client, epoch - 1).await, 113, "STALE_MEMBER_EPOCH");
    for round in 0..3 {
        stack.broker.restart().await; // SIGKILL
        let mut client = Client::new(&stack.address());
        assert_eq!(settle(&mut client, &mut members).await, 0, "round {round}: nobody notices");
        assert_eq!(held(&members), before, "round {round}");
        assert_eq!(state_of(&mut client, "g").await, ("Stable".to_owned(), epoch, 2), "round {round}");
        assert_eq!(members[0].commit(&mut client, epoch).await, 0);
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

/// All at once, each on its own connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_members_are_assigned_within_three_heartbeats() {
    let stack = Stack::start("consumer-hundred", Backend::Dev, &[]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 100).await;
    let mut members: Vec<_> = (0..100).map(|_| (Member::new("g"), Client::new(&stack.address()))).collect();
    // The first one joins.
    for _ in 0..=HEARTBEATS_MAX {
        let beats = members.iter_mut().map(|(member, client)| member.beat(client));
        futures::future::join_all(beats).await;
    }
    let members: Vec<Member> = members.into_iter().map(|(member, _)| member).collect();
    assert_apart(&members);
    assert!(members.iter().all(|m| m.owned.len() == 1), "{members:?}");
    let (state, _, count) = state_of(&mut client, "g").await;
    assert_eq!((state.as_str(), count), ("Stable", 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_group_settles_within_three_heartbeats_and_goes_on_after_a_kill() {
    let count = size("MEMBERS", 30) as usize;
    let mut stack = Stack::start("consumer-group", Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "20")]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 2 * count as i32).await;
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(Member::join(&mut client, "g").await);
        assert_apart(&members);
    }
    let rounds = settle(&mut client, &mut members).await;
    println!("{count} members settled after {rounds} heartbeats");
    assert!(rounds <= HEARTBEATS_MAX, "{rounds} heartbeats");
    assert!(members.iter().all(|m| m.owned.len() == 2), "{members:?}");

    let before = held(&members);
    stack.broker.restart().await; // SIGKILL
    let mut client = Client::new(&stack.address());
    assert_eq!(settle(&mut client, &mut members).await, 0, "nobody notices");
    assert_eq!(held(&members), before);

    members.pop().expect("there are members").leave(&mut client, LEAVE).await;
    let rounds = settle(&mut client, &mut members).await;
    assert!(rounds <= HEARTBEATS_MAX, "{rounds} heartbeats");
    assert_eq!(members.iter().map(|m| m.owned.len()).sum::<usize>(), 2 * count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_match_are_consumed_when_they_come() {
    let stack = Stack::start("consumer-regex", Backend::Dev, &[]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t1", 2).await;
    client.ensure_topic("other", 2).await;
    let mut members = [Member { regex: Some("t[0-9]+"), ..Member::new("g") }];
    settle(&mut client, &mut members).await;
    assert_eq!(members[0].owned.len(), 2);
    client.ensure_topic("t22", 3).await;
    wait_until("the new topic is assigned", Duration::from_secs(30), async || {
        settle(&mut client, &mut members).await;
        members[0].owned.len() == 5
    })
    .await;
    let bad = Member::new("g").heartbeat();
    let bad = bad.with_subscribed_topic_names(None).with_subscribed_topic_regex(Some(text("t[")));
    let answer = client.call(1, &bad).await.expect("an answer");
    assert_eq!(answer.error_code, 128);
    assert!(answer.error_message.is_some());
}

/// Joins and leaves at random: no member that is alive ever hears that it is unknown, and no partition has two owners.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_at_random() {
    let changes = size("CHANGES", 60);
    let stack = Stack::start("consumer-changes", Backend::Dev, &[]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 12).await;
    let mut members: Vec<Member> = Vec::new();
    let mut random: u64 = 0x5DEE_CE66;
    for _ in 0..changes {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let choice = (random >> 33) as usize;
        if members.len() < 2 || (members.len() < 8 && choice.is_multiple_of(2)) {
            members.push(Member::join(&mut client, "g").await);
        } else {
            let gone = members.swap_remove(choice % members.len());
            gone.leave(&mut client, LEAVE).await;
        }
        assert_apart(&members);
        for n in 0..members.len() {
            if (random >> (n + 7)) & 1 == 1 {
                members[n].beat(&mut client).await;
                assert_apart(&members);
            }
        }
    }
    settle(&mut client, &mut members).await;
    assert_eq!(members.iter().map(|m| m.owned.len()).sum::<usize>(), 12, "every partition has an owner");
    println!("{changes} times a member joined or left");
}

/// A group in which members stay: what ConsumerGroupDescribe and Kafka's tools show of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_see_the_group() {
    let stack = Stack::start("consumer-admin", Backend::Dev, &[]).await;
    let address = stack.address();
    let mut client = Client::new(&address);
    client.ensure_topic("t", 4).await;
    let mut members = vec![Member::join(&mut client, "g").await, Member::join(&mut client, "g").await];
    settle(&mut client, &mut members).await;

    let described = describe(&mut client, &["g", "nobody"]).await;
    let group = &described[0];
    assert_eq!((group.group_state.as_str(), group.assignor_name.as_str()), ("Stable", "uniform"));
    assert_eq!((group.group_epoch, group.assignment_epoch, group.members.len()), (2, 2, 2));
    assert_eq!(described[1].error_code, 69);

    let mut tools = Tools::start(&address);
    let listed = tools.ok(CONSUMER_GROUPS, &["--list", "--type", "--state"]).await;
    assert!(listed.contains("Consumer") && listed.contains("Stable"), "{listed}");
    let shown = tools.ok(CONSUMER_GROUPS, &["--describe", "--group", "g", "--members", "--verbose"]).await;
    members.iter().for_each(|member| assert!(shown.contains(&member.id), "{shown}"));
    let state = tools.ok(CONSUMER_GROUPS, &["--describe", "--group", "g", "--state", "--verbose"]).await;
    assert!(state.contains("uniform") && state.contains("Stable"), "{state}");
}

/// Kafka's own consumer with the new protocol, what it committed, and what tools show when somebody came after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafkas_own_consumer_and_tools() {
    let stack = Stack::start("consumer-java", Backend::Dev, &[]).await;
    let bootstrap = stack.address();
    let mut client = Client::new(&bootstrap);
    client.ensure_topic("t", 2).await;
    for partition in 0..2 {
        let values: Vec<Vec<u8>> = (0..20).map(|n| format!("{partition}-{n}").into_bytes()).collect();
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        client.produce_values("t", partition, &values).await;
    }
    let read = ["--bootstrap-server", &bootstrap, "--topic", "t", "--group", "g", "--max-messages", "40"];
    let how = ["--consumer-property", "group.protocol=consumer", "--from-beginning", "--timeout-ms", "90000"];
    let read = java("consumer.ConsoleConsumer", &[&read[..], &how[..]].concat(), "").await;
    let read: BTreeSet<&str> = read.lines().filter(|l| l.contains('-')).collect();
    assert_eq!(read.len(), 40, "{read:?}");
    let member = Member::join(&mut client, "g").await;
    let mut tools = Tools::start(&bootstrap);
    for (option, parts) in [
        (&["--members", "--verbose"][..], &[member.id.as_str(), "t:0,1"][..]),
        (&["--offsets"], &[member.id.as_str(), "20"]),
    ] {
        let shown = tools.ok(CONSUMER_GROUPS, &[&["--describe", "--group", "g"][..], option].concat()).await;
        assert!(parts.iter().all(|part| shown.contains(part)), "{option:?}: {parts:?} in\n{shown}");
    }
    let listed = tools.ok(GROUPS, &["--list"]).await;
    assert!(listed.lines().any(|l| l.starts_with("g ") && l.contains("Consumer")), "{listed}");
}
