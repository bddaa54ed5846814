//! One partition of a search: where it is, what it found, what it reads next. Pure.
//!
//! Forwards a lane reads on from its position. Backwards it takes windows of offsets, each read forwards to its end: only
//! then is it known what the newest records in it are. A window that holds too many bytes is given up for a smaller one, so that
//! there is always progress.

use super::record::{Record, Taken};
use std::collections::VecDeque;

/// Bytes of the records that a window holds; beyond it a smaller one is taken.
const WINDOW_BYTES_MAX: u64 = 4 << 20;
/// Offsets of a window.
const STEP_MAX: i64 = 4_096;
/// Fetches that brought nothing although there is something, after which a lane gives up.
const EMPTY_MAX: u32 = 16;

/// Where a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To newer records.
    Up,
    /// To older records.
    Down,
}

#[derive(Debug)]
struct Window {
    from: i64,
    /// Everything in it before this offset was looked at.
    next: i64,
    found: Vec<Record>,
    bytes: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Lane {
    /// The partition.
    pub partition: i32,
    /// Its leader and the leader's epoch.
    pub leader: Option<(i32, i32)>,
    direction: Direction,
    start: i64,
    end: i64,
    position: i64,
    step: i64,
    window: Option<Window>,
    ready: VecDeque<Record>,
    empty: u32,
    /// Why it goes no further.
    pub failed: Option<String>,
}

impl Lane {
    /// A lane over the offsets from `start` to `end`, at `position` (backwards: everything from there on is behind it).
    pub fn new(partition: i32, direction: Direction, start: i64, end: i64, position: i64, step: i64) -> Self {
        Self {
            partition,
            leader: None,
            direction,
            start,
            end,
            position: position.clamp(start.min(end), end),
            step: step.clamp(1, STEP_MAX),
            window: None,
            ready: VecDeque::new(),
            empty: 0,
            failed: None,
        }
    }

    /// Nothing more is to be read.
    pub fn is_exhausted(&self) -> bool {
        self.failed.is_some()
            || match self.direction {
                Direction::Up => self.position >= self.end,
                Direction::Down => self.position <= self.start,
            }
    }

    /// It has to read before it is known what comes next.
    pub fn is_hungry(&self) -> bool {
        self.ready.is_empty() && !self.is_exhausted()
    }

    /// The offsets it wants to read next: from, to (exclusive).
    pub fn wants(&mut self) -> (i64, i64) {
        match self.direction {
            Direction::Up => (self.position, self.end),
            Direction::Down => {
                let (start, position, step) = (self.start, self.position, self.step);
                let window = self.window.get_or_insert_with(|| {
                    let from = position.saturating_sub(step).max(start);
                    Window { from, next: from, found: Vec::new(), bytes: 0 }
                });
                (window.next, position)
            }
        }
    }

    /// Takes what was read of the offsets that it wanted.
    pub fn give(&mut self, taken: Taken) {
        let Some(next) = taken.next else {
            self.empty += 1;
            if let Some(damage) = taken.damage {
                self.failed = Some(damage);
            } else if self.empty >= EMPTY_MAX {
                self.failed = Some("the broker sends nothing although there are records".to_owned());
            }
            return;
        };
        self.empty = 0;
        if self.direction == Direction::Up {
            self.position = self.position.max(next);
            self.ready.extend(taken.records);
            return;
        }
        let Some(mut window) = self.window.take() else { return };
        window.next = window.next.max(next);
        window.bytes += taken.records.iter().map(|record| record.size_bytes as u64).sum::<u64>();
        window.found.extend(taken.records);
        if window.next >= self.position {
            self.position = window.from;
            // Few records fit: more are looked at next time.
            self.step = (self.step * 2).min(STEP_MAX);
            self.ready.extend(window.found.into_iter().rev());
        } else if window.bytes >= WINDOW_BYTES_MAX && self.step > 1 {
            self.step = (self.step / 4).max(1);
        } else {
            self.window = Some(window);
        }
    }

    /// The broker has nothing at the offset that was asked for; what it has begins at `start`.
    pub fn out_of_range(&mut self, start: i64) {
        let lost = start > self.start;
        self.start = self.start.max(start);
        self.window = None;
        match self.direction {
            Direction::Up if lost && self.position < start => self.position = start.min(self.end),
            Direction::Down if lost => {}
            _ => self.failed = Some("the broker does not have the offsets that it announced: try again".to_owned()),
        }
    }

    /// Newer records may have come.
    pub fn extend(&mut self, end: i64) {
        self.end = self.end.max(end);
    }

    /// Leaves out everything before `position`; returns how many offsets that are.
    pub fn skip_to(&mut self, position: i64) -> i64 {
        let skipped = position.saturating_sub(self.position).max(0);
        self.position = self.position.max(position);
        self.end = self.end.max(self.position);
        skipped
    }

    /// Offsets that are before it.
    pub fn behind(&self) -> i64 {
        self.end.saturating_sub(self.position)
    }

    /// What comes next, if it is known.
    pub fn peek(&self) -> Option<&Record> {
        self.ready.front()
    }

    /// Takes what comes next.
    pub fn pop(&mut self) -> Option<Record> {
        self.ready.pop_front()
    }

    /// Where to go on later: nothing that was found and not taken is behind it.
    pub fn resume(&self) -> i64 {
        match (self.direction, self.ready.front()) {
            (Direction::Up, Some(record)) => record.offset,
            (Direction::Down, Some(record)) => record.offset + 1,
            (_, None) => self.position,
        }
    }

    /// All of it is behind it.
    pub fn is_done(&self) -> bool {
        self.ready.is_empty() && self.is_exhausted() && self.failed.is_none()
    }
}

/// The lane whose record comes next. If `waits`, none does as long as a lane has to read first.
pub fn next_of(lanes: &[Lane], direction: Direction, waits: bool) -> Option<usize> {
    if waits && lanes.iter().any(Lane::is_hungry) {
        return None;
    }
    let heads = lanes.iter().enumerate().filter_map(|(i, lane)| {
        let record = lane.peek()?;
        Some(((record.timestamp_ms, record.partition, record.offset), i))
    });
    match direction {
        Direction::Up => heads.min().map(|(_, i)| i),
        Direction::Down => heads.max().map(|(_, i)| i),
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
