//! Random schedules: members that join, go on, leave and die over a network that loses, delays and repeats, topics that
//! come, grow and go, a coordinator that is taken over from what is durable, and clocks that jump.
//!
//! Checked at every step: epochs never go back, no partition has two owners, nobody is removed without a reason, and,
//! where each client's requests arrive in the order in which it sent them, whatever a member believes to hold nobody else
//! can be given. At the end the network is repaired: every partition must have one member that knows it.

use super::simulation::{Packet, World};
use super::tests::Shelf;
use super::value::{Assignment, partitions};
use super::*;
use proptest::prelude::*;

const HEARTBEAT_MS: u64 = 5_000;
const SESSION_MS: u64 = 45_000;
const REBALANCE_MS: u64 = 20_000;
/// A client asks again when it heard nothing for this long.
const REQUEST_TIMEOUT_MS: u64 = 9_000;
const TOPICS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    Joining,
    Member,
    Gone,
}

#[derive(Debug)]
struct Client {
    id: String,
    instance: Option<String>,
    doing: Doing,
    epoch: i32,
    held: Assignment,
    asked: u64,
    next_ms: Ms,
    /// Its last request was not answered.
    is_unsure: bool,
}

type Answer = Result<HeartbeatReply, GroupError>;

struct Walk {
    world: World<HeartbeatRequest, Answer>,
    group: ConsumerGroup,
    limits: ConsumerLimits,
    topics: Shelf,
    clients: Vec<Client>,
    epochs: (i32, i32),
    incarnations: u64,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let dice = &mut world.dice;
        let clients: Vec<Client> = (0..1 + dice.roll(6))
            .map(|n| Client {
                id: format!("m{n}"),
                instance: (dice.roll(3) == 0).then(|| format!("i{n}")),
                doing: Doing::Joining,
                epoch: 0,
                held: Assignment::new(),
                asked: 0,
                next_ms: dice.roll(20_000),
                is_unsure: true,
            })
            .collect();
        let mut topics = Shelf::default();
        TOPICS.iter().for_each(|name| topics.set(name, 0, 1 + dice.roll(5) as i32));
        let mut limits = ConsumerLimits::default();
        if dice.roll(2) == 0 {
            limits.assignors = [Some(Assignor::Range), Some(Assignor::Uniform)];
        }
        let group = ConsumerGroup::new(world.now, 0);
        Self { world, group, limits, topics, clients, epochs: (0, 0), incarnations: 0 }
    }

    fn run(&mut self, steps: u64) {
        let chaos_until = self.world.now.mono_ms + steps * 1_000;
        while self.world.now.mono_ms < chaos_until {
            match self.world.dice.roll(400) {
                0 => self.take_over(),
                1 => self.world.jump(),
                2 | 3 => self.restart_client(),
                4 | 5 => self.leave_client(),
                6 => self.change_topics(),
                _ => {}
            }
            self.advance();
        }
        self.world.repair();
        for c in 0..self.clients.len() {
            if self.clients[c].doing == Doing::Gone {
                self.begin_again(c);
            }
        }
        while self.world.now.mono_ms < chaos_until + 400_000 {
            self.advance();
        }
        self.check_end();
    }

    fn check_end(&mut self) {
        assert_eq!(self.group.state(), ConsumerState::Stable);
        assert_eq!(self.group.size(), self.clients.len());
        let mut held: Vec<PartitionKey> = self.clients.iter().flat_map(|c| partitions(&c.held)).collect();
        held.sort_unstable();
        assert_eq!(held, self.topics.partitions(), "every partition has one member that knows it");
        let recovered = ConsumerGroup::recover(&self.limits, self.world.now, self.group.durable());
        assert_eq!(recovered.durable(), self.group.durable());
        assert_eq!((recovered.bytes, &recovered.statics), (self.group.bytes, &self.group.statics));
        assert_eq!((&recovered.owners, &recovered.names), (&self.group.owners, &self.group.names));
    }

    fn advance(&mut self) {
        self.world.pass();
        for c in 0..self.clients.len() {
            if self.clients[c].next_ms <= self.world.now.mono_ms && self.clients[c].doing != Doing::Gone {
                self.ask(c);
            }
        }
        for packet in self.world.arrived() {
            match packet {
                Packet::Ask(c, number, request) => self.serve(c, number, request),
                Packet::Answer(c, number, answer) => self.hear(c, number, answer),
            }
            self.check();
        }
        self.tick();
        self.check();
    }

    fn check(&mut self) {
        let epochs = self.group.epochs();
        assert!(epochs.0 >= self.epochs.0 && epochs.1 >= self.epochs.1, "{epochs:?} after {:?}", self.epochs);
        self.epochs = epochs;
        self.group.durable().check().unwrap();
        for client in self.clients.iter().filter(|c| self.world.in_order && c.doing == Doing::Member) {
            let known = self.group.members.get(client.id.as_str()).filter(|m| m.value.epoch >= client.epoch);
            for key in partitions(&client.held).filter(|_| known.is_some()) {
                assert!(self.group.holds(&client.id, &key), "{key} is not safe with {}", client.id);
            }
        }
    }

    fn tick(&mut self) {
        // As the coordinator does.
        if self.world.stood_still() {
            self.group.extend_sessions(self.world.now, &self.limits);
            self.group.members.keys().for_each(|id| self.world.heard(&**id));
        }
        let unrevoked: BTreeMap<MemberId, MemberState> =
            self.group.members.iter().map(|(id, m)| (id.clone(), m.value.state)).collect();
        for id in self.group.expire(self.world.now, self.topics.at()) {
            let silent_ms = self.world.silent_ms(&id);
            let slow = unrevoked[&id] == MemberState::Unrevoked;
            assert!(silent_ms >= SESSION_MS || slow, "{id} was removed after {silent_ms} ms of silence");
        }
    }

    fn take_over(&mut self) {
        self.world.cut();
        self.group = ConsumerGroup::recover(&self.limits, self.world.now, self.group.durable());
        self.group.members.keys().for_each(|id| self.world.heard(&**id));
    }

    fn change_topics(&mut self) {
        let name = TOPICS[self.world.dice.index(3)];
        let generation = self.world.dice.roll(250) as u8;
        let found = self.topics.find(name);
        match (self.world.dice.roll(3), found) {
            (0, _) => self.topics.delete(name),
            (1, Some((id, count))) => self.topics.set(name, id.0.as_bytes()[15], count + 1),
            _ => self.topics.set(name, generation, 1 + self.world.dice.roll(5) as i32),
        }
    }

    /// The process of a client dies and another one starts.
    fn restart_client(&mut self) {
        let c = self.world.dice.index(self.clients.len());
        self.begin_again(c);
    }

    fn begin_again(&mut self, c: usize) {
        self.incarnations += 1;
        let client = &mut self.clients[c];
        client.id = format!("m{c}.{}", self.incarnations);
        client.doing = Doing::Joining;
        client.held = Assignment::new();
        (client.asked, client.next_ms) = (client.asked + 1, self.world.now.mono_ms);
    }

    fn leave_client(&mut self) {
        let c = self.world.dice.index(self.clients.len());
        let client = &mut self.clients[c];
        if client.doing != Doing::Member {
            return;
        }
        let epoch = if client.instance.is_some() { LEAVE_STATIC_EPOCH } else { LEAVE_EPOCH };
        client.doing = Doing::Gone;
        client.held = Assignment::new();
        client.asked += 1;
        let request = request_of(client, epoch);
        let number = client.asked;
        self.world.ask(c, number, request);
    }

    fn ask(&mut self, c: usize) {
        let client = &mut self.clients[c];
        client.next_ms = self.world.now.mono_ms + REQUEST_TIMEOUT_MS;
        client.asked += 1;
        let mut request = request_of(client, if client.doing == Doing::Joining { 0 } else { client.epoch });
        request.owned = Some(client.held.clone());
        if client.doing == Doing::Joining || client.is_unsure {
            request.rebalance_timeout_ms = REBALANCE_MS as i32;
            request.names = Some(TOPICS.iter().map(|t| (*t).to_owned()).collect());
        }
        client.is_unsure = true;
        let number = client.asked;
        self.world.ask(c, number, request);
    }

    fn serve(&mut self, c: usize, number: u64, request: HeartbeatRequest) {
        heartbeat::check(&self.limits, &request).unwrap();
        let (id, goes_on) = (request.member_id.clone(), request.epoch >= 0);
        let answer = self.group.heartbeat(self.world.now, &self.limits, self.topics.at(), request);
        if goes_on && answer.is_ok() {
            self.world.heard(id);
        }
        self.world.answer(c, number, answer);
    }

    /// A client gets an answer; only that to its last request counts.
    fn hear(&mut self, c: usize, number: u64, answer: Answer) {
        let now_ms = self.world.now.mono_ms;
        let client = &mut self.clients[c];
        if number != client.asked || client.doing == Doing::Gone {
            return;
        }
        client.asked += 1; // a second answer to a request that was repeated is nobody's
        match answer {
            Ok(reply) => {
                assert_eq!(reply.member_id, client.id);
                assert!(client.doing == Doing::Joining || reply.epoch >= client.epoch, "a member's epoch went back");
                client.doing = Doing::Member;
                client.epoch = reply.epoch;
                let has_news = reply.assignment.is_some();
                client.held = reply.assignment.unwrap_or(std::mem::take(&mut client.held));
                client.is_unsure = false;
                client.next_ms = now_ms + if has_news { 100 } else { HEARTBEAT_MS };
            }
            Err(GroupError::UnreleasedInstanceId) => client.next_ms = now_ms + 1_000,
            Err(GroupError::FencedMemberEpoch | GroupError::UnknownMemberId | GroupError::FencedInstanceId) => {
                client.doing = Doing::Joining;
                client.held = Assignment::new();
                client.next_ms = now_ms;
            }
            Err(error) => panic!("{} hears {error}", client.id),
        }
    }
}

fn request_of(client: &Client, epoch: i32) -> HeartbeatRequest {
    HeartbeatRequest {
        member_id: client.id.clone(),
        epoch,
        instance: client.instance.clone(),
        rebalance_timeout_ms: -1,
        brings_id: true,
        ..HeartbeatRequest::default()
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
