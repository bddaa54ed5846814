//! Domain errors become Kafka error codes here and nowhere else.
//!
//! Everything that may pass is answered with a code that clients retry. `UNKNOWN_SERVER_ERROR` is never used: the Java
//! producer gives up on it, and what was in flight is then lost or written twice.

use crate::actors::group::error::GroupError;
use crate::actors::partition::handle::AppendError;
use crate::broker::RaiseError;
use crate::metadata::admin::AdminError;
use crate::protocol::config_change::ChangeError;
use crate::protocol::validate::RejectedBatch;
use crate::storage::reader::ReadError;
pub use kafka_protocol::ResponseError as ErrorCode;

/// The number on the wire; 0 for success.
pub fn number(error: Option<ErrorCode>) -> i16 {
    error.map_or(0, |e| e.code())
}

/// Why an append failed, or why its outcome is not known.
pub fn of_append(error: &AppendError) -> ErrorCode {
    match error {
        AppendError::NotLeader => ErrorCode::NotLeaderOrFollower,
        AppendError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        // The batch may or may not become durable. Clients retry both 6 and 7, but librdkafka reads 6 as "certainly
        // not written" and 7 as "possibly written", which is the truth.
        AppendError::Interrupted => ErrorCode::RequestTimedOut,
        // Not written. Retried after a back-off by every client, without a metadata refresh.
        AppendError::Overloaded | AppendError::StoreUnavailable | AppendError::PredecessorMissing => {
            ErrorCode::NotEnoughReplicas
        }
    }
}

/// Why a batch was refused before it reached the partition.
pub fn of_batch(error: &RejectedBatch) -> ErrorCode {
    match error {
        RejectedBatch::Crc { .. } | RejectedBatch::Length { .. } => ErrorCode::CorruptMessage,
        RejectedBatch::NotOneBatch { .. }
        | RejectedBatch::Magic(_)
        | RejectedBatch::Invalid(_)
        | RejectedBatch::Records(_)
        | RejectedBatch::NullKeys { .. } => ErrorCode::InvalidRecord,
        RejectedBatch::TooLarge { .. } => ErrorCode::MessageTooLarge,
        RejectedBatch::Codec(_) | RejectedBatch::ZstdTooNew => ErrorCode::UnsupportedCompressionType,
        RejectedBatch::Timestamp { .. } | RejectedBatch::TimestampType => ErrorCode::InvalidTimestamp,
        // What Kafka answers when no transaction was begun; fatal for the producer, so that it does not loop.
        RejectedBatch::Transactional => ErrorCode::InvalidTxnState,
    }
}

/// Why a read failed.
pub fn of_read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::OutOfRange => ErrorCode::OffsetOutOfRange,
        ReadError::Store(_) => ErrorCode::KafkaStorageError,
    }
}

/// Why an administrative change failed.
pub fn of_admin(error: &AdminError) -> ErrorCode {
    match error {
        AdminError::TopicExists(_) => ErrorCode::TopicAlreadyExists,
        AdminError::UnknownTopic(_) => ErrorCode::UnknownTopicOrPartition,
        AdminError::NotMorePartitions { .. } => ErrorCode::InvalidPartitions,
        AdminError::Config(error) => of_change(error),
        // The change may have been applied; a retry finds out.
        AdminError::Metadata(_) => ErrorCode::RequestTimedOut,
    }
}

/// Why configs are not changed.
pub fn of_change(error: &ChangeError) -> ErrorCode {
    match error {
        ChangeError::Duplicate(_)
        | ChangeError::NoValue(_)
        | ChangeError::NotDynamic(_)
        | ChangeError::BrokerValue(_) => ErrorCode::InvalidRequest,
        ChangeError::NotAList(_) | ChangeError::UnknownOfGroup(_) | ChangeError::Topic(_) => ErrorCode::InvalidConfig,
    }
}

/// Why a log start was not raised, or why that is not known.
pub fn of_raise(error: &RaiseError) -> ErrorCode {
    match error {
        RaiseError::NotOwned => ErrorCode::NotLeaderOrFollower,
        RaiseError::Metadata(_) => ErrorCode::RequestTimedOut,
    }
}

/// Why a group call failed.
pub fn of_group(error: GroupError) -> ErrorCode {
    match error {
        GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::InconsistentProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::UnknownMemberId => ErrorCode::UnknownMemberId,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::MemberIdRequired => ErrorCode::MemberIdRequired,
        GroupError::MaxSizeReached => ErrorCode::GroupMaxSizeReached,
        GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
        GroupError::GroupIdNotFound => ErrorCode::GroupIdNotFound,
        GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
        GroupError::SubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
        GroupError::OffsetMetadataTooLarge => ErrorCode::OffsetMetadataTooLarge,
        GroupError::TooManyOffsets => ErrorCode::InvalidCommitOffsetSize,
        GroupError::InvalidRequest(_) => ErrorCode::InvalidRequest,
        GroupError::UnsupportedAssignor => ErrorCode::UnsupportedAssignor,
        GroupError::FencedMemberEpoch => ErrorCode::FencedMemberEpoch,
        GroupError::StaleMemberEpoch => ErrorCode::StaleMemberEpoch,
        GroupError::UnreleasedInstanceId => ErrorCode::UnreleasedInstanceId,
        GroupError::InvalidRegularExpression => ErrorCode::InvalidRegularExpression,
        GroupError::UnsupportedVersion => ErrorCode::UnsupportedVersion,
        GroupError::NotClassic | GroupError::NotConsumer => ErrorCode::GroupIdNotFound,
        GroupError::Loading => ErrorCode::CoordinatorLoadInProgress,
        GroupError::NotCoordinator => ErrorCode::NotCoordinator,
        GroupError::NotAvailable => ErrorCode::CoordinatorNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::MetadataError;
    use crate::storage::StoreError;

    #[test]
    fn what_may_pass_is_retriable() {
        use AppendError::{Interrupted, NotLeader, Overloaded, PredecessorMissing, StoreUnavailable};
        let appends = [NotLeader, Interrupted, Overloaded, StoreUnavailable, PredecessorMissing];
        assert!(appends.iter().all(|e| of_append(e).is_retriable()));
        let groups = [GroupError::Loading, GroupError::NotCoordinator, GroupError::NotAvailable];
        assert!(groups.iter().all(|e| of_group(*e).is_retriable()));
        let read = ReadError::Store(StoreError::Unavailable { message: String::new() });
        assert!(of_read(&read).is_retriable());
        let admin = AdminError::Metadata(MetadataError::Unavailable { message: String::new() });
        assert!(of_admin(&admin).is_retriable());
        let unknown = RaiseError::Metadata(MetadataError::Unavailable { message: String::new() });
        assert!([RaiseError::NotOwned, unknown].iter().all(|e| of_raise(e).is_retriable()));
    }
}
