//! Member ids that were given out and not used yet.
//!
//! Such an id has no member, and asking for one costs a client nothing; so what they take counts against the bounds of
//! the group and of the coordinator like members do.

use super::{MemberId, Ms};
use std::collections::BTreeMap;

/// Most of them in one group.
const PENDING_MAX: usize = 10_000;
/// Memory of one without its text, bytes.
const PENDING_BYTES: usize = 64;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// With the end of their patience.
    ids: BTreeMap<MemberId, Ms>,
    bytes: usize,
}

fn len_of(id: &str) -> usize {
    PENDING_BYTES + id.len()
}

impl Pending {
    pub fn insert(&mut self, id: MemberId, deadline: Ms) {
        let len = len_of(&id);
        if self.ids.insert(id, deadline).is_none() {
            self.bytes += len;
        }
    }

    /// True if it was there.
    pub fn remove(&mut self, id: &str) -> bool {
        let was_there = self.ids.remove(id).is_some();
        if was_there {
            self.bytes -= len_of(id);
        }
        was_there
    }

    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains_key(id)
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.ids.len() >= PENDING_MAX
    }

    /// Memory they take, roughly, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn deadlines(&self) -> impl Iterator<Item = Ms> {
        self.ids.values().copied()
    }

    /// Those whose patience is over.
    pub fn expired(&self, now_ms: Ms) -> Vec<MemberId> {
        self.ids.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| id.clone()).collect()
    }

    /// Gives all of them time until `least_ms`.
    pub fn extend(&mut self, least_ms: Ms) {
        self.ids.values_mut().for_each(|at| *at = least_ms.max(*at));
    }
}
