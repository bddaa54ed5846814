//! One topic with its partitions.

use super::list::{reasons, records};
use super::{READ_WITHIN, distinct, is_internal, legal_name, sizes};
use crate::web::kafka::{At, KafkaError, PartitionAt, PartitionOf, Place, within};
use crate::web::problem::Problem;
use crate::web::state::{ConsoleState, Missing};
use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Topics with more partitions are shown without the time of the newest record.
const TIMESTAMPS_PARTITIONS_MAX: usize = 200;

/// GET `/topics/{name}`.
pub(super) async fn topic(state: web::Data<ConsoleState>, path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let (name, deadline) = (path.into_inner(), within(READ_WITHIN));
    legal_name(&name)?;
    let topic = state.kafka.topic(&name, deadline).await?;
    let partitions: Vec<PartitionOf> = topic.partitions.iter().map(|p| (name.clone(), p.partition)).collect();
    let mut by_leader: BTreeMap<i32, Vec<PartitionOf>> = BTreeMap::new();
    for p in &topic.partitions {
        if let Some(leader) = p.leader {
            by_leader.entry(leader).or_default().push((name.clone(), p.partition));
        }
    }
    let timed: &[PartitionOf] = if partitions.len() <= TIMESTAMPS_PARTITIONS_MAX { &partitions } else { &[] };
    let ((bytes, missing), starts, ends, newest, managed) = futures::join!(
        sizes::of_partitions(&state.kafka, by_leader, deadline),
        state.kafka.offsets(&partitions, Place::Earliest, deadline),
        state.kafka.offsets(&partitions, Place::Latest, deadline),
        state.kafka.offsets(timed, Place::MaxTimestamp, deadline),
        tokio::time::timeout_at(deadline, state.cluster.managed()),
    );
    let managed = managed.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let unmanaged = managed.as_ref().err().cloned();
    let unmanaged = unmanaged.map(|reason| Missing { source: "etcd".to_owned(), reason, since_ms: None });
    let is_managed = managed.is_ok_and(|managed| managed.contains(&name));
    let missing = missing.into_iter().chain(unmanaged);
    let missing = missing.chain(reasons(starts.values().chain(ends.values()).chain(newest.values())));
    let size: Option<u64> = partitions.iter().map(|at| bytes.get(at).copied()).sum();
    let count: Option<i64> = partitions.iter().map(|at| records(starts.get(at), ends.get(at))).sum();
    let item = |p: &PartitionAt| {
        let at = (name.clone(), p.partition);
        partition(p, [starts.get(&at), ends.get(&at), newest.get(&at)], bytes.get(&at).copied())
    };
    Ok(HttpResponse::Ok().json(json!({
        "name": topic.name,
        "id": topic.id,
        "internal": is_internal(&topic.name),
        "partitions": topic.partitions.iter().map(item).collect::<Vec<Value>>(),
        "size_bytes": size.map(|n| n.to_string()),
        "records": count.map(|n| n.to_string()),
        "managed_by": is_managed.then_some("KafscaleTopic"),
        "as_of_ms": state.clock.wall_ms(),
        "partial": distinct(missing),
    })))
}

type Answer = Result<Option<At>, KafkaError>;

fn partition(p: &PartitionAt, [start, end, newest]: [Option<&Answer>; 3], bytes: Option<u64>) -> Value {
    let offset = |answer: Option<&Answer>| match answer {
        Some(Ok(Some(at))) => Some(at.offset.to_string()),
        _ => None,
    };
    let newest_ms = match newest {
        Some(Ok(Some(at))) => at.timestamp_ms,
        _ => None,
    };
    let error = match (p.leader, start, end) {
        (None, ..) => Some("no broker leads it at the moment".to_owned()),
        (_, Some(Err(error)), _) | (_, _, Some(Err(error))) => Some(error.to_string()),
        _ => None,
    };
    json!({
        "partition": p.partition,
        "leader": p.leader,
        "leader_epoch": p.leader_epoch,
        "replicas": p.replicas,
        "start_offset": offset(start),
        "end_offset": offset(end),
        "records": records(start, end).map(|n| n.to_string()),
        "size_bytes": bytes.map(|n| n.to_string()),
        "last_timestamp_ms": newest_ms,
        "error": error,
    })
}
