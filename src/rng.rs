//! The only module that makes random numbers.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::RefCell;

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Makes everything random on this thread follow from `seed`: for simulations, which run on one thread.
pub fn follow(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// A random 64-bit number (nonces, jitter).
#[allow(clippy::disallowed_methods)] // the one owner of randomness
pub fn u64() -> u64 {
    let seeded = SEEDED.with_borrow_mut(|seeded| seeded.as_mut().map(Rng::random));
    seeded.unwrap_or_else(|| rand::rng().random())
}

/// `base_ms` with up to half of it added or removed, so that many waiters do not wake together.
pub fn jitter_ms(base_ms: u64) -> u64 {
    base_ms / 2 + u64() % (base_ms + 1)
}

/// A random UUID (topic ids).
pub fn uuid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(u128().to_be_bytes()).into_uuid()
}

/// A ULID at `wall_ms`, for object keys that sort by time.
pub fn ulid(wall_ms: i64) -> ulid::Ulid {
    ulid::Ulid::from_parts(wall_ms as u64, u128())
}

/// A secret that nobody guesses (sessions); the generator is a cryptographic one.
pub fn secret() -> [u8; 32] {
    let mut bytes = [0; 32];
    for part in bytes.chunks_exact_mut(8) {
        part.copy_from_slice(&u64().to_be_bytes());
    }
    bytes
}

fn u128() -> u128 {
    (u128::from(u64()) << 64) | u128::from(u64())
}
