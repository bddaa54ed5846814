//! The machine with a clock and topics that only the tests move.

use super::super::call::Caller;
use super::super::classic::{ClassicGroup, Effect, GroupLimits, JoinRequest, State, SyncRequest};
use super::super::value::{GroupValue, MemberValue, Protocol};
use super::value::{Assignment, partitions};
use super::*;
use crate::ids::{PartitionIndex, TopicId};
use bytes::Bytes;
use uuid::Uuid;

/// Topics of a test: the id is made of the name's first 15 bytes and a generation.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    topics: BTreeMap<Arc<str>, (TopicId, i32)>,
    pub(super) version: u64,
}

impl Shelf {
    pub(super) fn set(&mut self, name: &str, generation: u8, partitions: i32) {
        let mut id = [0; 16];
        name.bytes().take(15).zip(&mut id).for_each(|(byte, place)| *place = byte);
        id[15] = generation;
        let id = TopicId(Uuid::from_bytes(id));
        self.topics.insert(name.into(), (id, partitions));
        self.version += 1;
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.topics.remove(name);
        self.version += 1;
    }

    pub(super) fn at(&self) -> TopicsAt<'_> {
        TopicsAt { topics: self, version: self.version }
    }

    /// Every partition, in order.
    pub(super) fn partitions(&self) -> Vec<PartitionKey> {
        let of = |(topic, count): (TopicId, i32)| {
            (0..count).map(move |p| PartitionKey { topic, partition: PartitionIndex(p) })
        };
        let mut all: Vec<PartitionKey> = self.topics.values().copied().flat_map(of).collect();
        all.sort_unstable();
        all
    }
}

impl Topics for Shelf {
    fn find(&self, name: &str) -> Option<(TopicId, i32)> {
        self.topics.get(name).copied()
    }

    fn by_id(&self, id: TopicId) -> Option<(Arc<str>, i32)> {
        self.topics.iter().find(|(_, t)| t.0 == id).map(|(name, t)| (name.clone(), t.1))
    }

    fn all(&self) -> Vec<(Arc<str>, TopicId)> {
        self.topics.iter().map(|(name, t)| (name.clone(), t.0)).collect()
    }
}

struct Bed {
    group: ConsumerGroup,
    limits: ConsumerLimits,
    topics: Shelf,
    now: Now,
}

/// A member as its client sees it.
#[derive(Clone, Default)]
struct Client {
    id: String,
    instance: Option<String>,
    epoch: i32,
    owned: Assignment,
}

impl Bed {
    fn new(topics: &[(&str, i32)]) -> Self {
        let now = Now { mono_ms: 1_000, wall_ms: 5_000 };
        let mut shelf = Shelf::default();
        topics.iter().for_each(|(name, partitions)| shelf.set(name, 0, *partitions));
        Self { group: ConsumerGroup::new(now, 0), limits: ConsumerLimits::default(), topics: shelf, now }
    }

    fn ask(&mut self, request: HeartbeatRequest) -> Result<HeartbeatReply, GroupError> {
        heartbeat::check(&self.limits, &request)?;
        self.group.heartbeat(self.now, &self.limits, self.topics.at(), request)
    }

    fn join_as(&mut self, id: &str, instance: Option<&str>, names: &[&str]) -> Result<Client, GroupError> {
        let mut client = Client { id: id.into(), instance: instance.map(Into::into), ..Client::default() };
        let reply = self.ask(HeartbeatRequest { names: set(names), ..join(&client) })?;
        client.take(reply);
        Ok(client)
    }

    fn join(&mut self, id: &str, names: &[&str]) -> Client {
        self.join_as(id, None, names).unwrap()
    }

    /// A heartbeat that reports what the client holds; the client does at once what it is told.
    fn beat(&mut self, client: &mut Client) {
        let reply = self.ask(going_on(client)).unwrap();
        client.take(reply);
    }

    /// Heartbeats of everybody until nothing moves any more.
    fn settle(&mut self, clients: &mut [&mut Client]) {
        for _ in 0..4 {
            clients.iter_mut().for_each(|client| self.beat(client));
        }
        assert_eq!(self.group.state(), ConsumerState::Stable);
    }

    fn sleep(&mut self, ms: u64) -> Vec<String> {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms as i64;
        self.group.expire(self.now, self.topics.at()).iter().map(ToString::to_string).collect()
    }

    fn take_over(&mut self) {
        let value = self.group.durable();
        value.check().unwrap();
        self.now.mono_ms = 50; // another process
        self.group = ConsumerGroup::recover(&self.limits, self.now, value);
    }

    fn commit(&mut self, client: &Client, epoch: i32) -> Result<(), GroupError> {
        let caller = Caller { member_id: client.id.clone(), instance: None, generation: epoch, knows_epochs: true };
        self.group.check_commit(self.now, &self.limits, &caller, true)
    }
}

impl Client {
    fn take(&mut self, reply: HeartbeatReply) {
        self.epoch = reply.epoch;
        self.owned = reply.assignment.unwrap_or(std::mem::take(&mut self.owned));
    }

    fn count(&self) -> usize {
        partitions(&self.owned).count()
    }
}

fn set(names: &[&str]) -> Option<BTreeSet<String>> {
    Some(names.iter().map(|n| (*n).to_owned()).collect())
}

fn join(client: &Client) -> HeartbeatRequest {
    HeartbeatRequest {
        member_id: client.id.clone(),
        instance: client.instance.clone(),
        rebalance_timeout_ms: 10_000,
        owned: Some(Assignment::new()),
        client_id: "c".into(),
        client_host: "/h".into(),
        brings_id: true,
        ..HeartbeatRequest::default()
    }
}

fn going_on(client: &Client) -> HeartbeatRequest {
    let owned = Some(client.owned.clone());
    HeartbeatRequest { epoch: client.epoch, rebalance_timeout_ms: -1, owned, ..join(client) }
}

fn leave(client: &Client, epoch: i32) -> HeartbeatRequest {
    HeartbeatRequest { epoch, rebalance_timeout_ms: -1, owned: None, ..join(client) }
}

#[test]
fn a_partition_moves_only_after_its_owner_gave_it_up() {
    let mut bed = Bed::new(&[("t", 4)]);
    let mut a = bed.join("a", &["t"]);
    assert_eq!((a.epoch, a.count(), bed.group.state()), (1, 4, ConsumerState::Stable));
    let mut b = bed.join("b", &["t"]);
    assert_eq!((b.epoch, b.count()), (2, 0), "nothing is free");
    assert_eq!(bed.group.state(), ConsumerState::Reconciling);
    // Told to give two up it keeps its epoch, and both stay its own until it reports that they are gone.
    let told = bed.ask(going_on(&a)).unwrap();
    assert_eq!((told.epoch, partitions(told.assignment.as_ref().unwrap()).count()), (1, 2));
    bed.beat(&mut b);
    assert_eq!(b.count(), 0);
    let unanswered = bed.ask(HeartbeatRequest { owned: None, ..going_on(&a) }).unwrap();
    assert_eq!((unanswered.epoch, unanswered.assignment), (1, None));
    let still = bed.ask(going_on(&a)).unwrap();
    assert_eq!(still.epoch, 1, "it still has them");
    a.take(told);
    bed.beat(&mut a);
    assert_eq!((a.epoch, a.count()), (2, 2));
    bed.beat(&mut b);
    assert_eq!((b.epoch, b.count()), (2, 2));
    assert_eq!((bed.group.state(), bed.group.epochs()), (ConsumerState::Stable, (2, 2)));
    bed.group.take_changed();
    bed.beat(&mut a);
    assert!(!bed.group.take_changed(), "a heartbeat without news writes nothing");
}

#[test]
fn a_heartbeat_is_answered_with_an_assignment_only_if_that_is_news() {
    let mut bed = Bed::new(&[("t", 1)]);
    let a = bed.join("a", &["t"]);
    let short = HeartbeatRequest { owned: None, ..going_on(&a) };
    assert_eq!(bed.ask(short.clone()).unwrap().assignment, None);
    let full = HeartbeatRequest { rebalance_timeout_ms: 1_000, names: set(&["t"]), ..going_on(&a) };
    assert_eq!(bed.ask(full).unwrap().assignment, Some(a.owned.clone()));
    assert_eq!(bed.ask(short).unwrap().heartbeat_interval_ms, 5_000);
}

#[test]
fn what_is_refused() {
    let mut bed = Bed::new(&[("t", 1)]);
    bed.limits.members_max = 1;
    bed.limits.assignors = [Some(Assignor::Uniform), None];
    let nobody = Client { id: "a".into(), ..Client::default() };
    let good = || HeartbeatRequest { names: set(&["t"]), ..join(&nobody) };
    let table = [
        (HeartbeatRequest { member_id: String::new(), ..good() }, GroupError::InvalidRequest("the member id is empty")),
        (HeartbeatRequest { assignor: Some("range".into()), ..good() }, GroupError::UnsupportedAssignor),
        (HeartbeatRequest { regex: Some("a)(b".into()), ..good() }, GroupError::InvalidRegularExpression),
        (HeartbeatRequest { regex: Some("\\p{L}{1000}{1000}".into()), ..good() }, GroupError::InvalidRegularExpression),
        (HeartbeatRequest { epoch: 1, ..good() }, GroupError::UnknownMemberId),
        (HeartbeatRequest { epoch: LEAVE_EPOCH, ..good() }, GroupError::UnknownMemberId),
    ];
    for (request, error) in table {
        assert_eq!(bed.ask(request.clone()), Err(error), "{request:?}");
    }
    let invalid = [
        HeartbeatRequest { rebalance_timeout_ms: -1, ..good() },
        HeartbeatRequest { owned: None, ..good() },
        HeartbeatRequest { names: None, ..good() },
        HeartbeatRequest { epoch: LEAVE_STATIC_EPOCH, ..good() },
        HeartbeatRequest { epoch: -3, ..good() },
        HeartbeatRequest { instance: Some(" ".into()), ..good() },
    ];
    for request in invalid {
        assert!(matches!(bed.ask(request.clone()), Err(GroupError::InvalidRequest(_))), "{request:?}");
    }
    assert_eq!(bed.group.size(), 0, "nothing of that made a member");
    let a = bed.join("a", &["t"]);
    let b = Client { id: "b".into(), ..Client::default() };
    assert_eq!(bed.ask(HeartbeatRequest { names: set(&["t"]), ..join(&b) }), Err(GroupError::MaxSizeReached));
    let ahead = HeartbeatRequest { epoch: a.epoch + 1, ..going_on(&a) };
    assert_eq!(bed.ask(ahead), Err(GroupError::FencedMemberEpoch));
}

#[test]
fn an_answer_may_be_lost() {
    let mut bed = Bed::new(&[("t", 2)]);
    let a = bed.join("a", &["t"]);
    // The join itself.
    let again = bed.join("a", &["t"]);
    assert_eq!((again.epoch, &again.owned, bed.group.epochs()), (a.epoch, &a.owned, (1, 1)));
    let b = bed.join("b", &["t"]);
    // The answer with the next epoch.
    let mut a = a;
    bed.beat(&mut a);
    let before = a.clone();
    bed.beat(&mut a);
    assert_eq!((before.epoch, a.epoch), (1, 2));
    let full = HeartbeatRequest { rebalance_timeout_ms: 1_000, names: set(&["t"]), ..going_on(&before) };
    assert_eq!(bed.ask(full).map(|r| (r.epoch, r.assignment)), Ok((2, Some(a.owned.clone()))));
    // Who reports what is no longer its own has not heard enough.
    let more = Client { owned: [a.owned.clone(), b.owned.clone()].into_iter().flatten().collect(), ..before };
    let mut all = more.owned.clone();
    all.values_mut().for_each(|p| p.extend([PartitionIndex(0), PartitionIndex(1)]));
    assert_eq!(bed.ask(going_on(&Client { owned: all, ..more })), Err(GroupError::FencedMemberEpoch));
}

#[test]
fn a_member_that_joins_again_has_lost_what_it_had_and_gets_it_back() {
    let mut bed = Bed::new(&[("t", 4)]);
    let (mut a, mut b) = (bed.join("a", &["t"]), bed.join("b", &["t"]));
    bed.settle(&mut [&mut a, &mut b]);
    let again = bed.join("a", &["t"]);
    assert_eq!((again.epoch, &again.owned), (3, &a.owned));
    assert_eq!(bed.ask(going_on(&a)), Err(GroupError::FencedMemberEpoch), "there is only one");
    a = again;
    bed.settle(&mut [&mut a, &mut b]);
}

#[test]
fn members_leave_and_are_missed() {
    let mut bed = Bed::new(&[("t", 3)]);
    let (mut a, mut b, mut c) = (bed.join("a", &["t"]), bed.join("b", &["t"]), bed.join("c", &["t"]));
    bed.settle(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(bed.ask(leave(&a, LEAVE_EPOCH)).map(|r| r.epoch), Ok(LEAVE_EPOCH));
    assert_eq!((bed.group.state(), bed.group.epochs()), (ConsumerState::Assigning, (4, 3)));
    bed.settle(&mut [&mut b, &mut c]);
    assert_eq!(b.count() + c.count(), 3);
    assert!(bed.sleep(44_999).is_empty());
    bed.beat(&mut c);
    assert_eq!(bed.sleep(1), ["b"]);
    assert_eq!(bed.ask(going_on(&b)), Err(GroupError::UnknownMemberId));
    bed.settle(&mut [&mut c]);
    assert_eq!(c.count(), 3);
    bed.ask(leave(&c, LEAVE_EPOCH)).unwrap();
    assert_eq!((bed.group.state(), bed.group.size(), bed.group.next_deadline()), (ConsumerState::Empty, 0, None));
}

#[test]
fn who_does_not_give_up_in_time_is_removed() {
    let mut bed = Bed::new(&[("t", 2)]);
    let a = bed.join("a", &["t"]);
    let mut b = bed.join("b", &["t"]);
    bed.ask(going_on(&a)).unwrap();
    for _ in 0..9 {
        assert!(bed.sleep(1_000).is_empty());
        bed.ask(going_on(&a)).unwrap(); // alive, and it still has both
    }
    assert!(bed.sleep(999).is_empty());
    assert_eq!(bed.sleep(1), ["a"]);
    bed.settle(&mut [&mut b]);
    assert_eq!(b.count(), 2);
}

#[test]
fn a_static_member_comes_back_to_its_partitions() {
    let mut bed = Bed::new(&[("t", 4)]);
    let mut a = bed.join_as("a", Some("i"), &["t"]).unwrap();
    let mut b = bed.join("b", &["t"]);
    bed.settle(&mut [&mut a, &mut b]);
    assert_eq!(bed.join_as("a2", Some("i"), &["t"]).err(), Some(GroupError::UnreleasedInstanceId));
    bed.ask(leave(&a, LEAVE_STATIC_EPOCH)).unwrap();
    bed.beat(&mut b);
    assert_eq!(b.count(), 2, "they wait for it");
    assert_eq!(bed.ask(going_on(&a)), Err(GroupError::FencedMemberEpoch));
    let mut a2 = bed.join_as("a2", Some("i"), &["t"]).unwrap();
    assert_eq!((&a2.owned, a2.epoch, bed.group.epochs()), (&a.owned, 2, (2, 2)), "no rebalance");
    assert_eq!(bed.ask(going_on(&a)), Err(GroupError::FencedInstanceId));
    bed.settle(&mut [&mut a2, &mut b]);
    // The same process under the same id.
    bed.ask(leave(&a2, LEAVE_STATIC_EPOCH)).unwrap();
    let a3 = bed.join_as("a2", Some("i"), &["t"]).unwrap();
    assert_eq!((&a3.owned, bed.group.epochs()), (&a2.owned, (2, 2)));
    // It does not come back.
    bed.ask(leave(&a3, LEAVE_STATIC_EPOCH)).unwrap();
    bed.beat(&mut b);
    bed.sleep(44_000);
    bed.beat(&mut b);
    assert_eq!(bed.sleep(1_000), ["a2"]);
    bed.settle(&mut [&mut b]);
    assert_eq!(b.count(), 4);
}

#[test]
fn changes_of_topics_raise_the_epoch_once() {
    let mut bed = Bed::new(&[("t", 2), ("u", 1)]);
    let mut a = bed.join("a", &["t", "later"]);
    assert_eq!((a.epoch, a.count()), (1, 2));
    bed.topics.set("u", 0, 5);
    bed.beat(&mut a);
    assert_eq!(a.epoch, 1, "nobody is subscribed to u");
    bed.topics.set("t", 0, 3);
    bed.beat(&mut a);
    bed.beat(&mut a);
    assert_eq!((a.epoch, a.count()), (2, 3));
    bed.topics.set("later", 0, 2);
    bed.beat(&mut a);
    assert_eq!((a.epoch, a.count()), (3, 5));
    // Made again: another topic.
    bed.topics.set("later", 1, 2);
    bed.settle(&mut [&mut a]);
    assert_eq!((a.epoch, a.count()), (4, 5));
    bed.topics.delete("t");
    bed.settle(&mut [&mut a]);
    assert_eq!((a.epoch, a.count()), (5, 2));
}

#[test]
fn regular_expressions_match_whole_names_and_topics_that_come_later() {
    let mut bed = Bed::new(&[("orders", 2), ("orders-eu", 1), ("x-orders", 1)]);
    let mut a = Client { id: "a".into(), ..Client::default() };
    let reply = bed.ask(HeartbeatRequest { regex: Some("orders(-[a-z]+)?".into()), ..join(&a) }).unwrap();
    a.take(reply);
    assert_eq!(a.count(), 3);
    bed.topics.set("orders-us", 0, 4);
    bed.topics.set("other", 0, 4);
    bed.topics.delete("orders-eu");
    bed.settle(&mut [&mut a]);
    let ids: Vec<TopicId> = a.owned.keys().copied().collect();
    assert_eq!((a.epoch, a.count(), ids.len()), (2, 6, 2));
    assert_eq!(bed.group.check_offset_delete("orders-us", bed.topics.at()), Err(GroupError::SubscribedToTopic));
    assert_eq!(bed.group.check_offset_delete("other", bed.topics.at()), Ok(()));
    bed.take_over();
    bed.settle(&mut [&mut a]);
    assert_eq!(a.epoch, 2, "nothing changed meanwhile");
    let named = HeartbeatRequest { regex: Some(String::new()), names: set(&["other"]), ..going_on(&a) };
    let reply = bed.ask(named).unwrap();
    a.take(reply);
    bed.settle(&mut [&mut a]);
    assert_eq!((a.epoch, a.count()), (3, 4));
}

#[test]
fn the_assignor_is_the_one_that_most_members_ask_for() {
    let mut bed = Bed::new(&[("t", 2)]);
    assert_eq!(bed.group.preferred(&bed.limits), Assignor::Uniform);
    let a = Client { id: "a".into(), ..Client::default() };
    bed.ask(HeartbeatRequest { names: set(&["t"]), assignor: Some("range".into()), ..join(&a) }).unwrap();
    bed.join("b", &["t"]);
    assert_eq!(bed.group.preferred(&bed.limits), Assignor::Range);
    bed.limits.assignors = [Some(Assignor::Uniform), None];
    assert_eq!(bed.group.preferred(&bed.limits), Assignor::Uniform);
}

#[test]
fn commits_and_fetches_need_the_present_epoch() {
    let mut bed = Bed::new(&[("t", 2)]);
    let nobody = Client::default();
    assert_eq!(bed.commit(&nobody, -1), Ok(()), "an administrator, while there is no member");
    let a = bed.join("a", &["t"]);
    assert_eq!(bed.commit(&nobody, -1), Err(GroupError::UnknownMemberId));
    assert_eq!(bed.commit(&a, a.epoch), Ok(()));
    assert_eq!(bed.commit(&a, a.epoch - 1), Err(GroupError::StaleMemberEpoch));
    assert_eq!(bed.group.check_fetch("a", a.epoch), Ok(()));
    assert_eq!(bed.group.check_fetch("a", a.epoch + 1), Err(GroupError::StaleMemberEpoch));
    assert_eq!(bed.group.check_fetch("b", a.epoch), Err(GroupError::UnknownMemberId));
    let caller = Caller { member_id: "a".into(), generation: a.epoch, ..Caller::default() };
    assert_eq!(bed.group.check_commit(bed.now, &bed.limits, &caller, false), Err(GroupError::UnsupportedVersion));
}

#[test]
fn a_successor_goes_on_where_the_group_was() {
    let mut bed = Bed::new(&[("t", 4)]);
    let mut a = bed.join_as("a", Some("i"), &["t"]).unwrap();
    let mut b = bed.join("b", &["t"]);
    let mut told = a.clone();
    bed.beat(&mut told); // a has to give two up
    let before = bed.group.durable();
    bed.take_over();
    assert_eq!(bed.group.durable(), before);
    bed.beat(&mut b);
    assert_eq!(b.count(), 0, "a still has them");
    a = told;
    bed.settle(&mut [&mut a, &mut b]);
    bed.take_over();
    bed.group.take_changed();
    bed.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.epoch, b.epoch, a.count(), b.count()), (2, 2, 2, 2));
    assert!(!bed.group.take_changed(), "no rebalance");
    assert!(bed.sleep(44_000).is_empty(), "a whole session to be heard of again");
}

// Members of the classic protocol.

fn classic_metadata(topics: &[&str], owned: &[(&str, &[i32])]) -> Bytes {
    let mut bytes = vec![0, 1];
    bytes.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    bytes.extend((owned.len() as i32).to_be_bytes());
    for (topic, partitions) in owned {
        bytes.extend((topic.len() as i16).to_be_bytes());
        bytes.extend(topic.as_bytes());
        bytes.extend((partitions.len() as i32).to_be_bytes());
        partitions.iter().for_each(|p| bytes.extend(p.to_be_bytes()));
    }
    Bytes::from(bytes)
}

fn classic_join(id: &str, owned: &[(&str, &[i32])]) -> JoinRequest {
    JoinRequest {
        member_id: id.into(),
        client_id: "k".into(),
        session_timeout_ms: 20_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "cooperative-sticky".into(), metadata: classic_metadata(&["t"], owned) }],
        asks_for_id: true,
        ..JoinRequest::default()
    }
}

impl Bed {
    fn classic(&mut self, request: JoinRequest) -> super::super::classic::JoinReply {
        self.group.classic_join(self.now, &self.limits, self.topics.at(), request, "9")
    }

    fn sync(&mut self, id: &str, generation: i32) -> Result<Vec<i32>, GroupError> {
        let request = SyncRequest { member_id: id.into(), generation, ..SyncRequest::default() };
        let reply = self.group.classic_sync(self.now, &self.limits, self.topics.at(), &request);
        let named = embedded::assignment(&reply.assignment).unwrap();
        reply.error.map_or(Ok(named.into_iter().flat_map(|(_, p)| p).collect()), Err)
    }

    fn heart(&mut self, id: &str, generation: i32) -> Result<(), GroupError> {
        let caller = Caller { member_id: id.into(), generation, ..Caller::default() };
        self.group.classic_heartbeat(self.now, &self.limits, self.topics.at(), &caller)
    }
}

#[test]
fn a_classic_member_shares_with_one_of_the_consumer_protocol() {
    let mut bed = Bed::new(&[("t", 4)]);
    let mut a = bed.join("a", &["t"]);
    let asked = bed.classic(classic_join("", &[]));
    assert_eq!((asked.error, asked.member_id.as_str()), (Some(GroupError::MemberIdRequired), "k-9"));
    let joined = bed.classic(classic_join("k-9", &[]));
    assert_eq!((joined.error, joined.generation, joined.leader.as_str()), (None, 2, ""));
    assert_eq!(bed.sync("k-9", 2), Ok(vec![]), "nothing is free");
    assert_eq!(bed.heart("k-9", 2), Ok(()), "it waits");
    bed.beat(&mut a);
    bed.beat(&mut a);
    assert_eq!(bed.heart("k-9", 2), Err(GroupError::RebalanceInProgress), "what it waits for is free");
    assert_eq!(bed.classic(classic_join("k-9", &[])).generation, 2);
    assert_eq!(bed.sync("k-9", 2), Ok(vec![2, 3]));
    assert_eq!((bed.heart("k-9", 2), bed.heart("k-9", 1)), (Ok(()), Err(GroupError::IllegalGeneration)));
    assert_eq!(bed.heart("a", 2), Err(GroupError::UnknownMemberId), "not of the classic protocol");
    assert_eq!(bed.group.state(), ConsumerState::Stable);
    // A third one: the classic member is told, says what it has, gives one up, and says so.
    let mut c = bed.join("c", &["t"]);
    assert_eq!(bed.heart("k-9", 2), Err(GroupError::RebalanceInProgress));
    let owned: &[(&str, &[i32])] = &[("t", &[2, 3])];
    let joined = bed.classic(classic_join("k-9", owned));
    let left = bed.sync("k-9", joined.generation).unwrap();
    let moves = left.len() < 2;
    if moves {
        assert_eq!((joined.generation, bed.heart("k-9", 2)), (2, Err(GroupError::RebalanceInProgress)));
        let owned: &[(&str, &[i32])] = &[("t", &left)];
        assert_eq!(bed.classic(classic_join("k-9", owned)).generation, 3);
        bed.sync("k-9", 3).unwrap();
    }
    bed.settle(&mut [&mut a, &mut c]);
    assert_eq!(a.count() + c.count() + left.len(), 4);
    // Protocols that do not fit those of the other classic members.
    let mut other = classic_join("x", &[]);
    other.protocols[0].name = "range".into();
    assert_eq!(bed.classic(other).error, Some(GroupError::InconsistentProtocol));
}

#[test]
fn a_classic_member_has_to_join_again_in_time_and_to_sync() {
    let mut bed = Bed::new(&[("t", 4)]);
    let mut a = bed.join("a", &["t"]);
    bed.classic(classic_join("k", &[]));
    for _ in 0..2 {
        bed.sleep(14_000);
        assert_eq!(bed.heart("k", 2), Ok(()), "it waits for what the other was not told yet to give up");
    }
    assert_eq!(bed.sleep(2_000), ["k"], "it did not sync within 30 s");
    let joined = bed.classic(classic_join("k", &[]));
    bed.sync("k", joined.generation).unwrap();
    bed.beat(&mut a);
    bed.beat(&mut a); // says that it has given up what it had to
    let joined = bed.classic(classic_join("k", &[]));
    assert_eq!(bed.sync("k", joined.generation).map(|p| p.len()), Ok(2));
    bed.settle(&mut [&mut a]);
    assert_eq!(bed.sleep(20_000), ["k"], "its own session timeout");
    // It may still believe that it has something, which by now is somebody else's.
    let late = bed.classic(classic_join("k", &[("t", &[2, 3])]));
    assert_eq!((late.error, late.member_id.as_str()), (Some(GroupError::UnknownMemberId), "k"));
    assert_eq!(bed.classic(classic_join("k", &[("t", &[])])).error, None, "who claims nothing is somebody new");
}

#[test]
fn the_last_member_of_the_consumer_protocol_leaves_a_classic_group_behind() {
    let mut bed = Bed::new(&[("t", 4)]);
    let a = bed.join("a", &["t"]);
    bed.classic(classic_join("k", &[]));
    assert!(!bed.group.may_downgrade(&bed.limits, 10));
    bed.ask(leave(&a, LEAVE_EPOCH)).unwrap();
    assert!(bed.group.may_downgrade(&bed.limits, 1) && !bed.group.may_downgrade(&bed.limits, 0));
    bed.limits.migration = MigrationPolicy::Upgrade;
    assert!(!bed.group.may_downgrade(&bed.limits, 10));
    let value = bed.group.to_classic(bed.now, bed.topics.at().topics);
    assert_eq!((value.generation, value.leader.as_deref()), (2, None), "the generation that it knows");
    assert_eq!(value.protocol.as_deref(), Some("cooperative-sticky"));
    // It has to join again, also after a takeover in which it did not do so.
    let limits = GroupLimits::default();
    let downgraded = ClassicGroup::<()>::downgraded(limits, bed.now, value.clone(), &mut Vec::new());
    let stored = GroupValue::clone(downgraded.durable().unwrap());
    for mut group in [downgraded, ClassicGroup::recover(limits, bed.now, stored)] {
        assert_eq!(group.state(), State::PreparingRebalance);
        assert_eq!(group.heartbeat(bed.now, "k", None, 2), Err(GroupError::RebalanceInProgress));
        let mut effects = Vec::new();
        group.join(bed.now, classic_join("k", &[]), "1", (), &mut effects);
        let joined = effects.iter().find_map(|e| match e {
            Effect::Join((), reply) => Some((reply.error, reply.generation, reply.leader.as_str())),
            _ => None,
        });
        assert_eq!(joined, Some((None, 3, "k")));
    }
    // And back.
    let members = value.members;
    let back = ConsumerGroup::of_classic(bed.now, &bed.limits, &bed.topics, value.generation, members).unwrap();
    assert_eq!((back.size(), back.is_all_classic(), back.epochs()), (1, true, (2, 2)));
}

#[test]
fn a_cooperative_member_that_is_taken_over_keeps_what_it_has_not_given_up() {
    let mut bed = Bed::new(&[("t", 4)]);
    let owned: &[(&str, &[i32])] = &[("t", &[0, 1, 2])];
    let all = bed.topics.partitions();
    let member = |id: &str, owned: &[(&str, &[i32])], assigned: &[PartitionKey]| MemberValue {
        id: id.into(),
        instance: None,
        client_id: "k".into(),
        client_host: "/h".into(),
        rebalance_timeout_ms: 30_000,
        session_timeout_ms: 20_000,
        protocols: classic_join(id, owned).protocols,
        assignment: embedded::encode_assignment(1, &value::collect(assigned.iter().copied()), &bed.topics),
    };
    // The leader took partition 2 from k without giving it to anybody, and 1 to give it to l.
    let members = vec![member("k", owned, &all[..1]), member("l", &[], &all[1..2])];
    bed.group = ConsumerGroup::of_classic(bed.now, &bed.limits, &bed.topics, 7, members).unwrap();
    assert!(bed.group.holds("k", &all[2]) && !bed.group.holds("k", &all[1]) && bed.group.holds("l", &all[1]));
    let mut a = bed.join("a", &["t"]);
    assert!(!partitions(&a.owned).any(|key| key == all[2]), "k may still have it");
    assert_eq!(bed.heart("k", 7), Err(GroupError::RebalanceInProgress));
    let joined = bed.classic(classic_join("k", &[("t", &[0])]));
    assert_eq!((joined.error, joined.generation), (None, 8), "it has given the rest up");
    bed.beat(&mut a);
    let owners = ["k", "l", "a"].iter().filter(|id| bed.group.holds(id, &all[2])).count();
    assert_eq!(owners, 1, "and somebody has it now");
}
