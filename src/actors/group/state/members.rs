//! Calls of members: which protocol serves them, and when a group changes its protocol.

use super::{Coordinator, Group, Kind, Part};
use crate::actors::group::call::{Answer, Caller};
use crate::actors::group::classic::{ClassicGroup, Effect, JoinReply, JoinRequest, Now, State, SyncReply, SyncRequest};
use crate::actors::group::consumer::ConsumerGroup;
use crate::actors::group::consumer::heartbeat;
use crate::actors::group::consumer::types::{ConsumerLimits, HeartbeatReply, HeartbeatRequest, JOIN_EPOCH, TopicsAt};
use crate::actors::group::error::GroupError;
use crate::actors::group::writes::GroupId;

impl<R> Coordinator<R> {
    /// Settings of the consumer protocol, with what the group sets itself.
    pub(super) fn consumer_limits(&self, id: &str) -> ConsumerLimits {
        self.limits.consumer.of_group(self.topics.overrides(id))
    }

    pub(super) fn join(&mut self, now: Now, id: &GroupId, request: JoinRequest, unique: &str, reply: R) {
        let range = self.limits.groups.session_timeout_ms_min..=self.limits.groups.session_timeout_ms_max;
        let refused = self.check_id(id, false).and_then(|()| self.may_grow(id)).and_then(|()| {
            if !range.contains(&request.session_timeout_ms) {
                return Err(GroupError::InvalidSessionTimeout);
            }
            let known = request.member_id.is_empty() || self.groups.contains_key(id);
            if known { Ok(()) } else { Err(GroupError::UnknownMemberId) }
        });
        if let Err(error) = refused {
            let member_id = request.member_id;
            let failed = JoinReply { error: Some(error), generation: -1, member_id, ..JoinReply::default() };
            return self.answers.push((reply, Ok(Answer::Join(failed))));
        }
        let (limits, consumer) = (self.limits.groups, self.consumer_limits(id));
        let (topics, version) = (self.topics.clone(), self.topics_version);
        self.with_group(now, id, |group, effects| {
            group.make_classic_if_empty(limits, now);
            match &mut group.kind {
                Kind::Classic(group) => group.join(now, request, unique, reply, effects),
                Kind::Consumer(group) => {
                    let topics = TopicsAt { topics: &*topics, version };
                    let answer = group.classic_join(now, &consumer, topics, request, unique);
                    effects.push(Effect::Join(reply, answer));
                }
            }
        });
        self.downgrade_if_due(now, id);
    }

    pub(super) fn sync(&mut self, now: Now, id: &GroupId, request: SyncRequest, reply: R) {
        let known = self
            .check_id(id, false)
            .and_then(|()| if self.groups.contains_key(id) { Ok(()) } else { Err(GroupError::UnknownMemberId) });
        if let Err(error) = known {
            let answer = Answer::Sync(SyncReply { error: Some(error), ..SyncReply::default() });
            return self.answers.push((reply, Ok(answer)));
        }
        let (limits, topics, version) = (self.consumer_limits(id), self.topics.clone(), self.topics_version);
        self.with_group(now, id, |group, effects| match &mut group.kind {
            Kind::Classic(group) => group.sync(now, request, reply, effects),
            Kind::Consumer(group) => {
                let answer = group.classic_sync(now, &limits, TopicsAt { topics: &*topics, version }, &request);
                effects.push(Effect::Sync(reply, answer));
            }
        });
    }

    pub(super) fn heartbeat(&mut self, now: Now, id: &GroupId, caller: &Caller) -> Result<(), GroupError> {
        self.check_id(id, false)?;
        match &mut self.groups.get_mut(id).ok_or(GroupError::UnknownMemberId)?.kind {
            // It only puts timers off, so that nothing has to be scheduled.
            Kind::Classic(group) => {
                group.heartbeat(now, &caller.member_id, caller.instance.as_deref(), caller.generation)
            }
            Kind::Consumer(_) => {
                let (limits, topics, version) = (self.consumer_limits(id), self.topics.clone(), self.topics_version);
                let mut outcome = Err(GroupError::UnknownMemberId);
                self.with_group(now, id, |group, _| {
                    if let Kind::Consumer(group) = &mut group.kind {
                        let topics = TopicsAt { topics: &*topics, version };
                        outcome = group.classic_heartbeat(now, &limits, topics, caller);
                    }
                });
                outcome
            }
        }
    }

    pub(super) fn leave(&mut self, now: Now, id: &GroupId, members: &[(String, Option<String>)], reply: R) {
        if let Err(error) = self.check_id(id, false) {
            return self.answers.push((reply, Err(error)));
        }
        if !self.groups.contains_key(id) {
            let unknown = vec![Err(GroupError::UnknownMemberId); members.len()];
            return self.answers.push((reply, Ok(Answer::Left(unknown))));
        }
        let mut left = Vec::new();
        let (topics, version) = (self.topics.clone(), self.topics_version);
        self.with_group(now, id, |group, effects| {
            left = match &mut group.kind {
                Kind::Classic(group) => group.leave(now, members, effects),
                Kind::Consumer(group) => group.classic_leave(now, TopicsAt { topics: &*topics, version }, members),
            };
        });
        self.downgrade_if_due(now, id);
        // The last one to leave ends the generation: whoever heard that nobody is left must not find a member later.
        self.answer_when_durable(now, id, reply, Ok(Answer::Left(left)));
    }

    /// ConsumerGroupHeartbeat.
    pub(super) fn beat(&mut self, now: Now, id: &GroupId, mut request: HeartbeatRequest, unique: &str, reply: R) {
        let limits = self.consumer_limits(id);
        let allowed = self.check_id(id, false).and_then(|()| heartbeat::check(&limits, &request)).and_then(|()| {
            match self.groups.contains_key(id) {
                true => Ok(()),
                false if request.epoch == JOIN_EPOCH => self.may_grow(id),
                false => Err(GroupError::GroupIdNotFound),
            }
        });
        if let Err(error) = allowed {
            return self.answers.push((reply, Err(error)));
        }
        if request.member_id.is_empty() {
            unique.clone_into(&mut request.member_id);
        }
        let (topics, version) = (self.topics.clone(), self.topics_version);
        let mut outcome = Err(GroupError::NotConsumer);
        self.with_group(now, id, |group, effects| {
            let topics = TopicsAt { topics: &*topics, version };
            outcome = group.beat(now, &limits, topics, request, effects);
        });
        self.downgrade_if_due(now, id);
        let outcome = outcome.map(Answer::Beat);
        // A heartbeat that finds nothing new need not wait for what others commit.
        if outcome.is_err() || self.writes.is_durable(id, Part::State) {
            return self.answers.push((reply, outcome));
        }
        self.answer_when_durable(now, id, reply, outcome);
    }

    /// Does what is due of a group's timers.
    pub(super) fn expire_members(&mut self, now: Now, id: &GroupId) {
        let (topics, version) = (self.topics.clone(), self.topics_version);
        self.with_group(now, id, |group, effects| match &mut group.kind {
            Kind::Classic(group) => drop(group.expire(now, effects)),
            Kind::Consumer(group) => drop(group.expire(now, TopicsAt { topics: &*topics, version })),
        });
        self.downgrade_if_due(now, id);
    }

    /// A consumer group whose last members all use the classic protocol becomes a classic one.
    fn downgrade_if_due(&mut self, now: Now, id: &GroupId) {
        let limits = self.limits;
        let due = |group: &Group<R>| match &group.kind {
            Kind::Consumer(group) => group.may_downgrade(&limits.consumer, limits.groups.members_max),
            Kind::Classic(_) => false,
        };
        if !self.groups.get(id).is_some_and(due) {
            return;
        }
        let topics = self.topics.clone();
        self.with_group(now, id, |group, effects| {
            if let Kind::Consumer(consumer) = &group.kind {
                let value = consumer.to_classic(now, &*topics);
                group.kind = Kind::Classic(Box::new(ClassicGroup::downgraded(limits.groups, now, value, effects)));
                effects.push(Effect::Recorded);
            }
        });
    }
}

impl<R> Group<R> {
    /// JoinGroup makes a classic group of an empty one.
    fn make_classic_if_empty(&mut self, limits: crate::actors::group::classic::GroupLimits, now: Now) {
        if let Kind::Consumer(group) = &self.kind
            && group.size() == 0
        {
            let value = group.to_classic(now, &crate::metadata::image::ClusterImage::default());
            self.kind = Kind::Classic(Box::new(ClassicGroup::recover(limits, now, value)));
        }
    }

    fn beat(
        &mut self,
        now: Now,
        limits: &ConsumerLimits,
        topics: TopicsAt<'_>,
        request: HeartbeatRequest,
        effects: &mut Vec<Effect<R>>,
    ) -> Result<HeartbeatReply, GroupError> {
        let classic = match &mut self.kind {
            Kind::Consumer(group) => return group.heartbeat(now, limits, topics, request),
            Kind::Classic(classic) => classic,
        };
        let is_empty = classic.state() == State::Empty;
        if request.epoch != JOIN_EPOCH {
            return Err(GroupError::NotConsumer);
        }
        let may = limits.migration.upgrades() && classic.is_of_consumers() && classic.size() <= limits.members_max;
        if !is_empty && !may {
            return Err(GroupError::NotConsumer);
        }
        let members = if is_empty { Vec::new() } else { classic.known_members() };
        let mut group = ConsumerGroup::of_classic(now, limits, topics.topics, classic.generation(), members)?;
        // Only a heartbeat that succeeds changes the protocol.
        let reply = group.heartbeat(now, limits, topics, request)?;
        classic.fail_parked(GroupError::RebalanceInProgress, effects);
        self.kind = Kind::Consumer(Box::new(group));
        Ok(reply)
    }
}
