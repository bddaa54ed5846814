//! What the operator asks brokers over their control plane.

use crate::control::proto::control_client::ControlClient;
use crate::control::proto::{
    BrokerState, DrainRequest, ObjectStoreHealth, Phase, StatusRequest, StatusResponse, UndrainRequest,
};
use crate::operator::rollout::state::Doing;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// How long a connection and an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// A broker that does not answer a ping, sent this often, within the same time is gone.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Longest answer, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a broker did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// Nobody there.
    #[error("the control plane at {address} does not answer: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// It answers and refuses.
    #[error("{0}")]
    Refused(String),
    /// Not done in time.
    #[error("not done within {0} s")]
    TimedOut(u64),
}

async fn connect(address: &str) -> Result<ControlClient<Channel>, ControlError> {
    let unreachable = |reason: String| ControlError::Unreachable { address: address.to_owned(), reason };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| unreachable(e.to_string()))?;
    let endpoint = endpoint
        .connect_timeout(ANSWER_WITHIN)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .keep_alive_while_idle(true);
    let channel = tokio::time::timeout(ANSWER_WITHIN, endpoint.connect()).await;
    let channel = channel.map_err(|_| unreachable("no connection in time".to_owned()))?;
    let channel = channel.map_err(|e| unreachable(e.to_string()))?;
    Ok(ControlClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}

/// What the broker at `address` is and does.
pub async fn status(address: &str) -> Result<StatusResponse, ControlError> {
    let mut client = connect(address).await?;
    let unreachable = |reason: String| ControlError::Unreachable { address: address.to_owned(), reason };
    let asked = tokio::time::timeout(ANSWER_WITHIN, client.status(StatusRequest {})).await;
    let asked = asked.map_err(|_| unreachable("no answer in time".to_owned()))?;
    asked.map(tonic::Response::into_inner).map_err(|status| unreachable(status.message().to_owned()))
}

/// Lets the broker give away what it has; returns when it has nothing. Whoever drops the future calls it off.
pub async fn drain(address: &str, within: Duration) -> Result<(), ControlError> {
    let run = async {
        let mut client = connect(address).await?;
        let refused = |status: tonic::Status| ControlError::Refused(status.message().to_owned());
        let mut answers = client.drain(DrainRequest {}).await.map_err(refused)?.into_inner();
        while let Some(progress) = answers.message().await.map_err(refused)? {
            if progress.phase() == Phase::Drained {
                return Ok(());
            }
        }
        Err(ControlError::Refused("the broker ended the drain without a word".to_owned()))
    };
    tokio::time::timeout(within, run).await.unwrap_or(Err(ControlError::TimedOut(within.as_secs())))
}

/// Lets the broker take work again.
pub async fn undrain(address: &str) -> Result<(), ControlError> {
    let mut client = connect(address).await?;
    let asked = tokio::time::timeout(ANSWER_WITHIN, client.undrain(UndrainRequest {})).await;
    let asked = asked.map_err(|_| ControlError::TimedOut(ANSWER_WITHIN.as_secs()))?;
    asked.map(|_| ()).map_err(|status| ControlError::Refused(status.message().to_owned()))
}

/// What a rollout needs to know of a state.
pub fn doing(state: BrokerState) -> Doing {
    match state {
        BrokerState::Serving => Doing::Serving,
        BrokerState::Draining => Doing::Draining,
        BrokerState::Drained => Doing::Drained,
        BrokerState::Unspecified | BrokerState::InDoubt | BrokerState::Stopping => Doing::Other,
    }
}

/// A state as in the resource's status.
pub fn state_name(state: BrokerState) -> &'static str {
    match state {
        BrokerState::Unspecified => "Unknown",
        BrokerState::Serving => "Serving",
        BrokerState::Draining => "Draining",
        BrokerState::Drained => "Drained",
        BrokerState::InDoubt => "InDoubt",
        BrokerState::Stopping => "Stopping",
    }
}

/// Whether a broker says that it reaches the bucket; `None` if it does not say.
pub fn reaches_bucket(status: &StatusResponse) -> Option<bool> {
    match status.object_store() {
        ObjectStoreHealth::Unspecified => None,
        ObjectStoreHealth::Healthy | ObjectStoreHealth::Degraded => Some(true),
        ObjectStoreHealth::Unavailable => Some(false),
    }
}
