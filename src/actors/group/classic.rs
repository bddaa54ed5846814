//! One group of Kafka's classic protocol, as a pure machine: join, sync, heartbeat, leave.
//!
//! - Time comes in with each call. Timers are deadlines in the state; [`ClassicGroup::expire`] does what is due.
//! - What must survive the process is a [`GroupValue`]. Every change of it goes through [`ClassicGroup::replay`], live
//!   and in recovery, and is announced by [`Effect::Recorded`]; replies that follow from it come after it and must not
//!   be sent before it is durable. Unlike in Apache Kafka the end of the joining phase is a record of its own: a
//!   generation that a client has heard of is never given to others, and its members stay known.
//! - Metadata and assignments are opaque, except that topic names are looked for in those of type `consumer`.
//! - A parked request is a token `T`. Each token is answered exactly once.
//!
//! The rules are those of Apache Kafka 4.1's classic group. `join.rs` has JoinGroup, `rebalance.rs` what a rebalance does.

mod join;
mod pending;
mod rebalance;
mod subscription;
#[cfg(test)]
mod tests;
mod types;
#[cfg(test)]
mod walk;

use super::error::GroupError;
use super::value::{GroupValue, MemberValue, Phase, Protocol};
use crate::clock::WallMs;
use bytes::Bytes;
pub use join::JoinRequest;
use pending::Pending;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
pub use types::{Effect, Expired, JoinReply, JoinedMember, SyncReply, SyncRequest};

/// Monotonic milliseconds.
pub type Ms = u64;
/// Id of a member.
pub type MemberId = Arc<str>;

/// How long a new member's JoinGroup may wait, ms: it has no id yet, so it cannot be missed by its heartbeats.
pub const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 300_000;
/// What a rebalance has at least after this process stood still, ms.
pub const GRACE_MS: u64 = 5_000;
/// Metadata, assignments and names of one group, bytes. A metadata key holds them all.
pub const GROUP_BYTES_MAX: usize = 1 << 20;

/// The time of a call.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For timers.
    pub mono_ms: Ms,
    /// For what people and successors see.
    pub wall_ms: WallMs,
}

/// Settings of all groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Shortest session timeout, ms.
    pub session_timeout_ms_min: i32,
    /// Longest session timeout, ms.
    pub session_timeout_ms_max: i32,
    /// How long the first rebalance of an empty group waits for more members, ms.
    pub initial_rebalance_delay_ms: u64,
    /// Most members.
    pub members_max: usize,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self {
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            members_max: i32::MAX as usize,
        }
    }
}

/// What a group is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has no members.
    Empty,
    /// Members are joining.
    PreparingRebalance,
    /// Members wait for the leader's assignment.
    CompletingRebalance,
    /// Every member has its assignment.
    Stable,
}

impl State {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// A member with the requests it waits for.
#[derive(Debug)]
struct Member<T> {
    value: MemberValue,
    /// It has not been part of a generation yet.
    is_new: bool,
    joining: Option<T>,
    syncing: Option<T>,
    /// `None` while a parked request shows that it is alive.
    session_deadline: Option<Ms>,
}

impl<T> Member<T> {
    fn of(value: MemberValue) -> Self {
        Self { value, is_new: false, joining: None, syncing: None, session_deadline: None }
    }

    fn metadata(&self, protocol: Option<&str>) -> Bytes {
        let found = self.value.protocols.iter().find(|p| Some(p.name.as_str()) == protocol);
        found.map(|p| p.metadata.clone()).unwrap_or_default()
    }

    fn extend_session(&mut self, now: Now) {
        self.session_deadline = Some(now.mono_ms + self.value.session_timeout_ms.max(0) as u64);
    }
}

/// End of the joining phase.
#[derive(Debug, Clone, Copy)]
struct JoinTimer {
    deadline: Ms,
    /// Set in the first rebalance of an empty group: ms by which it may still be put off, and the last delay.
    initial: Option<(u64, u64)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ClassicGroup<T> {
    limits: GroupLimits,
    state: State,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<MemberId>,
    since_ms: WallMs,
    members: BTreeMap<MemberId, Member<T>>,
    /// Static members: instance to member id.
    statics: BTreeMap<String, MemberId>,
    pending: Pending,
    join_timer: Option<JoinTimer>,
    /// A member was added during the first rebalance since its timer was set.
    new_member_added: bool,
    pending_sync: BTreeSet<MemberId>,
    sync_deadline: Option<Ms>,
    /// Topics of the members' subscriptions; `None` if they cannot be known.
    subscribed: Option<BTreeSet<String>>,
    /// The last record.
    durable: Option<Arc<GroupValue>>,
    bytes: usize,
}

impl<T> ClassicGroup<T> {
    /// A group that nobody has joined.
    pub fn new(limits: GroupLimits, now: Now) -> Self {
        Self {
            limits,
            state: State::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            since_ms: now.wall_ms,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: Pending::default(),
            join_timer: None,
            new_member_added: false,
            pending_sync: BTreeSet::new(),
            sync_deadline: None,
            subscribed: None,
            durable: None,
            bytes: 0,
        }
    }

    /// A group as a predecessor left it. Its members get a whole session to be heard of again.
    pub fn recover(limits: GroupLimits, now: Now, value: GroupValue) -> Self {
        Self::downgraded(limits, now, value, &mut Vec::new())
    }

    /// The group that one of the consumer protocol became. Its members join again.
    pub fn downgraded(limits: GroupLimits, now: Now, value: GroupValue, effects: &mut Vec<Effect<T>>) -> Self {
        let mut group = Self::new(limits, now);
        group.replay(Arc::new(value));
        group.extend_sessions(now);
        match (group.state, &group.leader) {
            // Members that joined a generation have a leader. Those that were taken over from the consumer protocol have
            // none until they have joined: nobody is going to assign, so that it makes no sense to wait for syncs.
            (State::CompletingRebalance, None) => group.prepare_rebalance(now, effects),
            (State::CompletingRebalance, Some(_)) => group.await_syncs(now),
            (State::Empty | State::PreparingRebalance | State::Stable, _) => {}
        }
        group
    }

    /// Members that have been part of a generation, as the consumer protocol takes them over.
    pub fn known_members(&self) -> Vec<MemberValue> {
        self.members.values().filter(|m| !m.is_new).map(|m| m.value.clone()).collect()
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its generation.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// `consumer`, `connect`, … ; `None` before the first member.
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// The protocol of the generation.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Wall time of the last change of its durable state, ms.
    pub fn since_ms(&self) -> WallMs {
        self.since_ms
    }

    /// Its last record.
    pub fn durable(&self) -> Option<&Arc<GroupValue>> {
        self.durable.as_ref()
    }

    /// Number of members, those joining included.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// True if neither members nor anybody who was given a member id are there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// Bytes of its members' names, metadata and assignments, and of the ids that nobody has used yet.
    pub fn bytes(&self) -> usize {
        self.bytes + self.pending.bytes()
    }

    /// Members with the metadata of the present protocol.
    pub fn describe(&self) -> Vec<(&MemberValue, Bytes)> {
        self.members.values().map(|m| (&m.value, m.metadata(self.protocol.as_deref()))).collect()
    }

    /// Topics that members are subscribed to; `None` if that cannot be known.
    pub fn subscribed(&self) -> Option<&BTreeSet<String>> {
        self.subscribed.as_ref()
    }

    /// True if the members (last) were consumers.
    pub fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(subscription::CONSUMER)
    }

    /// A member says that it is alive.
    pub fn heartbeat(
        &mut self,
        now: Now,
        member_id: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        self.check_member(member_id, instance)?;
        if generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        match self.state {
            State::Empty => Err(GroupError::UnknownMemberId),
            State::PreparingRebalance => {
                self.touch(now, member_id);
                Err(GroupError::RebalanceInProgress)
            }
            State::CompletingRebalance | State::Stable => {
                self.touch(now, member_id);
                Ok(())
            }
        }
    }

    /// Whether a member may commit offsets; if so it is alive.
    pub fn check_commit(
        &mut self,
        now: Now,
        member_id: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        if generation < 0 && self.state == State::Empty {
            return Ok(()); // an administrator, or a consumer that assigns partitions itself
        }
        if generation < 0 && member_id.is_empty() && instance.is_none() {
            return Err(GroupError::UnknownMemberId);
        }
        self.check_member(member_id, instance)?;
        if generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        if self.state == State::CompletingRebalance {
            // It has heard of the generation but must not go on before it has its assignment.
            return Err(GroupError::RebalanceInProgress);
        }
        self.touch(now, member_id);
        Ok(())
    }

    /// Whether the offsets of `topic` may be deleted.
    pub fn check_offset_delete(&self, topic: &str) -> Result<(), GroupError> {
        if self.state == State::Empty {
            return Ok(());
        }
        match &self.subscribed {
            Some(topics) if !topics.contains(topic) => Ok(()),
            _ => Err(GroupError::SubscribedToTopic),
        }
    }

    /// A member asks for its assignment; the leader brings everybody's.
    pub fn sync(&mut self, now: Now, request: SyncRequest, token: T, effects: &mut Vec<Effect<T>>) {
        if let Err(error) = self.check_sync(&request) {
            return effects.push(Effect::Sync(token, SyncReply::failed(error)));
        }
        let id: MemberId = request.member_id.as_str().into();
        match self.state {
            State::Empty => effects.push(Effect::Sync(token, SyncReply::failed(GroupError::UnknownMemberId))),
            State::PreparingRebalance => {
                self.touch(now, &id);
                effects.push(Effect::Sync(token, SyncReply::failed(GroupError::RebalanceInProgress)));
            }
            State::CompletingRebalance => {
                let is_leader = self.leader.as_ref() == Some(&id);
                if is_leader && self.bytes_with(&request.assignments) > GROUP_BYTES_MAX {
                    return effects.push(Effect::Sync(token, SyncReply::failed(GroupError::MaxSizeReached)));
                }
                self.synced(&id);
                let member = self.members.get_mut(&id).expect("checked");
                member.session_deadline = None;
                if let Some(older) = member.syncing.replace(token) {
                    effects.push(Effect::Sync(older, SyncReply::failed(GroupError::RebalanceInProgress)));
                }
                if is_leader {
                    self.assign(now, &request.assignments, effects);
                }
            }
            State::Stable => {
                self.synced(&id);
                self.touch(now, &id);
                effects.push(Effect::Sync(token, self.assignment_of(&id)));
            }
        }
    }

    fn check_sync(&self, request: &SyncRequest) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.instance.as_deref())?;
        if request.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |asked: &Option<String>, is: &Option<String>| asked.is_some() && asked != is;
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol, &self.protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        Ok(())
    }

    /// Members leave; an outcome for each. A member may be named by id, by instance, or by both.
    pub fn leave(
        &mut self,
        now: Now,
        leaving: &[(String, Option<String>)],
        effects: &mut Vec<Effect<T>>,
    ) -> Vec<Result<(), GroupError>> {
        let outcomes: Vec<_> =
            leaving.iter().map(|(id, instance)| self.leave_one(id, instance.as_deref(), effects)).collect();
        if outcomes.iter().any(Result::is_ok) {
            self.members_changed(now, effects);
        }
        outcomes
    }

    fn leave_one(&mut self, id: &str, instance: Option<&str>, effects: &mut Vec<Effect<T>>) -> Result<(), GroupError> {
        if id.is_empty() {
            // An administrator removes a static member of which only the instance is known.
            let found = instance.and_then(|i| self.statics.get(i)).cloned();
            let found = found.ok_or(GroupError::UnknownMemberId)?;
            self.remove(&found, GroupError::UnknownMemberId, effects);
            return Ok(());
        }
        if instance.is_none() && self.pending.remove(id) {
            return Ok(());
        }
        self.check_member(id, instance)?;
        self.remove(&id.into(), GroupError::UnknownMemberId, effects);
        Ok(())
    }

    /// The next time at which [`Self::expire`] has something to do, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Ms> {
        let sessions = self.members.values().filter_map(|m| m.session_deadline);
        let timers = self.join_timer.map(|t| t.deadline).into_iter().chain(self.sync_deadline);
        sessions.chain(self.pending.deadlines()).chain(timers).min()
    }

    /// Does what is due; returns the timers that ran out.
    pub fn expire(&mut self, now: Now, effects: &mut Vec<Effect<T>>) -> Vec<Expired> {
        let mut expired = Vec::new();
        let due = |deadline: Option<Ms>| deadline.is_some_and(|at| at <= now.mono_ms);
        let silent: Vec<MemberId> =
            self.members.iter().filter(|(_, m)| due(m.session_deadline)).map(|(id, _)| id.clone()).collect();
        let lost = self.pending.expired(now.mono_ms);
        for id in &silent {
            self.remove(id, GroupError::UnknownMemberId, effects);
        }
        for id in &lost {
            self.pending.remove(id);
        }
        if !silent.is_empty() || !lost.is_empty() {
            expired.extend(silent.into_iter().map(Expired::Session));
            expired.extend(lost.into_iter().map(Expired::Pending));
            self.members_changed(now, effects);
        }
        if due(self.sync_deadline) {
            expired.push(Expired::Sync);
            self.sync_expired(now, effects);
        }
        if due(self.join_timer.map(|t| t.deadline)) {
            expired.push(Expired::Join);
            self.join_expired(now, effects);
        }
        expired
    }

    /// Gives every member a whole session from now, and a rebalance some time: after a takeover, or after this process
    /// stood still and has not read yet what was sent meanwhile.
    pub fn extend_sessions(&mut self, now: Now) {
        for member in self.members.values_mut() {
            if member.joining.is_none() && member.syncing.is_none() {
                member.extend_session(now);
            }
        }
        let least = now.mono_ms + GRACE_MS;
        let timers = self.join_timer.iter_mut().map(|t| &mut t.deadline).chain(&mut self.sync_deadline);
        timers.for_each(|deadline| *deadline = least.max(*deadline));
        self.pending.extend(least);
    }

    /// Answers every parked request with `error`: this coordinator stops.
    pub fn fail_parked(&mut self, error: GroupError, effects: &mut Vec<Effect<T>>) {
        for (id, member) in &mut self.members {
            let member_id = id.to_string();
            effects.extend(member.joining.take().map(|t| Effect::Join(t, JoinReply::failed(error, member_id))));
            effects.extend(member.syncing.take().map(|t| Effect::Sync(t, SyncReply::failed(error))));
        }
    }

    fn touch(&mut self, now: Now, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id)
            && member.session_deadline.is_some()
            && !member.is_new
        {
            member.extend_session(now);
        }
    }

    /// Whether the group has this member; a static one under this id.
    fn check_member(&self, member_id: &str, instance: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            return match self.statics.get(instance) {
                None => Err(GroupError::UnknownMemberId),
                Some(id) if &**id != member_id => Err(GroupError::FencedInstanceId),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }
}
