//! The metadata store goes back to a backup, as `docs/disaster-recovery.md` describes: brokers notice and end, nobody starts,
//! and `kafscale recover --write` rebuilds it from the objects, however often it is interrupted. Some brokers sleep meanwhile,
//! and nobody remembers to stop them.
//!
//! Nothing that was acked is lost, whenever that was. Offsets that groups committed are at least those of the backup.

use super::brokers::Brokers;
use super::faults::{How, NodeMetadata, NodeObjects};
use super::link::Link;
use super::process::{Process, UPLOADS_MAX};
use super::{PARTITIONS, World};
use crate::workload::Rng;
use kafscale::cli::exit;
use kafscale::ids::BrokerId;
use kafscale::metadata::MetadataStore;
use kafscale::metadata::embedded::Backup;
use kafscale::metadata::keys::ParsedKey;
use kafscale::metadata::model::{self, WriterState, WriterValue};
use kafscale::recover::{Options, RecoverError, recover_stores};
use kafscale::storage::fault::FaultRates;
use kafscale::storage::layout::Layout;
use kafscale::storage::retry::{RetryPolicy, RetryingStore};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Time in which a broker that can reach both stores has to end.
const NOTICED_WITHIN: Duration = Duration::from_secs(60);
/// Recoveries that faults may prevent. After that the stores do not fail.
const ATTEMPTS_MAX: u32 = 15;
/// Recoveries that may fail then: leases of before have to end.
const MORE_ATTEMPTS_MAX: u32 = 10;
/// Starts of a broker that is to be refused.
const STARTS_MAX: u32 = 60;
/// The heading of what recovery cannot restore.
const LOSSES: &str = "CANNOT BE RESTORED";

/// A backup, and which offsets clients knew to be committed.
pub struct Saved {
    backup: Backup,
    committed: BTreeMap<(u64, i32), i64>,
}

/// Takes a backup.
pub fn save(world: &World) -> Saved {
    let backup = world.metadata.inner.backup();
    world.trace.event(format_args!("backup at {}", backup.revision()));
    Saved { backup, committed: world.committed.borrow().clone() }
}

/// The store goes back to `saved`, and is recovered.
pub async fn restore(brokers: &mut Brokers, world: &Rc<World>, saved: Saved, random: &mut Rng) {
    let in_order = random.below(2) == 0;
    let forgotten = brokers.put_to_sleep(random);
    if in_order {
        brokers.running.clear();
    }
    let slots = slots_forgotten(world, &saved.backup);
    // Somebody may have sealed them since, which is forgotten now: they are stopped, as the documentation demands.
    brokers.running.retain(|p| must_notice(world, &saved.backup, p));
    brokers.zombies.retain(|p| must_notice(world, &saved.backup, p));
    brokers.publish(world);
    let bump = if random.below(2) == 0 { 0 } else { 1_000_000 };
    let how = How { bump, keep_leases: random.below(2) == 0, is_another_cluster: random.below(2) == 0 };
    world.go_back(&saved.backup, how);
    *world.committed.borrow_mut() = saved.committed;
    world.trace.happened("rollback: a backup was restored");
    if !in_order {
        tokio::time::sleep(Duration::from_millis(random.below(20_000))).await;
        if random.below(2) == 0 {
            all_end(brokers, world).await;
        }
    }
    // More than are uploaded at the same time: objects tell of them.
    if slots > 2 * UPLOADS_MAX as u64 + 2 {
        refuses_to_start(world, random).await;
    }
    brokers.running.clear();
    brokers.zombies.clear();
    brokers.publish(world);
    recover(world, random).await;
    rebuilt(world);
    let mut sleepers = forgotten;
    brokers.start(world, BrokerId(1 + random.below(super::NODES as u64) as i32)).await;
    sleepers.iter().for_each(|p| p.link.wake());
    brokers.zombies.append(&mut sleepers);
    brokers.publish(world);
}

/// Slots that were committed since the backup, of the writer with most of them; of one that registered since, all there could be.
fn slots_forgotten(world: &World, backup: &Backup) -> u64 {
    let slots = world.writers().into_iter().map(|(writer, (value, _))| {
        let before = backup.get(&world.keys.writer(writer));
        match before.map(|e| model::decode::<WriterValue>(&e).expect("readable")) {
            None => u64::MAX,
            Some(before) if before.state == WriterState::Active => value.head.0 - before.head.0,
            Some(_) => 0,
        }
    });
    slots.max().unwrap_or(0)
}

/// True if the process has written its own key since the backup. Others have nothing to notice by.
fn must_notice(world: &World, backup: &Backup, process: &Process) -> bool {
    let registration = &process.context.registration;
    let written = registration.revision.max(process.context.stats.revision.load(Ordering::Acquire));
    backup.get(&world.keys.writer(registration.writer)).is_none_or(|e| e.mod_revision < written)
}

/// Whoever can reach the stores ends.
async fn all_end(brokers: &mut Brokers, world: &Rc<World>) {
    world.set_faults(FaultRates::default(), 0);
    brokers.running.iter().for_each(|p| p.link.heal());
    tokio::time::sleep(NOTICED_WITHIN).await;
    for process in &brokers.running {
        let (node, writer) = (process.node, process.context.registration.writer);
        assert!(process.is_dead(), "broker {node} (writer {writer}) serves from a metadata store that went back");
        world.trace.happened("rollback: all that had to end did");
    }
}

/// No broker starts before the store is recovered.
async fn refuses_to_start(world: &Rc<World>, random: &mut Rng) {
    let node = BrokerId(1 + random.below(super::NODES as u64) as i32);
    for attempt in 0.. {
        let Err(error) = Process::start_node(world, node, true).await else {
            panic!("broker {node} starts, although the metadata store went back");
        };
        if error.contains(&format!("(exit code {})", exit::WENT_BACK)) {
            world.trace.happened("rollback: a start was refused");
            return;
        }
        assert!(attempt < STARTS_MAX, "broker {node} is not refused for the metadata store that went back: {error}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Runs the command until it is done.
pub async fn recover(world: &Rc<World>, random: &mut Rng) {
    let mut force = false;
    for attempt in 0.. {
        if attempt == ATTEMPTS_MAX {
            world.set_faults(FaultRates::default(), 0);
        }
        let link = Arc::new(Link::new(world.trace.clone()));
        let metadata = NodeMetadata::new(world.metadata.clone(), link.clone(), Box::new(|_| {}));
        let objects = Arc::new(NodeObjects { shared: world.objects.clone(), link: link.clone() });
        let objects = Arc::new(RetryingStore::new(objects, RetryPolicy::default(), Default::default()));
        let (layout, mut said) = (Layout::new("sim"), String::new());
        let mut say = |text: &str| said.push_str(text);
        let options = Options { write: true, force };
        let run = recover_stores(Arc::new(metadata), objects, &world.keys, &layout, world.clock, options, &mut say);
        let patience = match random.below(3) {
            0 if attempt < ATTEMPTS_MAX => Duration::from_millis(random.below(30_000)),
            _ => super::PATIENCE,
        };
        let outcome = tokio::time::timeout(patience, run).await;
        world.trace.event(format_args!("recovery {attempt}: {outcome:?}\n{said}"));
        link.crash();
        match outcome {
            Ok(Ok(())) => return world.trace.happened("rollback: recovered"),
            Err(_) => world.trace.happened("rollback: a recovery was interrupted"),
            Ok(Err(RecoverError::Unavailable(_))) => world.trace.happened("rollback: a recovery failed"),
            Ok(Err(RecoverError::Refused(_))) if said.contains(LOSSES) && attempt < ATTEMPTS_MAX => {
                world.trace.happened("rollback: a recovery did not find everything");
            }
            Ok(Err(RecoverError::Refused(error))) => {
                let lost = said.lines().skip_while(|l| !l.contains(LOSSES)).skip(1).take_while(|l| !l.is_empty());
                let lost: Vec<_> = lost.collect();
                assert!(attempt < ATTEMPTS_MAX + MORE_ATTEMPTS_MAX, "recovery is refused: {error}\n{said}");
                // All that a line names belongs to topics that come and go.
                let of_others = |l: &&str| {
                    let named = l.split(": ").next().unwrap_or_default().trim().split(", ");
                    named.into_iter().all(|name| name.starts_with("churn") || name.starts_with("recovered-"))
                };
                force = !lost.is_empty() && lost.iter().all(of_others);
                assert!(force || lost.is_empty(), "recovery without faults loses something: {lost:#?}\n{said}");
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What clients know is compared with what was recovered from now on. Records may be there again that had been deleted.
pub fn rebuilt(world: &World) {
    world.age.set(world.age.get() + 1);
    for partition in 0..PARTITIONS {
        let log_start = world.ownership_if_any(partition).map_or(0, |v| v.log_start.0);
        world.told(partition, |told| told.trimmed = told.trimmed.min(log_start));
    }
}

/// Deletes all topics that are not the simulation's own, and lets the store reach the revisions of before, without which
/// nothing of before is taken for garbage.
pub async fn tidy(world: &World) {
    let (topics, _) = world.metadata.inner.get_prefix(&world.keys.topics()).await.expect("no faults");
    for entry in topics {
        let Some(ParsedKey::Topic(name)) = world.keys.parse(&entry.key) else { continue };
        let topic: model::TopicValue = model::decode(&entry).expect("readable");
        if Some(topic.id) != world.topic.get() && Some(topic.id) != world.compacted.get() {
            world.admin().delete_topic(&name, topic.id).await.expect("no faults");
        }
    }
    world.catch_up().await;
}
