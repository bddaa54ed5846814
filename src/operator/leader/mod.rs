//! Who of several operators works. The others answer probes, follow what happens, and wait.
//!
//! With `KAFSCALE_OPERATOR_ETCD_ENDPOINTS` the leader holds a key in etcd ([`etcd`]), else a Lease of Kubernetes ([`lease`]).
//! Both give a token that rises with every new leader: it goes with what is written to etcd, so that a leader that has been
//! asleep cannot undo what its successor did. Kubernetes has no such fence; there, leadership is looked at before every
//! write, and it ends by the leader's own clock [`state::RENEW_WITHIN`] after its last confirmation, which is earlier than
//! anybody else may begin.

pub mod etcd;
pub mod lease;
pub mod state;

use crate::clock::Clock;
use crate::ids::FencingToken;
use async_trait::async_trait;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// This operator does not lead (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this operator does not lead (any more)")]
pub struct NotLeading;

/// Whether this operator leads; shared by all who write.
#[derive(Debug)]
pub struct Leadership {
    clock: Clock,
    tenure: Mutex<Option<state::Tenure>>,
    changed: watch::Sender<bool>,
}

impl Leadership {
    /// Nobody leads yet.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, tenure: Mutex::new(None), changed: watch::Sender::new(false) })
    }

    /// The token if this operator leads at this moment.
    pub fn token(&self) -> Result<FencingToken, NotLeading> {
        let tenure = self.tenure.lock().expect("no panic under the lock");
        tenure.and_then(|tenure| tenure.token(self.clock.monotonic_ms())).ok_or(NotLeading)
    }

    /// Tells when it begins and ends.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.changed.subscribe()
    }

    fn confirm(&self, token: FencingToken, asked_ms: i64) {
        *self.tenure.lock().expect("no panic under the lock") = Some(state::Tenure { token, confirmed_ms: asked_ms });
        self.tell();
    }

    fn lose(&self) {
        *self.tenure.lock().expect("no panic under the lock") = None;
        self.tell();
    }

    fn tell(&self) {
        let leads = self.token().is_ok();
        self.changed.send_if_modified(|told| std::mem::replace(told, leads) != leads);
    }
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempted {
    /// This operator leads.
    Leading(FencingToken),
    /// Somebody else does, or nobody yet.
    Standby {
        /// Who.
        leader: Option<String>,
    },
}

/// A place where leadership is held.
#[async_trait(?Send)]
pub trait Election {
    /// Takes leadership if it is free, or confirms it.
    async fn attempt(&mut self) -> Result<Attempted, String>;

    /// Gives it up, so that another one need not wait.
    async fn release(&mut self) -> Result<(), String>;
}

/// Takes part until `stop`, then gives leadership up.
pub async fn run(mut election: Box<dyn Election>, leadership: Arc<Leadership>, stop: CancellationToken) {
    let mut before = None;
    while !stop.is_cancelled() {
        let asked_ms = leadership.clock.monotonic_ms();
        let attempt = tokio::time::timeout(state::ATTEMPT_WITHIN, election.attempt());
        let outcome = tokio::select! {
            outcome = attempt => outcome.unwrap_or_else(|_| Err("no answer in time".to_owned())),
            () = stop.cancelled() => break,
        };
        match &outcome {
            Ok(Attempted::Leading(token)) => leadership.confirm(*token, asked_ms),
            Ok(Attempted::Standby { .. }) => leadership.lose(),
            // It may lead as long as it was told.
            Err(_) => leadership.tell(),
        }
        if before.as_ref() != Some(&outcome) {
            match &outcome {
                Ok(Attempted::Leading(token)) => tracing::info!(token = token.0, "this operator leads"),
                Ok(Attempted::Standby { leader }) => tracing::info!(?leader, "another operator leads; standing by"),
                Err(error) => tracing::warn!(error, "leadership is not known"),
            }
            before = Some(outcome);
        }
        let pause = Duration::from_millis(crate::rng::jitter_ms(state::RETRY.as_millis() as u64));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    let led = leadership.token().is_ok();
    leadership.lose();
    if led {
        match tokio::time::timeout(state::ATTEMPT_WITHIN, election.release()).await {
            Ok(Ok(())) => tracing::info!("leadership is given up"),
            Ok(Err(error)) => tracing::warn!(error, "leadership ends by itself"),
            Err(_) => tracing::warn!("leadership ends by itself"),
        }
    }
}

#[cfg(test)]
mod tests;
