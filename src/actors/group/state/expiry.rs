//! What time does to a group: members that were silent for too long, offsets that nobody uses, offsets of deleted topics.

use super::{Env, Group, Out};
use crate::actors::group::classic::Now;
use crate::actors::group::offsets::{Committed, Usage};
use crate::ids::TopicId;
use std::collections::BTreeSet;
use std::sync::Arc;

impl<R> Group<R> {
    /// Does what is due of the group's timers.
    pub fn expire(&mut self, now: Now, env: &Env, out: &mut Out<R>) {
        while self.next_deadline().is_some_and(|at| at <= now.mono_ms) {
            self.expire_members(now, env, out);
        }
        self.finish(out);
    }

    /// The process stood still: silence until now means nothing.
    pub fn extend_sessions(&mut self, now: Now, env: &Env) {
        let limits = self.consumer_limits(env);
        self.kind.extend_sessions(now, &limits);
    }

    /// Forgets offsets that nobody has used for the retention time, and everything if neither offsets nor members are
    /// left. Returns the topics of the others that do not exist, as far as is known: names and ids.
    pub fn sweep(&mut self, now: Now, env: &Env, out: &mut Out<R>) -> BTreeSet<(Arc<str>, TopicId)> {
        let retention = env.limits.retention;
        self.retain_offsets(|usage, topic, _, committed| !retention.is_expired(now.wall_ms, usage, topic, committed));
        if self.offsets.is_empty() && self.kind.is_unused() {
            self.forget_everything(now, env);
        }
        self.finish(out);
        let exists = |name: &str, id: TopicId| env.topics.find(name).is_some_and(|(found, _)| found == id);
        let topics = self.offsets.topics().filter(|(name, id)| !exists(name, *id));
        topics.map(|(name, id)| (name.clone(), id)).collect()
    }

    /// Forgets the offsets of topics that were deleted.
    pub fn forget_topics(&mut self, gone: &BTreeSet<TopicId>, out: &mut Out<R>) {
        self.retain_offsets(|_, _, id, _| !gone.contains(&id));
        self.finish(out);
    }

    fn retain_offsets(&mut self, keep: impl Fn(Usage<'_>, &str, TopicId, &Committed) -> bool) {
        let usage = self.kind.usage();
        let changed = self.offsets.retain(|topic, topic_id, c| !keep(usage, topic, topic_id, c));
        self.mark(changed);
    }
}
