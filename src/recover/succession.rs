//! Who went on with what a writer had: whether what is missing of a log is a loss. Pure, part of `plan`.
//!
//! Before a broker claims a partition, its checkpoint has everything of it. So a log that was led at a later epoch than another one
//! has all that was acked in that one, and among logs of one epoch only one was written in it: the longer one.

use super::plan::{Broken, Candidate, Found, Plan, Store};
use crate::ids::{LeaderEpoch, Offset, PartitionKey, TopicId, WriterId};
use crate::metadata::model::{PartitionValue, TopicValue};
use std::collections::{BTreeMap, BTreeSet};

/// Partitions that are named in one line.
const LISTED_MAX: usize = 10;

/// True if the writer may have something of the partition, as the store says.
fn had(value: &PartitionValue, writer: WriterId) -> bool {
    value.owner == Some(writer) || value.history.contains(&writer)
}

/// True if a writer other than this one, whose log is there, led the partition at a later epoch.
fn went_on(found: &Found, used: &BTreeSet<usize>, key: &PartitionKey, writer: WriterId, epoch: LeaderEpoch) -> bool {
    let mut candidates = found.partitions.get(key).into_iter().flatten();
    let is_other = |c: &Candidate| used.contains(&c.source) && found.sources[c.source].writer != writer;
    candidates.any(|c| is_other(c) && c.last_epoch() > epoch)
}

/// What the store says that the writer had and that nobody else, whose log is there, led at a later epoch; `None` if there is
/// nothing of that kind. For people.
pub fn not_succeeded(
    writer: WriterId,
    store: &Store,
    found: &Found,
    used: &BTreeSet<usize>,
    topics: &BTreeMap<String, TopicValue>,
) -> Option<String> {
    if used.is_empty() {
        return Some("everything".to_owned());
    }
    let live: BTreeMap<TopicId, &str> = topics.iter().map(|(name, t)| (t.id, name.as_str())).collect();
    let partitions =
        store.partitions.iter().filter(|(key, (v, _))| had(v, writer) && !went_on(found, used, key, writer, v.epoch));
    let names: Vec<String> =
        partitions.filter_map(|(key, _)| Some(format!("{}-{}", live.get(&key.topic)?, key.partition))).collect();
    let shown = names.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => None,
        1..=LISTED_MAX => Some(shown),
        more => Some(format!("{shown} and {} more", more - LISTED_MAX)),
    }
}

/// Says of logs that are not complete whether others have all that they can have had.
pub fn incomplete(
    store: &Store,
    found: &Found,
    used: &BTreeSet<usize>,
    named: &impl Fn(&PartitionKey) -> Option<String>,
    plan: &mut Plan,
) {
    let mut collected: BTreeMap<WriterId, usize> = BTreeMap::new();
    for broken in found.broken.iter().filter(|broken| used.contains(&broken.source)) {
        let Some(name) = named(&broken.key) else { continue };
        let writer = found.sources[broken.source].writer;
        match found.best(used, &broken.key).filter(|best| hides_nothing(store, found, broken, best)) {
            None => {
                let error = &broken.error;
                plan.losses.push(format!("{name}: what writer {writer} has of it is not complete: {error}"));
            }
            Some(best) => {
                *collected.entry(writer).or_default() += 1;
                plan.decisions.extend(left_out(found, &name, broken.source, broken.epoch, broken.end, best));
            }
        }
    }
    for (writer, partitions) in collected {
        plan.decisions.push(format!(
            "what is left of the log of writer {writer} is not used for {partitions} partition(s): it is not complete, and all \
             that was acked is in other logs"
        ));
    }
}

/// True if `best` has all that was acked of what is missing in an incomplete log.
fn hides_nothing(store: &Store, found: &Found, broken: &Broken, best: &Candidate) -> bool {
    let (this, other) = (&found.sources[broken.source], &found.sources[best.source]);
    let is_same_log = (this.writer, this.nonce) == (other.writer, other.nonce);
    let epoch = best.last_epoch();
    // The store may know of a claim of which nothing is left to be seen.
    let known = store.partitions.get(&broken.key).map(|(value, _)| value).filter(|v| had(v, this.writer));
    let is_later = is_same_log || known.is_none_or(|value| epoch > value.epoch);
    is_later && (epoch > broken.epoch || (epoch == broken.epoch && best.next_offset >= broken.end))
}

/// What one log has from where the winner went on at a later epoch, for people.
pub fn left_out(
    found: &Found,
    name: &str,
    source: usize,
    epoch: LeaderEpoch,
    end: Offset,
    best: &Candidate,
) -> Option<String> {
    let from = best.epochs.iter().find(|e| e.epoch > epoch).map(|e| e.start).filter(|from| end > *from)?;
    let (writer, winner) = (found.sources[source].writer, found.sources[best.source].writer);
    Some(format!(
        "{name}: offsets {from} to {end} of writer {writer} (leader epoch {epoch}) are left out: writer {winner} went on from \
         {from} at a later epoch"
    ))
}
