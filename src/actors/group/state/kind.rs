//! A group's members under either protocol, and what the coordinator asks of both.

use crate::actors::group::call::{Answer, Caller, ConsumerDescription, Description, GroupType, Listing, Outcome};
use crate::actors::group::classic::{ClassicGroup, Effect, Ms, Now, State};
use crate::actors::group::consumer::types::{ConsumerLimits, TopicsAt};
use crate::actors::group::consumer::{ConsumerGroup, ConsumerState};
use crate::actors::group::error::GroupError;
use crate::actors::group::offsets::Usage;
use crate::actors::group::value;
use crate::actors::group::writes::GroupId;
use bytes::Bytes;

/// Protocol type of groups of the consumer protocol.
const CONSUMER: &str = crate::actors::group::consumer::classic_members::CONSUMER;

/// See the module's documentation. `R` is where the answer to a parked request goes.
pub(super) enum Kind<R> {
    /// The classic protocol, or a group that only has offsets.
    Classic(Box<ClassicGroup<R>>),
    /// The consumer protocol.
    Consumer(Box<ConsumerGroup>),
}

impl<R> Kind<R> {
    pub fn size(&self) -> usize {
        match self {
            Self::Classic(group) => group.size(),
            Self::Consumer(group) => group.size(),
        }
    }

    /// True if there are neither members nor anybody who is about to become one.
    pub fn is_unused(&self) -> bool {
        match self {
            Self::Classic(group) => group.state() == State::Empty && group.is_empty(),
            Self::Consumer(group) => group.size() == 0,
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Classic(group) => group.bytes(),
            Self::Consumer(group) => group.bytes(),
        }
    }

    /// True if something is or will be stored of the members.
    pub fn is_stored(&self) -> bool {
        match self {
            Self::Classic(group) => group.durable().is_some(),
            Self::Consumer(group) => group.is_stored(),
        }
    }

    /// True if there is something to write that no effect announced.
    pub fn take_changed(&mut self) -> bool {
        match self {
            Self::Classic(_) => false,
            Self::Consumer(group) => group.take_changed(),
        }
    }

    pub fn next_deadline(&self) -> Option<Ms> {
        match self {
            Self::Classic(group) => group.next_deadline(),
            Self::Consumer(group) => group.next_deadline(),
        }
    }

    pub fn extend_sessions(&mut self, now: Now, limits: &ConsumerLimits) {
        match self {
            Self::Classic(group) => group.extend_sessions(now),
            Self::Consumer(group) => group.extend_sessions(now, limits),
        }
    }

    /// The value of the group's key; `None` if there is none.
    pub fn encode(&self) -> Option<Bytes> {
        match self {
            Self::Classic(group) => group.durable().map(|value| value::encode_group(value)),
            Self::Consumer(group) => Some(value::encode_consumer(&group.durable())),
        }
    }

    pub fn fail_parked(&mut self, error: GroupError, effects: &mut Vec<Effect<R>>) {
        if let Self::Classic(group) = self {
            group.fail_parked(error, effects);
        }
    }

    pub fn check_commit(&mut self, now: Now, limits: &ConsumerLimits, caller: &Caller) -> Result<(), GroupError> {
        match self {
            Self::Classic(group) => {
                group.check_commit(now, &caller.member_id, caller.instance.as_deref(), caller.generation)
            }
            Self::Consumer(group) => group.check_commit(now, limits, caller, caller.knows_epochs),
        }
    }

    /// Whether offsets may be deleted at all while there are members.
    pub fn check_offset_deletes(&self) -> Result<(), GroupError> {
        match self {
            Self::Classic(group) if group.state() != State::Empty && !group.is_of_consumers() => {
                Err(GroupError::NonEmptyGroup)
            }
            Self::Classic(_) | Self::Consumer(_) => Ok(()),
        }
    }

    /// Whether the offsets of `topic` may be deleted.
    pub fn check_offset_delete(&mut self, topic: &str, topics: TopicsAt<'_>) -> Result<(), GroupError> {
        match self {
            Self::Classic(group) => group.check_offset_delete(topic),
            Self::Consumer(group) => group.check_offset_delete(topic, topics),
        }
    }

    /// What decides about the age of its offsets.
    pub fn usage(&self) -> Usage<'_> {
        match self {
            Self::Classic(group) => match (group.state(), group.durable()) {
                (State::Empty, None) => Usage::CommitsOnly,
                (State::Empty, Some(_)) => Usage::EmptySince(group.since_ms()),
                (State::Stable, _) if group.is_of_consumers() => {
                    group.subscribed().map_or(Usage::InUse, Usage::Subscribed)
                }
                _ => Usage::InUse,
            },
            Self::Consumer(group) => match group.subscribed() {
                _ if group.size() == 0 => Usage::EmptySince(group.since_ms()),
                // Which topics match is known only while there are heartbeats.
                (_, true) => Usage::InUse,
                (names, false) => Usage::Subscribed(names),
            },
        }
    }

    pub fn listing(&self, id: &GroupId) -> Listing {
        let (kind, state, protocol_type) = match self {
            Self::Classic(group) => {
                (GroupType::Classic, group.state().name(), group.protocol_type().unwrap_or_default())
            }
            Self::Consumer(group) => (GroupType::Consumer, group.state().name(), CONSUMER),
        };
        Listing { group: id.clone(), kind, state, protocol_type: protocol_type.to_owned() }
    }

    /// DescribeGroups.
    pub fn describe(&self) -> Outcome {
        let Self::Classic(group) = self else { return Err(GroupError::NotClassic) };
        let is_stable = group.state() == State::Stable;
        let members = group.describe().into_iter().map(|(value, metadata)| {
            let mut value = value.clone();
            value.protocols.clear();
            if is_stable {
                return (value, metadata);
            }
            value.assignment = Bytes::new();
            (value, Bytes::new())
        });
        Ok(Answer::Described(Box::new(Description {
            state: group.state(),
            protocol_type: group.protocol_type().unwrap_or_default().to_owned(),
            protocol: group.protocol().filter(|_| is_stable).unwrap_or_default().to_owned(),
            members: members.collect(),
        })))
    }

    /// ConsumerGroupDescribe.
    pub fn describe_consumer(&self, limits: &ConsumerLimits) -> Outcome {
        let Self::Consumer(group) = self else { return Err(GroupError::NotConsumer) };
        let (epoch, target_epoch) = group.epochs();
        let state: ConsumerState = group.state();
        Ok(Answer::ConsumerDescribed(Box::new(ConsumerDescription {
            state: state.name(),
            epoch,
            target_epoch,
            assignor: group.preferred(limits).name(),
            members: group.members().cloned().collect(),
        })))
    }
}
