//! Members and lag of several groups at a time, each coordinator and each leader asked once.

use super::describe::{self, Commits};
use crate::web::kafka::{KafkaClient, KafkaError, Offsets, PartitionOf, Place};
use crate::web::state::Missing;
use crate::web::topics::distinct;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::time::Instant;

/// Partitions whose ends are asked for at a time.
pub const PARTITIONS_MAX: usize = 20_000;

/// A group and who coordinates it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its id.
    pub id: Arc<str>,
    /// Its type.
    pub kind: Arc<str>,
    /// Its coordinator.
    pub node: i32,
}

/// What was found out about a group; `None` where nobody said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// Members.
    pub members: Option<usize>,
    /// Records that it has not consumed.
    pub lag: Option<i64>,
    /// Topics that it has committed offsets of.
    pub topics: Option<usize>,
}

/// Members and lag of these groups.
pub async fn measure(
    kafka: &KafkaClient,
    groups: &[Known],
    deadline: Instant,
) -> (HashMap<String, Measured>, Vec<Missing>) {
    let mut by_node: BTreeMap<i32, Vec<&Known>> = BTreeMap::new();
    groups.iter().for_each(|group| by_node.entry(group.node).or_default().push(group));
    let asked = by_node.into_iter().map(|(node, groups)| async move {
        let wanted: Vec<(&str, &str)> = groups.iter().map(|g| (&*g.id, &*g.kind)).collect();
        let ids: Vec<&str> = groups.iter().map(|g| &*g.id).collect();
        futures::join!(
            describe::groups(kafka, node, &wanted, deadline),
            describe::commits(kafka, node, &ids, None, deadline)
        )
    });
    let (mut described, mut commits) = (HashMap::new(), HashMap::new());
    for (some, committed) in join_all(asked).await {
        described.extend(some);
        commits.extend(committed);
    }
    let partitions: BTreeSet<PartitionOf> =
        commits.values().flatten().flat_map(|commits| commits.keys().cloned()).take(PARTITIONS_MAX).collect();
    let partitions: Vec<PartitionOf> = partitions.into_iter().collect();
    let ends = kafka.offsets(&partitions, Place::Latest, deadline).await;
    let missing = reasons("groups", described.values().filter_map(|d| d.as_ref().err()))
        .chain(reasons("offsets", commits.values().filter_map(|c| c.as_ref().err())))
        .chain(reasons("offsets", ends.values().filter_map(|e| e.as_ref().err())));
    let missing = distinct(missing);
    let measured = |group: &Known| {
        let committed = commits.get(&*group.id).and_then(|c| c.as_ref().ok());
        let measured = Measured {
            members: described.get(&*group.id).and_then(|d| d.as_ref().ok()).map(|d| d.members.len()),
            lag: committed.and_then(|commits| lag(commits, &ends)),
            topics: committed.map(|commits| commits.keys().map(|(topic, _)| topic).collect::<BTreeSet<_>>().len()),
        };
        (group.id.to_string(), measured)
    };
    (groups.iter().map(measured).collect(), missing)
}

fn reasons<'a>(source: &'static str, errors: impl Iterator<Item = &'a KafkaError>) -> impl Iterator<Item = Missing> {
    errors.map(move |e| Missing { source: source.to_owned(), reason: e.to_string(), since_ms: None })
}

/// Records behind what was committed; `None` if the end of one partition is not known.
pub fn lag(commits: &Commits, ends: &Offsets) -> Option<i64> {
    commits.iter().map(|(at, committed)| lag_of(committed.offset, end(ends, at)?)).sum()
}

/// The end of a partition.
pub fn end(ends: &Offsets, at: &PartitionOf) -> Option<i64> {
    match ends.get(at) {
        Some(Ok(Some(end))) => Some(end.offset),
        _ => None,
    }
}

/// Records between a committed offset and the end.
pub fn lag_of(committed: i64, end: i64) -> Option<i64> {
    // A commit behind the end is of a topic whose records were lost or whose name belongs to another topic now.
    end.checked_sub(committed).map(|lag| lag.max(0))
}
