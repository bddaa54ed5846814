//! What is durable of a group of the consumer protocol.
//!
//! Like that of a classic group the value is one metadata key, so a group changes its protocol by one write.

use crate::actors::group::value::Protocol;
use crate::ids::{PartitionIndex, PartitionKey, TopicId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Partitions by topic; no topic without partitions.
pub type Assignment = BTreeMap<TopicId, BTreeSet<PartitionIndex>>;

/// Every partition of an assignment.
pub fn partitions(assignment: &Assignment) -> impl Iterator<Item = PartitionKey> {
    assignment.iter().flat_map(|(topic, partitions)| {
        partitions.iter().map(|partition| PartitionKey { topic: *topic, partition: *partition })
    })
}

/// True if `assignment` has the partition.
pub fn contains(assignment: &Assignment, key: &PartitionKey) -> bool {
    assignment.get(&key.topic).is_some_and(|partitions| partitions.contains(&key.partition))
}

/// The assignment of these partitions.
pub fn collect(keys: impl IntoIterator<Item = PartitionKey>) -> Assignment {
    let mut assignment = Assignment::new();
    for key in keys {
        assignment.entry(key.topic).or_default().insert(key.partition);
    }
    assignment
}

/// Where a member is on its way to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    /// It has what it should have at its epoch.
    Stable,
    /// It has to give partitions up before it may get to the next epoch.
    Unrevoked,
    /// It waits for partitions that others still hold.
    Unreleased,
}

/// What only members that use the classic protocol have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassicPart {
    /// How long it may be silent, ms.
    pub session_timeout_ms: i32,
    /// Its protocols in its order of preference, each with its metadata.
    pub protocols: Vec<Protocol>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerMember {
    /// Member id.
    pub id: String,
    /// `group.instance.id` of a static member.
    pub instance: Option<String>,
    /// Rack.
    pub rack: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Address of the client.
    pub client_host: String,
    /// How long it may take to give partitions up, ms.
    pub rebalance_timeout_ms: i32,
    /// The assignor it asks for.
    pub assignor: Option<String>,
    /// Topics it is subscribed to by name.
    pub names: BTreeSet<String>,
    /// Topics it is subscribed to by regular expression.
    pub regex: Option<String>,
    /// Its epoch; -2 for a static member that left and will come back.
    pub epoch: i32,
    /// The epoch before, which it may still believe in.
    pub previous_epoch: i32,
    /// Where it is.
    pub state: MemberState,
    /// What it may hold.
    pub assigned: Assignment,
    /// What it has to give up and may still hold.
    pub revoking: Assignment,
    /// What it should come to hold at the group's target epoch.
    pub target: Assignment,
    /// Set for a member that uses the classic protocol.
    pub classic: Option<ClassicPart>,
}

impl ConsumerMember {
    /// Bytes of the member in the group's value, roughly.
    pub fn byte_len(&self) -> usize {
        let texts = [self.instance.as_ref(), self.rack.as_ref(), self.assignor.as_ref(), self.regex.as_ref()];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        let names: usize = self.names.iter().map(|name| name.len() + 2).sum();
        let sets = [&self.assigned, &self.revoking, &self.target];
        let sets: usize = sets.iter().flat_map(|s| s.values()).map(|p| 18 + 3 * p.len()).sum();
        let protocols = self.classic.iter().flat_map(|c| &c.protocols).map(|p| p.name.len() + p.metadata.len() + 8);
        let ids = self.id.len() + self.client_id.len() + self.client_host.len();
        ids + texts + names + sets + protocols.sum::<usize>() + 48
    }

    /// Partitions that nobody else may be given.
    pub fn held(&self) -> impl Iterator<Item = PartitionKey> {
        partitions(&self.assigned).chain(partitions(&self.revoking))
    }
}

/// A group of the consumer protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerValue {
    /// Rises with every change that calls for a new target.
    pub epoch: i32,
    /// The epoch that the members' targets are for.
    pub target_epoch: i32,
    /// Fingerprint of the subscribed topics with their partitions, as they were at `epoch`.
    pub topics_hash: u64,
    /// Wall time of the last change of the epoch, ms.
    pub since_ms: i64,
    /// Its members in the order of their ids.
    pub members: Vec<ConsumerMember>,
}

impl ConsumerValue {
    /// What a decoder cannot know.
    pub fn check(&self) -> Result<(), String> {
        if !self.members.windows(2).all(|pair| pair[0].id < pair[1].id) {
            return Err("members are not in the order of their ids".to_owned());
        }
        let mut instances = BTreeSet::new();
        if let Some(twice) = self.members.iter().filter_map(|m| m.instance.as_ref()).find(|i| !instances.insert(*i)) {
            return Err(format!("instance {twice} is there twice"));
        }
        let mut held = BTreeSet::new();
        match self.members.iter().flat_map(ConsumerMember::held).find(|key| !held.insert(*key)) {
            Some(twice) => Err(format!("partition {twice} has two owners")),
            None => Ok(()),
        }
    }
}
