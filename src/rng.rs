//! The only module that makes random numbers.

/// A random 64-bit number (nonces, jitter).
#[allow(clippy::disallowed_methods)] // the one owner of randomness
pub fn u64() -> u64 {
    rand::Rng::random(&mut rand::rng())
}

/// `base_ms` with up to half of it added or removed, so that many waiters do not wake together.
pub fn jitter_ms(base_ms: u64) -> u64 {
    base_ms / 2 + u64() % (base_ms + 1)
}

/// A random UUID (topic ids).
pub fn uuid() -> uuid::Uuid {
    uuid::Uuid::new_v4()
}

/// A ULID at `wall_ms`, for object keys that sort by time.
pub fn ulid(wall_ms: i64) -> ulid::Ulid {
    let random = (u128::from(u64()) << 64) | u128::from(u64());
    ulid::Ulid::from_parts(wall_ms as u64, random)
}
