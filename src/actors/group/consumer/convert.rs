//! A group changes its protocol while its members go on.
//!
//! To the consumer protocol with the first member that speaks it: the others are taken over with what they were assigned.
//! Back to the classic protocol when the last such member is gone: the others join again. In both directions the number
//! that is the generation of one and the epoch of the other rises.

use super::classic_members::{CONSUMER, assignment_of};
use super::embedded;
use super::types::*;
use super::value::{Assignment, ClassicPart, ConsumerMember, MemberState, contains, partitions};
use super::{ConsumerGroup, value};
use crate::actors::group::classic::Now;
use crate::actors::group::error::GroupError;
use crate::actors::group::value::{GroupValue, MemberValue, Phase};
use crate::ids::PartitionKey;
use std::collections::BTreeSet;

impl ConsumerGroup {
    /// The group of these members of a classic group, of which `generation` is the last.
    pub fn of_classic(
        now: Now,
        limits: &ConsumerLimits,
        topics: &dyn Topics,
        generation: i32,
        members: Vec<MemberValue>,
    ) -> Result<Self, GroupError> {
        let mut group = Self::new(now, generation);
        let mut taken: BTreeSet<PartitionKey> = BTreeSet::new();
        let mut taken_over = Vec::with_capacity(members.len());
        for member in members {
            let metadata = member.protocols.first().map(|p| &p.metadata[..]).unwrap_or_default();
            let subscription = embedded::subscription(metadata).ok_or(GroupError::NotConsumer)?;
            let assigned = embedded::assignment(&member.assignment).ok_or(GroupError::NotConsumer)?;
            // Assignors of clients may give a partition to two members.
            let assigned =
                partitions(&embedded::by_id(&assigned, topics)).filter(|key| taken.insert(*key)).collect::<Vec<_>>();
            let assigned = value::collect(assigned);
            let value = ConsumerMember {
                id: member.id,
                instance: member.instance,
                rack: subscription.rack,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                assignor: None,
                names: subscription.topics,
                regex: None,
                epoch: generation,
                previous_epoch: generation,
                state: MemberState::Stable,
                assigned: assigned.clone(),
                revoking: Assignment::new(),
                target: assigned,
                classic: Some(ClassicPart {
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: member.protocols,
                }),
            };
            taken_over.push((value, subscription.generation, embedded::by_id(&subscription.owned, topics)));
        }
        // A cooperative member that was assigned less than it had may not have given the rest up yet. Of several that say
        // that they own a partition it is the one that got it last.
        taken_over.sort_by_key(|(_, since, _)| std::cmp::Reverse(*since));
        for (mut value, _, owned) in taken_over {
            let surplus = partitions(&owned).filter(|key| !contains(&value.assigned, key) && taken.insert(*key));
            value.revoking = value::collect(surplus.collect::<Vec<_>>());
            if !value.revoking.is_empty() {
                value.state = MemberState::Unrevoked;
            }
            group.put(now, limits, value);
        }
        Ok(group)
    }

    /// True if the group may and can become a classic one now.
    pub fn may_downgrade(&self, limits: &ConsumerLimits, classic_members_max: usize) -> bool {
        limits.migration.downgrades() && self.is_all_classic() && self.members.len() <= classic_members_max
    }

    /// The classic group of the same members, who have to join again. Its generation is the last target's epoch, which
    /// members know who have caught up: until then they can commit, and hear from heartbeats that there is a rebalance.
    pub fn to_classic(&self, now: Now, topics: &dyn Topics) -> GroupValue {
        let members = self.members().filter_map(|member| {
            let classic = member.classic.clone()?;
            Some(MemberValue {
                id: member.id.clone(),
                instance: member.instance.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                assignment: assignment_of(member, topics),
                protocols: classic.protocols,
            })
        });
        let members: Vec<MemberValue> = members.collect();
        let is_empty = members.is_empty();
        GroupValue {
            generation: if is_empty { self.epoch } else { self.target_epoch },
            protocol_type: (!is_empty).then(|| CONSUMER.to_owned()),
            protocol: common_protocol(&members),
            // Nobody has joined; a successor must know that there is nobody who assigns.
            leader: None,
            phase: if is_empty { Phase::Empty } else { Phase::Completing },
            since_ms: now.wall_ms,
            members,
        }
    }

    /// True if the member still may hold the partition.
    pub fn holds(&self, id: &str, key: &PartitionKey) -> bool {
        let held = |m: &super::Member| contains(&m.value.assigned, key) || contains(&m.value.revoking, key);
        self.members.get(id).is_some_and(held)
    }
}

/// A protocol that all of the members have.
fn common_protocol(members: &[MemberValue]) -> Option<String> {
    let by_all = |name: &str| members.iter().all(|m| m.protocols.iter().any(|p| p.name == name));
    let mut candidates = members.first()?.protocols.iter().map(|p| &p.name);
    candidates.find(|name| by_all(name)).cloned()
}
