//! What goes into the machine and what comes out.

use super::value::Assignment;
use crate::ids::TopicId;
use crate::metadata::image::ClusterImage;
use crate::protocol::group_config::{GroupBounds, GroupOverrides};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Member epoch of a member that joins.
pub const JOIN_EPOCH: i32 = 0;
/// Member epoch of a member that leaves.
pub const LEAVE_EPOCH: i32 = -1;
/// Member epoch of a static member that leaves and will come back.
pub const LEAVE_STATIC_EPOCH: i32 = -2;

/// A rule by which partitions are spread over members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignor {
    /// As even as can be, moving as little as can be.
    Uniform,
    /// Ranges of each topic's partitions; topics with as many partitions are cut alike.
    Range,
}

impl Assignor {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// The assignor with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }
}

/// Which groups may change their protocol while they have members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationPolicy {
    /// None.
    Disabled,
    /// From classic to consumer.
    Upgrade,
    /// From consumer to classic.
    Downgrade,
    /// Both.
    Bidirectional,
}

impl MigrationPolicy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Disabled, Self::Upgrade, Self::Downgrade, Self::Bidirectional];

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
            Self::Bidirectional => "bidirectional",
        }
    }

    /// The policy with this name, whatever its case.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }

    /// Classic groups may become consumer groups.
    pub fn upgrades(self) -> bool {
        matches!(self, Self::Upgrade | Self::Bidirectional)
    }

    /// Consumer groups may become classic groups.
    pub fn downgrades(self) -> bool {
        matches!(self, Self::Downgrade | Self::Bidirectional)
    }
}

/// Settings of groups of the consumer protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerLimits {
    /// Session timeout and heartbeat interval: what they are, and what groups may set instead.
    pub bounds: GroupBounds,
    /// Most members.
    pub members_max: usize,
    /// Assignors that members may ask for; the first is that of members who do not ask.
    pub assignors: [Option<Assignor>; 2],
    /// Which groups may change their protocol while they have members.
    pub migration: MigrationPolicy,
}

impl Default for ConsumerLimits {
    fn default() -> Self {
        Self {
            bounds: GroupBounds::default(),
            members_max: i32::MAX as usize,
            assignors: Assignor::ALL.map(Some),
            migration: MigrationPolicy::Bidirectional,
        }
    }
}

impl ConsumerLimits {
    /// These settings with what a group sets itself, brought into the range of now.
    pub fn of_group(&self, overrides: GroupOverrides) -> Self {
        Self { bounds: self.bounds.with(overrides), ..*self }
    }

    /// How long a member may be silent, ms.
    pub fn session_timeout_ms(&self) -> i32 {
        self.bounds.session_timeout.default_ms
    }

    /// How often members send heartbeats, ms.
    pub fn heartbeat_interval_ms(&self) -> i32 {
        self.bounds.heartbeat_interval.default_ms
    }

    /// Assignors that members may ask for.
    pub fn assignors(&self) -> impl Iterator<Item = Assignor> {
        self.assignors.into_iter().flatten()
    }
}

/// The topics that there are, and what groups set themselves.
pub trait Topics: fmt::Debug + Send + Sync {
    /// Id and number of partitions of a topic.
    fn find(&self, name: &str) -> Option<(TopicId, i32)>;
    /// Name and number of partitions of a topic.
    fn by_id(&self, id: TopicId) -> Option<(Arc<str>, i32)>;
    /// Names and ids of all topics.
    fn all(&self) -> Vec<(Arc<str>, TopicId)>;
    /// What a group sets itself.
    fn overrides(&self, _group: &str) -> GroupOverrides {
        GroupOverrides::default()
    }
}

impl Topics for ClusterImage {
    fn find(&self, name: &str) -> Option<(TopicId, i32)> {
        self.topic(name).map(|t| (t.value.id, t.value.partitions))
    }

    fn by_id(&self, id: TopicId) -> Option<(Arc<str>, i32)> {
        self.topic_by_id(id).map(|t| (t.name.clone(), t.value.partitions))
    }

    fn all(&self) -> Vec<(Arc<str>, TopicId)> {
        self.topics().map(|t| (t.name.clone(), t.value.id)).collect()
    }

    fn overrides(&self, group: &str) -> GroupOverrides {
        self.group_overrides(group)
    }
}

/// The topics that there are, with a number that changes whenever they change.
#[derive(Debug, Clone, Copy)]
pub struct TopicsAt<'a> {
    /// The topics.
    pub topics: &'a dyn Topics,
    /// The number.
    pub version: u64,
}

/// A ConsumerGroupHeartbeat. `None` means that nothing changed since the last one.
#[derive(Debug, Clone, Default)]
pub struct HeartbeatRequest {
    /// Member id; empty only for a member that lets the coordinator choose one.
    pub member_id: String,
    /// Member epoch, or what the member wants.
    pub epoch: i32,
    /// Static instance.
    pub instance: Option<String>,
    /// Rack.
    pub rack: Option<String>,
    /// How long the member may take to give partitions up, ms; -1 for no change.
    pub rebalance_timeout_ms: i32,
    /// Topics it is subscribed to.
    pub names: Option<BTreeSet<String>>,
    /// Topics it is subscribed to; empty for none.
    pub regex: Option<String>,
    /// The assignor it asks for.
    pub assignor: Option<String>,
    /// Partitions it holds.
    pub owned: Option<Assignment>,
    /// Client id.
    pub client_id: String,
    /// Address of the client.
    pub client_host: String,
    /// The client's API version (1 and later) makes member ids itself.
    pub brings_id: bool,
}

/// The answer to a ConsumerGroupHeartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The member's id.
    pub member_id: String,
    /// Its epoch.
    pub epoch: i32,
    /// How often it should send heartbeats, ms; 0 when it left.
    pub heartbeat_interval_ms: i32,
    /// What it may hold; `None`: what it was told before.
    pub assignment: Option<Assignment>,
}
