//! Which broker serves a rack's consumers with partitions that another broker leads (KIP-392): a pure function of the
//! cluster image, so that the leader, which sends clients there, and Metadata, which makes it known to them, agree on
//! whichever broker they are.
//!
//! Per partition and rack it is one of the live brokers that follow and do not drain, by rendezvous hashing.

use super::image::ClusterImage;
use super::placement::{hash_of, rendezvous};
use crate::ids::{BrokerId, PartitionKey};
use std::collections::BTreeMap;

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadReplicas {
    /// Live brokers that have a rack.
    racks: BTreeMap<BrokerId, String>,
    /// Those that follow, by rack; no list is empty.
    followers: BTreeMap<String, Vec<BrokerId>>,
}

impl ReadReplicas {
    /// What the image says.
    pub fn of(image: &ClusterImage) -> Self {
        let mut replicas = Self::default();
        for (node, live) in image.brokers() {
            let Some(rack) = &live.rack else { continue };
            if live.follows && !live.draining {
                replicas.followers.entry(rack.clone()).or_default().push(node);
            }
            replicas.racks.insert(node, rack.clone());
        }
        replicas
    }

    /// Where consumers of `rack` read a partition that `leader` leads; `None`: at the leader.
    pub fn preferred(&self, key: &PartitionKey, leader: BrokerId, rack: &str) -> Option<BrokerId> {
        if self.racks.get(&leader).is_some_and(|own| own == rack) {
            return None;
        }
        let followers = self.followers.get(rack)?;
        rendezvous(followers.iter().copied().filter(|node| *node != leader), hash_of(key))
    }

    /// Everybody who serves reads of a partition: its leader, then one broker of each rack that has followers.
    pub fn all(&self, key: &PartitionKey, leader: BrokerId) -> Vec<BrokerId> {
        let followers = self.followers.keys().filter_map(|rack| self.preferred(key, leader, rack));
        [leader].into_iter().chain(followers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PartitionIndex, TopicId, WriterId};
    use crate::metadata::keys::Keys;
    use crate::metadata::model::{self, LiveValue};
    use crate::metadata::{Entry, WatchEvent};

    /// Node, rack, follows, drains.
    type Described<'a> = (i32, Option<&'a str>, bool, bool);

    fn replicas(brokers: &[Described<'_>]) -> ReadReplicas {
        let keys = Keys::new("test");
        let mut image = ClusterImage::default();
        for (revision, (node, rack, follows, draining)) in brokers.iter().enumerate() {
            let rack = rack.map(str::to_owned);
            let live = LiveValue { rack, draining: *draining, follows: *follows, ..LiveValue::sample(*node) };
            let (key, value) = (keys.live(WriterId(*node as u64)), model::encode(&live));
            let revision = revision as i64 + 1;
            let entry = Entry { key, value, create_revision: revision, mod_revision: revision };
            assert_eq!(image.apply(&keys, WatchEvent::Put(entry)), Vec::<String>::new());
        }
        ReadReplicas::of(&image)
    }

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicId(uuid::Uuid::from_u128(7)), partition: PartitionIndex(partition) }
    }

    #[test]
    fn the_nearest_broker_that_may() {
        let us = (1, Some("us"), false, false);
        let cases: &[(&[Described<'_>], &str, Option<i32>)] = &[
            (&[us, (2, Some("eu"), true, false)], "eu", Some(2)),
            (&[us, (2, Some("eu"), true, false)], "us", None),
            (&[us, (2, Some("eu"), true, false)], "asia", None),
            (&[us, (2, Some("eu"), false, false)], "eu", None),
            (&[us, (2, Some("eu"), true, true)], "eu", None),
            (&[us, (2, Some("eu"), true, true), (3, Some("eu"), true, false)], "eu", Some(3)),
            // The leader's own rack, and a leader without one.
            (&[(1, Some("eu"), true, false), (2, Some("eu"), true, false)], "eu", None),
            (&[(1, None, false, false), (2, Some("eu"), true, false)], "eu", Some(2)),
            // Whoever leads does not follow what it leads.
            (&[(1, None, true, false), (2, None, true, false)], "", None),
            (&[], "eu", None),
        ];
        for (n, (brokers, rack, expected)) in cases.iter().enumerate() {
            let preferred = replicas(brokers).preferred(&key(0), BrokerId(1), rack);
            assert_eq!(preferred, expected.map(BrokerId), "case {n}");
        }
    }

    #[test]
    fn load_spreads_and_choices_stay() {
        let of = |nodes: &[i32]| {
            let brokers: Vec<_> = nodes.iter().map(|node| (*node, Some("eu"), true, false)).collect();
            let replicas = replicas(&brokers);
            (0..300).map(|p| replicas.preferred(&key(p), BrokerId(1), "eu").unwrap()).collect::<Vec<_>>()
        };
        let (before, after) = (of(&[2, 3, 4]), of(&[2, 3]));
        for node in [2, 3, 4] {
            let share = before.iter().filter(|n| n.0 == node).count();
            assert!((60..=140).contains(&share), "broker {node} serves {share} of 300");
        }
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a);
        assert!(moved.clone().all(|(b, _)| b.0 == 4) && moved.count() > 60);
    }

    #[test]
    fn the_leader_comes_first_and_each_other_rack_once() {
        let replicas = replicas(&[
            (1, Some("us"), true, false),
            (2, Some("us"), true, false),
            (3, Some("eu"), true, false),
            (4, Some("eu"), true, false),
            (5, Some("asia"), true, false),
            (6, Some("asia"), false, false),
            (7, Some("africa"), false, false),
        ]);
        for p in 0..20 {
            let all = replicas.all(&key(p), BrokerId(1));
            assert_eq!((all.len(), all[0], all[1]), (3, BrokerId(1), BrokerId(5)));
            assert_eq!(Some(all[2]), replicas.preferred(&key(p), BrokerId(1), "eu"));
        }
        assert_eq!(replicas.all(&key(0), BrokerId(7)).len(), 4);
    }
}
