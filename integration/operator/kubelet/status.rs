//! A pod's status as a kubelet reports it.

use super::containers::ContainerState;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// What a container is doing.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// It does not run, but will be tried.
    Waiting { reason: String, message: String },
    /// Its process runs.
    Running { since: Value },
    /// Its process ended and nothing follows.
    Terminated { code: i32, since: Value, until: Value },
}

impl Phase {
    /// For a reason.
    pub fn waiting(reason: &str, message: &str) -> Self {
        Self::Waiting { reason: reason.into(), message: message.into() }
    }

    /// From now.
    pub fn running() -> Self {
        Self::Running { since: now() }
    }

    /// Until now.
    pub fn terminated(&self, code: i32) -> Self {
        let since = if let Self::Running { since } = self { since.clone() } else { now() };
        Self::Terminated { code, since, until: now() }
    }

    fn json(&self) -> Value {
        match self {
            Self::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            Self::Running { since } => json!({"running": {"startedAt": since}}),
            Self::Terminated { code, since, until } => {
                let reason = if *code == 0 { "Completed" } else { "Error" };
                json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": since, "finishedAt": until}})
            }
        }
    }
}

/// The time as objects have it.
pub fn now() -> Value {
    json!(Time(Timestamp::now()))
}

/// The part of a pod's status that belongs to the kubelet. Conditions that did not change keep their times.
pub(super) fn status(
    pod: &Pod,
    ip: Ipv4Addr,
    started: &Value,
    init: &[ContainerState],
    containers: &[ContainerState],
) -> Value {
    let ready = containers.iter().all(ContainerState::ready);
    let initialised = init.iter().all(|c| matches!(c.phase, Phase::Terminated { code: 0, .. }));
    let unready: Vec<&str> = containers.iter().filter(|c| !c.ready()).map(|c| c.spec.name.as_str()).collect();
    let details = containers.iter().map(ContainerState::message).find(|m| !m.is_empty()).unwrap_or_default();
    let why = format!("containers with unready status: {unready:?} {details}");
    let known: Vec<PodCondition> = pod.status.clone().and_then(|s| s.conditions).unwrap_or_default();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let same = known.iter().find(|c| c.type_ == kind && c.status == status);
        let since = same.and_then(|c| c.last_transition_time.as_ref()).map_or_else(now, |t| json!(t));
        let (reason, message) = if holds { (None, None) } else { (Some(reason), Some(message)) };
        json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message})
    };
    let ended = |code_is: fn(i32) -> bool| {
        containers.iter().all(|c| matches!(c.phase, Phase::Terminated { .. }))
            && containers.iter().any(|c| matches!(c.phase, Phase::Terminated { code, .. } if code_is(code)))
    };
    let failed_init = init.iter().any(|c| matches!(c.phase, Phase::Terminated { code, .. } if code != 0));
    let phase = match () {
        () if failed_init => "Failed",
        () if ended(|code| code != 0) => "Failed",
        () if ended(|code| code == 0) => "Succeeded",
        () if containers.iter().any(|c| matches!(c.phase, Phase::Running { .. }) || c.last.is_some()) => "Running",
        () => "Pending",
    };
    json!({"status": {
        "phase": phase,
        "startTime": started,
        "hostIP": "127.0.0.1",
        "podIP": ip.to_string(),
        "podIPs": [{"ip": ip.to_string()}],
        "conditions": [
            condition("Initialized", initialised, "ContainersNotInitialized", "init containers have not ended well"),
            condition("ContainersReady", ready, "ContainersNotReady", &why),
            condition("Ready", ready, "ContainersNotReady", &why),
        ],
        "initContainerStatuses": init.iter().map(container_status).collect::<Vec<_>>(),
        "containerStatuses": containers.iter().map(container_status).collect::<Vec<_>>(),
    }})
}

fn container_status(container: &ContainerState) -> Value {
    let image = container.spec.image.clone().unwrap_or_default();
    json!({
        "name": container.spec.name,
        "image": image,
        "imageID": image,
        "ready": container.ready(),
        "started": container.started(),
        "restartCount": container.restarts,
        "state": container.phase.json(),
        "lastState": container.last.as_ref().map_or_else(|| json!({}), Phase::json),
    })
}
