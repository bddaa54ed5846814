//! Slows down who guesses passwords: by the address that asks and by the user that is asked for.
//!
//! An attempt counts as a failure until it has succeeded, so that many at once are not judged by the same count. Memory is
//! bounded, and what is bounded is never made room for by forgetting one who is being held off: an address that does not
//! fit any more shares one entry with all others that do not.

use std::collections::HashMap;
use std::net::IpAddr;

/// Failures of an address that cost nothing; mistakes happen.
pub const ADDRESS_FAILURES_FREE: u32 = 5;
/// Failures for a user that cost nothing. More than for an address, since one can be locked out by others.
pub const USER_FAILURES_FREE: u32 = 20;
/// The first wait, ms; it doubles with every further failure.
pub const WAIT_MS_MIN: i64 = 30_000;
/// The longest wait of an address, ms.
pub const ADDRESS_WAIT_MS_MAX: i64 = 15 * 60_000;
/// The longest wait for a user, ms.
pub const USER_WAIT_MS_MAX: i64 = 5 * 60_000;
/// Failures are forgotten after so long without another one, ms; longer than any wait.
pub const FORGET_MS: i64 = 30 * 60_000;
/// Addresses and users that are told apart.
pub const ENTRIES_MAX: usize = 4_096;

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// An IPv4 address, or the first half of an IPv6 one: whoever has one has all of them.
    Address(u64),
    User(String),
    /// All addresses that do not fit.
    OtherAddresses,
    /// All names that nobody has: guesses at names are not told from guesses at passwords.
    OtherUsers,
}

#[derive(Debug, Clone, Copy, Default)]
struct Failures {
    count: u32,
    last_ms: i64,
    locked_until_ms: i64,
}

/// An attempt is not allowed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locked {
    /// How long to wait, ms.
    pub wait_ms: i64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct LoginLimiter {
    entries: HashMap<Key, Failures>,
}

impl LoginLimiter {
    /// Counts an attempt, or refuses it. `known` says whether the user exists.
    pub fn begin(&mut self, username: &str, known: bool, address: IpAddr, now_ms: i64) -> Result<(), Locked> {
        let keys = [self.address(address, now_ms), user(username, known)];
        let until_ms = keys.iter().filter_map(|key| self.entries.get(key)).map(|f| f.locked_until_ms).max();
        if let Some(wait_ms) = until_ms.map(|until_ms| until_ms - now_ms).filter(|wait_ms| *wait_ms > 0) {
            return Err(Locked { wait_ms });
        }
        for key in keys {
            let (free, wait_ms_max) = match key {
                Key::Address(_) | Key::OtherAddresses => (ADDRESS_FAILURES_FREE, ADDRESS_WAIT_MS_MAX),
                Key::User(_) | Key::OtherUsers => (USER_FAILURES_FREE, USER_WAIT_MS_MAX),
            };
            let failures = self.entries.entry(key).or_default();
            if now_ms - failures.last_ms >= FORGET_MS {
                *failures = Failures::default();
            }
            failures.count = failures.count.saturating_add(1);
            failures.last_ms = now_ms;
            if failures.count >= free {
                let doublings = (failures.count - free).min(16);
                failures.locked_until_ms = now_ms + (WAIT_MS_MIN << doublings).min(wait_ms_max);
            }
        }
        Ok(())
    }

    /// The attempt was right: nothing is held against user and address any more.
    pub fn succeeded(&mut self, username: &str, address: IpAddr, now_ms: i64) {
        let address = self.address(address, now_ms);
        if address != Key::OtherAddresses {
            self.entries.remove(&address);
        }
        self.entries.remove(&user(username, true));
    }

    /// Addresses and users that have to wait.
    pub fn locked(&self, now_ms: i64) -> usize {
        self.entries.values().filter(|failures| failures.locked_until_ms > now_ms).count()
    }

    /// The entry of an address; makes room by forgetting what is over.
    fn address(&mut self, address: IpAddr, now_ms: i64) -> Key {
        let key = Key::Address(match address.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        });
        if self.entries.contains_key(&key) || self.entries.len() < ENTRIES_MAX {
            return key;
        }
        self.entries.retain(|_, failures| now_ms - failures.last_ms < FORGET_MS);
        if self.entries.len() < ENTRIES_MAX { key } else { Key::OtherAddresses }
    }
}

fn user(username: &str, known: bool) -> Key {
    if known { Key::User(username.to_owned()) } else { Key::OtherUsers }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_waits_longer_after_every_failure() {
        let (mut limiter, here) = (LoginLimiter::default(), ip("192.0.2.1"));
        for _ in 0..ADDRESS_FAILURES_FREE {
            assert_eq!(limiter.begin("admin", true, here, 0), Ok(()));
        }
        assert_eq!(limiter.begin("admin", true, here, 1), Err(Locked { wait_ms: WAIT_MS_MIN - 1 }));
        assert_eq!(limiter.begin("admin", true, ip("192.0.2.2"), 1), Ok(()), "others are not held off");
        let (mut now_ms, mut waits) = (WAIT_MS_MIN, Vec::new());
        for _ in 0..6 {
            assert_eq!(limiter.begin("x", false, here, now_ms), Ok(()));
            let Err(locked) = limiter.begin("x", false, here, now_ms) else { panic!("not locked") };
            waits.push(locked.wait_ms / 1_000);
            now_ms += locked.wait_ms;
        }
        assert_eq!(waits, [60, 120, 240, 480, 900, 900]);
    }

    #[test]
    fn a_success_forgives_and_time_forgets() {
        let (mut limiter, here) = (LoginLimiter::default(), ip("192.0.2.1"));
        for round in 0..3 {
            for _ in 0..ADDRESS_FAILURES_FREE - 1 {
                assert_eq!(limiter.begin("admin", true, here, round), Ok(()));
            }
            limiter.succeeded("admin", here, round);
        }
        for _ in 0..ADDRESS_FAILURES_FREE {
            assert_eq!(limiter.begin("admin", true, here, 0), Ok(()));
        }
        assert_eq!(limiter.locked(1), 1);
        assert_eq!(limiter.begin("admin", true, here, FORGET_MS), Ok(()));
        assert_eq!(limiter.locked(FORGET_MS + 1), 0, "it begins anew");
    }

    #[test]
    fn a_user_is_held_off_whoever_guesses_and_unknown_ones_alike() {
        for (name, known) in [("admin", true), ("nobody", false)] {
            let mut limiter = LoginLimiter::default();
            for n in 0..USER_FAILURES_FREE {
                let address = IpAddr::from((n + 1).to_be_bytes());
                assert_eq!(limiter.begin(name, known, address, 0), Ok(()), "{name} {n}");
            }
            let locked = limiter.begin(name, known, ip("198.51.100.1"), 0);
            assert_eq!(locked, Err(Locked { wait_ms: WAIT_MS_MIN }), "{name}");
        }
    }

    #[test]
    fn the_neighbours_of_an_ipv6_address_are_the_same() {
        let mut limiter = LoginLimiter::default();
        for n in 0..ADDRESS_FAILURES_FREE {
            assert_eq!(limiter.begin("x", false, ip(&format!("2001:db8::{n}")), 0), Ok(()));
        }
        assert!(limiter.begin("x", false, ip("2001:db8::ffff"), 0).is_err());
        assert!(limiter.begin("x", false, ip("2001:db8:0:1::1"), 0).is_ok());
    }

    #[test]
    fn flooding_it_forgets_nobody_who_waits_and_needs_no_more_memory() {
        let (mut limiter, bad) = (LoginLimiter::default(), ip("192.0.2.1"));
        for _ in 0..ADDRESS_FAILURES_FREE {
            limiter.begin("admin", true, bad, 0).unwrap();
        }
        for n in 0..3 * ENTRIES_MAX as u32 {
            let _held = limiter.begin(&n.to_string(), false, IpAddr::from((n + (10 << 24)).to_be_bytes()), 1);
            // The names that nobody has are locked after some: those attempts are not counted for addresses.
            limiter.entries.remove(&Key::OtherUsers);
        }
        assert!(limiter.entries.len() <= ENTRIES_MAX + 4, "{}", limiter.entries.len());
        assert!(limiter.begin("admin", true, bad, 2).is_err(), "still held off");
        limiter.entries.remove(&Key::OtherUsers);
        assert!(limiter.begin("x", false, ip("203.0.113.1"), 2).is_err(), "those who do not fit share one entry");
        assert!(limiter.begin("x", false, ip("203.0.113.1"), FORGET_MS + 2).is_ok());
    }
}
