//! A member's steps towards its target.
//!
//! From `Stable` and `Unreleased` a member goes to `Unrevoked` if it has something to give up that it may still hold;
//! it keeps its epoch then. Otherwise it gets to the target's epoch with what is free of its target, `Unreleased` as
//! long as others hold some of it. It leaves `Unrevoked` when it reports what it holds and that is nothing it had to
//! give up.

use super::value::{Assignment, ConsumerMember, MemberState, collect, contains, partitions};
use crate::ids::PartitionKey;

/// Sets a member's epoch, remembering the one before.
pub fn advance(member: &mut ConsumerMember, epoch: i32) {
    if member.epoch != epoch {
        member.previous_epoch = member.epoch;
        member.epoch = epoch;
    }
}

/// The member after the next step it can take. `owned` is what it reports to hold, `is_free` whether nobody else holds
/// a partition or has not given it up yet.
pub fn step(
    member: &ConsumerMember,
    target_epoch: i32,
    owned: Option<&Assignment>,
    is_free: impl Fn(&PartitionKey) -> bool,
) -> ConsumerMember {
    let holds_any = |of: &Assignment| owned.is_none_or(|owned| partitions(owned).any(|key| contains(of, &key)));
    match member.state {
        MemberState::Stable if member.epoch == target_epoch => return member.clone(),
        MemberState::Unrevoked if holds_any(&member.revoking) => return member.clone(),
        _ => {}
    }
    let mut next = member.clone();
    let (kept, surplus): (Vec<_>, Vec<_>) = partitions(&member.assigned).partition(|key| contains(&member.target, key));
    let surplus = collect(surplus);
    next.assigned = collect(kept.iter().copied());
    if !surplus.is_empty() && holds_any(&surplus) {
        next.state = MemberState::Unrevoked;
        next.revoking = surplus;
        return next;
    }
    let missing = partitions(&member.target).filter(|key| !contains(&next.assigned, key));
    let (free, unreleased): (Vec<_>, Vec<_>) = missing.partition(|key| is_free(key));
    next.assigned = collect(kept.into_iter().chain(free));
    next.revoking = Assignment::new();
    next.state = if unreleased.is_empty() { MemberState::Stable } else { MemberState::Unreleased };
    advance(&mut next, target_epoch);
    next
}
