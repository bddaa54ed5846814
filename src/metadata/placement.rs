//! Which broker should lead what: pure functions of the cluster image, so that all brokers come to the same answer
//! without asking each other. They only say who should *try*; who leads is decided by claims (`ownership.rs`).
//!
//! A topic names a broker for each of its partitions. While that broker is away or draining, the partition falls to one of
//! the others by rendezvous hashing: each broker's share spreads over all that are left, and nothing else moves.
//! (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998.)

use super::image::ClusterImage;
use crate::ids::{BrokerId, PartitionIndex, PartitionKey};
use std::collections::{BTreeMap, BTreeSet};

/// Partitions that one round of balancing moves at most.
pub const MOVES_MAX: usize = 500;

/// Brokers that may be given something now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    nodes: BTreeSet<BrokerId>,
}

impl Candidates {
    /// Those that live and do not drain.
    pub fn of(image: &ClusterImage) -> Self {
        let brokers = image.brokers();
        Self { nodes: brokers.into_iter().filter(|(_, live)| !live.draining).map(|(node, _)| node).collect() }
    }

    /// True if `node` is among them.
    pub fn contains(&self, node: BrokerId) -> bool {
        self.nodes.contains(&node)
    }

    /// True if there is another one than `node`.
    pub fn others_than(&self, node: BrokerId) -> bool {
        self.nodes.iter().any(|other| *other != node)
    }

    /// The one that should have what nobody was named for.
    pub fn pick(&self, hash: u64) -> Option<BrokerId> {
        rendezvous(self.nodes.iter().copied(), hash)
    }

    /// The broker that should lead a partition; `None` if nobody can take it.
    pub fn leader(&self, named: Option<BrokerId>, key: &PartitionKey) -> Option<BrokerId> {
        named.filter(|node| self.contains(*node)).or_else(|| self.pick(hash_of(key)))
    }

    /// The broker that should coordinate the groups of a shard.
    pub fn coordinator(&self, shard: u32) -> Option<BrokerId> {
        self.pick(mix(u64::from(shard)))
    }
}

/// The broker that `hash` falls to: if one goes, only what had fallen to it falls to others.
pub(super) fn rendezvous(nodes: impl Iterator<Item = BrokerId>, hash: u64) -> Option<BrokerId> {
    nodes.max_by_key(|node| mix(hash ^ mix(node.0 as u64)))
}

pub(super) fn hash_of(key: &PartitionKey) -> u64 {
    let id = key.topic.0.as_u128();
    mix(id as u64 ^ mix((id >> 64) as u64 ^ mix(key.partition.0 as u64)))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014). Part of what
/// brokers have to agree on.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// How many partitions each broker is named for.
fn loads(image: &ClusterImage, candidates: &Candidates) -> BTreeMap<BrokerId, usize> {
    let mut loads: BTreeMap<BrokerId, usize> = candidates.nodes.iter().map(|node| (*node, 0)).collect();
    for topic in image.topics() {
        for index in 0..topic.value.partitions {
            let key = PartitionKey { topic: topic.value.id, partition: PartitionIndex(index) };
            let node = candidates.leader(topic.value.placement.get(index as usize).copied(), &key);
            node.and_then(|node| loads.get_mut(&node)).into_iter().for_each(|load| *load += 1);
        }
    }
    loads
}

/// Brokers for `count` new partitions, those with the least to do first. Empty if there is no broker.
pub fn spread(image: &ClusterImage, count: i32) -> Vec<BrokerId> {
    let candidates = Candidates::of(image);
    let loads = loads(image, &candidates);
    let mut queue: BTreeSet<(usize, BrokerId)> = loads.into_iter().map(|(node, load)| (load, node)).collect();
    let mut placed = Vec::new();
    for _ in 0..count {
        let Some((load, node)) = queue.pop_first() else { return Vec::new() };
        placed.push(node);
        queue.insert((load + 1, node));
    }
    placed
}

/// Partitions to name another broker for: those of brokers in `gone`, and as many as it takes until no broker has over a
/// tenth more than its share. Nothing else moves. At most [`MOVES_MAX`], by topic name.
pub fn balance(
    image: &ClusterImage,
    gone: &BTreeSet<BrokerId>,
) -> BTreeMap<String, BTreeMap<PartitionIndex, BrokerId>> {
    let candidates = Candidates::of(image);
    let mut moves: BTreeMap<String, BTreeMap<PartitionIndex, BrokerId>> = BTreeMap::new();
    let mut loads = loads(image, &candidates);
    let total: usize = loads.values().sum();
    let Some(share) = total.checked_div(loads.len()) else { return moves };
    let most = share + share / 10 + 1;
    let mut count = 0;
    for topic in image.topics() {
        for index in 0..topic.value.partitions {
            let partition = PartitionIndex(index);
            let key = PartitionKey { topic: topic.value.id, partition };
            let named = topic.value.placement.get(index as usize).copied();
            let Some(now) = candidates.leader(named, &key) else { return moves };
            let to = if named.is_none_or(|node| gone.contains(&node)) && loads[&now] <= most {
                now // where it is already
            } else if loads[&now] > most && named.is_none_or(|node| gone.contains(&node) || node == now) {
                *loads.iter().min_by_key(|(node, load)| (**load, **node)).expect("there is a share").0
            } else {
                continue;
            };
            *loads.get_mut(&now).expect("a candidate") -= 1;
            *loads.get_mut(&to).expect("a candidate") += 1;
            moves.entry(topic.name.to_string()).or_default().insert(partition, to);
            count += 1;
            if count == MOVES_MAX {
                return moves;
            }
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{TopicId, WriterId};
    use crate::metadata::keys::Keys;
    use crate::metadata::model::{self, LiveValue, TopicState, TopicValue};
    use crate::metadata::{Entry, WatchEvent};

    fn image(nodes: &[i32], draining: &[i32], topics: &[(&str, i32, &[i32])]) -> ClusterImage {
        let (keys, mut image) = (Keys::new("test"), ClusterImage::default());
        let entry = |key, value| WatchEvent::Put(Entry { key, value, create_revision: 1, mod_revision: 1 });
        for node in nodes {
            let live = LiveValue { draining: draining.contains(node), ..LiveValue::sample(*node) };
            image.apply(&keys, entry(keys.live(WriterId(*node as u64)), model::encode(&live)));
        }
        for (n, (name, partitions, placement)) in topics.iter().enumerate() {
            let value = TopicValue {
                v: 1,
                id: TopicId(uuid::Uuid::from_u128(n as u128 + 1)),
                partitions: *partitions,
                configs: BTreeMap::new(),
                state: TopicState::Live,
                placement: placement.iter().map(|n| BrokerId(*n)).collect(),
            };
            image.apply(&keys, entry(keys.topic(name), model::encode(&value)));
        }
        image
    }

    fn key(partition: i32) -> PartitionKey {
        PartitionKey { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionIndex(partition) }
    }

    #[test]
    fn the_named_broker_leads_while_it_is_there() {
        let image = image(&[1, 2, 3], &[3], &[]);
        let candidates = Candidates::of(&image);
        assert_eq!(candidates.leader(Some(BrokerId(2)), &key(0)), Some(BrokerId(2)));
        for away in [3, 4] {
            let leader = candidates.leader(Some(BrokerId(away)), &key(0)).unwrap();
            assert!([1, 2].contains(&leader.0), "{leader}");
        }
        assert_eq!(Candidates::of(&ClusterImage::default()).leader(Some(BrokerId(1)), &key(0)), None);
    }

    #[test]
    fn what_a_broker_leaves_spreads_over_the_others_and_nothing_else_moves() {
        let (all, fewer) = (image(&[1, 2, 3, 4], &[], &[]), image(&[1, 2, 4], &[], &[]));
        let (all, fewer) = (Candidates::of(&all), Candidates::of(&fewer));
        let mut counts: BTreeMap<BrokerId, usize> = BTreeMap::new();
        for partition in 0..3_000 {
            let (before, after) = (all.leader(None, &key(partition)), fewer.leader(None, &key(partition)));
            match before {
                Some(BrokerId(3)) => *counts.entry(after.unwrap()).or_default() += 1,
                stays => assert_eq!(stays, after),
            }
        }
        assert_eq!(counts.len(), 3);
        assert!(counts.values().all(|n| (200..300).contains(n)), "{counts:?}");
        let shards: BTreeSet<_> = (0..50).filter_map(|shard| all.coordinator(shard)).collect();
        assert_eq!(shards.len(), 4);
    }

    #[test]
    fn new_partitions_go_where_there_is_least() {
        let image = image(&[1, 2, 3], &[], &[("a", 4, &[1, 1, 2, 1])]);
        assert_eq!(spread(&image, 5).iter().map(|n| n.0).collect::<Vec<_>>(), [3, 2, 3, 2, 3]);
        assert_eq!(spread(&ClusterImage::default(), 2), []);
    }

    fn apply(image: &ClusterImage, moves: &BTreeMap<String, BTreeMap<PartitionIndex, BrokerId>>) -> ClusterImage {
        let (keys, mut after) = (Keys::new("test"), image.clone());
        for (name, moves) in moves {
            let mut value = image.topic(name).unwrap().value.clone();
            value.placement.resize(value.partitions as usize, BrokerId(-1));
            moves.iter().for_each(|(p, node)| value.placement[p.0 as usize] = *node);
            let (key, value) = (keys.topic(name), model::encode(&value));
            after.apply(&keys, WatchEvent::Put(Entry { key, value, create_revision: 1, mod_revision: 1 }));
        }
        after
    }

    #[test]
    fn a_new_broker_gets_its_share_and_no_more_moves_than_that() {
        let before = image(&[1, 2, 3], &[], &[("a", 300, &[[1; 150], [2; 150]].concat())]);
        let moves = balance(&before, &BTreeSet::new());
        let after = apply(&before, &moves);
        let loads = loads(&after, &Candidates::of(&after));
        assert!(loads.values().all(|n| (70..=111).contains(n)), "{loads:?}");
        assert!(moves["a"].len() <= 100 && moves["a"].values().all(|node| node.0 == 3), "{moves:?}");
        assert!(balance(&after, &BTreeSet::new()).is_empty(), "then it rests");
    }

    #[test]
    fn brokers_that_are_only_away_keep_what_is_theirs() {
        let image = image(&[1, 2], &[], &[("a", 6, &[1, 2, 3, 1, 2, 3])]);
        assert!(balance(&image, &BTreeSet::new()).is_empty());
        let moves = balance(&image, &BTreeSet::from([BrokerId(3)]));
        let moved: Vec<i32> = moves["a"].keys().map(|p| p.0).collect();
        assert_eq!(moved, [2, 5]);
    }
}
