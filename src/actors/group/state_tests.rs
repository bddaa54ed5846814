//! The coordinator without an actor: answers are kept by number, writes are committed when a test says so.

use super::super::classic::{JoinRequest, State, SyncRequest};
use super::super::offsets::Committed;
use super::super::value::{Protocol, decode_block, decode_group};
use super::*;
use crate::ids::{LeaderEpoch, Offset, TopicId};
use std::collections::HashMap;
use uuid::Uuid;

const DAY_MS: i64 = 86_400_000;

struct Bed {
    coordinator: Coordinator<u32>,
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
        let coordinator = Coordinator::recover(CoordinatorLimits::default(), (0..SHARDS).collect(), now, vec![]);
        Self { coordinator, now, next: 0, answers: HashMap::new(), stored: BTreeMap::new(), begun: None }
    }

    fn call(&mut self, call: Call) -> u32 {
        self.next += 1;
        self.coordinator.call(self.now, call, &self.next.to_string(), self.next);
        self.collect();
        self.next
    }

    fn collect(&mut self) {
        for (token, outcome) in self.coordinator.take_answers() {
            assert!(self.answers.insert(token, outcome).is_none(), "answered twice");
        }
    }

    fn begin(&mut self) {
        self.now.mono_ms += 50;
        self.begun = self.coordinator.begin_write(self.now);
    }

    fn commit(&mut self) {
        for (key, value) in self.begun.take().into_iter().flatten() {
            match value {
                Some(value) => drop(self.stored.insert(key, value)),
                None => drop(self.stored.remove(&key)),
            }
        }
        self.coordinator.write_committed();
        self.collect();
    }

    /// Makes everything durable.
    fn settle(&mut self) {
        while !self.coordinator.is_clean() {
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
            self.coordinator.tick(self.now, false);
            self.collect();
        }
    }

    /// The process dies; another one takes over what is stored.
    fn take_over(&mut self) {
        let loaded = self.stored.iter().map(|(key, value)| match &key.part {
            Part::State => Loaded::Group(key.group.clone(), decode_group(value).unwrap()),
            Part::Offsets(block) => Loaded::Block(key.group.clone(), block.clone(), decode_block(value).unwrap()),
        });
        let limits = CoordinatorLimits::default();
        self.coordinator = Coordinator::recover(limits, (0..SHARDS).collect(), self.now, loaded.collect());
        self.begun = None;
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
        assert!(bed.coordinator.is_clean());
    }
}

#[test]
fn what_it_is_not_asked_to_coordinate() {
    let mut bed = Bed::new();
    bed.coordinator.shards = (0..SHARDS).filter(|s| *s != shard_of("g")).collect();
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
    assert!(bed.coordinator.is_empty(), "nothing is remembered of questions");
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
    assert!((35 * 30_000..36 * 30_200).contains(&bed.coordinator.bytes), "{}", bed.coordinator.bytes);
    bed.sleep(11_000);
    assert!(bed.coordinator.is_empty() && bed.coordinator.bytes == 0);
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
    assert!(bed.stored.is_empty() && bed.coordinator.is_empty());
    assert_eq!(bed.coordinator.bytes, 0);
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
    bed.coordinator.expire_offsets(bed.now);
    assert_eq!(bed.fetch("g"), [(0, 1)], "in use");
    bed.now_answer(Call::Leave("g".into(), vec![(member.member_id, None)])).unwrap();
    bed.settle();
    bed.take_over(); // which does not count anew
    bed.now.wall_ms += 7 * DAY_MS - 1;
    bed.coordinator.expire_offsets(bed.now);
    assert_eq!(bed.fetch("g"), [(0, 1)]);
    bed.now.wall_ms += 1;
    bed.coordinator.expire_offsets(bed.now);
    bed.settle();
    assert!(bed.stored.is_empty() && bed.coordinator.is_empty(), "the group goes with its offsets");
}

#[test]
fn offsets_of_deleted_topics_are_forgotten() {
    let mut bed = Bed::new();
    bed.now_answer(commit(&bed, "g", &nobody(), 0, 1)).unwrap();
    assert_eq!(bed.coordinator.topics(), BTreeSet::from([("t".into(), topic(1))]));
    bed.coordinator.forget_topics(bed.now, &BTreeSet::from([topic(2)]));
    assert_eq!(bed.fetch("g"), [(0, 1)]);
    bed.coordinator.forget_topics(bed.now, &BTreeSet::from([topic(1)]));
    bed.settle();
    assert!(bed.stored.is_empty());
}

#[test]
fn silence_means_nothing_while_the_broker_is_suspended_or_stood_still() {
    let mut bed = Bed::new();
    let member = bed.member("g");
    for _ in 0..30 {
        bed.now.mono_ms += 1_000;
        bed.coordinator.tick(bed.now, true);
    }
    bed.sleep(9_000);
    assert!(bed.now_answer(Call::Heartbeat("g".into(), member.clone())).is_ok());
    bed.now.mono_ms += 100_000; // SIGSTOP, or a machine that was paused
    bed.coordinator.tick(bed.now, false);
    assert!(bed.now_answer(Call::Heartbeat("g".into(), member)).is_ok());
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
    bed.coordinator.fail_all(GroupError::NotCoordinator);
    bed.collect();
    assert!(matches!(bed.answer(joining), Ok(Answer::Join(r)) if r.error == Some(GroupError::NotCoordinator)));
    assert_eq!(bed.answer(committing).map(drop), Err(GroupError::NotCoordinator));
}
