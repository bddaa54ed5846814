//! What `kafscale recover` says: facts first, then decisions, then what is lost.

use super::plan::{Plan, Store};
use super::survey::Survey;
use crate::ids::TopicId;
use std::collections::BTreeMap;

/// Adds a line to a text.
macro_rules! say {
    ($out:expr, $($arg:tt)*) => { $out.push_str(&format!("{}\n", format_args!($($arg)*))) };
}

/// All of it.
pub fn text(store: &Store, survey: &Survey, plan: &Plan) -> String {
    let mut text = String::new();
    let out = &mut text;
    let found = &survey.found;
    say!(out, "Cluster {}", found.cluster_id);
    say!(
        out,
        "Found in the object store: {} object(s), logs of {} writer(s)",
        survey.objects,
        found.sources.iter().filter(|s| !s.is_older).count()
    );
    match &store.cluster {
        None => say!(out, "The metadata store knows no cluster: everything comes from the object store"),
        Some(cluster) => say!(
            out,
            "The metadata store knows {} topic(s), {} writer(s) and {} group(s), at revision {} of generation {}",
            store.topics.len(),
            store.writers.len(),
            store.groups,
            store.revision,
            cluster.generation
        ),
    }
    let of: BTreeMap<TopicId, &str> = plan.catalog.topics.iter().map(|t| (t.id, t.name.as_str())).collect();
    say!(out, "\nPartitions as they will be (records from log start to end):");
    for (key, restored) in &plan.partitions {
        let (name, writer) = (of.get(&key.topic).unwrap_or(&"?"), found.sources[restored.source].writer);
        let (log_start, end, epoch) = (restored.value.log_start, restored.next_offset, restored.value.epoch);
        say!(out, "  {name}-{}: {log_start} to {end}, leader epoch {epoch}, from writer {writer}", key.partition);
    }
    say!(out, "\nWould be written to the metadata store:");
    let written: Vec<String> = plan.topics.keys().cloned().collect();
    say!(out, "  topics that are new or differ: {}", listed(&written));
    say!(out, "  settings that are new or differ: {}", listed(&plan.settings.keys().cloned().collect::<Vec<_>>()));
    say!(out, "  ownership of {} partition(s); {} writer(s) fenced", plan.partitions.len(), plan.writers.len());
    say!(out, "  next writer id {}, next producer id {}", plan.next_writer, plan.next_producer);
    section(out, "Decided", &plan.decisions);
    section(out, "CANNOT BE RESTORED (--force gives it up)", &plan.losses);
    say!(out, "\nConsumer groups:");
    if store.groups > 0 {
        say!(out, "  {} group(s) are kept with the offsets that the metadata store has of them", store.groups);
        say!(out, "  what they committed later is not in the object store: they read it again");
    } else {
        say!(out, "  their offsets are not in the object store: consumers begin where auto.offset.reset says");
    }
    text
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    say!(out, "\n{title}:");
    for line in lines {
        say!(out, "  {line}");
    }
}
