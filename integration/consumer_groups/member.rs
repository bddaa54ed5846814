//! A member of a group of the consumer protocol (KIP-848) on raw requests. It does at once what it is told.

use crate::client::{Client, Result, check, text, topic_name};
use crate::group_client::{self, group_id};
use kafka_protocol::messages::ConsumerGroupHeartbeatRequest;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Epoch of a member that leaves.
pub const LEAVE: i32 = -1;
/// Epoch of a static member that leaves and will come back.
pub const LEAVE_STATIC: i32 = -2;

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Member {
    pub group: &'static str,
    pub id: String,
    pub instance: Option<&'static str>,
    /// What it is subscribed to instead of topic `t`.
    pub regex: Option<&'static str>,
    pub epoch: i32,
    pub owned: BTreeSet<(Uuid, i32)>,
}

impl Member {
    /// Somebody who has not joined yet.
    pub fn new(group: &'static str) -> Self {
        Self { group, id: Uuid::new_v4().to_string(), ..Self::default() }
    }

    /// A member of topic `t`.
    pub async fn join(client: &mut Client, group: &'static str) -> Self {
        let mut member = Self::new(group);
        member.beat(client).await;
        member
    }

    /// Its next heartbeat, the first of which joins.
    pub fn heartbeat(&self) -> ConsumerGroupHeartbeatRequest {
        let ids: BTreeSet<Uuid> = self.owned.iter().map(|(id, _)| *id).collect();
        let owned = ids.into_iter().map(|id| {
            let partitions = self.owned.iter().filter(|(topic, _)| *topic == id).map(|(_, p)| *p).collect();
            TopicPartitions::default().with_topic_id(id).with_partitions(partitions)
        });
        let is_join = self.epoch == 0;
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(self.group))
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_instance_id(self.instance.map(text))
            .with_rebalance_timeout_ms(if is_join { 60_000 } else { -1 })
            .with_subscribed_topic_names((is_join && self.regex.is_none()).then(|| vec![topic_name("t")]))
            .with_subscribed_topic_regex(self.regex.filter(|_| is_join).map(text))
            .with_topic_partitions(Some(owned.collect()))
    }

    /// Sends a heartbeat; true if the answer changed something.
    pub async fn send(&mut self, client: &mut Client, request: ConsumerGroupHeartbeatRequest) -> Result<bool> {
        let answer = client.call(1, &request).await?;
        check(answer.error_code)?;
        assert_eq!(answer.member_id.as_deref(), Some(self.id.as_str()));
        assert!(answer.member_epoch >= self.epoch.min(request.member_epoch), "an epoch never goes back");
        let moved = answer.member_epoch != self.epoch || answer.assignment.is_some();
        self.epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            let topics = assignment.topic_partitions.iter();
            self.owned = topics.flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p))).collect();
        }
        Ok(moved)
    }

    /// Sends its next heartbeat, as somebody who must be known; true if the answer changed something.
    pub async fn beat(&mut self, client: &mut Client) -> bool {
        let request = self.heartbeat();
        self.send(client, request).await.expect("a member that is alive is known")
    }

    /// Leaves with [`LEAVE`] or [`LEAVE_STATIC`].
    pub async fn leave(mut self, client: &mut Client, epoch: i32) {
        self.epoch = epoch;
        let request = self.heartbeat().with_topic_partitions(None);
        self.send(client, request).await.expect("a member may leave");
    }

    /// The numbers of its partitions.
    pub fn partitions(&self) -> Vec<i32> {
        self.owned.iter().map(|(_, p)| *p).collect()
    }

    /// The code of a commit of partition 0 with this epoch.
    pub async fn commit(&self, client: &mut Client, epoch: i32) -> i16 {
        let caller = group_client::Member {
            id: self.id.clone(),
            generation: epoch,
            instance: self.instance.map(str::to_owned),
            ..group_client::Member::none(self.group)
        };
        let request = group_client::commit_request(&caller, "t", &[(0, 7)]);
        let answer = client.call(9, &request).await.expect("OffsetCommit is answered");
        answer.topics[0].partitions[0].error_code
    }
}

/// No partition has two owners.
pub fn assert_apart(members: &[Member]) {
    let owned: usize = members.iter().map(|m| m.owned.len()).sum();
    let different: BTreeSet<_> = members.iter().flat_map(|m| &m.owned).collect();
    assert_eq!(different.len(), owned, "a partition has two owners");
}

/// Rounds of heartbeats until a round changes nothing; their number.
pub async fn settle(client: &mut Client, members: &mut [Member]) -> usize {
    for round in 0.. {
        let mut moved = false;
        for n in 0..members.len() {
            moved |= members[n].beat(client).await;
            assert_apart(members);
        }
        if !moved {
            return round;
        }
    }
    unreachable!("rounds have no end")
}
