//! One group: its members, what it has committed, and how far behind it is.

use super::describe::{self, Commits, Described, Member};
use super::measure;
use super::watch::{self, Sample};
use super::{READ_WITHIN, legal_id};
use crate::web::kafka::{KafkaError, Offsets, PartitionOf, Place, within};
use crate::web::problem::Problem;
use crate::web::state::{ConsoleState, Missing};
use crate::web::topics::distinct;
use actix_web::{HttpResponse, web};
use serde_json::{Value, json};
use std::collections::HashMap;

/// GET `/groups/{id}`.
pub(super) async fn group(state: web::Data<ConsoleState>, path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let (id, deadline) = (path.into_inner(), within(READ_WITHIN));
    legal_id(&id)?;
    let node = state.kafka.coordinator(&id, deadline).await?;
    let ids = [id.as_str()];
    let (described, mut commits) = futures::join!(
        describe::group(&state.kafka, node, &id, deadline),
        describe::commits(&state.kafka, node, &ids, None, deadline),
    );
    let described = described?;
    let mut missing = Vec::new();
    let of = |error: &KafkaError| Missing { source: "offsets".to_owned(), reason: error.to_string(), since_ms: None };
    let committed = match commits.remove(&id).unwrap_or_else(|| Err(describe::unknown(&id))) {
        Ok(commits) => Some(commits),
        Err(error) => {
            missing.push(of(&error));
            None
        }
    };
    let commits = committed.clone().unwrap_or_default();
    // What members have and nobody has committed is shown too, so that a group that never commits is not an empty page.
    let mut partitions: Vec<PartitionOf> = commits.keys().cloned().collect();
    partitions.extend(described.members.iter().flat_map(assigned));
    partitions.sort_unstable();
    partitions.dedup();
    if partitions.len() > measure::PARTITIONS_MAX {
        let reason = format!("only the first {} of {} partitions are shown", measure::PARTITIONS_MAX, partitions.len());
        missing.push(Missing { source: "this page".to_owned(), reason, since_ms: None });
        partitions.truncate(measure::PARTITIONS_MAX);
    }
    let (starts, ends) = futures::join!(
        state.kafka.offsets(&partitions, Place::Earliest, deadline),
        state.kafka.offsets(&partitions, Place::Latest, deadline),
    );
    missing.extend(distinct(starts.values().chain(ends.values()).filter_map(|at| at.as_ref().err()).map(of)));
    let lag = committed.as_ref().and_then(|commits| measure::lag(commits, &ends));
    let now_ms = state.clock.wall_ms();
    let sample = committed.as_ref().and_then(|commits| watch::sample(now_ms, commits, lag));
    let (samples, stuck_since_ms) = state.data.lags.look(&id, sample);
    let owners: HashMap<PartitionOf, &str> =
        described.members.iter().flat_map(|m| assigned(m).map(move |at| (at, m.id.as_str()))).collect();
    let offsets: Vec<Value> =
        partitions.iter().map(|at| offset(at, &commits, (&starts, &ends), owners.get(at).copied())).collect();
    Ok(HttpResponse::Ok().json(json!({
        "group_id": id,
        "state": described.state,
        "type": described.kind,
        "coordinator": node,
        "assignor": described.assignor,
        "members": described.members.iter().map(member).collect::<Vec<_>>(),
        "offsets": offsets,
        "lag_total": lag.map(|lag| lag.to_string()),
        "lag_history": samples.iter().map(point).collect::<Vec<_>>(),
        "stuck_since_ms": stuck_since_ms,
        "as_of_ms": now_ms,
        "partial": distinct(missing),
    })))
}

fn point(sample: &Sample) -> Value {
    json!([sample.at_ms, sample.lag.to_string()])
}

/// Partitions of a member.
fn assigned(member: &Member) -> impl Iterator<Item = PartitionOf> {
    member.assignments.iter().flat_map(|(topic, partitions)| partitions.iter().map(|p| (topic.clone(), *p)))
}

fn member(member: &Member) -> Value {
    let assignment = |(topic, partitions): (&String, &Vec<i32>)| json!({ "topic": topic, "partitions": partitions });
    json!({
        "member_id": member.id,
        "instance_id": member.instance_id,
        "client_id": member.client_id,
        "host": member.host,
        "assignments": member.assignments.iter().map(assignment).collect::<Vec<Value>>(),
    })
}

fn offset(at: &PartitionOf, commits: &Commits, (starts, ends): (&Offsets, &Offsets), owner: Option<&str>) -> Value {
    let (committed, end) = (commits.get(at), measure::end(ends, at));
    let lag = committed.and_then(|committed| measure::lag_of(committed.offset, end?));
    json!({
        "topic": at.0,
        "partition": at.1,
        "committed": committed.map(|c| c.offset.to_string()),
        "start_offset": measure::end(starts, at).map(|offset| offset.to_string()),
        "end_offset": end.map(|offset| offset.to_string()),
        "lag": lag.map(|lag| lag.to_string()),
        "member_id": owner,
        "metadata": committed.map(|c| c.metadata.as_str()).filter(|text| !text.is_empty()),
        "leader_epoch": committed.and_then(|c| c.leader_epoch),
    })
}

/// Why nothing of a group may be changed now.
pub(super) fn blocked(described: &Described) -> Option<String> {
    (!described.members.is_empty()).then(|| {
        let members = match described.members.len() {
            1 => "1 active member".to_owned(),
            n => format!("{n} active members"),
        };
        format!("the group has {members}: stop its consumers first, and try again when its state is Empty")
    })
}
