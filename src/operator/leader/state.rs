//! Decides who leads from what a Lease says. Times on a Lease are another machine's: a Lease has expired if it was seen
//! unchanged for its duration, by the own monotonic clock.

use crate::ids::FencingToken;
use std::time::Duration;

/// How long a leader that says nothing is believed by others.
pub const DURATION: Duration = Duration::from_secs(15);
/// How long a leader believes itself after its last confirmation.
pub const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Pause between attempts.
pub const RETRY: Duration = Duration::from_secs(2);
/// How long one attempt may take.
pub const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);

/// A leadership that was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// Its token.
    pub token: FencingToken,
    /// When the confirmation was asked for, by the own monotonic clock.
    pub confirmed_ms: i64,
}

impl Tenure {
    /// The token while it lasts.
    pub fn token(&self, now_ms: i64) -> Option<FencingToken> {
        (now_ms - self.confirmed_ms < RENEW_WITHIN.as_millis() as i64).then_some(self.token)
    }
}

/// What a Lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; nobody if it was given up.
    pub holder: Option<String>,
    /// How often it has changed hands.
    pub transitions: i32,
    /// Changes with every write.
    pub version: String,
    /// How long it holds after a write.
    pub duration: Duration,
}

/// What to do with a Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// There is none: make it.
    Create,
    /// It is this operator's: say so again.
    Renew,
    /// It is nobody's any more: take it, with this number of changes of hands.
    Take {
        /// Number to write.
        transitions: i32,
    },
    /// It is somebody else's.
    Wait,
}

/// What one operator knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    identity: String,
    seen: Option<(Record, i64)>,
    holds: bool,
}

impl Candidate {
    /// One that knows nothing.
    pub fn new(identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), seen: None, holds: false }
    }

    /// What to do, now that the Lease says `record`.
    pub fn next(&mut self, record: Option<&Record>, now_ms: i64) -> Move {
        let Some(record) = record else {
            (self.seen, self.holds) = (None, false);
            return Move::Create;
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != record) {
            self.seen = Some((record.clone(), now_ms));
        }
        let since_ms = self.seen.as_ref().map_or(now_ms, |(_, at)| *at);
        let mine = record.holder.as_deref() == Some(self.identity.as_str());
        self.holds &= mine;
        let expired = now_ms - since_ms >= record.duration.as_millis() as i64;
        match (mine, self.holds) {
            (true, true) => Move::Renew,
            // An earlier process of the same name: nobody else writes under it, but its token is not this one's.
            (true, false) => Move::Take { transitions: record.transitions.saturating_add(1) },
            _ if record.holder.is_none() || expired => Move::Take { transitions: record.transitions.saturating_add(1) },
            _ => Move::Wait,
        }
    }

    /// A create, a take or a renewal succeeded, and the Lease now says `record`.
    pub fn written(&mut self, record: Record, now_ms: i64) -> FencingToken {
        let token = FencingToken(u64::from(record.transitions.unsigned_abs()) + 1);
        self.seen = Some((record, now_ms));
        self.holds = true;
        token
    }

    /// Leadership was given up or is in doubt.
    pub fn forget(&mut self) {
        self.holds = false;
    }

    /// The name of this operator.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Who was seen to hold it.
    pub fn holder(&self) -> Option<String> {
        self.seen.as_ref().and_then(|(record, _)| record.holder.clone())
    }

    /// Whether this operator holds it, as far as it knows.
    pub fn holds(&self) -> bool {
        self.holds
    }
}
