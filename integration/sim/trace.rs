//! What happened in a run, in order: a run of the same seed has the same events.

use kafscale::clock::Clock;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use tokio::time::Instant;

/// Events are hashed, and kept as text if somebody wants to compare them.
#[derive(Debug)]
pub struct Trace {
    clock: Clock,
    start: Instant,
    events: Mutex<Events>,
    happened: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Debug, Default)]
struct Events {
    hash: DefaultHasher,
    count: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// Nothing has happened.
    pub fn new(clock: Clock, keep: bool) -> Self {
        let events = Events { lines: keep.then(Vec::new), ..Events::default() };
        Self { clock, start: clock.monotonic(), events: Mutex::new(events), happened: Mutex::default() }
    }

    /// Something happened now.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        let line = format!("{} {what}", (self.clock.monotonic() - self.start).as_micros());
        tracing::info!("{line}"); // heard when one seed is looked into
        let mut events = self.events.lock().expect("no panic under the lock");
        line.hash(&mut events.hash);
        events.count += 1;
        if let Some(lines) = &mut events.lines {
            lines.push(line);
        }
    }

    /// A fault of this kind, or something else that a batch of runs has to have seen.
    pub fn happened(&self, kind: &'static str) {
        *self.happened.lock().expect("no panic under the lock").entry(kind).or_default() += 1;
    }

    /// How often what has happened.
    pub fn all_that_happened(&self) -> BTreeMap<&'static str, u64> {
        self.happened.lock().expect("no panic under the lock").clone()
    }

    /// How many events there were, their hash, and the events themselves, if they were kept.
    pub fn end(&self) -> (u64, u64, Vec<String>) {
        let mut events = self.events.lock().expect("no panic under the lock");
        (events.count, events.hash.finish(), events.lines.take().unwrap_or_default())
    }
}
