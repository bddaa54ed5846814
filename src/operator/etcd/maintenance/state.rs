//! Which step etcd needs next, from what was seen of it. Pure; whoever calls carries out the one step and looks again.
//!
//! Nothing is done that could cost the quorum: members are taken out and defragmented one at a time, and only while enough
//! of the others serve. The leader is defragmented last, since it stops serving for as long as that takes.

use crate::operator::etcd::record::{Phase, Record};
use std::collections::{BTreeMap, BTreeSet};

/// How long a member has to be silent on a new volume until it counts as one that has lost its data, ms. A member that was
/// restored from a snapshot has a new volume too, and needs a moment to start.
pub const SILENT_MS_MIN: i64 = 60_000;
/// Between two defragmentations of a member, ms.
pub const DEFRAGMENT_EVERY_MS: i64 = 24 * 3_600_000;
/// Between two attempts to make space, ms.
pub const SPACE_RETRY_MS: i64 = 600_000;
/// Free bytes in a database below which a defragmentation is not worth the pause.
pub const FREE_BYTES_MIN: u64 = 16 << 20;

/// A member that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Its id.
    pub id: u64,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it knows a leader.
    pub follows: bool,
    /// Size of its database.
    pub db_bytes: u64,
    /// Bytes of that in use.
    pub used_bytes: u64,
    /// Revision of the store.
    pub revision: i64,
}

/// A member as etcd lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: u64,
    /// Which of ours it is by its URL; `None` is a stranger.
    pub ordinal: Option<u32>,
    /// Whether it has ever said where clients reach it.
    pub started: bool,
}

/// Everything that is known at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Who answers, by ordinal.
    pub serving: BTreeMap<u32, Serving>,
    /// All members; `None` if etcd has no quorum to ask.
    pub listed: Option<Vec<Listed>>,
    /// Ids of members that are out of space.
    pub no_space: BTreeSet<u64>,
    /// Ids of members whose data is damaged.
    pub corrupt: BTreeSet<u64>,
    /// Uid of the volume claim of each member.
    pub volumes: BTreeMap<u32, String>,
}

impl Seen {
    /// Members that answer and know a leader.
    pub fn healthy(&self) -> usize {
        self.serving.values().filter(|member| member.follows).count()
    }

    /// Whether more than half of `size` members serve.
    pub fn has_quorum(&self, size: u32) -> bool {
        self.listed.is_some() && self.healthy() > size as usize / 2
    }
}

/// What is remembered between two looks; none of it is needed after a restart of the operator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Since when a member has been silent on a volume that is not the recorded one, ms.
    silent_since_ms: BTreeMap<u32, i64>,
    /// What has been done against the lack of space.
    space: Option<Space>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Space {
    since_ms: i64,
    compacted: bool,
    defragmented: BTreeSet<u32>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the record.
    Save(Record),
    /// Take a member out that has lost its data.
    Remove {
        /// Its id.
        id: u64,
        /// Which of ours.
        ordinal: u32,
    },
    /// Add a member in its place.
    Add {
        /// Which of ours.
        ordinal: u32,
    },
    /// Forget history.
    Compact {
        /// Up to here.
        revision: i64,
    },
    /// Give a member's free space back.
    Defragment {
        /// Which of ours.
        ordinal: u32,
    },
    /// Call off the alarm of a member.
    Disarm {
        /// Its id.
        id: u64,
    },
}

/// What etcd is and has been.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What was written down.
    pub record: &'a Record,
    /// What is seen.
    pub seen: &'a Seen,
    /// Members there shall be.
    pub size: u32,
    /// Space quota in bytes.
    pub quota_bytes: u64,
    /// Time.
    pub now_ms: i64,
}

/// The next step, if there is one.
pub fn next(at: &Situation<'_>, memory: &mut Memory) -> Option<Step> {
    if !at.seen.has_quorum(at.size) {
        return None;
    }
    if at.record.phase == Phase::Forming {
        let record = Record { phase: Phase::Formed, volumes: at.seen.volumes.clone(), ..at.record.clone() };
        return Some(Step::Save(record));
    }
    membership(at, memory).or_else(|| space(at, memory)).or_else(|| defragmentation(at))
}

fn membership(at: &Situation<'_>, memory: &mut Memory) -> Option<Step> {
    if let Some(record) = settled(at) {
        return Some(Step::Save(record));
    }
    let joining = match at.record.phase {
        Phase::Joining(ordinal) => Some(ordinal),
        _ => None,
    };
    let silent = |ordinal: &u32| !at.seen.serving.contains_key(ordinal);
    memory.silent_since_ms.retain(|ordinal, _| silent(ordinal));
    // Who has begun to join comes first: two doors are never open at once.
    let others = (0..at.size).filter(|ordinal| Some(*ordinal) != joining);
    let first = joining.into_iter().chain(others).find(silent)?;
    absent(at, memory, first, joining)
}

/// A member that answers has its data: the record says so, and its door is shut.
fn settled(at: &Situation<'_>) -> Option<Record> {
    let mut record = at.record.clone();
    for ordinal in at.seen.serving.iter().filter(|(_, member)| member.follows).map(|(ordinal, _)| ordinal) {
        if let Some(volume) = at.seen.volumes.get(ordinal) {
            record.volumes.insert(*ordinal, volume.clone());
        }
        if record.phase == Phase::Joining(*ordinal) {
            record.phase = Phase::Formed;
        }
    }
    (record != *at.record).then_some(record)
}

fn absent(at: &Situation<'_>, memory: &mut Memory, ordinal: u32, joining: Option<u32>) -> Option<Step> {
    let all = at.seen.listed.as_ref()?;
    let volume = at.seen.volumes.get(&ordinal);
    let Some(member) = all.iter().find(|member| member.ordinal == Some(ordinal)) else {
        // With strangers among them the rest may be ours under other names.
        return (all.len() < at.size as usize).then_some(Step::Add { ordinal });
    };
    if !member.started {
        let record = joined(at.record, ordinal, volume);
        return (joining != Some(ordinal) || record != *at.record).then_some(Step::Save(record));
    }
    let lost = volume.zip(at.record.volumes.get(&ordinal)).is_some_and(|(now, before)| now != before);
    if !lost {
        memory.silent_since_ms.remove(&ordinal);
        return None;
    }
    let since_ms = *memory.silent_since_ms.entry(ordinal).or_insert(at.now_ms);
    (at.now_ms - since_ms >= SILENT_MS_MIN).then_some(Step::Remove { id: member.id, ordinal })
}

fn joined(record: &Record, ordinal: u32, volume: Option<&String>) -> Record {
    let mut record = Record { phase: Phase::Joining(ordinal), ..record.clone() };
    // From now on another volume means that this one was lost too.
    record.volumes.extend(volume.map(|volume| (ordinal, volume.clone())));
    record
}

/// Compaction, then one member after the other, then the alarm.
fn space(at: &Situation<'_>, memory: &mut Memory) -> Option<Step> {
    let Some(first) = at.seen.no_space.first() else {
        memory.space = None;
        return None;
    };
    let fresh = || Space { since_ms: at.now_ms, compacted: false, defragmented: BTreeSet::new() };
    let space = memory.space.get_or_insert_with(fresh);
    if at.now_ms - space.since_ms >= SPACE_RETRY_MS {
        *space = fresh();
    }
    if !space.compacted {
        space.compacted = true;
        let revision = at.seen.serving.values().map(|member| member.revision).max()?;
        return Some(Step::Compact { revision });
    }
    if let Some(ordinal) = leader_last(at.seen, |ordinal| !space.defragmented.contains(&ordinal)) {
        space.defragmented.insert(ordinal);
        return Some(Step::Defragment { ordinal });
    }
    // Disarmed while there is no space, the alarm comes back with the next write.
    is_roomy(at.seen, at.quota_bytes).then_some(Step::Disarm { id: *first })
}

/// Whether all databases are clear of the quota.
pub fn is_roomy(seen: &Seen, quota_bytes: u64) -> bool {
    seen.serving.values().all(|member| member.db_bytes < quota_bytes / 10 * 9)
}

/// Once a day, where it pays, while everybody serves.
fn defragmentation(at: &Situation<'_>) -> Option<Step> {
    let quiet = at.record.phase == Phase::Formed && at.seen.corrupt.is_empty();
    if !quiet || at.seen.healthy() < at.size as usize {
        return None;
    }
    let unknown: Vec<u32> = (0..at.size).filter(|n| !at.record.defragmented_ms.contains_key(n)).collect();
    if !unknown.is_empty() {
        return Some(Step::Save(defragmented(at.record, unknown, at.now_ms)));
    }
    let due =
        |ordinal: u32| at.record.defragmented_ms.get(&ordinal).is_some_and(|ms| at.now_ms - ms >= DEFRAGMENT_EVERY_MS);
    let ordinal = leader_last(at.seen, due)?;
    let member = at.seen.serving.get(&ordinal)?;
    let free_bytes = member.db_bytes.saturating_sub(member.used_bytes);
    if free_bytes < FREE_BYTES_MIN || free_bytes < member.db_bytes / 10 {
        return Some(Step::Save(defragmented(at.record, vec![ordinal], at.now_ms)));
    }
    Some(Step::Defragment { ordinal })
}

/// The record after members were defragmented, or found not to need it.
pub fn defragmented(record: &Record, ordinals: Vec<u32>, now_ms: i64) -> Record {
    let mut record = record.clone();
    record.defragmented_ms.extend(ordinals.into_iter().map(|ordinal| (ordinal, now_ms)));
    record
}

fn leader_last(seen: &Seen, wanted: impl Fn(u32) -> bool) -> Option<u32> {
    let of = |leads: bool| {
        seen.serving.iter().find(|(ordinal, member)| member.leads == leads && wanted(**ordinal)).map(|(n, _)| *n)
    };
    of(false).or_else(|| of(true))
}
