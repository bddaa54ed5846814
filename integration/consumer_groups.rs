//! Groups of the consumer protocol with the real binary: what survives SIGKILL, and how soon many members are assigned.

use crate::client::{Client, Connection, text, topic_name};
use crate::clients::java;
use crate::group_client::group_id;
use crate::harness::{Backend, Stack};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::*;
use std::collections::BTreeSet;

/// A member on raw requests. It does at once what it is told.
struct Member {
    id: String,
    epoch: i32,
    held: Vec<(uuid::Uuid, Vec<i32>)>,
}

impl Member {
    fn new(id: &str) -> Self {
        Self { id: id.into(), epoch: 0, held: Vec::new() }
    }

    fn request(&self, group: &str) -> ConsumerGroupHeartbeatRequest {
        let owned = self.held.iter().map(|(topic, partitions)| {
            TopicPartitions::default().with_topic_id(*topic).with_partitions(partitions.clone())
        });
        let is_join = self.epoch == 0;
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(if is_join { 60_000 } else { -1 })
            .with_subscribed_topic_names(is_join.then(|| vec![topic_name("t")]))
            .with_topic_partitions(Some(owned.collect()))
    }

    async fn beat(&mut self, connection: &mut Connection, group: &str) {
        let answer = connection.call(1, &self.request(group)).await.expect("the heartbeat is answered");
        assert_eq!(answer.error_code, 0, "{} hears {:?}", self.id, answer.error_message);
        self.epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            self.held = assignment.topic_partitions.into_iter().map(|t| (t.topic_id, t.partitions)).collect();
        }
    }

    fn partitions(&self) -> impl Iterator<Item = i32> {
        self.held.iter().flat_map(|(_, partitions)| partitions.iter().copied())
    }

    /// The code of a commit of partition 0 with this epoch.
    async fn commit(&self, connection: &mut Connection, group: &str, epoch: i32) -> i16 {
        let partition = OffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(7);
        let topic = OffsetCommitRequestTopic::default().with_name(topic_name("t")).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text(&self.id))
            .with_generation_id_or_member_epoch(epoch)
            .with_topics(vec![topic]);
        let answer = connection.call(9, &request).await.expect("OffsetCommit is answered");
        answer.topics[0].partitions[0].error_code
    }
}

async fn state_of(connection: &mut Connection, group: &str) -> (String, i32, usize) {
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(group)]);
    let answer = connection.call(1, &request).await.expect("ConsumerGroupDescribe is answered");
    let found = &answer.groups[0];
    assert_eq!(found.error_code, 0, "{:?}", found.error_message);
    (found.group_state.to_string(), found.group_epoch, found.members.len())
}

/// Members outlive the broker with their epochs and partitions, and nothing is assigned again.
async fn members_go_on_after_sigkill(backend: Backend) {
    let mut stack = Stack::start("consumer-sigkill", backend, &[]).await;
    Client::new(&stack.address()).ensure_topic("t", 4).await;
    let (mut a, mut b) = (Member::new("a"), Member::new("b"));
    let mut connection = Connection::open(&stack.address()).await.unwrap();
    for _ in 0..3 {
        a.beat(&mut connection, "g").await;
        b.beat(&mut connection, "g").await;
    }
    let before = (a.epoch, a.held.clone(), b.epoch, b.held.clone());
    assert_eq!((a.partitions().count(), b.partitions().count()), (2, 2));
    assert_eq!(a.commit(&mut connection, "g", a.epoch).await, 0);
    assert_eq!(a.commit(&mut connection, "g", a.epoch - 1).await, 113, "STALE_MEMBER_EPOCH");
    for round in 0..3 {
        stack.broker.restart().await; // SIGKILL
        let mut connection = Connection::open(&stack.address()).await.unwrap();
        a.beat(&mut connection, "g").await;
        b.beat(&mut connection, "g").await;
        assert_eq!((a.epoch, a.held.clone(), b.epoch, b.held.clone()), before, "round {round}");
        assert_eq!(state_of(&mut connection, "g").await, ("Stable".to_owned(), before.0, 2), "round {round}");
        assert_eq!(a.commit(&mut connection, "g", a.epoch).await, 0);
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

/// After the last of a hundred has joined, each of them has its partition by its third heartbeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_members_are_assigned_within_three_heartbeats() {
    let stack = Stack::start("consumer-hundred", Backend::Dev, &[]).await;
    Client::new(&stack.address()).ensure_topic("t", 100).await;
    let mut members = Vec::new();
    for n in 0..100 {
        let connection = Connection::open(&stack.address()).await.unwrap();
        members.push((Member::new(&format!("m{n}")), connection));
    }
    let beats = |members: Vec<(Member, Connection)>| async {
        let beats = members.into_iter().map(|(mut member, mut connection)| async move {
            member.beat(&mut connection, "g").await;
            (member, connection)
        });
        futures::future::join_all(beats).await
    };
    members = beats(members).await; // they join
    for _ in 0..3 {
        members = beats(members).await;
    }
    let held: BTreeSet<i32> = members.iter().flat_map(|(member, _)| member.partitions()).collect();
    assert_eq!(held.len(), 100, "every partition has an owner");
    assert!(members.iter().all(|(member, _)| member.partitions().count() == 1));
    let (state, _, count) = state_of(&mut members[0].1, "g").await;
    assert_eq!((state.as_str(), count), ("Stable", 100));
}

/// Kafka's own consumer with the new protocol, and what Kafka's tools show of its group.
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
    // A member that stays, for the tools to see.
    let mut member = Member::new("stays");
    let mut connection = Connection::open(&bootstrap).await.unwrap();
    member.beat(&mut connection, "g").await;
    let tool = ["--bootstrap-server", &bootstrap, "--describe", "--group", "g"];
    for (option, parts) in [
        (&["--state"][..], &["Stable", "uniform"][..]),
        (&["--members", "--verbose"], &["stays", "t:0,1"]),
        (&["--offsets"], &["stays", "20"]),
    ] {
        let shown = java("consumer.group.ConsumerGroupCommand", &[&tool[..], option].concat(), "").await;
        println!("{shown}");
        assert!(parts.iter().all(|part| shown.contains(part)), "{option:?}: {parts:?} in\n{shown}");
    }
    let listed = java("GroupsCommand", &["--bootstrap-server", &bootstrap, "--list"], "").await;
    println!("{listed}");
    assert!(listed.lines().any(|l| l.starts_with("g ") && l.contains("Consumer")), "{listed}");
}
