//! Why a group call failed. `protocol::error_code` turns these into Kafka's codes.

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The group id is empty or too long.
    #[error("the group id is empty or too long; set group.id")]
    InvalidGroupId,
    /// The session timeout is outside what this broker allows.
    #[error("the session timeout is outside the range this broker allows")]
    InvalidSessionTimeout,
    /// The member's protocol type or protocols do not fit those of the group.
    #[error("the member's protocols do not fit those of the group's other members")]
    InconsistentProtocol,
    /// The group has no such member.
    #[error("the group does not know this member; join again")]
    UnknownMemberId,
    /// The generation is not the group's present one.
    #[error("the generation is not the group's present one; join again")]
    IllegalGeneration,
    /// The group is rebalancing.
    #[error("the group is rebalancing; join again")]
    RebalanceInProgress,
    /// The member has to join again with the id it was given.
    #[error("join again with the member id of this reply")]
    MemberIdRequired,
    /// The group has its greatest size, in members or in bytes.
    #[error("the group has reached its greatest size")]
    MaxSizeReached,
    /// Another process uses the same group.instance.id.
    #[error("another process has joined with this group.instance.id")]
    FencedInstanceId,
    /// There is no such group.
    #[error("the group does not exist")]
    GroupIdNotFound,
    /// The group has members.
    #[error("the group has members; stop them first")]
    NonEmptyGroup,
    /// A member is subscribed to the topic.
    #[error("the group is subscribed to the topic")]
    SubscribedToTopic,
    /// The metadata of an offset is too long.
    #[error("the metadata string of the offset is too long")]
    OffsetMetadataTooLarge,
    /// The group has as many offsets as this broker keeps.
    #[error("the group has as many committed offsets as this broker keeps for one group")]
    TooManyOffsets,
    /// A heartbeat contradicts itself.
    #[error("the heartbeat is not valid: {0}")]
    InvalidRequest(&'static str),
    /// The assignor is not among those of the settings.
    #[error("the assignor is not supported; leave it to the broker, or take one of group.consumer.assignors")]
    UnsupportedAssignor,
    /// The member's epoch is not the one that the group knows.
    #[error("the member's epoch is not the one that the group knows; give up all partitions and join again")]
    FencedMemberEpoch,
    /// The member's epoch is not its present one; it learns that from its next heartbeat.
    #[error("the member's epoch is not its present one; try again after the next heartbeat")]
    StaleMemberEpoch,
    /// Another member has the static instance and did not leave.
    #[error("another member has this group.instance.id; it must leave first, or its session must end")]
    UnreleasedInstanceId,
    /// The regular expression cannot be read.
    #[error("the regular expression is not valid, or too large")]
    InvalidRegularExpression,
    /// Members of the consumer protocol have to commit with a version that has member epochs.
    #[error("members of the consumer protocol commit with version 9 of OffsetCommit or later")]
    UnsupportedVersion,
    /// The group is one of the consumer protocol.
    #[error("the group is not a classic group")]
    NotClassic,
    /// The group is one of the classic protocol.
    #[error("the group is not a consumer group")]
    NotConsumer,
    /// The groups are being read from the metadata store.
    #[error("the group is being loaded; try again")]
    Loading,
    /// This broker does not coordinate the group (any more).
    #[error("this broker does not coordinate the group; find its coordinator again")]
    NotCoordinator,
    /// The metadata store does not answer, or the coordinator is overloaded.
    #[error("the coordinator cannot serve the group now; try again")]
    NotAvailable,
}
