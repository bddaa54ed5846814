//! DescribeConfigs: every known config of topics and brokers, with where its value comes from.

use super::ConnectionContext;
use super::common::{Call, text};
use crate::broker::Broker;
use crate::metadata::image::{ClusterImage, Topic};
use crate::protocol::broker_config;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::topic_config::{ConfigDef, TOPIC_CONFIGS};
use crate::protocol::topic_name;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;

/// Resource types of the protocol.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
/// Set on the topic.
pub(super) const SOURCE_TOPIC: i8 = 1;
/// From the broker's configuration.
const SOURCE_STATIC_BROKER: i8 = 4;
/// Not set anywhere.
pub(super) const SOURCE_DEFAULT: i8 = 5;

type Refusal = (ErrorCode, String);

pub(super) async fn describe_configs(
    ctx: Rc<ConnectionContext>,
    request: DescribeConfigsRequest,
    _call: Call,
) -> DescribeConfigsResponse {
    let image = ctx.broker.image.load_full();
    let results = request.resources.into_iter().map(|resource| {
        let result = DescribeConfigsResult::default().with_resource_type(resource.resource_type);
        let result = match configs_of(&ctx.broker, &image, &resource) {
            Ok(mut configs) => {
                // Kafka takes an empty list of keys for all keys, too.
                if let Some(keys) = resource.configuration_keys.filter(|keys| !keys.is_empty()) {
                    configs.retain(|c| keys.contains(&c.name));
                }
                for config in &mut configs {
                    if !request.include_synonyms {
                        config.synonyms.clear();
                    }
                    if !request.include_documentation {
                        config.documentation = None;
                    }
                }
                result.with_error_message(None).with_configs(configs)
            }
            Err((code, message)) => result.with_error_code(code.code()).with_error_message(Some(message.into())),
        };
        result.with_resource_name(resource.resource_name)
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn configs_of(
    broker: &Broker,
    image: &ClusterImage,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        RESOURCE_TOPIC => match image.topic(name) {
            Some(topic) => Ok(TOPIC_CONFIGS.iter().map(|def| topic_config(topic, def)).collect()),
            None => Err(match topic_name::check(name) {
                Ok(()) => (ErrorCode::UnknownTopicOrPartition, format!("topic {name} does not exist")),
                Err(message) => (ErrorCode::InvalidTopicException, message),
            }),
        },
        // The cluster-wide defaults that can be changed through the protocol: none.
        RESOURCE_BROKER if name.is_empty() => Ok(Vec::new()),
        RESOURCE_BROKER if name == broker.node.to_string() => Ok(broker_configs(broker)),
        RESOURCE_BROKER => {
            let message = format!("this is broker {}, ask broker {name} for its own configs", broker.node);
            Err((ErrorCode::InvalidRequest, message))
        }
        other => Err((ErrorCode::InvalidRequest, format!("configs of resource type {other} are not supported"))),
    }
}

fn topic_config(topic: &Topic, def: &'static ConfigDef) -> DescribeConfigsResourceResult {
    let set = topic.value.configs.get(def.name);
    let default = DescribeConfigsSynonym::default()
        .with_name(StrBytes::from_static_str(def.broker_name))
        .with_value(Some(StrBytes::from_static_str(def.default)))
        .with_source(SOURCE_DEFAULT);
    let own = set.map(|value| {
        DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_static_str(def.name))
            .with_value(Some(text(value)))
            .with_source(SOURCE_TOPIC)
    });
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(def.name))
        .with_value(Some(text(set.map_or(def.default, String::as_str))))
        .with_config_source(if set.is_some() { SOURCE_TOPIC } else { SOURCE_DEFAULT })
        .with_synonyms(own.into_iter().chain([default]).collect())
        .with_config_type(def.kind as i8)
        .with_documentation(Some(StrBytes::from_static_str(def.doc)))
}

fn broker_configs(broker: &Broker) -> Vec<DescribeConfigsResourceResult> {
    let configs = broker_config::all(broker).into_iter().map(|(name, config)| {
        let source = if config.is_set { SOURCE_STATIC_BROKER } else { SOURCE_DEFAULT };
        let value = (!config.is_sensitive).then(|| text(&config.value));
        let synonym =
            DescribeConfigsSynonym::default().with_name(text(&name)).with_value(value.clone()).with_source(source);
        DescribeConfigsResourceResult::default()
            .with_name(name.into())
            .with_value(value)
            .with_read_only(true)
            .with_config_source(source)
            .with_is_sensitive(config.is_sensitive)
            .with_synonyms(vec![synonym])
            .with_config_type(config.kind as i8)
            .with_documentation(Some(config.doc.into()))
    });
    configs.collect()
}
