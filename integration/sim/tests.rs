//! Seeds, determinism, and defects that have to be found.

use super::{Outcome, happened_here, simulate_alone};
use crate::harness::size;
use std::panic::catch_unwind;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SEEDS: &str = "sim::tests::seeds";
/// What a batch of this many seeds has to have seen.
const SEEDS_THAT_SEE_ALL: u64 = 100;
/// Seeds that a defect may take to be found.
const SEEDS_TO_FIND: u64 = 200;
/// Seeds that run twice.
const SEEDS_TWICE: u64 = 8;

/// The object store's faults, and what they are called among everything that happens.
pub const OBJECT_FAULTS: [(&str, &str); 9] = [
    ("fail-before", "objects: call failed"),
    ("fail-after", "objects: answer lost"),
    ("late-apply", "objects: call failed and applied later"),
    ("delay", "objects: call late"),
    ("late-answer", "objects: answer late"),
    ("conflict", "objects: conflict (409)"),
    ("throttle", "objects: throttled"),
    ("corrupt", "objects: wrong bytes"),
    ("truncate", "objects: bytes missing"),
];

/// Everything else that happens.
const EVENTS: [&str; 35] = [
    "objects: create met an object (412)",
    "metadata: read failed",
    "metadata: txn failed",
    "metadata: answer to a txn lost",
    "metadata: answer to a txn late",
    "metadata: txn failed and applied later",
    "metadata: lease not granted",
    "metadata: lease not renewed",
    "metadata: lease expired",
    "metadata watch: late",
    "metadata watch: compacted",
    "metadata watch: cancelled",
    "cut: request to metadata",
    "cut: answer of metadata",
    "cut: request to objects",
    "cut: answer of objects",
    "broker: started",
    "broker: crashed",
    "broker: fenced",
    "broker: replaced while it runs",
    "broker: lease forgotten",
    "broker: drained",
    "broker: stopped and continued",
    "broker: clock jumped",
    "client: records deleted",
    "client: topic deleted",
    "client: a read failed",
    "compacted topic: all of it read",
    "rollback: a backup was restored",
    "rollback: a broker ended",
    "rollback: all that had to end did",
    "rollback: a start was refused",
    "rollback: a recovery failed",
    "rollback: a recovery was interrupted",
    "rollback: recovered",
];

/// Where `make test` begins: a change is judged by the same seeds each time, new ones are `make sim`'s.
const FIRST_SEED: u64 = 1;

/// Runs seeds on as many threads as there are cores, until one fails.
fn run(first: u64, count: u64) -> Outcome {
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let sum = Mutex::new(Outcome::default());
    let verbose = count == 1; // one seed is being looked into
    let worker = || {
        give_way();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            let Ok(outcome) = catch_unwind(|| simulate_alone(seed, false)) else {
                failed.store(true, Ordering::Relaxed);
                let happened = happened_here();
                eprintln!(
                    "seed {seed}: what happened: {happened:?}\nsimulation failed; again: make sim SEED={seed} SEEDS=1"
                );
                return;
            };
            if verbose {
                eprintln!(
                    "seed {seed}: {} events, hash {:016x}, {:#?}",
                    outcome.events, outcome.hash, outcome.happened
                );
            }
            let mut sum = sum.lock().expect("no panic under the lock");
            (sum.acked, sum.sent) = (sum.acked + outcome.acked, sum.sent + outcome.sent);
            sum.events += outcome.events;
            for (what, times) in outcome.happened {
                *sum.happened.entry(what).or_default() += times;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(count);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(worker))));
    assert!(!failed.into_inner(), "a seed failed, see above");
    sum.into_inner().expect("no panic under the lock")
}

/// The thread gets what others leave: simulated time does not care, and other tests have deadlines.
fn give_way() {
    // SAFETY: it has no arguments but a number; on Linux it is about the calling thread.
    unsafe { libc::nice(10) };
}

#[test]
fn seeds() {
    kafscale::sabotage::choose(&kafscale::config::process_environment());
    let seeds = size("SEEDS", 500);
    let first = size("SEED", FIRST_SEED);
    eprintln!("simulation: SEEDS={seeds} SEED={first}");
    if seeds == 1 {
        tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    }
    let sum = run(first, seeds);
    let Outcome { acked, sent, events, .. } = sum;
    eprintln!("simulation: what happened: {:#?}", sum.happened);
    eprintln!(
        "simulation: {seeds} seeds from {first}, {events} events, {sent} records sent, {acked} acked, none lost, doubled or moved"
    );
    assert_eq!(sent, acked, "every record is acked in the end");
    let all = OBJECT_FAULTS.iter().map(|(_, name)| name).chain(&EVENTS);
    let never: Vec<_> = all.filter(|what| !sum.happened.contains_key(*what)).collect();
    assert!(seeds < SEEDS_THAT_SEE_ALL || never.is_empty(), "never happened in {seeds} seeds: {never:?}");
}

/// The events of a seed, on a thread of its own.
fn events_of(seed: u64) -> Outcome {
    std::thread::spawn(move || simulate_alone(seed, true)).join().expect("the seed passes")
}

#[test]
fn a_seed_decides_everything() {
    let first = size("SEED", FIRST_SEED);
    for seed in first..first + size("SEEDS", SEEDS_TWICE).min(SEEDS_TWICE) {
        let (one, two) = (events_of(seed), events_of(seed));
        let differs = one.lines.iter().zip(&two.lines).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let from = at.saturating_sub(5);
            let show = |lines: &[String]| lines[from..].iter().take(8).cloned().collect::<Vec<_>>().join("\n");
            panic!("seed {seed} differs at event {at}:\n{}\nand\n{}", show(&one.lines), show(&two.lines));
        }
        assert_eq!((one.events, one.hash), (two.events, two.hash), "seed {seed}: one run is longer");
        assert!(one.events > 1_000, "seed {seed}: hardly anything happened");
    }
    // Another process, where everything that a process decides once is decided anew.
    let here = events_of(first);
    let output = child(SEEDS, &[("SEED", &first.to_string()), ("SEEDS", "1")]);
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = format!("seed {first}: {} events, hash {:016x}", here.events, here.hash);
    assert!(said.contains(&expected), "{expected} was expected of another process: {said}");
}

/// Runs one test in another process.
pub fn child(test: &str, envs: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env("RUST_BACKTRACE", "0");
    command.env_remove("SEED").envs(envs.iter().copied());
    command.output().expect("it can be run")
}

/// A simulation that does not find what is broken on purpose proves nothing.
#[cfg(debug_assertions)]
fn assert_found(defect: &str) {
    let output = child(SEEDS, &[(kafscale::sabotage::VARIABLE, defect), ("SEEDS", &SEEDS_TO_FIND.to_string())]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("broken on purpose"), "{defect} is not known: {said}");
    assert!(!output.status.success(), "{defect} was not found within {SEEDS_TO_FIND} seeds: {said}");
    let found = said.lines().find(|l| l.starts_with("simulation failed")).expect("a seed fails, and says so");
    let why: std::collections::BTreeMap<_, _> =
        said.lines().skip_while(|l| !l.contains("panicked at")).take(4).enumerate().collect();
    eprintln!("{defect}: {found}: {why:#?}");
}

#[cfg(debug_assertions)]
macro_rules! planted_defects_are_found {
    ($($name:ident),* $(,)?) => {
        mod planted_defects_are_found {
            $(
                #[test]
                fn $name() {
                    super::assert_found(&stringify!($name).replace('_', "-"));
                }
            )*
        }
    };
}

#[cfg(debug_assertions)]
planted_defects_are_found!(
    ack_before_commit,
    ack_before_put,
    claim_early,
    claim_unfenced,
    collect_blindly,
    commit_unfenced,
    compact_dirty_only,
    compact_newest,
    drop_tombstones_early,
    forget_producers,
    give_away_early,
    let_go_early,
    overlook_rollback,
    recover_short,
    reuse_key,
    reuse_offset,
    serve_above_head,
    store_twice,
    trim_first,
    write_groups_unfenced,
);
