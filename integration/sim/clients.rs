//! What clients do meanwhile: producers with several batches in flight, and groups that commit offsets.

use super::{ACK_TIMEOUT, GROUPS, IN_FLIGHT_MAX, PARTITIONS, Process, World};
use crate::client::Batch;
use crate::workload::Rng;
use futures::FutureExt;
use kafscale::actors::group::call::{Answer, Call, Caller};
use kafscale::actors::group::handle::Groups;
use kafscale::actors::group::offsets::{Committed, OffsetToCommit};
use kafscale::actors::partition::handle::{PartitionRef, ValidBatch};
use kafscale::ids::{LeaderEpoch, Offset, PartitionIndex};
use kafscale::metadata::MetadataStore;
use kafscale::metadata::model::{self, PartitionValue};
use kafscale::protocol::batch::BatchHeader;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

impl World {
    /// One of those who say that they lead the partition.
    fn leader(&self, partition: i32, random: &mut Rng) -> Option<PartitionRef> {
        let found = self.found.borrow();
        let mut leaders: Vec<_> = found.iter().filter_map(|(d, _)| d.get(&self.key(partition))).collect();
        (!leaders.is_empty()).then(|| leaders.swap_remove(random.below(leaders.len() as u64) as usize))
    }

    /// The epoch under which the partition is led now.
    fn epoch(&self, partition: i32) -> LeaderEpoch {
        let key = self.keys.partition(&self.key(partition));
        let entry = self.metadata.inner.get(&key).now_or_never().expect("it is in memory").expect("no faults");
        model::decode::<PartitionValue>(&entry.expect("it is led")).expect("readable").epoch
    }

    /// One of those who say that they coordinate the group.
    fn coordinator(&self, group: &str, random: &mut Rng) -> Option<Groups> {
        let found = self.found.borrow();
        let mut able: Vec<_> = found.iter().filter(|(_, g)| g.coordinates(group)).map(|(_, g)| g.clone()).collect();
        (!able.is_empty()).then(|| able.swap_remove(random.below(able.len() as u64) as usize))
    }
}

/// Writes one producer's values to one partition in order, up to five batches at a time, until told to stop.
pub async fn produce(world: Rc<World>, producer: u64, partition: i32, seed: u64) {
    let mut random = Rng(seed);
    let (mut sequence, mut queue): (i32, VecDeque<(Vec<u64>, ValidBatch)>) = (0, VecDeque::new());
    while !(world.stop.get() && queue.is_empty()) {
        while !world.stop.get() && queue.len() < 1 + random.below(IN_FLIGHT_MAX as u64) as usize {
            let ids: Vec<u64> = (0..1 + random.below(3))
                .map(|n| (producer << 40) | ((partition as u64) << 32) | (sequence as u64 + n))
                .collect();
            let values: Vec<_> = ids.iter().map(|id| id.to_be_bytes()).collect();
            let slices: Vec<&[u8]> = values.iter().map(|v| &v[..]).collect();
            let bytes = Batch::of(&slices).idempotent(producer as i64, 0, sequence).encode();
            let header = BatchHeader::parse(&bytes).expect("a batch");
            sequence += ids.len() as i32;
            world.sent.set(world.sent.get() + ids.len() as u64);
            queue.push_back((ids, ValidBatch { bytes, header, log_append_time_ms: None }));
        }
        let found = world.leader(partition, &mut random);
        if let Some(found) = found {
            let waiting: Vec<_> = queue.iter().map(|(_, batch)| found.append(batch.clone())).collect();
            for receiver in waiting {
                let Ok(receiver) = receiver else { break };
                let Ok(Ok(outcome)) = tokio::time::timeout(ACK_TIMEOUT, receiver).await else { break };
                use kafscale::actors::partition::handle::AppendError::{InvalidProducerEpoch, OutOfOrderSequence};
                match outcome {
                    Ok(appended) => {
                        let (ids, _) = queue.pop_front().expect("one per receiver");
                        let offsets = appended.base_offset.0..;
                        world.acked.borrow_mut().extend(offsets.zip(ids).map(|(o, id)| ((partition, o), id)));
                    }
                    Err(error @ (OutOfOrderSequence { .. } | InvalidProducerEpoch { .. })) => {
                        let newest = world.epoch(partition);
                        assert!(
                            found.view.leader_epoch < newest,
                            "producer {producer}, partition {partition}: {error}"
                        );
                        break; // it was replaced, and does not know
                    }
                    Err(_retriable) => break,
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
    }
}

/// Commits ever greater offsets until told to stop.
pub async fn commit(world: Rc<World>, group: u64, seed: u64) {
    let mut random = Rng(seed);
    let mut offset = 0;
    while !world.stop.get() {
        tokio::time::sleep(Duration::from_millis(random.below(100))).await;
        let Some(groups) = world.coordinator(&format!("g{group}"), &mut random) else { continue };
        offset += 1;
        let partition = random.below(PARTITIONS as u64) as i32;
        let committed = Committed {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch(-1),
            metadata: String::new(),
            commit_ms: world.clock.wall_ms(),
            expire_ms: None,
        };
        let topic_id = world.topic.get().expect("created first");
        let partition_index = PartitionIndex(partition);
        let commit = OffsetToCommit { topic: "sim".into(), topic_id, partition: partition_index, committed };
        let nobody = Caller { generation: -1, ..Caller::default() };
        let call = groups.call(Call::Commit(format!("g{group}").into(), nobody, vec![commit]));
        match tokio::time::timeout(ACK_TIMEOUT, call).await {
            Ok(Ok(Answer::Committed(rows))) => {
                assert_eq!(rows, [Ok(())]);
                world.committed.borrow_mut().insert((group, partition), offset);
            }
            Ok(Ok(other)) => panic!("{other:?} to a commit"),
            Ok(Err(_)) | Err(_) => {} // perhaps committed
        }
    }
}

/// A process has every offset that anybody knows of, of the groups that it coordinates.
pub async fn check_offsets(world: &World, process: &Process) {
    let groups = &process.groups;
    for group in (0..GROUPS).filter(|group| groups.coordinates(&format!("g{group}"))) {
        let known = world.committed.borrow().clone();
        let fetched = loop {
            match groups.call(Call::Fetch(format!("g{group}").into(), None, None)).await {
                Ok(Answer::Fetched(fetched)) => break fetched,
                Ok(other) => panic!("{other:?} to a fetch"),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        };
        let offsets: HashMap<i32, i64> =
            fetched.into_iter().map(|f| (f.partition.0, f.committed.expect("all of them").offset.0)).collect();
        for ((_, partition), least) in known.iter().filter(|((g, _), _)| *g == group) {
            let found = offsets.get(partition).copied();
            assert!(found >= Some(*least), "group {group}, partition {partition}: {found:?} after {least}");
        }
        let mut committed = world.committed.borrow_mut();
        for (partition, offset) in offsets {
            let highest = committed.entry((group, partition)).or_default();
            *highest = offset.max(*highest);
        }
    }
}
