//! What the groups' actors and those who call them tell [`CoordinatorShards`](super::directory::CoordinatorShards).

use super::Reply;
use super::call::Call;
use super::limits::Loaded;
use super::shards::{Changed, Incarnation};
use super::writes::GroupId;
use crate::actors::supervisor::Place;
use crate::ids::TopicId;
use actix::Message;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A call with the place for its answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Ask {
    pub call: Call,
    pub reply: Reply,
    pub place: Place,
}

/// A group's actor has started.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Ready(pub GroupId);

/// What a group has to say.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Said {
    pub id: GroupId,
    pub changed: Changed<Reply>,
}

/// A group failed: what is stored of it is to be read, once everything that it had changed is durable.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Recover {
    pub id: GroupId,
    pub reply: oneshot::Sender<(Incarnation, Vec<Loaded>)>,
}

/// Topics that have offsets and that are not in the image, by name and id.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Missing(pub BTreeSet<(Arc<str>, TopicId)>);

/// The process stops: parked requests are answered, what was changed becomes durable, nothing new is taken.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Drain(pub oneshot::Sender<()>);
