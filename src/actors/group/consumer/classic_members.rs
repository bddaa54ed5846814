//! Members of the classic protocol in a group of the consumer protocol: what JoinGroup, SyncGroup, Heartbeat and LeaveGroup
//! do there.
//!
//! To such a member its epoch is the generation. It joins at once, without waiting for others; it is told to join again
//! when the group has a new epoch, when it has to give partitions up, and when what it waits for is free. Its SyncGroup is
//! answered with what the coordinator assigned, whatever assignor it names.

use super::embedded::{self, Subscription};
use super::types::*;
use super::value::{ClassicPart, ConsumerMember, MemberState, contains, partitions};
use super::{ConsumerGroup, MemberId, member_id};
use crate::actors::group::classic::{GROUP_BYTES_MAX, JoinReply, JoinRequest, Now, SyncReply, SyncRequest};
use crate::actors::group::error::GroupError;
use crate::actors::group::value::Protocol;

/// Protocol type of consumers.
pub const CONSUMER: &str = "consumer";

impl ConsumerGroup {
    /// True if the group has members and all of them use the classic protocol.
    pub fn is_all_classic(&self) -> bool {
        !self.members.is_empty() && self.members().all(|m| m.classic.is_some())
    }

    /// JoinGroup. `unique` makes the id of a new member one that nobody had.
    pub fn classic_join(
        &mut self,
        now: Now,
        limits: &ConsumerLimits,
        topics: TopicsAt<'_>,
        request: JoinRequest,
        unique: &str,
    ) -> JoinReply {
        let sent_id = request.member_id.clone();
        match self.try_classic_join(now, limits, topics, request, unique) {
            Ok(reply) => reply,
            Err(error) => JoinReply { error: Some(error), generation: -1, member_id: sent_id, ..JoinReply::default() },
        }
    }

    fn try_classic_join(
        &mut self,
        now: Now,
        limits: &ConsumerLimits,
        topics: TopicsAt<'_>,
        request: JoinRequest,
        unique: &str,
    ) -> Result<JoinReply, GroupError> {
        let is_unknown = request.member_id.is_empty();
        let prefix = request.instance.as_deref().unwrap_or(&request.client_id);
        let id = if is_unknown { format!("{prefix}-{unique}") } else { request.member_id.clone() };
        let replaced = request.instance.as_ref().and_then(|i| self.statics.get(i)).cloned();
        if self.members.len() >= limits.members_max && !self.members.contains_key(id.as_str()) && replaced.is_none() {
            return Err(GroupError::MaxSizeReached);
        }
        let protocol = request.protocols.first().map(|p| p.name.clone());
        let protocol = protocol.filter(|_| self.supports_classic(&request)).ok_or(GroupError::InconsistentProtocol)?;
        if is_unknown && request.instance.is_none() && request.asks_for_id {
            let error = Some(GroupError::MemberIdRequired);
            return Ok(JoinReply { error, generation: -1, member_id: id, ..JoinReply::default() });
        }
        let subscription =
            embedded::subscription(&request.protocols[0].metadata).ok_or(GroupError::InconsistentProtocol)?;
        let before = match &replaced {
            Some(old) if is_unknown => Some(self.members[old].value.clone()),
            _ if request.instance.is_some() && !is_unknown => {
                Some(self.find(&id, request.instance.as_deref())?.value.clone())
            }
            _ => self.members.get(id.as_str()).map(|m| m.value.clone()),
        };
        // Who is not known any more has lost what it says that it owns: others may have it by now.
        if !is_unknown && before.is_none() && subscription.owned.iter().any(|(_, owned)| !owned.is_empty()) {
            return Err(GroupError::UnknownMemberId);
        }
        let member = joined(&id, request, &subscription, before.as_ref());
        let size_before = before.as_ref().map_or(0, ConsumerMember::byte_len);
        if self.bytes - size_before + member.byte_len() > GROUP_BYTES_MAX {
            return Err(GroupError::MaxSizeReached);
        }
        let changed = before.as_ref().is_none_or(|b| b.names != member.names || b.regex != member.regex);
        if let Some(old) = before.as_ref().filter(|b| b.id != id) {
            self.remove(&member_id(&old.id));
        }
        if before.as_ref() != Some(&member) {
            self.put(now, limits, member);
        }
        if changed {
            self.bump(now, topics);
        } else {
            self.refresh(now, topics);
        }
        self.retarget(now, limits, topics);
        let (id, owned) = (member_id(&id), embedded::by_id(&subscription.owned, topics.topics));
        self.reconcile(now, limits, &id, Some(&owned));
        self.touch(now, limits, &id);
        let member = self.members.get_mut(&id).expect("just put");
        // The sync has to follow.
        member.catch_up_deadline = Some(now.mono_ms + member.value.rebalance_timeout_ms.max(0) as u64);
        Ok(JoinReply {
            error: None,
            generation: member.value.epoch,
            protocol_type: Some(CONSUMER.to_owned()),
            protocol: Some(protocol),
            member_id: id.to_string(),
            ..JoinReply::default()
        })
    }

    /// Whether a member could go on together with the others if the group became a classic one.
    fn supports_classic(&self, request: &JoinRequest) -> bool {
        let others = || self.members().filter(|m| m.id != request.member_id).filter_map(|m| m.classic.as_ref());
        let by_all = |name: &str| others().all(|c| c.protocols.iter().any(|p| p.name == name));
        request.protocol_type == CONSUMER && request.protocols.iter().any(|p| by_all(&p.name))
    }

    fn find_classic(&self, id: &str, instance: Option<&str>) -> Result<&ConsumerMember, GroupError> {
        let member = &self.find(id, instance)?.value;
        if member.classic.is_some() { Ok(member) } else { Err(GroupError::UnknownMemberId) }
    }

    /// SyncGroup.
    pub fn classic_sync(
        &mut self,
        now: Now,
        limits: &ConsumerLimits,
        topics: TopicsAt<'_>,
        request: &SyncRequest,
    ) -> SyncReply {
        match self.try_classic_sync(topics, request) {
            Ok(reply) => {
                let id = member_id(&request.member_id);
                self.touch(now, limits, &id);
                self.members.get_mut(&id).expect("just found").catch_up_deadline = None;
                reply
            }
            Err(error) => {
                if error == GroupError::RebalanceInProgress {
                    self.expect_join(now, &request.member_id);
                }
                SyncReply { error: Some(error), ..SyncReply::default() }
            }
        }
    }

    fn try_classic_sync(&self, topics: TopicsAt<'_>, request: &SyncRequest) -> Result<SyncReply, GroupError> {
        let member = self.find_classic(&request.member_id, request.instance.as_deref())?;
        if member.epoch != request.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let protocol = first_protocol(member);
        let differs = |asked: &Option<String>, is: &str| asked.as_ref().is_some_and(|asked| asked != is);
        if differs(&request.protocol_type, CONSUMER) || differs(&request.protocol, &protocol.name) {
            return Err(GroupError::InconsistentProtocol);
        }
        // Who has to give partitions up has joined already, and joins again when it has done so.
        if self.epoch > member.epoch && member.state != MemberState::Unrevoked {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(SyncReply {
            error: None,
            protocol_type: Some(CONSUMER.to_owned()),
            protocol: Some(protocol.name.clone()),
            assignment: assignment_of(member, topics.topics),
        })
    }

    /// Heartbeat.
    pub fn classic_heartbeat(
        &mut self,
        now: Now,
        limits: &ConsumerLimits,
        topics: TopicsAt<'_>,
        caller: &crate::actors::group::call::Caller,
    ) -> Result<(), GroupError> {
        let member = self.find_classic(&caller.member_id, caller.instance.as_deref())?;
        let (epoch, state) = (member.epoch, member.state);
        let waits =
            partitions(&member.target).any(|key| !contains(&member.assigned, &key) && self.owners.contains_key(&key));
        if caller.generation != epoch {
            return Err(GroupError::IllegalGeneration);
        }
        self.touch(now, limits, &caller.member_id);
        self.refresh(now, topics);
        let must_join = match state {
            MemberState::Stable => epoch < self.epoch,
            MemberState::Unrevoked => true,
            MemberState::Unreleased => epoch < self.epoch || !waits,
        };
        if must_join {
            self.expect_join(now, &caller.member_id);
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// A member was told to join again.
    fn expect_join(&mut self, now: Now, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            let end = now.mono_ms + member.value.rebalance_timeout_ms.max(0) as u64;
            member.catch_up_deadline = member.catch_up_deadline.or(Some(end));
        }
    }

    /// LeaveGroup: an outcome for each. A member may be named by id, by instance, or by both.
    pub fn classic_leave(
        &mut self,
        now: Now,
        topics: TopicsAt<'_>,
        leaving: &[(String, Option<String>)],
    ) -> Vec<Result<(), GroupError>> {
        let mut outcomes = Vec::with_capacity(leaving.len());
        for (id, instance) in leaving {
            let found: Result<MemberId, GroupError> = if id.is_empty() {
                // An administrator removes a static member of which only the instance is known.
                let found = instance.as_ref().and_then(|i| self.statics.get(i)).cloned();
                found.ok_or(GroupError::UnknownMemberId)
            } else {
                self.find_classic(id, instance.as_deref()).map(|m| member_id(&m.id))
            };
            outcomes.push(found.map(|id| self.remove(&id)));
        }
        if outcomes.iter().any(Result::is_ok) {
            self.bump(now, topics);
        }
        outcomes
    }
}

/// The protocol that a member of the classic protocol was told to use: its first.
fn first_protocol(member: &ConsumerMember) -> &Protocol {
    let classic = member.classic.as_ref().expect("the caller looked");
    classic.protocols.first().expect("nobody joins without protocols")
}

/// What a member of the classic protocol may hold, as its client reads it.
pub(super) fn assignment_of(member: &ConsumerMember, topics: &dyn Topics) -> bytes::Bytes {
    let version = embedded::subscription(&first_protocol(member).metadata).map_or(0, |s| s.version);
    embedded::encode_assignment(version, &member.assigned, topics)
}

/// A member that joins with the classic protocol.
fn joined(
    id: &str,
    request: JoinRequest,
    subscription: &Subscription,
    before: Option<&ConsumerMember>,
) -> ConsumerMember {
    let is_same = before.is_some_and(|b| b.id == id);
    let fresh = |epoch: i32| if is_same { epoch } else { JOIN_EPOCH };
    let state = before.map_or(MemberState::Stable, |b| b.state);
    ConsumerMember {
        id: id.to_owned(),
        instance: request.instance,
        rack: subscription.rack.clone(),
        client_id: request.client_id,
        client_host: request.client_host,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        assignor: None,
        names: subscription.topics.clone(),
        regex: None,
        epoch: fresh(before.map_or(JOIN_EPOCH, |b| b.epoch)),
        previous_epoch: fresh(before.map_or(JOIN_EPOCH, |b| b.previous_epoch)),
        state: if is_same { state } else { MemberState::Stable },
        assigned: before.map(|b| b.assigned.clone()).unwrap_or_default(),
        revoking: before.filter(|_| is_same).map(|b| b.revoking.clone()).unwrap_or_default(),
        target: before.map(|b| b.target.clone()).unwrap_or_default(),
        classic: Some(ClassicPart { session_timeout_ms: request.session_timeout_ms, protocols: request.protocols }),
    }
}
