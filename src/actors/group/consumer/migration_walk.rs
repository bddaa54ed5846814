//! Random schedules of groups that change their protocol: processes of both protocols come, go, die and are replaced by some
//! of the other one, over a network that loses, delays and repeats, with takeovers, clocks that jump and topics that grow.
//!
//! Checked at every step: what members are told as generation or epoch never goes back, and no partition is with two members
//! that the group would let commit it (where each client's requests arrive in the order in which it sent them). Then the
//! network is repaired, and while processes still come and go, nobody who is alive may hear that it is unknown. At the end
//! everybody stays: every partition must have one member that knows it, and the group must have the protocol that its
//! members call for.

mod client;

use super::simulation::{Packet, World};
use super::tests::Shelf;
use super::value::{Assignment, partitions};
use super::*;
use crate::actors::group::call::Caller;
use crate::actors::group::classic::{ClassicGroup, Effect, GroupLimits, JoinReply, JoinRequest};
use crate::actors::group::classic::{State, SyncReply, SyncRequest};
use crate::actors::group::value::GroupValue;
use client::{Client, Doing, beat_of, join_of, lead};
use proptest::prelude::*;

const CLASSIC_SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 20_000;
const CLASSIC_HEARTBEAT_MS: u64 = 3_000;
const HEARTBEAT_MS: u64 = 5_000;
/// A client asks again when it heard nothing for this long.
const REQUEST_TIMEOUT_MS: u64 = 9_000;
/// The same for requests that wait for other members.
const JOIN_TIMEOUT_MS: u64 = 25_000;
/// After that long without faults nothing is left of them.
const RECOVERED_MS: u64 = 150_000;
const TOPICS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Ask {
    Beat(HeartbeatRequest),
    Join(JoinRequest),
    Sync(SyncRequest),
    Heartbeat(Caller),
    Leave(String),
}

enum Answer {
    Beat(Result<HeartbeatReply, GroupError>),
    Join(JoinReply),
    Sync(SyncReply),
    Heartbeat(Result<(), GroupError>),
}

enum Machine {
    Classic(Box<ClassicGroup<(usize, u64)>>),
    Consumer(Box<ConsumerGroup>),
}

struct Walk {
    world: World<Ask, Answer>,
    group: Machine,
    limits: ConsumerLimits,
    topics: Shelf,
    clients: Vec<Client>,
    /// Members keep what they have while they join again.
    cooperative: bool,
    incarnations: u64,
    /// The highest generation or target epoch there was.
    number_max: i32,
    are_owners_checked: bool,
    /// When the group changed its protocol last.
    changed_ms: Ms,
    /// From when on nobody who is alive may be unknown.
    calm_ms: Ms,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let dice = &mut world.dice;
        let mut topics = Shelf::default();
        TOPICS[..2].iter().for_each(|name| topics.set(name, 0, 1 + dice.roll(4) as i32));
        let migration = if dice.once_in(4) { MigrationPolicy::Upgrade } else { MigrationPolicy::Bidirectional };
        let clients = (0..1 + dice.roll(5)).map(|n| Client {
            instance: dice.once_in(3).then(|| format!("i{n}")),
            is_classic: !dice.once_in(3),
            doing: Doing::Joining,
            id: format!("m{n}"),
            epoch: 0,
            is_member: false,
            held: Assignment::new(),
            leads: Vec::new(),
            assigned_version: None,
            asked: 0,
            next_ms: dice.roll(20_000),
            is_unsure: true,
        });
        let mut clients: Vec<Client> = clients.collect();
        clients.iter_mut().filter(|c| c.is_classic).for_each(|c| c.id.clear());
        let cooperative = dice.once_in(2);
        let are_owners_checked = world.in_order;
        Self {
            group: Machine::Classic(Box::new(ClassicGroup::new(GroupLimits::default(), world.now))),
            limits: ConsumerLimits { migration, ..ConsumerLimits::default() },
            world,
            topics,
            clients,
            cooperative,
            incarnations: 0,
            number_max: 0,
            are_owners_checked,
            changed_ms: 0,
            calm_ms: Ms::MAX,
        }
    }

    fn run(&mut self, steps: u64) {
        let chaos_until = self.world.now.mono_ms + steps * 1_000;
        while self.world.now.mono_ms < chaos_until {
            match self.roll_event(300) {
                0 => self.take_over(),
                1 => self.world.jump(),
                event => self.churn(event),
            }
            self.advance();
        }
        self.world.repair();
        // What a process sent last does not arrive after the first request of the one that takes its place.
        self.world.in_order = true;
        let recovered = self.world.now.mono_ms + RECOVERED_MS;
        self.calm_ms = recovered;
        while self.world.now.mono_ms < recovered + steps * 1_000 {
            if self.world.now.mono_ms > recovered {
                match self.roll_event(600) {
                    0 => self.take_over(),
                    event => self.churn(event),
                }
            }
            self.advance();
        }
        for c in 0..self.clients.len() {
            if self.clients[c].doing == Doing::Gone {
                self.begin_again(c);
            }
        }
        let end = self.world.now.mono_ms + 400_000;
        while self.world.now.mono_ms < end {
            self.advance();
        }
        self.check_end();
    }

    /// Much happens while the group changes its protocol.
    fn roll_event(&mut self, sides: u64) -> u64 {
        let changes = self.world.now.mono_ms - self.changed_ms < 5_000;
        self.world.dice.roll(if changes { 60 } else { sides })
    }

    fn churn(&mut self, event: u64) {
        let c = self.world.dice.index(self.clients.len());
        match event {
            2 | 3 => self.begin_again(c),
            4 | 5 => self.leave(c),
            6 => self.grow_topics(),
            7 | 8 if self.clients[c].doing == Doing::Gone => self.begin_again(c),
            _ => {}
        }
    }

    fn check_end(&mut self) {
        let all_classic = self.clients.iter().all(|c| c.is_classic);
        let stays = self.limits.migration == MigrationPolicy::Upgrade;
        match &self.group {
            Machine::Classic(group) => {
                assert!(all_classic, "members of the consumer protocol are in a classic group");
                assert_eq!((group.state(), group.size()), (State::Stable, self.clients.len()));
            }
            Machine::Consumer(group) => {
                assert!(!all_classic || stays, "a group of classic members only stayed a consumer group");
                assert_eq!((group.state(), group.size()), (ConsumerState::Stable, self.clients.len()));
            }
        }
        assert!(self.clients.iter().all(|c| c.doing == Doing::Member), "{:?}", self.clients);
        let mut held: Vec<PartitionKey> = self.clients.iter().flat_map(|c| partitions(&c.held)).collect();
        held.sort_unstable();
        assert_eq!(held, self.topics.partitions(), "every partition has one member that knows it");
    }

    fn advance(&mut self) {
        self.world.pass();
        for c in 0..self.clients.len() {
            if self.clients[c].next_ms <= self.world.now.mono_ms && self.clients[c].doing != Doing::Gone {
                self.act(c);
            }
        }
        for packet in self.world.arrived() {
            match packet {
                Packet::Ask(c, number, ask) => self.serve(c, number, ask),
                Packet::Answer(c, number, answer) => self.hear(c, number, answer),
            }
            self.check();
        }
        self.tick();
        self.check();
    }

    fn check(&mut self) {
        let number = match &mut self.group {
            Machine::Classic(group) => group.generation(),
            Machine::Consumer(group) => {
                if group.take_changed() {
                    group.durable().check().unwrap();
                }
                group.epochs().1
            }
        };
        assert!(number >= self.number_max, "{number} after {}", self.number_max);
        self.number_max = number;
        if !self.are_owners_checked {
            return;
        }
        let mut owners: HashMap<PartitionKey, &str> = HashMap::new();
        for client in self.clients.iter().filter(|c| self.may_commit(c)) {
            for key in partitions(&client.held) {
                let other = owners.insert(key, &client.id);
                assert!(other.is_none(), "{key} is with {other:?} and {}", client.id);
                if let Machine::Consumer(group) = &self.group {
                    assert!(group.holds(&client.id, &key), "{key} is not safe with {}", client.id);
                }
            }
        }
    }

    /// Whether the group takes the client for what it believes to be.
    fn may_commit(&self, client: &Client) -> bool {
        if client.held.is_empty() {
            return false;
        }
        match &self.group {
            Machine::Classic(group) => {
                let known = group.describe().iter().any(|(m, _)| m.id == client.id);
                client.is_classic && known && group.generation() == client.epoch
            }
            Machine::Consumer(group) => {
                group.members.get(client.id.as_str()).is_some_and(|m| match client.is_classic {
                    true => m.value.classic.is_some() && m.value.epoch == client.epoch,
                    // It may not have heard of its new epoch.
                    false => client.doing == Doing::Member && m.value.epoch >= client.epoch,
                })
            }
        }
    }

    /// What the coordinator does by itself.
    fn tick(&mut self) {
        let stood_still = self.world.stood_still();
        let (now, mut effects) = (self.world.now, Vec::new());
        match &mut self.group {
            Machine::Classic(group) => {
                if stood_still {
                    group.extend_sessions(now);
                }
                group.expire(now, &mut effects);
            }
            Machine::Consumer(group) => {
                if stood_still {
                    group.extend_sessions(now, &self.limits);
                }
                group.expire(now, self.topics.at());
            }
        }
        self.take(effects);
    }

    fn take_over(&mut self) {
        self.world.cut();
        let now = self.world.now;
        self.group = match &self.group {
            Machine::Classic(group) => {
                let limits = GroupLimits::default();
                let recovered =
                    group.durable().map(|value| ClassicGroup::recover(limits, now, GroupValue::clone(value)));
                Machine::Classic(Box::new(recovered.unwrap_or_else(|| ClassicGroup::new(limits, now))))
            }
            Machine::Consumer(group) => {
                Machine::Consumer(Box::new(ConsumerGroup::recover(&self.limits, now, group.durable())))
            }
        };
        // Who waited finds its connection closed and asks again.
        for client in &mut self.clients {
            client.next_ms = client.next_ms.min(now.mono_ms + 100);
        }
    }

    fn grow_topics(&mut self) {
        let name = TOPICS[self.world.dice.index(TOPICS.len())];
        let count = self.topics.find(name).map_or(0, |(_, count)| count);
        if count < 8 {
            self.topics.set(name, 0, count + 1);
        }
    }

    /// The process of a client is gone, and another one starts, maybe with the other protocol.
    fn begin_again(&mut self, c: usize) {
        self.incarnations += 1;
        let is_classic = self.clients[c].is_classic ^ self.world.dice.once_in(2);
        let client = &mut self.clients[c];
        client.is_classic = is_classic;
        client.doing = Doing::Joining;
        client.id = if is_classic { String::new() } else { format!("m{c}.{}", self.incarnations) };
        (client.epoch, client.is_member, client.is_unsure) = (0, false, true);
        client.held.clear();
        client.leads.clear();
        (client.asked, client.next_ms) = (client.asked + 1, self.world.now.mono_ms);
    }

    /// A process ends in order. Static members of the classic protocol only fall silent.
    fn leave(&mut self, c: usize) {
        let client = &mut self.clients[c];
        if client.doing == Doing::Gone {
            return;
        }
        let was_member = client.doing == Doing::Member;
        client.doing = Doing::Gone;
        client.held.clear();
        client.asked += 1;
        let ask = match (&client.instance, client.is_classic) {
            (Some(_), true) => return,
            (None, true) => Ask::Leave(client.id.clone()),
            (instance, false) => {
                let epoch = if instance.is_some() { LEAVE_STATIC_EPOCH } else { LEAVE_EPOCH };
                Ask::Beat(beat_of(client, epoch))
            }
        };
        let number = client.asked;
        if was_member {
            self.world.ask(c, number, ask);
        }
    }

    /// What a client does next by itself: a first request, a request again, or a heartbeat.
    fn act(&mut self, c: usize) {
        let now_ms = self.world.now.mono_ms;
        let client = &mut self.clients[c];
        client.asked += 1;
        let ask = match (client.is_classic, client.doing) {
            (_, Doing::Gone) => return,
            (false, doing) => {
                client.next_ms = now_ms + REQUEST_TIMEOUT_MS;
                let epoch = if doing == Doing::Joining { JOIN_EPOCH } else { client.epoch };
                let mut request = beat_of(client, epoch);
                request.owned = Some(client.held.clone());
                if doing == Doing::Joining || client.is_unsure {
                    request.rebalance_timeout_ms = REBALANCE_MS as i32;
                    request.names = Some(TOPICS.iter().map(|t| (*t).to_owned()).collect());
                }
                client.is_unsure = true;
                Ask::Beat(request)
            }
            (true, Doing::Joining) => {
                client.next_ms = now_ms + JOIN_TIMEOUT_MS;
                if !self.cooperative {
                    client.held.clear();
                }
                Ask::Join(join_of(c, client, &self.topics))
            }
            (true, Doing::Syncing) => {
                client.next_ms = now_ms + JOIN_TIMEOUT_MS;
                if !client.leads.is_empty() {
                    client.assigned_version = Some(self.topics.version);
                }
                Ask::Sync(SyncRequest {
                    member_id: client.id.clone(),
                    instance: client.instance.clone(),
                    generation: client.epoch,
                    assignments: lead(&client.leads, &self.topics),
                    ..SyncRequest::default()
                })
            }
            (true, Doing::Member) if client.assigned_version.is_some_and(|v| v != self.topics.version) => {
                // A leader sees that there are other partitions, and wants a rebalance.
                (client.doing, client.assigned_version, client.next_ms) = (Doing::Joining, None, now_ms);
                return;
            }
            (true, Doing::Member) => {
                client.next_ms = now_ms + CLASSIC_HEARTBEAT_MS;
                let (member_id, instance) = (client.id.clone(), client.instance.clone());
                Ask::Heartbeat(Caller { member_id, instance, generation: client.epoch, knows_epochs: true })
            }
        };
        self.world.ask(c, client.asked, ask);
    }

    /// The coordinator gets a request.
    fn serve(&mut self, c: usize, number: u64, ask: Ask) {
        let (now, mut effects) = (self.world.now, Vec::new());
        match ask {
            Ask::Beat(request) => {
                let answer = Answer::Beat(self.beat(request, &mut effects));
                self.world.answer(c, number, answer);
            }
            Ask::Join(request) => self.join(request, (c, number), &mut effects),
            Ask::Sync(request) => match &mut self.group {
                Machine::Classic(group) => group.sync(now, request, (c, number), &mut effects),
                Machine::Consumer(group) => {
                    let reply = group.classic_sync(now, &self.limits, self.topics.at(), &request);
                    self.world.answer(c, number, Answer::Sync(reply));
                }
            },
            Ask::Heartbeat(caller) => {
                let outcome = match &mut self.group {
                    Machine::Classic(group) => {
                        group.heartbeat(now, &caller.member_id, caller.instance.as_deref(), caller.generation)
                    }
                    Machine::Consumer(group) => group.classic_heartbeat(now, &self.limits, self.topics.at(), &caller),
                };
                self.world.answer(c, number, Answer::Heartbeat(outcome));
            }
            Ask::Leave(id) => {
                let leaving = [(id, None)];
                match &mut self.group {
                    Machine::Classic(group) => drop(group.leave(now, &leaving, &mut effects)),
                    Machine::Consumer(group) => drop(group.classic_leave(now, self.topics.at(), &leaving)),
                }
            }
        }
        self.take(effects);
    }

    fn join(&mut self, request: JoinRequest, token: (usize, u64), effects: &mut Vec<Effect<(usize, u64)>>) {
        let now = self.world.now;
        if let Machine::Consumer(group) = &self.group
            && group.size() == 0
        {
            let value = group.to_classic(now, &self.topics);
            self.group = Machine::Classic(Box::new(ClassicGroup::recover(GroupLimits::default(), now, value)));
        }
        let unique = self.world.unique().to_string();
        match &mut self.group {
            Machine::Classic(group) => group.join(now, request, &unique, token, effects),
            Machine::Consumer(group) => {
                let reply = group.classic_join(now, &self.limits, self.topics.at(), request, &unique);
                effects.push(Effect::Join(token, reply));
            }
        }
    }

    fn beat(
        &mut self,
        request: HeartbeatRequest,
        effects: &mut Vec<Effect<(usize, u64)>>,
    ) -> Result<HeartbeatReply, GroupError> {
        let (now, topics) = (self.world.now, self.topics.at());
        heartbeat::check(&self.limits, &request).unwrap();
        let classic = match &mut self.group {
            Machine::Consumer(group) => return group.heartbeat(now, &self.limits, topics, request),
            Machine::Classic(classic) => classic,
        };
        if request.epoch != JOIN_EPOCH {
            return Err(GroupError::NotConsumer);
        }
        let members = if classic.state() == State::Empty { Vec::new() } else { classic.known_members() };
        let mut group = ConsumerGroup::of_classic(now, &self.limits, &self.topics, classic.generation(), members)?;
        let reply = group.heartbeat(now, &self.limits, topics, request)?;
        classic.fail_parked(GroupError::RebalanceInProgress, effects);
        self.group = Machine::Consumer(Box::new(group));
        self.changed_ms = now.mono_ms;
        Ok(reply)
    }

    /// Sends answers, after the group changed its protocol if that is due.
    fn take(&mut self, mut effects: Vec<Effect<(usize, u64)>>) {
        if let Machine::Consumer(group) = &self.group
            && group.may_downgrade(&self.limits, usize::MAX)
        {
            let value = group.to_classic(self.world.now, &self.topics);
            let group = ClassicGroup::downgraded(GroupLimits::default(), self.world.now, value, &mut effects);
            self.group = Machine::Classic(Box::new(group));
            self.changed_ms = self.world.now.mono_ms;
        }
        for effect in effects {
            match effect {
                Effect::Recorded => {}
                Effect::Join((c, number), reply) => self.world.answer(c, number, Answer::Join(reply)),
                Effect::Sync((c, number), reply) => self.world.answer(c, number, Answer::Sync(reply)),
            }
        }
    }

    /// A client gets an answer; only that to its last request counts.
    fn hear(&mut self, c: usize, number: u64, answer: Answer) {
        let client = &mut self.clients[c];
        if number != client.asked || client.doing == Doing::Gone {
            return;
        }
        client.asked += 1; // a second answer to a request that was repeated is nobody's
        client.next_ms = self.world.now.mono_ms;
        let error = match answer {
            Answer::Beat(Ok(reply)) => return client.take_beat(reply),
            Answer::Join(reply) if reply.error.is_none() => return client.take_join(reply),
            Answer::Join(reply) if reply.error == Some(GroupError::MemberIdRequired) => {
                return client.id = reply.member_id;
            }
            Answer::Sync(reply) if reply.error.is_none() => return client.take_sync(&reply.assignment, &self.topics),
            Answer::Heartbeat(Ok(())) => return client.next_ms += CLASSIC_HEARTBEAT_MS,
            Answer::Beat(Err(error)) | Answer::Heartbeat(Err(error)) => error,
            Answer::Join(JoinReply { error, .. }) | Answer::Sync(SyncReply { error, .. }) => error.expect("refused"),
        };
        client.doing = Doing::Joining;
        match error {
            // What it holds it gives up when it joins again, or names then.
            GroupError::RebalanceInProgress => {}
            GroupError::UnreleasedInstanceId => client.next_ms += 1_000,
            GroupError::IllegalGeneration => client.held.clear(),
            GroupError::UnknownMemberId
            | GroupError::FencedMemberEpoch
            | GroupError::FencedInstanceId
            | GroupError::NotConsumer => {
                let is_calm = self.world.now.mono_ms > self.calm_ms;
                assert!(!(is_calm && client.is_member), "{client:?} hears {error} although it is alive");
                client.is_member = false;
                client.held.clear();
                if client.is_classic {
                    client.id.clear();
                }
            }
            error => panic!("{client:?} hears {error}"),
        }
    }
}

proptest! {
    // PROPTEST_CASES says otherwise.
    #![proptest_config(ProptestConfig { max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_keeps_the_invariants(seed in any::<u64>(), steps in 0u64..300) {
        Walk::new(seed).run(steps);
    }
}

/// Groups that went over while cooperative members still held what the leader had not assigned to them any more.
#[test]
fn schedules_that_failed_once() {
    for (seed, steps) in
        [(6_307_950_786_511_102_032, 147), (9_370_073_938_917_914_949, 232), (8_507_552_691_766_189_677, 274)]
    {
        Walk::new(seed).run(steps);
    }
}
