//! Groups of the consumer protocol (KIP-848) on raw requests and with Kafka's tools.

use crate::client::{Client, Result, check, text, topic_name};
use crate::group_client::group_id;
use crate::harness::{Backend, Stack, size};
use crate::tools::{CONSUMER_GROUPS, Tools};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Heartbeats within which everybody has what it should have.
const HEARTBEATS_MAX: usize = 3;
const LEAVE: i32 = -1;

/// A member as its client sees it; it does at once what it is told.
#[derive(Debug, Default)]
struct Member {
    group: &'static str,
    id: String,
    epoch: i32,
    owned: BTreeSet<(Uuid, i32)>,
}

impl Member {
    async fn join(client: &mut Client, group: &'static str, regex: Option<&str>) -> Self {
        let mut member = Self { group, id: Uuid::new_v4().to_string(), ..Self::default() };
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(group))
            .with_member_id(text(&member.id))
            .with_rebalance_timeout_ms(60_000)
            .with_subscribed_topic_names(regex.is_none().then(|| vec![topic_name("t")]))
            .with_subscribed_topic_regex(regex.map(text))
            .with_topic_partitions(Some(Vec::new()));
        member.send(client, request).await.expect("a member may join");
        member
    }

    /// True if the answer changed something.
    async fn send(&mut self, client: &mut Client, request: ConsumerGroupHeartbeatRequest) -> Result<bool> {
        let answer = client.call(1, &request).await?;
        check(answer.error_code)?;
        assert_eq!(answer.member_id.as_deref(), Some(self.id.as_str()));
        assert!(answer.member_epoch >= self.epoch || answer.member_epoch == LEAVE, "an epoch never goes back");
        let moved = answer.member_epoch != self.epoch || answer.assignment.is_some();
        self.epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            let topics = assignment.topic_partitions.iter();
            self.owned = topics.flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p))).collect();
        }
        Ok(moved)
    }

    async fn heartbeat(&mut self, client: &mut Client) -> bool {
        let ids: BTreeSet<Uuid> = self.owned.iter().map(|(id, _)| *id).collect();
        let owned = ids.into_iter().map(|id| {
            let partitions = self.owned.iter().filter(|(topic, _)| *topic == id).map(|(_, p)| *p).collect();
            TopicPartitions::default().with_topic_id(id).with_partitions(partitions)
        });
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(self.group))
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_subscribed_topic_regex(None)
            .with_topic_partitions(Some(owned.collect()));
        self.send(client, request).await.expect("a member that is alive is known")
    }

    async fn leave(mut self, client: &mut Client) {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(self.group))
            .with_member_id(text(&self.id))
            .with_member_epoch(LEAVE)
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_subscribed_topic_regex(None)
            .with_topic_partitions(None);
        self.send(client, request).await.expect("a member may leave");
    }
}

/// No partition has two owners.
fn assert_apart(members: &[Member]) {
    let owned: usize = members.iter().map(|m| m.owned.len()).sum();
    let different: BTreeSet<_> = members.iter().flat_map(|m| &m.owned).collect();
    assert_eq!(different.len(), owned, "a partition has two owners");
}

/// Rounds of heartbeats until a round changes nothing.
async fn settle(client: &mut Client, members: &mut [Member]) -> usize {
    for round in 0.. {
        let mut moved = false;
        for n in 0..members.len() {
            moved |= members[n].heartbeat(client).await;
            assert_apart(members);
        }
        if !moved {
            return round;
        }
    }
    unreachable!("rounds have no end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_group_settles_within_three_heartbeats_and_goes_on_after_a_kill() {
    let count = size("MEMBERS", 30) as usize;
    let mut stack = Stack::start("consumer-group", Backend::S3, &[("KAFSCALE_FLUSH_INTERVAL_MS", "20")]).await;
    let mut client = Client::new(&stack.address());
    client.ensure_topic("t", 2 * count as i32).await;
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(Member::join(&mut client, "g", None).await);
        assert_apart(&members);
    }
    let rounds = settle(&mut client, &mut members).await;
    println!("{count} members settled after {rounds} heartbeats");
    assert!(rounds <= HEARTBEATS_MAX, "{rounds} heartbeats");
    assert!(members.iter().all(|m| m.owned.len() == 2), "{members:?}");

    let before: Vec<_> = members.iter().map(|m| (m.epoch, m.owned.clone())).collect();
    stack.broker.restart().await; // SIGKILL
    let mut client = Client::new(&stack.address());
    client.retry("heartbeat", async |c| c.metadata(None, false).await).await;
    assert_eq!(settle(&mut client, &mut members).await, 0, "nobody notices");
    let after: Vec<_> = members.iter().map(|m| (m.epoch, m.owned.clone())).collect();
    assert_eq!(before, after);

    members.pop().expect("there are members").leave(&mut client).await;
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
    let mut members = vec![Member::join(&mut client, "g", Some("t[0-9]+")).await];
    settle(&mut client, &mut members).await;
    assert_eq!(members[0].owned.len(), 2);
    client.ensure_topic("t22", 3).await;
    crate::harness::wait_until("the new topic is assigned", std::time::Duration::from_secs(30), async || {
        settle(&mut client, &mut members).await;
        members[0].owned.len() == 5
    })
    .await;
    let bad = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group_id("g"))
        .with_member_id(text("x"))
        .with_rebalance_timeout_ms(1_000)
        .with_subscribed_topic_names(None)
        .with_subscribed_topic_regex(Some(text("t[")))
        .with_topic_partitions(Some(Vec::new()));
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
            members.push(Member::join(&mut client, "g", None).await);
        } else {
            let gone = members.swap_remove(choice % members.len());
            gone.leave(&mut client).await;
        }
        assert_apart(&members);
        for n in 0..members.len() {
            if (random >> (n + 7)) & 1 == 1 {
                members[n].heartbeat(&mut client).await;
                assert_apart(&members);
            }
        }
    }
    settle(&mut client, &mut members).await;
    assert_eq!(members.iter().map(|m| m.owned.len()).sum::<usize>(), 12, "every partition has an owner");
    println!("{changes} times a member joined or left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_see_the_group() {
    let stack = Stack::start("consumer-admin", Backend::Dev, &[]).await;
    let address = stack.address();
    let mut client = Client::new(&address);
    client.ensure_topic("t", 4).await;
    let mut members = vec![Member::join(&mut client, "g", None).await, Member::join(&mut client, "g", None).await];
    settle(&mut client, &mut members).await;

    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id("g"), group_id("nobody")]);
    let described = client.call(1, &request).await.expect("an answer").groups;
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
