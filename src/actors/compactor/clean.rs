//! Key compaction of one partition: which of its batches and records stay. Pure: no I/O, clock or logging.
//!
//! A pass goes over the partition twice. First the *dirty* part, what was appended since it was last compacted, up to where
//! the keys still fit into a [`KeyMap`]: [`index`] enters each key with its newest offset. Then everything from the log start
//! to where the map ends, in the order of offsets: [`Cleaner`] drops the records of which the map knows a newer one.
//!
//! - Offsets do not change. Batches go on adjoining each other: where nothing is left, a batch without records says so, one
//!   for a whole run of batches. So every check that no offset is missing means what it meant before.
//! - A batch that loses nothing is copied byte for byte; one that loses records keeps its header and its codec.
//! - A record without a value is a tombstone. The first pass that has dropped everything older of its key gives its batch a
//!   delete horizon (KIP-534), and a pass after that time drops the tombstone.
//! - Control batches, transactional ones and batches whose records cannot be read stay as they are. Since nobody knows which
//!   keys the latter have, tombstones above them get no horizon: something older may be left.
//! - Sequences of idempotent producers are in the checkpoint, so no batch is needed for them.

use super::keys::KeyMap;
use crate::ids::{LeaderEpoch, Offset};
use crate::protocol::batch::BatchHeader;
use crate::protocol::records::{self, Record, RecordError, Records};
use crate::protocol::rewrite;
use crate::sabotage::{self, Sabotage};
use crate::storage::segment::{LEVEL_COMPACTED, LEVEL_COMPACTED_TOMBSTONES};
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;

/// Level of what lies above the map's end: as before, it is to be compacted.
const LEVEL_DIRTY: u8 = 2;
/// Offsets of one batch, at most.
const HOLE_OFFSETS_MAX: i64 = 1 << 31;

/// Whether a batch's keys are in the map now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexed {
    /// They are, or the batch has none that matter.
    Yes,
    /// They do not fit; none was entered. The map ends before this batch.
    Full,
}

/// Enters the keys of a batch of the dirty part.
pub fn index(map: &mut KeyMap, header: &BatchHeader, batch: &[u8]) -> Indexed {
    let Some(plain) = readable(header, batch, map.keys_max()) else { return Indexed::Yes };
    if !map.has_room_for(header.record_count as usize) {
        return Indexed::Full;
    }
    for record in Records::stored(&plain, header).flatten() {
        if let Some(key) = record.key {
            map.insert(&plain[key], header.base_offset.plus(i64::from(record.offset_delta)));
        }
    }
    Indexed::Yes
}

/// The records of a batch that compaction may look into: all of them can be read, and they are not too many for a map.
fn readable<'a>(header: &BatchHeader, batch: &'a [u8], keys_max: usize) -> Option<Cow<'a, [u8]>> {
    let fits = usize::try_from(header.record_count).is_ok_and(|count| count <= keys_max);
    if header.is_control() || header.is_transactional() || !fits {
        return None;
    }
    let plain = records::records_bytes(header, batch).ok()?;
    Records::stored(&plain, header).all(|r| r.is_ok()).then_some(plain)
}

/// What a pass goes by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// First offset that may be read; what is below goes.
    pub log_start: Offset,
    /// The map has the newest offsets of keys below this one; what is above stays as it is.
    pub map_end: Offset,
    /// Tombstones may get a delete horizon. Not if only horizons that have passed are looked for.
    pub may_set_horizons: bool,
    /// Wall time, ms.
    pub now_ms: i64,
    /// How long tombstones are kept, ms.
    pub delete_retention_ms: i64,
}

/// What a pass has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Records dropped.
    pub dropped: u64,
    /// Batches whose records cannot be read; they stay.
    pub unreadable: u64,
    /// The earliest delete horizon among the tombstones that stay, ms.
    pub horizon_ms: Option<i64>,
}

/// What becomes of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is; true if it has tombstones with a horizon.
    Stays(bool),
    /// It is replaced by this one; true as above.
    Becomes(Bytes, bool),
    /// Nothing of it is left.
    Goes,
}

/// Counts of what would stay of a batch.
#[derive(Default)]
struct Kept {
    records: i32,
    tombstones: i32,
}

/// Decides about batches in the order of their offsets. See the module's documentation.
#[derive(Debug)]
pub struct Cleaner<'a> {
    map: &'a KeyMap,
    rules: Rules,
    seen: &'a mut Seen,
}

impl<'a> Cleaner<'a> {
    /// A cleaner that goes on where `seen` was left.
    pub fn new(map: &'a KeyMap, rules: Rules, seen: &'a mut Seen) -> Self {
        Self { map, rules, seen }
    }

    /// What becomes of a batch.
    ///
    /// # Errors
    /// If the batch's records cannot be read, although they could be a moment ago.
    pub fn judge(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<Fate, RecordError> {
        if header.base_offset >= self.rules.map_end {
            return Ok(Fate::Stays(false));
        }
        if header.is_hole() {
            return Ok(Fate::Goes);
        }
        let Some(plain) = readable(header, batch, self.map.keys_max()) else {
            if !header.is_control() {
                self.seen.unreadable += 1;
            }
            return Ok(Fate::Stays(false));
        };
        let (map, rules) = (self.map, self.rules);
        let stays = |record: &Record| stays(map, &rules, header, &plain, record);
        let mut kept = Kept::default();
        for record in Records::stored(&plain, header).flatten().filter(stays) {
            kept.records += 1;
            kept.tombstones += i32::from(record.value.is_none());
        }
        self.seen.dropped += (header.record_count - kept.records) as u64;
        if kept.records == 0 {
            return Ok(Fate::Goes);
        }
        let set = header.delete_horizon_ms().is_none()
            && kept.tombstones > 0
            && rules.may_set_horizons
            && self.seen.unreadable == 0;
        let new_horizon = set.then(|| rules.now_ms.saturating_add(rules.delete_retention_ms));
        let horizon = header.delete_horizon_ms().or(new_horizon).filter(|_| kept.tombstones > 0);
        self.seen.horizon_ms = [self.seen.horizon_ms, horizon].into_iter().flatten().min();
        if kept.records == header.record_count && !set {
            return Ok(Fate::Stays(horizon.is_some()));
        }
        let becomes = rewrite::retain(header, batch, &plain, new_horizon, stays)?;
        Ok(Fate::Becomes(becomes, horizon.is_some()))
    }
}

fn stays(map: &KeyMap, rules: &Rules, header: &BatchHeader, plain: &[u8], record: &Record) -> bool {
    let offset = header.base_offset.plus(i64::from(record.offset_delta));
    // Only topics that were not compacted when it was produced have records without a key.
    let Some(key) = record.key.clone() else { return false };
    let superseded = map.newest(&plain[key]).is_some_and(|newest| sabotage::is_superseded(newest, offset));
    let horizon_passed = header.delete_horizon_ms().is_some_and(|h| h <= rules.now_ms);
    let expired = record.value.is_none() && (horizon_passed || sabotage::is(Sabotage::DropTombstonesEarly));
    offset >= rules.log_start && !superseded && !expired
}

/// Batches that become one object.
#[derive(Debug)]
pub struct Piece {
    /// Its level.
    pub level: u8,
    /// First offset.
    pub base: Offset,
    /// First offset after it.
    pub next: Offset,
    /// Leader epoch of the last batch.
    pub leader_epoch: LeaderEpoch,
    /// The batches, back to back.
    pub bytes: BytesMut,
}

/// Gathers what is left as pieces that adjoin each other.
#[derive(Debug)]
pub struct Pieces {
    map_end: Offset,
    bytes_max: usize,
    done: Vec<Piece>,
    open: Option<Piece>,
    /// Offsets that nothing is left of, not written yet.
    hole: Option<(Offset, Offset, LeaderEpoch)>,
    /// Something is not as it was.
    changed: bool,
}

impl Pieces {
    /// Pieces of about `bytes_max` bytes; another one begins at `map_end`, where compaction ended.
    pub fn new(map_end: Offset, bytes_max: usize) -> Self {
        Self { map_end, bytes_max, done: Vec::new(), open: None, hole: None, changed: false }
    }

    /// Adds what became of the batch that follows.
    pub fn push(&mut self, header: &BatchHeader, batch: &[u8], fate: &Fate) {
        if header.base_offset == self.map_end {
            self.cut();
        }
        let (bytes, tombstones) = match fate {
            Fate::Goes => {
                self.changed |= !header.is_hole();
                return self.leave_out(header);
            }
            Fate::Stays(tombstones) => (batch, *tombstones),
            Fate::Becomes(bytes, tombstones) => {
                self.changed = true;
                (&bytes[..], *tombstones)
            }
        };
        self.close_hole();
        self.put(header.base_offset, header.next_offset(), header.leader_epoch, bytes, tombstones);
    }

    fn leave_out(&mut self, header: &BatchHeader) {
        let (base, next) = (header.base_offset, header.next_offset());
        match &mut self.hole {
            Some((from, to, epoch)) if next.0 - from.0 <= HOLE_OFFSETS_MAX => {
                self.changed |= header.is_hole(); // two holes become one
                (*to, *epoch) = (next, header.leader_epoch);
            }
            _ => {
                self.close_hole();
                self.hole = Some((base, next, header.leader_epoch));
            }
        }
    }

    fn close_hole(&mut self) {
        if let Some((base, next, epoch)) = self.hole.take() {
            let bytes = rewrite::hole(base, next, epoch);
            self.put(base, next, epoch, &bytes, false);
        }
    }

    fn put(&mut self, base: Offset, next: Offset, epoch: LeaderEpoch, bytes: &[u8], tombstones: bool) {
        if self.open.as_ref().is_some_and(|open| open.bytes.len() + bytes.len() > self.bytes_max) {
            self.done.extend(self.open.take());
        }
        let level = if base >= self.map_end { LEVEL_DIRTY } else { LEVEL_COMPACTED };
        let fresh = || Piece { level, base, next: base, leader_epoch: epoch, bytes: BytesMut::new() };
        let open = self.open.get_or_insert_with(fresh);
        assert_eq!(open.next, base, "batches adjoin each other");
        open.bytes.extend_from_slice(bytes);
        (open.next, open.leader_epoch) = (next, epoch);
        if tombstones {
            open.level = LEVEL_COMPACTED_TOMBSTONES;
        }
    }

    fn cut(&mut self) {
        self.close_hole();
        self.done.extend(self.open.take());
    }

    /// Pieces that nothing more comes to.
    pub fn take_complete(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.done)
    }

    /// The rest, and whether anything is not as it was.
    pub fn finish(mut self) -> (Vec<Piece>, bool) {
        self.cut();
        (self.done, self.changed)
    }
}

#[cfg(test)]
#[path = "clean_tests.rs"]
mod tests;
