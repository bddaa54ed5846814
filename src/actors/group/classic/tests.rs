//! The machine under a clock that the test moves. Each reply is kept under the number of the request it answers.

mod joining;
mod offsets;
mod rebalancing;
mod statics;
mod surviving;

use super::*;
use std::collections::HashMap;

const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;
const DELAY_MS: u64 = 3_000;

struct Bed {
    group: ClassicGroup<u32>,
    now: Now,
    next: u32,
    joins: HashMap<u32, JoinReply>,
    syncs: HashMap<u32, SyncReply>,
    records: usize,
}

impl Bed {
    fn new() -> Self {
        Self::with(GroupLimits { members_max: 10, ..GroupLimits::default() })
    }

    fn with(limits: GroupLimits) -> Self {
        let now = Now { mono_ms: 0, wall_ms: 1_000_000 };
        let group = ClassicGroup::new(limits, now);
        Self { group, now, next: 0, joins: HashMap::new(), syncs: HashMap::new(), records: 0 }
    }

    fn take(&mut self, effects: Vec<Effect<u32>>) {
        for effect in effects {
            match effect {
                Effect::Recorded => self.records += 1,
                Effect::Join(token, reply) => assert!(self.joins.insert(token, reply).is_none(), "answered twice"),
                Effect::Sync(token, reply) => assert!(self.syncs.insert(token, reply).is_none(), "answered twice"),
            }
        }
    }

    /// Lets time pass; returns the timers that ran out.
    fn sleep(&mut self, ms: u64) -> Vec<Expired> {
        let end = self.now.mono_ms + ms;
        let mut expired = Vec::new();
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= end) {
            self.now.wall_ms += (at.max(self.now.mono_ms) - self.now.mono_ms) as i64;
            self.now.mono_ms = self.now.mono_ms.max(at);
            let mut effects = Vec::new();
            expired.extend(self.group.expire(self.now, &mut effects));
            self.take(effects);
        }
        self.now.wall_ms += (end - self.now.mono_ms) as i64;
        self.now.mono_ms = end;
        expired
    }

    fn join(&mut self, request: JoinRequest) -> u32 {
        self.next += 1;
        let (token, mut effects) = (self.next, Vec::new());
        self.group.join(self.now, request, &token.to_string(), token, &mut effects);
        self.take(effects);
        token
    }

    fn sync(&mut self, member: &JoinReply, assignments: &[(&str, &'static [u8])]) -> u32 {
        self.next += 1;
        let (token, mut effects) = (self.next, Vec::new());
        let assignments = assignments.iter().map(|(id, a)| ((*id).to_owned(), Bytes::from_static(a))).collect();
        let request = SyncRequest {
            member_id: member.member_id.clone(),
            generation: member.generation,
            assignments,
            ..SyncRequest::default()
        };
        self.group.sync(self.now, request, token, &mut effects);
        self.take(effects);
        token
    }

    fn leave(&mut self, id: &str, instance: Option<&str>) -> Result<(), GroupError> {
        let mut effects = Vec::new();
        let outcome = self.group.leave(self.now, &[(id.to_owned(), instance.map(str::to_owned))], &mut effects);
        self.take(effects);
        outcome[0]
    }

    fn heartbeat(&mut self, member: &JoinReply) -> Result<(), GroupError> {
        self.group.heartbeat(self.now, &member.member_id, None, member.generation)
    }

    fn joined(&self, token: u32) -> JoinReply {
        self.joins.get(&token).cloned().unwrap_or_else(|| panic!("request {token} is not answered"))
    }

    /// A stable group of `n` members that joined at once; the first is the leader.
    fn stable(n: usize) -> (Self, Vec<JoinReply>) {
        let mut bed = Self::new();
        let tokens: Vec<u32> = (0..n).map(|_| bed.join(old())).collect();
        bed.sleep(DELAY_MS * 2);
        let mut members: Vec<JoinReply> = tokens.iter().map(|t| bed.joined(*t)).collect();
        members.sort_by_key(|m| m.leader != m.member_id);
        assert_eq!(members[0].members.len(), n);
        let ids: Vec<String> = members.iter().map(|m| m.member_id.clone()).collect();
        let assignments: Vec<(&str, &'static [u8])> = ids.iter().map(|id| (id.as_str(), &b"part"[..])).collect();
        for member in members.iter().rev() {
            bed.sync(member, if member.leader == member.member_id { &assignments } else { &[] });
        }
        assert_eq!(bed.group.state(), State::Stable);
        (bed, members)
    }
}

/// A join of a client that gets its id at once.
fn old() -> JoinRequest {
    JoinRequest {
        client_id: "client".into(),
        client_host: "/10.0.0.1".into(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: vec![protocol("range", b"\0\0\0\0\0\x01\0\x01t\0\0\0\0"), protocol("roundrobin", b"rr")],
        ..JoinRequest::default()
    }
}

fn protocol(name: &str, metadata: &'static [u8]) -> Protocol {
    Protocol { name: name.into(), metadata: Bytes::from_static(metadata) }
}

/// A join of a client that asks for an id first.
fn new() -> JoinRequest {
    JoinRequest { asks_for_id: true, ..old() }
}

fn known(member: &JoinReply) -> JoinRequest {
    JoinRequest { member_id: member.member_id.clone(), ..new() }
}

fn of_instance(instance: &str) -> JoinRequest {
    JoinRequest { instance: Some(instance.into()), may_skip_assignment: true, ..new() }
}
