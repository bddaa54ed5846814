//! What random walks share: dice, a clock, and a network that loses, delays and repeats what is sent.
//!
//! `A` is what clients ask and `B` what they are answered. Clients are numbered, and so are the requests of each.

use crate::actors::group::classic::{Ms, Now};
use std::collections::HashMap;

/// A coordinator that was not scheduled for this long knows that it stood still, ms.
const STOOD_STILL_MS: u64 = 2_000;

/// Small, seeded, and enough.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// True once in `sides` times.
    pub fn once_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        self.roll(len as u64) as usize
    }
}

/// What is on its way: of or to a client, with the number of the request.
pub enum Packet<A, B> {
    Ask(usize, u64, A),
    Answer(usize, u64, B),
}

/// See the module's documentation.
pub struct World<A, B> {
    pub dice: Dice,
    pub now: Now,
    /// Of 100 packets.
    pub lost: u64,
    /// Of 100 requests.
    pub repeated: u64,
    pub delay_ms: u64,
    /// The requests of a client arrive in the order in which it sent them.
    pub in_order: bool,
    packets: Vec<(Ms, u64, Packet<A, B>)>,
    sent: u64,
    /// When the last request of a client is due.
    due: HashMap<usize, Ms>,
    heard: HashMap<String, Ms>,
    last_tick: Ms,
}

impl<A: Clone, B> World<A, B> {
    /// One that is as bad as the dice say.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let in_order = !dice.once_in(3);
        Self {
            lost: dice.roll(15),
            repeated: if in_order { 0 } else { dice.roll(15) },
            delay_ms: 1 + dice.roll(8_000),
            in_order,
            dice,
            now: Now { mono_ms: 1_000, wall_ms: 1 },
            packets: Vec::new(),
            sent: 0,
            due: HashMap::new(),
            heard: HashMap::new(),
            last_tick: 0,
        }
    }

    /// From now on the network is as good as networks are.
    pub fn repair(&mut self) {
        (self.lost, self.repeated, self.delay_ms) = (0, 0, 50);
    }

    /// A number that nobody had.
    pub fn unique(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    pub fn ask(&mut self, client: usize, number: u64, ask: A) {
        let copies = if self.dice.roll(100) < self.repeated { 2 } else { 1 };
        for _ in 0..copies {
            let mut at = self.now.mono_ms + self.dice.roll(self.delay_ms);
            if self.in_order {
                let due = self.due.entry(client).or_default();
                at = at.max(*due);
                *due = at;
            }
            self.send(at, Packet::Ask(client, number, ask.clone()));
        }
    }

    pub fn answer(&mut self, client: usize, number: u64, answer: B) {
        let at = self.now.mono_ms + self.dice.roll(self.delay_ms);
        self.send(at, Packet::Answer(client, number, answer));
    }

    fn send(&mut self, at: Ms, packet: Packet<A, B>) {
        let order = self.unique();
        if self.dice.roll(100) >= self.lost {
            self.packets.push((at, order, packet));
        }
    }

    /// Connections are cut: what was asked on them is never read.
    pub fn cut(&mut self) {
        self.packets.retain(|(_, _, packet)| matches!(packet, Packet::Answer(..)));
    }

    /// Lets some time pass.
    pub fn pass(&mut self) {
        let step = 1 + self.dice.roll(300);
        self.now.mono_ms += step;
        self.now.wall_ms += step as i64;
    }

    /// The process stands still for up to a minute, and the wall clock is set.
    pub fn jump(&mut self) {
        self.now.mono_ms += self.dice.roll(60_000);
        self.now.wall_ms += self.dice.roll(200_000) as i64 - 100_000;
    }

    /// What has arrived, in its order.
    pub fn arrived(&mut self) -> Vec<Packet<A, B>> {
        let now_ms = self.now.mono_ms;
        let mut due: Vec<_> = self.packets.extract_if(.., |(at, ..)| *at <= now_ms).collect();
        due.sort_by_key(|(at, order, _)| (*at, *order));
        due.into_iter().map(|(_, _, packet)| packet).collect()
    }

    /// Whether the coordinator stood still since this was asked last.
    pub fn stood_still(&mut self) -> bool {
        let since = std::mem::replace(&mut self.last_tick, self.now.mono_ms);
        self.now.mono_ms - since > STOOD_STILL_MS
    }

    /// The coordinator heard of a member, or gave it a whole session.
    pub fn heard(&mut self, id: impl Into<String>) {
        self.heard.insert(id.into(), self.now.mono_ms);
    }

    /// For how long a member was silent.
    pub fn silent_ms(&self, id: &str) -> u64 {
        self.now.mono_ms - self.heard.get(id).copied().unwrap_or(0)
    }
}
