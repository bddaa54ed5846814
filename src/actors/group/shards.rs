//! The groups of a broker as seen from outside: which ones there are, whether another one fits, what of them is not durable
//! yet and who waits for that. Pure; the groups themselves are actors of their own.

use super::call::{Answer, Call, Outcome};
use super::classic::{Ms, Now};
use super::consumer::heartbeat;
use super::consumer::types::{JOIN_EPOCH, Topics};
use super::error::GroupError;
use super::limits::{
    BYTES_MAX, CoordinatorLimits, DURABLE_WAIT_MS_MAX, GROUP_ID_LEN_MAX, GROUPS_MAX, SHARDS, shard_of,
};
use super::offsets::Offsets;
use super::state::{self, Report, Until, check_join, refused_join};
use super::writes::{GroupId, Part, WriteKey, Writes};
use crate::ids::BrokerId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Tells the incarnations of groups apart, so that what one of the past has to say does no harm.
pub type Incarnation = u64;

/// What becomes of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is answered.
    Answered,
    /// It goes to this group.
    Forward(GroupId),
    /// It goes to this group, which has to be made.
    Create(GroupId),
}

/// What a group has to say after a message.
#[derive(Debug)]
pub struct Changed<R> {
    /// Who it is.
    pub incarnation: Incarnation,
    /// What has to be written.
    pub writes: BTreeMap<Part, Option<Bytes>>,
    /// Who waits for it.
    pub waiting: Vec<(R, Outcome, Until)>,
    /// How it looks now.
    pub report: Report,
    /// Calls it has handled.
    pub handled: u64,
}

struct Entry {
    incarnation: Incarnation,
    report: Report,
    /// Calls that were sent to it.
    forwarded: u64,
    /// Something stored of it cannot be read: it is left alone.
    is_damaged: bool,
}

/// See the module's documentation. `R` is where an answer goes.
pub struct Shards<R> {
    limits: CoordinatorLimits,
    /// Those whose groups are served.
    serving: BTreeSet<u32>,
    groups: BTreeMap<GroupId, Entry>,
    writes: Writes<(R, Outcome)>,
    bytes: usize,
    members: usize,
    next_incarnation: Incarnation,
    answers: Vec<(R, Outcome)>,
}

impl<R> Shards<R> {
    /// No shard yet.
    pub fn new(limits: CoordinatorLimits) -> Self {
        Self {
            limits,
            serving: BTreeSet::new(),
            groups: BTreeMap::new(),
            writes: Writes::default(),
            bytes: 0,
            members: 0,
            next_incarnation: 1,
            answers: Vec::new(),
        }
    }

    /// Shards whose groups are served.
    pub fn serving(&self) -> &BTreeSet<u32> {
        &self.serving
    }

    /// From now on the groups of these shards are served; those that are stored were added.
    pub fn serve(&mut self, shards: BTreeSet<u32>) {
        self.serving.extend(shards);
    }

    /// From now on the groups of these shards are not served. Returns the groups.
    pub fn stop_serving(&mut self, shards: &BTreeSet<u32>) -> Vec<GroupId> {
        self.serving.retain(|shard| !shards.contains(shard));
        self.of_shards(shards)
    }

    fn of_shards(&self, shards: &BTreeSet<u32>) -> Vec<GroupId> {
        self.groups.keys().filter(|id| shards.contains(&shard_of(id))).cloned().collect()
    }

    /// True if everything of the shards' groups is durable.
    pub fn is_settled(&self, shards: &BTreeSet<u32>) -> bool {
        self.of_shards(shards).iter().all(|id| self.writes.is_settled(id))
    }

    /// True if everything of the group is durable.
    pub fn is_group_settled(&self, id: &GroupId) -> bool {
        self.writes.is_settled(id)
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
        self.members
    }

    /// All groups.
    pub fn ids(&self) -> impl Iterator<Item = &GroupId> {
        self.groups.keys()
    }

    /// The group's present incarnation.
    pub fn incarnation(&self, id: &str) -> Option<Incarnation> {
        self.groups.get(id).map(|entry| entry.incarnation)
    }

    /// Answers that may be sent now.
    pub fn take_answers(&mut self) -> Vec<(R, Outcome)> {
        std::mem::take(&mut self.answers)
    }

    /// A group that is made, or made again after it failed. Returns the number of the new incarnation.
    pub fn add(&mut self, id: &GroupId, report: Report) -> Incarnation {
        let incarnation = self.next_incarnation;
        self.next_incarnation += 1;
        self.remove(id);
        (self.bytes, self.members) = (self.bytes + report.bytes, self.members + report.members);
        self.groups.insert(id.clone(), Entry { incarnation, report, forwarded: 0, is_damaged: false });
        incarnation
    }

    /// A group of which something that is stored cannot be read.
    pub fn add_damaged(&mut self, id: &GroupId) {
        self.add(id, Report::default());
        self.groups.get_mut(id).expect("just added").is_damaged = true;
    }

    /// The group is gone.
    pub fn remove(&mut self, id: &str) {
        if let Some(Entry { report, .. }) = self.groups.remove(id) {
            (self.bytes, self.members) = (self.bytes - report.bytes, self.members - report.members);
        }
    }

    /// Looks at a call: answers it, or says which group it is for.
    pub fn admit(&mut self, now: Now, call: &Call, topics: &dyn Topics, reply: R) -> (Admission, Option<R>) {
        let Some(id) = call.group() else {
            let listed = self.groups.values().filter_map(|entry| entry.report.listing.clone()).collect();
            self.answers.push((reply, Ok(Answer::Listed(listed))));
            return (Admission::Answered, None);
        };
        let refused = self.check(call, id).and_then(|()| match self.groups.get(id) {
            Some(entry) if entry.is_damaged => Err(GroupError::NotAvailable),
            Some(_) => Ok(Admission::Forward(id.clone())),
            None => self.unknown(call, id, topics),
        });
        match refused {
            Ok(Admission::Answered) => {
                let outcome = Ok(answer_unknown(call));
                // What was deleted just now is not gone before that is durable.
                self.answers.extend(self.writes.wait(now.mono_ms, id, (reply, outcome)));
                (Admission::Answered, None)
            }
            Ok(admission) => {
                if let Some(entry) = self.groups.get_mut(id) {
                    entry.forwarded += 1;
                }
                (admission, Some(reply))
            }
            Err(error) => {
                let outcome = match call {
                    Call::Join(_, request) => Ok(refused_join((**request).clone(), error)),
                    Call::Sync(..) => Ok(state::refused_sync(error)),
                    _ => Err(error),
                };
                self.answers.push((reply, outcome));
                (Admission::Answered, None)
            }
        }
    }

    /// A group is made for a call.
    pub fn create(&mut self, id: &GroupId) -> Incarnation {
        let incarnation = self.add(id, Report { is_nothing: true, ..Report::default() });
        self.groups.get_mut(id).expect("just added").forwarded = 1;
        incarnation
    }

    /// A call that was admitted did not reach its group.
    pub fn not_forwarded(&mut self, id: &str) {
        if let Some(entry) = self.groups.get_mut(id) {
            entry.forwarded -= 1;
        }
    }

    /// What holds for groups that exist and for those that do not.
    fn check(&self, call: &Call, id: &GroupId) -> Result<(), GroupError> {
        let may_be_empty = matches!(call, Call::Commit(..) | Call::Fetch(..) | Call::Describe(_) | Call::Delete(_));
        if id.len() > GROUP_ID_LEN_MAX || (id.is_empty() && !may_be_empty) {
            return Err(GroupError::InvalidGroupId);
        }
        if !self.serving.contains(&shard_of(id)) {
            return Err(GroupError::NotCoordinator);
        }
        let grows = matches!(call, Call::Join(..) | Call::Commit(..))
            || matches!(call, Call::Beat(_, request) if request.epoch == JOIN_EPOCH && !self.groups.contains_key(id));
        let full = self.bytes > BYTES_MAX || (self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(id));
        if grows && full { Err(GroupError::NotAvailable) } else { Ok(()) }
    }

    /// A call for a group that does not exist.
    fn unknown(&self, call: &Call, id: &GroupId, topics: &dyn Topics) -> Result<Admission, GroupError> {
        let create = || Ok(Admission::Create(id.clone()));
        match call {
            Call::Join(_, request) => {
                check_join(&self.limits.groups, request)?;
                if request.member_id.is_empty() { create() } else { Err(GroupError::UnknownMemberId) }
            }
            Call::Beat(_, request) => {
                heartbeat::check(&self.limits.consumer.of_group(topics.overrides(id)), request)?;
                if request.epoch == JOIN_EPOCH { create() } else { Err(GroupError::GroupIdNotFound) }
            }
            Call::Commit(_, caller, _) if caller.generation < 0 => create(), // a group that only has offsets
            Call::Sync(..) | Call::Heartbeat(..) => Err(GroupError::UnknownMemberId),
            Call::Leave(..) | Call::Fetch(..) => Ok(Admission::Answered),
            _ => Err(GroupError::GroupIdNotFound),
        }
    }

    /// Takes what a group has to say. True if it is to be stopped: nothing is left of it, and nothing is on its way to it.
    pub fn changed(&mut self, now: Now, id: &GroupId, changed: Changed<R>) -> bool {
        let Some(entry) = self.groups.get_mut(id).filter(|entry| entry.incarnation == changed.incarnation) else {
            let lost = changed.waiting.into_iter().map(|(reply, ..)| (reply, Err(GroupError::NotCoordinator)));
            self.answers.extend(lost);
            return false;
        };
        self.bytes = self.bytes - entry.report.bytes + changed.report.bytes;
        self.members = self.members - entry.report.members + changed.report.members;
        let over = changed.report.is_nothing && entry.forwarded == changed.handled;
        entry.report = changed.report;
        for (part, value) in changed.writes {
            self.writes.mark(id, part, value);
        }
        for (reply, outcome, until) in changed.waiting {
            let waiter = (reply, outcome);
            self.answers.extend(match until {
                Until::All => self.writes.wait(now.mono_ms, id, waiter),
                Until::State => self.writes.wait_for(now.mono_ms, id, &Part::State, waiter),
            });
        }
        if over {
            self.remove(id);
        }
        over
    }

    /// Time passes.
    pub fn tick(&mut self, now: Now) {
        for (reply, _) in self.writes.expire(now.mono_ms.saturating_sub(DURABLE_WAIT_MS_MAX)) {
            self.answers.push((reply, Err(GroupError::NotAvailable)));
        }
    }

    /// When [`Self::begin_write`] should be called next.
    pub fn next_write(&self) -> Option<Ms> {
        self.writes.next_begin()
    }

    /// What to write now, if it is time: each key with its value, `None` to delete it.
    pub fn begin_write(&mut self, now: Now) -> Option<Vec<(WriteKey, Option<Bytes>)>> {
        self.writes.begin(now.mono_ms)
    }

    /// What was begun is durable.
    pub fn write_committed(&mut self) {
        self.answers.extend(self.writes.committed());
    }

    /// True if everything that was changed is durable.
    pub fn is_clean(&self) -> bool {
        self.writes.is_clean()
    }

    /// All shards are lost: everybody who waits hears `error`. Returns the groups there were.
    pub fn lose_all(&mut self, error: GroupError) -> Vec<GroupId> {
        let waiting = std::mem::take(&mut self.writes).take_waiters();
        self.answers.extend(waiting.into_iter().map(|(reply, _)| (reply, Err(error))));
        self.serving.clear();
        (self.bytes, self.members) = (0, 0);
        std::mem::take(&mut self.groups).into_keys().collect()
    }
}

/// Shards that are not where they should be.
#[derive(Debug, PartialEq, Eq)]
pub enum ToMove {
    /// All are where they should be, as far as this broker can do anything about it.
    Nothing,
    /// These should be another's.
    Away(BTreeSet<u32>),
    /// These should be this broker's, and nobody has them.
    Here(BTreeSet<u32>),
}

/// What is wrong with having claimed `claimed`: what should be another's goes first. `leader` says who should have a shard
/// (`None` if nobody can: then it stays where it is), `is_free` whether it can be claimed.
pub fn to_move(
    claimed: &BTreeSet<u32>,
    node: BrokerId,
    leader: impl Fn(u32) -> Option<BrokerId>,
    is_free: impl Fn(u32) -> bool,
) -> ToMove {
    let is_mine = |shard: u32| leader(shard).is_none_or(|wanted| wanted == node);
    let away: BTreeSet<u32> = claimed.iter().copied().filter(|shard| !is_mine(*shard)).collect();
    if !away.is_empty() {
        return ToMove::Away(away);
    }
    let here = |shard: &u32| !claimed.contains(shard) && is_mine(*shard) && is_free(*shard);
    let here: BTreeSet<u32> = (0..SHARDS).filter(here).collect();
    if here.is_empty() { ToMove::Nothing } else { ToMove::Here(here) }
}

/// The answer to a call for a group that does not exist, where that is no error.
fn answer_unknown(call: &Call) -> Answer {
    match call {
        Call::Leave(_, members) => Answer::Left(vec![Err(GroupError::UnknownMemberId); members.len()]),
        Call::Fetch(_, _, topics) => Answer::Fetched(state::fetched(&Offsets::default(), topics.clone())),
        other => unreachable!("{other:?} to an unknown group is an error or makes it"),
    }
}

#[cfg(test)]
#[path = "shards/tests.rs"]
mod tests;
