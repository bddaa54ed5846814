//! Schedules of a takeover that the simulation found once, played again step by step.

use super::process::Process;
use super::world::World;
use super::{PARTITIONS, check};
use crate::client::Batch;
use crate::workload::Rng;
use kafscale::actors::partition::handle::ValidBatch;
use kafscale::ids::{BrokerId, PartitionIndex};
use kafscale::protocol::batch::BatchHeader;
use kafscale::storage::fault::{Fault, Op};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

/// Longer than garbage ages.
const AGED: Duration = Duration::from_secs(3);
/// How long the successor's checkpoint takes.
const SLOW: Duration = Duration::from_secs(60);

/// Appends values, each one more than the one before.
pub async fn produce(world: &World, process: &Process, values: std::ops::Range<u64>) {
    let partition = process.context.directory.get(&world.key(0)).expect("led");
    for value in values {
        let bytes = Batch::of(&[&value.to_be_bytes()]).encode();
        let header = BatchHeader::parse(&bytes).expect("a batch");
        let acked = partition.append(ValidBatch { bytes, header, log_append_time_ms: None }).expect("taken").await;
        let offset = acked.expect("an answer").expect("acked").base_offset.0;
        world.told(0, |told| told.hear(0, offset, value, "acked"));
    }
}

/// The former leader merges what it gives away, writes a checkpoint and deletes what that does not name, while the successor,
/// which has read the checkpoint of before, writes its own.
async fn scenario() {
    kafscale::sabotage::choose(&kafscale::config::process_environment());
    kafscale::rng::follow(1);
    let world: Rc<World> = World::new(&mut Rng(1)).await;
    let former = Process::start_node(&world, BrokerId(1), false).await.expect("no faults");
    let (admin, topic) = (world.admin(), world.topic.get().expect("created"));
    let all = |node: i32| (0..PARTITIONS).map(|p| (PartitionIndex(p), BrokerId(node))).collect();
    admin.place_partitions("sim", topic, &all(1), BrokerId(1)).await.expect("no faults");
    let successor = Process::start_node(&world, BrokerId(2), false).await.expect("no faults");
    produce(&world, &former, 0..30).await;
    former.maintenance.lock().await.checkpoint().await.expect("no faults");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(former.maintenance.lock().await.merge().await.expect("no faults") > 0, "nothing was merged");

    let creates = world.objects.calls(Op::Create);
    // It is sent twice.
    world.objects.script(Op::Create, [Fault::Delay(SLOW), Fault::Delay(SLOW)]);
    admin.place_partitions("sim", topic, &all(2), BrokerId(1)).await.expect("no faults");
    while world.objects.calls(Op::Create) == creates {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    former.maintenance.lock().await.checkpoint().await.expect("no faults");
    tokio::time::sleep(AGED).await;
    assert!(former.maintenance.lock().await.collect().await.expect("no faults") >= 30, "the slots are garbage");

    let taken = async {
        while (0..PARTITIONS).any(|p| successor.context.directory.get(&world.key(p)).is_none()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(3 * SLOW, taken).await.expect("the successor leads everything");
    check(&world, &successor).await;
    produce(&world, &successor, 30..35).await;
    check(&world, &successor).await;
}

#[tokio::test(start_paused = true)]
async fn a_successor_does_not_take_what_its_predecessor_has_replaced() {
    LocalSet::new().run_until(scenario()).await;
}

/// With the defect that it was found by, it fails.
#[cfg(debug_assertions)]
#[test]
fn the_schedule_of_a_takeover_finds_what_it_is_for() {
    let test = "sim::takeover::a_successor_does_not_take_what_its_predecessor_has_replaced";
    let output = super::tests::child(test, &[(kafscale::sabotage::VARIABLE, "claim-outdated")]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("broken on purpose") && !output.status.success(), "{said}");
    assert!(said.contains("a referenced object exists"), "it fails for another reason: {said}");
}
