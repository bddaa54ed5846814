//! One group as a pure machine: its members under either protocol, its offsets, its timers.
//!
//! Calls and time come in; what must be written, who may be answered, and who when that is durable comes out ([`Out`]). The
//! actor around it sends that on, the shards' actor writes.

mod expiry;
mod kind;
mod members;

use super::call::{Answer, Call, Caller, FetchTopic, FetchedOffset, Listing, Outcome};
use super::classic::{ClassicGroup, Effect, Ms, Now};
use super::consumer::ConsumerGroup;
use super::consumer::types::{ConsumerLimits, Topics, TopicsAt};
use super::error::GroupError;
use super::limits::{CoordinatorLimits, Loaded};
use super::offsets::{OffsetToCommit, Offsets};
use super::value;
use super::writes::{GroupId, Part};
use crate::ids::PartitionIndex;
use bytes::Bytes;
use kind::Kind;
pub(super) use members::{check_join, refused_join, refused_sync};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a group sees of the rest.
#[derive(Debug, Clone)]
pub struct Env {
    /// Settings.
    pub limits: CoordinatorLimits,
    /// The topics that there are.
    pub topics: Arc<dyn Topics>,
    /// Counts changes of the topics.
    pub version: u64,
}

impl Env {
    fn at(&self) -> TopicsAt<'_> {
        TopicsAt { topics: &*self.topics, version: self.version }
    }
}

/// What must be durable before an answer may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Everything of the group as it is now.
    All,
    /// Its members as they are now.
    State,
}

/// What a call or time leads to. `R` is where an answer goes.
#[derive(Debug)]
pub struct Out<R> {
    /// Answers that may go at once.
    pub answers: Vec<(R, Outcome)>,
    /// What changed, with its value now; `None`: it is to be deleted.
    pub writes: BTreeMap<Part, Option<Bytes>>,
    /// Answers that must wait.
    pub waiting: Vec<(R, Outcome, Until)>,
}

impl<R> Default for Out<R> {
    fn default() -> Self {
        Self { answers: Vec::new(), writes: BTreeMap::new(), waiting: Vec::new() }
    }
}

/// What others see of a group without asking it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Memory of members and offsets, roughly, bytes.
    pub bytes: usize,
    /// Members.
    pub members: usize,
    /// How it is listed; `None` for one that clients cannot see.
    pub listing: Option<Listing>,
    /// Nothing is stored of it and nobody uses it: it need not be remembered.
    pub is_nothing: bool,
}

impl Report {
    /// Its state, in Kafka's words; of a group that clients cannot see, that of one that is gone.
    pub fn state(&self) -> &'static str {
        self.listing.as_ref().map_or("Dead", |listing| listing.state)
    }

    /// Members are getting other partitions.
    pub fn is_rebalancing(&self) -> bool {
        matches!(self.state(), "PreparingRebalance" | "CompletingRebalance" | "Assigning" | "Reconciling")
    }
}

/// See the module's documentation. `R` is where an answer goes.
pub struct Group<R> {
    id: GroupId,
    kind: Kind<R>,
    offsets: Offsets,
    /// Parts that changed since the last call of [`Self::finish`].
    changed: BTreeSet<Part>,
}

impl<R> Group<R> {
    /// A group that nothing is known of.
    pub fn new(id: GroupId, limits: &CoordinatorLimits, now: Now) -> Self {
        let kind = Kind::Classic(Box::new(ClassicGroup::new(limits.groups, now)));
        Self { id, kind, offsets: Offsets::default(), changed: BTreeSet::new() }
    }

    /// A group with what is stored of it. Its members have a whole session from now on.
    pub fn recover(id: GroupId, limits: &CoordinatorLimits, now: Now, stored: Vec<Loaded>) -> Self {
        let mut group = Self::new(id, limits, now);
        for loaded in stored {
            match loaded {
                Loaded::Group(value) => {
                    group.kind = Kind::Classic(Box::new(ClassicGroup::recover(limits.groups, now, value)));
                }
                Loaded::Consumer(value) => {
                    group.kind = Kind::Consumer(Box::new(ConsumerGroup::recover(&limits.consumer, now, value)));
                }
                Loaded::Block(key, block) => group.offsets.replay(key, Some(block)),
            }
        }
        group
    }

    /// What others see.
    pub fn report(&self) -> Report {
        let listing = self.is_visible().then(|| self.kind.listing(&self.id));
        let bytes = self.kind.bytes() + self.offsets.bytes();
        Report { bytes, members: self.kind.size(), is_nothing: listing.is_none() && self.kind.is_unused(), listing }
    }

    /// When [`Self::expire`] should be called next.
    pub fn next_deadline(&self) -> Option<Ms> {
        self.kind.next_deadline()
    }

    /// A call that names this group. `unique` is part of the id of a member that needs one.
    pub fn call(&mut self, now: Now, call: Call, unique: &str, reply: R, env: &Env, out: &mut Out<R>) {
        match call {
            Call::Join(_, request) => self.join(now, *request, unique, reply, env, out),
            Call::Sync(_, request) => self.sync(now, request, reply, env, out),
            Call::Heartbeat(_, caller) => {
                let outcome = self.heartbeat(now, &caller, env, out);
                out.answers.push((reply, outcome.map(|()| Answer::Done)));
            }
            Call::Beat(_, request) => self.beat(now, *request, unique, reply, env, out),
            Call::Leave(_, members) => self.leave(now, &members, reply, env, out),
            Call::Commit(_, caller, offsets) => self.commit(now, &caller, offsets, reply, env, out),
            Call::Fetch(_, member, topics) => self.fetch(member, topics, reply, out),
            Call::DeleteOffsets(_, topics) => self.delete_offsets(&topics, reply, env, out),
            Call::Describe(_) => {
                let outcome = self.visible().and_then(|g| g.kind.describe());
                out.answers.push((reply, outcome));
            }
            Call::DescribeConsumer(_) => {
                let outcome = self.visible().and_then(|g| g.kind.describe_consumer(&env.limits.consumer));
                out.answers.push((reply, outcome));
            }
            Call::List => unreachable!("it names no group"),
            Call::Delete(_) => self.delete(now, reply, env, out),
        }
        self.finish(out);
    }

    /// What changed, with its values, goes out.
    fn finish(&mut self, out: &mut Out<R>) {
        if self.kind.take_changed() {
            self.changed.insert(Part::State);
        }
        for part in std::mem::take(&mut self.changed) {
            let value = match &part {
                Part::State => self.kind.encode(),
                Part::Offsets(block) => self.offsets.block(block).map(value::encode_block),
            };
            out.writes.insert(part, value);
        }
    }

    /// Does what effects of the members' machines say.
    fn run(&mut self, effects: Vec<Effect<R>>, out: &mut Out<R>) {
        for effect in effects {
            match effect {
                Effect::Recorded => drop(self.changed.insert(Part::State)),
                // A refusal says nothing that a crash could take back.
                Effect::Join(reply, answer) if answer.error.is_some() => {
                    out.answers.push((reply, Ok(Answer::Join(answer))));
                }
                Effect::Sync(reply, answer) if answer.error.is_some() => {
                    out.answers.push((reply, Ok(Answer::Sync(answer))));
                }
                Effect::Join(reply, answer) => out.waiting.push((reply, Ok(Answer::Join(answer)), Until::All)),
                Effect::Sync(reply, answer) => out.waiting.push((reply, Ok(Answer::Sync(answer)), Until::All)),
            }
        }
    }

    /// True if clients can see the group: something is stored of it, or it has members.
    fn is_visible(&self) -> bool {
        self.kind.is_stored() || self.kind.size() > 0 || !self.offsets.is_empty()
    }

    fn visible(&self) -> Result<&Self, GroupError> {
        if self.is_visible() { Ok(self) } else { Err(GroupError::GroupIdNotFound) }
    }

    /// Settings of the consumer protocol, with what the group sets itself.
    fn consumer_limits(&self, env: &Env) -> ConsumerLimits {
        env.limits.consumer.of_group(env.topics.overrides(&self.id))
    }

    fn mark(&mut self, blocks: impl IntoIterator<Item = super::offsets::BlockKey>) {
        self.changed.extend(blocks.into_iter().map(Part::Offsets));
    }

    fn commit(
        &mut self,
        now: Now,
        caller: &Caller,
        offsets: Vec<OffsetToCommit>,
        reply: R,
        env: &Env,
        out: &mut Out<R>,
    ) {
        let limits = self.consumer_limits(env);
        if let Err(error) = self.kind.check_commit(now, &limits, caller) {
            return out.answers.push((reply, Err(error)));
        }
        let max = env.limits.offset_metadata_bytes_max;
        let outcomes = offsets.into_iter().map(|offset| {
            let block = self.offsets.commit(offset, max)?;
            self.changed.insert(Part::Offsets(block));
            Ok(())
        });
        let outcomes = outcomes.collect();
        out.waiting.push((reply, Ok(Answer::Committed(outcomes)), Until::All));
    }

    fn fetch(&mut self, member: Option<(String, i32)>, topics: Option<Vec<FetchTopic>>, reply: R, out: &mut Out<R>) {
        if let (Kind::Consumer(group), Some((member_id, epoch))) = (&self.kind, &member)
            && let Err(error) = group.check_fetch(member_id, *epoch)
        {
            return out.answers.push((reply, Err(error)));
        }
        let fetched = fetched(&self.offsets, topics);
        // What is not durable yet could be gone after a crash: whoever has seen it must not see less later.
        out.waiting.push((reply, Ok(Answer::Fetched(fetched)), Until::All));
    }

    fn delete_offsets(&mut self, topics: &[(Arc<str>, Vec<PartitionIndex>)], reply: R, env: &Env, out: &mut Out<R>) {
        if let Err(error) = self.visible().and_then(|group| group.kind.check_offset_deletes()) {
            return out.answers.push((reply, Err(error)));
        }
        let mut outcomes = Vec::new();
        for (topic, partitions) in topics {
            let allowed = self.kind.check_offset_delete(topic, env.at());
            if allowed.is_ok() {
                let deleted: Vec<_> = partitions.iter().filter_map(|p| self.offsets.delete(topic, *p)).collect();
                self.mark(deleted);
            }
            outcomes.push(allowed);
        }
        out.waiting.push((reply, Ok(Answer::OffsetsDeleted(outcomes)), Until::All));
    }

    fn delete(&mut self, now: Now, reply: R, env: &Env, out: &mut Out<R>) {
        let allowed =
            self.visible().and_then(|g| if g.kind.is_unused() { Ok(()) } else { Err(GroupError::NonEmptyGroup) });
        if let Err(error) = allowed {
            return out.answers.push((reply, Err(error)));
        }
        self.forget_everything(now, env);
        out.waiting.push((reply, Ok(Answer::Done), Until::All));
    }

    /// Forgets what is stored of a group without members.
    fn forget_everything(&mut self, now: Now, env: &Env) {
        if self.kind.is_stored() {
            self.changed.insert(Part::State);
        }
        let blocks = self.offsets.clear();
        self.mark(blocks);
        self.kind = Kind::Classic(Box::new(ClassicGroup::new(env.limits.groups, now)));
    }

    /// Those who wait for other members hear `error`.
    pub fn fail_parked(&mut self, error: GroupError, out: &mut Out<R>) {
        let mut effects = Vec::new();
        self.kind.fail_parked(error, &mut effects);
        self.run(effects, out);
    }
}

/// The offsets that a fetch asks for, in its order; `None` for all.
pub(super) fn fetched(offsets: &Offsets, topics: Option<Vec<FetchTopic>>) -> Vec<FetchedOffset> {
    let Some(topics) = topics else {
        let all = offsets.all().map(|(topic, id, partition, committed)| FetchedOffset {
            topic: topic.clone(),
            id,
            partition,
            committed: Some(committed.clone()),
        });
        return all.collect();
    };
    let mut fetched = Vec::new();
    for FetchTopic { topic, id, partitions } in topics {
        fetched.extend(partitions.into_iter().map(|partition| {
            let committed = offsets.get(&topic, id, partition).cloned();
            FetchedOffset { topic: topic.clone(), id, partition, committed }
        }));
    }
    fetched
}
