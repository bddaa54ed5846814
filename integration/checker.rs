//! Judges a [`history`](crate::history): did the clients see one log per partition, with everything that was acked in it?
//!
//! Pure: entries in, [`Violation`]s out, in O(n log n). It knows nothing of how the broker works. The history must be of an
//! idempotent run: every value is sent by one send, and may be in the log once. `checker_tests.rs` plants each kind of
//! violation into a good history.

use crate::history::{Entry, Event};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Kafka's OFFSET_OUT_OF_RANGE.
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Violations listed of one kind; a broken broker makes thousands.
const LISTED_MAX: usize = 5;

/// What a log must not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An acked value is not in the log.
    LostWrite,
    /// One offset had two values.
    InconsistentOffset,
    /// One value at two offsets.
    Duplicate,
    /// The producer was told another offset than where the value is.
    WrongAckedOffset,
    /// An ack named an offset that was already taken when the send began.
    StaleAckedOffset,
    /// An offset between two others is not in the log.
    Hole,
    /// Values of one producer are not in the order in which it sent them.
    Reordered,
    /// A fetch returned records out of order, or before the offset that was asked for.
    PollOrder,
    /// A value that nobody sent, whose send was refused, or with damaged bytes.
    Phantom,
    /// A fetch returned a record at or above its own high watermark.
    AboveHighWatermark,
    /// The high watermark is lower than what had been acked or seen before.
    HighWatermarkWentBack,
    /// The log start is lower than seen before.
    LogStartWentBack,
    /// The log start moved although nobody deletes.
    LogStartMoved,
    /// An offset that had been readable became OFFSET_OUT_OF_RANGE.
    BecameOutOfRange,
    /// A member was told an offset below one that was acked or told before it asked.
    CommittedOffsetWentBack,
    /// A group committed an offset above the end of the log.
    CommittedTooFar,
    /// A send had no end although the producers were drained.
    Stuck,
    /// Nothing was acked for too long after a fault had ended.
    NoProgress,
    /// The history itself is unusable: e.g. no final polls, two ends of a send.
    BadHistory,
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub kind: Kind,
    /// Where and when, for people.
    pub detail: String,
}

/// What the checker demands besides the log's own rules.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// Something must be acked within this time after a fault ends (if the load goes on so long), ms.
    pub progress_ms_max: u64,
}

/// Counts, and what is wrong.
#[derive(Debug, Default)]
pub struct Report {
    /// Sends acknowledged.
    pub acked_sends: usize,
    /// Values acknowledged.
    pub acked_values: usize,
    /// Values in the final log.
    pub log_values: usize,
    /// Sends without an ack whose values are in the log (allowed).
    pub unacked_but_written: usize,
    /// Records seen by polls.
    pub polled: usize,
    /// Everything found, grouped by kind.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Panics with the list if something is wrong.
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "the history is not that of a log:\n{self}");
    }

    /// How many violations are of one of `kinds`.
    pub fn count(&self, kinds: &[Kind]) -> usize {
        self.violations.iter().filter(|violation| kinds.contains(&violation.kind)).count()
    }

    fn add(&mut self, kind: Kind, detail: String) {
        self.violations.push(Violation { kind, detail });
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} values acked in {} sends, {} values in the log ({} sends written without an ack), {} polled, {} violations",
            self.acked_values,
            self.acked_sends,
            self.log_values,
            self.unacked_but_written,
            self.polled,
            self.violations.len()
        )?;
        let mut by_kind: BTreeMap<Kind, Vec<&str>> = BTreeMap::new();
        for violation in &self.violations {
            by_kind.entry(violation.kind).or_default().push(&violation.detail);
        }
        for (kind, details) in by_kind {
            writeln!(f, "  {kind:?} x {}", details.len())?;
            for detail in details.iter().take(LISTED_MAX) {
                writeln!(f, "    {detail}")?;
            }
        }
        Ok(())
    }
}

struct Send<'a> {
    op: u64,
    invoke_ns: u64,
    producer: u32,
    partition: &'a str,
    values: &'a [u64],
    acked: Option<(u64, i64)>,
    failed: bool,
}

struct Poll<'a> {
    t_ns: u64,
    invoke_ns: u64,
    partition: &'a str,
    from: i64,
    records: &'a [(i64, u64)],
    high_watermark: i64,
    log_start: i64,
    last: bool,
}

/// The history, sorted out.
#[derive(Default)]
struct Parsed<'a> {
    sends: Vec<Send<'a>>,
    polls: Vec<Poll<'a>>,
    out_of_range: Vec<(u64, &'a str, i64)>,
    /// Group and partition, when it was known, offset.
    commits: Vec<((&'a str, &'a str), u64, i64)>,
    /// Group and partition, when it was asked, offset.
    commit_reads: Vec<((&'a str, &'a str), u64, i64)>,
    faults_ended: Vec<(u64, &'a str)>,
    faults_open: Vec<&'a str>,
    load_end_ns: Option<u64>,
}

/// The verdict on `entries`, which are in the order of their times.
pub fn check(entries: &[Entry], expect: Expect) -> Report {
    let mut report = Report::default();
    let parsed = parse(entries, &mut report);
    let logs = final_logs(&parsed, &mut report);
    check_sends(&parsed, &logs, &mut report);
    check_values(&parsed, &mut report);
    check_producer_order(&parsed, &logs, &mut report);
    check_polls(&parsed, &mut report);
    check_bounds(&parsed, &mut report);
    check_commits(&parsed, &logs, &mut report);
    check_progress(&parsed, expect, &mut report);
    report
}

fn parse<'a>(entries: &'a [Entry], report: &mut Report) -> Parsed<'a> {
    let mut parsed = Parsed::default();
    let mut index: HashMap<u64, usize> = HashMap::new();
    for Entry { t_ns, event } in entries {
        match event {
            Event::SendInvoke { op, producer, partition, values } => {
                index.insert(*op, parsed.sends.len());
                parsed.sends.push(Send {
                    op: *op,
                    invoke_ns: *t_ns,
                    producer: *producer,
                    partition,
                    values,
                    acked: None,
                    failed: false,
                });
            }
            Event::SendOk { op, .. } | Event::SendFail { op, .. } => {
                let Some(send) = index.get(op).map(|i| &mut parsed.sends[*i]) else {
                    report.add(Kind::BadHistory, format!("end of send {op} without its beginning"));
                    continue;
                };
                if send.acked.is_some() || send.failed {
                    report.add(Kind::BadHistory, format!("send {op} ends twice"));
                }
                match event {
                    Event::SendOk { base_offset, .. } => send.acked = Some((*t_ns, *base_offset)),
                    _ => send.failed = true,
                }
            }
            Event::PollOk { partition, invoke_ns, from, records, high_watermark, log_start, last, .. } => {
                parsed.polls.push(Poll {
                    t_ns: *t_ns,
                    invoke_ns: *invoke_ns,
                    partition,
                    from: *from,
                    records,
                    high_watermark: *high_watermark,
                    log_start: *log_start,
                    last: *last,
                });
            }
            Event::PollFail { partition, invoke_ns, from, code, .. } if *code == OFFSET_OUT_OF_RANGE => {
                parsed.out_of_range.push((*invoke_ns, partition, *from));
            }
            Event::PollFail { .. } => {} // retriable: the consumer went on
            Event::CommitOk { group, partition, offset } => {
                parsed.commits.push(((group, partition), *t_ns, *offset));
            }
            Event::CommitRead { group, partition, invoke_ns, offset } => {
                parsed.commits.push(((group, partition), *t_ns, *offset));
                parsed.commit_reads.push(((group, partition), *invoke_ns, *offset));
            }
            Event::Damaged { partition, offset } => {
                report.add(Kind::Phantom, format!("{partition}: damaged bytes at offset {offset}"));
            }
            Event::Fault { what, on: true } => parsed.faults_open.push(what),
            Event::Fault { what, on: false } => {
                parsed.faults_open.retain(|open| open != what);
                parsed.faults_ended.push((*t_ns, what));
            }
            Event::LoadEnd => parsed.load_end_ns = Some(*t_ns),
        }
    }
    parsed
}

type Logs<'a> = HashMap<&'a str, BTreeMap<i64, u64>>;

/// What the final polls read, per partition; they must be dense from the log start to the high watermark.
fn final_logs<'a>(parsed: &Parsed<'a>, report: &mut Report) -> Logs<'a> {
    let mut logs: Logs<'a> = HashMap::new();
    let mut bounds: HashMap<&str, (i64, i64)> = HashMap::new();
    for poll in parsed.polls.iter().filter(|p| p.last) {
        logs.entry(poll.partition).or_default().extend(poll.records.iter().copied());
        let bound = bounds.entry(poll.partition).or_insert((poll.log_start, poll.high_watermark));
        *bound = (bound.0.max(poll.log_start), bound.1.max(poll.high_watermark));
    }
    for (partition, log) in &logs {
        let (log_start, high_watermark) = bounds[partition];
        let mut expected = log_start;
        for offset in log.keys() {
            if *offset > expected {
                report.add(Kind::Hole, format!("{partition}: nothing at {expected}..{offset}"));
            }
            expected = offset + 1;
        }
        if expected < high_watermark {
            report.add(Kind::Hole, format!("{partition}: nothing at {expected}..{high_watermark} (the end)"));
        }
        report.log_values += log.len();
    }
    for partition in parsed.sends.iter().map(|s| s.partition).collect::<HashSet<_>>() {
        if !logs.contains_key(partition) {
            report.add(Kind::BadHistory, format!("{partition}: no final poll"));
        }
    }
    logs
}

/// Acked values are in the log, where the producer was told; refused ones are not; every send has an end.
fn check_sends(parsed: &Parsed, logs: &Logs, report: &mut Report) {
    let empty = BTreeMap::new();
    // Per partition: what was the greatest offset known at a time? Built from acks and polls, in the order of time.
    let mut known: HashMap<&str, Vec<(u64, i64)>> = HashMap::new();
    for send in &parsed.sends {
        if let Some((t_ns, base)) = send.acked {
            known.entry(send.partition).or_default().push((t_ns, base + send.values.len() as i64 - 1));
        }
    }
    for poll in parsed.polls.iter().filter(|p| !p.records.is_empty()) {
        known.entry(poll.partition).or_default().push((poll.t_ns, poll.records[poll.records.len() - 1].0));
    }
    let known: HashMap<&str, RunningMax> = known.into_iter().map(|(p, seen)| (p, RunningMax::new(seen))).collect();
    for send in &parsed.sends {
        let log = logs.get(send.partition).unwrap_or(&empty);
        let Some((_, base)) = send.acked else {
            if !send.failed && parsed.load_end_ns.is_some() {
                report.add(Kind::Stuck, format!("{}: send {} never ended", send.partition, send.op));
            }
            continue;
        };
        report.acked_sends += 1;
        report.acked_values += send.values.len();
        if let Some(taken) = known[send.partition].before(send.invoke_ns).filter(|max| base <= *max) {
            let what = format!("{}: send {} acked at {base}, but {taken} was taken", send.partition, send.op);
            report.add(Kind::StaleAckedOffset, what);
        }
        for (offset, value) in (base..).zip(send.values) {
            match log.get(&offset) {
                Some(found) if found == value => {}
                Some(found) => {
                    let what = format!("{}: {value} acked at {offset}, where {found} is", send.partition);
                    report.add(Kind::WrongAckedOffset, what);
                }
                None => {
                    let end = log.keys().next_back().map_or(-1, |o| *o);
                    let what = format!("{}: {value} acked at {offset} is not there; log ends at {end}", send.partition);
                    report.add(Kind::LostWrite, what);
                }
            }
        }
    }
}

/// Over everything that was seen at any time: one value per offset, one offset per value, no value from nowhere.
fn check_values(parsed: &Parsed, report: &mut Report) {
    let senders: HashMap<u64, &Send> =
        parsed.sends.iter().flat_map(|s| s.values.iter().map(move |v| (*v, s))).collect();
    let mut at: HashMap<(&str, i64), u64> = HashMap::new();
    let mut of: HashMap<u64, (&str, i64)> = HashMap::new();
    let mut unacked: HashSet<u64> = HashSet::new();
    let mut acks = Vec::new();
    for send in &parsed.sends {
        let base = send.acked.map(|(_, base)| base);
        acks.extend(base.into_iter().flat_map(|b| (b..).zip(send.values.iter().copied())).map(|r| (send.partition, r)));
    }
    let polled = parsed.polls.iter().flat_map(|p| p.records.iter().map(move |r| (p.partition, *r)));
    report.polled = parsed.polls.iter().map(|p| p.records.len()).sum();
    for (partition, (offset, value)) in acks.into_iter().chain(polled) {
        let first = at.entry((partition, offset)).or_insert(value);
        if *first != value {
            let what = format!("{partition}: offset {offset} had {first} and {value}");
            report.add(Kind::InconsistentOffset, what);
        }
        let place = *of.entry(value).or_insert((partition, offset));
        if place != (partition, offset) {
            let what = format!("value {value} is at {}:{} and at {partition}:{offset}", place.0, place.1);
            report.add(Kind::Duplicate, what);
        }
        match senders.get(&value) {
            None => report.add(Kind::Phantom, format!("{partition}: {value} at {offset} was never sent")),
            Some(send) if send.failed => {
                let what = format!("{partition}: {value} at {offset} is of send {}, which was refused", send.op);
                report.add(Kind::Phantom, what);
            }
            Some(send) if send.acked.is_none() => {
                unacked.insert(send.op);
            }
            Some(_) => {}
        }
    }
    report.unacked_but_written = unacked.len();
}

/// The log has the values of one producer in the order in which it sent them.
fn check_producer_order(parsed: &Parsed, logs: &Logs, report: &mut Report) {
    let mut rank: HashMap<u64, (u32, usize)> = HashMap::new();
    for (nth, (send, value)) in parsed.sends.iter().flat_map(|s| s.values.iter().map(move |v| (s, v))).enumerate() {
        rank.insert(*value, (send.producer, nth));
    }
    for (partition, log) in logs {
        let mut newest: HashMap<u32, usize> = HashMap::new();
        for (offset, value) in log {
            let Some((producer, nth)) = rank.get(value) else { continue };
            let before = newest.insert(*producer, *nth);
            if before.is_some_and(|b| b >= *nth) {
                let what = format!("{partition}: {value} of producer {producer} at {offset} comes after a later one");
                report.add(Kind::Reordered, what);
            }
        }
    }
}

/// Inside an answer: from the offset that was asked for, dense, below the high watermark.
fn check_polls(parsed: &Parsed, report: &mut Report) {
    for poll in &parsed.polls {
        let mut expected = poll.from;
        for (offset, _) in poll.records {
            if *offset < expected {
                let what = format!("{}: asked for {}, got {offset} after {}", poll.partition, poll.from, expected - 1);
                report.add(Kind::PollOrder, what);
            } else if *offset > expected {
                let what = format!("{}: asked for {}, {expected}..{offset} left out", poll.partition, poll.from);
                report.add(Kind::Hole, what);
            }
            expected = offset + 1;
        }
        if poll.records.last().is_some_and(|(offset, _)| *offset >= poll.high_watermark) {
            let what = format!("{}: {} is not below {}", poll.partition, expected - 1, poll.high_watermark);
            report.add(Kind::AboveHighWatermark, what);
        }
    }
}

/// High watermark and log start never go back: what one client saw before another asked holds for the other too.
fn check_bounds(parsed: &Parsed, report: &mut Report) {
    let mut ends: HashMap<&str, Vec<(u64, i64)>> = HashMap::new();
    let mut starts: HashMap<&str, Vec<(u64, i64)>> = HashMap::new();
    for poll in &parsed.polls {
        ends.entry(poll.partition).or_default().push((poll.t_ns, poll.high_watermark));
        starts.entry(poll.partition).or_default().push((poll.t_ns, poll.log_start));
    }
    for send in &parsed.sends {
        if let Some((t_ns, base)) = send.acked {
            ends.entry(send.partition).or_default().push((t_ns, base + send.values.len() as i64));
        }
    }
    let ends: HashMap<&str, RunningMax> = ends.into_iter().map(|(p, seen)| (p, RunningMax::new(seen))).collect();
    let starts: HashMap<&str, RunningMax> = starts.into_iter().map(|(p, seen)| (p, RunningMax::new(seen))).collect();
    for poll in &parsed.polls {
        let partition = poll.partition;
        if let Some(end) = ends[partition].before(poll.invoke_ns).filter(|end| poll.high_watermark < *end) {
            let what = format!("{partition}: high watermark {} after {end}", poll.high_watermark);
            report.add(Kind::HighWatermarkWentBack, what);
        }
        if let Some(start) = starts[partition].before(poll.invoke_ns).filter(|start| poll.log_start < *start) {
            report.add(Kind::LogStartWentBack, format!("{partition}: log start {} after {start}", poll.log_start));
        }
        if poll.log_start > 0 {
            report.add(Kind::LogStartMoved, format!("{partition}: log start is {}", poll.log_start));
        }
    }
    for (invoke_ns, partition, from) in &parsed.out_of_range {
        let end = ends.get(partition).and_then(|e| e.before(*invoke_ns)).unwrap_or(0);
        if *from <= end {
            let what = format!("{partition}: {from} is out of range although the log reached {end}");
            report.add(Kind::BecameOutOfRange, what);
        }
    }
}

/// What a group has committed never goes back, and is never more than there is.
fn check_commits(parsed: &Parsed, logs: &Logs, report: &mut Report) {
    let mut known: HashMap<(&str, &str), Vec<(u64, i64)>> = HashMap::new();
    for (of, t_ns, offset) in &parsed.commits {
        known.entry(*of).or_default().push((*t_ns, *offset));
        let end = logs.get(of.1).and_then(|log| log.keys().next_back()).map_or(0, |last| last + 1);
        if *offset > end {
            report.add(Kind::CommittedTooFar, format!("{} of {}: {offset} of {end}", of.1, of.0));
        }
    }
    let known: HashMap<_, _> = known.into_iter().map(|(of, seen)| (of, RunningMax::new(seen))).collect();
    for (of, invoke_ns, offset) in &parsed.commit_reads {
        if let Some(before) = known[of].before(*invoke_ns).filter(|before| offset < before) {
            report.add(Kind::CommittedOffsetWentBack, format!("{} of {}: {offset} after {before}", of.1, of.0));
        }
    }
}

/// After every fault something is acked again.
fn check_progress(parsed: &Parsed, expect: Expect, report: &mut Report) {
    let limit_ns = expect.progress_ms_max * 1_000_000;
    let mut acks: Vec<u64> = parsed.sends.iter().filter_map(|s| s.acked).map(|(t_ns, _)| t_ns).collect();
    acks.sort_unstable();
    for (ended_ns, what) in &parsed.faults_ended {
        let next = acks.get(acks.partition_point(|t| t <= ended_ns));
        let judged_ns = next.copied().or(parsed.load_end_ns).unwrap_or(u64::MAX);
        if judged_ns.saturating_sub(*ended_ns) > limit_ns {
            let what = format!("{what}: nothing acked for {} ms after it ended", expect.progress_ms_max);
            report.add(Kind::NoProgress, what);
        }
    }
    for what in &parsed.faults_open {
        report.add(Kind::BadHistory, format!("{what} never ended"));
    }
}

/// Answers "what was the greatest value seen strictly before a time?".
struct RunningMax(Vec<(u64, i64)>);

impl RunningMax {
    fn new(mut seen: Vec<(u64, i64)>) -> Self {
        seen.sort_unstable();
        let mut max = i64::MIN;
        for (_, value) in &mut seen {
            max = max.max(*value);
            *value = max;
        }
        Self(seen)
    }

    fn before(&self, t_ns: u64) -> Option<i64> {
        let count = self.0.partition_point(|(t, _)| *t < t_ns);
        count.checked_sub(1).map(|last| self.0[last].1)
    }
}
