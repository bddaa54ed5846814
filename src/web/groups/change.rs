//! Resetting offsets, and deleting groups and what they have committed.

use super::describe::{self, Commits};
use super::detail::blocked;
use super::measure;
use super::reset::{self, Aim, Known, Target};
use super::tokens::{Change, Preview};
use super::{CHANGE_WITHIN, READ_WITHIN, legal_id};
use crate::web::audit::{Actor, Audit};
use crate::web::kafka::{self, KafkaError, PartitionOf, Place, group_id, topic_name, within};
use crate::web::problem::Problem;
use crate::web::state::ConsoleState;
use crate::web::topics::{confirmed, record};
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::{DeleteGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest};
use kafka_protocol::protocol::StrBytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// Of whom no generation is known: somebody who is no member.
const NO_GENERATION: i32 = -1;

#[derive(Debug, Clone, Deserialize)]
struct Chosen {
    topic: String,
    partition: i32,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ask {
    #[serde(default)]
    partitions: Option<Vec<Chosen>>,
    #[serde(default)]
    topics: Option<Vec<String>>,
    target: Target,
}

/// What a group is before something of it is changed.
struct Before {
    node: i32,
    commits: Commits,
    blocked: Option<String>,
}

async fn look(state: &ConsoleState, id: &str, deadline: Instant) -> Result<Before, Problem> {
    let node = state.kafka.coordinator(id, deadline).await?;
    let ids = [id];
    let (described, mut commits) = futures::join!(
        describe::group(&state.kafka, node, id, deadline),
        describe::commits(&state.kafka, node, &ids, None, deadline),
    );
    let described = described?;
    let commits = commits.remove(id).unwrap_or_else(|| Err(describe::unknown(id)))?;
    Ok(Before { node, commits, blocked: blocked(&described) })
}

/// POST `/groups/{id}/offsets/preview`.
pub(super) async fn preview(
    state: web::Data<ConsoleState>,
    actor: Actor,
    path: web::Path<String>,
    body: web::Json<Ask>,
) -> Result<HttpResponse, Problem> {
    let (id, body, deadline) = (path.into_inner(), body.into_inner(), within(READ_WITHIN));
    legal_id(&id)?;
    let aim = body.target.aim()?;
    let before = look(&state, &id, deadline).await?;
    let (partitions, topics) = choose(&state, &before.commits, &body, deadline).await?;
    let changes = plan(&state, &before.commits, &partitions, aim, deadline).await?;
    let command = reset::command(&state.kafka.bootstrap(), &id, &topics, aim);
    let items: Vec<Value> = changes.iter().map(item).collect();
    let token = match &before.blocked {
        Some(_) => None,
        None => Some(state.data.previews.keep(Preview { group: id, who: actor.who, changes })),
    };
    Ok(HttpResponse::Ok().json(json!({
        "changes": items,
        "command": command,
        "blocked": before.blocked,
        "token": token,
    })))
}

/// The partitions that are meant, and how a command names them.
type Selection = (Vec<PartitionOf>, BTreeMap<String, Option<Vec<i32>>>);

async fn choose(state: &ConsoleState, commits: &Commits, body: &Ask, deadline: Instant) -> Result<Selection, Problem> {
    let mut named: BTreeMap<String, Option<Vec<i32>>> = BTreeMap::new();
    let mut partitions: BTreeSet<PartitionOf> = BTreeSet::new();
    match (&body.partitions, &body.topics) {
        (Some(_), Some(_)) => return Err(Problem::invalid("give partitions or topics, not both")),
        (Some(chosen), None) => {
            for Chosen { topic, partition } in chosen {
                if partitions.insert((topic.clone(), *partition)) {
                    named
                        .entry(topic.clone())
                        .or_insert_with(|| Some(Vec::new()))
                        .iter_mut()
                        .for_each(|p| p.push(*partition));
                }
            }
        }
        (None, Some(topics)) => {
            let names: Vec<&str> = topics.iter().map(String::as_str).collect();
            for (name, topic) in state.kafka.topics(&names, deadline).await? {
                partitions.extend(topic?.partitions.iter().map(|p| (name.clone(), p.partition)));
                named.insert(name, None);
            }
        }
        (None, None) => {
            for (topic, partition) in commits.keys() {
                partitions.insert((topic.clone(), *partition));
                named
                    .entry(topic.clone())
                    .or_insert_with(|| Some(Vec::new()))
                    .iter_mut()
                    .for_each(|p| p.push(*partition));
            }
        }
    }
    if partitions.is_empty() {
        return Err(Problem::invalid("there is nothing to reset: the group has committed no offsets; choose topics"));
    }
    if partitions.len() > measure::PARTITIONS_MAX {
        let detail = format!("reset at most {} partitions at a time: choose topics", measure::PARTITIONS_MAX);
        return Err(Problem::invalid(detail));
    }
    Ok((partitions.into_iter().collect(), named))
}

async fn plan(
    state: &ConsoleState,
    commits: &Commits,
    partitions: &[PartitionOf],
    aim: Aim,
    deadline: Instant,
) -> Result<Vec<Change>, Problem> {
    let at_ms = match aim {
        Aim::Time(at_ms) => Some(at_ms),
        Aim::Ago(ms) => Some(state.clock.wall_ms().saturating_sub(ms).max(0)),
        _ => None,
    };
    let timed: &[PartitionOf] = if at_ms.is_some() { partitions } else { &[] };
    let (starts, ends, found) = futures::join!(
        state.kafka.offsets(partitions, Place::Earliest, deadline),
        state.kafka.offsets(partitions, Place::Latest, deadline),
        state.kafka.offsets(timed, Place::Time(at_ms.unwrap_or_default()), deadline),
    );
    let known = |answers: &kafka::Offsets, at: &PartitionOf| match answers.get(at) {
        Some(Ok(found)) => Ok(found.map(|at| at.offset)),
        Some(Err(error)) => Err(Problem::from(error.clone())),
        None => Ok(None),
    };
    // All or nothing: a reset of a part would be taken for one of everything.
    let mut changes = Vec::with_capacity(partitions.len());
    for at in partitions {
        let silent = || Problem::unavailable(format!("{}:{} does not tell its offsets: try again", at.0, at.1));
        let (start, end) = (known(&starts, at)?.ok_or_else(silent)?, known(&ends, at)?.ok_or_else(silent)?);
        let committed = commits.get(at).map(|committed| committed.offset);
        // Nothing to shift from: the partition stays as it is.
        let found = known(&found, at)?;
        if let Some(new) = reset::resolve(aim, Known { committed, start, end, found }) {
            let (topic, partition) = at.clone();
            changes.push(Change { topic, partition, current: committed, new, end });
        }
    }
    Ok(changes)
}

fn item(change: &Change) -> Value {
    let lag = |offset: i64| measure::lag_of(offset, change.end).map(|lag| lag.to_string());
    json!({
        "topic": change.topic,
        "partition": change.partition,
        "current": change.current.map(|offset| offset.to_string()),
        "new": change.new.to_string(),
        "lag_before": change.current.and_then(lag),
        "lag_after": lag(change.new),
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct Apply {
    token: String,
    confirm: String,
}

/// POST `/groups/{id}/offsets`.
pub(super) async fn apply(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<String>,
    body: web::Json<Apply>,
) -> Result<HttpResponse, Problem> {
    let id = path.into_inner();
    legal_id(&id)?;
    let resource = format!("group/{id}");
    if let Err(problem) = confirmed(&body.confirm, &id) {
        let refused: Result<(), Problem> = Err(problem.clone());
        record(&audit, &actor, "group.reset", resource, (Value::Null, Value::Null), &refused);
        return Err(problem);
    }
    let preview = state.data.previews.take(&body.token, &id, &actor.who).ok_or_else(|| {
        let detail = "this preview is done, too old or of somebody else: look at a new one";
        Problem::new(StatusCode::CONFLICT, "conflict", detail)
    })?;
    let done = reset_now(&state, &preview).await;
    let offsets = |which: fn(&Change) -> Value| -> Value {
        let one = |c: &Change| (format!("{}:{}", c.topic, c.partition), which(c));
        preview.changes.iter().take(AUDITED_MAX).map(one).collect::<serde_json::Map<_, _>>().into()
    };
    let change = (offsets(|c| json!(c.current.map(|n| n.to_string()))), offsets(|c| json!(c.new.to_string())));
    record(&audit, &actor, "group.reset", resource, change, &done);
    done?;
    state.data.groups.forget();
    Ok(HttpResponse::Ok().json(json!({ "changes": preview.changes.iter().map(item).collect::<Vec<_>>() })))
}

/// Partitions that the record of changes names.
const AUDITED_MAX: usize = 1_000;

async fn reset_now(state: &ConsoleState, preview: &Preview) -> Result<(), Problem> {
    let deadline = within(CHANGE_WITHIN);
    let conflict = |detail: String| Problem::new(StatusCode::CONFLICT, "conflict", detail);
    let before = look(state, &preview.group, deadline).await?;
    if let Some(blocked) = before.blocked {
        return Err(conflict(blocked));
    }
    let moved = preview.changes.iter().find(|change| {
        let at = (change.topic.clone(), change.partition);
        before.commits.get(&at).map(|committed| committed.offset) != change.current
    });
    if let Some(change) = moved {
        let detail = format!("the offset of {}:{} has changed since the preview", change.topic, change.partition);
        return Err(conflict(format!("{detail}: look at a new one; nothing was changed")));
    }
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for change in &preview.changes {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(change.partition)
            .with_committed_offset(change.new)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(StrBytes::from_static_str("")));
        topics.entry(&change.topic).or_default().push(partition);
    }
    let topic = |(name, partitions): (&str, Vec<OffsetCommitRequestPartition>)| {
        OffsetCommitRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(&preview.group))
        .with_generation_id_or_member_epoch(NO_GENERATION)
        .with_group_instance_id(None)
        .with_topics(topics.into_iter().map(topic).collect());
    let answer = state.kafka.call(kafka::Target::Node(before.node), request, deadline).await?;
    let partitions = answer.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |p| (topic, p)));
    for (topic, p) in partitions {
        let message = format!("the offset of {}:{} was not committed", &*topic.name, p.partition_index);
        KafkaError::check(p.error_code, Some(&message))?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
pub(super) struct Confirm {
    confirm: String,
}

/// DELETE `/groups/{id}`.
pub(super) async fn delete(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<String>,
    body: web::Json<Confirm>,
) -> Result<HttpResponse, Problem> {
    let (id, deadline) = (path.into_inner(), within(CHANGE_WITHIN));
    legal_id(&id)?;
    let done = match confirmed(&body.confirm, &id) {
        Ok(()) => delete_now(&state, &id, deadline).await,
        Err(problem) => Err(problem),
    };
    let before = done.as_ref().map_or(Value::Null, offsets_of);
    record(&audit, &actor, "group.delete", format!("group/{id}"), (before, Value::Null), &done);
    done?;
    state.data.groups.forget();
    state.data.lags.forget(&id);
    Ok(HttpResponse::NoContent().finish())
}

/// Deletes, and says what had been committed.
async fn delete_now(state: &ConsoleState, id: &str, deadline: Instant) -> Result<Commits, Problem> {
    let before = look(state, id, deadline).await?;
    if let Some(blocked) = before.blocked {
        return Err(Problem::new(StatusCode::CONFLICT, "NON_EMPTY_GROUP", blocked));
    }
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(id)]);
    let answer = state.kafka.call(kafka::Target::Node(before.node), request, deadline).await?;
    answer.results.iter().try_for_each(|result| KafkaError::check(result.error_code, None))?;
    Ok(before.commits)
}

fn offsets_of(commits: &Commits) -> Value {
    let one = |((topic, partition), committed): (&PartitionOf, &describe::Committed)| {
        (format!("{topic}:{partition}"), json!(committed.offset.to_string()))
    };
    json!({ "offsets": commits.iter().take(AUDITED_MAX).map(one).collect::<serde_json::Map<_, _>>() })
}

#[derive(Debug, Deserialize)]
pub(super) struct DeleteOffsets {
    topic: String,
    confirm: String,
}

/// DELETE `/groups/{id}/offsets`.
pub(super) async fn delete_offsets(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<String>,
    body: web::Json<DeleteOffsets>,
) -> Result<HttpResponse, Problem> {
    let (id, deadline) = (path.into_inner(), within(CHANGE_WITHIN));
    legal_id(&id)?;
    let done = match confirmed(&body.confirm, &id) {
        Ok(()) => delete_offsets_now(&state, &id, &body.topic, deadline).await,
        Err(problem) => Err(problem),
    };
    let before = done.as_ref().map_or(Value::Null, offsets_of);
    let after = json!({ "topic": body.topic, "offsets": null });
    record(&audit, &actor, "group.delete_offsets", format!("group/{id}"), (before, after), &done);
    done?;
    state.data.groups.forget();
    Ok(HttpResponse::NoContent().finish())
}

async fn delete_offsets_now(
    state: &ConsoleState,
    id: &str,
    topic: &str,
    deadline: Instant,
) -> Result<Commits, Problem> {
    let before = look(state, id, deadline).await?;
    let commits: Commits = before.commits.into_iter().filter(|((name, _), _)| name == topic).collect();
    if commits.is_empty() {
        return Err(Problem::not_found(format!("the group has committed no offsets of topic {topic:?}")));
    }
    let partition =
        |(_, partition): &PartitionOf| OffsetDeleteRequestPartition::default().with_partition_index(*partition);
    let asked = OffsetDeleteRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(commits.keys().map(partition).collect());
    let request = OffsetDeleteRequest::default().with_group_id(group_id(id)).with_topics(vec![asked]);
    let answer = state.kafka.call(kafka::Target::Node(before.node), request, deadline).await?;
    KafkaError::check(answer.error_code, None)?;
    answer.topics.iter().flat_map(|t| &t.partitions).try_for_each(|p| KafkaError::check(p.error_code, None))?;
    Ok(commits)
}
