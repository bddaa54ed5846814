//! What handlers ask a coordinator, and what it answers.

use super::classic::{JoinReply, JoinRequest, State, SyncReply, SyncRequest};
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
    /// LeaveGroup: members by id, by instance, or both.
    Leave(GroupId, Vec<(String, Option<String>)>),
    /// OffsetCommit. Answered when the offsets are durable.
    Commit(GroupId, Caller, Vec<OffsetToCommit>),
    /// OffsetFetch; `None` for all offsets of the group.
    Fetch(GroupId, Option<Vec<FetchTopic>>),
    /// OffsetDelete: partitions by topic.
    DeleteOffsets(GroupId, Vec<(Arc<str>, Vec<PartitionIndex>)>),
    /// DescribeGroups.
    Describe(GroupId),
    /// ListGroups.
    List,
    /// DeleteGroups.
    Delete(GroupId),
}

/// Who a request says it comes from.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// Member id.
    pub member_id: String,
    /// Static instance.
    pub instance: Option<String>,
    /// Generation, negative for none.
    pub generation: i32,
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

/// A group in a list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Group id.
    pub group: GroupId,
    /// What it is doing.
    pub state: State,
    /// Type of its protocols, empty without one.
    pub protocol_type: String,
}
