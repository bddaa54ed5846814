//! A schedule that the simulation found: the metadata store goes back under a broker, which believes for a moment that its
//! partitions are somebody else's, and writes a checkpoint without them that is never committed.

use super::faults::How;
use super::process::Process;
use super::takeover::produce;
use super::world::World;
use super::{PARTITIONS, check, keys, restored};
use crate::workload::Rng;
use kafscale::ids::{BrokerId, PartitionIndex};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;

/// Longer than anything takes without faults.
const SOON: Duration = Duration::from_secs(60);

async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, wait).await.is_ok(), "never: {what}");
}

fn leads_all(world: &World, process: &Process) -> bool {
    (0..PARTITIONS).all(|p| process.context.directory.get(&world.key(p)).is_some())
}

async fn checkpoints(world: &World) -> usize {
    keys(world).await.iter().filter(|key| key.as_str().contains("/checkpoints/")).count()
}

async fn scenario() {
    kafscale::rng::follow(1);
    let mut random = Rng(1);
    let world: Rc<World> = World::new(&mut random).await;
    let (admin, topic) = (world.admin(), world.topic.get().expect("created"));
    let all = |node: i32| (0..PARTITIONS).map(|p| (PartitionIndex(p), BrokerId(node))).collect();
    let one = Process::start_node(&world, BrokerId(1), false).await.expect("no faults");
    let other = Process::start_node(&world, BrokerId(2), false).await.expect("no faults");
    admin.place_partitions("sim", topic, &all(2), BrokerId(1)).await.expect("no faults");
    wait_until("the other leads all", || leads_all(&world, &other)).await;
    let backup = world.metadata.inner.backup();
    admin.place_partitions("sim", topic, &all(1), BrokerId(1)).await.expect("no faults");
    wait_until("the one leads all", || leads_all(&world, &one)).await;
    produce(&world, &one, 0..30).await;
    one.maintenance.lock().await.checkpoint().await.expect("no faults");

    let how = How { bump: 1_000_000, keep_leases: true, is_another_cluster: false };
    world.go_back(&backup, how);
    wait_until("the one gives away", || one.context.directory.get(&world.key(0)).is_none()).await;
    let before = checkpoints(&world).await;
    let checkpoint = async { one.maintenance.lock().await.checkpoint().await };
    let written = tokio::time::timeout(SOON, checkpoint).await;
    assert!(!matches!(written, Ok(Ok(()))), "nothing can be committed any more");
    assert_eq!(checkpoints(&world).await, before + 1, "but the checkpoint is there");
    drop((one, other));

    restored::recover(&world, &mut random).await;
    restored::rebuilt(&world);
    let last = Process::start_node(&world, BrokerId(3), false).await.expect("no faults");
    wait_until("the last leads all", || leads_all(&world, &last)).await;
    check(&world, &last).await;
    produce(&world, &last, 30..35).await;
    check(&world, &last).await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_was_never_committed_hides_nothing() {
    LocalSet::new().run_until(scenario()).await;
}
