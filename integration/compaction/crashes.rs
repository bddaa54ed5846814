//! A compacted partition on memory stores and paused time: stores that fail, steps of compaction that are cut off, crashes.
//! At any moment each key has the value that was acked last, and every record that is there is as it was acked.

use crate::harness::size;
use crate::sim::{Process, World};
use crate::workload::Rng;
use kafscale::actors::partition::handle::ValidBatch;
use kafscale::actors::partition::view::PartitionView;
use kafscale::ids::Offset;
use kafscale::protocol::batch::BatchHeader;
use kafscale::protocol::compression::Codec;
use kafscale::protocol::records::{BatchBuilder, Records, records_bytes};
use kafscale::storage::fault::FaultRates;
use kafscale::storage::reader::{LogReader, ReaderLimits};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::LocalSet;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const KEYS: u64 = 40;
const ROUNDS: u64 = 60;
const DELETE_RETENTION_MS: u64 = 5_000;

type Written = (u8, Option<Vec<u8>>);

/// What was acked, by offset.
#[derive(Default)]
struct Acked(BTreeMap<i64, Written>);

impl Acked {
    fn last(&self) -> HashMap<u8, (i64, Option<Vec<u8>>)> {
        self.0.iter().map(|(offset, (key, value))| (*key, (*offset, value.clone()))).collect()
    }
}

async fn produce(world: &World, process: &Process, random: &mut Rng, acked: &mut Acked) {
    let mut builder = BatchBuilder::new().codec(CODECS[random.below(5) as usize]);
    let written: Vec<Written> = (0..1 + random.below(10))
        .map(|_| {
            let value = (random.below(4) > 0).then(|| vec![random.below(256) as u8; random.below(60) as usize]);
            (random.below(KEYS) as u8, value)
        })
        .collect();
    for (key, value) in &written {
        builder.push(world.clock.wall_ms(), Some(&[*key]), value.as_deref());
    }
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes).unwrap();
    let partition = process.context.directory.get(&world.key(0)).expect("led");
    let appended = partition.append(ValidBatch { bytes, header, log_append_time_ms: None }).unwrap();
    let base = appended.await.unwrap().expect("nobody else is there").base_offset.0;
    acked.0.extend((base..).zip(written));
}

/// Everything from `from` on, as consumers read it: offset, key, value.
async fn read(reader: &LogReader, view: &Arc<PartitionView>, from: i64) -> Vec<(i64, u8, Option<Vec<u8>>)> {
    let (mut next, mut out) = (Offset(from), Vec::new());
    while next < view.high_watermark() {
        let batches = reader.read(view, next, 1_000, true).await.expect("what is committed can be read");
        assert!(!batches.is_empty(), "a consumer at {next} would stall");
        for batch in batches {
            let whole = [&batch.head[..], &batch.tail[..]].concat();
            let header = BatchHeader::parse(&whole).unwrap();
            let plain = records_bytes(&header, &whole).unwrap();
            for record in Records::stored(&plain, &header).map(Result::unwrap) {
                let offset = header.base_offset.0 + i64::from(record.offset_delta);
                if offset >= from {
                    out.push((offset, plain[record.key.unwrap()][0], record.value.map(|v| plain[v].to_vec())));
                }
            }
            assert!(batch.next > next, "offsets rise");
            next = batch.next;
        }
    }
    assert!(out.windows(2).all(|w| w[0].0 < w[1].0), "offsets rise");
    out
}

async fn check(world: &World, process: &Process, random: &mut Rng, acked: &Acked) -> usize {
    let view = process.context.directory.get(&world.key(0)).expect("led").view;
    let end = acked.0.last_key_value().map_or(0, |(offset, _)| offset + 1);
    assert_eq!(view.high_watermark().0, end);
    let reader = LogReader::new(world.raw.clone(), ReaderLimits { cache_bytes: 1 << 20, readahead_segments: 1 });
    let all = read(&reader, &view, 0).await;
    for (offset, key, value) in &all {
        assert_eq!(acked.0.get(offset), Some(&(*key, value.clone())), "the record at {offset} is another one");
    }
    let found: HashMap<u8, _> = all.iter().map(|(offset, key, value)| (*key, (*offset, value.clone()))).collect();
    for (key, last) in acked.last() {
        let gone = last.1.is_none() && !found.contains_key(&key);
        assert!(gone || found.get(&key) == Some(&last), "key {key}: {:?} instead of {last:?}", found.get(&key));
    }
    let from = random.below(end as u64 + 1) as i64;
    let rest: Vec<_> = all.iter().filter(|r| r.0 >= from).cloned().collect();
    assert_eq!(read(&reader, &view, from).await, rest, "from {from} on");
    all.len()
}

async fn start(world: &Rc<World>) -> Process {
    for _ in 0..200 {
        if let Ok(process) = Process::start(world).await {
            return process;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("the broker does not start");
}

async fn compact_all(process: &Process) {
    while process.maintenance.lock().await.compact(&process.image()).await.expect("no faults") {}
}

async fn scenario(seed: u64) {
    kafscale::rng::follow(seed);
    let mut random = Rng(seed);
    let configs = [
        ("cleanup.policy", "compact".to_owned()),
        ("min.cleanable.dirty.ratio", "0.2".to_owned()),
        ("segment.ms", "300".to_owned()),
        ("delete.retention.ms", DELETE_RETENTION_MS.to_string()),
    ];
    let configs = configs.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    let world = World::with_topic(&mut random, configs).await;
    let (mut process, mut acked) = (start(&world).await, Acked::default());
    for _ in 0..ROUNDS {
        let mut rate = || random.below(50) as f64 / 1_000.0;
        let rates = FaultRates { fail_before: rate(), fail_after: rate(), late_apply: rate(), ..FaultRates::default() };
        world.set_faults(rates, random.below(30));
        for _ in 0..random.below(8) {
            produce(&world, &process, &mut random, &mut acked).await;
        }
        tokio::time::sleep(Duration::from_millis(random.below(1_500))).await;
        let image = process.image();
        for _ in 0..random.below(12) {
            let mut maintenance = process.maintenance.lock().await;
            // Failures are fine, they are tried again.
            match random.below(10) {
                0 => drop(maintenance.checkpoint().await),
                1 => drop(maintenance.merge().await),
                2 => drop(maintenance.collect().await),
                3 => {
                    let patience = Duration::from_millis(random.below(20));
                    drop(tokio::time::timeout(patience, maintenance.compact(&image)).await);
                }
                _ => drop(maintenance.compact(&image).await),
            }
        }
        if random.below(4) == 0 {
            drop(process); // a crash
            process = start(&world).await;
        }
        check(&world, &process, &mut random, &acked).await;
    }
    world.set_faults(FaultRates::default(), 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    compact_all(&process).await;
    tokio::time::sleep(Duration::from_millis(2 * DELETE_RETENTION_MS)).await;
    compact_all(&process).await;
    // What is left is not dirty enough to be compacted; everything else is a key's last value.
    let last = acked.last();
    let left = check(&world, &process, &mut random, &acked).await;
    let live = last.values().filter(|(_, value)| value.is_some()).count();
    assert!(left < live + acked.0.len() / 3, "{left} records of {} for {live} keys", acked.0.len());
    assert!(process.context.stats.compactions.load(Ordering::Relaxed) > 0, "nothing was compacted");
    // And once more after everything that can be deleted is.
    process.maintenance.lock().await.checkpoint().await.expect("no faults");
    tokio::time::sleep(Duration::from_secs(60)).await;
    while process.maintenance.lock().await.collect().await.expect("no faults") > 0 {}
    check(&world, &process, &mut random, &acked).await;
    drop(process);
    let process = start(&world).await;
    assert_eq!(check(&world, &process, &mut random, &acked).await, left, "the same after a restart");
}

#[test]
fn no_key_loses_its_last_value_and_none_comes_back() {
    let seeds = size("SEEDS", 20);
    let first = size("SEED", 1);
    for seed in first..first + seeds {
        eprintln!("compaction: SEED={seed}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(LocalSet::new().run_until(scenario(seed)));
    }
}
