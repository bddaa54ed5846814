//! The machine under a clock that the test moves. Each reply is kept under the number of the request it answers.

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

#[test]
fn a_client_that_asks_for_an_id_joins_with_it() {
    let mut bed = Bed::new();
    let token = bed.join(new());
    let asked = bed.joined(token);
    assert_eq!((asked.error, asked.generation), (Some(GroupError::MemberIdRequired), -1));
    assert_eq!(asked.member_id, "client-1");
    assert_eq!(bed.group.state(), State::Empty);
    let token = bed.join(known(&asked));
    assert!(!bed.joins.contains_key(&token), "the first rebalance waits for more members");
    assert_eq!(bed.sleep(DELAY_MS), [Expired::Join]);
    let joined = bed.joined(token);
    assert_eq!((joined.error, joined.generation, joined.leader.as_str()), (None, 1, "client-1"));
    assert_eq!((joined.protocol_type.as_deref(), joined.protocol.as_deref()), (Some("consumer"), Some("range")));
    assert_eq!(joined.members.len(), 1);
    assert_eq!((bed.group.state(), bed.records), (State::CompletingRebalance, 1));
    let token = bed.sync(&joined, &[(&joined.member_id, b"all")]);
    assert_eq!(bed.syncs[&token].assignment, "all");
    assert_eq!(bed.syncs[&token].protocol.as_deref(), Some("range"));
    assert_eq!((bed.group.state(), bed.records), (State::Stable, 2));
    assert_eq!(bed.group.subscribed(), Some(&BTreeSet::from(["t".to_owned()])));
}

#[test]
fn an_id_that_is_not_used_is_forgotten() {
    let mut bed = Bed::new();
    let token = bed.join(new());
    let asked = bed.joined(token);
    assert_eq!(bed.sleep(SESSION_MS as u64), [Expired::Pending("client-1".into())]);
    assert!(bed.group.is_empty());
    let token = bed.join(known(&asked));
    assert_eq!(bed.joined(token).error, Some(GroupError::UnknownMemberId));
}

#[test]
fn refusals_of_joins() {
    let with = |change: fn(&mut JoinRequest)| {
        let mut request = old();
        change(&mut request);
        request
    };
    let table = [
        (with(|r| r.session_timeout_ms = 5_999), GroupError::InvalidSessionTimeout),
        (with(|r| r.session_timeout_ms = 1_800_001), GroupError::InvalidSessionTimeout),
        (with(|r| r.protocol_type = "connect".into()), GroupError::InconsistentProtocol),
        (with(|r| r.protocol_type = String::new()), GroupError::InconsistentProtocol),
        (with(|r| r.protocols.clear()), GroupError::InconsistentProtocol),
        (with(|r| r.protocols = vec![protocol("sticky", b"")]), GroupError::InconsistentProtocol),
        (with(|r| r.member_id = "stranger".into()), GroupError::UnknownMemberId),
        (with(|r| (r.member_id, r.instance) = ("stranger".into(), Some("i".into()))), GroupError::UnknownMemberId),
        (with(|r| r.protocols[0].metadata = Bytes::from(vec![0; GROUP_BYTES_MAX])), GroupError::MaxSizeReached),
    ];
    for (request, error) in table {
        let (mut bed, members) = Bed::stable(2);
        let sent = request.member_id.clone();
        let token = bed.join(request);
        let reply = bed.joined(token);
        assert_eq!((reply.error, reply.generation), (Some(error), -1));
        assert_eq!(reply.member_id, sent);
        assert_eq!(bed.heartbeat(&members[1]), Ok(()), "no rebalance after {error:?}");
    }
}

#[test]
fn the_first_rebalance_waits_for_those_who_come_while_it_waits() {
    let mut bed = Bed::new();
    let first = bed.join(old());
    bed.sleep(DELAY_MS - 1);
    let second = bed.join(old());
    assert_eq!(bed.sleep(1), [Expired::Join]);
    assert!(bed.joins.is_empty(), "put off once more, since somebody came");
    assert_eq!(bed.sleep(DELAY_MS), [Expired::Join]);
    assert_eq!(bed.joined(first).members.len(), 2);
    assert_eq!(bed.joined(second).members.len(), 0, "only the leader sees the members");
    // With members coming all the time it ends after the rebalance timeout.
    let mut bed = Bed::with(GroupLimits::default());
    let first = bed.join(old());
    for _ in 0..REBALANCE_MS as u64 / 1_000 {
        assert!(!bed.joins.contains_key(&first));
        bed.sleep(1_000);
        bed.join(old());
    }
    bed.sleep(DELAY_MS);
    assert_eq!(bed.joined(first).generation, 1);
}

#[test]
fn without_delay_the_first_member_is_answered_at_once() {
    let mut bed = Bed::with(GroupLimits { initial_rebalance_delay_ms: 0, ..GroupLimits::default() });
    let token = bed.join(old());
    assert_eq!(bed.joined(token).generation, 1);
}

#[test]
fn a_new_member_of_a_stable_group_causes_one_rebalance() {
    let (mut bed, members) = Bed::stable(2);
    let third = bed.join(old());
    assert_eq!(bed.group.state(), State::PreparingRebalance);
    for member in &members {
        assert_eq!(bed.heartbeat(member), Err(GroupError::RebalanceInProgress));
    }
    let tokens: Vec<u32> = members.iter().map(|m| bed.join(known(m))).collect();
    for token in tokens.iter().chain([&third]) {
        let reply = bed.joined(*token);
        assert_eq!((reply.error, reply.generation), (None, 2));
        assert_eq!(reply.members.len(), if reply.leader == reply.member_id { 3 } else { 0 });
    }
    assert_eq!(bed.joined(tokens[0]).leader, members[0].member_id, "the leader stays");
    assert_eq!(bed.heartbeat(&members[0]), Err(GroupError::IllegalGeneration), "that was the old generation");
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let (mut bed, members) = Bed::stable(2);
    let third = bed.join(old());
    let again = bed.join(known(&members[0]));
    let mut expired = Vec::new();
    for _ in 0..REBALANCE_MS / 1_000 {
        let _ = bed.heartbeat(&members[1]); // alive, but does not join
        expired.extend(bed.sleep(1_000));
    }
    assert_eq!(expired, [Expired::Join]);
    assert_eq!(bed.joined(again).members.len(), 2);
    assert_eq!(bed.joined(third).error, None);
    assert_eq!(bed.heartbeat(&members[1]), Err(GroupError::UnknownMemberId));
}

#[test]
fn a_silent_member_is_out_after_its_session() {
    let (mut bed, members) = Bed::stable(2);
    bed.sleep(SESSION_MS as u64 - 1);
    assert_eq!(bed.heartbeat(&members[0]), Ok(()));
    assert_eq!(bed.sleep(1), [Expired::Session(members[1].member_id.as_str().into())]);
    assert_eq!(bed.heartbeat(&members[0]), Err(GroupError::RebalanceInProgress));
    assert_eq!(bed.heartbeat(&members[1]), Err(GroupError::UnknownMemberId));
    let token = bed.join(known(&members[0]));
    assert_eq!(bed.joined(token).generation, 2);
}

#[test]
fn a_parked_request_shows_that_its_member_is_alive() {
    let (mut bed, members) = Bed::stable(2);
    let parked = bed.join(known(&members[0])); // the leader wants a rebalance
    for _ in 0..5 {
        bed.sleep(SESSION_MS as u64 - 1);
        assert_eq!(bed.heartbeat(&members[1]), Err(GroupError::RebalanceInProgress));
    }
    let other = bed.join(known(&members[1]));
    assert_eq!((bed.joined(parked).error, bed.joined(other).error), (None, None));
}

#[test]
fn a_new_member_that_is_never_answered_is_dropped_after_five_minutes() {
    let mut bed = Bed::with(GroupLimits::default());
    let slow = JoinRequest { rebalance_timeout_ms: 1_000_000, ..old() };
    let first = bed.join(slow.clone());
    bed.sleep(DELAY_MS);
    let first = bed.joined(first);
    bed.sync(&first, &[]);
    let second = bed.join(slow);
    for _ in 0..NEW_MEMBER_JOIN_TIMEOUT_MS / 5_000 {
        let _ = bed.heartbeat(&first);
        bed.sleep(5_000);
    }
    assert_eq!(bed.joined(second).error, Some(GroupError::UnknownMemberId));
}

#[test]
fn syncs() {
    let (mut bed, members) = Bed::stable(2);
    let token = bed.sync(&members[1], &[]);
    assert_eq!(bed.syncs[&token].assignment, "part", "asked again in a stable group");
    let strange = JoinReply { member_id: "stranger".into(), ..members[1].clone() };
    let stale = JoinReply { generation: 0, ..members[1].clone() };
    let wrong = SyncRequest {
        member_id: members[1].member_id.clone(),
        generation: 1,
        protocol: Some("roundrobin".into()),
        ..SyncRequest::default()
    };
    for (member, error) in [(strange, GroupError::UnknownMemberId), (stale, GroupError::IllegalGeneration)] {
        let token = bed.sync(&member, &[]);
        assert_eq!(bed.syncs[&token].error, Some(error));
    }
    let mut effects = Vec::new();
    bed.group.sync(bed.now, wrong, 77, &mut effects);
    assert_eq!(effects, [Effect::Sync(77, SyncReply::failed(GroupError::InconsistentProtocol))]);
    bed.join(old());
    let token = bed.sync(&members[1], &[]);
    assert_eq!(bed.syncs[&token].error, Some(GroupError::RebalanceInProgress));
}

#[test]
fn a_rebalance_while_members_wait_for_the_leader_sends_them_back() {
    let mut bed = Bed::new();
    let tokens = [bed.join(old()), bed.join(old())];
    bed.sleep(2 * DELAY_MS);
    let replies = tokens.map(|t| bed.joined(t));
    let follower = replies.iter().find(|r| r.leader != r.member_id).unwrap();
    let waiting = bed.sync(follower, &[]);
    assert!(!bed.syncs.contains_key(&waiting));
    assert_eq!(bed.heartbeat(follower), Ok(()), "heartbeats are normal while the leader computes");
    bed.join(old());
    assert_eq!(bed.syncs[&waiting].error, Some(GroupError::RebalanceInProgress));
    assert_eq!(bed.heartbeat(follower), Err(GroupError::RebalanceInProgress));
}

#[test]
fn who_does_not_sync_is_out() {
    let mut bed = Bed::new();
    let tokens = [bed.join(old()), bed.join(old())];
    bed.sleep(2 * DELAY_MS);
    let mut replies = tokens.map(|t| bed.joined(t));
    replies.sort_by_key(|r| r.leader != r.member_id);
    bed.sync(&replies[0], &[]);
    let mut expired = Vec::new();
    for _ in 0..REBALANCE_MS / 1_000 {
        for reply in &replies {
            let _ = bed.heartbeat(reply);
        }
        expired.extend(bed.sleep(1_000));
    }
    assert_eq!(expired, [Expired::Sync]);
    assert_eq!(bed.heartbeat(&replies[0]), Err(GroupError::RebalanceInProgress));
    assert_eq!(bed.heartbeat(&replies[1]), Err(GroupError::UnknownMemberId));
}

#[test]
fn who_asks_again_gets_the_same_answer() {
    let mut bed = Bed::new();
    let tokens = [bed.join(old()), bed.join(old())];
    bed.sleep(2 * DELAY_MS);
    for token in tokens {
        let reply = bed.joined(token);
        let again = bed.join(known(&reply));
        assert_eq!(bed.joined(again), reply);
    }
    assert_eq!(bed.group.generation(), 1);
    // With other metadata it wants a rebalance.
    let (mut bed, members) = Bed::stable(2);
    let again = bed.join(known(&members[1]));
    assert_eq!(bed.joined(again).generation, 1);
    bed.join(JoinRequest { protocols: vec![protocol("range", b"other")], ..known(&members[1]) });
    assert_eq!(bed.group.state(), State::PreparingRebalance);
}

#[test]
fn leaving() {
    let (mut bed, members) = Bed::stable(3);
    assert_eq!(bed.leave("stranger", None), Err(GroupError::UnknownMemberId));
    assert_eq!(bed.leave("", None), Err(GroupError::UnknownMemberId));
    assert_eq!(bed.group.state(), State::Stable);
    assert_eq!(bed.leave(&members[0].member_id, None), Ok(()));
    assert_eq!(bed.group.state(), State::PreparingRebalance);
    let token = bed.join(known(&members[1]));
    assert_eq!(bed.leave(&members[2].member_id, None), Ok(()));
    let reply = bed.joined(token);
    assert_eq!((reply.leader, reply.members.len()), (members[1].member_id.clone(), 1));
    assert_eq!(bed.leave(&members[1].member_id, None), Ok(()));
    assert_eq!(bed.group.state(), State::Empty);
    assert_eq!((bed.group.generation(), bed.group.bytes()), (3, 0));
    assert_eq!(bed.group.durable().unwrap().phase, Phase::Empty);
    assert_eq!(bed.group.next_deadline(), None);
}

#[test]
fn the_bound_on_members() {
    let mut bed = Bed::with(GroupLimits { members_max: 2, ..GroupLimits::default() });
    let tokens: Vec<u32> = (0..3).map(|_| bed.join(old())).collect();
    assert_eq!(bed.joined(tokens[2]).error, Some(GroupError::MaxSizeReached));
    bed.sleep(2 * DELAY_MS);
    let members: Vec<JoinReply> = tokens[..2].iter().map(|t| bed.joined(*t)).collect();
    let token = bed.join(new());
    assert_eq!(bed.joined(token).error, Some(GroupError::MaxSizeReached));
    let leader = members.iter().find(|m| m.leader == m.member_id).unwrap();
    bed.sync(leader, &[]);
    bed.join(known(leader));
    assert_eq!(bed.group.state(), State::PreparingRebalance, "those who are known come back");
    let token = bed.join(known(members.iter().find(|m| m.leader != m.member_id).unwrap()));
    assert_eq!(bed.joined(token).generation, 2);
}

#[test]
fn the_protocol_that_most_prefer_and_all_support() {
    let preferring = |names: &[&str]| {
        let protocols = names.iter().map(|n| protocol(n, b"")).collect();
        JoinRequest { protocols, ..old() }
    };
    let mut bed = Bed::new();
    let first = bed.join(preferring(&["only-mine", "a", "b"]));
    bed.join(preferring(&["b", "a"]));
    bed.join(preferring(&["b", "a"]));
    bed.sleep(2 * DELAY_MS);
    assert_eq!(bed.joined(first).protocol.as_deref(), Some("b"));
    let token = bed.join(preferring(&["only-mine"]));
    assert_eq!(bed.joined(token).error, Some(GroupError::InconsistentProtocol));
}

/// A stable group of static members `a` (the leader) and `b`.
fn static_pair() -> (Bed, JoinReply, JoinReply) {
    let mut bed = Bed::new();
    let (a, b) = (bed.join(of_instance("a")), bed.join(of_instance("b")));
    bed.sleep(2 * DELAY_MS);
    let (a, b) = (bed.joined(a), bed.joined(b));
    assert_eq!((a.member_id.as_str(), a.leader.as_str()), ("a-1", "a-1"), "no id has to be asked for");
    bed.sync(&b, &[]);
    bed.sync(&a, &[("a-1", b"pa"), ("b-2", b"pb")]);
    assert_eq!(bed.group.state(), State::Stable);
    (bed, a, b)
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let (mut bed, a, b) = static_pair();
    let records = bed.records;
    let token = bed.join(of_instance("b"));
    let again = bed.joined(token);
    assert_eq!((again.error, again.generation, again.skip_assignment), (None, 1, false));
    assert_ne!(again.member_id, b.member_id);
    assert_eq!((bed.group.state(), bed.records), (State::Stable, records + 1));
    assert_eq!(bed.heartbeat(&a), Ok(()));
    let old_id = bed.group.heartbeat(bed.now, &b.member_id, Some("b"), 1);
    assert_eq!(old_id, Err(GroupError::FencedInstanceId));
    let token = bed.sync(&again, &[]);
    assert_eq!(bed.syncs[&token].assignment, "pb", "with its former assignment");
    // The leader too; it is told that there is nothing to assign.
    let token = bed.join(of_instance("a"));
    let again = bed.joined(token);
    assert_eq!((again.skip_assignment, again.members.len()), (true, 2));
    assert_eq!(again.leader, again.member_id);
    // A client that does not know of that must not believe that it leads.
    let token = bed.join(JoinRequest { may_skip_assignment: false, ..of_instance("a") });
    let last = bed.joined(token);
    assert_eq!((last.skip_assignment, last.members.len()), (false, 0));
    assert_eq!(last.leader, again.member_id);
}

#[test]
fn static_members_with_other_protocols_rebalance() {
    let (mut bed, ..) = static_pair();
    bed.join(JoinRequest { protocols: vec![protocol("roundrobin", b"")], ..of_instance("b") });
    assert_eq!(bed.group.state(), State::PreparingRebalance);
}

#[test]
fn the_older_of_two_static_processes_is_fenced_everywhere() {
    let (mut bed, a, _) = static_pair();
    let parked = bed.join(JoinRequest { member_id: a.member_id.clone(), ..of_instance("a") });
    assert!(!bed.joins.contains_key(&parked), "the leader wants a rebalance");
    bed.join(of_instance("a"));
    assert_eq!(bed.joined(parked).error, Some(GroupError::FencedInstanceId));
    let token = bed.join(JoinRequest { member_id: a.member_id.clone(), ..of_instance("a") });
    assert_eq!(bed.joined(token).error, Some(GroupError::FencedInstanceId));
    assert_eq!(bed.leave(&a.member_id, Some("a")), Err(GroupError::FencedInstanceId));
    let fenced = bed.group.check_commit(bed.now, &a.member_id, Some("a"), 1);
    assert_eq!(fenced, Err(GroupError::FencedInstanceId));
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_for_its_session() {
    let (mut bed, a, b) = static_pair();
    bed.join(JoinRequest { member_id: a.member_id.clone(), ..of_instance("a") });
    assert_eq!(bed.sleep(SESSION_MS as u64), [Expired::Session(b.member_id.as_str().into())]);
    assert_eq!((bed.group.generation(), bed.group.size()), (2, 1));
}

#[test]
fn an_administrator_removes_a_static_member_by_instance() {
    let (mut bed, ..) = static_pair();
    assert_eq!(bed.leave("", Some("c")), Err(GroupError::UnknownMemberId));
    assert_eq!(bed.leave("", Some("b")), Ok(()));
    assert_eq!(bed.group.size(), 1);
}

#[test]
fn a_static_member_that_restarts_before_the_leader_assigned_rebalances() {
    let mut bed = Bed::new();
    bed.join(of_instance("a"));
    let b = bed.join(of_instance("b"));
    bed.sleep(2 * DELAY_MS);
    let b = bed.joined(b);
    let waiting = bed.sync(&b, &[]);
    bed.join(of_instance("b"));
    assert_eq!(bed.syncs[&waiting].error, Some(GroupError::FencedInstanceId));
    assert_eq!(bed.group.state(), State::PreparingRebalance);
}

#[test]
fn a_rebalance_outlives_a_process_that_stood_still() {
    let (mut bed, members) = Bed::stable(2);
    let first = bed.join(known(&members[0]));
    bed.now.mono_ms += 10 * REBALANCE_MS as u64;
    bed.group.extend_sessions(bed.now);
    assert_eq!(bed.sleep(1_000), []);
    let second = bed.join(known(&members[1]));
    assert_eq!((bed.joined(first).error, bed.joined(second).error), (None, None));
}

#[test]
fn commits() {
    let (mut bed, members) = Bed::stable(1);
    let id = members[0].member_id.clone();
    let table = [
        (id.as_str(), None, 1, Ok(())),
        (&id, None, 0, Err(GroupError::IllegalGeneration)),
        (&id, None, -1, Err(GroupError::IllegalGeneration)),
        ("", None, -1, Err(GroupError::UnknownMemberId)),
        ("", None, 1, Err(GroupError::UnknownMemberId)),
        ("stranger", None, 1, Err(GroupError::UnknownMemberId)),
        (&id, Some("i"), 1, Err(GroupError::UnknownMemberId)),
    ];
    for (member, instance, generation, expected) in table {
        assert_eq!(bed.group.check_commit(bed.now, member, instance, generation), expected, "{member} {generation}");
    }
    // Commits keep a member alive, also while others join.
    bed.join(old());
    for _ in 0..3 {
        bed.sleep(SESSION_MS as u64 - 1);
        assert_eq!(bed.group.check_commit(bed.now, &id, None, 1), Ok(()));
    }
    let token = bed.join(known(&members[0]));
    let reply = bed.joined(token);
    let too_early = bed.group.check_commit(bed.now, &id, None, reply.generation);
    assert_eq!(too_early, Err(GroupError::RebalanceInProgress));
    let mut empty = Bed::new();
    assert_eq!(empty.group.check_commit(empty.now, "", None, -1), Ok(()));
    assert_eq!(empty.group.check_commit(empty.now, "x", None, 3), Err(GroupError::UnknownMemberId));
}

#[test]
fn deleting_offsets() {
    let (mut bed, members) = Bed::stable(1);
    assert_eq!(bed.group.check_offset_delete("t"), Err(GroupError::SubscribedToTopic));
    assert_eq!(bed.group.check_offset_delete("other"), Ok(()));
    bed.leave(&members[0].member_id, None).unwrap();
    assert_eq!(bed.group.check_offset_delete("t"), Ok(()));
    // What cannot be read may be subscribed to anything.
    let token = bed.join(JoinRequest { protocols: vec![protocol("range", b"?")], ..old() });
    bed.sleep(DELAY_MS);
    assert_eq!(bed.joined(token).error, None);
    assert_eq!(bed.group.check_offset_delete("other"), Err(GroupError::SubscribedToTopic));
}

#[test]
fn members_go_on_after_a_takeover() {
    let (bed, members) = Bed::stable(2);
    let value = GroupValue::clone(bed.group.durable().unwrap());
    let now = Now { mono_ms: 5, wall_ms: bed.now.wall_ms };
    let mut group: ClassicGroup<u32> = ClassicGroup::recover(GroupLimits::default(), now, value);
    for member in &members {
        assert_eq!(group.heartbeat(now, &member.member_id, None, 1), Ok(()));
    }
    assert_eq!(group.next_deadline(), Some(5 + SESSION_MS as u64));
    assert_eq!(group.describe()[0].0.assignment, "part");
    assert_eq!(group.bytes(), bed.group.bytes());
}

#[test]
fn a_generation_that_was_announced_survives_a_takeover() {
    let mut bed = Bed::new();
    let token = bed.join(old());
    bed.sleep(DELAY_MS);
    let joined = bed.joined(token);
    let value = GroupValue::clone(bed.group.durable().unwrap());
    bed.group = ClassicGroup::recover(GroupLimits::default(), bed.now, value);
    let token = bed.sync(&joined, &[(&joined.member_id, b"all")]);
    assert_eq!(bed.syncs[&token].assignment, "all");
    // And if nobody comes back, everybody is out at the end.
    let value = GroupValue::clone(bed.group.durable().unwrap());
    bed.group = ClassicGroup::recover(GroupLimits::default(), bed.now, value);
    bed.sleep(SESSION_MS as u64);
    assert_eq!((bed.group.state(), bed.group.generation()), (State::Empty, 2));
}
