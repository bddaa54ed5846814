//! ConsumerGroupHeartbeat: joining, going on, leaving.

use super::types::*;
use super::value::{Assignment, ConsumerMember, MemberState, contains, partitions};
use super::{ConsumerGroup, MemberId, member_id, reconcile};
use crate::actors::group::classic::{GROUP_BYTES_MAX, Now};
use crate::actors::group::error::GroupError;

/// Whether a heartbeat makes sense by itself, whatever the group.
pub fn check(limits: &ConsumerLimits, request: &HeartbeatRequest) -> Result<(), GroupError> {
    let empty = |text: &Option<String>| text.as_ref().is_some_and(|t| t.trim().is_empty());
    let needs_id = request.brings_id || request.epoch > 0 || request.epoch == LEAVE_EPOCH;
    if needs_id && request.member_id.trim().is_empty() {
        return Err(GroupError::InvalidRequest("the member id is empty"));
    }
    if empty(&request.instance) || empty(&request.rack) {
        return Err(GroupError::InvalidRequest("the instance id and the rack id cannot be empty"));
    }
    match request.epoch {
        JOIN_EPOCH if request.rebalance_timeout_ms == -1 => {
            return Err(GroupError::InvalidRequest("the rebalance timeout is missing in the first heartbeat"));
        }
        JOIN_EPOCH if request.owned.as_ref().is_none_or(|owned| !owned.is_empty()) => {
            return Err(GroupError::InvalidRequest("a member that joins cannot own partitions"));
        }
        JOIN_EPOCH if request.names.is_none() && request.regex.is_none() => {
            return Err(GroupError::InvalidRequest("the subscription is missing in the first heartbeat"));
        }
        LEAVE_STATIC_EPOCH if request.instance.is_none() => {
            return Err(GroupError::InvalidRequest("only static members leave with epoch -2"));
        }
        ..=-3 => return Err(GroupError::InvalidRequest("the member epoch is below -2")),
        _ => {}
    }
    let known = |name: &String| limits.assignors().any(|a| a.name() == name.as_str());
    if request.assignor.as_ref().is_some_and(|name| !known(name)) {
        return Err(GroupError::UnsupportedAssignor);
    }
    Ok(())
}

impl ConsumerGroup {
    /// A heartbeat that passed [`check`].
    pub fn heartbeat(
        &mut self,
        now: Now,
        limits: &ConsumerLimits,
        topics: TopicsAt<'_>,
        request: HeartbeatRequest,
    ) -> Result<HeartbeatReply, GroupError> {
        if request.epoch < 0 {
            return self.leave(now, limits, topics, request);
        }
        let id = member_id(&request.member_id);
        let replaced = request.instance.as_ref().and_then(|i| self.statics.get(i)).cloned();
        if self.members.len() >= limits.members_max && !self.members.contains_key(&id) && replaced.is_none() {
            return Err(GroupError::MaxSizeReached);
        }
        let before = if request.epoch == JOIN_EPOCH {
            self.joining(&id, &request, replaced.as_ref())?
        } else {
            Before::Known(self.going_on(&id, &request)?.clone())
        };
        let regex = request.regex.as_deref().filter(|r| !r.is_empty());
        let mut member = before.member(&request);
        let is_new = matches!(before, Before::Nobody | Before::Again(_));
        let subscription_changed = is_new
            || request.names.as_ref().is_some_and(|names| *names != member.names)
            || request.regex.is_some() && regex != member.regex.as_deref();
        update(&mut member, &request);
        if self.bytes - before.byte_len() + member.byte_len() > GROUP_BYTES_MAX {
            return Err(GroupError::MaxSizeReached);
        }
        // Nothing after this is refused: an expression that is remembered is that of a member.
        regex.map_or(Ok(()), |regex| self.learn(regex))?;
        if let Before::Replaced(old) | Before::Again(old) = &before {
            self.remove(&member_id(&old.id));
        }
        if !matches!(&before, Before::Known(known) if *known == member) {
            self.put(now, limits, member);
        }
        if subscription_changed {
            self.bump(now, topics);
        } else {
            self.refresh(now, topics);
        }
        self.retarget(now, limits, topics);
        let owned = request.owned.as_ref();
        self.reconcile(now, limits, &id, owned);
        self.touch(now, limits, &id);
        let after = &self.members[&id].value;
        let is_full = request.epoch == JOIN_EPOCH
            || request.rebalance_timeout_ms != -1
                && (request.names.is_some() || request.regex.is_some())
                && request.owned.is_some();
        // What it reports tells whether it heard what it was told.
        let missed = request.owned.as_ref().is_some_and(|owned| *owned != after.assigned);
        let news = is_full || missed || !matches!(&before, Before::Known(known) if known.assigned == after.assigned);
        Ok(HeartbeatReply {
            member_id: request.member_id,
            epoch: after.epoch,
            heartbeat_interval_ms: limits.heartbeat_interval_ms(),
            assignment: news.then(|| after.assigned.clone()),
        })
    }

    /// Who a member that joins was before.
    fn joining(
        &self,
        id: &MemberId,
        request: &HeartbeatRequest,
        replaced: Option<&MemberId>,
    ) -> Result<Before, GroupError> {
        if let Some(old) = replaced.filter(|old| *old != id) {
            let old = &self.members[old].value;
            // The process before has to say that it is gone; one with the classic protocol cannot.
            if old.classic.is_none() && old.epoch != LEAVE_STATIC_EPOCH {
                return Err(GroupError::UnreleasedInstanceId);
            }
            if self.members.contains_key(id) {
                return Err(GroupError::FencedInstanceId);
            }
            return Ok(Before::Replaced(old.clone()));
        }
        let Some(known) = self.members.get(id).map(|m| &m.value) else { return Ok(Before::Nobody) };
        if known.instance != request.instance {
            return Err(GroupError::FencedInstanceId);
        }
        if known.epoch == LEAVE_STATIC_EPOCH {
            return Ok(Before::Replaced(known.clone()));
        }
        // It did not get the answer to its first heartbeat.
        let unanswered = known.previous_epoch == JOIN_EPOCH
            && known.classic.is_none()
            && known.state != MemberState::Unrevoked
            && (known.epoch, self.target_epoch) == (self.epoch, self.epoch);
        Ok(if unanswered { Before::Known(known.clone()) } else { Before::Again(known.clone()) })
    }

    /// The member that a heartbeat with an epoch is of.
    fn going_on(&self, id: &MemberId, request: &HeartbeatRequest) -> Result<&ConsumerMember, GroupError> {
        let known = &self.find(id, request.instance.as_deref())?.value;
        let subset = |owned: &Assignment| partitions(owned).all(|key| contains(&known.assigned, &key));
        // The answer with the new epoch may be lost.
        let is_late = request.epoch == known.previous_epoch && request.owned.as_ref().is_some_and(subset);
        if known.epoch == request.epoch || (request.epoch < known.epoch && is_late) {
            return Ok(known);
        }
        Err(GroupError::FencedMemberEpoch)
    }

    /// Takes the next step of a member towards its target.
    pub(super) fn reconcile(&mut self, now: Now, limits: &ConsumerLimits, id: &MemberId, owned: Option<&Assignment>) {
        let member = &self.members[id].value;
        let is_free = |key: &crate::ids::PartitionKey| self.owners.get(key).is_none_or(|owner| owner == id);
        let next = reconcile::step(member, self.target_epoch, owned, is_free);
        if next != *member {
            self.put(now, limits, next);
        }
    }

    fn leave(
        &mut self,
        now: Now,
        limits: &ConsumerLimits,
        topics: TopicsAt<'_>,
        request: HeartbeatRequest,
    ) -> Result<HeartbeatReply, GroupError> {
        let mut member = self.find(&request.member_id, request.instance.as_deref())?.value.clone();
        if request.epoch == LEAVE_STATIC_EPOCH {
            // Its partitions wait for it until its session ends.
            member.epoch = LEAVE_STATIC_EPOCH;
            member.revoking = Assignment::new();
            if member.state == MemberState::Unrevoked {
                member.state = MemberState::Stable;
            }
            self.put(now, limits, member);
        } else {
            self.remove(&member_id(&request.member_id));
            self.bump(now, topics);
        }
        Ok(HeartbeatReply {
            member_id: request.member_id,
            epoch: request.epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        })
    }
}

/// Who sends a heartbeat, as far as the group knows.
enum Before {
    /// A new member.
    Nobody,
    /// This one.
    Known(ConsumerMember),
    /// This static member, whose process was started again.
    Replaced(ConsumerMember),
    /// This one, which has lost what it had.
    Again(ConsumerMember),
}

impl Before {
    fn byte_len(&self) -> usize {
        match self {
            Self::Nobody => 0,
            Self::Known(member) | Self::Replaced(member) | Self::Again(member) => member.byte_len(),
        }
    }

    /// The member to begin with.
    fn member(&self, request: &HeartbeatRequest) -> ConsumerMember {
        match self {
            Self::Known(member) => member.clone(),
            Self::Replaced(old) => ConsumerMember {
                id: request.member_id.clone(),
                epoch: JOIN_EPOCH,
                previous_epoch: JOIN_EPOCH,
                state: MemberState::Stable,
                revoking: Assignment::new(),
                ..old.clone()
            },
            // What it should have had is remembered, so that it gets it again.
            Self::Again(old) => ConsumerMember { target: old.target.clone(), ..new_member(request) },
            Self::Nobody => new_member(request),
        }
    }
}

fn new_member(request: &HeartbeatRequest) -> ConsumerMember {
    ConsumerMember {
        id: request.member_id.clone(),
        instance: request.instance.clone(),
        rack: None,
        client_id: String::new(),
        client_host: String::new(),
        rebalance_timeout_ms: 0,
        assignor: None,
        names: Default::default(),
        regex: None,
        epoch: JOIN_EPOCH,
        previous_epoch: JOIN_EPOCH,
        state: MemberState::Stable,
        assigned: Assignment::new(),
        revoking: Assignment::new(),
        target: Assignment::new(),
        classic: None,
    }
}

/// What a member says about itself now.
fn update(member: &mut ConsumerMember, request: &HeartbeatRequest) {
    let keep = |old: &mut Option<String>, new: &Option<String>| {
        if new.is_some() {
            old.clone_from(new);
        }
    };
    keep(&mut member.rack, &request.rack);
    keep(&mut member.assignor, &request.assignor);
    if request.rebalance_timeout_ms != -1 {
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if let Some(names) = &request.names {
        member.names.clone_from(names);
    }
    if let Some(regex) = &request.regex {
        member.regex = Some(regex.clone()).filter(|r| !r.is_empty());
    }
    member.client_id.clone_from(&request.client_id);
    member.client_host.clone_from(&request.client_host);
    member.classic = None;
}
