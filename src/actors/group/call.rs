//! What handlers ask a coordinator, and what it answers.

use super::classic::{JoinReply, JoinRequest, State, SyncReply, SyncRequest};
use super::consumer::types::{HeartbeatReply, HeartbeatRequest};
use super::consumer::value::ConsumerMember;
use super::error::GroupError;
use super::offsets::{Committed, OffsetToCommit};
use super::value::MemberValue;
use super::writes::GroupId;
use crate::ids::{PartitionIndex, TopicId};
use bytes::Bytes;
use std::sync::Arc;

/// A question about one group, or about all groups of a coordinator.
#[derive(Debug, Clone)]
pub enum Call {
    /// JoinGroup. Answered when the rebalance ends.
    Join(GroupId, Box<JoinRequest>),
    /// SyncGroup. Answered when the leader has assigned.
    Sync(GroupId, SyncRequest),
    /// Heartbeat.
    Heartbeat(GroupId, Caller),
    /// ConsumerGroupHeartbeat.
    Beat(GroupId, Box<HeartbeatRequest>),
    /// LeaveGroup: members by id, by instance, or both.
    Leave(GroupId, Vec<(String, Option<String>)>),
    /// OffsetCommit. Answered when the offsets are durable.
    Commit(GroupId, Caller, Vec<OffsetToCommit>),
    /// OffsetFetch; `None` for all offsets of the group. With id and epoch of the member that asks, if it is one.
    Fetch(GroupId, Option<(String, i32)>, Option<Vec<FetchTopic>>),
    /// OffsetDelete: partitions by topic.
    DeleteOffsets(GroupId, Vec<(Arc<str>, Vec<PartitionIndex>)>),
    /// DescribeGroups.
    Describe(GroupId),
    /// ConsumerGroupDescribe.
    DescribeConsumer(GroupId),
    /// ListGroups.
    List,
    /// DeleteGroups.
    Delete(GroupId),
}

impl Call {
    /// The group that it is about; `None` for all.
    pub fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Join(group, _)
            | Self::Sync(group, _)
            | Self::Heartbeat(group, _)
            | Self::Beat(group, _)
            | Self::Leave(group, _)
            | Self::Commit(group, ..)
            | Self::Fetch(group, ..)
            | Self::DeleteOffsets(group, _)
            | Self::Describe(group)
            | Self::DescribeConsumer(group)
            | Self::Delete(group) => Some(group),
            Self::List => None,
        }
    }
}

/// Who a request says it comes from.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Member id.
    pub member_id: String,
    /// Static instance.
    pub instance: Option<String>,
    /// Generation, or member epoch; negative for none.
    pub generation: i32,
    /// The client's API version (OffsetCommit 9 and later) may have a member epoch.
    pub knows_epochs: bool,
}

/// Partitions of a topic whose offsets are wanted.
#[derive(Debug, Clone)]
pub struct FetchTopic {
    /// Its name.
    pub topic: Arc<str>,
    /// Its id; offsets of a former topic of this name do not count.
    pub id: TopicId,
    /// Partitions.
    pub partitions: Vec<PartitionIndex>,
}

/// An answer; which one belongs to which call is said there.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To `Join`.
    Join(JoinReply),
    /// To `Sync`.
    Sync(SyncReply),
    /// To `Heartbeat` and `Delete`.
    Done,
    /// To `Beat`.
    Beat(HeartbeatReply),
    /// To `Leave`: an outcome per member.
    Left(Vec<Result<(), GroupError>>),
    /// To `Commit`: an outcome per offset.
    Committed(Vec<Result<(), GroupError>>),
    /// To `Fetch`, in the order asked.
    Fetched(Vec<FetchedOffset>),
    /// To `DeleteOffsets`: an outcome per topic.
    OffsetsDeleted(Vec<Result<(), GroupError>>),
    /// To `Describe`.
    Described(Box<Description>),
    /// To `DescribeConsumer`.
    ConsumerDescribed(Box<ConsumerDescription>),
    /// To `List`.
    Listed(Vec<Listing>),
}

/// What became of a call.
pub type Outcome = Result<Answer, GroupError>;

/// An offset as fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedOffset {
    /// Topic name.
    pub topic: Arc<str>,
    /// Id of the topic.
    pub id: TopicId,
    /// Partition.
    pub partition: PartitionIndex,
    /// `None`: nothing is committed.
    pub committed: Option<Committed>,
}

/// A group in detail.
#[derive(Debug, Clone)]
pub struct Description {
    /// What it is doing.
    pub state: State,
    /// Type of its protocols, empty without one.
    pub protocol_type: String,
    /// Protocol of the generation, empty unless it is stable.
    pub protocol: String,
    /// Members; with metadata and assignment only if it is stable.
    pub members: Vec<(MemberValue, Bytes)>,
}

/// A group of the consumer protocol in detail.
#[derive(Debug, Clone)]
pub struct ConsumerDescription {
    /// What it is doing.
    pub state: &'static str,
    /// Its epoch.
    pub epoch: i32,
    /// The epoch of its target.
    pub target_epoch: i32,
    /// The assignor that its members prefer.
    pub assignor: &'static str,
    /// Members.
    pub members: Vec<ConsumerMember>,
}

/// The protocol of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupType {
    /// JoinGroup and SyncGroup.
    Classic,
    /// ConsumerGroupHeartbeat.
    Consumer,
}

impl GroupType {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
        }
    }
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Group id.
    pub group: GroupId,
    /// Its protocol.
    pub kind: GroupType,
    /// What it is doing.
    pub state: &'static str,
    /// Type of its protocols, empty without one.
    pub protocol_type: String,
}
