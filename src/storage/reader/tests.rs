use super::*;
use crate::actors::partition::view::{LogState, ObjectRef};
use crate::clock::Clock;
use crate::ids::{LeaderEpoch, Seq, WriterId};
use crate::storage::fault::{Fault, FaultStore, Op};
use crate::storage::memory::MemoryStore;
use crate::storage::segment::{self, ExtentInput, SegmentHeader};
use crate::storage::testkit::{batch_bytes, key, partition, stored_batch};
use proptest::prelude::*;
use std::time::Duration;

/// One partition's log, objects of several levels, and everything that should be readable.
struct Log {
    store: Arc<FaultStore>,
    batches: Vec<StoredBatch>,
    state: LogState,
}

/// A batch to come: records, bytes, timestamp.
type Shape = (i32, usize, i64);

impl Log {
    fn new() -> Self {
        let store = Arc::new(FaultStore::scripted(Arc::new(MemoryStore::new(Clock::system()))));
        Self { store, batches: Vec::new(), state: LogState::default() }
    }

    /// Appends an object of `level` with `shapes`, other partitions' batches before and after them.
    async fn object(&mut self, level: u8, shapes: &[Shape]) {
        let mut base = self.batches.last().map_or(0, |b| b.next.0);
        let mut own = Vec::new();
        for &(count, len, timestamp) in shapes {
            own.push(stored_batch(base, count, len, timestamp));
            base += i64::from(count);
        }
        let name = key(&format!("object/{}", self.state.extents.len()));
        self.write(&name, level, &own).await;
        self.batches.extend(own);
    }

    async fn write(&mut self, name: &ObjectKey, level: u8, own: &[StoredBatch]) {
        let header = SegmentHeader {
            cluster_id: "test".to_owned(),
            level,
            writer: WriterId(1),
            nonce: 1,
            seq: Seq(1),
            revision_seen: 1,
        };
        let extent =
            |n, batches: Vec<StoredBatch>| ExtentInput { key: partition(n), leader_epoch: LeaderEpoch(5), batches };
        let other = |n| extent(n, vec![stored_batch(5, 1, 333, 1)]);
        let (payload, index) = segment::build(&header, vec![other(0), extent(1, own.to_vec()), other(2)]);
        self.store.create(name, &payload).await.unwrap();
        let entry = index.extents.iter().find(|e| e.key == partition(1)).unwrap();
        self.state.extents.push_back(Extent {
            base: entry.base,
            next: entry.next,
            object: Arc::new(ObjectRef { key: name.clone(), level, len: payload.len, created_ms: 0 }),
            position: entry.position,
            len: entry.len,
            max_timestamp: entry.max_timestamp,
            leader_epoch: entry.leader_epoch,
        });
    }

    /// The view; the last `tail` batches are in memory too.
    fn view(&mut self, log_start: i64, tail: usize) -> Arc<PartitionView> {
        let next = self.batches.last().map_or(Offset(0), |b| b.next);
        let mut state = std::mem::take(&mut self.state);
        state.tail = self.batches[self.batches.len() - tail..].iter().cloned().collect();
        Arc::new(PartitionView::new(partition(1), LeaderEpoch(5), Offset(log_start), next, state))
    }

    fn gets(&self) -> u64 {
        self.store.calls(Op::GetRange) + self.store.calls(Op::GetSuffix)
    }

    fn reader(&self, readahead_segments: usize) -> LogReader {
        LogReader::new(self.store.clone(), ReaderLimits { cache_bytes: 64 << 20, readahead_segments })
    }
}

/// Lets background tasks run until they wait for nothing but time.
async fn idle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn assert_same(found: &[StoredBatch], expected: &[StoredBatch]) {
    let bases = |batches: &[StoredBatch]| batches.iter().map(|b| (b.base, b.next)).collect::<Vec<_>>();
    assert_eq!(bases(found), bases(expected));
    for (a, b) in found.iter().zip(expected) {
        assert!(batch_bytes(a) == batch_bytes(b), "the bytes of batch {} differ", a.base);
    }
}

/// An L2 segment of several chunks.
async fn large_log() -> Log {
    let mut log = Log::new();
    let shapes: Vec<Shape> = (0..30).map(|i| (2, 150_000, 1_000 + i)).collect();
    log.object(2, &shapes).await;
    log
}

#[tokio::test]
async fn a_hundred_readers_share_one_get() {
    let mut log = Log::new();
    log.object(0, &[(3, 5_000, 1), (3, 5_000, 2)]).await;
    let view = log.view(0, 0);
    let reader = log.reader(2);
    log.store.script(Op::GetRange, [Fault::Delay(Duration::from_millis(20))]);
    let reads = (0..100).map(|_| reader.read(&view, Offset(4), 1 << 20, true));
    for batches in futures::future::join_all(reads).await {
        assert_same(&batches.unwrap(), &log.batches[1..]);
    }
    assert_eq!(log.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_large_segment_is_read_by_its_index_and_ahead() {
    let mut log = large_log().await;
    let view = log.view(0, 0);
    let reader = log.reader(2);
    let batches = reader.read(&view, Offset(0), 500_000, true).await.unwrap();
    assert_same(&batches, &log.batches[..3]);
    idle().await;
    let ahead = log.gets();
    assert_eq!(ahead, 1 + 1 + 2, "index, the chunk asked for, two ahead");
    let reads = reader.read(&view, Offset(12), 2_000_000, true).await.unwrap();
    assert_same(&reads, &log.batches[6..19]);
    idle().await;
    assert_eq!(log.store.calls(Op::GetSuffix), 1, "the index is read once");
    assert_eq!(log.store.calls(Op::GetRange), 5, "every chunk is read once");
}

/// As the WAL leaves a partition that is written to a little at a time.
async fn scattered_log(objects: i64) -> Log {
    let mut log = Log::new();
    for i in 0..objects {
        log.object(0, &[(1, 500, i)]).await;
    }
    log
}

#[tokio::test(start_paused = true)]
async fn small_extents_in_a_row_are_fetched_together() {
    let mut log = scattered_log(100).await;
    let view = log.view(0, 0);
    let reader = log.reader(2);
    log.store.script(Op::GetRange, vec![Fault::Delay(Duration::from_millis(100)); 100]);
    let started = crate::clock::monotonic();
    let batches = reader.read(&view, Offset(0), 1 << 20, true).await.unwrap();
    assert_same(&batches, &log.batches[..batches.len()]);
    assert!(batches.len() >= 3 * RUN_EXTENTS_MAX, "{} objects were read", batches.len());
    assert!(started.elapsed() <= Duration::from_millis(300), "three times one after the other");
    idle().await;
    assert!(log.gets() as usize <= batches.len() + RUN_EXTENTS_MAX, "{} GETs", log.gets());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_or_in_memory_is_not_fetched() {
    let mut log = scattered_log(40).await;
    let view = log.view(0, 30);
    let reader = log.reader(0);
    reader.read(&view, Offset(0), 1, true).await.unwrap();
    assert_eq!(log.gets(), 1, "one byte was asked for");
    let batches = reader.read(&view, Offset(0), 1 << 20, true).await.unwrap();
    assert_same(&batches, &log.batches);
    assert_eq!(log.gets(), 10, "what is below the tail");
    log.reader(2).read(&view, Offset(9), 1, true).await.unwrap();
    idle().await;
    assert_eq!(log.gets(), 11, "nothing is read ahead of what is in memory");
}

#[tokio::test(start_paused = true)]
async fn a_point_read_fetches_one_chunk() {
    let mut log = large_log().await;
    let view = log.view(0, 0);
    let reader = log.reader(2);
    reader.read(&view, Offset(21), 1, true).await.unwrap();
    idle().await;
    assert_eq!(log.gets(), 2);
}

#[tokio::test]
async fn the_cache_stays_within_its_bytes() {
    let mut log = Log::new();
    for i in 0..60 {
        log.object(0, &[(1, 100_000, i)]).await;
    }
    let view = log.view(0, 0);
    let limits = ReaderLimits { cache_bytes: 1_000_000, readahead_segments: 0 };
    let reader = LogReader::new(log.store.clone(), limits);
    for round in 0..3 {
        for offset in 0..60 {
            let found = reader.read(&view, Offset(offset), 1, true).await.unwrap();
            assert_eq!(found[0].base, Offset(offset), "round {round}");
        }
    }
    reader.cache.settle().await;
    assert!((100_000..=1_000_000).contains(&reader.cache_bytes_held()), "{} bytes", reader.cache_bytes_held());
}

#[tokio::test]
async fn damage_on_the_way_is_fetched_again_and_damage_at_rest_is_not_served() {
    // (A flipped bit in the middle of a suffix is in the batches there, which nobody looks at.)
    let cases = [(Op::GetRange, Fault::Corrupt), (Op::GetRange, Fault::Truncate), (Op::GetSuffix, Fault::Truncate)];
    for (op, fault) in cases {
        let mut log = large_log().await;
        let view = log.view(0, 0);
        let reader = log.reader(0);
        log.store.script(op, [fault.clone()]);
        let found = reader.read(&view, Offset(0), 1, true).await.unwrap();
        assert_same(&found, &log.batches[..1]);
        let reader = log.reader(0);
        log.store.script(op, [fault.clone(), fault.clone()]);
        let error = reader.read(&view, Offset(0), 1, true).await.map(|found| found.len()).unwrap_err();
        assert!(matches!(error, ReadError::Store(StoreError::Corrupt { .. })), "{op:?} {fault:?}: {error}");
        let found = reader.read(&view, Offset(0), 1, true).await.unwrap();
        assert_same(&found, &log.batches[..1]);
    }
}

#[tokio::test]
async fn damage_in_a_copy_is_repaired_from_where_the_object_was_written() {
    let mut log = large_log().await;
    let view = log.view(0, 0);
    // What is damaged at rest comes damaged each time.
    let copy = Arc::new(FaultStore::scripted(log.store.clone()));
    copy.set_outage(Some(Fault::Truncate));
    let limits = ReaderLimits { cache_bytes: 64 << 20, readahead_segments: 0 };
    let reader = LogReader::with_copy(copy.clone(), log.store.clone(), limits);
    let found = reader.read(&view, Offset(0), 1, true).await.unwrap();
    assert_same(&found, &log.batches[..1]);
    let (from_copy, again) = (copy.calls(Op::GetRange) + copy.calls(Op::GetSuffix), log.gets() - 2);
    assert_eq!((from_copy, again), (2, 2), "an index and a chunk, each from both");
    assert_eq!(reader.stats().damaged.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_object_of_another_partition_is_not_served() {
    let mut log = Log::new();
    log.object(0, &[(3, 50, 1)]).await;
    log.state.extents[0].base = Offset(1); // what the metadata would say if it were wrong
    let view = log.view(1, 0);
    let found = log.reader(0).read(&view, Offset(2), 1, true).await;
    assert!(matches!(found, Err(ReadError::Store(StoreError::Corrupt { .. }))), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn an_object_replaced_by_compaction_is_found_again() {
    let mut log = Log::new();
    log.object(0, &[(3, 50, 1), (2, 60, 9)]).await;
    let batches = log.batches.clone();
    log.write(&key("merged"), 1, &batches).await;
    let replacement = log.state.extents.pop_back().unwrap();
    let view = log.view(0, 0);
    let replace = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        view.rearrange(|state| state.extents[0] = replacement.clone());
        log.store.delete(&[key("object/0")]).await.unwrap();
    };
    let reader = log.reader(0);
    log.store.script(Op::GetRange, [Fault::Delay(Duration::from_secs(2))]);
    let (found, ()) = tokio::join!(reader.read(&view, Offset(0), 1_000, true), replace);
    assert_same(&found.unwrap(), &log.batches);
    let found = log.reader(0).first_batch_at_or_after(&view, 5).await.unwrap();
    assert_same(&[found.unwrap()], &log.batches[1..]);
    log.store.delete(&[key("merged")]).await.unwrap();
    let found = log.reader(0).read(&view, Offset(0), 1_000, true).await;
    assert!(matches!(found, Err(ReadError::Store(StoreError::NotFound { .. }))), "{found:?}");
}

#[tokio::test]
async fn an_unavailable_store_is_not_an_answer() {
    let mut log = large_log().await;
    let view = log.view(0, 0);
    let reader = log.reader(2);
    log.store.set_outage(Some(Fault::FailBefore));
    let found = reader.read(&view, Offset(0), 1, true).await;
    assert!(matches!(found, Err(ReadError::Store(StoreError::Unavailable { .. }))), "{found:?}");
    log.store.set_outage(None);
    assert_same(&reader.read(&view, Offset(0), 1, true).await.unwrap(), &log.batches[..1]);
}

/// What a read should give if nothing were cached, chunked or cut short by the number of GETs.
fn naive_read(batches: &[StoredBatch], from: i64, bytes_max: usize, at_least_one: bool) -> Vec<StoredBatch> {
    let mut out = Vec::new();
    let mut bytes = 0;
    for batch in batches.iter().filter(|b| b.next.0 > from) {
        if bytes + batch.byte_len() > bytes_max && !(out.is_empty() && at_least_one) {
            break;
        }
        bytes += batch.byte_len();
        out.push(batch.clone());
    }
    out
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    let len = prop_oneof![4 => 0..2_000usize, 1 => 10_000..60_000usize];
    proptest::collection::vec((1..6i32, len, 0..1_000i64), 1..12)
}

/// Objects by level; large ones come from a few huge batches.
fn objects() -> impl Strategy<Value = Vec<(u8, Vec<Shape>)>> {
    let large = proptest::collection::vec((1..3i32, 200_000..700_000usize, 0..1_000i64), 2..6);
    let object = prop_oneof![3 => (Just(0u8), shapes()), 2 => (1..3u8, shapes()), 1 => (1..3u8, large)];
    proptest::collection::vec(object, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reads_equal_a_naive_model(
        objects in objects(), tail in 0..10usize, start in 0..20i64, bytes_max in 0..100_000usize,
        at_least_one in any::<bool>(), readahead in 0..3usize, timestamps in proptest::collection::vec(0..1_100i64, 5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut log = Log::new();
            for (level, shapes) in &objects {
                log.object(*level, shapes).await;
            }
            let end = log.batches.last().unwrap().next.0;
            let start = start.min(end);
            let view = log.view(start, tail.min(log.batches.len()));
            let reader = log.reader(readahead);
            // Cold, a read may end early where it would have to wait; warm, it may not.
            for warm in [false, true] {
                for from in 0..=end + 1 {
                    let found = reader.read(&view, Offset(from), bytes_max, at_least_one).await;
                    if from < start || from > end {
                        assert!(matches!(found, Err(ReadError::OutOfRange)));
                        continue;
                    }
                    let found = found.unwrap();
                    let expected = naive_read(&log.batches, from, bytes_max, at_least_one);
                    let complete = found.len() == expected.len();
                    assert!(complete || (!warm && found.is_empty() == expected.is_empty()), "from {from}");
                    assert_same(&found, &expected[..found.len()]);
                }
                for from in start..end {
                    reader.read(&view, Offset(from), 1, true).await.unwrap();
                }
            }
            let live: Vec<_> = log.batches.iter().filter(|b| b.next.0 > start).collect();
            for timestamp in timestamps {
                let found = reader.first_batch_at_or_after(&view, timestamp).await.unwrap();
                let expected = live.iter().find(|b| b.max_timestamp >= timestamp);
                assert_eq!(found.map(|b| b.base), expected.map(|b| b.base), "timestamp {timestamp}");
            }
            let max = live.iter().map(|b| b.max_timestamp).max();
            let expected = live.iter().find(|b| Some(b.max_timestamp) == max).map(|b| b.base);
            assert_eq!(reader.batch_of_max_timestamp(&view).await.unwrap().map(|b| b.base), expected);
        });
    }
}
