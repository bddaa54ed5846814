//! Objects in memory: for simulations, and for `KAFSCALE_USE_MEMORY_S3=true`, where they are lost with the process.

use super::{Listed, ObjectHead, ObjectKey, ObjectStore, Payload, StoreError, range_inside};
use crate::clock::{Clock, WallMs};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard};

/// See the module's documentation. Creates are atomic; everything is immediate.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Clock,
    objects: Mutex<BTreeMap<ObjectKey, Object>>,
}

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    crc32c: u32,
    nonce: u64,
    created_ms: WallMs,
}

/// Keys per LIST, as on S3.
const LIST_LEN_MAX: usize = 1_000;

impl MemoryStore {
    /// An empty store.
    pub fn new(clock: Clock) -> Self {
        Self { clock, objects: Mutex::default() }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Object>> {
        self.objects.lock().expect("no panic under the lock")
    }

    /// Sum of the sizes of all objects in bytes.
    pub fn bytes_stored(&self) -> u64 {
        self.objects().values().map(|o| o.bytes.len() as u64).sum()
    }

    fn bytes(&self, key: &ObjectKey) -> Result<Bytes, StoreError> {
        match self.objects().get(key) {
            Some(object) => Ok(object.bytes.clone()),
            None => Err(StoreError::NotFound { key: key.clone() }),
        }
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn create(&self, key: &ObjectKey, payload: &Payload) -> Result<(), StoreError> {
        let object = Object {
            bytes: payload.chunks.concat().into(),
            crc32c: payload.crc32c,
            nonce: payload.nonce,
            created_ms: self.clock.wall_ms(),
        };
        match self.objects().entry(key.clone()) {
            Entry::Occupied(_) => Err(StoreError::AlreadyExists { key: key.clone() }),
            Entry::Vacant(vacant) => {
                vacant.insert(object);
                Ok(())
            }
        }
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let bytes = self.bytes(key)?;
        range_inside(key, &range, bytes.len() as u64)?;
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn get_suffix(&self, key: &ObjectKey, len: u64) -> Result<(Bytes, u64), StoreError> {
        let bytes = self.bytes(key)?;
        let start = bytes.len() - len.min(bytes.len() as u64) as usize;
        Ok((bytes.slice(start..), bytes.len() as u64))
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        let head = |o: &Object| ObjectHead {
            len: o.bytes.len() as u64,
            crc32c: Some(o.crc32c),
            nonce: Some(o.nonce),
            last_modified_ms: o.created_ms,
        };
        Ok(self.objects().get(key).map(head))
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        let mut objects = self.objects();
        for key in keys {
            objects.remove(key);
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, start_after: Option<&ObjectKey>) -> Result<Vec<Listed>, StoreError> {
        let first = match start_after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(ObjectKey::new(prefix)),
        };
        let objects = self.objects();
        let below = objects.range((first, Bound::Unbounded)).take_while(|(key, _)| key.as_str().starts_with(prefix));
        let listed = |(key, o): (&ObjectKey, &Object)| Listed {
            key: key.clone(),
            len: o.bytes.len() as u64,
            last_modified_ms: o.created_ms,
        };
        Ok(below.take(LIST_LEN_MAX).map(listed).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[tokio::test]
    async fn behaves_like_an_object_store() {
        conformance::run(&MemoryStore::new(Clock::system())).await;
    }
}
