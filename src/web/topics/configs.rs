//! Configs of topics: what applies, where it comes from, and changing it.

use super::{CHANGE_WITHIN, READ_WITHIN, legal_name, record};
use crate::web::audit::{Actor, Audit};
use crate::web::command;
use crate::web::kafka::{KafkaClient, KafkaError, Target, unknown_topic, within};
use crate::web::list::list;
use crate::web::problem::Problem;
use crate::web::state::ConsoleState;
use actix_web::{HttpResponse, web};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use kafka_protocol::protocol::StrBytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::time::Instant;

/// Kafka's number of topics among resources.
const TOPIC: i8 = 2;
/// Kafka's number of configs that a topic sets itself.
const OF_TOPIC: i8 = 1;
/// Kafka's numbers of changes.
const SET: i8 = 0;
const DELETE: i8 = 1;
/// Configs that one request changes at most.
const CHANGES_MAX: usize = 100;

fn source_name(source: i8) -> &'static str {
    match source {
        1 => "DYNAMIC_TOPIC_CONFIG",
        2 => "DYNAMIC_BROKER_CONFIG",
        3 => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        4 => "STATIC_BROKER_CONFIG",
        5 => "DEFAULT_CONFIG",
        6 => "DYNAMIC_BROKER_LOGGER_CONFIG",
        7 => "CLIENT_METRICS_CONFIG",
        8 => "DYNAMIC_GROUP_CONFIG",
        _ => "UNKNOWN",
    }
}

fn type_name(number: i8) -> &'static str {
    match number {
        1 => "boolean",
        2 => "string",
        3 => "int",
        4 => "short",
        5 => "long",
        6 => "double",
        7 => "list",
        8 => "class",
        9 => "password",
        _ => "unknown",
    }
}

/// Values of `keys` for these topics, as they apply.
pub(super) async fn values(
    kafka: &KafkaClient,
    topics: &[&str],
    keys: &[&str],
    deadline: Instant,
) -> Result<HashMap<(String, String), String>, KafkaError> {
    if topics.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<StrBytes> = keys.iter().map(|key| StrBytes::from_string((*key).to_owned())).collect();
    let resource = |name: &&str| resource(name, Some(keys.clone()));
    let request = DescribeConfigsRequest::default().with_resources(topics.iter().map(resource).collect());
    let answer = kafka.call(Target::Any, request, deadline).await?;
    let mut found = HashMap::new();
    for result in answer.results {
        for config in result.configs {
            if let Some(value) = config.value {
                found.insert((result.resource_name.to_string(), config.name.to_string()), value.to_string());
            }
        }
    }
    Ok(found)
}

fn resource(name: &str, keys: Option<Vec<StrBytes>>) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(StrBytes::from_string(name.to_owned()))
        .with_configuration_keys(keys)
}

/// All configs of a topic.
async fn describe(kafka: &KafkaClient, name: &str, deadline: Instant) -> Result<DescribeConfigsResult, KafkaError> {
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource(name, None)])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let mut answer = kafka.call(Target::Any, request, deadline).await?;
    let result = answer.results.pop().ok_or_else(|| unknown_topic(name))?;
    KafkaError::check(result.error_code, result.error_message.as_deref())?;
    Ok(result)
}

/// GET `/topics/{name}/configs`.
pub(super) async fn configs(state: web::Data<ConsoleState>, path: web::Path<String>) -> Result<HttpResponse, Problem> {
    let described = describe(&state.kafka, &path, within(READ_WITHIN)).await?;
    let items: Vec<Value> = described.configs.iter().map(item).collect();
    let total = items.len();
    Ok(HttpResponse::Ok().json(list(items, None, Some(total), state.clock.wall_ms(), Vec::new())))
}

fn item(config: &DescribeConfigsResourceResult) -> Value {
    let text = |value: &Option<StrBytes>| value.as_ref().filter(|_| !config.is_sensitive).map(|text| text.to_string());
    let synonym = |synonym: &kafka_protocol::messages::describe_configs_response::DescribeConfigsSynonym| json!({ "name": &*synonym.name, "value": text(&synonym.value), "source": source_name(synonym.source) });
    json!({
        "name": &*config.name,
        "value": text(&config.value),
        "source": source_name(config.config_source),
        "default": text(&fallback(config)),
        "read_only": config.read_only,
        "sensitive": config.is_sensitive,
        "type": type_name(config.config_type),
        "documentation": config.documentation.as_deref(),
        "synonyms": config.synonyms.iter().map(synonym).collect::<Vec<_>>(),
    })
}

/// What applies if the topic does not say.
fn fallback(config: &DescribeConfigsResourceResult) -> Option<StrBytes> {
    match config.config_source {
        OF_TOPIC => config.synonyms.iter().find(|s| s.source != OF_TOPIC).and_then(|s| s.value.clone()),
        _ => config.value.clone(),
    }
}

/// What is to be changed.
#[derive(Debug, Deserialize)]
pub(super) struct Alter {
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    unset: BTreeSet<String>,
    #[serde(default)]
    validate_only: bool,
}

impl Alter {
    fn check(&self) -> Result<(), Problem> {
        if let Some(name) = self.unset.iter().find(|name| self.set.contains_key(*name)) {
            return Err(Problem::invalid(format!("{name} is both set and unset: choose one")));
        }
        match self.set.len() + self.unset.len() {
            0 => Err(Problem::invalid("nothing is to be changed: give `set` or `unset`")),
            n if n > CHANGES_MAX => Err(Problem::invalid(format!("change at most {CHANGES_MAX} configs at a time"))),
            _ => Ok(()),
        }
    }

    fn request(&self, name: &str) -> IncrementalAlterConfigsRequest {
        let text = |text: &String| StrBytes::from_string(text.clone());
        let set = self.set.iter().map(|(name, value)| (name, SET, Some(text(value))));
        let unset = self.unset.iter().map(|name| (name, DELETE, None));
        let change = |(name, operation, value): (&String, i8, Option<StrBytes>)| {
            AlterableConfig::default().with_name(text(name)).with_config_operation(operation).with_value(value)
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(StrBytes::from_string(name.to_owned()))
            .with_configs(set.chain(unset).map(change).collect());
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(self.validate_only)
    }

    fn command(&self, bootstrap: &str, name: &str) -> String {
        let added: Vec<String> = self.set.iter().map(|(name, value)| command::config(name, value)).collect();
        let removed: Vec<&str> = self.unset.iter().map(String::as_str).collect();
        let (added, removed) = (added.join(","), removed.join(","));
        let mut words = vec!["--alter", "--entity-type", "topics", "--entity-name", name];
        if !added.is_empty() {
            words.extend(["--add-config", &added]);
        }
        if !removed.is_empty() {
            words.extend(["--delete-config", &removed]);
        }
        command::line("kafka-configs", bootstrap, &words)
    }

    /// Name, value before, value after.
    fn diff(&self, before: &DescribeConfigsResult) -> Vec<(String, Option<String>, Option<String>)> {
        let known: HashMap<&str, &DescribeConfigsResourceResult> =
            before.configs.iter().map(|config| (&*config.name, config)).collect();
        let value = |name: &str| known.get(name).and_then(|c| c.value.as_ref()).map(|text| text.to_string());
        let default = |name: &str| known.get(name).and_then(|c| fallback(c)).map(|text| text.to_string());
        let set = self.set.iter().map(|(name, after)| (name.clone(), value(name), Some(after.clone())));
        let unset = self.unset.iter().map(|name| (name.clone(), value(name), default(name)));
        set.chain(unset).collect()
    }
}

/// PATCH `/topics/{name}/configs`.
pub(super) async fn alter(
    state: web::Data<ConsoleState>,
    audit: web::Data<Audit>,
    actor: Actor,
    path: web::Path<String>,
    body: web::Json<Alter>,
) -> Result<HttpResponse, Problem> {
    let name = path.into_inner();
    legal_name(&name)?;
    body.check()?;
    let deadline = within(CHANGE_WITHIN);
    let before = describe(&state.kafka, &name, deadline).await?;
    let diff = body.diff(&before);
    let done = change(&state.kafka, body.request(&name), deadline).await.map_err(Problem::from);
    if !body.validate_only {
        let before: serde_json::Map<_, _> =
            diff.iter().map(|(name, before, _)| (name.clone(), json!(before))).collect();
        let after: serde_json::Map<_, _> = diff.iter().map(|(name, _, after)| (name.clone(), json!(after))).collect();
        let change = (before.into(), after.into());
        record(&audit, &actor, "topic.configs", format!("topic/{name}"), change, &done);
    }
    done?;
    let diff: Vec<Value> = diff
        .into_iter()
        .map(|(name, before, after)| json!({ "name": name, "before": before, "after": after }))
        .collect();
    let command = body.command(&state.kafka.bootstrap(), &name);
    Ok(HttpResponse::Ok().json(json!({ "diff": diff, "command": command })))
}

async fn change(
    kafka: &KafkaClient,
    request: IncrementalAlterConfigsRequest,
    deadline: Instant,
) -> Result<(), KafkaError> {
    let answer = kafka.call(Target::Controller, request, deadline).await?;
    answer.responses.iter().try_for_each(|r| KafkaError::check(r.error_code, r.error_message.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::describe_configs_response::DescribeConfigsSynonym;

    fn alter(body: Value) -> Alter {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_config_that_is_unset_falls_back() {
        let text = StrBytes::from_static_str;
        let synonym =
            |value, source| DescribeConfigsSynonym::default().with_value(Some(text(value))).with_source(source);
        let config = DescribeConfigsResourceResult::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("1")))
            .with_config_source(OF_TOPIC)
            .with_synonyms(vec![synonym("1", OF_TOPIC), synonym("2", 4), synonym("3", 5)]);
        let before = DescribeConfigsResult::default().with_configs(vec![config]);
        let diff = alter(json!({ "set": { "a": "x" }, "unset": ["retention.ms"] })).diff(&before);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(diff, [("a".to_owned(), None, some("x")), ("retention.ms".to_owned(), some("1"), some("2"))]);
    }

    #[test]
    fn the_command_does_what_the_request_does() {
        let alter = alter(json!({ "set": { "cleanup.policy": "compact,delete" }, "unset": ["retention.ms"] }));
        let expected = "kafka-configs --bootstrap-server h:1 --alter --entity-type topics --entity-name t --add-config \
                        'cleanup.policy=[compact,delete]' --delete-config retention.ms";
        assert_eq!(alter.command("h:1", "t"), expected);
    }

    #[test]
    fn contradictions_are_refused() {
        for body in [json!({}), json!({ "set": { "a": "1" }, "unset": ["a"] })] {
            assert_eq!(alter(body).check().unwrap_err().code, "invalid");
        }
    }
}
