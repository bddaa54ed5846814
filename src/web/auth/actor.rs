//! The actor that owns the sessions and the counts of failed logins.

use super::limiter::{Locked, LoginLimiter};
use super::sessions::{Role, Session, SessionTable, TokenHash};
use crate::clock::Clock;
use actix::{Actor, Context, Handler, Message};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Questions that wait for an answer.
pub const MAILBOX_LEN_MAX: usize = 1_024;

/// What it counts, for metrics.
#[derive(Debug, Default)]
pub struct AuthStats {
    /// Sessions.
    pub sessions: AtomicU64,
    /// Logins that succeeded.
    pub logins: AtomicU64,
    /// Logins that did not.
    pub failures: AtomicU64,
    /// Attempts that were not looked at.
    pub locked_out: AtomicU64,
}

/// See the module's documentation. If it panics everybody signs in again.
#[derive(Debug)]
pub struct Sessions {
    clock: Clock,
    table: SessionTable,
    limiter: LoginLimiter,
    stats: Arc<AuthStats>,
}

impl Sessions {
    /// Nobody is signed in.
    pub fn new(clock: Clock, stats: Arc<AuthStats>) -> Self {
        Self { clock, table: SessionTable::default(), limiter: LoginLimiter::default(), stats }
    }

    fn count(&self) {
        let count = self.table.count(self.clock.wall_ms()) as u64;
        self.stats.sessions.store(count, Ordering::Relaxed);
    }
}

impl Actor for Sessions {
    type Context = Context<Self>;
}

/// Somebody wants to try a password.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Locked>")]
pub struct Begin {
    /// User.
    pub username: String,
    /// There is such a user.
    pub known: bool,
    /// Who asks.
    pub address: IpAddr,
}

/// The password was right.
#[derive(Debug, Message)]
#[rtype(result = "Session")]
pub struct Open {
    /// The new session's.
    pub token: TokenHash,
    /// The one the browser had.
    pub former: Option<TokenHash>,
    /// User.
    pub username: String,
    /// What they may do.
    pub role: Role,
    /// Who asks.
    pub address: IpAddr,
}

/// Whose session is it?
#[derive(Debug, Message)]
#[rtype(result = "Option<Session>")]
pub struct Check {
    /// The session's.
    pub token: TokenHash,
    /// It keeps the session alive.
    pub counts: bool,
}

/// The session ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Close(pub TokenHash);

/// All sessions of a user end.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
pub struct CloseAll(pub String);

impl Handler<Begin> for Sessions {
    type Result = Result<(), Locked>;

    fn handle(&mut self, begin: Begin, _: &mut Context<Self>) -> Self::Result {
        // Monotonic time: a lockout ends when it should even if somebody sets the clock.
        let outcome = self.limiter.begin(&begin.username, begin.known, begin.address, self.clock.monotonic_ms());
        if outcome.is_err() {
            self.stats.locked_out.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

impl Handler<Open> for Sessions {
    type Result = actix::MessageResult<Open>;

    fn handle(&mut self, open: Open, _: &mut Context<Self>) -> Self::Result {
        self.limiter.succeeded(&open.username, open.address, self.clock.monotonic_ms());
        self.stats.logins.fetch_add(1, Ordering::Relaxed);
        let session = self.table.open(open.token, open.former, &open.username, open.role, self.clock.wall_ms());
        self.count();
        actix::MessageResult(session)
    }
}

impl Handler<Check> for Sessions {
    type Result = Option<Session>;

    fn handle(&mut self, check: Check, _: &mut Context<Self>) -> Self::Result {
        let session = self.table.check(&check.token, check.counts, self.clock.wall_ms());
        if session.is_none() {
            self.count();
        }
        session
    }
}

impl Handler<Close> for Sessions {
    type Result = ();

    fn handle(&mut self, Close(token): Close, _: &mut Context<Self>) {
        self.table.close(&token);
        self.count();
    }
}

impl Handler<CloseAll> for Sessions {
    type Result = usize;

    fn handle(&mut self, CloseAll(username): CloseAll, _: &mut Context<Self>) -> usize {
        let ended = self.table.close_all(&username);
        self.count();
        ended
    }
}
