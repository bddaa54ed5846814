//! The group's epoch and target: what members are subscribed to, when that calls for a new assignment, and which.

use super::ConsumerGroup;
use super::assignor::{self, Candidate};
use super::types::{Assignor, ConsumerLimits, TopicsAt};
use super::value::ConsumerMember;
use crate::actors::group::classic::Now;
use crate::actors::group::error::GroupError;
use crate::ids::TopicId;
use regex::{Regex, RegexBuilder};
use std::collections::{BTreeMap, BTreeSet};

/// Memory that a compiled regular expression may take, bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A regular expression with the topics that match it.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Option<Regex>,
    /// Version of the topics that `ids` are of.
    version: Option<u64>,
    ids: BTreeSet<TopicId>,
}

/// Compiles a regular expression that has to match whole topic names.
fn compile(pattern: &str) -> Result<Regex, GroupError> {
    let build = |text: &str| RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    // By itself first: `a)(b` would be made valid by the parentheses.
    build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))).map_err(|_| GroupError::InvalidRegularExpression)
}

impl ConsumerGroup {
    /// Compiles the regular expression that a member is about to have, unless one has it already.
    pub(super) fn learn(&mut self, pattern: &str) -> Result<(), GroupError> {
        if !self.patterns.contains_key(pattern) {
            let regex = Some(compile(pattern)?);
            self.patterns.insert(pattern.to_owned(), Pattern { regex, version: None, ids: BTreeSet::new() });
        }
        Ok(())
    }

    /// Topics that match the regular expression, which a member has.
    fn matching(&mut self, pattern: &str, topics: TopicsAt<'_>) -> &BTreeSet<TopicId> {
        let resolved = self.patterns.entry(pattern.to_owned()).or_insert_with(|| Pattern {
            regex: compile(pattern).ok(),
            version: None,
            ids: BTreeSet::new(),
        });
        if resolved.version != Some(topics.version) {
            let all = topics.topics.all().into_iter();
            let matching = all.filter(|(name, _)| resolved.regex.as_ref().is_some_and(|r| r.is_match(name)));
            resolved.ids = matching.map(|(_, id)| id).collect();
            resolved.version = Some(topics.version);
        }
        &resolved.ids
    }

    /// True if the regular expression of a member matches the topic.
    pub(super) fn is_matched(&mut self, id: TopicId, topics: TopicsAt<'_>) -> bool {
        let patterns: BTreeSet<String> = self.members.values().filter_map(|m| m.value.regex.clone()).collect();
        patterns.iter().any(|pattern| self.matching(pattern, topics).contains(&id))
    }

    /// Existing topics that each member is subscribed to, in the order of members.
    fn subscriptions(&mut self, topics: TopicsAt<'_>) -> Vec<BTreeSet<TopicId>> {
        let used: BTreeSet<String> = self.members.values().filter_map(|m| m.value.regex.clone()).collect();
        self.patterns.retain(|pattern, _| used.contains(pattern));
        for pattern in &used {
            self.matching(pattern, topics);
        }
        let of = |member: &ConsumerMember| {
            let by_name = member.names.iter().filter_map(|name| Some(topics.topics.find(name)?.0));
            let by_regex = member.regex.iter().filter_map(|r| self.patterns.get(r)).flat_map(|p| p.ids.iter().copied());
            by_name.chain(by_regex).collect()
        };
        self.members.values().map(|m| of(&m.value)).collect()
    }

    fn hash(&mut self, topics: TopicsAt<'_>) -> u64 {
        let ids: BTreeSet<TopicId> = self.subscriptions(topics).into_iter().flatten().collect();
        let counts = ids.into_iter().filter_map(|id| Some((id, topics.topics.by_id(id)?.1)));
        fingerprint(counts)
    }

    /// Something changed that calls for a new target.
    pub(super) fn bump(&mut self, now: Now, topics: TopicsAt<'_>) {
        let hash = self.hash(topics);
        self.seen_topics = Some(topics.version);
        self.gather_names();
        self.set_head(self.epoch + 1, self.target_epoch, hash, now.wall_ms);
    }

    /// Raises the epoch if subscribed topics came, went, or have more partitions.
    pub(super) fn refresh(&mut self, now: Now, topics: TopicsAt<'_>) {
        if self.seen_topics == Some(topics.version) {
            return;
        }
        self.seen_topics = Some(topics.version);
        if self.hash(topics) != self.topics_hash {
            self.bump(now, topics);
        }
    }

    /// Computes the target if it is not that of the group's epoch.
    pub(super) fn retarget(&mut self, now: Now, limits: &ConsumerLimits, topics: TopicsAt<'_>) {
        if self.target_epoch == self.epoch {
            return;
        }
        let subscriptions = self.subscriptions(topics);
        let ids: BTreeSet<TopicId> = subscriptions.iter().flatten().copied().collect();
        let counts: BTreeMap<TopicId, i32> =
            ids.into_iter().filter_map(|id| Some((id, topics.topics.by_id(id)?.1))).collect();
        let members: Vec<Candidate<'_>> = self
            .members
            .values()
            .zip(subscriptions)
            .map(|(member, topics)| Candidate {
                name: member.value.instance.as_deref().unwrap_or(&member.value.id),
                topics,
                before: &member.value.target,
            })
            .collect();
        let targets = assignor::assign(self.preferred(limits), &members, &counts);
        let changed: Vec<ConsumerMember> = self
            .members
            .values()
            .zip(targets)
            .filter(|(member, target)| member.value.target != *target)
            .map(|(member, target)| ConsumerMember { target, ..member.value.clone() })
            .collect();
        changed.into_iter().for_each(|member| self.put(now, limits, member));
        self.set_head(self.epoch, self.epoch, self.topics_hash, self.since_ms);
    }

    /// The assignor that most members ask for; the first of the settings if nobody asks.
    pub fn preferred(&self, limits: &ConsumerLimits) -> Assignor {
        let votes = |assignor: Assignor| {
            let vote = |m: &&ConsumerMember| m.assignor.as_deref() == Some(assignor.name());
            self.members().filter(vote).count()
        };
        let first = limits.assignors().next().unwrap_or(Assignor::Uniform);
        let best = limits.assignors().max_by_key(|assignor| (votes(*assignor), *assignor == first));
        best.unwrap_or(first)
    }
}

/// FNV-1a over the topics in their order.
fn fingerprint(topics: impl Iterator<Item = (TopicId, i32)>) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for (id, partitions) in topics {
        for byte in id.0.as_bytes().iter().chain(&partitions.to_be_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash
}
