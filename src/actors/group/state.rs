//! The coordinator of all groups on the shards that this broker owns, as a pure machine.
//!
//! It finds the group of a call, lets its machines decide, keeps the replies that follow from a change until the change is
//! durable ([`super::writes`]), knows when the next timer runs out, and what expires. Calls and time come in, answers go
//! out; the actor around it does the rest.

mod expiry;
mod kind;
mod members;

use super::call::{Answer, Call, Caller, FetchTopic, FetchedOffset, Outcome};
use super::classic::{ClassicGroup, Effect, GroupLimits, Ms, Now};
use super::consumer::ConsumerGroup;
use super::consumer::types::{ConsumerLimits, Topics, TopicsAt};
use super::consumer::value::ConsumerValue;
use super::error::GroupError;
use super::offsets::{BlockKey, OffsetToCommit, Offsets, Retention};
use super::value::{self, GroupValue};
use super::writes::{GroupId, Part, WriteKey, Writes};
use crate::ids::PartitionIndex;
use crate::metadata::image::ClusterImage;
use bytes::Bytes;
use kind::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Coordinator shards of a cluster. Part of the format: a group's shard must be the same for all brokers.
pub const SHARDS: u32 = 50;
/// Groups of one coordinator.
pub const GROUPS_MAX: usize = 200_000;
/// Bytes of members and offsets of one coordinator.
pub const BYTES_MAX: usize = 512 << 20;
/// Longest group id, bytes.
pub const GROUP_ID_LEN_MAX: usize = 1_024;
/// A reply waits no longer than this for its change to become durable, ms.
pub const DURABLE_WAIT_MS_MAX: u64 = 10_000;
/// Ticks that are further apart than this mean that the process stood still, ms: heartbeats may be waiting unread.
const STALL_MS: u64 = 2_500;
/// Time between two looks at what expired, ms.
const RETENTION_CHECK_MS: u64 = 60_000;

/// Settings of a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorLimits {
    /// Of groups of the classic protocol.
    pub groups: GroupLimits,
    /// Of groups of the consumer protocol.
    pub consumer: ConsumerLimits,
    /// Longest metadata string of an offset, bytes.
    pub offset_metadata_bytes_max: usize,
    /// When offsets expire.
    pub retention: Retention,
}

impl Default for CoordinatorLimits {
    fn default() -> Self {
        Self {
            groups: GroupLimits::default(),
            consumer: ConsumerLimits::default(),
            offset_metadata_bytes_max: 4_096,
            retention: Retention { retention_ms: 7 * 86_400_000 },
        }
    }
}

/// The shard of a group: as Kafka finds the partition of `__consumer_offsets`.
pub fn shard_of(group: &str) -> u32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) as u32 % SHARDS
}

/// A key as read from the metadata store.
#[derive(Debug)]
pub enum Loaded {
    /// A group's state.
    Group(GroupId, GroupValue),
    /// A group's state, with the consumer protocol.
    Consumer(GroupId, ConsumerValue),
    /// A block of its offsets.
    Block(GroupId, BlockKey, super::offsets::Block),
}

struct Group<R> {
    kind: Kind<R>,
    offsets: Offsets,
    /// When `due` names it.
    scheduled: Option<Ms>,
}

impl<R> Group<R> {
    fn bytes(&self) -> usize {
        self.kind.bytes() + self.offsets.bytes()
    }
}

/// See the module's documentation. `R` is where an answer goes.
pub struct Coordinator<R> {
    limits: CoordinatorLimits,
    shards: BTreeSet<u32>,
    topics: Arc<dyn Topics>,
    /// Counts changes of the topics.
    topics_version: u64,
    groups: BTreeMap<GroupId, Group<R>>,
    writes: Writes<(R, Outcome)>,
    due: BTreeSet<(Ms, GroupId)>,
    bytes: usize,
    last_tick_ms: Ms,
    retention_due_ms: Ms,
    answers: Vec<(R, Outcome)>,
}

impl<R> Coordinator<R> {
    /// The coordinator of `shards`, with what is stored of their groups.
    pub fn recover(limits: CoordinatorLimits, shards: BTreeSet<u32>, now: Now, stored: Vec<Loaded>) -> Self {
        let mut coordinator = Self {
            limits,
            shards,
            topics: Arc::new(ClusterImage::default()),
            topics_version: 0,
            groups: BTreeMap::new(),
            writes: Writes::default(),
            due: BTreeSet::new(),
            bytes: 0,
            last_tick_ms: now.mono_ms,
            retention_due_ms: now.mono_ms + RETENTION_CHECK_MS,
            answers: Vec::new(),
        };
        for loaded in stored {
            match loaded {
                Loaded::Group(id, value) => {
                    let group = ClassicGroup::recover(limits.groups, now, value);
                    coordinator.group_mut(&id, now).kind = Kind::Classic(Box::new(group));
                }
                Loaded::Consumer(id, value) => {
                    let group = ConsumerGroup::recover(&limits.consumer, now, value);
                    coordinator.group_mut(&id, now).kind = Kind::Consumer(Box::new(group));
                }
                Loaded::Block(id, key, block) => coordinator.group_mut(&id, now).offsets.replay(key, Some(block)),
            }
        }
        let ids: Vec<GroupId> = coordinator.groups.keys().cloned().collect();
        ids.iter().for_each(|id| coordinator.schedule(id));
        coordinator.bytes = coordinator.groups.values().map(Group::bytes).sum();
        coordinator
    }

    /// Groups, those without members included.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// True without any group.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Members of all groups.
    pub fn members(&self) -> usize {
        self.groups.values().map(|g| g.kind.size()).sum()
    }

    /// The topics that there are from now on.
    pub fn set_topics(&mut self, topics: Arc<dyn Topics>) {
        self.topics = topics;
        self.topics_version += 1;
    }

    /// What groups set themselves from now on; the topics are those that are known.
    pub fn set_group_configs(&mut self, image: Arc<dyn Topics>) {
        self.topics = image;
    }

    /// Answers that may be sent now.
    pub fn take_answers(&mut self) -> Vec<(R, Outcome)> {
        std::mem::take(&mut self.answers)
    }

    /// When [`Self::tick`] should be called next because of a timer.
    pub fn next_timer(&self) -> Option<Ms> {
        self.due.first().map(|(at, _)| *at)
    }

    /// When [`Self::begin_write`] should be called next.
    pub fn next_write(&self) -> Option<Ms> {
        self.writes.next_begin()
    }

    /// True if everything that was changed is durable.
    pub fn is_clean(&self) -> bool {
        self.writes.is_clean()
    }

    /// A call. `unique` is part of the id of a member that needs one.
    pub fn call(&mut self, now: Now, call: Call, unique: &str, reply: R) {
        match call {
            Call::Join(group, request) => self.join(now, &group, *request, unique, reply),
            Call::Sync(group, request) => self.sync(now, &group, request, reply),
            Call::Heartbeat(group, caller) => {
                let outcome = self.heartbeat(now, &group, &caller);
                self.answers.push((reply, outcome.map(|()| Answer::Done)));
            }
            Call::Beat(group, request) => self.beat(now, &group, *request, unique, reply),
            Call::Leave(group, members) => self.leave(now, &group, &members, reply),
            Call::Commit(group, caller, offsets) => self.commit(now, &group, &caller, offsets, reply),
            Call::Fetch(group, member, topics) => self.fetch(now, &group, member, topics, reply),
            Call::DeleteOffsets(group, topics) => self.delete_offsets(now, &group, &topics, reply),
            Call::Describe(group) => {
                let outcome = self.find(&group).and_then(|g| g.kind.describe());
                self.answers.push((reply, outcome));
            }
            Call::DescribeConsumer(group) => {
                let limits = &self.limits.consumer;
                let outcome = self.check_id(&group, false).and_then(|()| self.find(&group));
                let outcome = outcome.and_then(|g| g.kind.describe_consumer(limits));
                self.answers.push((reply, outcome));
            }
            Call::List => {
                let listed = self.groups.iter().filter(|(_, g)| is_visible(g)).map(|(id, g)| g.kind.listing(id));
                let listed = listed.collect();
                self.answers.push((reply, Ok(Answer::Listed(listed))));
            }
            Call::Delete(group) => self.delete(now, &group, reply),
        }
    }

    fn check_id(&self, group: &str, may_be_empty: bool) -> Result<(), GroupError> {
        if group.len() > GROUP_ID_LEN_MAX || (group.is_empty() && !may_be_empty) {
            return Err(GroupError::InvalidGroupId);
        }
        if self.shards.contains(&shard_of(group)) { Ok(()) } else { Err(GroupError::NotCoordinator) }
    }

    /// A group that clients can see; one without members and offsets, of which nothing is stored, they cannot.
    fn find(&self, group: &str) -> Result<&Group<R>, GroupError> {
        self.check_id(group, true)?;
        self.groups.get(group).filter(|g| is_visible(g)).ok_or(GroupError::GroupIdNotFound)
    }

    fn group_mut(&mut self, id: &GroupId, now: Now) -> &mut Group<R> {
        let limits = self.limits.groups;
        self.groups.entry(id.clone()).or_insert_with(|| Group {
            kind: Kind::Classic(Box::new(ClassicGroup::new(limits, now))),
            offsets: Offsets::default(),
            scheduled: None,
        })
    }

    fn may_grow(&self, id: &GroupId) -> Result<(), GroupError> {
        let full = self.bytes > BYTES_MAX || (self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(id));
        if full { Err(GroupError::NotAvailable) } else { Ok(()) }
    }

    fn commit(&mut self, now: Now, id: &GroupId, caller: &Caller, offsets: Vec<OffsetToCommit>, reply: R) {
        let limits = self.consumer_limits(id);
        let allowed = self.check_id(id, true).and_then(|()| self.may_grow(id)).and_then(|()| {
            match self.groups.get_mut(id) {
                Some(group) => group.kind.check_commit(now, &limits, caller),
                None if caller.generation < 0 => Ok(()), // a group that only has offsets
                None => Err(GroupError::GroupIdNotFound),
            }
        });
        if let Err(error) = allowed {
            return self.answers.push((reply, Err(error)));
        }
        let max = self.limits.offset_metadata_bytes_max;
        let (mut outcomes, mut changed) = (Vec::with_capacity(offsets.len()), BTreeSet::new());
        self.with_group(now, id, |group, _| {
            for offset in offsets {
                let outcome = group.offsets.commit(offset, max);
                outcomes.push(outcome.as_ref().map(drop).map_err(|e| *e));
                changed.extend(outcome);
            }
        });
        changed.into_iter().for_each(|block| self.writes.mark(id, Part::Offsets(block)));
        self.answer_when_durable(now, id, reply, Ok(Answer::Committed(outcomes)));
    }

    fn fetch(
        &mut self,
        now: Now,
        id: &GroupId,
        member: Option<(String, i32)>,
        topics: Option<Vec<FetchTopic>>,
        reply: R,
    ) {
        let allowed = self.check_id(id, true).and_then(|()| match (self.groups.get(id).map(|g| &g.kind), &member) {
            (Some(Kind::Consumer(group)), Some((member_id, epoch))) => group.check_fetch(member_id, *epoch),
            _ => Ok(()),
        });
        if let Err(error) = allowed {
            return self.answers.push((reply, Err(error)));
        }
        let nothing = Offsets::default();
        let offsets = self.groups.get(id).map_or(&nothing, |g| &g.offsets);
        let mut fetched = Vec::new();
        match topics {
            None => fetched.extend(offsets.all().map(|(topic, id, partition, committed)| FetchedOffset {
                topic: topic.clone(),
                id,
                partition,
                committed: Some(committed.clone()),
            })),
            Some(topics) => {
                for FetchTopic { topic, id, partitions } in topics {
                    fetched.extend(partitions.into_iter().map(|partition| {
                        let committed = offsets.get(&topic, id, partition).cloned();
                        FetchedOffset { topic: topic.clone(), id, partition, committed }
                    }));
                }
            }
        }
        // What is not durable yet could be gone after a crash: whoever has seen it must not see less later.
        self.answer_when_durable(now, id, reply, Ok(Answer::Fetched(fetched)));
    }

    fn delete_offsets(&mut self, now: Now, id: &GroupId, topics: &[(Arc<str>, Vec<PartitionIndex>)], reply: R) {
        let found =
            self.check_id(id, false).and_then(|()| self.find(id)).and_then(|group| group.kind.check_offset_deletes());
        if let Err(error) = found {
            return self.answers.push((reply, Err(error)));
        }
        let (mut outcomes, mut changed) = (Vec::new(), BTreeSet::new());
        let existing = self.topics.clone();
        let version = self.topics_version;
        self.with_group(now, id, |group, _| {
            for (topic, partitions) in topics {
                let existing = TopicsAt { topics: &*existing, version };
                let allowed = group.kind.check_offset_delete(topic, existing);
                if allowed.is_ok() {
                    changed.extend(partitions.iter().filter_map(|p| group.offsets.delete(topic, *p)));
                }
                outcomes.push(allowed);
            }
        });
        changed.into_iter().for_each(|block| self.writes.mark(id, Part::Offsets(block)));
        self.answer_when_durable(now, id, reply, Ok(Answer::OffsetsDeleted(outcomes)));
        self.forget_if_nothing(id);
    }

    fn delete(&mut self, now: Now, id: &GroupId, reply: R) {
        let allowed = self
            .check_id(id, true)
            .and_then(|()| self.find(id))
            .and_then(|group| if group.kind.is_unused() { Ok(()) } else { Err(GroupError::NonEmptyGroup) });
        if let Err(error) = allowed {
            return self.answers.push((reply, Err(error)));
        }
        self.remove(id);
        self.answer_when_durable(now, id, reply, Ok(Answer::Done));
    }

    /// Removes a group without members and everything stored of it.
    fn remove(&mut self, id: &GroupId) {
        let Some(mut group) = self.groups.remove(id) else { return };
        self.bytes -= group.bytes();
        if let Some(at) = group.scheduled {
            self.due.remove(&(at, id.clone()));
        }
        if group.kind.is_stored() {
            self.writes.mark(id, Part::State);
        }
        group.offsets.clear().into_iter().for_each(|block| self.writes.mark(id, Part::Offsets(block)));
    }

    /// Changes a group, creating it if need be; does what follows from the effects.
    fn with_group(&mut self, now: Now, id: &GroupId, change: impl FnOnce(&mut Group<R>, &mut Vec<Effect<R>>)) {
        let mut effects = Vec::new();
        let group = self.group_mut(id, now);
        let before = group.bytes();
        change(group, &mut effects);
        let after = group.bytes();
        let recorded = group.kind.take_changed();
        self.bytes = self.bytes - before + after;
        if recorded {
            self.writes.mark(id, Part::State);
        }
        for effect in effects {
            match effect {
                Effect::Recorded => self.writes.mark(id, Part::State),
                // A refusal says nothing that a crash could take back.
                Effect::Join(reply, answer) if answer.error.is_some() => {
                    self.answers.push((reply, Ok(Answer::Join(answer))));
                }
                Effect::Sync(reply, answer) if answer.error.is_some() => {
                    self.answers.push((reply, Ok(Answer::Sync(answer))));
                }
                Effect::Join(reply, answer) => self.answer_when_durable(now, id, reply, Ok(Answer::Join(answer))),
                Effect::Sync(reply, answer) => self.answer_when_durable(now, id, reply, Ok(Answer::Sync(answer))),
            }
        }
        self.schedule(id);
        self.forget_if_nothing(id);
    }

    fn answer_when_durable(&mut self, now: Now, id: &GroupId, reply: R, outcome: Outcome) {
        self.answers.extend(self.writes.wait(now.mono_ms, id, (reply, outcome)));
    }

    fn schedule(&mut self, id: &GroupId) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let next = group.kind.next_deadline();
        if next != group.scheduled {
            if let Some(before) = group.scheduled {
                self.due.remove(&(before, id.clone()));
            }
            group.scheduled = next;
            self.due.extend(next.map(|at| (at, id.clone())));
        }
    }

    /// A group of which nothing is stored and that nobody uses need not be remembered.
    fn forget_if_nothing(&mut self, id: &GroupId) {
        let nothing = |g: &Group<R>| g.kind.is_unused() && !is_visible(g);
        if self.groups.get(id).is_some_and(nothing) {
            self.remove(id);
        }
    }

    /// Time passes. With `suspended` this broker may have been replaced without knowing it: members cannot reach it, so
    /// their silence means nothing.
    pub fn tick(&mut self, now: Now, suspended: bool) {
        for (reply, _) in self.writes.expire(now.mono_ms.saturating_sub(DURABLE_WAIT_MS_MAX)) {
            self.answers.push((reply, Err(GroupError::NotAvailable)));
        }
        if suspended {
            return;
        }
        let stood_still = now.mono_ms.saturating_sub(self.last_tick_ms) > STALL_MS;
        self.last_tick_ms = now.mono_ms;
        if stood_still {
            self.extend_sessions(now);
        }
        while let Some((_, id)) = self.due.first().filter(|(at, _)| *at <= now.mono_ms).cloned() {
            self.expire_members(now, &id);
        }
        if self.retention_due_ms <= now.mono_ms {
            self.retention_due_ms = now.mono_ms + RETENTION_CHECK_MS;
            self.expire_offsets(now);
        }
    }

    fn extend_sessions(&mut self, now: Now) {
        let ids: Vec<GroupId> = self.groups.keys().cloned().collect();
        for id in &ids {
            let limits = self.consumer_limits(id);
            self.groups.get_mut(id).expect("just listed").kind.extend_sessions(now, &limits);
            self.schedule(id);
        }
    }

    /// What to write now, if it is time: each key with its value, `None` to delete it.
    pub fn begin_write(&mut self, now: Now) -> Option<Vec<(WriteKey, Option<Bytes>)>> {
        let groups = &self.groups;
        self.writes.begin(now.mono_ms, |key| {
            let group = groups.get(&key.group)?;
            match &key.part {
                Part::State => group.kind.encode(),
                Part::Offsets(block) => group.offsets.block(block).map(value::encode_block),
            }
        })
    }

    /// What was begun is durable.
    pub fn write_committed(&mut self) {
        self.answers.extend(self.writes.committed());
    }

    /// This coordinator is lost: everybody who waits hears `error`.
    pub fn fail_all(&mut self, error: GroupError) {
        self.fail_parked(error);
        let waiting = self.writes.take_waiters();
        self.answers.extend(waiting.into_iter().map(|(reply, _)| (reply, Err(error))));
    }

    /// This coordinator stops: those who wait for other members hear `error`.
    pub fn fail_parked(&mut self, error: GroupError) {
        let mut effects = Vec::new();
        self.groups.values_mut().for_each(|g| g.kind.fail_parked(error, &mut effects));
        for effect in effects {
            match effect {
                Effect::Join(reply, answer) => self.answers.push((reply, Ok(Answer::Join(answer)))),
                Effect::Sync(reply, answer) => self.answers.push((reply, Ok(Answer::Sync(answer)))),
                Effect::Recorded => {}
            }
        }
    }
}

/// True if clients can see the group: something is stored of it, or it has members.
fn is_visible<R>(group: &Group<R>) -> bool {
    group.kind.is_stored() || group.kind.size() > 0 || !group.offsets.is_empty()
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
