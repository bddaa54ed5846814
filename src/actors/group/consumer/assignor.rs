//! Which member should have which partition. Pure and deterministic.
//!
//! - `uniform`: no member has two partitions more than another that could take one of them, and what a member has it
//!   keeps as far as that allows. Members with the same subscription are served by quotas; with different ones
//!   partitions go to the least loaded subscriber, and then from loaded to less loaded ones.
//! - `range`: each topic's partitions in contiguous ranges over its subscribers. Topics with the same subscribers use the
//!   same order of members, so that with the same number of partitions the same member has the same partitions of each.
//!   The order is that of the ranges that members have already; who is new comes last.

use super::types::Assignor;
use super::value::{Assignment, collect, partitions};
use crate::ids::{PartitionIndex, PartitionKey, TopicId};
use std::collections::{BTreeMap, BTreeSet};

/// A member as assignors see it.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// What tells members apart over restarts: a static member's instance, or else the member id.
    pub name: &'a str,
    /// Topics it is subscribed to, which exist.
    pub topics: BTreeSet<TopicId>,
    /// What it should have had before.
    pub before: &'a Assignment,
}

/// The assignment of each member, in the order of `members`.
pub fn assign(assignor: Assignor, members: &[Candidate<'_>], topics: &BTreeMap<TopicId, i32>) -> Vec<Assignment> {
    match assignor {
        Assignor::Uniform => uniform(members, topics),
        Assignor::Range => range(members, topics),
    }
}

/// Indexes of the subscribers of each topic that has some.
fn subscribers(members: &[Candidate<'_>], topics: &BTreeMap<TopicId, i32>) -> BTreeMap<TopicId, Vec<usize>> {
    let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (m, member) in members.iter().enumerate() {
        for topic in member.topics.iter().filter(|t| topics.contains_key(t)) {
            subscribers.entry(*topic).or_default().push(m);
        }
    }
    subscribers
}

fn range(members: &[Candidate<'_>], topics: &BTreeMap<TopicId, i32>) -> Vec<Assignment> {
    let mut assignments = vec![Assignment::new(); members.len()];
    let mut alike: BTreeMap<Vec<usize>, Vec<TopicId>> = BTreeMap::new();
    for (topic, subscribers) in subscribers(members, topics) {
        alike.entry(subscribers).or_default().push(topic);
    }
    for (mut order, alike) in alike {
        // Where the member's range begins now, in the first of the topics in which it has one.
        let begin = |m: usize| {
            let first = |topic: &TopicId| members[m].before.get(topic).and_then(BTreeSet::first).copied();
            alike.iter().find_map(first).unwrap_or(PartitionIndex(i32::MAX))
        };
        order.sort_by_cached_key(|m| (begin(*m), members[*m].name));
        for topic in alike {
            let (count, among) = (topics[&topic].max(0) as usize, order.len());
            let mut next = 0usize;
            for (position, m) in order.iter().enumerate() {
                let share = count / among + usize::from(position < count % among);
                if share > 0 {
                    let range = (next..next + share).map(|p| PartitionIndex(p as i32));
                    assignments[*m].insert(topic, range.collect());
                }
                next += share;
            }
        }
    }
    assignments
}

fn uniform(members: &[Candidate<'_>], topics: &BTreeMap<TopicId, i32>) -> Vec<Assignment> {
    let subscribers = subscribers(members, topics);
    let mut held: Vec<BTreeSet<PartitionKey>> = members.iter().map(|_| BTreeSet::new()).collect();
    let mut taken: BTreeSet<PartitionKey> = BTreeSet::new();
    for (m, member) in members.iter().enumerate() {
        let kept = partitions(member.before).filter(|key| {
            member.topics.contains(&key.topic) && topics.get(&key.topic).is_some_and(|n| key.partition.0 < *n)
        });
        for key in kept {
            if taken.insert(key) {
                held[m].insert(key);
            }
        }
    }
    let free = subscribers
        .keys()
        .flat_map(|topic| (0..topics[topic]).map(|p| PartitionKey { topic: *topic, partition: PartitionIndex(p) }));
    let mut free: Vec<PartitionKey> = free.filter(|key| !taken.contains(key)).collect();
    let same = members.windows(2).all(|pair| pair[0].topics == pair[1].topics);
    if same {
        by_quota(members, &mut held, free);
    } else {
        // Topics with few subscribers first: others can make up for what that does to the loads.
        free.sort_by_key(|key| (subscribers[&key.topic].len(), *key));
        fill(&subscribers, &mut held, free);
        balance(&subscribers, &mut held);
    }
    held.into_iter().map(collect).collect()
}

/// Everybody is subscribed to the same: the first ones to have more than the least share keep one more.
fn by_quota(members: &[Candidate<'_>], held: &mut [BTreeSet<PartitionKey>], mut free: Vec<PartitionKey>) {
    let total = free.len() + held.iter().map(BTreeSet::len).sum::<usize>();
    if members.is_empty() {
        return;
    }
    let (least, mut extra) = (total / members.len(), total % members.len());
    let mut quota = vec![least; members.len()];
    // Those with more come first, so that as little as possible moves.
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|m| (std::cmp::Reverse(held[*m].len()), members[*m].name));
    for m in &order {
        if extra > 0 {
            quota[*m] += 1;
            extra -= 1;
        }
    }
    for (m, mine) in held.iter_mut().enumerate() {
        while mine.len() > quota[m] {
            free.extend(mine.pop_last());
        }
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    for m in order {
        let missing = quota[m].saturating_sub(held[m].len());
        held[m].extend(free.by_ref().take(missing));
    }
}

/// Gives each free partition to the subscriber that has the fewest.
fn fill(
    subscribers: &BTreeMap<TopicId, Vec<usize>>,
    held: &mut [BTreeSet<PartitionKey>],
    free: impl IntoIterator<Item = PartitionKey>,
) {
    let mut loads: BTreeMap<&[usize], BTreeSet<(usize, usize)>> = BTreeMap::new();
    let mut current: Vec<usize> = held.iter().map(BTreeSet::len).collect();
    for key in free {
        let among = &subscribers[&key.topic];
        let queue = loads.entry(among).or_insert_with(|| among.iter().map(|m| (current[*m], *m)).collect());
        // Loads in a queue may be out of date, but only too low.
        let m = loop {
            let (load, m) = queue.pop_first().expect("a topic with partitions to give has subscribers");
            if load == current[m] {
                break m;
            }
            queue.insert((current[m], m));
        };
        current[m] += 1;
        queue.insert((current[m], m));
        held[m].insert(key);
    }
}

/// Moves partitions from members to subscribers that have at least two fewer, until there are none.
fn balance(subscribers: &BTreeMap<TopicId, Vec<usize>>, held: &mut [BTreeSet<PartitionKey>]) {
    loop {
        let mut moved = false;
        for m in 0..held.len() {
            let topics: BTreeSet<TopicId> = held[m].iter().map(|key| key.topic).collect();
            for topic in topics {
                while let Some(to) = subscribers[&topic].iter().copied().min_by_key(|o| (held[*o].len(), *o)) {
                    if held[to].len() + 1 >= held[m].len() {
                        break;
                    }
                    let bounds = |p| PartitionKey { topic, partition: PartitionIndex(p) };
                    let Some(key) = held[m].range(bounds(0)..=bounds(i32::MAX)).next_back().copied() else { break };
                    held[m].remove(&key);
                    held[to].insert(key);
                    moved = true;
                }
            }
        }
        // Every move makes the sum of the squares of the loads smaller, so this ends.
        if !moved {
            return;
        }
    }
}

#[cfg(test)]
#[path = "assignor_tests.rs"]
mod tests;
