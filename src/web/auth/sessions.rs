//! Who is signed in. Only hashes of sessions' tokens are kept, so that what is in memory opens nothing.

use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// A session that is not used for so long is over.
pub const IDLE_MS: i64 = 30 * 60_000;
/// A session is over after this, however busy.
pub const ABSOLUTE_MS: i64 = 12 * 3_600_000;
/// Sessions at a time; who signs in beyond that ends the one that was used least lately.
pub const SESSIONS_MAX: usize = 1_024;

/// What one may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look.
    Viewer,
}

impl Role {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }
}

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// The key under which a token's session is kept.
pub fn hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// One who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// User name.
    pub username: String,
    /// What they may do.
    pub role: Role,
    opened_ms: i64,
    used_ms: i64,
}

impl Session {
    /// When it is over unless it is used.
    pub fn idle_expires_ms(&self) -> i64 {
        (self.used_ms + IDLE_MS).min(self.expires_ms())
    }

    /// When it is over anyway.
    pub fn expires_ms(&self) -> i64 {
        self.opened_ms + ABSOLUTE_MS
    }

    fn is_over(&self, now_ms: i64) -> bool {
        now_ms >= self.idle_expires_ms()
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct SessionTable {
    sessions: HashMap<TokenHash, Session>,
}

impl SessionTable {
    /// Opens a session; `former`, which the browser had until now, ends.
    pub fn open(
        &mut self,
        token: TokenHash,
        former: Option<TokenHash>,
        username: &str,
        role: Role,
        now_ms: i64,
    ) -> Session {
        if let Some(former) = former {
            self.sessions.remove(&former);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            self.sessions.retain(|_, session| !session.is_over(now_ms));
        }
        if self.sessions.len() >= SESSIONS_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used_ms).map(|(token, _)| *token);
            oldest.and_then(|oldest| self.sessions.remove(&oldest));
        }
        let session = Session { username: username.to_owned(), role, opened_ms: now_ms, used_ms: now_ms };
        self.sessions.insert(token, session.clone());
        session
    }

    /// The session of a token, if it is not over. `counts` says whether this is use: a page that only listens does not keep
    /// its session alive.
    pub fn check(&mut self, token: &TokenHash, counts: bool, now_ms: i64) -> Option<Session> {
        let session = self.sessions.get_mut(token)?;
        if session.is_over(now_ms) {
            self.sessions.remove(token);
            return None;
        }
        if counts {
            session.used_ms = session.used_ms.max(now_ms);
        }
        Some(session.clone())
    }

    /// Ends a session.
    pub fn close(&mut self, token: &TokenHash) -> Option<Session> {
        self.sessions.remove(token)
    }

    /// Ends all sessions of a user; how many.
    pub fn close_all(&mut self, username: &str) -> usize {
        let before = self.sessions.len();
        self.sessions.retain(|_, session| session.username != username);
        before - self.sessions.len()
    }

    /// Sessions that are not over.
    pub fn count(&self, now_ms: i64) -> usize {
        self.sessions.values().filter(|session| !session.is_over(now_ms)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_idle_and_in_any_case() {
        let (mut table, token) = (SessionTable::default(), hash("a"));
        table.open(token, None, "ann", Role::Admin, 0);
        assert!(table.check(&token, true, IDLE_MS - 1).is_some());
        assert!(table.check(&token, false, 2 * IDLE_MS - 2).is_some(), "use prolongs it");
        assert!(table.check(&token, true, 2 * IDLE_MS - 1).is_none(), "listening does not");
        assert!(table.check(&token, true, 0).is_none(), "and it stays ended");
        table.open(token, None, "ann", Role::Admin, 0);
        let mut now_ms = 0;
        while now_ms + IDLE_MS / 2 < ABSOLUTE_MS {
            now_ms += IDLE_MS / 2;
            assert!(table.check(&token, true, now_ms).is_some(), "{now_ms}");
        }
        assert!(table.check(&token, true, ABSOLUTE_MS).is_none());
    }

    #[test]
    fn signing_in_again_ends_the_former_session_and_signing_out_everywhere_all() {
        let mut table = SessionTable::default();
        let tokens = ["a", "b", "c", "d"].map(hash);
        table.open(tokens[0], None, "ann", Role::Admin, 0);
        table.open(tokens[1], Some(tokens[0]), "ann", Role::Admin, 1);
        table.open(tokens[2], None, "ann", Role::Admin, 1);
        table.open(tokens[3], None, "bob", Role::Viewer, 1);
        assert!(table.check(&tokens[0], true, 2).is_none());
        assert_eq!(table.close_all("ann"), 2);
        assert!(table.check(&tokens[2], true, 2).is_none());
        assert_eq!(table.check(&tokens[3], true, 2).map(|s| s.role), Some(Role::Viewer));
        assert!(table.close(&tokens[3]).is_some());
        assert_eq!(table.count(2), 0);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_was_away_for_longest() {
        let mut table = SessionTable::default();
        for n in 0..SESSIONS_MAX {
            table.open(hash(&n.to_string()), None, "ann", Role::Admin, n as i64);
        }
        table.check(&hash("0"), true, 5_000);
        table.open(hash("new"), None, "bob", Role::Viewer, 5_001);
        assert_eq!(table.count(5_001), SESSIONS_MAX);
        assert!(table.check(&hash("0"), true, 5_002).is_some());
        assert!(table.check(&hash("1"), true, 5_002).is_none());
    }
}
