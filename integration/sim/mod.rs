//! A cluster of a few brokers on one thread under paused time, with stores that fail, brokers that crash, stop, cannot reach
//! a store, go on after they were replaced, drain, and clocks that jump. Hours of it take seconds, so that many seeds can be
//! tried: `make sim SEEDS=1000`.
//!
//! A seed decides everything: faults, load, moments, jitter and ids. Whatever happens in a run (transactions, objects, answers
//! to clients, with their times) is hashed, and two runs of a seed have the same hash. So a seed that fails fails again.
//!
//! Consumers read meanwhile: no hole, no value at two offsets, no two values at one, and what could be read once can be read
//! again unless it was deleted. Whoever coordinates a group has all offsets that anybody knows to be committed.
//!
//! At the end, without faults: every acked value is at its acked offset, offsets are dense, no value is there twice,
//! values of one producer are in order, what was read is there, log starts are what was asked for and confirmed, and every
//! WAL slot that a successor needs exists. Nothing has panicked, and no process has ended but by being fenced.
//!
//! - `world.rs`: what outlives processes; `process.rs`: a process; `brokers.rs`: what happens to processes;
//! - `faults.rs`: the metadata store's faults; `link.rs`: cut networks and stopped processes; `trace.rs`: what happened;
//! - `restored.rs`: the metadata store goes back to a backup, and is recovered; `compacted.rs`: a topic compacted by key;
//! - `takeover.rs`, `burial.rs`, `rollback.rs`, `remains.rs`: single schedules, step by step;
//! - `clients.rs`: the load, and what clients check; `check.rs`: what must hold at the end;
//! - `tests.rs`: seeds, determinism, and defects that have to be found.

mod brokers;
mod burial;
mod check;
mod clients;
mod compacted;
mod faults;
mod link;
mod process;
mod remains;
mod restored;
mod rollback;
mod takeover;
mod tests;
mod trace;
mod world;

use crate::workload::Rng;
use brokers::{Brokers, drain};
pub use check::{check, keys};
use kafscale::ids::BrokerId;
use kafscale::storage::fault::{FaultRates, FaultStore};
pub use process::Process;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::task::LocalSet;
use trace::Trace;
pub use world::World;

const PARTITIONS: i32 = 4;
/// Brokers of the cluster, of which some run.
const NODES: i32 = 3;
const PRODUCERS: u64 = 3;
const GROUPS: u64 = 4;
/// In one of so many runs there is a topic that is compacted by key.
const COMPACTED_ONE_IN: u64 = 3;
/// In one of so many runs the metadata store goes back to a backup.
const GOES_BACK_ONE_IN: u64 = 4;
/// Times that the faults change in one run.
const PHASES: u64 = 5;
/// Unacked batches of a producer in a partition.
const IN_FLIGHT_MAX: usize = 5;
/// How long a start or a step of maintenance may take: with slow stores thousands of objects are read at their pace.
const PATIENCE: Duration = Duration::from_secs(6 * 3_600);
/// How long a client waits for an answer before it goes on.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Records that were acked, and sent.
    acked: u64,
    sent: u64,
    /// Number and hash of all events, and the events, if they were kept.
    events: u64,
    hash: u64,
    lines: Vec<String>,
    /// How often what happened.
    happened: BTreeMap<&'static str, u64>,
}

type Witnesses = (Arc<Trace>, Arc<FaultStore>);

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
    /// Who knows what happened in the present run, or in the last one.
    static WITNESSES: RefCell<Option<Witnesses>> = const { RefCell::new(None) };
}

/// Panics on this thread since the run began, also those that somebody caught.
fn panics() -> u32 {
    PANICS.get()
}

fn count_panics() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
    PANICS.set(0);
}

/// One run. Its events are kept as text if `keep`.
fn simulate_alone(seed: u64, keep: bool) -> Outcome {
    count_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(LocalSet::new().run_until(simulate(seed, keep)))
}

async fn simulate(seed: u64, keep: bool) -> Outcome {
    kafscale::rng::follow(seed);
    let mut random = Rng(seed);
    let world = World::traced(&mut random, BTreeMap::new(), keep).await;
    WITNESSES.set(Some((world.trace.clone(), world.objects.clone())));
    if random.below(COMPACTED_ONE_IN) == 0 {
        compacted::create(&world).await;
    }
    let mut goes_back = random.below(GOES_BACK_ONE_IN) == 0;
    let clients = start_clients(&world, &mut random);
    let (mut brokers, mut saved) = (Brokers::default(), None);
    for _ in 0..PHASES {
        world.set_faults(rates(&mut random), random.below(100));
        if goes_back && let Some(saved) = saved.take() {
            let last_chance = random.below(3) == 0;
            restored::restore(&mut brokers, &world, saved, &mut random).await;
            goes_back = !last_chance;
        }
        for _ in 0..1 + random.below(5) {
            if goes_back && random.below(4) == 0 {
                saved = Some(restored::save(&world));
            }
            brokers.change(&world, &mut random).await;
            tokio::time::sleep(Duration::from_millis(random.below(3_000))).await;
            tokio::time::sleep(Duration::from_millis(random.below(20_000) * random.below(2))).await;
        }
    }
    world.set_faults(FaultRates::default(), 0);
    world.stop.set(true);
    brokers.heal(&world);
    brokers.start(&world, BrokerId(NODES + 1)).await;
    for client in clients {
        let done = tokio::time::timeout(Duration::from_secs(3_600), client).await;
        done.expect("every batch is acked once nothing fails").expect("no client panics");
    }
    let last = brokers.running.pop().expect("just started");
    for process in std::mem::take(&mut brokers.running) {
        drain(&process).await;
        drop(process);
    }
    let everything = async {
        while compacted::partitions(&world).iter().any(|key| last.context.directory.get(key).is_none()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), everything).await.expect("the last broker leads everything");
    clients::check_offsets(&world, &last.reachable()).await;
    check(&world, &last).await;
    compacted::check(&world, &last).await;
    if world.age.get() > 0 {
        restored::tidy(&world).await;
    }
    check::clean_up(&last).await;
    check(&world, &last).await;
    compacted::check(&world, &last).await;
    check::nothing_is_left(&world, &last).await;
    assert_eq!(panics(), 0, "something panicked");
    assert_eq!(*world.broken.lock().expect("no panic under the lock"), [] as [String; 0]);
    outcome(&world)
}

fn start_clients(world: &Rc<World>, random: &mut Rng) -> Vec<tokio::task::JoinHandle<()>> {
    use tokio::task::spawn_local;
    let mut running = Vec::new();
    for partition in 0..PARTITIONS {
        for producer in 1..=PRODUCERS {
            running.push(spawn_local(clients::produce(world.clone(), producer, partition, random.next())));
        }
        running.push(spawn_local(clients::consume(world.clone(), partition, random.next())));
        running.push(spawn_local(clients::trim(world.clone(), partition, random.next())));
    }
    if world.compacted.get().is_some() {
        running.push(spawn_local(compacted::produce(world.clone(), random.next())));
        running.push(spawn_local(compacted::consume(world.clone(), random.next())));
    }
    running.push(spawn_local(clients::churn(world.clone(), random.next())));
    running.extend((0..GROUPS).map(|group| spawn_local(clients::commit(world.clone(), group, random.next()))));
    running
}

/// How often which faults of the object store happen in a phase.
fn rates(random: &mut Rng) -> FaultRates {
    let mut rate = |most: u64| random.below(most) as f64 / 1_000.0;
    FaultRates {
        fail_before: rate(60),
        fail_after: rate(60),
        late_apply: rate(60),
        delay: rate(240),
        late_answer: rate(60),
        conflict: rate(60),
        throttle: rate(60),
        corrupt: rate(10),
        truncate: rate(10),
        delay_max: Duration::from_millis(1 + random.below(3_000)),
    }
}

/// What happened in the present run of this thread, or in the last one.
fn happened_here() -> BTreeMap<&'static str, u64> {
    WITNESSES.with_borrow(|witnesses| witnesses.as_ref().map(happened).unwrap_or_default())
}

fn outcome(world: &World) -> Outcome {
    let (events, hash, lines) = world.trace.end();
    let acked = (0..PARTITIONS).map(|p| world.told(p, |told| told.acked)).sum();
    Outcome { acked, sent: world.sent.get(), events, hash, lines, happened: happened_here() }
}

fn happened((trace, objects): &Witnesses) -> BTreeMap<&'static str, u64> {
    let mut happened = trace.all_that_happened();
    for (fault, count) in objects.injected() {
        let name = tests::OBJECT_FAULTS.iter().find(|(short, _)| *short == fault).map_or(fault, |(_, name)| name);
        *happened.entry(name).or_default() += count;
    }
    happened
}
