//! Lag of groups that somebody has looked at lately, for an hour, and since when they do not move.

use super::describe;
use super::measure;
use crate::clock::Clock;
use crate::web::kafka::{KafkaClient, PartitionOf, Place, within};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time between two samples.
const EVERY: Duration = Duration::from_secs(10);
/// Samples of a group: an hour.
const SAMPLES_MAX: usize = 360;
/// Groups that are watched at a time; beyond it, those that nobody looked at for longest are forgotten.
const GROUPS_MAX: usize = 200;
/// A group is watched for so long after somebody looked, ms.
const WATCHED_MS: i64 = 3_600_000;
/// A group with lag that has not moved for this time is stuck, ms.
const STUCK_MS: i64 = 60_000;
/// How long the question about one group may take.
const WITHIN: Duration = Duration::from_secs(5);

/// What a group had at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Unix milliseconds.
    pub at_ms: i64,
    /// Records not consumed.
    pub lag: i64,
    /// Sum of committed offsets: it changes when the group moves.
    pub committed: i128,
}

#[derive(Debug, Default)]
struct Watched {
    looked_at_ms: i64,
    samples: VecDeque<Sample>,
    /// First sample with the present sum of committed offsets.
    unmoved_since_ms: i64,
}

impl Watched {
    fn add(&mut self, sample: Sample) {
        if self.samples.back().is_none_or(|last| last.committed != sample.committed || last.lag == 0) {
            self.unmoved_since_ms = sample.at_ms;
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    fn stuck_since_ms(&self) -> Option<i64> {
        let last = self.samples.back()?;
        let is_stuck = last.lag > 0 && last.at_ms - self.unmoved_since_ms >= STUCK_MS;
        is_stuck.then_some(self.unmoved_since_ms)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct LagWatch {
    clock: Clock,
    groups: Mutex<BTreeMap<String, Watched>>,
}

impl LagWatch {
    /// Nothing is watched.
    pub fn new(clock: Clock) -> Self {
        Self { clock, groups: Mutex::default() }
    }

    /// Somebody looks at a group, and this is what it has now, if that is known. Returns its samples and since when it is
    /// stuck.
    pub fn look(&self, group: &str, sample: Option<Sample>) -> (Vec<Sample>, Option<i64>) {
        let now_ms = self.clock.wall_ms();
        let mut groups = self.groups.lock().expect("no panic under the lock");
        if !groups.contains_key(group) && groups.len() >= GROUPS_MAX {
            let oldest = groups.iter().min_by_key(|(_, w)| w.looked_at_ms).map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                groups.remove(&oldest);
            }
        }
        let watched = groups.entry(group.to_owned()).or_default();
        watched.looked_at_ms = now_ms;
        let every_ms = EVERY.as_millis() as i64;
        // Many who look do not make the hour shorter.
        let is_due = watched.samples.back().is_none_or(|last| now_ms - last.at_ms >= every_ms);
        if let Some(sample) = sample.filter(|_| is_due) {
            watched.add(sample);
        }
        (watched.samples.iter().copied().collect(), watched.stuck_since_ms())
    }

    /// A group is gone.
    pub fn forget(&self, group: &str) {
        self.groups.lock().expect("no panic under the lock").remove(group);
    }

    fn due(&self) -> Vec<String> {
        let now_ms = self.clock.wall_ms();
        let mut groups = self.groups.lock().expect("no panic under the lock");
        groups.retain(|_, watched| now_ms - watched.looked_at_ms < WATCHED_MS);
        groups.keys().cloned().collect()
    }

    fn add(&self, group: &str, sample: Sample) {
        if let Some(watched) = self.groups.lock().expect("no panic under the lock").get_mut(group) {
            watched.add(sample);
        }
    }

    /// Samples for as long as the console runs, one group after the other.
    pub async fn run(self: Arc<Self>, kafka: Arc<KafkaClient>) {
        loop {
            for group in self.due() {
                if let Some(sample) = self.ask(&kafka, &group).await {
                    self.add(&group, sample);
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn ask(&self, kafka: &KafkaClient, group: &str) -> Option<Sample> {
        let deadline = within(WITHIN);
        let node = kafka.coordinator(group, deadline).await.ok()?;
        let commits = describe::commits(kafka, node, &[group], None, deadline).await.remove(group)?.ok()?;
        let partitions: Vec<PartitionOf> = commits.keys().take(measure::PARTITIONS_MAX).cloned().collect();
        let ends = kafka.offsets(&partitions, Place::Latest, deadline).await;
        sample(self.clock.wall_ms(), &commits, measure::lag(&commits, &ends))
    }
}

/// A sample, if the lag is known.
pub fn sample(at_ms: i64, commits: &describe::Commits, lag: Option<i64>) -> Option<Sample> {
    let committed = commits.values().map(|committed| i128::from(committed.offset)).sum();
    Some(Sample { at_ms, lag: lag?, committed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_ms: i64, lag: i64, committed: i128) -> Sample {
        Sample { at_ms, lag, committed }
    }

    #[test]
    fn a_group_is_stuck_if_it_has_lag_and_does_not_move() {
        let mut watched = Watched::default();
        watched.add(at(0, 5, 1));
        assert_eq!(watched.stuck_since_ms(), None, "one look says nothing");
        watched.add(at(STUCK_MS, 9, 1));
        assert_eq!(watched.stuck_since_ms(), Some(0));
        watched.add(at(STUCK_MS + 1, 9, 2));
        assert_eq!(watched.stuck_since_ms(), None, "it moved");
    }

    #[test]
    fn a_group_without_lag_is_not_stuck_when_lag_begins() {
        let mut watched = Watched::default();
        watched.add(at(0, 0, 1));
        watched.add(at(10 * STUCK_MS, 3, 1));
        assert_eq!(watched.stuck_since_ms(), None);
        watched.add(at(11 * STUCK_MS, 3, 1));
        assert_eq!(watched.stuck_since_ms(), Some(10 * STUCK_MS));
    }

    #[test]
    fn what_is_watched_is_bounded() {
        let watch = LagWatch::new(Clock::system());
        for n in 0..2 * GROUPS_MAX {
            watch.look(&n.to_string(), None);
        }
        assert_eq!(watch.due().len(), GROUPS_MAX);
        let mut watched = Watched::default();
        (0..2 * SAMPLES_MAX as i64).for_each(|n| watched.add(at(n, 1, 1)));
        assert_eq!(watched.samples.len(), SAMPLES_MAX);
    }
}
