//! Drains that were asked for in the console. A drain goes on only while somebody waits for it, so that the console waits, and
//! remembers how far it is.

use super::fetch::reasons;
use crate::control::proto::control_client::ControlClient;
use crate::control::proto::{BrokerState, DrainProgress, DrainRequest, Phase, StatusRequest, UndrainRequest};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A broker that does not answer a ping within this time is gone.
const PING_EVERY: Duration = Duration::from_secs(5);
/// A drain is given up after this.
const DRAIN_WITHIN: Duration = Duration::from_secs(900);
/// Brokers that are remembered.
const VIEWS_MAX: usize = 512;

/// Why a broker was not drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// It does not answer.
    #[error("the control plane at {address} cannot be reached: {reason}; check that the console may connect to it")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// It does not want to.
    #[error("{0}")]
    Refused(String),
}

/// How far a drain is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrainView {
    /// `none`, `draining`, `drained` or `failed`.
    pub state: &'static str,
    /// Partitions and coordinator shards that were given away.
    pub moved: u64,
    /// How many there were when it began.
    pub total: u64,
    /// The same in words.
    pub text: String,
}

impl DrainView {
    fn of(state: &'static str, text: impl Into<String>) -> Self {
        Self { state, moved: 0, total: 0, text: text.into() }
    }

    /// What a broker's answer means; `total` is what there was in the first one.
    fn progress(progress: &DrainProgress, total: u64) -> Self {
        let left = progress.partitions_left + progress.coordinator_shards_left;
        let (state, text) = match progress.phase() {
            Phase::Drained => ("drained", "everything is given away and durable: the broker can be stopped".to_owned()),
            Phase::Flushing => ("draining", format!("{} bytes become durable", progress.inflight_bytes)),
            Phase::HandingOver | Phase::Unspecified => (
                "draining",
                format!(
                    "{} partitions and {} coordinator shards left",
                    progress.partitions_left, progress.coordinator_shards_left
                ),
            ),
        };
        Self { state, moved: total.saturating_sub(left), total, text }
    }
}

type Views = Arc<Mutex<BTreeMap<i32, DrainView>>>;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Drains {
    views: Views,
}

async fn connect(address: &str) -> Result<ControlClient<Channel>, DrainError> {
    let unreachable = |reason| DrainError::Unreachable { address: address.to_owned(), reason };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| unreachable(reasons(&e)))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .keep_alive_while_idle(true);
    Ok(ControlClient::new(endpoint.connect().await.map_err(|e| unreachable(reasons(&e)))?))
}

fn refused(address: &str, status: &Status) -> DrainError {
    match status.code() {
        Code::FailedPrecondition | Code::Aborted => DrainError::Refused(status.message().to_owned()),
        _ => DrainError::Unreachable { address: address.to_owned(), reason: status.message().to_owned() },
    }
}

async fn within<T>(
    address: &str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, DrainError> {
    match tokio::time::timeout(ANSWER_WITHIN, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner).map_err(|status| refused(address, &status)),
        Err(_) => {
            let reason = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
            Err(DrainError::Unreachable { address: address.to_owned(), reason })
        }
    }
}

impl Drains {
    /// Lets a broker begin, and waits for it in the background until `shutdown`.
    pub async fn begin(
        &self,
        broker: i32,
        address: String,
        shutdown: CancellationToken,
    ) -> Result<DrainView, DrainError> {
        let mut client = connect(&address).await?;
        let mut answers = within(&address, client.drain(DrainRequest {})).await?;
        let first = tokio::time::timeout(ANSWER_WITHIN, answers.message()).await;
        let first = match first {
            Ok(Ok(Some(first))) => first,
            Ok(Err(status)) => return Err(refused(&address, &status)),
            Ok(Ok(None)) | Err(_) => {
                let reason = "it did not say how far it is".to_owned();
                return Err(DrainError::Unreachable { address, reason });
            }
        };
        let total = first.partitions_left + first.coordinator_shards_left;
        let view = DrainView::progress(&first, total);
        self.set(broker, view.clone());
        let views = self.views.clone();
        let follow = async move {
            let set = |view| put(&views, broker, view);
            loop {
                match answers.message().await {
                    Ok(Some(progress)) => {
                        let view = DrainView::progress(&progress, total);
                        let is_over = view.state == "drained";
                        set(view);
                        if is_over {
                            return;
                        }
                    }
                    Ok(None) => return set(DrainView::of("failed", "the broker ended the drain without a word")),
                    Err(status) => return set(DrainView::of("failed", status.message())),
                }
            }
        };
        let views = self.views.clone();
        drop(actix_rt::spawn(async move {
            tokio::select! {
                () = follow => {}
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(DRAIN_WITHIN) => {
                    let text = format!("not drained within {} s: called off, the broker takes work again", DRAIN_WITHIN.as_secs());
                    put(&views, broker, DrainView::of("failed", text));
                }
            }
        }));
        Ok(view)
    }

    /// How far a broker is: what is remembered here, or what it says itself.
    pub async fn view(&self, broker: i32, address: Option<&str>) -> DrainView {
        let remembered = self.views.lock().expect("no panic under the lock").get(&broker).cloned();
        if let Some(view) = remembered.clone().filter(|view| view.state == "draining") {
            return view;
        }
        let Some(address) = address else {
            return DrainView::of("none", "the broker has no control plane (KAFSCALE_CONTROL_ADDR is off)");
        };
        let status = async {
            let mut client = connect(address).await?;
            within(address, client.status(StatusRequest {})).await
        };
        match status.await {
            Ok(status) => match status.state() {
                BrokerState::Draining | BrokerState::Stopping => {
                    DrainView::of("draining", "the broker gives away what it has, asked for by somebody else")
                }
                BrokerState::Drained => remembered
                    .filter(|view| view.state == "drained")
                    .unwrap_or_else(|| DrainView::of("drained", "the broker has nothing, and takes nothing")),
                BrokerState::Serving | BrokerState::InDoubt | BrokerState::Unspecified => remembered
                    .filter(|view| view.state == "failed")
                    .unwrap_or_else(|| DrainView::of("none", "the broker serves")),
            },
            Err(error) => DrainView::of("none", error.to_string()),
        }
    }

    /// Nothing is remembered of a broker any more.
    pub fn forget(&self, broker: i32) {
        self.views.lock().expect("no panic under the lock").remove(&broker);
    }

    fn set(&self, broker: i32, view: DrainView) {
        put(&self.views, broker, view);
    }
}

fn put(views: &Views, broker: i32, view: DrainView) {
    let mut views = views.lock().expect("no panic under the lock");
    if views.len() >= VIEWS_MAX && !views.contains_key(&broker) {
        views.retain(|_, view| view.state == "draining");
    }
    views.insert(broker, view);
}

/// Lets a broker take work again; whether it had been told to drain.
pub async fn undrain(address: &str) -> Result<bool, DrainError> {
    let mut client = connect(address).await?;
    Ok(within(address, client.undrain(UndrainRequest {})).await?.was_draining)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_is_what_is_no_longer_there() {
        let progress = |phase: Phase, partitions_left, coordinator_shards_left| DrainProgress {
            phase: phase.into(),
            partitions_left,
            coordinator_shards_left,
            inflight_bytes: 7,
        };
        let view = DrainView::progress(&progress(Phase::HandingOver, 3, 2), 8);
        assert_eq!((view.state, view.moved, view.total), ("draining", 3, 8));
        assert!(view.text.starts_with("3 partitions and 2 "));
        let view = DrainView::progress(&progress(Phase::Flushing, 0, 0), 8);
        assert_eq!((view.state, view.moved), ("draining", 8));
        assert_eq!(DrainView::progress(&progress(Phase::Drained, 0, 0), 8).state, "drained");
    }
}
