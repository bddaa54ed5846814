//! What is forgotten: offsets that nobody uses, those of deleted topics, and groups of which nothing is left.

use super::{Coordinator, Group};
use crate::actors::group::classic::Now;
use crate::actors::group::offsets::{Committed, Usage};
use crate::actors::group::writes::{GroupId, Part};
use crate::ids::TopicId;
use std::collections::BTreeSet;
use std::sync::Arc;

impl<R> Coordinator<R> {
    /// Forgets offsets that nobody has used for the retention time, and groups that have neither offsets nor members.
    pub fn expire_offsets(&mut self, now: Now) {
        let retention = self.limits.retention;
        self.retain_offsets(now, |usage, topic, _, committed| {
            !retention.is_expired(now.wall_ms, usage, topic, committed)
        });
        let over = |g: &Group<R>| g.offsets.is_empty() && g.kind.is_unused();
        let ids: Vec<GroupId> = self.groups.iter().filter(|(_, g)| over(g)).map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| self.remove(id));
    }

    /// Names and ids of the topics that have offsets.
    pub fn topics(&self) -> BTreeSet<(Arc<str>, TopicId)> {
        let blocks = self.groups.values().flat_map(|g| g.offsets.topics());
        blocks.map(|(topic, id)| (topic.clone(), id)).collect()
    }

    /// Forgets the offsets of topics that were deleted.
    pub fn forget_topics(&mut self, now: Now, gone: &BTreeSet<TopicId>) {
        self.retain_offsets(now, |_, _, id, _| !gone.contains(&id));
    }

    fn retain_offsets(&mut self, now: Now, keep: impl Fn(Usage<'_>, &str, TopicId, &Committed) -> bool) {
        let ids: Vec<GroupId> =
            self.groups.iter().filter(|(_, g)| !g.offsets.is_empty()).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let mut changed = Vec::new();
            self.with_group(now, &id, |group, _| {
                let usage = group.kind.usage();
                changed = group.offsets.retain(|topic, topic_id, c| !keep(usage, topic, topic_id, c));
            });
            changed.into_iter().for_each(|block| self.writes.mark(&id, Part::Offsets(block)));
        }
    }
}
