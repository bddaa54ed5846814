//! AlterConfigs (replaces everything) and IncrementalAlterConfigs (KIP-339), for topics, brokers and groups.
//!
//! The answer comes when the metadata store has the change and this broker acts on it.

use super::ConnectionContext;
use super::common::{self, Call, Refusal, refuse, text};
use super::configs::{RESOURCE_BROKER, RESOURCE_GROUP, RESOURCE_TOPIC, check_group, configured_topic};
use crate::ids::BrokerId;
use crate::metadata::Revision;
use crate::metadata::image::ClusterImage;
use crate::protocol::config_change::{Change, ChangeError, Operation, Owner, incremental, replacement};
use crate::protocol::config_defaults::Configs;
use crate::protocol::error_code::ErrorCode;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as LegacyRow;
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as Row;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use std::collections::BTreeMap;
use std::rc::Rc;

type Changed = Box<dyn Fn(&Configs) -> Result<Configs, ChangeError> + Send>;
/// Maps whose configs they are to a function that changes them.
type ChangeFor = Box<dyn FnOnce(Owner) -> Changed>;

/// A resource with what is to happen to its configs.
struct Asked {
    resource_type: i8,
    name: String,
    change: Result<ChangeFor, Refusal>,
}

pub(super) async fn incremental_alter_configs(
    ctx: Rc<ConnectionContext>,
    request: IncrementalAlterConfigsRequest,
    _call: Call,
) -> IncrementalAlterConfigsResponse {
    let asked = request.resources.into_iter().map(|resource| Asked {
        resource_type: resource.resource_type,
        name: resource.resource_name.to_string(),
        change: incremental_change(&resource),
    });
    let rows = alter(&ctx, asked.collect(), request.validate_only).await;
    IncrementalAlterConfigsResponse::default().with_responses(rows)
}

fn incremental_change(resource: &AlterConfigsResource) -> Result<ChangeFor, Refusal> {
    let mut changes = Vec::with_capacity(resource.configs.len());
    for config in &resource.configs {
        let Some(operation) = Operation::from_number(config.config_operation) else {
            let message = format!("config {}: operation {} is not known", &*config.name, config.config_operation);
            return refuse(ErrorCode::InvalidRequest, message);
        };
        let value = config.value.as_ref().map(ToString::to_string);
        changes.push(Change { name: config.name.to_string(), operation, value });
    }
    Ok(Box::new(move |owner| Box::new(move |configs: &Configs| incremental(owner, configs, &changes))))
}

pub(super) async fn alter_configs(
    ctx: Rc<ConnectionContext>,
    request: AlterConfigsRequest,
    _call: Call,
) -> AlterConfigsResponse {
    let asked = request.resources.into_iter().map(|resource| {
        let configs: Vec<(String, Option<String>)> =
            resource.configs.iter().map(|c| (c.name.to_string(), c.value.as_ref().map(ToString::to_string))).collect();
        let change: ChangeFor = Box::new(move |owner| Box::new(move |_: &Configs| replacement(owner, &configs)));
        let name = resource.resource_name.to_string();
        Asked { resource_type: resource.resource_type, name, change: Ok(change) }
    });
    // The same fields, as another type.
    let rows = alter(&ctx, asked.collect(), request.validate_only).await.into_iter().map(|row| {
        LegacyRow::default()
            .with_error_code(row.error_code)
            .with_error_message(row.error_message)
            .with_resource_type(row.resource_type)
            .with_resource_name(row.resource_name)
    });
    AlterConfigsResponse::default().with_responses(rows.collect())
}

/// Changes the configs of every resource, each on its own; then waits until this broker acts on them.
async fn alter(ctx: &ConnectionContext, asked: Vec<Asked>, validate_only: bool) -> Vec<Row> {
    let mut count: BTreeMap<(i8, String), usize> = BTreeMap::new();
    asked.iter().for_each(|a| *count.entry((a.resource_type, a.name.clone())).or_default() += 1);
    let mut rows = Vec::with_capacity(asked.len());
    let mut last: Revision = 0;
    for resource in asked {
        let entity = (resource.resource_type, resource.name);
        let outcome = match count.get(&entity) {
            Some(1) => match resource.change {
                Ok(change) => alter_one(ctx, entity.0, &entity.1, change, validate_only).await,
                Err(refusal) => Err(refusal),
            },
            // Like Kafka: one row for a resource that was sent more than once.
            Some(_) => refuse(ErrorCode::InvalidRequest, "the request names this resource more than once"),
            None => continue,
        };
        count.remove(&entity);
        last = last.max(outcome.as_ref().copied().unwrap_or(0));
        let (code, message) = outcome.err().map_or((0, None), |r| (r.code.code(), Some(r.message.into())));
        rows.push(
            Row::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(entity.0)
                .with_resource_name(text(&entity.1)),
        );
    }
    if !validate_only {
        common::wait_until(common::soon(), || ctx.broker.image.load().revision >= last).await;
    }
    rows
}

async fn alter_one(
    ctx: &ConnectionContext,
    resource_type: i8,
    name: &str,
    change: ChangeFor,
    validate_only: bool,
) -> Result<Revision, Refusal> {
    let image = ctx.broker.image.load_full();
    let admin = &ctx.broker.admin;
    match resource_type {
        RESOURCE_TOPIC => {
            let id = configured_topic(&image, name)?.value.id;
            Ok(admin.alter_topic_configs(name, id, validate_only, change(Owner::Topic)).await?)
        }
        RESOURCE_BROKER => {
            let node = broker_of(ctx, &image, name)?;
            Ok(admin.alter_broker_configs(node, validate_only, change(Owner::Broker)).await?)
        }
        RESOURCE_GROUP => {
            check_group(name)?;
            let owner = Owner::Group(ctx.broker.settings.group_bounds);
            Ok(admin.alter_group_configs(name, validate_only, change(owner)).await?)
        }
        other => {
            let message =
                format!("configs of resource type {other} cannot be changed, only those of topics, brokers and groups");
            refuse(ErrorCode::InvalidRequest, message)
        }
    }
}

/// The broker that a resource names; `None` for the defaults of all.
fn broker_of(ctx: &ConnectionContext, image: &ClusterImage, name: &str) -> Result<Option<BrokerId>, Refusal> {
    if name.is_empty() {
        return Ok(None);
    }
    let Ok(node) = name.parse().map(BrokerId) else {
        return refuse(ErrorCode::InvalidRequest, format!("a broker's name is its id, and {name:?} is no number"));
    };
    if common::nodes(ctx, image).iter().any(|n| n.id == node) {
        Ok(Some(node))
    } else {
        refuse(ErrorCode::InvalidRequest, format!("broker {node} is not a live broker of this cluster"))
    }
}
