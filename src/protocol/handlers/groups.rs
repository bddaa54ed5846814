//! Consumer groups: who coordinates them, their members, and what administrators see and delete.

use super::ConnectionContext;
use super::common::{Call, Node, nodes, text};
use crate::actors::group::call::{Answer, Call as GroupCall, Caller, Description, Listing};
use crate::actors::group::classic::{JoinReply, JoinRequest, SyncReply, SyncRequest};
use crate::actors::group::error::GroupError;
use crate::actors::group::limits::shard_of;
use crate::actors::group::value::Protocol;
use crate::metadata::image::ClusterImage;
use crate::protocol::error_code::{self, ErrorCode};
use bytes::Bytes;
use futures::future::join_all;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// Key types of FindCoordinator.
const KEY_GROUP: i8 = 0;
const KEY_TRANSACTION: i8 = 1;
/// What Kafka lets do with a group: read, delete, describe, describe and alter configs.
pub(super) const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;
/// They were not asked for.
pub(super) const NO_OPERATIONS: i32 = i32::MIN;

/// FindCoordinator.
pub(super) async fn find_coordinator(
    ctx: Rc<ConnectionContext>,
    request: FindCoordinatorRequest,
    call: Call,
) -> FindCoordinatorResponse {
    let kind = if call.version == 0 { KEY_GROUP } else { request.key_type };
    let image = ctx.broker.image.load_full();
    let nodes = nodes(&ctx, &image);
    let found = |key: &StrBytes| find(&ctx, &image, &nodes, kind, key);
    if call.version >= 4 {
        let coordinators = request.coordinator_keys.iter().map(found).collect();
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    let one = found(&request.key);
    FindCoordinatorResponse::default()
        .with_error_code(one.error_code)
        .with_error_message(one.error_message.filter(|_| call.version >= 1))
        .with_node_id(one.node_id)
        .with_host(one.host)
        .with_port(one.port)
}

fn find(ctx: &ConnectionContext, image: &ClusterImage, nodes: &[Node], kind: i8, key: &StrBytes) -> Coordinator {
    let refused = |code: ErrorCode, message: &str| {
        Coordinator::default()
            .with_key(key.clone())
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code.code())
            .with_error_message(Some(text(message)))
    };
    let own = ctx.broker.node;
    // This broker knows better than the image what it has itself.
    let coordinator = match kind {
        KEY_GROUP if ctx.broker.groups.coordinates(key) => Some(own),
        KEY_GROUP => image.coordinator(shard_of(key)).filter(|node| *node != own),
        // Whoever looks for the coordinator of transactions learns from InitProducerId that there are none.
        KEY_TRANSACTION => Some(own),
        other => {
            let message = format!("key type {other} is not supported: use 0 for groups");
            return refused(ErrorCode::InvalidRequest, &message);
        }
    };
    match coordinator.and_then(|id| nodes.iter().find(|node| node.id == id)) {
        Some(node) => Coordinator::default()
            .with_key(key.clone())
            .with_node_id(BrokerId(node.id.0))
            .with_host(node.host.clone())
            .with_port(node.port)
            .with_error_message(None),
        None => refused(ErrorCode::CoordinatorNotAvailable, "the group's coordinator is being moved; try again"),
    }
}

fn id(group: &GroupId) -> Arc<str> {
    group.as_str().into()
}

fn owned(text: Option<&StrBytes>) -> Option<String> {
    text.map(|t| t.to_string())
}

/// A copy: the frame that a request came in can be much larger than what is kept of it.
fn copied(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// JoinGroup.
pub(super) async fn join_group(
    ctx: Rc<ConnectionContext>,
    client_id: Option<String>,
    request: JoinGroupRequest,
    call: Call,
) -> JoinGroupResponse {
    let protocols = request.protocols.iter();
    let join = JoinRequest {
        member_id: request.member_id.to_string(),
        instance: owned(request.group_instance_id.as_ref()),
        client_id: client_id.unwrap_or_default(),
        client_host: format!("/{}", ctx.peer.ip()),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match call.version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        protocol_type: request.protocol_type.to_string(),
        protocols: protocols.map(|p| Protocol { name: p.name.to_string(), metadata: copied(&p.metadata) }).collect(),
        asks_for_id: call.version >= 4,
        may_skip_assignment: call.version >= 9,
    };
    let answer = ctx.broker.groups.call(GroupCall::Join(id(&request.group_id), Box::new(join)));
    let sent_id = request.member_id.to_string();
    drop(request);
    let reply = match answer.await {
        Ok(Answer::Join(reply)) => reply,
        Ok(other) => unreachable!("{other:?} to a join"),
        Err(error) => JoinReply { error: Some(error), generation: -1, member_id: sent_id, ..JoinReply::default() },
    };
    join_response(reply, call.version)
}

fn join_response(reply: JoinReply, version: i16) -> JoinGroupResponse {
    let members = reply.members.into_iter().map(|m| {
        let member = JoinGroupResponseMember::default().with_member_id(m.id.into()).with_metadata(m.metadata);
        member.with_group_instance_id(m.instance.filter(|_| version >= 5).map(Into::into))
    });
    // Before version 7 the name cannot be null.
    let protocol = reply.protocol.or((version < 7).then(String::new));
    JoinGroupResponse::default()
        .with_error_code(error_code::number(reply.error.map(error_code::of_group)))
        .with_generation_id(reply.generation)
        .with_protocol_type(reply.protocol_type.filter(|_| version >= 7).map(Into::into))
        .with_protocol_name(protocol.map(Into::into))
        .with_leader(reply.leader.into())
        .with_skip_assignment(reply.skip_assignment && version >= 9)
        .with_member_id(reply.member_id.into())
        .with_members(members.collect())
}

/// SyncGroup.
pub(super) async fn sync_group(ctx: Rc<ConnectionContext>, request: SyncGroupRequest, call: Call) -> SyncGroupResponse {
    let assignments = request.assignments.iter();
    let sync = SyncRequest {
        member_id: request.member_id.to_string(),
        instance: owned(request.group_instance_id.as_ref()),
        generation: request.generation_id,
        protocol_type: owned(request.protocol_type.as_ref()),
        protocol: owned(request.protocol_name.as_ref()),
        assignments: assignments.map(|a| (a.member_id.to_string(), copied(&a.assignment))).collect(),
    };
    let answer = ctx.broker.groups.call(GroupCall::Sync(id(&request.group_id), sync));
    drop(request);
    let reply = match answer.await {
        Ok(Answer::Sync(reply)) => reply,
        Ok(other) => unreachable!("{other:?} to a sync"),
        // Clients do not expect to hear of loading here; joining again they find their generation as it was.
        Err(GroupError::Loading) => SyncReply { error: Some(GroupError::RebalanceInProgress), ..SyncReply::default() },
        Err(error) => SyncReply { error: Some(error), ..SyncReply::default() },
    };
    let named = call.version >= 5;
    SyncGroupResponse::default()
        .with_error_code(error_code::number(reply.error.map(error_code::of_group)))
        .with_protocol_type(reply.protocol_type.filter(|_| named).map(Into::into))
        .with_protocol_name(reply.protocol.filter(|_| named).map(Into::into))
        .with_assignment(reply.assignment)
}

/// Heartbeat.
pub(super) async fn heartbeat(ctx: Rc<ConnectionContext>, request: HeartbeatRequest, _: Call) -> HeartbeatResponse {
    let caller = Caller {
        member_id: request.member_id.to_string(),
        instance: owned(request.group_instance_id.as_ref()),
        generation: request.generation_id,
        knows_epochs: false,
    };
    let outcome = ctx.broker.groups.call(GroupCall::Heartbeat(id(&request.group_id), caller)).await;
    // Nothing is known about the member while groups are loaded, so nothing is wrong with it.
    let error = outcome.err().filter(|error| *error != GroupError::Loading);
    HeartbeatResponse::default().with_error_code(error_code::number(error.map(error_code::of_group)))
}

/// LeaveGroup.
pub(super) async fn leave_group(
    ctx: Rc<ConnectionContext>,
    request: LeaveGroupRequest,
    call: Call,
) -> LeaveGroupResponse {
    let is_batch = call.version >= 3;
    let leaving: Vec<(String, Option<String>)> = if is_batch {
        request.members.iter().map(|m| (m.member_id.to_string(), owned(m.group_instance_id.as_ref()))).collect()
    } else {
        vec![(request.member_id.to_string(), None)]
    };
    let outcome = ctx.broker.groups.call(GroupCall::Leave(id(&request.group_id), leaving)).await;
    let number = |error: GroupError| error_code::of_group(error).code();
    let outcomes = match outcome {
        Ok(Answer::Left(outcomes)) => outcomes,
        Ok(other) => unreachable!("{other:?} to a leave"),
        Err(error) => return LeaveGroupResponse::default().with_error_code(number(error)),
    };
    if !is_batch {
        let error = outcomes.first().and_then(|o| o.err());
        return LeaveGroupResponse::default().with_error_code(error.map_or(0, number));
    }
    let members = request.members.into_iter().zip(outcomes).map(|(member, outcome)| {
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(outcome.err().map_or(0, number))
    });
    LeaveGroupResponse::default().with_members(members.collect())
}

/// DescribeGroups.
pub(super) async fn describe_groups(
    ctx: Rc<ConnectionContext>,
    request: DescribeGroupsRequest,
    call: Call,
) -> DescribeGroupsResponse {
    let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { NO_OPERATIONS };
    let answers = request.groups.iter().map(|group| ctx.broker.groups.call(GroupCall::Describe(id(group))));
    let outcomes = join_all(answers).await;
    let groups = request.groups.into_iter().zip(outcomes).map(|(group, outcome)| {
        let described = match outcome {
            Ok(Answer::Described(description)) => described(*description, call.version),
            Ok(other) => unreachable!("{other:?} to a describe"),
            Err(error) => undescribed(error, &group, call.version),
        };
        described.with_group_id(group).with_authorized_operations(operations)
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}

fn described(description: Description, version: i16) -> DescribedGroup {
    let members = description.members.into_iter().map(|(member, metadata)| {
        DescribedGroupMember::default()
            .with_member_id(member.id.into())
            .with_group_instance_id(member.instance.filter(|_| version >= 4).map(Into::into))
            .with_client_id(member.client_id.into())
            .with_client_host(member.client_host.into())
            .with_member_metadata(metadata)
            .with_member_assignment(member.assignment)
    });
    DescribedGroup::default()
        .with_group_state(StrBytes::from_static_str(description.state.name()))
        .with_protocol_type(description.protocol_type.into())
        .with_protocol_data(description.protocol.into())
        .with_error_message(None)
        .with_members(members.collect())
}

/// A group that does not exist, or is of the other protocol, is a dead one; since version 6 that is an error, too.
fn undescribed(error: GroupError, group: &GroupId, version: i16) -> DescribedGroup {
    let unknown = matches!(error, GroupError::GroupIdNotFound | GroupError::NotClassic);
    let state = if unknown { "Dead" } else { "" };
    let described =
        DescribedGroup::default().with_group_state(StrBytes::from_static_str(state)).with_error_message(None);
    if unknown && version < 6 {
        return described;
    }
    let message = match error {
        GroupError::GroupIdNotFound => format!("Group {} not found.", group.as_str()),
        GroupError::NotClassic => format!("Group {} is not a classic group.", group.as_str()),
        other => other.to_string(),
    };
    described
        .with_error_code(error_code::of_group(error).code())
        .with_error_message((version >= 6).then(|| message.into()))
}

/// ListGroups.
pub(super) async fn list_groups(
    ctx: Rc<ConnectionContext>,
    request: ListGroupsRequest,
    call: Call,
) -> ListGroupsResponse {
    let listed = match ctx.broker.groups.call(GroupCall::List).await {
        Ok(Answer::Listed(listed)) => listed,
        Ok(other) => unreachable!("{other:?} to a list"),
        Err(error) => return ListGroupsResponse::default().with_error_code(error_code::of_group(error).code()),
    };
    let has = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    let wanted =
        |group: &Listing| has(&request.states_filter, group.state) && has(&request.types_filter, group.kind.name());
    let since = |version, text| StrBytes::from_static_str(if call.version >= version { text } else { "" });
    let groups = listed.into_iter().filter(wanted).map(|group| {
        ListedGroup::default()
            .with_group_id(GroupId(text(&group.group)))
            .with_protocol_type(group.protocol_type.into())
            .with_group_state(since(4, group.state))
            .with_group_type(since(5, group.kind.name()))
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

/// DeleteGroups.
pub(super) async fn delete_groups(
    ctx: Rc<ConnectionContext>,
    request: DeleteGroupsRequest,
    _: Call,
) -> DeleteGroupsResponse {
    // Like Kafka: one row for a group that was sent more than once.
    let mut seen = BTreeSet::new();
    let mut groups = request.groups_names;
    groups.retain(|group| seen.insert(group.clone()));
    let answers = groups.iter().map(|group| ctx.broker.groups.call(GroupCall::Delete(id(group))));
    let outcomes = join_all(answers).await;
    let results = groups.into_iter().zip(outcomes).map(|(group, outcome)| {
        let error = outcome.err().map(error_code::of_group);
        DeletableGroupResult::default().with_group_id(group).with_error_code(error_code::number(error))
    });
    DeleteGroupsResponse::default().with_results(results.collect())
}
