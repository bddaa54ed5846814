//! What goes into the machine and what comes out.

use super::MemberId;
use crate::actors::group::error::GroupError;
use bytes::Bytes;

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<T> {
    /// [`ClassicGroup::durable`] changed.
    Recorded,
    /// Answer a JoinGroup.
    Join(T, JoinReply),
    /// Answer a SyncGroup.
    Sync(T, SyncReply),
}

/// The answer to a JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JoinReply {
    /// Why it failed.
    pub error: Option<GroupError>,
    /// Generation, -1 if it failed.
    pub generation: i32,
    /// Type of the group's protocols.
    pub protocol_type: Option<String>,
    /// Protocol of the generation.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: String,
    /// The leader need not compute an assignment.
    pub skip_assignment: bool,
    /// The member's id.
    pub member_id: String,
    /// For the leader: every member with its metadata.
    pub members: Vec<JoinedMember>,
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Member id.
    pub id: String,
    /// Static instance.
    pub instance: Option<String>,
    /// Metadata for the protocol of the generation.
    pub metadata: Bytes,
}

/// The answer to a SyncGroup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncReply {
    /// Why it failed.
    pub error: Option<GroupError>,
    /// Type of the group's protocols.
    pub protocol_type: Option<String>,
    /// Protocol of the generation.
    pub protocol: Option<String>,
    /// The member's assignment.
    pub assignment: Bytes,
}

impl SyncReply {
    pub(super) fn failed(error: GroupError) -> Self {
        Self { error: Some(error), ..Self::default() }
    }
}

/// A SyncGroup.
#[derive(Debug, Clone, Default)]
pub struct SyncRequest {
    /// Member.
    pub member_id: String,
    /// Static instance.
    pub instance: Option<String>,
    /// Its generation.
    pub generation: i32,
    /// What it believes the type to be.
    pub protocol_type: Option<String>,
    /// What it believes the protocol to be.
    pub protocol: Option<String>,
    /// From the leader: assignments by member id.
    pub assignments: Vec<(String, Bytes)>,
}

/// A timer that ran out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expired {
    /// The joining phase is over.
    Join,
    /// Members did not sync in time.
    Sync,
    /// A member was silent.
    Session(MemberId),
    /// Somebody did not come back with the member id it was given.
    Pending(MemberId),
}
