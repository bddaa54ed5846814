//! DescribeConfigs: every known config of topics, brokers and groups, with where its value comes from. ListConfigResources: what
//! can be described.

use super::ConnectionContext;
use super::common::{self, Call, Refusal, refuse, text};
use crate::actors::group::limits::GROUP_ID_LEN_MAX;
use crate::broker::Broker;
use crate::metadata::image::{ClusterImage, Topic};
use crate::protocol::broker_config::{self, BrokerConfig};
use crate::protocol::config_defaults::{Configs, Defaults, Layer, Source};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::group_config::{Bound, GROUP_CONFIGS};
use crate::protocol::topic_config::{ConfigDef, TOPIC_CONFIGS};
use crate::protocol::topic_name;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{
    DescribeConfigsRequest, DescribeConfigsResponse, ListConfigResourcesRequest, ListConfigResourcesResponse,
};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;
use std::sync::Arc;

/// Resource types of the protocol.
pub(super) const RESOURCE_TOPIC: i8 = 2;
pub(super) const RESOURCE_BROKER: i8 = 4;
const RESOURCE_CLIENT_METRICS: i8 = 16;
pub(super) const RESOURCE_GROUP: i8 = 32;
const RESOURCE_BROKER_LOGGER: i8 = 8;

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
            Err(refusal) => {
                result.with_error_code(refusal.code.code()).with_error_message(Some(refusal.message.into()))
            }
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
    let defaults = image.defaults();
    match resource.resource_type {
        RESOURCE_TOPIC => {
            let topic = configured_topic(image, name)?;
            Ok(TOPIC_CONFIGS.iter().map(|def| topic_config(topic, def, defaults)).collect())
        }
        // Only what was changed at run time for all brokers.
        RESOURCE_BROKER if name.is_empty() => {
            let configs = broker_config::all(broker, defaults).into_iter();
            Ok(configs.filter_map(|(name, config)| cluster_default(&name, config)).collect())
        }
        RESOURCE_BROKER if name == broker.node.to_string() => {
            let configs = broker_config::all(broker, defaults).into_iter();
            Ok(configs.map(|(name, config)| broker_config(&name, config)).collect())
        }
        RESOURCE_BROKER => {
            let message = format!("this is broker {}, ask broker {name} for its own configs", broker.node);
            refuse(ErrorCode::InvalidRequest, message)
        }
        RESOURCE_GROUP => {
            check_group(name)?;
            let (own, bounds) = (image.group_configs(name), broker.settings.group_bounds);
            Ok(GROUP_CONFIGS.iter().map(|def| group_config(own, def, bounds.of(def))).collect())
        }
        other => refuse(ErrorCode::InvalidRequest, format!("configs of resource type {other} are not supported")),
    }
}

/// The topic whose configs a request names. Unlike elsewhere, Kafka looks at the name itself here.
pub(super) fn configured_topic<'a>(image: &'a ClusterImage, name: &str) -> Result<&'a Arc<Topic>, Refusal> {
    if name.is_empty() {
        return refuse(
            ErrorCode::InvalidRequest,
            "there are no configs of all topics: name one, or change the brokers'",
        );
    }
    topic_name::check(name).or_else(|message| refuse(ErrorCode::InvalidTopicException, message))?;
    common::find_topic(image, name)
}

/// A group need not exist to be configured, but its id must be one that a group can have.
pub(super) fn check_group(name: &str) -> Result<(), Refusal> {
    match name.len() {
        0 => refuse(ErrorCode::InvalidRequest, "there are no configs of all groups: name one, or set the brokers'"),
        1..=GROUP_ID_LEN_MAX => Ok(()),
        _ => refuse(ErrorCode::InvalidRequest, format!("no group has an id of more than {GROUP_ID_LEN_MAX} bytes")),
    }
}

fn synonym(layer: &Layer<'_>) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym::default()
        .with_name(text(layer.name))
        .with_value(Some(text(layer.value)))
        .with_source(layer.source as i8)
}

fn topic_config(topic: &Topic, def: &'static ConfigDef, defaults: &Defaults) -> DescribeConfigsResourceResult {
    let own = topic.value.configs.get(def.name);
    let own = own.map(|value| Layer { name: def.name, value, source: Source::Topic });
    let (value, source) = own.map_or_else(|| defaults.value(def), |layer| (layer.value, layer.source));
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(def.name))
        .with_value(Some(text(value)))
        .with_config_source(source as i8)
        .with_synonyms(own.iter().chain(&defaults.layers(def)).map(synonym).collect())
        .with_config_type(def.kind as i8)
        .with_documentation(Some(StrBytes::from_static_str(def.doc)))
}

fn group_config(own: Option<&Configs>, def: &'static ConfigDef, bound: Bound) -> DescribeConfigsResourceResult {
    let broker_value = bound.default_ms.to_string();
    let own = own.and_then(|configs| configs.get(def.name));
    let mut layers: Vec<Layer<'_>> =
        own.map(|value| Layer { name: def.name, value, source: Source::Group }).into_iter().collect();
    if broker_value != def.default {
        layers.push(Layer { name: def.broker_name, value: &broker_value, source: Source::StaticBroker });
    }
    layers.push(Layer { name: def.broker_name, value: def.default, source: Source::Default });
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(def.name))
        .with_value(Some(text(layers[0].value)))
        .with_config_source(layers[0].source as i8)
        .with_synonyms(layers.iter().map(synonym).collect())
        .with_config_type(def.kind as i8)
        .with_documentation(Some(StrBytes::from_static_str(def.doc)))
}

fn broker_config(name: &str, config: BrokerConfig) -> DescribeConfigsResourceResult {
    let shown = |value: String| (!config.is_sensitive).then(|| text(&value));
    let synonyms = config.layers.iter().map(|(name, value, source)| {
        DescribeConfigsSynonym::default()
            .with_name(text(name))
            .with_value(shown(value.clone()))
            .with_source(*source as i8)
    });
    DescribeConfigsResourceResult::default()
        .with_name(text(name))
        .with_synonyms(synonyms.collect())
        .with_value(shown(config.value))
        .with_read_only(!config.is_dynamic)
        .with_config_source(config.source as i8)
        .with_is_sensitive(config.is_sensitive)
        .with_config_type(config.kind as i8)
        .with_documentation(Some(config.doc.into()))
}

/// A config as the cluster's dynamic default, if it has one.
fn cluster_default(name: &str, config: BrokerConfig) -> Option<DescribeConfigsResourceResult> {
    let at = config.layers.iter().position(|(_, _, source)| *source == Source::DynamicDefault)?;
    let layers = config.layers[at..].to_vec();
    let (value, source) = (layers[0].1.clone(), Source::DynamicDefault);
    Some(broker_config(name, BrokerConfig { value, source, layers, ..config }))
}

pub(super) async fn list_config_resources(
    ctx: Rc<ConnectionContext>,
    request: ListConfigResourcesRequest,
    call: Call,
) -> ListConfigResourcesResponse {
    const KNOWN: [i8; 5] =
        [RESOURCE_TOPIC, RESOURCE_BROKER, RESOURCE_BROKER_LOGGER, RESOURCE_CLIENT_METRICS, RESOURCE_GROUP];
    // Version 0 lists client metrics, of which there are none; no types are all types.
    let wanted = match (call.version, request.resource_types) {
        (0, _) => vec![RESOURCE_CLIENT_METRICS],
        (_, types) if types.is_empty() => KNOWN.to_vec(),
        (_, types) => types,
    };
    if wanted.iter().any(|kind| !KNOWN.contains(kind)) {
        return ListConfigResourcesResponse::default().with_error_code(ErrorCode::UnsupportedVersion.code());
    }
    let image = ctx.broker.image.load_full();
    let row = |kind, name: &str| ConfigResource::default().with_resource_type(kind).with_resource_name(text(name));
    let mut rows = Vec::new();
    if wanted.contains(&RESOURCE_TOPIC) {
        rows.extend(image.topics().map(|topic| row(RESOURCE_TOPIC, &topic.name)));
    }
    if wanted.contains(&RESOURCE_BROKER) {
        rows.extend(common::nodes(&ctx, &image).iter().map(|node| row(RESOURCE_BROKER, &node.id.to_string())));
    }
    if wanted.contains(&RESOURCE_GROUP) {
        rows.extend(image.configured_groups().map(|group| row(RESOURCE_GROUP, group)));
    }
    ListConfigResourcesResponse::default().with_config_resources(rows)
}
