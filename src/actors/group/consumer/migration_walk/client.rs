//! A process with a consumer of either protocol: what it says of itself, what it makes of answers, and how it leads.

use super::{CLASSIC_HEARTBEAT_MS, CLASSIC_SESSION_MS, HEARTBEAT_MS, REBALANCE_MS, TOPICS};
use crate::actors::group::classic::{JoinReply, JoinRequest, JoinedMember, Ms};
use crate::actors::group::consumer::classic_members::CONSUMER;
use crate::actors::group::consumer::tests::Shelf;
use crate::actors::group::consumer::value::{Assignment, collect, contains, partitions};
use crate::actors::group::consumer::{HeartbeatReply, HeartbeatRequest, Topics, embedded};
use crate::actors::group::value::Protocol;
use crate::ids::PartitionKey;
use bytes::Bytes;
use std::collections::HashMap;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Doing {
    Joining,
    Syncing,
    Member,
    Gone,
}

/// A process with a consumer.
#[derive(Debug, Clone)]
pub struct Client {
    pub instance: Option<String>,
    pub is_classic: bool,
    pub doing: Doing,
    pub id: String,
    /// Generation or member epoch.
    pub epoch: i32,
    /// The group has told it that it is a member.
    pub is_member: bool,
    pub held: Assignment,
    /// As the leader of a classic generation: who has to be assigned, and the version of the topics that was assigned.
    pub leads: Vec<JoinedMember>,
    pub assigned_version: Option<u64>,
    pub asked: u64,
    pub next_ms: Ms,
    /// Its last request was not answered.
    pub is_unsure: bool,
}

impl Client {
    pub fn take_beat(&mut self, reply: HeartbeatReply) {
        assert_eq!(reply.member_id, self.id);
        assert!(self.doing == Doing::Joining || reply.epoch >= self.epoch, "a member's epoch went back");
        (self.doing, self.epoch, self.is_unsure, self.is_member) = (Doing::Member, reply.epoch, false, true);
        self.next_ms += if reply.assignment.is_some() { 100 } else { HEARTBEAT_MS };
        if let Some(assignment) = reply.assignment {
            self.held = assignment;
        }
    }

    pub fn take_join(&mut self, reply: JoinReply) {
        assert!(reply.generation >= self.epoch, "{self:?}: generation {} after {}", reply.generation, self.epoch);
        let leads = !reply.skip_assignment && reply.leader == reply.member_id;
        // Who leads without having assigned does not know what was there.
        self.assigned_version = (reply.skip_assignment).then_some(u64::MAX);
        (self.doing, self.epoch, self.id, self.is_member) = (Doing::Syncing, reply.generation, reply.member_id, true);
        self.leads = if leads { reply.members } else { Vec::new() };
    }

    pub fn take_sync(&mut self, assignment: &[u8], topics: &Shelf) {
        let named = embedded::assignment(assignment).expect("an assignment");
        let before = std::mem::replace(&mut self.held, embedded::by_id(&named, topics));
        let gave_up = partitions(&before).any(|key| !contains(&self.held, &key));
        self.doing = if gave_up { Doing::Joining } else { Doing::Member };
        self.next_ms += if gave_up { 0 } else { CLASSIC_HEARTBEAT_MS };
    }
}

pub fn beat_of(client: &Client, epoch: i32) -> HeartbeatRequest {
    HeartbeatRequest {
        member_id: client.id.clone(),
        epoch,
        instance: client.instance.clone(),
        rebalance_timeout_ms: -1,
        brings_id: true,
        ..HeartbeatRequest::default()
    }
}

pub fn join_of(c: usize, client: &Client, topics: &Shelf) -> JoinRequest {
    JoinRequest {
        member_id: client.id.clone(),
        instance: client.instance.clone(),
        client_id: format!("c{c}"),
        session_timeout_ms: CLASSIC_SESSION_MS as i32,
        rebalance_timeout_ms: REBALANCE_MS as i32,
        protocol_type: CONSUMER.into(),
        protocols: vec![Protocol { name: "p".into(), metadata: metadata(client, topics) }],
        asks_for_id: true,
        may_skip_assignment: true,
        ..JoinRequest::default()
    }
}

/// A subscription to all topics in version 2: with what the member holds and the generation of that.
fn metadata(client: &Client, topics: &Shelf) -> Bytes {
    let mut bytes = vec![0, 2];
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as i16).to_be_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend((TOPICS.len() as i32).to_be_bytes());
    TOPICS.iter().for_each(|topic| text(&mut bytes, topic));
    bytes.extend((-1i32).to_be_bytes());
    bytes.extend((client.held.len() as i32).to_be_bytes());
    for (id, partitions) in &client.held {
        text(&mut bytes, &topics.by_id(*id).expect("topics stay").0);
        bytes.extend((partitions.len() as i32).to_be_bytes());
        partitions.iter().for_each(|p| bytes.extend(p.0.to_be_bytes()));
    }
    bytes.extend(client.epoch.to_be_bytes());
    Bytes::from(bytes)
}

/// What a leader assigns: as even as can be, everybody keeps what it can, and what has another owner waits until that one has
/// given it up.
pub fn lead(members: &[JoinedMember], topics: &Shelf) -> Vec<(String, Bytes)> {
    let mut owners: HashMap<PartitionKey, (i32, usize)> = HashMap::new();
    for (n, member) in members.iter().enumerate() {
        let owned = embedded::subscription(&member.metadata).expect("clients send subscriptions").owned;
        let generation = member.metadata[member.metadata.len() - 4..].try_into().expect("four bytes");
        let claim = (i32::from_be_bytes(generation), n);
        for key in partitions(&embedded::by_id(&owned, topics)) {
            let owner = owners.entry(key).or_insert(claim);
            *owner = claim.max(*owner);
        }
    }
    let all = topics.partitions();
    let mut shares: Vec<Vec<PartitionKey>> = vec![Vec::new(); members.len()];
    let share_max = all.len().div_ceil(members.len().max(1));
    let (owned, free): (Vec<_>, Vec<_>) = all.into_iter().partition(|key| owners.contains_key(key));
    for key in owned {
        let share = &mut shares[owners[&key].1];
        if share.len() < share_max {
            share.push(key);
        }
    }
    for key in free {
        if let Some(share) = shares.iter_mut().min_by_key(|share| share.len()) {
            share.push(key);
        }
    }
    let share = |(member, share): (&JoinedMember, Vec<PartitionKey>)| {
        (member.id.clone(), embedded::encode_assignment(1, &collect(share), topics))
    };
    members.iter().zip(shares).map(share).collect()
}
