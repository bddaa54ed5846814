//! Durable objects: the [`ObjectStore`] trait, its back ends and decorators, and the formats kept in it.
//!
//! Every object is written once, under a key that no other process can own, by a conditional create. Nothing here
//! knows about partitions' ownership; `docs/storage.md` has the commit protocol that stands on these calls.

pub mod cache;
pub mod checkpoint;
#[cfg(test)]
mod conformance;
pub mod crc;
pub mod fault;
pub mod layout;
pub mod local;
pub mod measured;
pub mod memory;
pub mod reader;
pub mod registered;
pub mod replica;
pub mod retry;
pub mod s3;
pub mod segment;
#[cfg(test)]
pub(crate) mod testkit;

use async_trait::async_trait;
use bytes::Bytes;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Key of an object below the bucket; made only by [`layout`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// Wraps a key that `layout` formatted or that a LIST returned.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The frozen bytes of an object to create. Cloning is cheap: chunks are shared, so that a retry sends the same bytes.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The bytes, in order; large batches are their own chunk and are never copied together.
    pub chunks: Arc<[Bytes]>,
    /// Sum of the chunks' lengths in bytes.
    pub len: u64,
    /// CRC-32C (Castagnoli) of all bytes.
    pub crc32c: u32,
    /// Random identity of the creator, stored beside the object: after an ambiguous failure it tells whether the
    /// object under the key is ours.
    pub nonce: u64,
    /// Send the first attempt twice at once and take the first answer; the creator has paid for it.
    pub twice: bool,
}

/// What is known of a stored object without reading its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Size in bytes.
    pub len: u64,
    /// CRC-32C of the body, if the store keeps it.
    pub crc32c: Option<u32>,
    /// The creator's nonce, if stored.
    pub nonce: Option<u64>,
    /// Server-side time of creation, milliseconds since the Unix epoch.
    pub last_modified_ms: i64,
}

/// One entry of a LIST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object's key.
    pub key: ObjectKey,
    /// Size in bytes.
    pub len: u64,
    /// Server-side time of creation, milliseconds since the Unix epoch.
    pub last_modified_ms: i64,
}

/// Why a store call failed. `Display` says what, where and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A conditional create found an object under the key (HTTP 412).
    #[error("object {key} exists already")]
    AlreadyExists {
        /// The key.
        key: ObjectKey,
    },
    /// No object under the key.
    #[error("object {key} does not exist")]
    NotFound {
        /// The key.
        key: ObjectKey,
    },
    /// The store asked us to slow down (503 SlowDown, 429).
    #[error("object store throttles requests: {message}")]
    Throttled {
        /// The store's words.
        message: String,
    },
    /// The outcome is unknown or the store cannot answer now (5xx, time-out, cut connection, 409): try again.
    #[error("object store is unavailable: {message}")]
    Unavailable {
        /// The store's or transport's words.
        message: String,
    },
    /// The store refuses: wrong credentials, missing bucket, no permission. Trying again does not help.
    #[error("object store refuses the request: {message}")]
    Refused {
        /// The store's words, with what to check.
        message: String,
    },
    /// Bytes that came back are not the bytes that were written.
    #[error("object {key} is damaged: {message}")]
    Corrupt {
        /// The key.
        key: ObjectKey,
        /// What differs.
        message: String,
    },
}

impl StoreError {
    /// True when the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unavailable { .. })
    }
}

/// An object store. Back ends make one attempt per call and classify its failure; retries, the resolution of ambiguous
/// creates, faults and metrics are decorators.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug + 'static {
    /// Creates `key` if nothing is there (`If-None-Match: *`), durably: when this returns `Ok` the object survives
    /// the loss of this process and machine as far as the store promises it.
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError>;

    /// Reads `range` (exclusive end; must lie inside the object) of `key`.
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Reads the last `len` bytes of `key` (all of it if shorter); returns them and the object's size.
    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError>;

    /// Describes `key`, or `None` if nothing is there.
    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError>;

    /// Deletes `keys`; keys that do not exist count as deleted.
    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError>;

    /// Up to 1,000 keys below `prefix` in byte order, after `start_after`. For the orphan scrub and disaster recovery
    /// only: truth is never a LIST.
    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError>;
}

impl Payload {
    /// Freezes `chunks`, computing length and checksum.
    pub fn new(chunks: Vec<Bytes>, nonce: u64) -> Self {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        for chunk in &chunks {
            digest.update(chunk);
        }
        let len = chunks.iter().map(|c| c.len() as u64).sum();
        Self { chunks: chunks.into(), len, crc32c: digest.finalize() as u32, nonce, twice: false }
    }
}

/// CRC-32C (Castagnoli) of `bytes`, as Kafka's record batches and our objects use it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Refuses a range that is not inside an object of `object_len` bytes: the object is not what its reader was told.
pub(crate) fn range_inside(key: &ObjectKey, range: &Range<u64>, object_len: u64) -> Result<(), StoreError> {
    if range.start <= range.end && range.end <= object_len {
        return Ok(());
    }
    let message = format!("it has {object_len} bytes, {}..{} were expected in it", range.start, range.end);
    Err(StoreError::Corrupt { key: key.clone(), message })
}
