//! Leadership as a Lease of `coordination.k8s.io`.

use super::state::{Candidate, DURATION, Move, Record};
use super::{Attempted, Election};
use crate::clock::Clock;
use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::Duration;

/// See the module's documentation.
pub struct LeaseElection {
    api: Api<Lease>,
    name: String,
    clock: Clock,
    candidate: Candidate,
}

impl LeaseElection {
    /// Takes part in the election `name` of `namespace` as `identity`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, clock: Clock) -> Self {
        let candidate = Candidate::new(identity);
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), clock, candidate }
    }

    fn now(&self) -> Option<MicroTime> {
        Timestamp::from_millisecond(self.clock.wall_ms()).ok().map(MicroTime)
    }

    /// Writes the Lease; `None` if somebody else was quicker.
    async fn write(&self, old: Option<Lease>, holder: &str, transitions: i32) -> Result<Option<Lease>, String> {
        let (now, created) = (self.now(), old.is_none());
        let mut lease = old.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let before = lease.spec.take().unwrap_or_default();
        let renewal =
            before.holder_identity.as_deref() == Some(holder) && before.lease_transitions == Some(transitions);
        lease.spec = Some(LeaseSpec {
            holder_identity: (!holder.is_empty()).then(|| holder.to_owned()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            lease_transitions: Some(transitions),
            acquire_time: if renewal { before.acquire_time.clone() } else { now.clone() },
            renew_time: now,
            ..before
        });
        let params = PostParams::default();
        let written = match created {
            true => self.api.create(&params, &lease).await,
            false => self.api.replace(&self.name, &params, &lease).await,
        };
        match written {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(format!("the Lease {:?} cannot be written: {error}", self.name)),
        }
    }
}

/// What a Lease says.
fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        transitions: spec.lease_transitions.unwrap_or(0),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: seconds.map_or(DURATION, Duration::from_secs),
    }
}

#[async_trait(?Send)]
impl Election for LeaseElection {
    async fn attempt(&mut self) -> Result<Attempted, String> {
        let found = self.api.get_opt(&self.name).await;
        let found = found.map_err(|error| format!("the Lease {:?} cannot be read: {error}", self.name))?;
        let next = self.candidate.next(found.as_ref().map(record).as_ref(), self.clock.monotonic_ms());
        let transitions = match next {
            Move::Wait => return Ok(Attempted::Standby { leader: self.candidate.holder() }),
            Move::Create => 0,
            Move::Renew => found.as_ref().map_or(0, |lease| record(lease).transitions),
            Move::Take { transitions } => transitions,
        };
        let identity = self.candidate.identity().to_owned();
        match self.write(found, &identity, transitions).await? {
            Some(lease) => {
                let token = self.candidate.written(record(&lease), self.clock.monotonic_ms());
                Ok(Attempted::Leading(token))
            }
            // A renewal that conflicts was written by this operator and not answered, or somebody took over: the next look tells.
            None if next == Move::Renew => Err("the Lease was changed by somebody else".to_owned()),
            None => Ok(Attempted::Standby { leader: None }),
        }
    }

    async fn release(&mut self) -> Result<(), String> {
        let found = self.api.get_opt(&self.name).await.map_err(|error| error.to_string())?;
        let Some(lease) = found else { return Ok(()) };
        let now = record(&lease);
        if self.candidate.next(Some(&now), self.clock.monotonic_ms()) == Move::Renew {
            self.write(Some(lease), "", now.transitions).await?;
        }
        self.candidate.forget();
        Ok(())
    }
}
