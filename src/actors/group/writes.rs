//! What is not durable yet, and who waits for it. Pure.
//!
//! A key that changed is written once, with what it held last when its transaction begins, however often it changed before.
//! One transaction is under way at a time, and two begin at least [`INTERVAL_MS`] apart, or [`BACKLOG_INTERVAL_MS`] while
//! more keys wait than the last one could take; the first after a pause begins at once. So the number of writes depends
//! on time, not on the number of commits. A key waits its turn: those that changed first are written first.

use super::classic::Ms;
use super::offsets::BlockKey;
use bytes::Bytes;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Least time between the beginnings of two transactions, ms.
pub const INTERVAL_MS: u64 = 50;
/// The same while the last transaction left keys behind, ms: 25 transactions per second at most.
pub const BACKLOG_INTERVAL_MS: u64 = 40;
/// Keys of one transaction; with the coordinator's own they stay below etcd's 128 operations.
pub const KEYS_MAX: usize = 124;
/// Bytes of one transaction's values, below etcd's limit for a request. One value may exceed it.
pub const BATCH_BYTES_MAX: usize = 1_200_000;

/// A group's id.
pub type GroupId = Arc<str>;

/// What of a group a key holds. The order matters: a group's state is its first key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Its members.
    State,
    /// A block of its offsets.
    Offsets(BlockKey),
}

/// A key to write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteKey {
    /// The group.
    pub group: GroupId,
    /// What of it.
    pub part: Part,
}

impl WriteKey {
    /// Most bytes of the metadata key.
    fn len_max(&self) -> usize {
        let topic = match &self.part {
            Part::State => 0,
            Part::Offsets((topic, _)) => topic.len(),
        };
        128 + 3 * self.group.len() + topic
    }
}

type WaiterId = u64;

struct Waiter<R> {
    /// Keys that must be written first.
    keys: usize,
    since_ms: Ms,
    reply: R,
}

/// A key that has to be written.
struct Dirty {
    /// `None`: it is to be deleted.
    value: Option<Bytes>,
    waiting: Vec<WaiterId>,
}

/// See the module's documentation. `R` is what to do for a waiter.
pub struct Writes<R> {
    queue: VecDeque<WriteKey>,
    dirty: BTreeMap<WriteKey, Dirty>,
    in_flight: BTreeMap<WriteKey, Vec<WaiterId>>,
    waiters: BTreeMap<WaiterId, Waiter<R>>,
    next_waiter: WaiterId,
    began_ms: Option<Ms>,
    /// Time between the last beginning and the next.
    interval_ms: u64,
}

impl<R> Default for Writes<R> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            dirty: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            waiters: BTreeMap::new(),
            next_waiter: 0,
            began_ms: None,
            interval_ms: INTERVAL_MS,
        }
    }
}

impl<R> Writes<R> {
    /// The key holds this now; `None`: nothing.
    pub fn mark(&mut self, group: &GroupId, part: Part, value: Option<Bytes>) {
        let key = WriteKey { group: group.clone(), part };
        match self.dirty.entry(key) {
            Entry::Occupied(mut dirty) => dirty.get_mut().value = value,
            Entry::Vacant(free) => {
                self.queue.push_back(free.key().clone());
                free.insert(Dirty { value, waiting: Vec::new() });
            }
        }
    }

    /// Keeps `reply` until everything that has changed of the group so far is durable; gives it back if it is.
    pub fn wait(&mut self, now_ms: Ms, group: &GroupId, reply: R) -> Option<R> {
        self.wait_where(now_ms, group, |_| true, reply)
    }

    /// Keeps `reply` until this part of the group is durable as it is; gives it back if it is.
    pub fn wait_for(&mut self, now_ms: Ms, group: &GroupId, part: &Part, reply: R) -> Option<R> {
        self.wait_where(now_ms, group, |p| p == part, reply)
    }

    fn wait_where(&mut self, now_ms: Ms, group: &GroupId, which: impl Fn(&Part) -> bool, reply: R) -> Option<R> {
        let id = self.next_waiter;
        let mut keys = 0;
        let first = WriteKey { group: group.clone(), part: Part::State };
        let of_group = |key: &WriteKey| key.group == *group;
        let dirty = self.dirty.range_mut(first.clone()..).map(|(key, dirty)| (key, &mut dirty.waiting));
        for (_, waiting) in dirty.take_while(|(key, _)| of_group(key)).filter(|(key, _)| which(&key.part)) {
            waiting.push(id);
            keys += 1;
        }
        let in_flight = self.in_flight.range_mut(first..).take_while(|(key, _)| of_group(key));
        for (_, waiting) in in_flight.filter(|(key, _)| which(&key.part)) {
            waiting.push(id);
            keys += 1;
        }
        if keys == 0 {
            return Some(reply);
        }
        self.next_waiter += 1;
        self.waiters.insert(id, Waiter { keys, since_ms: now_ms, reply });
        None
    }

    /// When the next transaction may begin, if there is something to write and none is under way.
    pub fn next_begin(&self) -> Option<Ms> {
        let idle = self.in_flight.is_empty() && !self.queue.is_empty();
        idle.then(|| self.began_ms.map_or(0, |ms| ms + self.interval_ms))
    }

    /// Keys with their values (`None`: delete it) for the next transaction, if it is time.
    pub fn begin(&mut self, now_ms: Ms) -> Option<Vec<(WriteKey, Option<Bytes>)>> {
        self.next_begin().filter(|at| *at <= now_ms)?;
        self.began_ms = Some(now_ms);
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(key) = self.queue.front().filter(|_| batch.len() < KEYS_MAX) {
            let value = &self.dirty[key].value;
            let len = value.as_ref().map_or(0, Bytes::len) + key.len_max();
            if bytes + len > BATCH_BYTES_MAX && !batch.is_empty() {
                break;
            }
            bytes += len;
            let key = self.queue.pop_front().expect("just looked at");
            let Dirty { value, waiting } = self.dirty.remove(&key).expect("queued keys are dirty");
            self.in_flight.insert(key.clone(), waiting);
            batch.push((key, value));
        }
        self.interval_ms = if self.queue.is_empty() { INTERVAL_MS } else { BACKLOG_INTERVAL_MS };
        Some(batch)
    }

    /// The transaction under way is durable; returns those who waited for nothing else.
    pub fn committed(&mut self) -> Vec<R> {
        let mut ready = Vec::new();
        for id in std::mem::take(&mut self.in_flight).into_values().flatten() {
            let Some(waiter) = self.waiters.get_mut(&id) else { continue }; // it did not want to wait any longer
            waiter.keys -= 1;
            if waiter.keys == 0 {
                ready.extend(self.waiters.remove(&id).map(|w| w.reply));
            }
        }
        ready
    }

    /// Those who wait since before `ms`. They wait no more; the keys are written all the same.
    pub fn expire(&mut self, before_ms: Ms) -> Vec<R> {
        let old: Vec<WaiterId> =
            self.waiters.iter().take_while(|(_, w)| w.since_ms < before_ms).map(|(id, _)| *id).collect();
        let Some(last) = old.last() else { return Vec::new() };
        // While the store does not answer, keys would otherwise remember everybody who ever waited for them.
        let dirty = self.dirty.values_mut().map(|dirty| &mut dirty.waiting);
        for waiting in dirty.chain(self.in_flight.values_mut()) {
            waiting.drain(..waiting.partition_point(|id| id <= last));
        }
        old.iter().filter_map(|id| self.waiters.remove(id)).map(|w| w.reply).collect()
    }

    /// Everybody who waits; nobody does afterwards.
    pub fn take_waiters(&mut self) -> Vec<R> {
        std::mem::take(&mut self.waiters).into_values().map(|w| w.reply).collect()
    }

    /// True if everything of the group is durable.
    pub fn is_settled(&self, group: &GroupId) -> bool {
        let first = WriteKey { group: group.clone(), part: Part::State };
        let none = |next: Option<&WriteKey>| next.is_none_or(|key| key.group != *group);
        none(self.dirty.range(first.clone()..).next().map(|(key, _)| key))
            && none(self.in_flight.range(first..).next().map(|(key, _)| key))
    }

    /// Forgets what was not begun yet of a group that others write from now on.
    pub fn forget(&mut self, group: &GroupId) {
        self.queue.retain(|key| key.group != *group);
        self.dirty.retain(|key, _| key.group != *group);
    }

    /// True if everything is durable.
    pub fn is_clean(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::group::offsets::BlockIndex;

    fn id(n: usize) -> GroupId {
        format!("g{n}").into()
    }

    fn block(n: i32) -> Part {
        Part::Offsets(("t".into(), BlockIndex(n)))
    }

    fn small() -> Option<Bytes> {
        Some(Bytes::from_static(b"x"))
    }

    #[test]
    fn a_reply_waits_for_the_keys_of_its_group() {
        let mut writes = Writes::default();
        assert_eq!(writes.wait(0, &id(1), "nothing to wait for"), Some("nothing to wait for"));
        writes.mark(&id(1), Part::State, small());
        writes.mark(&id(1), block(0), small());
        writes.mark(&id(2), block(0), small());
        assert_eq!(writes.wait(0, &id(1), "first"), None);
        assert_eq!(writes.begin(0).unwrap().len(), 3);
        assert_eq!(writes.wait(1, &id(1), "of what is under way"), None);
        writes.mark(&id(1), block(0), small()); // changed again meanwhile
        assert_eq!(writes.wait(1, &id(1), "second"), None);
        assert_eq!(writes.begin(1_000), None, "one at a time");
        assert_eq!(writes.committed(), ["first", "of what is under way"]);
        assert_eq!(writes.begin(1_000).unwrap().len(), 1);
        assert_eq!(writes.committed(), ["second"]);
        assert!(writes.is_clean());
    }

    #[test]
    fn the_first_write_begins_at_once_and_the_next_after_the_interval() {
        let mut writes: Writes<()> = Writes::default();
        assert_eq!(writes.next_begin(), None);
        writes.mark(&id(1), Part::State, small());
        assert!(writes.begin(7).is_some());
        writes.committed();
        writes.mark(&id(1), Part::State, small());
        assert_eq!(writes.next_begin(), Some(7 + INTERVAL_MS));
        assert!(writes.begin(6 + INTERVAL_MS).is_none());
        assert!(writes.begin(7 + INTERVAL_MS).is_some());
    }

    #[test]
    fn many_changes_of_a_key_are_one_write_and_batches_are_bounded() {
        let mut writes: Writes<()> = Writes::default();
        for round in 0..3 {
            for n in 0..KEYS_MAX + 10 {
                writes.mark(&id(n), block(round / 3), small());
            }
        }
        assert_eq!(writes.begin(0).unwrap().len(), KEYS_MAX);
        writes.committed();
        assert_eq!(writes.next_begin(), Some(BACKLOG_INTERVAL_MS), "some were left behind");
        assert_eq!(writes.begin(BACKLOG_INTERVAL_MS).unwrap().len(), 10);
        writes.committed();
        writes.mark(&id(0), Part::State, small());
        assert_eq!(writes.next_begin(), Some(BACKLOG_INTERVAL_MS + INTERVAL_MS), "none were");
        assert_eq!(writes.begin(2 * INTERVAL_MS).unwrap().len(), 1);
        writes.committed();
        let large = || Some(Bytes::from(vec![0; BATCH_BYTES_MAX / 2 + 1]));
        (0..3).for_each(|n| writes.mark(&id(n), Part::State, large()));
        assert_eq!(writes.begin(4 * INTERVAL_MS).unwrap().len(), 1);
    }

    #[test]
    fn the_last_value_is_written_and_a_reply_can_wait_for_one_part() {
        let mut writes = Writes::default();
        writes.mark(&id(1), block(0), small());
        writes.mark(&id(1), block(0), None);
        assert_eq!(writes.wait_for(0, &id(1), &Part::State, "not for that"), Some("not for that"));
        assert_eq!(writes.wait_for(0, &id(1), &block(0), "for that"), None);
        assert!(!writes.is_settled(&id(1)) && writes.is_settled(&id(2)));
        let batch = writes.begin(0).unwrap();
        assert!(matches!(&batch[..], [(_, None)]) && !writes.is_settled(&id(1)));
        assert_eq!(writes.committed(), ["for that"]);
        assert!(writes.is_settled(&id(1)));
        writes.mark(&id(1), block(0), small());
        writes.forget(&id(1));
        assert!(writes.is_clean());
    }

    #[test]
    fn who_has_waited_too_long_waits_no_more() {
        let mut writes = Writes::default();
        writes.mark(&id(1), Part::State, small());
        writes.wait(5, &id(1), "old");
        writes.wait(6, &id(1), "new");
        assert_eq!(writes.expire(6), ["old"]);
        writes.begin(10).unwrap();
        assert_eq!(writes.committed(), ["new"]);
        writes.mark(&id(1), Part::State, small());
        writes.wait(6, &id(1), "cut off");
        assert_eq!(writes.take_waiters(), ["cut off"]);
    }

    #[test]
    fn keys_forget_who_waits_no_more() {
        let mut writes = Writes::default();
        writes.mark(&id(1), Part::State, small());
        writes.begin(0).unwrap();
        for ms in 0..1_000 {
            writes.mark(&id(1), block(0), small());
            writes.wait(ms, &id(1), ms);
            writes.expire(ms);
        }
        let in_flight = writes.in_flight.values().map(Vec::len).max();
        let dirty = writes.dirty.values().map(|dirty| dirty.waiting.len()).max();
        assert_eq!((in_flight, dirty), (Some(1), Some(1)));
        assert_eq!(writes.committed(), [] as [u64; 0], "the last one waits for the other key, too");
        writes.begin(1_000).unwrap();
        assert_eq!(writes.committed(), [999]);
    }

    #[test]
    fn five_thousand_commits_per_second_of_five_hundred_groups_are_twenty_five_writes() {
        let mut writes: Writes<()> = Writes::default();
        let (mut begun, mut waited) = (0, 0);
        for ms in 0..10_000u64 {
            for n in 0..5 {
                let group = id((ms as usize * 5 + n) * 7 % 500);
                writes.mark(&group, block(0), small());
                waited += usize::from(writes.wait(ms, &group, ()).is_none());
            }
            if writes.begin(ms).is_some() {
                begun += 1;
                waited -= writes.committed().len(); // as fast as can be
            }
            assert!(writes.expire(ms.saturating_sub(200)).is_empty(), "nobody waits longer than 200 ms");
        }
        assert!((180..=250).contains(&begun), "{begun}");
        assert!(waited <= 1_000, "{waited}");
    }
}
