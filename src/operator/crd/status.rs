//! Conditions: what the operator says about a resource, in the form that `kubectl wait` and people expect.
//!
//! Messages are stable: no ages and no counters, since every change of a status wakes whoever watches it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The condition types that exist. `docs/runbooks/` has a page for each.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// Pods are ready and the brokers say that they serve; of a topic: it is live.
    Ready,
    /// The operator is changing something.
    Progressing,
    /// Something is wrong that does not heal by itself.
    Degraded,
    /// Etcd answers.
    EtcdAvailable,
    /// The last snapshot of managed etcd is there and not too old.
    EtcdSnapshot,
    /// Snapshots can be written to S3.
    EtcdSnapshotAccess,
    /// Brokers reach the bucket.
    S3Access,
    /// The secrets that the resource names are there and have the keys they need.
    SecretsReady,
    /// The operator leaves the resource alone, since its annotation says so.
    Paused,
}

impl ConditionType {
    /// As in the resource.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::EtcdAvailable => "EtcdAvailable",
            Self::EtcdSnapshot => "EtcdSnapshot",
            Self::EtcdSnapshotAccess => "EtcdSnapshotAccess",
            Self::S3Access => "S3Access",
            Self::SecretsReady => "SecretsReady",
            Self::Paused => "Paused",
        }
    }
}

/// What is known about one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// About what.
    pub kind: ConditionType,
    /// Whether it holds; `None` if that is not known.
    pub holds: Option<bool>,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people; of what is wrong it says what to do.
    pub message: String,
}

impl Finding {
    /// It holds.
    pub fn yes(kind: ConditionType, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(true), reason, message: message.into() }
    }

    /// It does not hold.
    pub fn no(kind: ConditionType, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: Some(false), reason, message: message.into() }
    }

    /// Nobody knows (yet).
    pub fn unknown(kind: ConditionType, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: None, reason, message: message.into() }
    }

    fn status(&self) -> &'static str {
        match self.holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// A status with conditions.
pub trait Conditions {
    /// The list, one of each type.
    fn conditions(&mut self) -> &mut Vec<Condition>;

    /// Writes what was found. The time changes only with the status.
    fn set(&mut self, finding: &Finding, generation: Option<i64>, now: &Time) {
        let list = self.conditions();
        let status = finding.status();
        let old = list.iter().find(|condition| condition.type_ == finding.kind.name());
        let since =
            old.filter(|old| old.status == status).map_or_else(|| now.clone(), |old| old.last_transition_time.clone());
        list.retain(|condition| condition.type_ != finding.kind.name());
        list.push(Condition {
            type_: finding.kind.name().to_owned(),
            status: status.to_owned(),
            reason: finding.reason.to_owned(),
            message: finding.message.clone(),
            observed_generation: generation,
            last_transition_time: since,
        });
        list.sort_by(|a, b| a.type_.cmp(&b.type_));
    }
}

/// A list with one condition of each type, so that server-side apply merges it by type.
pub fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let item = <Condition as schemars::JsonSchema>::json_schema(generator);
    json_schema!({
        "type": "array",
        "items": item,
        "maxItems": 32,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
