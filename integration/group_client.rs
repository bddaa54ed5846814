//! A member of a consumer group on raw requests. It panics where a live member of a healthy group hears what it must never
//! hear: that it is unknown.

use crate::client::{Client, Connection, Result, check, decode_answer, text, topic_name};
use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A group id.
pub fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

/// A JoinGroup of a consumer.
pub fn join_request(group: &str, member: &str, instance: Option<&str>) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"));
    JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(60_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// An OffsetCommit of a member.
pub fn commit_request(member: &Member, topic: &str, offsets: &[(i32, i64)]) -> OffsetCommitRequest {
    let partitions = offsets.iter().map(|(partition, offset)| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text("")))
    });
    let topic = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect());
    OffsetCommitRequest::default()
        .with_group_id(group_id(&member.group))
        .with_member_id(text(&member.id))
        .with_generation_id_or_member_epoch(member.generation)
        .with_topics(vec![topic])
}

/// Topic, partition, offset and metadata of everything a group has committed.
pub async fn fetch_offsets(client: &mut Client, group: &str) -> Result<Vec<(String, i32, i64, String)>> {
    let asked = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(None);
    let answer = client.call(8, &OffsetFetchRequest::default().with_groups(vec![asked])).await?;
    check(answer.groups[0].error_code)?;
    let mut rows = Vec::new();
    for topic in &answer.groups[0].topics {
        for row in &topic.partitions {
            let metadata = row.metadata.as_ref().map(ToString::to_string).unwrap_or_default();
            rows.push((topic.name.to_string(), row.partition_index, row.committed_offset, metadata));
        }
    }
    Ok(rows)
}

/// Commits offsets 0 to `count` of partition 0 of `t` as commitAsync does: one whenever it is time, whether or not those
/// before are answered. Every answer must be a success; returns how long each took from when it was due, µs.
pub async fn commit_on_time(address: &str, group: &str, first: Instant, every: Duration, count: u64) -> Vec<u64> {
    let stream = TcpStream::connect(address).await.expect("the broker accepts");
    stream.set_nodelay(true).expect("an open socket");
    let (mut reader, mut writer) = stream.into_split();
    let (sent, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let member = Member::none(group);
    let write = async move {
        let mut clock = tokio::time::interval_at(first, every);
        for n in 0..count {
            let due = clock.tick().await;
            let request = commit_request(&member, "t", &[(0, n as i64)]);
            let frame = Connection::frame(n as i32, 9, &request).expect("it encodes");
            sent.send(due).expect("the reader reads to the end");
            writer.write_all(&frame).await.expect("the broker reads");
        }
    };
    let read = async {
        let mut took_us = Vec::with_capacity(count as usize);
        while let Some(due) = waiting.recv().await {
            let len = reader.read_i32().await.expect("the broker answers");
            let mut frame = vec![0; len as usize];
            reader.read_exact(&mut frame).await.expect("a whole frame");
            let (id, answer) = decode_answer::<OffsetCommitRequest>(frame.into(), 9).expect("an answer");
            assert_eq!((id as usize, answer.topics[0].partitions[0].error_code), (took_us.len(), 0), "{group}");
            took_us.push(due.elapsed().as_micros() as u64);
        }
        took_us
    };
    tokio::join!(write, read).1
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its group.
    pub group: String,
    /// Its instance, if it is static.
    pub instance: Option<String>,
    /// Its id, empty without one.
    pub id: String,
    /// Its generation, -1 without one.
    pub generation: i32,
    /// As the leader: all members.
    pub leads: Vec<String>,
    /// What it was assigned: the number of members.
    pub assignment: Vec<u8>,
}

impl Member {
    /// Somebody who is no member of `group`.
    pub fn none(group: &str) -> Self {
        Self {
            group: group.into(),
            instance: None,
            id: String::new(),
            generation: -1,
            leads: Vec::new(),
            assignment: Vec::new(),
        }
    }

    /// A member of a group in which nobody else has to rejoin.
    pub async fn join(address: &str, group: &str, instance: Option<&str>) -> Self {
        Self::join_with(address, group, instance, &mut []).await
    }

    /// A member of a group whose other members rejoin meanwhile.
    pub async fn join_with(address: &str, group: &str, instance: Option<&str>, others: &mut [&mut Self]) -> Self {
        let mut member = Self { instance: instance.map(str::to_owned), ..Self::none(group) };
        let mut connection = Connection::open(address).await.expect("the broker accepts");
        let join = member.rejoin(&mut connection);
        let rejoin = async {
            let mut connections = Vec::new();
            for other in &mut *others {
                let mut connection = Connection::open(address).await.expect("the broker accepts");
                while other.heartbeat(&mut connection).await {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                other.rejoin(&mut connection).await;
                connections.push(connection);
            }
            connections
        };
        let ((), mut connections) = futures::join!(join, rejoin);
        let mut syncs = Vec::new();
        for (other, connection) in others.iter_mut().zip(&mut connections) {
            syncs.push(other.sync(connection));
        }
        let (synced, others_synced) = futures::join!(member.sync(&mut connection), futures::future::join_all(syncs));
        assert!(synced && others_synced.iter().all(|s| *s), "a rebalance that nobody asked for");
        member
    }

    /// Joins until it is in a generation.
    pub async fn rejoin(&mut self, connection: &mut Connection) {
        loop {
            let request = join_request(&self.group, &self.id, self.instance.as_deref());
            let answer = connection.call(9, &request).await.expect("JoinGroup is answered");
            match answer.error_code {
                0 => {
                    self.id = answer.member_id.to_string();
                    self.generation = answer.generation_id;
                    let leads = answer.leader == answer.member_id && !answer.skip_assignment;
                    self.leads = answer.members.iter().filter(|_| leads).map(|m| m.member_id.to_string()).collect();
                    return;
                }
                79 => self.id = answer.member_id.to_string(),
                14..=16 | 27 => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                code => panic!("member {} of {} hears {code} from JoinGroup", self.id, self.group),
            }
        }
    }

    /// Gets its assignment; false if the group rebalances again.
    pub async fn sync(&mut self, connection: &mut Connection) -> bool {
        // An assignment of no topics, with the number of members as the user's data.
        let count = Bytes::from([&b"\0\0\0\0\0\0\0\0\0\x01"[..], &[self.leads.len() as u8]].concat());
        let assignments = self
            .leads
            .iter()
            .map(|id| SyncGroupRequestAssignment::default().with_member_id(text(id)).with_assignment(count.clone()));
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(&self.group))
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance.as_deref().map(text))
            .with_generation_id(self.generation)
            .with_assignments(assignments.collect());
        let answer = connection.call(5, &request).await.expect("SyncGroup is answered");
        match answer.error_code {
            0 => self.assignment = answer.assignment.last().copied().into_iter().collect(),
            22 | 27 => return false,
            code => panic!("member {} of {} hears {code} from SyncGroup", self.id, self.group),
        }
        true
    }

    /// True while its generation goes on.
    pub async fn heartbeat(&mut self, connection: &mut Connection) -> bool {
        match self.heartbeat_code(connection).await {
            0 => true,
            22 | 27 => false,
            code => panic!("member {} of {} hears {code} from Heartbeat", self.id, self.group),
        }
    }

    /// What it hears from a heartbeat.
    pub async fn heartbeat_code(&self, connection: &mut Connection) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.group))
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance.as_deref().map(text))
            .with_generation_id(self.generation);
        connection.call(4, &request).await.expect("Heartbeat is answered").error_code
    }

    /// Leaves its group.
    pub async fn leave(&mut self, connection: &mut Connection) {
        let member = MemberIdentity::default()
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance.as_deref().map(text));
        let request = LeaveGroupRequest::default().with_group_id(group_id(&self.group)).with_members(vec![member]);
        let answer = connection.call(5, &request).await.expect("LeaveGroup is answered");
        assert_eq!((answer.error_code, answer.members[0].error_code), (0, 0), "{} leaves {}", self.id, self.group);
        *self = Self { instance: self.instance.clone(), ..Self::none(&self.group) };
    }
}
