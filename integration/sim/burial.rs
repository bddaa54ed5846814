//! A deleted topic stays deleted, also if a claim of it was on its way all the time.

use super::{Process, World};
use crate::workload::Rng;
use kafscale::ids::{PartitionIndex, PartitionKey};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::LocalSet;

/// Time in which a broker notices and does what follows.
const A_WHILE: Duration = Duration::from_secs(10);

async fn scenario() {
    let world = World::new(&mut Rng(11)).await;
    let process = Process::start(&world).await.unwrap();
    let id = world.admin().create_topic("gone", 1, BTreeMap::new(), Vec::new()).await.unwrap().id;
    tokio::time::sleep(A_WHILE).await;
    let key = PartitionKey { topic: id, partition: PartitionIndex(0) };
    assert!(process.context.owns(&key));
    world.admin().delete_topic("gone", id).await.unwrap();
    tokio::time::sleep(A_WHILE).await;
    let bury = async || process.maintenance.lock().await.bury_topics(true).await.unwrap();
    let (metadata, keys) = world.metadata();
    let left = async || {
        let partitions = process.context.ownership.partitions_of(id).await.unwrap().len();
        (partitions, metadata.get(&keys.deleted(id)).await.unwrap().is_some())
    };
    assert_eq!(left().await, (1, true));
    bury().await;
    assert_eq!(left().await, (0, false));

    let claim = process.context.ownership.claim(&process.context.registration, &[(key, None)]).await.unwrap();
    assert!(claim.is_some(), "the claim that was on its way");
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(left().await, (1, false));
    bury().await;
    assert_eq!(left().await, (1, true), "it is known to be deleted again");
    tokio::time::sleep(A_WHILE).await;
    bury().await;
    assert_eq!(left().await, (0, false));
    bury().await;
    assert_eq!(left().await, (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_comes_after_the_burial_does_not_bring_a_topic_back() {
    LocalSet::new().run_until(scenario()).await;
}
