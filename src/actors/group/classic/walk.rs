//! Random schedules: members that join, sync, heartbeat, leave and die over a network that loses, delays and repeats, a
//! coordinator that is taken over from its last record, and clocks that jump.
//!
//! Checked at every step: generations never go back, a partition has one owner in a generation, and nobody is removed
//! without a reason (so that no live member hears UNKNOWN_MEMBER_ID). At the end the network is repaired: every member
//! must be assigned.

use super::*;
use crate::actors::group::consumer::simulation::{Packet, World};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 20_000;
const PARTITIONS: u8 = 7;
/// A client asks again when it heard nothing for this long.
const REQUEST_TIMEOUT_MS: u64 = 25_000;
const HEARTBEAT_MS: u64 = 3_000;

#[derive(Debug, Clone)]
enum Ask {
    Join(JoinRequest),
    Sync(SyncRequest),
    Heartbeat { id: String, instance: Option<String>, generation: i32 },
    Leave { id: String, instance: Option<String> },
}

#[derive(Debug, Clone)]
enum Answer {
    Join(JoinReply),
    Sync(SyncReply),
    Heartbeat(Result<(), GroupError>),
}

#[derive(Debug, Clone, PartialEq)]
enum Doing {
    Joining,
    Syncing,
    Member,
    Gone,
}

#[derive(Debug)]
struct Client {
    instance: Option<String>,
    id: String,
    generation: i32,
    leads: Vec<String>,
    doing: Doing,
    assignment: Vec<u8>,
    /// Number of its last request, and when to act next.
    asked: u64,
    next_ms: Ms,
}

struct Walk {
    world: World<Ask, Answer>,
    group: ClassicGroup<(usize, u64)>,
    limits: GroupLimits,
    clients: Vec<Client>,
    /// Who a SyncGroup was for.
    syncs: HashMap<(usize, u64), String>,
    rebalance_since: Ms,
    sync_since: Ms,
    generation_max: i32,
    owners: HashMap<(i32, u8), String>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let dice = &mut world.dice;
        let limits = GroupLimits { initial_rebalance_delay_ms: [0, 3_000][dice.index(2)], ..GroupLimits::default() };
        let clients = (0..1 + dice.roll(5))
            .map(|n| Client {
                instance: (dice.roll(3) == 0).then(|| format!("i{n}")),
                id: String::new(),
                generation: -1,
                leads: Vec::new(),
                doing: Doing::Joining,
                assignment: Vec::new(),
                asked: 0,
                next_ms: dice.roll(20_000),
            })
            .collect();
        Self {
            group: ClassicGroup::new(limits, world.now),
            world,
            limits,
            clients,
            syncs: HashMap::new(),
            rebalance_since: 0,
            sync_since: 0,
            generation_max: 0,
            owners: HashMap::new(),
        }
    }

    fn run(&mut self, steps: u64) {
        let chaos_until = self.world.now.mono_ms + steps * 1_000;
        while self.world.now.mono_ms < chaos_until {
            match self.world.dice.roll(400) {
                0 => self.take_over(),
                1 => self.world.jump(),
                2 => self.restart_client(),
                3 => self.leave_client(),
                _ => {}
            }
            self.advance();
        }
        self.world.repair();
        for client in self.clients.iter_mut().filter(|c| c.doing == Doing::Gone) {
            *client = Client { doing: Doing::Joining, id: String::new(), next_ms: chaos_until, ..take(client) };
        }
        while self.world.now.mono_ms < chaos_until + 600_000 {
            self.advance();
        }
        self.check_end();
    }

    fn check_end(&self) {
        assert_eq!(self.group.state(), State::Stable);
        assert_eq!(self.group.size(), self.clients.len());
        let mut all: Vec<u8> = Vec::new();
        for client in &self.clients {
            assert_eq!((&client.doing, client.generation), (&Doing::Member, self.group.generation()));
            all.extend(&client.assignment);
        }
        all.sort_unstable();
        assert_eq!(all, (0..PARTITIONS).collect::<Vec<_>>(), "every partition has one owner");
        let recovered: ClassicGroup<()> =
            ClassicGroup::recover(self.limits, self.world.now, GroupValue::clone(self.group.durable().unwrap()));
        assert_eq!(recovered.describe(), self.group.describe());
        assert_eq!((recovered.bytes(), recovered.subscribed()), (self.group.bytes(), self.group.subscribed()));
        assert_eq!(recovered.statics, self.group.statics);
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
                Packet::Ask(client, number, ask) => self.serve(client, number, ask),
                Packet::Answer(client, number, answer) => self.hear(client, number, answer),
            }
        }
        self.tick();
    }

    fn tick(&mut self) {
        // As the coordinator does.
        if self.world.stood_still() {
            self.group.extend_sessions(self.world.now);
            self.members().into_iter().for_each(|id| self.world.heard(id));
        }
        let before = self.members();
        let mut effects = Vec::new();
        let expired = self.group.expire(self.world.now, &mut effects);
        for id in before.difference(&self.members()) {
            let silent_ms = self.world.silent_ms(id);
            let why = [
                expired.contains(&Expired::Session(id.as_str().into())) && silent_ms >= SESSION_MS,
                expired.contains(&Expired::Join) && self.world.now.mono_ms - self.rebalance_since >= REBALANCE_MS,
                expired.contains(&Expired::Sync) && self.world.now.mono_ms - self.sync_since >= REBALANCE_MS,
            ];
            assert!(why.contains(&true), "{id} was removed after {silent_ms} ms of silence: {expired:?}");
        }
        self.take(effects);
    }

    fn members(&self) -> HashSet<String> {
        self.group.members.keys().map(ToString::to_string).collect()
    }

    fn take_over(&mut self) {
        self.world.cut();
        self.group = match self.group.durable() {
            Some(value) => ClassicGroup::recover(self.limits, self.world.now, GroupValue::clone(value)),
            None => ClassicGroup::new(self.limits, self.world.now),
        };
        self.members().into_iter().for_each(|id| self.world.heard(id));
        self.rebalance_since = self.world.now.mono_ms;
        self.sync_since = self.world.now.mono_ms;
        // Who waited finds its connection closed and asks again.
        for client in &mut self.clients {
            client.next_ms = client.next_ms.min(self.world.now.mono_ms + 100);
        }
    }

    fn restart_client(&mut self) {
        let c = self.world.dice.index(self.clients.len());
        let client = take(&mut self.clients[c]);
        self.clients[c] = Client {
            doing: Doing::Joining,
            id: String::new(),
            next_ms: self.world.now.mono_ms,
            asked: client.asked + 1,
            ..client
        };
    }

    fn leave_client(&mut self) {
        let c = self.world.dice.index(self.clients.len());
        let client = &mut self.clients[c];
        if !client.id.is_empty() && client.doing != Doing::Gone {
            client.doing = Doing::Gone;
            let ask = Ask::Leave { id: client.id.clone(), instance: client.instance.clone() };
            self.send_ask(c, ask);
        }
    }

    /// What a client does next by itself: a first request, a request again, or a heartbeat.
    fn act(&mut self, c: usize) {
        let client = &mut self.clients[c];
        client.next_ms = self.world.now.mono_ms + REQUEST_TIMEOUT_MS;
        let ask = match client.doing {
            Doing::Joining => Ask::Join(JoinRequest {
                member_id: client.id.clone(),
                instance: client.instance.clone(),
                client_id: format!("c{c}"),
                session_timeout_ms: SESSION_MS as i32,
                rebalance_timeout_ms: REBALANCE_MS as i32,
                protocol_type: "consumer".into(),
                protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"\0\0\0\0\0\0") }],
                asks_for_id: !c.is_multiple_of(3),
                may_skip_assignment: c.is_multiple_of(2),
                ..JoinRequest::default()
            }),
            Doing::Syncing => {
                let mut assignments: Vec<(String, Vec<u8>)> =
                    client.leads.iter().map(|m| (m.clone(), vec![])).collect();
                let members = assignments.len();
                for partition in 0..PARTITIONS {
                    if members > 0 {
                        assignments[partition as usize % members].1.push(partition);
                    }
                }
                Ask::Sync(SyncRequest {
                    member_id: client.id.clone(),
                    instance: client.instance.clone(),
                    generation: client.generation,
                    assignments: assignments.into_iter().map(|(m, a)| (m, a.into())).collect(),
                    ..SyncRequest::default()
                })
            }
            Doing::Member => {
                client.next_ms = self.world.now.mono_ms + HEARTBEAT_MS;
                let (id, instance) = (client.id.clone(), client.instance.clone());
                Ask::Heartbeat { id, instance, generation: client.generation }
            }
            Doing::Gone => return,
        };
        self.send_ask(c, ask);
    }

    fn send_ask(&mut self, c: usize, ask: Ask) {
        self.clients[c].asked += 1;
        self.world.ask(c, self.clients[c].asked, ask);
    }

    /// The coordinator gets a request.
    fn serve(&mut self, c: usize, number: u64, ask: Ask) {
        let (before, mut effects) = (self.members(), Vec::new());
        let state = self.group.state();
        let mut may_go = HashSet::new();
        match ask {
            Ask::Join(request) => {
                let same = |id: &&String| self.group.members[id.as_str()].value.instance == request.instance;
                may_go.extend(before.iter().filter(|_| request.instance.is_some()).filter(same).cloned());
                let unique = self.world.unique().to_string();
                self.group.join(self.world.now, request, &unique, (c, number), &mut effects);
            }
            Ask::Sync(request) => {
                self.syncs.insert((c, number), request.member_id.clone());
                self.group.sync(self.world.now, request, (c, number), &mut effects);
            }
            Ask::Heartbeat { id, instance, generation } => {
                let outcome = self.group.heartbeat(self.world.now, &id, instance.as_deref(), generation);
                if matches!(outcome, Ok(()) | Err(GroupError::RebalanceInProgress)) {
                    self.world.heard(id);
                }
                self.world.answer(c, number, Answer::Heartbeat(outcome));
            }
            Ask::Leave { id, instance } => {
                may_go.insert(id.clone());
                self.group.leave(self.world.now, &[(id, instance)], &mut effects);
            }
        }
        if self.group.state() == State::PreparingRebalance && state != State::PreparingRebalance {
            self.rebalance_since = self.world.now.mono_ms;
        }
        for id in before.difference(&self.members()) {
            assert!(may_go.contains(id), "{id} was removed by a request of client {c}");
        }
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect<(usize, u64)>>) {
        for effect in effects {
            match effect {
                Effect::Recorded => self.recorded(),
                Effect::Join((c, number), reply) => {
                    if reply.error.is_none() {
                        assert!(reply.generation <= self.generation_max, "announced before it was recorded");
                        self.world.heard(reply.member_id.clone());
                    }
                    self.world.answer(c, number, Answer::Join(reply));
                }
                Effect::Sync((c, number), reply) => {
                    if matches!(reply.error, None | Some(GroupError::RebalanceInProgress)) {
                        self.world.heard(self.syncs[&(c, number)].clone());
                    }
                    self.world.answer(c, number, Answer::Sync(reply));
                }
            }
        }
        match self.group.state() {
            State::PreparingRebalance => {}
            _ => self.rebalance_since = self.world.now.mono_ms,
        }
    }

    fn recorded(&mut self) {
        let value = self.group.durable().unwrap().clone();
        assert!(value.generation >= self.generation_max, "the generation went back");
        if value.generation > self.generation_max {
            self.sync_since = self.world.now.mono_ms;
        }
        self.generation_max = value.generation;
        for member in &value.members {
            // A static member stays who it is under every id.
            let who = member.instance.clone().unwrap_or_else(|| member.id.clone());
            for partition in member.assignment.iter().filter(|_| value.phase == Phase::Stable) {
                let owner = self.owners.entry((value.generation, *partition)).or_insert_with(|| who.clone());
                assert_eq!(*owner, who, "partition {partition} of generation {}", value.generation);
            }
        }
    }

    /// A client gets an answer; only that to its last request counts.
    fn hear(&mut self, c: usize, number: u64, answer: Answer) {
        let now_ms = self.world.now.mono_ms;
        let client = &mut self.clients[c];
        if number != client.asked || client.doing == Doing::Gone {
            return;
        }
        client.next_ms = now_ms;
        let error = match answer {
            Answer::Join(reply) => match reply.error {
                None => {
                    client.id = reply.member_id;
                    client.generation = reply.generation;
                    let leads = reply.leader == client.id && !reply.skip_assignment;
                    client.leads = reply.members.into_iter().filter(|_| leads).map(|m| m.id).collect();
                    client.doing = Doing::Syncing;
                    return;
                }
                Some(GroupError::MemberIdRequired) => return client.id = reply.member_id,
                Some(error) => error,
            },
            Answer::Sync(reply) => match reply.error {
                None => {
                    client.assignment = reply.assignment.to_vec();
                    client.doing = Doing::Member;
                    client.next_ms = now_ms + HEARTBEAT_MS;
                    return;
                }
                Some(error) => error,
            },
            Answer::Heartbeat(Ok(())) => return client.next_ms = now_ms + HEARTBEAT_MS,
            Answer::Heartbeat(Err(error)) => error,
        };
        client.doing = Doing::Joining;
        if matches!(error, GroupError::UnknownMemberId | GroupError::FencedInstanceId) {
            client.id.clear(); // as if it were started again
        }
    }
}

fn take(client: &mut Client) -> Client {
    let empty = Client {
        instance: None,
        id: String::new(),
        generation: -1,
        leads: Vec::new(),
        doing: Doing::Gone,
        assignment: Vec::new(),
        asked: 0,
        next_ms: 0,
    };
    std::mem::replace(client, empty)
}

proptest! {
    // PROPTEST_CASES says otherwise.
    #![proptest_config(ProptestConfig { max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_keeps_the_invariants(seed in any::<u64>(), steps in 0u64..300) {
        Walk::new(seed).run(steps);
    }
}
