//! What `kafscale recover` prints: facts first, then decisions, then what is lost.

use super::plan::{Plan, Store};
use super::survey::Survey;
use crate::ids::TopicId;
use std::collections::BTreeMap;

/// Prints it to standard output.
pub fn print(store: &Store, survey: &Survey, plan: &Plan) {
    let found = &survey.found;
    println!("Cluster {}", found.cluster_id);
    println!("Found in the object store: {} object(s), logs of {} writer(s)", survey.objects, found.sources.len());
    match &store.cluster {
        None => println!("The metadata store knows no cluster: everything comes from the object store"),
        Some(cluster) => println!(
            "The metadata store knows {} topic(s), {} writer(s) and {} group(s), at revision {} of generation {}",
            store.topics.len(),
            store.writers.len(),
            store.groups,
            store.revision,
            cluster.generation
        ),
    }
    let of: BTreeMap<TopicId, &str> = plan.catalog.topics.iter().map(|t| (t.id, t.name.as_str())).collect();
    println!("\nPartitions as they will be (records from log start to end):");
    for (key, restored) in &plan.partitions {
        let (name, writer) = (of.get(&key.topic).unwrap_or(&"?"), found.sources[restored.source].writer);
        let (log_start, end, epoch) = (restored.value.log_start, restored.next_offset, restored.value.epoch);
        println!("  {name}-{}: {log_start} to {end}, leader epoch {epoch}, from writer {writer}", key.partition);
    }
    println!("\nWould be written to the metadata store:");
    let written: Vec<String> = plan.topics.keys().cloned().collect();
    println!("  topics that are new or differ: {}", listed(&written));
    println!("  settings that are new or differ: {}", listed(&plan.settings.keys().cloned().collect::<Vec<_>>()));
    println!("  ownership of {} partition(s); {} writer(s) fenced", plan.partitions.len(), plan.writers.len());
    println!("  next writer id {}, next producer id {}", plan.next_writer, plan.next_producer);
    section("Decided", &plan.decisions);
    section("CANNOT BE RESTORED (--force gives it up)", &plan.losses);
    println!("\nConsumer groups:");
    if store.groups > 0 {
        println!("  {} group(s) are kept with the offsets that the metadata store has of them", store.groups);
        println!("  what they committed later is not in the object store: they read it again");
    } else {
        println!("  their offsets are not in the object store: consumers begin where auto.offset.reset says");
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn section(title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    println!("\n{title}:");
    for line in lines {
        println!("  {line}");
    }
}
