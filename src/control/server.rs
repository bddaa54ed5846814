//! Answers the control plane's calls from what the broker's parts say of themselves.

use super::listener;
use super::proto::control_server::{Control, ControlServer};
use super::proto::{
    BrokerState, DrainProgress, DrainRequest, ObjectStoreHealth, Phase as PhaseMessage, StatusRequest, StatusResponse,
    UndrainRequest, UndrainResponse,
};
use crate::actors::context::NodeContext;
use crate::actors::drain::state::{End, Phase, Refused};
use crate::actors::drain::{Drains, Hold, Progress};
use crate::actors::s3_health::state::Level;
use futures::Stream;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Longest request, bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Longest header list, bytes.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Calls at a time of one connection.
const CALLS_MAX: u32 = 16;
/// A peer that does not answer a ping, sent this often, within the same time is gone, and the drain that it waits for is called off.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The longest silence in a drain's answers.
const PROGRESS_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two of them.
const PROGRESS_AT_MOST_EVERY: Duration = Duration::from_millis(50);

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Service {
    context: Arc<NodeContext>,
    drains: Arc<Drains>,
    since: Instant,
}

impl Service {
    /// Of the broker that `context` belongs to, which serves from now on.
    pub fn new(context: Arc<NodeContext>, drains: Arc<Drains>) -> Self {
        let since = context.clock.monotonic();
        Self { context, drains, since }
    }

    /// Serves the control plane until `shutdown`; connections end with it.
    pub async fn serve(self, listener: Arc<TcpListener>, shutdown: CancellationToken) {
        let listening = listener.try_clone().and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        });
        let listener = match listening {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the control plane cannot be served"),
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ControlServer<Self>>().await;
        let control = ControlServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX);
        let serving = Server::builder()
            .max_concurrent_streams(CALLS_MAX)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_EVERY))
            .add_service(health_service.max_decoding_message_size(REQUEST_BYTES_MAX))
            .add_service(control)
            .serve_with_incoming(listener::connections(listener));
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "the control plane failed");
            },
            () = shutdown.cancelled() => {}
        }
    }

    fn status(&self) -> StatusResponse {
        let context = &*self.context;
        let (live, _) = context.announcement.told();
        let progress = self.drains.progress();
        StatusResponse {
            broker_id: live.node.0,
            rack: live.rack.unwrap_or_default(),
            version: live.version,
            state: state(progress.phase, self.drains.is_stopping(), context.standing.is_doubted()).into(),
            partitions: progress.partitions as u64,
            coordinator_shards: progress.shards,
            object_store: health(context.health.verdict().level).into(),
            writer_id: context.registration.writer.0,
            writer_head: context.stats.head.load(Ordering::Relaxed),
            unflushed_bytes: progress.inflight_bytes,
            uptime_ms: (context.clock.monotonic() - self.since).as_millis() as u64,
            cluster_id: context.cluster_id.clone(),
        }
    }
}

fn state(phase: Phase, stopping: bool, doubted: bool) -> BrokerState {
    match phase {
        _ if stopping => BrokerState::Stopping,
        _ if doubted => BrokerState::InDoubt,
        Phase::Serving => BrokerState::Serving,
        Phase::HandingOver | Phase::Flushing => BrokerState::Draining,
        Phase::Drained => BrokerState::Drained,
    }
}

fn health(level: Level) -> ObjectStoreHealth {
    match level {
        Level::Healthy => ObjectStoreHealth::Healthy,
        Level::Degraded => ObjectStoreHealth::Degraded,
        Level::Unavailable => ObjectStoreHealth::Unavailable,
    }
}

fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Alone => Status::failed_precondition(refused.to_string()),
        Refused::Stopping => Status::unavailable(refused.to_string()),
    }
}

fn ended(why: Option<End>) -> Status {
    match why {
        Some(End::Alone) => Status::failed_precondition(
            "the other brokers are gone, nobody could take over; the broker takes work again",
        ),
        Some(End::Unannounced) => Status::unavailable("the process is stopping and cannot reach the metadata store"),
        _ => Status::aborted("the drain was called off; the broker takes work again"),
    }
}

fn message(progress: &Progress) -> DrainProgress {
    let phase = match progress.phase {
        Phase::Serving => PhaseMessage::Unspecified, // never sent: a round that serves has ended
        Phase::HandingOver => PhaseMessage::HandingOver,
        Phase::Flushing => PhaseMessage::Flushing,
        Phase::Drained => PhaseMessage::Drained,
    };
    DrainProgress {
        phase: phase.into(),
        partitions_left: progress.partitions as u64,
        coordinator_shards_left: progress.shards,
        inflight_bytes: progress.inflight_bytes,
    }
}

/// What one who waits for a drain has been told.
struct Following {
    hold: Hold,
    progress: watch::Receiver<Progress>,
    told: bool,
    over: bool,
}

/// The answers of a drain. Dropped, it lets go of the drain.
fn follow(hold: Hold, progress: watch::Receiver<Progress>) -> impl Stream<Item = Result<DrainProgress, Status>> {
    let following = Following { hold, progress, told: false, over: false };
    futures::stream::unfold(following, |mut following| async move {
        if following.over {
            return None;
        }
        if following.told {
            tokio::time::sleep(PROGRESS_AT_MOST_EVERY).await;
            // Without news it is said again: only writing shows that nobody is there any more.
            drop(tokio::time::timeout(PROGRESS_AT_LEAST_EVERY, following.progress.changed()).await);
        }
        following.told = true;
        let progress = *following.progress.borrow_and_update();
        let answer =
            if progress.round == following.hold.round() { Ok(message(&progress)) } else { Err(ended(progress.ended)) };
        following.over = answer.is_err() || progress.phase == Phase::Drained;
        Some((answer, following))
    })
}

#[tonic::async_trait]
impl Control for Service {
    type DrainStream = Pin<Box<dyn Stream<Item = Result<DrainProgress, Status>> + Send>>;

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        let progress = self.drains.watch();
        let hold = self.drains.begin().map_err(refused)?;
        Ok(Response::new(Box::pin(follow(hold, progress))))
    }

    async fn undrain(&self, _: Request<UndrainRequest>) -> Result<Response<UndrainResponse>, Status> {
        let was_draining = self.drains.undrain().map_err(refused)?;
        Ok(Response::new(UndrainResponse { was_draining }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(Service::status(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_most_is_said() {
        let all = [Phase::Serving, Phase::HandingOver, Phase::Flushing, Phase::Drained];
        assert!(all.iter().all(|phase| state(*phase, true, true) == BrokerState::Stopping));
        assert!(all.iter().all(|phase| state(*phase, false, true) == BrokerState::InDoubt));
        use BrokerState::{Drained, Draining, Serving};
        assert_eq!(all.map(|phase| state(phase, false, false)), [Serving, Draining, Draining, Drained]);
    }

    #[test]
    fn errors_say_whether_trying_again_helps() {
        use tonic::Code::{Aborted, FailedPrecondition, Unavailable};
        assert_eq!(refused(Refused::Alone).code(), FailedPrecondition);
        assert_eq!(refused(Refused::Stopping).code(), Unavailable);
        let ends = [End::Undrained, End::Deserted, End::Alone, End::Unannounced];
        let codes = ends.map(|end| ended(Some(end)).code());
        assert_eq!(codes, [Aborted, Aborted, FailedPrecondition, Unavailable]);
    }
}
