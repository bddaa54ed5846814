//! Calls of members: which protocol serves them, and when a group changes its protocol.

use super::{Env, Group, Kind, Out, Until};
use crate::actors::group::call::{Answer, Caller};
use crate::actors::group::classic::{
    ClassicGroup, Effect, GroupLimits, JoinReply, JoinRequest, Now, State, SyncReply, SyncRequest,
};
use crate::actors::group::consumer::ConsumerGroup;
use crate::actors::group::consumer::heartbeat;
use crate::actors::group::consumer::types::{ConsumerLimits, HeartbeatReply, HeartbeatRequest, JOIN_EPOCH, TopicsAt};
use crate::actors::group::error::GroupError;

/// The answer to a JoinGroup that fails before it comes to any member.
pub(in crate::actors::group) fn refused_join(request: JoinRequest, error: GroupError) -> Answer {
    let member_id = request.member_id;
    Answer::Join(JoinReply { error: Some(error), generation: -1, member_id, ..JoinReply::default() })
}

/// The answer to a SyncGroup that fails before it comes to any member.
pub(in crate::actors::group) fn refused_sync(error: GroupError) -> Answer {
    Answer::Sync(SyncReply { error: Some(error), ..SyncReply::default() })
}

/// What can be said of a JoinGroup without knowing the group.
pub(in crate::actors::group) fn check_join(limits: &GroupLimits, request: &JoinRequest) -> Result<(), GroupError> {
    let range = limits.session_timeout_ms_min..=limits.session_timeout_ms_max;
    if range.contains(&request.session_timeout_ms) { Ok(()) } else { Err(GroupError::InvalidSessionTimeout) }
}

impl<R> Group<R> {
    pub(super) fn join(&mut self, now: Now, request: JoinRequest, unique: &str, reply: R, env: &Env, out: &mut Out<R>) {
        if let Err(error) = check_join(&env.limits.groups, &request) {
            return out.answers.push((reply, Ok(refused_join(request, error))));
        }
        let limits = self.consumer_limits(env);
        self.make_classic_if_empty(env.limits.groups, now);
        let mut effects = Vec::new();
        match &mut self.kind {
            Kind::Classic(group) => group.join(now, request, unique, reply, &mut effects),
            Kind::Consumer(group) => {
                let answer = group.classic_join(now, &limits, env.at(), request, unique);
                effects.push(Effect::Join(reply, answer));
            }
        }
        self.run(effects, out);
        self.downgrade_if_due(now, env, out);
    }

    pub(super) fn sync(&mut self, now: Now, request: SyncRequest, reply: R, env: &Env, out: &mut Out<R>) {
        let limits = self.consumer_limits(env);
        let mut effects = Vec::new();
        match &mut self.kind {
            Kind::Classic(group) => group.sync(now, request, reply, &mut effects),
            Kind::Consumer(group) => {
                let answer = group.classic_sync(now, &limits, env.at(), &request);
                effects.push(Effect::Sync(reply, answer));
            }
        }
        self.run(effects, out);
    }

    pub(super) fn heartbeat(
        &mut self,
        now: Now,
        caller: &Caller,
        env: &Env,
        out: &mut Out<R>,
    ) -> Result<(), GroupError> {
        let limits = self.consumer_limits(env);
        match &mut self.kind {
            Kind::Classic(group) => {
                group.heartbeat(now, &caller.member_id, caller.instance.as_deref(), caller.generation)
            }
            Kind::Consumer(group) => {
                let outcome = group.classic_heartbeat(now, &limits, env.at(), caller);
                self.downgrade_if_due(now, env, out);
                outcome
            }
        }
    }

    pub(super) fn leave(
        &mut self,
        now: Now,
        members: &[(String, Option<String>)],
        reply: R,
        env: &Env,
        out: &mut Out<R>,
    ) {
        let mut effects = Vec::new();
        let left = match &mut self.kind {
            Kind::Classic(group) => group.leave(now, members, &mut effects),
            Kind::Consumer(group) => group.classic_leave(now, env.at(), members),
        };
        self.run(effects, out);
        self.downgrade_if_due(now, env, out);
        // The last one to leave ends the generation: whoever heard that nobody is left must not find a member later.
        out.waiting.push((reply, Ok(Answer::Left(left)), Until::All));
    }

    /// ConsumerGroupHeartbeat.
    pub(super) fn beat(
        &mut self,
        now: Now,
        mut request: HeartbeatRequest,
        unique: &str,
        reply: R,
        env: &Env,
        out: &mut Out<R>,
    ) {
        let limits = self.consumer_limits(env);
        if let Err(error) = heartbeat::check(&limits, &request) {
            return out.answers.push((reply, Err(error)));
        }
        if request.member_id.is_empty() {
            unique.clone_into(&mut request.member_id);
        }
        let mut effects = Vec::new();
        let outcome = self.beat_as(now, &limits, env.at(), request, &mut effects);
        self.run(effects, out);
        self.downgrade_if_due(now, env, out);
        match outcome {
            Err(error) => out.answers.push((reply, Err(error))),
            // It need not wait for what others commit.
            Ok(beat) => out.waiting.push((reply, Ok(Answer::Beat(beat)), Until::State)),
        }
    }

    fn beat_as(
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

    /// Does what is due of the group's timers.
    pub(super) fn expire_members(&mut self, now: Now, env: &Env, out: &mut Out<R>) {
        let mut effects = Vec::new();
        match &mut self.kind {
            Kind::Classic(group) => drop(group.expire(now, &mut effects)),
            Kind::Consumer(group) => drop(group.expire(now, env.at())),
        }
        self.run(effects, out);
        self.downgrade_if_due(now, env, out);
    }

    /// A consumer group whose last members all use the classic protocol becomes a classic one.
    fn downgrade_if_due(&mut self, now: Now, env: &Env, out: &mut Out<R>) {
        let Kind::Consumer(consumer) = &self.kind else { return };
        if !consumer.may_downgrade(&env.limits.consumer, env.limits.groups.members_max) {
            return;
        }
        let value = consumer.to_classic(now, &*env.topics);
        let mut effects = vec![Effect::Recorded];
        let classic = ClassicGroup::downgraded(env.limits.groups, now, value, &mut effects);
        self.kind = Kind::Classic(Box::new(classic));
        self.run(effects, out);
    }

    /// JoinGroup makes a classic group of an empty one.
    fn make_classic_if_empty(&mut self, limits: GroupLimits, now: Now) {
        if let Kind::Consumer(group) = &self.kind
            && group.size() == 0
        {
            let value = group.to_classic(now, &crate::metadata::image::ClusterImage::default());
            self.kind = Kind::Classic(Box::new(ClassicGroup::recover(limits, now, value)));
        }
    }
}
