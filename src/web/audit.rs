//! What people changed through the console: a structured log line each, and the newest ones for the page.

use crate::clock::Clock;
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Entries kept for the page; the log has all of them.
const ENTRIES_MAX: usize = 1_000;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Not allowed, or not confirmed.
    Refused,
    /// Tried; `detail` says why it did not work.
    Failed,
}

/// Who asks; put into the request's extensions by the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// User name.
    pub who: String,
    /// `admin` or `viewer`.
    pub role: &'static str,
    /// Address of the browser.
    pub remote: String,
}

/// One change.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Grows by one for each.
    pub id: u64,
    /// Unix milliseconds.
    pub at_ms: i64,
    /// Who asked.
    #[serde(flatten)]
    pub actor: Actor,
    /// For example `topic.create`.
    pub action: &'static str,
    /// For example `topic/orders`.
    pub resource: String,
    /// What was there before, as far as it is known.
    pub before: Value,
    /// What was asked for.
    pub after: Value,
    /// How it went.
    pub outcome: Outcome,
    /// Why, if not well.
    pub detail: String,
}

/// The record of changes.
#[derive(Debug)]
pub struct Audit {
    clock: Clock,
    inner: Mutex<(u64, VecDeque<Entry>)>,
}

impl Audit {
    /// An empty record.
    pub fn new(clock: Clock) -> Self {
        Self { clock, inner: Mutex::new((0, VecDeque::new())) }
    }

    /// Writes down a change.
    #[allow(clippy::too_many_arguments)] // the columns of the record
    pub fn record(
        &self,
        actor: &Actor,
        action: &'static str,
        resource: impl Into<String>,
        before: Value,
        after: Value,
        outcome: Outcome,
        detail: impl Into<String>,
    ) {
        let (resource, detail) = (resource.into(), detail.into());
        tracing::info!(
            target: "kafscale::audit", who = actor.who, role = actor.role, remote = actor.remote, action, resource, %before, %after,
            outcome = ?outcome, detail, "audit"
        );
        let at_ms = self.clock.wall_ms();
        let mut inner = self.inner.lock().expect("no panic under the lock");
        inner.0 += 1;
        let id = inner.0;
        if inner.1.len() == ENTRIES_MAX {
            inner.1.pop_front();
        }
        inner.1.push_back(Entry { id, at_ms, actor: actor.clone(), action, resource, before, after, outcome, detail });
    }

    /// The newest first, those before `before_id`, at most `limit`, whose user, action or resource contains `text`.
    pub fn page(&self, before_id: Option<u64>, text: &str, limit: usize) -> Vec<Entry> {
        let inner = self.inner.lock().expect("no panic under the lock");
        let has = |e: &Entry| e.actor.who.contains(text) || e.action.contains(text) || e.resource.contains(text);
        inner.1.iter().rev().filter(|e| before_id.is_none_or(|id| e.id < id) && has(e)).take(limit).cloned().collect()
    }
}
