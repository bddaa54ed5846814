//! The metadata store is lost, and the bucket has what is left of a log: of a writer that was forgotten in order, whose objects
//! are there because others refer to them, or of one whose loss matters.

use super::process::Process;
use super::takeover::produce;
use super::world::World;
use super::{PARTITIONS, keys};
use crate::workload::Rng;
use kafscale::ids::{BrokerId, PartitionIndex, Seq, WriterId};
use kafscale::metadata::embedded::EmbeddedStore;
use kafscale::recover::{Options, recover_stores};
use kafscale::storage::ObjectStore;
use kafscale::storage::layout::Layout;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::LocalSet;

/// Longer than anything takes without faults.
const SOON: Duration = Duration::from_secs(60);
/// Records that a broker writes in its turn, each in a slot of its own.
const TURN: u64 = 5;

/// Brokers that led the partition one after the other, in the order of their ids.
struct History {
    world: Rc<World>,
    brokers: Vec<Process>,
    turns: u64,
}

impl History {
    /// Each of three had its turn.
    async fn new() -> Self {
        kafscale::rng::follow(1);
        let world: Rc<World> = World::new(&mut Rng(1)).await;
        let mut brokers = Vec::new();
        for node in 1..=3 {
            brokers.push(Process::start_node(&world, BrokerId(node), false).await.expect("no faults"));
        }
        let mut history = Self { world, brokers, turns: 0 };
        for broker in 0..3 {
            history.turn(broker).await;
        }
        history
    }

    /// A broker leads everything and writes.
    async fn turn(&mut self, broker: usize) {
        let (world, process) = (&self.world, &self.brokers[broker]);
        let all = (0..PARTITIONS).map(|p| (PartitionIndex(p), process.node)).collect();
        let topic = world.topic.get().expect("created");
        world.admin().place_partitions("sim", topic, &all, process.node).await.expect("no faults");
        let leads_all = async {
            while (0..PARTITIONS).any(|p| process.context.directory.get(&world.key(p)).is_none()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, leads_all).await.expect("it leads all");
        produce(world, process, self.turns * TURN..(self.turns + 1) * TURN).await;
        self.turns += 1;
    }

    fn writer(&self, broker: usize) -> WriterId {
        self.brokers[broker].context.registration.writer
    }

    async fn delete(&self, which: impl Fn(&str) -> bool) {
        let keys: Vec<_> = keys(&self.world).await.into_iter().filter(|key| which(key.as_str())).collect();
        assert!(!keys.is_empty(), "there is nothing of the kind");
        self.world.raw.delete(&keys).await.expect("no faults");
    }

    async fn delete_checkpoints(&self, broker: usize) {
        let of = format!("/checkpoints/{:016x}-", self.writer(broker).0);
        self.delete(|key| key.contains(&of)).await;
    }

    /// The plan of a recovery into an empty metadata store, as text.
    async fn plan(&self) -> String {
        let (metadata, objects) = (Arc::new(EmbeddedStore::in_memory()), self.world.raw.clone());
        let (_, keys) = self.world.metadata();
        let (options, layout) = (Options { write: false, force: false }, Layout::new("sim"));
        let mut said = String::new();
        let mut say = |text: &str| said.push_str(text);
        let planned = recover_stores(metadata, objects, &keys, &layout, self.world.clock, options, &mut say).await;
        planned.expect("a plan");
        said
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_log_that_others_went_on_with_is_no_loss() {
    let scenario = async {
        let history = History::new().await;
        let whole = history.plan().await;
        history.delete_checkpoints(1).await;
        let (plan, writer) = (history.plan().await, history.writer(1));
        for (said, how) in [(&whole, "all logs"), (&plan, "one is not complete")] {
            assert!(!said.contains("CANNOT BE RESTORED"), "{how}: {said}");
            assert!(said.contains(&format!("sim-0: 0 to {}", 3 * TURN)), "{how}: {said}");
        }
        let decided = format!("what is left of the log of writer {writer} is not used for 1 partition(s)");
        assert!(plan.contains(&decided) && !whole.contains(&decided), "{plan}");
    };
    LocalSet::new().run_until(scenario).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_log_is_a_loss_if_it_is_not_complete() {
    let scenario = async {
        let history = History::new().await;
        history.delete_checkpoints(2).await;
        let (plan, writer) = (history.plan().await, history.writer(2));
        let lost = format!("sim-0: what writer {writer} has of it is not complete");
        assert!(plan.contains("CANNOT BE RESTORED") && plan.contains(&lost), "{plan}");
    };
    LocalSet::new().run_until(scenario).await;
}

/// Before the hole it shows nothing that others did not go on with.
#[tokio::test(start_paused = true)]
async fn an_incomplete_log_is_looked_at_behind_what_is_missing() {
    let scenario = async {
        let mut history = History::new().await;
        history.turn(1).await;
        history.delete_checkpoints(1).await;
        let registration = &history.brokers[1].context.registration;
        let writer = registration.writer;
        let slot = Layout::new("sim").wal(writer, registration.nonce, Seq(TURN));
        history.delete(|key| key == slot.as_str()).await;
        let plan = history.plan().await;
        let lost = format!("sim-0: what writer {writer} has of it is not complete");
        assert!(plan.contains("CANNOT BE RESTORED") && plan.contains(&lost), "{plan}");
    };
    LocalSet::new().run_until(scenario).await;
}
