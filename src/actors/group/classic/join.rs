//! JoinGroup: who may join, and what a join of each kind of member does in each state of the group.

use super::*;

/// A JoinGroup.
#[derive(Debug, Clone, Default)]
pub struct JoinRequest {
    /// Member id; empty for a member that has none.
    pub member_id: String,
    /// Static instance.
    pub instance: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Address of the client.
    pub client_host: String,
    /// How long it may be silent, ms.
    pub session_timeout_ms: i32,
    /// How long a rebalance waits for it, ms.
    pub rebalance_timeout_ms: i32,
    /// Type of its protocols.
    pub protocol_type: String,
    /// Protocols in order of preference.
    pub protocols: Vec<Protocol>,
    /// The client's API version (4 and later) first asks for a member id and then joins with it.
    pub asks_for_id: bool,
    /// The client's API version (9 and later) knows that a leader may be told not to assign.
    pub may_skip_assignment: bool,
}

impl JoinReply {
    pub(super) fn failed(error: GroupError, member_id: String) -> Self {
        Self { error: Some(error), generation: -1, member_id, ..Self::default() }
    }
}

impl<T> ClassicGroup<T> {
    /// A member joins. `unique` makes its id one that nobody had, if it needs a new one.
    pub fn join(&mut self, now: Now, request: JoinRequest, unique: &str, token: T, effects: &mut Vec<Effect<T>>) {
        let range = self.limits.session_timeout_ms_min..=self.limits.session_timeout_ms_max;
        let refused = if !range.contains(&request.session_timeout_ms) {
            Some(GroupError::InvalidSessionTimeout)
        } else if self.is_full(&request) {
            Some(GroupError::MaxSizeReached)
        } else if !self.supports(&request) {
            Some(GroupError::InconsistentProtocol)
        } else {
            None
        };
        if let Some(error) = refused {
            if error == GroupError::MaxSizeReached && !request.member_id.is_empty() {
                self.remove_joining(now, &request.member_id, effects);
            }
            let member_id = if error == GroupError::MaxSizeReached { String::new() } else { request.member_id };
            return effects.push(Effect::Join(token, JoinReply::failed(error, member_id)));
        }
        if request.member_id.is_empty() {
            self.join_without_id(now, request, unique, token, effects);
        } else {
            self.join_with_id(now, request, token, effects);
        }
    }

    /// A member that does not fit any more leaves, so that the group shrinks to its bound.
    fn remove_joining(&mut self, now: Now, member_id: &str, effects: &mut Vec<Effect<T>>) {
        self.pending.remove(member_id);
        let id: MemberId = member_id.into();
        if self.members.contains_key(&id) {
            self.remove(&id, GroupError::MaxSizeReached, effects);
            self.members_changed(now, effects);
        }
    }

    fn is_full(&self, request: &JoinRequest) -> bool {
        let known = self.members.get(request.member_id.as_str());
        let replaced = request.instance.as_ref().and_then(|i| self.statics.get(i)).and_then(|id| self.members.get(id));
        let member_bytes: usize = request.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum();
        let before = known.or(replaced).map_or(0, |m| member_len(&m.value));
        if self.bytes - before.min(self.bytes) + member_bytes > GROUP_BYTES_MAX {
            return true;
        }
        if request.member_id.is_empty() && (self.pending.is_full() || self.pending.bytes() > GROUP_BYTES_MAX) {
            return true;
        }
        let max = self.limits.members_max;
        match self.state {
            State::Empty => false,
            // Those who wait already count, not those who are known: the bound may have been lowered.
            State::PreparingRebalance => {
                let waits = known.or(replaced).is_some_and(|m| m.joining.is_some());
                !waits && self.members.values().filter(|m| m.joining.is_some()).count() >= max
            }
            State::CompletingRebalance | State::Stable => {
                known.is_none() && replaced.is_none() && self.members.len() >= max
            }
        }
    }

    /// Whether all members can go on with one protocol if this one joins.
    fn supports(&self, request: &JoinRequest) -> bool {
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        let others = self.members.values();
        let supported = |name: &str| others.clone().all(|m| m.value.protocols.iter().any(|p| p.name == name));
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request.protocols.iter().any(|p| supported(&p.name))
    }

    fn join_without_id(
        &mut self,
        now: Now,
        request: JoinRequest,
        unique: &str,
        token: T,
        effects: &mut Vec<Effect<T>>,
    ) {
        let prefix = request.instance.as_deref().unwrap_or(&request.client_id);
        let id: MemberId = format!("{prefix}-{unique}").into();
        match &request.instance {
            Some(instance) => match self.statics.get(instance).cloned() {
                Some(old) => self.replace_static(now, request, &old, id, token, effects),
                None => self.add(now, request, id, token, effects),
            },
            None if request.asks_for_id => {
                self.pending.insert(id.clone(), now.mono_ms + request.session_timeout_ms as u64);
                let reply = JoinReply::failed(GroupError::MemberIdRequired, id.to_string());
                effects.push(Effect::Join(token, reply));
            }
            None => self.add(now, request, id, token, effects),
        }
    }

    fn join_with_id(&mut self, now: Now, request: JoinRequest, token: T, effects: &mut Vec<Effect<T>>) {
        let id: MemberId = request.member_id.as_str().into();
        if request.instance.is_none() && self.pending.contains(&id) {
            return self.add(now, request, id, token, effects);
        }
        if let Err(error) = self.check_member(&id, request.instance.as_deref()) {
            return effects.push(Effect::Join(token, JoinReply::failed(error, request.member_id)));
        }
        let member = &self.members[&id];
        let same = member.value.protocols == request.protocols;
        let is_leader = self.leader.as_ref() == Some(&id);
        match self.state {
            // It did not get the answer to its first request.
            State::CompletingRebalance if same => {
                self.touch(now, &id);
                effects.push(Effect::Join(token, self.joined(&id)));
            }
            // A leader that joins again wants a rebalance: something outside of the group changed.
            State::Stable if same && !is_leader => {
                self.touch(now, &id);
                effects.push(Effect::Join(token, self.joined(&id)));
            }
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.update(&id, request, token, effects);
                self.rebalance_or_complete(now, effects);
            }
            State::Empty => {
                let reply = JoinReply::failed(GroupError::UnknownMemberId, request.member_id);
                effects.push(Effect::Join(token, reply));
            }
        }
    }

    /// A new member.
    fn add(&mut self, now: Now, request: JoinRequest, id: MemberId, token: T, effects: &mut Vec<Effect<T>>) {
        if self.state == State::PreparingRebalance && self.join_timer.is_some_and(|t| t.initial.is_some()) {
            self.new_member_added = true;
        }
        self.pending.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        if let Some(instance) = &request.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        let member = Member {
            value: MemberValue {
                id: id.to_string(),
                instance: request.instance,
                client_id: request.client_id,
                client_host: request.client_host,
                rebalance_timeout_ms: request.rebalance_timeout_ms,
                session_timeout_ms: request.session_timeout_ms,
                protocols: request.protocols,
                assignment: Bytes::new(),
            },
            is_new: true,
            joining: Some(token),
            syncing: None,
            session_deadline: Some(now.mono_ms + NEW_MEMBER_JOIN_TIMEOUT_MS),
        };
        self.bytes += member_len(&member.value);
        self.members.insert(id, member);
        self.rebalance_or_complete(now, effects);
    }

    /// What a known member says about itself now, and its parked request.
    fn update(&mut self, id: &MemberId, request: JoinRequest, token: T, effects: &mut Vec<Effect<T>>) {
        let member = self.members.get_mut(id).expect("the caller looked");
        self.bytes -= member_len(&member.value);
        member.value.protocols = request.protocols;
        member.value.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.value.session_timeout_ms = request.session_timeout_ms;
        member.value.client_id = request.client_id;
        member.value.client_host = request.client_host;
        self.bytes += member_len(&member.value);
        if !member.is_new {
            member.session_deadline = None;
        }
        if let Some(older) = member.joining.replace(token) {
            let reply = JoinReply::failed(GroupError::RebalanceInProgress, id.to_string());
            effects.push(Effect::Join(older, reply));
        }
    }

    /// A static member's process was started again: it gets a new id, the old one is fenced.
    fn replace_static(
        &mut self,
        now: Now,
        request: JoinRequest,
        old: &MemberId,
        id: MemberId,
        token: T,
        effects: &mut Vec<Effect<T>>,
    ) {
        let leader_before = self.leader.clone();
        let may_skip = request.may_skip_assignment;
        let instance = request.instance.clone().expect("the caller looked");
        let mut member = self.members.remove(old).expect("instances name members");
        if let Some(token) = member.joining.take() {
            effects.push(Effect::Join(token, JoinReply::failed(GroupError::FencedInstanceId, old.to_string())));
        }
        if let Some(token) = member.syncing.take() {
            effects.push(Effect::Sync(token, SyncReply::failed(GroupError::FencedInstanceId)));
        }
        self.bytes = self.bytes - old.len() + id.len();
        member.value.id = id.to_string();
        let is_same = member.value.protocols == request.protocols;
        self.members.insert(id.clone(), member);
        self.statics.insert(instance, id.clone());
        if self.pending_sync.remove(old) {
            self.pending_sync.insert(id.clone());
        }
        if self.leader.as_ref() == Some(old) {
            self.leader = Some(id.clone());
        }
        self.update(&id, request, token, effects);
        match self.state {
            State::Stable if is_same || self.select_protocol() == self.protocol => {
                self.record(now, Phase::Stable, effects);
                let mut reply = self.joined(&id);
                let is_leader = self.leader.as_ref() == Some(&id);
                if may_skip {
                    reply.skip_assignment = is_leader;
                } else {
                    // A client that cannot be told to skip must not believe that it leads: it would assign, and
                    // nobody else would hear of it.
                    reply.leader = leader_before.map(|l| l.to_string()).unwrap_or_default();
                    reply.members.clear();
                }
                let member = self.members.get_mut(&id).expect("just inserted");
                member.extend_session(now);
                let token = member.joining.take().expect("just parked");
                effects.push(Effect::Join(token, reply));
            }
            // The leader may have seen the old id already, and would assign to it.
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(now, effects),
            State::PreparingRebalance | State::Empty => self.complete_if_all_joined(now, effects),
        }
    }

    /// The answer for a member of the present generation.
    pub(super) fn joined(&self, id: &MemberId) -> JoinReply {
        let leader = self.leader.as_ref().map(ToString::to_string).unwrap_or_default();
        let is_leader = self.leader.as_ref() == Some(id);
        let joined = |(id, m): (&MemberId, &Member<T>)| JoinedMember {
            id: id.to_string(),
            instance: m.value.instance.clone(),
            metadata: m.metadata(self.protocol.as_deref()),
        };
        JoinReply {
            error: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            skip_assignment: false,
            member_id: id.to_string(),
            members: if is_leader { self.members.iter().map(joined).collect() } else { Vec::new() },
        }
    }
}

/// Bytes of a member in the group's value, roughly.
pub(super) fn member_len(value: &MemberValue) -> usize {
    let protocols: usize = value.protocols.iter().map(|p| p.name.len() + p.metadata.len() + 8).sum();
    let names = value.id.len() + value.client_id.len() + value.client_host.len();
    names + value.instance.as_ref().map_or(0, String::len) + protocols + value.assignment.len() + 32
}
