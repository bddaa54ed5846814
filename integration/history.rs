//! The log of what clients invoked and saw: JSON lines, one event each, times from the test's own monotonic clock.
//!
//! A send is one batch for one partition: `SendInvoke`, then at most one of `SendOk` and `SendFail`. Everything that a
//! client does about it in between (reconnects, retries with the same sequence) belongs to the same send. A send without an
//! end is *indeterminate*: its values may or may not be in the log. `SendFail` claims that they are not.

use serde::{Deserialize, Serialize};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;

/// An event and when it was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Nanoseconds since the history began.
    pub t_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Event {
    /// A producer begins to send a batch.
    SendInvoke {
        /// Identifies the send.
        op: u64,
        /// Who sends.
        producer: u32,
        /// topic-partition.
        partition: String,
        /// Unique values, in order.
        values: Vec<u64>,
    },
    /// The broker acknowledged it.
    SendOk {
        /// Identifies the send.
        op: u64,
        /// Offset of its first value, as the broker said.
        base_offset: i64,
    },
    /// The broker refused it for good: nothing was appended.
    SendFail {
        /// Identifies the send.
        op: u64,
        /// Kafka error code.
        code: i16,
    },
    /// A fetch was answered without an error.
    PollOk {
        /// Who polls.
        consumer: u32,
        /// topic-partition.
        partition: String,
        /// When the fetch was sent.
        invoke_ns: u64,
        /// Offset that was asked for.
        from: i64,
        /// Offsets from `from` on and their values.
        records: Vec<(i64, u64)>,
        /// As in the answer.
        high_watermark: i64,
        /// As in the answer.
        log_start: i64,
        /// True for the polls after the load, which together must see everything.
        last: bool,
    },
    /// A fetch was answered with an error code.
    PollFail {
        /// Who polls.
        consumer: u32,
        /// topic-partition.
        partition: String,
        /// When the fetch was sent.
        invoke_ns: u64,
        /// Offset that was asked for.
        from: i64,
        /// Kafka error code.
        code: i16,
    },
    /// A group's commit of an offset was acked.
    CommitOk {
        /// The group.
        group: String,
        /// topic-partition.
        partition: String,
        /// The offset.
        offset: i64,
    },
    /// A member of a group was told what is committed; 0 if nothing was.
    CommitRead {
        /// The group.
        group: String,
        /// topic-partition.
        partition: String,
        /// When it asked.
        invoke_ns: u64,
        /// The offset.
        offset: i64,
    },
    /// A record came back whose bytes are not what any producer writes.
    Damaged {
        /// topic-partition.
        partition: String,
        /// Where.
        offset: i64,
    },
    /// A fault begins (`on`) or has ended.
    Fault {
        /// E.g. `kill`.
        what: String,
        /// Begins, or has ended.
        on: bool,
    },
    /// Producers begin no new sends from here on.
    LoadEnd,
}

/// Collects entries from many tasks.
#[derive(Debug)]
pub struct History {
    origin: tokio::time::Instant,
    entries: Mutex<Vec<Entry>>,
}

impl History {
    /// An empty history that begins now.
    pub fn new() -> Self {
        Self { origin: kafscale::clock::monotonic(), entries: Mutex::default() }
    }

    /// Nanoseconds since it began.
    pub fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Adds an event, now.
    pub fn push(&self, event: Event) {
        let mut entries = self.entries.lock().expect("no panic under the lock");
        // The time is read under the lock, so that entries are in the order of their times.
        let t_ns = self.now_ns();
        entries.push(Entry { t_ns, event });
    }

    /// What was collected so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().expect("no panic under the lock").clone()
    }

    /// Writes it as JSON lines.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        for entry in self.entries() {
            serde_json::to_writer(&mut file, &entry)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }
}

/// Reads what [`History::write`] wrote.
pub fn read(path: &Path) -> std::io::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(std::io::Error::from)).collect()
}
