//! Creating, extending, emptying and deleting topics. Everything that loses data wants the name typed.

use super::{CHANGE_TIMEOUT_MS, CHANGE_WITHIN, confirmed, legal_name, record};
use crate::web::audit::{Actor, Audit};
use crate::web::command;
use crate::web::kafka::{KafkaError, PartitionOf, Place, Target, topic_name, unknown_topic, within};
use crate::web::problem::Problem;
use crate::web::state::ConsoleState;
use actix_web::{HttpResponse, web};
use futures::future::join_all;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
};
use kafka_protocol::protocol::StrBytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// Partitions that one request empties at most.
const PARTITIONS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
pub(super) struct Create {
    name: String,
    partitions: i32,
    #[serde(default)]
    configs: BTreeMap<String, String>,
    #[serde(default)]
    validate_only: bool,
}

/// POST `/topics`.
pub(super) async fn create(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    body: web::Json<Create>,
) -> Result<HttpResponse, Problem> {
    let done = create_now(&state, &body).await;
    if !body.validate_only {
        let after = json!({ "partitions": body.partitions, "configs": body.configs });
        record(&audit, &actor, "topic.create", format!("topic/{}", body.name), (Value::Null, after), &done);
    }
    done?;
    let partitions = body.partitions.to_string();
    let mut words = vec!["--create", "--topic", &body.name, "--partitions", &partitions];
    let configs: Vec<String> = body.configs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    configs.iter().for_each(|config| words.extend(["--config", config]));
    let command = command::line("kafka-topics", &state.kafka.bootstrap(), &words);
    Ok(HttpResponse::Ok().json(json!({ "name": body.name, "partitions": body.partitions, "command": command })))
}

async fn create_now(state: &ConsoleState, body: &Create) -> Result<(), Problem> {
    legal_name(&body.name)?;
    if body.partitions < 1 {
        return Err(Problem::invalid("a topic has at least one partition"));
    }
    let text = |text: &String| StrBytes::from_string(text.clone());
    let config = |(name, value): (&String, &String)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(topic_name(&body.name))
        .with_num_partitions(body.partitions)
        .with_replication_factor(-1)
        .with_configs(body.configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(CHANGE_TIMEOUT_MS)
        .with_validate_only(body.validate_only);
    let answer = state.kafka.call(Target::Controller, request, within(CHANGE_WITHIN)).await?;
    let created = answer.topics.first().ok_or(KafkaError::NoBrokers)?;
    Ok(KafkaError::check(created.error_code, created.error_message.as_deref())?)
}

#[derive(Debug, Deserialize)]
pub(super) struct Extend {
    count: i32,
    #[serde(default)]
    validate_only: bool,
}

/// POST `/topics/{name}/partitions`.
pub(super) async fn partitions(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<String>,
    body: web::Json<Extend>,
) -> Result<HttpResponse, Problem> {
    let (name, deadline) = (path.into_inner(), within(CHANGE_WITHIN));
    legal_name(&name)?;
    let before = state.kafka.topic(&name, deadline).await?.partitions.len();
    let topic =
        CreatePartitionsTopic::default().with_name(topic_name(&name)).with_count(body.count).with_assignments(None);
    let request = CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(CHANGE_TIMEOUT_MS)
        .with_validate_only(body.validate_only);
    let done = match state.kafka.call(Target::Controller, request, deadline).await {
        Ok(answer) => {
            let check = |r: &kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult| {
                KafkaError::check(r.error_code, r.error_message.as_deref())
            };
            answer.results.iter().try_for_each(check).map_err(Problem::from)
        }
        Err(error) => Err(error.into()),
    };
    if !body.validate_only {
        let change = (json!({ "partitions": before }), json!({ "partitions": body.count }));
        record(&audit, &actor, "topic.partitions", format!("topic/{name}"), change, &done);
    }
    done?;
    let count = body.count.to_string();
    let words = ["--alter", "--topic", &name, "--partitions", &count];
    let command = command::line("kafka-topics", &state.kafka.bootstrap(), &words);
    Ok(HttpResponse::Ok().json(json!({ "before": before, "after": body.count, "command": command })))
}

#[derive(Debug, Deserialize)]
pub(super) struct Confirm {
    confirm: String,
}

/// DELETE `/topics/{name}`.
pub(super) async fn delete(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<String>,
    body: web::Json<Confirm>,
) -> Result<HttpResponse, Problem> {
    let (name, deadline) = (path.into_inner(), within(CHANGE_WITHIN));
    let before = state.cluster.image().and_then(|image| image.topic(&name).cloned());
    let before = before.map(|topic| json!({ "partitions": topic.value.partitions, "configs": topic.value.configs }));
    let done = delete_now(&state, &name, &body.confirm, deadline).await;
    record(&audit, &actor, "topic.delete", format!("topic/{name}"), (json!(before), Value::Null), &done);
    done.map(|()| HttpResponse::NoContent().finish())
}

async fn delete_now(state: &ConsoleState, name: &str, typed: &str, deadline: Instant) -> Result<(), Problem> {
    confirmed(typed, name)?;
    legal_name(name)?;
    let request =
        DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(CHANGE_TIMEOUT_MS);
    let answer = state.kafka.call(Target::Controller, request, deadline).await?;
    let deleted = answer.responses.first().ok_or_else(|| unknown_topic(name))?;
    Ok(KafkaError::check(deleted.error_code, deleted.error_message.as_deref())?)
}

#[derive(Debug, Deserialize)]
struct Before {
    partition: i32,
    /// Digits; null for everything there is.
    before_offset: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct DeleteRecords {
    partitions: Vec<Before>,
    #[serde(default)]
    confirm: String,
    #[serde(default)]
    validate_only: bool,
}

/// What becomes of a partition's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Emptied {
    partition: i32,
    before: i64,
    after: i64,
}

/// POST `/topics/{name}/records/delete`.
pub(super) async fn delete_records(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<String>,
    body: web::Json<DeleteRecords>,
) -> Result<HttpResponse, Problem> {
    let (name, deadline) = (path.into_inner(), within(CHANGE_WITHIN));
    legal_name(&name)?;
    let mut changes = plan(&state, &name, &body.partitions, deadline).await?;
    let command = delete_records_command(&state.kafka.bootstrap(), &name, &changes);
    if !body.validate_only {
        let starts = |which: fn(&Emptied) -> i64| -> Value {
            let start = |change: &Emptied| (change.partition.to_string(), json!(which(change).to_string()));
            changes.iter().map(start).collect::<serde_json::Map<_, _>>().into()
        };
        let change = (starts(|c| c.before), starts(|c| c.after));
        let done = match confirmed(&body.confirm, &name) {
            Ok(()) => empty(&state, &name, &changes, deadline).await,
            Err(problem) => Err(problem),
        };
        record(&audit, &actor, "topic.delete_records", format!("topic/{name}"), change, &done);
        let starts = done?;
        changes.iter_mut().for_each(|c| c.after = starts.get(&c.partition).copied().unwrap_or(c.after));
    }
    let item = |c: &Emptied| {
        json!({
            "partition": c.partition,
            "start_before": c.before.to_string(),
            "start_after": c.after.to_string(),
        })
    };
    let changes: Vec<Value> = changes.iter().map(item).collect();
    Ok(HttpResponse::Ok().json(json!({ "changes": changes, "command": command })))
}

async fn plan(state: &ConsoleState, name: &str, wanted: &[Before], deadline: Instant) -> Result<Vec<Emptied>, Problem> {
    if wanted.is_empty() || wanted.len() > PARTITIONS_MAX {
        return Err(Problem::invalid(format!("give from 1 to {PARTITIONS_MAX} partitions")));
    }
    let distinct: BTreeSet<i32> = wanted.iter().map(|w| w.partition).collect();
    if distinct.len() != wanted.len() {
        return Err(Problem::invalid("a partition is given twice"));
    }
    let at: Vec<PartitionOf> = distinct.iter().map(|partition| (name.to_owned(), *partition)).collect();
    let (starts, ends) = futures::join!(
        state.kafka.offsets(&at, Place::Earliest, deadline),
        state.kafka.offsets(&at, Place::Latest, deadline),
    );
    let known = |of: &crate::web::kafka::Offsets, partition: i32| -> Result<i64, Problem> {
        match of.get(&(name.to_owned(), partition)) {
            Some(Ok(Some(at))) => Ok(at.offset),
            Some(Err(error)) => Err(error.clone().into()),
            _ => Err(Problem::unavailable(format!("partition {partition} does not tell its offsets: try again"))),
        }
    };
    let mut changes = Vec::with_capacity(wanted.len());
    for Before { partition, before_offset } in wanted {
        let (start, end) = (known(&starts, *partition)?, known(&ends, *partition)?);
        let offset = match before_offset {
            None => end,
            Some(text) => text.parse::<i64>().ok().filter(|offset| *offset >= 0).ok_or_else(|| {
                Problem::invalid(format!("before_offset of partition {partition} is digits, or null for all records"))
            })?,
        };
        if offset > end {
            let detail = format!("partition {partition} ends at {end}: nothing before {offset} can be deleted yet");
            return Err(Problem::new(actix_web::http::StatusCode::BAD_REQUEST, "OFFSET_OUT_OF_RANGE", detail));
        }
        changes.push(Emptied { partition: *partition, before: start, after: offset.max(start) });
    }
    Ok(changes)
}

/// Deletes, and says where partitions begin now.
async fn empty(
    state: &ConsoleState,
    name: &str,
    changes: &[Emptied],
    deadline: Instant,
) -> Result<BTreeMap<i32, i64>, Problem> {
    let topic = state.kafka.topic(name, deadline).await?;
    let leaders: BTreeMap<i32, Option<i32>> = topic.partitions.iter().map(|p| (p.partition, p.leader)).collect();
    let mut by_leader: BTreeMap<i32, Vec<&Emptied>> = BTreeMap::new();
    for change in changes {
        let leader = leaders.get(&change.partition).copied().flatten();
        let no_leader = || KafkaError::NoLeader { topic: name.to_owned(), partition: change.partition };
        by_leader.entry(leader.ok_or_else(no_leader)?).or_default().push(change);
    }
    let asked = by_leader.into_iter().map(|(leader, changes)| async move {
        let partition =
            |c: &&Emptied| DeleteRecordsPartition::default().with_partition_index(c.partition).with_offset(c.after);
        let topic = DeleteRecordsTopic::default()
            .with_name(topic_name(name))
            .with_partitions(changes.iter().map(partition).collect());
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(CHANGE_TIMEOUT_MS);
        state.kafka.call(Target::Node(leader), request, deadline).await
    });
    let (mut starts, mut failed) = (BTreeMap::new(), Vec::new());
    for answer in join_all(asked).await {
        match answer {
            Err(error) => failed.push(error.to_string()),
            Ok(answer) => {
                for p in answer.topics.iter().flat_map(|topic| &topic.partitions) {
                    match KafkaError::check(p.error_code, None) {
                        Ok(()) => drop(starts.insert(p.partition_index, p.low_watermark)),
                        Err(error) => failed.push(format!("partition {}: {error}", p.partition_index)),
                    }
                }
            }
        }
    }
    if failed.is_empty() {
        return Ok(starts);
    }
    failed.truncate(5);
    let detail = format!("{} partitions were emptied; of the others: {}", starts.len(), failed.join("; "));
    Err(Problem::unavailable(detail))
}

fn delete_records_command(bootstrap: &str, name: &str, changes: &[Emptied]) -> String {
    let partition = |c: &Emptied| json!({ "topic": name, "partition": c.partition, "offset": c.after });
    let partitions: Vec<Value> = changes.iter().map(partition).collect();
    let file = json!({ "version": 1, "partitions": partitions }).to_string();
    let command = command::line("kafka-delete-records", bootstrap, &["--offset-json-file", "delete-records.json"]);
    format!("echo {} > delete-records.json && {command}", command::word(&file))
}
