//! Every fuzz target on its committed seeds and on a bounded number of mutations of them.
//!
//! The mutations are the same in every run: their randomness is seeded by the seed's name. `make fuzz` looks further.

use kafscale::fuzzing::{TARGETS, Target};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Mutations of each seed (`FUZZ_MUTATIONS` for more).
const MUTATIONS_PER_SEED: usize = 2_000;
/// The same for a seed that is expensive to run: it inflates to megabytes.
const MUTATIONS_PER_BOMB: usize = 20;
/// Longest mutated input, bytes.
const INPUT_LEN_MAX: usize = 16 * 1024;

struct Seed {
    name: String,
    bytes: Vec<u8>,
}

fn corpus(target: &str) -> Vec<Seed> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut seeds: Vec<Seed> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            Seed { name, bytes: std::fs::read(entry.path()).unwrap() }
        })
        .collect();
    seeds.sort_by(|a, b| a.name.cmp(&b.name));
    seeds
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn seeded(text: &str) -> Self {
        Self(text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Numbers at which code changes its mind.
const EDGES: [i64; 12] =
    [0, 1, -1, -2, 127, 128, 255, i16::MAX as i64, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];

fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let width = 1 + random.below(8);
    match random.below(8) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        2 | 3 => {
            let number = EDGES[random.below(EDGES.len())].to_be_bytes();
            let number = &number[8 - width..];
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..(at + width).min(bytes.len()))),
        6 => {
            let from = random.below(bytes.len() + 1);
            let run = bytes[from..(from + 4 * width).min(bytes.len())].to_vec();
            bytes.splice(at..at, run);
        }
        _ => {
            let from = random.below(other.len() + 1);
            let to = from + random.below(other.len() - from + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..to]);
        }
    }
    bytes.truncate(INPUT_LEN_MAX);
}

/// Runs `target` on each seed and on `count` mutations of it; the input that made it panic, if any.
fn attack(target: Target, seeds: &[Seed], count: impl Fn(&Seed) -> usize) -> Result<usize, String> {
    let mut runs = 0;
    let mut run = |seed: &Seed, number: usize, bytes: &[u8]| {
        runs += 1;
        catch_unwind(AssertUnwindSafe(|| target(bytes))).map_err(|_| {
            let mut hex = String::new();
            bytes.iter().for_each(|b| write!(hex, "{b:02x}").unwrap());
            format!("mutation {number} of {} makes the target panic (message above); input: {hex}", seed.name)
        })
    };
    for seed in seeds {
        run(seed, 0, &seed.bytes)?;
        let mut random = Random::seeded(&seed.name);
        for number in 1..=count(seed) {
            let mut bytes = seed.bytes.clone();
            for _ in 0..1 + random.below(4) {
                let other = &seeds[random.below(seeds.len())].bytes;
                mutate(&mut bytes, other, &mut random);
            }
            run(seed, number, &bytes)?;
        }
    }
    Ok(runs)
}

fn mutations(seed: &Seed) -> usize {
    let asked = std::env::var("FUZZ_MUTATIONS").ok().map(|n| n.parse().expect("FUZZ_MUTATIONS is a number"));
    if seed.name.contains("bomb") { MUTATIONS_PER_BOMB } else { asked.unwrap_or(MUTATIONS_PER_SEED) }
}

#[test]
fn seeds_are_judged_as_their_names_say() {
    for (name, target) in TARGETS {
        let seeds = corpus(name);
        assert!(!seeds.is_empty(), "{name}");
        for seed in &seeds {
            let accepted = target(&seed.bytes);
            // Inputs that a fuzzer once found have any other name: they only must not panic.
            if seed.name.starts_with("ok-") || seed.name.starts_with("bad-") {
                assert_eq!(accepted, seed.name.starts_with("ok-"), "{name}/{}: `make fuzz-seeds`?", seed.name);
            }
        }
    }
}

#[test]
fn no_mutation_makes_a_target_panic() {
    for (name, target) in TARGETS {
        let runs = attack(*target, &corpus(name), mutations).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("{name}: {runs} inputs");
    }
}

#[test]
fn a_planted_panic_is_found() {
    fn planted(bytes: &[u8]) -> bool {
        // One byte of an accepted checkpoint changed in its body: the checksum hides this from who does not reseal.
        assert!(!bytes.starts_with(b"KFSCKPT1") || bytes.get(20) != Some(&0xff), "planted");
        kafscale::fuzzing::checkpoint(bytes)
    }
    assert!(attack(planted, &corpus("checkpoint"), mutations).is_err());
}

#[test]
fn every_target_has_a_fuzzer() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, _) in TARGETS {
        let source = std::fs::read_to_string(manifest.join("targets").join(format!("{name}.rs"))).unwrap();
        assert!(source.contains("fuzz_target!"), "{name}");
    }
    assert_eq!(std::fs::read_dir(manifest.join("targets")).unwrap().count(), TARGETS.len());
}
