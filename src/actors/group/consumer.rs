//! One group of Kafka's consumer protocol (KIP-848), as a pure machine: members send heartbeats, the coordinator assigns.
//!
//! - The group epoch rises with every change that calls for a new assignment. The next heartbeat computes a target for all
//!   members, and each member moves towards its own: it first gives up what it must, then gets to the target's epoch, and
//!   then receives what others have given up. So a partition never has two owners; [`ConsumerGroup::put`] checks it.
//! - Time and topics come in with each call. Timers are deadlines in the state; [`ConsumerGroup::expire`] does what is due.
//! - What must survive the process is a [`ConsumerValue`]. Members change only through [`ConsumerGroup::put`] and
//!   [`ConsumerGroup::remove`], epochs only through [`ConsumerGroup::set_head`], live and in recovery;
//!   [`ConsumerGroup::take_changed`] says that there is something to write. Replies that follow from a change must not be
//!   sent before it is durable.
//! - Members of the classic protocol are served too ([`classic_members`]), so that a group can change its protocol while
//!   its members go on.
//!
//! The rules are those of Apache Kafka 4.1. Other than there, a member that joins again under an id that has moved on since
//! is a new member, whose partitions are free: an old join that arrives late cannot make two members hold one partition.

pub mod assignor;
pub mod classic_members;
pub mod convert;
pub mod embedded;
pub mod heartbeat;
#[cfg(test)]
mod migration_walk;
mod reconcile;
#[cfg(test)]
pub(super) mod simulation;
mod target;
#[cfg(test)]
mod tests;
pub mod types;
pub mod value;
#[cfg(test)]
mod walk;

use super::classic::{MemberId, Ms, Now};
use super::error::GroupError;
use crate::clock::WallMs;
use crate::ids::PartitionKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
pub use types::*;
use value::{ConsumerMember, ConsumerValue, MemberState};

/// A member with its timers.
#[derive(Debug)]
struct Member {
    value: ConsumerMember,
    session_deadline: Ms,
    /// Until when it must have given up what it has to, or, with the classic protocol, have joined again or synced.
    catch_up_deadline: Option<Ms>,
}

/// What a group is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerState {
    /// It has no members.
    Empty,
    /// A new target has to be computed.
    Assigning,
    /// Members are on their way to the target.
    Reconciling,
    /// Every member has what it should have.
    Stable,
}

impl ConsumerState {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ConsumerGroup {
    epoch: i32,
    target_epoch: i32,
    topics_hash: u64,
    since_ms: WallMs,
    members: BTreeMap<MemberId, Member>,
    /// Static members: instance to member id.
    statics: BTreeMap<String, MemberId>,
    /// Who holds a partition, or has not given it up yet.
    owners: HashMap<PartitionKey, MemberId>,
    bytes: usize,
    /// Topics that members are subscribed to by name.
    names: BTreeSet<String>,
    /// Version of the topics that `topics_hash` was compared with last.
    seen_topics: Option<u64>,
    patterns: BTreeMap<String, target::Pattern>,
    is_stored: bool,
    changed: bool,
}

impl ConsumerGroup {
    /// A group without members whose first epoch follows `epoch`.
    pub fn new(now: Now, epoch: i32) -> Self {
        Self {
            epoch,
            target_epoch: epoch,
            topics_hash: 0,
            since_ms: now.wall_ms,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            owners: HashMap::new(),
            bytes: 0,
            names: BTreeSet::new(),
            seen_topics: None,
            patterns: BTreeMap::new(),
            is_stored: false,
            changed: false,
        }
    }

    /// A group as a predecessor left it. Its members get a whole session to be heard of again.
    pub fn recover(limits: &ConsumerLimits, now: Now, value: ConsumerValue) -> Self {
        let mut group = Self::new(now, value.epoch);
        group.set_head(value.epoch, value.target_epoch, value.topics_hash, value.since_ms);
        for member in value.members {
            group.put(now, limits, member);
        }
        group.gather_names();
        group.is_stored = true;
        group.changed = false;
        group
    }

    /// What has to be durable, as it is now.
    pub fn durable(&self) -> ConsumerValue {
        ConsumerValue {
            epoch: self.epoch,
            target_epoch: self.target_epoch,
            topics_hash: self.topics_hash,
            since_ms: self.since_ms,
            members: self.members.values().map(|m| m.value.clone()).collect(),
        }
    }

    /// True once after the durable state changed.
    pub fn take_changed(&mut self) -> bool {
        self.is_stored |= self.changed;
        std::mem::take(&mut self.changed)
    }

    /// True if something is or will be stored of it.
    pub fn is_stored(&self) -> bool {
        self.is_stored || self.changed
    }

    /// What it is doing.
    pub fn state(&self) -> ConsumerState {
        let reconciled = |m: &Member| m.value.state == MemberState::Stable && m.value.epoch == self.target_epoch;
        if self.members.is_empty() {
            ConsumerState::Empty
        } else if self.epoch > self.target_epoch {
            ConsumerState::Assigning
        } else if self.members.values().all(|m| reconciled(m) || m.value.epoch == LEAVE_STATIC_EPOCH) {
            ConsumerState::Stable
        } else {
            ConsumerState::Reconciling
        }
    }

    /// Its epoch and the epoch of its target.
    pub fn epochs(&self) -> (i32, i32) {
        (self.epoch, self.target_epoch)
    }

    /// Wall time of the last change of its epoch, ms.
    pub fn since_ms(&self) -> WallMs {
        self.since_ms
    }

    /// Number of members.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Bytes of its members.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its members.
    pub fn members(&self) -> impl Iterator<Item = &ConsumerMember> {
        self.members.values().map(|m| &m.value)
    }

    /// Topics that members are subscribed to by name, and whether regular expressions may match others.
    pub fn subscribed(&self) -> (&BTreeSet<String>, bool) {
        (&self.names, self.members.values().any(|m| m.value.regex.is_some()))
    }

    /// Whether the offsets of `topic` may be deleted.
    pub fn check_offset_delete(&mut self, topic: &str, topics: TopicsAt<'_>) -> Result<(), GroupError> {
        let matched = topics.topics.find(topic).is_some_and(|(id, _)| self.is_matched(id, topics));
        if matched || self.names.contains(topic) { Err(GroupError::SubscribedToTopic) } else { Ok(()) }
    }

    /// Whether a member may commit offsets. `knows_epochs`: the client's API version (9 and later) is one that the
    /// consumer protocol demands.
    pub fn check_commit(
        &mut self,
        now: Now,
        limits: &ConsumerLimits,
        caller: &super::call::Caller,
        knows_epochs: bool,
    ) -> Result<(), GroupError> {
        if caller.generation < 0 && self.members.is_empty() {
            return Ok(()); // an administrator, or a consumer that assigns partitions itself
        }
        let member = self.find(&caller.member_id, caller.instance.as_deref())?;
        let (epoch, is_classic) = (member.value.epoch, member.value.classic.is_some());
        if !is_classic && !knows_epochs {
            return Err(GroupError::UnsupportedVersion);
        }
        if caller.generation != epoch {
            return Err(if is_classic { GroupError::IllegalGeneration } else { GroupError::StaleMemberEpoch });
        }
        if is_classic {
            self.touch(now, limits, &caller.member_id);
        }
        Ok(())
    }

    /// Whether somebody who says that it is a member may see the offsets.
    pub fn check_fetch(&self, member_id: &str, epoch: i32) -> Result<(), GroupError> {
        let member = self.members.get(member_id).ok_or(GroupError::UnknownMemberId)?;
        if member.value.epoch == epoch { Ok(()) } else { Err(GroupError::StaleMemberEpoch) }
    }

    /// The next time at which [`Self::expire`] has something to do, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Ms> {
        let timers = |m: &Member| m.catch_up_deadline.map_or(m.session_deadline, |at| at.min(m.session_deadline));
        self.members.values().map(timers).min()
    }

    /// Removes members that were silent or did not catch up in time; returns them.
    pub fn expire(&mut self, now: Now, topics: TopicsAt<'_>) -> Vec<MemberId> {
        let due =
            |m: &Member| m.session_deadline <= now.mono_ms || m.catch_up_deadline.is_some_and(|at| at <= now.mono_ms);
        let lost: Vec<MemberId> = self.members.iter().filter(|(_, m)| due(m)).map(|(id, _)| id.clone()).collect();
        if !lost.is_empty() {
            lost.iter().for_each(|id| self.remove(id));
            self.bump(now, topics);
        }
        lost
    }

    /// Gives every member a whole session from now: after this process stood still and has not read yet what was sent
    /// meanwhile.
    pub fn extend_sessions(&mut self, now: Now, limits: &ConsumerLimits) {
        for member in self.members.values_mut() {
            member.session_deadline = session_end(now, limits, &member.value);
            member.catch_up_deadline =
                member.catch_up_deadline.map(|at| at.max(now.mono_ms + super::classic::GRACE_MS));
        }
    }

    fn touch(&mut self, now: Now, limits: &ConsumerLimits, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.session_deadline = session_end(now, limits, &member.value);
        }
    }

    /// The member with this id; a static one under its instance.
    fn find(&self, id: &str, instance: Option<&str>) -> Result<&Member, GroupError> {
        if let Some(instance) = instance {
            let owner = self.statics.get(instance).ok_or(GroupError::UnknownMemberId)?;
            if &**owner != id {
                return Err(GroupError::FencedInstanceId);
            }
        }
        self.members.get(id).ok_or(GroupError::UnknownMemberId)
    }

    /// Makes this the state of the member with this id, new or known. The one way in which members change.
    fn put(&mut self, now: Now, limits: &ConsumerLimits, value: ConsumerMember) {
        let id: MemberId = value.id.as_str().into();
        let known = self.members.remove(&id);
        let is_unrevoked = value.state == MemberState::Unrevoked && value.classic.is_none();
        let (session_deadline, catch_up) = match known {
            Some(known) => {
                self.forget(&known.value);
                let same = !is_unrevoked || known.value.revoking == value.revoking;
                (known.session_deadline, known.catch_up_deadline.filter(|_| same))
            }
            None => (session_end(now, limits, &value), None),
        };
        let end = || now.mono_ms + value.rebalance_timeout_ms.max(0) as u64;
        let catch_up_deadline = match (is_unrevoked, value.classic.is_some()) {
            (true, _) => Some(catch_up.unwrap_or_else(end)),
            (false, true) => catch_up,
            (false, false) => None,
        };
        for key in value.held() {
            let other = self.owners.insert(key, id.clone());
            assert!(other.is_none(), "{key} of {other:?} was given to {id}");
        }
        self.statics.extend(value.instance.clone().map(|instance| (instance, id.clone())));
        self.bytes += value.byte_len();
        self.members.insert(id, Member { value, session_deadline, catch_up_deadline });
        self.changed = true;
    }

    /// Forgets a member. The one way in which members go.
    fn remove(&mut self, id: &MemberId) {
        if let Some(member) = self.members.remove(id) {
            self.forget(&member.value);
            self.changed = true;
        }
    }

    fn forget(&mut self, value: &ConsumerMember) {
        self.bytes -= value.byte_len();
        value.held().for_each(|key| drop(self.owners.remove(&key)));
        if let Some(instance) = &value.instance {
            self.statics.remove(instance);
        }
    }

    fn gather_names(&mut self) {
        self.names = self.members.values().flat_map(|m| m.value.names.iter().cloned()).collect();
    }

    /// The one way in which epochs change.
    fn set_head(&mut self, epoch: i32, target_epoch: i32, topics_hash: u64, since_ms: WallMs) {
        assert!(epoch >= self.epoch && target_epoch <= epoch, "epochs never go back");
        (self.epoch, self.target_epoch) = (epoch, target_epoch);
        (self.topics_hash, self.since_ms) = (topics_hash, since_ms);
        self.changed = true;
    }
}

/// When a member that was heard of now will have been silent for too long.
fn session_end(now: Now, limits: &ConsumerLimits, value: &ConsumerMember) -> Ms {
    let timeout_ms = value.classic.as_ref().map_or(limits.session_timeout_ms(), |c| c.session_timeout_ms);
    now.mono_ms + timeout_ms.max(0) as u64
}

/// A member id as the maps have it.
fn member_id(id: &str) -> MemberId {
    Arc::from(id)
}
