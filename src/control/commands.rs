//! `kafscale drain` and `kafscale status`: ask one broker, say what it answers, and end with a code that scripts can act on.

use super::find::{self, FindError};
use super::proto::control_client::ControlClient;
use super::proto::{
    BrokerState, DrainProgress, DrainRequest, ObjectStoreHealth, Phase, StatusRequest, StatusResponse, UndrainRequest,
};
use crate::cli::exit;
use crate::config::args::EtcdArgs;
use crate::config::{self, ConfigError};
use crate::ids::BrokerId;
use crate::node;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer to one question may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A broker that does not answer a ping, sent this often, within the same time is gone.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Longest answer, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Which broker is meant.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Kafka node id of the broker; its control plane is found through etcd, unless --address says where it is.
    #[arg(long, value_name = "NUMBER", required_unless_present = "address", value_parser = clap::value_parser!(i32).range(0..))]
    pub broker: Option<i32>,
    /// Its control plane, as host:port.
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// Print JSON, one object per line.
    #[arg(long)]
    pub json: bool,
    /// The cluster's name in etcd.
    #[arg(long, env = "KAFSCALE_S3_NAMESPACE", default_value = "default", value_name = "NAME")]
    pub s3_namespace: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub etcd: EtcdArgs,
}

/// Arguments of `kafscale drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: Target,
    /// Let the broker take work again instead; calls a drain off that is under way.
    #[arg(long)]
    pub undrain: bool,
    /// Seconds after which the drain is called off.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<ConfigError>),
    #[error("{0}")]
    Etcd(String),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(
        "the control plane at {address} cannot be reached: {reason}; is the broker running, and is this its KAFSCALE_CONTROL_ADDR?"
    )]
    Unreachable { address: String, reason: String },
    #[error("{address} is broker {found}, not {wanted}")]
    WrongBroker { address: String, found: i32, wanted: BrokerId },
    #[error("{}", said(.0))]
    Refused(Status),
    #[error("not drained within {0} s (--timeout); the drain is called off, the broker takes work again")]
    TimedOut(u64),
    #[error("the broker ended the drain without a word; it may have stopped: ask for its status")]
    Silent,
}

/// A broker's own words, or those of the transport.
fn said(status: &Status) -> String {
    match status.code() {
        Code::FailedPrecondition | Code::Aborted => status.message().to_owned(),
        code => format!("{}: {}", code.description(), status.message()),
    }
}

impl CommandError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => exit::CONFIG,
            Self::Etcd(_) | Self::Find(_) | Self::Unreachable { .. } | Self::WrongBroker { .. } => exit::UNAVAILABLE,
            Self::Refused(status) => match status.code() {
                Code::FailedPrecondition => exit::REFUSED,
                Code::Aborted => exit::NOT_DONE,
                _ => exit::UNAVAILABLE,
            },
            Self::TimedOut(_) | Self::Silent => exit::NOT_DONE,
        }
    }
}

/// Runs `kafscale drain`.
pub fn drain(args: &DrainArgs) -> ExitCode {
    run(async {
        let (mut client, status) = connect(&args.target).await?;
        if args.undrain {
            let answer = client.undrain(UndrainRequest {}).await.map_err(CommandError::Refused)?.into_inner();
            println!("{}", undrained(&status, answer.was_draining, args.target.json));
            return Ok(());
        }
        let within = Duration::from_secs(args.timeout);
        let drain = follow(&mut client, &status, args.target.json);
        tokio::time::timeout(within, drain).await.map_err(|_| CommandError::TimedOut(args.timeout))?
    })
}

/// Runs `kafscale status`.
pub fn status(target: &Target) -> ExitCode {
    run(async {
        let (_, status) = connect(target).await?;
        print!("{}", if target.json { status_json(&status) } else { status_text(&status) });
        Ok(())
    })
}

fn run(command: impl Future<Output = Result<(), CommandError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(exit::RESOURCE);
        }
    };
    let outcome = runtime.block_on(command);
    runtime.shutdown_timeout(Duration::from_millis(100));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Finds the broker, connects, and asks who it is.
async fn connect(target: &Target) -> Result<(ControlClient<Channel>, StatusResponse), CommandError> {
    let wanted = target.broker.map(BrokerId);
    let address = match (&target.address, wanted) {
        (Some(address), _) => address.clone(),
        (None, Some(wanted)) => {
            let (metadata, namespace) =
                config::etcd(&target.etcd, &target.s3_namespace).map_err(CommandError::Config)?;
            let store = node::open_metadata(metadata, None).await.map_err(|e| CommandError::Etcd(e.to_string()))?;
            find::control_address(&*store, &namespace, wanted).await?
        }
        (None, None) => unreachable!("one of the two is required"),
    };
    let unreachable = |reason: String| CommandError::Unreachable { address: address.clone(), reason };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| unreachable(reasons(&e)))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|e| unreachable(reasons(&e)))?;
    let mut client = ControlClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    let asked = tokio::time::timeout(ANSWER_WITHIN, client.status(StatusRequest {})).await;
    let asked = asked.map_err(|_| unreachable(format!("no answer within {} s", ANSWER_WITHIN.as_secs())))?;
    let status = asked.map_err(|status| unreachable(said(&status)))?.into_inner();
    match wanted {
        Some(wanted) if wanted.0 != status.broker_id => {
            Err(CommandError::WrongBroker { address: address.clone(), found: status.broker_id, wanted })
        }
        _ => Ok((client, status)),
    }
}

/// An error with what is behind it.
fn reasons(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Prints how a drain goes until it is over.
async fn follow(client: &mut ControlClient<Channel>, status: &StatusResponse, json: bool) -> Result<(), CommandError> {
    let mut answers = client.drain(DrainRequest {}).await.map_err(CommandError::Refused)?.into_inner();
    let mut before = None;
    while let Some(progress) = answers.message().await.map_err(CommandError::Refused)? {
        if before.replace(progress) != Some(progress) {
            println!("{}", if json { progress_json(status, &progress) } else { progress_text(status, &progress) });
        }
        if progress.phase() == Phase::Drained {
            return Ok(());
        }
    }
    Err(CommandError::Silent)
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "unknown",
        Phase::HandingOver => "handing_over",
        Phase::Flushing => "flushing",
        Phase::Drained => "drained",
    }
}

fn state_name(state: BrokerState) -> &'static str {
    match state {
        BrokerState::Unspecified => "unknown",
        BrokerState::Serving => "serving",
        BrokerState::Draining => "draining",
        BrokerState::Drained => "drained",
        BrokerState::InDoubt => "in_doubt",
        BrokerState::Stopping => "stopping",
    }
}

fn health_name(health: ObjectStoreHealth) -> &'static str {
    match health {
        ObjectStoreHealth::Unspecified => "unknown",
        ObjectStoreHealth::Healthy => "healthy",
        ObjectStoreHealth::Degraded => "degraded",
        ObjectStoreHealth::Unavailable => "unavailable",
    }
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("{count} {what}") } else { format!("{count} {what}s") }
}

fn progress_text(status: &StatusResponse, progress: &DrainProgress) -> String {
    let broker = format!("broker {}", status.broker_id);
    match progress.phase() {
        Phase::Drained => format!("{broker} is drained and can be stopped; `--undrain` lets it take work again"),
        Phase::Flushing => format!("{broker}: {} to become durable", counted(progress.inflight_bytes, "byte")),
        _ => format!(
            "{broker}: {} and {} left, {} in flight",
            counted(progress.partitions_left, "partition"),
            counted(progress.coordinator_shards_left, "coordinator shard"),
            counted(progress.inflight_bytes, "byte"),
        ),
    }
}

fn progress_json(status: &StatusResponse, progress: &DrainProgress) -> String {
    serde_json::json!({
        "broker": status.broker_id,
        "phase": phase_name(progress.phase()),
        "partitions_left": progress.partitions_left,
        "coordinator_shards_left": progress.coordinator_shards_left,
        "inflight_bytes": progress.inflight_bytes,
    })
    .to_string()
}

fn undrained(status: &StatusResponse, was_draining: bool, json: bool) -> String {
    if json {
        return serde_json::json!({ "broker": status.broker_id, "was_draining": was_draining }).to_string();
    }
    let what = if was_draining { "takes work again" } else { "did not drain; nothing changed" };
    format!("broker {} {what}", status.broker_id)
}

fn status_text(status: &StatusResponse) -> String {
    let rack = if status.rack.is_empty() { "–" } else { &status.rack };
    let rows = [
        ("broker", status.broker_id.to_string()),
        ("cluster", status.cluster_id.clone()),
        ("rack", rack.to_owned()),
        ("version", status.version.clone()),
        ("state", state_name(status.state()).replace('_', " ")),
        ("partitions", status.partitions.to_string()),
        ("coordinator shards", status.coordinator_shards.to_string()),
        ("object store", health_name(status.object_store()).to_owned()),
        ("writer", format!("{}, head {}", status.writer_id, status.writer_head)),
        ("not durable yet", counted(status.unflushed_bytes, "byte")),
        ("up for", format!("{} s", status.uptime_ms / 1_000)),
    ];
    rows.iter().map(|(name, value)| format!("{name:18}  {value}\n")).collect()
}

fn status_json(status: &StatusResponse) -> String {
    let json = serde_json::json!({
        "broker": status.broker_id,
        "cluster_id": status.cluster_id,
        "rack": if status.rack.is_empty() { None } else { Some(&status.rack) },
        "version": status.version,
        "state": state_name(status.state()),
        "partitions": status.partitions,
        "coordinator_shards": status.coordinator_shards,
        "object_store": health_name(status.object_store()),
        "writer_id": status.writer_id,
        "writer_head": status.writer_head,
        "unflushed_bytes": status.unflushed_bytes,
        "uptime_ms": status.uptime_ms,
    });
    format!("{json}\n")
}

#[cfg(test)]
mod tests;
