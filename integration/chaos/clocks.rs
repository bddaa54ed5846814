//! The brokers' wall clocks jump by an hour, ahead or back, while they run. Nothing is lost, no lease ends, nobody is sealed, and
//! retention does not take young records for old ones.
//!
//! Only debug builds can be told another time ([`kafscale::clock::OFFSET_FILE_VARIABLE`]). Signatures carry the broker's time,
//! and S3 refuses those that are more than 15 minutes away from its own. The refusal says what time it is, the SDK signs with
//! that from then on, and the broker writes on with a wrong clock.
#![cfg(debug_assertions)]

use super::trial::Trial;
use super::world::{BROKERS, DEADLINE, World};
use crate::client::{Batch, Client, EARLIEST, text};
use crate::harness::wait_until;
use kafka_protocol::messages::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafscale::clock::Clock;

const HOUR_MS: i64 = 3_600_000;
/// A topic whose records live for half an hour.
const KEPT: &str = "kept";
const KEPT_MS: i64 = HOUR_MS / 2;
/// A topic whose records are not to live at all, as soon as that is said: shows that retention was looked at.
const DROPPED: &str = "dropped";
/// A topic whose records have the time of the broker that took them.
const STAMPED: &str = "stamped";
const TOPIC_RESOURCE: i8 = 2;

/// Creates `topic` with a partition per broker.
async fn create(world: &World, topic: &str, configs: &[(&str, &str)]) {
    let mut client = Client::new(&world.nodes[0].clients.address());
    client.retry("create topic", async |c| c.create_topic(topic, BROKERS as i32, configs).await).await;
    client.ensure_topic(topic, BROKERS as i32).await;
}

/// Sends three batches to each partition of a new topic.
async fn write(world: &World, topic: &str, retention_ms: i64) {
    create(world, topic, &[("retention.ms", &retention_ms.to_string())]).await;
    for partition in 0..BROKERS as i32 {
        for _ in 0..3 {
            leader(world, topic, partition).await.produce_values(topic, partition, &[b"young"]).await;
        }
    }
}

async fn leader(world: &World, topic: &str, partition: i32) -> Client {
    let mut leader = None;
    wait_until("the partition is led", DEADLINE, async || {
        let leaders = world.leaders(0, topic).await;
        leader = leaders.into_iter().find(|(_, led)| led.contains(&partition)).map(|(node, _)| node);
        leader.is_some()
    })
    .await;
    Client::new(&world.nodes[leader.expect("waited for")].clients.address())
}

/// The log start of each partition.
async fn log_starts(world: &World, topic: &str) -> Vec<i64> {
    let mut starts = Vec::new();
    for partition in 0..BROKERS as i32 {
        let mut client = leader(world, topic, partition).await;
        starts.push(client.retry("the log start", async |c| c.list_offset(topic, partition, EARLIEST).await).await);
    }
    starts
}

/// Says that the records of [`DROPPED`] are too old, and waits until every broker has looked at its own.
async fn look_at_retention(world: &World) {
    let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("1")));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(text(DROPPED))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let mut client = Client::new(&world.nodes[0].clients.address());
    let answer = client.call(1, &request).await.expect("an answer");
    assert_eq!(answer.responses[0].error_code, 0);
    wait_until("retention was looked at", DEADLINE, async || {
        log_starts(world, DROPPED).await.iter().all(|start| *start == 3)
    })
    .await;
}

/// Requests that S3 has refused.
async fn refused(world: &World) -> f64 {
    let mut refused = 0.0;
    for node in &world.nodes {
        let samples = node.broker.metrics().await;
        let of_kind = samples.iter().filter(|(name, _)| name.contains("s3_errors") && name.contains("refused"));
        refused += of_kind.map(|(_, value)| value).sum::<f64>();
    }
    refused
}

/// Moves all clocks, and waits until every leader stamps what it takes with another time and S3 has refused something. Not
/// something of each broker's: a clock that jumps between signature and sending is found out by a request that succeeds.
async fn move_clocks(world: &World, ahead_ms: i64) {
    let before = refused(world).await;
    world.nodes.iter().for_each(|n| n.set_clock(ahead_ms));
    let batch = Batch::of(&[b"when"]).encode();
    for partition in 0..BROKERS as i32 {
        wait_until("the leader stamps records with another time", DEADLINE, async || {
            let answer = leader(world, STAMPED, partition).await.produce(STAMPED, partition, batch.clone()).await;
            let stamped = answer.ok().filter(|a| a.error_code == 0);
            stamped.is_some_and(|a| (a.log_append_time_ms - Clock::system().wall_ms() - ahead_ms).abs() < HOUR_MS / 2)
        })
        .await;
    }
    wait_until("S3 refuses requests from another time", DEADLINE, async || refused(world).await > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_jump_delete_nothing_young_and_end_no_lease() {
    let mut trial = Trial::start("chaos-clocks").await;
    write(&trial.world, KEPT, KEPT_MS).await;
    write(&trial.world, DROPPED, -1).await;
    create(&trial.world, STAMPED, &[("message.timestamp.type", "LogAppendTime")]).await;
    let ahead = async |w: &mut World| {
        move_clocks(w, HOUR_MS).await;
        look_at_retention(w).await;
    };
    let right = async |w: &mut World| w.nodes.iter().for_each(|n| n.set_clock(0));
    trial.fault("clocks are an hour ahead", ahead, right).await;
    let behind = async |w: &mut World| move_clocks(w, -HOUR_MS).await;
    trial.fault("clocks are an hour behind", behind, right).await;
    assert_eq!(log_starts(&trial.world, KEPT).await, [0; BROKERS], "young records are gone");
    trial.finish().await;
}
