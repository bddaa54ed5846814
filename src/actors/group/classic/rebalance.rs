//! The rebalance: from the first member that joins, through the generation, to everybody's assignment.

use super::join::member_len;
use super::*;

impl<T> ClassicGroup<T> {
    /// Makes the group's durable state this, through the one function that recovery uses too.
    pub fn replay(&mut self, value: Arc<GroupValue>) {
        self.generation = value.generation;
        self.protocol_type.clone_from(&value.protocol_type);
        self.protocol.clone_from(&value.protocol);
        self.leader = value.leader.as_deref().map(Into::into);
        self.since_ms = value.since_ms;
        self.state = match value.phase {
            Phase::Empty => State::Empty,
            Phase::Completing => State::CompletingRebalance,
            Phase::Stable => State::Stable,
        };
        let mut parked = std::mem::take(&mut self.members);
        for member in &value.members {
            let id: MemberId = member.id.as_str().into();
            let mut known = parked.remove(&id).unwrap_or_else(|| Member::of(member.clone()));
            known.value = member.clone();
            self.members.insert(id, known);
        }
        assert!(parked.is_empty(), "members are removed, and their requests answered, before a record");
        let statics = value.members.iter().filter_map(|m| Some((m.instance.clone()?, m.id.as_str().into())));
        self.statics = statics.collect();
        self.bytes = value.members.iter().map(member_len).sum();
        self.subscribed = self.subscriptions();
        self.durable = Some(value);
    }

    fn subscriptions(&self) -> Option<BTreeSet<String>> {
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        if !self.is_of_consumers() {
            return None;
        }
        let metadata: Vec<Bytes> = self.members.values().map(|m| m.metadata(self.protocol.as_deref())).collect();
        subscription::union(metadata.iter().map(|m| &m[..]))
    }

    /// Records the members as they are, in `phase` of the present generation.
    pub(super) fn record(&mut self, now: Now, phase: Phase, effects: &mut Vec<Effect<T>>) {
        let value = GroupValue {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.as_ref().map(ToString::to_string),
            phase,
            since_ms: now.wall_ms,
            members: self.members.values().map(|m| m.value.clone()).collect(),
        };
        self.replay(Arc::new(value));
        effects.push(Effect::Recorded);
    }

    /// Bytes of the group if these become its assignments.
    pub(super) fn bytes_with(&self, assignments: &[(String, Bytes)]) -> usize {
        let before: usize = self.members.values().map(|m| m.value.assignment.len()).sum();
        self.bytes - before + assignments.iter().map(|(_, a)| a.len()).sum::<usize>()
    }

    /// The protocol that all members support and most of them prefer.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let mut members = self.members.values();
        let first = members.next()?;
        let by_all = |name: &str| self.members.values().all(|m| m.value.protocols.iter().any(|p| p.name == name));
        let candidates: Vec<&str> =
            first.value.protocols.iter().map(|p| p.name.as_str()).filter(|name| by_all(name)).collect();
        let votes = |name: &str| {
            let vote = |m: &&Member<T>| {
                let choice = m.value.protocols.iter().find(|p| candidates.contains(&p.name.as_str()));
                choice.is_some_and(|p| p.name == name)
            };
            self.members.values().filter(vote).count()
        };
        // Of several with the same number the one that the first member prefers.
        let best = candidates.iter().rev().max_by_key(|name| votes(name))?;
        Some((*best).to_owned())
    }

    /// Forgets a member, answering what it waits for.
    pub(super) fn remove(&mut self, id: &MemberId, error: GroupError, effects: &mut Vec<Effect<T>>) {
        let Some(member) = self.members.remove(id) else { return };
        self.bytes -= member_len(&member.value);
        if let Some(token) = member.joining {
            effects.push(Effect::Join(token, JoinReply::failed(error, String::new())));
        }
        if let Some(token) = member.syncing {
            effects.push(Effect::Sync(token, SyncReply::failed(error)));
        }
        if let Some(instance) = &member.value.instance {
            self.statics.remove(instance);
        }
        self.pending_sync.remove(id);
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// After members left, by themselves or not.
    pub(super) fn members_changed(&mut self, now: Now, effects: &mut Vec<Effect<T>>) {
        match self.state {
            State::Stable | State::CompletingRebalance => {
                let changed = self.durable.as_ref().is_none_or(|d| d.members.len() != self.members.len());
                if changed {
                    self.prepare_rebalance(now, effects);
                }
            }
            State::PreparingRebalance => self.complete_if_all_joined(now, effects),
            State::Empty => {}
        }
    }

    /// After a member joined.
    pub(super) fn rebalance_or_complete(&mut self, now: Now, effects: &mut Vec<Effect<T>>) {
        match self.state {
            State::PreparingRebalance => self.complete_if_all_joined(now, effects),
            _ => self.prepare_rebalance(now, effects),
        }
    }

    /// Lets everybody join again.
    pub(super) fn prepare_rebalance(&mut self, now: Now, effects: &mut Vec<Effect<T>>) {
        for member in self.members.values_mut() {
            if let Some(token) = member.syncing.take() {
                effects.push(Effect::Sync(token, SyncReply::failed(GroupError::RebalanceInProgress)));
                member.extend_session(now);
            }
        }
        self.sync_deadline = None;
        self.pending_sync.clear();
        let is_initial = self.state == State::Empty;
        self.state = State::PreparingRebalance;
        self.new_member_added = false;
        let timeout_ms = self.rebalance_timeout_ms();
        if is_initial {
            let delay_ms = self.limits.initial_rebalance_delay_ms;
            let left_ms = timeout_ms.saturating_sub(delay_ms);
            self.join_timer = Some(JoinTimer { deadline: now.mono_ms + delay_ms, initial: Some((left_ms, delay_ms)) });
            if delay_ms == 0 {
                self.join_expired(now, effects);
            }
            return;
        }
        self.join_timer = Some(JoinTimer { deadline: now.mono_ms + timeout_ms, initial: None });
        self.complete_if_all_joined(now, effects);
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|m| m.value.rebalance_timeout_ms.max(0) as u64).max().unwrap_or(0)
    }

    /// Ends the joining phase when everybody is there, except in the first rebalance, which waits out its delay.
    pub(super) fn complete_if_all_joined(&mut self, now: Now, effects: &mut Vec<Effect<T>>) {
        let all = self.pending.is_empty() && self.members.values().all(|m| m.joining.is_some());
        let is_initial = self.join_timer.is_some_and(|t| t.initial.is_some());
        if all && (!is_initial || self.members.is_empty()) {
            self.complete_join(now, effects);
        }
    }

    pub(super) fn join_expired(&mut self, now: Now, effects: &mut Vec<Effect<T>>) {
        let Some(timer) = self.join_timer else { return };
        match timer.initial {
            Some((left_ms, delay_ms)) if self.new_member_added && left_ms > 0 => {
                self.new_member_added = false;
                let next_ms = self.limits.initial_rebalance_delay_ms.min(left_ms);
                let initial = Some((left_ms.saturating_sub(delay_ms), next_ms));
                self.join_timer = Some(JoinTimer { deadline: now.mono_ms + next_ms, initial });
            }
            _ => self.complete_join(now, effects),
        }
    }

    /// Ends the joining phase: who has not joined is out, the others are the members of a new generation.
    fn complete_join(&mut self, now: Now, effects: &mut Vec<Effect<T>>) {
        // Static members keep their place until their session ends.
        let absent = self.members.iter().filter(|(_, m)| m.joining.is_none() && m.value.instance.is_none());
        let absent: Vec<MemberId> = absent.map(|(id, _)| id.clone()).collect();
        for id in &absent {
            self.remove(id, GroupError::UnknownMemberId, effects);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members that did not join: wait for them, or for the end of their sessions.
            let deadline = now.mono_ms + self.rebalance_timeout_ms().max(1);
            self.join_timer = Some(JoinTimer { deadline, initial: None });
            return;
        }
        self.join_timer = None;
        self.new_member_added = false;
        self.generation = self.generation.wrapping_add(1).max(1);
        self.protocol = self.select_protocol();
        if self.members.is_empty() {
            self.leader = None;
            return self.record(now, Phase::Empty, effects);
        }
        self.record(now, Phase::Completing, effects);
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in &ids {
            let reply = self.joined(id);
            let member = self.members.get_mut(id).expect("just listed");
            if let Some(token) = member.joining.take() {
                member.extend_session(now);
                effects.push(Effect::Join(token, reply));
            }
            member.is_new = false;
        }
        self.await_syncs(now);
    }

    /// The leader must have joined; if it has not, somebody who has becomes the leader. False if nobody has.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |id: &MemberId| self.members.get(id).is_some_and(|m| m.joining.is_some());
        if self.leader.as_ref().is_some_and(joined) {
            return true;
        }
        let other = self.members.iter().find(|(_, m)| m.joining.is_some()).map(|(id, _)| id.clone());
        let elected = other.is_some();
        if elected {
            self.leader = other;
        }
        elected
    }

    /// Every member has to sync within the rebalance timeout.
    pub(super) fn await_syncs(&mut self, now: Now) {
        self.pending_sync = self.members.keys().cloned().collect();
        self.sync_deadline = Some(now.mono_ms + self.rebalance_timeout_ms());
    }

    pub(super) fn synced(&mut self, id: &MemberId) {
        self.pending_sync.remove(id);
        if self.pending_sync.is_empty() {
            self.sync_deadline = None;
        }
    }

    pub(super) fn sync_expired(&mut self, now: Now, effects: &mut Vec<Effect<T>>) {
        self.sync_deadline = None;
        let late = std::mem::take(&mut self.pending_sync);
        if late.is_empty() || !matches!(self.state, State::CompletingRebalance | State::Stable) {
            return;
        }
        for id in &late {
            self.remove(id, GroupError::UnknownMemberId, effects);
        }
        self.prepare_rebalance(now, effects);
    }

    /// The leader's assignment: everybody who waits gets theirs.
    pub(super) fn assign(&mut self, now: Now, assignments: &[(String, Bytes)], effects: &mut Vec<Effect<T>>) {
        for member in self.members.values_mut() {
            member.value.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(id.as_str()) {
                member.value.assignment = assignment.clone();
            }
        }
        self.record(now, Phase::Stable, effects);
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in &ids {
            let reply = self.assignment_of(id);
            let member = self.members.get_mut(id).expect("just listed");
            if let Some(token) = member.syncing.take() {
                member.extend_session(now);
                effects.push(Effect::Sync(token, reply));
            }
        }
    }

    pub(super) fn assignment_of(&self, id: &MemberId) -> SyncReply {
        SyncReply {
            error: None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members[id].value.assignment.clone(),
        }
    }
}
