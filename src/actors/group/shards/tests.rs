//! The shards and their groups without actors: messages are delivered at once, answers are kept by number, writes are
//! committed when a test says so.

use super::super::call::{Caller, FetchTopic};
use super::super::classic::{JoinRequest, State, SyncRequest};
use super::super::limits::{Loaded, SHARDS};
use super::super::offsets::{Committed, OffsetToCommit};
use super::super::state::{Env, Group, Out};
use super::super::value::{Protocol, decode_block, decode_group};
use super::*;
use crate::ids::{LeaderEpoch, Offset, PartitionIndex, TopicId};
use crate::metadata::image::ClusterImage;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

const DAY_MS: i64 = 86_400_000;

struct Running {
    group: Group<u32>,
    incarnation: Incarnation,
    handled: u64,
}

struct Bed {
    shards: Shards<u32>,
    groups: BTreeMap<GroupId, Running>,
    env: Env,
    now: Now,
    next: u32,
    answers: HashMap<u32, Outcome>,
    /// The metadata store.
    stored: BTreeMap<WriteKey, Bytes>,
    begun: Option<Vec<(WriteKey, Option<Bytes>)>>,
}

impl Bed {
    fn new() -> Self {
        let now = Now { mono_ms: 10_000, wall_ms: 1_000_000 };
        let limits = CoordinatorLimits::default();
        let env = Env { limits, topics: Arc::new(ClusterImage::default()), version: 1 };
        let mut bed = Self {
            shards: Shards::new(limits),
            groups: BTreeMap::new(),
            env,
            now,
            next: 0,
            answers: HashMap::new(),
            stored: BTreeMap::new(),
            begun: None,
        };
        bed.shards.serve((0..SHARDS).collect());
        bed
    }

    fn call(&mut self, call: Call) -> u32 {
        self.next += 1;
        let (admission, reply) = self.shards.admit(self.now, &call, &*self.env.topics, self.next);
        let id = match admission {
            Admission::Answered => None,
            Admission::Forward(id) => Some(id),
            Admission::Create(id) => {
                let incarnation = self.shards.create(&id);
                let group = Group::new(id.clone(), &self.env.limits, self.now);
                self.groups.insert(id.clone(), Running { group, incarnation, handled: 0 });
                Some(id)
            }
        };
        if let (Some(id), Some(reply)) = (id, reply) {
            let (now, unique) = (self.now, self.next.to_string());
            self.with(&id, |running, env, out| {
                running.handled += 1;
                running.group.call(now, call, &unique, reply, env, out);
            });
        }
        self.collect();
        self.next
    }

    /// A group does something, and what comes out of it is delivered.
    fn with<T>(&mut self, id: &GroupId, act: impl FnOnce(&mut Running, &Env, &mut Out<u32>) -> T) -> T {
        let (running, mut out) = (self.groups.get_mut(id).unwrap(), Out::default());
        let result = act(running, &self.env, &mut out);
        let report = running.group.report();
        let Running { incarnation, handled, .. } = *running;
        for (token, outcome) in out.answers {
            assert!(self.answers.insert(token, outcome).is_none(), "answered twice");
        }
        let changed = Changed { incarnation, writes: out.writes, waiting: out.waiting, report, handled };
        if self.shards.changed(self.now, id, changed) {
            self.groups.remove(id);
        }
        self.collect();
        result
    }

    fn collect(&mut self) {
        for (token, outcome) in self.shards.take_answers() {
            assert!(self.answers.insert(token, outcome).is_none(), "answered twice");
        }
        assert_eq!(self.shards.len(), self.groups.len());
    }

    fn begin(&mut self) {
        self.now.mono_ms += 50;
        self.begun = self.shards.begin_write(self.now);
    }

    fn commit(&mut self) {
        for (key, value) in self.begun.take().into_iter().flatten() {
            match value {
                Some(value) => drop(self.stored.insert(key, value)),
                None => drop(self.stored.remove(&key)),
            }
        }
        self.shards.write_committed();
        self.collect();
    }

    /// Makes everything durable.
    fn settle(&mut self) {
        while !self.shards.is_clean() {
            self.begin();
            self.commit();
        }
    }

    fn sleep(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while self.now.mono_ms < end {
            let step = (end - self.now.mono_ms).min(1_000);
            self.now.mono_ms += step;
            self.now.wall_ms += step as i64;
            self.shards.tick(self.now);
            self.collect();
            let now = self.now;
            for id in self.groups.keys().cloned().collect::<Vec<_>>() {
                self.with(&id, |running, env, out| running.group.expire(now, env, out));
            }
        }
    }

    fn sweep(&mut self) -> BTreeSet<(Arc<str>, TopicId)> {
        let (now, ids) = (self.now, self.groups.keys().cloned().collect::<Vec<_>>());
        ids.iter().flat_map(|id| self.with(id, |running, env, out| running.group.sweep(now, env, out))).collect()
    }

    fn forget_topics(&mut self, gone: &BTreeSet<TopicId>) {
        for id in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.with(&id, |running, _, out| running.group.forget_topics(gone, out));
        }
    }

    fn loaded(&self) -> BTreeMap<GroupId, Vec<Loaded>> {
        let mut loaded: BTreeMap<GroupId, Vec<Loaded>> = BTreeMap::new();
        for (key, value) in &self.stored {
            loaded.entry(key.group.clone()).or_default().push(match &key.part {
                Part::State => Loaded::Group(decode_group(value).unwrap()),
                Part::Offsets(block) => Loaded::Block(block.clone(), decode_block(value).unwrap()),
            });
        }
        loaded
    }

    /// The process dies; another one takes over what is stored.
    fn take_over(&mut self) {
        self.shards = Shards::new(self.env.limits);
        self.groups.clear();
        self.begun = None;
        for id in self.loaded().into_keys() {
            self.recover(&id);
        }
        self.shards.serve((0..SHARDS).collect());
    }

    /// The group's actor starts with what is stored.
    fn recover(&mut self, id: &GroupId) {
        let stored = self.loaded().remove(id).unwrap_or_default();
        let group = Group::recover(id.clone(), &self.env.limits, self.now, stored);
        let incarnation = self.shards.add(id, group.report());
        self.groups.insert(id.clone(), Running { group, incarnation, handled: 0 });
    }

    /// The answer, which must be there.
    fn answer(&self, token: u32) -> Outcome {
        self.answers.get(&token).cloned().unwrap_or_else(|| panic!("call {token} is not answered"))
    }

    fn now_answer(&mut self, call: Call) -> Outcome {
        let token = self.call(call);
        self.settle();
        self.answer(token)
    }

    /// A stable group with one member.
    fn member(&mut self, group: &str) -> Caller {
        let token = self.call(Call::Join(group.into(), Box::new(join())));
        self.sleep(3_000);
        self.settle();
        let Ok(Answer::Join(joined)) = self.answer(token) else { panic!("not joined") };
        let caller = Caller {
            member_id: joined.member_id.clone(),
            instance: None,
            generation: joined.generation,
            knows_epochs: true,
        };
        let sync = SyncRequest {
            member_id: joined.member_id.clone(),
            generation: joined.generation,
            assignments: vec![(joined.member_id, Bytes::from_static(b"all"))],
            ..SyncRequest::default()
        };
        let token = self.call(Call::Sync(group.into(), sync));
        self.settle();
        assert!(matches!(self.answer(token), Ok(Answer::Sync(r)) if r.assignment == "all"));
        caller
    }

    fn fetch(&mut self, group: &str) -> Vec<(i32, i64)> {
        let Ok(Answer::Fetched(fetched)) = self.now_answer(Call::Fetch(group.into(), None, None)) else { panic!() };
        fetched.into_iter().map(|f| (f.partition.0, f.committed.unwrap().offset.0)).collect()
    }

    fn state(&mut self, group: &str) -> Result<State, GroupError> {
        match self.now_answer(Call::Describe(group.into())) {
            Ok(Answer::Described(d)) => Ok(d.state),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    }
}

fn join() -> JoinRequest {
    JoinRequest {
        client_id: "c".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t") }],
        ..JoinRequest::default()
    }
}

fn topic(n: u128) -> TopicId {
    TopicId(Uuid::from_u128(n))
}

fn commit(bed: &Bed, group: &str, caller: &Caller, partition: i32, offset: i64) -> Call {
    let committed = Committed {
        offset: Offset(offset),
        leader_epoch: LeaderEpoch(-1),
        metadata: String::new(),
        commit_ms: bed.now.wall_ms,
        expire_ms: None,
    };
    let partition = PartitionIndex(partition);
    let offset = OffsetToCommit { topic: "t".into(), topic_id: topic(1), partition, committed };
    Call::Commit(group.into(), caller.clone(), vec![offset])
}

fn nobody() -> Caller {
    Caller { generation: -1, ..Caller::default() }
}

#[test]
fn shards_are_those_of_kafka() {
    // Java: Math.abs("…".hashCode()) % 50; the last one has the hash Integer.MIN_VALUE.
    let table = [("", 0), ("a", 47), ("console-consumer-1", 24), ("my-group", 12), ("polygenelubricants", 0)];
    for (group, shard) in table {
        assert_eq!(shard_of(group), shard, "{group}");
    }
    let spread: BTreeSet<u32> = (0..2_000).map(|n| shard_of(&format!("group-{n}"))).collect();
    assert_eq!(spread.len(), SHARDS as usize);
}

#[test]
fn a_commit_is_answered_when_it_is_durable() {
    let mut bed = Bed::new();
    let first = bed.call(commit(&bed, "g", &nobody(), 0, 5));
    assert!(!bed.answers.contains_key(&first));
    bed.begin();
    let second = bed.call(commit(&bed, "g", &nobody(), 1, 6));
    let fetch = bed.call(Call::Fetch("g".into(), None, None));
    bed.commit();
    assert!(matches!(bed.answer(first), Ok(Answer::Committed(rows)) if rows == [Ok(())]));
    assert!(!bed.answers.contains_key(&second) && !bed.answers.contains_key(&fetch), "not yet");
    bed.settle();
    assert!(bed.answer(second).is_ok() && bed.answer(fetch).is_ok());
    bed.take_over();
    assert_eq!(bed.fetch("g"), [(0, 5), (1, 6)]);
    assert_eq!(bed.state("g"), Ok(State::Empty));
}

#[test]
fn what_was_not_durable_is_gone_after_a_takeover_and_nobody_heard_of_it() {
    let mut bed = Bed::new();
    let token = bed.call(commit(&bed, "g", &nobody(), 0, 5));
    bed.settle();
    assert!(bed.answer(token).is_ok());
    let token = bed.call(commit(&bed, "g", &nobody(), 0, 9));
    bed.begin();
    bed.take_over();
    assert!(!bed.answers.contains_key(&token));
    assert_eq!(bed.fetch("g"), [(0, 5)]);
}

#[test]
fn who_may_commit() {
    let mut bed = Bed::new();
    let member = bed.member("g");
    let stranger = Caller { member_id: "x".into(), ..member.clone() };
    let stale = Caller { generation: 0, ..member.clone() };
    let table = [
        ("g", member, Ok(())),
        ("g", stranger.clone(), Err(GroupError::UnknownMemberId)),
        ("g", stale, Err(GroupError::IllegalGeneration)),
        ("g", nobody(), Err(GroupError::UnknownMemberId)),
        ("other", nobody(), Ok(())),
        ("unknown", stranger, Err(GroupError::GroupIdNotFound)),
        ("", nobody(), Ok(())),
    ];
    for (group, caller, expected) in table {
        let outcome = bed.now_answer(commit(&bed, group, &caller, 0, 1));
        assert_eq!(outcome.map(drop), expected, "{group:?} {caller:?}");
    }
    let too_long = "x".repeat(GROUP_ID_LEN_MAX + 1);
    let outcome = bed.now_answer(commit(&bed, &too_long, &nobody(), 0, 1));
    assert_eq!(outcome.map(drop), Err(GroupError::InvalidGroupId));
}

#[test]
fn a_member_goes_on_after_a_takeover_without_a_rebalance() {
    let mut bed = Bed::new();
    let member = bed.member("g");
    bed.now_answer(commit(&bed, "g", &member, 3, 7)).unwrap();
    bed.take_over();
    assert!(bed.now_answer(Call::Heartbeat("g".into(), member.clone())).is_ok());
    bed.now_answer(commit(&bed, "g", &member, 3, 8)).unwrap();
    assert_eq!(bed.fetch("g"), [(3, 8)]);
    assert_eq!(bed.state("g"), Ok(State::Stable));
    // And expires like any other if it does not.
    bed.take_over();
    bed.sleep(10_000);
    bed.settle();
    assert_eq!(bed.state("g"), Ok(State::Empty));
}

#[test]
fn heartbeats_write_nothing() {
    let mut bed = Bed::new();
    let member = bed.member("g");
    for _ in 0..100 {
        bed.sleep(3_000);
        assert!(bed.now_answer(Call::Heartbeat("g".into(), member.clone())).is_ok());
        assert!(bed.shards.is_clean());
    }
}

#[test]
fn what_it_is_not_asked_to_coordinate() {
    let mut bed = Bed::new();
    assert!(bed.shards.stop_serving(&BTreeSet::from([shard_of("g")])).is_empty());
    let outcome = bed.now_answer(commit(&bed, "g", &nobody(), 0, 1));
    assert_eq!(outcome.map(drop), Err(GroupError::NotCoordinator));
    let Ok(Answer::Join(reply)) = bed.now_answer(Call::Join("g".into(), Box::new(join()))) else { panic!() };
    assert_eq!(reply.error, Some(GroupError::NotCoordinator));
    for call in [Call::Describe("g".into()), Call::Delete("g".into()), Call::Heartbeat("g".into(), nobody())] {
        assert_eq!(bed.now_answer(call).map(drop), Err(GroupError::NotCoordinator));
    }
}

#[test]
fn unknown_groups() {
    let mut bed = Bed::new();
    assert_eq!(bed.fetch("g"), []);
    let asked = FetchTopic { topic: "t".into(), id: topic(1), partitions: vec![PartitionIndex(4)] };
    let Ok(Answer::Fetched(rows)) = bed.now_answer(Call::Fetch("g".into(), None, Some(vec![asked]))) else { panic!() };
    assert_eq!((rows.len(), &rows[0].committed), (1, &None));
    assert_eq!(bed.state("g"), Err(GroupError::GroupIdNotFound));
    assert_eq!(bed.now_answer(Call::Delete("g".into())).map(drop), Err(GroupError::GroupIdNotFound));
    let leave = Call::Leave("g".into(), vec![("m".into(), None)]);
    let Ok(Answer::Left(left)) = bed.now_answer(leave) else { panic!() };
    assert_eq!(left, [Err(GroupError::UnknownMemberId)]);
    let heartbeat = bed.now_answer(Call::Heartbeat("g".into(), nobody()));
    assert_eq!(heartbeat.map(drop), Err(GroupError::UnknownMemberId));
    let deletion = bed.now_answer(Call::DeleteOffsets("g".into(), vec![]));
    assert_eq!(deletion.map(drop), Err(GroupError::GroupIdNotFound));
    let known = JoinRequest { member_id: "m".into(), ..join() };
    let Ok(Answer::Join(reply)) = bed.now_answer(Call::Join("g".into(), Box::new(known))) else { panic!() };
    assert_eq!(reply.error, Some(GroupError::UnknownMemberId));
    assert!(bed.shards.is_empty(), "nothing is remembered of questions");
}

#[test]
fn the_last_to_leave_hears_of_it_when_it_is_durable() {
    let mut bed = Bed::new();
    let member = bed.member("g");
    let leave = bed.call(Call::Leave("g".into(), vec![(member.member_id, None)]));
    assert!(!bed.answers.contains_key(&leave), "a successor would still know the member");
    bed.settle();
    assert!(bed.answer(leave).is_ok());
    bed.take_over();
    assert_eq!(bed.state("g"), Ok(State::Empty));
}

#[test]
fn member_ids_that_nobody_uses_are_bounded_in_bytes() {
    let mut bed = Bed::new();
    let mut given = 0;
    for _ in 0..100 {
        let ask = JoinRequest { client_id: "c".repeat(30_000), asks_for_id: true, ..join() };
        let Ok(Answer::Join(reply)) = bed.now_answer(Call::Join("g".into(), Box::new(ask))) else { panic!() };
        match reply.error {
            Some(GroupError::MemberIdRequired) => given += 1,
            Some(GroupError::MaxSizeReached) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(given, 35, "a megabyte of names");
    assert!((35 * 30_000..36 * 30_200).contains(&bed.shards.bytes), "{}", bed.shards.bytes);
    bed.sleep(11_000);
    assert!(bed.shards.is_empty() && bed.shards.bytes == 0);
}

#[test]
fn deleting_a_group() {
    let mut bed = Bed::new();
    let member = bed.member("g");
    bed.now_answer(commit(&bed, "g", &member, 0, 1)).unwrap();
    bed.now_answer(commit(&bed, "g", &member, 64, 1)).unwrap();
    assert_eq!(bed.stored.len(), 3);
    assert_eq!(bed.now_answer(Call::Delete("g".into())).map(drop), Err(GroupError::NonEmptyGroup));
    bed.now_answer(Call::Leave("g".into(), vec![(member.member_id, None)])).unwrap();
    bed.settle();
    assert_eq!(bed.state("g"), Ok(State::Empty));
    assert!(bed.now_answer(Call::Delete("g".into())).is_ok());
    assert!(bed.stored.is_empty() && bed.shards.is_empty());
    assert_eq!(bed.shards.bytes, 0);
    assert_eq!(bed.state("g"), Err(GroupError::GroupIdNotFound));
}

#[test]
fn deleting_offsets() {
    let mut bed = Bed::new();
    let member = bed.member("g"); // subscribed to t
    bed.now_answer(commit(&bed, "g", &member, 0, 1)).unwrap();
    let call = || Call::DeleteOffsets("g".into(), vec![("t".into(), vec![PartitionIndex(0)]), ("u".into(), vec![])]);
    let Ok(Answer::OffsetsDeleted(rows)) = bed.now_answer(call()) else { panic!() };
    assert_eq!(rows, [Err(GroupError::SubscribedToTopic), Ok(())]);
    assert_eq!(bed.fetch("g"), [(0, 1)]);
    bed.now_answer(Call::Leave("g".into(), vec![(member.member_id, None)])).unwrap();
    let Ok(Answer::OffsetsDeleted(rows)) = bed.now_answer(call()) else { panic!() };
    assert_eq!(rows, [Ok(()), Ok(())]);
    assert_eq!(bed.fetch("g"), []);
}

#[test]
fn retention_counts_from_when_the_group_became_empty() {
    let mut bed = Bed::new();
    let member = bed.member("g");
    bed.now_answer(commit(&bed, "g", &member, 0, 1)).unwrap();
    bed.now.wall_ms += 30 * DAY_MS;
    bed.sweep();
    assert_eq!(bed.fetch("g"), [(0, 1)], "in use");
    bed.now_answer(Call::Leave("g".into(), vec![(member.member_id, None)])).unwrap();
    bed.settle();
    bed.take_over(); // which does not count anew
    bed.now.wall_ms += 7 * DAY_MS - 1;
    bed.sweep();
    assert_eq!(bed.fetch("g"), [(0, 1)]);
    bed.now.wall_ms += 1;
    bed.sweep();
    bed.settle();
    assert!(bed.stored.is_empty() && bed.shards.is_empty(), "the group goes with its offsets");
}

#[test]
fn offsets_of_deleted_topics_are_forgotten() {
    let mut bed = Bed::new();
    bed.now_answer(commit(&bed, "g", &nobody(), 0, 1)).unwrap();
    assert_eq!(bed.sweep(), BTreeSet::from([("t".into(), topic(1))]), "the image does not have it");
    bed.forget_topics(&BTreeSet::from([topic(2)]));
    assert_eq!(bed.fetch("g"), [(0, 1)]);
    bed.forget_topics(&BTreeSet::from([topic(1)]));
    bed.settle();
    assert!(bed.stored.is_empty());
}

#[test]
fn silence_means_nothing_after_the_process_stood_still() {
    let mut bed = Bed::new();
    let member = bed.member("g");
    bed.now.mono_ms += 100_000; // SIGSTOP, or a machine that was paused
    let now = bed.now;
    bed.with(&"g".into(), |running, env, out| {
        running.group.extend_sessions(now, env);
        running.group.expire(now, env, out);
    });
    assert!(bed.now_answer(Call::Heartbeat("g".into(), member)).is_ok());
    bed.sleep(10_000);
    assert_eq!(bed.state("g"), Ok(State::Empty), "and not any longer than that");
}

#[test]
fn a_store_that_does_not_answer_fails_those_who_wait_and_is_tried_all_the_same() {
    let mut bed = Bed::new();
    let token = bed.call(commit(&bed, "g", &nobody(), 0, 5));
    bed.begin();
    bed.sleep(DURABLE_WAIT_MS_MAX + 1_000);
    assert_eq!(bed.answer(token).map(drop), Err(GroupError::NotAvailable));
    bed.commit();
    assert_eq!(bed.fetch("g"), [(0, 5)]);
}

#[test]
fn a_coordinator_that_stops_answers_everybody() {
    let mut bed = Bed::new();
    let joining = bed.call(Call::Join("g".into(), Box::new(join())));
    let committing = bed.call(commit(&bed, "other", &nobody(), 0, 5));
    bed.with(&"g".into(), |running, _, out| running.group.fail_parked(GroupError::NotCoordinator, out));
    bed.groups.clear();
    assert_eq!(bed.shards.lose_all(GroupError::NotCoordinator).len(), 2);
    bed.collect();
    assert!(matches!(bed.answer(joining), Ok(Answer::Join(r)) if r.error == Some(GroupError::NotCoordinator)));
    assert_eq!(bed.answer(committing).map(drop), Err(GroupError::NotCoordinator));
    assert_eq!(bed.now_answer(Call::Describe("g".into())).map(drop), Err(GroupError::NotCoordinator));
}

#[test]
fn a_group_that_failed_comes_back_alone_with_what_was_durable() {
    let mut bed = Bed::new();
    let (member, other) = (bed.member("g"), bed.member("other"));
    bed.now_answer(commit(&bed, "g", &member, 0, 5)).unwrap();
    // What it has changed is written all the same; who waits for it hears when it is.
    let waiting = bed.call(commit(&bed, "g", &member, 0, 6));
    let former = bed.groups.remove("g").unwrap().incarnation;
    assert!(!bed.shards.is_group_settled(&"g".into()));
    bed.groups.insert(
        "g".into(),
        Running { group: Group::new("g".into(), &bed.env.limits, bed.now), incarnation: 0, handled: 0 },
    );
    bed.settle();
    assert!(bed.answer(waiting).is_ok() && bed.shards.is_group_settled(&"g".into()));
    bed.recover(&"g".into());
    assert!(bed.shards.incarnation("g").unwrap() > former);
    assert!(bed.now_answer(Call::Heartbeat("g".into(), member)).is_ok(), "no rebalance");
    assert!(bed.now_answer(Call::Heartbeat("other".into(), other)).is_ok());
    assert_eq!(bed.fetch("g"), [(0, 6)]);
}

#[test]
fn what_a_former_incarnation_says_counts_for_nothing() {
    let mut bed = Bed::new();
    bed.now_answer(commit(&bed, "g", &nobody(), 0, 5)).unwrap();
    let incarnation = bed.groups["g"].incarnation;
    bed.recover(&"g".into());
    let report = bed.groups["g"].group.report();
    let writes = BTreeMap::from([(Part::State, Some(Bytes::from_static(b"of the past")))]);
    let waiting = vec![(77, Ok(Answer::Done), Until::All)];
    let late = Changed { incarnation, writes, waiting, report, handled: 9 };
    assert!(!bed.shards.changed(bed.now, &"g".into(), late));
    bed.collect();
    assert_eq!(bed.answer(77).map(drop), Err(GroupError::NotCoordinator));
    assert!(bed.shards.is_clean());
}

#[test]
fn a_group_is_not_given_up_while_a_call_is_on_its_way_to_it() {
    let mut bed = Bed::new();
    bed.now_answer(commit(&bed, "g", &nobody(), 0, 5)).unwrap();
    let (admission, _) = bed.shards.admit(bed.now, &Call::Describe("g".into()), &*bed.env.topics, 90);
    assert_eq!(admission, Admission::Forward("g".into()));
    let deletion = bed.call(Call::Delete("g".into()));
    bed.settle();
    assert!(bed.answer(deletion).is_ok() && !bed.shards.is_empty());
    bed.with(&"g".into(), |running, _, _| running.handled += 1);
    assert!(bed.shards.is_empty() && bed.groups.is_empty());
}

#[test]
fn a_group_that_cannot_be_read_is_left_alone() {
    let mut bed = Bed::new();
    bed.shards.add_damaged(&"g".into());
    for call in [Call::Describe("g".into()), commit(&bed, "g", &nobody(), 0, 1), Call::Fetch("g".into(), None, None)] {
        bed.next += 1;
        let (admission, _) = bed.shards.admit(bed.now, &call, &*bed.env.topics, bed.next);
        assert_eq!(admission, Admission::Answered);
        let answers = bed.shards.take_answers();
        assert!(matches!(&answers[..], [(_, Err(GroupError::NotAvailable))]), "{answers:?}");
    }
    assert!(bed.shards.is_clean());
}

#[test]
fn shards_that_should_be_anothers_go_before_others_are_taken() {
    let (me, other) = (BrokerId(1), BrokerId(2));
    let even = |shard: u32| Some(if shard.is_multiple_of(2) { me } else { other });
    let all_free = |_| true;
    let mine: BTreeSet<u32> = (0..SHARDS).filter(|shard| shard.is_multiple_of(2)).collect();
    assert_eq!(to_move(&BTreeSet::from([0, 1, 3]), me, even, all_free), ToMove::Away(BTreeSet::from([1, 3])));
    let missing = mine.iter().copied().filter(|shard| *shard != 0).collect();
    assert_eq!(to_move(&BTreeSet::from([0]), me, even, all_free), ToMove::Here(missing));
    assert_eq!(to_move(&mine, me, even, all_free), ToMove::Nothing);
    assert_eq!(to_move(&BTreeSet::from([0]), me, even, |_| false), ToMove::Nothing, "others have them still");
    // Without anybody who can take it a shard stays where it is, and whoever looks takes what is free.
    let nobody = |_| None;
    assert_eq!(to_move(&(0..SHARDS).collect(), me, nobody, all_free), ToMove::Nothing);
    assert_eq!(to_move(&BTreeSet::from([7]), me, nobody, |shard| shard == 9), ToMove::Here(BTreeSet::from([9])));
}
