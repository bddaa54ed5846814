//! The newest offset of each key, for a bounded number of keys.
//!
//! A key is remembered as 128 bits of two keyed hashes, so that an entry has the same size whatever the key. The hashes' keys
//! are random and live as long as the map: whoever chooses record keys cannot choose two that are taken for one.

use crate::ids::Offset;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// See the module's documentation.
#[derive(Debug)]
pub struct KeyMap {
    hashers: [RandomState; 2],
    newest: HashMap<[u64; 2], Offset>,
    keys_max: usize,
}

impl KeyMap {
    /// An empty map for `keys_max` keys. Memory is taken as keys come, about 25 bytes each.
    pub fn new(keys_max: usize) -> Self {
        Self { hashers: [RandomState::new(), RandomState::new()], newest: HashMap::new(), keys_max }
    }

    /// True if `count` more keys fit for sure.
    pub fn has_room_for(&self, count: usize) -> bool {
        count <= self.keys_max - self.newest.len()
    }

    /// Most keys that fit.
    pub fn keys_max(&self) -> usize {
        self.keys_max
    }

    /// Remembers that `key` was written at `offset`, which is above all before.
    pub fn insert(&mut self, key: &[u8], offset: Offset) {
        let hash = self.hash(key);
        self.newest.insert(hash, offset);
        assert!(self.newest.len() <= self.keys_max, "more keys than the map may have");
    }

    /// Where `key` was written last, as far as the map knows.
    pub fn newest(&self, key: &[u8]) -> Option<Offset> {
        self.newest.get(&self.hash(key)).copied()
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        [self.hashers[0].hash_one(key), self.hashers[1].hash_one(key)]
    }
}
