//! CreateTopics and DeleteTopics.
//!
//! A created topic is answered when all its partitions are led, so that the next produce finds them, but no later than
//! the client's time-out: the topic exists by then, which is what the answer says. The replication factor is accepted
//! and reported as 1: the object store keeps the copies.

use super::ConnectionContext;
use super::common::{self, Call, Refusal, refuse, text};
use crate::ids::{BrokerId, TopicId};
use crate::metadata::admin::PARTITIONS_MAX;
use crate::metadata::image::{ClusterImage, Topic};
use crate::metadata::model::TopicValue;
use crate::metadata::placement;
use crate::protocol::config_defaults::{Defaults, Source};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::topic_config::{self, TOPIC_CONFIGS};
use crate::protocol::topic_name;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for leaders that a client may ask for.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);
/// What every topic's replication factor is reported as.
const REPLICATION_FACTOR: i16 = 1;

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    name: String,
    partitions: i32,
    configs: BTreeMap<String, String>,
    /// The brokers that should lead.
    placement: Vec<BrokerId>,
}

/// The topic whose name differs from `name` only in '.' against '_'.
pub(super) fn colliding<'a>(image: &'a ClusterImage, name: &str) -> Option<&'a Arc<Topic>> {
    if !topic_name::may_collide(name) {
        return None;
    }
    image.topics().find(|t| t.name.as_ref() != name && topic_name::collide(&t.name, name))
}

pub(super) async fn create_topics(
    ctx: Rc<ConnectionContext>,
    request: CreateTopicsRequest,
    call: Call,
) -> CreateTopicsResponse {
    let deadline = call.deadline(request.timeout_ms, WAIT_MAX);
    let image = ctx.broker.image.load_full();
    let mut count: HashMap<String, usize> = HashMap::new();
    request.topics.iter().for_each(|t| *count.entry(t.name.to_string()).or_default() += 1);
    let mut results = Vec::with_capacity(request.topics.len());
    let mut created = Vec::new();
    for topic in &request.topics {
        if count.get(topic.name.as_str()).is_none_or(|n| *n > 1) {
            // Like Kafka: one row for a name that was sent more than once.
            if count.remove(topic.name.as_str()).is_some() {
                let refused = refuse(ErrorCode::InvalidRequest, "the request names this topic more than once");
                results.push(creation_result(&topic.name, refused, image.defaults()));
            }
            continue;
        }
        let outcome = create(&ctx, topic, request.validate_only).await;
        if let Ok((plan, Some(value))) = &outcome {
            created.push((plan.name.clone(), value.id));
        }
        results.push(creation_result(&topic.name, outcome, image.defaults()));
    }
    if !created.is_empty() {
        let led = || created.iter().all(|(name, id)| common::is_led(&ctx.broker, name, *id));
        common::wait_until(deadline, led).await;
    }
    CreateTopicsResponse::default().with_topics(results)
}

async fn create(
    ctx: &ConnectionContext,
    topic: &CreatableTopic,
    validate_only: bool,
) -> Result<(Plan, Option<TopicValue>), Refusal> {
    let image = ctx.broker.image.load_full();
    let plan = plan(&image, topic, ctx.broker.settings.default_partitions)?;
    if validate_only {
        return Ok((plan, None));
    }
    let placement = plan.placement.clone();
    let value = ctx.broker.admin.create_topic(&plan.name, plan.partitions, plan.configs.clone(), placement).await?;
    Ok((plan, Some(value)))
}

/// Checks a topic to create and fills in the defaults.
fn plan(image: &ClusterImage, topic: &CreatableTopic, default_partitions: i32) -> Result<Plan, Refusal> {
    let name = topic.name.as_str();
    topic_name::check(name).or_else(|message| refuse(ErrorCode::InvalidTopicException, message))?;
    if image.topic(name).is_some() {
        return refuse(ErrorCode::TopicAlreadyExists, format!("topic {name} exists already"));
    }
    if let Some(other) = colliding(image, name) {
        let message = format!("topic {name} collides with {}: '.' and '_' count as the same", other.name);
        return refuse(ErrorCode::InvalidTopicException, message);
    }
    let partitions = if topic.assignments.is_empty() {
        partition_count(topic, default_partitions)?
    } else {
        assigned_count(image, topic)?
    };
    if partitions > PARTITIONS_MAX {
        let message = format!("{partitions} partitions are too many, the limit is {PARTITIONS_MAX}");
        return refuse(ErrorCode::InvalidPartitions, message);
    }
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        let Some(value) = &config.value else {
            return refuse(ErrorCode::InvalidConfig, format!("config {} has no value", config.name.as_str()));
        };
        configs.insert(config.name.to_string(), value.trim().to_owned());
    }
    topic_config::check_all(&configs).or_else(|e| refuse(ErrorCode::InvalidConfig, e.to_string()))?;
    let placement = match &topic.assignments[..] {
        [] => placement::spread(image, partitions),
        assigned => {
            let mut firsts: Vec<_> =
                assigned.iter().map(|a| (a.partition_index, BrokerId(a.broker_ids[0].0))).collect();
            firsts.sort_unstable_by_key(|(index, _)| *index);
            firsts.into_iter().map(|(_, node)| node).collect()
        }
    };
    Ok(Plan { name: name.to_owned(), partitions, configs, placement })
}

fn partition_count(topic: &CreatableTopic, default_partitions: i32) -> Result<i32, Refusal> {
    let (partitions, factor) = (topic.num_partitions, topic.replication_factor);
    if partitions == 0 || partitions < -1 {
        let message = format!("number of partitions is {partitions}, it must be positive or -1 for the default");
        return refuse(ErrorCode::InvalidPartitions, message);
    }
    if factor == 0 || factor < -1 {
        let message = format!("replication factor is {factor}, it must be positive or -1 for the default");
        return refuse(ErrorCode::InvalidReplicationFactor, message);
    }
    Ok(if partitions == -1 { default_partitions } else { partitions })
}

/// Manual assignments name partitions and live brokers; they must make sense, but any broker may come to lead.
fn assigned_count(image: &ClusterImage, topic: &CreatableTopic) -> Result<i32, Refusal> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        let message = "with manual assignments the number of partitions and the replication factor must be -1";
        return refuse(ErrorCode::InvalidRequest, message);
    }
    let indexes: BTreeSet<i32> = topic.assignments.iter().map(|a| a.partition_index).collect();
    let count = topic.assignments.len();
    if indexes.len() != count || !indexes.iter().copied().eq(0..count as i32) {
        let message = "manual assignments must name every partition from 0 on once";
        return refuse(ErrorCode::InvalidReplicaAssignment, message);
    }
    let factor = topic.assignments[0].broker_ids.len();
    for assignment in &topic.assignments {
        if assignment.broker_ids.len() != factor || !common::are_live(image, &assignment.broker_ids) {
            let index = assignment.partition_index;
            let message =
                format!("assignment of partition {index} must name the same number of different live brokers");
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
    }
    Ok(count as i32)
}

fn creation_result(
    name: &str,
    outcome: Result<(Plan, Option<TopicValue>), Refusal>,
    defaults: &Defaults,
) -> CreatableTopicResult {
    let result = CreatableTopicResult::default().with_name(common::topic_name(name));
    match outcome {
        Ok((plan, value)) => result
            .with_error_message(None)
            .with_topic_id(value.map_or_else(uuid::Uuid::nil, |v| v.id.0))
            .with_num_partitions(plan.partitions)
            .with_replication_factor(REPLICATION_FACTOR)
            .with_configs(Some(all_configs(&plan.configs, defaults))),
        Err(refusal) => result.with_error_code(refusal.code.code()).with_error_message(Some(refusal.message.into())),
    }
}

fn all_configs(overrides: &BTreeMap<String, String>, defaults: &Defaults) -> Vec<CreatableTopicConfigs> {
    TOPIC_CONFIGS
        .iter()
        .map(|def| {
            let own = overrides.get(def.name).map(|value| (value.as_str(), Source::Topic));
            let (value, source) = own.unwrap_or_else(|| defaults.value(def));
            CreatableTopicConfigs::default()
                .with_name(kafka_protocol::protocol::StrBytes::from_static_str(def.name))
                .with_value(Some(text(value)))
                .with_config_source(source as i8)
        })
        .collect()
}

pub(super) async fn delete_topics(
    ctx: Rc<ConnectionContext>,
    request: DeleteTopicsRequest,
    call: Call,
) -> DeleteTopicsResponse {
    let deadline = call.deadline(request.timeout_ms, WAIT_MAX);
    let by_name = request.topic_names.into_iter().map(|name| DeleteTopicState::default().with_name(Some(name)));
    let states: Vec<DeleteTopicState> = request.topics.into_iter().chain(by_name).collect();
    let named = |state: &DeleteTopicState| (state.name.as_ref().map(|n| n.to_string()), state.topic_id);
    let mut count: HashMap<_, usize> = HashMap::new();
    states.iter().for_each(|state| *count.entry(named(state)).or_default() += 1);
    let once: Vec<&DeleteTopicState> = states.iter().filter(|state| count[&named(state)] == 1).collect();
    let both_ways = named_both_ways(&ctx.broker.image.load(), &states, &once);
    let mut deleted = Vec::new();
    let mut results = Vec::new();
    for mut state in states {
        let by_id_too = state.name.as_ref().filter(|_| state.topic_id.is_nil());
        let by_id_too = by_id_too.and_then(|name| both_ways.by_name.get(name.as_str()));
        let by_name_too = state.name.is_none() && both_ways.ids.contains(&TopicId(state.topic_id));
        let outcome = match (count.remove(&named(&state)), by_id_too) {
            // Its row is that of the name.
            (Some(1), _) if by_name_too => continue,
            (Some(1), Some(id)) => {
                state.topic_id = id.0;
                refuse(ErrorCode::InvalidRequest, "the request names this topic by its id, too")
            }
            (Some(1), None) => delete(&ctx, &state).await,
            // Like Kafka: one row for a topic that was sent more than once, and it stays.
            (Some(_), _) => refuse(ErrorCode::InvalidRequest, "the request names this topic more than once"),
            (None, _) => continue,
        };
        let result = DeletableTopicResult::default();
        results.push(match outcome {
            Ok((name, id)) => {
                let result = result.with_name(Some(common::topic_name(&name))).with_topic_id(id.0);
                deleted.push((name, id));
                result
            }
            Err(refusal) => {
                // The name may be null from version 6 on only.
                let name = state.name.or_else(|| (call.version < 6).then(Default::default));
                result
                    .with_name(name)
                    .with_topic_id(state.topic_id)
                    .with_error_code(refusal.code.code())
                    .with_error_message(Some(refusal.message.into()))
            }
        });
    }
    if !deleted.is_empty() {
        let gone = || {
            let image = ctx.broker.image.load();
            deleted.iter().all(|(name, id)| image.topic(name).is_none_or(|t| t.value.id != *id))
        };
        common::wait_until(deadline, gone).await;
    }
    DeleteTopicsResponse::default().with_responses(results)
}

/// Topics that a request names both by name and by id: Kafka deletes none of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct BothWays {
    by_name: HashMap<String, TopicId>,
    ids: BTreeSet<TopicId>,
}

/// `once`: those of the `states` that are there once.
fn named_both_ways(image: &ClusterImage, states: &[DeleteTopicState], once: &[&DeleteTopicState]) -> BothWays {
    let ids: BTreeSet<TopicId> = states.iter().filter(|s| s.name.is_none()).map(|s| TopicId(s.topic_id)).collect();
    let by_name = once.iter().filter(|state| state.topic_id.is_nil()).filter_map(|state| {
        let topic = image.topic(state.name.as_ref()?.as_str())?;
        ids.contains(&topic.value.id).then(|| (topic.name.to_string(), topic.value.id))
    });
    let by_name: HashMap<String, TopicId> = by_name.collect();
    BothWays { ids: by_name.values().copied().collect(), by_name }
}

async fn delete(ctx: &ConnectionContext, state: &DeleteTopicState) -> Result<(String, TopicId), Refusal> {
    let image = ctx.broker.image.load_full();
    let (name, id) = to_delete(&image, state)?;
    ctx.broker.admin.delete_topic(&name, id).await?;
    Ok((name, id))
}

fn to_delete(image: &ClusterImage, state: &DeleteTopicState) -> Result<(String, TopicId), Refusal> {
    let topic = match (&state.name, state.topic_id.is_nil()) {
        (Some(_), false) => return refuse(ErrorCode::InvalidRequest, "name and id of a topic exclude each other"),
        (None, true) => return refuse(ErrorCode::InvalidRequest, "neither name nor id of the topic is given"),
        (Some(name), true) => image.topic(name).ok_or_else(|| Refusal {
            code: ErrorCode::UnknownTopicOrPartition,
            message: format!("topic {} does not exist", name.as_str()),
        })?,
        (None, false) => image.topic_by_id(TopicId(state.topic_id)).ok_or_else(|| Refusal {
            code: ErrorCode::UnknownTopicId,
            message: format!("there is no topic with id {}", state.topic_id),
        })?,
    };
    Ok((topic.name.to_string(), topic.value.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::keys::Keys;
    use crate::metadata::model::{self, LiveValue, TopicState};
    use crate::metadata::{Entry, WatchEvent};
    use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopicConfig};

    /// A cluster of broker 1 with a topic `a.b`.
    fn image() -> ClusterImage {
        let keys = Keys::new("test");
        let topic = TopicValue {
            v: model::FORMAT,
            id: TopicId(uuid::Uuid::from_u128(7)),
            partitions: 1,
            configs: BTreeMap::new(),
            state: TopicState::Live,
            placement: Vec::new(),
        };
        let live = LiveValue::sample(1);
        let entry = |key: String, value| Entry { key, value, create_revision: 1, mod_revision: 1 };
        let entries = vec![
            entry(keys.topic("a.b"), model::encode(&topic)),
            entry(keys.live(crate::ids::WriterId(4)), model::encode(&live)),
        ];
        let mut image = ClusterImage::default();
        assert_eq!(image.apply(&keys, WatchEvent::Snapshot { entries, revision: 1 }), Vec::<String>::new());
        image
    }

    fn topic(name: &'static str, partitions: i32, factor: i16) -> CreatableTopic {
        CreatableTopic::default()
            .with_name(common::topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(factor)
    }

    fn with_config(name: &'static str, value: Option<&'static str>) -> CreatableTopic {
        let config = CreatableTopicConfig::default().with_name(text(name)).with_value(value.map(text));
        topic("t", 1, 1).with_configs(vec![config])
    }

    fn assigned(partitions: &[(i32, &[i32])]) -> CreatableTopic {
        let assignments = partitions.iter().map(|(index, brokers)| {
            CreatableReplicaAssignment::default()
                .with_partition_index(*index)
                .with_broker_ids(brokers.iter().map(|b| (*b).into()).collect())
        });
        topic("t", -1, -1).with_assignments(assignments.collect())
    }

    #[test]
    fn plans() {
        let table = [
            (topic("t", 3, 1), Ok(3)),
            (topic("t", -1, -1), Ok(6)),
            (topic("t", 1, 3), Ok(1)),
            (topic("t", 0, 1), Err(37)),
            (topic("t", -2, 1), Err(37)),
            (topic("t", PARTITIONS_MAX + 1, 1), Err(37)),
            (topic("t", 1, 0), Err(38)),
            (topic("t", 1, -2), Err(38)),
            (topic("a.b", 1, 1), Err(36)),
            (topic("a_b", 1, 1), Err(17)),
            (topic("a/b", 1, 1), Err(17)),
            (topic("..", 1, 1), Err(17)),
            (with_config("retention.ms", Some("1000")), Ok(1)),
            (with_config("retention.ms", Some("soon")), Err(40)),
            (with_config("retention.ms", None), Err(40)),
            (with_config("retention.weeks", Some("1")), Err(40)),
            (assigned(&[(0, &[1]), (1, &[1])]), Ok(2)),
            (assigned(&[(0, &[1]), (2, &[1])]), Err(39)),
            (assigned(&[(0, &[1]), (0, &[1])]), Err(39)),
            (assigned(&[(0, &[2])]), Err(39)),
            (assigned(&[(0, &[1, 1])]), Err(39)),
            (assigned(&[(0, &[])]), Err(39)),
            (assigned(&[(0, &[1])]).with_num_partitions(1), Err(42)),
        ];
        for (topic, expected) in table {
            let result = plan(&image(), &topic, 6).map(|p| p.partitions).map_err(|r| r.code.code());
            assert_eq!(result, expected, "{topic:?}");
        }
    }

    #[test]
    fn what_to_delete() {
        let image = image();
        let id = uuid::Uuid::from_u128(7);
        let by_name = |name: &str| DeleteTopicState::default().with_name(Some(common::topic_name(name)));
        let by_id = |id| DeleteTopicState::default().with_name(None).with_topic_id(id);
        let found = Ok(("a.b".to_owned(), TopicId(id)));
        assert_eq!(to_delete(&image, &by_name("a.b")), found);
        assert_eq!(to_delete(&image, &by_id(id)), found);
        let code = |state| to_delete(&image, &state).unwrap_err().code.code();
        assert_eq!(code(by_name("a_b")), 3);
        assert_eq!(code(by_id(uuid::Uuid::from_u128(8))), 100);
        assert_eq!(code(by_name("a.b").with_topic_id(id)), 42);
        assert_eq!(code(by_id(uuid::Uuid::nil())), 42);
        let both_ways = |states: &[DeleteTopicState]| {
            let all: Vec<&DeleteTopicState> = states.iter().collect();
            named_both_ways(&image, states, &all)
        };
        let ids = both_ways(&[by_id(id), by_name("a.b"), by_name("a_b")]);
        assert_eq!(ids.by_name, HashMap::from([("a.b".to_owned(), TopicId(id))]));
        assert_eq!(ids.ids, BTreeSet::from([TopicId(id)]));
        for one_way in [[by_name("a.b"), by_name("a_b")], [by_id(id), by_id(uuid::Uuid::from_u128(8))]] {
            assert_eq!(both_ways(&one_way), BothWays::default());
        }
    }

    #[test]
    fn every_config_is_reported() {
        let overrides = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        let configs = all_configs(&overrides, &Defaults::default());
        assert_eq!(configs.len(), TOPIC_CONFIGS.len());
        let set: Vec<_> = configs.iter().filter(|c| c.config_source == 1).collect();
        assert_eq!((set.len(), set[0].name.as_str(), set[0].value.as_deref()), (1, "retention.ms", Some("5")));
    }
}
