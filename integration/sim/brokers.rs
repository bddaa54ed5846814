//! What happens to the brokers of a simulated cluster.

use super::link::{Cut, Link};
use super::process::Process;
use super::world::World;
use super::{NODES, PARTITIONS, clients, panics};
use crate::workload::Rng;
use kafscale::ids::{BrokerId, PartitionIndex};
use kafscale::storage::fault::FaultRates;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Starts of a broker that faults of the stores may prevent in a row. After that the stores do not fail for a while.
const START_ATTEMPTS_MAX: u32 = 30;
/// Starts that may fail then: by what a fault of before left to end.
const MORE_ATTEMPTS_MAX: u32 = 60;
/// A process is stopped, or cut off, for up to this long: some leases.
const PAUSE_MS_MAX: u64 = 40_000;
/// How far a wall clock may be wrong, ms.
const CLOCK_SHIFT_MS_MAX: u64 = 3_600_000;

/// The brokers of a run.
#[derive(Default)]
pub struct Brokers {
    /// Those that should serve.
    pub running: Vec<Process>,
    /// They do not know that they were, or will be, replaced.
    pub zombies: Vec<Process>,
}

impl Brokers {
    /// Tells clients whom they can reach.
    pub fn publish(&self, world: &World) {
        world.publish(self.running.iter().chain(&self.zombies));
    }

    /// Starts a broker, however often that fails.
    pub async fn start(&mut self, world: &Rc<World>, node: BrokerId) {
        let mut attempts = 0;
        let process = loop {
            match Process::start_node(world, node, true).await {
                Ok(process) => break process,
                Err(error) => {
                    attempts += 1;
                    if attempts == START_ATTEMPTS_MAX {
                        world.set_faults(FaultRates::default(), 0);
                    }
                    let attempts_max = START_ATTEMPTS_MAX + MORE_ATTEMPTS_MAX;
                    let fails_for_ever = error.contains("panicked") || attempts == attempts_max;
                    assert!(
                        !fails_for_ever,
                        "broker {node} does not start any more, {attempts} times in a row: {error}"
                    );
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        world.trace.happened("broker: started");
        clients::check_offsets(world, &process.reachable()).await;
        self.running.push(process);
        self.publish(world);
    }

    fn bury(&mut self, world: &World) {
        assert_eq!(panics(), 0, "something panicked");
        assert_eq!(*world.broken.lock().expect("no panic under the lock"), [] as [String; 0]);
        let before = self.running.len() + self.zombies.len();
        self.running.retain(|p| !p.is_dead());
        self.zombies.retain(|p| !p.is_dead());
        (self.running.len() + self.zombies.len()..before).for_each(|_| world.trace.happened("broker: fenced"));
    }

    /// Something happens to the cluster.
    pub async fn change(&mut self, world: &Rc<World>, random: &mut Rng) {
        self.bury(world);
        let absent: Vec<i32> = (1..=NODES).filter(|n| self.running.iter().all(|p| p.node.0 != *n)).collect();
        let one = |random: &mut Rng, len: usize| random.below(len as u64) as usize;
        match random.below(18) {
            _ if self.running.is_empty() => self.start(world, BrokerId(absent[one(random, absent.len())])).await,
            0..=3 if !absent.is_empty() => self.start(world, BrokerId(absent[one(random, absent.len())])).await,
            4 => {
                world.trace.happened("broker: replaced while it runs");
                let node = self.running[one(random, self.running.len())].node;
                let (former, rest) = self.running.drain(..).partition(|p| p.node == node);
                self.running = rest;
                self.zombies.extend(former);
                self.start(world, node).await;
            }
            5 | 6 => {
                world.trace.happened("broker: crashed");
                drop(self.running.swap_remove(one(random, self.running.len())));
            }
            7 => {
                world.trace.happened("broker: lease forgotten");
                let process = self.running.swap_remove(one(random, self.running.len()));
                process.forget_lease();
                self.zombies.push(process);
            }
            8 if self.running.len() > 1 => {
                world.trace.happened("broker: drained");
                let process = self.running.swap_remove(one(random, self.running.len()));
                drain(&process).await;
            }
            9 | 10 => move_partitions(world, random).await,
            11 | 12 => {
                let process = &self.running[one(random, self.running.len())];
                pause(world, &process.link, random);
            }
            13 | 14 => {
                let process = &self.running[one(random, self.running.len())];
                cut(&process.link, random);
            }
            15 => {
                world.trace.happened("broker: clock jumped");
                let process = &self.running[one(random, self.running.len())];
                let shift_ms = random.below(2 * CLOCK_SHIFT_MS_MAX) as i64 - CLOCK_SHIFT_MS_MAX as i64;
                process.clock_shift_ms.store(shift_ms, Ordering::Relaxed);
                world.keyed.borrow_mut().clock_jumps();
            }
            16 => {
                world.trace.happened("broker: drain called off");
                let process = &self.running[one(random, self.running.len())];
                if let Ok(hold) = process.drains.begin() {
                    tokio::time::sleep(Duration::from_millis(random.below(2_000))).await;
                    drop(hold);
                    let _taken = process.drains.undrain(); // it may have been drained
                }
            }
            _ => {}
        }
        self.zombies.retain(|_| random.below(4) > 0);
        self.publish(world);
    }

    /// Stops some of those that run as by SIGSTOP, and forgets them.
    pub fn put_to_sleep(&mut self, random: &mut Rng) -> Vec<Process> {
        let (asleep, rest) = self.running.drain(..).partition(|_| random.below(4) == 0);
        self.running = rest;
        let asleep: Vec<Process> = asleep;
        asleep.iter().for_each(|p| p.link.sleep());
        asleep
    }

    /// Everybody can reach the stores and runs, and nobody lives who was replaced.
    pub fn heal(&mut self, world: &World) {
        self.bury(world);
        self.zombies.clear();
        self.running.iter().for_each(|p| p.link.heal());
        self.publish(world);
    }
}

async fn move_partitions(world: &World, random: &mut Rng) {
    let moves = (0..PARTITIONS).map(|p| (PartitionIndex(p), BrokerId(1 + random.below(NODES as u64) as i32)));
    let (moves, topic) = (moves.collect(), world.topic.get().expect("created first"));
    drop(world.admin().place_partitions("sim", topic, &moves, BrokerId(1)).await); // it may be as it should be
}

/// As SIGSTOP does, and SIGCONT after a while.
fn pause(world: &World, link: &Arc<Link>, random: &mut Rng) {
    let wait_ms = random.below(PAUSE_MS_MAX);
    world.trace.happened("broker: stopped and continued");
    link.pause();
    let link = link.clone();
    tokio::task::spawn_local(async move {
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        link.resume();
    });
}

/// The process cannot reach one of the stores for a while.
fn cut(link: &Arc<Link>, random: &mut Rng) {
    let wait_ms = random.below(PAUSE_MS_MAX);
    let (of_metadata, cut) = (random.below(2) == 0, [Cut::Requests, Cut::Answers][random.below(2) as usize]);
    let link = link.clone();
    let way = move |link: &Link, cut| link.cut(if of_metadata { &link.metadata } else { &link.objects }, cut);
    way(&link, cut);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        way(&link, Cut::Nothing);
    });
}

/// Gives everything away, if anybody takes it, and ends.
pub async fn drain(process: &Process) {
    let dead = async {
        while !process.is_dead() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let drained = tokio::time::timeout(Duration::from_secs(60), process.drains.stop());
    tokio::select! {
        biased;
        _ = drained => {}
        () = dead => {}
    }
}
